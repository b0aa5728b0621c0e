use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use grantwright_domain::{Clock, Timestamp};
use tokio::sync::{Notify, Semaphore};

use crate::Config;
use crate::attend::Attendance;
use crate::cache::Cache;
use crate::fetch::Flights;
use crate::guard::Tokens;
use crate::holder::Holders;
use crate::identity::{Identity, StateDir};
use crate::metrics::Metrics;
use crate::pinned::PinnedLog;
use crate::process::Programs;
use crate::remember::Remember;
use crate::scopes::Scopes;
use crate::upstream::Upstream;

/// Ended leases that are remembered in case their credential arrives after the news of their end.
const MOST_ENDED: usize = 256;
/// Who follows a request's events at the same time, by either door; more are refused.
const MOST_FOLLOWERS: usize = 512;

/// What all doors and background tasks of one sidecar share.
pub struct Sidecar {
    /// As configured.
    pub config: Config,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// The local workload's name, as reviewers see it.
    pub workload: String,
    /// The bearer tokens of this start.
    pub tokens: Tokens,
    pub(crate) upstream: Upstream,
    pub(crate) remember: Remember,
    pub(crate) attendance: Attendance,
    pub(crate) flights: Flights,
    /// Places for those who follow a request.
    pub(crate) followers: Arc<Semaphore>,
    pub(crate) holders: Holders,
    pub(crate) scopes: Scopes,
    pub(crate) programs: Programs,
    pub(crate) metrics: Metrics,
    pub(crate) state: StateDir,
    /// Told when `identity` was replaced: streams move to a new connection.
    pub(crate) identity_changed: Notify,
    identity: Mutex<Arc<Identity>>,
    cache: Mutex<Cache>,
    ended: Mutex<VecDeque<String>>,
    console: Mutex<Option<String>>,
    revoked: AtomicBool,
}

impl Sidecar {
    pub(crate) fn new(
        config: Config,
        clock: Arc<dyn Clock>,
        tokens: Tokens,
        state: StateDir,
        identity: Identity,
    ) -> Result<Self, crate::SidecarError> {
        let uid = config.user.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        let pinned = PinnedLog::open(&config.state_dir, &identity.log_vkey)?;
        Ok(Self {
            workload: config.workload.clone().unwrap_or_else(|| format!("uid:{uid}")),
            upstream: Upstream::new(&config.brokers, &config.trust_domain, &identity)?,
            remember: Remember::open(pinned, config.checkpoint_file.clone())?,
            attendance: Attendance::new(clock.now()),
            flights: Flights::default(),
            followers: Arc::new(Semaphore::new(MOST_FOLLOWERS)),
            holders: Holders::default(),
            scopes: Scopes::default(),
            programs: Programs::default(),
            metrics: Metrics::default(),
            identity_changed: Notify::new(),
            identity: Mutex::new(Arc::new(identity)),
            cache: Mutex::new(Cache::default()),
            ended: Mutex::new(VecDeque::new()),
            console: Mutex::new(config.console.clone()),
            revoked: AtomicBool::new(false),
            config,
            clock,
            tokens,
            state,
        })
    }

    /// Where people decide, when the broker does not say.
    pub(crate) fn console(&self) -> Option<String> {
        self.console.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_console(&self, console: Option<String>) {
        *self.console.lock().unwrap_or_else(PoisonError::into_inner) = console;
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who this sidecar is at the moment.
    pub fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn replace_identity(&self, identity: Identity) -> Result<(), crate::SidecarError> {
        self.upstream.replace(&identity)?;
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
        self.revoked.store(false, Ordering::Relaxed);
        self.identity_changed.notify_one();
        Ok(())
    }

    /// Credentials that needed people may be given from memory.
    pub(crate) fn serves_people(&self, now: Timestamp) -> bool {
        self.attendance.serves_people(now)
    }

    /// The broker ended a lease early.
    pub(crate) fn evict(&self, lease_id: String) {
        if self.cache().evict_lease(&lease_id, self.now()) {
            self.metrics.evicted.add(1);
        }
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.len() >= MOST_ENDED {
            ended.pop_front();
        }
        ended.push_back(lease_id);
    }

    pub(crate) fn has_ended(&self, lease_id: &str) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.iter().any(|id| id == lease_id)
    }

    /// This instance's right ended.
    pub(crate) fn revoke(&self) {
        if !self.revoked.swap(true, Ordering::Relaxed) {
            tracing::error!("the broker ended this sidecar's right: serving nothing");
        }
        self.cache().evict_all();
    }

    /// Ready: enrolled, attended to, and the log is whole.
    pub fn readiness(&self) -> Result<(), &'static str> {
        if self.remember.is_inconsistent() {
            Err("log_inconsistent")
        } else if self.revoked.load(Ordering::Relaxed) {
            Err("revoked")
        } else if !self.identity().is_valid(self.now()) {
            Err("certificate_expired")
        } else if !self.attendance.is_up() {
            Err("broker_away")
        } else {
            Ok(())
        }
    }
}
