//! A scope as an operator declares it. Its digest pins the template from which a credential is made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::canonical::{self, CanonicalError};
use crate::digest::Digest;
use crate::id::ScopeName;
use crate::param::ParamSpec;

/// A named thing that can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Its name.
    pub name: ScopeName,
    /// One sentence, verb first, with parameters as `{name}`: the headline of the card.
    pub title: String,
    /// The configured minter that makes its credentials.
    pub minter: String,
    /// Typed parameters.
    #[serde(default)]
    pub params: BTreeMap<String, ParamSpec>,
    /// Lifetimes in seconds.
    #[serde(default)]
    pub ttl: TtlLimits,
    /// What it touches, for policy and for reviewers.
    #[serde(default)]
    pub labels: Labels,
    /// From what the minter builds the credential's own policy; its form belongs to the minter.
    #[serde(default)]
    pub template: Map<String, Value>,
    /// Questions a reviewer may ask with one tap, at most three.
    #[serde(default)]
    pub questions: Vec<String>,
    /// The two-step guard: the parameter whose value an approver types before an approval counts, or
    /// [`CONFIRM_AGENT`]; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<String>,
}

/// In [`Scope::confirm`]: the name of the agent that asks.
pub const CONFIRM_AGENT: &str = "@agent";

/// Lifetimes in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TtlLimits {
    /// When the ask names none.
    pub default_s: u32,
    /// More is refused.
    pub max_s: u32,
}

impl Default for TtlLimits {
    fn default() -> Self {
        Self { default_s: 900, max_s: 900 }
    }
}

/// Labels of a scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    /// For example `routine`, `sensitive`, `critical`.
    #[serde(default = "unlabelled")]
    pub sensitivity: String,
    /// For example `production`.
    #[serde(default = "unlabelled")]
    pub environment: String,
    /// For example `personal data`.
    #[serde(default = "unlabelled")]
    pub data_class: String,
    /// `low`, `medium`, `high`.
    #[serde(default = "unlabelled")]
    pub risk: String,
    /// Whether what is done with it can be undone, in words.
    #[serde(default = "unlabelled")]
    pub undo: String,
}

impl Default for Labels {
    fn default() -> Self {
        let none = unlabelled;
        Self {
            sensitivity: none(),
            environment: none(),
            data_class: none(),
            risk: none(),
            undo: none(),
        }
    }
}

fn unlabelled() -> String {
    "unlabelled".into()
}

impl Scope {
    /// Digest of the whole declaration: what D and the grant pin.
    ///
    /// # Errors
    /// When the template holds null or a float.
    pub fn digest(&self) -> Result<Digest, CanonicalError> {
        canonical::digest("scope", self)
    }

    /// Faults of the declaration that do not depend on its minter.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (name, spec) in &self.params {
            if name.is_empty()
                || name.len() > 32
                || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                || !name.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
            {
                out.push(format!(
                    "parameter `{name}`: names are 1 to 32 of a-z 0-9 _, first a letter"
                ));
            }
            out.extend(spec.faults().into_iter().map(|f| format!("parameter `{name}`: {f}")));
        }
        if self.ttl.default_s == 0 || self.ttl.default_s > self.ttl.max_s {
            out.push(format!(
                "ttl: default_s {} must be 1 to max_s {}",
                self.ttl.default_s, self.ttl.max_s
            ));
        }
        if self.title.trim().is_empty() || self.title.chars().count() > 120 {
            out.push("title: want 1 to 120 characters, a sentence with the verb first".into());
        }
        for slot in slots(&self.title) {
            match slot {
                Ok(name) if self.params.contains_key(name) => {}
                Ok(name) => out.push(format!("title names `{{{name}}}`, which is not a parameter")),
                Err(e) => out.push(format!("title: {e}")),
            }
        }
        if self.questions.len() > 3 {
            out.push("questions: at most three".into());
        }
        if let Some(fact) = &self.confirm {
            match self.params.get(fact) {
                _ if fact == CONFIRM_AGENT => {}
                Some(spec) if !spec.sensitive => {}
                Some(_) => out.push(format!("confirm: `{fact}` is sensitive; name another")),
                None => out.push(format!(
                    "confirm: `{fact}` is no parameter; name one, or `{CONFIRM_AGENT}`"
                )),
            }
        }
        if let Err(e) = self.digest() {
            out.push(format!("template: {e}"));
        }
        out
    }
}

/// The `{name}` slots of a sentence.
fn slots(text: &str) -> impl Iterator<Item = Result<&str, &'static str>> {
    text.split('{')
        .skip(1)
        .map(|part| part.split_once('}').map(|(name, _)| name).ok_or("a `{` is not closed"))
}

/// An integer with its digits grouped: `10,000`.
#[must_use]
pub fn grouped(i: i64) -> String {
    let digits = i.unsigned_abs().to_string();
    let mut out = String::new();
    for (n, c) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    if i < 0 { format!("-{out}") } else { out }
}
