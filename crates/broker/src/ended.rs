//! What built-in issuers publish: their keys, and what ended early and has not expired.
//!
//! The list is the fold of the log. It is read from the store at the start and grows with each leaf
//! "revoked", after that leaf is durable; what expired leaves it. Rows are quick to read, and anybody's who
//! writes to the database: what they left out at the start is found in the log itself, a little later.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use grantwright_domain::request::Lease;
use grantwright_domain::{Authority, Event, LeaseId, RequestId, RequestState, Timestamp};
use grantwright_mint::{Document, EndedLease};
use grantwright_store::{LeaseFilter, LeaseSummary, StoreError};
use grantwright_wire::Refusal;

use crate::core::Broker;
use crate::error::{of_store, refuse};

/// Most that are listed; beyond, no list is served, since one that lacks an entry would let it in.
const MOST: usize = 1_000_000;
/// How many are read at a time.
const AT_ONCE: usize = 16;
/// How long a document is served as it was made, while nothing ended.
const GOOD_FOR_MS: i64 = 10_000;
/// Longest life of a credential (12 h), and what a clock may have been wrong by: what was ended before that is
/// over.
const LONGEST_S: i64 = 13 * 3600;
/// Leaves that are looked at in one go, and the pause after: nobody waits for that.
const LEAVES: u64 = 1024;
const PAUSE: Duration = Duration::from_millis(200);
/// Most documents that are kept.
const MOST_KEPT: usize = 64;

/// See the module.
#[derive(Default)]
pub struct EndedEarly(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// By minter.
    listed: BTreeMap<String, BTreeMap<LeaseId, EndedLease>>,
    count: usize,
    overflowed: bool,
    /// Raised with each change.
    generation: u64,
    kept: BTreeMap<(String, String), Kept>,
}

struct Kept {
    generation: u64,
    made: Timestamp,
    document: Arc<Document>,
}

impl EndedEarly {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, minter: &str, lease: LeaseId, ended: EndedLease) {
        let mut inner = self.lock();
        if inner.count >= MOST {
            inner.overflowed = true;
            return;
        }
        inner.generation += 1;
        let before = inner.listed.entry(minter.to_owned()).or_default().insert(lease, ended);
        inner.count += usize::from(before.is_none());
    }

    /// Forgets what has ended by itself meanwhile.
    pub fn sweep(&self, now: Timestamp) {
        let mut inner = self.lock();
        let before = inner.count;
        inner.listed.values_mut().for_each(|l| l.retain(|_, e| e.expires_at > now));
        inner.count = inner.listed.values().map(BTreeMap::len).sum();
        if inner.count != before {
            inner.generation += 1;
        }
    }

    /// Whether this lease is listed: which leaves are a request's own is said by a row, and one that leaves
    /// out the last would have an ended lease live.
    pub fn has(&self, lease: &LeaseId) -> bool {
        self.lock().listed.values().any(|listed| listed.contains_key(lease))
    }

    /// How many are listed.
    pub fn count(&self) -> usize {
        self.lock().count
    }

    /// Some ended that did not fit: read the store again once there is room.
    fn has_room_again(&self) -> bool {
        let inner = self.lock();
        inner.overflowed && inner.count < MOST / 2
    }
}

/// The minter of a request, when it publishes what ended.
fn publisher<'b>(
    broker: &'b Broker,
    authority: &Authority,
    state: &RequestState,
) -> Option<&'b str> {
    let name = &authority.catalog.get(&state.terms.template)?.minter;
    let (name, minter) = broker.minters.get_key_value(name)?;
    minter.publisher().map(|_| name.as_str())
}

/// Lists a lease whose early end has become durable.
pub fn note(broker: &Broker, state: &RequestState, lease: &Lease, at: Timestamp) {
    if let Some(minter) = publisher(broker, &broker.authority(), state) {
        let ended = EndedLease { at, expires_at: lease.expires_at, facts: lease.facts.clone() };
        broker.ended.add(minter, lease.id.clone(), ended);
    }
}

/// Reads the store again once there is room for what did not fit.
///
/// # Errors
/// When the store cannot be read.
pub async fn restore_overflow(broker: &Broker) -> Result<(), Refusal> {
    if !broker.ended.has_room_again() {
        return Ok(());
    }
    // Partial until the whole store was read without another overflow.
    let whole = restore(broker).await;
    let mut inner = broker.ended.lock();
    inner.overflowed = whole.is_err() || inner.count >= MOST;
    whole
}

/// Lists what ended early before this process began.
///
/// # Errors
/// When the store cannot be read.
pub async fn restore(broker: &Broker) -> Result<(), Refusal> {
    let mut filter = LeaseFilter { ended_early: Some(broker.now()), ..LeaseFilter::default() };
    loop {
        let page = broker.store.leases(filter.clone()).await.map_err(of_store)?;
        let Some(last) = page.last() else { return Ok(()) };
        filter.before = Some(last.first_index);
        let load = |summary: LeaseSummary| async move { broker.store.load(&summary.request).await };
        let loads = page.into_iter().map(load);
        let mut loads = stream::iter(loads).buffer_unordered(AT_ONCE);
        while let Some(loaded) = loads.next().await {
            let Some(state) = loaded.map_err(of_store)?.map(|l| l.state) else { continue };
            if let Some(lease) = &state.lease {
                note(broker, &state, lease, state.last_at);
            }
        }
    }
}

