//! A person's deny sticks for a while to what was asked: to its agent, and to every agent that passed the
//! right on, since it was as much their ask. So nobody gets past a deny by asking through another, nor by
//! asking for themselves what was denied to whom they sent.

use std::sync::PoisonError;

use grantwright_domain::{AgentId, Digest, Terms, Timestamp};
use grantwright_store::StoredText;
use grantwright_wire::Refusal;

use super::record::param_salt;
use crate::core::Broker;
use crate::error::refuse;

/// What a deny of these terms sticks to, and what it must not have stuck to when they are asked. `value`
/// gives the text of a sealed parameter; what was erased is the same ask no longer.
fn keys(
    broker: &Broker,
    terms: &Terms,
    value: impl Fn(&str) -> Option<String>,
) -> impl Iterator<Item = Digest> {
    let through = terms.delegation.iter().filter_map(move |agent| {
        Some(Terms {
            agent: agent.clone(),
            sealed_params: sealed(broker, terms, agent, &value)?,
            ..terms.clone()
        })
    });
    let through = through.map(|terms| terms.deny_key());
    std::iter::once_with(|| terms.deny_key()).chain(through).flatten()
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
    let mut denies = broker.denies.lock().unwrap_or_else(PoisonError::into_inner);
    denies.retain(|_, until| *until > now);
    if denies.is_empty() {
        return Ok(());
    }
    match keys(broker, terms, value).find_map(|key| denies.get(&key)) {
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
    denies.extend(keys(broker, terms, value).map(|key| (key, until)));
}
