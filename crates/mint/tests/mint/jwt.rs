use std::collections::BTreeMap;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use grantwright_domain::event::{Event, Issued};
use grantwright_domain::request::{Lease, Rights};
use grantwright_domain::{Grant, LeaseId, Params, Scope, Timestamp};
use grantwright_mint::conformance::{self, Subject, danger_grant, intended};
use grantwright_mint::jwt::JwtIssuer;
use grantwright_mint::{
    Backend, BoxFuture, Ended, EndedLease, MintError, Minted, Minter, Publisher, SignInput, Signer,
};
use serde_json::{Value, json};

use crate::fixtures::{ed25519, es256, export, issuer, now, params, scope};

fn decoded(part: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(part).unwrap()
}

fn token(minted: &Minted) -> String {
    let json: Value = serde_json::from_slice(minted.credential.expose_json()).unwrap();
    json["token"].as_str().unwrap().to_owned()
}

fn payload(minted: &Minted) -> Value {
    serde_json::from_slice(&decoded(token(minted).split('.').nth(1).unwrap())).unwrap()
}

/// As a resource server does it: the key by `kid` from the published set, then the signature.
fn verified(token: &str, jwks: &Value) -> Value {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("want three parts") };
    let header: Value = serde_json::from_slice(&decoded(header)).unwrap();
    let keys = jwks["keys"].as_array().unwrap();
    let key = keys.iter().find(|k| k["kid"] == header["kid"]).unwrap();
    assert_eq!(key["alg"], header["alg"]);
    let coordinate = |name: &str| decoded(key[name].as_str().unwrap());
    let (alg, public): (&'static dyn VerificationAlgorithm, Vec<u8>) = match key["alg"].as_str() {
        Some("EdDSA") => (&ED25519, coordinate("x")),
        Some("ES256") => {
            (&ECDSA_P256_SHA256_FIXED, [vec![4], coordinate("x"), coordinate("y")].concat())
        }
        other => panic!("{other:?}"),
    };
    let signature = decoded(signature);
    assert_eq!(signature.len(), 64);
    let signed = &token[..token.rfind('.').unwrap()];
    UnparsedPublicKey::new(alg, &public).verify(signed.as_bytes(), &signature).unwrap();
    serde_json::from_slice(&decoded(claims)).unwrap()
}

async fn minted(issuer: &JwtIssuer, scope: &Scope, approvers: &[&str]) -> Minted {
    let params = params(scope, json!({ "dataset": "sales", "rows": 500 }));
    let grant = danger_grant(scope, &params, approvers, 900, now()).unwrap();
    issuer.mint(grant, now()).await.unwrap()
}

#[tokio::test]
async fn verifies_from_the_published_keys_with_either_algorithm() {
    for active in [ed25519(), es256()] {
        let issuer = issuer(active);
        let minted = minted(&issuer, &export(), &["bob", "carol"]).await;
        let claims = verified(&token(&minted), &issuer.jwks());
        let iat = now().seconds();
        let expected = json!({
            "iss": "https://broker.example.org",
            "sub": "spiffe://example.org/agent/demo-agent",
            "aud": "https://data.example.com",
            "iat": iat, "nbf": iat, "exp": iat + 900,
            "jti": "l-1",
            "scope": "demo.export",
            "request_id": "r-1",
            "params": { "dataset": "sales", "rows": 500 },
            "approvers": ["bob", "carol"],
        });
        assert_eq!(claims, expected);
        assert_eq!(minted.expires_at.seconds(), iat + 900);
        assert_eq!(minted.facts["approvers"], "bob carol");
    }
}

