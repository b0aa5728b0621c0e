//! `POST /slack/interactivity`: Slack's deliveries where no Socket Mode is used. What is authentic is
//! acknowledged at once and worked on after.

use std::collections::BTreeMap;

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use grantwright_approval::channel::Delivery;
use grantwright_domain::Timestamp;

use super::{Refused, Shared};
use crate::error::refuse;

/// Largest delivery: it holds the message that was pressed.
pub const MOST_DELIVERY: usize = 1 << 20;

/// How far a delivery's time may be off, either way (Slack's own advice).
const MOST_AGE_MS: i64 = 5 * 60_000;

/// Takes a delivery.
pub async fn interactivity(
    State(broker): Shared,
    headers: HeaderMap,
    body: Body,
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
    // Who cannot know the signing secret gets no room: neither without a signature and a fresh time,
    // nor while as many deliveries are read as there may be.
    let sent_at = known.get("x-slack-request-timestamp").and_then(|t| t.parse::<i64>().ok());
    let now = broker.now();
    let is_fresh = sent_at
        .and_then(|s| s.checked_mul(1000))
        .is_some_and(|at| now.since(Timestamp::from_millis(at)).abs() <= MOST_AGE_MS);
    if !is_fresh || !known.contains_key("x-slack-signature") {
        let why = "the delivery has no signature, or its time is not now";
        return Err(refuse(401, "stale", why, "only Slack calls this door").into());
    }
    let busy = || refuse(503, "busy", "too much is under way", "press again").retry_after_ms(1000);
    let reading = slack.reading().ok_or_else(busy)?;
    let body = to_bytes(body, MOST_DELIVERY).await.map_err(|_| {
        refuse(
            413,
            "too_large",
            "the delivery is too large or broke off",
            "only Slack calls this door",
        )
    })?;
    let delivery = Delivery { headers: known, body: body.into() };
    let incoming = slack.pure().read_http(&delivery, broker.now()).map_err(|rejected| {
        tracing::warn!(code = rejected.code(), why = %rejected, "a delivery was not taken");
        let status = match rejected.code() {
            "malformed" => 400,
            _ => 401,
        };
        refuse(status, rejected.code(), rejected.to_string(), "only Slack calls this door")
    })?;
    drop(reading);
    let ack = slack.take(&broker, incoming).ok_or_else(busy)?;
    let mut response = Response::new(Body::empty());
    if let Some(payload) = ack.0 {
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        *response.body_mut() = Body::from(payload.to_string());
    }
    Ok(response)
}
