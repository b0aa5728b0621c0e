//! `GET /aws/{scope}?param=…`: the container-credentials protocol of unmodified AWS SDKs.
//!
//! They give two seconds to each try (botocore), so a call never waits for people, and not long for
//! the broker; what is under way then goes on, and the next try finds it in memory.

use std::sync::Arc;
use std::time::Duration;

use grantwright_wire::Refusal;
use grantwright_wire::v1::Pending;
use http::header::HeaderValue;
use http::{StatusCode, Uri};
use serde_json::json;

use crate::ask::{Ask, scope_name};
use crate::fetch::Answer;
use crate::lease::Lease;
use crate::process::Caller;
use crate::scopes::not_an_aws_scope;
use crate::{Sidecar, params};

use super::reply::{Reply, ended, hints, link, secret, with};
use super::{status, while_consistent};

/// A call is answered within about this time.
const PATIENCE: Duration = Duration::from_millis(1000);

pub(super) async fn get(sidecar: &Arc<Sidecar>, caller: &Caller, uri: &Uri, raw: &[u8]) -> Reply {
    let answered = tokio::time::timeout(PATIENCE, ask(sidecar, caller, uri, raw)).await;
    match answered {
        Ok(Ok(reply)) => reply,
        Ok(Err(refusal)) => error(sidecar, &refusal),
        Err(_) => {
            let refusal = Refusal::new(503, "CredentialUnderWay", "The credential is under way.")
                .next("Try again in a second.")
                .retry_after_ms(1000);
            error(sidecar, &refusal)
        }
    }
}

async fn ask(
    sidecar: &Arc<Sidecar>,
    caller: &Caller,
    uri: &Uri,
    raw: &[u8],
) -> Result<Reply, Box<Refusal>> {
    while_consistent(sidecar)?;
    let scope = scope_name(uri.path().strip_prefix("/aws/").unwrap_or_default())?;
    // Before memory, too: a use there leads to renewals. What a list does not know may be new.
    if sidecar.gives_aws(&scope, false).await.is_err() {
        sidecar.gives_aws(&scope, true).await?;
    }
    let params = sidecar.typed(scope.as_str(), params::query(uri.query())?).await;
    let ask = Arc::new(Ask::from_aws(scope, &params, &sidecar.workload, caller)?);
    if let Some(lease) = sidecar.lease_for(&ask) {
        sidecar.metrics.from_memory.add(1);
        return granted(sidecar, &lease, raw);
    }
    // The token of AWS SDKs moves nothing but AWS credentials: not a mint, nor a question to people.
    sidecar.gives_aws(&ask.scope, true).await?;
    match sidecar.ask(&ask, None).await {
        Ok(Answer::Granted(lease)) => granted(sidecar, &lease, raw),
        // While people decide on the next one, the old one serves to its end.
        Ok(Answer::Pending(it)) => match sidecar.lease_to_the_end(&ask) {
            Some(lease) => granted(sidecar, &lease, raw),
            None => Err(Box::new(waits(sidecar, &it.0, &it.1))),
        },
        Ok(Answer::Ended(it)) => Err(Box::new(ended(&it))),
        Err(refusal) if refusal.code == "broker_away" => match sidecar.lease_to_the_end(&ask) {
            Some(lease) => granted(sidecar, &lease, raw),
            None => Err(Box::new(Refusal::clone(&refusal))),
        },
        Err(refusal) => Err(Box::new(Refusal::clone(&refusal))),
    }
}

fn granted(sidecar: &Sidecar, lease: &Arc<Lease>, raw: &[u8]) -> Result<Reply, Box<Refusal>> {
    let body = lease.aws_body().ok_or_else(|| {
        let scope = lease.ask.as_ref().map_or("", |ask| ask.scope.as_str());
        Box::new(not_an_aws_scope(scope))
    })?;
    sidecar.cache().remember_raw(raw, lease, &body, false, sidecar.now());
    Ok(secret(body))
}

