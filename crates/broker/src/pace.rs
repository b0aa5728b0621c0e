//! How long people took to approve, scope by scope, since this broker started. Agents are told, so that
//! they plan; no rule rests on it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use grantwright_domain::{RequestState, ScopeName, VerdictKind};

/// Waits remembered of one scope.
const MOST: usize = 32;
/// Scopes remembered.
const MOST_SCOPES: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Pace(Mutex<BTreeMap<ScopeName, VecDeque<u64>>>);

impl Pace {
    /// People approved this request.
    pub fn saw(&self, state: &RequestState) {
        let by_people = state.verdict.as_ref().is_some_and(|it| it.kind == VerdictKind::Ask);
        let (Some(at), true) = (state.approved_at, by_people) else { return };
        let took = u64::try_from(at.since(state.requested_at)).unwrap_or(0);
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let scope = &state.terms.scope;
        if waits.len() >= MOST_SCOPES && !waits.contains_key(scope) {
            return;
        }
        let waits = waits.entry(scope.clone()).or_default();
        if waits.len() >= MOST {
            waits.pop_front();
        }
        waits.push_back(took);
    }

    /// The median of the last waits, in whole seconds, at least one; none where nobody waited.
    #[must_use]
    pub fn median_s(&self, scope: &ScopeName) -> Option<u64> {
        let waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waits: Vec<u64> = waits.get(scope)?.iter().copied().collect();
        waits.sort_unstable();
        waits.get(waits.len() / 2).map(|ms| ms.div_ceil(1000).max(1))
    }
}
