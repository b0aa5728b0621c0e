//! What a decision rests on, as the log records it; and the same, typed, for Cedar. A record that
//! is not exactly of its form is a mismatch, and a mismatch is a deny. Records are made in the order of
//! their keys, in which the log writes them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use cedar_policy::{Context, Entities, EntityId, EntityTypeName, EntityUid};
use cedar_policy_core::ast::{self, Entity, PartialValue, Value as Cedar};
use cedar_policy_core::entities::{Entities as CoreEntities, NoEntitiesSchema, TCComputation};
use cedar_policy_core::extensions::Extensions;
use grantwright_domain::{
    AgentId, Authority, GroupName, HumanId, LocalProcess, ParamValue, Params, Scope, Timestamp,
};
use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use crate::schema::CedarType;

/// The recorded facts do not fit the schema; says which, in words that may be public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch(pub(crate) String);

fn mismatch(what: &str) -> Mismatch {
    Mismatch(format!("{what} is not of the form that policies are checked against"))
}

/// The agent's attributes at `now`, as `decided` records them: `environment`, `model`,
/// `model_version`, `owner`, `owner_groups`, `qualified`, `team`. Empty for an unknown or revoked agent:
/// deciding upon that is a deny.
#[must_use]
pub fn attributes(authority: &Authority, agent: &AgentId, now: Timestamp) -> Map<String, Value> {
    let Some(agent) = authority.agents.get(agent).filter(|a| !a.revoked) else { return Map::new() };
    let Some(owner) = agent.owner() else { return Map::new() };
    let a = &agent.attributes;
    let mut out = Map::with_capacity(7);
    let groups: Vec<Value> = authority.groups_of(owner, now).iter().map(|g| json!(g)).collect();
    out.insert("environment".into(), json!(a.environment));
    out.insert("model".into(), json!(a.model));
    out.insert("model_version".into(), json!(a.model_version));
    out.insert("owner".into(), json!(owner));
    out.insert("owner_groups".into(), Value::Array(groups));
    out.insert("qualified".into(), json!(authority.qualified(a, now)));
    out.insert("team".into(), json!(a.team));
    out
}

/// Whether `recorded` is what [`attributes`] gives, without making it.
#[must_use]
pub fn attributes_are(
    recorded: &Map<String, Value>,
    authority: &Authority,
    agent: &AgentId,
    now: Timestamp,
) -> bool {
    let agent = authority.agents.get(agent).filter(|a| !a.revoked);
    let Some((a, owner)) = agent.and_then(|agent| Some((&agent.attributes, agent.owner()?))) else {
        return recorded.is_empty();
    };
    let is = |key: &str, value: &str| recorded.get(key).and_then(Value::as_str) == Some(value);
    let groups = recorded.get("owner_groups").and_then(Value::as_array);
    let in_groups = |listed: &Vec<Value>| {
        let groups = authority.groups_of(owner, now);
        listed.iter().map(Value::as_str).eq(groups.iter().map(|g| Some(g.as_str())))
    };
    recorded.len() == 7
        && is("owner", owner.as_str())
        && is("team", &a.team)
        && is("environment", &a.environment)
        && is("model", &a.model)
        && is("model_version", &a.model_version)
        && recorded.get("qualified") == Some(&Value::Bool(authority.qualified(a, now)))
        && groups.is_some_and(in_groups)
}

/// The context at `now`, as `decided` records it. Without its time, which decides nothing but a
/// deny, where `now` lies beyond the calendar (year 9999).
pub(crate) fn context(
    zone: &TimeZone,
    now: Timestamp,
    peer: &str,
    delegation: &[AgentId],
    on_behalf_of: bool,
) -> Map<String, Value> {
    let mut out = Map::with_capacity(6);
    out.insert("delegation".into(), json!(delegation));
    out.insert("delegation_depth".into(), json!(delegation.len()));
    out.insert("on_behalf_of".into(), json!(on_behalf_of));
    out.insert("peer".into(), json!(peer));
    if let Some(time) = Time::at(zone, now) {
        out.insert("time".into(), time.record());
    }
    out
}

