use http::StatusCode;
use http::header::HeaderValue;
use serde_json::json;

use crate::Sidecar;

use super::reply::{Reply, json, with};

/// The process answers.
pub(super) fn alive() -> Reply {
    json(StatusCode::OK, &json!({"status": "alive"}))
}

/// New asks can be answered.
pub(super) fn ready(sidecar: &Sidecar) -> Reply {
    match sidecar.readiness() {
        Ok(()) => json(StatusCode::OK, &json!({"status": "ready"})),
        Err(why) => {
            json(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "not ready", "why": why}))
        }
    }
}

/// OpenAPI 3.1 of all these doors; a test holds it against what they answer.
pub(super) fn description() -> Reply {
    let text: &'static [u8] = include_bytes!("../../openapi.json");
    with(StatusCode::OK, HeaderValue::from_static("application/json"), text)
}

/// The checkpoints of the log that this sidecar verified: to be compared with others'.
pub(super) fn checkpoints(sidecar: &Sidecar) -> Reply {
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    with(StatusCode::OK, kind, sidecar.remember.seen())
}

/// Prometheus' text format.
pub(super) fn metrics(sidecar: &Sidecar) -> Reply {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    with(StatusCode::OK, kind, sidecar.metrics_text())
}
