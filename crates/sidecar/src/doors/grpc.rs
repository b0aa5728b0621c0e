//! The gRPC door: the service of `proto/grantwright/agent/v1/agent.proto`. Guard, token, bounds, memory and
//! words are those of the HTTP door; a refusal is a status with the problem in its details.

use std::sync::Arc;

use bytes::Bytes;
use grantwright_domain::{Timestamp, canonical};
use grantwright_wire::agent::{self, v1};
use grantwright_wire::{Refusal, v1 as wire};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Request, StatusCode};
use http_body::Frame;
use hyper::body::Incoming;
use serde_json::{Map, Value};
use tonic::Status;

use crate::Sidecar;
use crate::ask::{Ask, answer_words, malformed, unknown_scope};
use crate::fetch::Answer;
use crate::guard::Door;
use crate::lease::Lease;
use crate::places::Place;
use crate::process::Caller;

use super::calls::{self, Release};
use super::credentials::header_key;
use super::events::{self, News};
use super::reply::{Body, Reply, ended, link, problem, with, with_body};
use super::{read, while_consistent};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// Longest wait of one call, as at the HTTP door.
const MOST_WAIT_MS: u32 = 60_000;

/// The file that describes this door.
pub(super) fn description() -> Reply {
    let text: &'static [u8] = include_bytes!("../../../../proto/grantwright/agent/v1/agent.proto");
    with(StatusCode::OK, HeaderValue::from_static("text/plain; charset=utf-8"), text)
}

/// Answers one call that came in by HTTP/2.
pub(crate) async fn answer(
    sidecar: &Arc<Sidecar>,
    caller: &Caller,
    place: Option<Arc<Place>>,
    call: Request<Incoming>,
) -> Reply {
    let (head, body) = call.into_parts();
    let refused = if is_grpc(&head) { refused } else { problem };
    if let Err(refusal) = sidecar.tokens.admit(caller.peer, Door::Agent, &head) {
        sidecar.metrics.guarded.add(1);
        return refused(sidecar, &refusal);
    }
    if let Some(place) = place {
        place.known();
    }
    if !is_grpc(&head) {
        return problem(sidecar, &not_grpc());
    }
    let path = head.uri.path().strip_prefix('/').and_then(|path| path.split_once('/'));
    let done = match path {
        Some((agent::SERVICE, method)) => serve(sidecar, caller, &head, body, method).await,
        _ => return status(&agent::unknown_method()),
    };
    match done {
        Ok(Some(reply)) => reply,
        Ok(None) => status(&agent::unknown_method()),
        Err(refusal) => refused(sidecar, &refusal),
    }
}

/// `None`: there is no such method.
async fn serve(
    sidecar: &Arc<Sidecar>,
    caller: &Caller,
    head: &Parts,
    body: Incoming,
    method: &str,
) -> Result<Option<Reply>, Arc<Refusal>> {
    let body = read(body).await?;
    let reply = match method {
        "Ask" => {
            let fields = fields(message(&body)?)?;
            let key = header_key(head)?;
            let read = || Ask::from_fields(fields.clone(), key, &sidecar.workload, caller);
            let (_, answer) = calls::ask(sidecar, &read).await?;
            standing(sidecar, &answer)?
        }
        "Wait" => {
            let v1::WaitRequest { request_id, wait_ms } = message(&body)?;
            let wait_ms = match wait_ms {
                0..=MOST_WAIT_MS => Ok(wait_ms),
                _ => Err(malformed(format!("`wait_ms` wants 0 to {MOST_WAIT_MS}"))),
            };
            standing(sidecar, &calls::look(sidecar, &request_id, wait_ms).await?)?
        }
        "Watch" => {
            let v1::WatchRequest { request_id } = message(&body)?;
            while_consistent(sidecar)?;
            let id = calls::request_id(&request_id)?;
            let told = events::follow(sidecar, id, tidings).await?;
            with_body(StatusCode::OK, GRPC, Body::Events(told))
        }
        "Answer" => {
            let v1::AnswerRequest { request_id, text } = message(&body)?;
            let answer = calls::answer(sidecar, &request_id, answer_words(text)).await?;
            standing(sidecar, &answer)?
        }
        "Cancel" => {
            let v1::CancelRequest { request_id } = message(&body)?;
            standing(sidecar, &calls::cancel(sidecar, &request_id).await?)?
        }
        "Release" => {
            let v1::ReleaseRequest { request_id } = message(&body)?;
            match calls::release(sidecar, &request_id).await? {
                Release::Released(it) => released(request_id, it),
                Release::Cancelled(answer) => standing(sidecar, &answer)?,
            }
        }
        "Scopes" => scopes(sidecar, &message(&body)?).await?,
        _ => return Ok(None),
    };
    Ok(Some(reply))
}

