//! Credentials in memory. A lease is found by the identity of an ask (every input of the verdict),
//! by its request, or, fastest, by the raw bytes of a call that was answered with it before.
//!
//! Everything here is bounded; what does not fit is forgotten, and asked for again.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use grantwright_domain::{Digest, Timestamp};

use crate::ask::Ask;
use crate::lease::Lease;

/// Most bytes of credentials and their answers.
const MOST_WEIGHT: usize = 1 << 20;
/// Most raw calls that are remembered, and the longest of them.
const MOST_RAW: usize = 512;
const LONGEST_RAW: usize = 1024;
/// Most keys of clients, and most open requests, that are remembered.
const MOST_KEYS: usize = 2048;
const MOST_OPEN: usize = 256;

/// The answer to a call with exactly the same bytes, while that holds.
pub struct Raw {
    lease: Arc<Lease>,
    body: Bytes,
    until: Timestamp,
    keyed: bool,
}

impl Raw {
    /// The answer, if it still is one. `people`: leases that needed people may be given from memory.
    pub fn answer(&self, now: Timestamp, people: bool) -> Option<Bytes> {
        let lease = &self.lease;
        let fits = now < self.until
            && lease.is_live(now)
            && (self.keyed || !lease.is_superseded())
            && (people || !lease.people);
        if fits && (!self.keyed || lease.can_extend()) {
            lease.touch(now);
        }
        fits.then(|| self.body.clone())
    }
}

/// See the module.
#[derive(Default)]
pub struct Cache {
    by_identity: HashMap<Digest, Arc<Lease>>,
    by_request: HashMap<String, Arc<Lease>>,
    by_key: HashMap<String, (Digest, String)>,
    open: HashMap<String, Arc<Ask>>,
    raw: HashMap<Vec<u8>, Arc<Raw>>,
    weight: usize,
}

impl Cache {
    /// What a call with exactly these bytes was answered with. The cache alone holds it for good:
    /// what it forgets, nobody repeats.
    pub fn raw(&self, call: &[u8]) -> Option<&Arc<Raw>> {
        self.raw.get(call)
    }

    /// Remembers that a call with exactly these bytes was answered so. A call with a key repeats
    /// its request's answer until the end; another is looked at again when something is to be done:
    /// when a lease that needed people comes into its last third, or nears its end.
    pub fn remember_raw(
        &mut self,
        call: &[u8],
        lease: &Arc<Lease>,
        body: &Bytes,
        keyed: bool,
        now: Timestamp,
    ) {
        let mut until = lease.expires_at;
        if !keyed || lease.can_extend() {
            until = lease.good_until();
        }
        if !keyed && lease.people {
            until = until.min(lease.renew_at());
        }
        if now >= until || call.len() > LONGEST_RAW {
            return;
        }
        if self.raw.len() >= MOST_RAW {
            self.raw.retain(|_, raw| now < raw.until && raw.lease.is_live(now));
        }
        if self.raw.len() < MOST_RAW {
            let raw = Raw { lease: Arc::clone(lease), body: body.clone(), until, keyed };
            self.raw.insert(call.to_vec(), Arc::new(raw));
        }
    }

    /// The current lease for an ask's identity, however little life it has left.
    pub fn lease(&self, identity: Digest, now: Timestamp) -> Option<Arc<Lease>> {
        self.by_identity.get(&identity).filter(|lease| lease.is_live(now)).cloned()
    }

    /// The lease that a request issued.
    pub fn of_request(&self, request_id: &str, now: Timestamp) -> Option<Arc<Lease>> {
        self.by_request.get(request_id).filter(|lease| lease.is_live(now)).cloned()
    }

    /// The lease that a client's key led to, if the body was the same. The broker remains the
    /// authority on keys: anything else is a question to it.
    pub fn of_key(&self, key: &str, body: Digest, now: Timestamp) -> Option<Arc<Lease>> {
        let (known, request_id) = self.by_key.get(key)?;
        if *known == body { self.of_request(request_id, now) } else { None }
    }

    /// Keeps a lease and gives the one to answer with: when its request has delivered before, that
    /// one, so that all who wait get the same.
    pub fn insert(&mut self, lease: Arc<Lease>, now: Timestamp) -> Arc<Lease> {
        if let Some(first) = self.of_request(&lease.request_id, now) {
            return first;
        }
        self.open.remove(&lease.request_id);
        self.make_room(lease.weight(), now);
        self.weight += lease.weight();
        self.by_request.insert(lease.request_id.clone(), Arc::clone(&lease));
        if let Some(ask) = &lease.ask {
            let replaced = self.by_identity.insert(ask.identity, Arc::clone(&lease));
            if let Some(replaced) = replaced {
                replaced.supersede();
            }
        }
        lease
    }

