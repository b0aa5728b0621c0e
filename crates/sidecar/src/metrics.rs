use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Sidecar;

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the sidecar counts. No label holds anything a client chose.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) from_memory: Counter,
    pub(crate) asked: Counter,
    pub(crate) granted: Counter,
    pub(crate) refused: Counter,
    pub(crate) guarded: Counter,
    pub(crate) reloaded: Counter,
    pub(crate) renewed: Counter,
    pub(crate) evicted: Counter,
    pub(crate) acknowledged: Counter,
}

impl Sidecar {
    /// The metrics in Prometheus' text format.
    pub(crate) fn metrics_text(&self) -> String {
        let m = &self.metrics;
        let mut out = String::with_capacity(2048);
        for (name, help, value) in [
            ("from_memory", "Credentials given from memory.", &m.from_memory),
            ("asked", "Calls to the broker for a credential.", &m.asked),
            ("granted", "Credentials delivered and verified.", &m.granted),
            ("refused", "Answers that are problems.", &m.refused),
            ("guarded", "Calls turned away by the guard or for their token.", &m.guarded),
            ("reloaded", "Times the configuration was read again.", &m.reloaded),
            ("renewed", "Renewals asked before the old credential ended.", &m.renewed),
            ("evicted", "Credentials dropped because the broker ended them.", &m.evicted),
            ("acknowledged", "Deliveries acknowledged to the broker.", &m.acknowledged),
        ] {
            let _ = write!(
                out,
                "# HELP grantwright_sidecar_{name}_total {help}\n\
                 # TYPE grantwright_sidecar_{name}_total counter\n\
                 grantwright_sidecar_{name}_total {}\n",
                value.value()
            );
        }
        let left = self.identity().not_after.since(self.now()).max(0) / 1000;
        let cached = i64::try_from(self.cache().count()).unwrap_or(i64::MAX);
        let checkpoint = i64::try_from(self.remember.size()).unwrap_or(i64::MAX);
        for (name, help, value) in [
            ("attended", "1 while the broker's stream is open.", self.attendance.is_up().into()),
            ("cached", "Credentials in memory.", cached),
            (
                "circuit_open",
                "1 while calls fail at once because no broker answered the last ones.",
                self.upstream.breaker.is_open().into(),
            ),
            ("certificate_seconds", "Seconds until this sidecar's certificate ends.", left),
            ("checkpoint_size", "Leaves in the last verified checkpoint.", checkpoint),
            (
                "log_inconsistent",
                "1 while the log does not extend what was seen.",
                self.remember.is_inconsistent().into(),
            ),
        ] {
            let _ = write!(
                out,
                "# HELP grantwright_sidecar_{name} {help}\n\
                 # TYPE grantwright_sidecar_{name} gauge\n\
                 grantwright_sidecar_{name} {value}\n"
            );
        }
        out
    }
}