/// `application/grpc`, or that with the one coding there is here.
fn is_grpc(head: &Parts) -> bool {
    let mut kinds = head.headers.get_all(CONTENT_TYPE).iter().map(HeaderValue::as_bytes);
    let first = kinds.next();
    matches!(first, Some(b"application/grpc" | b"application/grpc+proto")) && kinds.next().is_none()
}

fn not_grpc() -> Refusal {
    Refusal::new(415, "not_grpc", "By HTTP/2 this door speaks gRPC only.")
        .next("Call by HTTP/1.1, or as GET /v1/agent.proto describes.")
}

fn message<M: agent::Message + Default>(body: &[u8]) -> Result<M, Box<Refusal>> {
    agent::read(body).map_err(|fault: agent::FrameError| malformed(fault.to_string()))
}

/// The fields as the HTTP door's body has them, so that one key holds at both doors.
fn fields(message: v1::AskRequest) -> Result<Map<String, Value>, Box<Refusal>> {
    let v1::AskRequest {
        scope,
        params_json,
        ttl,
        reason,
        task,
        on_behalf_of,
        idempotency_key,
        delegation,
    } = message;
    let params = match params_json.as_str() {
        "" => Value::Object(Map::new()),
        json => canonical::parse(json.as_bytes())
            .map_err(|e| malformed(format!("`params_json` is not strict JSON: {e}")))?,
    };
    let mut fields = Map::from_iter([("params".to_owned(), params)]);
    for (name, text) in [
        ("scope", scope),
        ("ttl", ttl),
        ("reason", reason),
        ("task", task),
        ("on_behalf_of", on_behalf_of),
        ("idempotency_key", idempotency_key),
        ("delegation", delegation),
    ] {
        if !text.is_empty() {
            fields.insert(name.to_owned(), text.into());
        }
    }
    Ok(fields)
}

