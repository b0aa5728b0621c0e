//! A small world whose transitions tests and measurements use: one operator, two reviewers, one agent
//! with one sidecar, a scope that is allowed and one that asks people.
#![expect(
    clippy::expect_used,
    reason = "fixed values of a fixture; a wrong one is a wrong fixture"
)]

use std::collections::{BTreeMap, BTreeSet};

use grantwright_domain::event::{
    AgentRevoked, AgentSet, Attributes, Cancelled, Decided, Decision, EpochStarted, Erased,
    Expired, GroupSet, HumanSet, InstanceEnrolled, Intended, Issued, JoinCreated, Opened,
    PolicyLoaded, Requested, Revoked, Voted,
};
use grantwright_domain::scope::{Labels, TtlLimits};
use grantwright_domain::{
    AgentId, Authority, Digest, Draft, Event, GroupName, HumanId, IdempotencyKey, InstanceId,
    LeaseId, ParamValue, RequestId, RequestState, Scope, ScopeName, Strength, Terms, Timestamp,
    Verdict, VerdictKind,
};
use grantwright_proof::NoteSigner;
use serde_json::{Map, Value};

use crate::{Heritage, KeyClaim, Keys, Sealed, Side, Store, Text, Transition};

/// Origin of the world's log.
pub const ORIGIN: &str = "broker.example/conformance";
const BEGIN_MS: i64 = 1_795_225_490_000;

/// The keys of the world's log; never of another.
#[must_use]
pub fn keys() -> Keys {
    let signer = NoteSigner::from_seed(ORIGIN, &[7; 32]).expect("a valid name");
    Keys { signer, mac_key: [9; 32] }
}

/// The keys of the log that goes on from it.
#[must_use]
pub fn next_keys() -> Keys {
    let signer = NoteSigner::from_seed(&format!("{ORIGIN}/2"), &[8; 32]).expect("a valid name");
    Keys { signer, mac_key: [9; 32] }
}

/// The key under which the n-th request was asked.
#[must_use]
pub fn key(n: u64) -> IdempotencyKey {
    IdempotencyKey::parse(&format!("key-{n}")).expect("a key")
}

/// The n-th request.
#[must_use]
pub fn request(n: u64) -> RequestId {
    RequestId::parse(&format!("req-{n:08}")).expect("an id")
}

/// An agent: `bot` asks, `other` does not.
#[must_use]
pub fn agent(name: &str) -> AgentId {
    AgentId::parse(name).expect("an agent")
}

/// The agent's sidecar.
#[must_use]
pub fn instance() -> InstanceId {
    InstanceId::parse("inst-1").expect("an instance")
}

fn human(name: &str) -> HumanId {
    HumanId::parse(name).expect("a person")
}

fn group() -> GroupName {
    GroupName::parse("reviewers").expect("a group")
}

/// See the module.
#[derive(Debug, Clone)]
pub struct World {
    scope: Scope,
    template: Digest,
    policy_set: Digest,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// Makes it.
    #[must_use]
    pub fn new() -> Self {
        let scope = Scope {
            name: ScopeName::parse("s3.read").expect("a scope"),
            title: "Read objects".into(),
            minter: "jwt".into(),
            params: BTreeMap::new(),
            ttl: TtlLimits::default(),
            labels: Labels::default(),
            template: Map::new(),
            questions: Vec::new(),
            confirm: None,
        };
        let template = scope.digest().expect("canonical");
        Self { scope, template, policy_set: Digest::of("policy-set", b"fixture") }
    }

    /// Milliseconds after the world's beginning.
    #[must_use]
    pub fn at(&self, ms: i64) -> Timestamp {
        Timestamp::from_millis(BEGIN_MS + ms)
    }

