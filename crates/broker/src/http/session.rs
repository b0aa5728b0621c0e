//! Sessions of people at the console. The browser holds a random id in a `__Host-` cookie; the side
//! table holds its digest. A page takes [`Session`]; whatever changes something takes
//! [`SessionPost`], which demands the console's own origin and the session's CSRF token as well.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use grantwright_domain::{Digest, HumanId, Timestamp};
use grantwright_wire::Refusal;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::console::respond::reads_pages;
use super::peer::Peer;
use super::{Refused, Shared, body, problem};
use crate::core::Broker;
use crate::error::{of_store, refuse};
use crate::vouch::same;

/// The cookie. Browsers take it as `Secure` from `http://localhost` too.
pub const COOKIE: &str = "__Host-grantwright";
/// Where the CSRF token stands, unless a form has it in its field `csrf`.
pub const CSRF_HEADER: &str = "x-csrf-token";
/// A session ends so long after its last use.
pub const IDLE_MS: i64 = 3_600_000;
/// A session ends so long after it began, however much it is used.
pub const LIFE_MS: i64 = 12 * 3_600_000;
/// Most sessions of one person; the oldest goes when one more begins.
pub const MOST: usize = 10;
/// A use is written down again after so long only.
const TOUCH_MS: i64 = 300_000;
/// The rows' kind.
const KIND: &str = "session";

/// How a person signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// By a one-time link.
    Link,
    /// At the identity provider.
    Oidc,
    /// With a passkey.
    Passkey,
}

/// A person at the console, verified for this call.
#[derive(Debug, Clone)]
pub struct Session {
    /// Who.
    pub human: HumanId,
    /// Goes into every form of this session as the field `csrf`, and with scripts' calls in the
    /// header `x-csrf-token`.
    pub csrf: String,
    /// When they signed in.
    pub signed_in_at: Timestamp,
    /// How.
    pub how: How,
    /// Names the session without being it: the digest of its id.
    pub name: String,
}

/// A call of a person at the console that changes something: their session, with its CSRF token and
/// from the console's own origin.
#[derive(Debug)]
pub struct SessionPost {
    /// Who calls.
    pub session: Session,
    /// What they sent.
    pub body: Bytes,
    is_form: bool,
}

/// A session's row.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    human: HumanId,
    how: How,
    signed_in_at: Timestamp,
    used_at: Timestamp,
    /// On this host: the user who signed in, see [`Peer`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<u32>,
}

impl Stored {
    fn ends_at(&self) -> Timestamp {
        self.used_at.plus_millis(IDLE_MS).min(self.signed_in_at.plus_millis(LIFE_MS))
    }
}

/// Begins a session, and gives the `Set-Cookie` that carries it. On this host it is the user's who
/// signed in.
///
/// # Errors
/// When the store cannot be written.
pub async fn begin(
    broker: &Broker,
    human: &HumanId,
    how: How,
    peer: &Peer,
) -> Result<HeaderValue, Refusal> {
    let (now, user) = (broker.now(), peer.user().await);
    let stored = Stored { human: human.clone(), how, signed_in_at: now, used_at: now, user };
    let mut mine = all(broker, human).await?;
    mine.sort_by_key(|(_, s)| s.signed_in_at);
    let surplus = (mine.len() + 1).saturating_sub(MOST);
    for (key, _) in mine.iter().take(surplus) {
        broker.store.side_delete(KIND, key).await.map_err(of_store)?;
    }
    let id = broker.random.secret();
    let key = key(human, &name_of(&id));
    let value = broker.vouch.seal(KIND, &key, &stored).map_err(of_store)?;
    broker.store.side_put(KIND, &key, value, Some(stored.ends_at())).await.map_err(of_store)?;
    let cookie = format!("{COOKIE}={human}:{id}; Path=/; Secure; HttpOnly; SameSite=Lax");
    HeaderValue::from_str(&cookie).map_err(|_| refuse(500, "internal", "no cookie", "try again"))
}

