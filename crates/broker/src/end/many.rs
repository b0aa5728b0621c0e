//! Ends many leases. What this broker ends by itself (its own tokens and certificates) ends as it is looked
//! at; each backend has places of its own, so that one that does not answer keeps nothing else waiting.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use grantwright_domain::{AgentId, LeaseId, RequestId, RequestState, Timestamp};
use grantwright_mint::Ended;
use grantwright_store::Loaded;
use grantwright_wire::Refusal;
use tokio::task::{JoinError, JoinSet};

use super::{AT_ONCE, RETRIES, end_lease_for, faulty, hidden};
use crate::core::Broker;
use crate::error::{of_store, refuse};

/// Why the lease of a request is to end, in words that are told with the effect, or empty ones; `None`: it is
/// not to end.
type Why = dyn Fn(&Broker, &Loaded) -> Result<Option<&'static str>, Refusal> + Send + Sync;

/// A lease that was ended, when it would have ended by itself, and what ending it did.
type One = (LeaseId, Timestamp, Ended);

/// One that waits for a place, as it was looked at if that is kept.
type Waiting = (RequestId, Option<Box<Loaded>>);

/// See the module.
pub(super) struct Many {
    broker: Arc<Broker>,
    by: String,
    why: Arc<Why>,
    work: JoinSet<Step>,
    /// How many are being looked at.
    looking: usize,
    /// How many are being ended, by backend.
    trying: BTreeMap<String, usize>,
    /// Those that wait for a place, by backend.
    waiting: BTreeMap<String, VecDeque<Waiting>>,
    /// How many of these are kept as they were looked at.
    kept: usize,
    over: Over,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Over {
    /// What was ended, or is tried again by the queue.
    pub(super) ended: Vec<One>,
    /// How many could not be looked at, or their ends not written.
    pub(super) failed: u64,
    /// Why the last of these was not.
    pub(super) fault: Option<Refusal>,
}

enum Step {
    Looked(Result<Found, Refusal>),
    Tried(String, Result<Found, Refusal>),
}

enum Found {
    Ended(One),
    NotToEnd,
    /// Its end is a call to this backend.
    At(String, RequestId, Box<Loaded>),
}

/// Most that are kept in memory as they were looked at while they wait for a place; others are read again.
const MOST_KEPT: usize = 4096;

impl Many {
    pub(super) fn new(
        broker: &Arc<Broker>,
        by: &str,
        why: impl Fn(&Broker, &Loaded) -> Result<Option<&'static str>, Refusal> + Send + Sync + 'static,
    ) -> Self {
        Self {
            broker: Arc::clone(broker),
            by: by.to_owned(),
            why: Arc::new(why),
            work: JoinSet::new(),
            looking: 0,
            trying: BTreeMap::new(),
            waiting: BTreeMap::new(),
            kept: 0,
            over: Over::default(),
        }
    }

    /// Looks at all of an agent: those that the store's memory knows, whatever its rows say.
    ///
    /// # Errors
    /// When the store cannot be read; what was found until then is ended.
    pub(super) async fn all_of(&mut self, agent: &AgentId) -> Result<(), Refusal> {
        let mut after = None::<RequestId>;
        loop {
            let page = self.broker.store.live(Some(agent), after.as_ref()).await;
            let page = page.map_err(of_store)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for id in page {
                self.look_at(id).await;
            }
        }
    }

    /// Looks at one; waits for a place to do so, and for no backend.
    pub(super) async fn look_at(&mut self, id: RequestId) {
        while self.looking >= AT_ONCE {
            match self.work.join_next().await {
                Some(step) => self.take(step),
                None => self.looking = 0,
            }
        }
        self.looking += 1;
        let (broker, by, why) = (Arc::clone(&self.broker), self.by.clone(), Arc::clone(&self.why));
        let look = async move { Step::Looked(one(&broker, id, None, &by, &*why, false).await) };
        self.work.spawn(look);
    }

    /// How many were ended so far.
    pub(super) fn ended(&self) -> usize {
        self.over.ended.len()
    }

    /// Waits for what is being ended. What could not be is told, and counted.
    pub(super) async fn finish(mut self) -> Over {
        loop {
            while let Some(step) = self.work.join_next().await {
                self.take(step);
            }
            // Only what a task left that ended before its time.
            self.trying.clear();
            let Some(backend) = self.waiting.keys().next().cloned() else { break };
            self.begin(&backend);
        }
        if let Some(fault) = &self.over.fault {
            faulty(&self.broker, self.over.failed, &format!("{}: {}", fault.code, fault.detail));
        }
        self.over
    }

