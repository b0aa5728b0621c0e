//! The way to Vault: one HTTP request per call, bounded, and what its answer means.
//!
//! Requests are vaultrs's where it knows the call; they travel over a transport of ours, which
//! keeps the whole envelope (vaultrs drops the lease id), bounds the body, follows no redirect (the
//! token would travel with it), takes no proxy from the environment and repeats nothing.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use grantwright_credential::Secret;
use http::{Request, Response};
use rustify::client::Client as Transport;
use rustify::endpoint::{Endpoint, MiddleWare};
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroize as _;

use crate::{MintError, SetupError};

/// Largest answer: the largest a Vault of ours gives is a certificate chain.
const MAX_ANSWER: usize = 1 << 20;
const CONNECT: Duration = Duration::from_secs(3);
/// How long a wrapped answer waits, in seconds.
const WRAP: &str = "60";

/// How Vault is reached.
pub(super) struct Client {
    fresh: Wire,
    kept: Wire,
    namespace: Option<String>,
}

/// Whether a connection may be used again. A connection that died while idle loses the answer, and a
/// lost answer of a mint is an unknown outcome: mints take a fresh one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    Fresh,
    Kept,
}

/// Why a call gave no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// Nothing left this process.
    #[error("not sent: {0}")]
    NeverSent(String),
    /// It may have been handled; the answer did not come, or not whole.
    #[error("no whole answer: {0}")]
    Lost(String),
    /// Vault answered with an error.
    #[error("status {status}: {said}")]
    Answered {
        /// HTTP status.
        status: u16,
        /// Its `errors`, joined.
        said: String,
    },
}

impl Fault {
    /// Vault did not handle the request, for certain. A 5xx other than "sealed" may come after the work;
    /// a 408 is some proxy's that gave up waiting.
    pub(super) fn is_definite(&self) -> bool {
        match self {
            Self::NeverSent(_) => true,
            Self::Lost(_) => false,
            Self::Answered { status, said } => match status {
                408 => false,
                503 => said.contains("sealed"),
                300..=499 => true,
                _ => false,
            },
        }
    }

    /// The token is not accepted, or may not do this.
    pub(super) fn is_denied(&self) -> bool {
        matches!(self, Self::Answered { status: 401 | 403, .. })
    }

    /// What a failed mint means.
    pub(super) fn into_mint_error(self) -> MintError {
        if !self.is_definite() {
            return MintError::unknown(self.to_string());
        }
        let (code, detail) = match &self {
            Self::NeverSent(_) => ("backend_away", "Vault cannot be reached"),
            Self::Lost(_) => ("backend_refused", "Vault refused"),
            Self::Answered { status, .. } => match status {
                401 | 403 => {
                    ("backend_denied", "Vault does not let the broker do what this scope needs")
                }
                404 => ("backend_refused", "Vault has nothing at this scope's mount and role"),
                429 => ("backend_busy", "Vault refused for load; ask again later"),
                503 => ("backend_away", "Vault is sealed; an operator unseals it"),
                300..=399 => {
                    ("backend_away", "the Vault that answers is a standby that does not forward")
                }
                _ => ("backend_refused", "Vault refused"),
            },
        };
        MintError::refused(code, detail, self.to_string())
    }
}

/// What every answer of Vault is wrapped in; what is absent counts as empty.
#[derive(Deserialize)]
pub(super) struct Envelope {
    #[serde(default)]
    pub(super) lease_id: String,
    #[serde(default)]
    pub(super) lease_duration: i64,
    #[serde(default)]
    pub(super) renewable: bool,
    #[serde(default)]
    pub(super) data: Value,
    #[serde(default)]
    pub(super) auth: Option<Auth>,
    #[serde(default)]
    pub(super) wrap_info: Option<WrapInfo>,
    #[serde(default)]
    pub(super) errors: Vec<String>,
}

/// The member `auth`, of a login, a renewed or a made token.
#[derive(Deserialize)]
pub(super) struct Auth {
    #[serde(default)]
    pub(super) client_token: String,
    #[serde(default)]
    pub(super) accessor: String,
    #[serde(default)]
    pub(super) policies: Vec<String>,
    #[serde(default)]
    pub(super) identity_policies: Vec<String>,
    #[serde(default)]
    pub(super) num_uses: i64,
    #[serde(default)]
    pub(super) lease_duration: i64,
    #[serde(default)]
    pub(super) renewable: bool,
}

