//! A request as the API shows it.

use grantwright_approval::Card;
use grantwright_domain::{Rights, Scope, VerdictKind};
use grantwright_store::Loaded;
use serde_json::{Map, Value, json};

use super::console::matter;
use crate::core::Broker;
use crate::guards::route;
use crate::issue::approve::strength_word;

/// The request in full. Text of the agent is given as it is: who shows it escapes it.
#[must_use]
pub fn request(broker: &Broker, loaded: &Loaded) -> Value {
    let state = &loaded.state;
    let terms = &state.terms;
    let authority = broker.authority();
    let now = broker.now();
    let standing = state.standing(Rights::Now(&authority), now);
    let text = |name: &str| loaded.texts.iter().find(|t| t.name == name).map(|t| t.text.clone());
    let verdict = state.verdict.as_ref();
    let asks = verdict.filter(|v| v.kind == VerdictKind::Ask);
    let votes: Vec<Value> = state
        .votes
        .iter()
        .map(|v| {
            json!({
                "human": v.human, "decision": v.decision, "at": v.at, "channel": v.channel,
                "standing": v.live && standing.contains(&v.human),
            })
        })
        .collect();
    let questions: Vec<Value> = state
        .questions
        .iter()
        .map(|q| {
            let mut shown = Map::new();
            shown.insert("id".into(), format!("q{}", q.ordinal).into());
            shown.insert("by".into(), q.human.as_str().into());
            shown.insert("at".into(), q.at.to_string().into());
            shown.insert(
                "text".into(),
                text(&format!("question:{}", q.ordinal)).unwrap_or_default().into(),
            );
            if let Some((ordinal, at)) = q.answered {
                shown.insert(
                    "answer".into(),
                    text(&format!("answer:{ordinal}")).unwrap_or_default().into(),
                );
                shown.insert("answered_at".into(), at.to_string().into());
            }
            Value::Object(shown)
        })
        .collect();
    let scope = authority.catalog.get(&terms.template);
    let mut out = json!({
        "request_id": terms.request_id,
        "state": if state.phase.is_open() && now >= state.expires_at() { "expired" } else { state.phase.word() },
        "scope": terms.scope,
        "title": scope.map(|s| s.title.as_str()).unwrap_or_default(),
        "params": terms.params,
        "ttl_s": terms.ttl_s,
        "reason": text("reason").unwrap_or_default(),
        "digest": state.digest,
        "agent": terms.agent,
        "owner": authority.agents.get(&terms.agent).and_then(|a| a.owner().cloned()).map(|o| o.to_string()).unwrap_or_default(),
        "needs": {
            "votes": asks.map_or(0, |v| v.quorum),
            "have": standing.len(),
            "strength": asks.map_or("chat", |v| strength_word(v.strength)),
            "groups": asks.map(|v| v.approvers.clone()).unwrap_or_default(),
            "channels": asks.map(|v| v.channels.clone()).unwrap_or_default(),
        },
        "votes": votes,
        "questions": questions,
        "requested_at": state.requested_at,
        "seen": state.last_seen.unwrap_or(0),
        "expires_at": state.expires_at(),
        "link": broker.link(&terms.request_id),
    });
    if let Value::Object(map) = &mut out {
        if let Some(Value::Object(needs)) = map.get_mut("needs")
            && let Some(fact) = scope.and_then(|s| s.confirm.as_ref())
        {
            needs.insert("confirm".into(), fact.as_str().into());
        }
        if let Some(scope) = scope {
            map.insert("card".into(), decision_card(broker, loaded, scope));
        }
        if let Some(asked) = route::known(broker, state).filter(|a| !a.is_empty()) {
            map.insert("asked_first".into(), json!(asked));
        }
        if let Some(id) = &terms.delegation_id {
            map.insert("delegation".into(), json!({ "id": id, "chain": terms.delegation }));
        }
        if let Some(task) = text("task") {
            map.insert("task".into(), task.into());
        }
        if let Some(v) = verdict {
            map.insert("verdict".into(), json!({
                "kind": v.kind, "reason": v.reason, "policies": v.policies, "policy_set": v.policy_set, "max_ttl_s": v.max_ttl_s,
            }));
        }
        if let Some(original) = &state.original {
            map.insert(
                "narrowed_from".into(),
                json!({ "params": original.params, "ttl_s": original.ttl_s }),
            );
        }
        if let Some(lease) = &state.lease {
            map.insert("lease".into(), json!({
                "lease_id": lease.id, "state": super::leases::shown_state(lease.state, lease.expires_at, now), "expires_at": lease.expires_at,
            }));
        }
    }
    out
}

fn decision_card(broker: &Broker, loaded: &Loaded, scope: &Scope) -> Value {
    serde_json::to_value(card_of(broker, loaded, scope)).unwrap_or_default()
}

/// The request's decision card, as every channel and page renders it.
#[must_use]
pub fn card_of(broker: &Broker, loaded: &Loaded, scope: &Scope) -> Card {
    let (authority, now) = (broker.authority(), broker.now());
    matter::card(matter::At { broker, authority: &authority, now }, loaded, scope)
}
