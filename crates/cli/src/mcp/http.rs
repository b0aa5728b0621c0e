//! Streamable HTTP: one address, `/mcp`, to which each message is posted. A tool call is answered by a
//! stream of events where the client takes one, so that progress is heard while it waits; everything
//! else is answered by one JSON text. The sidecar's guard stands before it: local programs only, no
//! browser, no proxy, and a bearer token of this start.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use grantwright_broker::{Bounds, serve_http};
use grantwright_sidecar::guard;
use serde_json::{Map, Value};
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::dispatch::{Call, Dispatched, dispatch};
use super::era::{VERSION, VERSIONS};
use super::rpc::{Incoming, MOST_LINE, RpcError, answer, parse};
use super::serve::MOST_CALLS;
use crate::door::Door;

const PROTOCOL: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// Sessions of the older generation that are remembered; the oldest is forgotten, and its client
/// begins anew.
const MOST_SESSIONS: usize = 256;
/// Calls that run at the end have this long.
const GRACE: Duration = Duration::from_millis(1500);
/// Connections at the same time.
const MOST_CONNECTIONS: usize = 256;
/// How long a head may take to arrive.
const HEAD: Duration = Duration::from_secs(10);
/// How long one call and its stream may last.
const LONGEST: Duration = Duration::from_secs(3600);

/// What all connections share.
struct Desk {
    door: Door,
    step: Duration,
    token: String,
    places: Arc<Semaphore>,
    kept: Mutex<Kept>,
}

/// Sessions of the older generation, and their calls under way.
#[derive(Default)]
struct Kept {
    sessions: VecDeque<String>,
    calls: HashMap<(String, String), AbortHandle>,
}

/// Serves until `end` completes.
///
/// # Errors
/// When the listener fails.
pub(super) async fn serve(
    listener: TcpListener,
    door: Door,
    step: Duration,
    token: String,
    end: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let desk = Arc::new(Desk {
        door,
        step,
        token,
        places: Arc::new(Semaphore::new(MOST_CALLS)),
        kept: Mutex::default(),
    });
    let routes = Router::new()
        .route("/mcp", post(message).delete(goodbye))
        .layer(DefaultBodyLimit::max(MOST_LINE))
        .with_state(Arc::clone(&desk));
    let bounds =
        Bounds { connections: MOST_CONNECTIONS, head: HEAD, call: LONGEST, strangers_leave: true };
    tokio::select! {
        never = serve_http(listener, None, routes, bounds) => match never {},
        () = end => {}
    }
    // Nothing new is accepted; what is under way may end.
    let all = u32::try_from(MOST_CALLS).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(GRACE, desk.places.acquire_many(all)).await;
    Ok(())
}

/// One message.
async fn message(State(desk): State<Arc<Desk>>, head: Parts, body: Body) -> Response {
    if let Err(refused) = desk.admit(&head) {
        return *refused;
    }
    // Read only for who may call.
    let Ok(body) = to_bytes(body, MOST_LINE).await else {
        return plain(StatusCode::PAYLOAD_TOO_LARGE, "the message is too large, or broke off");
    };
    let kind = head.headers.get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let kind = kind.and_then(|it| it.split(';').next()).unwrap_or_default();
    if kind.trim() != "application/json" {
        return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "want `Content-Type: application/json`");
    }
    let session = match desk.session(&head.headers) {
        Ok(session) => session,
        Err(refused) => return *refused,
    };
    match parse(&body) {
        Ok(Incoming::Request { id, method, params }) => {
            if let Err(error) = agrees(&head.headers, &method, &params) {
                return said(StatusCode::BAD_REQUEST, &answer(id, Err(error)));
            }
            desk.request(&head.headers, session, id, &method, params)
        }
        Ok(Incoming::Notification { method, params }) => {
            if method == "notifications/cancelled"
                && let (Some(session), Some(id)) = (session, params.get("requestId"))
                && let Some(call) = desk.kept().calls.remove(&(session, id.to_string()))
            {
                call.abort();
            }
            StatusCode::ACCEPTED.into_response()
        }
        Ok(Incoming::Response) => StatusCode::ACCEPTED.into_response(),
        Err(answer) => said(StatusCode::BAD_REQUEST, &answer),
    }
}

