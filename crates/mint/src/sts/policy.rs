//! The session policy of a request, compiled from the scope's template.
//!
//! ```toml
//! [template]
//! role_arn = "arn:aws:iam::111122223333:role/agents/reader"
//! external_id = "grantwright"          # optional
//! transitive_tags = ["agent", "request"] # optional: session tags that a role chain keeps
//! [[template.policy]]
//! actions = ["s3:GetObject"]
//! resources = ["arn:aws:s3:::${bucket}/${prefix}*"]
//! [[template.policy]]
//! actions = ["s3:ListBucket"]
//! resources = ["arn:aws:s3:::${bucket}"]
//! conditions = [{ operator = "StringLike", key = "s3:prefix", values = ["${prefix}*"] }]
//! ```
//!
//! Each statement must bind every parameter, in all its resources or in all values of a condition:
//! what reviewers see is then what narrows the session. Every statement allows; a session policy
//! can only take away from the role.
//!
//! `policy_arns` names managed policies, up to ten, as session policies. AWS lets a session do what any of its
//! session policies allows, and no parameter narrows those: a scope with parameters cannot have them.

use grantwright_domain::{Params, Scope};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::MintError;
use crate::template::{Wildcards, bad_template, fill, slots, text_faults, unknown_keys};

/// Most characters of a session policy (API `AssumeRole`, parameter `Policy`).
pub const MAX_POLICY: usize = 2048;

const KEYS: [&str; 5] = ["role_arn", "external_id", "policy", "policy_arns", "transitive_tags"];
/// Most managed policies of a session (API `AssumeRole`, parameter `PolicyArns`).
const MAX_ARNS: usize = 10;
/// The session tags that every session has.
pub(super) const TAGS: [&str; 3] = ["agent", "request", "approvers"];

/// Operators under which an absent key or an odd value never widens: no `…IfExists`, no
/// `ForAllValues:`, no `Null`, nothing negated.
const OPERATORS: [&str; 8] = [
    "Bool",
    "DateLessThan",
    "IpAddress",
    "NumericEquals",
    "NumericLessThan",
    "NumericLessThanEquals",
    "StringEquals",
    "StringLike",
];

/// A scope's template, read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Template {
    pub(super) role_arn: String,
    #[serde(default)]
    pub(super) external_id: Option<String>,
    #[serde(default)]
    pub(super) policy_arns: Vec<String>,
    #[serde(default)]
    pub(super) transitive_tags: Vec<String>,
    #[serde(default)]
    policy: Vec<Statement>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    actions: Vec<String>,
    resources: Vec<String>,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    operator: String,
    key: String,
    values: Vec<String>,
}

impl Template {
    pub(super) fn of(scope: &Scope) -> Result<Self, MintError> {
        serde_json::from_value(Value::Object(scope.template.clone()))
            .map_err(|e| bad_template(e.to_string()))
    }

    /// Characters of the policy with every slot empty and without its conditions.
    fn least(&self) -> usize {
        let bare = |texts: &[String]| -> Vec<String> { texts.iter().map(|t| bare(t)).collect() };
        let statements: Vec<Value> = self
            .policy
            .iter()
            .map(|s| json!({ "Effect": "Allow", "Action": s.actions, "Resource": bare(&s.resources) }))
            .collect();
        let policy = json!({ "Version": "2012-10-17", "Statement": statements });
        policy.to_string().len() + self.policy_arns.iter().map(String::len).sum::<usize>()
    }

    /// True when there is no inline policy, only managed ones.
    pub(super) fn is_managed_only(&self) -> bool {
        self.policy.is_empty()
    }

    /// The session policy as JSON: values are set, never concatenated into JSON text.
    pub(super) fn compile(&self, scope: &Scope, params: &Params) -> Result<Value, MintError> {
        let filled = |texts: &[String]| {
            texts.iter().map(|t| fill(t, scope, params)).collect::<Result<Vec<_>, _>>()
        };
        let mut statements = Vec::with_capacity(self.policy.len());
        for statement in &self.policy {
            let mut out = Map::new();
            out.insert("Effect".into(), "Allow".into());
            out.insert("Action".into(), statement.actions.clone().into());
            out.insert("Resource".into(), filled(&statement.resources)?.into());
            let mut conditions = Map::new();
            for condition in &statement.conditions {
                let keys = conditions
                    .entry(condition.operator.clone())
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(keys) = keys {
                    keys.insert(condition.key.clone(), filled(&condition.values)?.into());
                }
            }
            if !conditions.is_empty() {
                out.insert("Condition".into(), conditions.into());
            }
            statements.push(Value::Object(out));
        }
        Ok(json!({ "Version": "2012-10-17", "Statement": statements }))
    }
}

