//! What every stage shares: store, policy, minters, clock, bounds. Built in `app.rs`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use grantwright_domain::{AgentId, Authority, Clock, InstanceId, RequestId, Scope, Timestamp};
use grantwright_mint::Minter;
use grantwright_policy::PolicySet;
use grantwright_store::{Coming, Committed, Store, StoreError, Transition};
use grantwright_wire::Refusal;

use crate::config::Config;
use crate::error::refuse;
use crate::http::ceremony::Party;
use crate::rates::Rates;
use crate::vouch::Vouch;
use crate::wake::Wake;

/// Who calls, by this connection's verified certificate.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The agent.
    pub agent: AgentId,
    /// Its sidecar.
    pub instance: InstanceId,
    /// The certificate's serial.
    pub serial: String,
    /// The peer's address as the broker sees it.
    pub peer: IpAddr,
}

/// The broker.
pub struct Broker {
    /// The log and its tables.
    pub store: Store,
    /// Leaves of the log when this broker started: who reads it for the first time, and wants what comes from
    /// now on, begins here, however late it gets to it.
    pub size_at_start: u64,
    /// The policy set in force; none before the first is loaded.
    pub policy: RwLock<Option<Arc<PolicySet>>>,
    /// Minters by name.
    pub minters: BTreeMap<String, Arc<dyn Minter>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Configuration.
    pub config: Config,
    /// Base of links for people.
    pub public_url: String,
    /// Who the console's passkeys answer to.
    pub party: Party,
    /// Wakes who waits.
    pub wake: Wake,
    /// The company's identity provider.
    pub oidc: Option<crate::oidc::Provider>,
    /// Random bytes for ids and salts.
    pub random: Random,
    /// People's denies, until when each sticks.
    pub denies: Mutex<crate::issue::sticky::Denies>,
    /// Token buckets: asks by agent.
    pub rates: Mutex<HashMap<AgentId, Bucket>>,
    /// Every other call, by agent and by person.
    pub calls: Rates,
    /// Calls to the doors where people sign in, by address.
    pub doors: Rates,
    /// Open streams, by instance.
    pub streams: Mutex<HashMap<InstanceId, u32>>,
    /// Requests whose intent is being made durable, or whose backend is being called, by this process.
    pub minting: Mutex<HashSet<RequestId>>,
    /// One park at a time per agent, so that its bound of open requests holds.
    pub parking: Mutex<HashMap<AgentId, Arc<tokio::sync::Mutex<()>>>>,
    /// Credentials whose arrival was acknowledged, by instance: never delivered again.
    pub acknowledged: Mutex<HashMap<InstanceId, HashMap<RequestId, Timestamp>>>,
    /// Calls that wait, by agent.
    pub waits: Mutex<HashMap<AgentId, u32>>,
    /// One policy set is put into force at a time.
    pub loading: tokio::sync::Mutex<()>,
    /// Key of the salts of sensitive parameters: equal values of one agent commit alike.
    pub salt_key: [u8; 32],
    /// Vouches for side rows: sessions, nonces.
    pub vouch: Vouch,
    /// Sealed copies that are kept, to whom and since when.
    pub sealed: Mutex<HashMap<RequestId, (InstanceId, Timestamp)>>,
    /// Revocations that their backend has not done yet.
    pub ending: crate::end::queue::Queue,
    /// Delegations that are over and dealt with.
    pub delegations: crate::end::delegated::Settled,
    /// What built-in issuers issued and what ended early.
    pub ended: crate::ended::EndedEarly,
    /// What decided at the last look at the rights behind live leases.
    pub rights: crate::end::rights::Seen,
    /// When the approvals behind live leases were looked at last, in milliseconds.
    pub approvers_seen: std::sync::atomic::AtomicI64,
    /// A sidecar showed a checkpoint that this log signed and does not extend: nothing is appended.
    pub inconsistent: AtomicBool,
    /// Who else sees that the log only grows.
    pub witnesses: crate::witness::Witnesses,
    /// Counters for `/metrics`.
    pub counts: Counts,
    /// What the built-in token issuers publish of their keys; replaced when these rotate.
    pub published: RwLock<Arc<Published>>,
    /// The services that may ask whether a token lives.
    pub services: Vec<crate::http::introspect::Service>,
    /// The certificate authority, replaced when it rolls over.
    pub ca: RwLock<Arc<crate::ca::Ca>>,
    /// The configured chat channels.
    pub channels: crate::channels::Channels,
    /// Where the log is exported to.
    pub sinks: crate::sinks::Sinks,
    /// What the console's pages share.
    pub desk: crate::http::console::desk::Desk,
    /// How long people take.
    pub pace: crate::pace::Pace,
    /// What keeps people attentive.
    pub guards: crate::guards::Guards,
}

/// What the built-in token issuers publish of their keys.
#[derive(Debug, Default)]
pub struct Published {
    /// The OpenID discovery document.
    pub discovery: serde_json::Value,
    /// The key set.
    pub jwks: serde_json::Value,
}

/// Most waiting calls of one agent.
const MAX_WAITS: u32 = 512;

