use std::sync::Arc;
use std::time::{Duration, Instant};

use grantwright_credential::Secret;
use grantwright_domain::request::{Lease, LeaseState};
use grantwright_domain::{Clock, LeaseId, Params, Scope, Timestamp};
use grantwright_mint::conformance::{self, Subject, danger_grant};
use grantwright_mint::sts::{BACKEND, Identity, RevokeConfig, StsConfig, StsMinter};
use grantwright_mint::{MintError, Minted, Minter, Unconfigured};
use serde_json::{Value, json};

use crate::fixtures::{ROLE, now, params, s3_read};
use crate::server::{Script, Server, answer, error};

const TTL: u32 = 900;
const ARN: &str = "arn:aws:sts::111122223333:assumed-role/reader/r-1";
/// A role on the way, and the broker's own session of it.
const HUB: &str = "arn:aws:iam::111122223333:role/hub";
const AT_HUB: &str = "arn:aws:sts::111122223333:assumed-role/hub/grantwright-broker";

struct At(Timestamp);

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// A minter to whom every answer arrives two seconds after it asked.
fn minter(url: &str) -> StsMinter {
    StsMinter::new(config(url), Arc::new(At(now().plus_seconds(2)))).unwrap()
}

fn config(url: &str) -> StsConfig {
    StsConfig {
        region: "eu-west-1".into(),
        endpoint: Some(url.into()),
        identity: Identity::Keys {
            access_key_id: "AKIAEXAMPLE".into(),
            secret_access_key: Secret::new("own-secret".into()),
            session_token: Some(Secret::new("own-token".into())),
        },
        chain: Vec::new(),
        revoke: None,
        timeout: crate::fixtures::patience(),
    }
}

fn asked_for() -> (Scope, Params) {
    let scope = s3_read();
    let params = params(&scope, json!({ "bucket": "demo", "prefix": "public/" }));
    (scope, params)
}

/// For the table of hostile cases.
pub async fn row() -> crate::hostile::Row {
    let server = Server::start(Script::Good(now().plus_seconds(902))).await;
    crate::hostile::Row {
        name: "sts",
        url: server.url.clone(),
        make: Box::new(|url| Box::new(minter(url))),
        asked: asked_for(),
        ttl_s: TTL,
        makes: "POST",
        _alive: Box::new(server),
    }
}

async fn mint(server: &Server, approvers: &[&str]) -> Result<Minted, MintError> {
    let (scope, params) = asked_for();
    let grant = danger_grant(&scope, &params, approvers, TTL, now()).unwrap();
    minter(&server.url).mint(grant, now()).await
}

async fn outcome(script: Script) -> (MintError, usize) {
    let server = Server::start(script).await;
    let error = mint(&server, &["bob"]).await.map(drop).unwrap_err();
    // Whoever would repeat it, does so within a moment.
    tokio::time::sleep(Duration::from_millis(100)).await;
    (error, server.asked().len())
}

fn ends(seconds: i64) -> String {
    now().plus_seconds(seconds).whole_second().to_string()
}