impl Drop for Auth {
    fn drop(&mut self) {
        self.client_token.zeroize();
    }
}

/// The member `wrap_info`: where the answer itself waits, to be fetched once.
#[derive(Deserialize)]
pub(super) struct WrapInfo {
    #[serde(default)]
    pub(super) token: String,
    #[serde(default)]
    pub(super) creation_path: String,
}

impl Drop for WrapInfo {
    fn drop(&mut self) {
        self.token.zeroize();
    }
}

impl Envelope {
    /// A text of `data`; empty where there is none.
    pub(super) fn text(&self, name: &str) -> &str {
        self.data.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number of `data`.
    pub(super) fn number(&self, name: &str) -> Option<i64> {
        self.data.get(name).and_then(Value::as_i64)
    }
}

impl Drop for Envelope {
    fn drop(&mut self) {
        wipe(&mut self.data);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(members) => members.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What the client is made from.
#[derive(Debug, Clone)]
pub(super) struct Reach {
    pub(super) address: String,
    pub(super) namespace: Option<String>,
    pub(super) ca: Option<PathBuf>,
    /// PEM of certificate and key, shown to Vault.
    pub(super) identity: Option<Vec<u8>>,
    pub(super) timeout: Duration,
}

impl Client {
    pub(super) fn new(reach: &Reach) -> Result<Self, SetupError> {
        let plain = reach.address.starts_with("http://");
        let url = reqwest::Url::parse(&reach.address)
            .map_err(|_| SetupError("vault: the address is not an http or https URL"))?;
        let usable = (plain && crate::call::is_here(&url) || reach.address.starts_with("https://"))
            && url.username().is_empty()
            && url.query().is_none()
            && url.fragment().is_none();
        if !usable {
            return Err(SetupError(
                "vault: the address is no plain https URL, nor an http one of this host",
            ));
        }
        let in_namespace =
            |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.');
        if reach.namespace.as_ref().is_some_and(|n| n.is_empty() || !n.bytes().all(in_namespace)) {
            return Err(SetupError("vault: a namespace wants letters, digits and / - _ ."));
        }
        let make = |kept: bool| -> Result<Wire, SetupError> {
            let mut builder = reqwest::Client::builder()
                .tls_backend_rustls()
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .no_proxy()
                .http1_only()
                .tcp_nodelay(true)
                .connect_timeout(CONNECT.min(reach.timeout))
                .timeout(reach.timeout)
                .pool_max_idle_per_host(if kept { 16 } else { 0 });
            if plain {
                builder = builder.tls_certs_only([]);
            } else if let Some(path) = &reach.ca {
                let pem = std::fs::read(path)
                    .map_err(|_| SetupError("vault: the file of its authority cannot be read"))?;
                let roots = reqwest::Certificate::from_pem_bundle(&pem)
                    .ok()
                    .filter(|roots| !roots.is_empty())
                    .ok_or(SetupError("vault: the file of its authority holds no certificate"))?;
                builder = builder.tls_certs_only(roots);
            }
            if let Some(pem) = &reach.identity {
                let identity = reqwest::Identity::from_pem(pem)
                    .map_err(|_| SetupError("vault: the client certificate and key do not fit"))?;
                builder = builder.identity(identity);
            }
            let http =
                builder.build().map_err(|_| SetupError("vault: no TLS client can be made"))?;
            Ok(Wire { http, base: reach.address.trim_end_matches('/').to_owned() })
        };
        Ok(Self { fresh: make(false)?, kept: make(true)?, namespace: reach.namespace.clone() })
    }

    /// One call. `token` is empty for a login.
    pub(super) async fn call<E: Endpoint>(
        &self,
        connection: Connection,
        token: &str,
        endpoint: E,
    ) -> Result<Envelope, Fault> {
        self.exchange(connection, token, endpoint, None).await
    }

    /// One call whose answer is wrapped: it waits at Vault, to be fetched once with a token of its own. That
    /// it was made by the call to `path`, and that nobody fetched it before, is seen.
    pub(super) async fn call_wrapped<E: Endpoint>(
        &self,
        token: &str,
        endpoint: E,
        path: &str,
    ) -> Result<Envelope, Fault> {
        let answer = self.exchange(Connection::Fresh, token, endpoint, Some(WRAP)).await?;
        let lost = |said: &str| Fault::Lost(said.to_owned());
        let wrap = answer.wrap_info.as_ref().filter(|w| !w.token.is_empty());
        let wrap = wrap.ok_or_else(|| lost("the answer is not wrapped"))?;
        let told = Call::post("sys/wrapping/lookup", serde_json::json!({ "token": wrap.token }));
        let seen = self.call(Connection::Kept, "", told).await;
        let seen =
            seen.map_err(|f| Fault::Lost(format!("its wrapping cannot be looked up: {f}")))?;
        if wrap.creation_path != path || seen.text("creation_path") != path {
            return Err(lost("what is wrapped was made by another call"));
        }
        let fetch = Call::post("sys/wrapping/unwrap", Value::Null);
        let fetched = self.call(Connection::Fresh, &wrap.token, fetch).await;
        fetched
            .map_err(|f| Fault::Lost(format!("it was fetched by somebody else, or is lost: {f}")))
    }

    async fn exchange<E: Endpoint>(
        &self,
        connection: Connection,
        token: &str,
        endpoint: E,
        wrap: Option<&'static str>,
    ) -> Result<Envelope, Fault> {
        let middle = vaultrs::api::EndpointMiddleware {
            token: token.to_owned(),
            version: "v1".into(),
            wrap: None,
            namespace: self.namespace.clone(),
        };
        let middle = Middle { inner: middle, wrap };
        let wire = match connection {
            Connection::Fresh => &self.fresh,
            Connection::Kept => &self.kept,
        };
        let answer = endpoint.with_middleware(&middle).exec(wire).await.map_err(fault)?;
        let status = answer.response.status().as_u16();
        let body = Secret::new(answer.response.into_body());
        let parsed = read(body.expose_secret());
        if (200..300).contains(&status) {
            return parsed.map_err(|e| Fault::Lost(format!("status {status}, {e}")));
        }
        let said = parsed.map(|e| e.errors.join("; ")).unwrap_or_default();
        // Hostile until shown otherwise: it may repeat what it was sent.
        let said = if token.is_empty() { said } else { said.replace(token, "(redacted)") };
        Err(Fault::Answered { status, said })
    }
}

fn read(body: &[u8]) -> Result<Envelope, String> {
    if body.is_empty() {
        return read(b"{}");
    }
    // `null` members are as good as absent ones.
    let mut value: Value = serde_json::from_slice(body).map_err(|_| "not JSON".to_owned())?;
    let Value::Object(members) = &mut value else { return Err("not an object".into()) };
    members.retain(|_, v| !v.is_null());
    for inner in ["auth", "wrap_info"] {
        if let Some(Value::Object(members)) = members.get_mut(inner) {
            members.retain(|_, v| !v.is_null());
        }
    }
    serde_json::from_value(value).map_err(|_| "not the envelope of Vault".to_owned())
}

/// vaultrs's headers and version prefix, with what it would panic on kept away from it.
struct Middle {
    inner: vaultrs::api::EndpointMiddleware,
    wrap: Option<&'static str>,
}

impl MiddleWare for Middle {
    fn request<E: Endpoint>(
        &self,
        endpoint: &E,
        request: &mut Request<Vec<u8>>,
    ) -> Result<(), ClientError> {
        if !self.inner.token.bytes().all(|b| b.is_ascii_graphic()) {
            let source = Fault::NeverSent("the token cannot be a header".into()).into();
            return Err(ClientError::GenericError { source });
        }
        if let Some(ttl) = self.wrap {
            let ttl = http::HeaderValue::from_static(ttl);
            request.headers_mut().insert("x-vault-wrap-ttl", ttl);
        }
        self.inner.request(endpoint, request)
    }

    fn response<E: Endpoint>(&self, _: &E, _: &mut Response<Vec<u8>>) -> Result<(), ClientError> {
        Ok(())
    }
}

impl Drop for Middle {
    fn drop(&mut self) {
        self.inner.token.zeroize();
    }
}

fn fault(error: ClientError) -> Fault {
    let source = match &error {
        ClientError::RequestError { source, .. }
        | ClientError::ResponseError { source }
        | ClientError::GenericError { source } => source,
        other => return Fault::NeverSent(other.to_string()),
    };
    source.downcast_ref::<Fault>().cloned().unwrap_or_else(|| Fault::Lost(error.to_string()))
}

struct Wire {
    http: reqwest::Client,
    base: String,
}

impl Wire {
    async fn exchange(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, Fault> {
        let mut request = reqwest::Request::try_from(request)
            .map_err(|e| Fault::NeverSent(chain(&e.without_url())))?;
        if request.body().is_some() {
            let json = http::HeaderValue::from_static("application/json");
            request.headers_mut().insert(http::header::CONTENT_TYPE, json);
        }
        let mut answer = self.http.execute(request).await.map_err(|e| {
            // A connection that never came about carried nothing.
            let never = e.is_connect() || e.is_builder();
            let said = chain(&e.without_url());
            if never { Fault::NeverSent(said) } else { Fault::Lost(said) }
        })?;
        let status = answer.status();
        let mut body = Secret::new(Vec::with_capacity(4096));
        while let Some(chunk) =
            answer.chunk().await.map_err(|e| Fault::Lost(chain(&e.without_url())))?
        {
            if body.expose_secret().len() + chunk.len() > MAX_ANSWER {
                return Err(Fault::Lost(format!("status {status}, more than {MAX_ANSWER} bytes")));
            }
            let mut more = Vec::with_capacity(body.expose_secret().len() + chunk.len() + 4096);
            more.extend_from_slice(body.expose_secret());
            more.extend_from_slice(&chunk);
            body = Secret::new(more);
        }
        let mut out = Response::new(body.expose_secret().clone());
        *out.status_mut() = status;
        Ok(out)
    }
}

type Pinned<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl Transport for Wire {
    fn send<'a, 'b>(
        &'a self,
        request: Request<Vec<u8>>,
    ) -> Pinned<'b, Result<Response<Vec<u8>>, ClientError>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            self.exchange(request)
                .await
                .map_err(|fault| ClientError::ResponseError { source: fault.into() })
        })
    }