/// What policies see of the process that asks: everything but its number.
pub(crate) fn workload(process: &LocalProcess) -> Value {
    let mut out = Map::with_capacity(6);
    let digest = process.exe_digest.map(|it| it.hex());
    for (name, value) in [
        ("cgroup", process.cgroup.as_ref()),
        ("container", process.container.as_ref()),
        ("exe", process.exe.as_ref()),
        ("exe_digest", digest.as_ref()),
    ] {
        out.extend(value.map(|value| (name.to_owned(), json!(value))));
    }
    out.insert("gid".into(), json!(process.gid));
    out.insert("uid".into(), json!(process.uid));
    Value::Object(out)
}

/// A moment as policies see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Time {
    epoch: i64,
    hour: i64,
    minute: i64,
    weekday: String,
    pub(crate) date: String,
}

impl Time {
    pub(crate) fn at(zone: &TimeZone, now: Timestamp) -> Option<Self> {
        let at = jiff::Timestamp::from_millisecond(now.millis()).ok()?;
        let local = zone.to_datetime(at);
        let weekday = match local.date().weekday() {
            Weekday::Monday => "monday",
            Weekday::Tuesday => "tuesday",
            Weekday::Wednesday => "wednesday",
            Weekday::Thursday => "thursday",
            Weekday::Friday => "friday",
            Weekday::Saturday => "saturday",
            Weekday::Sunday => "sunday",
        };
        Some(Self {
            epoch: now.seconds(),
            hour: local.hour().into(),
            minute: local.minute().into(),
            weekday: weekday.into(),
            date: local.date().to_string(),
        })
    }

    pub(crate) fn record(&self) -> Value {
        let mut out = Map::with_capacity(5);
        out.insert("date".into(), self.date.as_str().into());
        out.insert("epoch".into(), self.epoch.into());
        out.insert("hour".into(), self.hour.into());
        out.insert("minute".into(), self.minute.into());
        out.insert("weekday".into(), self.weekday.as_str().into());
        Value::Object(out)
    }

    pub(crate) fn read(map: &Map<String, Value>) -> Result<Self, Mismatch> {
        exactly(map, 5, "the time")?;
        Ok(Self {
            epoch: long(map, "epoch")?,
            hour: long(map, "hour")?,
            minute: long(map, "minute")?,
            weekday: string(map, "weekday")?.to_owned(),
            date: string(map, "date")?.to_owned(),
        })
    }

    fn cedar(&self) -> Cedar {
        let fields: [(&str, Cedar); 5] = [
            ("epoch", self.epoch.into()),
            ("hour", self.hour.into()),
            ("minute", self.minute.into()),
            ("weekday", self.weekday.as_str().into()),
            ("date", self.date.as_str().into()),
        ];
        Cedar::record(fields, None)
    }
}

/// The recorded attributes of an agent, typed.
#[derive(Debug)]
pub(crate) struct Attributes<'a> {
    pub(crate) owner: HumanId,
    owner_groups: BTreeSet<GroupName>,
    texts: [(&'static str, &'a str); 4],
    qualified: bool,
}

impl<'a> Attributes<'a> {
    pub(crate) fn read(map: &'a Map<String, Value>) -> Result<Self, Mismatch> {
        let what = "the agent's attributes";
        exactly(map, 7, what)?;
        let groups = map.get("owner_groups").and_then(Value::as_array);
        Ok(Self {
            owner: HumanId::parse(string(map, "owner")?).map_err(|_| mismatch(what))?,
            owner_groups: groups
                .ok_or_else(|| mismatch(what))?
                .iter()
                .map(|g| g.as_str().and_then(|g| GroupName::parse(g).ok()))
                .collect::<Option<_>>()
                .ok_or_else(|| mismatch(what))?,
            texts: [
                ("team", string(map, "team")?),
                ("environment", string(map, "environment")?),
                ("model", string(map, "model")?),
                ("model_version", string(map, "model_version")?),
            ],
            qualified: boolean(map, "qualified")?,
        })
    }
}

