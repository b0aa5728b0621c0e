//! The Vault minter against a Vault that answers as it is told, well or not.

mod scripted;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use grantwright_domain::request::{Lease, LeaseState};
use grantwright_domain::{Clock, LeaseId, Params, Scope, Timestamp};
use grantwright_mint::conformance::{self, Subject, danger_grant};
use grantwright_mint::vault::{BACKEND, Engine, Login, VaultConfig, VaultMinter};
use grantwright_mint::{MintError, Minted, Minter};
use serde_json::{Value, json};

use crate::fixtures::{now, params, scope};
use scripted::{At, LEASE, State, TTL, creds};
pub use scripted::{Say, TOKEN, Vault};

/// For the table of hostile cases.
pub async fn row() -> crate::hostile::Row {
    let vault = Vault::start().await;
    let (url, engine) = (vault.url.clone(), vault.engines());
    crate::hostile::Row {
        name: BACKEND.declaration.name,
        url,
        make: Box::new(move |url| Box::new(engine(url, Engine::Database))),
        asked: asked_for("sales"),
        ttl_s: TTL,
        makes: CREDS,
        _alive: Box::new(vault),
    }
}

/// The same, where each mint has a token of its own.
pub async fn careful_row() -> crate::hostile::Row {
    let row = row().await;
    let vault = Vault::start().await;
    let (url, token) = (vault.url.clone(), vault.token.clone());
    crate::hostile::Row {
        name: "vault, token_per_mint",
        url,
        make: Box::new(move |url| Box::new(Vault::careful_at(url, &token))),
        _alive: Box::new(vault),
        ..row
    }
}

fn db_read() -> Scope {
    scope(json!({
        "name": "vault.db-read",
        "title": "Read the database {database}",
        "minter": "vault",
        "params": { "database": { "type": "string", "pattern": "[a-z0-9][a-z0-9._-]{0,63}" } },
        "template": { "mount": "database", "role": "db-read", "connection": "${database}" },
    }))
}

fn asked_for(database: &str) -> (Scope, Params) {
    let scope = db_read();
    let params = params(&scope, json!({ "database": database }));
    (scope, params)
}

async fn mint_for(vault: &Vault, database: &str) -> Result<Minted, MintError> {
    let (scope, params) = asked_for(database);
    let grant = danger_grant(&scope, &params, &["bob"], TTL, now()).unwrap();
    vault.minter().mint(grant, now()).await
}

async fn mint(vault: &Vault) -> Result<Minted, MintError> {
    mint_for(vault, "sales").await
}

const CREDS: &str = "/v1/database/creds/db-read";
const ROLE: &str = "/v1/database/roles/db-read";

fn lease(id: &str) -> Lease {
    Lease {
        id: LeaseId::parse("l-1").unwrap(),
        issued_at: now(),
        expires_at: now().plus_seconds(600),
        revocable: true,
        state: LeaseState::Live,
        effect: String::new(),
        facts: BTreeMap::from([("vault_lease_id".to_owned(), id.to_owned())]),
    }
}

#[tokio::test]
async fn mints_what_was_granted_and_keeps_the_lease_id() {
    let vault = Vault::start().await;
    let minted = mint(&vault).await.unwrap();
    assert_eq!(
        minted.credential.expose_json(),
        br#"{"username":"v-broker-db-read-1","password":"minted-password"}"#
    );
    assert_eq!(minted.facts["vault_lease_id"], LEASE);
    assert_eq!(minted.expires_at, now().plus_seconds(600).whole_second());
    assert_eq!(vault.calls(CREDS).len(), 1);
    assert!(vault.calls("/v1/sys/leases/renew").is_empty(), "it has the right length already");
    let state = vault.state.lock().unwrap();
    assert!(state.calls.iter().all(|(_, _, token)| token == TOKEN));
}

#[tokio::test]
async fn inv_05_a_lease_of_another_length_is_set_and_looked_up() {
    for lasts in [60, 3600] {
        let vault = Vault::start().await;
        let minted = mint(vault.lasts(lasts)).await.unwrap();
        assert_eq!(vault.calls("/v1/sys/leases/renew")[0]["increment"], 600);
        assert_eq!(vault.state.lock().unwrap().leases[LEASE], 600);
        assert_eq!(minted.expires_at, now().plus_seconds(600).whole_second());
    }
}

