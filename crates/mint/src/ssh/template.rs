//! What a scope's template lets a certificate say, and what a grant fills in.

use std::collections::BTreeSet;
use std::net::IpAddr;

use grantwright_domain::param::KeyFormat;
use grantwright_domain::{Params, Scope};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{SshPublicKey, fingerprint};
use crate::MintError;
use crate::signing::holder;
use crate::template::{
    Wildcards, bad_template, fill, holder_faults, slots, text_faults, unknown_keys,
};

const KEYS: [&str; 5] =
    ["public_key", "principals", "force_command", "source_address", "extensions"];
/// What OpenSSH knows; `permit-agent-forwarding` and `permit-X11-forwarding` reach back into the
/// agent's own host and are not given.
const EXTENSIONS: [&str; 3] = ["permit-port-forwarding", "permit-pty", "permit-user-rc"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    public_key: String,
    principals: Vec<String>,
    #[serde(default)]
    force_command: Option<String>,
    #[serde(default)]
    source_address: Vec<String>,
    #[serde(default)]
    extensions: BTreeSet<String>,
}

/// What a grant asks for.
pub(crate) struct Asked {
    pub(crate) key: SshPublicKey,
    pub(crate) principals: BTreeSet<String>,
    pub(crate) force_command: Option<String>,
    pub(crate) source_address: Vec<String>,
    pub(crate) extensions: BTreeSet<String>,
}

fn read(template: &Map<String, Value>) -> Result<Template, String> {
    serde_json::from_value(Value::Object(template.clone())).map_err(|e| e.to_string())
}

impl Asked {
    pub(super) fn compile(scope: &Scope, params: &Params) -> Result<Self, MintError> {
        Self::of(&scope.template, scope, params)
    }

    /// By this part of the scope's template.
    pub(crate) fn of(
        template: &Map<String, Value>,
        scope: &Scope,
        params: &Params,
    ) -> Result<Self, MintError> {
        let template = read(template).map_err(bad_template)?;
        let line = holder(scope, params, "public_key")?;
        let key = SshPublicKey::parse(line).ok_or_else(|| {
            MintError::refused(
                "bad_parameter",
                "the public key is not Ed25519 or ECDSA P-256 in one line without a comment",
                "the key does not parse",
            )
        })?;
        let mut principals = BTreeSet::new();
        for text in &template.principals {
            let name = fill(text, scope, params)?;
            if !is_principal(&name) {
                return Err(MintError::refused(
                    "bad_parameter",
                    "these parameters name no account that a certificate could be for",
                    format!("principal `{name}`"),
                ));
            }
            principals.insert(name);
        }
        // Without one OpenSSH takes a certificate for every account.
        if principals.is_empty() {
            return Err(bad_template("no principal"));
        }
        let force_command =
            template.force_command.as_deref().map(|c| fill(c, scope, params)).transpose()?;
        if !template.source_address.iter().all(|a| is_cidr(a))
            || !template.extensions.iter().all(|e| EXTENSIONS.contains(&e.as_str()))
        {
            return Err(bad_template("a source address or an extension"));
        }
        Ok(Self {
            key,
            principals,
            force_command,
            source_address: template.source_address,
            extensions: template.extensions,
        })
    }

    pub(crate) fn preview(&self) -> Value {
        json!({
            "principals": self.principals,
            "force_command": self.force_command.as_deref().unwrap_or("none: any command"),
            "source_address": self.source_address,
            "extensions": self.extensions,
            "key": fingerprint(self.key.blob()),
        })
    }
}

pub(super) fn faults(scope: &Scope) -> Vec<String> {
    let mut out = faults_of(&scope.template, scope);
    out.extend(super::BACKEND.declaration.ttl_faults(scope));
    out
}

/// What is wrong with this part of the scope's template.
pub(crate) fn faults_of(template: &Map<String, Value>, scope: &Scope) -> Vec<String> {
    let mut out = unknown_keys("template", template.keys(), &KEYS);
    let template = match read(template) {
        Ok(template) => template,
        Err(e) => {
            out.push(format!("template: {e}"));
            return out;
        }
    };
    out.extend(holder_faults(scope, "public_key", KeyFormat::Ssh));
    if template.principals.is_empty() || template.principals.len() > 16 {
        out.push("template.principals: want 1 to 16; without one it would be for everybody".into());
    }
    for text in &template.principals {
        let faults = text_faults(text, scope, Wildcards::Faults);
        out.extend(faults.into_iter().map(|f| format!("template.principals: {f}")));
        if text.contains([',', ' ', '/']) {
            out.push(format!("template.principals: `{text}` is no account's name"));
        }
    }
    if let Some(command) = &template.force_command {
        let faults = text_faults(command, scope, Wildcards::Faults);
        out.extend(faults.into_iter().map(|f| format!("template.force_command: {f}")));
        out.extend(option_faults(command, scope));
    }
    for address in &template.source_address {
        if !is_cidr(address) {
            out.push(format!(
                "template.source_address: `{address}` is no address block such as 10.0.0.0/8"
            ));
        }
    }
    for name in template.extensions.iter().filter(|e| !EXTENSIONS.contains(&e.as_str())) {
        out.push(format!("template.extensions: `{name}` is not one of {}", EXTENSIONS.join(", ")));
    }
    for (name, spec) in &scope.params {
        let binds = |text: &String| slots(text).contains(&name.as_str());
        let bound = template.principals.iter().all(binds)
            || template.force_command.iter().any(binds)
            || *name == template.public_key;
        if !spec.sensitive && !bound {
            out.push(format!(
                "parameter `{name}` does not narrow it: neither all principals nor the forced \
                 command have `${{{name}}}`"
            ));
        }
    }
    out
}

/// A value that begins a word of a command could be read as an option there.
fn option_faults(command: &str, scope: &Scope) -> Vec<String> {
    let begins_word = |name: &str| {
        let slot = format!("${{{name}}}");
        command.match_indices(&slot).any(|(at, _)| {
            command.get(..at).is_some_and(|before| before.is_empty() || before.ends_with(' '))
        })
    };
    let dashed = |name: &str| {
        scope.params.get(name).is_some_and(|spec| {
            ["-", "-a", "--", "--a", "-aa", "--aa"]
                .iter()
                .any(|text| spec.check(name, &Value::from(*text)).is_ok())
        })
    };
    let names: BTreeSet<&str> = slots(command).into_iter().collect();
    names
        .into_iter()
        .filter(|name| begins_word(name) && dashed(name))
        .map(|name| {
            format!(
                "template.force_command: `${{{name}}}` begins a word and may begin with `-`: the \
                 command could take it for an option"
            )
        })
        .collect()
}

fn is_principal(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@'))
        && !name.starts_with('-')
}

/// An address block without host bits: OpenSSH refuses the whole certificate otherwise.
fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let Some(bits) = length.parse::<u32>().ok().filter(|b| b.to_string() == length) else {
        return false;
    };
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(a)) => bits <= 32 && a.to_bits().checked_shl(bits).unwrap_or(0) == 0,
        Ok(IpAddr::V6(a)) => bits <= 128 && a.to_bits().checked_shl(bits).unwrap_or(0) == 0,
        Err(_) => false,
    }
}
