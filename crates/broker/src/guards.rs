//! Guards against fatigue: what keeps people who decide attentive. None of them decides anything:
//! eligibility and the rules are `domain`'s.

pub mod config;
pub mod group;
pub mod limits;
#[cfg(test)]
mod page_tests;
pub mod pulse;
pub mod remind;
pub mod route;
#[cfg(test)]
mod tests;
pub mod two_step;
pub mod unusual;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use grantwright_domain::{Event, HumanId, RequestId, Timestamp};

use self::pulse::{Measures, Pulse};

/// What the guards keep between calls.
#[derive(Debug, Default)]
pub struct Guards {
    pulse: Mutex<Pulse>,
    /// Who is asked first, by open request.
    routes: Mutex<HashMap<RequestId, Vec<HumanId>>>,
    /// One request is routed at a time: turns are taken.
    turn: tokio::sync::Mutex<()>,
}

impl Guards {
    /// What is to be told once these events are durable; nothing for what agents do alone.
    #[must_use]
    pub fn hearing(&self, events: &[Event]) -> Vec<Event> {
        if pulse::matters(events) { events.to_vec() } else { Vec::new() }
    }

    /// They are durable.
    pub fn heard(&self, events: &[Event]) {
        if !events.is_empty() {
            self.pulse.lock().unwrap_or_else(PoisonError::into_inner).heard(events);
        }
    }

    fn restored(&self, pulse: Pulse) {
        *self.pulse.lock().unwrap_or_else(PoisonError::into_inner) = pulse;
    }

    /// What people did since.
    #[must_use]
    pub fn measures(&self, start: Timestamp) -> Arc<Measures> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner).measures(start)
    }
}
