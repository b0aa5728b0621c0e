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
    /// Policies whose head names no single scope.
    any: [Applicable; 3],
    /// Policies whose head is `resource == Scope::"…"`.
    by_scope: HashMap<String, [Applicable; 3]>,
}

/// Policies by position, and the set that an action on the scope is evaluated with.
#[derive(Debug, Default)]
struct Applicable {
    policies: Vec<usize>,
    set: OnceLock<Option<Cedar>>,
}

fn of(action: Action, all: &[Applicable; 3]) -> &Applicable {
    let [issue, ask, approve] = all;
    match action {
        Action::Issue => issue,
        Action::IssueAfterApproval => ask,
        Action::Approve => approve,
    }
}

impl Index {
    pub(crate) fn add(&mut self, policy: Policy, rule: &Rule) {
        let position = self.policies.len();
        let parts = match &rule.scope {
            Some(scope) => self.by_scope.entry(scope.clone()).or_default(),
            None => &mut self.any,
        };
        for (action, part) in Action::ALL.iter().zip(parts) {
            if rule.actions.contains(action) {
                part.policies.push(position);
            }
        }
        self.policies.push(policy);
    }

    /// The policies that can apply; all others are false by their head. None when two of them
    /// share an id, which loading refuses.
    pub(crate) fn applicable(&self, action: Action, scope: &str) -> Option<&Cedar> {
        let any = of(action, &self.any);
        let own = self.by_scope.get(scope).map(|all| of(action, all));
        match own.filter(|own| !own.policies.is_empty()) {
            Some(own) => own.set.get_or_init(|| self.set(any.policies.iter().chain(&own.policies))),
            None => any.set.get_or_init(|| self.set(any.policies.iter())),
        }
        .as_ref()
    }

    fn set<'a>(&self, positions: impl Iterator<Item = &'a usize>) -> Option<Cedar> {
        Cedar::from_policies(positions.filter_map(|p| self.policies.get(*p)).cloned()).ok()
    }
}
