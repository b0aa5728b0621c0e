//! Slots: `${name}` in a template's text, filled with typed values only.
//!
//! A value must never act as a pattern. Slots take parameters whose type cannot hold a wildcard,
//! quote or separator; the value is checked against its type again; wildcards come from the
//! template's literal text, after the last slot and not touching it.

use grantwright_domain::param::{KeyFormat, ParamSpec, ParamType, is_slot_text};
use grantwright_domain::{Params, Scope};
use serde_json::Value;

use crate::{Declaration, MintError};

/// Whether literal wildcards are allowed in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wildcards {
    /// `*` and `?` may stand after the last slot.
    Allowed,
    /// They are faults.
    Faults,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece<'a> {
    Literal(&'a str),
    Slot(&'a str),
}

/// Cuts a text at its slots; a `$` that begins none is an error, so no IAM variable gets through.
fn pieces(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((literal, after)) = rest.split_once('$') {
        if !literal.is_empty() {
            out.push(Piece::Literal(literal));
        }
        let (name, tail) = after
            .strip_prefix('{')
            .and_then(|a| a.split_once('}'))
            .ok_or_else(|| format!("`{text}` has a `$` that begins no `${{parameter}}`"))?;
        out.push(Piece::Slot(name));
        rest = tail;
    }
    if !rest.is_empty() {
        out.push(Piece::Literal(rest));
    }
    Ok(out)
}

/// The parameters a text's slots name.
pub(crate) fn slots(text: &str) -> Vec<&str> {
    let name = |piece| if let Piece::Slot(name) = piece { Some(name) } else { None };
    pieces(text).unwrap_or_default().into_iter().filter_map(name).collect()
}

/// What is wrong with one text of a template.
pub(crate) fn text_faults(text: &str, scope: &Scope, wildcards: Wildcards) -> Vec<String> {
    let mut out = Vec::new();
    if text.is_empty() || !text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        out.push(format!("`{text}` is empty or has characters other than printable ASCII"));
    }
    let pieces = match pieces(text) {
        Ok(pieces) => pieces,
        Err(fault) => {
            out.push(fault);
            return out;
        }
    };
    let mut open = None;
    let mut wild = false;
    // Between `://` and the next `/`.
    let mut host = false;
    for (n, piece) in pieces.iter().enumerate() {
        match *piece {
            Piece::Slot(name) => {
                out.extend(slot_fault(name, scope));
                if host && scope.params.get(name).is_some_and(may_end_a_host) {
                    out.push(format!(
                        "`{text}`: a value of `${{{name}}}` may hold a `/`, and would say itself which host it is"
                    ));
                }
                if wild {
                    out.push(format!(
                        "`{text}` has a wildcard before `${{{name}}}`, which reaches past it"
                    ));
                }
                let delimited =
                    scope.params.get(name).is_some_and(|s| s.kind == ParamType::S3Prefix);
                open = (!delimited).then_some(name);
            }
            Piece::Literal(literal) => {
                host = match literal.rsplit_once("://") {
                    Some((_, after)) => !after.contains('/'),
                    None => host && !literal.contains('/'),
                };
                for (at, c) in literal.chars().enumerate() {
                    match c {
                        '*' | '?' if wildcards == Wildcards::Faults => {
                            out.push(format!("`{text}` has a wildcard where none works"));
                            return out;
                        }
                        '*' | '?' if n == 0 && at == 0 => {
                            out.push(format!(
                                "`{text}` begins with a wildcard: it means everything"
                            ));
                            wild = true;
                        }
                        '*' | '?' => {
                            if let Some(name) = open.take() {
                                out.push(format!(
                                    "`{text}` has a wildcard after `${{{name}}}` without a `/` between: \
                                     other values that begin alike would match"
                                ));
                            }
                            wild = true;
                        }
                        '/' | ':' => open = None,
                        _ => {}
                    }
                }
            }
        }
    }
    out
}

/// Faults of the parameter that holds the public key or the request for a certificate.
pub(crate) fn holder_faults(scope: &Scope, key: &str, format: KeyFormat) -> Vec<String> {
    let name = scope.template.get(key).and_then(Value::as_str).unwrap_or_default();
    let want = format!(
        "template.{key}: want the name of a parameter of type public-key, format {}, neither \
         optional nor sensitive",
        format.word()
    );
    match scope.params.get(name) {
        Some(spec)
            if spec.kind == (ParamType::PublicKey { format })
                && !spec.optional
                && !spec.sensitive =>
        {
            Vec::new()
        }
        _ => vec![want],
    }
}

