//! Step 8: how requests and leases end by themselves, by people, and after a crash.

pub mod delegated;
pub mod extend;
mod many;
pub mod queue;
pub mod rights;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use grantwright_domain::event::{Cancelled, Expired, Revoked, Unknown};
use grantwright_domain::request::{Lease, LeaseState};
use grantwright_domain::{
    AgentId, Authority, Event, InstanceId, LeaseId, RequestId, RequestState, Rights, Timestamp,
    VerdictKind,
};
use grantwright_mint::Ended;
use grantwright_store::{Loaded, RequestFilter, StoreError, Transition};
use grantwright_wire::Refusal;
use tokio::task::{JoinError, JoinSet};

use crate::core::Broker;
use crate::ended;
use crate::error::{of_store, refuse};
use crate::issue::{approve, deliver, sticky};
use crate::wake::Tidings;
use many::Many;

const SWEEP: Duration = Duration::from_millis(500);
/// Longest look for what an unrecorded mint made.
const UNDO: Duration = Duration::from_secs(10);
/// How often a step is tried again when others change the same request.
pub(crate) const RETRIES: usize = 8;
/// Side rows that ended go every so many sweeps; nobody sees them before.
const SIDE_ROUNDS: u64 = 60;
/// Most of each kind on one page of a sweep, and most pages: the next sweep goes on with what is left.
const SWEEP_MOST: u32 = 500;
const SWEEP_PAGES: usize = 20;

/// Where the next sweep goes on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Among what is due: past this.
    due: Option<(Timestamp, u64)>,
    /// Among sealed copies that nobody acknowledged: past so many, which are left.
    sealed: u64,
}

/// Ends what is due, and beside it what rests on rights that were lost, again and again, until the process ends:
/// neither waits for the backends of the other.
pub async fn sweep(broker: Arc<Broker>) {
    tokio::join!(sweep_due(&broker), sweep_rights(&broker));
}

async fn sweep_rights(broker: &Arc<Broker>) {
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

async fn sweep_due(broker: &Arc<Broker>) {
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
        if let Err(refusal) = sweep_on(broker, &mut from).await {
            tracing::warn!(code = refusal.code, "the sweep was refused");
        }
    }
}

/// Ends what is due, from the first on.
#[cfg(test)]
pub(crate) async fn sweep_once(broker: &Arc<Broker>) -> Result<(), Refusal> {
    sweep_on(broker, &mut Place::default()).await.and(rights_on(broker).await)
}

