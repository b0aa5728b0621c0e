//! One bounded HTTP exchange, and what its outcome means: what our own clients of backends share.
//!
//! No redirect is followed (secrets would travel with it), no proxy is taken from the environment, nothing is
//! repeated, and a body ends at a bound.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use grantwright_credential::Secret;
use grantwright_domain::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{MintError, SetupError};

/// Largest answer: none of these backends gives a tenth of it.
const MAX_ANSWER: usize = 1 << 20;
const CONNECT: Duration = Duration::from_secs(3);

/// How a backend is reached.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `https://…`, or `http://` on this host.
    pub url: String,
    /// PEM file of the authority that signs its certificate; absent: the system's.
    pub ca_file: Option<PathBuf>,
    /// Longest wait for an answer.
    pub timeout: Duration,
}

/// A client of one backend.
pub(crate) struct Http {
    client: reqwest::Client,
    base: reqwest::Url,
}

/// An answer, whatever its status.
pub(crate) struct Answer {
    pub(crate) status: u16,
    body: Secret<Vec<u8>>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// Nothing left this process.
    #[error("not sent: {0}")]
    NeverSent(String),
    /// It may have been handled; the answer did not come, or not whole.
    #[error("no whole answer: {0}")]
    Lost(String),
}

impl Http {
    /// # Errors
    /// `what` says which URL is meant.
    pub(crate) fn new(endpoint: &Endpoint, what: &'static str) -> Result<Self, SetupError> {
        let base = reqwest::Url::parse(&endpoint.url).map_err(|_| SetupError(what))?;
        let plain = base.scheme() == "http";
        let usable = (base.scheme() == "https" || plain && is_here(&base))
            && base.username().is_empty()
            && base.password().is_none()
            && base.query().is_none()
            && base.fragment().is_none();
        if !usable {
            return Err(SetupError(what));
        }
        let mut builder = reqwest::Client::builder()
            .tls_backend_rustls()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT.min(endpoint.timeout))
            .timeout(endpoint.timeout)
            // A connection that died while idle loses the answer, and with it what became of a mint; and on
            // one that carried another call, what comes twice or late would be taken for this call's answer.
            .pool_max_idle_per_host(0);
        if plain {
            builder = builder.tls_certs_only([]);
        } else if let Some(path) = &endpoint.ca_file {
            let pem = std::fs::read(path)
                .map_err(|_| SetupError("the file of the backend's authority cannot be read"))?;
            let roots = reqwest::Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|roots| !roots.is_empty())
                .ok_or(SetupError("the file of the backend's authority holds no certificate"))?;
            builder = builder.tls_certs_only(roots);
        }
        let client = builder.build().map_err(|_| SetupError("no TLS client can be made"))?;
        Ok(Self { client, base })
    }

    /// The address of a path below the endpoint; `segments` are escaped.
    pub(crate) fn url(&self, segments: &[&str]) -> reqwest::Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    pub(crate) fn post(&self, segments: &[&str]) -> reqwest::RequestBuilder {
        self.client.post(self.url(segments)).header("accept", "application/json")
    }

    pub(crate) fn get(&self, segments: &[&str]) -> reqwest::RequestBuilder {
        self.client.get(self.url(segments)).header("accept", "application/json")
    }

    pub(crate) fn delete(&self, segments: &[&str]) -> reqwest::RequestBuilder {
        self.client.delete(self.url(segments)).header("accept", "application/json")
    }

    /// Sends, once.
    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, Fault> {
        let mut answer = request.send().await.map_err(|e| {
            // A connection that never came about carried nothing.
            let never = e.is_connect() || e.is_builder();
            let said = chain(&e.without_url());
            if never { Fault::NeverSent(said) } else { Fault::Lost(said) }
        })?;
        let status = answer.status().as_u16();
        let mut body = Secret::new(Vec::with_capacity(8192));
        while let Some(chunk) =
            answer.chunk().await.map_err(|e| Fault::Lost(chain(&e.without_url())))?
        {
            let held = body.expose_secret();
            if held.len() + chunk.len() > MAX_ANSWER {
                return Err(Fault::Lost(format!("status {status}, more than {MAX_ANSWER} bytes")));
            }
            let mut more = Vec::with_capacity(held.len() + chunk.len() + 8192);
            more.extend_from_slice(held);
            more.extend_from_slice(&chunk);
            body = Secret::new(more);
        }
        Ok(Answer { status, body })
    }
}

