//! Clouds that answer as they are told, well or not: Kubernetes, GitHub, an OAuth 2.0 authorization server,
//! Google Cloud and Azure behind one port of loopback, by path. The vendors' own clients judge it
//! (`tests/system/t_clouds.py`).

mod answers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What to do with a call whose path holds a word.
#[derive(Clone)]
pub enum Say {
    /// The good answer, changed.
    Edited(fn(&mut Value)),
    /// Another status, with this body.
    Status(u16, String),
    /// Do it, and close without an answer.
    Lost,
    /// Close before anything is done.
    Drop,
    /// Do it, promise the whole answer, send half.
    Half,
    /// Do it, and say nothing for a minute.
    Late,
    /// A body of a gigabyte.
    Endless,
}

/// One call that was made.
#[derive(Clone, Debug)]
pub struct Call {
    /// `POST`.
    pub method: String,
    /// Its path, with the query.
    pub path: String,
    /// What stood in `Authorization`.
    pub authorization: String,
    /// Its body.
    pub body: String,
}

impl Call {
    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The body as a form.
    #[must_use]
    pub fn form(&self) -> BTreeMap<String, String> {
        form_urlencoded::parse(self.body.as_bytes()).into_owned().collect()
    }
}

type Now = Box<dyn Fn() -> i64 + Send>;

pub(crate) struct State {
    pub(crate) now: Now,
    scripts: Vec<(String, Say)>,
    pub(crate) calls: Vec<Call>,
    /// Bound objects by namespace and name, with their ids.
    pub(crate) objects: BTreeMap<(String, String), String>,
    pub(crate) tokens: BTreeSet<String>,
    pub(crate) serial: u32,
    /// Public key of the GitHub App: PKCS#1 in DER.
    pub(crate) app_key: Vec<u8>,
    /// How long tokens live whose life the server chooses, in seconds.
    pub(crate) lasts: i64,
    pub(crate) url: String,
}

/// The fake.
pub struct Clouds {
    /// Its address, `http://127.0.0.1:…`.
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Clouds {
    /// Listens. `now` tells the seconds since 1970.
    ///
    /// # Panics
    /// If loopback has no port to give.
    pub async fn start(now: impl Fn() -> i64 + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of loopback");
        let url = format!("http://{}", listener.local_addr().expect("it listens"));
        let state = Arc::new(Mutex::new(State {
            now: Box::new(now),
            scripts: Vec::new(),
            calls: Vec::new(),
            objects: BTreeMap::new(),
            tokens: BTreeSet::new(),
            serial: 0,
            app_key: Vec::new(),
            lasts: 600,
            url: url.clone(),
        }));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { url, state }
    }

    fn held(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to do with calls whose path holds `word`, from now on.
    pub fn tell(&self, word: &str, say: Say) -> &Self {
        self.held().scripts.push((word.into(), say));
        self
    }

    /// Everything is answered well again.
    pub fn well(&self) -> &Self {
        self.held().scripts.clear();
        self
    }

    /// How long tokens live whose life the server chooses.
    pub fn lasts(&self, seconds: i64) -> &Self {
        self.held().lasts = seconds;
        self
    }

    /// GitHub verifies the App's tokens with this key: PKCS#1 in DER.
    pub fn app_key(&self, der: &[u8]) -> &Self {
        self.held().app_key = der.to_vec();
        self
    }

    /// Calls whose path holds `word`.
    #[must_use]
    pub fn calls(&self, word: &str) -> Vec<Call> {
        self.held().calls.iter().filter(|c| c.path.contains(word)).cloned().collect()
    }

    /// Tokens that would be accepted.
    #[must_use]
    pub fn live(&self) -> Vec<String> {
        self.held().tokens.iter().cloned().collect()
    }

    /// Bound objects that are there.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.held().objects.len()
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let Some(call) = request(&mut stream).await else { return };
    let (say, (status, mut body)) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.calls.push(call.clone());
        let told = state.scripts.iter().rev().find(|(word, _)| call.path.contains(word.as_str()));
        let say = told.map(|(_, say)| say.clone());
        if matches!(say, Some(Say::Drop)) {
            return;
        }
        let answer = match &say {
            Some(Say::Status(status, text)) => (*status, Value::String(text.clone())),
            _ => answers::answer(&mut state, &call),
        };
        (say, answer)
    };
    let text = match &say {
        Some(Say::Status(_, text)) => text.clone(),
        Some(Say::Edited(edit)) => {
            edit(&mut body);
            body.to_string()
        }
        _ if status == 204 => String::new(),
        _ => body.to_string(),
    };
    let sent = match say {
        Some(Say::Lost) => return,
        Some(Say::Late) => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            return;
        }
        Some(Say::Endless) => {
            let head = b"HTTP/1.1 200 X\r\ncontent-length: 1073741824\r\n\r\n";
            stream.write_all(head).await.ok();
            while stream.write_all(&[b' '; 65536]).await.is_ok() {}
            return;
        }
        Some(Say::Half) => text.len() / 2,
        _ => text.len(),
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nlocation: /again\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes()).await.ok();
    stream.write_all(text.as_bytes().get(..sent).unwrap_or_default()).await.ok();
    stream.shutdown().await.ok();
}

async fn request(stream: &mut TcpStream) -> Option<Call> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 16384];
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(chunk.get(..n)?),
            _ => return None,
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let field = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let length: usize = field("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        if body.len() < length {
            continue;
        }
        let mut first = head.lines().next()?.split(' ');
        return Some(Call {
            method: first.next()?.into(),
            path: first.next()?.into(),
            authorization: field("authorization").unwrap_or_default(),
            body: body.to_owned(),
        });
    }
}

/// A token with these claims, signed by nobody.
pub(crate) fn unsigned(claims: &Value) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.c2ln", part(r#"{"alg":"RS256","kid":"fake"}"#), part(&claims.to_string()))
}

/// The claims of a token.
#[must_use]
pub fn claims(token: &str) -> Value {
    let body = token.split('.').nth(1).and_then(|b| URL_SAFE_NO_PAD.decode(b).ok());
    body.and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default()
}
