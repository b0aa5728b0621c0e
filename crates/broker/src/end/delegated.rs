//! What was asked under a delegation ends with it: open requests are cancelled, live leases ended. It
//! is over when it expires or is ended, with what it was passed on from, and with any agent of its chain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use grantwright_domain::event::Cancelled;
use grantwright_domain::request::{Lease, LeaseState};
use grantwright_domain::{AgentId, DelegationId, Event, RequestId, RequestState, Timestamp};
use grantwright_store::{RequestFilter, StoreError, Transition};
use grantwright_wire::Refusal;

use super::{RETRIES, each, end_lease};
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
            if !delegation.is_live(now) && !settled.contains(id) {
                over.entry(&delegation.to).or_default().insert(id.clone());
            }
        }
    }
    let mut failed = None;
    for (agent, ids) in over {
        let ids = Arc::new(ids);
        let leases = end(broker, agent, &ids, now).await;
        let requests = cancel(broker, agent, &ids).await;
        match leases.and(requests) {
            Ok(()) => broker.delegations.lock().extend(ids.iter().cloned()),
            Err(refusal) => failed = Some(refusal),
        }
    }
    failed.map_or(Ok(()), Err)
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
    let (mut after, mut failed) = (None::<RequestId>, 0);
    loop {
        // Those that the store's memory knows, whatever its rows say.
        let page = broker.store.live(Some(agent), after.as_ref()).await.map_err(of_store)?;
        let Some(last) = page.last() else { return whole(failed) };
        after = Some(last.clone());
        failed += each(broker, page, |broker, id| {
            let ids = Arc::clone(ids);
            async move { end_one(&broker, &id, &ids, now).await }
        })
        .await;
    }
}

async fn end_one(
    broker: &Broker,
    id: &RequestId,
    ids: &Over,
    now: Timestamp,
) -> Result<(), Refusal> {
    for _ in 0..RETRIES {
        let Some(loaded) = broker.store.load(id).await.map_err(of_store)? else {
            return Err(super::hidden(id));
        };
        let state = loaded.state;
        let live = |l: &Lease| l.state == LeaseState::Live && l.expires_at > now;
        if !state.lease.as_ref().is_some_and(live) || !rests(&state, ids) {
            return Ok(());
        }
        match end_lease(broker, state, "broker").await {
            Ok(_) => return Ok(()),
            Err(refusal) if refusal.code == "changed_meanwhile" => {}
            Err(refusal) if refusal.code == "not_live" => return Ok(()),
            Err(refusal) => return Err(refusal),
        }
    }
    Err(left(1))
}

fn whole(failed: u64) -> Result<(), Refusal> {
    if failed == 0 { Ok(()) } else { Err(left(failed)) }
}

fn left(count: u64) -> Refusal {
    let detail = format!("{count} of what rests on an ended delegation did not end");
    refuse(503, "internal", detail, "it is tried again with the next sweep")
}
