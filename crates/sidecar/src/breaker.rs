//! A circuit breaker: where no broker has answered several calls in a row, the next ones fail at once
//! instead of each waiting for a connection, and one at a time tries whether a broker is back.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Calls in a row that no broker answered before it opens.
const MOST_FAILURES: u32 = 3;
/// Between two tries while it is open.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    next_try: Option<Instant>,
}

impl Breaker {
    /// Whether a call may be made at `now`. While it is open, whoever may is the one who tries.
    pub(crate) fn admits(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failures < MOST_FAILURES || state.next_try.is_none_or(|at| now >= at) {
            state.next_try = Some(now + PAUSE);
            return true;
        }
        false
    }

    /// A broker answered, or none did.
    pub(crate) fn note(&self, answered: bool) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures = if answered { 0 } else { state.failures.saturating_add(1) };
    }

    /// Whether calls fail at once.
    pub(crate) fn is_open(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).failures >= MOST_FAILURES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_one_at_a_time_tries() {
        let breaker = Breaker::default();
        let now = Instant::now();
        for _ in 0..MOST_FAILURES - 1 {
            assert!(breaker.admits(now));
            breaker.note(false);
        }
        breaker.note(true);
        for _ in 0..MOST_FAILURES {
            assert!(breaker.admits(now) && !breaker.is_open());
            breaker.note(false);
        }
        assert!(breaker.is_open());
        assert!(!breaker.admits(now));
        let later = now + PAUSE;
        assert!(breaker.admits(later), "one tries");
        assert!(!breaker.admits(later), "and only one");
        breaker.note(true);
        assert!(!breaker.is_open() && breaker.admits(later) && breaker.admits(later));
    }
}
