//! The HTTP door: which path leads where. Calls that were answered from memory before are answered
//! first, by their raw bytes.

mod aws;
mod calls;
mod credentials;
mod delegations;
mod events;
pub(crate) mod grpc;
mod health;
mod reply;
mod requests;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use grantwright_domain::Timestamp;
use grantwright_wire::Refusal;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use crate::Sidecar;
use crate::cache::Raw;
use crate::guard::Door;
use crate::places::Place;
use crate::process::Caller;
use crate::remember::log_inconsistent;

pub(crate) use reply::Reply;
use reply::{problem, refused};

/// Largest body of a call.
const MOST_BODY: usize = 64 * 1024;
/// In this time a body must have arrived.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Answers one call.
pub(crate) async fn answer(
    sidecar: &Arc<Sidecar>,
    caller: &Caller,
    place: &Place,
    call: Request<Incoming>,
) -> Reply {
    let (head, body) = call.into_parts();
    let path = head.uri.path();
    let door = Door::of(path);
    if let Err(refusal) = sidecar.tokens.admit(caller.peer, door, &head) {
        sidecar.metrics.guarded.add(1);
        return refused(sidecar, door, &refusal);
    }
    // An open door shows nothing of who comes.
    if door != Door::Open {
        place.known();
    }
    match door {
        Door::Aws if head.method == Method::GET => {
            let raw = head.uri.path_and_query().map_or("", |it| it.as_str());
            let raw = caller.marked(raw.as_bytes());
            match from_memory(sidecar, &raw) {
                Some(reply) => reply,
                None => Box::pin(aws::get(sidecar, caller, &head.uri, &raw)).await,
            }
        }
        Door::Agent if path == "/v1/credentials" && head.method == Method::POST => {
            let body = match read(body).await {
                Ok(body) => body,
                Err(refusal) => return problem(sidecar, &refusal),
            };
            let raw = credentials::raw(caller, &head, &body);
            match from_memory(sidecar, &raw) {
                Some(reply) => reply,
                None => Box::pin(credentials::post(sidecar, caller, &head, &body, &raw)).await,
            }
        }
        _ => Box::pin(route(sidecar, door, &head, body)).await,
    }
}

/// What exactly this call was answered with before, while that still holds.
fn from_memory(sidecar: &Sidecar, raw: &[u8]) -> Option<Reply> {
    let found = Arc::clone(sidecar.cache().raw(raw)?);
    let mut reply = reply::secret(sidecar.repeat(&found, sidecar.now())?);
    reply.extensions_mut().insert(Arc::downgrade(&found));
    Some(reply)
}

impl Sidecar {
    /// The answer to a call that was answered so before, while that still holds.
    pub(crate) fn repeat(&self, raw: &Raw, now: Timestamp) -> Option<Bytes> {
        if self.remember.is_inconsistent() {
            return None;
        }
        let body = raw.answer(now, self.serves_people(now))?;
        self.metrics.from_memory.add(1);
        Some(body)
    }
}

/// Everything that is not often called.
async fn route(
    sidecar: &Arc<Sidecar>,
    door: Door,
    head: &http::request::Parts,
    body: Incoming,
) -> Reply {
    let path = head.uri.path();
    let mut segments = [""; 4];
    let mut count = 0;
    for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
        if let Some(slot) = segments.get_mut(count) {
            *slot = segment;
        }
        count += 1;
    }
    let body = match read(body).await {
        Ok(body) => body,
        Err(refusal) => return problem(sidecar, &refusal),
    };
    let query = head.uri.query();
    match (head.method.as_str(), count, segments) {
        ("GET", 1, ["healthz", ..]) => health::alive(),
        ("GET", 1, ["readyz", ..]) => health::ready(sidecar),
        ("GET", 1, ["metrics", ..]) => health::metrics(sidecar),
        ("GET", 2, ["v1", "openapi.json", ..]) => health::description(),
        ("GET", 2, ["v1", "agent.proto", ..]) => grpc::description(),
        ("GET", 2, ["v1", "checkpoints", ..]) => health::checkpoints(sidecar),
        ("GET", 2, ["v1", "scopes", ..]) => requests::scopes(sidecar).await,
        ("GET", 2, ["v1", "delegations", ..]) => delegations::list(sidecar).await,
        ("POST", 2, ["v1", "delegations", ..]) => delegations::post(sidecar, &body).await,
        ("DELETE", 3, ["v1", "delegations", id, _]) => delegations::end(sidecar, id).await,
        ("GET", 3, ["v1", "requests", id, _]) => requests::get(sidecar, id, query).await,
        ("DELETE", 3, ["v1", "requests", id, _]) => requests::cancel(sidecar, id).await,
        ("GET", 4, ["v1", "requests", id, "events"]) => requests::follow(sidecar, id, query).await,
        ("POST", 4, ["v1", "requests", id, "answer"]) => requests::answer(sidecar, id, &body).await,
        ("POST", 4, ["v1", "requests", id, "release"]) => requests::release(sidecar, id).await,
        (_, 1, ["healthz" | "readyz" | "metrics", ..])
        | (_, 2, ["v1", "agent.proto" | "checkpoints" | "credentials" | "delegations", ..])
        | (_, 2, ["v1", "openapi.json" | "scopes", ..])
        | (_, 2, ["aws", ..])
        | (_, 3, ["v1", "delegations" | "requests", ..])
        | (_, 4, ["v1", "requests", _, "answer" | "events" | "release"]) => {
            let refusal =
                Refusal::new(405, "method_not_allowed", "That path wants another method.");
            refused(sidecar, door, &refusal)
        }
        _ => {
            let refusal = Refusal::new(404, "not_found", "There is no such path.")
                .next("See the documentation of the sidecar's HTTP door.");
            refused(sidecar, door, &refusal)
        }
    }
}

/// The body, whole and bounded. One that came in one piece is not copied.
async fn read(mut body: Incoming) -> Result<Bytes, Box<Refusal>> {
    let too_large = || {
        Box::new(
            Refusal::new(413, "too_large", "The body is too large.")
                .detail(format!("at most {MOST_BODY} bytes are read")),
        )
    };
    if body.size_hint().lower() > MOST_BODY as u64 {
        return Err(too_large());
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let whole = async {
        let mut first = Bytes::new();
        let mut more = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| crate::ask::malformed("the body broke off"))?;
            let Ok(data) = frame.into_data() else { continue };
            if first.len() + more.len() + data.len() > MOST_BODY {
                return Err(too_large());
            }
            if first.is_empty() {
                first = data;
            } else {
                more.extend_from_slice(&data);
            }
            if body.is_end_stream() {
                break;
            }
        }
        if more.is_empty() {
            return Ok(first);
        }
        Ok([first.as_ref(), more.as_ref()].concat().into())
    };
    match tokio::time::timeout(BODY_TIME, whole).await {
        Ok(read) => read,
        Err(_) => Err(Box::new(Refusal::new(408, "too_slow", "The body did not arrive in time."))),
    }
}

/// 503 while the log is inconsistent: no door gives a credential then.
fn while_consistent(sidecar: &Sidecar) -> Result<(), Box<Refusal>> {
    if sidecar.remember.is_inconsistent() { Err(Box::new(log_inconsistent())) } else { Ok(()) }
}

/// The status of a refusal.
fn status(refusal: &Refusal) -> StatusCode {
    StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_GATEWAY)
}
