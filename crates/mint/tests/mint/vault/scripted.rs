//! A Vault that answers as it is told; what it is not told, as a good one does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use grantwright_domain::{Clock, Timestamp};
use grantwright_mint::vault::{Engine, Login, VaultConfig, VaultMinter};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::fixtures::now;
use crate::server::{self, header};

pub const TOKEN: &str = "hvs.broker-own-token";
pub const LEASE: &str = "database/creds/db-read/abcd";
pub const TTL: u32 = 600;

pub struct At(pub Timestamp);

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
pub struct State {
    told: BTreeMap<String, Say>,
    pub calls: Vec<(String, Value, String)>,
    /// Leases that live, with what they have left.
    pub leases: BTreeMap<String, i64>,
    lasts: i64,
}

pub struct Vault {
    pub url: String,
    pub state: Arc<Mutex<State>>,
    pub token: PathBuf,
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

    pub fn lasts(&self, seconds: i64) -> &Self {
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

    pub fn minter(&self) -> VaultMinter {
        let login = Login::Token { file: self.token.clone() };
        self.minter_by(login, now())
    }

    pub fn minter_by(&self, login: Login, at: Timestamp) -> VaultMinter {
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
    pub fn careful(&self) -> VaultMinter {
        Self::careful_at(&self.url, &self.token)
    }

    pub fn careful_at(url: &str, token: &Path) -> VaultMinter {
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

pub fn creds(lease: &str, lasts: i64) -> Value {
    json!({
        "request_id": "q-1", "lease_id": lease, "lease_duration": lasts, "renewable": true,
        "data": { "username": "v-broker-db-read-1", "password": "minted-password" },
        "wrap_info": null, "warnings": null, "auth": null,
    })
}

async fn request(stream: &mut TcpStream) -> Option<(String, String, Value)> {
    let (head, body) = server::request(stream).await?;
    assert_eq!(header(&head, "x-vault-request").as_deref(), Some("true"));
    assert_eq!(header(&head, "x-vault-namespace").as_deref(), Some("team/prod"));
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let token = header(&head, "x-vault-token").unwrap_or_default();
    Some((path, token, serde_json::from_str(&body).unwrap_or(Value::Null)))
}
