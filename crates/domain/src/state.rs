//! The fold of the whole log. The broker moves by it; the offline verifier proves by it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::authority::Authority;
use crate::digest::Digest;
use crate::event::{Event, Requested};
use crate::id::{LeaseId, RequestId};
use crate::request::{RequestState, Rights};

/// The rules forbid an event here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Violation {
    /// The rule, a short stable word.
    pub rule: &'static str,
    /// The word programs act on; equals the rule where there is no finer one.
    pub code: &'static str,
    /// What is wrong, in words.
    pub detail: String,
}

impl Violation {
    /// A violation whose code is its rule.
    #[must_use]
    pub fn rule(rule: &'static str, detail: String) -> Self {
        Self { rule, code: rule, detail }
    }
    /// A violation with a finer code.
    #[must_use]
    pub fn coded(rule: &'static str, code: &'static str, detail: String) -> Self {
        Self { rule, code, detail }
    }
}

/// A map whose hash is quick and seeded anew in each process: a log is folded by millions of lookups.
/// Not for numbers that stand for what they are made of.
pub type FoldMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Everything the log says.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Who may decide.
    pub authority: Authority,
    /// Requests by id.
    pub requests: FoldMap<RequestId, RequestState>,
    /// Requests by the lease they issued.
    pub leases: FoldMap<LeaseId, RequestId>,
    /// Leaves folded in.
    pub size: u64,
}

impl State {
    /// Folds the next leaf in.
    ///
    /// # Errors
    /// When the rules forbid it; nothing that follows can then be relied on.
    pub fn apply(&mut self, event: &Event) -> Result<(), Violation> {
        let index = self.size;
        self.size += 1;
        let Some(id) = event.request_id() else {
            return self.authority.apply(index, event);
        };
        self.opened()?;
        match (event, self.requests.get_mut(id)) {
            (Event::Requested(_), Some(_)) => {
                Err(Violation::rule("request-once", format!("request `{id}` exists")))
            }
            (Event::Requested(e), None) => {
                let state = RequestState::begin(index, e, Rights::Now(&self.authority))?;
                self.requests.insert(id.clone(), state);
                Ok(())
            }
            (_, None) => Err(Violation::rule("request-known", format!("no request `{id}`"))),
            (Event::Issued(e), Some(state)) => {
                if self.leases.contains_key(&e.lease_id) {
                    return Err(Violation::rule(
                        "lease-once",
                        format!("lease `{}` exists", e.lease_id),
                    ));
                }
                state.apply(index, event, Rights::Now(&self.authority))?;
                self.leases.insert(e.lease_id.clone(), id.clone());
                Ok(())
            }
            (_, Some(state)) => state.apply(index, event, Rights::Now(&self.authority)),
        }
    }

    /// Folds the next leaf in, a request whose terms are known to have the digest `digest`.
    ///
    /// # Errors
    /// As [`State::apply`].
    pub fn begin(&mut self, requested: Requested, digest: Digest) -> Result<(), Violation> {
        let index = self.size;
        self.size += 1;
        self.opened()?;
        match self.requests.entry(requested.request_id.clone()) {
            Entry::Occupied(known) => {
                Err(Violation::rule("request-once", format!("request `{}` exists", known.key())))
            }
            Entry::Vacant(place) => {
                let rights = Rights::Now(&self.authority);
                place.insert(RequestState::begin_with(index, requested, digest, rights)?);
                Ok(())
            }
        }
    }

    fn opened(&self) -> Result<(), Violation> {
        if self.authority.origin.is_empty() {
            return Err(Violation::rule("opened-first", "the first leaf of a log opens it".into()));
        }
        Ok(())
    }
}