/// The recorded context of a decision, typed.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) time: Time,
    peer: &'a str,
    delegation: Vec<&'a str>,
    on_behalf_of: bool,
    workload: Option<Workload<'a>>,
}

/// The recorded process that asks, typed.
#[derive(Debug)]
struct Workload<'a> {
    uid: i64,
    gid: i64,
    texts: Vec<(&'static str, &'a str)>,
}

impl<'a> Workload<'a> {
    fn read(map: &'a Map<String, Value>) -> Result<Self, Mismatch> {
        let mut texts = Vec::with_capacity(4);
        for name in ["exe", "exe_digest", "cgroup", "container"] {
            if map.contains_key(name) {
                texts.push((name, string(map, name)?));
            }
        }
        exactly(map, 2 + texts.len(), "the workload")?;
        Ok(Self { uid: long(map, "uid")?, gid: long(map, "gid")?, texts })
    }

    fn cedar(&self) -> Cedar {
        let numbers = [("uid", Cedar::from(self.uid)), ("gid", Cedar::from(self.gid))];
        let texts = self.texts.iter().map(|(name, text)| (*name, Cedar::from(*text)));
        Cedar::record(numbers.into_iter().chain(texts), None)
    }
}

impl<'a> Facts<'a> {
    pub(crate) fn read(map: &'a Map<String, Value>) -> Result<Self, Mismatch> {
        let what = "the context";
        let workload = match map.get("workload") {
            None => None,
            Some(seen) => Some(Workload::read(seen.as_object().ok_or_else(|| mismatch(what))?)?),
        };
        exactly(map, 5 + usize::from(workload.is_some()), what)?;
        let time = map.get("time").and_then(Value::as_object).ok_or_else(|| mismatch(what))?;
        let delegation: Vec<&str> = map
            .get("delegation")
            .and_then(Value::as_array)
            .and_then(|all| all.iter().map(Value::as_str).collect())
            .ok_or_else(|| mismatch(what))?;
        if usize::try_from(long(map, "delegation_depth")?) != Ok(delegation.len()) {
            return Err(mismatch(what));
        }
        Ok(Self {
            time: Time::read(time)?,
            peer: string(map, "peer")?,
            delegation,
            on_behalf_of: boolean(map, "on_behalf_of")?,
            workload,
        })
    }

    /// The context of `issue` and `issueAfterApproval`.
    pub(crate) fn cedar(&self, params: Cedar, ttl_s: u32) -> Context {
        let delegation = Cedar::set(self.delegation.iter().map(|a| Cedar::from(*a)), None);
        // A chain is bounded far below the range of the integer.
        let depth = i64::try_from(self.delegation.len()).unwrap_or(i64::MAX);
        let fields = [
            ("params", params),
            ("ttl", i64::from(ttl_s).into()),
            ("time", self.time.cedar()),
            ("peer", self.peer.into()),
            ("delegation", delegation),
            ("delegation_depth", depth.into()),
            ("on_behalf_of", self.on_behalf_of.into()),
        ];
        let workload = self.workload.as_ref().map(|it| ("workload", it.cedar()));
        record(fields.into_iter().chain(workload))
    }
}

/// The context of `approve`.
pub(crate) fn approve_context(
    agent: EntityUid,
    params: Cedar,
    ttl_s: u32,
    time: &Time,
    channel: &str,
) -> Context {
    record([
        ("agent", ast::EntityUID::from(agent).into()),
        ("params", params),
        ("ttl", i64::from(ttl_s).into()),
        ("time", time.cedar()),
        ("channel", channel.into()),
    ])
}

/// A context of values that are values already: going through Cedar's expressions and their
/// evaluation costs more than the decision.
fn record<'a>(fields: impl IntoIterator<Item = (&'a str, Cedar)>) -> Context {
    let fields: BTreeMap<_, _> = fields.into_iter().map(|(k, v)| (k.into(), v)).collect();
    ast::Context::Value(Arc::new(fields)).into()
}

