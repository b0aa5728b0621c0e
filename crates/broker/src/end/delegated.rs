//! What was asked under a delegation ends with it: open requests are cancelled, live leases ended. It
//! is over when it expires or is ended, with what it was passed on from, and with any agent of its chain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use grantwright_domain::event::Cancelled;
use grantwright_domain::request::{Lease, LeaseState};
use grantwright_domain::{
    AgentId, DelegationId, Event, LeaseId, RequestId, RequestState, Timestamp,
};
use grantwright_mint::Ended;
use grantwright_store::{RequestFilter, StoreError, Transition};
use grantwright_wire::Refusal;

use super::{RETRIES, end_lease};
use crate::core::Broker;
use crate::error::of_store;

/// Delegations that are over and whose requests and leases this process has ended.
#[derive(Default)]
pub struct Settled(Mutex<BTreeSet<DelegationId>>);

impl Settled {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<DelegationId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What ending delegations did.
#[derive(Debug, Default)]
pub struct Done {
    /// Requests that were cancelled.
    pub requests: Vec<RequestId>,
    /// Leases, with what ending each did.
    pub leases: Vec<(LeaseId, Ended)>,
}

/// Ends what rests on delegations that are over. What a broker that stopped left is found at its next
/// sweep: nothing is settled when it starts.
///
/// # Errors
/// When the log cannot be read or written; what is left is tried again with the next sweep.
pub async fn settle(broker: &Broker, now: Timestamp) -> Result<Done, Refusal> {
    let authority = broker.authority();
    let mut over: BTreeMap<&AgentId, BTreeSet<&DelegationId>> = BTreeMap::new();
    {
        let mut settled = broker.delegations.lock();
        settled.retain(|id| authority.delegations.contains_key(id));
        for (id, delegation) in &authority.delegations {
            if !delegation.is_live(now) && !settled.contains(id) {
                over.entry(&delegation.to).or_default().insert(id);
            }
        }
    }
    let mut done = Done::default();
    for (agent, ids) in over {
        let rests = |state: &RequestState| {
            state.terms.delegation_id.as_ref().is_some_and(|id| ids.contains(id))
        };
        cancel(broker, agent, &rests, &mut done).await?;
        end(broker, agent, &rests, now, &mut done).await?;
        broker.delegations.lock().extend(ids.into_iter().cloned());
    }
    Ok(done)
}

/// The same, apart from its caller, who may hang up. What fails is tried again with the next sweep.
pub async fn settle_apart(broker: &Arc<Broker>) {
    let settling = Arc::clone(broker);
    let work = async move { settle(&settling, settling.now()).await };
    if let Ok(Err(refusal)) = tokio::spawn(work).await {
        tracing::warn!(
            code = refusal.code,
            "what rests on an ended delegation ends with the sweep"
        );
    }
}

async fn cancel(
    broker: &Broker,
    agent: &AgentId,
    rests: &(dyn Fn(&RequestState) -> bool + Sync),
    done: &mut Done,
) -> Result<(), Refusal> {
    let mut filter =
        RequestFilter { open: true, agent: Some(agent.clone()), ..RequestFilter::default() };
    loop {
        let page = broker.store.list(filter.clone()).await.map_err(of_store)?;
        let Some(last) = page.last() else { return Ok(()) };
        filter.before = Some(last.first_index);
        for summary in page {
            for _ in 0..RETRIES {
                let loaded = broker.store.load(&summary.id).await.map_err(of_store)?;
                let Some(state) = loaded.map(|l| l.state) else { break };
                if !state.phase.is_open() || !rests(&state) {
                    break;
                }
                let event = Event::Cancelled(Cancelled {
                    at: broker.now().max(state.last_at),
                    digest: state.digest,
                    request_id: summary.id.clone(),
                    by: "delegation".into(),
                });
                match broker.commit(Transition::at(state, vec![event])).await {
                    Err(StoreError::Conflict) => {}
                    Err(e) => return Err(of_store(e)),
                    Ok(_) => {
                        broker.wake.changed(&summary.id);
                        done.requests.push(summary.id.clone());
                        break;
                    }
                }
            }
        }
    }
}

async fn end(
    broker: &Broker,
    agent: &AgentId,
    rests: &(dyn Fn(&RequestState) -> bool + Sync),
    now: Timestamp,
    done: &mut Done,
) -> Result<(), Refusal> {
    let mut after: Option<RequestId> = None;
    loop {
        // Those that the store's memory knows, whatever its rows say.
        let page = broker.store.live(Some(agent), after.as_ref()).await.map_err(of_store)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        for id in page {
            for _ in 0..RETRIES {
                let Some(loaded) = broker.store.load(&id).await.map_err(of_store)? else {
                    return Err(super::hidden(&id));
                };
                let state = loaded.state;
                let live = |l: &&Lease| l.state == LeaseState::Live && l.expires_at > now;
                let Some(lease) = state.lease.as_ref().filter(live).map(|l| l.id.clone()) else {
                    break;
                };
                if !rests(&state) {
                    break;
                }
                match end_lease(broker, state, "broker").await {
                    Ok(ended) => done.leases.push((lease, ended)),
                    Err(refusal) if refusal.code == "changed_meanwhile" => continue,
                    Err(refusal) if refusal.code == "not_live" => {}
                    Err(refusal) => return Err(refusal),
                }
                break;
            }
        }
    }
}