    /// The first transition of its log.
    #[must_use]
    pub fn opening(&self) -> Transition {
        let at = self.at(0);
        let by = human("alice");
        let person = |name: &str, operator| {
            Event::HumanSet(HumanSet {
                at,
                by: human("alice"),
                human: human(name),
                active: true,
                operator,
            })
        };
        let agent_set = |name: &str| {
            Event::AgentSet(AgentSet {
                at,
                by: human("alice"),
                agent: agent(name),
                owner: human("carol"),
                attributes: Attributes { team: "Sales".into(), ..Attributes::default() },
            })
        };
        let events = vec![
            Event::Opened(Opened {
                at,
                version: 1,
                origin: ORIGIN.into(),
                vkey: keys().signer.vkey().to_string(),
                trust_domain: "example".into(),
                recovery_key: None,
            }),
            person("alice", true),
            person("bob", false),
            person("carol", false),
            Event::GroupSet(GroupSet {
                at,
                by: by.clone(),
                group: group(),
                members: BTreeSet::from([human("bob")]),
            }),
            agent_set("bot"),
            agent_set("other"),
            Event::PolicyLoaded(PolicyLoaded {
                at,
                by: by.clone(),
                policy_set: self.policy_set,
                scopes: BTreeMap::from([(self.scope.name.clone(), self.template)]),
            }),
            Event::JoinCreated(JoinCreated {
                at,
                by,
                join_id: "join-1".into(),
                agent: agent("bot"),
                token_hash: Digest([1; 32]),
                expires_at: self.at(1000),
            }),
            Event::InstanceEnrolled(InstanceEnrolled {
                at,
                join_id: "join-1".into(),
                agent: agent("bot"),
                instance: instance(),
                serial: "0a".into(),
                key: Digest([2; 32]),
                seal_key: "00".repeat(32),
                not_after: self.at(3_600_000),
            }),
        ];
        let body = grantwright_domain::canonical::to_bytes(&self.scope).expect("canonical");
        let blobs = vec![(self.template, body)];
        Transition { side: Side { blobs, ..Side::default() }, ..Transition::authority(events) }
    }

    /// The first leaf of the log that goes on from this one's backup; nobody vouches for it.
    #[must_use]
    pub fn epoch(&self, old: &Store, heritage: &Heritage, at: Timestamp) -> EpochStarted {
        let (keys, head) = (next_keys(), old.head());
        EpochStarted {
            at,
            version: 1,
            origin: keys.signer.vkey().name().into(),
            vkey: keys.signer.vkey().to_string(),
            trust_domain: "example".into(),
            recovery_key: keys.signer.vkey().to_string(),
            old_origin: ORIGIN.into(),
            old_vkey: old.authority().vkey.clone(),
            old_checkpoint: head.checkpoint.to_string(),
            restored: heritage.size,
            restored_root: heritage.root.to_base64(),
            carried: heritage.carried(),
            carried_root: heritage.carried_root.to_base64(),
            signature: String::new(),
        }
    }

    /// The operator erases what lies beside request `n`.
    pub fn erase(&self, n: u64) -> Transition {
        let (at, texts) = (self.at(86_400_001), ["reason".to_owned()].into());
        let event = Erased { at, by: human("alice"), of: request(n), texts };
        Transition::authority(vec![Event::Erased(event)])
    }

    /// The agent's right ends.
    #[must_use]
    pub fn revoke_agent(&self) -> Transition {
        let event = AgentRevoked { at: self.at(10), by: human("alice"), agent: agent("bot") };
        Transition::authority(vec![Event::AgentRevoked(event)])
    }

    /// The n-th request's terms, with parameters like those of request `like`.
    fn terms(&self, n: u64, like: u64) -> Terms {
        Terms {
            version: 1,
            origin: ORIGIN.into(),
            request_id: request(n),
            agent: agent("bot"),
            instance: instance(),
            workload: "uid:1000".into(),
            process: None,
            delegation: Vec::new(),
            delegation_id: None,
            on_behalf_of: None,
            scope: self.scope.name.clone(),
            template: self.template,
            params: BTreeMap::from([
                ("bucket".to_owned(), ParamValue::Text("reports".into())),
                ("row".to_owned(), ParamValue::Integer(i64::try_from(like).expect("small"))),
            ]),
            sealed_params: BTreeMap::new(),
            ttl_s: 900,
            task: None,
            reason: Digest::commitment(&[3; 16], "because"),
            decide_by: self.at(3_600_000),
        }
    }

