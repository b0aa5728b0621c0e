//! Leases, as people see and end them.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Path, Query, State};
use grantwright_domain::request::LeaseState;
use grantwright_domain::{
    AgentId, Authority, GroupName, HumanId, LeaseId, RequestState, Timestamp,
};
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
/// asked, choose; a page may then be empty and not the last. `hidden` adds those to the first page that live
/// and whose rows do not say so: for whoever means to end them all.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    state: Option<String>,
    before: Option<u64>,
    agent: Option<String>,
    task: Option<String>,
    hidden: Option<bool>,
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
    let filter = LeaseFilter {
        live,
        agent: agent.clone(),
        before: which.before,
        limit: PAGE,
        ..LeaseFilter::default()
    };
    let mut leases = broker.store.leases(filter).await.map_err(of_store)?;
    let next = leases.get(PAGE as usize - 1).map(|last| last.first_index);
    if live && which.before.is_none() && which.hidden == Some(true) {
        leases.extend(hidden(&broker, agent.as_ref()).await?);
    }
    if let Some(task) = &which.task {
        leases = of_task(&broker, leases, task).await?;
    }
    let authority = broker.authority();
    let owner = |agent| authority.agents.get(agent).and_then(|a| a.owner());
    let early = |scope| {
        let (scope, _) = authority.scope(scope)?;
        broker.minters.get(&scope.minter)?.revocable(scope)
    };
    // What this broker ends by itself waits for nobody.
    let at_backend = |scope| {
        let minter = authority.scope(scope).and_then(|(s, _)| broker.minters.get(&s.minter));
        minter.is_none_or(|minter| minter.signer().is_none())
    };
    let now = broker.now();
    let shown: Vec<Value> = leases.iter().filter(|l| !live || l.expires_at > now).map(|l| json!({
        "lease_id": l.id, "request_id": l.request, "agent": l.agent, "owner": owner(&l.agent), "scope": l.scope,
        "state": shown_state(l.state, l.expires_at, now), "expires_at": l.expires_at,
        "revocable": can_end(&broker, &authority, l), "requested_at": l.requested_at,
        "early_end": early(&l.scope).filter(|_| can_end(&broker, &authority, l)),
        "at_backend": at_backend(&l.scope),
    })).collect();
    let mut out = json!({ "leases": shown });
    if let (Some(next), Value::Object(members)) = (next, &mut out) {
        members.insert("next".into(), next.into());
    }
    Ok(Json(out))
}

/// Leases that live, by the store's memory, and are in no row of those that do: somebody writes to the
/// database.
async fn hidden(broker: &Broker, agent: Option<&AgentId>) -> Result<Vec<LeaseSummary>, Refusal> {
    let living = end::living(broker, agent).await?;
    let mut told = BTreeSet::new();
    let mut filter = LeaseFilter { live: true, agent: agent.cloned(), ..LeaseFilter::default() };
    loop {
        let page = broker.store.leases(filter.clone()).await.map_err(of_store)?;
        let Some(last) = page.last() else { break };
        filter.before = Some(last.first_index);
        told.extend(page.into_iter().map(|lease| lease.request));
    }
    let mut out = Vec::new();
    for id in living.into_iter().filter(|id| !told.contains(id)) {
        let Some(loaded) = broker.store.load(&id).await.map_err(of_store)? else {
            tracing::error!(request = %id, "ALARM: the row of a live lease was deleted");
            continue;
        };
        let state = loaded.state;
        let Some(lease) = state.lease else { continue };
        // Or it ended meanwhile.
        if matches!(lease.state, LeaseState::Live | LeaseState::Withdrawn) {
            tracing::error!(request = %id, "ALARM: the row of a live lease was edited to hide it");
            out.push(LeaseSummary {
                id: lease.id,
                request: id,
                agent: state.terms.agent,
                instance: state.terms.instance,
                scope: state.terms.scope,
                state: lease.state,
                expires_at: lease.expires_at,
                revocable: lease.revocable,
                first_index: loaded.leaves.first().map_or(0, |(index, _)| *index),
                requested_at: state.requested_at,
            });
        }
    }
    Ok(out)
}

/// Whether a lease can be ended early, as things are now: it may have been made before a restart.
pub(crate) fn can_end(broker: &Broker, authority: &Authority, lease: &LeaseSummary) -> bool {
    // Of a scope that is gone, its template tells when it is ended.
    let Some((scope, _)) = authority.scope(&lease.scope) else { return lease.revocable };
    let minter = broker.minters.get(&scope.minter);
    lease.revocable && minter.is_some_and(|minter| minter.can_end(&lease.id))
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
    state: LeaseState,
    expires_at: Timestamp,
    now: Timestamp,
) -> &'static str {
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
    // No row says which it is: one could name another, or none.
    let request = id.request().ok_or_else(unknown)?;
    let mut tries = 0;
    loop {
        tries += 1;
        let loaded = broker.store.load(&request).await.map_err(of_store)?.ok_or_else(unknown)?;
        if loaded.state.lease.as_ref().is_none_or(|lease| lease.id != id) {
            return Err(unknown());
        }
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

#[cfg(test)]
mod tests {
    use grantwright_domain::RequestId;

    use super::*;
    use crate::issue::rig::{Rig, human, id_of};

    #[tokio::test]
    async fn invariant_24_a_lease_whose_row_hides_it_or_names_another_is_shown_and_ended() {
        let rig = Rig::new().await;
        let mut ids = Vec::new();
        for (dataset, key) in [("sales", "k1"), ("orders", "k2")] {
            let ask = rig.ask("account", &format!(r#"{{"dataset":"{dataset}"}}"#), key);
            let id = id_of(&rig.issue(ask).await.expect("granted"));
            ids.push(RequestId::parse(&id).unwrap());
        }
        let lease = async |id: &RequestId| {
            rig.broker.store.load(id).await.unwrap().unwrap().state.lease.unwrap()
        };
        let (one, other) = (lease(&ids[0]).await.id, lease(&ids[1]).await.id);
        assert!(hidden(&rig.broker, None).await.unwrap().is_empty());
        let sql = |text: String| {
            let db = rusqlite::Connection::open(rig.dir().join("store.db")).unwrap();
            assert_eq!(db.execute(&text, []).unwrap(), 1, "`{text}`");
        };
        // The first is hidden, and its name stands on the second.
        sql(format!(
            "UPDATE requests SET lease_state = 'expired', due_ms = NULL, agent = 'other', lease_id = 'lnone' \
             WHERE id = '{}'",
            ids[0]
        ));
        sql(format!("UPDATE requests SET lease_id = '{one}' WHERE id = '{}'", ids[1]));
        let shown = hidden(&rig.broker, Some(&rig.caller.agent)).await.unwrap();
        assert_eq!(shown.iter().map(|l| &l.id).collect::<Vec<_>>(), [&one]);
        let ended = end_as(&rig.broker, &human("alice"), one.as_str()).await.expect("ended");
        assert!(ended.ended, "{ended:?}");
        assert_eq!(lease(&ids[0]).await.state, LeaseState::Revoked);
        assert_eq!(lease(&ids[1]).await.state, LeaseState::Live, "nobody meant that one");
        let refused = end_as(&rig.broker, &human("alice"), "lnone").await.expect_err("none");
        assert_eq!(refused.code, "unknown_lease");
        end_as(&rig.broker, &human("alice"), other.as_str()).await.expect("ended");
        assert_eq!(lease(&ids[1]).await.state, LeaseState::Revoked);
    }
}