/// Checks the open parameters against the declaration: known, open, of their type, none missing.
pub(crate) fn fit(scope: &Scope, params: &Params) -> Result<(), Mismatch> {
    let wrong = |name: &str| Err(mismatch(&format!("parameter `{name}`")));
    for (name, spec) in &scope.params {
        if !spec.optional && !spec.sensitive && !params.contains_key(name) {
            return wrong(name);
        }
    }
    for (name, value) in params {
        match scope.params.get(name).filter(|spec| !spec.sensitive) {
            Some(spec) if CedarType::of(&spec.kind).admits(value) => {}
            _ => return wrong(name),
        }
    }
    Ok(())
}

/// The open parameters, if they [`fit`].
pub(crate) fn params(scope: &Scope, params: &Params) -> Result<Cedar, Mismatch> {
    fit(scope, params)?;
    let mut fields = Vec::with_capacity(params.len());
    for (name, value) in params {
        let value: Cedar = match value {
            ParamValue::Boolean(b) => (*b).into(),
            ParamValue::Integer(i) => (*i).into(),
            ParamValue::Set(s) => Cedar::set(s.iter().map(|m| Cedar::from(m.as_str())), None),
            ParamValue::Text(t) => t.as_str().into(),
        };
        fields.push((name.as_str(), value));
    }
    Ok(Cedar::record(fields, None))
}

/// The entity types and how entities of them are built.
#[derive(Debug)]
pub(crate) struct Kinds {
    agent: EntityTypeName,
    group: EntityTypeName,
    human: EntityTypeName,
    scope: EntityTypeName,
    action: EntityTypeName,
}

impl Kinds {
    pub(crate) fn new() -> Result<Self, Mismatch> {
        let name = |n: &str| n.parse::<EntityTypeName>().map_err(|_| mismatch(n));
        Ok(Self {
            agent: name("Agent")?,
            group: name("Group")?,
            human: name("Human")?,
            scope: name("Scope")?,
            action: name("Action")?,
        })
    }

    pub(crate) fn agent_uid(&self, id: &AgentId) -> EntityUid {
        uid(&self.agent, id.as_str())
    }

    pub(crate) fn human_uid(&self, id: &HumanId) -> EntityUid {
        uid(&self.human, id.as_str())
    }

    pub(crate) fn scope_uid(&self, name: &str) -> EntityUid {
        uid(&self.scope, name)
    }

    pub(crate) fn action_uid(&self, name: &str) -> EntityUid {
        uid(&self.action, name)
    }

    pub(crate) fn agent(&self, id: EntityUid, a: &Attributes<'_>) -> Arc<Entity> {
        let [team, environment, model, version] = a.texts.map(|(k, v)| (k, Cedar::from(v)));
        let owner = ast::EntityUID::from(self.human_uid(&a.owner));
        let qualified = a.qualified.into();
        let attrs =
            [("owner", owner.into()), team, environment, model, version, ("qualified", qualified)];
        entity(id, attrs, HashSet::new())
    }

    pub(crate) fn owner(&self, a: &Attributes<'_>) -> Arc<Entity> {
        self.human(&a.owner, &a.owner_groups)
    }

    pub(crate) fn human(&self, id: &HumanId, groups: &BTreeSet<GroupName>) -> Arc<Entity> {
        let parents = groups.iter().map(|g| uid(&self.group, g.as_str()).into()).collect();
        entity(self.human_uid(id), [], parents)
    }

    pub(crate) fn scope(&self, scope: &Scope) -> Arc<Entity> {
        let l = &scope.labels;
        let attrs = [
            ("sensitivity", &l.sensitivity),
            ("environment", &l.environment),
            ("data_class", &l.data_class),
            ("risk", &l.risk),
            ("undo", &l.undo),
            ("minter", &scope.minter),
        ]
        .map(|(k, v)| (k, Cedar::from(v.as_str())));
        entity(self.scope_uid(scope.name.as_str()), attrs, HashSet::new())
    }
}

fn entity<const N: usize>(
    id: EntityUid,
    attrs: [(&str, Cedar); N],
    parents: HashSet<ast::EntityUID>,
) -> Arc<Entity> {
    let attrs = attrs.into_iter().map(|(k, v)| (k.into(), PartialValue::Value(v)));
    let ancestors = HashSet::new();
    Arc::new(Entity::new_with_attr_partial_value(id.into(), attrs, ancestors, parents, []))
}

