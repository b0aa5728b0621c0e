//! A broker in one process for tests: the real store, policy and stages; a clock that the test moves;
//! and a backend that counts what it mints and can lose its answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use grantwright_credential::Credential;
use grantwright_domain::event::{
    AgentSet, Attributes, GroupSet, HumanSet, InstanceEnrolled, JoinCreated, Opened,
};
use grantwright_domain::request::Lease;
use grantwright_domain::{
    AgentId, Clock, Digest, Event, Grant, GroupName, HumanId, InstanceId, Params, Scope, State,
    Timestamp,
};
use grantwright_mint::jwt::{JwtIssuer, SigningKey};
use grantwright_mint::vault::BACKEND as VAULT;
use grantwright_mint::{BoxFuture, Declaration, Ended, MintError, Minted, Minter};
use grantwright_policy::Sources;
use grantwright_proof::NoteSigner;
use grantwright_store::{Faults, Keys, Options, Store, Transition};
use grantwright_wire::Refusal;
use grantwright_wire::v1::{AskRequest, Outcome, outcome};
use tokio::sync::Notify;

use crate::ca::Ca;
use crate::config::Config;
use crate::core::{Broker, Caller, Counts, Random};
use crate::keys::KeyDir;
use crate::people::{Actor, Intention};
use crate::rates::Rates;
use crate::{end, people, policies, wake};

/// A clock that stands still until it is moved.
pub struct TestClock(AtomicI64, AtomicI64);

