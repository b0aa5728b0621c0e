//! Typed parameters of a scope: declaration, parsing, and each type's order for narrowing.

mod pattern;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::text::{shorten, visible};
use pattern::{admits_metacharacters, compile, matches};

/// The parameters of a request, by name.
pub type Params = BTreeMap<String, ParamValue>;

/// One typed value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ParamValue {
    /// True or false.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A set of strings, sorted.
    Set(BTreeSet<String>),
    /// A string.
    Text(String),
}

/// What a parameter may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ParamType {
    /// True or false.
    Boolean,
    /// One of the listed strings.
    Choice {
        /// The allowed values.
        values: BTreeSet<String>,
    },
    /// A whole number within bounds, both included.
    Integer {
        /// Least value.
        min: i64,
        /// Largest value.
        max: i64,
    },
    /// The public half of a key that its holder keeps: what is issued is bound to it.
    PublicKey {
        /// How it is written.
        format: KeyFormat,
    },
    /// An S3 key prefix: segments of `[A-Za-z0-9._-]+`, each followed by `/`; at most 200; no `.` or `..` segment.
    S3Prefix,
    /// An S3 bucket name by S3's naming rules.
    S3Bucket,
    /// A set of strings, each matching the whole of `pattern`.
    Set {
        /// Regular expression for each member, anchored at both ends.
        pattern: String,
        /// Most members, 1–100.
        most: u32,
    },
    /// A string matching the whole of `pattern`.
    String {
        /// Regular expression, anchored at both ends.
        pattern: String,
    },
}

/// How a public key is written in a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyFormat {
    /// A request for a certificate: PKCS#10 (RFC 2986) in DER, base64 in one line.
    Csr,
    /// The thumbprint of a JWK (RFC 7638): SHA-256, base64url.
    Jkt,
    /// A line `ssh-ed25519 AAAA…` or `ecdsa-sha2-nistp256 AAAA…` without a comment.
    Ssh,
}

impl KeyFormat {
    /// The word in a declaration.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Csr => "csr",
            Self::Jkt => "jkt",
            Self::Ssh => "ssh",
        }
    }

    fn want(self) -> &'static str {
        match self {
            Self::Csr => "a certificate request (PKCS#10, DER) as base64 in one line",
            Self::Jkt => "the RFC 7638 thumbprint of a JWK: 43 characters of base64url",
            Self::Ssh => {
                "a public key line without its comment: ssh-ed25519 AAAA… or \
                 ecdsa-sha2-nistp256 AAAA…"
            }
        }
    }

    /// What it looks like, for those who fill it in.
    fn pattern(self) -> &'static str {
        match self {
            Self::Csr => "^[A-Za-z0-9+/]{98,}={0,2}$",
            Self::Jkt => "^[A-Za-z0-9_-]{43}$",
            Self::Ssh => "^(?:ssh-ed25519|ecdsa-sha2-nistp256) [A-Za-z0-9+/]+=?$",
        }
    }

    /// Whether a text has the form; what is in it is for the minter to read.
    fn fits(self, text: &str) -> bool {
        let plain = |text: &str| {
            let body = text.trim_end_matches('=');
            text.len().is_multiple_of(4)
                && text.len() - body.len() <= 2
                && body.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
        };
        match self {
            Self::Csr => (100..=MAX_TEXT).contains(&text.len()) && plain(text),
            Self::Jkt => {
                text.len() == 43
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            }
            Self::Ssh => match text.split_once(' ') {
                Some(("ssh-ed25519", blob)) => blob.len() == 68 && plain(blob),
                Some(("ecdsa-sha2-nistp256", blob)) => blob.len() == 140 && plain(blob),
                _ => false,
            },
        }
    }
}

/// How a value may shrink when a reviewer narrows a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// It may not change.
    #[default]
    Equal,
    /// A smaller integer is narrower.
    Max,
    /// A longer prefix is narrower.
    Prefix,
    /// Fewer members are narrower.
    Subset,
}

