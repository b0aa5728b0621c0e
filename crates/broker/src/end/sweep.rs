//! What ends by itself: what is due, what nobody acknowledged, and what rests on rights that were
//! lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use grantwright_domain::event::Expired;
use grantwright_domain::request::{Lease, LeaseState};
use grantwright_domain::{
    Authority, Event, RequestId, RequestState, Rights, Timestamp, VerdictKind,
};
use grantwright_store::{Loaded, Transition};
use grantwright_wire::Refusal;

use super::crash::resolve_unfinished;
use super::many::Many;
use super::{delegated, each, end_lease, faulty, ignore_conflict, living};
use crate::core::Broker;
use crate::ended;
use crate::error::of_store;
use crate::issue::{approve, deliver, sticky};

const SWEEP: Duration = Duration::from_millis(500);
/// Side rows that ended go every so many sweeps; nobody sees them before.
const SIDE_ROUNDS: u64 = 60;
/// Most of each kind on one page of a sweep, and most pages: the next sweep goes on with what is left.
const SWEEP_MOST: u32 = 500;
const SWEEP_PAGES: usize = 20;

/// Where the next sweep goes on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Among what is due: past this.
    pub(super) due: Option<(Timestamp, u64)>,
    /// Among sealed copies that nobody acknowledged: past so many, which are left.
    sealed: u64,
}

/// Ends what is due, and beside it what rests on rights that were lost, again and again, until the process ends:
/// neither waits for the backends of the other.
pub async fn run(broker: Arc<Broker>) {
    tokio::join!(due(&broker), rights(&broker));
}

async fn rights(broker: &Arc<Broker>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        if broker.consistent().is_ok()
            && let Err(refusal) = rights_on(broker).await
        {
            tracing::warn!(code = refusal.code, "the sweep of lost rights was refused");
        }
    }
}

/// Ends what rests on approvals that no longer count, and on delegations that are over.
async fn rights_on(broker: &Arc<Broker>) -> Result<(), Refusal> {
    let now = broker.now();
    let (approvals, delegations) =
        tokio::join!(without_approvers(broker, now), delegated::settle(broker, now));
    approvals.and(delegations)
}

async fn due(broker: &Arc<Broker>) {
    let mut from = Place::default();
    for round in 0u64.. {
        tokio::time::sleep(SWEEP).await;
        if round % SIDE_ROUNDS == 0
            && let Err(e) = broker.store.side_delete_expired(broker.now()).await
        {
            tracing::warn!(error = %e, "ended side rows stay until the next sweep");
        }
        if broker.consistent().is_err() {
            continue;
        }
        if let Err(refusal) = on(broker, &mut from).await {
            tracing::warn!(code = refusal.code, "the sweep was refused");
        }
    }
}

/// Ends what is due, from the first on.
#[cfg(test)]
pub(crate) async fn once(broker: &Arc<Broker>) -> Result<(), Refusal> {
    on(broker, &mut Place::default()).await.and(rights_on(broker).await)
}

/// Ends what is due, once, and goes on where the last sweep stopped: rows that never go, however many
/// somebody wrote, keep none of ours waiting for good. What one row, request or backend refuses keeps nobody
/// else from its end: it is counted, told, and tried again with a later sweep.
pub(super) async fn on(broker: &Arc<Broker>, from: &mut Place) -> Result<(), Refusal> {
    let now = broker.now();
    for _ in 0..SWEEP_PAGES {
        let due = broker.store.due(now, SWEEP_MOST, from.due).await.map_err(of_store)?;
        if due.malformed > 0 {
            faulty(broker, due.malformed, "rows were written behind the broker's back");
        }
        let ids = due.requests.into_iter().chain(due.leases.into_iter().map(|(_, id)| id));
        each(broker, ids, move |broker, id| async move { end_due(&broker, &id, now).await }).await;
        from.due = due.next;
        if from.due.is_none() {
            break;
        }
    }
    // After what is due: a lease that is over anyway needs no revocation.
    unacknowledged(broker, &mut from.sealed, now).await?;
    // Each of these goes its own way, so that a fault of one is none of the others.
    let parts = [resolve_unfinished(broker).await.map(drop), ended::restore_overflow(broker).await];
    broker.ended.sweep(now);
    sticky::sweep(broker, now);
    let mut acknowledged = broker.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
    acknowledged.retain(|_, mine| {
        mine.retain(|_, at| now.since(*at) < 2 * deliver::REDELIVER_MS);
        !mine.is_empty()
    });
    drop(acknowledged);
    let mut sealed = broker.sealed.lock().unwrap_or_else(PoisonError::into_inner);
    sealed.retain(|_, (_, at)| now.since(*at) < 2 * deliver::REDELIVER_MS);
    drop(sealed);
    parts.into_iter().collect()
}