/// The older generation ends its session.
async fn goodbye(State(desk): State<Arc<Desk>>, head: Parts) -> Response {
    if let Err(refused) = desk.admit(&head) {
        return *refused;
    }
    match desk.session(&head.headers) {
        Ok(Some(session)) => {
            let mut kept = desk.kept();
            kept.sessions.retain(|it| *it != session);
            kept.calls.retain(|(of, _), call| {
                let ends = *of == session;
                if ends {
                    call.abort();
                }
                !ends
            });
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(None) => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        Err(refused) => *refused,
    }
}

impl Desk {
    /// Lets a local program with the token in.
    fn admit(&self, head: &Parts) -> Result<(), Box<Response>> {
        if let Some(what) = guard::foreign(guard::Peer::Tcp, head) {
            return Err(Box::new(plain(StatusCode::FORBIDDEN, what)));
        }
        let mut values = head.headers.get_all(header::AUTHORIZATION).iter();
        let shown = match (values.next(), values.next()) {
            (Some(value), None) => value.as_bytes(),
            _ => &[],
        };
        let token = match shown.split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token,
            _ => &[],
        };
        if bool::from(token.ct_eq(self.token.as_bytes())) {
            return Ok(());
        }
        let mut refused = plain(
            StatusCode::UNAUTHORIZED,
            "send `Authorization: Bearer` with the token of the file that --token-file names",
        );
        refused.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        Err(Box::new(refused))
    }

    /// The session that the client names, if any.
    fn session(&self, headers: &HeaderMap) -> Result<Option<String>, Box<Response>> {
        let Some(named) = headers.get(SESSION) else { return Ok(None) };
        let named = named.to_str().unwrap_or_default();
        if self.kept().sessions.iter().any(|it| it == named) {
            return Ok(Some(named.to_owned()));
        }
        Err(Box::new(plain(
            StatusCode::NOT_FOUND,
            "that session has ended: call `initialize` again",
        )))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(
        self: &Arc<Self>,
        headers: &HeaderMap,
        session: Option<String>,
        id: Value,
        method: &str,
        params: Map<String, Value>,
    ) -> Response {
        let newest = names_newest(&params);
        // Over HTTP no greeting is remembered but by a session, and that may be another process's.
        let call = match dispatch(method, params, true) {
            Dispatched::Call(call) => call,
            Dispatched::Now(result) => {
                let greets = method == "initialize" && result.is_ok();
                let status = match &result {
                    Err(error) if error.code == -32601 && newest => StatusCode::NOT_FOUND,
                    Err(error) if error.code == -32022 => StatusCode::BAD_REQUEST,
                    _ => StatusCode::OK,
                };
                let mut reply = said(status, &answer(id, result));
                if let Some(session) = greets.then(|| self.greet()).flatten() {
                    reply.headers_mut().insert(SESSION, session);
                }
                return reply;
            }
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let error = RpcError::new(-32000, "too many calls at once: wait for one to end");
            return said(StatusCode::OK, &answer(id, Err(error)));
        };
        let (out, messages) = mpsc::channel(8);
        let key = session.map(|session| (session, id.to_string()));
        let desk = Arc::clone(self);
        let forget = key.clone();
        let running = tokio::spawn(async move {
            desk.run(call, id, out).await;
            if let Some(key) = forget {
                desk.kept().calls.remove(&key);
            }
            drop(place);
        });
        let running = Ends(running.abort_handle());
        if let Some(key) = key.filter(|_| !running.0.is_finished()) {
            self.kept().calls.insert(key, running.0.clone());
        }
        if takes_events(headers) {
            let events = ReceiverStream::new(messages).map(move |message: Value| {
                // Whoever hangs up ends the wait: it has no effect of its own.
                let _ends_with_the_stream = &running;
                Ok::<_, Infallible>(Event::default().event("message").data(message.to_string()))
            });
            return Sse::new(events).keep_alive(KeepAlive::default()).into_response();
        }
        let whole = async move {
            let _ends_with_the_call = running;
            let mut messages = messages;
            let mut last = None;
            while let Some(message) = messages.recv().await {
                last = Some(message);
            }
            let text = last.map(|it| it.to_string()).unwrap_or_default();
            Ok::<_, Infallible>(Bytes::from(text))
        };
        let body = axum::body::Body::from_stream(futures_util::stream::once(whole));
        let mut reply = Response::new(body);
        mark(&mut reply);
        reply
    }

    async fn run(&self, call: Call, id: Value, out: mpsc::Sender<Value>) {
        let result = call.run(&self.door, self.step, &out).await;
        let _ = out.send(answer(id, Ok(result))).await;
    }

    /// A new session of the older generation; none where the system has no randomness.
    fn greet(&self) -> Option<HeaderValue> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).ok()?;
        let name = format!("{:032x}", u128::from_be_bytes(bytes));
        let mut kept = self.kept();
        if kept.sessions.len() >= MOST_SESSIONS {
            kept.sessions.pop_front();
        }
        kept.sessions.push_back(name.clone());
        HeaderValue::from_str(&name).ok()
    }
}