/// A parameter as a scope declares it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Declared")]
pub struct ParamSpec {
    /// Its type and bounds.
    #[serde(flatten)]
    pub kind: ParamType,
    /// How it may shrink.
    #[serde(default)]
    pub order: Order,
    /// May be left out.
    #[serde(default)]
    pub optional: bool,
    /// Its value lies beside the log, bound by a salted commitment, and is not available to policy.
    #[serde(default)]
    pub sensitive: bool,
    /// Words for people.
    #[serde(default)]
    pub title: String,
}

/// A declaration before its type is read. Serde lets a type without bounds take any key, and a
/// misspelt `sensitive` must not pass unseen.
#[derive(Deserialize)]
struct Declared {
    #[serde(flatten)]
    kind: Map<String, Value>,
    #[serde(default)]
    order: Order,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    sensitive: bool,
    #[serde(default)]
    title: String,
}

impl TryFrom<Declared> for ParamSpec {
    type Error = String;

    fn try_from(declared: Declared) -> Result<Self, String> {
        let Declared { kind, order, optional, sensitive, title } = declared;
        let given = Value::Object(kind);
        let kind: ParamType = serde_json::from_value(given.clone()).map_err(|e| e.to_string())?;
        let known = serde_json::to_value(&kind).map_err(|e| e.to_string())?;
        let unknown = given
            .as_object()
            .and_then(|keys| keys.keys().find(|key| known.get(key.as_str()).is_none()));
        if let Some(key) = unknown {
            return Err(format!("unknown field `{}`", shorten(&visible(key), 40)));
        }
        Ok(Self { kind, order, optional, sensitive, title })
    }
}

/// A parameter was unknown, missing, of the wrong type, or out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParamError {
    /// The parameter.
    pub name: String,
    /// What is wrong and what is wanted.
    pub message: String,
}

impl ParamError {
    fn new(name: &str, message: impl Into<String>) -> Self {
        Self { name: name.to_owned(), message: message.into() }
    }
}

/// Longest string value in bytes.
pub const MAX_TEXT: usize = 1024;

impl ParamSpec {
    /// Checks one value.
    ///
    /// # Errors
    /// Says what the parameter wants.
    pub fn check(&self, name: &str, value: &Value) -> Result<ParamValue, ParamError> {
        let wrong =
            |want: String| ParamError::new(name, format!("parameter `{name}` wants {want}"));
        match (&self.kind, value) {
            (ParamType::Boolean, Value::Bool(b)) => Ok(ParamValue::Boolean(*b)),
            (ParamType::Choice { values }, Value::String(s)) if values.contains(s) => {
                Ok(ParamValue::Text(s.clone()))
            }
            (ParamType::Integer { min, max }, Value::Number(n)) => match n.as_i64() {
                Some(i) if (*min..=*max).contains(&i) => Ok(ParamValue::Integer(i)),
                _ => Err(wrong(self.want())),
            },
            (ParamType::PublicKey { format }, Value::String(s)) if format.fits(s) => {
                Ok(ParamValue::Text(s.clone()))
            }
            (ParamType::S3Bucket, Value::String(s)) if is_bucket(s) => {
                Ok(ParamValue::Text(s.clone()))
            }
            (ParamType::S3Prefix, Value::String(s)) if is_prefix(s) => {
                Ok(ParamValue::Text(s.clone()))
            }
            (ParamType::String { pattern }, Value::String(s)) if matches(pattern, s) => {
                Ok(ParamValue::Text(s.clone()))
            }
            (ParamType::Set { pattern, most }, Value::Array(items)) => {
                let mut set = BTreeSet::new();
                for item in items {
                    match item {
                        Value::String(s) if matches(pattern, s) => set.insert(s.clone()),
                        _ => return Err(wrong(self.want())),
                    };
                }
                let fits =
                    set.len() == items.len() && !set.is_empty() && set.len() <= *most as usize;
                if fits { Ok(ParamValue::Set(set)) } else { Err(wrong(self.want())) }
            }
            _ => Err(wrong(self.want())),
        }
    }

