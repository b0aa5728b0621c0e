//! What was asked under a delegation ends with it: open requests are cancelled, live leases ended. It
//! is over when it expires or is ended, with what it was passed on from, and with any agent of its chain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use grantwright_domain::event::Cancelled;
use grantwright_domain::request::{Lease, LeaseState};
use grantwright_domain::{AgentId, DelegationId, Event, RequestId, RequestState, Timestamp};
use grantwright_store::{Loaded, RequestFilter, StoreError, Transition};
use grantwright_wire::Refusal;

use super::many::Many;
use super::{RETRIES, each};
use crate::core::Broker;
use crate::error::{of_store, refuse};
use crate::issue::under;

/// Delegations that are over and whose requests and leases this process has ended.
#[derive(Default)]
pub struct Settled(Mutex<BTreeSet<DelegationId>>);

impl Settled {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<DelegationId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is asked under one of these rests on what is over.
type Over = Arc<BTreeSet<DelegationId>>;

/// Ends what rests on delegations that are over. What a broker that stopped left is found at its next
/// sweep: nothing is settled when it starts. What one agent, request or backend refuses keeps nothing else
/// from its end.
///
/// # Errors
/// When the log cannot be read or written, or something did not end: it is tried again with the next sweep.
pub async fn settle(broker: &Arc<Broker>, now: Timestamp) -> Result<(), Refusal> {
    let authority = broker.authority();
    let mut over: BTreeMap<&AgentId, BTreeSet<DelegationId>> = BTreeMap::new();
    {
        let mut settled = broker.delegations.lock();
        settled.retain(|id| authority.delegations.contains_key(id));
        for (id, delegation) in &authority.delegations {
            // Somebody is ending all of that agent's: looked at when that is done.
            let open = !settled.contains(id) && !broker.rights.is_ending(&delegation.to);
            if open && !delegation.is_live(now) {
                over.entry(&delegation.to).or_default().insert(id.clone());
            }
        }
    }
    let over: BTreeMap<&AgentId, Over> =
        over.into_iter().map(|(agent, ids)| (agent, Arc::new(ids))).collect();
    let all: Over = Arc::new(over.values().flat_map(|ids| ids.iter().cloned()).collect());
    // All at once, so that a backend that does not answer for one agent keeps no other's waiting.
    let mut many = Many::new(broker, "broker", resting(&all, now));
    let mut clean = true;
    for agent in over.keys() {
        clean &= many.all_of(agent).await.is_ok();
    }
    let mut cancelled = Vec::with_capacity(over.len());
    for (agent, ids) in &over {
        cancelled.push(cancel(broker, agent, ids).await);
    }
    clean &= many.finish().await.failed == 0;
    let mut failed = None;
    for ((agent, ids), requests) in over.into_iter().zip(cancelled) {
        // Whose did not end is seen one by one.
        let leases = if clean { Ok(()) } else { end(broker, agent, &ids, now).await };
        match leases.and(requests) {
            Ok(()) => broker.delegations.lock().extend(ids.iter().cloned()),
            Err(refusal) => failed = Some(refusal),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Of a live lease that rests on one of these: that it is to end.
fn resting(
    ids: &Over,
    now: Timestamp,
) -> impl Fn(&Broker, &Loaded) -> Result<Option<&'static str>, Refusal> + Send + Sync + 'static {
    let ids = Arc::clone(ids);
    move |_, loaded| {
        let live = |l: &Lease| l.state == LeaseState::Live && l.expires_at > now;
        let state = &loaded.state;
        let ends = state.lease.as_ref().is_some_and(live) && rests(state, &ids);
        Ok(ends.then_some(""))
    }
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

fn rests(state: &RequestState, ids: &Over) -> bool {
    state.terms.delegation_id.as_ref().is_some_and(|id| ids.contains(id))
}

async fn cancel(broker: &Arc<Broker>, agent: &AgentId, ids: &Over) -> Result<(), Refusal> {
    let mut filter =
        RequestFilter { open: true, agent: Some(agent.clone()), ..RequestFilter::default() };
    let mut failed = 0;
    loop {
        let page = broker.store.list(filter.clone()).await.map_err(of_store)?;
        let Some(last) = page.last() else { return whole(failed) };
        filter.before = Some(last.first_index);
        let requests = page.into_iter().map(|summary| summary.id);
        failed += each(broker, requests, |broker, id| {
            let ids = Arc::clone(ids);
            async move { cancel_one(&broker, &id, &ids).await }
        })
        .await;
    }
}

async fn cancel_one(broker: &Broker, id: &RequestId, ids: &Over) -> Result<(), Refusal> {
    for _ in 0..RETRIES {
        let loaded = broker.store.load(id).await.map_err(of_store)?;
        let Some(state) = loaded.map(|l| l.state) else { return Ok(()) };
        if !state.phase.is_open() || !rests(&state, ids) {
            return Ok(());
        }
        let event = Event::Cancelled(Cancelled {
            at: broker.now().max(state.last_at),
            digest: state.digest,
            request_id: id.clone(),
            by: under::BY.into(),
        });
        match broker.commit(Transition::at(state, vec![event])).await {
            Err(StoreError::Conflict) => {}
            Err(e) => return Err(of_store(e)),
            Ok(_) => {
                broker.wake.changed(id);
                return Ok(());
            }
        }
    }
    Err(left(1))
}

async fn end(
    broker: &Arc<Broker>,
    agent: &AgentId,
    ids: &Over,
    now: Timestamp,
) -> Result<(), Refusal> {
    let mut many = Many::new(broker, "broker", resting(ids, now));
    let looked = many.all_of(agent).await;
    let over = many.finish().await;
    looked.and(whole(over.failed))
}

fn whole(failed: u64) -> Result<(), Refusal> {
    if failed == 0 { Ok(()) } else { Err(left(failed)) }
}

fn left(count: u64) -> Refusal {
    let detail = format!("{count} of what rests on an ended delegation did not end");
    refuse(503, "internal", detail, "it is tried again with the next sweep")
}
