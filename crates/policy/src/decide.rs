//! One request in, one verdict out. Deny beats ask beats allow; both `issue` and
//! `issueAfterApproval` are always evaluated; whatever cannot be evaluated is a deny.

use std::collections::BTreeSet;

use cedar_policy::{Decision, Entities, PolicyId, PolicySet as Cedar, Request};
use grantwright_domain::{AgentId, Params, Scope, Strength, Verdict, VerdictKind, time::ttl_words};
use serde_json::{Map, Value};

use crate::facts::{self, Attributes, Facts, Mismatch};
use crate::rule::{Action, Rule};
use crate::set::PolicySet;

/// What is decided: exactly what the leaves `requested` and `decided` record.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Who asks.
    pub agent: &'a AgentId,
    /// The agent's attributes, from [`crate::attributes`].
    pub attributes: &'a Map<String, Value>,
    /// The context, from [`PolicySet::context`].
    pub context: &'a Map<String, Value>,
    /// The declaration that the terms pin.
    pub scope: &'a Scope,
    /// The open parameters.
    pub params: &'a Params,
    /// Lifetime in seconds.
    pub ttl_s: u32,
}

/// How one action was answered.
#[derive(Debug)]
pub(crate) enum Answer<'s> {
    Forbidden(Vec<(&'s PolicyId, &'s Rule)>),
    Permitted(Vec<(&'s PolicyId, &'s Rule)>),
    Unmentioned,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Failure {
    /// In words that may be public.
    pub(crate) reason: String,
    pub(crate) policies: BTreeSet<String>,
    /// In Cedar's words, for operators.
    pub(crate) details: Vec<String>,
}

impl From<Mismatch> for Failure {
    fn from(m: Mismatch) -> Self {
        Self { details: vec![m.0.clone()], reason: m.0, policies: BTreeSet::new() }
    }
}

/// Which policies are evaluated for an action.
pub(crate) type Choose<'s> = &'s dyn Fn(Action, &str) -> Option<&'s Cedar>;

impl PolicySet {
    /// Decides a request. A lifetime above the verdict's ceiling is left to `domain`, which refuses
    /// it with `ttl_too_long`. A deny's code is `denied`, `policy_error` (raise an alarm), or
    /// `scope_changed` when the pinned declaration is no longer the one in this set.
    #[must_use]
    pub fn decide(&self, asked: &Asked<'_>) -> Verdict {
        self.decide_by(asked, &|action, scope| self.index.applicable(action, scope))
    }

    /// Why a request met `policy_error`, in Cedar's words: for operators, never for the agent.
    #[must_use]
    pub fn errors(&self, asked: &Asked<'_>) -> Vec<String> {
        match self.answers(asked, &|action, scope| self.index.applicable(action, scope)) {
            Ok(_) => Vec::new(),
            Err(f) => f.details,
        }
    }