    /// What the type wants, in words.
    #[must_use]
    pub fn want(&self) -> String {
        match &self.kind {
            ParamType::Boolean => "true or false".into(),
            ParamType::Choice { values } => {
                let list: Vec<&str> = values.iter().map(String::as_str).collect();
                format!("one of {}", list.join(", "))
            }
            ParamType::Integer { min, max } => format!("an integer from {min} to {max}"),
            ParamType::PublicKey { format } => format.want().into(),
            ParamType::S3Bucket => "an S3 bucket name: 3 to 63 of a-z 0-9 . -".into(),
            ParamType::S3Prefix => "a key prefix ending in `/`, segments of A-Z a-z 0-9 . _ -, no `.` or `..`, at most 200".into(),
            ParamType::Set { pattern, most } => format!("1 to {most} distinct strings, each matching {pattern}"),
            ParamType::String { pattern } => format!("a string matching {pattern}"),
        }
    }

    /// The type as JSON Schema 2020-12, for those who fill it in. [`ParamSpec::check`] is the rule.
    #[must_use]
    pub fn json_schema(&self) -> Value {
        let anchored = |pattern: &str| format!("^(?:{pattern})$");
        let mut schema = match &self.kind {
            ParamType::Boolean => json!({"type": "boolean"}),
            ParamType::Choice { values } => json!({"type": "string", "enum": values}),
            ParamType::Integer { min, max } => {
                json!({"type": "integer", "minimum": min, "maximum": max})
            }
            ParamType::PublicKey { format } => json!({
                "type": "string", "maxLength": MAX_TEXT, "pattern": format.pattern(),
            }),
            ParamType::S3Bucket => json!({
                "type": "string", "minLength": 3, "maxLength": 63,
                "pattern": "^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])$",
            }),
            ParamType::S3Prefix => json!({
                "type": "string", "maxLength": 200, "pattern": "^(?:[A-Za-z0-9._-]+/)+$",
            }),
            ParamType::Set { pattern, most } => json!({
                "type": "array", "minItems": 1, "maxItems": most, "uniqueItems": true,
                "items": {"type": "string", "pattern": anchored(pattern)},
            }),
            ParamType::String { pattern } => {
                json!({"type": "string", "maxLength": MAX_TEXT, "pattern": anchored(pattern)})
            }
        };
        if let Some(schema) = schema.as_object_mut() {
            let words = if self.title.is_empty() {
                self.want()
            } else {
                format!("{}: {}", self.title, self.want())
            };
            schema.insert("description".into(), words.into());
        }
        schema
    }

    /// True when no value of this type can act as a wildcard, separator or traversal in a pattern:
    /// only such parameters may fill a slot of a template.
    #[must_use]
    pub fn is_slot_safe(&self) -> bool {
        match &self.kind {
            ParamType::Boolean
            | ParamType::Integer { .. }
            | ParamType::S3Bucket
            | ParamType::S3Prefix => true,
            ParamType::Choice { values } => values.iter().all(|v| is_slot_text(v)),
            // Values are checked again when a slot is filled; a pattern that admits metacharacters
            // by name is refused when the scope is loaded.
            ParamType::String { pattern } => !admits_metacharacters(pattern),
            ParamType::PublicKey { .. } | ParamType::Set { .. } => false,
        }
    }