/// Ends what is due, once, and goes on where the last sweep stopped: rows that never go, however many
/// somebody wrote, keep none of ours waiting for good. What one row, request or backend refuses keeps nobody
/// else from its end: it is counted, told, and tried again with a later sweep.
pub(crate) async fn sweep_on(broker: &Arc<Broker>, from: &mut Place) -> Result<(), Refusal> {
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

/// Does `one` for each, so many at a time: they share commits, and backends are not flooded. What fails is
/// counted and told; how many did is returned.
async fn each<T, F>(
    broker: &Arc<Broker>,
    items: impl IntoIterator<Item = T>,
    one: impl Fn(Arc<Broker>, T) -> F,
) -> u64
where
    F: Future<Output = Result<(), Refusal>> + Send + 'static,
{
    let mut work = JoinSet::new();
    let mut failed: Vec<String> = Vec::new();
    let mut take = |done: Option<Result<Result<(), Refusal>, JoinError>>| match done {
        // Somebody else was faster.
        Some(Ok(Err(r))) if matches!(r.code.as_str(), "changed_meanwhile" | "not_live") => {}
        Some(Ok(Err(refusal))) => failed.push(format!("{}: {}", refusal.code, refusal.detail)),
        Some(Err(_)) => failed.push("the broker failed within".into()),
        Some(Ok(Ok(()))) | None => {}
    };
    for item in items {
        if work.len() >= AT_ONCE {
            take(work.join_next().await);
        }
        work.spawn(one(Arc::clone(broker), item));
    }
    while let Some(done) = work.join_next().await {
        take(Some(done));
    }
    let count = u64::try_from(failed.len()).unwrap_or(u64::MAX);
    if let Some(first) = failed.first() {
        faulty(broker, count, first);
    }
    count
}

fn faulty(broker: &Broker, count: u64, why: &str) {
    tracing::error!(count, why, "ALARM: not everything that is due could be ended; the rest was");
    broker.counts.faulty.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
}

/// A live lease whose request's row is gone: somebody writes to the database.
fn hidden(id: &RequestId) -> Refusal {
    tracing::error!(request = %id, "ALARM: the row of a live lease was deleted");
    refuse(
        503,
        "store_tampered",
        "the row of a live lease is gone: somebody writes to the database",
        "end it at its backend by hand, and restore the store",
    )
    .request_id(id.as_str())
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

/// The requests of all live leases, or of those of one agent, as they are now. They are found before any
/// is looked at: a walk that looks as it goes follows the grants that are made meanwhile, and never ends.
pub(crate) async fn living(
    broker: &Broker,
    agent: Option<&AgentId>,
) -> Result<Vec<RequestId>, Refusal> {
    let mut all: Vec<RequestId> = Vec::new();
    loop {
        let page = broker.store.live(agent, all.last()).await.map_err(of_store)?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
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

fn ignore_conflict<T>(result: Result<T, StoreError>) -> Result<(), Refusal> {
    match result {
        Ok(_) | Err(StoreError::Conflict) => Ok(()),
        Err(e) => Err(of_store(e)),
    }
}

/// Records the intents that a crash or a failed write left without an outcome as unknown: never tried
/// again blindly. At the start and with each sweep.
///
/// # Errors
/// When the log cannot be read or written.
pub async fn resolve_unfinished(broker: &Broker) -> Result<usize, Refusal> {
    let unfinished = broker.store.unfinished().await.map_err(of_store)?;
    // So many at a time: a backend that is away delays the start by one wait, not by one for each.
    let work = unfinished.into_iter().map(|id| resolve_one(broker, id));
    let mut work = stream::iter(work).buffer_unordered(AT_ONCE);
    let mut resolved = 0;
    while let Some(done) = work.next().await {
        resolved += usize::from(done?);
    }
    Ok(resolved)
}

/// The same for one; says whether it was.
async fn resolve_one(broker: &Broker, id: RequestId) -> Result<bool, Refusal> {
    // Listed before this look: what is being minted now is marked, and its end unmarks it.
    if broker.minting.lock().unwrap_or_else(PoisonError::into_inner).contains(&id) {
        return Ok(false);
    }
    let loaded = match broker.store.load(&id).await {
        Err(e @ StoreError::Tampered(_)) => {
            faulty(broker, 1, &e.to_string());
            return Ok(false);
        }
        other => other.map_err(of_store)?,
    };
    let Some(state) = loaded.map(|l| l.state) else { return Ok(false) };
    if state.phase != grantwright_domain::Phase::Intended {
        return Ok(false);
    }
    let mut detail =
        "the broker stopped, or could not write, between the intent and its outcome".to_owned();
    if let Some(ended) = undo(broker, &state).await {
        detail.push_str("; ");
        detail.push_str(&ended.effect);
    }
    let event = Event::Unknown(Unknown {
        at: broker.now().max(state.last_at),
        digest: state.digest,
        request_id: id.clone(),
        detail,
    });
    tracing::error!(request = %id, "the outcome of a mint is unknown: it was not recorded");
    ignore_conflict(broker.commit(Transition::at(state, vec![event])).await)?;
    broker.counts.unknown.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    broker.wake.changed(&id);
    Ok(true)
}

/// Ends what an unrecorded mint may have made, where its backend finds that by the lease.
async fn undo(broker: &Broker, state: &RequestState) -> Option<Ended> {
    let lease = LeaseId::of(&state.terms.request_id)?;
    let authority = broker.authority();
    let scope = authority.catalog.get(&state.terms.template)?;
    let minter = broker.minters.get(&scope.minter)?;
    // A backend that does not answer must not keep the broker from starting.
    tokio::time::timeout(UNDO, minter.undo(&lease, scope, &state.terms.params)).await.ok().flatten()
}

/// Remembers the denies of people that still stick.
///
/// # Errors
/// When the store cannot be read.
pub async fn restore_denies(broker: &Broker) -> Result<(), Refusal> {
    let now = broker.now();
    let mut before = None;
    loop {
        let page = broker.store.denied_by_people(before).await.map_err(of_store)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        before = Some(*last);
        for (_, id) in page {
            let Some(loaded) = broker.store.load(&id).await.map_err(of_store)? else { continue };
            // A deny is the last leaf of its request, so that these are in the order of time.
            if now.since(loaded.state.last_at) >= broker.config.deny_sticky_ms() {
                return Ok(());
            }
            let last = loaded
                .state
                .votes
                .iter()
                .rev()
                .find(|v| v.decision == grantwright_domain::Decision::Deny);
            if let Some(vote) = last {
                let terms = loaded.state.original.iter().chain([&loaded.state.terms]);
                terms.for_each(|t| sticky::remember(broker, t, &loaded.texts, vote.at));
            }
        }
    }
}

/// Ends a live lease and says what that did.
///
/// # Errors
/// 409 when it is not live; the log cannot be written.
pub async fn end_lease(broker: &Broker, state: RequestState, by: &str) -> Result<Ended, Refusal> {
    end_lease_for(broker, state, by, "").await
}

/// As [`end_lease`]; `why`, in chosen words, is told with the effect.
pub(crate) async fn end_lease_for(
    broker: &Broker,
    state: RequestState,
    by: &str,
    why: &str,
) -> Result<Ended, Refusal> {
    broker.consistent()?;
    let Some(lease) =
        state.lease.clone().filter(|l| matches!(l.state, LeaseState::Live | LeaseState::Withdrawn))
    else {
        return Err(refuse(409, "not_live", "the lease has ended already", "nothing to do"));
    };
    let id = state.terms.request_id.clone();
    let agent = state.terms.agent.clone();
    let (backend, begun) = (queue::backend_of(broker, &state), broker.now());
    let mut effect = if lease.revocable && broker.ending.is_silent(&backend, begun) {
        let until = lease.expires_at;
        let effect = format!(
            "not ended: its backend did not answer a moment ago; it is tried again, and ends by itself at \
             {until}"
        );
        Ended { ended: false, effect }
    } else {
        let effect = at_backend(broker, &state, &lease).await;
        broker.ending.heard(&backend, begun, broker.now(), effect.ended);
        effect
    };
    if !why.is_empty() {
        effect.effect = format!("{why}: {}", effect.effect);
    }
    let at = broker.now().max(state.last_at);
    let event = Event::Revoked(Revoked {
        at,
        digest: state.digest,
        request_id: id.clone(),
        lease_id: lease.id.clone(),
        by: by.to_owned(),
        effect: effect.effect.clone(),
        still_valid: !effect.ended,
    });
    let mut transition = Transition::at(state.clone(), vec![event]);
    transition.side.delete_sealed = true;
    broker.commit(transition).await.map_err(of_store)?;
    ended::note(broker, &state, &lease, at);
    if lease.revocable && !effect.ended {
        broker.ending.push(lease.id.clone(), id.clone(), backend, broker.now());
    }
    broker.wake.tell(Tidings::Ended(agent, lease.id));
    broker.wake.changed(&id);
    Ok(effect)
}

/// What ending a lease does at its backend.
async fn at_backend(broker: &Broker, state: &RequestState, lease: &Lease) -> Ended {
    let authority = broker.authority();
    let scope = authority.catalog.get(&state.terms.template);
    match scope.and_then(|s| broker.minters.get(&s.minter)) {
        Some(minter) => minter.revoke(lease).await,
        None => Ended {
            ended: false,
            effect: format!(
                "its backend is not configured; it ends by itself at {}",
                lease.expires_at
            ),
        },
    }
}

/// What ending an agent's right did.
#[derive(Debug, Default)]
pub struct AgentEnd {
    /// Requests that ended.
    pub requests: Vec<String>,
    /// Leases, with what ending each did.
    pub leases: Vec<(LeaseId, Timestamp, Ended)>,
}

/// Ends the open requests and live leases of an agent, or of one of its instances. Their calls are
/// refused already. It goes on when its caller hangs up.
///
/// # Errors
/// When the log cannot be read or written; what ended until then has ended.
pub async fn end_agent(
    broker: &Arc<Broker>,
    agent: &AgentId,
    instance: Option<&InstanceId>,
    by: &str,
) -> Result<AgentEnd, Refusal> {
    let (broker, agent, instance, by) =
        (Arc::clone(broker), agent.clone(), instance.cloned(), by.to_owned());
    if instance.is_none() {
        broker.wake.tell(Tidings::Revoked(agent.clone()));
    }
    let at_it = broker.rights.begin(&agent);
    let work = async move {
        let _at_it = at_it;
        let mut done = AgentEnd::default();
        // Neither keeps the other from its end.
        let requests = end_requests(&broker, &agent, instance.as_ref(), &mut done).await;
        let leases = end_leases(&broker, &agent, instance.as_ref(), &by, &mut done);
        // What it handed on ends with it, and waits for no backend of its own leases.
        let (leases, ()) = tokio::join!(leases, delegated::settle_apart(&broker));
        leases.and(requests).map(|()| done)
    };
    tokio::spawn(work).await.unwrap_or_else(|_| {
        Err(refuse(
            503,
            "internal",
            "the broker failed within",
            "revoke again: what ended stays ended",
        ))
    })
}

async fn end_requests(
    broker: &Broker,
    agent: &AgentId,
    instance: Option<&InstanceId>,
    done: &mut AgentEnd,
) -> Result<(), Refusal> {
    let mut filter =
        RequestFilter { open: true, agent: Some(agent.clone()), ..RequestFilter::default() };
    loop {
        let page = broker.store.list(filter.clone()).await.map_err(of_store)?;
        let Some(last) = page.last() else { return Ok(()) };
        filter.before = Some(last.first_index);
        for summary in page {
            if instance.is_some_and(|i| *i != summary.instance) {
                continue;
            }
            for _ in 0..RETRIES {
                let Some(loaded) = broker.store.load(&summary.id).await.map_err(of_store)? else {
                    break;
                };
                let state = loaded.state;
                if !state.phase.is_open() {
                    break;
                }
                let event = Event::Cancelled(Cancelled {
                    at: broker.now().max(state.last_at),
                    digest: state.digest,
                    request_id: summary.id.clone(),
                    by: "revocation".into(),
                });
                match broker.commit(Transition::at(state, vec![event])).await {
                    Err(StoreError::Conflict) => {}
                    Err(e) => return Err(of_store(e)),
                    Ok(_) => {
                        broker.wake.changed(&summary.id);
                        done.requests.push(summary.id.to_string());
                        break;
                    }
                }
            }
        }
    }
}

/// How many are ended at a time, at each backend: they share commits, and backends are not flooded.
const AT_ONCE: usize = 32;

async fn end_leases(
    broker: &Arc<Broker>,
    agent: &AgentId,
    instance: Option<&InstanceId>,
    by: &str,
    done: &mut AgentEnd,
) -> Result<(), Refusal> {
    let instance = instance.cloned();
    let why = move |broker: &Broker, loaded: &Loaded| {
        let state = &loaded.state;
        let lives = state.lease.as_ref().is_some_and(|l| l.expires_at > broker.now());
        let of_it = instance.as_ref().is_none_or(|i| *i == state.terms.instance);
        Ok((lives && of_it).then_some(""))
    };
    let mut many = Many::new(broker, by, why);
    let looked = many.all_of(agent).await;
    let over = many.finish().await;
    done.leases = over.ended;
    // What could be ended has ended; what could not is said.
    looked.and(over.fault.map_or(Ok(()), Err))
}
