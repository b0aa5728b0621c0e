//! Vault's aws, identity and token engines, and wrapped answers, against a Vault that answers as it is told.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use grantwright_domain::{Params, Scope};
use grantwright_mint::conformance::{self, Subject, danger_grant};
use grantwright_mint::vault::{Engine, VaultMinter};
use grantwright_mint::{MintError, Minted, Minter};
use serde_json::{Value, json};

use crate::fixtures::{now, params, scope};
use crate::vault::{Say, TOKEN, Vault};

const CREATE: &str = "/v1/auth/token/create";
const STS: &str = "/v1/aws/sts/reader";
const IDENTITY: &str = "/v1/identity/oidc/token/reader";
const ACCESSOR: &str = "acc-1";
/// The lease of every grant here.
const LEASE: &str = "l-1";

/// As a good Vault answers for these engines; tokens live in `leases` by their accessor.
pub fn good(path: &str, body: &Value, leases: &mut BTreeMap<String, i64>) -> Say {
    let seconds = |name: &str| -> i64 {
        body[name].as_str().unwrap_or_default().trim_end_matches('s').parse().unwrap_or(0)
    };
    let accessor = body["accessor"].as_str().unwrap_or_default();
    match path {
        CREATE => {
            leases.insert(ACCESSOR.into(), seconds("ttl"));
            Say::Json(
                200,
                json!({ "auth": {
                "client_token": "hvs.minted", "accessor": ACCESSOR, "policies": body["policies"],
                "identity_policies": null, "num_uses": body["num_uses"],
                "lease_duration": seconds("ttl"), "renewable": false, "token_type": "service",
            } }),
            )
        }
        "/v1/auth/token/revoke-accessor" => {
            leases.remove(accessor);
            Say::Raw(204, String::new())
        }
        "/v1/auth/token/lookup-accessor" => match leases.contains_key(accessor) {
            true => {
                let meta = json!({ "lease": LEASE });
                Say::Json(200, json!({ "data": { "accessor": accessor, "meta": meta } }))
            }
            false => Say::Json(403, json!({ "errors": ["1 error occurred: * invalid accessor"] })),
        },
        "/v1/aws/roles/reader" => {
            Say::Json(200, json!({ "data": { "credential_type": "assumed_role" } }))
        }
        STS => Say::Json(200, session(&body["role_session_name"], seconds("ttl"))),
        "/v1/identity/oidc/role/reader" => {
            Say::Json(200, json!({ "data": { "ttl": 60, "client_id": "c-1" } }))
        }
        IDENTITY => Say::Json(200, identity("c-1", 60)),
        "/v1/auth/token/accessors" => {
            let keys: Vec<&String> = leases.keys().collect();
            Say::Json(200, json!({ "data": { "keys": keys } }))
        }
        _ => crate::authorities::good(path, body, leases),
    }
}

fn session(name: &Value, lasts: i64) -> Value {
    let arn = format!("arn:aws:sts::1:assumed-role/reader/{}", name.as_str().unwrap_or_default());
    json!({
        "lease_id": "aws/sts/reader/x", "lease_duration": lasts, "renewable": false,
        "data": {
            "access_key": "ASIAEXAMPLE", "secret_key": "minted-secret", "security_token": "minted-token",
            "session_token": "minted-token", "arn": arn,
        },
    })
}

fn identity(audience: &str, lasts: i64) -> Value {
    let claims = json!({ "aud": audience, "sub": "entity-1", "exp": now().seconds() + lasts });
    let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()));
    json!({ "data": { "client_id": audience, "token": token, "ttl": lasts } })
}

#[derive(Clone, Copy)]
struct Case {
    engine: Engine,
    makes: &'static str,
    template: fn() -> Value,
    ttl_s: u32,
}

const CASES: [Case; 3] = [
    Case {
        engine: Engine::Token,
        makes: CREATE,
        template: || json!({ "policies": ["read-${what}"], "num_uses": 3 }),
        ttl_s: 600,
    },
    Case {
        engine: Engine::Aws,
        makes: STS,
        template: || json!({ "mount": "aws", "role": "${what}" }),
        ttl_s: 900,
    },
    Case {
        engine: Engine::Identity,
        makes: IDENTITY,
        template: || json!({ "mount": "identity", "role": "${what}" }),
        ttl_s: 600,
    },
];