    fn base(&self) -> &str {
        &self.base
    }

    /// As the default, but an answer of any status is an answer: the caller reads Vault's words.
    fn execute<'a, 'b>(
        &'a self,
        request: Request<Vec<u8>>,
    ) -> Pinned<'b, Result<Response<Vec<u8>>, ClientError>>
    where
        'a: 'b,
        Self: 'b,
    {
        self.send(request)
    }
}

/// A call that vaultrs does not have, or not so that we could use it: leases, and whatever carries
/// parameters of ours.
pub(super) struct Call {
    method: RequestMethod,
    path: String,
    body: Value,
}

impl Call {
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self { method: RequestMethod::GET, path: path.into(), body: Value::Null }
    }

    pub(super) fn list(path: impl Into<String>) -> Self {
        Self { method: RequestMethod::LIST, path: path.into(), body: Value::Null }
    }

    pub(super) fn post(path: impl Into<String>, body: Value) -> Self {
        Self { method: RequestMethod::POST, path: path.into(), body }
    }
}

impl Endpoint for Call {
    type Response = ();
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        self.path.clone()
    }

    fn method(&self) -> RequestMethod {
        self.method.clone()
    }

    fn body(&self) -> Result<Option<Vec<u8>>, ClientError> {
        Ok(match &self.body {
            Value::Null => None,
            body => Some(body.to_string().into_bytes()),
        })
    }
}

/// A text that may stand between the slashes of a path without meaning more than itself.
pub(super) fn is_segment(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !text.starts_with('.')
        && !text.ends_with('.')
}

/// Segments with slashes between, as a mount may be.
pub(super) fn is_path(text: &str) -> bool {
    text.len() <= 256 && text.split('/').all(is_segment)
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
