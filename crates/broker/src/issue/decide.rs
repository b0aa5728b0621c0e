//! Stage 3: Cedar's verdict; the leaf "decided" is staged. Any policy error is a deny.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use grantwright_domain::event::Decided;
use grantwright_domain::{
    Authority, Decision, Event, HumanId, Phase, RequestState, Scope, Terms, Timestamp, Verdict,
};
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
    authority: &Authority,
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
    let mut decided = Decided {
        at: staged.at,
        digest: state.digest,
        request_id: state.terms.request_id.clone(),
        verdict,
        context,
        excluded: BTreeSet::new(),
        attributes,
        chain: chain(staged.authority(), &state.terms, staged.at),
        again,
        unusual: Vec::new(),
        past: None,
    };
    decided.excluded = excluded(policy, staged, &decided);
    Ok(decided)
}

/// Who votes on what, and the decision that this rests on.
pub(crate) struct Ballot<'a> {
    pub(crate) human: &'a HumanId,
    pub(crate) channel: &'a str,
    pub(crate) terms: &'a Terms,
    pub(crate) scope: &'a Scope,
    /// The last one; none: policy knows nothing of the agents, so that the answer is no.
    pub(crate) decided: Option<&'a Decided>,
    pub(crate) at: Timestamp,
}

/// The last decision among a request's events.
pub(crate) fn last<'e>(events: impl DoubleEndedIterator<Item = &'e Event>) -> Option<&'e Decided> {
    events.rev().find_map(|event| match event {
        Event::Decided(decided) => Some(decided),
        _ => None,
    })
}

/// Whether policy lets this person approve, for every agent along the chain: asked at the vote, at the
/// collection, and for showing who may decide. The policies that the vote's leaf names.
///
/// # Errors
/// Why not.
pub(crate) fn may_approve(
    policy: &PolicySet,
    authority: &Authority,
    ballot: &Ballot<'_>,
) -> Result<BTreeSet<String>, grantwright_policy::Refusal> {
    let none = Map::new();
    policy.may_approve(&Approval {
        human: ballot.human,
        groups: &authority.groups_of(ballot.human, ballot.at),
        scope: ballot.scope,
        terms: ballot.terms,
        attributes: ballot.decided.map_or(&none, |d| &d.attributes),
        chain: ballot.decided.map_or(&[], |d| d.chain.as_slice()),
        channel: ballot.channel,
        at: ballot.at,
    })
}

/// Voters whom policy lets approve no longer: asked again, through the channel of their vote.
fn excluded(policy: &PolicySet, staged: &Staged, decided: &Decided) -> BTreeSet<HumanId> {
    let state = staged.state();
    let votes = state.votes.iter().filter(|v| v.live && v.decision == Decision::Approve);
    votes
        .filter(|v| {
            let ballot = Ballot {
                human: &v.human,
                channel: &v.channel,
                terms: &state.terms,
                scope: &staged.scope,
                decided: Some(decided),
                at: staged.at,
            };
            may_approve(policy, staged.authority(), &ballot).is_err()
        })
        .map(|v| v.human.clone())
        .collect()
}

/// Evaluates policy for a request's present terms, and returns exactly what is recorded of it.
pub(crate) fn evaluate(
    policy: &PolicySet,
    authority: &Authority,
    state: &RequestState,
    scope: &Scope,
    peer: &str,
    at: Timestamp,
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
    let verdict =
        policy.decide_along_again(&asked, &terms.delegation, &chain(authority, terms, at));
    (verdict, attributes, context)
}

/// The registered attributes of the agents that passed the right on, as a verdict records them.
pub(crate) fn chain(
    authority: &Authority,
    terms: &Terms,
    at: Timestamp,
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
