//! The sidecar's HTTP door, over loopback TCP with the agent's token or over its unix socket.

use std::path::PathBuf;
use std::time::Duration;

use grantwright_wire::Refusal;
use reqwest::Method;
use serde_json::{Map, Value};

use crate::config::Settings;
use crate::exit::Failure;
use crate::files;

/// Longest answer that is read, in bytes.
const MOST_ANSWER: usize = 1 << 20;
/// How long an answer may take beyond the wait that was asked for: a backend may be slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the sidecar is, and how to be let in.
#[derive(Clone)]
pub struct Door {
    at: String,
    base: String,
    token_file: Option<PathBuf>,
    http: reqwest::Client,
}

/// What the sidecar said. It may hold a credential, so it has no `Debug`.
pub struct Reply {
    pub status: u16,
    pub body: Map<String, Value>,
    /// Seconds, from `Retry-After`.
    pub retry_after: Option<u64>,
}

impl Reply {
    /// Whether the body is a problem.
    pub fn is_refusal(&self) -> bool {
        self.status >= 400
    }

    /// The text at `key`, or empty.
    pub fn text(&self, key: &str) -> &str {
        self.body.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        let body = match refusal.to_problem_json() {
            Value::Object(body) => body,
            _ => Map::new(),
        };
        Self { status: refusal.status, body, retry_after: refusal.retry_after_s().map(u64::from) }
    }
}

impl Door {
    /// The door that the settings name: TCP where they name both.
    ///
    /// # Errors
    /// When they name none, one that is not on this host, or no token for TCP.
    pub fn open(settings: &Settings) -> Result<Self, Failure> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5));
        let unusable =
            |e: reqwest::Error| Failure::unable(format!("cannot make an HTTP client: {e}"));
        match (&settings.sidecar, &settings.sidecar_socket) {
            (Some(address), _) => {
                let token_file = settings.sidecar_token_file.clone().ok_or_else(|| {
                    Failure::unable(
                        "GRANTWRIGHT_TOKEN_FILE is not set: it names the file of the sidecar's token",
                    )
                })?;
                let base = local(address)?;
                let http = client.build().map_err(unusable)?;
                Ok(Self { at: base.clone(), base, token_file: Some(token_file), http })
            }
            (None, Some(socket)) => {
                let http = client.unix_socket(socket.as_path()).build().map_err(unusable)?;
                let (at, base) = (socket.display().to_string(), "http://localhost".to_owned());
                Ok(Self { at, base, token_file: None, http })
            }
            (None, None) => Err(Failure::unable(
                "GRANTWRIGHT_SIDECAR is not set, nor GRANTWRIGHT_SIDECAR_SOCKET: one of them names \
                 the sidecar, for example http://127.0.0.1:7788",
            )),
        }
    }

    /// Where it is, for the log.
    pub fn at(&self) -> &str {
        &self.at
    }

    /// Whether anybody answers there.
    pub async fn is_there(&self) -> bool {
        let request = self.http.get(format!("{}/healthz", self.base));
        request.timeout(Duration::from_secs(1)).send().await.is_ok()
    }

    /// One call. `wait` is how long the sidecar was asked to wait. Where there is no answer, or one
    /// that is not the sidecar's, the reply is a problem that says so.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        wait: Duration,
    ) -> Reply {
        match self.exchange(method, path, body, wait).await {
            Ok(reply) => reply,
            Err(refusal) => (*refusal).into(),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        wait: Duration,
    ) -> Result<Reply, Box<Refusal>> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(file) = &self.token_file {
            // It changes when the sidecar starts, so it is read anew for each call.
            request = request.bearer_auth(files::read_secret(file).map_err(|e| no_token(&e))?);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let sent = request.timeout(wait + PATIENCE).send();
        let mut answer = sent.await.map_err(|e| self.away(&e))?;
        let status = answer.status().as_u16();
        let retry_after = answer.headers().get(reqwest::header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|it| it.to_str().ok()?.parse().ok());
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.away(&e))? {
            if bytes.len() + chunk.len() > MOST_ANSWER {
                return Err(strange());
            }
            bytes.extend_from_slice(&chunk);
        }
        let body = serde_json::from_slice(&bytes).map_err(|_| strange())?;
        Ok(Reply { status, body, retry_after })
    }

    fn away(&self, error: &reqwest::Error) -> Box<Refusal> {
        tracing::warn!(sidecar = self.at, error = reason(error), "no answer");
        let refusal = if error.is_timeout() && !error.is_connect() {
            Refusal::new(504, "sidecar_slow", "The sidecar did not answer in time.")
                .detail("the call may have had its effect")
                .next("Ask again as before: the same ask is the same request.")
        } else {
            Refusal::new(503, "sidecar_away", "The sidecar cannot be reached.")
                .detail("no sidecar answers on this host")
                .next("Try again shortly; if it stays so, tell the people who run this agent.")
        };
        Box::new(refusal)
    }
}

