//! Revocations that their backend has not done yet: tried again, without a cap, until the backend says
//! that the credential is gone, or the credential has ended by itself.
//!
//! The queue is the fold of the log: a lease that is withdrawn and can be revoked. It is read from the
//! store at the start, so that a broker that was ended loses none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use grantwright_domain::event::Revoked;
use grantwright_domain::request::LeaseState;
use grantwright_domain::{Event, LeaseId, RequestId, RequestState, Timestamp};
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
/// How many of one backend are tried at a time: one that does not answer keeps no other's waiting.
const AT_ONCE: usize = 16;
/// A backend that took so long and ended nothing is silent, for so long: what else is to end at it waits here
/// at once, and what is to end elsewhere does not wait for it.
const SLOW_MS: i64 = 5_000;
const SILENT_MS: i64 = 10_000;
/// Most that wait in memory; more are found again in the store when there is room.
const MOST: usize = 100_000;

struct Waiting {
    request: RequestId,
    /// The minter that made it.
    backend: String,
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
    /// By backend, in the order of their next tries: who waited longest is next. Without those that are
    /// being tried.
    turns: BTreeMap<String, BTreeSet<(Timestamp, LeaseId)>>,
    /// How many are being tried, by backend.
    trying: BTreeMap<String, usize>,
    /// Until when nobody but the queue asks a backend.
    silent: BTreeMap<String, Timestamp>,
    /// Some did not fit: the store is read again when there is room.
    overflowed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A revocation whose effect was not seen at this backend.
    pub fn push(&self, lease: LeaseId, request: RequestId, backend: String, since: Timestamp) {
        let mut inner = self.lock();
        if inner.waiting.contains_key(&lease) {
            return;
        }
        if inner.waiting.len() >= MOST {
            inner.overflowed = true;
            return;
        }
        let next = since.plus_millis(1000);
        inner.turns.entry(backend.clone()).or_default().insert((next, lease.clone()));
        inner.waiting.insert(lease, Waiting { request, backend, since, next, tries: 1 });
    }

    /// How many wait, and how long the oldest has been waiting, in milliseconds.
    pub fn waiting(&self, now: Timestamp) -> (u64, u64) {
        let inner = self.lock();
        let oldest = inner.waiting.values().map(|w| now.since(w.since)).max().unwrap_or(0);
        (u64::try_from(inner.waiting.len()).unwrap_or(u64::MAX), u64::try_from(oldest).unwrap_or(0))
    }

    /// Whether a backend did not answer a moment ago.
    pub(super) fn is_silent(&self, backend: &str, now: Timestamp) -> bool {
        self.lock().silent.get(backend).is_some_and(|until| now < *until)
    }

    /// A backend was asked to end something at `begun`, and did or did not.
    pub(super) fn heard(&self, backend: &str, begun: Timestamp, now: Timestamp, ended: bool) {
        let mut inner = self.lock();
        if ended {
            inner.silent.remove(backend);
        } else if now.since(begun) >= SLOW_MS {
            inner.silent.insert(backend.to_owned(), now.plus_millis(SILENT_MS));
        }
    }

    /// Those whose turn it is, with their backends; each is given back with [`Self::tried`].
    fn take_due(&self, now: Timestamp) -> Vec<(String, LeaseId, RequestId)> {
        let mut inner = self.lock();
        let Inner { waiting, turns, trying, .. } = &mut *inner;
        let mut due = Vec::new();
        for (backend, places) in turns.iter_mut() {
            let busy = trying.entry(backend.clone()).or_default();
            while *busy < AT_ONCE && places.first().is_some_and(|(next, _)| *next <= now) {
                let Some((_, lease)) = places.pop_first() else { break };
                let Some(w) = waiting.get_mut(&lease) else { continue };
                w.tries = w.tries.saturating_add(1);
                let pause = 1000i64.saturating_mul(1 << w.tries.min(6));
                w.next = now.plus_millis(pause.min(LONGEST_PAUSE_MS));
                *busy += 1;
                due.push((backend.clone(), lease, w.request.clone()));
            }
        }
        turns.retain(|_, places| !places.is_empty());
        trying.retain(|_, busy| *busy > 0);
        due
    }