    /// Errors in the declaration itself.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut out = Vec::new();
        match &self.kind {
            ParamType::String { pattern } | ParamType::Set { pattern, .. } => {
                if let Err(e) = compile(pattern) {
                    out.push(format!("pattern does not parse: {e}"));
                } else if matches(pattern, "") {
                    out.push(
                        "pattern matches the empty string: an empty value is a refusal".into(),
                    );
                }
            }
            ParamType::Integer { min, max } => {
                if min > max {
                    out.push(format!("min {min} is above max {max}"));
                }
                let most = crate::canonical::MAX_INTEGER.unsigned_abs();
                if min.unsigned_abs() > most || max.unsigned_abs() > most {
                    out.push("bounds lie beyond ±(2^53−1)".into());
                }
            }
            ParamType::Choice { values } if values.is_empty() => {
                out.push("no values to choose from".into())
            }
            _ => {}
        }
        if let ParamType::Set { most, .. } = &self.kind
            && !(1..=100).contains(most)
        {
            out.push("most must be 1 to 100".into());
        }
        let fits = match self.order {
            Order::Equal => true,
            Order::Max => matches!(self.kind, ParamType::Integer { .. }),
            Order::Prefix => matches!(self.kind, ParamType::S3Prefix),
            Order::Subset => matches!(self.kind, ParamType::Set { .. }),
        };
        if !fits {
            out.push(format!("order {:?} does not fit the type", self.order).to_lowercase());
        }
        out
    }

    /// True when `new` is equal to `old`, or narrower in this parameter's order and still a value of
    /// its type: `public/*` begins with `public/` and reaches further.
    #[must_use]
    pub fn narrower_or_equal(&self, old: &ParamValue, new: &ParamValue) -> bool {
        if old == new {
            return true;
        }
        if self.check("", &new.json()).is_err() {
            return false;
        }
        match (self.order, old, new) {
            (Order::Max, ParamValue::Integer(o), ParamValue::Integer(n)) => n <= o,
            (Order::Prefix, ParamValue::Text(o), ParamValue::Text(n)) => n.starts_with(o.as_str()),
            (Order::Subset, ParamValue::Set(o), ParamValue::Set(n)) => n.is_subset(o),
            _ => false,
        }
    }
}

/// JSON Schema 2020-12 of the object that [`check_all`] takes.
#[must_use]
pub fn json_schema(specs: &BTreeMap<String, ParamSpec>) -> Value {
    let properties: Map<String, Value> =
        specs.iter().map(|(name, spec)| (name.clone(), spec.json_schema())).collect();
    let required: Vec<&String> =
        specs.iter().filter(|(_, spec)| !spec.optional).map(|(name, _)| name).collect();
    json!({
        "type": "object", "properties": properties, "required": required,
        "additionalProperties": false,
    })
}

/// Checks a JSON object of parameters against their declarations.
///
/// # Errors
/// The first unknown, missing or ill-typed parameter.
pub fn check_all(specs: &BTreeMap<String, ParamSpec>, given: &Value) -> Result<Params, ParamError> {
    let Value::Object(given) = given else {
        return Err(ParamError::new("params", "`params` wants an object"));
    };
    for name in given.keys() {
        if !specs.contains_key(name) {
            let shown = shorten(&visible(name), 40);
            let known: Vec<&str> = specs.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(ParamError::new(
                &shown,
                format!("unknown parameter `{shown}`: this scope takes {known}"),
            ));
        }
    }
    let mut out = Params::new();
    for (name, spec) in specs {
        match given.get(name) {
            Some(value) => {
                out.insert(name.clone(), spec.check(name, value)?);
            }
            None if spec.optional => {}
            None => {
                return Err(ParamError::new(
                    name,
                    format!("parameter `{name}` is missing: it wants {}", spec.want()),
                ));
            }
        }
    }
    Ok(out)
}

impl ParamValue {
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Boolean(b) => Value::from(*b),
            Self::Integer(i) => Value::from(*i),
            Self::Set(s) => s.iter().map(String::as_str).collect(),
            Self::Text(t) => Value::from(t.as_str()),
        }
    }

    /// The value as text for a slot or a sentence.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Boolean(b) => b.to_string(),
            Self::Integer(i) => i.to_string(),
            Self::Set(s) => s.iter().cloned().collect::<Vec<_>>().join(", "),
            Self::Text(t) => t.clone(),
        }
    }
}

/// True for text that may fill a slot of a template: no wildcard, quote, separator or variable.
#[must_use]
pub fn is_slot_text(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'))
        && text.split('/').all(|s| s != "." && s != "..")
}

