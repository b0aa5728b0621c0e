//! Step 8: how requests and leases end by themselves, by people, and after a crash.

pub mod delegated;
pub mod queue;

use std::sync::Arc;
use std::time::Duration;

use grantwright_domain::event::{Cancelled, Expired, Revoked, Unknown};
use grantwright_domain::request::{Lease, LeaseState};
use grantwright_domain::{
    AgentId, Event, InstanceId, LeaseId, RequestId, RequestState, Rights, ScopeName, Timestamp,
    VerdictKind,
};
use grantwright_mint::Ended;
use grantwright_store::{LeaseFilter, LeaseSummary, RequestFilter, StoreError, Transition};
use grantwright_wire::Refusal;

use crate::core::{Broker, lease_of};
use crate::ended;
use crate::error::{of_store, refuse};
use crate::issue::{approve, deliver};
use crate::wake::Tidings;

const SWEEP: Duration = Duration::from_millis(500);
/// Longest look for what an unrecorded mint made.
const UNDO: Duration = Duration::from_secs(5);
/// How often a step is tried again when others change the same request.
const RETRIES: usize = 8;
/// Side rows that ended go every so many sweeps; nobody sees them before.
const SIDE_ROUNDS: u64 = 60;
/// Most of each kind that one sweep ends.
const SWEEP_MOST: u32 = 500;

/// Ends what is due, again and again, until the process ends.
pub async fn sweep(broker: Arc<Broker>) {
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
        if let Err(refusal) = sweep_once(&broker).await {
            tracing::warn!(code = refusal.code, "the sweep was refused");
        }
    }
}

pub(crate) async fn sweep_once(broker: &Broker) -> Result<(), Refusal> {
    let now = broker.now();
    let due = broker.store.due(now, SWEEP_MOST).await.map_err(of_store)?;
    for id in due.requests {
        if let Some(loaded) = broker.store.load(&id).await.map_err(of_store)?
            && loaded.state.phase.is_open()
            && now >= loaded.state.expires_at()
        {
            approve::expire(broker, loaded.state, now).await?;
        }
    }
    for (_, id) in due.leases {
        let Some(loaded) = broker.store.load(&id).await.map_err(of_store)? else { continue };
        let state = loaded.state;
        let Some(lease) = state.lease.clone() else { continue };
        if !matches!(lease.state, LeaseState::Live | LeaseState::Withdrawn)
            || lease.expires_at > now
        {
            continue;
        }
        let event = Event::Expired(Expired {
            at: now.max(state.last_at),
            digest: state.digest,
            request_id: id.clone(),
            lease_id: Some(lease.id),
        });
        ignore_conflict(broker.commit(Transition::at(state, vec![event])).await)?;
    }
    unacknowledged(broker, due.sealed, now).await?;
    resolve_unfinished(broker).await?;
    without_approvers(broker, now).await?;
    delegated::settle(broker, now).await?;
    broker.ended.sweep(now);
    ended::restore_overflow(broker).await?;
    let mut acknowledged =
        broker.acknowledged.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    acknowledged.retain(|_, mine| {
        mine.retain(|_, at| now.since(*at) < 2 * deliver::REDELIVER_MS);
        !mine.is_empty()
    });
    drop(acknowledged);
    let mut sealed = broker.sealed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    sealed.retain(|_, (_, at)| now.since(*at) < 2 * deliver::REDELIVER_MS);
    Ok(())
}

/// How often the approvals behind live leases are looked at.
const APPROVERS_MS: i64 = 5_000;

/// Ends live leases whose approvals no longer count, where their scope's risk says so: the people lost
/// their right after the credential was made.
async fn without_approvers(broker: &Broker, now: Timestamp) -> Result<(), Refusal> {
    let risks = &broker.config.guards.end_with_approvers;
    if risks.is_empty() || !broker.approvers_due(now, APPROVERS_MS) {
        return Ok(());
    }
    let authority = broker.authority();
    let risky = |name: &ScopeName| {
        authority.scope(name).is_some_and(|(s, _)| risks.contains(&s.labels.risk))
    };
    let mut filter = LeaseFilter { live: true, ..LeaseFilter::default() };
    loop {
        let page = broker.store.leases(filter.clone()).await.map_err(of_store)?;
        let Some(last) = page.last() else { return Ok(()) };
        filter.before = Some(last.first_index);
        for lease in page {
            if lease.state != LeaseState::Live || lease.expires_at <= now || !risky(&lease.scope) {
                continue;
            }
            let Some(loaded) = broker.store.load(&lease.request).await.map_err(of_store)? else {
                continue;
            };
            let state = loaded.state;
            let quorum = match &state.verdict {
                Some(v) if v.kind == VerdictKind::Ask => v.quorum as usize,
                _ => continue,
            };
            if state.standing(Rights::Now(&authority), now).len() < quorum {
                tracing::warn!(lease = %lease.id, "its approvals no longer count: it is ended");
                match end_lease(broker, state, "broker").await {
                    Err(e) if !matches!(e.code.as_str(), "not_live" | "changed_meanwhile") => {
                        return Err(e);
                    }
                    _ => {}
                }
            }
        }
    }
}

