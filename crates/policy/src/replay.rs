//! Offline replay: what the log records must give what the log says.

use std::collections::HashMap;

use grantwright_domain::event::{Decided, Voted};
use grantwright_domain::{Params, Scope, ScopeName, Terms, Timestamp, Verdict, canonical};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::approve::Approval;
use crate::decide::Asked;
use crate::facts::{self, Time, workload};
use crate::rule::Action;
use crate::set::PolicySet;

/// Most questions whose answers are remembered.
const MOST_REMEMBERED: usize = 4096;

/// What one policy set answered before. An equal question has an equal answer: decisions are pure.
#[derive(Debug, Default)]
pub struct Replayed {
    /// By the canonical bytes of everything that the answer depends on.
    verdicts: HashMap<Vec<u8>, Verdict>,
    /// The second that was asked for last, and what policies see of it.
    second: Option<(i64, Value)>,
    /// Of a scope, whether a policy that can apply to it may look at parameters.
    minds_params: HashMap<ScopeName, bool>,
}

/// A second, as contexts record it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// The canonical bytes of the context's `time`.
    pub record: Vec<u8>,
    /// The date, on which permits expire.
    pub date: String,
}

/// A context, without the time where that decides nothing.
struct Without<'a>(&'a Map<String, Value>, &'static str);

impl Serialize for Without<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().filter(|(key, _)| *key != self.1))
    }
}

impl PolicySet {
    /// As [`PolicySet::replay`], of many decisions in a row. `memory` belongs to this set alone.
    ///
    /// # Errors
    /// As [`PolicySet::replay`].
    pub fn replay_again(
        &self,
        memory: &mut Replayed,
        decided: &Decided,
        terms: &Terms,
        scope: &Scope,
    ) -> Result<(), String> {
        let Some(key) = self.question(memory, decided, terms, scope) else {
            return self.replay(decided, terms, scope);
        };
        if memory.verdicts.get(&key) == Some(&decided.verdict) {
            return Ok(());
        }
        self.replay(decided, terms, scope)?;
        if memory.verdicts.len() >= MOST_REMEMBERED {
            memory.verdicts.clear();
        }
        memory.verdicts.insert(key, decided.verdict.clone());
        Ok(())
    }

    /// Everything that the answer depends on; none when the recorded time is not that of the leaf.
    /// Policies whose texts never say `time` can see nothing of it; what is left of it is the date, on
    /// which permits expire. So with parameters, which must be of their types all the same.
    fn question(
        &self,
        memory: &mut Replayed,
        decided: &Decided,
        terms: &Terms,
        scope: &Scope,
    ) -> Option<Vec<u8>> {
        let minds_params = match memory.minds_params.get(&scope.name) {
            Some(minds) => *minds,
            None => {
                let minds = self.minds_params(scope);
                memory.minds_params.insert(scope.name.clone(), minds);
                minds
            }
        };
        if !minds_params && !self.fits(scope, &terms.params) {
            return None;
        }
        let params = minds_params.then_some(&terms.params);
        let second = decided.at.seconds();
        if memory.second.as_ref().is_none_or(|(known, _)| *known != second) {
            memory.second = Some((second, Time::at(&self.zone, decided.at)?.record()));
        }
        let time = &memory.second.as_ref()?.1;
        if decided.context.get("time") != Some(time) {
            return None;
        }
        let seen = if self.minds_time { "" } else { "time" };
        canonical::to_bytes(&(
            &terms.agent,
            &decided.attributes,
            Without(&decided.context, seen),
            time.get("date"),
            &terms.template,
            params.into_iter().collect::<Vec<_>>(),
            terms.ttl_s,
            (&terms.delegation, &decided.chain),
            terms.on_behalf_of.is_some(),
            terms.process.as_ref().map_or_else(|| Value::from(""), workload),
        ))
        .ok()
    }

    /// Whether a verdict upon this scope may rest on the time, beyond its date.
    #[must_use]
    pub fn minds_time(&self) -> bool {
        self.minds_time
    }

    /// Whether a verdict upon this scope may rest on parameters, beyond their types: whether a policy
    /// that can apply to it names them. An escape could spell the name otherwise.
    #[must_use]
    pub fn minds_params(&self, scope: &Scope) -> bool {
        let names = |text: String| text.contains("params") || text.contains('\\');
        [Action::Issue, Action::IssueAfterApproval].into_iter().any(|action| {
            let applicable = self.index.applicable(action, scope.name.as_str());
            applicable.is_none_or(|set| set.policies().any(|policy| names(policy.to_string())))
        })
    }

