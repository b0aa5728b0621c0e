//! What is not authentic, fresh, and ours.

use grantwright_approval::channel::{Channel, Rejected};
use grantwright_approval::teams::keys::keys_address;
use grantwright_approval::teams::{Forged, KeySet, What};
use grantwright_testkit::teams::{FakeTeams, ISSUER};
use serde_json::json;

use crate::{at, cases, delivery, press, teams};

const NOW: i64 = 1_763_675_934;

#[tokio::test]
async fn invariant_12_only_authentic_activities_are_heard() {
    let fake = FakeTeams::start().await.unwrap();
    let teams = teams(&fake);
    for case in cases(&fake, NOW) {
        let heard = teams.hear(&delivery(case.header.as_deref(), &case.body), at(NOW)).map(|_| ());
        assert_eq!(heard, case.ours, "{}", case.name);
    }
}

#[tokio::test]
async fn without_keys_nobody_is_believed() {
    let fake = FakeTeams::start().await.unwrap();
    let teams = teams(&fake);
    teams.set_keys(KeySet::default());
    let good = delivery(Some(&fake.authorization(NOW).unwrap()), &press(&fake));
    assert!(matches!(teams.hear(&good, at(NOW)), Err(Forged::UnknownKey(_))));
    assert_eq!(teams.verify(&good, at(NOW)), Err(Rejected::Forged));
}

#[tokio::test]
async fn keys_are_read_with_care() {
    let fake = FakeTeams::start().await.unwrap();
    let key = fake.key_set()["keys"][0].clone();
    let parse =
        |keys: serde_json::Value| KeySet::parse(json!({ "keys": keys }).to_string().as_bytes());
    assert!(parse(json!([key])).unwrap().knows("teams-1"));
    // Two keys of one id: none of them; other kinds and odd ones are left out.
    assert!(parse(json!([key, key])).is_err());
    for (field, value) in [
        ("kty", "EC"),
        ("kid", ""),
        ("n", ""),
        ("e", ""),
        ("n", "!"),
        ("kid", "k".repeat(300).as_str()),
    ] {
        let mut odd = key.clone();
        odd[field] = value.into();
        assert!(parse(json!([odd])).is_err(), "{field}");
    }
    assert!(parse(json!([])).is_err() && KeySet::parse(b"{}").is_err());
    assert!(parse(vec![key; 101].into()).is_err());
    assert!(KeySet::parse(&vec![b' '; 600 << 10]).is_err());

    let document = |issuer: &str, algorithm: &str| {
        json!({ "issuer": issuer, "jwks_uri": "https://k", "id_token_signing_alg_values_supported": [algorithm] })
            .to_string()
    };
    assert_eq!(keys_address(document(ISSUER, "RS256").as_bytes(), ISSUER).unwrap(), "https://k");
    for bad in [document("https://evil.example", "RS256"), document(ISSUER, "HS256"), "{}".into()] {
        assert!(keys_address(bad.as_bytes(), ISSUER).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_refresh_is_never_a_decision() {
    let fake = FakeTeams::start().await.unwrap();
    let (teams, good) = (teams(&fake), fake.authorization(NOW).unwrap());
    let hear = |body: &serde_json::Value| teams.hear(&delivery(Some(&good), body), at(NOW));
    let verify = |body: &serde_json::Value| teams.verify(&delivery(Some(&good), body), at(NOW));
    assert!(verify(&press(&fake)).is_ok());

    let mut automatic = press(&fake);
    automatic["value"]["trigger"] = "automatic".into();
    assert!(matches!(hear(&automatic), Err(Forged::Activity(_))));
    let mut refresh = press(&fake);
    refresh["value"]["action"]["verb"] = "refresh".into();
    for trigger in ["automatic", "manual"] {
        refresh["value"]["trigger"] = trigger.into();
        assert!(matches!(hear(&refresh).unwrap().what(), What::Refresh(_)));
        assert_eq!(verify(&refresh), Err(Rejected::Malformed("it decides nothing")));
    }
}

#[tokio::test]
async fn nobody_is_somebody_by_name() {
    let fake = FakeTeams::start().await.unwrap();
    let (teams, good) = (teams(&fake), fake.authorization(NOW).unwrap());
    let verify = |body: &serde_json::Value| teams.verify(&delivery(Some(&good), body), at(NOW));
    let account = verify(&press(&fake)).unwrap().into_inner().account;
    assert_eq!((account.channel.as_str(), account.account.as_str()), ("teams", crate::JO));
    for id in [json!(null), json!(""), json!("bob@example.org"), json!("29:abc")] {
        let mut body = press(&fake);
        body["from"]["aadObjectId"] = id;
        body["from"]["name"] = "bob".into();
        assert_eq!(verify(&body), Err(Rejected::Malformed("it decides nothing")));
    }
    // Case makes no second person.
    let mut body = press(&fake);
    body["from"]["aadObjectId"] = crate::JO.to_uppercase().into();
    body["conversation"]["tenantId"] = "22222222-2222-2222-2222-222222222222".to_uppercase().into();
    assert_eq!(verify(&body).unwrap().into_inner().account, account);
    // A delivery without an id could not be told from its replay.
    let mut body = press(&fake);
    body["id"] = "".into();
    assert_eq!(verify(&body), Err(Rejected::Stale));
}

#[tokio::test]
async fn malformed_activities_are_refused() {
    let fake = FakeTeams::start().await.unwrap();
    let (teams, good) = (teams(&fake), fake.authorization(NOW).unwrap());
    let edits: [(&str, serde_json::Value); 10] = [
        ("/value/action/type", json!("Action.Submit")),
        ("/value/action/verb", json!("grant")),
        ("/value/action/data/handle", json!("r-1")),
        ("/value/action/data/handle", json!(7)),
        ("/value/action/data", json!([])),
        ("/value", json!(null)),
        ("/conversation/id", json!("")),
        ("/conversation/id", json!("x".repeat(500))),
        ("/id", json!("x".repeat(500))),
        ("/type", json!(null)),
    ];
    for (at_path, value) in edits {
        let mut body = press(&fake);
        *body.pointer_mut(at_path).unwrap() = value;
        let heard = teams.hear(&delivery(Some(&good), &body), at(NOW));
        assert!(matches!(heard, Err(Forged::Activity(_))), "{at_path} {heard:?}");
    }
    for bytes in [b"".to_vec(), b"{".to_vec(), b"[]".to_vec(), vec![b'['; 70_000]] {
        let mut sent = delivery(Some(&good), &json!(null));
        sent.body = bytes;
        assert!(matches!(teams.hear(&sent, at(NOW)), Err(Forged::Activity(_))));
    }
    let mut twice = delivery(Some(&good), &json!(null));
    twice.body = press(&fake)
        .to_string()
        .replacen("\"channelId\"", "\"channelId\":\"x\",\"channelId\"", 1)
        .into_bytes();
    assert!(matches!(teams.hear(&twice, at(NOW)), Err(Forged::Activity(_))));
}