#[tokio::test]
async fn asks_for_exactly_what_was_granted() {
    let server = Server::start(Script::Good(now().plus_seconds(902))).await;
    let minted = mint(&server, &["bob", "carol"]).await.unwrap();
    let [asked] = &server.asked()[..] else { panic!("want one request") };
    for (key, value) in [
        ("Action", "AssumeRole"),
        ("RoleArn", ROLE),
        ("ExternalId", "grantwright"),
        ("RoleSessionName", "r-1"),
        ("SourceIdentity", "demo-agent"),
        ("DurationSeconds", "900"),
        ("Tags.member.1.Key", "agent"),
        ("Tags.member.1.Value", "demo-agent"),
        ("Tags.member.2.Key", "request"),
        ("Tags.member.2.Value", "r-1"),
        ("Tags.member.3.Key", "approvers"),
        ("Tags.member.3.Value", "bob carol"),
    ] {
        assert_eq!(asked.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert!(!asked.keys().any(|k| k.starts_with("Transitive") || k.starts_with("PolicyArns")));
    let policy: Value = serde_json::from_str(&asked["Policy"]).unwrap();
    assert_eq!(
        policy,
        json!({ "Version": "2012-10-17", "Statement": [
            {
                "Effect": "Allow", "Action": ["s3:GetObject"],
                "Resource": ["arn:aws:s3:::demo/public/*"],
            },
            {
                "Effect": "Allow", "Action": ["s3:ListBucket"],
                "Resource": ["arn:aws:s3:::demo"],
                "Condition": { "StringLike": { "s3:prefix": ["public/*"] } },
            },
        ]})
    );

    // The backend's clock is two seconds ahead: what is reported stays within the grant.
    let end = ends(900);
    assert_eq!(minted.expires_at.to_string(), end);
    let credential: Value = serde_json::from_slice(minted.credential.expose_json()).unwrap();
    assert_eq!(
        credential,
        json!({
            "AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "minted-secret",
            "SessionToken": "minted-token", "Expiration": end,
        })
    );
    let facts: Vec<(&str, &str)> =
        minted.facts.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        facts,
        [
            ("access_key_id", "ASIAEXAMPLE"),
            ("assumed_role_arn", ARN),
            ("packed_policy_size", "12"),
            ("role_arn", ROLE),
            ("role_session_name", "r-1"),
        ]
    );
}

#[tokio::test]
async fn managed_policies_and_transitive_tags_are_sent_as_the_template_names_them() {
    const MANAGED: [&str; 2] =
        ["arn:aws:iam::aws:policy/ReadOnlyAccess", "arn:aws:iam::111122223333:policy/audit"];
    let server = Server::start(Script::Good(now().plus_seconds(900))).await;
    let mut scope = s3_read();
    scope.params.clear();
    scope.template.remove("policy");
    scope.template.insert("policy_arns".into(), json!(MANAGED));
    scope.template.insert("transitive_tags".into(), json!(["agent", "request"]));
    assert_eq!((BACKEND.faults)(&scope), Vec::<String>::new());
    let none = params(&scope, json!({}));
    let shown = (BACKEND.preview)(&scope, &none).unwrap();
    assert_eq!(shown, json!({ "role_arn": ROLE, "managed_policies": MANAGED }));
    let grant = danger_grant(&scope, &none, &[], TTL, now()).unwrap();
    minter(&server.url).mint(grant, now()).await.unwrap();
    let asked = &server.asked()[0];
    for (key, value) in [
        ("PolicyArns.member.1.arn", MANAGED[0]),
        ("PolicyArns.member.2.arn", MANAGED[1]),
        ("TransitiveTagKeys.member.1", "agent"),
        ("TransitiveTagKeys.member.2", "request"),
        ("ExternalId", "grantwright"),
    ] {
        assert_eq!(asked.get(key).map(String::as_str), Some(value), "{key}");
    }
    // An inline policy beside them would let the session do what either of them allows.
    assert!(!asked.contains_key("Policy"), "{asked:?}");
}

#[tokio::test]
async fn a_routine_grant_has_an_empty_approvers_tag() {
    let server = Server::start(Script::Good(now().plus_seconds(900))).await;
    mint(&server, &[]).await.unwrap();
    let asked = &server.asked()[0];
    assert_eq!(
        (asked["Tags.member.3.Key"].as_str(), asked["Tags.member.3.Value"].as_str()),
        ("approvers", "")
    );
}

#[tokio::test]
async fn invariant_04_votes_change_tags_only() {
    let server = Server::start(Script::Good(now().plus_seconds(900))).await;
    mint(&server, &[]).await.unwrap();
    mint(&server, &["bob", "carol"]).await.unwrap();
    let [mut without, mut with] = <[_; 2]>::try_from(server.asked()).unwrap();
    for form in [&mut without, &mut with] {
        assert!(form.remove("Tags.member.3.Value").is_some());
    }
    assert_eq!(without, with);
}

#[tokio::test]
async fn invariant_05_a_wider_answer_is_refused_and_not_delivered() {
    let other = |from: &str, to: &str| ARN.replace(from, to);
    for (why, body) in [
        ("later than granted", answer(ARN, "demo-agent", &ends(2 + 900 + 32), "t")),
        ("a year", answer(ARN, "demo-agent", &ends(31_536_000), "t")),
        ("ended already", answer(ARN, "demo-agent", &ends(1), "t")),
        ("another role", answer(&other("reader", "admin"), "demo-agent", &ends(900), "t")),
        ("another session", answer(&other("r-1", "r-2"), "demo-agent", &ends(900), "t")),
        ("another account", answer(&other("1111", "9999"), "demo-agent", &ends(900), "t")),
        ("not a session", answer(ROLE, "demo-agent", &ends(900), "t")),
        ("another source", answer(ARN, "root", &ends(900), "t")),
        ("a secret as a fact", answer(ARN, "demo-agent", &ends(900), "ASIAEXAMPLE")),
    ] {
        let (error, requests) = outcome(Script::Answer(200, body)).await;
        assert_eq!((error.code(), requests), ("backend_wider", 1), "{why}: {error:?}");
        assert!(!format!("{error:?}").contains("minted-"), "{why}");
    }
}

#[tokio::test]
async fn answers_without_a_principal_are_taken_of_another_server_than_aws() {
    let body = answer("", "", &ends(900), "t");
    let server = Server::start(Script::Answer(200, body)).await;
    let minted = mint(&server, &[]).await.unwrap();
    assert!(!minted.facts.contains_key("assumed_role_arn"));
}

#[tokio::test]
async fn invariant_08_a_lost_answer_is_unknown_and_never_repeated() {
    let whole = answer(ARN, "demo-agent", &ends(900), "t");
    let no_credentials = "<AssumeRoleResponse><AssumeRoleResult/></AssumeRoleResponse>";
    for (why, script) in [
        ("late", Script::Late),
        ("dropped", Script::Drop),
        ("half", Script::Half(whole.clone())),
        ("no token", Script::Answer(200, answer(ARN, "demo-agent", &ends(900), ""))),
        ("no expiry", Script::Answer(200, whole.replace("Expiration>", "Ignored>"))),
        ("no credentials", Script::Answer(200, no_credentials.into())),
        ("not xml", Script::Answer(200, "{\"ok\":true}".into())),
        ("500", Script::Answer(500, error("InternalFailure", "oops"))),
        ("503", Script::Answer(503, String::new())),
        ("too long", Script::Answer(200, format!("{whole}{}", " ".repeat(2 << 20)))),
        ("redirected", Script::Answer(307, String::new())),
        ("408", Script::Answer(408, String::new())),
    ] {
        let (error, requests) = outcome(script).await;
        assert!(matches!(error, MintError::Unknown { .. }), "{why}: {error:?}");
        assert_eq!(requests, 1, "{why}");
        let MintError::Unknown { operator, .. } = error else { continue };
        assert_eq!(operator.contains("length limit"), why == "too long", "{why}: {operator}");
    }
}

#[tokio::test]
async fn a_definite_refusal_is_refused_once() {
    let quoting = "User is not authorized \u{202e} own-token";
    for (status, said, code) in [
        (403, error("AccessDenied", quoting), "backend_denied"),
        (403, error("InvalidClientTokenId", "no"), "backend_denied"),
        (400, error("PackedPolicyTooLarge", "110%"), "policy_too_large"),
        (400, error("MalformedPolicyDocument", "no"), "bad_template"),
        (400, error("Throttling", "slow"), "backend_busy"),
        (429, "slow".into(), "backend_busy"),
        (403, error("RegionDisabledException", "no"), "backend_denied"),
        (400, error("IDPCommunicationError", "no"), "backend_busy"),
        (400, error("InvalidIdentityToken", "no"), "backend_denied"),
        (403, error("SomethingNew", "no"), "backend_refused"),
        (404, "not found".into(), "backend_refused"),
    ] {
        let (error, requests) = outcome(Script::Answer(status, said)).await;
        let MintError::Refused { code: got, detail, operator } = &error else {
            panic!("{error:?}")
        };
        assert_eq!((*got, requests), (code, 1), "{error:?}");
        assert!(!detail.contains("User is"), "public text is chosen");
        assert!(!operator.contains("own-token") && !operator.contains('\u{202e}'), "{operator}");
    }
    let (error, _) = outcome(Script::Answer(403, error("AccessDenied", quoting))).await;
    let MintError::Refused { operator, .. } = error else { panic!() };
    assert!(operator.contains("AccessDenied") && operator.contains("q-1"), "{operator}");
}

#[tokio::test]
async fn nobody_listening_is_refused_since_nothing_left() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let (scope, params) = asked_for();
    for url in [url.as_str(), "https://no-such-host.invalid"] {
        let grant = danger_grant(&scope, &params, &[], TTL, now()).unwrap();
        let error = minter(url).mint(grant, now()).await.unwrap_err();
        assert_eq!(error.code(), "backend_away", "{error:?}");
    }
}

