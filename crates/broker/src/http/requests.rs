//! Requests, as people see and decide them.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use grantwright_domain::{AgentId, Digest, RequestId};
use grantwright_store::RequestFilter;
use serde::Deserialize;
use serde_json::{Value, json};

use super::console::desk;
use super::{Answer, Person, Shared, body, view};
use crate::error::{no_such_request, of_store, refuse};
use crate::people::{self, Actor, Intention};

/// `?state=…&agent=…&limit=…`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    state: Option<String>,
    agent: Option<String>,
    limit: Option<u32>,
}

fn request_id(text: &str) -> Result<RequestId, super::Refused> {
    Ok(RequestId::parse(text).map_err(|_| no_such_request())?)
}

/// Requests, newest first.
pub async fn list(State(broker): Shared, _: Person, Query(which): Query<Which>) -> Answer {
    let malformed = |what: &str| refuse(400, "malformed", what.to_owned(), "see docs/api.md");
    let open = match which.state.as_deref() {
        None | Some("pending") => true,
        Some("all") => false,
        Some(_) => return Err(malformed("`state` is `pending` or `all`").into()),
    };
    let agent = match which.agent {
        Some(name) => Some(AgentId::parse(&name).map_err(|e| malformed(&e.to_string()))?),
        None => None,
    };
    let limit = which.limit.unwrap_or(200).clamp(1, 1000);
    let filter = RequestFilter { open, agent, limit, ..RequestFilter::default() };
    let mut shown = Vec::new();
    for summary in broker.store.list(filter).await.map_err(of_store)? {
        if let Some(loaded) = desk::proven(&broker, &summary).await? {
            let expired = loaded.state.phase.is_open() && broker.now() >= loaded.state.expires_at();
            if !open || (loaded.state.phase.is_open() && !expired) {
                shown.push(view::request(&broker, &loaded));
            }
        }
    }
    Ok(Json(json!({ "requests": shown })))
}

/// One request in full.
pub async fn show(State(broker): Shared, _: Person, Path(id): Path<String>) -> Answer {
    let loaded = broker
        .store
        .load(&request_id(&id)?)
        .await
        .map_err(of_store)?
        .ok_or_else(no_such_request)?;
    Ok(Json(view::request(&broker, &loaded)))
}

/// Its leaves, in order.
pub async fn events(State(broker): Shared, _: Person, Path(id): Path<String>) -> Answer {
    let id = request_id(&id)?;
    let loaded = broker.store.load(&id).await.map_err(of_store)?.ok_or_else(no_such_request)?;
    let events: Vec<Value> = loaded
        .leaves
        .iter()
        .map(|(index, event)| {
            let mut shown = serde_json::to_value(event).unwrap_or_default();
            if let Value::Object(map) = &mut shown {
                map.insert("index".into(), (*index).into());
            }
            shown
        })
        .collect();
    Ok(Json(json!({ "request_id": id, "events": events })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Approve {
    digest: Digest,
    reason: Option<String>,
    seen: Option<u64>,
    confirm: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deny {
    digest: Digest,
    reason: Option<String>,
    #[serde(default)]
    reason_code: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    digest: Digest,
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Narrow {
    digest: Digest,
    ttl: Option<String>,
    params: Option<Value>,
    confirm: Option<String>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Withdraw {
    digest: Digest,
}

async fn act(
    broker: &crate::core::Broker,
    human: grantwright_domain::HumanId,
    id: &str,
    digest: Digest,
    what: Intention,
) -> Answer {
    because(broker, human, id, digest, what, None).await
}

async fn because(
    broker: &crate::core::Broker,
    human: grantwright_domain::HumanId,
    id: &str,
    digest: Digest,
    what: Intention,
    why: Option<&str>,
) -> Answer {
    let actor = Actor { human, channel: "api" };
    let loaded = people::because(broker, &actor, &request_id(id)?, digest, &what, why).await?;
    Ok(Json(view::request(broker, &loaded)))
}

/// Approves this digest.
pub async fn approve(
    State(broker): Shared,
    Person(human): Person,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Answer {
    let b: Approve = body(&bytes)?;
    let what = Intention::Approve { reason: b.reason, seen: b.seen, confirm: b.confirm };
    act(&broker, human, &id, b.digest, what).await
}

/// Denies it.
pub async fn deny(
    State(broker): Shared,
    Person(human): Person,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Answer {
    let b: Deny = body(&bytes)?;
    act(
        &broker,
        human,
        &id,
        b.digest,
        Intention::Deny { reason: b.reason, reason_code: b.reason_code },
    )
    .await
}

/// Asks back.
pub async fn ask(
    State(broker): Shared,
    Person(human): Person,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Answer {
    let b: Ask = body(&bytes)?;
    act(&broker, human, &id, b.digest, Intention::Ask { text: b.text }).await
}

/// Narrows it, and approves what it becomes.
pub async fn narrow(
    State(broker): Shared,
    Person(human): Person,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Answer {
    let b: Narrow = body(&bytes)?;
    let ttl_s = match b.ttl.as_deref().map(grantwright_domain::time::parse_ttl) {
        Some(Ok(s)) => Some(s),
        Some(Err(e)) => return Err(refuse(400, "bad_ttl", e, "for example 5m").into()),
        None => None,
    };
    let what = Intention::Narrow { ttl_s, params: b.params, confirm: b.confirm };
    because(&broker, human, &id, b.digest, what, b.reason.as_deref()).await
}

/// Takes an approval back.
pub async fn withdraw(
    State(broker): Shared,
    Person(human): Person,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Answer {
    let b: Withdraw = body(&bytes)?;
    act(&broker, human, &id, b.digest, Intention::Withdraw).await
}