/// The innermost reason: the outer ones show the address, and with it a request's id.
fn reason(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    if innermost.is::<reqwest::Error>() { "no reason given".into() } else { innermost.to_string() }
}

fn no_token(failure: &Failure) -> Box<Refusal> {
    tracing::warn!(error = %failure, "no token");
    Box::new(
        Refusal::new(401, "unauthorized", "The token is missing or wrong.")
            .detail("the file that GRANTWRIGHT_TOKEN_FILE names holds no token")
            .next("Tell the people who run this agent."),
    )
}

fn strange() -> Box<Refusal> {
    Box::new(
        Refusal::new(502, "bad_answer", "What answered is not a sidecar.")
            .detail("the answer is not a JSON object of moderate size")
            .next("Tell the people who run this agent."),
    )
}

/// `http://` and a loopback host, in the form that requests use. The token goes nowhere else.
fn local(address: &str) -> Result<String, Failure> {
    let wrong = || {
        Failure::unable(format!(
            "GRANTWRIGHT_SIDECAR is `{address}`: want http:// and a host of 127.0.0.1, localhost or [::1]"
        ))
    };
    let url = reqwest::Url::parse(address).map_err(|_| wrong())?;
    let is_local = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    let is_bare = url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if url.scheme() == "http" && is_local && is_bare {
        Ok(url.as_str().trim_end_matches('/').to_owned())
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_gets_the_token() {
        for (address, base) in [
            ("http://127.0.0.1:7788", "http://127.0.0.1:7788"),
            ("http://localhost:1/", "http://localhost:1"),
            ("http://[::1]:2", "http://[::1]:2"),
        ] {
            assert_eq!(local(address).ok().as_deref(), Some(base));
        }
        for address in [
            "127.0.0.1:7788",
            "https://127.0.0.1:1",
            "http://sidecar.example",
            "http://127.0.0.1.evil.example",
            "http://127.0.0.1@evil.example",
            "http://user@127.0.0.1",
            "http://127.0.0.1/v1",
            "http://127.0.0.1/?x",
            "http://0.0.0.0:1",
        ] {
            assert!(local(address).is_err(), "{address}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let why = |settings: &Settings| match Door::open(settings) {
            Ok(door) => door.at,
            Err(failure) => failure.to_string(),
        };
        let mut settings = Settings::default();
        assert!(why(&settings).starts_with("GRANTWRIGHT_SIDECAR is not set"));
        settings.sidecar_socket = Some("/run/x.sock".into());
        assert_eq!(why(&settings), "/run/x.sock");
        settings.sidecar = Some("http://127.0.0.1:1".into());
        assert!(why(&settings).starts_with("GRANTWRIGHT_TOKEN_FILE is not set"));
        settings.sidecar_token_file = Some("/run/token".into());
        assert_eq!(why(&settings), "http://127.0.0.1:1");
    }
}