impl TestClock {
    /// Moves on.
    pub fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
    /// Jumps: its time is doubted by so much; 0 heals it.
    pub fn jump(&self, ms: i64) {
        self.1.store(ms, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
    fn jumped_ms(&self) -> Option<i64> {
        Some(self.1.load(Ordering::SeqCst)).filter(|ms| *ms != 0)
    }
}

/// What the backend does with the next mint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Mints and says so.
    Good,
    /// Refuses for certain.
    Refuse,
    /// Mints, and the answer is lost.
    Lose,
    /// Extends beyond what was asked.
    Wider,
}

/// A backend with a count for each digest and a queue of answers.
#[derive(Default)]
pub struct Backend {
    /// Mints by digest.
    pub minted: Mutex<BTreeMap<Digest, u64>>,
    /// What comes next; empty: good.
    pub answers: Mutex<Vec<Answer>>,
    /// Revocations.
    pub revoked: AtomicU64,
    /// It never answers a revocation.
    pub deaf: AtomicBool,
    /// How many revocations it does not do.
    pub stubborn: AtomicU64,
    /// How long it takes over a revocation, in milliseconds of the rig's clock.
    pub dawdles: AtomicI64,
    /// Extensions that it was asked for.
    pub renewed: AtomicU64,
    /// The next mint says that it has begun, and waits until it may go on.
    pub slow: AtomicBool,
    /// A slow mint has begun.
    pub begun: Notify,
    /// It may go on.
    pub go_on: Notify,
    /// How long it takes to mint, in milliseconds of the rig's clock.
    pub takes: AtomicI64,
    clock: Option<Arc<TestClock>>,
}

/// The backend as the broker holds it.
struct Door(Arc<Backend>);

impl Minter for Door {
    fn backend(&self) -> grantwright_mint::Backend {
        VAULT
    }
    fn declaration(&self) -> Declaration {
        Declaration { name: "test", ttl_floor_s: 1, ttl_ceiling_s: 900, ..VAULT.declaration }
    }
    fn faults(&self, _: &Scope) -> Vec<String> {
        Vec::new()
    }
    fn preview(&self, _: &Scope, params: &Params) -> Result<serde_json::Value, MintError> {
        Ok(serde_json::json!({ "params": params }))
    }
    fn mint(&self, grant: Grant, now: Timestamp) -> BoxFuture<'_, Result<Minted, MintError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            if self.0.slow.swap(false, Ordering::SeqCst) {
                self.0.begun.notify_one();
                self.0.go_on.notified().await;
            }
            let answer = self.0.answers.lock().unwrap().pop().unwrap_or(Answer::Good);
            let takes = self.0.takes.load(Ordering::SeqCst);
            self.0.clock.iter().for_each(|clock| clock.advance(takes));
            let now = now.plus_millis(takes);
            if answer == Answer::Refuse {
                return Err(MintError::refused("backend_denied", "the backend said no", "no"));
            }
            *self.0.minted.lock().unwrap().entry(grant.digest()).or_default() += 1;
            if answer == Answer::Lose {
                return Err(MintError::unknown("the line went dead"));
            }
            Ok(Minted {
                credential: Credential::userpass("u", "p4ss-c4n4ry"),
                expires_at: now.whole_second().plus_seconds(i64::from(
                    self.step_s(grant.scope()).unwrap_or_else(|| grant.ttl_s()),
                )),
                revocable: true,
                facts: BTreeMap::from([("username".to_owned(), "u".to_owned())]),
            })
        })
    }
    fn step_s(&self, scope: &Scope) -> Option<u32> {
        scope.template.get("step_s")?.as_u64()?.try_into().ok()
    }
    fn renew<'a>(
        &'a self,
        _: &'a Lease,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<Timestamp, MintError>> {
        self.0.renewed.fetch_add(1, Ordering::SeqCst);
        let answer = self.0.answers.lock().unwrap().pop().unwrap_or(Answer::Good);
        Box::pin(std::future::ready(match answer {
            Answer::Good => Ok(until),
            Answer::Wider => Ok(until.plus_millis(1)),
            Answer::Refuse => Err(MintError::refused("backend_denied", "the backend said no", "")),
            Answer::Lose => Err(MintError::unknown("the line went dead")),
        }))
    }
    fn revoke<'a>(&'a self, _: &'a Lease) -> BoxFuture<'a, Ended> {
        self.0.revoked.fetch_add(1, Ordering::SeqCst);
        if self.0.deaf.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        let dawdles = self.0.dawdles.load(Ordering::SeqCst);
        self.0.clock.iter().for_each(|clock| clock.advance(dawdles));
        let less = |left: u64| left.checked_sub(1);
        if self.0.stubborn.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            let effect = "not ended: the backend is away".into();
            return Box::pin(std::future::ready(Ended { ended: false, effect }));
        }
        Box::pin(std::future::ready(Ended { ended: true, effect: "the account is gone".into() }))
    }
}

/// See the module.
pub struct Rig {
    dir: tempfile::TempDir,
    /// The broker.
    pub broker: Arc<Broker>,
    /// Its clock.
    pub clock: Arc<TestClock>,
    /// Faults of its store.
    pub faults: Faults,
    /// Its backend.
    pub backend: Arc<Backend>,
    /// An enrolled sidecar of `etl`, alice's agent.
    pub caller: Caller,
}

/// A person.
pub fn human(name: &str) -> HumanId {
    HumanId::parse(name).unwrap()
}

const SCOPES: &str = r#"
[[scope]]
name = "read"
title = "Read {dataset}"
minter = "jwt"
template = { audience = "test" }
params.dataset = { type = "string", pattern = "[a-z]{1,16}" }

[[scope]]
name = "export"
title = "Export {rows} rows of {dataset}"
minter = "jwt"
template = { audience = "test" }
params.dataset = { type = "string", pattern = "[a-z]{1,16}" }
params.rows = { type = "integer", min = 0, max = 1000, order = "max" }

[[scope]]
name = "escalate"
title = "Escalate {dataset}"
minter = "jwt"
template = { audience = "test" }
params.dataset = { type = "string", pattern = "[a-z]{1,16}" }

[[scope]]
name = "account"
title = "Make an account for {dataset}"
minter = "backend"
params.dataset = { type = "string", pattern = "[a-z]{1,16}" }