/// Ends every session of a person.
///
/// # Errors
/// When the store cannot be read or written.
pub async fn end_all(broker: &Broker, human: &HumanId) -> Result<(), Refusal> {
    end_others(broker, human, "").await
}

/// Ends every session of a person save the one of this name.
///
/// # Errors
/// When the store cannot be read or written.
pub async fn end_others(broker: &Broker, human: &HumanId, kept: &str) -> Result<(), Refusal> {
    let kept = key(human, kept);
    for (key, _) in all(broker, human).await? {
        if key != kept {
            broker.store.side_delete(KIND, &key).await.map_err(of_store)?;
        }
    }
    Ok(())
}

async fn all(broker: &Broker, human: &HumanId) -> Result<Vec<(String, Stored)>, Refusal> {
    let prefix = format!("{human}:");
    let rows = broker.store.side_list(KIND, &prefix, None, 1000, broker.now()).await;
    Ok(rows
        .map_err(of_store)?
        .into_iter()
        .filter_map(|row| broker.vouch.open(KIND, &row).map(|stored| (row.key, stored)))
        .collect())
}

fn name_of(id: &str) -> String {
    Digest::of("session", id.as_bytes()).hex()
}

fn key(human: &HumanId, name: &str) -> String {
    format!("{human}:{name}")
}

/// The session that a call's cookie names, if it still lives.
///
/// # Errors
/// When the store cannot be read.
pub async fn find(
    broker: &Broker,
    headers: &HeaderMap,
    peer: &Peer,
) -> Result<Option<Session>, Refusal> {
    let Some((human, id)) = cookie(headers) else { return Ok(None) };
    let name = name_of(&id);
    let (key, now) = (key(&human, &name), broker.now());
    let Some(row) = broker.store.side_get(KIND, &key, now).await.map_err(of_store)? else {
        return Ok(None);
    };
    let Some(stored) = broker.vouch.open::<Stored>(KIND, &row) else { return Ok(None) };
    let active = broker.authority().humans.get(&human).is_some_and(|h| h.active);
    if !active || stored.human != human || stored.ends_at() <= now {
        return Ok(None);
    }
    if stored.user.is_some() && stored.user != peer.user().await {
        tracing::error!(%human, "ALARM: the cookie of a session came from another user of this host");
        return Ok(None);
    }
    if now.since(stored.used_at) >= TOUCH_MS {
        let used = Stored { used_at: now, ..stored.clone() };
        let value = broker.vouch.seal(KIND, &key, &used).map_err(of_store)?;
        // Nothing comes back that was signed out meanwhile; who else wrote this use wrote the same.
        let end = Some(used.ends_at());
        broker
            .store
            .side_replace(KIND, &key, row.value, value, end, now)
            .await
            .map_err(of_store)?;
    }
    let csrf = broker.vouch.derive("csrf", &id);
    let Stored { human, how, signed_in_at, .. } = stored;
    Ok(Some(Session { human, csrf, signed_in_at, how, name }))
}

/// The person and id in our cookie; none when it is there twice.
fn cookie(headers: &HeaderMap) -> Option<(HumanId, String)> {
    let mut found = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'))
        .filter_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='));
    let (Some(value), None) = (found.next(), found.next()) else { return None };
    let (human, id) = value.split_once(':')?;
    let is_id = id.len() == 64 && id.bytes().all(|c| c.is_ascii_hexdigit());
    Some((HumanId::parse(human).ok().filter(|_| is_id)?, id.to_owned()))
}

/// Why a call is not that of a person at the console.
#[derive(Debug)]
pub enum NoSession {
    /// A page: the browser goes to sign in first, and comes back here.
    SignIn(String),
    /// Anything else.
    Refused(Box<Refusal>),
}

