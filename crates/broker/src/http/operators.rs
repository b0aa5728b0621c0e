//! What operators change: agents, owners, people, groups, models, scopes and policy. Each change is
//! a leaf.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use grantwright_domain::event::{
    AgentRevoked, AgentSet, Attributes, GroupSet, HumanSet, JoinCreated, LinkCreated, ModelSet,
};
use grantwright_domain::time::parse_ttl;
use grantwright_domain::{AgentId, Digest, Event, GroupName, HumanId, Timestamp};
use grantwright_policy::Sources;
use grantwright_store::{StoreError, Transition};
use grantwright_wire::Refusal;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Operator, Person, Shared, accounts, body, session, sign};
use crate::core::Broker;
use crate::error::{of_store, refuse};
use crate::{end, policies};

/// How long a revocation waits for what it ends, within what a call may take.
const TOLD_WITHIN: Duration = Duration::from_secs(20);

pub(super) fn malformed(detail: impl ToString) -> Refusal {
    refuse(400, "malformed", detail.to_string(), "see docs/api.md for this call's fields")
}

pub(super) async fn commit(broker: &Broker, event: Event) -> Result<(), Refusal> {
    broker.consistent()?;
    match broker.commit(Transition::authority(vec![event])).await {
        Ok(_) => Ok(()),
        Err(StoreError::Violation(v)) if v.rule != "operator" => {
            Err(refuse(400, v.code, v.detail, "correct it and try again"))
        }
        Err(e) => Err(of_store(e)),
    }
}

