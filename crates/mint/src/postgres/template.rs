//! ```toml
//! [template]
//! roles = ["${dataset}_readers"]
//! connection_limit = 5     # optional; 5
//! step_s = 300             # optional; made for so long at a time, and extended
//! ```
//!
//! Every parameter must stand in every role.

use grantwright_domain::{Params, Scope};
use serde::Deserialize;
use serde_json::{Value, json};

use super::MAX_NAME;
use crate::MintError;
use crate::template::{Wildcards, bad_template, fill, slots, text_faults, unknown_keys};

const KEYS: [&str; 3] = ["roles", "connection_limit", "step_s"];
const MAX_CONNECTIONS: u32 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    roles: Vec<String>,
    #[serde(default = "five")]
    connection_limit: u32,
    /// Read by `template::step_s`.
    #[serde(default, rename = "step_s")]
    _step_s: Option<u32>,
}

fn five() -> u32 {
    5
}

/// What a grant asks for.
pub(super) struct Asked {
    pub(super) roles: Vec<String>,
    pub(super) connection_limit: u32,
}

impl Asked {
    pub(super) fn compile(scope: &Scope, params: &Params) -> Result<Self, MintError> {
        let template: Template = serde_json::from_value(Value::Object(scope.template.clone()))
            .map_err(|e| bad_template(e.to_string()))?;
        let mut roles = Vec::with_capacity(template.roles.len());
        for text in &template.roles {
            let role = fill(text, scope, params)?;
            if !is_role(&role) {
                return Err(MintError::refused(
                    "bad_parameter",
                    "these parameters name no role that a credential could join",
                    format!("role `{role}`"),
                ));
            }
            roles.push(role);
        }
        if roles.is_empty() || !(1..=MAX_CONNECTIONS).contains(&template.connection_limit) {
            return Err(bad_template("no role, or no connection"));
        }
        Ok(Self { roles, connection_limit: template.connection_limit })
    }

    pub(super) fn preview(&self) -> Value {
        json!({ "roles": self.roles, "connection_limit": self.connection_limit })
    }
}

pub(super) fn faults(scope: &Scope) -> Vec<String> {
    let mut out = unknown_keys("template", scope.template.keys(), &KEYS);
    let template: Template = match serde_json::from_value(Value::Object(scope.template.clone())) {
        Ok(template) => template,
        Err(e) => {
            out.push(format!("template: {e}"));
            return out;
        }
    };
    if template.roles.is_empty() || template.roles.len() > 16 {
        out.push("template.roles: want 1 to 16 roles".into());
    }
    if !(1..=MAX_CONNECTIONS).contains(&template.connection_limit) {
        out.push(format!("template.connection_limit: want 1 to {MAX_CONNECTIONS}"));
    }
    for role in &template.roles {
        let faults = text_faults(role, scope, Wildcards::Faults);
        out.extend(faults.into_iter().map(|f| format!("template.roles: {f}")));
        if role.to_ascii_lowercase().starts_with("pg_") {
            out.push(format!("template.roles: `{role}` is one of PostgreSQL's own"));
        }
    }
    for (name, spec) in &scope.params {
        let binds = |text: &String| slots(text).contains(&name.as_str());
        if !spec.sensitive && !template.roles.iter().all(binds) {
            out.push(format!(
                "parameter `{name}` does not narrow it: not every role has `${{{name}}}`"
            ));
        }
    }
    out
}

/// A role's name, quoted or not: PostgreSQL cuts what is longer, and then it is another.
fn is_role(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b'*'))
        && !name.to_ascii_lowercase().starts_with("pg_")
}
