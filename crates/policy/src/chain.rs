//! A right that was passed on is decided for each agent it went through, as if that agent asked: the
//! strictest of all answers holds. So nobody gains by asking through another.

use grantwright_domain::{AgentId, Digest, Verdict, text};
use serde_json::{Map, Value, json};

use crate::decide::Asked;
use crate::set::PolicySet;

impl PolicySet {
    /// As [`PolicySet::decide`], of what `chain` passed on, first the outermost; `attributes` are theirs,
    /// in the same order.
    #[must_use]
    pub fn decide_along(
        &self,
        asked: &Asked<'_>,
        chain: &[AgentId],
        attributes: &[Map<String, Value>],
    ) -> Verdict {
        along(asked, chain, attributes, self.digest(), &|asked| self.decide(asked))
    }

    /// As [`PolicySet::decide_along`]; what this set answered last is remembered.
    #[must_use]
    pub fn decide_along_again(
        &self,
        asked: &Asked<'_>,
        chain: &[AgentId],
        attributes: &[Map<String, Value>],
    ) -> Verdict {
        along(asked, chain, attributes, self.digest(), &|asked| self.decide_again(asked))
    }
}

fn along(
    asked: &Asked<'_>,
    chain: &[AgentId],
    attributes: &[Map<String, Value>],
    policy_set: Digest,
    decide: &dyn Fn(&Asked<'_>) -> Verdict,
) -> Verdict {
    let own = decide(asked);
    if chain.is_empty() && attributes.is_empty() {
        return own;
    }
    if chain.len() != attributes.len() {
        let reason = "the attributes are not those of the agents that passed the right on";
        let error = Verdict::deny(policy_set, "policy_error", reason, own.policies.clone());
        return own.stricter(&error);
    }
    let mut context = asked.context.clone();
    let steps = chain.iter().zip(attributes).enumerate();
    steps.fold(own, |verdict, (depth, (agent, attributes))| {
        context.insert("delegation".into(), json!(chain.get(..depth).unwrap_or_default()));
        context.insert("delegation_depth".into(), json!(depth));
        let theirs = decide(&Asked { agent, attributes, context: &context, ..*asked });
        through(agent, theirs, verdict)
    })
}

/// Both together; where the agent that passed it on is the reason, its name says so.
fn through(agent: &AgentId, theirs: Verdict, so_far: Verdict) -> Verdict {
    if theirs.kind <= so_far.kind {
        return so_far.stricter(&theirs);
    }
    let reason = format!("through `{}`: {}", text::visible(agent.as_str()), theirs.reason);
    so_far.stricter(&Verdict { reason, ..theirs })
}
