//! What is unlike this agent's past: part 3 of the card. One pure function over what it was given and
//! refused before; people read it, no rule does.

use std::collections::BTreeSet;

use grantwright_domain::param::Order;
use grantwright_domain::{
    Decision, ParamValue, Params, Phase, RequestState, Scope, ScopeName, Timestamp,
};
use grantwright_store::{RequestFilter, StoreError};

use super::pulse::KEPT_MS;
use crate::core::Broker;
use crate::http::console::desk;

/// Most facts that are said.
const MOST: usize = 3;
/// Ended requests of the agent that are looked at, the newest.
const LOOKED_AT: u32 = 128;
/// Those for the same scope that are read whole.
const READ: usize = 12;

/// What the agent did before.
#[derive(Debug, Default)]
pub struct Past {
    /// The scopes for which it was given something.
    pub scopes: BTreeSet<ScopeName>,
    /// The environments in which it was.
    pub environments: BTreeSet<String>,
    /// What it was given for this scope.
    pub granted: Vec<Params>,
    /// Who denied it this scope last, and when.
    pub denied: Option<(String, Timestamp)>,
}

/// What differs, at most three facts in the broker's words.
#[must_use]
pub fn facts(past: &Past, scope: &Scope, params: &Params) -> Vec<String> {
    let mut out = Vec::new();
    if let Some((human, at)) = &past.denied {
        let day: String = at.to_string().chars().take(10).collect();
        out.push(format!("denied by {human} on {day}"));
    }
    for (name, spec) in &scope.params {
        let largest = past.granted.iter().filter_map(|p| match p.get(name) {
            Some(ParamValue::Integer(n)) => Some(*n),
            _ => None,
        });
        if let (Order::Max, Some(ParamValue::Integer(now)), Some(before)) =
            (spec.order, params.get(name), largest.max())
            && let Some(times) = now.checked_div(before).filter(|times| before > 0 && *times >= 2)
        {
            out.push(format!("{times} × its largest {name} so far"));
        }
    }
    let environment = &scope.labels.environment;
    if environment != "unlabelled" && !past.environments.contains(environment) {
        out.push(format!("first time in {}", grantwright_approval::show::plain(environment)));
    } else if !past.scopes.contains(&scope.name) {
        out.push("first time for this scope".into());
    }
    out.truncate(MOST);
    out
}

/// What differs in a request that is about to wait for people.
///
/// # Errors
/// When the store cannot be read.
pub async fn of(
    broker: &Broker,
    state: &RequestState,
    scope: &Scope,
) -> Result<Vec<String>, StoreError> {
    let terms = &state.terms;
    let filter = RequestFilter {
        ended: true,
        agent: Some(terms.agent.clone()),
        limit: LOOKED_AT,
        ..RequestFilter::default()
    };
    let rows = broker.store.list(filter).await?;
    let authority = broker.authority();
    let recent = state.requested_at.plus_millis(-KEPT_MS);
    let mut past = Past::default();
    for row in rows.iter().filter(|row| row.phase == Phase::Granted.word()) {
        past.scopes.insert(row.scope.clone());
        let pinned = authority.scopes.get(&row.scope).and_then(|d| authority.catalog.get(d));
        past.environments.extend(pinned.map(|scope| scope.labels.environment.clone()));
    }
    for row in rows.iter().filter(|row| row.scope == terms.scope).take(READ) {
        let loaded = match desk::proven(broker, row).await {
            Ok(Some(loaded)) => loaded,
            Ok(None) => continue,
            Err(refusal) => return Err(StoreError::Unavailable(refusal.detail)),
        };
        let past_state = &loaded.state;
        match past_state.phase {
            Phase::Granted => past.granted.push(past_state.terms.params.clone()),
            Phase::Denied if past.denied.is_none() => {
                let by = past_state.votes.iter().find(|v| v.decision == Decision::Deny);
                past.denied = by.filter(|v| v.at >= recent).map(|v| (v.human.to_string(), v.at));
            }
            _ => {}
        }
    }
    Ok(facts(&past, scope, &terms.params))
}
