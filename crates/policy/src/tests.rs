//! Fixtures, and tests by what they show.

use std::collections::BTreeSet;

use grantwright_domain::event::{
    AgentSet, Attributes, Event, GroupSet, HumanSet, ModelSet, Opened,
};
use grantwright_domain::{
    AgentId, Authority, Digest, GroupName, HumanId, InstanceId, ParamValue, Params, RequestId,
    Scope, ScopeName, Terms, Timestamp, Verdict,
};
use serde_json::{Map, Value};

use crate::{Asked, Fault, PolicySet, Sources, attributes};

mod approvals;
mod cases;
mod faults;
mod outlook;
mod properties;
mod remembered;
mod verdicts;

/// Saturday, 2026-11-21T01:44:50Z.
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_795_225_490_123);

pub(crate) const SCOPES: &str = r#"
[[scope]]
name = "demo.read"
title = "Read the dataset {dataset}"
minter = "jwt"
labels = { sensitivity = "routine", risk = "low" }
[scope.params.dataset]
type = "string"
pattern = "[a-z0-9][a-z0-9._-]{0,63}"

[[scope]]
name = "demo.export"
title = "Export {rows} rows of {dataset}"
minter = "jwt"
ttl = { default_s = 600, max_s = 1800 }
[scope.params.dataset]
type = "string"
pattern = "[a-z0-9][a-z0-9._-]{0,63}"
[scope.params.rows]
type = "integer"
min = 0
max = 1000000
order = "max"
[scope.params.columns]
type = "set"
pattern = "[a-z]+"
most = 5
optional = true
[scope.params.masked]
type = "boolean"
optional = true
[scope.params.customer]
type = "string"
pattern = "[a-z ]+"
sensitive = true
"#;

pub(crate) fn sources(policies: &str) -> Sources {
    Sources {
        policies: [("p.cedar".into(), policies.into())].into(),
        scopes: [("s.toml".into(), SCOPES.into())].into(),
        zone: "UTC".into(),
    }
}

pub(crate) fn load(policies: &str) -> PolicySet {
    load_all(&sources(policies)).unwrap_or_else(|faults| {
        panic!("{}", faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n"))
    })
}

pub(crate) fn load_all(sources: &Sources) -> Result<PolicySet, Vec<Fault>> {
    PolicySet::load(sources, &|_| Vec::new())
}

pub(crate) fn agent() -> AgentId {
    AgentId::parse("demo-agent").unwrap()
}

pub(crate) fn human(name: &str) -> HumanId {
    HumanId::parse(name).unwrap()
}

pub(crate) fn groups(names: &[&str]) -> BTreeSet<GroupName> {
    names.iter().map(|g| GroupName::parse(g).unwrap()).collect()
}

/// Alice owns `demo-agent` (team Sales, model m 1) and is in `ops`; `m 1` is qualified for a day.
pub(crate) fn authority() -> Authority {
    let mut a = Authority::default();
    let at = Timestamp::from_millis(NOW.millis() - 1000);
    let by = human("op");
    let registered = Attributes {
        team: "Sales".into(),
        environment: "production".into(),
        model: "m".into(),
        model_version: "1".into(),
    };
    let person = |name: &str, operator| {
        Event::HumanSet(HumanSet { at, by: by.clone(), human: human(name), active: true, operator })
    };
    let events = [
        Event::Opened(Opened {
            at,
            version: 1,
            origin: "log".into(),
            vkey: "v".into(),
            trust_domain: "t".into(),
            recovery_key: None,
        }),
        person("op", true),
        person("alice", false),
        Event::GroupSet(GroupSet {
            at,
            by: by.clone(),
            group: GroupName::parse("ops").unwrap(),
            members: [human("alice")].into(),
        }),
        Event::AgentSet(AgentSet {
            at,
            by: by.clone(),
            agent: agent(),
            owner: human("alice"),
            attributes: registered,
        }),
        Event::ModelSet(ModelSet {
            at,
            by: by.clone(),
            model: "m".into(),
            model_version: "1".into(),
            until: Some(NOW.plus_seconds(86_400)),
        }),
    ];
    for (i, e) in events.iter().enumerate() {
        a.apply(i as u64, e).unwrap();
    }
    a
}

pub(crate) fn facts(set: &PolicySet, now: Timestamp) -> (Map<String, Value>, Map<String, Value>) {
    (attributes(&authority(), &agent(), now), set.context(now, "10.0.0.7", &[], false))
}

pub(crate) fn scope<'a>(set: &'a PolicySet, name: &str) -> &'a Scope {
    &set.scopes()[&ScopeName::parse(name).unwrap()]
}

/// What `demo-agent` asks for by its own right.
pub(crate) fn terms(scope: &Scope, params: Params, ttl_s: u32) -> Terms {
    Terms {
        version: 1,
        origin: "log".into(),
        request_id: RequestId::parse("r-1").unwrap(),
        agent: agent(),
        instance: InstanceId::parse("i-1").unwrap(),
        workload: "w".into(),
        process: None,
        delegation: Vec::new(),
        delegation_id: None,
        on_behalf_of: None,
        scope: scope.name.clone(),
        template: scope.digest().unwrap(),
        params,
        sealed_params: Default::default(),
        ttl_s,
        task: None,
        reason: Digest::of("commitment", b""),
        decide_by: NOW.plus_seconds(60),
    }
}

pub(crate) fn dataset(value: &str) -> Params {
    [("dataset".to_owned(), ParamValue::Text(value.into()))].into()
}

pub(crate) fn export(rows: i64) -> Params {
    let mut p = dataset("crm");
    p.insert("rows".into(), ParamValue::Integer(rows));
    p
}

pub(crate) fn decide_at(
    set: &PolicySet,
    name: &str,
    params: &Params,
    ttl_s: u32,
    now: Timestamp,
) -> Verdict {
    let (attributes, context) = facts(set, now);
    set.decide(&Asked {
        agent: &agent(),
        attributes: &attributes,
        context: &context,
        scope: scope(set, name),
        params,
        ttl_s,
    })
}

/// `demo.read` of `crm` for 15 minutes.
pub(crate) fn read(policies: &str) -> Verdict {
    decide_at(&load(policies), "demo.read", &dataset("crm"), 900, NOW)
}
