//! What verification found.

use grantwright_domain::RequestId;
use serde::Serialize;

/// Findings beyond these are counted as one more, and verification stops.
pub const MOST_FINDINGS: usize = 20;

/// The outcome of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nothing was found.
    pub ok: bool,
    /// How many leaves the log holds.
    pub leaves: u64,
    /// Whether the log went back behind, or forked from, a checkpoint that was kept outside it.
    pub rollback: Rollback,
    /// What is wrong, in order of leaves. At most [`MOST_FINDINGS`], and one that says so.
    pub findings: Vec<Finding>,
    /// What rests on the broker's word, or could not be detected, in words.
    pub undetectable: Vec<String>,
    /// Intents whose outcome the log does not tell (yet).
    pub open_intents: Vec<OpenIntent>,
    /// The log's name, as its first leaf says.
    pub origin: String,
    /// How many stored checkpoints were verified.
    pub checkpoints: u64,
    /// Root of the newest verified checkpoint, base64; empty when there is none.
    pub root: String,
    /// How many requests the log tells of.
    pub requests: u64,
}

/// See [`Report::rollback`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Rollback {
    /// Every kept checkpoint is a prefix of the log.
    #[serde(rename = "none")]
    None,
    /// A kept checkpoint contradicts the log.
    #[serde(rename = "found")]
    Found,
    /// No checkpoint was kept outside the log.
    #[serde(rename = "not checked")]
    NotChecked,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The leaf, 0-based: the earliest that can be blamed.
    pub leaf: u64,
    /// The rule that is broken, a short stable word.
    pub rule: String,
    /// What is wrong, in words.
    pub detail: String,
}

/// An intent without an outcome at the end of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenIntent {
    /// The leaf of the intent.
    pub leaf: u64,
    /// The request.
    pub request_id: RequestId,
}

/// Collects findings up to a bound.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: Vec<Finding>,
    overflow: bool,
}

impl Findings {
    pub(crate) fn add(&mut self, leaf: u64, rule: &str, detail: impl Into<String>) {
        if self.is_full() {
            self.overflow = true;
        } else {
            self.list.push(Finding { leaf, rule: rule.into(), detail: detail.into() });
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.list.len() >= MOST_FINDINGS
    }

    pub(crate) fn has(&self, rule: &str) -> bool {
        self.list.iter().any(|f| f.rule == rule)
    }

    /// In order of leaves; of one leaf, in the order they were found.
    pub(crate) fn into_sorted(mut self) -> Vec<Finding> {
        self.list.sort_by_key(|f| f.leaf);
        if self.overflow || self.is_full() {
            let last = self.list.last().map_or(0, |f| f.leaf);
            self.list.push(Finding {
                leaf: last,
                rule: "more".into(),
                detail: format!("verification stopped after {MOST_FINDINGS} findings"),
            });
        }
        self.list
    }
}
