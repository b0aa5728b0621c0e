//! `POST /slack/interactivity`: Slack's deliveries where no Socket Mode is used. What is authentic is
//! acknowledged at once and worked on after.

use std::collections::BTreeMap;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use grantwright_approval::channel::Delivery;

use super::{Refused, Shared};
use crate::error::refuse;

/// Largest delivery: it holds the message that was pressed.
pub const MOST_DELIVERY: usize = 1 << 20;

/// Takes a delivery.
pub async fn interactivity(
    State(broker): Shared,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let Some(slack) = &broker.channels.slack else {
        return Err(
            refuse(404, "no_such_door", "Slack is not configured", "see docs/api.md").into()
        );
    };
    let mut known = BTreeMap::new();
    for name in ["x-slack-signature", "x-slack-request-timestamp"] {
        let mut values = headers.get_all(name).iter();
        if let (Some(value), None) = (values.next(), values.next())
            && let Ok(text) = value.to_str()
        {
            known.insert(name.to_owned(), text.to_owned());
        }
    }
    let delivery = Delivery { headers: known, body: body.to_vec() };
    let incoming = slack.pure().read_http(&delivery, broker.now()).map_err(|rejected| {
        tracing::warn!(code = rejected.code(), why = %rejected, "a delivery was not taken");
        let status = match rejected.code() {
            "malformed" => 400,
            _ => 401,
        };
        refuse(status, rejected.code(), rejected.to_string(), "only Slack calls this door")
    })?;
    let ack = slack.take(&broker, incoming).ok_or_else(|| {
        refuse(503, "busy", "too much is under way", "press again").retry_after_ms(1000)
    })?;
    let mut response = Response::new(Body::empty());
    if let Some(payload) = ack.0 {
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        *response.body_mut() = Body::from(payload.to_string());
    }
    Ok(response)
}
