//! Wakes calls that wait for a request to change, and tells sidecars which leases ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use grantwright_domain::{AgentId, LeaseId, RequestId};
use tokio::sync::{Notify, broadcast};

/// Tidings for attending sidecars.
#[derive(Debug, Clone)]
pub enum Tidings {
    /// This lease of this agent ended early.
    Ended(AgentId, LeaseId),
    /// This agent's right ended.
    Revoked(AgentId),
}

/// See the module.
pub struct Wake {
    waiting: Mutex<HashMap<RequestId, Arc<Notify>>>,
    tidings: broadcast::Sender<Tidings>,
}

/// A place in the waiting room of one request; leaving is dropping it.
pub struct Waiting<'w> {
    room: &'w Wake,
    id: RequestId,
    notify: Arc<Notify>,
}

impl Wake {
    /// Nobody waits yet.
    #[must_use]
    pub fn new() -> Self {
        Self { waiting: Mutex::default(), tidings: broadcast::channel(1024).0 }
    }

    /// Begins to wait: take the place before reading the state, so that no change is missed.
    #[must_use]
    pub fn enter(&self, id: &RequestId) -> Waiting<'_> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let notify = Arc::clone(waiting.entry(id.clone()).or_default());
        Waiting { room: self, id: id.clone(), notify }
    }

    /// Wakes everyone who waits for this request.
    pub fn changed(&self, id: &RequestId) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notify) = waiting.get(id) {
            notify.notify_waiters();
        }
    }

    /// Tells attending sidecars.
    pub fn tell(&self, tidings: Tidings) {
        // Nobody attending is fine.
        let _ = self.tidings.send(tidings);
    }

    /// Hears tidings from now on.
    #[must_use]
    pub fn hear(&self) -> broadcast::Receiver<Tidings> {
        self.tidings.subscribe()
    }
}

impl Waiting<'_> {
    /// Arms the wait; a change after this call completes it.
    pub fn change(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.room.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Two: the map's and ours.
        if Arc::strong_count(&self.notify) <= 2 {
            waiting.remove(&self.id);
        }
    }
}