fn asked_for(case: &Case) -> (Scope, Params) {
    let scope = scope(json!({
        "name": "vault.use", "title": "Use {what}", "minter": "vault",
        "ttl": { "default_s": case.ttl_s, "max_s": case.ttl_s },
        "params": { "what": { "type": "string", "pattern": "[a-z]{1,20}" } },
        "template": (case.template)(),
    }));
    let params = params(&scope, json!({ "what": "reader" }));
    (scope, params)
}

/// For the table of hostile cases.
pub async fn rows() -> Vec<crate::hostile::Row> {
    let mut rows = Vec::new();
    for case in CASES {
        let vault = Vault::start().await;
        let (url, engine) = (vault.url.clone(), vault.engines());
        rows.push(crate::hostile::Row {
            name: case.engine.backend().declaration.name,
            url,
            make: Box::new(move |url| Box::new(engine(url, case.engine))),
            asked: asked_for(&case),
            ttl_s: case.ttl_s,
            makes: case.makes,
            _alive: Box::new(vault),
        });
    }
    rows
}

async fn mint(case: &Case, minter: &VaultMinter) -> Result<Minted, MintError> {
    let (scope, params) = asked_for(case);
    let grant = danger_grant(&scope, &params, &["bob"], case.ttl_s, now()).unwrap();
    minter.mint(grant, now()).await
}

async fn refused(case: &Case, path: &str, say: Say) -> (MintError, Vault) {
    let vault = Vault::start().await;
    // A broker that may not look for what it lost.
    let denied = Say::Json(403, json!({ "errors": ["permission denied"] }));
    vault.tell("/v1/auth/token/accessors", denied).tell(path, say);
    let error = mint(case, &vault.engine(case.engine, false)).await.map(drop).unwrap_err();
    assert!(vault.calls(case.makes).len() <= 1, "invariant 3: one call that makes");
    let shown = format!("{error:?}");
    for secret in [TOKEN, "minted-secret", "minted-token", "hvs.minted"] {
        assert!(!shown.contains(secret), "invariant 21: {shown}");
    }
    (error, vault)
}

#[tokio::test]
async fn invariant_08_what_was_lost_is_unknown_what_was_refused_is_not() {
    for case in CASES {
        let errors = json!({ "errors": [format!("no {TOKEN}")] });
        for (why, say, code) in [
            ("late", Say::Late, "outcome_unknown"),
            ("dropped", Say::Drop, "outcome_unknown"),
            ("half", Say::Half(errors.to_string()), "outcome_unknown"),
            ("a gigabyte", Say::Endless, "outcome_unknown"),
            ("nothing in it", Say::Json(200, json!({})), "outcome_unknown"),
            ("500", Say::Json(500, errors.clone()), "outcome_unknown"),
            ("503", Say::Json(503, errors.clone()), "outcome_unknown"),
            ("sealed", Say::Json(503, json!({ "errors": ["Vault is sealed"] })), "backend_away"),
            ("429", Say::Json(429, errors.clone()), "backend_busy"),
            ("403", Say::Json(403, errors.clone()), "backend_denied"),
            ("400", Say::Json(400, errors.clone()), "backend_refused"),
            ("a redirect", Say::Redirect("http://127.0.0.1:1/".into()), "backend_away"),
        ] {
            let (error, _) = refused(&case, case.makes, say).await;
            assert_eq!(error.code(), code, "{} {why}: {error:?}", case.engine.word());
        }
    }
}