async fn scopes(sidecar: &Sidecar, wanted: &v1::ScopesRequest) -> Result<Reply, Arc<Refusal>> {
    let text = |scope: &Map<String, Value>, name: &str| {
        scope.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let listed = sidecar.scopes().await?;
    let all = wanted.scope.is_empty();
    let scopes: Vec<_> = listed
        .iter()
        .map(|scope| (text(scope, "name"), scope))
        .filter(|(name, _)| all || *name == wanted.scope)
        .map(|(name, scope)| v1::Scope {
            name,
            title: text(scope, "title"),
            scope_json: serde_json::to_string(scope).unwrap_or_default(),
        })
        .collect();
    if scopes.is_empty() && !all {
        return Err(Arc::from(unknown_scope(&wanted.scope)));
    }
    Ok(whole([agent::frame(&v1::ScopesReply { scopes })]))
}

/// Where a request stands, as one message; a credential that cannot be given any more is a refusal.
fn standing(sidecar: &Sidecar, answer: &Answer) -> Result<Reply, Arc<Refusal>> {
    Ok(match answer {
        Answer::Granted(lease) => whole(granted(lease)),
        Answer::Pending(it) => whole([pending(sidecar, it)]),
        Answer::Ended(it) if it.1.state == "already_issued" => return Err(Arc::new(ended(it))),
        Answer::Ended(it) => whole([end(it)]),
    })
}

fn granted(lease: &Lease) -> [Bytes; 2] {
    let tail = lease.tail();
    let json = |name: &str| tail.get(name).map(Value::to_string).unwrap_or_default();
    let narrowed = tail.get("narrowed").and_then(Value::as_str);
    let told = v1::Granted {
        lease_id: lease.lease_id.clone(),
        expires_at_ms: lease.expires_at.millis(),
        revocable: tail.get("revocable").and_then(Value::as_bool).unwrap_or_default(),
        narrowed: narrowed.unwrap_or_default().to_owned(),
        params_json: json("params"),
        receipt_json: json("receipt"),
        extends_until_ms: lease.extends_until.map_or(0, Timestamp::millis),
        credential_json: String::new(),
    };
    agent::granted(&lease.request_id, &told, lease.credential_json())
}

fn pending(sidecar: &Sidecar, (request_id, it): &(String, wire::Pending)) -> Bytes {
    let told = v1::Pending {
        votes_needed: it.votes_needed,
        votes_have: it.votes_have,
        strength: it.strength.clone(),
        groups: it.groups.clone(),
        channels: it.channels.clone(),
        approved: it.approved,
        question: it.question.as_ref().map(|it| v1::Question {
            question_id: it.question_id.clone(),
            by: it.by.clone(),
            text: it.text.clone(),
        }),
        expires_at_ms: it.expires_at_ms,
        link: link(sidecar, request_id, it),
        digest: it.digest.clone(),
    };
    stands("pending", request_id, v1::standing::Detail::Pending(told))
}

fn end((request_id, it): &(String, wire::Ended)) -> Bytes {
    let told = v1::Ended {
        code: it.code.clone(),
        reason: it.reason.clone(),
        lease_id: it.lease_id.clone(),
    };
    stands(&it.state, request_id, v1::standing::Detail::Ended(told))
}

fn released(request_id: String, it: wire::ReleaseReply) -> Reply {
    let told = v1::Released { lease_id: it.lease_id, ended: it.ended, effect: it.effect };
    whole([stands("released", &request_id, v1::standing::Detail::Released(told))])
}

fn stands(state: &str, request_id: &str, detail: v1::standing::Detail) -> Bytes {
    agent::frame(&v1::Standing {
        state: state.to_owned(),
        request_id: request_id.to_owned(),
        detail: Some(detail),
    })
}

/// What is told of a request that is watched; the trailers end it.
fn tidings(sidecar: &Sidecar, news: &News<'_>) -> Vec<Frame<Bytes>> {
    let last = |pieces: Vec<Bytes>| pieces.into_iter().map(Frame::data).chain([over()]).collect();
    match news {
        News::Alive => Vec::new(),
        News::Granted(lease) => last(granted(lease).into()),
        News::Pending(it, _) => vec![Frame::data(pending(sidecar, it))],
        News::Ended(it) if it.1.state == "already_issued" => {
            vec![trailers(&agent::status(&ended(it)))]
        }
        News::Ended(it) => last(vec![end(it)]),
        News::Refused(refusal) => vec![trailers(&agent::status(refusal))],
    }
}

/// One message, and that it went well.
fn whole(pieces: impl IntoIterator<Item = Bytes>) -> Reply {
    let frames: Vec<_> = pieces.into_iter().map(Frame::data).chain([over()]).collect();
    with_body(StatusCode::OK, GRPC, Body::Pieces(frames.into_iter()))
}

fn over() -> Frame<Bytes> {
    trailers(&Status::new(tonic::Code::Ok, ""))
}

fn trailers(status: &Status) -> Frame<Bytes> {
    Frame::trailers(headers(status))
}

fn headers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // Fails on bytes that no header can hold, and all of ours are encoded.
    let _ = status.add_header(&mut headers);
    headers
}

fn refused(sidecar: &Sidecar, refusal: &Refusal) -> Reply {
    sidecar.metrics.refused.add(1);
    status(&agent::status(refusal))
}

/// An answer that is a status alone.
fn status(status: &Status) -> Reply {
    let mut reply = with_body(StatusCode::OK, GRPC, Body::default());
    reply.headers_mut().extend(headers(status));
    reply
}