    fn take(&mut self, step: Result<Step, JoinError>) {
        let found = match step {
            Ok(Step::Looked(found)) => {
                self.looking = self.looking.saturating_sub(1);
                found
            }
            Ok(Step::Tried(backend, found)) => {
                if let Some(busy) = self.trying.get_mut(&backend) {
                    *busy = busy.saturating_sub(1);
                }
                self.begin(&backend);
                found
            }
            Err(_) => Err(refuse(
                503,
                "internal",
                "the broker failed within",
                "revoke again: what ended stays ended",
            )),
        };
        match found {
            Ok(Found::Ended(one)) => self.over.ended.push(one),
            Ok(Found::NotToEnd) => {}
            Ok(Found::At(backend, id, loaded)) => {
                let kept = (self.kept < MOST_KEPT).then_some(loaded);
                self.kept += usize::from(kept.is_some());
                self.waiting.entry(backend.clone()).or_default().push_back((id, kept));
                self.begin(&backend);
            }
            Err(refusal) => {
                self.over.failed += 1;
                self.over.fault = Some(refusal);
            }
        }
    }

    /// Begins those of a backend for which there is a place.
    fn begin(&mut self, backend: &str) {
        let busy = self.trying.entry(backend.to_owned()).or_default();
        let Some(waiting) = self.waiting.get_mut(backend) else { return };
        while *busy < AT_ONCE
            && let Some((id, kept)) = waiting.pop_front()
        {
            *busy += 1;
            self.kept = self.kept.saturating_sub(usize::from(kept.is_some()));
            let (broker, by, why, backend) = (
                Arc::clone(&self.broker),
                self.by.clone(),
                Arc::clone(&self.why),
                backend.to_owned(),
            );
            self.work.spawn(async move {
                let found = one(&broker, id, kept, &by, &*why, true).await;
                Step::Tried(backend, found)
            });
        }
        if waiting.is_empty() {
            self.waiting.remove(backend);
        }
    }
}

/// Ends the lease of one, unless that is for a backend to do and has no place there yet. `kept`: as it was
/// looked at before; where it changed meanwhile its end is not written, and it is read again.
async fn one(
    broker: &Broker,
    id: RequestId,
    mut kept: Option<Box<Loaded>>,
    by: &str,
    why: &Why,
    has_place: bool,
) -> Result<Found, Refusal> {
    let mut tries = 0;
    loop {
        tries += 1;
        let loaded = match kept.take() {
            Some(loaded) => loaded,
            None => match broker.store.load(&id).await.map_err(of_store)? {
                Some(loaded) => Box::new(loaded),
                None => return Err(hidden(&id)),
            },
        };
        let Some(why) = why(broker, &loaded)? else { return Ok(Found::NotToEnd) };
        let Some(lease) = loaded.state.lease.clone() else { return Ok(Found::NotToEnd) };
        if !has_place && let Some(backend) = outside(broker, &loaded.state) {
            return Ok(Found::At(backend, id, loaded));
        }
        let state = loaded.state;
        if !why.is_empty() {
            tracing::warn!(request = %id, why, "a live lease is ended");
        }
        match end_lease_for(broker, state, by, why).await {
            Ok(ended) => return Ok(Found::Ended((lease.id, lease.expires_at, ended))),
            Err(refusal) if refusal.code == "changed_meanwhile" && tries < RETRIES => {}
            Err(refusal) if refusal.code == "not_live" => return Ok(Found::NotToEnd),
            Err(refusal) => return Err(refusal),
        }
    }
}

/// The backend that is asked to end this lease; `None`: the broker ends it by itself.
fn outside(broker: &Broker, state: &RequestState) -> Option<String> {
    let name = super::queue::backend_of(broker, state);
    broker.minters.get(&name).is_some_and(|m| m.signer().is_none()).then_some(name)
}

#[cfg(test)]
mod tests {
    use grantwright_domain::Event;

    use super::*;
    use crate::end::end_lease;
    use crate::issue::rig::{Rig, id_of};

    /// Ended by somebody else between a look and its place: told as that, once, whatever was kept of it.
    #[tokio::test]
    async fn what_changed_since_it_was_looked_at_is_read_again() {
        let rig = Rig::new().await;
        let asked = rig.issue(rig.ask("account", r#"{"dataset":"sales"}"#, "")).await;
        let id = RequestId::parse(&id_of(&asked.expect("granted"))).expect("an id");
        let kept = rig.broker.store.load(&id).await.expect("read").expect("known");
        let state = kept.state.clone();
        end_lease(&rig.broker, state, "olivia").await.expect("ended");
        let why: &Why = &|_, _| Ok(Some(""));
        let found = one(&rig.broker, id.clone(), Some(Box::new(kept)), "broker", why, true).await;
        assert!(matches!(found, Ok(Found::NotToEnd)));
        let leaves = rig.broker.store.load(&id).await.expect("read").expect("known").leaves;
        let ends = leaves.iter().filter(|(_, leaf)| matches!(leaf, Event::Revoked(_))).count();
        assert_eq!(ends, 1);
        rig.fold().await;
    }
}
