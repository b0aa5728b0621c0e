//! Leases, as people see and end them.

use axum::Json;
use axum::extract::{Path, Query, State};
use grantwright_domain::{GroupName, HumanId, LeaseId, RequestState, Timestamp};
use grantwright_mint::Ended;
use grantwright_store::LeaseFilter;
use grantwright_wire::Refusal;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Person, Shared};
use crate::core::Broker;
use crate::end;
use crate::error::{of_store, refuse};

/// `?state=live|all`, and the page: `before` is the `next` of the page before.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    state: Option<String>,
    before: Option<u64>,
}

/// Leases on a page.
const PAGE: u32 = 1000;

/// Leases, newest first; `next` is there while there may be more.
pub async fn list(State(broker): Shared, _: Person, Query(which): Query<Which>) -> Answer {
    let live = match which.state.as_deref() {
        Some("all") => false,
        None | Some("live") => true,
        Some(_) => {
            return Err(refuse(400, "malformed", "`state` is `live` or `all`", "correct it").into());
        }
    };
    let filter = LeaseFilter { live, before: which.before, limit: PAGE, ..LeaseFilter::default() };
    let leases = broker.store.leases(filter).await.map_err(of_store)?;
    let next = leases.get(PAGE as usize - 1).map(|last| last.first_index);
    let authority = broker.authority();
    let owner = |agent| authority.agents.get(agent).and_then(|a| a.owner());
    let now = broker.now();
    let shown: Vec<Value> = leases.iter().filter(|l| !live || l.expires_at > now).map(|l| json!({
        "lease_id": l.id, "request_id": l.request, "agent": l.agent, "owner": owner(&l.agent), "scope": l.scope,
        "state": shown_state(l.state, l.expires_at, now), "expires_at": l.expires_at, "revocable": l.revocable,
    })).collect();
    let mut out = json!({ "leases": shown });
    if let (Some(next), Value::Object(members)) = (next, &mut out) {
        members.insert("next".into(), next.into());
    }
    Ok(Json(out))
}

/// A lease past its end has ended, whether or not its leaf is written yet.
pub(crate) fn shown_state(
    state: grantwright_domain::request::LeaseState,
    expires_at: Timestamp,
    now: Timestamp,
) -> &'static str {
    use grantwright_domain::request::LeaseState;
    match state {
        LeaseState::Live if expires_at <= now => "expired",
        LeaseState::Live => "live",
        LeaseState::Withdrawn if expires_at <= now => "expired",
        LeaseState::Withdrawn => "withdrawn",
        LeaseState::Revoked => "revoked",
        LeaseState::Expired => "expired",
    }
}

/// Ends a lease: ending is always safe, so owner, reviewer, security and operators may.
pub async fn revoke(
    State(broker): Shared,
    Person(human): Person,
    Path(id): Path<String>,
) -> Answer {
    let ended = end_as(&broker, &human, &id).await?;
    Ok(Json(
        json!({ "lease_id": id, "state": if ended.ended { "revoked" } else { "withdrawn" }, "ended": ended.ended, "effect": ended.effect }),
    ))
}

/// Ends a lease as this person.
///
/// # Errors
/// 404, 403 when they may not, 409 when it is not live.
pub(crate) async fn end_as(broker: &Broker, human: &HumanId, id: &str) -> Result<Ended, Refusal> {
    let unknown = || refuse(404, "unknown_lease", "there is no such lease", "list the leases");
    let id = LeaseId::parse(id).map_err(|_| unknown())?;
    let found = broker.store.lease(&id).await.map_err(of_store)?.ok_or_else(unknown)?;
    let loaded = broker.store.load(&found.request).await.map_err(of_store)?.ok_or_else(unknown)?;
    if !may_end(broker, human, &loaded.state) {
        return Err(refuse(
            403,
            "not_permitted",
            "the agent's owner, its reviewers, security and operators end leases",
            "ask one of them",
        ));
    }
    end::end_lease(broker, loaded.state, human.as_str()).await
}

fn may_end(broker: &Broker, human: &HumanId, state: &RequestState) -> bool {
    let authority = broker.authority();
    let groups = authority.groups_of(human, broker.now());
    let in_group = |name: &str| GroupName::parse(name).is_ok_and(|g| groups.contains(&g));
    let reviews = match &state.verdict {
        Some(v) if !v.approvers.is_empty() => v.approvers.iter().all(|g| groups.contains(g)),
        _ => in_group("reviewers"),
    };
    authority.is_operator(human)
        || in_group("security")
        || reviews
        || authority.agents.get(&state.terms.agent).is_some_and(|a| a.owner() == Some(human))
}