[[scope]]
name = "stepped"
title = "Make an account for {dataset}, in steps"
minter = "backend"
template = { step_s = 60 }
params.dataset = { type = "string", pattern = "[a-z]{1,16}" }

[[scope]]
name = "root-account"
title = "Make a root account for {dataset}"
minter = "backend"
params.dataset = { type = "string", pattern = "[a-z]{1,16}" }

[[scope]]
name = "risky"
title = "Open {dataset}"
minter = "backend"
labels = { risk = "high" }
params.dataset = { type = "string", pattern = "[a-z]{1,16}" }

[[scope]]
name = "signed"
title = "Rotate {dataset}"
minter = "jwt"
template = { audience = "test" }
params.dataset = { type = "string", pattern = "[a-z]{1,16}" }

[[scope]]
name = "two-step"
title = "Export {rows} rows of {dataset}"
minter = "jwt"
template = { audience = "test" }
confirm = "rows"
params.dataset = { type = "string", pattern = "[a-z]{1,16}" }
params.rows = { type = "integer", min = 0, max = 100000, order = "max" }

[[scope]]
name = "listed"
title = "Read {dataset}"
minter = "jwt"
template = { audience = "test", status = true }
params.dataset = { type = "string", pattern = "[a-z]{1,16}" }

[[scope]]
name = "lookup"
title = "Look a customer up"
minter = "jwt"
template = { audience = "test" }
params.customer = { type = "string", pattern = "[a-z]{1,16}", sensitive = true }

[[scope]]
name = "never"
title = "Drop {dataset}"
minter = "jwt"
template = { audience = "test" }
params.dataset = { type = "string", pattern = "[a-z]{1,16}" }
"#;

/// The policy of the rig; `extra` is added to it.
pub fn sources(extra: &str) -> Sources {
    let mut policy = String::from(
        r#"
@id("read") permit (principal, action == Action::"issue", resource == Scope::"read");
@id("account") permit (principal, action == Action::"issue", resource == Scope::"account");
@id("stepped") permit (principal, action == Action::"issue", resource == Scope::"stepped");
@id("listed") permit (principal, action == Action::"issue", resource == Scope::"listed");
@id("never") @reason("tables are not dropped by agents")
forbid (principal, action == Action::"issue", resource == Scope::"never");
@id("reviewers") permit (principal in Group::"reviewers", action == Action::"approve", resource);
"#,
    );
    for (scope, quorum, strength) in [
        ("export", 1, "chat"),
        ("lookup", 1, "chat"),
        ("escalate", 2, "chat"),
        ("root-account", 1, "chat"),
        ("risky", 1, "chat"),
        ("signed", 1, "passkey"),
        ("two-step", 1, "chat"),
    ] {
        policy.push_str(&format!(
            "@id(\"{scope}\") @quorum(\"{quorum}\") @approvers(\"reviewers\") @strength(\"{strength}\") @channels(\"api,console,paper,slack,teams,webhook\")\n\
             permit (principal, action == Action::\"issueAfterApproval\", resource == Scope::\"{scope}\");\n"
        ));
    }
    policy.push_str(extra);
    Sources {
        policies: BTreeMap::from([("policy.cedar".to_owned(), policy)]),
        scopes: BTreeMap::from([("scopes.toml".to_owned(), SCOPES.to_owned())]),
        zone: "UTC".into(),
    }
}

impl Rig {
    /// A fresh broker: alice owns `etl` and reviews with bob and carol; dave is in `security`; olivia operates.
    pub async fn new() -> Self {
        Self::at(1_800_000_000_000).await
    }