fn life_ms(ttl: Option<&str>, default_s: u32, most_s: u32) -> Result<i64, Refusal> {
    let s = match ttl {
        Some(text) => parse_ttl(text).map_err(|e| refuse(400, "bad_ttl", e, "for example 1h"))?,
        None => default_s,
    };
    if s > most_s {
        return Err(refuse(400, "ttl_too_long", format!("at most {most_s} s"), "ask for less"));
    }
    Ok(i64::from(s) * 1000)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetAgent {
    name: AgentId,
    owner: HumanId,
    #[serde(default)]
    team: String,
    #[serde(default)]
    environment: String,
    #[serde(default)]
    model: String,
    #[serde(default)]
    model_version: String,
}

/// All agents.
pub async fn agents(State(broker): Shared, _: Person) -> Answer {
    let authority = broker.authority();
    let shown: Vec<Value> = authority.agents.keys().map(|name| agent_json(&broker, name)).collect();
    Ok(Json(json!({ "agents": shown })))
}

fn agent_json(broker: &Broker, name: &AgentId) -> Value {
    let authority = broker.authority();
    let Some(agent) = authority.agents.get(name) else { return Value::Null };
    let instances = authority.instances.values().filter(|i| &i.agent == name && !i.revoked).count();
    json!({
        "name": name, "owner": agent.owner(), "team": agent.attributes.team, "environment": agent.attributes.environment,
        "model": agent.attributes.model, "model_version": agent.attributes.model_version,
        "qualified": authority.qualified(&agent.attributes, broker.now()), "revoked": agent.revoked, "instances": instances,
    })
}

/// Registers an agent, or changes it.
pub async fn set_agent(State(broker): Shared, Operator(by): Operator, bytes: Bytes) -> Answer {
    let b: SetAgent = body(&bytes)?;
    for text in [&b.team, &b.environment, &b.model, &b.model_version] {
        if text.chars().count() > 64 || text.chars().any(grantwright_domain::text::is_deceptive) {
            return Err(malformed("attributes are at most 64 plain characters").into());
        }
    }
    let attributes = Attributes {
        team: b.team,
        environment: b.environment,
        model: b.model,
        model_version: b.model_version,
    };
    commit(
        &broker,
        Event::AgentSet(AgentSet {
            at: broker.now(),
            by,
            agent: b.name.clone(),
            owner: b.owner,
            attributes,
        }),
    )
    .await?;
    Ok(Json(agent_json(&broker, &b.name)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Life {
    ttl: Option<String>,
}

fn life_body(bytes: &Bytes) -> Result<Life, Refusal> {
    if bytes.is_empty() { Ok(Life { ttl: None }) } else { body(bytes) }
}

/// Makes a one-time join token.
pub async fn join(
    State(broker): Shared,
    Operator(by): Operator,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Answer {
    let agent = AgentId::parse(&name).map_err(malformed)?;
    let life = life_ms(life_body(&bytes)?.ttl.as_deref(), 3600, 86_400)?;
    let token = format!("gwj_{}", broker.random.secret());
    let now = broker.now();
    let event = JoinCreated {
        at: now,
        by,
        join_id: broker.random.name("j-"),
        agent: agent.clone(),
        token_hash: Digest::of("join-token", token.as_bytes()),
        expires_at: now.plus_millis(life),
    };
    let (join_id, expires_at) = (event.join_id.clone(), event.expires_at);
    commit(&broker, Event::JoinCreated(event)).await?;
    Ok(Json(
        json!({ "join_token": token, "join_id": join_id, "expires_at": expires_at, "agent": agent }),
    ))
}

/// Ends an agent's right, its open requests, and its live leases where they can be ended.
pub async fn revoke_agent(
    State(broker): Shared,
    Operator(by): Operator,
    Path(name): Path<String>,
) -> Answer {
    let agent = AgentId::parse(&name).map_err(malformed)?;
    commit(
        &broker,
        Event::AgentRevoked(AgentRevoked {
            at: broker.now(),
            by: by.clone(),
            agent: agent.clone(),
        }),
    )
    .await?;
    // What is not ended by then goes on ending: the caller sees how far that is in the list of leases.
    let ending = end::end_agent(&broker, &agent, None, by.as_str());
    let Ok(done) = tokio::time::timeout(TOLD_WITHIN, ending).await else {
        return Ok(Json(
            json!({ "agent": agent, "ended_requests": [], "leases": [], "going_on": true }),
        ));
    };
    let done = done?;
    let leases: Vec<Value> = done.leases.iter().map(|(id, expires_at, ended)| json!({
        "lease_id": id, "ended": ended.ended, "effect": ended.effect, "expires_at": expires_at,
    })).collect();
    Ok(Json(json!({ "agent": agent, "ended_requests": done.requests, "leases": leases })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetPerson {
    id: HumanId,
    operator: Option<bool>,
    active: Option<bool>,
}

fn person_json(broker: &Broker, id: &HumanId) -> Value {
    let authority = broker.authority();
    let Some(human) = authority.humans.get(id) else { return Value::Null };
    json!({ "id": id, "active": human.active, "operator": human.operator, "groups": authority.groups_of(id, broker.now()), "accounts": accounts::of(broker, id) })
}

/// All people.
pub async fn people(State(broker): Shared, _: Operator) -> Answer {
    let authority = broker.authority();
    let shown: Vec<Value> = authority.humans.keys().map(|id| person_json(&broker, id)).collect();
    Ok(Json(json!({ "people": shown, "waiting": accounts::waiting(&broker).await? })))
}

/// Registers a person, or changes them; what is not named stays.
pub async fn set_person(State(broker): Shared, Operator(by): Operator, bytes: Bytes) -> Answer {
    let b: SetPerson = body(&bytes)?;
    let authority = broker.authority();
    let before = authority.humans.get(&b.id);
    let operator = b.operator.unwrap_or(before.is_some_and(|h| h.operator));
    let active = b.active.unwrap_or(before.is_none_or(|h| h.active));
    let operators = authority.humans.iter().filter(|(_, h)| h.active && h.operator).count();
    if authority.is_operator(&b.id) && !(operator && active) && operators == 1 {
        return Err(refuse(
            409,
            "last_operator",
            "this is the last operator",
            "make another operator first",
        )
        .into());
    }
    commit(
        &broker,
        Event::HumanSet(HumanSet { at: broker.now(), by, human: b.id.clone(), active, operator }),
    )
    .await?;
    if !active {
        session::end_all(&broker, &b.id).await?;
    }
    Ok(Json(person_json(&broker, &b.id)))
}

/// Makes a person's API token, 12 hours at most.
pub async fn token(
    State(broker): Shared,
    Operator(by): Operator,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Answer {
    let human = HumanId::parse(&id).map_err(malformed)?;
    let life = life_ms(life_body(&bytes)?.ttl.as_deref(), 43_200, 43_200)?;
    let made = sign::new_token(&broker, &by, &human, broker.now(), life);
    commit(&broker, Event::TokenIssued(made.event.clone())).await?;
    Ok(Json(made.json()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MakeLink {
    purpose: String,
    ttl: Option<String>,
}

/// Makes a one-time link.
pub async fn link(
    State(broker): Shared,
    Operator(by): Operator,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Answer {
    let b: MakeLink = body(&bytes)?;
    let human = HumanId::parse(&id).map_err(malformed)?;
    if !matches!(b.purpose.as_str(), "api" | "login" | "enrol") {
        return Err(malformed("`purpose` is `api`, `login` or `enrol`").into());
    }
    let life = life_ms(b.ttl.as_deref(), 3600, 86_400)?;
    let code = format!("gwl_{}", broker.random.secret());
    let now = broker.now();
    let event = LinkCreated {
        at: now,
        by,
        link_id: broker.random.name("k-"),
        human,
        code_hash: Digest::of("one-time-link", code.as_bytes()),
        purpose: b.purpose.clone(),
        expires_at: now.plus_millis(life),
    };
    let expires_at = event.expires_at;
    commit(&broker, Event::LinkCreated(event)).await?;
    Ok(Json(
        json!({ "url": link_url(&broker.public_url, &b.purpose, &code), "code": code, "expires_at": expires_at }),
    ))
}

/// Where a one-time link leads.
#[must_use]
pub fn link_url(base: &str, purpose: &str, code: &str) -> String {
    match purpose {
        "enrol" => format!("{base}/enrol/{code}"),
        "login" => format!("{base}/login/{code}"),
        _ => format!("{base}/#{code}"),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetGroup {
    name: GroupName,
    members: BTreeSet<HumanId>,
}

/// All groups.
pub async fn groups(State(broker): Shared, _: Operator) -> Answer {
    let authority = broker.authority();
    let shown: Vec<Value> = authority
        .groups
        .iter()
        .map(|(name, members)| json!({ "name": name, "members": members }))
        .collect();
    Ok(Json(json!({ "groups": shown })))
}

/// Sets a group's members.
pub async fn set_group(State(broker): Shared, Operator(by): Operator, bytes: Bytes) -> Answer {
    let b: SetGroup = body(&bytes)?;
    let shown = json!({ "name": b.name, "members": b.members });
    commit(
        &broker,
        Event::GroupSet(GroupSet { at: broker.now(), by, group: b.name, members: b.members }),
    )
    .await?;
    Ok(Json(shown))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetModel {
    model: String,
    model_version: String,
    until: Option<Timestamp>,
}

/// The register of qualified models.
pub async fn models(State(broker): Shared, _: Person) -> Answer {
    let authority = broker.authority();
    let shown: Vec<Value> = authority.models.iter()
        .map(|((model, version), until)| json!({ "model": model, "model_version": version, "until": until })).collect();
    Ok(Json(json!({ "models": shown })))
}

/// Qualifies a model, or ends its qualification.
pub async fn set_model(State(broker): Shared, Operator(by): Operator, bytes: Bytes) -> Answer {
    let b: SetModel = body(&bytes)?;
    let shown = json!({ "model": b.model, "model_version": b.model_version, "until": b.until.map(|u| u.to_string()).unwrap_or_default() });
    commit(
        &broker,
        Event::ModelSet(ModelSet {
            at: broker.now(),
            by,
            model: b.model,
            model_version: b.model_version,
            until: b.until,
        }),
    )
    .await?;
    Ok(Json(shown))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetPolicy {
    policies: BTreeMap<String, String>,
    scopes: BTreeMap<String, String>,
    #[serde(default = "utc")]
    zone: String,
    #[serde(default)]
    check: bool,
}

fn utc() -> String {
    "UTC".into()
}

/// The policy set in force.
pub async fn policy(State(broker): Shared, _: Person) -> Answer {
    let set = broker.policy()?;
    Ok(Json(json!({ "policy_set": set.digest(), "zone": set.zone(), "policies": set.texts(),
        "scopes": set.scopes() })))
}

/// Validates scopes and policies, and puts them into force as one.
pub async fn set_policy(
    State(broker): Shared,
    Operator(by): Operator,
    bytes: Bytes,
) -> Result<axum::response::Response, super::Refused> {
    use axum::response::IntoResponse;
    let b: SetPolicy = body(&bytes)?;
    let sources = Sources { policies: b.policies, scopes: b.scopes, zone: b.zone };
    let set = match policies::check(&broker, &sources) {
        Ok(set) => set,
        Err(faults) => {
            let refusal = refuse(
                400,
                "policy_invalid",
                format!("{} faults; the old policy stays", faults.len()),
                "mend each fault and try again",
            );
            let mut shown = refusal.to_problem_json();
            if let Value::Object(map) = &mut shown {
                map.insert(
                    "faults".into(),
                    faults
                        .iter()
                        .map(|f| {
                            let mut fault =
                                json!({ "file": f.file, "line": f.line, "message": f.message });
                            if let (Value::Object(map), Some(s)) = (&mut fault, &f.suggestion) {
                                map.insert("suggestion".into(), s.as_str().into());
                            }
                            fault
                        })
                        .collect(),
                );
            }
            let headers = [(axum::http::header::CONTENT_TYPE, "application/problem+json")];
            return Ok(
                (axum::http::StatusCode::BAD_REQUEST, headers, shown.to_string()).into_response()
            );
        }
    };
    let shown =
        json!({ "policy_set": set.digest(), "scopes": set.scopes().keys().collect::<Vec<_>>() });
    if !b.check {
        policies::load(&broker, &by, set).await?;
    }
    Ok(Json(shown).into_response())
}

/// The scopes in force.
pub async fn scopes(State(broker): Shared, _: Person) -> Answer {
    let authority = broker.authority();
    let shown: Vec<Value> = authority.scopes.values().filter_map(|d| authority.catalog.get(d)).map(|s| json!({
        "name": s.name, "title": s.title, "params": s.params, "ttl": s.ttl, "labels": s.labels, "minter": s.minter,
    })).collect();
    Ok(Json(json!({ "scopes": shown })))
}