#[test]
fn keys_and_discovery_are_published() {
    let issuer = issuer(ed25519());
    let keys = issuer.jwks();
    let keys = keys["keys"].as_array().unwrap();
    assert_eq!(
        keys[0],
        json!({
            "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA",
            "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        })
    );
    assert_eq!(
        (keys.len(), &keys[1]["alg"], &keys[1]["crv"]),
        (2, &json!("ES256"), &json!("P-256"))
    );
    let discovery = issuer.discovery();
    assert_eq!(discovery["issuer"], "https://broker.example.org");
    assert_eq!(discovery["jwks_uri"], "https://broker.example.org/jwks");
    assert_eq!(discovery["id_token_signing_alg_values_supported"], json!(["ES256", "EdDSA"]));
}

#[test]
fn what_a_retired_key_signed_still_verifies() {
    let (old, new) = (ed25519(), es256());
    let retired = vec![old.public().clone()];
    let before = JwtIssuer::new("https://broker.example.org", old, Vec::new()).unwrap();
    let after = JwtIssuer::new("https://broker.example.org", new, retired).unwrap();
    let (scope, params) = (export(), params(&export(), json!({ "dataset": "sales", "rows": 500 })));
    let grant = danger_grant(&scope, &params, &[], 900, now()).unwrap();
    let minted = before.sign(&SignInput::granted(&grant, now())).unwrap();
    verified(&token(&minted), &after.jwks());
}

/// The delivery after a lost reply: same claims, from the request's leaves and the pinned scope.
#[test]
fn signed_again_from_its_leaf_with_the_same_claims() {
    let issuer = issuer(es256());
    let scope = export();
    let params = params(&scope, json!({ "dataset": "sales", "rows": 500 }));
    let grant = danger_grant(&scope, &params, &["bob"], 900, now()).unwrap();
    let first = issuer.sign(&SignInput::granted(&grant, now())).unwrap();

    // Carol approved as well, but had lost her right by the intent: only bob was stamped.
    let (mut state, _) = intended(&scope, &params, &["bob", "carol"], 900, now()).unwrap();
    assert!(SignInput::issued(&state, &scope, "example.org").is_err(), "not issued yet");
    let issued = Event::Issued(Issued {
        at: now(),
        digest: state.digest,
        request_id: state.terms.request_id.clone(),
        lease_id: LeaseId::parse("l-1").unwrap(),
        expires_at: first.expires_at,
        revocable: first.revocable,
        facts: first.facts.clone(),
    });
    state.apply(1, &issued, Rights::Past).unwrap();
    let again = issuer.sign(&SignInput::issued(&state, &scope, "example.org").unwrap()).unwrap();
    assert_eq!(payload(&again), payload(&first));
    assert_eq!((again.expires_at, again.facts), (first.expires_at, first.facts));

    let mut other = scope.clone();
    other.template.insert("audience".into(), "https://elsewhere.example.com".into());
    assert!(SignInput::issued(&state, &other, "example.org").is_err(), "another template");
}

#[tokio::test]
async fn only_listed_parameters_become_claims_and_never_sensitive_ones() {
    let mut scope = export();
    scope.template.insert("claims".into(), json!(["dataset"]));
    let minted = minted(&issuer(ed25519()), &scope, &[]).await;
    assert_eq!(payload(&minted)["params"], json!({ "dataset": "sales" }));
    assert_eq!(payload(&minted)["approvers"], json!([]));
    assert!(!minted.facts.contains_key("approvers"));

    let mut scope = export();
    scope.params.get_mut("dataset").unwrap().sensitive = true;
    let minted = self::minted(&issuer(ed25519()), &scope, &[]).await;
    assert_eq!(payload(&minted)["params"], json!({ "rows": 500 }));
    scope.template.insert("claims".into(), json!(["dataset"]));
    assert!(!issuer(ed25519()).faults(&scope).is_empty());
    let minted = self::minted(&issuer(ed25519()), &scope, &[]).await;
    assert_eq!(payload(&minted)["params"], json!({}));
}

#[tokio::test]
async fn templates_are_checked_when_loaded_and_again_when_signed() {
    let issuer = issuer(ed25519());
    let with = |template: Value| {
        let mut value = serde_json::to_value(export()).unwrap();
        value["template"] = template;
        scope(value)
    };
    assert_eq!(issuer.faults(&export()), Vec::<String>::new());
    assert_eq!(issuer.faults(&with(json!({ "audience": "db", "claims": ["rows"] }))).len(), 0);
    for template in [
        json!({}),
        json!({ "audience": "" }),
        json!({ "audience": "${dataset}" }),
        json!({ "audience": "*" }),
        json!({ "audience": ["a", "b"] }),
        json!({ "audience": "a", "audiences": "b" }),
        json!({ "audience": "a", "claims": "dataset" }),
        json!({ "audience": "a", "claims": ["datasets"] }),
        json!({ "audience": "a", "claims": [1] }),
    ] {
        assert!(!issuer.faults(&with(template.clone())).is_empty(), "{template}");
    }
    let mut long = export();
    (long.ttl.default_s, long.ttl.max_s) = (60, 86_400);
    assert_eq!(issuer.faults(&long).len(), 1);

    let scope = with(json!({ "audience": "*" }));
    let params = params(&scope, json!({ "dataset": "sales", "rows": 500 }));
    let grant = danger_grant(&scope, &params, &[], 900, now()).unwrap();
    let refused = issuer.mint(grant, now()).await.unwrap_err();
    assert!(matches!(refused, MintError::Refused { code: "bad_template", .. }), "{refused:?}");
}

#[test]
fn an_issuer_is_a_url() {
    for bad in ["", "broker.example.org", "https://broker.example.org/", "ftp://a", "https://a?b"] {
        assert!(JwtIssuer::new(bad, ed25519(), Vec::new()).is_err(), "{bad}");
    }
}

struct Jwt(JwtIssuer);

impl Subject for Jwt {
    fn minter(&self) -> &dyn Minter {
        &self.0
    }
    fn scope(&self) -> Scope {
        export()
    }
    fn params(&self) -> Params {
        params(&export(), json!({ "dataset": "sales", "rows": 500 }))
    }
    fn observed(&self, minted: &Minted) -> Value {
        let claims = payload(minted);
        json!({ "audience": claims["aud"], "scope": claims["scope"], "params": claims["params"] })
    }
}

/// A minter that does something wrong to what it minted.
struct Faulty(JwtIssuer, Wrong);

type Wrong = fn(&mut Minted);

impl Minter for Faulty {
    fn backend(&self) -> Backend {
        self.0.backend()
    }
    fn mint(&self, grant: Grant, now: Timestamp) -> BoxFuture<'_, Result<Minted, MintError>> {
        Box::pin(async move {
            let mut minted = self.0.mint(grant, now).await?;
            (self.1)(&mut minted);
            Ok(minted)
        })
    }
    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Ended> {
        self.0.revoke(lease)
    }
    fn revocable(&self, scope: &Scope) -> Option<&'static str> {
        self.0.revocable(scope)
    }
}