/// 403 `ApprovalPending`: SDKs do not retry it for long, and show its message to the agent.
fn waits(sidecar: &Sidecar, request_id: &str, it: &Pending) -> Refusal {
    let link = link(sidecar, request_id, it);
    let at = if link.is_empty() { link } else { format!(" at {link}") };
    let (title, next) = if let Some(question) = &it.question {
        let asked = grantwright_domain::text::visible(&question.text);
        (
            format!("Request {request_id}{at} has an open question by {}: “{asked}”", question.by),
            format!("Answer it with POST /v1/requests/{request_id}/answer, then try again."),
        )
    } else if it.approved {
        (format!("Request {request_id}{at} is approved"), "Try again.".to_owned())
    } else {
        let for_what = match it.votes_needed.saturating_sub(it.votes_have) {
            0 => "a decision".to_owned(),
            1 => "1 approval".to_owned(),
            more => format!("{more} approvals"),
        };
        (
            format!("Request {request_id} waits for {for_what}{at} (nothing is issued before)"),
            "Try again once it is approved.".to_owned(),
        )
    };
    Refusal::new(403, "ApprovalPending", title).next(next).request_id(request_id)
}

/// Exactly `{"code","message"}`, as the protocol has it. botocore shows the whole body.
pub(super) fn error(sidecar: &Sidecar, refusal: &Refusal) -> Reply {
    sidecar.metrics.refused.add(1);
    let body = json!({"code": code(&refusal.code), "message": message(refusal)}).to_string();
    let kind = HeaderValue::from_static("application/json");
    let status = match status(refusal) {
        // A lease that ended meanwhile and the like: SDKs know no such answer, but retry these.
        StatusCode::GONE => StatusCode::SERVICE_UNAVAILABLE,
        status => status,
    };
    let mut reply = with(status, kind, body);
    hints(&mut reply, refusal);
    reply
}

/// The code as AWS writes its own: `broker_away` is `BrokerAway`.
fn code(code: &str) -> String {
    code.split('_').map(capital).collect()
}

/// What happened and what to do, in sentences, and about which request.
fn message(refusal: &Refusal) -> String {
    let bare = |text: &str| text.trim().trim_end_matches('.').to_owned();
    let (title, detail) = (bare(&refusal.title), bare(&refusal.detail));
    let mut message = if detail.is_empty() {
        title
    } else if title.contains(' ') && refusal.title.ends_with('.') {
        format!("{title}: {detail}")
    } else {
        // The broker's titles are words for the status, which says as much.
        capital(&detail)
    };
    let next = bare(&refusal.next);
    if !next.is_empty() {
        message.push_str(". ");
        message.push_str(&capital(&next));
    }
    if !refusal.request_id.is_empty() && !message.contains(&refusal.request_id) {
        message.push_str(&format!(" (request {})", refusal.request_id));
    }
    message.push('.');
    message
}

/// With a capital letter, where it begins with a plain word.
fn capital(text: &str) -> String {
    let word = text.split(' ').next().unwrap_or_default();
    match text.split_at_checked(1) {
        Some((first, rest)) if word.bytes().all(|b| b.is_ascii_alphabetic()) => {
            first.to_ascii_uppercase() + rest
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use grantwright_wire::v1::Ended;

    use super::*;
    use crate::remember::log_inconsistent;

    #[test]
    fn messages_are_sentences_with_the_request() {
        let broker = Refusal::new(503, "backend_unconfigured", "Not available")
            .detail("the backend vault is not configured here: no token is set")
            .next("an operator configures the backend")
            .request_id("r-1");
        for (refusal, said_code, said) in [
            (
                &broker,
                "BackendUnconfigured",
                "The backend vault is not configured here: no token is set. An operator configures \
                 the backend (request r-1).",
            ),
            (
                &Refusal::broker_away(),
                "BrokerAway",
                "The broker cannot be reached. Try again shortly; nothing was decided and nothing \
                 was issued to you.",
            ),
            (
                &log_inconsistent(),
                "LogInconsistent",
                "The broker's log does not extend what was seen before: the log shrank or forked \
                 since this sidecar's last checkpoint. Tell whoever runs the broker; the sidecar \
                 serves again once the true log is back.",
            ),
            (
                &ended(&Arc::new((
                    "r-2".into(),
                    Ended { state: "denied".into(), reason: "too much".into(), ..Ended::default() },
                ))),
                "Denied",
                "The request was denied: too much. Do not ask again as it is (request r-2).",
            ),
            (&Refusal::new(404, "not_found", "Not found"), "NotFound", "Not found."),
            (
                &Refusal::new(400, "bad_params", "Malformed").detail("params: `x` is missing"),
                "BadParams",
                "params: `x` is missing.",
            ),
        ] {
            assert_eq!(
                (code(&refusal.code).as_str(), message(refusal).as_str()),
                (said_code, said)
            );
        }
    }
}