    /// The same credential, extended, takes its place; false when it was ended or forgotten meanwhile.
    pub fn replace(&mut self, old: &Arc<Lease>, new: Lease) -> bool {
        let held = self.by_request.get(&old.request_id);
        if !held.is_some_and(|l| Arc::ptr_eq(l, old)) {
            return false;
        }
        let new = Arc::new(new);
        self.raw.retain(|_, raw| !Arc::ptr_eq(&raw.lease, old));
        for kept in self.by_identity.values_mut().filter(|kept| Arc::ptr_eq(kept, old)) {
            *kept = Arc::clone(&new);
        }
        self.weight = (self.weight + new.weight()).saturating_sub(old.weight());
        self.by_request.insert(new.request_id.clone(), new);
        true
    }

    /// Remembers to which request a client's key led.
    pub fn bind_key(&mut self, key: &str, body: Digest, request_id: &str) {
        if self.by_key.len() >= MOST_KEYS {
            let Self { by_key, by_request, open, .. } = self;
            by_key.retain(|_, (_, id)| by_request.contains_key(id) || open.contains_key(id));
        }
        if self.by_key.len() < MOST_KEYS {
            self.by_key.insert(key.to_owned(), (body, request_id.to_owned()));
        }
    }

    /// Remembers what an open request asked, for when its credential is collected.
    pub fn note_open(&mut self, request_id: &str, ask: &Arc<Ask>) {
        if self.open.len() >= MOST_OPEN && !self.open.contains_key(request_id) {
            // Losing one costs a later ask without a key one call: nothing is granted by it.
            let any = self.open.keys().next().cloned();
            any.and_then(|id| self.open.remove(&id));
        }
        self.open.insert(request_id.to_owned(), Arc::clone(ask));
    }

    /// What an open request asked.
    pub fn open_ask(&self, request_id: &str) -> Option<Arc<Ask>> {
        self.open.get(request_id).cloned()
    }

    /// The request ended without a credential.
    pub fn close(&mut self, request_id: &str) {
        self.open.remove(request_id);
    }

    /// A lease ended early: nobody is given it again. True if it was here.
    pub fn evict_lease(&mut self, lease_id: &str, now: Timestamp) -> bool {
        let found = self.by_request.values().find(|lease| lease.lease_id == lease_id);
        let Some(lease) = found else { return false };
        lease.end();
        self.sweep(now);
        true
    }

    /// As [`Cache::evict_lease`], by the request that issued it.
    pub fn evict_request(&mut self, request_id: &str, now: Timestamp) {
        if let Some(lease) = self.by_request.get(request_id) {
            lease.end();
            self.sweep(now);
        }
    }

    /// This instance's right ended: forgets everything.
    pub fn evict_all(&mut self) {
        self.by_request.values().for_each(|lease| lease.end());
        *self = Self::default();
    }

    /// The scope is declared otherwise now: new asks for it are asked of the broker.
    pub fn supersede_scope(&mut self, scope: &str) {
        self.by_identity.retain(|_, lease| {
            let other = lease.ask.as_ref().is_none_or(|ask| ask.scope.as_str() != scope);
            if !other {
                lease.supersede();
            }
            other
        });
    }

    /// Forgets what expired or ended.
    pub fn sweep(&mut self, now: Timestamp) {
        self.raw.retain(|_, raw| now < raw.until && raw.lease.is_live(now));
        self.by_identity.retain(|_, lease| lease.is_live(now));
        self.by_request.retain(|_, lease| lease.is_live(now));
        self.weight = self.by_request.values().map(|lease| lease.weight()).sum();
    }

    /// The leases that answer new asks.
    pub fn current(&self) -> impl Iterator<Item = &Arc<Lease>> {
        self.by_identity.values()
    }

    /// Number of credentials in memory.
    pub fn count(&self) -> usize {
        self.by_request.len()
    }

    /// Room for one more: what expired goes first, then what expires soonest.
    fn make_room(&mut self, weight: usize, now: Timestamp) {
        if self.weight + weight <= MOST_WEIGHT {
            return;
        }
        self.sweep(now);
        if self.weight + weight <= MOST_WEIGHT {
            return;
        }
        let mut leases: Vec<Arc<Lease>> = self.by_request.values().cloned().collect();
        // Those that only repeat their own request's answer go before those that serve new asks.
        leases.sort_by_key(|lease| (!lease.is_superseded(), lease.expires_at));
        // A quarter at once, so that the sorting is paid rarely.
        let mut freed = 0;
        for lease in leases {
            if freed >= MOST_WEIGHT / 4 + weight {
                break;
            }
            freed += lease.weight();
            self.by_request.remove(&lease.request_id);
            self.by_identity.retain(|_, kept| !Arc::ptr_eq(kept, &lease));
            self.raw.retain(|_, raw| !Arc::ptr_eq(&raw.lease, &lease));
        }
        self.weight = self.weight.saturating_sub(freed);
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
