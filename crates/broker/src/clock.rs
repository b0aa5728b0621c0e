//! The one place that reads clocks.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use grantwright_domain::time::CLOCK_BOUND_MS;
use grantwright_domain::{Clock, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the `Clock` that everything else is given"
        )]
        let now = std::time::SystemTime::now();
        let ms = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis());
        Timestamp::from_millis(i64::try_from(ms).unwrap_or(i64::MAX))
    }
}

/// The wall clock, and the time since the machine started, sleep included, both in milliseconds.
pub type Reading = dyn Fn() -> (i64, i64) + Send + Sync;

/// The system's clock, held against the time that passed since the process started. A wall clock that
/// is set back a little stands still until time has caught up; one that jumped by more than
/// [`CLOCK_BOUND_MS`], either way, is doubted: nothing is appended or minted until it agrees again, or
/// until whoever knows that its time is right starts the broker anew.
pub struct SteadyClock {
    read: Box<Reading>,
    began: (i64, i64),
    newest: AtomicI64,
    doubted: AtomicBool,
}

impl Default for SteadyClock {
    fn default() -> Self {
        Self::new(Box::new(|| {
            let passed = clock_gettime(ClockId::Boottime);
            (SystemClock.now().millis(), passed.tv_sec * 1000 + passed.tv_nsec / 1_000_000)
        }))
    }
}

impl SteadyClock {
    /// Takes the present time as right.
    #[must_use]
    pub fn new(read: Box<Reading>) -> Self {
        let began = read();
        Self { read, began, newest: AtomicI64::new(began.0), doubted: AtomicBool::new(false) }
    }

    /// The wall clock's time, and by how much it differs from what passed since the start.
    fn look(&self) -> (i64, i64) {
        let (wall, passed) = (self.read)();
        let drift = (wall - self.began.0) - (passed - self.began.1);
        let jumped = drift.abs() > CLOCK_BOUND_MS;
        if jumped != self.doubted.swap(jumped, Ordering::Relaxed) {
            if jumped {
                tracing::error!(
                    drift_ms = drift,
                    "ALARM: the system's clock jumped; nothing is issued until it is set right, or \
                     until the broker is started again because its new time is right"
                );
            } else {
                tracing::warn!("the system's clock agrees with the time that passed again");
            }
        }
        (wall, drift)
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        let (wall, drift) = self.look();
        if drift.abs() <= CLOCK_BOUND_MS {
            return Timestamp::from_millis(
                self.newest.fetch_max(wall, Ordering::Relaxed).max(wall),
            );
        }
        // The later of the two, so that nothing outlives its end; not kept, for it may be wrong.
        let passed = wall - drift;
        Timestamp::from_millis(self.newest.load(Ordering::Relaxed).max(wall).max(passed))
    }

    fn jumped_ms(&self) -> Option<i64> {
        let (_, drift) = self.look();
        (drift.abs() > CLOCK_BOUND_MS).then_some(drift)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn invariant_26_a_jump_either_way_is_seen_and_heals() {
        let time = Arc::new(Mutex::new((1_000_000, 5_000)));
        let read = Arc::clone(&time);
        let clock = SteadyClock::new(Box::new(move || *read.lock().unwrap()));
        let at = |wall, passed| {
            *time.lock().unwrap() = (wall, passed);
            (clock.now().millis(), clock.jumped_ms())
        };
        assert_eq!(at(1_060_000, 65_000), (1_060_000, None));
        // A small step back stands still; a small one forward is taken.
        assert_eq!(at(1_050_000, 66_000), (1_060_000, None));
        assert_eq!(at(1_090_000, 70_000), (1_090_000, None));
        // Forward: doubted, and whatever ends by then has ended; healed, time is as if it had not been.
        assert_eq!(at(5_000_000, 95_000), (5_000_000, Some(3_910_000)));
        assert_eq!(at(1_100_000, 105_000), (1_100_000, None));
        // Back: doubted, and nothing lives longer for it.
        assert_eq!(at(500_000, 125_000), (1_120_000, Some(-620_000)));
        assert_eq!(at(1_130_000, 135_000), (1_130_000, None));
    }

    #[test]
    fn the_systems_clocks_agree() {
        let clock = SteadyClock::default();
        assert!(clock.now() > Timestamp::from_millis(1_700_000_000_000));
        assert_eq!(clock.jumped_ms(), None);
    }
}
