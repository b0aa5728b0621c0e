//! `/v1/requests/{id}…` and `/v1/scopes`.

use std::sync::Arc;

use grantwright_domain::RequestId;
use grantwright_wire::Refusal;
use grantwright_wire::v1::{AnswerRequest, CancelRequest, ReleaseRequest};
use http::StatusCode;
use serde_json::json;

use crate::ask::{answer_text, malformed};
use crate::{Sidecar, params};

use super::reply::{Reply, json, problem, secret, standing};
use super::while_consistent;

/// The scopes this agent may ask for.
pub(super) async fn scopes(sidecar: &Sidecar) -> Reply {
    match sidecar.scopes().await {
        Ok(scopes) => json(StatusCode::OK, &json!({"scopes": *scopes})),
        Err(refusal) => problem(sidecar, &refusal),
    }
}

/// Where the request stands; collects an approved one.
pub(super) async fn get(sidecar: &Arc<Sidecar>, id: &str, query: Option<&str>) -> Reply {
    let parsed =
        while_consistent(sidecar).and_then(|()| Ok((params::wait(query)?, request_id(id)?)));
    let (wait_ms, id) = match parsed {
        Ok(parsed) => parsed,
        Err(refusal) => return problem(sidecar, &refusal),
    };
    let now = sidecar.now();
    let people = sidecar.serves_people(now);
    let kept = sidecar.cache().of_request(id.as_str(), now).filter(|it| people || !it.people);
    if let Some(lease) = kept {
        sidecar.metrics.from_memory.add(1);
        if lease.can_extend() {
            sidecar.used(&lease, now);
        }
        return secret(lease.body.clone());
    }
    let fetched = sidecar.collect(&id, wait_ms).await;
    standing(sidecar, fetched)
}

/// The same as events, until it is granted or has ended.
pub(super) async fn follow(sidecar: &Arc<Sidecar>, id: &str, query: Option<&str>) -> Reply {
    let parsed = while_consistent(sidecar).and_then(|()| match query {
        None => request_id(id),
        Some(_) => Err(malformed("this path takes no query")),
    });
    match parsed {
        Ok(id) => super::events::follow(sidecar, id).await,
        Err(refusal) => problem(sidecar, &refusal),
    }
}

/// Answers a reviewer's question.
pub(super) async fn answer(sidecar: &Arc<Sidecar>, id: &str, body: &[u8]) -> Reply {
    let parsed = while_consistent(sidecar).and_then(|()| Ok((request_id(id)?, answer_text(body)?)));
    let (id, text) = match parsed {
        Ok(parsed) => parsed,
        Err(refusal) => return problem(sidecar, &refusal),
    };
    let sent = sidecar.remember.kept();
    let ask = sidecar.cache().open_ask(id.as_str());
    let request = AnswerRequest { request_id: id.to_string(), text };
    let reply = sidecar.upstream.answer(request).await;
    standing(sidecar, sidecar.settle(reply, sent.as_ref(), ask.as_ref()))
}

/// Ends a request that is still open.
pub(super) async fn cancel(sidecar: &Arc<Sidecar>, id: &str) -> Reply {
    match request_id(id) {
        Ok(id) => end(sidecar, &id).await,
        Err(refusal) => problem(sidecar, &refusal),
    }
}

async fn end(sidecar: &Arc<Sidecar>, id: &RequestId) -> Reply {
    let sent = sidecar.remember.kept();
    let ask = sidecar.cache().open_ask(id.as_str());
    let reply = sidecar.upstream.cancel(CancelRequest { request_id: id.to_string() }).await;
    standing(sidecar, sidecar.settle(reply, sent.as_ref(), ask.as_ref()))
}

/// Ends the lease that the request issued; a request that issued none yet is cancelled.
pub(super) async fn release(sidecar: &Arc<Sidecar>, id: &str) -> Reply {
    let id = match request_id(id) {
        Ok(id) => id,
        Err(refusal) => return problem(sidecar, &refusal),
    };
    let lease_id = match sidecar.cache().of_request(id.as_str(), sidecar.now()) {
        Some(lease) => lease.lease_id.clone(),
        None => String::new(),
    };
    let request = ReleaseRequest { lease_id, request_id: id.to_string() };
    match sidecar.upstream.release(request).await {
        Ok(released) => {
            // Whatever the backend made of it: the client has no more use for it.
            sidecar.cache().evict_request(id.as_str(), sidecar.now());
            let body = json!({
                "request_id": id, "lease_id": released.lease_id, "ended": released.ended,
                "effect": released.effect, "state": "released",
            });
            json(StatusCode::OK, &body)
        }
        Err(refusal) if refusal.code == "not_granted" => end(sidecar, &id).await,
        Err(refusal) => problem(sidecar, &refusal),
    }
}

/// What cannot be a request's id is none: 404, as for another agent's.
fn request_id(text: &str) -> Result<RequestId, Box<Refusal>> {
    RequestId::parse(text).map_err(|_| {
        Box::new(
            Refusal::new(404, "unknown_request", "There is no such request.")
                .next("Check the id; requests of other agents cannot be seen."),
        )
    })
}
