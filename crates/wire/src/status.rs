//! The one place where a refusal becomes a gRPC status, a status a refusal again, and a refusal an
//! RFC 9457 problem. The text in it is chosen by whoever refuses; no inner error is shown.

use bytes::Bytes;
use prost::Message;
use serde_json::{Map, Value};
use tonic::{Code, Status};

use crate::v1::Problem;

/// Longest `title`, `detail` and `next` that travel, in bytes: they ride in HTTP/2 trailers.
const MAX_TEXT: usize = 1024;

/// Why a call was refused, for the caller: an agent or a person acts on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status, 400–599.
    pub status: u16,
    /// A word for programs, for example `denied`; see the contract.
    pub code: String,
    /// A sentence that is the same for every refusal of this code.
    pub title: String,
    /// What happened this time; empty: nothing to add.
    pub detail: String,
    /// What to do now; empty: nothing.
    pub next: String,
    /// The request it is about; empty: none.
    pub request_id: String,
    /// The lease it is about; empty: none.
    pub lease_id: String,
    /// When to try again, milliseconds from now; 0: not said.
    pub retry_after_ms: u32,
}

impl Refusal {
    /// A refusal with the fields that every one has.
    pub fn new(status: u16, code: impl Into<String>, title: impl Into<String>) -> Self {
        Self {
            status,
            code: code.into(),
            title: title.into(),
            detail: String::new(),
            next: String::new(),
            request_id: String::new(),
            lease_id: String::new(),
            retry_after_ms: 0,
        }
    }

    /// What the sidecar says while no broker answers: 503 `broker_away`.
    pub fn broker_away() -> Self {
        Self::new(503, "broker_away", "The broker cannot be reached.")
            .next("Try again shortly; nothing was decided and nothing was issued to you.")
            .retry_after_ms(1000)
    }

    /// With what happened this time.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// With what to do now.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// With the request it is about.
    #[must_use]
    pub fn request_id(mut self, request_id: impl Into<String>) -> Self {
        self.request_id = request_id.into();
        self
    }

    /// With the lease it is about.
    #[must_use]
    pub fn lease_id(mut self, lease_id: impl Into<String>) -> Self {
        self.lease_id = lease_id.into();
        self
    }

    /// With the time after which to try again.
    #[must_use]
    pub const fn retry_after_ms(mut self, retry_after_ms: u32) -> Self {
        self.retry_after_ms = retry_after_ms;
        self
    }

    /// The value of `Retry-After`: whole seconds, rounded up, if one was given.
    pub const fn retry_after_s(&self) -> Option<u32> {
        match self.retry_after_ms {
            0 => None,
            ms => Some(ms.div_ceil(1000)),
        }
    }

    /// The body of an `application/problem+json` answer (RFC 9457). Empty members are left out,
    /// save `detail` and `next`, which the contract promises.
    pub fn to_problem_json(&self) -> Value {
        let mut problem = Map::new();
        let mut put = |name: &str, value: Value| problem.insert(name.to_owned(), value);
        put("type", format!("urn:grantwright:problem:{}", self.code).into());
        put("title", self.title.as_str().into());
        put("status", self.status.into());
        put("code", self.code.as_str().into());
        put("detail", self.detail.as_str().into());
        put("next", self.next.as_str().into());
        for (name, id) in [("request_id", &self.request_id), ("lease_id", &self.lease_id)] {
            if !id.is_empty() {
                put(name, id.as_str().into());
            }
        }
        Value::Object(problem)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self {
            code: refusal.code,
            title: bounded(refusal.title, MAX_TEXT),
            detail: bounded(refusal.detail, MAX_TEXT),
            next: bounded(refusal.next, MAX_TEXT),
            request_id: refusal.request_id,
            status: refusal.status.into(),
            retry_after_ms: refusal.retry_after_ms,
            lease_id: refusal.lease_id,
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = grpc_code(refusal.status);
        let problem = Problem::from(refusal);
        let details = Bytes::from(problem.encode_to_vec());
        Self::with_details(code, problem.title, details)
    }
}

/// A problem that says nothing, or no failure, is [`Refusal::broker_away`].
impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        match u16::try_from(problem.status) {
            Ok(status @ 400..600) if !problem.code.is_empty() => Self {
                status,
                code: problem.code,
                title: problem.title,
                detail: problem.detail,
                next: problem.next,
                request_id: problem.request_id,
                lease_id: problem.lease_id,
                retry_after_ms: problem.retry_after_ms,
            },
            _ => Self::broker_away(),
        }
    }
}

/// A status without a readable problem was not made by a broker's decision (the connection is gone,
/// a deadline passed, a message was too large): it is [`Refusal::broker_away`].
impl From<&Status> for Refusal {
    fn from(status: &Status) -> Self {
        Problem::decode(status.details()).map_or_else(|_| Self::broker_away(), Self::from)
    }
}

/// gRPC's nearest word for an HTTP status; the problem in the details is what counts.
pub(crate) const fn grpc_code(status: u16) -> Code {
    match status {
        400 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 => Code::Aborted,
        413 | 429 | 431 => Code::ResourceExhausted,
        410 => Code::FailedPrecondition,
        502 => Code::Unknown,
        503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        402..=499 => Code::FailedPrecondition,
        _ => Code::Internal,
    }
}

/// Cut to at most so many bytes, at a character.
pub(crate) fn bounded(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_the_wire() {
        let whole = Refusal::new(410, "already_issued", "Already issued.")
            .detail("to another process")
            .next("ask again with a new key")
            .request_id("r-1")
            .lease_id("l-1")
            .retry_after_ms(1500);
        let status = Status::from(whole.clone());
        assert_eq!(
            (status.code(), status.message()),
            (Code::FailedPrecondition, "Already issued.")
        );
        assert_eq!(Refusal::from(&status), whole);
        assert_eq!(whole.retry_after_s(), Some(2));
    }

    #[test]
    fn a_status_that_no_broker_decided_is_broker_away() {
        let details = |bytes: Vec<u8>| Status::with_details(Code::Unknown, "x", bytes.into());
        for status in [
            Status::unavailable("tcp connect error: 10.0.0.1"),
            Status::deadline_exceeded("late"),
            details(vec![0xff; 9]),
            details(Problem { status: 403, ..Problem::default() }.encode_to_vec()),
            details(
                Problem { code: "x".into(), status: 200, ..Problem::default() }.encode_to_vec(),
            ),
            details(Problem { code: "x".into(), ..Problem::default() }.encode_to_vec()),
        ] {
            let refusal = Refusal::from(&status);
            assert_eq!((refusal.status, refusal.code.as_str()), (503, "broker_away"));
            assert!(!refusal.to_problem_json().to_string().contains("10.0.0.1"));
        }
    }

    #[test]
    fn problem_json_is_what_the_contract_names() {
        let refusal = Refusal::new(403, "denied", "Denied.").detail("d").next("n");
        assert_eq!(
            refusal.to_problem_json(),
            serde_json::json!({
                "type": "urn:grantwright:problem:denied", "title": "Denied.", "status": 403,
                "code": "denied", "detail": "d", "next": "n",
            })
        );
        let with_ids = refusal.request_id("r").lease_id("l").to_problem_json();
        assert_eq!((&with_ids["request_id"], &with_ids["lease_id"]), (&"r".into(), &"l".into()));
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        let status = Status::from(Refusal::new(400, "bad", "t").detail("é".repeat(1000)));
        assert_eq!(Refusal::from(&status).detail, "é".repeat(512));
    }
}
