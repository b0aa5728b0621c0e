//! Writes a log as a broker would: every event is let through by the real rules and policy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use grantwright_audit::Text;
use grantwright_domain::delegation::Bounds;
use grantwright_domain::event::*;
use grantwright_domain::{
    AgentId, DelegationId, Digest, Event, GroupName, HumanId, InstanceId, LeaseId, Params,
    RequestId, RequestState, ScopeName, State, Terms, Timestamp,
};
use grantwright_policy::{Approval, Asked, PolicySet, Sources, attributes};
use serde_json::json;

use crate::source::{Memory, ORIGIN, RECOVERY, SIGNER};

const SCOPES: &str = r#"
[[scope]]
name = "demo.read"
title = "Read the dataset {dataset}"
minter = "jwt"
[scope.params.dataset]
type = "string"
pattern = "[a-z0-9][a-z0-9._-]{0,63}"
[scope.params.ticket]
type = "string"
pattern = "[A-Z]{1,8}-[0-9]{1,8}"
sensitive = true
optional = true

[[scope]]
name = "demo.export"
title = "Export {rows} rows of {dataset}"
minter = "jwt"
[scope.params.dataset]
type = "string"
pattern = "[a-z0-9][a-z0-9._-]{0,63}"
[scope.params.rows]
type = "integer"
min = 0
max = 1000000
order = "max"

[[scope]]
name = "demo.escalate"
title = "Take the role {role}"
minter = "jwt"
[scope.params.role]
type = "string"
pattern = "[a-z0-9][a-z0-9._-]{0,63}"

[[scope]]
name = "demo.rotate-root"
title = "Rotate the root key"
minter = "jwt"

[[scope]]
name = "demo.drop-tables"
title = "Drop all tables"
minter = "jwt"
"#;

const POLICIES: &str = r#"
@id("read")
permit (principal, action == Action::"issue", resource == Scope::"demo.read");
@id("export") @quorum("1") @approvers("reviewers") @channels("console,api")
permit (principal, action == Action::"issueAfterApproval", resource == Scope::"demo.export");
@id("escalate") @quorum("2") @approvers("reviewers") @channels("console,api")
permit (principal, action == Action::"issueAfterApproval", resource == Scope::"demo.escalate");
@id("rotate") @quorum("1") @approvers("reviewers") @channels("console,api") @strength("passkey")
permit (principal, action == Action::"issueAfterApproval", resource == Scope::"demo.rotate-root");
@id("drop")
forbid (
    principal,
    action in [Action::"issue", Action::"issueAfterApproval"],
    resource == Scope::"demo.drop-tables"
);
@id("reviewers-approve")
permit (principal in Group::"reviewers", action == Action::"approve", resource);
@id("not-erin")
forbid (
    principal == Human::"erin",
    action == Action::"approve",
    resource == Scope::"demo.export"
);
@id("planners") @reason("only carol approves for the planner")
forbid (principal, action == Action::"approve", resource == Scope::"demo.escalate")
    when { context.agent == Agent::"planner" } unless { principal == Human::"carol" };
"#;

pub fn human(id: &str) -> HumanId {
    HumanId::parse(id).unwrap()
}
pub fn request(id: &str) -> RequestId {
    RequestId::parse(id).unwrap()
}
pub fn group(id: &str) -> GroupName {
    GroupName::parse(id).unwrap()
}
pub fn agent() -> AgentId {
    AgentId::parse("demo-agent").unwrap()
}
fn lease(id: &str) -> LeaseId {
    // A store takes no other name for a request's lease; where no store is, a request may be called anything.
    LeaseId::of(&request(id)).unwrap_or_else(|| LeaseId::parse(&format!("l-{id}")).unwrap())
}

/// The policy set, in the given zone.
pub fn policy(zone: &str) -> PolicySet {
    let sources = Sources {
        policies: [("demo.cedar".to_owned(), POLICIES.to_owned())].into(),
        scopes: [("demo.toml".to_owned(), SCOPES.to_owned())].into(),
        zone: zone.into(),
    };
    PolicySet::load(&sources, &|_| Vec::new()).unwrap()
}

pub static SET: LazyLock<PolicySet> = LazyLock::new(|| policy("UTC"));

type Facts = serde_json::Map<String, serde_json::Value>;

/// A log that is being written.
pub struct Writer {
    pub state: State,
    pub now: Timestamp,
    pub events: Vec<Event>,
    pub beside: Memory,
    texts: u8,
    basis: BTreeMap<RequestId, (Facts, Vec<Facts>)>,
}