#[tokio::test]
async fn invariant_05_a_wider_token_is_revoked_and_not_delivered() {
    let [case, ..] = CASES;
    let auth = json!({
        "client_token": "hvs.minted", "accessor": ACCESSOR, "policies": ["read-reader"], "num_uses": 3,
        "lease_duration": 600, "renewable": false,
    });
    for (member, value) in [
        ("policies", json!(["read-reader", "root"])),
        ("policies", json!(["default"])),
        ("identity_policies", json!(["everything"])),
        ("num_uses", json!(0)),
        ("num_uses", json!(4)),
        ("lease_duration", json!(601)),
        ("lease_duration", json!(0)),
        ("renewable", json!(true)),
    ] {
        let mut wide = auth.clone();
        wide[member] = value.clone();
        let (error, vault) = refused(&case, CREATE, Say::Json(200, json!({ "auth": wide }))).await;
        assert_eq!(error.code(), "backend_wider", "{member} {value}: {error:?}");
        assert_eq!(vault.live(), 0, "{member} {value}: it lives on");
    }
    // A revocation that says yes and does nothing: seen, so the outcome is unknown.
    let mut wide = auth.clone();
    wide["renewable"] = json!(true);
    let vault = Vault::start().await;
    vault.tell(CREATE, Say::Json(200, json!({ "auth": wide })));
    vault.tell("/v1/auth/token/revoke-accessor", Say::Raw(204, String::new()));
    vault.tell("/v1/auth/token/lookup-accessor", Say::Json(200, json!({ "data": {} })));
    let error = mint(&case, &vault.engine(case.engine, false)).await.map(drop).unwrap_err();
    assert_eq!(error.code(), "outcome_unknown", "{error:?}");
}

#[tokio::test]
async fn invariant_05_a_wider_session_or_identity_is_not_delivered() {
    let [_, aws, id] = CASES;
    for (case, path, answer, code) in [
        (aws, STS, session(&json!("r-1"), 86_400), "backend_wider"),
        (aws, STS, session(&json!("r-1"), -1), "backend_wider"),
        (aws, STS, session(&json!("r-2"), 900), "backend_wider"),
        (
            aws,
            "/v1/aws/roles/reader",
            json!({ "data": { "credential_type": "iam_user" } }),
            "bad_template",
        ),
        (aws, "/v1/aws/roles/reader", json!({ "data": {} }), "bad_template"),
        (id, IDENTITY, identity("c-2", 60), "backend_wider"),
        (id, IDENTITY, identity("c-1", 86_400), "backend_wider"),
        (id, IDENTITY, identity("c-1", -1), "backend_wider"),
        (
            id,
            "/v1/identity/oidc/role/reader",
            json!({ "data": { "ttl": 601, "client_id": "c-1" } }),
            "ttl_too_short",
        ),
    ] {
        let (error, vault) = refused(&case, path, Say::Json(200, answer)).await;
        assert_eq!(error.code(), code, "{path}: {error:?}");
        if path != case.makes {
            assert_eq!(vault.calls(case.makes).len(), 0, "it was made all the same");
        }
    }
}

#[tokio::test]
async fn invariant_08_a_token_whose_answer_was_lost_is_found_by_its_accessor_and_revoked() {
    let [case, ..] = CASES;
    let lease = grantwright_domain::LeaseId::parse(LEASE).unwrap();
    let (scope, params) = asked_for(&case);
    for (why, accessors, code, live) in [
        ("found", None, "backend_away", 0),
        (
            "may not look",
            Some(Say::Json(403, json!({ "errors": ["denied"] }))),
            "outcome_unknown",
            1,
        ),
        (
            "not there yet",
            Some(Say::Json(200, json!({ "data": { "keys": [] } }))),
            "outcome_unknown",
            1,
        ),
    ] {
        let vault = Vault::start().await;
        vault.tell(CREATE, Say::Drop).holds(ACCESSOR);
        if let Some(say) = accessors {
            vault.tell("/v1/auth/token/accessors", say);
        }
        let minter = vault.engine(case.engine, false);
        let error = mint(&case, &minter).await.map(drop).unwrap_err();
        assert_eq!((error.code(), vault.live()), (code, live), "{why}: {error:?}");
    }
    // The same after a crash between the intent and its outcome.
    let vault = Vault::start().await;
    vault.holds(ACCESSOR);
    let minter = vault.engine(case.engine, false);
    let ended = minter.undo(&lease, &scope, &params).await.unwrap();
    assert!(ended.ended && vault.live() == 0, "{ended:?}");
    let ended = minter.undo(&lease, &scope, &params).await.unwrap();
    assert!(ended.effect.contains("no token"), "{ended:?}");
    vault.tell("/v1/auth/token/accessors", Say::Json(403, json!({ "errors": ["denied"] })));
    assert_eq!(minter.undo(&lease, &scope, &params).await, None, "nobody knows");
}

