//! The two-step guard: for the riskiest scopes an approver types a fact of the request, so that the
//! request was read. Which fact, the scope's `confirm` says; the rule itself is `domain`'s.

use grantwright_domain::scope::CONFIRM_AGENT;
use grantwright_domain::{ParamValue, Scope, Terms};

/// The fact in words: `bucket`, or `agent's name`.
#[must_use]
pub fn named(fact: &str) -> String {
    if fact == CONFIRM_AGENT { "agent's name".into() } else { format!("`{fact}`") }
}

/// Whether `typed` is that fact of the request. Blanks around it do not matter, nor how a number's
/// digits are grouped; everything else must be the same, byte for byte.
#[must_use]
pub fn is_said(terms: &Terms, fact: &str, typed: &str) -> bool {
    let typed = typed.trim();
    if fact == CONFIRM_AGENT {
        return typed == terms.agent.as_str();
    }
    match terms.params.get(fact) {
        Some(ParamValue::Integer(n)) => {
            let digits: String = typed.chars().filter(|c| !matches!(c, ',' | ' ' | '_')).collect();
            digits == n.to_string()
        }
        Some(value) => typed == value.text(),
        // An optional parameter that was left out: its name's absence is said as `none`.
        None => typed == "none",
    }
}

/// Why a scope may not be put into force: its risk demands a fact to confirm, and it names none.
#[must_use]
pub fn fault(scope: &Scope, risks: &[String]) -> Option<String> {
    (scope.confirm.is_none() && risks.contains(&scope.labels.risk)).then(|| {
        format!(
            "risk `{}` demands two steps (guards.two_step_risks): name the parameter that an \
             approver types as `confirm`, or `{CONFIRM_AGENT}`",
            scope.labels.risk
        )
    })
}