impl Writer {
    /// A log in which an agent is enrolled and policy is in force.
    pub fn new() -> Self {
        let now = Timestamp::parse("2026-11-20T09:00:00Z").unwrap();
        let mut w = Self {
            state: State::default(),
            now,
            events: Vec::new(),
            beside: Memory::default(),
            texts: 0,
            basis: BTreeMap::new(),
        };
        w.beside.blobs.insert(SET.digest(), SET.blob().to_vec());
        for scope in SET.scopes().values() {
            let digest = w.state.authority.learn(scope.clone()).unwrap();
            let bytes = grantwright_domain::canonical::to_bytes(scope.as_ref()).unwrap();
            w.beside.blobs.insert(digest, bytes);
        }
        let op = human("op");
        w.push(Event::Opened(Opened {
            at: now,
            version: 1,
            origin: ORIGIN.into(),
            vkey: SIGNER.vkey().to_string(),
            trust_domain: "test".into(),
            recovery_key: Some(RECOVERY.vkey().to_string()),
        }));
        for id in ["op", "alice", "bob", "carol", "dave", "erin"] {
            w.push(Event::HumanSet(HumanSet {
                at: now,
                by: op.clone(),
                human: human(id),
                active: true,
                operator: id == "op",
            }));
        }
        for (name, members) in
            [("reviewers", vec!["alice", "bob", "carol", "erin"]), ("security", vec!["dave"])]
        {
            w.push(Event::GroupSet(GroupSet {
                at: now,
                by: op.clone(),
                group: group(name),
                members: members.into_iter().map(human).collect(),
            }));
        }
        w.push(Event::AgentSet(AgentSet {
            at: now,
            by: op.clone(),
            agent: agent(),
            owner: human("alice"),
            attributes: Attributes { team: "data".into(), model: "m".into(), ..<_>::default() },
        }));
        w.push(Event::ModelSet(ModelSet {
            at: now,
            by: op.clone(),
            model: "m".into(),
            model_version: String::new(),
            until: Some(now.plus_seconds(86_400)),
        }));
        w.push(Event::PolicyLoaded(PolicyLoaded {
            at: now,
            by: op.clone(),
            policy_set: SET.digest(),
            scopes: SET.scope_digests().unwrap(),
        }));
        w.push(Event::JoinCreated(JoinCreated {
            at: now,
            by: op.clone(),
            join_id: "j1".into(),
            agent: agent(),
            token_hash: Digest::of("test", b"join"),
            expires_at: now.plus_seconds(3600),
        }));
        w.push(Event::InstanceEnrolled(InstanceEnrolled {
            at: now,
            join_id: "j1".into(),
            agent: agent(),
            instance: InstanceId::parse("i-1").unwrap(),
            serial: "01".into(),
            key: Digest::of("test", b"key"),
            seal_key: "00".into(),
            not_after: now.plus_seconds(3600),
        }));
        w.push(Event::LinkCreated(LinkCreated {
            at: now,
            by: op.clone(),
            link_id: "k1".into(),
            human: human("bob"),
            code_hash: Digest::of("test", b"code"),
            purpose: "login".into(),
            expires_at: now.plus_seconds(600),
        }));
        w.push(Event::LinkSpent(LinkSpent { at: now, link_id: "k1".into() }));
        w.push(Event::TokenIssued(TokenIssued {
            at: now,
            by: op.clone(),
            token_id: "t1".into(),
            human: human("bob"),
            token_hash: Digest::of("test", b"token"),
            expires_at: now.plus_seconds(3600),
        }));
        w
    }

    /// Goes on after these leaves, which another log's backup gave.
    pub fn go_on(events: Vec<Event>, old: &Self) -> Self {
        let mut w = Self::new();
        let catalog = std::mem::take(&mut w.state.authority.catalog);
        w.state = State::default();
        w.state.authority.catalog = catalog;
        (w.events, w.beside) = (Vec::new(), old.beside.clone());
        events.into_iter().for_each(|event| w.push(event));
        w.now = w.events[0].at();
        w
    }

    pub fn push(&mut self, event: Event) {
        if let Err(v) = self.state.apply(&event) {
            panic!("the rules refuse {event:?}: {} {v}", v.rule);
        }
        self.now = self.now.plus_seconds(1);
        self.events.push(event);
    }