/// Made for a step, and extended to a moment: never beyond it, and to what Vault says where that is less.
#[tokio::test]
async fn inv_05_a_lease_made_in_steps_is_extended_to_what_was_asked_and_no_longer() {
    let vault = Vault::start().await;
    let (mut scope, params) = asked_for("sales");
    scope.template.insert("step_s".into(), 60.into());
    let minter = vault.minter();
    assert_eq!((minter.faults(&scope), minter.step_s(&scope)), (Vec::new(), Some(60)));
    let grant = danger_grant(&scope, &params, &["bob"], TTL, now()).unwrap();
    let minted = minter.mint(grant, now()).await.unwrap();
    assert_eq!(minted.expires_at, now().plus_seconds(60).whole_second());
    assert_eq!(vault.state.lock().unwrap().leases[LEASE], 60);

    let until = now().plus_seconds(120).whole_second();
    // Vault counts whole seconds from its own moment: rather one less than one too many.
    assert_eq!(minter.renew(&lease(LEASE), until).await, Ok(until.plus_seconds(-1)));
    assert_eq!(vault.calls("/v1/sys/leases/renew").last().unwrap()["increment"], 119);
    let path = "/v1/sys/leases/renew";
    let answered = |left: i64| Say::Json(200, json!({ "lease_id": LEASE, "lease_duration": left }));
    vault.tell(path, answered(90));
    let less = minter.renew(&lease(LEASE), until).await;
    assert_eq!(less, Ok(now().plus_seconds(90).whole_second()), "the role's own bound is near");
    vault.tell(path, answered(121));
    let wider = minter.renew(&lease(LEASE), until).await;
    assert_eq!(wider.map_err(|e| e.code()), Err("backend_wider"));
    vault.tell(path, Say::Drop);
    let lost = minter.renew(&lease(LEASE), until).await;
    assert_eq!(lost.map_err(|e| e.code()), Err("outcome_unknown"));
    let gone = Say::Json(400, json!({ "errors": ["lease not found"] }));
    vault.tell(path, gone);
    let gone = minter.renew(&lease(LEASE), until).await;
    assert_eq!(gone.map_err(|e| e.code()), Err("backend_refused"));
    // A step that is none, and a backend that extends nothing.
    for (step, fault) in
        [(json!(5), "6 to"), (json!("1m"), "invalid type"), (json!(50_000), "6 to")]
    {
        scope.template.insert("step_s".into(), step);
        assert!(minter.faults(&scope).iter().any(|f| f.contains(fault)), "{fault}");
    }
    let token = vault.engine(Engine::Token, false);
    assert_eq!(token.step_s(&scope), None);
    let refused = token.renew(&lease(LEASE), until).await;
    assert_eq!(refused.map_err(|e| e.code()), Err("not_renewable"));
}

#[tokio::test]
async fn inv_05_what_is_wider_is_revoked_and_refused() {
    let renewed = |left: i64| Say::Json(200, json!({ "lease_id": LEASE, "lease_duration": left }));
    for (why, path, say) in [
        ("renewal gives more", "/v1/sys/leases/renew", renewed(601)),
        ("renewal refused", "/v1/sys/leases/renew", Say::Json(400, json!({ "errors": ["no"] }))),
        ("renewal lost", "/v1/sys/leases/renew", Say::Drop),
        (
            "no password",
            CREDS,
            Say::Json(200, {
                let mut creds = creds(LEASE, 600);
                creds["data"]["password"] = "".into();
                creds
            }),
        ),
        (
            "password as name",
            CREDS,
            Say::Json(200, {
                let mut creds = creds(LEASE, 600);
                creds["data"]["username"] = "minted-password".into();
                creds
            }),
        ),
        ("ended already", CREDS, Say::Json(200, creds(LEASE, 0))),
    ] {
        let vault = Vault::start().await;
        vault.lasts(3600).tell(path, say);
        if why == "ended already" {
            vault.tell("/v1/sys/leases/renew", renewed(0));
        }
        let error = mint(&vault).await.map(drop).unwrap_err();
        assert_eq!(error.code(), "backend_wider", "{why}: {error:?}");
        assert_eq!(vault.live(), 0, "{why}: it was not revoked");
        assert!(!format!("{error:?}").contains("minted-password"), "{why}");
    }
}

