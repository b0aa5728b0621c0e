//! Which policies can apply to an action on a scope. Cedar's cost is linear in the policies it is
//! given, so it is given only those whose head admits both.

use std::collections::HashMap;
use std::sync::OnceLock;

use cedar_policy::{Policy, PolicySet as Cedar};

use crate::rule::{Action, Rule};

/// All policies, and the sets to evaluate, built when first needed.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) policies: Vec<Policy>,
    actions: [Applicable; 3],
}

#[derive(Debug, Default)]
struct Applicable {
    /// Policies whose head names no single scope, by position.
    any: Vec<usize>,
    any_set: OnceLock<Option<Cedar>>,
    /// Policies whose head is `resource == Scope::"…"`.
    by_scope: HashMap<String, One>,
}

#[derive(Debug, Default)]
struct One {
    policies: Vec<usize>,
    set: OnceLock<Option<Cedar>>,
}

impl Index {
    pub(crate) fn add(&mut self, policy: Policy, rule: &Rule) {
        let position = self.policies.len();
        for (action, part) in Action::ALL.iter().zip(&mut self.actions) {
            if !rule.actions.contains(action) {
                continue;
            }
            match &rule.scope {
                Some(scope) => {
                    part.by_scope.entry(scope.clone()).or_default().policies.push(position);
                }
                None => part.any.push(position),
            }
        }
        self.policies.push(policy);
    }

    /// The policies that can apply; all others are false by their head. None when two of them
    /// share an id, which loading refuses.
    pub(crate) fn applicable(&self, action: Action, scope: &str) -> Option<&Cedar> {
        let [issue, ask, approve] = &self.actions;
        let part = match action {
            Action::Issue => issue,
            Action::IssueAfterApproval => ask,
            Action::Approve => approve,
        };
        match part.by_scope.get(scope) {
            Some(one) => one.set.get_or_init(|| self.set(part.any.iter().chain(&one.policies))),
            None => part.any_set.get_or_init(|| self.set(part.any.iter())),
        }
        .as_ref()
    }

    fn set<'a>(&self, positions: impl Iterator<Item = &'a usize>) -> Option<Cedar> {
        Cedar::from_policies(positions.filter_map(|p| self.policies.get(*p)).cloned()).ok()
    }
}
