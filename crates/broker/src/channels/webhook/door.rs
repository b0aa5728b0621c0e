//! `POST /webhook/decisions`: a decision that a tool hands in for a person.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use grantwright_approval::Channel;
use grantwright_approval::channel::Rejected;
use grantwright_approval::webhook::NAME;

use crate::channels::inbound::{self, Outcome};
use crate::channels::teams::door::delivery;
use crate::error::{no_such_request, refuse};
use crate::http::{Answer, Shared, view};

/// The door: signed by the tool, decided by the person whose token came with it.
pub async fn decisions(State(broker): Shared, headers: HeaderMap, body: Bytes) -> Answer {
    let Some(channel) = &broker.channels.webhook else {
        return Err(refuse(404, "no_such_door", "there is nothing here", "see docs/api.md").into());
    };
    let press = channel.webhook.verify(&delivery(&headers, &body), broker.now());
    let press = press.map_err(|rejected| {
        let status = if matches!(rejected, Rejected::Malformed(_)) { 400 } else { 401 };
        let code = match rejected {
            Rejected::Malformed(_) => "malformed",
            Rejected::Stale => "stale",
            _ => "not_believed",
        };
        refuse(status, code, rejected.to_string(), "see docs/api.md for signing and fields")
    })?;
    match inbound::press(&broker, NAME, press).await {
        Outcome::Done(loaded) => Ok(Json(view::request(&broker, &loaded))),
        Outcome::Repeated => Err(refuse(
            409,
            "repeated",
            "a message with this webhook-id came before",
            "look at the request; decide again under a new webhook-id if it did not do what you want",
        )
        .into()),
        Outcome::Refused(refusal) => Err(refusal.into()),
        Outcome::Unlinked(_) => Err(no_such_request().into()),
    }
}
