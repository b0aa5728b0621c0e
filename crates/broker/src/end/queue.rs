//! Revocations that their backend has not done yet: tried again, without a cap, until the backend says
//! that the credential is gone, or the credential has ended by itself.
//!
//! The queue is the fold of the log: a lease that is withdrawn and can be revoked. It is read from the
//! store at the start, so that a broker that was ended loses none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use grantwright_domain::event::Revoked;
use grantwright_domain::request::LeaseState;
use grantwright_domain::{Event, LeaseId, RequestId, Timestamp};
use grantwright_store::{StoreError, Transition};
use grantwright_wire::Refusal;
use tokio::task::JoinSet;

use super::at_backend;
use crate::core::Broker;
use crate::error::of_store;
use crate::wake::Tidings;

const LOOK: Duration = Duration::from_millis(500);
/// Longest pause between two tries.
const LONGEST_PAUSE_MS: i64 = 60_000;
/// How many are tried at a time.
const AT_ONCE: usize = 16;
/// Most that wait in memory; more are found again in the store when there is room.
const MOST: usize = 100_000;

struct Waiting {
    request: RequestId,
    since: Timestamp,
    next: Timestamp,
    tries: u32,
}

/// See the module.
#[derive(Default)]
pub struct Queue(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    waiting: BTreeMap<LeaseId, Waiting>,
    /// Some did not fit: the store is read again when the queue is empty.
    overflowed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A revocation whose effect was not seen.
    pub fn push(&self, lease: LeaseId, request: RequestId, since: Timestamp) {
        let mut inner = self.lock();
        if inner.waiting.len() >= MOST {
            inner.overflowed = true;
            return;
        }
        let next = since.plus_millis(1000);
        inner.waiting.entry(lease).or_insert(Waiting { request, since, next, tries: 1 });
    }

    /// How many wait, and how long the oldest has been waiting, in milliseconds.
    pub fn waiting(&self, now: Timestamp) -> (u64, u64) {
        let inner = self.lock();
        let oldest = inner.waiting.values().map(|w| now.since(w.since)).max().unwrap_or(0);
        (u64::try_from(inner.waiting.len()).unwrap_or(u64::MAX), u64::try_from(oldest).unwrap_or(0))
    }

    fn due(&self, now: Timestamp) -> Vec<(LeaseId, RequestId)> {
        let mut inner = self.lock();
        let due = inner.waiting.iter_mut().filter(|(_, w)| w.next <= now).take(AT_ONCE);
        due.map(|(lease, w)| {
            w.tries = w.tries.saturating_add(1);
            let pause = 1000i64.saturating_mul(1 << w.tries.min(6));
            w.next = now.plus_millis(pause.min(LONGEST_PAUSE_MS));
            (lease.clone(), w.request.clone())
        })
        .collect()
    }

    fn done(&self, lease: &LeaseId) {
        self.lock().waiting.remove(lease);
    }

    fn take_overflow(&self) -> bool {
        let mut inner = self.lock();
        inner.waiting.is_empty() && std::mem::take(&mut inner.overflowed)
    }
}

/// Finds the revocations that an earlier process left undone.
///
/// # Errors
/// When the store cannot be read.
pub async fn restore(broker: &Broker) -> Result<(), Refusal> {
    let now = broker.now();
    for id in super::living(broker, None).await? {
        let loaded = match broker.store.load(&id).await {
            // Told, and those after it are found all the same.
            Err(e @ StoreError::Tampered(_)) => {
                super::faulty(broker, 1, &e.to_string());
                continue;
            }
            loaded => loaded.map_err(of_store)?,
        };
        let Some(state) = loaded.map(|l| l.state) else { continue };
        let Some(lease) = state.lease else { continue };
        let undone = lease.state == LeaseState::Withdrawn && lease.revocable;
        if undone && lease.expires_at > now {
            broker.ending.push(lease.id, id, state.last_at);
        }
    }
    Ok(())
}

/// Tries again what is due, until the process ends.
pub async fn work(broker: Arc<Broker>) {
    // What an earlier process left: found here, so that no start waits for it.
    broker.ending.lock().overflowed = true;
    loop {
        tokio::time::sleep(LOOK).await;
        if broker.consistent().is_err() {
            continue;
        }
        if broker.ending.take_overflow() && restore(&broker).await.is_err() {
            tracing::warn!("undone revocations could not be read; they are read again");
            broker.ending.lock().overflowed = true;
        }
        work_once(&broker).await;
    }
}

/// Tries each revocation that is due, once.
pub(crate) async fn work_once(broker: &Arc<Broker>) {
    let mut tries = JoinSet::new();
    for (lease, request) in broker.ending.due(broker.now()) {
        let broker = Arc::clone(broker);
        tries.spawn(async move {
            if let Err(refusal) = retry(&broker, &lease, &request).await {
                tracing::warn!(%lease, code = refusal.code, "a revocation waits on");
            }
        });
    }
    while tries.join_next().await.is_some() {}
}

async fn retry(broker: &Broker, lease: &LeaseId, request: &RequestId) -> Result<(), Refusal> {
    let loaded = broker.store.load(request).await.map_err(of_store)?;
    let state = loaded.map(|l| l.state);
    let held = state.as_ref().and_then(|s| s.lease.clone());
    let (Some(state), Some(held)) = (state, held.filter(|h| h.id == *lease)) else {
        broker.ending.done(lease);
        return Ok(());
    };
    if held.state != LeaseState::Withdrawn || held.expires_at <= broker.now() {
        broker.ending.done(lease);
        return Ok(());
    }
    let ended = at_backend(broker, &state, &held).await;
    if !ended.ended {
        return Ok(());
    }
    let agent = state.terms.agent.clone();
    let event = Event::Revoked(Revoked {
        at: broker.now().max(state.last_at),
        digest: state.digest,
        request_id: request.clone(),
        lease_id: lease.clone(),
        by: "broker".into(),
        effect: ended.effect,
        still_valid: false,
    });
    // Changed meanwhile: looked at again when it is due.
    if broker.commit(Transition::at(state, vec![event])).await.is_ok() {
        broker.ending.done(lease);
        broker.wake.tell(Tidings::Ended(agent, lease.clone()));
        broker.wake.changed(request);
    }
    Ok(())
}