/// S3 general-purpose bucket naming rules.
fn is_bucket(s: &str) -> bool {
    let b = s.as_bytes();
    let edge = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    (3..=63).contains(&b.len())
        && b.iter()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-'))
        && edge(b.first())
        && edge(b.last())
        && !s.contains("..")
        && !s.contains(".-")
        && !s.contains("-.")
        && !["xn--", "sthree-", "amzn-s3-demo-"].iter().any(|p| s.starts_with(p))
        && !["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"].iter().any(|p| s.ends_with(p))
        && !(s.split('.').count() == 4 && s.split('.').all(|p| p.parse::<u8>().is_ok()))
}

/// `segment/segment/`, segments of `[A-Za-z0-9._-]+`, none `.` or `..`, at most 200 bytes.
fn is_prefix(s: &str) -> bool {
    let Some(body) = s.strip_suffix('/') else { return false };
    s.len() <= 200
        && body.split('/').all(|seg| {
            !seg.is_empty()
                && seg != "."
                && seg != ".."
                && seg.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets() {
        for ok in ["demo", "abc", "a.b-c.d", &"a".repeat(63)] {
            assert!(is_bucket(ok), "{ok}");
        }
        for bad in [
            "",
            "ab",
            "Demo",
            "-ab",
            "ab-",
            "a..b",
            "a.-b",
            "192.168.5.4",
            "xn--ab",
            "a_b",
            "a*b",
            "ab-s3alias",
            &"a".repeat(64),
        ] {
            assert!(!is_bucket(bad), "{bad}");
        }
    }

    #[test]
    fn public_keys() {
        let ed25519 = format!("ssh-ed25519 {}", "A".repeat(68));
        let p256 = format!("ecdsa-sha2-nistp256 {}=", "A".repeat(139));
        let csr = "A".repeat(100);
        let jkt = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
        for (format, ok) in [
            (KeyFormat::Ssh, ed25519.as_str()),
            (KeyFormat::Ssh, p256.as_str()),
            (KeyFormat::Csr, csr.as_str()),
            (KeyFormat::Jkt, jkt),
        ] {
            assert!(format.fits(ok), "{ok}");
            let others = [KeyFormat::Csr, KeyFormat::Jkt, KeyFormat::Ssh];
            assert!(others.iter().filter(|f| **f != format).all(|f| !f.fits(ok)), "{ok}");
            for bad in [
                format!("{ok} me@host"),
                format!(" {ok}"),
                ok.replace('A', "*"),
                ok[1..].to_owned(),
            ] {
                assert!(!format.fits(&bad) || bad == ok, "{bad}");
            }
        }
        assert!(!KeyFormat::Csr.fits("") && !KeyFormat::Csr.fits(&"A".repeat(1028)));
    }

    #[test]
    fn prefixes() {
        for ok in ["public/", "a/b/c/", "A.b_c-d/", &format!("{}/", "a".repeat(199))] {
            assert!(is_prefix(ok), "{ok}");
        }
        for bad in [
            "",
            "/",
            "public",
            "a//b/",
            "../",
            "a/../b/",
            "./",
            "a*/",
            "a?/",
            "a b/",
            "/a/",
            "a\\/",
            "é/",
            &format!("{}/", "a".repeat(200)),
        ] {
            assert!(!is_prefix(bad), "{bad}");
        }
    }

    #[test]
    fn slots_refuse_metacharacters() {
        let spec = |pattern: &str| ParamSpec {
            kind: ParamType::String { pattern: pattern.into() },
            order: Order::Equal,
            optional: false,
            sensitive: false,
            title: String::new(),
        };
        assert!(spec("[a-z0-9][a-z0-9._-]{0,63}").is_slot_safe());
        assert!(!spec(".*").is_slot_safe());
        assert!(!spec("[a-z*]+").is_slot_safe());
        assert!(!is_slot_text("a/../b") && !is_slot_text("a*") && !is_slot_text(""));
    }
}
