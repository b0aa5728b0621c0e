//! The Vault minter against a Vault that answers as it is told, well or not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use grantwright_domain::request::{Lease, LeaseState};
use grantwright_domain::{Clock, LeaseId, Params, Scope, Timestamp};
use grantwright_mint::conformance::{self, Subject, danger_grant};
use grantwright_mint::vault::{BACKEND, Engine, Login, VaultConfig, VaultMinter};
use grantwright_mint::{MintError, Minted, Minter};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::fixtures::{now, params, scope};

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

pub const TOKEN: &str = "hvs.broker-own-token";
const LEASE: &str = "database/creds/db-read/abcd";
const TTL: u32 = 600;

struct At(Timestamp);

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// What to do with a call.
#[derive(Clone)]
pub enum Say {
    Json(u16, Value),
    Raw(u16, String),
    /// Promise the whole, send half.
    Half(String),
    /// Close without an answer.
    Drop,
    /// A body without end.
    Endless,
    Late,
    Redirect(String),
}

/// Answers by path; what is not told is answered as a good Vault does.
#[derive(Default)]
struct State {
    told: BTreeMap<String, Say>,
    calls: Vec<(String, Value, String)>,
    /// Leases that live, with what they have left.
    leases: BTreeMap<String, i64>,
    lasts: i64,
}

pub struct Vault {
    pub url: String,
    state: Arc<Mutex<State>>,
    token: PathBuf,
    _dir: tempfile::TempDir,
}

impl Vault {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State { lasts: i64::from(TTL), ..State::default() }));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
        Self { url, state, token, _dir: dir }
    }

    pub fn tell(&self, path: &str, say: Say) -> &Self {
        self.state.lock().unwrap().told.insert(path.into(), say);
        self
    }

    fn lasts(&self, seconds: i64) -> &Self {
        self.state.lock().unwrap().lasts = seconds;
        self
    }

    pub fn calls(&self, path: &str) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        state.calls.iter().filter(|(p, ..)| p == path).map(|(_, body, _)| body.clone()).collect()
    }

    /// Something of this name lives there.
    pub fn holds(&self, name: &str) -> &Self {
        self.state.lock().unwrap().leases.insert(name.into(), 1);
        self
    }

    pub fn live(&self) -> usize {
        self.state.lock().unwrap().leases.len()
    }

    fn minter(&self) -> VaultMinter {
        let login = Login::Token { file: self.token.clone() };
        self.minter_by(login, now())
    }

    fn minter_by(&self, login: Login, at: Timestamp) -> VaultMinter {
        self.minter_of(Engine::Database, false, login, at)
    }

    pub fn engine(&self, engine: Engine, wrap: bool) -> VaultMinter {
        self.minter_of(engine, wrap, Login::Token { file: self.token.clone() }, now())
    }

    /// Minters of any engine at any address, with this Vault's token.
    pub fn engines(&self) -> impl Fn(&str, Engine) -> VaultMinter + 'static {
        let file = self.token.clone();
        move |url, engine| {
            let login = Login::Token { file: file.clone() };
            Self::minter_to(url, engine, false, login, now())
        }
    }

    fn minter_of(&self, engine: Engine, wrap: bool, login: Login, at: Timestamp) -> VaultMinter {
        Self::minter_to(&self.url, engine, wrap, login, at)
    }

    fn minter_to(
        url: &str,
        engine: Engine,
        wrap: bool,
        login: Login,
        at: Timestamp,
    ) -> VaultMinter {
        let config = VaultConfig {
            engine,
            wrap,
            address: url.to_owned(),
            namespace: Some("team/prod".into()),
            ca_file: None,
            identity: None,
            login,
            timeout: crate::fixtures::patience(),
            token_per_mint: false,
        };
        VaultMinter::new(config, Arc::new(At(at))).unwrap()
    }

    /// Each mint with a token of its own.
    fn careful(&self) -> VaultMinter {
        Self::careful_at(&self.url, &self.token)
    }

    fn careful_at(url: &str, token: &Path) -> VaultMinter {
        let config = VaultConfig {
            engine: Engine::Database,
            wrap: false,
            address: url.to_owned(),
            namespace: Some("team/prod".into()),
            ca_file: None,
            identity: None,
            login: Login::Token { file: token.into() },
            timeout: crate::fixtures::patience(),
            token_per_mint: true,
        };
        VaultMinter::new(config, Arc::new(At(now()))).unwrap()
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    loop {
        let Some((path, token, body)) = request(&mut stream).await else { return };
        let say = {
            let mut state = state.lock().unwrap();
            state.calls.push((path.clone(), body.clone(), token));
            let told = state.told.get(&path).cloned();
            let good = good(&mut state, &path, &body);
            told.unwrap_or(good)
        };
        let (status, text, sent) = match say {
            Say::Json(status, json) => (status, json.to_string(), None),
            Say::Raw(status, text) => (status, text, None),
            Say::Half(text) => (200, text.clone(), Some(text.len() / 2)),
            Say::Drop => return,
            Say::Late => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                return;
            }
            Say::Endless => {
                stream
                    .write_all(b"HTTP/1.1 200 X\r\ncontent-length: 1073741824\r\n\r\n")
                    .await
                    .ok();
                while stream.write_all(&[b' '; 65536]).await.is_ok() {}
                return;
            }
            Say::Redirect(to) => {
                let head = format!("HTTP/1.1 307 X\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(head.as_bytes()).await.ok();
                continue;
            }
        };
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", text.len());
        let end = sent.unwrap_or(text.len());
        stream.write_all(head.as_bytes()).await.ok();
        stream.write_all(&text.as_bytes()[..end]).await.ok();
        if sent.is_some() {
            return;
        }
    }
}

