//! Rights that agents handed on, as people see and end them.

use axum::Json;
use axum::extract::{Path, State};
use grantwright_domain::event::DelegationEnded;
use grantwright_domain::{DelegationId, Event};
use grantwright_store::Transition;
use serde_json::json;

use super::{Answer, Person, Shared};
use crate::end::delegated;
use crate::error::of_store;
use crate::rpc::delegations::{shown, unknown};

/// All of them, newest first; what is over for a day is forgotten.
pub async fn list(State(broker): Shared, _: Person) -> Answer {
    let (authority, now) = (broker.authority(), broker.now());
    let mut all: Vec<_> = authority.delegations.iter().collect();
    all.sort_by_key(|(_, d)| std::cmp::Reverse(d.made_at));
    let all: Vec<_> = all.into_iter().filter_map(|(id, _)| shown(&authority, id, now)).collect();
    Ok(Json(json!({ "delegations": all })))
}

/// Ends one, as an operator or the owner of one of its agents: ending is always safe. What rests on it
/// ends with it, or with the next sweep.
pub async fn end(State(broker): Shared, Person(human): Person, Path(id): Path<String>) -> Answer {
    let id = DelegationId::parse(&id).map_err(|_| unknown())?;
    let now = broker.now();
    let event = Event::DelegationEnded(DelegationEnded {
        at: now,
        delegation_id: id.clone(),
        agent: None,
        human: Some(human),
    });
    broker.commit(Transition::authority(vec![event])).await.map_err(of_store)?;
    delegated::settle_apart(&broker).await;
    Ok(Json(shown(&broker.authority(), &id, now).ok_or_else(unknown)?))
}
