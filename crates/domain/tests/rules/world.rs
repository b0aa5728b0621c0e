//! A small world: an operator, six people, two groups, three agents, two policy sets, one scope.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use grantwright_domain::delegation::Bounds;
use grantwright_domain::event::{
    AgentSet, Attributes, Delegated, GroupSet, HumanSet, InstanceEnrolled, JoinCreated, Opened,
    PolicyLoaded,
};
use grantwright_domain::{
    AgentId, DelegationId, Digest, Event, GroupName, HumanId, InstanceId, ParamValue, Params,
    RequestId, Scope, ScopeName, State, Terms, Timestamp,
};

pub const ORIGIN: &str = "log.example.org/grantwright";
/// `erin` is an operator too, and a reviewer.
pub const PEOPLE: [&str; 7] = ["alice", "bob", "carol", "dave", "erin", "frank", "root"];
/// Owned by alice, bob and frank.
pub const AGENTS: [&str; 3] = ["demo-agent", "planner", "router"];
pub const WAIT_MS: i64 = 3_600_000;
pub const DAY_MS: i64 = 24 * 3_600_000;

/// So long after the beginning, in milliseconds.
pub fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(1_795_225_490_000).plus_millis(ms)
}

pub fn human(id: &str) -> HumanId {
    HumanId::parse(id).expect("a person")
}

pub fn agent(id: &str) -> AgentId {
    AgentId::parse(id).expect("an agent")
}

pub fn group(id: &str) -> GroupName {
    GroupName::parse(id).expect("a group")
}

pub fn request(id: &str) -> RequestId {
    RequestId::parse(id).expect("a request")
}

pub fn instance(id: &str) -> InstanceId {
    InstanceId::parse(id).expect("an instance")
}

pub fn people(ids: &[&str]) -> BTreeSet<HumanId> {
    ids.iter().map(|id| human(id)).collect()
}

/// The policy set of this number.
pub fn policy(n: u8) -> Digest {
    Digest([0x50 + n; 32])
}

pub fn export() -> Scope {
    serde_json::from_value(serde_json::json!({
        "name": "demo.export", "title": "Export {rows} rows of {dataset}", "minter": "jwt",
        "params": {
            "dataset": {"type": "string", "pattern": "[a-z0-9]+"},
            "rows": {"type": "integer", "min": 0, "max": 1_000_000, "order": "max"},
            "prefix": {"type": "s3-prefix", "order": "prefix", "optional": true},
            "tables": {"type": "set", "pattern": "[a-z]+", "most": 3, "order": "subset", "optional": true},
        },
    }))
    .expect("a scope")
}

/// What `demo-agent` asks for in request `id`, made at `made`.
pub fn terms(id: &str, made: Timestamp, ttl_s: u32) -> Terms {
    let params = Params::from([
        ("dataset".to_owned(), ParamValue::Text("orders".into())),
        ("rows".to_owned(), ParamValue::Integer(10_000)),
    ]);
    Terms {
        version: 1,
        origin: ORIGIN.into(),
        request_id: request(id),
        agent: agent(AGENTS[0]),
        instance: instance("i-1"),
        workload: "uid:1000".into(),
        process: None,
        delegation: Vec::new(),
        delegation_id: None,
        on_behalf_of: None,
        scope: ScopeName::parse("demo.export").expect("a scope"),
        template: export().digest().expect("a digest"),
        params,
        sealed_params: BTreeMap::new(),
        ttl_s,
        task: None,
        reason: Digest([2; 32]),
        decide_by: made.plus_millis(WAIT_MS),
    }
}

pub fn delegation(id: &str) -> DelegationId {
    DelegationId::parse(id).expect("a delegation's id")
}

/// `from`, whose instance is `through`, hands all of `demo.export` to `to`, for a day.
pub fn handed(id: &str, from: (&str, &str), to: &str, ms: i64) -> Delegated {
    let bounds = Bounds {
        template: export().digest().expect("a digest"),
        params: Params::new(),
        ttl_s: 900,
    };
    Delegated {
        at: at(ms),
        delegation_id: delegation(id),
        from: agent(from.0),
        instance: instance(from.1),
        to: agent(to),
        parent: None,
        scopes: BTreeMap::from([(export().name, bounds)]),
        passes: 0,
        expires_at: at(ms + DAY_MS),
    }
}