    fn begin(&self, n: u64, like: u64, kind: VerdictKind) -> (Vec<Event>, Digest) {
        let terms = self.terms(n, like);
        let digest = terms.digest().expect("canonical");
        let ask = kind == VerdictKind::Ask;
        let verdict = Verdict {
            kind,
            code: String::new(),
            reason: "a routine scope".into(),
            policies: BTreeSet::from(["routine".to_owned()]),
            policy_set: self.policy_set,
            quorum: u32::from(ask),
            strength: Strength::Chat,
            channels: if ask { BTreeSet::from(["slack".to_owned()]) } else { BTreeSet::new() },
            approvers: if ask { BTreeSet::from([group()]) } else { BTreeSet::new() },
            max_ttl_s: 900,
        };
        let attributes = Map::from_iter([("team".to_owned(), Value::from("Sales"))]);
        let context = Map::from_iter([("hour".to_owned(), Value::from(9))]);
        let at = self.at(1);
        let requested = Requested { at, digest, request_id: request(n), renews: None, terms };
        let decided = Decided {
            at,
            digest,
            request_id: request(n),
            verdict,
            attributes,
            context,
            again: false,
            chain: Vec::new(),
            excluded: Default::default(),
            unusual: Vec::new(),
            past: None,
        };
        (vec![Event::Requested(requested), Event::Decided(decided)], digest)
    }

    fn with_reason(&self, mut transition: Transition) -> Transition {
        let text = Text { name: "reason".into(), salt: [3; 16], text: "because".into() };
        transition.side.texts.push(text);
        transition
    }

    /// The n-th request, granted at once: four leaves, a key and a text.
    #[must_use]
    pub fn grant(&self, n: u64) -> Transition {
        let (mut events, digest) = self.begin(n, n, VerdictKind::Allow);
        events.push(self.intended(request(n), digest, BTreeSet::new()));
        events.push(self.issued(n, digest));
        let mut transition = self.with_reason(Transition::new(events));
        transition.key = Some(KeyClaim {
            agent: agent("bot"),
            key: key(n),
            instance: instance(),
            body: Digest([4; 32]),
        });
        transition
    }

    /// The n-th request, granted at once, as a draft under this authority.
    #[must_use]
    pub fn draft(&self, n: u64, authority: std::sync::Arc<Authority>) -> Draft {
        let mut events = self.grant(n).events.into_iter();
        let requested = events.next().and_then(|event| match event {
            Event::Requested(e) => Some(e),
            _ => None,
        });
        let e = requested.expect("a grant is requested first");
        let mut draft = Draft::begin(authority, e.at, e.renews, e.terms).expect("lawful");
        events.for_each(|event| draft.push(event).expect("lawful"));
        draft
    }

    /// The n-th request, allowed but not yet intended.
    #[must_use]
    pub fn allowed(&self, n: u64) -> Transition {
        self.with_reason(Transition::new(self.begin(n, n, VerdictKind::Allow).0))
    }

    /// The n-th request, waiting for people.
    #[must_use]
    pub fn ask(&self, n: u64) -> Transition {
        self.ask_like(n, n)
    }

    /// The n-th request, identical to request `like` but for its id.
    #[must_use]
    pub fn ask_like(&self, n: u64, like: u64) -> Transition {
        self.with_reason(Transition::new(self.begin(n, like, VerdictKind::Ask).0))
    }