impl From<Refusal> for NoSession {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl IntoResponse for NoSession {
    fn into_response(self) -> Response {
        match self {
            Self::SignIn(to) => (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response(),
            Self::Refused(refusal) => problem(*refusal),
        }
    }
}

fn not_signed_in() -> Refusal {
    refuse(401, "not_signed_in", "nobody is signed in here", "sign in at /signin")
}

impl FromRequestParts<Arc<Broker>> for Session {
    type Rejection = NoSession;
    async fn from_request_parts(
        parts: &mut Parts,
        broker: &Arc<Broker>,
    ) -> Result<Self, NoSession> {
        let Ok(peer) = Peer::from_request_parts(parts, broker).await;
        if let Some(session) = find(broker, &parts.headers, &peer).await? {
            return Ok(session);
        }
        if reads_pages(&parts.headers) {
            let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
            let next: String = form_urlencoded::byte_serialize(path.as_bytes()).collect();
            return Err(NoSession::SignIn(format!("/signin?next={next}")));
        }
        Err(not_signed_in().into())
    }
}

impl FromRequest<Arc<Broker>> for SessionPost {
    type Rejection = Refused;
    async fn from_request(request: Request, broker: &Arc<Broker>) -> Result<Self, Refused> {
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let session = find(broker, request.headers(), &peer).await?.ok_or_else(not_signed_in)?;
        own_origin(request.headers())?;
        let headers = request.headers().clone();
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let is_form = text("content-type")
            .and_then(|t| t.split(';').next())
            .is_some_and(|t| t.trim() == "application/x-www-form-urlencoded");
        let token = text(CSRF_HEADER).map(str::to_owned);
        let body = Bytes::from_request(request, broker).await.map_err(|_| {
            refuse(413, "too_large", "the body is too large or did not arrive", "send less")
        })?;
        let call = Self { session, body, is_form };
        let token = match token {
            Some(token) => token,
            None if is_form => call.form()?.remove("csrf").unwrap_or_default(),
            None => String::new(),
        };
        if !same(&token, &call.session.csrf) {
            return Err(Refused(refuse(
                403,
                "csrf",
                "this did not come from a page of your present session",
                "load the page again and repeat what you did",
            )));
        }
        Ok(call)
    }
}

impl SessionPost {
    /// The fields of a form.
    ///
    /// # Errors
    /// 400 when it is none, or a field is there twice.
    pub fn form(&self) -> Result<BTreeMap<String, String>, Refusal> {
        let malformed = |what: &str| refuse(400, "malformed", what, "send the form of the page");
        if !self.is_form {
            return Err(malformed("this wants a form"));
        }
        let mut out = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(&self.body) {
            if out.insert(name.into_owned(), value.into_owned()).is_some() {
                return Err(malformed("a field is there twice"));
            }
        }
        Ok(out)
    }

    /// The body as strict JSON.
    ///
    /// # Errors
    /// 400.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        body(&self.body)
    }
}

/// Demands that a browser says where the call comes from; that it is this console, the guard checks.
///
/// # Errors
/// 403 `foreign_origin`.
pub fn own_origin(headers: &HeaderMap) -> Result<(), Refusal> {
    let foreign = headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin");
    if foreign || !headers.contains_key(header::ORIGIN) {
        return Err(refuse(
            403,
            "foreign_origin",
            "the console takes what its own pages send, with an `Origin`",
            "open the console itself",
        ));
    }
    Ok(())
}

/// Who is signed in, for scripts of the console.
pub async fn show(session: Session) -> Json<Value> {
    Json(json!({
        "human": session.human, "how": session.how, "signed_in_at": session.signed_in_at,
        "csrf": session.csrf,
    }))
}

/// Ends the session.
pub async fn sign_out(State(broker): Shared, call: SessionPost) -> Result<Response, Refused> {
    let Session { human, name, .. } = &call.session;
    broker.store.side_delete(KIND, &key(human, name)).await.map_err(of_store)?;
    let gone = format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0");
    let headers = [(header::SET_COOKIE, gone.as_str()), (header::LOCATION, "/signin")];
    Ok((StatusCode::SEE_OTHER, headers).into_response())
}
