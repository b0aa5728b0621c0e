//! Cedar's own answer to `approve`, asked beside `domain`'s eligibility at the vote and at the mint. What is
//! asked under a delegation is asked about every agent that passed the right on too, as if that agent asked:
//! nobody approves through another what they may not approve for itself.

use std::collections::BTreeSet;

use cedar_policy::Request;
use grantwright_domain::{AgentId, GroupName, HumanId, Scope, Terms, Timestamp, text};
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
    /// The terms in force: whose request it is, and through whom.
    pub terms: &'a Terms,
    /// The agent's attributes as the `decided` leaf in force records them.
    pub attributes: &'a Map<String, Value>,
    /// By the same leaf those of the agents that passed the right on, in their order.
    pub chain: &'a [Map<String, Value>],
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

    /// The same, with the agent that passed the right on and is the reason.
    fn through(mut self, agent: &AgentId) -> Self {
        let (Self::Forbidden { reason, .. } | Self::PolicyError { reason, .. }) = &mut self;
        *reason = format!("through `{}`: {reason}", text::visible(agent.as_str()));
        self
    }
}

impl From<Failure> for Refusal {
    fn from(f: Failure) -> Self {
        Self::PolicyError { reason: f.reason, policies: f.policies, details: f.details }
    }
}

impl PolicySet {
    /// Whether policy lets this person approve, for the agent that asks and for each that passed the right
    /// on; of the agent that asks the determining policies, for the vote's leaf.
    ///
    /// # Errors
    /// Nothing permits it, something forbids it, or something could not be evaluated.
    pub fn may_approve(&self, vote: &Approval<'_>) -> Result<BTreeSet<String>, Refusal> {
        let own = self.approves_for(vote, &vote.terms.agent, vote.attributes)?;
        let chain = &vote.terms.delegation;
        if chain.len() != vote.chain.len() {
            let reason = "the attributes are not those of the agents that passed the right on";
            return Err(Failure::from(Mismatch(reason.into())).into());
        }
        for (agent, attributes) in chain.iter().zip(vote.chain) {
            self.approves_for(vote, agent, attributes).map_err(|r| r.through(agent))?;
        }
        Ok(own)
    }

    fn approves_for(
        &self,
        vote: &Approval<'_>,
        agent: &AgentId,
        attributes: &Map<String, Value>,
    ) -> Result<BTreeSet<String>, Refusal> {
        match self.approve_answer(vote, agent, attributes)? {
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

    fn approve_answer(
        &self,
        vote: &Approval<'_>,
        agent: &AgentId,
        attributes: &Map<String, Value>,
    ) -> Result<Answer<'_>, Failure> {
        let name = vote.scope.name.as_str();
        let scope =
            self.known.get(&vote.scope.name).filter(|k| k.is(vote.scope)).ok_or_else(|| {
                Mismatch(format!("scope `{name}` is not in the policy set as pinned"))
            })?;
        let time = Time::at(&self.zone, vote.at)
            .ok_or_else(|| Mismatch("the time lies beyond the calendar".into()))?;
        let attributes = Attributes::read(attributes)?;
        let agent = self.kinds.agent_uid(agent);
        let params = facts::params(vote.scope, &vote.terms.params)?;
        let context =
            facts::approve_context(agent.clone(), params, vote.terms.ttl_s, &time, vote.channel);
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