    /// Another agent, with a sidecar of its own.
    pub fn enrol(&mut self, name: &str, owner: &str, instance: &str) {
        let (at, by, agent) = (self.now, human("op"), AgentId::parse(name).unwrap());
        let attributes = Attributes { team: "data".into(), model: "m".into(), ..<_>::default() };
        let owner = human(owner);
        self.push(Event::AgentSet(AgentSet {
            at,
            by: by.clone(),
            agent: agent.clone(),
            owner,
            attributes,
        }));
        self.push(Event::JoinCreated(JoinCreated {
            at,
            by,
            join_id: format!("j-{name}"),
            agent: agent.clone(),
            token_hash: Digest::of("test", name.as_bytes()),
            expires_at: at.plus_seconds(3600),
        }));
        self.push(Event::InstanceEnrolled(InstanceEnrolled {
            at,
            join_id: format!("j-{name}"),
            agent,
            instance: InstanceId::parse(instance).unwrap(),
            serial: format!("0{instance}"),
            key: Digest::of("test", instance.as_bytes()),
            seal_key: "00".into(),
            not_after: at.plus_seconds(3600),
        }));
    }

    /// Hands whole scopes on, for so many seconds.
    pub fn hand(&mut self, id: &str, by: (&str, &str), to: &str, scopes: &[&str], seconds: i64) {
        let bounds = |scope: &&str| {
            let name = ScopeName::parse(scope).unwrap();
            let template = self.state.authority.scopes[&name];
            (name, Bounds { template, params: Params::new(), ttl_s: 900 })
        };
        self.push(Event::Delegated(Delegated {
            at: self.now,
            delegation_id: DelegationId::parse(id).unwrap(),
            from: AgentId::parse(by.0).unwrap(),
            instance: InstanceId::parse(by.1).unwrap(),
            to: AgentId::parse(to).unwrap(),
            parent: None,
            scopes: scopes.iter().map(bounds).collect(),
            passes: 0,
            expires_at: self.now.plus_seconds(seconds),
        }));
    }

    pub fn wait(&mut self, seconds: i64) {
        self.now = self.now.plus_seconds(seconds);
    }

    pub fn of(&self, id: &str) -> &RequestState {
        &self.state.requests[&request(id)]
    }

    fn text(&mut self, id: &str, name: &str, text: &str) -> Digest {
        self.texts = self.texts.wrapping_add(1);
        let text = Text {
            request: request(id),
            name: name.into(),
            salt: vec![self.texts; 16],
            text: text.into(),
        };
        let commitment = text.commitment().unwrap();
        self.beside.texts.push(text);
        commitment
    }

    pub fn ask(&mut self, id: &str, scope: &str, params: serde_json::Value) {
        self.ask_under(id, scope, params, None, 900);
    }

    /// Asks under a delegation.
    pub fn ask_under(
        &mut self,
        id: &str,
        scope: &str,
        params: serde_json::Value,
        delegation: Option<&str>,
        ttl_s: u32,
    ) {
        let delegation_id = delegation.map(|d| DelegationId::parse(d).unwrap());
        let known = delegation_id.as_ref().map(|d| &self.state.authority.delegations[d]);
        let delegation = known.map(|d| d.chain.clone()).unwrap_or_default();
        let name = ScopeName::parse(scope).unwrap();
        let params: Params = serde_json::from_value(params).unwrap();
        let reason = self.text(id, "reason", &format!("because {id}"));
        let task = Some(self.text(id, "task", &format!("task of {id}")));
        let mut sealed_params = BTreeMap::new();
        if scope == "demo.read" {
            sealed_params.insert("ticket".to_owned(), self.text(id, "param:ticket", "OPS-1"));
        }
        let terms = Terms {
            version: 1,
            origin: self.state.authority.origin.clone(),
            request_id: request(id),
            agent: agent(),
            instance: InstanceId::parse("i-1").unwrap(),
            workload: "uid 1000".into(),
            process: None,
            delegation,
            delegation_id,
            on_behalf_of: None,
            template: self.state.authority.scopes[&name],
            scope: name,
            params,
            sealed_params,
            ttl_s,
            task,
            reason,
            decide_by: self.now.plus_seconds(3600),
        };
        self.push(Event::Requested(Requested {
            at: self.now,
            digest: terms.digest().unwrap(),
            request_id: request(id),
            renews: None,
            terms,
        }));
    }

