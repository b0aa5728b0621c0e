//! Why the broker did not start, and how refusals are made.

use grantwright_domain::Violation;
use grantwright_store::StoreError;
use grantwright_wire::Refusal;

/// The broker did not start; the text says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

impl StartError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// A refusal with its HTTP status, code, sentence and next step.
#[must_use]
pub(crate) fn refuse(
    status: u16,
    code: &str,
    detail: impl Into<String>,
    next: impl Into<String>,
) -> Refusal {
    let title = match status {
        400 => "Malformed",
        401 => "Not signed in",
        403 => "Refused",
        404 => "Not found",
        409 => "Conflict",
        410 => "Gone",
        413 => "Too large",
        429 => "Too many",
        502 => "The backend did not issue",
        503 => "Not available",
        _ => "Failed",
    };
    Refusal::new(status, code, title).detail(detail).next(next)
}

pub(crate) fn no_such_request() -> Refusal {
    refuse(404, "unknown_request", "there is no such request", "check the request id")
}

/// What the rules' refusal means to who asked.
pub(crate) fn of_violation(v: &Violation) -> Refusal {
    let detail = v.detail.clone();
    match v.rule {
        "eligible" => refuse(403, v.code, detail, "another eligible person can decide"),
        "confirmation" => {
            refuse(403, v.code, detail, "read it in the request, and send it as `confirm`")
        }
        "passkey" => {
            refuse(403, v.code, detail, "open the request in the console and sign with a passkey")
        }
        "terminal" | "deadline" => refuse(409, "not_open", detail, "look at the request again"),
        "digest" => {
            refuse(409, "digest_mismatch", detail, "look at the request again: it has changed")
        }
        "question-open" => refuse(409, "question_open", detail, "wait for the answer"),
        "question-bound" => {
            refuse(409, "too_many_questions", detail, "decide, or deny with a reason")
        }
        "seen" => {
            refuse(409, "not_seen", detail, "look at the request again: there is something new")
        }
        "narrower" => {
            refuse(400, "not_narrower", detail, "shorten the lifetime or shrink parameters")
        }
        "withdraw" => refuse(409, v.code, detail, "nothing to do"),
        "answer" => refuse(409, "no_question", detail, "nothing to do"),
        "delegation" => of_delegation(v.code, detail),
        "operator" => refuse(403, "not_operator", detail, "ask an operator"),
        _ => refuse(409, v.code, detail, "look at the request again"),
    }
}

fn of_delegation(code: &str, detail: String) -> Refusal {
    let (status, next) = match code {
        "delegate_unknown" => (404, "check the agent's name"),
        "delegation_bound" => (429, "end those that are no longer needed"),
        "delegation_cycle" | "delegation_params" => (400, "correct it"),
        "delegation_depth" => (403, "ask whoever handed it on to let it be passed on"),
        "delegation_ended" => (403, "ask whoever handed it on for another"),
        "delegation_foreign" => (403, "ask one of them"),
        "delegation_unknown" => (404, "list the delegations"),
        _ => (403, "ask for less, or whoever handed it on for more"),
    };
    refuse(status, code, detail, next)
}

/// What a store error means to who asked; the operator's words go to the trace.
pub(crate) fn of_store(e: StoreError) -> Refusal {
    match e {
        StoreError::Violation(v) => of_violation(&v),
        StoreError::Conflict => {
            refuse(409, "changed_meanwhile", "the request changed meanwhile", "try again")
        }
        StoreError::Ahead { .. } => refuse(
            503,
            "log_inconsistent",
            "this log is shorter than the one you saw",
            "restore the true store; nothing is issued until then",
        ),
        StoreError::Busy => {
            refuse(503, "busy", "too much waits for the log", "try again").retry_after_ms(500)
        }
        other => {
            tracing::error!(error = %other, "the store refused");
            refuse(
                503,
                "store_unavailable",
                "the log cannot be written or read now",
                "try again; nothing was issued",
            )
        }
    }
}