/// Ends a request, or the lease of one, whose time is over.
async fn end_due(broker: &Broker, id: &RequestId, now: Timestamp) -> Result<(), Refusal> {
    let Some(loaded) = broker.store.load(id).await.map_err(of_store)? else { return Ok(()) };
    let state = loaded.state;
    if state.phase.is_open() {
        if now >= state.expires_at() {
            approve::expire(broker, state, now).await?;
        }
        return Ok(());
    }
    let Some(lease) = state.lease.clone() else { return Ok(()) };
    if !matches!(lease.state, LeaseState::Live | LeaseState::Withdrawn) || lease.expires_at > now {
        return Ok(());
    }
    let event = Event::Expired(Expired {
        at: now.max(state.last_at),
        digest: state.digest,
        request_id: id.clone(),
        lease_id: Some(lease.id),
    });
    ignore_conflict(broker.commit(Transition::at(state, vec![event])).await)
}

/// How often the approvals behind live leases are looked at.
const APPROVERS_MS: i64 = 5_000;

/// Ends live leases whose approvals no longer count, where their scope's risk says so: the people lost
/// their right after the credential was made.
async fn without_approvers(broker: &Arc<Broker>, now: Timestamp) -> Result<(), Refusal> {
    let risks = &broker.config.guards.end_with_approvers;
    if risks.is_empty() || !broker.approvers_due(now, APPROVERS_MS) {
        return Ok(());
    }
    let authority = broker.authority();
    let why = move |broker: &Broker, loaded: &Loaded| {
        let lost = !approved_still(broker, &authority, &loaded.state, now);
        Ok(lost.then_some("its approvals no longer count"))
    };
    let mut many = Many::new(broker, "broker", why);
    for id in living(broker, None).await? {
        many.look_at(id).await;
    }
    many.finish().await;
    Ok(())
}

/// False for a live lease of such a risk whose approvals no longer make its quorum.
fn approved_still(
    broker: &Broker,
    authority: &Authority,
    state: &RequestState,
    now: Timestamp,
) -> bool {
    let lives = |l: &Lease| l.state == LeaseState::Live && l.expires_at > now;
    let risks = &broker.config.guards.end_with_approvers;
    let risk = authority.scope(&state.terms.scope).map(|(s, _)| s.labels.risk.clone());
    if !state.lease.as_ref().is_some_and(lives) || risk.is_none_or(|r| !risks.contains(&r)) {
        return true;
    }
    let quorum = match &state.verdict {
        Some(v) if v.kind == VerdictKind::Ask => v.quorum as usize,
        _ => return true,
    };
    state.standing(Rights::Now(authority), now).len() >= quorum
}

/// A sealed copy that nobody acknowledged in time is deleted, and its lease revoked where possible; in this
/// order, so that one whose end could not be written is found again.
async fn unacknowledged(
    broker: &Arc<Broker>,
    skip: &mut u64,
    now: Timestamp,
) -> Result<(), Refusal> {
    for _ in 0..SWEEP_PAGES {
        let page = broker.store.unacknowledged(now, SWEEP_MOST, *skip).await.map_err(of_store)?;
        if page.malformed > 0 {
            faulty(broker, page.malformed, "sealed copies were written behind the broker's back");
        }
        let found = page.malformed + page.requests.len() as u64;
        let over = Arc::new(Mutex::new(Vec::new()));
        let done = Arc::clone(&over);
        each(broker, page.requests, move |broker, id| {
            let done = Arc::clone(&done);
            async move {
                end_unacknowledged(&broker, &id).await?;
                done.lock().unwrap_or_else(PoisonError::into_inner).push(id);
                Ok(())
            }
        })
        .await;
        let over = std::mem::take(&mut *over.lock().unwrap_or_else(PoisonError::into_inner));
        let left = found.saturating_sub(over.len() as u64);
        if !over.is_empty() {
            broker.store.unseal(over).await.map_err(of_store)?;
        }
        if !page.more {
            *skip = 0;
            return Ok(());
        }
        *skip += left;
    }
    Ok(())
}

async fn end_unacknowledged(broker: &Broker, id: &RequestId) -> Result<(), Refusal> {
    let loaded = broker.store.load(id).await.map_err(of_store)?;
    let Some(state) = loaded.map(|l| l.state) else { return Ok(()) };
    if !state.lease.as_ref().is_some_and(|l| l.revocable && l.state == LeaseState::Live) {
        return Ok(());
    }
    end_lease(broker, state, "broker").await.map(drop)
}
