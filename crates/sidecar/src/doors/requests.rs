//! `/v1/requests/{id}…` and `/v1/scopes`.

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;

use crate::Sidecar;
use crate::ask::{answer_text, malformed};
use crate::params;

use super::calls::{self, Release};
use super::reply::{Reply, json, problem, standing};
use super::{events, while_consistent};

/// The scopes this agent may ask for.
pub(super) async fn scopes(sidecar: &Sidecar) -> Reply {
    match sidecar.scopes().await {
        Ok(scopes) => json(StatusCode::OK, &json!({"scopes": *scopes})),
        Err(refusal) => problem(sidecar, &refusal),
    }
}

/// Where the request stands; collects an approved one.
pub(super) async fn get(sidecar: &Arc<Sidecar>, id: &str, query: Option<&str>) -> Reply {
    let fetched = calls::look(sidecar, id, params::wait(query)).await;
    standing(sidecar, fetched)
}

/// The same as events, until it is granted or has ended.
pub(super) async fn follow(sidecar: &Arc<Sidecar>, id: &str, query: Option<&str>) -> Reply {
    let parsed = while_consistent(sidecar).and_then(|()| match query {
        None => calls::request_id(id),
        Some(_) => Err(malformed("this path takes no query")),
    });
    match parsed {
        Ok(id) => events::stream(sidecar, id).await,
        Err(refusal) => problem(sidecar, &refusal),
    }
}

/// Answers a reviewer's question.
pub(super) async fn answer(sidecar: &Arc<Sidecar>, id: &str, body: &[u8]) -> Reply {
    let fetched = calls::answer(sidecar, id, answer_text(body)).await;
    standing(sidecar, fetched)
}

/// Ends a request that is still open.
pub(super) async fn cancel(sidecar: &Arc<Sidecar>, id: &str) -> Reply {
    let fetched = calls::cancel(sidecar, id).await;
    standing(sidecar, fetched)
}

/// Ends the lease that the request issued; a request that issued none yet is cancelled.
pub(super) async fn release(sidecar: &Arc<Sidecar>, id: &str) -> Reply {
    match calls::release(sidecar, id).await {
        Ok(Release::Released(it)) => {
            let body = json!({
                "request_id": id, "lease_id": it.lease_id, "ended": it.ended, "effect": it.effect,
                "state": "released",
            });
            json(StatusCode::OK, &body)
        }
        Ok(Release::Cancelled(answer)) => standing(sidecar, Ok(answer)),
        Err(refusal) => problem(sidecar, &refusal),
    }
}