/// Looks in the log, apart, for what ended early before this process began and its rows did not say; `to` is
/// the log's size before they were read.
pub async fn look_back_apart(broker: Arc<Broker>, to: u64) {
    let hidden = match look_back(&broker, to).await {
        Ok(0) => return,
        Ok(hidden) => {
            tracing::error!(
                hidden,
                "ALARM: somebody hid credentials that ended early; their issuers list them again"
            );
            hidden
        }
        Err(e @ StoreError::Tampered(_)) => {
            tracing::error!(error = %e, "ALARM: what ended early cannot be seen in the log");
            1
        }
        Err(e) => {
            tracing::warn!(error = %e, "what ended early is looked for at the next start");
            return;
        }
    };
    broker.counts.faulty.fetch_add(hidden, Ordering::Relaxed);
}

/// Lists what ended early by the leaves before `to`, each of them proven; how many were not listed.
///
/// # Errors
/// When leaves are missing or edited, or cannot be read.
pub(crate) async fn look_back(broker: &Broker, mut to: u64) -> Result<u64, StoreError> {
    let since = broker.now().plus_seconds(-LONGEST_S);
    let (mut halves, mut hidden) = (BTreeMap::new(), 0);
    while to > 0 {
        let from = to.saturating_sub(LEAVES);
        let leaves = broker.store.proven_leaves(from, to).await?;
        // Backwards: a request's end is met before its beginning.
        for (_, event) in leaves.iter().rev() {
            hidden += u64::from(is_hidden(broker, &mut halves, event));
        }
        to = from;
        if leaves.iter().all(|(_, event)| event.at() < since) {
            break;
        }
        if to > 0 {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(hidden)
}

/// Of a request whose lease ended early: when, and the lease once its leaf was met.
struct Half {
    at: Timestamp,
    lease: Option<(LeaseId, EndedLease)>,
}

/// Whether this leaf completes one that is not listed; it then is.
fn is_hidden(broker: &Broker, halves: &mut BTreeMap<RequestId, Half>, event: &Event) -> bool {
    match event {
        Event::Revoked(e) if halves.len() < MOST => {
            halves.entry(e.request_id.clone()).or_insert(Half { at: e.at, lease: None });
        }
        Event::Issued(e) => {
            if let Some(half) = halves.get_mut(&e.request_id) {
                let (expires_at, facts) = (e.expires_at, e.facts.clone());
                let ended = EndedLease { at: half.at, expires_at, facts };
                half.lease = Some((e.lease_id.clone(), ended));
            }
        }
        Event::Intended(e) => {
            let Some((lease, ended)) = halves.remove(&e.request_id).and_then(|h| h.lease) else {
                return false;
            };
            let publishes = broker.minters.get(&e.minter).is_some_and(|m| m.publisher().is_some());
            if publishes && ended.expires_at > broker.now() && !broker.ended.has(&lease) {
                broker.ended.add(&e.minter, lease, ended);
                return true;
            }
        }
        _ => {}
    }
    false
}

/// A document of the issuer that is configured under this name.
///
/// # Errors
/// 404 when there is none, 503 while the list of what ended is not whole or cannot be signed.
pub fn document(broker: &Broker, minter: &str, name: &str) -> Result<Arc<Document>, Refusal> {
    let unknown = || {
        refuse(
            404,
            "unknown_document",
            "there is no such document",
            "see docs/backends.md for each issuer's",
        )
    };
    let publisher = broker.minters.get(minter).and_then(|m| m.publisher()).ok_or_else(unknown)?;
    let now = broker.now();
    let mut inner = broker.ended.lock();
    let key = (minter.to_owned(), name.to_owned());
    if let Some(kept) = inner.kept.get(&key)
        && kept.generation == inner.generation
        && now.since(kept.made) < GOOD_FOR_MS
    {
        return Ok(Arc::clone(&kept.document));
    }
    if inner.overflowed {
        return Err(refuse(
            503,
            "too_many_ended",
            "more credentials ended early than can be listed",
            "rotate this issuer's key: everything it signed ends with it",
        ));
    }
    let none = BTreeMap::new();
    let ended = inner.listed.get(minter).unwrap_or(&none);
    let made = publisher.document(name, ended, now).map_err(|e| {
        tracing::error!(minter, name, error = %e, "a document of an issuer could not be made");
        refuse(503, "not_signed", "the document could not be signed", "look at the broker's log")
    })?;
    let document = Arc::new(made.ok_or_else(unknown)?);
    if inner.kept.len() >= MOST_KEPT {
        inner.kept.clear();
    }
    let kept = Kept { generation: inner.generation, made: now, document: Arc::clone(&document) };
    inner.kept.insert(key, kept);
    Ok(document)
}