impl Subject for Faulty {
    fn minter(&self) -> &dyn Minter {
        self
    }
    fn scope(&self) -> Scope {
        export()
    }
    fn params(&self) -> Params {
        params(&export(), json!({ "dataset": "sales", "rows": 500 }))
    }
    fn observed(&self, minted: &Minted) -> Value {
        let claims = payload(minted);
        json!({ "audience": claims["aud"], "scope": claims["scope"], "params": claims["params"] })
    }
}

#[tokio::test]
async fn the_suite_notices_what_is_wrong() {
    let wrongs: [(&str, Wrong); 5] = [
        ("nothing", |_| {}),
        ("a longer life", |m| m.expires_at = m.expires_at.plus_seconds(1)),
        ("a fraction of a second", |m| m.expires_at = m.expires_at.plus_millis(-1)),
        ("revocable, it says", |m| m.revocable = true),
        ("its token as a fact", |m| drop(m.facts.insert("token".into(), token(m)))),
    ];
    for (n, (why, wrong)) in wrongs.into_iter().enumerate() {
        let outcome = conformance::check(&Faulty(issuer(ed25519()), wrong), now()).await;
        assert_eq!(outcome.is_ok(), n == 0, "{why}: {outcome:?}");
    }
}

#[tokio::test]
async fn conforms() {
    conformance::check(&Jwt(issuer(ed25519())), now()).await.unwrap();
    conformance::check(&Jwt(issuer(es256())), now()).await.unwrap();
}

fn listed() -> Scope {
    let mut scope = export();
    let key = json!({ "type": "public-key", "format": "jkt" });
    scope.params.insert("key".into(), serde_json::from_value(key).unwrap());
    scope.template.insert("holder".into(), json!("key"));
    scope.template.insert("status".into(), json!(true));
    scope.template.insert("claims".into(), json!(["dataset", "rows"]));
    scope
}

const JKT: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";

fn listed_params() -> Params {
    params(&listed(), json!({ "dataset": "sales", "rows": 500, "key": JKT }))
}

