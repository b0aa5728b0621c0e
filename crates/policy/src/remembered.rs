//! What a set answered last, for each agent and scope. Decisions are pure, so that an equal question has an
//! equal answer; and agents ask the same thing again and again. The time and the parameters belong to the
//! question only where a policy could see them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use grantwright_domain::{AgentId, Params, ScopeName, Verdict};
use serde_json::{Map, Value};

use crate::decide::Asked;
use crate::facts::{self, Time};
use crate::set::PolicySet;

/// Most agents and scopes whose last question is kept: a few megabytes.
pub(crate) const MOST_KEPT: usize = 2048;

/// By agent and scope. It belongs to one set, and ends with it.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Mutex<HashMap<(AgentId, ScopeName), Arc<Answered>>>);

/// A question and its answer.
#[derive(Debug)]
pub(crate) struct Answered {
    attributes: Map<String, Value>,
    context: Map<String, Value>,
    /// On which permits expire.
    date: String,
    /// None: no policy that can apply sees any.
    params: Option<Params>,
    ttl_s: u32,
    verdict: Verdict,
}

/// What can be seen of a question.
struct Seen {
    date: String,
    time: bool,
    params: bool,
}

impl PolicySet {
    /// As [`PolicySet::decide`]; a question that was asked last is not evaluated again.
    #[must_use]
    pub(crate) fn decide_again(&self, asked: &Asked<'_>) -> Verdict {
        let Some(seen) = self.seen(asked) else { return self.decide(asked) };
        let key = (asked.agent.clone(), asked.scope.name.clone());
        if let Some(last) = self.remembered.get(&key)
            && last.answers(asked, &seen)
        {
            return last.verdict.clone();
        }
        let verdict = self.decide(asked);
        self.remembered.keep(key, Answered::new(asked, seen, verdict.clone()));
        verdict
    }

    /// None when the question has a fault, or is not of this set: each of those is looked at anew.
    fn seen(&self, asked: &Asked<'_>) -> Option<Seen> {
        let known = self.known.get(&asked.scope.name).filter(|known| known.is(asked.scope))?;
        let params = *known.minds_params.get_or_init(|| self.minds_params(&known.scope));
        if !params {
            facts::fit(asked.scope, asked.params).ok()?;
        }
        let time = Time::read(asked.context.get("time")?.as_object()?).ok()?;
        Some(Seen { date: time.date, time: self.minds_time, params })
    }
}

impl Remembered {
    fn get(&self, key: &(AgentId, ScopeName)) -> Option<Arc<Answered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    #[cfg(test)]
    pub(crate) fn of(&self, agent: &AgentId, scope: &ScopeName) -> Option<Arc<Answered>> {
        self.get(&(agent.clone(), scope.clone()))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn keep(&self, key: (AgentId, ScopeName), answered: Answered) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_KEPT && !all.contains_key(&key) {
            all.clear();
        }
        all.insert(key, Arc::new(answered));
    }
}

impl Answered {
    fn new(asked: &Asked<'_>, seen: Seen, verdict: Verdict) -> Self {
        Self {
            attributes: asked.attributes.clone(),
            context: asked.context.clone(),
            date: seen.date,
            params: seen.params.then(|| asked.params.clone()),
            ttl_s: asked.ttl_s,
            verdict,
        }
    }

    /// Whether this is the answer to the question, too.
    fn answers(&self, asked: &Asked<'_>, seen: &Seen) -> bool {
        let mut others = asked.context.iter().filter(|(key, _)| seen.time || *key != "time");
        self.date == seen.date
            && self.ttl_s == asked.ttl_s
            && self.attributes == *asked.attributes
            && self.context.len() == asked.context.len()
            && others.all(|(key, value)| self.context.get(key) == Some(value))
            && self.params.as_ref() == seen.params.then_some(asked.params)
    }
}