    /// A person's vote.
    #[must_use]
    pub fn vote(&self, state: &RequestState, name: &str, decision: Decision) -> Transition {
        let vote = Voted {
            at: self.at(2),
            digest: state.digest,
            request_id: state.terms.request_id.clone(),
            human: human(name),
            decision,
            channel: "slack".into(),
            seen: state.last_seen,
            groups: BTreeSet::from([group()]),
            policies: BTreeSet::from(["reviewers".to_owned()]),
            policy_set: self.policy_set,
            reason_code: String::new(),
            reason: None,
            confirmed: None,
            proof: None,
        };
        Transition::at(state.clone(), vec![Event::Voted(vote)])
    }

    fn intended(&self, request_id: RequestId, digest: Digest, by: BTreeSet<HumanId>) -> Event {
        let minter = self.scope.minter.clone();
        Event::Intended(Intended { at: self.at(3), digest, request_id, minter, approvers: by })
    }

    fn issued(&self, n: u64, digest: Digest) -> Event {
        Event::Issued(Issued {
            at: self.at(4),
            digest,
            request_id: request(n),
            lease_id: LeaseId::of(&request(n)).expect("a lease"),
            expires_at: self.at(4).plus_seconds(900),
            revocable: true,
            facts: BTreeMap::from([("jti".to_owned(), format!("lease-{n:08}"))]),
        })
    }

    /// The intent of an approved request.
    #[must_use]
    pub fn intend(&self, state: &RequestState) -> Transition {
        let approvers = state.votes.iter().filter(|v| v.live).map(|v| v.human.clone()).collect();
        let id = state.terms.request_id.clone();
        Transition::at(state.clone(), vec![self.intended(id, state.digest, approvers)])
    }

    /// The outcome of an intended request.
    #[must_use]
    pub fn issue(&self, state: &RequestState) -> Transition {
        let id = state.terms.request_id.as_str();
        let n = id.trim_start_matches("req-").parse().expect("an id of this world");
        Transition::at(state.clone(), vec![self.issued(n, state.digest)])
    }

    /// The agent ends its request.
    #[must_use]
    pub fn cancel(&self, state: &RequestState) -> Transition {
        let cancelled = Cancelled {
            at: self.at(5),
            digest: state.digest,
            request_id: state.terms.request_id.clone(),
            by: "agent".into(),
        };
        Transition::at(state.clone(), vec![Event::Cancelled(cancelled)])
    }

    /// Time ends a request.
    #[must_use]
    pub fn expire(&self, state: &RequestState, at: Timestamp) -> Transition {
        expired(state, at, None)
    }

    /// The end of a granted request's lease by its time.
    ///
    /// # Panics
    /// When the request has none.
    #[must_use]
    pub fn lapse(&self, state: &RequestState) -> Transition {
        let lease = state.lease.as_ref().expect("a lease");
        expired(state, lease.expires_at, Some(lease.id.clone()))
    }

    /// The end of a granted request's lease by somebody.
    ///
    /// # Panics
    /// When the request has none.
    #[must_use]
    pub fn revoke(&self, state: &RequestState) -> Transition {
        let revoked = Revoked {
            at: self.at(6),
            digest: state.digest,
            request_id: state.terms.request_id.clone(),
            lease_id: state.lease.as_ref().expect("a lease").id.clone(),
            by: "agent".into(),
            effect: "listed".into(),
            still_valid: false,
        };
        Transition::at(state.clone(), vec![Event::Revoked(revoked)])
    }

    /// A credential sealed to the world's sidecar.
    #[must_use]
    pub fn sealed(&self, bytes: &[u8], until: Timestamp) -> Sealed {
        Sealed { instance: instance(), bytes: bytes.to_vec(), until }
    }
}

fn expired(state: &RequestState, at: Timestamp, lease_id: Option<LeaseId>) -> Transition {
    let (digest, request_id) = (state.digest, state.terms.request_id.clone());
    Transition::at(
        state.clone(),
        vec![Event::Expired(Expired { at, digest, request_id, lease_id })],
    )
}