    pub fn decide(&mut self, id: &str) {
        let state = self.of(id);
        let (terms, again) = (state.terms.clone(), state.verdict.is_some());
        let of = |agent| attributes(&self.state.authority, agent, self.now);
        let chain: Vec<Facts> = terms.delegation.iter().map(of).collect();
        let attributes = attributes(&self.state.authority, &terms.agent, self.now);
        let context = SET.context_of(self.now, "spiffe://test/agent/demo-agent", &terms);
        let asked = Asked {
            agent: &terms.agent,
            attributes: &attributes,
            context: &context,
            scope: &self.state.authority.catalog[&terms.template],
            params: &terms.params,
            ttl_s: terms.ttl_s,
        };
        let verdict = SET.decide_along(&asked, &terms.delegation, &chain);
        self.basis.insert(request(id), (attributes.clone(), chain.clone()));
        self.push(Event::Decided(Decided {
            at: self.now,
            digest: terms.digest().unwrap(),
            request_id: request(id),
            verdict,
            attributes,
            context,
            again,
            chain,
            excluded: Default::default(),
            unusual: Vec::new(),
            past: None,
        }));
    }

    /// A vote as the broker would write it; the rules may still refuse it.
    pub fn ballot(&self, id: &str, who: &str, channel: &str, decision: Decision) -> Voted {
        let state = self.of(id);
        let terms = &state.terms;
        let groups = self.state.authority.groups_of(&human(who), self.now);
        let policies = SET.may_approve(&Approval {
            human: &human(who),
            groups: &groups,
            scope: &self.state.authority.catalog[&terms.template],
            terms,
            attributes: &self.basis[&request(id)].0,
            chain: &self.basis[&request(id)].1,
            channel,
            at: self.now,
        });
        Voted {
            at: self.now,
            digest: state.digest,
            request_id: request(id),
            human: human(who),
            decision,
            channel: channel.into(),
            seen: state.last_seen,
            groups,
            policies: policies.unwrap_or_default(),
            policy_set: SET.digest(),
            reason_code: String::new(),
            reason: None,
            confirmed: None,
            proof: None,
        }
    }

    pub fn approve(&mut self, id: &str, who: &str) {
        let vote = self.ballot(id, who, "api", Decision::Approve);
        self.push(Event::Voted(vote));
    }

    pub fn deny(&mut self, id: &str, who: &str) {
        let mut vote = self.ballot(id, who, "console", Decision::Deny);
        vote.reason = Some(self.text(id, "vote:1", "not \u{202e}today"));
        vote.reason_code = "looks_wrong".into();
        self.push(Event::Voted(vote));
    }

    pub fn withdraw(&mut self, id: &str, who: &str) {
        let digest = self.of(id).digest;
        self.push(Event::Withdrawn(Withdrawn {
            at: self.now,
            digest,
            request_id: request(id),
            human: human(who),
            channel: "api".into(),
        }));
    }

    pub fn question(&mut self, id: &str, who: &str) {
        let text = self.text(id, "question:1", "which table?");
        let digest = self.of(id).digest;
        self.push(Event::Questioned(Questioned {
            at: self.now,
            digest,
            request_id: request(id),
            human: human(who),
            channel: "console".into(),
            text,
        }));
    }

    pub fn answer(&mut self, id: &str) {
        let text = self.text(id, "answer:1", "the small one");
        let digest = self.of(id).digest;
        self.push(Event::Answered(Answered {
            at: self.now,
            digest,
            request_id: request(id),
            text,
        }));
    }

    pub fn narrow(&mut self, id: &str, who: &str, rows: i64) {
        let state = self.of(id);
        let (old_digest, mut terms) = (state.digest, state.terms.clone());
        terms.params.insert("rows".into(), grantwright_domain::ParamValue::Integer(rows));
        self.push(Event::Narrowed(Narrowed {
            at: self.now,
            digest: terms.digest().unwrap(),
            old_digest,
            request_id: request(id),
            human: human(who),
            channel: "console".into(),
            terms,
            reason: None,
        }));
    }

    pub fn intend(&mut self, id: &str) {
        let state = self.of(id);
        let rights = grantwright_domain::Rights::Now(&self.state.authority);
        let (digest, approvers) = (state.digest, state.standing(rights, self.now));
        self.push(Event::Intended(Intended {
            at: self.now,
            digest,
            request_id: request(id),
            minter: "jwt".into(),
            approvers,
        }));
    }

    pub fn issue(&mut self, id: &str, seconds: i64) {
        let digest = self.of(id).digest;
        self.push(Event::Issued(Issued {
            at: self.now,
            digest,
            request_id: request(id),
            lease_id: lease(id),
            expires_at: self.now.plus_seconds(seconds),
            revocable: true,
            facts: [("jti".to_owned(), id.to_owned())].into(),
        }));
    }