    /// The same, at another time.
    pub async fn at(ms: i64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock(AtomicI64::new(ms), AtomicI64::new(0)));
        let backend = Backend { clock: Some(Arc::clone(&clock)), ..Backend::default() };
        let (faults, backend) = (Faults::default(), Arc::new(backend));
        std::fs::create_dir(dir.path().join("keys")).unwrap();
        let keys = KeyDir::new(dir.path().join("keys"));
        Ca::create(&keys, "test.example", clock.now()).unwrap();
        crate::token_keys::create(&keys).unwrap();
        let caller = Caller {
            agent: AgentId::parse("etl").unwrap(),
            instance: InstanceId::parse("i-1").unwrap(),
            serial: "41".into(),
            peer: std::net::Ipv4Addr::LOCALHOST.into(),
        };
        let broker = Self::start(dir.path().into(), &clock, &faults, &backend).await;
        let rig = Self { dir, broker, clock, faults, backend, caller };
        rig.found().await;
        rig
    }

    async fn start(
        dir: PathBuf,
        clock: &Arc<TestClock>,
        faults: &Faults,
        backend: &Arc<Backend>,
    ) -> Arc<Broker> {
        let text = format!(
            "public_url = \"http://localhost:1\"\n[listen]\ngrpc = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n\
             [store]\nurl = \"sqlite://{0}/store.db\"\n[keys]\ndir = \"keys\"\n\
             [guards]\nend_with_approvers = [\"high\"]\n\
             [limits]\nasks_per_second = 100000\nopen_requests_per_agent = 5\n",
            dir.display()
        );
        std::fs::write(dir.join("broker.toml"), text).unwrap();
        let config = Config::load(&dir.join("broker.toml")).unwrap();
        let keys = KeyDir::new(config.keys.dir.clone());
        let signer = NoteSigner::from_seed("test.example/log", &[7; 32]).unwrap();
        let options = Options { faults: faults.clone(), ..Options::default() };
        let store = Store::open_with(&config.store.url, Keys { signer, mac_key: [9; 32] }, options)
            .await
            .unwrap();
        let policy = policies::restore(&store).await.unwrap().map(Arc::new);
        let der = hex::decode(keys.read("jwt-eddsa.key").unwrap().expose_secret().trim()).unwrap();
        let issuer =
            JwtIssuer::new("http://localhost:1", SigningKey::from_pkcs8(&der).unwrap(), Vec::new())
                .unwrap();
        let minters: BTreeMap<String, Arc<dyn Minter>> = BTreeMap::from([
            ("jwt".to_owned(), Arc::new(issuer) as Arc<dyn Minter>),
            ("backend".to_owned(), Arc::new(Door(Arc::clone(backend))) as Arc<dyn Minter>),
        ]);
        let ca = Arc::new(Ca::load(&keys, "test.example").unwrap());
        let counter = AtomicU64::new(
            u64::from(std::process::id()) << 32 | u64::try_from(clock.now().millis()).unwrap(),
        );
        let random = Random(Box::new(move |out| {
            let seed = counter.fetch_add(1, Ordering::SeqCst).to_be_bytes();
            let digest = Digest::of("test-random", &seed).0;
            for (i, b) in out.iter_mut().enumerate() {
                *b = digest[i % 32];
            }
        }));
        let salt_key = [3; 32];
        let broker = Arc::new(Broker {
            size_at_start: store.head().size,
            store,
            policy: policy.into(),
            minters,
            clock: Arc::clone(clock) as Arc<dyn Clock>,
            public_url: "http://localhost:1".into(),
            party: crate::http::ceremony::Party::of("http://localhost:1").unwrap(),
            wake: wake::Wake::new(),
            random,
            denies: Mutex::default(),
            rates: Mutex::default(),
            calls: Rates::new(config.limits.calls_per_second),
            doors: Rates::new(config.limits.sign_ins_per_second),
            streams: Mutex::default(),
            minting: Mutex::default(),
            parking: Mutex::default(),
            acknowledged: Mutex::default(),
            waits: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
            salt_key,
            oidc: None,
            vouch: crate::vouch::Vouch::new(&[9; 32]),
            sealed: Mutex::default(),
            ending: crate::end::queue::Queue::default(),
            delegations: Default::default(),
            ended: crate::ended::EndedEarly::default(),
            rights: Default::default(),
            approvers_seen: Default::default(),
            inconsistent: false.into(),
            witnesses: Default::default(),
            counts: Counts::default(),
            desk: Default::default(),
            pace: Default::default(),
            guards: Default::default(),
            published: Default::default(),
            services: Vec::new(),
            ca: ca.into(),
            channels: crate::channels::Channels::default(),
            sinks: crate::sinks::Sinks::default(),
            config,
        });
        end::crash::resolve_unfinished(&broker).await.unwrap();
        super::sticky::restore(&broker).await.unwrap();
        crate::guards::pulse::restore(&broker).await.unwrap();
        crate::ended::restore(&broker).await.unwrap();
        broker
    }

    async fn found(&self) {
        let (at, olivia) = (self.clock.now(), human("olivia"));
        let person = |name: &str, operator| {
            Event::HumanSet(HumanSet {
                at,
                by: olivia.clone(),
                human: human(name),
                active: true,
                operator,
            })
        };
        let agent = |name: &str| AgentId::parse(name).unwrap();
        let mut events = vec![
            Event::Opened(Opened {
                at,
                version: 1,
                origin: "test.example/log".into(),
                vkey: NoteSigner::from_seed("test.example/log", &[7; 32])
                    .unwrap()
                    .vkey()
                    .to_string(),
                trust_domain: "test.example".into(),
                recovery_key: None,
            }),
            person("olivia", true),
        ];
        events.extend(["alice", "bob", "carol", "dave", "erin"].map(|n| person(n, false)));
        for (name, owner, n) in [("etl", "alice", 1), ("other", "erin", 2)] {
            events.push(Event::AgentSet(AgentSet {
                at,
                by: olivia.clone(),
                agent: agent(name),
                owner: human(owner),
                attributes: Attributes::default(),
            }));
            for k in [n, n + 10] {
                events.extend(enrolled(at, &agent(name), k));
            }
        }
        for (group, members) in
            [("reviewers", vec!["alice", "bob", "carol"]), ("security", vec!["dave"])]
        {
            events.push(Event::GroupSet(GroupSet {
                at,
                by: olivia.clone(),
                group: GroupName::parse(group).unwrap(),
                members: members.into_iter().map(human).collect(),
            }));
        }
        self.broker.store.commit(Transition::authority(events)).await.unwrap();
        self.load_policy("").await;
    }

    /// A new agent of this owner, with a sidecar of this number; the caller that it is.
    pub async fn enrol(&self, name: &str, owner: &str, n: u32) -> Caller {
        let (at, agent) = (self.clock.now(), AgentId::parse(name).unwrap());
        let mut events = vec![Event::AgentSet(AgentSet {
            at,
            by: human("olivia"),
            agent: agent.clone(),
            owner: human(owner),
            attributes: Attributes::default(),
        })];
        events.extend(enrolled(at, &agent, n));
        self.broker.commit(Transition::authority(events)).await.unwrap();
        let instance = InstanceId::parse(&format!("i-{n}")).unwrap();
        Caller { agent, instance, serial: format!("4{n}"), ..self.caller.clone() }
    }

    /// Puts the rig's policy with something added into force.
    pub async fn load_policy(&self, extra: &str) {
        let set = policies::check(&self.broker, &sources(extra)).unwrap();
        policies::load(&self.broker, &human("olivia"), set).await.unwrap();
    }

    /// The folder of everything that it writes.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// The broker dies and starts again on what is durable.
    pub async fn crash(&mut self) {
        self.broker.store.clone().close().await;
        self.broker =
            Self::start(self.dir.path().into(), &self.clock, &Faults::default(), &self.backend)
                .await;
    }

    /// An ask.
    pub fn ask(&self, scope: &str, params: &str, key: &str) -> AskRequest {
        AskRequest {
            idempotency_key: key.into(),
            scope: scope.into(),
            params_jcs: params.as_bytes().to_vec(),
            ttl_s: 0,
            reason: "a test".into(),
            workload: "uid:0".into(),
            body_digest: Digest::of("body", format!("{scope}{params}").as_bytes()).0.to_vec(),
            ..AskRequest::default()
        }
    }

    /// Asks as the rig's caller.
    pub async fn issue(&self, ask: AskRequest) -> Result<Outcome, Refusal> {
        super::issue(&self.broker, &self.caller, ask).await
    }

    /// Looks and collects as the rig's caller.
    pub async fn collect(&self, id: &str) -> Result<Outcome, Refusal> {
        let id = grantwright_domain::RequestId::parse(id).unwrap();
        super::collect(&self.broker, &self.caller, &id, 0, 0, false).await
    }

    /// What a person does to a request, on its present digest.
    pub async fn act(
        &self,
        name: &str,
        id: &str,
        what: Intention,
    ) -> Result<grantwright_store::Loaded, Refusal> {
        let id = grantwright_domain::RequestId::parse(id).unwrap();
        let digest = self.broker.store.load(&id).await.unwrap().unwrap().state.digest;
        self.act_on(name, &id, digest, what).await
    }

    /// What a person does to a request, on a digest.
    pub async fn act_on(
        &self,
        name: &str,
        id: &grantwright_domain::RequestId,
        digest: Digest,
        what: Intention,
    ) -> Result<grantwright_store::Loaded, Refusal> {
        let actor = Actor { human: human(name), channel: "api" };
        people::act(&self.broker, &actor, id, digest, &what).await
    }

    /// Approves.
    pub async fn approve(
        &self,
        name: &str,
        id: &str,
    ) -> Result<grantwright_store::Loaded, Refusal> {
        self.act(name, id, Intention::Approve { reason: None, seen: None, confirm: None }).await
    }

    /// Every event of the log, folded by the rules: panics when one is forbidden.
    pub async fn fold(&self) -> (State, Vec<Event>) {
        let (mut state, mut events) = (State::default(), Vec::new());
        state.authority.catalog = self.broker.authority().catalog.clone();
        loop {
            let leaves = self.broker.store.leaves(state.size, 1000).await.unwrap();
            if leaves.is_empty() {
                return (state, events);
            }
            for (index, leaf) in leaves {
                let event = Event::from_leaf(&leaf).unwrap();
                state
                    .apply(&event)
                    .unwrap_or_else(|v| panic!("leaf {index} ({}): {v}", event.kind()));
                events.push(event);
            }
        }
    }
}