    /// A try is over: unless it was done, it waits for its next turn.
    fn tried(&self, backend: &str, lease: &LeaseId) {
        let mut inner = self.lock();
        let Inner { waiting, turns, trying, .. } = &mut *inner;
        if let Some(busy) = trying.get_mut(backend) {
            *busy = busy.saturating_sub(1);
        }
        if let Some(w) = waiting.get(lease) {
            turns.entry(w.backend.clone()).or_default().insert((w.next, lease.clone()));
        }
    }

    fn done(&self, lease: &LeaseId) {
        let mut inner = self.lock();
        let Some(w) = inner.waiting.remove(lease) else { return };
        if let Some(places) = inner.turns.get_mut(&w.backend) {
            places.remove(&(w.next, lease.clone()));
        }
    }

    fn take_overflow(&self) -> bool {
        let mut inner = self.lock();
        inner.waiting.len() < MOST / 2 && std::mem::take(&mut inner.overflowed)
    }
}

/// The minter behind a lease; empty when it is not known any more.
pub(super) fn backend_of(broker: &Broker, state: &RequestState) -> String {
    let authority = broker.authority();
    let scope = authority.catalog.get(&state.terms.template);
    scope.map(|scope| scope.minter.clone()).unwrap_or_default()
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
        let backend = backend_of(broker, &state);
        let Some(lease) = state.lease else { continue };
        let undone = lease.state == LeaseState::Withdrawn && lease.revocable;
        if undone && lease.expires_at > now {
            broker.ending.push(lease.id, id, backend, state.last_at);
        }
    }
    Ok(())
}

/// Tries again what is due, until the process ends.
pub async fn work(broker: Arc<Broker>) {
    // What an earlier process left: found here, so that no start waits for it.
    broker.ending.lock().overflowed = true;
    let mut tries = JoinSet::new();
    loop {
        rest(&mut tries).await;
        if broker.consistent().is_err() {
            continue;
        }
        if broker.ending.take_overflow() && restore(&broker).await.is_err() {
            tracing::warn!("undone revocations could not be read; they are read again");
            broker.ending.lock().overflowed = true;
        }
        begin(&broker, &mut tries);
    }
}

/// Until it is time to look again. A backend that is back is given the next at once: whatever it ends makes
/// room, and what fails makes none before its time.
async fn rest(tries: &mut JoinSet<bool>) {
    let mut look = std::pin::pin!(tokio::time::sleep(LOOK));
    loop {
        tokio::select! {
            () = look.as_mut() => return,
            Some(done) = tries.join_next() => if matches!(done, Ok(true)) { return },
        }
    }
}

/// Tries each revocation that is due, once.
#[cfg(test)]
pub(crate) async fn work_once(broker: &Arc<Broker>) {
    let mut tries = JoinSet::new();
    begin(broker, &mut tries);
    while tries.join_next().await.is_some() {}
}

/// Begins those whose turn it is, each apart: whether it left the queue is told.
fn begin(broker: &Arc<Broker>, tries: &mut JoinSet<bool>) {
    while tries.try_join_next().is_some() {}
    for (backend, lease, request) in broker.ending.take_due(broker.now()) {
        let at_it = AtIt { broker: Arc::clone(broker), backend, lease };
        tries.spawn(async move {
            let AtIt { broker, lease, .. } = &at_it;
            retry(broker, lease, &request).await.unwrap_or_else(|refusal| {
                tracing::warn!(%lease, code = refusal.code, "a revocation waits on");
                false
            })
        });
    }
}

/// A revocation that is being tried; dropped, its try is over, however it went.
struct AtIt {
    broker: Arc<Broker>,
    backend: String,
    lease: LeaseId,
}

