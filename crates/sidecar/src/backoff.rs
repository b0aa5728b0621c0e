//! How long to wait before a broker that is gone is tried again: full jitter, so that all sidecars of
//! one that restarts come back, but not at once.

use std::time::Duration;

/// Waited in any case, in milliseconds: a connection that ends at once is no busy loop.
const LEAST_MS: u64 = 20;
/// What is drawn for the first wait stays below this, in milliseconds; each time the bound doubles.
const FIRST_MS: u64 = 50;
/// But not beyond this.
const MOST_MS: u64 = 2000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Backoff {
    bound_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { bound_ms: FIRST_MS }
    }
}

impl Backoff {
    /// A connection held for a while: the next wait is a first one.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// The next wait. `below` draws a number below the one that it is given, each as likely as any
    /// other.
    pub(crate) fn pause(&mut self, below: impl FnOnce(u64) -> u64) -> Duration {
        let wait_ms = LEAST_MS + below(self.bound_ms);
        self.bound_ms = (self.bound_ms * 2).min(MOST_MS);
        Duration::from_millis(wait_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_wait_is_drawn_below_a_bound_that_doubles_up_to_two_seconds() {
        let mut backoff = Backoff::default();
        for bound in [50, 100, 200, 400, 800, 1600, 2000, 2000] {
            // The least and the most that chance may give: nothing but that is waited.
            for drawn in [0, bound - 1] {
                let mut again = Backoff { bound_ms: backoff.bound_ms };
                let pause = again.pause(|below| {
                    assert_eq!(below, bound);
                    drawn
                });
                assert_eq!(pause, Duration::from_millis(20 + drawn));
            }
            backoff.pause(|_| 0);
        }
        backoff.reset();
        backoff.pause(|below| {
            assert_eq!(below, 50);
            0
        });
    }
}