    /// Whether open parameters are of the types that policies are checked against.
    #[must_use]
    pub fn fits(&self, scope: &Scope, params: &Params) -> bool {
        facts::fit(scope, params).is_ok()
    }

    /// A moment as contexts record it; none beyond the calendar.
    #[must_use]
    pub fn moment(&self, at: Timestamp) -> Option<Moment> {
        let time = Time::at(&self.zone, at)?;
        Some(Moment { record: canonical::to_bytes(&time.record()).ok()?, date: time.date })
    }

    /// Decides again what a `decided` leaf records, upon the terms in force then and the
    /// declaration they pin. That the leaf's digest is the terms' own is `domain`'s to check.
    ///
    /// # Errors
    /// Says what differs.
    pub fn replay(&self, decided: &Decided, terms: &Terms, scope: &Scope) -> Result<(), String> {
        if decided.verdict.policy_set != self.digest {
            return Err(format!(
                "the verdict names policy set {}, this is {}",
                decided.verdict.policy_set, self.digest
            ));
        }
        if scope.name != terms.scope {
            return Err(format!("the declaration is of `{}`, not `{}`", scope.name, terms.scope));
        }
        let peer = decided.context.get("peer").and_then(Value::as_str).unwrap_or_default();
        let context = self.context_of(decided.at, peer, terms);
        if let Some(key) = differing(&context, &decided.context) {
            return Err(format!("the recorded context is not that of the leaf: `{key}` differs"));
        }
        if decided.chain.len() != terms.delegation.len() {
            return Err("the attributes are not those of the agents that passed it on".into());
        }
        let asked = Asked {
            agent: &terms.agent,
            attributes: &decided.attributes,
            context: &decided.context,
            scope,
            params: &terms.params,
            ttl_s: terms.ttl_s,
        };
        let again = self.decide_along(&asked, &terms.delegation, &decided.chain);
        same(&decided.verdict, &again)
    }

    /// Asks again whether the voter of an approving `voted` leaf might approve, upon the terms in force then
    /// and the `decided` leaf in force then.
    ///
    /// # Errors
    /// Says what differs.
    pub fn replay_vote(
        &self,
        voted: &Voted,
        decided: &Decided,
        terms: &Terms,
        scope: &Scope,
    ) -> Result<(), String> {
        if voted.policy_set != self.digest {
            return Err(format!(
                "the vote names policy set {}, this is {}",
                voted.policy_set, self.digest
            ));
        }
        let policies = self
            .may_approve(&Approval {
                human: &voted.human,
                groups: &voted.groups,
                scope,
                terms,
                attributes: &decided.attributes,
                chain: &decided.chain,
                channel: &voted.channel,
                at: voted.at,
            })
            .map_err(|r| format!("policy does not let `{}` approve: {r}", voted.human))?;
        if policies == voted.policies {
            Ok(())
        } else {
            Err(format!("the vote names {:?}, policy says {policies:?}", voted.policies))
        }
    }

    /// True when `context` holds the time of `at` in this set's zone.
    #[must_use]
    pub fn tells_time(&self, context: &Map<String, Value>, at: Timestamp) -> bool {
        Time::at(&self.zone, at).is_some_and(|t| context.get("time") == Some(&t.record()))
    }
}

fn differing<'a>(a: &'a Map<String, Value>, b: &'a Map<String, Value>) -> Option<&'a str> {
    a.keys().chain(b.keys()).find(|k| a.get(*k) != b.get(*k)).map(String::as_str)
}

fn same(recorded: &Verdict, again: &Verdict) -> Result<(), String> {
    if recorded == again {
        return Ok(());
    }
    let show = |v: &Verdict| match serde_json::to_value(v) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let (old, new) = (show(recorded), show(again));
    let fields: Vec<String> = old
        .keys()
        .chain(new.keys().filter(|k| !old.contains_key(*k)))
        .filter(|k| old.get(*k) != new.get(*k))
        .map(|k| {
            let text = |m: &Map<String, Value>| m.get(k).map_or("nothing".into(), Value::to_string);
            format!("`{k}` is {} in the log and {} by policy", text(&old), text(&new))
        })
        .collect();
    Err(fields.join("; "))
}
