//! What engines of roles share: a mount and a role in the template, each parameter in the role's name.

use grantwright_domain::{Params, Scope};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::client::{is_path, is_segment};
use crate::MintError;
use crate::template::{Wildcards, bad_template, fill, slots, text_faults, unknown_keys};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    mount: String,
    role: String,
}

/// A role of an engine.
pub(super) struct Asked {
    pub(super) mount: String,
    pub(super) role: String,
}

impl Asked {
    pub(super) fn compile(scope: &Scope, params: &Params) -> Result<Self, MintError> {
        let template: Template = serde_json::from_value(Value::Object(scope.template.clone()))
            .map_err(|e| bad_template(e.to_string()))?;
        let asked = Self { mount: template.mount, role: fill(&template.role, scope, params)? };
        if !is_path(&asked.mount) {
            return Err(bad_template("mount is not the path of one engine"));
        }
        if !is_segment(&asked.role) {
            return Err(no_such("role", &asked.role));
        }
        Ok(asked)
    }

    pub(super) fn preview(&self) -> Value {
        json!({ "mount": self.mount, "role": self.role })
    }
}

pub(super) fn faults(scope: &Scope) -> Vec<String> {
    let mut out = unknown_keys("template", scope.template.keys(), &["mount", "role"]);
    let template: Template = match serde_json::from_value(Value::Object(scope.template.clone())) {
        Ok(template) => template,
        Err(e) => {
            out.push(format!("template: {e}"));
            return out;
        }
    };
    if !is_path(&template.mount) {
        out.push(format!(
            "template.mount: `{}` is not the path of one engine, literally",
            template.mount
        ));
    }
    let faults = text_faults(&template.role, scope, Wildcards::Faults);
    out.extend(faults.into_iter().map(|f| format!("template.role: {f}")));
    for (name, spec) in &scope.params {
        if !spec.sensitive && !slots(&template.role).contains(&name.as_str()) {
            out.push(format!("parameter `{name}` does not narrow it: role has no `${{{name}}}`"));
        }
    }
    out
}

/// These parameters name nothing that Vault could have.
pub(super) fn no_such(what: &str, text: &str) -> MintError {
    MintError::refused(
        "bad_parameter",
        format!("these parameters name no {what} that Vault could have"),
        format!("{what} `{text}`"),
    )
}

/// A template of an engine whose role bounds what is asked for: its mount and role, literally, and the
/// rest, which says what is asked for.
pub(super) struct Bounded {
    pub(super) mount: String,
    pub(super) role: String,
    pub(super) rest: Map<String, Value>,
}

impl Bounded {
    pub(super) fn of(scope: &Scope) -> Result<Self, MintError> {
        let mut rest = scope.template.clone();
        let mut take = |key: &str| match rest.remove(key) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let (mount, role) = (take("mount"), take("role"));
        if !is_path(&mount) || !is_segment(&role) {
            return Err(bad_template("mount and role name one role of one engine"));
        }
        Ok(Self { mount, role, rest })
    }

    /// Faults of mount and role, and the rest of the template.
    pub(super) fn faults(scope: &Scope) -> (Vec<String>, Map<String, Value>) {
        let mut rest = scope.template.clone();
        let mut out = Vec::new();
        for (key, what, fits) in [
            ("mount", "the path of one engine", is_path as fn(&str) -> bool),
            ("role", "one role", is_segment),
        ] {
            if !rest.remove(key).as_ref().and_then(Value::as_str).is_some_and(fits) {
                out.push(format!("template.{key}: want {what}, literally"));
            }
        }
        (out, rest)
    }

    /// As the lease's facts name it.
    pub(super) fn fact(&self) -> (String, String) {
        ("vault_role".to_owned(), format!("{}/roles/{}", self.mount, self.role))
    }
}
