//! Cedar's own answer to `approve`, asked beside `domain`'s eligibility at the vote and at the mint.

use std::collections::BTreeSet;

use cedar_policy::Request;
use grantwright_domain::{AgentId, GroupName, HumanId, Params, Scope, Timestamp};
use serde_json::{Map, Value};

use crate::decide::{Answer, Failure, forbidden, ids, reason};
use crate::facts::{self, Attributes, Mismatch, Time};
use crate::rule::Action;
use crate::set::PolicySet;

/// A vote that is about to count: what the leaves `voted` (human, groups, channel, at), `decided`
/// (attributes) and `requested` or `narrowed` (the rest) record.
#[derive(Debug, Clone, Copy)]
pub struct Approval<'a> {
    /// Who votes.
    pub human: &'a HumanId,
    /// The voter's groups at that moment.
    pub groups: &'a BTreeSet<GroupName>,
    /// The declaration that the terms pin.
    pub scope: &'a Scope,
    /// The open parameters.
    pub params: &'a Params,
    /// Whose request it is.
    pub agent: &'a AgentId,
    /// The agent's attributes as the `decided` leaf in force records them.
    pub attributes: &'a Map<String, Value>,
    /// Lifetime in seconds.
    pub ttl_s: u32,
    /// Through what the vote came.
    pub channel: &'a str,
    /// When.
    pub at: Timestamp,
}

/// Policy does not let this person approve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No policy lets them, or one forbids it.
    #[error("{reason}")]
    Forbidden {
        /// In plain words, why.
        reason: String,
        /// The forbids; empty where nothing permits it.
        policies: BTreeSet<String>,
    },
    /// A policy could not be evaluated: an alarm.
    #[error("{reason}")]
    PolicyError {
        /// In words that may be public.
        reason: String,
        /// The policies that failed.
        policies: BTreeSet<String>,
        /// In Cedar's words, for operators.
        details: Vec<String>,
    },
}

impl Refusal {
    /// The word programs act on.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Forbidden { .. } => "approve_forbidden",
            Self::PolicyError { .. } => "policy_error",
        }
    }
}

impl From<Failure> for Refusal {
    fn from(f: Failure) -> Self {
        Self::PolicyError { reason: f.reason, policies: f.policies, details: f.details }
    }
}

impl PolicySet {
    /// Whether policy lets this person approve; the determining policies, for the vote's leaf.
    ///
    /// # Errors
    /// Nothing permits it, something forbids it, or something could not be evaluated.
    pub fn may_approve(&self, vote: &Approval<'_>) -> Result<BTreeSet<String>, Refusal> {
        match self.approve_answer(vote)? {
            Answer::Permitted(rules) => Ok(ids(&rules)),
            Answer::Forbidden(rules) => Err(Refusal::Forbidden {
                reason: reason(&rules, || forbidden(&rules)),
                policies: ids(&rules),
            }),
            Answer::Unmentioned => Err(Refusal::Forbidden {
                reason: "no policy lets this person approve here".into(),
                policies: BTreeSet::new(),
            }),
        }
    }

    fn approve_answer(&self, vote: &Approval<'_>) -> Result<Answer<'_>, Failure> {
        let name = vote.scope.name.as_str();
        let scope =
            self.known.get(&vote.scope.name).filter(|k| k.is(vote.scope)).ok_or_else(|| {
                Mismatch(format!("scope `{name}` is not in the policy set as pinned"))
            })?;
        let time = Time::at(&self.zone, vote.at)
            .ok_or_else(|| Mismatch("the time lies beyond the calendar".into()))?;
        let attributes = Attributes::read(vote.attributes)?;
        let agent = self.kinds.agent_uid(vote.agent);
        let params = facts::params(vote.scope, vote.params)?;
        let context =
            facts::approve_context(agent.clone(), params, vote.ttl_s, &time, vote.channel);
        let mut entities = vec![
            self.kinds.agent(agent, &attributes),
            self.kinds.human(vote.human, vote.groups),
            scope.entity.clone(),
        ];
        // Of a voter who owns the agent the groups of this moment count.
        if &attributes.owner != vote.human {
            entities.push(self.kinds.owner(&attributes));
        }
        let entities = facts::entities(entities)?;
        let action = Action::Approve;
        let request = Request::new(
            self.kinds.human_uid(vote.human),
            self.kinds.action_uid(action.name()),
            self.kinds.scope_uid(name),
            context,
            None,
        )
        .map_err(|_| Mismatch("the request does not fit the schema".into()))?;
        self.answer(&request, &entities, self.index.applicable(action, name), &time.date)
    }
}
