//! Step 8: how requests and leases end: by people here; by themselves in `sweep`, after a crash in `crash`, with
//! rights and delegations in files of their own.

pub mod crash;
pub mod delegated;
pub mod extend;
mod many;
pub mod queue;
pub mod rights;
pub mod sweep;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use grantwright_domain::event::{Cancelled, Revoked};
use grantwright_domain::request::{Lease, LeaseState};
use grantwright_domain::{AgentId, Event, InstanceId, LeaseId, RequestId, RequestState, Timestamp};
use grantwright_mint::Ended;
use grantwright_store::{Loaded, RequestFilter, StoreError, Transition};
use grantwright_wire::Refusal;
use tokio::task::{JoinError, JoinSet};

use self::many::Many;
use crate::core::Broker;
use crate::ended;
use crate::error::{of_store, refuse};
use crate::wake::Tidings;

/// How often a step is tried again when others change the same request.
pub(crate) const RETRIES: usize = 8;
/// How many are ended at a time, at each backend: they share commits, and backends are not flooded.
const AT_ONCE: usize = 32;

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

fn ignore_conflict<T>(result: Result<T, StoreError>) -> Result<(), Refusal> {
    match result {
        Ok(_) | Err(StoreError::Conflict) => Ok(()),
        Err(e) => Err(of_store(e)),
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