/// The minified policy; with the ARNs of managed ones, within the bound of the API.
pub(super) fn minified(policy: &Value, arns: &[String]) -> Result<String, MintError> {
    let text = policy.to_string();
    if text.len() + arns.iter().map(String::len).sum::<usize>() > MAX_POLICY {
        return Err(MintError::refused(
            "policy_too_large",
            "the session policy for these parameters is longer than AWS takes",
            format!("{} characters, at most {MAX_POLICY}", text.len()),
        ));
    }
    Ok(text)
}

/// What is wrong with a scope's template.
pub(super) fn faults(scope: &Scope) -> Vec<String> {
    let mut out = unknown_keys("template", scope.template.keys(), &KEYS);
    let template = match Template::of(scope) {
        Ok(template) => template,
        Err(MintError::Refused { operator, .. } | MintError::Unknown { operator, .. }) => {
            out.push(format!("template: {operator}"));
            return out;
        }
    };
    if role(&template.role_arn).is_none() {
        out.push(format!(
            "template.role_arn: `{}` is not the ARN of one IAM role, literally",
            template.role_arn
        ));
    }
    if template.external_id.as_ref().is_some_and(|id| !is_external_id(id)) {
        out.push("template.external_id: want 2 to 1224 of A-Z a-z 0-9 _ + = , . @ : / -".into());
    }
    if template.policy.is_empty() && template.policy_arns.is_empty() {
        out.push(
            "template.policy: no statement; without a policy a session has the whole role".into(),
        );
    }
    out.extend(arn_faults(&template, scope));
    for tag in &template.transitive_tags {
        if !TAGS.contains(&tag.as_str()) {
            out.push(format!(
                "template.transitive_tags: `{tag}`: want some of {}",
                TAGS.join(", ")
            ));
        }
    }
    let least = template.least();
    if least > MAX_POLICY {
        out.push(format!(
            "template.policy: {least} characters whatever the parameters are, at most {MAX_POLICY}"
        ));
    }
    for (n, statement) in template.policy.iter().enumerate() {
        let faults = statement_faults(statement, scope);
        out.extend(
            faults.into_iter().map(|f| format!("template.policy, statement {}: {f}", n + 1)),
        );
    }
    out
}

fn arn_faults(template: &Template, scope: &Scope) -> Vec<String> {
    let mut out = Vec::new();
    if template.policy_arns.len() > MAX_ARNS {
        out.push(format!("template.policy_arns: want {MAX_ARNS} at most"));
    }
    let account = role(&template.role_arn).map(|(account, _)| account);
    for arn in &template.policy_arns {
        if !is_managed_policy(arn, account) {
            out.push(format!(
                "template.policy_arns: `{arn}` is not the ARN of a managed policy of AWS, or of the \
                 role's own account"
            ));
        }
    }
    if let Some(name) = scope.params.iter().find(|(_, s)| !s.sensitive).map(|(name, _)| name)
        && !template.policy_arns.is_empty()
    {
        out.push(format!(
            "template.policy_arns: parameter `{name}` does not narrow managed policies, and a session may \
             do what any of its policies allows; use statements of `policy` instead"
        ));
    }
    out
}

fn is_managed_policy(arn: &str, account: Option<&str>) -> bool {
    let mut parts = arn.splitn(6, ':');
    let head: [&str; 5] = std::array::from_fn(|_| parts.next().unwrap_or(""));
    let [word, partition, service, region, of] = head;
    let path = parts.next().and_then(|p| p.strip_prefix("policy/")).unwrap_or_default();
    let in_path = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@/-".contains(&b);
    (word, service, region) == ("arn", "iam", "")
        && partition.starts_with("aws")
        && (of == "aws" || account == Some(of))
        && !path.is_empty()
        && path.bytes().all(in_path)
}