#[tokio::test]
async fn inv_05_a_lease_of_another_role_or_mount_is_never_delivered() {
    for other in ["database/creds/admin/abcd", "kv/creds/db-read/x", "database/creds/db-read/", ""]
    {
        let vault = Vault::start().await;
        vault.tell(CREDS, Say::Json(200, creds(other, 600)));
        let error = mint(&vault).await.map(drop).unwrap_err();
        let code = error.code();
        assert!(matches!(code, "backend_wider" | "outcome_unknown"), "{other}: {error:?}");
    }
}

#[tokio::test]
async fn inv_08_a_lost_answer_is_unknown_and_never_asked_again() {
    let whole = creds(LEASE, 600).to_string();
    for (why, say) in [
        ("closed", Say::Drop),
        ("half", Say::Half(whole.clone())),
        ("late", Say::Late),
        ("endless", Say::Endless),
        ("not JSON", Say::Raw(200, "<html>".into())),
        ("not an object", Say::Raw(200, "[]".into())),
        ("another type", Say::Raw(200, r#"{"lease_id":7}"#.into())),
        ("500", Say::Json(500, json!({ "errors": ["disk full"] }))),
        ("502", Say::Raw(502, "bad gateway".into())),
        ("503 of a proxy", Say::Raw(503, "try later".into())),
        ("408", Say::Raw(408, String::new())),
    ] {
        let vault = Vault::start().await;
        vault.tell(CREDS, say);
        let error = mint(&vault).await.map(drop).unwrap_err();
        assert_eq!(error.code(), "outcome_unknown", "{why}: {error:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(vault.calls(CREDS).len(), 1, "{why}: asked again");
    }
}

async fn careful(vault: &Vault) -> Result<Minted, MintError> {
    let (scope, params) = asked_for("sales");
    let grant = danger_grant(&scope, &params, &["bob"], TTL, now()).unwrap();
    vault.careful().mint(grant, now()).await
}

const CREATE: &str = "/v1/auth/token/create";

#[tokio::test]
async fn a_mint_with_a_token_of_its_own_is_made_with_it_and_ends_with_it() {
    let vault = Vault::start().await;
    let minted = careful(&vault).await.unwrap();
    assert_eq!(minted.facts["vault_accessor"], "acc-1");
    assert_eq!(minted.expires_at, now().plus_seconds(600).whole_second());
    let [made] = vault.calls(CREATE).try_into().unwrap();
    assert_eq!(
        (&made["meta"]["lease"], &made["explicit_max_ttl"]),
        (&"l-1".into(), &"600s".into())
    );
    {
        let state = vault.state.lock().unwrap();
        for (path, _, token) in &state.calls {
            assert_eq!(token, if path == CREDS { "hvs.minted" } else { TOKEN }, "{path}");
        }
    }
    assert_eq!(vault.live(), 2, "the account and its token");
    let mut held = lease(LEASE);
    held.facts = minted.facts;
    let ended = vault.careful().revoke(&held).await;
    assert!(ended.ended && vault.live() == 0, "{ended:?}");
    // A token that would end before: so does what was made with it, and that is said.
    let short = json!({ "auth": {
        "client_token": "hvs.minted", "accessor": "acc-1", "lease_duration": 300, "renewable": false,
    } });
    let vault = Vault::start().await;
    vault.tell(CREATE, Say::Json(200, short));
    let minted = careful(&vault).await.unwrap();
    assert_eq!(minted.expires_at, now().plus_seconds(300).whole_second());
}

#[tokio::test]
async fn inv_08_with_a_token_of_its_own_nothing_of_a_lost_answer_is_left() {
    let errors = json!({ "errors": ["no"] });
    let mut nothing = creds(LEASE, 600);
    nothing["data"]["password"] = "".into();
    for (why, say, code) in [
        ("closed", Say::Drop, "backend_away"),
        ("half", Say::Half(creds(LEASE, 600).to_string()), "backend_away"),
        ("late", Say::Late, "backend_away"),
        ("500", Say::Json(500, errors.clone()), "backend_away"),
        ("403", Say::Json(403, errors.clone()), "backend_denied"),
        ("no password", Say::Json(200, nothing), "backend_wider"),
        ("another's lease", Say::Json(200, creds("kv/creds/x/y", 600)), "backend_wider"),
    ] {
        let vault = Vault::start().await;
        vault.tell(CREDS, say);
        let error = careful(&vault).await.map(drop).unwrap_err();
        assert_eq!((error.code(), vault.live()), (code, 0), "{why}: {error:?}");
    }
    // What cannot be revoked is unknown.
    let vault = Vault::start().await;
    vault.tell(CREDS, Say::Drop).tell("/v1/auth/token/revoke-accessor", Say::Json(403, json!({})));
    vault.tell("/v1/auth/token/lookup-accessor", Say::Json(200, json!({ "data": {} })));
    let error = careful(&vault).await.map(drop).unwrap_err();
    assert_eq!(error.code(), "outcome_unknown", "{error:?}");
    // Without the token nothing is made.
    for say in
        [Say::Drop, Say::Json(403, json!({})), Say::Json(500, json!({})), Say::Json(200, json!({}))]
    {
        let vault = Vault::start().await;
        vault.tell(CREATE, say);
        let error = careful(&vault).await.map(drop).unwrap_err();
        assert!(matches!(error, MintError::Refused { .. }), "{error:?}");
        assert!(vault.calls(CREDS).is_empty());
    }
    // After a crash between the intent and its outcome.
    let (scope, params) = asked_for("sales");
    let id = LeaseId::parse("l-1").unwrap();
    let vault = Vault::start().await;
    vault.holds("acc-1");
    assert_eq!(vault.minter().undo(&id, &scope, &params).await, None, "it had no token");
    let ended = vault.careful().undo(&id, &scope, &params).await.unwrap();
    assert!(ended.ended && vault.live() == 0, "{ended:?}");
}

#[tokio::test]
async fn a_definite_refusal_is_failed_and_says_what_to_do() {
    for (status, said, code) in [
        (400, "unknown role", "backend_refused"),
        (403, "permission denied", "backend_denied"),
        (404, "", "backend_refused"),
        (412, "", "backend_refused"),
        (429, "rate limit", "backend_busy"),
        (503, "Vault is sealed", "backend_away"),
    ] {
        let vault = Vault::start().await;
        vault.tell(CREDS, Say::Json(status, json!({ "errors": [said, TOKEN] })));
        let error = mint(&vault).await.map(drop).unwrap_err();
        assert_eq!(error.code(), code, "{status}: {error:?}");
        assert!(!format!("{error:?}").contains(TOKEN), "{status}: it repeats the token");
        assert_eq!(vault.calls(CREDS).len(), 1);
    }
}

#[tokio::test]
async fn the_token_follows_no_redirect() {
    let other = Vault::start().await;
    let vault = Vault::start().await;
    vault.tell(CREDS, Say::Redirect(format!("{}{CREDS}", other.url)));
    let error = mint(&vault).await.map(drop).unwrap_err();
    assert_eq!(error.code(), "backend_away", "{error:?}");
    assert!(other.state.lock().unwrap().calls.is_empty());
}

#[tokio::test]
async fn inv_04_another_connection_than_the_roles_makes_nothing() {
    let vault = Vault::start().await;
    let error = mint_for(&vault, "payroll").await.map(drop).unwrap_err();
    assert_eq!(error.code(), "bad_parameter", "{error:?}");
    assert!(vault.calls(CREDS).is_empty());
}

#[tokio::test]
async fn nothing_is_made_where_the_role_cannot_be_read() {
    for say in [Say::Drop, Say::Late, Say::Json(500, json!({})), Say::Json(403, json!({}))] {
        let vault = Vault::start().await;
        vault.tell(ROLE, say);
        let error = mint(&vault).await.map(drop).unwrap_err();
        assert!(matches!(error, MintError::Refused { .. }), "{error:?}");
        assert!(vault.calls(CREDS).is_empty());
    }
}

#[tokio::test]
async fn a_vault_that_is_away_is_refused_not_unknown() {
    let vault = Vault::start().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = VaultConfig {
        engine: Engine::Database,
        wrap: false,
        address: format!("http://{closed}"),
        namespace: None,
        ca_file: None,
        identity: None,
        login: Login::Token { file: vault.token.clone() },
        timeout: Duration::from_secs(1),
        token_per_mint: false,
    };
    let minter = VaultMinter::new(config, Arc::new(At(now()))).unwrap();
    let (scope, params) = asked_for("sales");
    let grant = danger_grant(&scope, &params, &[], TTL, now()).unwrap();
    let error = minter.mint(grant, now()).await.map(drop).unwrap_err();
    assert_eq!(error.code(), "backend_away", "{error:?}");
}

#[tokio::test]
async fn ending_reports_what_a_lookup_sees() {
    let vault = Vault::start().await;
    mint(&vault).await.unwrap();
    let minter = vault.minter();
    let ended = minter.revoke(&lease(LEASE)).await;
    assert!(ended.ended, "{ended:?}");
    let again = minter.revoke(&lease(LEASE)).await;
    assert!(again.ended, "{again:?}");

    // Revocation theatre: success that did nothing.
    let vault = Vault::start().await;
    mint(&vault).await.unwrap();
    let there = json!({ "data": { "id": LEASE, "ttl": 500 } });
    vault.tell("/v1/sys/leases/lookup", Say::Json(200, there));
    let ended = vault.minter().revoke(&lease(LEASE)).await;
    assert!(!ended.ended && ended.effect.contains("still has 500 s"), "{ended:?}");
    assert!(ended.effect.contains(&lease(LEASE).expires_at.to_string()));

    for say in [Say::Drop, Say::Late, Say::Json(403, json!({})), Say::Json(500, json!({}))] {
        let vault = Vault::start().await;
        mint(&vault).await.unwrap();
        vault.tell("/v1/sys/leases/revoke", say.clone()).tell("/v1/sys/leases/lookup", say);
        let ended = vault.minter().revoke(&lease(LEASE)).await;
        assert!(!ended.ended, "{ended:?}");
        assert!(!ended.effect.contains(TOKEN));
    }
}

#[tokio::test]
async fn logs_in_renews_ahead_and_logs_in_anew_when_the_token_is_lost() {
    let vault = Vault::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let auth = |ttl: i64| {
        Say::Json(
            200,
            json!({ "auth": {
            "client_token": "hvs.logged-in", "lease_duration": ttl, "renewable": true } }),
        )
    };
    for (login, path, sent) in [
        (
            Login::AppRole {
                mount: "approle".into(),
                role_id_file: file("role", "role-1"),
                secret_id_file: file("secret", "secret-1\n"),
            },
            "/v1/auth/approle/login",
            json!({ "role_id": "role-1", "secret_id": "secret-1" }),
        ),
        (
            Login::Kubernetes {
                mount: "k8s/one".into(),
                role: "broker".into(),
                token_file: file("sa", "ey.sa"),
            },
            "/v1/auth/k8s/one/login",
            json!({ "role": "broker", "jwt": "ey.sa" }),
        ),
        (
            Login::Jwt {
                mount: "jwt".into(),
                role: "broker".into(),
                token: Arc::new(|_| Some("ey.own".to_owned().into())),
            },
            "/v1/auth/jwt/login",
            json!({ "jwt": "ey.own", "role": "broker" }),
        ),
    ] {
        let vault = Vault::start().await;
        vault.tell(path, auth(3600)).tell("/v1/auth/token/renew-self", auth(3600));
        let minter = vault.minter_by(login, now());
        let mint = || async {
            let (scope, params) = asked_for("sales");
            let grant = danger_grant(&scope, &params, &[], TTL, now()).unwrap();
            minter.mint(grant, now()).await
        };
        mint().await.unwrap();
        mint().await.unwrap();
        assert_eq!(vault.calls(path), vec![sent.clone()], "one login serves");
        let used = |state: &State| {
            state.calls.iter().filter(|(p, ..)| p == CREDS).all(|(_, _, t)| t == "hvs.logged-in")
        };
        assert!(used(&vault.state.lock().unwrap()));
        // Lost: refused once at a call that makes nothing, then logged in anew, and minted.
        vault.tell(ROLE, Say::Json(403, json!({ "errors": ["permission denied"] })));
        mint().await.map(drop).unwrap_err();
        assert!(vault.calls(path).len() >= 2, "no new login");
        assert_eq!(vault.calls(CREDS).len(), 2, "nothing was made with a token that is not good");
    }

    // Renewed ahead, at two thirds of its life.
    vault.tell("/v1/auth/approle/login", auth(2)).tell("/v1/auth/token/renew-self", auth(3600));
    let clock = Arc::new(Mutex::new(now()));
    struct Moving(Arc<Mutex<Timestamp>>);
    impl Clock for Moving {
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }
    }
    let config = VaultConfig {
        engine: Engine::Database,
        wrap: false,
        address: vault.url.clone(),
        namespace: Some("team/prod".into()),
        ca_file: None,
        identity: None,
        login: Login::AppRole {
            mount: "approle".into(),
            role_id_file: file("role", "role-1"),
            secret_id_file: file("secret", "secret-1"),
        },
        timeout: Duration::from_secs(1),
        token_per_mint: false,
    };
    let minter = VaultMinter::new(config, Arc::new(Moving(Arc::clone(&clock)))).unwrap();
    let wait = minter.keep().await.unwrap();
    assert!(wait <= Duration::from_secs(2) && wait > Duration::from_secs(1), "{wait:?}");
    assert!(vault.calls("/v1/auth/token/renew-self").is_empty());
    *clock.lock().unwrap() = now().plus_millis(1400);
    minter.keep().await.unwrap();
    assert_eq!(vault.calls("/v1/auth/token/renew-self").len(), 1);
    assert_eq!(vault.calls("/v1/auth/approle/login").len(), 1);
}

#[test]
fn a_template_that_could_express_more_is_refused_at_load() {
    let with = |template: Value| {
        let mut scope = db_read();
        scope.template = template.as_object().unwrap().clone();
        (BACKEND.faults)(&scope)
    };
    let good = json!({ "mount": "database", "role": "db-read", "connection": "${database}" });
    assert_eq!(with(good.clone()), Vec::<String>::new());
    for (key, value, part) in [
        ("mount", json!("../sys"), "mount"),
        ("mount", json!("data base"), "mount"),
        ("mount", json!("${database}"), "mount"),
        ("role", json!(""), "role"),
        ("role", json!("*"), "wildcard"),
        ("connection", json!("sales"), "does not narrow"),
        ("connection", json!("${other}"), "names no parameter"),
        ("more", json!("x"), "unknown key"),
    ] {
        let mut template = good.clone();
        template[key] = value.clone();
        let faults = with(template).join("\n");
        assert!(faults.contains(part), "{key} = {value}: {faults}");
    }
    assert!(!with(json!({})).is_empty());
}

struct VaultSubject(VaultMinter);

impl Subject for VaultSubject {
    fn minter(&self) -> &dyn Minter {
        &self.0
    }
    fn scope(&self) -> Scope {
        db_read()
    }
    fn params(&self) -> Params {
        asked_for("sales").1
    }
    fn observed(&self, minted: &Minted) -> Value {
        let role = minted.facts["vault_role"].clone();
        let (mount, role) = role.split_once("/roles/").unwrap();
        json!({ "mount": mount, "role": role, "connection": "sales" })
    }
}

#[tokio::test]
async fn conforms() {
    let vault = Vault::start().await;
    let minter = vault.minter();
    conformance::check(&VaultSubject(minter), now()).await.unwrap();
}