/// Whether the bit of a token is set in its list, read as the draft says.
fn is_set(list: &str, index: u64) -> bool {
    let claims: Value = serde_json::from_slice(&decoded(list.split('.').nth(1).unwrap())).unwrap();
    assert_eq!(claims["status_list"]["bits"], 1);
    let packed = decoded(claims["status_list"]["lst"].as_str().unwrap());
    let bits = miniz_oxide::inflate::decompress_to_vec_zlib(&packed).unwrap();
    bits[usize::try_from(index / 8).unwrap()] >> (index % 8) & 1 == 1
}

#[test]
fn a_token_is_bound_to_its_holder_and_has_a_place_of_its_own_on_a_status_list() {
    let issuer = issuer(ed25519()).publishing("https://broker.example.org/issuers/jwt", "a1");
    let scope = listed();
    assert_eq!(issuer.faults(&scope), Vec::<String>::new());
    let asked = listed_params();
    let grant = danger_grant(&scope, &asked, &[], 900, now()).unwrap();
    let first = issuer.sign(&SignInput::granted(&grant, now())).unwrap();
    let second = issuer.sign(&SignInput::granted(&grant, now())).unwrap();
    let claims = payload(&first);
    assert_eq!(claims["cnf"], json!({ "jkt": JKT }));
    let place = &claims["status"]["status_list"];
    assert_eq!(place["uri"], "https://broker.example.org/issuers/jwt/status/a1-0");
    assert_ne!(place, &payload(&second)["status"]["status_list"], "a place is one token's");
    assert!(first.revocable);

    let one = |minted: &Minted| EndedLease {
        at: now(),
        expires_at: minted.expires_at,
        facts: minted.facts.clone(),
    };
    let ended = BTreeMap::from([(LeaseId::parse("l-1").unwrap(), one(&first))]);
    let list = |ended: &BTreeMap<LeaseId, EndedLease>| {
        let made = issuer.document("status/a1-0", ended, now()).unwrap().unwrap();
        assert_eq!(made.content_type, "application/statuslist+jwt");
        String::from_utf8(made.bytes).unwrap()
    };
    let index = |minted: &Minted| payload(minted)["status"]["status_list"]["idx"].as_u64().unwrap();
    assert!(!is_set(&list(&BTreeMap::new()), index(&first)));
    assert!(is_set(&list(&ended), index(&first)));
    assert!(!is_set(&list(&ended), index(&second)), "nobody else's bit");
    for name in
        ["", "status", "status/", "status/a1", "status/a1-", "status/a1-00", "status/../x-0"]
    {
        assert_eq!(issuer.document(name, &ended, now()).unwrap(), None, "{name}");
    }
}

#[test]
fn introspection_reads_its_own_living_tokens_only() {
    let issuer = issuer(ed25519());
    let scope = export();
    let asked = params(&scope, json!({ "dataset": "sales", "rows": 500 }));
    let grant = danger_grant(&scope, &asked, &[], 900, now()).unwrap();
    let good = token(&issuer.sign(&SignInput::granted(&grant, now())).unwrap());
    let read = |token: &str, at| issuer.introspect(token, at);
    assert_eq!(read(&good, now()).unwrap()["jti"], "l-1");
    assert!(read(&good, now().plus_seconds(900)).is_none(), "expired");
    let other = JwtIssuer::new("https://broker.example.org", es256(), Vec::new()).unwrap();
    let foreign = token(&other.sign(&SignInput::granted(&grant, now())).unwrap());
    assert!(read(&foreign, now()).is_none(), "another key");
    let cut = good.rsplit_once('.').unwrap().0;
    for bad in ["", "a", "a.b.c", cut, &format!("{cut}."), &format!("{good}A")] {
        assert!(read(bad, now()).is_none(), "{bad}");
    }
    // After a rotation the retired key still speaks for what it signed.
    let retired = ed25519().public().clone();
    issuer.replace(es256(), vec![retired]);
    assert!(read(&good, now()).is_some(), "signed before the rotation");
    let fresh = token(&issuer.sign(&SignInput::granted(&grant, now())).unwrap());
    assert!(read(&fresh, now()).is_some());
    issuer.replace(es256(), Vec::new());
    assert!(read(&good, now()).is_none(), "the key is no longer published");
    // A list is no token, though the same key signed it.
    let list = issuer.document("status/0-0", &BTreeMap::new(), now()).unwrap().unwrap();
    assert!(read(&String::from_utf8(list.bytes).unwrap(), now()).is_none());
}