    pub fn end(&mut self, id: &str, end: &str) {
        let (at, digest, request_id) = (self.now, self.of(id).digest, request(id));
        let lease_id = lease(id);
        let text = String::from("as it went");
        self.push(match end {
            "failed" => Event::Failed(Failed {
                at,
                digest,
                request_id,
                code: "refused".into(),
                detail: text,
            }),
            "unknown" => Event::Unknown(Unknown { at, digest, request_id, detail: text }),
            "cancelled" => {
                Event::Cancelled(Cancelled { at, digest, request_id, by: "agent".into() })
            }
            "expired" => Event::Expired(Expired { at, digest, request_id, lease_id: None }),
            "ended" => Event::Expired(Expired { at, digest, request_id, lease_id: Some(lease_id) }),
            "renewed" => {
                let expires_at = self.of(id).lease.as_ref().unwrap().issued_at.plus_seconds(900);
                Event::Renewed(Renewed { at, digest, request_id, lease_id, expires_at })
            }
            "revoked" => Event::Revoked(Revoked {
                at,
                digest,
                request_id,
                lease_id,
                by: "bob".into(),
                effect: "gone".into(),
                still_valid: false,
            }),
            other => panic!("{other}"),
        });
    }
}

/// A log that tells of every kind of end.
pub fn whole() -> Writer {
    let mut w = Writer::new();
    let export = || json!({"dataset": "customers", "rows": 5000});
    w.ask("r-routine", "demo.read", json!({"dataset": "sales"}));
    w.decide("r-routine");
    w.intend("r-routine");
    w.issue("r-routine", 900);

    w.ask("r-quorum", "demo.escalate", json!({"role": "admin"}));
    w.decide("r-quorum");
    w.approve("r-quorum", "bob");
    w.ask("r-denied", "demo.export", export());
    w.decide("r-denied");
    w.approve("r-quorum", "carol");
    w.decide("r-quorum");
    w.intend("r-quorum");
    w.deny("r-denied", "bob");
    w.issue("r-quorum", 600);
    w.end("r-quorum", "revoked");

    w.ask("r-forbidden", "demo.drop-tables", json!({}));
    w.decide("r-forbidden");

    w.ask("r-narrowed", "demo.export", export());
    w.decide("r-narrowed");
    w.narrow("r-narrowed", "bob", 1000);
    w.decide("r-narrowed");
    w.approve("r-narrowed", "bob");
    w.intend("r-narrowed");
    w.issue("r-narrowed", 600);
    w.end("r-narrowed", "renewed");

    w.ask("r-questioned", "demo.export", export());
    w.decide("r-questioned");
    w.question("r-questioned", "carol");
    w.answer("r-questioned");
    w.approve("r-questioned", "carol");
    w.intend("r-questioned");
    w.issue("r-questioned", 60);

    w.ask("r-withdrawn", "demo.export", export());
    w.decide("r-withdrawn");
    w.approve("r-withdrawn", "bob");
    w.withdraw("r-withdrawn", "bob");
    w.approve("r-withdrawn", "carol");
    w.intend("r-withdrawn");
    w.end("r-withdrawn", "failed");

    w.ask("r-cancelled", "demo.export", export());
    w.decide("r-cancelled");
    w.end("r-cancelled", "cancelled");

    w.ask("r-passkey", "demo.rotate-root", json!({}));
    w.decide("r-passkey");
    w.wait(3600);
    w.end("r-passkey", "expired");
    w.end("r-narrowed", "ended");

    w.ask("r-unknown", "demo.read", json!({"dataset": "sales"}));
    w.decide("r-unknown");
    w.intend("r-unknown");
    w.end("r-unknown", "unknown");

    w.ask("r-open", "demo.read", json!({"dataset": "sales"}));
    w.decide("r-open");
    w.intend("r-open");
    w
}

pub static WHOLE: LazyLock<(Vec<Event>, Memory)> = LazyLock::new(|| {
    let w = whole();
    let log = Memory::of(&w.events, &w.beside);
    (w.events, log)
});

/// Events and log, to be spoilt.
pub fn log() -> (Vec<Event>, Memory) {
    WHOLE.clone()
}

/// Index of the `n`th leaf (from 0) of this request and kind.
pub fn at(events: &[Event], id: &str, kind: &str, n: usize) -> usize {
    let id = (!id.is_empty()).then(|| request(id));
    events
        .iter()
        .enumerate()
        .filter(|(_, e)| e.kind() == kind && (id.is_none() || e.request_id() == id.as_ref()))
        .nth(n)
        .map(|(i, _)| i)
        .unwrap_or_else(|| panic!("no {kind} {n} of {id:?}"))
}

pub fn set_of(ids: &[&str]) -> BTreeSet<HumanId> {
    ids.iter().map(|id| human(id)).collect()
}
