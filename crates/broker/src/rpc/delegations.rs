//! An agent hands another agent a narrower right, sees what was handed on, and ends it. Whose right it
//! is says this connection's certificate, never the message.

use std::collections::BTreeMap;
use std::sync::Arc;

use grantwright_domain::delegation::Bounds;
use grantwright_domain::event::{Delegated, DelegationEnded};
use grantwright_domain::text::{shorten, visible};
use grantwright_domain::{
    AgentId, Authority, Delegation, DelegationId, Event, Params, ScopeName, Timestamp, canonical,
};
use grantwright_store::Transition;
use grantwright_wire::Refusal;
use grantwright_wire::v1::{self, DelegateRequest, DelegationsReply};
use serde_json::{Map, Value, json};

use crate::core::{Broker, Caller};
use crate::end::delegated;
use crate::error::{of_store, of_violation, refuse};

/// Most bytes of a list: a message takes four million.
const LISTED: usize = 3_000_000;
/// How long a delegation lasts that names no end, in seconds.
const DEFAULT_LIFE_S: u32 = 3600;

fn malformed(detail: impl Into<String>) -> Refusal {
    refuse(400, "malformed", detail, "correct it and send it again")
}

/// Hands a right on.
///
/// # Errors
/// 400 with what is malformed, 403 for what is wider than the caller has, 404 for an agent, scope or
/// delegation that there is not.
pub(super) async fn delegate(
    broker: &Broker,
    caller: &Caller,
    ask: DelegateRequest,
) -> Result<v1::Delegation, Refusal> {
    broker.consistent()?;
    let (authority, now) = (broker.authority(), broker.now());
    let to = AgentId::parse(&ask.to).map_err(|e| malformed(e.to_string()))?;
    let parent = match ask.parent.as_str() {
        "" => None,
        id => {
            let id = DelegationId::parse(id).map_err(|e| malformed(e.to_string()))?;
            let known = authority.delegation(&id, &caller.agent, now);
            Some((id, known.map_err(|v| of_violation(&v))?))
        }
    };
    let had = parent.as_ref().map(|(_, known)| *known);
    let expires_at = match (ask.ttl_s, had) {
        (0, Some(known)) => known.expires_at.min(now.plus_seconds(i64::from(DEFAULT_LIFE_S))),
        (0, None) => now.plus_seconds(i64::from(DEFAULT_LIFE_S)),
        (ttl_s, _) => now.plus_seconds(i64::from(ttl_s)),
    };
    let id = DelegationId::parse(&broker.random.name("d"))
        .map_err(|_| refuse(503, "internal", "no id could be made", "try again"))?;
    let event = Delegated {
        at: now,
        delegation_id: id.clone(),
        from: caller.agent.clone(),
        instance: caller.instance.clone(),
        to,
        scopes: bounds(&authority, had, &ask.scopes_jcs)?,
        parent: parent.map(|(id, _)| id),
        passes: ask.passes,
        expires_at,
    };
    broker.commit(Transition::authority(vec![Event::Delegated(event)])).await.map_err(of_store)?;
    sent(shown(&broker.authority(), &id, now))
}

/// Reads `{scope: {"params"?, "ttl_s"?}}`. What is left out is as it was handed on, else free.
fn bounds(
    authority: &Authority,
    had: Option<&Delegation>,
    scopes_jcs: &[u8],
) -> Result<BTreeMap<ScopeName, Bounds>, Refusal> {
    let given = canonical::parse(scopes_jcs).map_err(|e| malformed(format!("scopes: {e}")))?;
    let Value::Object(given) = given else {
        return Err(malformed("`scopes` wants an object of scopes"));
    };
    let mut out = BTreeMap::new();
    for (name, within) in &given {
        let known = ScopeName::parse(name).ok();
        let known = known.and_then(|n| authority.scope(&n).map(|found| (n, found)));
        let Some((name, (scope, template))) = known else {
            let detail = format!("there is no scope `{}`", shorten(&visible(name), 64));
            return Err(refuse(404, "unknown_scope", detail, "list the scopes"));
        };
        let had = had.and_then(|d| d.scopes.get(&name));
        let Value::Object(within) = within else {
            return Err(malformed(format!("scope `{name}` wants an object of bounds")));
        };
        let mut params = had.map(|b| b.params.clone()).unwrap_or_default();
        let mut ttl_s = had.map_or(scope.ttl.max_s, |b| b.ttl_s.min(scope.ttl.max_s));
        for (key, value) in within {
            match (key.as_str(), value) {
                ("params", Value::Object(given)) => params.extend(typed(scope, given)?),
                ("ttl_s", Value::Number(n)) => {
                    let given = n.as_u64().and_then(|n| u32::try_from(n).ok());
                    ttl_s = given.ok_or_else(|| malformed("`ttl_s` wants seconds"))?;
                }
                _ => {
                    let key = shorten(&visible(key), 40);
                    let detail = format!("scope `{name}`: want `params` and `ttl_s`, not `{key}`");
                    return Err(malformed(detail));
                }
            }
        }
        out.insert(name, Bounds { template, params, ttl_s });
    }
    Ok(out)
}

