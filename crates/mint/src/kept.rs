//! Tokens that only themselves can end: kept in memory, and nowhere else, until they end.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use grantwright_credential::Secret;
use grantwright_domain::{LeaseId, Timestamp};

/// Most that are kept; of more, those that end first are forgotten, and end by themselves.
const MOST: usize = 100_000;

type Held = BTreeMap<LeaseId, (Timestamp, Secret<String>)>;

#[derive(Default)]
pub(crate) struct Kept(Mutex<Held>);

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keep(&self, lease: LeaseId, token: &str, ends: Timestamp, now: Timestamp) {
        let mut held = self.lock();
        if held.len() >= MOST {
            held.retain(|_, (ends, _)| *ends > now);
        }
        if held.len() >= MOST
            && let Some(first) = held.iter().min_by_key(|(_, (e, _))| *e).map(|(id, _)| id.clone())
        {
            held.remove(&first);
        }
        held.insert(lease, (ends, Secret::new(token.to_owned())));
    }

    /// A copy, to end it with.
    pub(crate) fn token(&self, lease: &LeaseId) -> Option<Secret<String>> {
        self.lock().get(lease).map(|(_, token)| Secret::new(token.expose_secret().clone()))
    }

    pub(crate) fn has(&self, lease: &LeaseId) -> bool {
        self.lock().contains_key(lease)
    }

    pub(crate) fn forget(&self, lease: &LeaseId) {
        self.lock().remove(lease);
    }

    /// Forgets what has ended.
    pub(crate) fn sweep(&self, now: Timestamp) {
        self.lock().retain(|_, (ends, _)| *ends > now);
    }
}