impl Answer {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body of a success.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_slice(self.body.expose_secret())
            .map_err(|_| "the answer is not of the backend's form".to_owned())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(self.body.expose_secret()).unwrap_or_default()
    }

    /// What an error answer says of itself, without what it must not repeat.
    pub(crate) fn said(&self, secrets: &[&str]) -> String {
        let value: Value = serde_json::from_slice(self.body.expose_secret()).unwrap_or_default();
        let at = |path: &str| value.pointer(path).and_then(Value::as_str);
        let words = [
            at("/error/status"),
            at("/error/code"),
            at("/error"),
            at("/reason"),
            at("/error_description"),
            at("/error/message"),
            at("/message"),
        ];
        let words: Vec<&str> = words.into_iter().flatten().collect();
        let text = format!("status {}: {}", self.status, words.join(": "));
        secrets
            .iter()
            .filter(|s| !s.is_empty())
            .fold(text, |text, secret| text.replace(secret, "(redacted)"))
    }

    /// What an answer other than a success means for a mint; `name` is the backend's.
    pub(crate) fn into_mint_error(self, name: &str, secrets: &[&str]) -> MintError {
        let said = self.said(secrets);
        let (code, detail) = match self.status {
            408 | 500.. | 0..=299 => return MintError::unknown(said),
            300..=399 => {
                ("backend_away", format!("{name} answers with a redirect, which is not followed"))
            }
            401 | 403 => (
                "backend_denied",
                format!("{name} does not let the broker make what this scope needs"),
            ),
            404 => ("backend_refused", format!("{name} knows nothing of what this scope names")),
            429 => ("backend_busy", format!("{name} refused for load; ask again later")),
            _ => ("backend_refused", format!("{name} refused")),
        };
        MintError::refused(code, detail, said)
    }
}

impl Fault {
    /// What it means for a mint.
    pub(crate) fn into_mint_error(self, name: &str) -> MintError {
        match self {
            Self::NeverSent(said) => {
                MintError::refused("backend_away", format!("{name} cannot be reached"), said)
            }
            Self::Lost(said) => MintError::unknown(said),
        }
    }
}

/// A failure of a call that makes no credential yet: whatever became of it, there is none.
pub(crate) fn nothing_made(error: MintError, name: &str) -> MintError {
    match error {
        MintError::Unknown { operator, .. } => MintError::refused(
            "backend_away",
            format!("{name} did not answer before anything was made"),
            operator,
        ),
        refused @ MintError::Refused { .. } => refused,
    }
}

/// The backend's answer is beyond the grant.
pub(crate) fn wider(operator: impl AsRef<str>) -> MintError {
    MintError::refused(
        "backend_wider",
        "the backend's answer is not within what was granted, so it is not delivered",
        operator,
    )
}

/// A form as the body.
pub(crate) fn form(
    request: reqwest::RequestBuilder,
    fields: &[(&str, &str)],
) -> reqwest::RequestBuilder {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    request.header("content-type", "application/x-www-form-urlencoded").body(body)
}

/// Signs a token of the broker's own identity (ES256) for an audience, with these claims beside the usual
/// ones; `None` when it cannot be signed.
pub type SignAssertion =
    Arc<dyn Fn(&str, &[(&str, Value)], Timestamp) -> Option<Secret<String>> + Send + Sync>;

pub(crate) fn assertion(
    sign: &SignAssertion,
    audience: &str,
    more: &[(&str, Value)],
    now: Timestamp,
) -> Result<Secret<String>, MintError> {
    sign(audience, more, now).ok_or_else(|| {
        MintError::refused("not_signed", "the broker could not sign its own token", audience)
    })
}

/// The claims of a token, unverified: it came from its issuer itself.
pub(crate) fn claims(token: &str) -> Option<Value> {
    let body = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?).ok()
}

/// How far a backend's clock and ours may differ, in seconds.
pub(crate) const CLOCK_BOUND_S: i64 = 30;

/// When a credential ends that its backend says to end at `ends`, within what was granted at `now`.
///
/// # Errors
/// It ends later than granted, or has ended.
pub(crate) fn within(
    ends: Timestamp,
    ttl_s: u32,
    now: Timestamp,
    arrival: Timestamp,
) -> Result<Timestamp, String> {
    let ttl = i64::from(ttl_s);
    if ends > arrival.plus_seconds(ttl + CLOCK_BOUND_S) {
        return Err(format!("it ends at {ends}, {ttl} s were granted at {now}"));
    }
    let expires_at = ends.min(now.plus_seconds(ttl)).whole_second();
    if expires_at <= arrival || expires_at <= now {
        return Err(format!("it ended at {ends} already, and arrived at {arrival}"));
    }
    Ok(expires_at)
}

/// Loopback: the one place where plain HTTP is no risk.
pub(crate) fn is_here(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        out.push_str(": ");
        out.push_str(&e.to_string());
        next = e.source();
    }
    out
}