impl Drop for AtIt {
    fn drop(&mut self) {
        self.broker.ending.tried(&self.backend, &self.lease);
    }
}

/// Whether it left the queue.
async fn retry(broker: &Broker, lease: &LeaseId, request: &RequestId) -> Result<bool, Refusal> {
    let loaded = broker.store.load(request).await.map_err(of_store)?;
    let state = loaded.map(|l| l.state);
    let held = state.as_ref().and_then(|s| s.lease.clone());
    let (Some(state), Some(held)) = (state, held.filter(|h| h.id == *lease)) else {
        broker.ending.done(lease);
        return Ok(true);
    };
    if held.state != LeaseState::Withdrawn || held.expires_at <= broker.now() {
        broker.ending.done(lease);
        return Ok(true);
    }
    let (backend, begun) = (backend_of(broker, &state), broker.now());
    let ended = at_backend(broker, &state, &held).await;
    broker.ending.heard(&backend, begun, broker.now(), ended.ended);
    if !ended.ended {
        return Ok(false);
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
    if broker.commit(Transition::at(state, vec![event])).await.is_err() {
        return Ok(false);
    }
    broker.ending.done(lease);
    broker.wake.tell(Tidings::Ended(agent, lease.clone()));
    broker.wake.changed(request);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(count: usize, backend: &str) -> Queue {
        let queue = Queue::default();
        for n in 0..count {
            let lease = LeaseId::parse(&format!("l-{n:05}")).unwrap();
            let request = RequestId::parse(&format!("r-{n:05}")).unwrap();
            queue.push(lease, request, backend.to_owned(), Timestamp::from_millis(0));
        }
        queue
    }

    /// More than could be tried between two tries of the first: none of them is left out, and none of
    /// another backend's waits for them.
    #[test]
    fn invariant_24_a_backend_that_is_away_keeps_no_revocation_from_its_turn() {
        let queue = filled(5_000, "away");
        let (other, request) = (LeaseId::parse("l-z").unwrap(), RequestId::parse("r-z").unwrap());
        queue.push(other.clone(), request, "well".to_owned(), Timestamp::from_millis(0));
        let mut tried = BTreeSet::new();
        for look in 0..400 {
            let due = queue.take_due(Timestamp::from_millis(1000 + look * 500));
            assert!(due.len() <= AT_ONCE + 1, "{}", due.len());
            if look == 0 {
                assert!(due.iter().any(|(_, lease, _)| *lease == other), "its own turn");
                queue.done(&other);
            }
            for (backend, lease, _) in due {
                queue.tried(&backend, &lease);
                tried.insert(lease);
            }
        }
        assert_eq!(tried.len(), 5_001, "each had its turn");
        let (count, oldest) = queue.waiting(Timestamp::from_millis(200_000));
        assert_eq!((count, oldest), (5_000, 200_000), "and none was lost");
    }

    /// Tries that never come back take no more than their backend's places.
    #[test]
    fn a_backend_that_does_not_answer_has_its_own_places_only() {
        let queue = filled(100, "silent");
        let at = Timestamp::from_millis(1000);
        let taken = queue.take_due(at);
        assert_eq!(taken.len(), AT_ONCE);
        assert!(queue.take_due(at).is_empty(), "all its places are taken");
        let (lease, request) = (LeaseId::parse("l-z").unwrap(), RequestId::parse("r-z").unwrap());
        queue.push(lease.clone(), request, "well".to_owned(), Timestamp::from_millis(0));
        let due = queue.take_due(at);
        assert_eq!(due.iter().map(|(_, lease, _)| lease).collect::<Vec<_>>(), [&lease]);
        // One came back, done: its place is the next one's.
        let (backend, first, _) = &taken[0];
        queue.done(first);
        queue.tried(backend, first);
        assert_eq!(queue.take_due(at).len(), 1);
        assert_eq!(queue.waiting(at).0, 100);
    }
}
