//! Identifiers. Each is a distinct type over shared text, compared as bytes: no case folding, no
//! normalisation, no aliases.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An identifier was not of its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is not {what}: want {form}")]
pub struct IdError {
    /// The refused text, shortened.
    pub shown: String,
    /// What it should have been.
    pub what: &'static str,
    /// The form in words.
    pub form: &'static str,
}

/// A request; made by the broker, unique over all agents; 2–64 of `[A-Za-z0-9._-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(Arc<str>);
/// A lease; 2–64 of `[A-Za-z0-9._-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(Arc<str>);
/// A right that one agent handed to another; 2–64 of `[A-Za-z0-9._-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DelegationId(Arc<str>);
/// An agent: the last segment of its SPIFFE ID; `[a-z0-9-]{2,64}`, since it becomes SourceIdentity.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId(Arc<str>);
/// One enrolled sidecar of an agent; 2–64 of `[A-Za-z0-9._-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Arc<str>);
/// A verified person's canonical id; `[a-z0-9][a-z0-9._-]{0,63}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanId(Arc<str>);
/// A group of people; `[a-z0-9][a-z0-9._-]{0,63}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(Arc<str>);
/// A scope; `[a-z0-9][a-z0-9._-]{0,63}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeName(Arc<str>);
/// A client's key for one ask; unique per agent; 1–64 of `[A-Za-z0-9._-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(Arc<str>);

fn token(text: &str, least: usize) -> bool {
    // All bytes are looked at, several at a time: hardly any is wrong, and a log has many.
    let fits = |b: u8| b.is_ascii_alphanumeric() | (b == b'.') | (b == b'_') | (b == b'-');
    (least..=64).contains(&text.len()) && text.bytes().fold(true, |all, b| all & fits(b))
}

fn lower_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=64).contains(&bytes.len())
        && bytes.first().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && bytes.iter().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
        })
}

fn agent_name(text: &str) -> bool {
    (2..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

macro_rules! text_id {
    ($name:ident, $what:literal, $form:literal, $ok:expr) => {
        impl $name {
            /// Parses the text.
            ///
            /// # Errors
            /// When the text is not of this identifier's form.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let ok: fn(&str) -> bool = $ok;
                if ok(text) {
                    Ok(Self(Arc::from(text)))
                } else {
                    let shown = crate::text::shorten(&crate::text::visible(text), 40);
                    Err(IdError { shown, what: $what, form: $form })
                }
            }
            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), &self.0)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id!(RequestId, "a request id", "2 to 64 of A-Z a-z 0-9 . _ -", |t| token(t, 2));
text_id!(LeaseId, "a lease id", "2 to 64 of A-Z a-z 0-9 . _ -", |t| token(t, 2));
impl LeaseId {
    /// The lease of a request, which has one at most: named after it, `l…` for `r…`. None: the request's id
    /// begins with no `r`.
    #[must_use]
    pub fn of(request: &RequestId) -> Option<Self> {
        Self::parse(&format!("l{}", request.as_str().strip_prefix('r')?)).ok()
    }

    /// The request whose lease it is, by its name.
    #[must_use]
    pub fn request(&self) -> Option<RequestId> {
        RequestId::parse(&format!("r{}", self.as_str().strip_prefix('l')?)).ok()
    }
}

text_id!(DelegationId, "a delegation's id", "2 to 64 of A-Z a-z 0-9 . _ -", |t| token(t, 2));
text_id!(InstanceId, "an instance id", "2 to 64 of A-Z a-z 0-9 . _ -", |t| token(t, 2));
text_id!(AgentId, "an agent's name", "2 to 64 of a-z 0-9 -", agent_name);
text_id!(HumanId, "a person's id", "1 to 64 of a-z 0-9 . _ -, first a letter or digit", lower_name);
text_id!(
    GroupName,
    "a group's name",
    "1 to 64 of a-z 0-9 . _ -, first a letter or digit",
    lower_name
);
text_id!(
    ScopeName,
    "a scope's name",
    "1 to 64 of a-z 0-9 . _ -, first a letter or digit",
    lower_name
);
text_id!(IdempotencyKey, "an idempotency key", "1 to 64 of A-Z a-z 0-9 . _ -", |t| token(t, 1));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_and_its_request_name_each_other() {
        for (request, lease) in [("r-1", Some("l-1")), ("req-9", Some("leq-9")), ("x-1", None)] {
            let request = RequestId::parse(request).unwrap();
            let named = LeaseId::of(&request);
            assert_eq!(named.as_ref().map(LeaseId::as_str), lease);
            assert_eq!(named.and_then(|lease| lease.request()), lease.map(|_| request));
        }
        assert_eq!(LeaseId::parse("x-1").unwrap().request(), None);
    }
}
