//! The one place that reads the wall clock.

use std::sync::atomic::{AtomicI64, Ordering};

use grantwright_domain::{Clock, Timestamp};

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

/// The system's clock, which never goes back while the process lives: a clock that is set back
/// stands still until time has caught up.
#[derive(Debug, Default)]
pub struct SteadyClock(AtomicI64);

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        let now = SystemClock.now().millis();
        Timestamp::from_millis(self.0.fetch_max(now, Ordering::Relaxed).max(now))
    }
}
