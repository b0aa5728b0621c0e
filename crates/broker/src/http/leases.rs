//! Leases, as people see and end them.

use axum::Json;
use axum::extract::{Path, Query, State};
use grantwright_domain::{AgentId, GroupName, HumanId, LeaseId, RequestState, Timestamp};
use grantwright_mint::Ended;
use grantwright_store::{LeaseFilter, LeaseSummary};
use grantwright_wire::Refusal;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Person, Shared};
use crate::core::Broker;
use crate::end;
use crate::error::{of_store, refuse};

/// `?state=live|all`, and the page: `before` is the `next` of the page before. `agent` and `task`, as it was
/// asked, choose; a page may then be empty and not the last.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    state: Option<String>,
    before: Option<u64>,
    agent: Option<String>,
    task: Option<String>,
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
    let agent = which
        .agent
        .as_deref()
        .map(AgentId::parse)
        .transpose()
        .map_err(|e| refuse(400, "malformed", e.to_string(), "name one agent"))?;
    let filter =
        LeaseFilter { live, agent, before: which.before, limit: PAGE, ..LeaseFilter::default() };
    let mut leases = broker.store.leases(filter).await.map_err(of_store)?;
    let next = leases.get(PAGE as usize - 1).map(|last| last.first_index);
    if let Some(task) = &which.task {
        leases = of_task(&broker, leases, task).await?;
    }
    let authority = broker.authority();
    let owner = |agent| authority.agents.get(agent).and_then(|a| a.owner());
    let early = |scope| {
        let (scope, _) = authority.scope(scope)?;
        broker.minters.get(&scope.minter)?.revocable(scope)
    };
    let now = broker.now();
    let shown: Vec<Value> = leases.iter().filter(|l| !live || l.expires_at > now).map(|l| json!({
        "lease_id": l.id, "request_id": l.request, "agent": l.agent, "owner": owner(&l.agent), "scope": l.scope,
        "state": shown_state(l.state, l.expires_at, now), "expires_at": l.expires_at, "revocable": l.revocable,
        "requested_at": l.requested_at, "early_end": early(&l.scope).filter(|_| l.revocable),
    })).collect();
    let mut out = json!({ "leases": shown });
    if let (Some(next), Value::Object(members)) = (next, &mut out) {
        members.insert("next".into(), next.into());
    }
    Ok(Json(out))
}

/// Those that were asked for this task: its text lies beside the log.
async fn of_task(
    broker: &Broker,
    leases: Vec<LeaseSummary>,
    task: &str,
) -> Result<Vec<LeaseSummary>, Refusal> {
    let mut out = Vec::new();
    for lease in leases {
        let loaded = broker.store.load(&lease.request).await.map_err(of_store)?;
        let texts = loaded.map(|l| l.texts).unwrap_or_default();
        if texts.iter().any(|t| t.name == "task" && t.text == task) {
            out.push(lease);
        }
    }
    Ok(out)
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
    let mut tries = 0;
    loop {
        tries += 1;
        let loaded =
            broker.store.load(&found.request).await.map_err(of_store)?.ok_or_else(unknown)?;
        if !may_end(broker, human, &loaded.state) {
            return Err(refuse(
                403,
                "not_permitted",
                "the agent's owner, its reviewers, security and operators end leases",
                "ask one of them",
            ));
        }
        match end::end_lease(broker, loaded.state, human.as_str()).await {
            // Extended meanwhile, perhaps: that saves no credential from its end.
            Err(refusal) if refusal.code == "changed_meanwhile" && tries < end::RETRIES => {}
            done => return done,
        }
    }
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
