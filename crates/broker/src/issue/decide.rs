//! Stage 3: Cedar's verdict; the leaf "decided" is staged. Any policy error is a deny.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use grantwright_domain::event::Decided;
use grantwright_domain::{Decision, Event, HumanId, Phase, RequestState, Terms, Verdict};
use grantwright_policy::{Approval, Asked, PolicySet};
use grantwright_wire::Refusal;
use serde_json::{Map, Value};

use super::approve::Approved;
use super::mint::commit_staged;
use super::record::{Recorded, Staged};
use crate::core::Broker;
use crate::error::{of_store, refuse};

/// What the verdict makes of the request.
pub enum Verdicted {
    /// The verdict is met: it may be minted.
    Allowed(Allowed),
    /// People are asked.
    Asking(Asking),
    /// Refused.
    Denied(Denied),
}

/// A request whose verdict is met.
pub struct Allowed {
    staged: Box<Staged>,
}
/// A request that waits for people.
pub struct Asking {
    staged: Box<Staged>,
}
/// A request that policy refuses.
pub struct Denied {
    staged: Box<Staged>,
}

impl Allowed {
    pub(super) fn into_staged(self) -> Box<Staged> {
        self.staged
    }
    pub(super) fn request_id(&self) -> &grantwright_domain::RequestId {
        &self.staged.state().terms.request_id
    }
    pub(super) fn staged(&self) -> &Staged {
        &self.staged
    }
}

impl Asking {
    pub(super) fn into_staged(self) -> Box<Staged> {
        self.staged
    }
}

/// Decides a recorded ask.
///
/// # Errors
/// 503 when no policy is loaded.
pub fn decide(broker: &Broker, recorded: Recorded) -> Result<Verdicted, Refusal> {
    let staged = recorded.into_staged();
    decide_staged(broker, staged, false)
}

/// Decides an approved request again, under the policy and rights of the moment of collection.
///
/// # Errors
/// As [`decide`].
pub fn again(broker: &Broker, approved: Approved) -> Result<Verdicted, Refusal> {
    decide_staged(broker, approved.into_staged(), true)
}

fn decide_staged(
    broker: &Broker,
    mut staged: Box<Staged>,
    again: bool,
) -> Result<Verdicted, Refusal> {
    let policy = in_force(broker, staged.authority())?;
    let pinned = policy.scopes().get(&staged.scope.name).is_some_and(|s| **s == *staged.scope);
    if !pinned && !again {
        return Err(changing());
    }
    let event = decided(&policy, &staged, again)?;
    staged.push(Event::Decided(event))?;
    Ok(match staged.state().phase {
        Phase::Approved => Verdicted::Allowed(Allowed { staged }),
        Phase::Denied => Verdicted::Denied(Denied { staged }),
        _ => Verdicted::Asking(Asking { staged }),
    })
}

/// The policy set that the authority names, loaded.
pub(crate) fn in_force(
    broker: &Broker,
    authority: &grantwright_domain::Authority,
) -> Result<std::sync::Arc<PolicySet>, Refusal> {
    let policy = broker.policy()?;
    if Some(policy.digest()) != authority.policy_set {
        return Err(changing());
    }
    Ok(policy)
}

fn changing() -> Refusal {
    refuse(503, "policy_changing", "policy is being replaced at this moment", "ask again")
        .retry_after_ms(200)
}

fn decided(policy: &PolicySet, staged: &Staged, again: bool) -> Result<Decided, Refusal> {
    let state = staged.state();
    let (verdict, attributes, context) = evaluate(
        policy,
        staged.authority(),
        state,
        &staged.scope,
        &staged.caller.peer.to_string(),
        staged.at,
    );
    Ok(Decided {
        at: staged.at,
        digest: state.digest,
        request_id: state.terms.request_id.clone(),
        verdict,
        context,
        excluded: excluded(policy, staged, &attributes),
        attributes,
        chain: chain(staged.authority(), &state.terms, staged.at),
        again,
        unusual: Vec::new(),
        past: None,
    })
}

/// Voters whom policy lets approve no longer: asked again, through the channel of their vote.
fn excluded(
    policy: &PolicySet,
    staged: &Staged,
    attributes: &Map<String, Value>,
) -> BTreeSet<HumanId> {
    let state = staged.state();
    let terms = &state.terms;
    let votes = state.votes.iter().filter(|v| v.live && v.decision == Decision::Approve);
    votes
        .filter(|v| {
            let vote = Approval {
                human: &v.human,
                groups: &staged.authority().groups_of(&v.human, staged.at),
                scope: &staged.scope,
                params: &terms.params,
                agent: &terms.agent,
                attributes,
                ttl_s: terms.ttl_s,
                channel: &v.channel,
                at: staged.at,
            };
            policy.may_approve(&vote).is_err()
        })
        .map(|v| v.human.clone())
        .collect()
}

/// Evaluates policy for a request's present terms, and returns exactly what is recorded of it.
pub(crate) fn evaluate(
    policy: &PolicySet,
    authority: &grantwright_domain::Authority,
    state: &RequestState,
    scope: &grantwright_domain::Scope,
    peer: &str,
    at: grantwright_domain::Timestamp,
) -> (Verdict, Map<String, Value>, Map<String, Value>) {
    let terms = &state.terms;
    let attributes = grantwright_policy::attributes(authority, &terms.agent, at);
    let context = policy.context_of(at, peer, terms);
    let asked = Asked {
        agent: &terms.agent,
        attributes: &attributes,
        context: &context,
        scope,
        params: &terms.params,
        ttl_s: terms.ttl_s,
    };
    let verdict = policy.decide_along(&asked, &terms.delegation, &chain(authority, terms, at));
    (verdict, attributes, context)
}

/// The registered attributes of the agents that passed the right on, as a verdict records them.
pub(crate) fn chain(
    authority: &grantwright_domain::Authority,
    terms: &Terms,
    at: grantwright_domain::Timestamp,
) -> Vec<Map<String, Value>> {
    let each = terms.delegation.iter();
    each.map(|agent| grantwright_policy::attributes(authority, agent, at)).collect()
}

/// Makes the deny durable and says it.
///
/// # Errors
/// When the log cannot be written; nothing was granted then either.
pub async fn refuse_denied(broker: &Broker, denied: Denied) -> Result<Refusal, Refusal> {
    let staged = denied.staged;
    let id = staged.state().terms.request_id.clone();
    let code = staged.state().end_code.clone();
    let verdict = staged.state().verdict.clone();
    commit_staged(broker, staged, None, false).await.map_err(of_store)?;
    broker.counts.denied.fetch_add(1, Ordering::Relaxed);
    broker.wake.changed(&id);
    Ok(denial(&code, verdict.as_ref()).request_id(id.as_str()))
}

/// The refusal for a denied request.
pub(crate) fn denial(code: &str, verdict: Option<&Verdict>) -> Refusal {
    let reason = verdict.map_or_else(|| "denied".to_owned(), |v| v.reason.clone());
    match code {
        "ttl_too_long" => {
            let most = verdict.map_or(0, |v| v.max_ttl_s);
            refuse(
                400,
                "ttl_too_long",
                format!("policy allows at most {most} s here"),
                format!("ask for at most {most}s"),
            )
        }
        "policy_error" => refuse(403, "policy_error", reason, "an operator must mend the policy"),
        _ => refuse(
            403,
            "denied",
            reason,
            "ask for less or for something else; asking again changes nothing",
        ),
    }
}