/// As Vault answers; creating changes its state also where the test then loses the answer.
fn good(state: &mut State, path: &str, body: &Value) -> Say {
    let lease = body["lease_id"].as_str().unwrap_or_default().to_owned();
    match path {
        "/v1/database/roles/db-read" => {
            Say::Json(200, json!({ "data": { "db_name": "sales", "default_ttl": 900 } }))
        }
        "/v1/database/creds/db-read" => {
            let lasts = state.lasts;
            state.leases.insert(LEASE.into(), lasts);
            Say::Json(200, creds(LEASE, lasts))
        }
        "/v1/auth/token/lookup-self" => {
            Say::Json(200, json!({ "data": { "ttl": 0, "renewable": false } }))
        }
        "/v1/sys/leases/renew" => match state.leases.get_mut(&lease) {
            None => Say::Json(400, json!({ "errors": ["lease not found"] })),
            Some(left) => {
                *left = body["increment"].as_i64().unwrap();
                let left = *left;
                Say::Json(200, json!({ "lease_id": lease, "lease_duration": left, "data": null }))
            }
        },
        "/v1/sys/leases/lookup" => match state.leases.get(&lease) {
            None => Say::Json(400, json!({ "errors": ["invalid lease"] })),
            Some(left) => Say::Json(200, json!({ "data": { "id": lease, "ttl": left } })),
        },
        "/v1/sys/leases/revoke" => {
            assert_eq!(body["sync"], true, "a revocation that does not wait proves nothing");
            state.leases.remove(&lease);
            Say::Raw(204, String::new())
        }
        _ => {
            if path == "/v1/auth/token/revoke-accessor" {
                // What was made with the token ends with it.
                state.leases.remove(LEASE);
            }
            crate::engines::good(path, body, &mut state.leases)
        }
    }
}

fn creds(lease: &str, lasts: i64) -> Value {
    json!({
        "request_id": "q-1", "lease_id": lease, "lease_duration": lasts, "renewable": true,
        "data": { "username": "v-broker-db-read-1", "password": "minted-password" },
        "wrap_info": null, "warnings": null, "auth": null,
    })
}

async fn request(stream: &mut TcpStream) -> Option<(String, String, Value)> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => bytes.extend(&chunk[..n]),
            _ => return None,
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let header = |name: &str| {
            head.lines().find_map(|l| {
                let (key, value) = l.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let length = header("content-length").map_or(0, |n| n.parse::<usize>().unwrap());
        if body.len() >= length {
            assert_eq!(header("x-vault-request").as_deref(), Some("true"));
            assert_eq!(header("x-vault-namespace").as_deref(), Some("team/prod"));
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let token = header("x-vault-token").unwrap_or_default();
            return Some((path, token, serde_json::from_str(body).unwrap_or(Value::Null)));
        }
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
