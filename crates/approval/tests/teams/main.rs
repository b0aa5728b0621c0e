//! Whose word an activity of Teams is: every forgery against the fake Bot Service, and the same
//! tokens judged by Microsoft's own SDK.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "fixtures of tests, outside `#[test]`"
)]

mod forged;
mod sdk;
mod wishes;

use std::collections::BTreeMap;

use grantwright_approval::channel::Delivery;
use grantwright_approval::teams::{Expected, Forged, KeySet, Teams};
use grantwright_domain::Timestamp;
use grantwright_testkit::teams::{APP, FakeTeams, ISSUER, TENANT};
use serde_json::{Value, json};

pub const JO: &str = "11111111-1111-1111-1111-111111111111";

/// The broker's side, which knows the fake's keys.
pub fn teams(fake: &FakeTeams) -> Teams {
    let expected = Expected { issuer: ISSUER.into(), app_id: APP.into() };
    let teams = Teams::new(expected, TENANT);
    teams.set_keys(KeySet::parse(fake.key_set().to_string().as_bytes()).unwrap());
    teams
}

pub fn delivery(authorization: Option<&str>, body: &Value) -> Delivery {
    let headers: BTreeMap<String, String> =
        authorization.iter().map(|a| ("authorization".to_owned(), (*a).to_owned())).collect();
    Delivery { headers, body: body.to_string().into_bytes() }
}

/// A press of Approve.
pub fn press(fake: &FakeTeams) -> Value {
    let handle = format!("1:r-1:{}:0", "a".repeat(64));
    let action =
        json!({ "type": "Action.Execute", "verb": "approve", "data": { "handle": handle } });
    fake.press(JO, "f:1", &action, &json!({}))
}

/// One delivery: what it is, its header and body, whether we believe it, and whether the SDK does.
pub struct Case {
    pub name: &'static str,
    pub header: Option<String>,
    pub body: Value,
    pub ours: Result<(), Forged>,
    pub sdk: bool,
}

