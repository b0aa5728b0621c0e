//! What the pages keep between calls: proven requests, so that a list need not prove each again, and
//! the tidings for open pages. Nothing is decided by it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use grantwright_domain::{Event, RequestId, VerdictKind};
use grantwright_store::{Loaded, RequestSummary};
use grantwright_wire::Refusal;
use tokio::sync::broadcast;

use crate::core::Broker;
use crate::error::of_store;

/// Most requests that are kept.
const MOST: usize = 4096;
/// Most denials because something looks wrong that are remembered.
const MOST_WRONG: usize = 64;
/// Most open streams, of everybody together.
pub const MOST_STREAMS: usize = 256;
/// Tidings that a slow page may lag behind; beyond them it is told to look at everything.
const BEHIND: usize = 256;

/// A request changed.
#[derive(Debug, Clone)]
pub struct Change {
    /// Which.
    pub request: RequestId,
    /// Lists show it: people are asked, or were.
    pub listed: bool,
}

/// See the module.
pub struct Desk {
    kept: Mutex<HashMap<RequestId, Arc<Loaded>>>,
    changes: broadcast::Sender<Change>,
    streams: AtomicUsize,
    /// Somebody proves what pages did not get to.
    catching_up: AtomicBool,
    /// What people denied because it looks wrong, as far as the log was read.
    wrong: Mutex<Wrong>,
}

/// Requests by the age of their denial, the newest first, up to a leaf.
#[derive(Debug, Clone, Default)]
struct Wrong {
    until: u64,
    requests: Vec<RequestId>,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            changes: broadcast::channel(BEHIND).0,
            streams: AtomicUsize::new(0),
            catching_up: AtomicBool::new(false),
            wrong: Mutex::default(),
        }
    }
}