/// A sealed copy that nobody acknowledged in time is deleted, and its lease revoked where possible.
async fn unacknowledged(
    broker: &Broker,
    overdue: Vec<RequestId>,
    now: Timestamp,
) -> Result<(), Refusal> {
    if overdue.is_empty() {
        return Ok(());
    }
    for id in overdue {
        let Some(loaded) = broker.store.load(&id).await.map_err(of_store)? else { continue };
        if loaded.state.lease.as_ref().is_some_and(|l| l.revocable && l.state == LeaseState::Live) {
            end_lease(broker, loaded.state, "broker").await?;
        }
    }
    broker.store.sweep_sealed(now).await.map_err(of_store)
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
    let mut resolved = 0;
    for id in broker.store.unfinished().await.map_err(of_store)? {
        // Listed before this look: what is being minted now is marked, and its end unmarks it.
        if broker.minting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains(&id) {
            continue;
        }
        let Some(loaded) = broker.store.load(&id).await.map_err(of_store)? else { continue };
        let state = loaded.state;
        if state.phase != grantwright_domain::Phase::Intended {
            continue;
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
        resolved += 1;
    }
    Ok(resolved)
}

/// Ends what an unrecorded mint may have made, where its backend finds that by the lease.
async fn undo(broker: &Broker, state: &RequestState) -> Option<Ended> {
    let lease = lease_of(&state.terms.request_id)?;
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
                terms.for_each(|t| crate::people::remember_deny(broker, t, vote.at));
            }
        }
    }
}

/// Ends a live lease and says what that did.
///
/// # Errors
/// 409 when it is not live; the log cannot be written.
pub async fn end_lease(broker: &Broker, state: RequestState, by: &str) -> Result<Ended, Refusal> {
    broker.consistent()?;
    let Some(lease) =
        state.lease.clone().filter(|l| matches!(l.state, LeaseState::Live | LeaseState::Withdrawn))
    else {
        return Err(refuse(409, "not_live", "the lease has ended already", "nothing to do"));
    };
    let id = state.terms.request_id.clone();
    let agent = state.terms.agent.clone();
    let effect = at_backend(broker, &state, &lease).await;
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
        broker.ending.push(lease.id.clone(), id.clone(), broker.now());
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
    let work = async move {
        let mut done = AgentEnd::default();
        end_requests(&broker, &agent, instance.as_ref(), &mut done).await?;
        end_leases(&broker, &agent, instance.as_ref(), &by, &mut done).await?;
        Ok(done)
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

/// How many leases are ended at a time: they share commits, and backends are not flooded.
const AT_ONCE: usize = 32;

async fn end_leases(
    broker: &Arc<Broker>,
    agent: &AgentId,
    instance: Option<&InstanceId>,
    by: &str,
    done: &mut AgentEnd,
) -> Result<(), Refusal> {
    let now = broker.now();
    let mut filter =
        LeaseFilter { live: true, agent: Some(agent.clone()), ..LeaseFilter::default() };
    let mut work = tokio::task::JoinSet::new();
    loop {
        let page = broker.store.leases(filter.clone()).await.map_err(of_store)?;
        let Some(last) = page.last() else { break };
        filter.before = Some(last.first_index);
        for summary in page {
            if instance.is_some_and(|i| *i != summary.instance) || summary.expires_at <= now {
                continue;
            }
            if work.len() >= AT_ONCE {
                take(work.join_next().await, done)?;
            }
            let (broker, by) = (Arc::clone(broker), by.to_owned());
            work.spawn(async move { end_one(&broker, summary, &by).await });
        }
    }
    while let Some(one) = work.join_next().await {
        take(Some(one), done)?;
    }
    Ok(())
}

type One = Result<Option<(LeaseId, Timestamp, Ended)>, Refusal>;

fn take(
    one: Option<Result<One, tokio::task::JoinError>>,
    done: &mut AgentEnd,
) -> Result<(), Refusal> {
    match one {
        Some(Ok(Ok(Some(ended)))) => done.leases.push(ended),
        Some(Ok(Ok(None))) | None => {}
        Some(Ok(Err(refusal))) => return Err(refusal),
        Some(Err(_)) => {
            return Err(refuse(
                503,
                "internal",
                "the broker failed within",
                "revoke again: what ended stays ended",
            ));
        }
    }
    Ok(())
}

async fn end_one(broker: &Broker, summary: LeaseSummary, by: &str) -> One {
    for _ in 0..RETRIES {
        let Some(loaded) = broker.store.load(&summary.request).await.map_err(of_store)? else {
            break;
        };
        match end_lease(broker, loaded.state, by).await {
            Ok(ended) => return Ok(Some((summary.id, summary.expires_at, ended))),
            Err(refusal) if refusal.code == "changed_meanwhile" => {}
            Err(refusal) if refusal.code == "not_live" => break,
            Err(refusal) => return Err(refusal),
        }
    }
    Ok(None)
}
