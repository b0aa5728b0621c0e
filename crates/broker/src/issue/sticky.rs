//! A person's deny sticks for a while to what was asked: to its agent, and to every agent that passed the
//! right on, since it was as much their ask. So nobody gets past a deny by asking through another, nor by
//! asking for themselves what was denied to whom they sent.

use std::collections::HashMap;
use std::sync::PoisonError;

use grantwright_domain::{AgentId, Decision, Digest, ScopeName, Terms, Timestamp};
use grantwright_store::StoredText;
use grantwright_wire::Refusal;

use super::record::param_salt;
use crate::core::Broker;
use crate::error::{of_store, refuse};

/// People's denies, by whom and what they stick to, and until when. What is over goes with the next sweep.
pub type Denies = HashMap<AgentId, HashMap<ScopeName, HashMap<Digest, Timestamp>>>;

/// To whom a deny of these terms sticks, and to whom it must not have stuck when they are asked.
fn involved(terms: &Terms) -> impl Iterator<Item = &AgentId> {
    std::iter::once(&terms.agent).chain(&terms.delegation)
}

/// What it sticks to: these terms as `agent`'s own. `value` gives the text of a sealed parameter; what was
/// erased is the same ask no longer.
fn key(
    broker: &Broker,
    terms: &Terms,
    agent: &AgentId,
    value: impl Fn(&str) -> Option<String>,
) -> Option<Digest> {
    if *agent == terms.agent {
        return terms.deny_key().ok();
    }
    let sealed_params = sealed(broker, terms, agent, value)?;
    Terms { agent: agent.clone(), sealed_params, ..terms.clone() }.deny_key().ok()
}

/// The sealed parameters as `agent`'s own ask would commit to them.
fn sealed(
    broker: &Broker,
    terms: &Terms,
    agent: &AgentId,
    value: impl Fn(&str) -> Option<String>,
) -> Option<std::collections::BTreeMap<String, Digest>> {
    let one = |name: &String| {
        let text = value(name)?;
        let salt = param_salt(broker, agent, &terms.template, &format!("param:{name}"), &text);
        Some((name.clone(), Digest::commitment(&salt, &text)))
    };
    terms.sealed_params.keys().map(one).collect()
}

/// Refuses what a person denied a short while ago.
///
/// # Errors
/// 403 `denied`.
pub(super) fn not_denied_lately(
    broker: &Broker,
    terms: &Terms,
    value: impl Fn(&str) -> Option<String>,
    now: Timestamp,
) -> Result<(), Refusal> {
    let denies = broker.denies.lock().unwrap_or_else(PoisonError::into_inner);
    // Mostly nobody denied this agent anything here: then nothing is hashed.
    let stuck = involved(terms)
        .filter_map(|agent| Some((agent, denies.get(agent)?.get(&terms.scope)?)))
        .filter_map(|(agent, here)| here.get(&key(broker, terms, agent, &value)?))
        .find(|until| **until > now);
    match stuck {
        Some(until) => Err(refuse(
            403,
            "denied",
            "a person denied this very ask a short while ago",
            format!("ask for something else, or again after {until}"),
        )),
        None => Ok(()),
    }
}

/// Remembers that a person denied these terms; `texts` lie beside the request.
pub(crate) fn remember(broker: &Broker, terms: &Terms, texts: &[StoredText], at: Timestamp) {
    let until = at.plus_millis(broker.config.deny_sticky_ms());
    let value = |name: &str| {
        let wanted = format!("param:{name}");
        texts.iter().find(|t| t.name == wanted).map(|t| t.text.clone())
    };
    let mut denies = broker.denies.lock().unwrap_or_else(PoisonError::into_inner);
    for agent in involved(terms) {
        if let Some(key) = key(broker, terms, agent, value) {
            let here = denies.entry(agent.clone()).or_default();
            let known = here.entry(terms.scope.clone()).or_default().entry(key).or_insert(until);
            // After a restart the newest is remembered first.
            *known = until.max(*known);
        }
    }
}

/// Remembers the denies of people that still stick.
///
/// # Errors
/// When the store cannot be read.
pub(crate) async fn restore(broker: &Broker) -> Result<(), Refusal> {
    let now = broker.now();
    let mut before = None;
    loop {
        let page = broker.store.denied_by_people(before).await.map_err(of_store)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        before = Some(*last);
        for (_, id) in page {
            let Some(loaded) = broker.store.load(&id).await.map_err(of_store)? else { continue };
            // A deny is the last leaf of its request, so that these are in the order of time.
            if now.since(loaded.state.last_at) >= broker.config.deny_sticky_ms() {
                return Ok(());
            }
            let last = loaded.state.votes.iter().rev().find(|v| v.decision == Decision::Deny);
            if let Some(vote) = last {
                let terms = loaded.state.original.iter().chain([&loaded.state.terms]);
                terms.for_each(|t| remember(broker, t, &loaded.texts, vote.at));
            }
        }
    }
}

/// Forgets the denies that stick no longer.
pub(crate) fn sweep(broker: &Broker, now: Timestamp) {
    let mut denies = broker.denies.lock().unwrap_or_else(PoisonError::into_inner);
    denies.retain(|_, scopes| {
        scopes.retain(|_, here| {
            here.retain(|_, until| *until > now);
            !here.is_empty()
        });
        !scopes.is_empty()
    });
}
