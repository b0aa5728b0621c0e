//! What a request's page is made of, gathered from the request and its scope.

use std::collections::BTreeMap;

use grantwright_approval::{Card, Material};
use grantwright_domain::{Authority, Event, RequestState, Scope, Timestamp};
use grantwright_store::Loaded;
use serde_json::Value;

use crate::core::Broker;

/// Where and when a card is made.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// The broker.
    pub broker: &'a Broker,
    /// Rights now.
    pub authority: &'a Authority,
    /// The time now.
    pub now: Timestamp,
}

/// Gives the material of a request's card to `each`; `state` is the request's own, or what it would
/// be once narrowed.
pub fn material<R>(
    at: At<'_>,
    loaded: &Loaded,
    state: &RequestState,
    scope: &Scope,
    each: impl FnOnce(&Material<'_>) -> R,
) -> R {
    let text = |name: &str| loaded.texts.iter().find(|t| t.name == name).map(|t| t.text.as_str());
    let texts: BTreeMap<u64, String> = loaded
        .texts
        .iter()
        .filter_map(|t| {
            let (kind, ordinal) = t.name.split_once(':')?;
            matches!(kind, "question" | "answer").then_some(())?;
            Some((ordinal.parse().ok()?, t.text.clone()))
        })
        .collect();
    // Decided again, it is still as unusual; narrowed, it is something else.
    let unusual = loaded.leaves.iter().rev().find_map(|(_, e)| match e {
        Event::Decided(d) if d.past.is_some() && d.digest == state.digest => {
            Some(d.unusual.as_slice())
        }
        _ => None,
    });
    let minter = at.broker.minters.get(&scope.minter);
    let preview = minter.and_then(|m| m.preview(scope, &state.terms.params).ok());
    each(&Material {
        state,
        scope,
        authority: at.authority,
        reason: text("reason"),
        task: text("task"),
        texts: &texts,
        unusual: unusual.unwrap_or_default(),
        preview: preview.unwrap_or(Value::Null),
        revocable: minter.and_then(|m| m.revocable(scope)),
        now: at.now,
    })
}

/// The card of a request as it stands.
#[must_use]
pub fn card(at: At<'_>, loaded: &Loaded, scope: &Scope) -> Card {
    material(at, loaded, &loaded.state, scope, grantwright_approval::card)
}