/// Ends a call when it is dropped.
struct Ends(AbortHandle);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn names_newest(params: &Map<String, Value>) -> bool {
    let [newest, ..] = VERSIONS;
    params.get("_meta").and_then(|meta| meta.get(VERSION)) == Some(&Value::from(newest))
}

/// The headers say what the body says: whoever routes by them must not be deceived.
///
/// # Errors
/// -32020 where they differ; -32022 for a revision that is not served.
fn agrees(headers: &HeaderMap, method: &str, params: &Map<String, Value>) -> Result<(), RpcError> {
    let header = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => Ok(Some(value.to_str().unwrap_or_default())),
            _ => Err(RpcError::new(-32020, format!("`{name}` is there twice"))),
        }
    };
    let differs = |name: &HeaderName| {
        RpcError::new(-32020, format!("the header `{name}` and the body do not agree"))
    };
    let [newest, ..] = VERSIONS;
    let told = header(&PROTOCOL)?;
    let meant = params.get("_meta").and_then(|meta| meta.get(VERSION)).and_then(Value::as_str);
    match (told, meant) {
        (Some(told), Some(meant)) if told != meant => return Err(differs(&PROTOCOL)),
        (None, Some(meant)) if meant == newest => return Err(differs(&PROTOCOL)),
        (Some(told), None) if told == newest && method != "initialize" => {
            return Err(differs(&PROTOCOL));
        }
        (Some(told), None) if !VERSIONS.contains(&told) => {
            return Err(RpcError {
                data: Some(serde_json::json!({"supported": VERSIONS, "requested": told})),
                ..RpcError::new(-32022, "that protocol version is not served")
            });
        }
        _ => {}
    }
    // Those below came with the newest revision.
    let wanted = meant == Some(newest);
    let name = params.get("name").and_then(Value::as_str).filter(|_| method == "tools/call");
    for (header_name, meant) in [(&METHOD, Some(method)), (&NAME, name)] {
        match (header(header_name)?, meant) {
            (Some(told), Some(meant)) if told != meant => return Err(differs(header_name)),
            (None, Some(_)) if wanted => return Err(differs(header_name)),
            _ => {}
        }
    }
    Ok(())
}

fn takes_events(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().filter_map(|it| it.to_str().ok()).any(|accept| {
        accept.split(',').any(|kind| {
            matches!(kind.split(';').next().unwrap_or_default().trim(), "text/event-stream" | "*/*")
        })
    })
}

fn said(status: StatusCode, message: &Value) -> Response {
    let mut reply = Response::new(axum::body::Body::from(message.to_string()));
    *reply.status_mut() = status;
    mark(&mut reply);
    reply
}

fn mark(reply: &mut Response) {
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

fn plain(status: StatusCode, words: &str) -> Response {
    (status, format!("{words}\n")).into_response()
}
