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

use crate::ask::Ask;
use crate::fetch::Answer;
use crate::lease::Lease;
use crate::{Sidecar, params};

use super::reply::{Reply, ended, hints, link, secret, with};
use super::{status, while_consistent};

/// A call is answered within about this time.
const PATIENCE: Duration = Duration::from_millis(1000);

pub(super) async fn get(sidecar: &Arc<Sidecar>, uri: &Uri) -> Reply {
    let answered = tokio::time::timeout(PATIENCE, ask(sidecar, uri)).await;
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

async fn ask(sidecar: &Arc<Sidecar>, uri: &Uri) -> Result<Reply, Box<Refusal>> {
    while_consistent(sidecar)?;
    let scope = uri.path().strip_prefix("/aws/").unwrap_or_default();
    let params = sidecar.typed(scope, params::query(uri.query())?).await;
    let ask = Arc::new(Ask::from_aws(scope, &params, &sidecar.workload)?);
    let raw = uri.path_and_query().map_or("", |it| it.as_str());
    if let Some(lease) = sidecar.lease_for(&ask) {
        sidecar.metrics.from_memory.add(1);
        return granted(sidecar, &lease, raw);
    }
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

fn granted(sidecar: &Sidecar, lease: &Arc<Lease>, raw: &str) -> Result<Reply, Box<Refusal>> {
    let body = lease.aws_body().ok_or_else(|| {
        Box::new(
            Refusal::new(400, "NotAwsCredentials", "This scope gives no AWS credentials.")
                .next("Ask for it with POST /v1/credentials."),
        )
    })?;
    sidecar.cache().remember_raw(raw.as_bytes(), lease, &body, false, sidecar.now());
    Ok(secret(body))
}

/// 403 `ApprovalPending`: SDKs do not retry it for long, and show its message to the agent.
fn waits(sidecar: &Sidecar, request_id: &str, it: &Pending) -> Refusal {
    let link = link(sidecar, request_id, it);
    let at = if link.is_empty() { link } else { format!(" at {link}") };
    let missing = it.votes_needed.saturating_sub(it.votes_have);
    let title = if let Some(question) = &it.question {
        let asked = grantwright_domain::text::visible(&question.text);
        format!("Request {request_id} has an open question by {}: {asked}", question.by)
    } else if it.approved {
        format!("Request {request_id} is approved: try again.")
    } else {
        format!("Request {request_id} waits for {missing} approval(s){at}.")
    };
    Refusal::new(403, "ApprovalPending", title).request_id(request_id)
}

/// Exactly `{"code","message"}`, as the protocol has it. botocore shows the whole body.
pub(super) fn error(sidecar: &Sidecar, refusal: &Refusal) -> Reply {
    sidecar.metrics.refused.add(1);
    let mut message = refusal.title.clone();
    for more in [&refusal.detail, &refusal.next] {
        if !more.is_empty() {
            message.push(' ');
            message.push_str(more);
        }
    }
    if !refusal.request_id.is_empty() && !message.contains(&refusal.request_id) {
        message.push_str(&format!(" (request {})", refusal.request_id));
    }
    let body = json!({"code": refusal.code, "message": message}).to_string();
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