fn slot_fault(name: &str, scope: &Scope) -> Option<String> {
    let Some(spec) = scope.params.get(name) else {
        return Some(format!("slot `${{{name}}}` names no parameter"));
    };
    let fault = if !spec.is_slot_safe() {
        "may hold a wildcard, a quote or a separator"
    } else if spec.optional {
        "is optional, and without it the slot would be empty"
    } else if spec.sensitive {
        "is sensitive, and what fills a slot is shown to reviewers and kept by the backend"
    } else if admits_slash(spec) {
        "may hold a `/`, which only a list of choices or a prefix may"
    } else {
        return None;
    };
    Some(format!("slot `${{{name}}}`: the parameter {fault}"))
}

fn may_end_a_host(spec: &ParamSpec) -> bool {
    match &spec.kind {
        ParamType::S3Prefix => true,
        ParamType::Choice { values } => values.iter().any(|v| v.contains('/')),
        _ => admits_slash(spec),
    }
}

fn admits_slash(spec: &ParamSpec) -> bool {
    let admits = |text: &str| spec.check("slot", &Value::from(text)).is_ok();
    matches!(spec.kind, ParamType::String { .. })
        && ["/", "a/", "/a", "a/a", "aa/aa"].into_iter().any(admits)
}

/// Fills the slots of a text.
///
/// # Errors
/// Refused: a slot names no safe parameter, or the value is missing or not of its type.
pub(crate) fn fill(text: &str, scope: &Scope, params: &Params) -> Result<String, MintError> {
    let mut out = String::with_capacity(text.len() + 64);
    for piece in pieces(text).map_err(bad_template)? {
        match piece {
            Piece::Literal(literal) => out.push_str(literal),
            Piece::Slot(name) => out.push_str(&slot_value(name, scope, params)?),
        }
    }
    Ok(out)
}

fn slot_value(name: &str, scope: &Scope, params: &Params) -> Result<String, MintError> {
    if let Some(fault) = slot_fault(name, scope) {
        return Err(bad_template(fault));
    }
    let typed = scope.params.get(name).zip(params.get(name)).and_then(|(spec, value)| {
        let again = spec.check(name, &serde_json::to_value(value).ok()?).ok()?;
        let text = again.text();
        let slashed = text.contains('/') && matches!(spec.kind, ParamType::String { .. });
        (again == *value && is_slot_text(&text) && !slashed).then_some(text)
    });
    typed.ok_or_else(|| {
        MintError::refused(
            "bad_parameter",
            format!("parameter `{name}` is missing or cannot narrow a credential"),
            format!("slot `{name}` was not filled: the value is missing, or not of its type"),
        )
    })
}

/// The pinned template does not fit the backend; scopes are checked at load, so this is rare.
pub(crate) fn bad_template(fault: impl AsRef<str>) -> MintError {
    MintError::refused("bad_template", "the scope's template does not fit its backend", fault)
}

/// `step_s` of a template; see [`Minter::step_s`](crate::Minter::step_s).
pub(crate) fn step_s(scope: &Scope) -> Option<u32> {
    scope.template.get("step_s")?.as_u64().and_then(|s| u32::try_from(s).ok())
}

/// For how long a credential of this scope is made at first: the step, or the whole of what was granted.
pub(crate) fn first_s(scope: &Scope, granted_s: u32) -> u32 {
    step_s(scope).map_or(granted_s, |step| step.min(granted_s))
}

/// What is wrong with a template's `step_s`.
pub(crate) fn step_faults(scope: &Scope, declaration: &Declaration) -> Vec<String> {
    let Some(given) = scope.template.get("step_s") else { return Vec::new() };
    let floor = declaration.ttl_floor_s.max(MIN_STEP_S);
    match step_s(scope) {
        Some(step) if (floor..=declaration.ttl_ceiling_s).contains(&step) => Vec::new(),
        _ => vec![format!(
            "template.step_s: {given}, but {} extends by {floor} to {} s",
            declaration.name, declaration.ttl_ceiling_s
        )],
    }
}

/// Shortest step: each costs the backend a call and the log a leaf.
const MIN_STEP_S: u32 = 6;

/// Faults for keys of an object that are not known.
pub(crate) fn unknown_keys<'a>(
    what: &str,
    keys: impl Iterator<Item = &'a String>,
    known: &[&str],
) -> Vec<String> {
    keys.filter(|key| !known.contains(&key.as_str()))
        .map(|key| format!("{what}: unknown key `{key}`: it takes {}", known.join(", ")))
        .collect()
}
