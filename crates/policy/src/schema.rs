//! The Cedar schema, generated from the scopes: what a policy can see, and so what it cannot.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use grantwright_domain::param::ParamType;
use grantwright_domain::{ParamValue, Scope};

/// The Cedar type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CedarType {
    /// True or false.
    Bool,
    /// A whole number.
    Long,
    /// A string.
    String,
    /// A set of strings.
    StringSet,
}

impl CedarType {
    /// The type of a declared parameter.
    #[must_use]
    pub fn of(kind: &ParamType) -> Self {
        match kind {
            ParamType::Boolean => Self::Bool,
            ParamType::Integer { .. } => Self::Long,
            ParamType::Choice { .. }
            | ParamType::PublicKey { .. }
            | ParamType::S3Bucket
            | ParamType::S3Prefix
            | ParamType::String { .. } => Self::String,
            ParamType::Set { .. } => Self::StringSet,
        }
    }

    /// True when the value is of this type.
    #[must_use]
    pub fn admits(self, value: &ParamValue) -> bool {
        matches!(
            (self, value),
            (Self::Bool, ParamValue::Boolean(_))
                | (Self::Long, ParamValue::Integer(_))
                | (Self::String, ParamValue::Text(_))
                | (Self::StringSet, ParamValue::Set(_))
        )
    }

    /// Its name in a schema.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "Bool",
            Self::Long => "Long",
            Self::String => "String",
            Self::StringSet => "Set<String>",
        }
    }
}

/// Two scopes give one parameter different types.
#[derive(Debug)]
pub(crate) struct Conflict<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) param: &'a str,
    pub(crate) first: CedarType,
    pub(crate) second: CedarType,
}

/// The open parameters of all scopes with their types, and where scopes disagree. Sensitive
/// parameters are left out: no policy can see them.
pub(crate) fn params<'a>(
    scopes: impl IntoIterator<Item = &'a Scope>,
) -> (BTreeMap<&'a str, CedarType>, Vec<Conflict<'a>>) {
    let mut types: BTreeMap<&str, CedarType> = BTreeMap::new();
    let mut conflicts = Vec::new();
    for scope in scopes {
        for (name, spec) in scope.params.iter().filter(|(_, s)| !s.sensitive) {
            let second = CedarType::of(&spec.kind);
            let first = *types.entry(name).or_insert(second);
            if first != second {
                conflicts.push(Conflict { scope, param: name, first, second });
            }
        }
    }
    (types, conflicts)
}

/// The Cedar schema for these scopes, as text. Where scopes disagree on the type of a parameter,
/// the first counts; loading refuses such scopes.
#[must_use]
pub fn schema_text<'a>(scopes: impl IntoIterator<Item = &'a Scope>) -> String {
    let (types, _) = params(scopes);
    let mut fields = String::new();
    for (name, kind) in types {
        // Writing to a string cannot fail.
        let _ = writeln!(fields, "    \"{name}\"?: {},", kind.name());
    }
    format!(
        r"// Generated from the scopes. A parameter is there when its scope takes it: test with `has`.
type Params = {{
{fields}}};
type Time = {{
    // Seconds since 1970-01-01T00:00:00Z; the rest is in the zone of the policy set.
    epoch: Long,
    hour: Long,
    minute: Long,
    weekday: String, // monday … sunday
    date: String, // 2026-11-21
}};
entity Group;
entity Human in [Group];
entity Agent = {{
    owner: Human,
    team: String,
    environment: String,
    model: String,
    model_version: String,
    qualified: Bool,
}};
entity Scope = {{
    sensitivity: String,
    environment: String,
    data_class: String,
    risk: String,
    undo: String,
    minter: String,
}};
// What the sidecar saw of the process at its unix socket; test each `?` with `has`.
type Workload = {{
    uid: Long,
    gid: Long,
    exe?: String, // path of the executable
    exe_digest?: String, // its SHA-256, 64 hexadecimal digits
    cgroup?: String,
    container?: String, // 64 hexadecimal digits
}};
action issue, issueAfterApproval appliesTo {{
    principal: [Agent],
    resource: [Scope],
    context: {{
        params: Params,
        ttl: Long, // seconds
        time: Time,
        peer: String,
        delegation: Set<String>, // agents that passed the right on
        delegation_depth: Long,
        on_behalf_of: Bool,
        workload?: Workload, // absent where a token names the workload
    }},
}};
action approve appliesTo {{
    principal: [Human],
    resource: [Scope],
    context: {{
        agent: Agent,
        params: Params,
        ttl: Long, // seconds
        time: Time,
        channel: String,
    }},
}};
"
    )
}
