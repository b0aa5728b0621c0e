use std::time::{Instant, SystemTime, UNIX_EPOCH};

use grantwright_domain::{Clock, Timestamp};

/// The system's time, which never goes back: a wall clock that is set back goes on with the
/// monotonic clock, so that nothing outlives its expiry (SECURITY 26).
#[derive(Debug)]
pub struct SteadyClock {
    start: Instant,
    start_ms: i64,
}

impl SteadyClock {
    /// Anchors the two clocks to each other.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now(), start_ms: wall_ms() }
    }
}

impl Default for SteadyClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        let passed = i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(wall_ms().max(self.start_ms.saturating_add(passed)))
    }
}

#[allow(clippy::disallowed_methods, reason = "this file is the clock")]
fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