/// Most open streams of one sidecar: it attends on one and asks on another, and has others beside them while
/// it connects again.
const MAX_STREAMS: u32 = 8;

/// A place among an instance's streams; dropping it gives it back.
pub struct Place {
    broker: Arc<Broker>,
    instance: InstanceId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = self.broker.streams.lock().unwrap_or_else(PoisonError::into_inner);
        match streams.get_mut(&self.instance) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                streams.remove(&self.instance);
            }
        }
    }
}

/// A request that this process takes through its backend; dropping it says that it no longer does.
pub struct Minting<'b> {
    broker: &'b Broker,
    id: RequestId,
    _outcome: Coming,
}

impl Drop for Minting<'_> {
    fn drop(&mut self) {
        self.broker.minting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// A place among an agent's waiting calls; dropping it gives it back.
pub struct Wait {
    broker: Arc<Broker>,
    agent: AgentId,
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut waits = self.broker.waits.lock().unwrap_or_else(PoisonError::into_inner);
        match waits.get_mut(&self.agent) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                waits.remove(&self.agent);
            }
        }
    }
}

/// Counters for `/metrics`.
#[derive(Debug, Default)]
pub struct Counts {
    /// Credentials issued.
    pub issued: AtomicU64,
    /// Requests denied by policy or people.
    pub denied: AtomicU64,
    /// Requests that wait for people, ever.
    pub parked: AtomicU64,
    /// Outcomes lost at a backend.
    pub unknown: AtomicU64,
    /// Calls refused before a request was recorded.
    pub refused: AtomicU64,
    /// Credentials extended in place.
    pub renewed: AtomicU64,
    /// Live leases that ended with the right they rested on.
    pub ended_with_rights: AtomicU64,
    /// What was due and could not be ended.
    pub faulty: AtomicU64,
}

/// A token bucket: `asks_per_second` tokens a second, as many at once.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    millitokens: i64,
    at: Timestamp,
}

/// Where randomness comes from.
pub struct Random(pub Box<Fill>);

/// Fills its argument with random bytes.
pub type Fill = dyn Fn(&mut [u8]) + Send + Sync;

impl Random {
    /// `N` random bytes.
    #[must_use]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        (self.0)(&mut out);
        out
    }

    /// A 256-bit secret in hexadecimal.
    #[must_use]
    pub fn secret(&self) -> String {
        hex::encode(self.bytes::<32>())
    }

    /// A name: a prefix and 80 random bits.
    #[must_use]
    pub fn name(&self, prefix: &str) -> String {
        format!("{prefix}{}", hex::encode(self.bytes::<10>()))
    }
}

impl Broker {
    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The authority as of the last commit.
    #[must_use]
    pub fn authority(&self) -> Arc<Authority> {
        self.store.authority()
    }