#[tokio::test]
async fn nothing_is_sent_for_what_cannot_be_asked() {
    let server = Server::start(Script::Good(now().plus_seconds(900))).await;
    let (scope, asked) = asked_for();
    let refused = async |scope: &Scope, params: &Params, approvers: &[&str], ttl_s: u32| {
        let grant = danger_grant(scope, params, approvers, ttl_s, now()).unwrap();
        minter(&server.url).mint(grant, now()).await.unwrap_err()
    };
    let short = refused(&scope, &asked, &[], 899).await;
    assert_eq!(short.code(), "ttl_too_short");
    assert!(short.to_string().contains("900 s"), "{short}");

    let names: Vec<String> = (0..5).map(|n| format!("{n}{}", "a".repeat(60))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(refused(&scope, &asked, &names, TTL).await.code(), "too_many_approvers");

    let mut large = scope.clone();
    let statement = large.template["policy"][0].clone();
    large.template["policy"] = vec![statement; 25].into();
    assert_eq!((BACKEND.preview)(&large, &asked).unwrap_err().code(), "policy_too_large");
    assert_eq!(refused(&large, &asked, &[], TTL).await.code(), "policy_too_large");

    let mut untyped = asked.clone();
    untyped.insert("prefix".into(), grantwright_domain::ParamValue::Text("*/".into()));
    assert_eq!(refused(&scope, &untyped, &[], TTL).await.code(), "bad_parameter");
    assert_eq!(server.asked().len(), 0);
}

#[test]
fn incomplete_settings_stop_the_start() {
    let config = |region: &str, endpoint: Option<&str>, key: &str, secret: &str| StsConfig {
        region: region.into(),
        endpoint: endpoint.map(Into::into),
        identity: Identity::Keys {
            access_key_id: key.into(),
            secret_access_key: Secret::new(secret.into()),
            session_token: None,
        },
        chain: Vec::new(),
        revoke: None,
        timeout: Duration::from_secs(10),
    };
    let new = |config| StsMinter::new(config, Arc::new(At(now()))).map(drop);
    assert!(new(config("eu-west-1", None, "k", "s")).is_ok());
    assert!(new(config("", None, "k", "s")).is_err());
    assert!(new(config("eu-west-1", None, "", "s")).is_err());
    assert!(new(config("eu-west-1", None, "k", "")).is_err());
    assert!(new(config("eu-west-1", Some("127.0.0.1:5000"), "k", "s")).is_err());
}

#[tokio::test]
async fn unconfigured_loads_shows_and_refuses() {
    let (scope, asked) = asked_for();
    let minter = Unconfigured::new(BACKEND, "AWS_ENDPOINT_URL_STS is not set");
    assert!(minter.faults(&scope).is_empty() && minter.preview(&scope, &asked).is_ok());
    let grant = danger_grant(&scope, &asked, &[], TTL, now()).unwrap();
    let error = minter.mint(grant, now()).await.unwrap_err();
    assert_eq!(error.code(), "backend_unconfigured");
    assert!(error.to_string().contains("AWS_ENDPOINT_URL_STS is not set"), "{error}");
}

struct StsSubject {
    server: Server,
    minter: StsMinter,
}

impl Subject for StsSubject {
    fn minter(&self) -> &dyn Minter {
        &self.minter
    }
    fn scope(&self) -> Scope {
        s3_read()
    }
    fn params(&self) -> Params {
        asked_for().1
    }
    fn observed(&self, _minted: &Minted) -> Value {
        let asked = self.server.asked().pop().unwrap();
        let policy: Value = serde_json::from_str(&asked["Policy"]).unwrap();
        json!({ "role_arn": asked["RoleArn"], "session_policy": policy })
    }
}

#[tokio::test]
async fn conforms() {
    let server = Server::start(Script::Good(now().plus_seconds(900))).await;
    let minter = minter(&server.url);
    let begun = Instant::now();
    conformance::check(&StsSubject { server, minter }, now()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
}

/// One that signs who it is itself, without any AWS key.
fn by_web_identity(url: &str, chain: &[&str]) -> StsMinter {
    let sign = |more: &[(&str, Value)], _| {
        let claims: serde_json::Map<_, _> =
            more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        Some(Secret::new(format!("own-web-token {}", Value::from(claims))))
    };
    let config = StsConfig {
        region: "eu-west-1".into(),
        endpoint: Some(url.into()),
        identity: Identity::Web(Arc::new(sign)),
        chain: chain.iter().map(|arn| (*arn).to_owned()).collect(),
        revoke: None,
        timeout: crate::fixtures::patience(),
    };
    StsMinter::new(config, Arc::new(At(now().plus_seconds(2)))).unwrap()
}

fn no_external_id() -> (Scope, Params) {
    let (mut scope, params) = asked_for();
    scope.template.remove("external_id");
    (scope, params)
}

#[tokio::test]
async fn a_web_identity_carries_tags_and_source_and_no_key_signs() {
    let body = answer(ARN, "demo-agent", &ends(900), "t0")
        .replace("AssumeRoleR", "AssumeRoleWithWebIdentityR");
    let server = Server::start(Script::Answer(200, body)).await;
    let (scope, params) = no_external_id();
    let grant = danger_grant(&scope, &params, &["bob"], TTL, now()).unwrap();
    let minted = by_web_identity(&server.url, &[]).mint(grant, now()).await.unwrap();
    assert!(!minted.revocable);
    let [asked] = &server.asked()[..] else { panic!("want one request") };
    assert_eq!(asked["Action"], "AssumeRoleWithWebIdentity");
    assert!(asked["Policy"].contains("arn:aws:s3:::demo/public/*"));
    assert_eq!((asked["RoleArn"].as_str(), asked["DurationSeconds"].as_str()), (ROLE, "900"));
    let token = &asked["WebIdentityToken"];
    let claims: Value = serde_json::from_str(token.split_once(' ').unwrap().1).unwrap();
    assert_eq!(
        claims["https://aws.amazon.com/tags"]["principal_tags"],
        json!({ "agent": ["demo-agent"], "request": ["r-1"], "approvers": ["bob"] })
    );
    assert_eq!(claims["https://aws.amazon.com/source_identity"], "demo-agent");

    let (scope, params) = asked_for();
    let grant = danger_grant(&scope, &params, &[], TTL, now()).unwrap();
    let error = by_web_identity(&server.url, &[]).mint(grant, now()).await.unwrap_err();
    assert_eq!(error.code(), "bad_template", "an external id would be dropped silently");
}

#[tokio::test]
async fn a_web_identity_refused_or_lost_is_that_and_its_token_is_nowhere() {
    for (script, code) in [
        (Script::Answer(400, error("InvalidIdentityToken", "own-web-token {}")), "backend_denied"),
        (Script::Answer(500, error("InternalFailure", "oops")), "outcome_unknown"),
        (Script::Late, "outcome_unknown"),
        (Script::Drop, "outcome_unknown"),
    ] {
        let server = Server::start(script).await;
        let (scope, params) = no_external_id();
        let grant = danger_grant(&scope, &params, &[], TTL, now()).unwrap();
        let error = by_web_identity(&server.url, &[]).mint(grant, now()).await.unwrap_err();
        assert_eq!((error.code(), server.asked().len()), (code, 1), "{error:?}");
        assert!(!format!("{error:?}").contains("principal_tags"), "{error:?}");
    }
}

#[tokio::test]
async fn a_role_on_the_way_that_fails_makes_nothing_and_bounds_the_lifetime() {
    for script in [
        Script::Answer(403, error("AccessDenied", "no")),
        Script::Answer(500, error("InternalFailure", "oops")),
        Script::Drop,
    ] {
        let server = Server::start(script).await;
        let (scope, params) = asked_for();
        let grant = danger_grant(&scope, &params, &[], TTL, now()).unwrap();
        let error = by_web_identity(&server.url, &[HUB]).mint(grant, now()).await.unwrap_err();
        assert!(matches!(error, MintError::Refused { .. }), "{error:?}");
        let asked = server.asked();
        assert!(asked.iter().all(|a| a["RoleArn"] == HUB), "the scope's role was asked for");
    }
    let minter = by_web_identity("http://127.0.0.1:1", &[HUB]);
    assert_eq!(minter.declaration().ttl_ceiling_s, 3600);
    let (mut scope, _) = asked_for();
    scope.ttl.max_s = 7200;
    assert!(minter.faults(&scope).join("\n").contains("7200"));
    assert!((BACKEND.faults)(&scope).is_empty());
}

#[test]
fn managed_policies_and_templates_that_are_too_large_are_refused_at_load() {
    let with = |scope: &Scope, key: &str, value: Value| {
        let mut scope = scope.clone();
        scope.template.insert(key.into(), value);
        (BACKEND.faults)(&scope).join("\n")
    };
    let (scope, _) = asked_for();
    let managed = "arn:aws:iam::aws:policy/ReadOnlyAccess";
    assert!(with(&scope, "policy_arns", json!([managed])).contains("does not narrow managed"));
    assert!(with(&scope, "transitive_tags", json!(["team"])).contains("want some of"));
    let statement = scope.template["policy"][0].clone();
    assert!(with(&scope, "policy", vec![statement; 30].into()).contains("at most 2048"));

    let mut plain = scope.clone();
    plain.params.clear();
    plain.template.insert("policy".into(), json!([]));
    assert_eq!(with(&plain, "policy_arns", json!([managed])), "");
    let foreign = "arn:aws:iam::999999999999:policy/x";
    assert!(with(&plain, "policy_arns", json!([foreign])).contains("role's own account"));
    assert!(with(&plain, "policy_arns", json!(vec![managed; 11])).contains("10 at most"));
    assert!(with(&plain, "policy_arns", json!([])).contains("whole role"));
}

/// Neither for minting nor for ending others' sessions is a session used that is of somebody else.
#[tokio::test]
async fn a_session_of_another_role_on_the_way_is_not_used() {
    for (arn, taken) in [
        (AT_HUB, true),
        ("", true),
        ("arn:aws:sts::111122223333:assumed-role/reader/grantwright-broker", false),
        ("arn:aws:sts::999999999999:assumed-role/hub/grantwright-broker", false),
        ("arn:aws:sts::111122223333:assumed-role/hub/another", false),
        ("hub", false),
    ] {
        let server = Server::start(Script::Answer(200, answer(arn, "", &ends(900), "t"))).await;
        let (scope, params) = asked_for();
        let grant = danger_grant(&scope, &params, &[], TTL, now()).unwrap();
        let chain = vec![HUB.to_owned()];
        let config = StsConfig { chain, ..config(&server.url) };
        let minter = StsMinter::new(config, Arc::new(At(now().plus_seconds(2)))).unwrap();
        let error = minter.mint(grant, now()).await.map(drop);
        let roles: Vec<_> = server.asked().iter().map(|asked| asked["RoleArn"].clone()).collect();
        match taken {
            true => assert_eq!(roles, [HUB, ROLE], "{arn}: {error:?}"),
            false => {
                assert_eq!(roles, [HUB], "{arn}");
                assert_eq!(error.unwrap_err().code(), "backend_away", "{arn}");
            }
        }
    }
}

/// A role's session lives an hour: one that IAM refuses would be tried with all that while.
#[tokio::test]
async fn a_session_that_iam_refuses_is_not_kept_for_the_next_try() {
    let facts = [("role_arn", ROLE), ("role_session_name", "r-1")];
    let lease = Lease {
        id: LeaseId::parse("l-1").unwrap(),
        issued_at: now(),
        expires_at: now().plus_seconds(900).whole_second(),
        revocable: true,
        state: LeaseState::Live,
        effect: String::new(),
        facts: facts.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    };
    for (status, code, sessions) in [
        (403, "AccessDenied", 2),
        (403, "ExpiredToken", 2),
        (400, "ExpiredTokenException", 2),
        (400, "MalformedPolicyDocument", 1),
        (404, "NoSuchEntity", 1),
        (503, "ServiceUnavailable", 1),
    ] {
        // The session of the role that may revoke, and the one that mints, where it revokes as well.
        for (role_arn, chain) in [(Some(HUB.to_owned()), vec![]), (None, vec![HUB.to_owned()])] {
            let session = answer(AT_HUB, "", &ends(3600), "kept-token");
            let sts = Server::start(Script::Answer(200, session)).await;
            let iam = Server::start(Script::Answer(status, error(code, "no"))).await;
            let (endpoint, region) = (Some(iam.url.clone()), "us-east-1".to_owned());
            let revoke = Some(RevokeConfig { endpoint, region, role_arn });
            let config = StsConfig { revoke, chain, ..config(&sts.url) };
            let minter = StsMinter::new(config, Arc::new(At(now().plus_seconds(2)))).unwrap();
            for _ in 0..2 {
                let ended = minter.revoke(&lease).await;
                assert!(!ended.ended && ended.effect.contains("IAM"), "{ended:?}");
            }
            let (made, called) = (sts.asked(), iam.asked());
            assert_eq!(made.len(), sessions, "{status} {code}: {made:?}");
            assert!(called.len() >= 2 && made.iter().all(|a| a["RoleArn"] == HUB), "{called:?}");
        }
    }
}