fn wrapped(path: &str) -> Value {
    json!({ "wrap_info": { "token": "hvs.wrap", "accessor": "wa", "ttl": 60, "creation_path": path } })
}

#[tokio::test]
async fn a_wrapped_answer_is_of_this_call_and_fetched_by_nobody_else() {
    let [case, ..] = CASES;
    let auth = json!({ "auth": {
        "client_token": "hvs.minted", "accessor": ACCESSOR, "policies": ["read-reader"], "num_uses": 3,
        "lease_duration": 600, "renewable": false,
    } });
    let (path, other) = ("auth/token/create", "auth/token/create-orphan");
    let seen = |path: &str| Say::Json(200, json!({ "data": { "creation_path": path } }));
    let gone =
        || Say::Json(400, json!({ "errors": ["wrapping token is not valid or does not exist"] }));
    for (why, answer, lookup, fetched, ok) in [
        ("well", wrapped(path), seen(path), Say::Json(200, auth.clone()), true),
        ("made by another call", wrapped(other), seen(path), Say::Json(200, auth.clone()), false),
        ("so Vault says", wrapped(path), seen(other), Say::Json(200, auth.clone()), false),
        ("fetched before", wrapped(path), seen(path), gone(), false),
        ("not wrapped", auth.clone(), seen(path), Say::Json(200, auth.clone()), false),
        ("unknown to Vault", wrapped(path), gone(), Say::Json(200, auth.clone()), false),
    ] {
        let vault = Vault::start().await;
        let denied = Say::Json(403, json!({ "errors": ["permission denied"] }));
        vault.tell("/v1/auth/token/accessors", denied).tell(CREATE, Say::Json(200, answer));
        vault.tell("/v1/sys/wrapping/lookup", lookup).tell("/v1/sys/wrapping/unwrap", fetched);
        let got =
            mint(&case, &vault.engine(case.engine, true)).await.map(drop).map_err(|e| e.code());
        assert_eq!(got, if ok { Ok(()) } else { Err("outcome_unknown") }, "{why}");
    }
}

#[test]
fn templates_that_could_express_more_are_refused_at_load() {
    let [token, aws, _] = CASES;
    for (case, key, value, part) in [
        (token, "policies", json!([]), "1 to 16"),
        (token, "policies", json!(["root"]), "narrows nothing"),
        (token, "policies", json!(["read-${what}", "write"]), "does not narrow"),
        (token, "policies", json!(["read-${what}*"]), "wildcard"),
        (token, "num_uses", json!(-1), "want 1 to"),
        (token, "role", json!("../x"), "one token role"),
        (aws, "role", json!("reader"), "does not narrow"),
        (aws, "mount", json!("aws/../sys"), "one engine"),
    ] {
        let (mut scope, _) = asked_for(&case);
        let faults = |scope: &Scope| (case.engine.backend().faults)(scope).join("\n");
        assert_eq!(faults(&scope), "");
        scope.template.insert(key.into(), value.clone());
        assert!(faults(&scope).contains(part), "{key} = {value}: {}", faults(&scope));
    }
}

struct EngineSubject {
    case: Case,
    vault: Vault,
    minter: VaultMinter,
}

impl Subject for EngineSubject {
    fn minter(&self) -> &dyn Minter {
        &self.minter
    }
    fn scope(&self) -> Scope {
        asked_for(&self.case).0
    }
    fn params(&self) -> Params {
        asked_for(&self.case).1
    }
    fn observed(&self, _: &Minted) -> Value {
        let asked = self.vault.calls(self.case.makes).pop().unwrap();
        match self.case.engine {
            Engine::Token => {
                json!({ "policies": asked["policies"], "num_uses": asked["num_uses"] })
            }
            Engine::Aws => json!({ "mount": "aws", "role": "reader" }),
            _ => json!({ "mount": "identity", "role": "reader" }),
        }
    }
}

#[tokio::test]
async fn conform() {
    for case in CASES {
        let vault = Vault::start().await;
        let minter = vault.engine(case.engine, false);
        let subject = EngineSubject { case, vault, minter };
        let held = conformance::check(&subject, now()).await;
        held.map_err(|e| format!("{}: {e}", case.engine.word())).unwrap();
    }
}