/// Seconds since 1970 at which the cases are judged; the SDK has only the machine's own clock.
pub fn cases(fake: &FakeTeams, now_s: i64) -> Vec<Case> {
    let claims = || fake.claims(now_s);
    let header = |edit: &dyn Fn(&mut grantwright_testkit::teams::Claims)| {
        let mut claims = claims();
        edit(&mut claims);
        fake.key().bearer(&claims).unwrap()
    };
    let good = header(&|_| {});
    let case = |name, header: Option<String>, body: Value, ours, sdk| Case {
        name,
        header,
        body,
        ours,
        sdk,
    };
    let token = |name, header: String, ours: Forged| {
        case(name, Some(header), press(fake), Err(ours), false)
    };
    let mut elsewhere = press(fake);
    elsewhere["serviceUrl"] = "https://evil.example/".into();
    let mut other_channel = press(fake);
    other_channel["channelId"] = "webchat".into();
    let mut no_channel = press(fake);
    no_channel["channelId"] = "".into();
    let mut other_tenant = press(fake);
    other_tenant["channelData"]["tenant"]["id"] = "33333333-3333-3333-3333-333333333333".into();
    let mut no_tenant = press(fake);
    no_tenant["channelData"] = json!({});
    no_tenant["conversation"] = json!({ "id": "19:x@thread.tacv2" });
    let head = json!({ "alg": "RS256", "typ": "JWT", "kid": fake.key().kid() });
    let payload = grantwright_testkit::teams::payload(&claims());
    let mut tampered = good.clone();
    let at = tampered.find('.').unwrap() + 5;
    tampered.replace_range(at..=at, if &tampered[at..=at] == "A" { "B" } else { "A" });
    vec![
        case("genuine", Some(good.clone()), press(fake), Ok(()), true),
        case(
            "a little late",
            Some(header(&|c| c.expires = Some(now_s - 200))),
            press(fake),
            Ok(()),
            true,
        ),
        case(
            "a little early",
            Some(header(&|c| c.not_before = Some(now_s + 200))),
            press(fake),
            Ok(()),
            true,
        ),
        case("no header", None, press(fake), Err(Forged::Missing), false),
        token("no scheme", good.replace("Bearer ", ""), Forged::Missing),
        token("another scheme", good.replace("Bearer ", "Basic "), Forged::Missing),
        token("nothing", "Bearer ".into(), Forged::Malformed),
        token("half a token", good.rsplit_once('.').unwrap().0.to_owned(), Forged::Malformed),
        token("another app", header(&|c| c.audience = ISSUER.into()), Forged::Audience),
        token("no app", header(&|c| c.audience = String::new()), Forged::Audience),
        token(
            "another issuer",
            header(&|c| c.issuer = "https://evil.example".into()),
            Forged::Issuer,
        ),
        token("expired", header(&|c| c.expires = Some(now_s - 301)), Forged::Time),
        token("not yet", header(&|c| c.not_before = Some(now_s + 320)), Forged::Time),
        token(
            "another serviceUrl",
            header(&|c| c.service_url = Some("https://evil.example/".into())),
            Forged::ServiceUrl,
        ),
        token("no serviceUrl", header(&|c| c.service_url = None), Forged::ServiceUrl),
        token("a thief's key", fake.thiefs_key().bearer(&claims()).unwrap(), Forged::Signature),
        token(
            "a key of another channel",
            fake.other_channels_key().bearer(&claims()).unwrap(),
            Forged::Endorsement,
        ),
        token("tampered", tampered, Forged::Signature),
        token(
            "unknown key",
            fake.key().bearer_of(&json!({ "alg": "RS256", "kid": "x" }), &payload).unwrap(),
            Forged::UnknownKey("x".into()),
        ),
        token(
            "unsigned",
            format!(
                "{}.",
                fake.key()
                    .bearer_of(&json!({ "alg": "none", "kid": fake.key().kid() }), &payload)
                    .unwrap()
                    .rsplit_once('.')
                    .unwrap()
                    .0
            ),
            Forged::Algorithm,
        ),
        token(
            "a shared secret",
            fake.key()
                .bearer_of(&json!({ "alg": "HS256", "kid": fake.key().kid() }), &payload)
                .unwrap(),
            Forged::Algorithm,
        ),
        case(
            "activity from elsewhere",
            Some(good.clone()),
            elsewhere,
            Err(Forged::ServiceUrl),
            false,
        ),
        case(
            "activity of another channel",
            Some(good.clone()),
            other_channel,
            Err(Forged::Activity("it comes from another channel than Teams".into())),
            false,
        ),
        // Here we are stricter than the SDK.
        case(
            "activity of no channel",
            Some(good.clone()),
            no_channel,
            Err(Forged::Activity("it comes from another channel than Teams".into())),
            true,
        ),
        case("another tenant", Some(good.clone()), other_tenant, Err(Forged::Tenant), true),
        case("no tenant", Some(good), no_tenant, Err(Forged::Tenant), true),
        case(
            "a key without endorsements",
            Some(fake.bare_key().bearer(&claims()).unwrap()),
            press(fake),
            Err(Forged::Endorsement),
            true,
        ),
        case(
            "without an end",
            Some(header(&|c| c.expires = None)),
            press(fake),
            Err(Forged::Malformed),
            true,
        ),
        case(
            "valid for years",
            Some(header(&|c| c.expires = Some(now_s + 400 * 86_400))),
            press(fake),
            Err(Forged::Time),
            true,
        ),
        case(
            "must-understand header",
            Some(
                fake.key()
                    .bearer_of(
                        &{
                            let mut h = head;
                            h["crit"] = json!(["exp"]);
                            h
                        },
                        &payload,
                    )
                    .unwrap(),
            ),
            press(fake),
            Err(Forged::Malformed),
            true,
        ),
    ]
}

/// A moment as the broker has it.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}