    /// The policy set in force.
    ///
    /// # Errors
    /// 503 before the first is loaded: no policy never means "allow".
    pub fn policy(&self) -> Result<Arc<PolicySet>, Refusal> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(|| {
            refuse(
                503,
                "no_policy",
                "no policy is loaded",
                "an operator loads one with `grantwright policy apply`",
            )
        })
    }

    /// The minter of a scope.
    ///
    /// # Errors
    /// 503 when the configuration lacks it.
    pub fn minter(&self, scope: &Scope) -> Result<&Arc<dyn Minter>, Refusal> {
        self.minters.get(&scope.minter).ok_or_else(|| {
            refuse(
                503,
                "no_minter",
                format!("the scope's minter `{}` is not configured", scope.minter),
                "an operator adds it to the broker's configuration",
            )
        })
    }

    /// Appends: the only way in which the running broker writes to the log.
    ///
    /// # Errors
    /// As [`Store::commit`]; [`StoreError::Ahead`] while the log is known to be inconsistent,
    /// [`StoreError::Unavailable`] while the clock is doubted.
    pub fn commit(
        &self,
        transition: Transition,
    ) -> impl Future<Output = Result<Committed, StoreError>> + Send {
        let told = self.desk.telling(transition.appends());
        let heard = self.guards.hearing(transition.appends());
        let writing = self.store.commit(transition);
        async move {
            self.may_write()?;
            let committed = writing.await;
            if committed.is_ok() {
                self.desk.tell(told);
                self.guards.heard(&heard);
            }
            self.channels.stir();
            committed
        }
    }

    fn may_write(&self) -> Result<(), StoreError> {
        if self.clock.jumped_ms().is_some() {
            return Err(StoreError::Unavailable(
                "the clock jumped; its time is not written".into(),
            ));
        }
        if self.inconsistent.load(std::sync::atomic::Ordering::Relaxed) {
            let size = self.store.head().size;
            return Err(StoreError::Ahead { known: size.saturating_add(1), size });
        }
        Ok(())
    }

    /// Refuses everything that would append while the clock is doubted or the log is known to be
    /// inconsistent.
    ///
    /// # Errors
    /// 503 `clock_jumped` or `log_inconsistent`.
    pub fn consistent(&self) -> Result<(), Refusal> {
        if let Some(ms) = self.clock.jumped_ms() {
            let way = if ms < 0 { "back" } else { "forward" };
            return Err(refuse(
                503,
                "clock_jumped",
                format!("the broker's clock jumped {way} by {} s", ms.unsigned_abs() / 1000),
                "an operator sets the clock right, or starts the broker again if its new time is right",
            ));
        }
        if self.inconsistent.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(refuse(
                503,
                "log_inconsistent",
                "a sidecar holds a checkpoint that this log signed and does not extend",
                "restore the true store; nothing is issued until then",
            ));
        }
        Ok(())
    }

    /// Refuses to issue while the log's witnesses have not cosigned what it says, if so configured.
    ///
    /// # Errors
    /// 503 `unwitnessed`.
    pub fn witnessed(&self) -> Result<(), Refusal> {
        self.witnesses.gate(self.store.head().size, self.now())
    }

    /// Takes one ask from the agent's bucket.
    ///
    /// # Errors
    /// 429 with the time to wait.
    pub fn rate(&self, agent: &AgentId, now: Timestamp) -> Result<(), Refusal> {
        let per_second = i64::from(self.config.limits.asks_per_second);
        let full = per_second * 1000;
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = match rates.get_mut(agent) {
            Some(bucket) => bucket,
            None => rates.entry(agent.clone()).or_insert(Bucket { millitokens: full, at: now }),
        };
        let gained = now.since(bucket.at).clamp(0, 1000) * per_second;
        bucket.millitokens = (bucket.millitokens + gained).min(full);
        bucket.at = now;
        if bucket.millitokens < 1000 {
            return Err(refuse(
                429,
                "too_many_asks",
                format!("more than {per_second} asks a second"),
                "wait and ask again",
            )
            .retry_after_ms(1000));
        }
        bucket.millitokens -= 1000;
        Ok(())
    }

    /// Marks a request whose intent is about to be written: what is intended and not marked was left
    /// without an outcome.
    #[must_use]
    pub fn minting(&self, id: &RequestId) -> Minting<'_> {
        self.minting.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        Minting { broker: self, id: id.clone(), _outcome: self.store.coming() }
    }

    /// As [`Broker::minting`], unless something is under way for this request.
    #[must_use]
    pub fn minting_alone(&self, id: &RequestId) -> Option<Minting<'_>> {
        let mut minting = self.minting.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = || Minting { broker: self, id: id.clone(), _outcome: self.store.coming() };
        minting.insert(id.clone()).then(mark)
    }

    /// A place among the instance's streams.
    ///
    /// # Errors
    /// 429 when it has its bound of them.
    pub fn stream(self: &Arc<Self>, instance: &InstanceId) -> Result<Place, Refusal> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let count = streams.entry(instance.clone()).or_insert(0);
        if *count >= MAX_STREAMS {
            return Err(refuse(
                429,
                "too_many_streams",
                format!("{MAX_STREAMS} streams of this sidecar are open already"),
                "close one of them",
            )
            .retry_after_ms(1000));
        }
        *count += 1;
        Ok(Place { broker: Arc::clone(self), instance: instance.clone() })
    }

    /// A place among the agent's waiting calls.
    ///
    /// # Errors
    /// 429 when it has its bound of them.
    pub fn wait(self: &Arc<Self>, agent: &AgentId) -> Result<Wait, Refusal> {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waits.entry(agent.clone()).or_insert(0);
        if *count >= MAX_WAITS {
            return Err(refuse(
                429,
                "too_many_waits",
                format!("{MAX_WAITS} calls of this agent wait already"),
                "wait for one of them",
            )
            .retry_after_ms(1000));
        }
        *count += 1;
        Ok(Wait { broker: Arc::clone(self), agent: agent.clone() })
    }

    /// Whether the approvals behind live leases are to be looked at again.
    #[must_use]
    pub fn approvers_due(&self, now: Timestamp, every_ms: i64) -> bool {
        let seen = self.approvers_seen.load(std::sync::atomic::Ordering::Relaxed);
        let due = now.millis().saturating_sub(seen) >= every_ms;
        if due {
            self.approvers_seen.store(now.millis(), std::sync::atomic::Ordering::Relaxed);
        }
        due
    }

    /// The lock under which one agent's requests are parked.
    #[must_use]
    pub fn parking(&self, agent: &AgentId) -> Arc<tokio::sync::Mutex<()>> {
        let mut parking = self.parking.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(parking.entry(agent.clone()).or_default())
    }

    /// A new request id: 48 bits of time, so that ids sort by age, and 80 random bits.
    #[must_use]
    pub fn request_id(&self, now: Timestamp) -> Option<RequestId> {
        let ms = now.millis().unsigned_abs();
        RequestId::parse(&format!("r{ms:012x}{}", hex::encode(self.random.bytes::<10>()))).ok()
    }

    /// Where a person decides this request.
    #[must_use]
    pub fn link(&self, id: &RequestId) -> String {
        format!("{}/requests/{id}", self.public_url)
    }
}
