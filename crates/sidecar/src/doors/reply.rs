use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::vec;

use bytes::Bytes;
use grantwright_domain::Timestamp;
use grantwright_wire::Refusal;
use grantwright_wire::v1::{Ended, Pending};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::Sidecar;
use crate::fetch::{Answer, Fetched};
use crate::guard::Door;

use super::{aws, status};

pub(crate) type Reply = Response<Body>;

/// An answer's body.
pub(crate) enum Body {
    /// Whole.
    Whole(Full<Bytes>),
    /// Piece by piece, until the other end of the channel is dropped.
    Events(mpsc::Receiver<Frame<Bytes>>),
    /// In pieces that are there.
    Pieces(vec::IntoIter<Frame<Bytes>>),
}

impl Default for Body {
    fn default() -> Self {
        Self::Whole(Full::default())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Events(events) => events.poll_recv(cx).map(|piece| piece.map(Ok)),
            Self::Pieces(pieces) => Poll::Ready(pieces.next().map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Events(_) => false,
            Self::Pieces(pieces) => pieces.as_slice().is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Events(_) | Self::Pieces(_) => SizeHint::default(),
        }
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

pub(super) fn with(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Reply {
    with_body(status, kind, Body::Whole(Full::new(body.into())))
}

pub(super) fn with_body(status: StatusCode, kind: HeaderValue, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, kind);
    reply.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    reply
}

/// 200 with a credential.
pub(super) fn secret(body: Bytes) -> Reply {
    with(StatusCode::OK, JSON, body)
}

pub(super) fn json(status: StatusCode, body: &Value) -> Reply {
    with(status, JSON, body.to_string())
}

/// A refusal as RFC 9457 problem.
pub(super) fn problem(sidecar: &Sidecar, refusal: &Refusal) -> Reply {
    sidecar.metrics.refused.add(1);
    let mut reply = with(status(refusal), PROBLEM, problem_body(refusal).to_string());
    hints(&mut reply, refusal);
    reply
}

pub(super) fn problem_body(refusal: &Refusal) -> Value {
    let mut refusal = refusal.clone();
    // The contract promises both; a broker may have had nothing to add to the title.
    if refusal.detail.is_empty() {
        refusal.detail.clone_from(&refusal.title);
    }
    refusal.to_problem_json()
}

/// A refusal in the words that callers of this door understand.
pub(super) fn refused(sidecar: &Sidecar, door: Door, refusal: &Refusal) -> Reply {
    if door == Door::Aws { aws::error(sidecar, refusal) } else { problem(sidecar, refusal) }
}

pub(super) fn hints(reply: &mut Reply, refusal: &Refusal) {
    let wait = match refusal.retry_after_s() {
        None if matches!(refusal.status, 429 | 503) => Some(1),
        wait => wait,
    };
    if let Some(seconds) = wait {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if refusal.status == 401 {
        reply.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
}

/// Where a request stands: 200 granted, 202 pending; one that ended is 200 with its state, except
/// where a credential was issued that cannot be given any more.
pub(super) fn standing(sidecar: &Sidecar, fetched: Fetched) -> Reply {
    match fetched {
        Ok(Answer::Granted(lease)) => secret(lease.body.clone()),
        Ok(Answer::Pending(it)) => pending(sidecar, &it.0, &it.1),
        Ok(Answer::Ended(it)) if it.1.state == "already_issued" => problem(sidecar, &ended(&it)),
        Ok(Answer::Ended(it)) => json(StatusCode::OK, &ended_body(&it)),
        Err(refusal) => problem(sidecar, &refusal),
    }
}

/// An ended request as an answer.
pub(super) fn ended_body(it: &(String, Ended)) -> Value {
    let (request_id, end) = it;
    let mut body = json!({
        "state": end.state, "request_id": request_id, "reason": end.reason, "code": end.code,
    });
    if let (Some(body), false) = (body.as_object_mut(), end.lease_id.is_empty()) {
        body.insert("lease_id".into(), end.lease_id.as_str().into());
    }
    body
}

/// 202 with what is still needed.
pub(super) fn pending(sidecar: &Sidecar, request_id: &str, it: &Pending) -> Reply {
    let mut reply = json(StatusCode::ACCEPTED, &pending_body(sidecar, request_id, it));
    reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    reply
}

pub(super) fn pending_body(sidecar: &Sidecar, request_id: &str, it: &Pending) -> Value {
    let mut body = json!({
        "state": "pending",
        "request_id": request_id,
        "needs": {
            "votes": it.votes_needed, "have": it.votes_have, "strength": it.strength,
            "groups": it.groups, "channels": it.channels,
        },
        "expires_at": Timestamp::from_millis(it.expires_at_ms),
        "link": link(sidecar, request_id, it),
        "approved": it.approved,
        "digest": it.digest,
    });
    if let (Some(body), Some(question)) = (body.as_object_mut(), &it.question) {
        let question =
            json!({"id": question.question_id, "by": question.by, "text": question.text});
        body.insert("question".into(), question);
    }
    body
}

/// Where a person decides.
pub(super) fn link(sidecar: &Sidecar, request_id: &str, it: &Pending) -> String {
    match (&it.link, &sidecar.console()) {
        (link, _) if !link.is_empty() => link.clone(),
        (_, Some(console)) => format!("{}/requests/{request_id}", console.trim_end_matches('/')),
        _ => String::new(),
    }
}

/// The end of a request as a refusal of the ask that met it.
pub(super) fn ended(it: &Arc<(String, Ended)>) -> Refusal {
    let (request_id, end) = it.as_ref();
    let (status, code, title, next) = match end.state.as_str() {
        "denied" => (403, "denied", "The request was denied.", "Do not ask again as it is."),
        "expired" => (403, "expired", "Nobody decided in time.", "Ask again if it still matters."),
        "cancelled" => (409, "cancelled", "The request was cancelled.", "Ask with a new key."),
        "unknown" => (
            502,
            "outcome_unknown",
            "The backend's answer was lost.",
            "People resolve it; ask with a new key if another credential may exist.",
        ),
        "failed" => (502, "mint_failed", "The backend refused.", "Ask again with a new key."),
        "revoked" => (410, "revoked", "The credential was revoked.", "Ask with a new key."),
        _ => (
            410,
            "already_issued",
            "The credential was issued and can no longer be delivered.",
            "Release the lease and ask with a new key.",
        ),
    };
    let code = if end.code.is_empty() { code } else { &end.code };
    Refusal::new(status, code, title)
        .detail(end.reason.as_str())
        .next(next)
        .request_id(request_id.as_str())
        .lease_id(end.lease_id.as_str())
}