/// The planner and the router enrol, and hand `demo.export` to `demo-agent` as `d-1` and `d-2`.
pub fn handing(ms: i64) -> Vec<Event> {
    let mut out = Vec::new();
    for (n, name) in AGENTS.iter().enumerate().skip(1) {
        let (id, serial) = (n + 1, format!("f{n}"));
        out.push(join(&format!("j-f{id}"), 0xf0 + n as u8, name, ms, 60_000));
        out.push(enrol(&format!("j-f{id}"), name, &format!("i-f{id}"), &serial, ms));
        let instance = format!("i-f{id}");
        let handed = handed(&format!("d-{n}"), (name, &instance), AGENTS[0], ms);
        out.push(Event::Delegated(handed));
    }
    out
}

pub fn opened() -> Event {
    Event::Opened(Opened {
        at: at(0),
        version: 1,
        origin: ORIGIN.into(),
        vkey: format!("{ORIGIN}+00000000+AAAA"),
        trust_domain: "example.org".into(),
        recovery_key: None,
    })
}

pub fn set_human(by: &str, id: &str, active: bool, operator: bool, ms: i64) -> Event {
    Event::HumanSet(HumanSet { at: at(ms), by: human(by), human: human(id), active, operator })
}

pub fn set_group(by: &str, name: &str, members: BTreeSet<HumanId>, ms: i64) -> Event {
    Event::GroupSet(GroupSet { at: at(ms), by: human(by), group: group(name), members })
}

pub fn set_agent(by: &str, id: &str, owner: &str, ms: i64) -> Event {
    Event::AgentSet(AgentSet {
        at: at(ms),
        by: human(by),
        agent: agent(id),
        owner: human(owner),
        attributes: Attributes::default(),
    })
}

pub fn load_policy(by: &str, n: u8, ms: i64) -> Event {
    let scope = export();
    let digest = scope.digest().expect("a digest");
    Event::PolicyLoaded(PolicyLoaded {
        at: at(ms),
        by: human(by),
        policy_set: policy(n),
        scopes: BTreeMap::from([(scope.name, digest)]),
    })
}

pub fn join(id: &str, hash: u8, of: &str, ms: i64, life_ms: i64) -> Event {
    Event::JoinCreated(JoinCreated {
        at: at(ms),
        by: human("root"),
        join_id: id.into(),
        agent: agent(of),
        token_hash: Digest([hash; 32]),
        expires_at: at(ms + life_ms),
    })
}

pub fn enrol(join: &str, of: &str, id: &str, serial: &str, ms: i64) -> Event {
    Event::InstanceEnrolled(InstanceEnrolled {
        at: at(ms),
        join_id: join.into(),
        agent: agent(of),
        instance: instance(id),
        serial: serial.into(),
        key: Digest([7; 32]),
        seal_key: "00".repeat(32),
        not_after: at(ms + WAIT_MS),
    })
}

/// The leaves that furnish the world, all at the beginning.
pub fn furniture() -> Vec<Event> {
    let mut out = vec![opened(), set_human("root", "root", true, true, 0)];
    for id in PEOPLE.iter().filter(|id| **id != "root") {
        out.push(set_human("root", id, true, *id == "erin", 0));
    }
    let reviewers = people(&["alice", "bob", "carol", "dave", "erin"]);
    out.push(set_group("root", "reviewers", reviewers, 0));
    out.push(set_group("root", "security", people(&["bob", "carol", "frank"]), 0));
    for (id, owner) in AGENTS.iter().zip(["alice", "bob", "frank"]) {
        out.push(set_agent("root", id, owner, 0));
    }
    out.push(join("j-1", 1, AGENTS[0], 0, 60_000));
    out.push(enrol("j-1", AGENTS[0], "i-1", "01", 0));
    out.push(load_policy("root", 0, 0));
    out
}

pub fn furnished() -> State {
    let mut state = State::default();
    state.authority.learn(Arc::new(export())).expect("a digest");
    for event in furniture() {
        state.apply(&event).expect("the furniture fits");
    }
    state
}
