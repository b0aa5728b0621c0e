//! What a decision rests on, as the log records it; and the same, typed, for Cedar. A record that
//! is not exactly of its form is a mismatch, and a mismatch is a deny.

use std::collections::{BTreeSet, HashMap, HashSet};

use cedar_policy::{
    Context, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression as Expr,
};
use grantwright_domain::{
    AgentId, Authority, GroupName, HumanId, ParamValue, Params, Scope, Timestamp,
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

/// The agent's attributes at `now`, as `decided` records them: `owner`, `owner_groups`, `team`,
/// `environment`, `model`, `model_version`, `qualified`. Empty for an unknown or revoked agent:
/// deciding upon that is a deny.
#[must_use]
pub fn attributes(authority: &Authority, agent: &AgentId, now: Timestamp) -> Map<String, Value> {
    let mut out = Map::new();
    let Some(agent) = authority.agents.get(agent).filter(|a| !a.revoked) else { return out };
    let Some(owner) = agent.owner() else { return out };
    let a = &agent.attributes;
    let groups: Vec<Value> = authority.groups_of(owner).iter().map(|g| json!(g)).collect();
    out.insert("owner".into(), json!(owner));
    out.insert("owner_groups".into(), Value::Array(groups));
    out.insert("team".into(), json!(a.team));
    out.insert("environment".into(), json!(a.environment));
    out.insert("model".into(), json!(a.model));
    out.insert("model_version".into(), json!(a.model_version));
    out.insert("qualified".into(), json!(authority.qualified(a, now)));
    out
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
    let mut out = Map::new();
    out.insert("delegation".into(), json!(delegation));
    out.insert("delegation_depth".into(), json!(delegation.len()));
    out.insert("on_behalf_of".into(), json!(on_behalf_of));
    out.insert("peer".into(), json!(peer));
    if let Some(time) = Time::at(zone, now) {
        out.insert("time".into(), time.record());
    }
    out
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
        json!({
            "epoch": self.epoch, "hour": self.hour, "minute": self.minute,
            "weekday": self.weekday, "date": self.date,
        })
    }

    fn read(map: &Map<String, Value>) -> Result<Self, Mismatch> {
        exactly(map, 5, "the time")?;
        Ok(Self {
            epoch: long(map, "epoch")?,
            hour: long(map, "hour")?,
            minute: long(map, "minute")?,
            weekday: string(map, "weekday")?.to_owned(),
            date: string(map, "date")?.to_owned(),
        })
    }

    fn cedar(&self) -> Result<Expr, Mismatch> {
        Expr::new_record([
            ("epoch".into(), Expr::new_long(self.epoch)),
            ("hour".into(), Expr::new_long(self.hour)),
            ("minute".into(), Expr::new_long(self.minute)),
            ("weekday".into(), Expr::new_string(self.weekday.clone())),
            ("date".into(), Expr::new_string(self.date.clone())),
        ])
        .map_err(|_| mismatch("the time"))
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
}

impl<'a> Facts<'a> {
    pub(crate) fn read(map: &'a Map<String, Value>) -> Result<Self, Mismatch> {
        let what = "the context";
        exactly(map, 5, what)?;
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
        })
    }

    /// The context of `issue` and `issueAfterApproval`.
    pub(crate) fn cedar(&self, params: Expr, ttl_s: u32) -> Result<Context, Mismatch> {
        let depth = i64::try_from(self.delegation.len()).map_err(|_| mismatch("the delegation"))?;
        let delegation = self.delegation.iter().map(|a| Expr::new_string((*a).to_owned()));
        Context::from_pairs([
            ("params".into(), params),
            ("ttl".into(), Expr::new_long(ttl_s.into())),
            ("time".into(), self.time.cedar()?),
            ("peer".into(), Expr::new_string(self.peer.to_owned())),
            ("delegation".into(), Expr::new_set(delegation)),
            ("delegation_depth".into(), Expr::new_long(depth)),
            ("on_behalf_of".into(), Expr::new_bool(self.on_behalf_of)),
        ])
        .map_err(|_| mismatch("the context"))
    }
}

/// The context of `approve`.
pub(crate) fn approve_context(
    agent: EntityUid,
    params: Expr,
    ttl_s: u32,
    time: &Time,
    channel: &str,
) -> Result<Context, Mismatch> {
    Context::from_pairs([
        ("agent".into(), Expr::new_entity_uid(agent)),
        ("params".into(), params),
        ("ttl".into(), Expr::new_long(ttl_s.into())),
        ("time".into(), time.cedar()?),
        ("channel".into(), Expr::new_string(channel.to_owned())),
    ])
    .map_err(|_| mismatch("the context"))
}

/// The open parameters, checked against the declaration: known, open, of their type, none missing.
pub(crate) fn params(scope: &Scope, params: &Params) -> Result<Expr, Mismatch> {
    let wrong = |name: &str| mismatch(&format!("parameter `{name}`"));
    for (name, spec) in &scope.params {
        if !spec.optional && !spec.sensitive && !params.contains_key(name) {
            return Err(wrong(name));
        }
    }
    let mut fields = Vec::with_capacity(params.len());
    for (name, value) in params {
        let spec = scope.params.get(name).filter(|s| !s.sensitive).ok_or_else(|| wrong(name))?;
        if !CedarType::of(&spec.kind).admits(value) {
            return Err(wrong(name));
        }
        let value = match value {
            ParamValue::Boolean(b) => Expr::new_bool(*b),
            ParamValue::Integer(i) => Expr::new_long(*i),
            ParamValue::Set(s) => Expr::new_set(s.iter().cloned().map(Expr::new_string)),
            ParamValue::Text(t) => Expr::new_string(t.clone()),
        };
        fields.push((name.clone(), value));
    }
    Expr::new_record(fields).map_err(|_| mismatch("the parameters"))
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

    pub(crate) fn agent(&self, id: EntityUid, a: &Attributes<'_>) -> Result<Entity, Mismatch> {
        let mut attrs = HashMap::with_capacity(6);
        attrs.insert("owner".to_owned(), Expr::new_entity_uid(self.human_uid(&a.owner)));
        for (name, text) in a.texts {
            attrs.insert(name.to_owned(), Expr::new_string(text.to_owned()));
        }
        attrs.insert("qualified".to_owned(), Expr::new_bool(a.qualified));
        Entity::new(id, attrs, HashSet::new()).map_err(|_| mismatch("the agent"))
    }

    pub(crate) fn owner(&self, a: &Attributes<'_>) -> Entity {
        self.human(&a.owner, &a.owner_groups)
    }

    pub(crate) fn human(&self, id: &HumanId, groups: &BTreeSet<GroupName>) -> Entity {
        let parents = groups.iter().map(|g| uid(&self.group, g.as_str())).collect();
        Entity::new_no_attrs(self.human_uid(id), parents)
    }

    pub(crate) fn scope(&self, scope: &Scope) -> Result<Entity, Mismatch> {
        let l = &scope.labels;
        let attrs = [
            ("sensitivity", &l.sensitivity),
            ("environment", &l.environment),
            ("data_class", &l.data_class),
            ("risk", &l.risk),
            ("undo", &l.undo),
            ("minter", &scope.minter),
        ]
        .map(|(k, v)| (k.to_owned(), Expr::new_string(v.clone())));
        Entity::new(self.scope_uid(scope.name.as_str()), attrs.into(), HashSet::new())
            .map_err(|_| mismatch("the scope"))
    }
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