/// Bounds of parameters, each of its type. A sensitive one is not in the log, so that nothing could be
/// compared with it.
fn typed(scope: &grantwright_domain::Scope, given: &Map<String, Value>) -> Result<Params, Refusal> {
    let mut out = Params::new();
    for (name, value) in given {
        let wrong = |detail: String| {
            refuse(400, "bad_params", detail, "correct the parameter and send it again")
        };
        let shown = shorten(&visible(name), 40);
        match scope.params.get(name) {
            None => return Err(wrong(format!("`{}` has no parameter `{shown}`", scope.name))),
            Some(spec) if spec.sensitive => {
                return Err(wrong(format!(
                    "parameter `{shown}` is sensitive and cannot be bounded"
                )));
            }
            Some(spec) => {
                let value = spec.check(name, value).map_err(|e| wrong(e.to_string()))?;
                out.insert(name.clone(), value);
            }
        }
    }
    Ok(out)
}

/// The delegations of whose chain the caller is, those in force first, then the newest; as many as fit.
pub(super) fn list(broker: &Broker, caller: &Caller) -> DelegationsReply {
    let (authority, now) = (broker.authority(), broker.now());
    let mut mine: Vec<_> = authority
        .delegations
        .iter()
        .filter(|(_, d)| d.agents().any(|agent| *agent == caller.agent))
        .collect();
    mine.sort_by_key(|(_, d)| std::cmp::Reverse((d.is_live(now), d.made_at)));
    let each = mine.into_iter().filter_map(|(id, _)| shown(&authority, id, now));
    let mut bytes = 0;
    let fits = |one: &Vec<u8>| {
        bytes += one.len();
        bytes <= LISTED
    };
    let each = each.filter_map(|d| serde_json::to_vec(&d).ok());
    DelegationsReply { delegations_json: each.take_while(fits).collect() }
}

/// Ends a delegation, and what was passed on from it and asked under it. Ending one twice changes nothing.
///
/// # Errors
/// 404 where the caller is not of its chain.
pub(super) async fn end(
    broker: &Arc<Broker>,
    caller: &Caller,
    id: &str,
) -> Result<v1::Delegation, Refusal> {
    broker.consistent()?;
    let id = DelegationId::parse(id).map_err(|_| unknown())?;
    let (authority, now) = (broker.authority(), broker.now());
    let known = authority.delegations.get(&id);
    let known =
        known.filter(|d| d.agents().any(|agent| *agent == caller.agent)).ok_or_else(unknown)?;
    if known.is_live(now) {
        let event = Event::DelegationEnded(DelegationEnded {
            at: now,
            delegation_id: id.clone(),
            agent: Some(caller.agent.clone()),
            human: None,
        });
        broker.commit(Transition::authority(vec![event])).await.map_err(of_store)?;
    }
    delegated::settle_apart(broker).await;
    sent(shown(&broker.authority(), &id, now))
}

fn sent(delegation: Option<Value>) -> Result<v1::Delegation, Refusal> {
    let delegation_json = delegation.and_then(|d| serde_json::to_vec(&d).ok());
    Ok(v1::Delegation { delegation_json: delegation_json.ok_or_else(unknown)? })
}

/// 404, as for a delegation of others.
pub(crate) fn unknown() -> Refusal {
    refuse(404, "delegation_unknown", "there is no such delegation", "list the delegations")
}

/// `live`, `ended` or `expired`.
pub(crate) fn state_word(delegation: &Delegation, now: Timestamp) -> &'static str {
    match delegation.ended_at {
        Some(_) => "ended",
        None if delegation.is_live(now) => "live",
        None => "expired",
    }
}

/// A delegation as its agents and people see it.
pub(crate) fn shown(authority: &Authority, id: &DelegationId, now: Timestamp) -> Option<Value> {
    let d = authority.delegations.get(id)?;
    let scopes: Map<String, Value> = d
        .scopes
        .iter()
        .map(|(name, b)| (name.to_string(), json!({ "params": b.params, "ttl_s": b.ttl_s })))
        .collect();
    let mut out = json!({
        "delegation_id": id, "state": state_word(d, now), "from": d.chain.last(), "to": d.to, "chain": d.chain,
        "scopes": scopes, "passes": d.passes, "made_at": d.made_at, "expires_at": d.expires_at,
    });
    if let Value::Object(map) = &mut out {
        map.extend(d.parent.as_ref().map(|parent| ("parent".to_owned(), json!(parent))));
        map.extend(d.ended_at.map(|at| ("ended_at".to_owned(), json!(at))));
    }
    Some(out)
}

#[cfg(test)]
mod tests;