    pub(crate) fn decide_by<'s>(&'s self, asked: &Asked<'_>, choose: Choose<'s>) -> Verdict {
        let deny = |code, reason, policies| Verdict::deny(self.digest, code, reason, policies);
        if self.known.get(&asked.scope.name).is_some_and(|k| !k.is(asked.scope)) {
            let reason = "the scope was changed since this was asked: ask again".to_owned();
            return deny("scope_changed", reason, BTreeSet::new());
        }
        match self.answers(asked, choose) {
            Err(f) => deny("policy_error", f.reason, f.policies),
            Ok((Answer::Forbidden(rules), Answer::Forbidden(more))) => {
                let all: Vec<_> = rules.into_iter().chain(more).collect();
                deny("denied", reason(&all, || forbidden(&all)), ids(&all))
            }
            Ok((Answer::Forbidden(rules), _) | (_, Answer::Forbidden(rules))) => {
                deny("denied", reason(&rules, || forbidden(&rules)), ids(&rules))
            }
            Ok((_, Answer::Permitted(rules))) => self.ask(asked.scope, &rules),
            Ok((Answer::Permitted(rules), _)) => self.allow(asked.scope, &rules),
            Ok(_) => deny("denied", "no policy allows it".into(), BTreeSet::new()),
        }
    }

    fn answers<'s>(
        &'s self,
        asked: &Asked<'_>,
        choose: Choose<'s>,
    ) -> Result<(Answer<'s>, Answer<'s>), Failure> {
        let facts = Facts::read(asked.context)?;
        let attributes = Attributes::read(asked.attributes)?;
        let context = facts.cedar(facts::params(asked.scope, asked.params)?, asked.ttl_s);
        let name = asked.scope.name.as_str();
        let known = self
            .known
            .get(&asked.scope.name)
            .ok_or_else(|| Mismatch(format!("scope `{name}` is not in the policy set")))?;
        let agent = self.kinds.agent_uid(asked.agent);
        let scope = self.kinds.scope_uid(name);
        let entities = facts::entities([
            self.kinds.agent(agent.clone(), &attributes),
            self.kinds.owner(&attributes),
            known.entity.clone(),
        ])?;
        let ask = |action: Action| {
            let request = Request::new(
                agent.clone(),
                self.kinds.action_uid(action.name()),
                scope.clone(),
                context.clone(),
                None,
            )
            .map_err(|_| Mismatch("the request does not fit the schema".into()))?;
            self.answer(&request, &entities, choose(action, name), &facts.time.date)
        };
        // Both, always: an error in either is a deny.
        Ok((ask(Action::Issue)?, ask(Action::IssueAfterApproval)?))
    }

    /// Evaluates one action; permits that expired by `date` do not count.
    pub(crate) fn answer<'s>(
        &'s self,
        request: &Request,
        entities: &Entities,
        policies: Option<&'s Cedar>,
        date: &str,
    ) -> Result<Answer<'s>, Failure> {
        let policies = policies.ok_or_else(|| Mismatch("two policies share an id".into()))?;
        if policies.is_empty() {
            return Ok(Answer::Unmentioned);
        }
        let response = self.authorizer.is_authorized(request, policies, entities);
        let diagnostics = response.diagnostics();
        let mut errors = diagnostics.errors().peekable();
        if errors.peek().is_some() {
            let mut failure = Failure {
                reason: "a policy could not be evaluated, so the answer is no".into(),
                policies: BTreeSet::new(),
                details: Vec::new(),
            };
            for cedar_policy::AuthorizationError::PolicyEvaluationError(e) in errors {
                failure.policies.insert(e.policy_id().to_string());
                failure.details.push(e.to_string());
            }
            failure.details.sort();
            return Err(failure);
        }
        let mut found = diagnostics
            .reason()
            .map(|id| self.rules.get_key_value(id))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Mismatch("an unknown policy decided".into()))?;
        found.sort_by(|a, b| a.0.cmp(b.0));
        if response.decision() == Decision::Allow {
            found.retain(|(_, rule)| rule.counts_on(date));
            if !found.is_empty() {
                return Ok(Answer::Permitted(found));
            }
        } else if !found.is_empty() {
            return Ok(Answer::Forbidden(found));
        }
        Ok(Answer::Unmentioned)
    }

    fn allow(&self, scope: &Scope, rules: &[(&PolicyId, &Rule)]) -> Verdict {
        Verdict {
            kind: VerdictKind::Allow,
            code: String::new(),
            reason: reason(rules, || format!("allowed by {}", named(rules))),
            policies: ids(rules),
            policy_set: self.digest,
            quorum: 0,
            strength: Strength::Chat,
            channels: BTreeSet::new(),
            approvers: BTreeSet::new(),
            max_ttl_s: ceiling(scope, rules),
        }
    }

    fn ask(&self, scope: &Scope, rules: &[(&PolicyId, &Rule)]) -> Verdict {
        let each = rules.iter().map(|rule| {
            let ask = rule.1.ask.as_ref();
            Verdict {
                kind: VerdictKind::Ask,
                quorum: ask.map_or(0, |a| a.quorum),
                strength: ask.map_or(Strength::Passkey, |a| a.strength),
                channels: ask.map(|a| a.channels.clone()).unwrap_or_default(),
                approvers: ask.map(|a| a.approvers.clone()).unwrap_or_default(),
                ..self.allow(scope, std::slice::from_ref(rule))
            }
            .refuse_the_impossible()
        });
        let strictest = each.reduce(|a, b| a.stricter(&b));
        let Some(mut verdict) = strictest else {
            return Verdict::deny(self.digest, "denied", "no policy allows it", BTreeSet::new());
        };
        if verdict.kind == VerdictKind::Ask {
            verdict.reason = reason(rules, || asked(&verdict));
        }
        verdict
    }
}

fn ceiling(scope: &Scope, rules: &[(&PolicyId, &Rule)]) -> u32 {
    rules.iter().filter_map(|(_, r)| r.max_ttl_s).fold(scope.ttl.max_s, u32::min)
}

pub(crate) fn ids(rules: &[(&PolicyId, &Rule)]) -> BTreeSet<String> {
    rules.iter().map(|(id, _)| id.to_string()).collect()
}

fn named(rules: &[(&PolicyId, &Rule)]) -> String {
    let all: Vec<String> = ids(rules).iter().map(|id| format!("`{id}`")).collect();
    format!("{} {}", if all.len() == 1 { "policy" } else { "policies" }, all.join(", "))
}

pub(crate) fn forbidden(rules: &[(&PolicyId, &Rule)]) -> String {
    format!("forbidden by {}", named(rules))
}

/// The policies' own `@reason`s in the order of their ids, each once; else the given sentence.
pub(crate) fn reason(rules: &[(&PolicyId, &Rule)], otherwise: impl FnOnce() -> String) -> String {
    let mut said: Vec<(&PolicyId, &str)> =
        rules.iter().filter_map(|(id, r)| Some((*id, r.reason.as_deref()?))).collect();
    said.sort();
    let mut once: Vec<&str> = Vec::new();
    for (_, text) in said {
        if !once.contains(&text) {
            once.push(text);
        }
    }
    if once.is_empty() { otherwise() } else { once.join("; ") }
}

fn asked(v: &Verdict) -> String {
    let groups: Vec<String> = v.approvers.iter().map(|g| format!("`{g}`")).collect();
    let people = if v.quorum == 1 { "1 person".into() } else { format!("{} people", v.quorum) };
    let how = if v.strength == Strength::Passkey { " with a passkey" } else { "" };
    format!(
        "needs {people} of {} to approve{how}, for at most {}",
        groups.join(" and "),
        ttl_words(v.max_ttl_s)
    )
}