fn statement_faults(statement: &Statement, scope: &Scope) -> Vec<String> {
    let mut out = Vec::new();
    if statement.actions.is_empty() || statement.resources.is_empty() {
        out.push("want at least one action and one resource".into());
    }
    for action in statement.actions.iter().filter(|a| !is_action(a)) {
        out.push(format!(
            "action `{action}`: want `service:Name`, with at most one `*`, after some letters of the name"
        ));
    }
    for resource in &statement.resources {
        out.extend(resource_faults(resource, scope));
    }
    for (n, condition) in statement.conditions.iter().enumerate() {
        let twice = |c: &&Condition| c.operator == condition.operator && c.key == condition.key;
        if statement.conditions.iter().take(n).any(|c| twice(&c)) {
            out.push(format!("condition on `{}` is there twice", condition.key));
        }
        out.extend(condition_faults(condition, scope));
    }
    for name in scope.params.keys() {
        let binds = |texts: &[String]| {
            !texts.is_empty() && texts.iter().all(|t| slots(t).contains(&name.as_str()))
        };
        if !binds(&statement.resources) && !statement.conditions.iter().any(|c| binds(&c.values)) {
            out.push(format!(
                "parameter `{name}` does not narrow it: neither all resources nor all values of a \
                 condition have `${{{name}}}`"
            ));
        }
    }
    out
}

fn resource_faults(resource: &str, scope: &Scope) -> Vec<String> {
    let mut parts = resource.splitn(6, ':');
    let mut head = || parts.next().unwrap_or("");
    let (arn, partition, service) = (head(), head(), head());
    let plain =
        |t: &str| t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let literal = arn == "arn"
        && partition.starts_with("aws")
        && !service.is_empty()
        && [partition, service, head(), head()].into_iter().all(plain);
    let named = parts.next().unwrap_or("");
    if !literal || named.is_empty() {
        return vec![format!(
            "resource `{resource}`: want an ARN whose partition, service, region and account are literal"
        )];
    }
    text_faults(named, scope, Wildcards::Allowed)
        .into_iter()
        .map(|f| format!("resource `{resource}`: {f}"))
        .collect()
}

fn condition_faults(condition: &Condition, scope: &Scope) -> Vec<String> {
    let mut out = Vec::new();
    if !OPERATORS.contains(&condition.operator.as_str()) {
        out.push(format!(
            "operator `{}`: want one of {}",
            condition.operator,
            OPERATORS.join(", ")
        ));
    }
    let in_key = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'/' | b'-' | b'_' | b'.');
    if !condition.key.contains(':') || !condition.key.bytes().all(in_key) {
        out.push(format!("condition key `{}`: want `prefix:name`, literally", condition.key));
    }
    if condition.values.is_empty() {
        out.push(format!("condition on `{}` has no values", condition.key));
    }
    let wildcards = match condition.operator.as_str() {
        "StringLike" => Wildcards::Allowed,
        _ => Wildcards::Faults,
    };
    for value in &condition.values {
        out.extend(
            text_faults(value, scope, wildcards)
                .into_iter()
                .map(|f| format!("condition on `{}`: {f}", condition.key)),
        );
    }
    out
}

/// A text without its slots.
fn bare(text: &str) -> String {
    slots(text).into_iter().fold(text.to_owned(), |t, name| t.replace(&format!("${{{name}}}"), ""))
}

/// `service:Name`, or `service:Na*`.
fn is_action(action: &str) -> bool {
    let Some((service, name)) = action.split_once(':') else { return false };
    let name = name.strip_suffix('*').unwrap_or(name);
    let service_ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !service.is_empty()
        && service.bytes().all(service_ok)
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Account and name (without its path) of a role's ARN.
pub(super) fn role(arn: &str) -> Option<(&str, &str)> {
    let mut parts = arn.splitn(6, ':');
    let head: [&str; 5] = std::array::from_fn(|_| parts.next().unwrap_or(""));
    let [arn_word, partition, service, region, account] = head;
    let path = parts.next()?.strip_prefix("role/")?;
    let name = path.rsplit('/').next()?;
    let in_path = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@/-".contains(&b);
    let ok = arn_word == "arn"
        && partition.starts_with("aws")
        && service == "iam"
        && region.is_empty()
        && account.len() == 12
        && account.bytes().all(|b| b.is_ascii_digit())
        && (1..=64).contains(&name.len())
        && path.bytes().all(in_path)
        && arn.len() <= 2048;
    ok.then_some((account, name))
}

fn is_external_id(id: &str) -> bool {
    (2..=1224).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&b))
}
