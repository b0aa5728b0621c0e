//! Faults a test asks for. Product code passes an empty queue.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// What happens instead of the next commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The transaction is lost before its commit.
    BeforeCommit,
    /// The commit happens, but its answer is lost.
    AfterCommit,
    /// The commit happens as usual: lets a queue name a later one.
    None,
    /// The disk refuses to make the commit durable.
    Fsync,
}

/// A queue of faults, one for each coming commit; shared with the test that fills it.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<VecDeque<Fault>>>);

impl Faults {
    /// Adds a fault for the next commit that has none yet.
    pub fn push(&self, fault: Fault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(fault);
    }

    pub(crate) fn pop(&self) -> Fault {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or(Fault::None)
    }
}