/// An instance of an agent, numbered.
fn enrolled(at: Timestamp, agent: &AgentId, n: u32) -> [Event; 2] {
    let seal = grantwright_credential::SealKeyPair::generate();
    [
        Event::JoinCreated(JoinCreated {
            at,
            by: human("olivia"),
            join_id: format!("j-{n}"),
            agent: agent.clone(),
            token_hash: Digest::of("join-token", format!("{n}").as_bytes()),
            expires_at: at.plus_millis(1000),
        }),
        Event::InstanceEnrolled(InstanceEnrolled {
            at,
            join_id: format!("j-{n}"),
            agent: agent.clone(),
            instance: InstanceId::parse(&format!("i-{n}")).unwrap(),
            serial: format!("4{n}"),
            key: Digest::of("spki", b"k"),
            seal_key: hex::encode(seal.public().to_bytes()),
            not_after: at.plus_millis(3_600_000),
        }),
    ]
}

/// The request id of an outcome.
pub fn id_of(outcome: &Outcome) -> String {
    outcome.request_id.clone()
}

/// `granted`, `pending`, or the state in which it ended.
pub fn word(outcome: &Outcome) -> String {
    match &outcome.state {
        Some(outcome::State::Granted(_)) => "granted".into(),
        Some(outcome::State::Pending(_)) => "pending".into(),
        Some(outcome::State::Ended(e)) => e.state.clone(),
        None => "nothing".into(),
    }
}
