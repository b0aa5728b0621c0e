//! Rights that agents handed on, as people see and end them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use grantwright_domain::event::DelegationEnded;
use grantwright_domain::{Authority, DelegationId, Event, HumanId, Timestamp};
use grantwright_store::Transition;
use grantwright_wire::Refusal;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Answer, Person, Shared};
use crate::core::Broker;
use crate::end::delegated;
use crate::error::{of_store, refuse};
use crate::rpc::delegations::{shown, unknown};

/// `?state=live|all`; all unless given.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    state: Option<String>,
}

/// All of them, newest first; what is over for a day is forgotten.
pub async fn list(State(broker): Shared, _: Person, Query(which): Query<Which>) -> Answer {
    let live = match which.state.as_deref() {
        Some("live") => true,
        None | Some("all") => false,
        Some(_) => {
            return Err(refuse(400, "malformed", "`state` is `live` or `all`", "correct it").into());
        }
    };
    let (authority, now) = (broker.authority(), broker.now());
    let chosen = authority.delegations.iter().filter(|(_, d)| !live || d.is_live(now));
    let mut all: Vec<_> = chosen.collect();
    all.sort_by_key(|(_, d)| std::cmp::Reverse(d.made_at));
    let all: Vec<_> = all.into_iter().filter_map(|(id, _)| one(&authority, id, now)).collect();
    Ok(Json(json!({ "delegations": all })))
}

/// One of them.
pub async fn show(State(broker): Shared, _: Person, Path(id): Path<String>) -> Answer {
    let id = DelegationId::parse(&id).map_err(|_| unknown())?;
    Ok(Json(one(&broker.authority(), &id, broker.now()).ok_or_else(unknown)?))
}

/// Ends one, as an operator or the owner of one of its agents: ending is always safe. What rests on it
/// ends with it, or with the next sweep.
pub async fn end(State(broker): Shared, Person(human): Person, Path(id): Path<String>) -> Answer {
    Ok(Json(end_as(&broker, &human, &id).await?))
}

/// Ends a delegation for a person.
///
/// # Errors
/// 404, or 403 where they are no owner of one of its agents and no operator.
pub(super) async fn end_as(
    broker: &Arc<Broker>,
    human: &HumanId,
    id: &str,
) -> Result<Value, Refusal> {
    let id = DelegationId::parse(id).map_err(|_| unknown())?;
    let now = broker.now();
    let event = Event::DelegationEnded(DelegationEnded {
        at: now,
        delegation_id: id.clone(),
        agent: None,
        human: Some(human.clone()),
    });
    broker.commit(Transition::authority(vec![event])).await.map_err(of_store)?;
    delegated::settle_apart(broker).await;
    one(&broker.authority(), &id, now).ok_or_else(unknown)
}

/// As agents see it, with who owns the agents: they and operators may end it.
fn one(authority: &Authority, id: &DelegationId, now: Timestamp) -> Option<Value> {
    let mut out = shown(authority, id, now)?;
    let agents = authority.delegations.get(id)?.agents();
    let owner = |agent| Some((authority.agents.get(agent)?, agent));
    let owners: Map<String, Value> = agents
        .filter_map(owner)
        .map(|(known, agent)| (agent.to_string(), json!(known.owner())))
        .collect();
    if let Value::Object(map) = &mut out {
        map.insert("owners".into(), owners.into());
    }
    Some(out)
}