/// The entities of one decision. Groups have no parents, so that parents are all ancestors, and
/// the closure that Cedar would compute is there already.
pub(crate) fn entities(all: impl IntoIterator<Item = Arc<Entity>>) -> Result<Entities, Mismatch> {
    CoreEntities::new()
        .add_entities(
            all,
            None::<&NoEntitiesSchema>,
            TCComputation::AssumeAlreadyComputed,
            Extensions::all_available(),
        )
        .map(Entities::from)
        .map_err(|_| Mismatch("the entities do not fit together".into()))
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn exactly(map: &Map<String, Value>, keys: usize, what: &str) -> Result<(), Mismatch> {
    if map.len() == keys { Ok(()) } else { Err(mismatch(what)) }
}

fn string<'a>(map: &'a Map<String, Value>, key: &str) -> Result<&'a str, Mismatch> {
    map.get(key).and_then(Value::as_str).ok_or_else(|| mismatch(&format!("`{key}`")))
}

fn long(map: &Map<String, Value>, key: &str) -> Result<i64, Mismatch> {
    map.get(key).and_then(Value::as_i64).ok_or_else(|| mismatch(&format!("`{key}`")))
}

fn boolean(map: &Map<String, Value>, key: &str) -> Result<bool, Mismatch> {
    map.get(key).and_then(Value::as_bool).ok_or_else(|| mismatch(&format!("`{key}`")))
}

#[cfg(test)]
mod tests {
    use grantwright_domain::Digest;

    use super::*;

    /// As above, with the process that asks.
    #[test]
    fn a_workload_is_what_cedar_reads_and_nothing_else() {
        let process = LocalProcess {
            uid: 1000,
            gid: 100,
            pid: Some(7),
            exe: Some("/usr/bin/python3".into()),
            exe_digest: Some(Digest([7; 32])),
            cgroup: None,
            container: None,
        };
        let at = Timestamp::from_millis(1_795_225_490_123);
        let mut json = context(&TimeZone::UTC, at, "peer", &[], false);
        json.insert("workload".into(), workload(&process));
        assert!(json.get("workload").unwrap().get("pid").is_none());
        let built =
            Facts::read(&json).unwrap().cedar(Cedar::record([] as [(&str, Cedar); 0], None), 1);
        let mut whole = json.clone();
        whole.insert("params".into(), json!({}));
        whole.insert("ttl".into(), json!(1));
        assert_eq!(Context::from_json_value(Value::Object(whole), None).unwrap(), built);
        for (key, value) in [("pid", json!(7)), ("uid", json!("0")), ("exe", json!(1))] {
            let mut odd = json.clone();
            let seen = odd.get_mut("workload").and_then(Value::as_object_mut).unwrap();
            seen.insert(key.into(), value);
            assert!(Facts::read(&odd).is_err(), "{key}");
        }
        json.insert("workload".into(), json!("root"));
        assert!(Facts::read(&json).is_err());
    }

    /// Values built directly are what Cedar's own reader makes of the same JSON.
    #[test]
    fn contexts_are_what_cedar_reads() {
        let zone = TimeZone::UTC;
        let delegation = [AgentId::parse("a-1").unwrap(), AgentId::parse("b-2").unwrap()];
        let at = Timestamp::from_millis(1_795_225_490_123);
        let mut json = context(&zone, at, "peer", &delegation, true);
        let fields: [(&str, Cedar); 4] = [
            ("rows", 5i64.into()),
            ("masked", true.into()),
            ("dataset", "crm".into()),
            ("columns", Cedar::set(["x", "y"].map(Cedar::from), None)),
        ];
        let built = Facts::read(&json).unwrap().cedar(Cedar::record(fields, None), 60);
        let params = json!({"rows": 5, "masked": true, "dataset": "crm", "columns": ["x", "y"]});
        json.insert("params".into(), params);
        json.insert("ttl".into(), json!(60));
        assert_eq!(Context::from_json_value(Value::Object(json), None).unwrap(), built);
    }
}
