//! What a scope's policies may demand, said before anything is asked: for agents that plan. It reads
//! heads and annotations only, and never decides anything: the verdict of an ask is the only verdict.

use cedar_policy::{Effect, EntityUid, Policy, PrincipalConstraint};
use grantwright_domain::{AgentId, ScopeName, Timestamp};
use serde::Serialize;

use crate::facts::Time;
use crate::rule::{Action, Rule};
use crate::set::PolicySet;

/// What to expect of a scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// Whether people decide.
    pub people: People,
    /// How they would be asked, one for each policy that may ask; empty where nobody is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub asks: Vec<Asks>,
}

/// Whether people decide on an ask for a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum People {
    /// Nothing permits it, or something forbids it always.
    Denied,
    /// No policy asks them.
    Never,
    /// It depends on parameters, time and the agent's attributes.
    Sometimes,
    /// Always, if it is not refused.
    Always,
}

/// What one policy asks of people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asks {
    /// How many distinct people.
    pub quorum: u32,
    /// `chat` or `passkey`.
    pub strength: &'static str,
    /// Groups they belong to, to every one of them.
    pub groups: Vec<String>,
    /// Where they may answer.
    pub channels: Vec<String>,
    /// The policy's own words for why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl PolicySet {
    /// What this set may demand of `agent` for `scope` at `now`; expired permits do not count.
    #[must_use]
    pub fn outlook(&self, agent: &AgentId, scope: &ScopeName, now: Timestamp) -> Outlook {
        let date = Time::at(&self.zone, now).map(|time| time.date).unwrap_or_default();
        let uid = self.kinds.agent_uid(agent);
        let heads = |action: Action| {
            let set = self.index.applicable(action, scope.as_str());
            set.into_iter().flat_map(cedar_policy::PolicySet::policies).filter_map(|policy| {
                let rule = self.rules.get(policy.id())?;
                let counts = policy.effect() == Effect::Forbid || rule.counts_on(&date);
                (counts && may_be(policy, &uid)).then_some((policy, rule))
            })
        };
        let both = || heads(Action::Issue).chain(heads(Action::IssueAfterApproval));
        let forbidden = both().any(|(p, _)| p.effect() == Effect::Forbid && always(p));
        let permits = |action| heads(action).filter(|(p, _)| p.effect() == Effect::Permit);
        let alone = permits(Action::Issue).next().is_some();
        let surely = permits(Action::IssueAfterApproval).any(|(p, _)| always(p));
        let mut asks: Vec<Asks> =
            permits(Action::IssueAfterApproval).filter_map(|(_, rule)| asks(rule)).collect();
        asks.sort_by(|a, b| (b.quorum, &b.groups).cmp(&(a.quorum, &a.groups)));
        asks.dedup();
        let people = match (forbidden, asks.is_empty(), alone) {
            (true, ..) | (_, true, false) => People::Denied,
            (_, true, true) => People::Never,
            // An ask beats an allow.
            (_, false, _) if surely || !alone => People::Always,
            _ => People::Sometimes,
        };
        if people == People::Denied {
            asks.clear();
        }
        Outlook { people, asks }
    }
}

fn asks(rule: &Rule) -> Option<Asks> {
    let ask = rule.ask.as_ref()?;
    Some(Asks {
        quorum: ask.quorum,
        strength: match ask.strength {
            grantwright_domain::Strength::Chat => "chat",
            grantwright_domain::Strength::Passkey => "passkey",
        },
        groups: ask.approvers.iter().map(ToString::to_string).collect(),
        channels: ask.channels.iter().cloned().collect(),
        reason: rule.reason.clone(),
    })
}

/// The head admits this agent.
fn may_be(policy: &Policy, agent: &EntityUid) -> bool {
    match policy.principal_constraint() {
        PrincipalConstraint::Eq(uid) => uid == *agent,
        // Membership and kinds are looked at when it is decided.
        _ => true,
    }
}

/// No condition stands behind the head, and the head admits every agent.
fn always(policy: &Policy) -> bool {
    let bare = policy.to_json().ok().is_some_and(|json| {
        json.get("conditions").and_then(|it| it.as_array()).is_none_or(Vec::is_empty)
    });
    bare && matches!(
        policy.principal_constraint(),
        PrincipalConstraint::Any | PrincipalConstraint::Eq(_) | PrincipalConstraint::Is(_)
    )
}