/// A place among the open streams; dropping it gives it back.
pub struct Place(Arc<Broker>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.desk.streams.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Desk {
    /// What open pages are told once these events are durable.
    #[must_use]
    pub fn telling(&self, events: &[Event]) -> Option<Change> {
        if self.changes.receiver_count() == 0 {
            return None;
        }
        let request = events.iter().find_map(Event::request_id)?.clone();
        // What policy alone decided goes by unseen: a busy agent must not make every page reload.
        let routine = events.iter().any(
            |e| matches!(e, Event::Decided(d) if !d.again && d.verdict.kind != VerdictKind::Ask),
        );
        Some(Change { request, listed: !routine })
    }

    /// What was said beside the request is erased: nothing of it stays here.
    pub fn forget(&self, request: &RequestId) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(request);
    }

    /// Tells open pages.
    pub fn tell(&self, change: Option<Change>) {
        if let Some(change) = change {
            // No page may be open any more.
            let _ = self.changes.send(change);
        }
    }

    /// Hears tidings from now on.
    #[must_use]
    pub fn hear(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}

/// A place for one more stream; none when all are taken.
#[must_use]
pub fn place(broker: &Arc<Broker>) -> Option<Place> {
    let before = broker.desk.streams.fetch_add(1, Ordering::SeqCst);
    let place = Place(Arc::clone(broker));
    (before < MOST_STREAMS).then_some(place)
}

/// How many requests one page may prove anew: a page of a broker that just started, with a thousand
/// requests waiting, shows what it got to at once. The rest is proven behind it, and then open pages
/// look again.
#[derive(Debug)]
pub struct Budget {
    left: usize,
    rest: Vec<RequestSummary>,
}

impl Budget {
    /// This many.
    #[must_use]
    pub fn of(left: usize) -> Self {
        Self { left, rest: Vec::new() }
    }

    /// Whether nothing more may be proven anew.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// A request that ended, from memory or proven anew; none as well once the budget is spent.
    ///
    /// # Errors
    /// As [`proven`].
    pub async fn ended(
        &mut self,
        broker: &Broker,
        id: &RequestId,
    ) -> Result<Option<Arc<Loaded>>, Refusal> {
        let known = {
            let kept = broker.desk.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.get(id).filter(|l| !l.state.phase.is_open()).cloned()
        };
        if known.is_some() || self.left == 0 {
            return Ok(known);
        }
        self.left -= 1;
        load(broker, id).await
    }

    /// As [`proven`]; none as well once the budget is spent and the request is not known yet.
    ///
    /// # Errors
    /// As [`proven`].
    pub async fn proven(
        &mut self,
        broker: &Broker,
        row: &RequestSummary,
    ) -> Result<Option<Arc<Loaded>>, Refusal> {
        if let Some(loaded) = kept(broker, row) {
            return Ok(Some(loaded));
        }
        if self.left == 0 {
            self.rest.push(row.clone());
            return Ok(None);
        }
        self.left -= 1;
        proven(broker, row).await
    }

    /// Proves the rest, unless that is being done already.
    pub fn catch_up(self, broker: &Arc<Broker>) {
        let Some(request) = self.rest.first().map(|row| row.id.clone()) else { return };
        if broker.desk.catching_up.swap(true, Ordering::SeqCst) {
            return;
        }
        let broker = Arc::clone(broker);
        tokio::spawn(async move {
            for row in &self.rest {
                if let Err(refusal) = proven(&broker, row).await {
                    tracing::warn!(request = %row.id, code = refusal.code, "a request could not be proven for a page");
                }
            }
            broker.desk.catching_up.store(false, Ordering::SeqCst);
            broker.desk.tell(Some(Change { request, listed: true }));
        });
    }
}

/// From memory, where it has not changed since.
fn kept(broker: &Broker, row: &RequestSummary) -> Option<Arc<Loaded>> {
    let kept = broker.desk.kept.lock().unwrap_or_else(PoisonError::into_inner);
    kept.get(&row.id).filter(|l| l.state.version == row.version).cloned()
}

/// The proven request of a row, from memory where it has not changed since.
///
/// # Errors
/// When the store cannot be read, or does not prove.
pub async fn proven(broker: &Broker, row: &RequestSummary) -> Result<Option<Arc<Loaded>>, Refusal> {
    if let Some(loaded) = kept(broker, row) {
        return Ok(Some(loaded));
    }
    load(broker, &row.id).await
}

async fn load(broker: &Broker, id: &RequestId) -> Result<Option<Arc<Loaded>>, Refusal> {
    let Some(loaded) = broker.store.load(id).await.map_err(of_store)? else { return Ok(None) };
    let loaded = Arc::new(loaded);
    let mut kept = broker.desk.kept.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() >= MOST {
        kept.retain(|_, l| l.state.phase.is_open());
        if kept.len() >= MOST {
            kept.clear();
        }
    }
    kept.insert(id.clone(), Arc::clone(&loaded));
    Ok(Some(loaded))
}

/// What people lately denied because it looks wrong, those denied last first; of the log only what
/// is new since the last call is read.
///
/// # Errors
/// When the store cannot be read.
pub async fn looks_wrong(broker: &Broker) -> Result<Vec<RequestId>, Refusal> {
    let size = broker.store.head().size;
    let known = broker.desk.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if known.until == size {
        return Ok(known.requests);
    }
    let mut requests =
        broker.store.denied_because("looks_wrong", known.until).await.map_err(of_store)?;
    let older: Vec<RequestId> =
        known.requests.into_iter().filter(|id| !requests.contains(id)).collect();
    requests.extend(older);
    requests.truncate(MOST_WRONG);
    let mut kept = broker.desk.wrong.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.until <= size {
        *kept = Wrong { until: size, requests: requests.clone() };
    }
    Ok(requests)
}

#[cfg(test)]
mod tests {
    use grantwright_store::RequestFilter;

    use super::*;
    use crate::issue::rig::Rig;

    #[tokio::test]
    async fn invariant_28_a_page_proves_so_many_at_once_and_the_rest_follows() {
        let rig = Rig::new().await;
        for name in ["one", "two", "three"] {
            let ask = rig.ask("signed", &format!(r#"{{"dataset":"{name}"}}"#), "");
            rig.issue(ask).await.expect("pending");
        }
        let open = RequestFilter { open: true, soonest: true, ..Default::default() };
        let rows = rig.broker.store.list(open).await.unwrap();
        let mut heard = rig.broker.desk.hear();
        let (mut budget, mut shown) = (Budget::of(1), 0);
        for row in &rows {
            shown += usize::from(budget.proven(&rig.broker, row).await.unwrap().is_some());
        }
        assert_eq!((rows.len(), shown), (3, 1));
        budget.catch_up(&rig.broker);
        assert!(heard.recv().await.unwrap().listed, "open pages look again");
        let mut budget = Budget::of(0);
        for row in &rows {
            assert!(budget.proven(&rig.broker, row).await.unwrap().is_some(), "known by now");
        }
    }
}
