//! What verification found.

use grantwright_domain::RequestId;
use serde::Serialize;

use crate::Witnessed;

/// Verification stops after so many findings.
pub const MOST_FINDINGS: usize = 20;

/// The outcome of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nothing was found.
    pub ok: bool,
    /// What the leaves say was judged too, not only that nobody changed them.
    pub conduct: bool,
    /// How many leaves the log holds.
    pub leaves: u64,
    /// Whether the log went back behind, or forked from, a checkpoint that was kept outside it.
    pub rollback: Rollback,
    /// What is wrong, in order of leaves, then of texts beside them. At most [`MOST_FINDINGS`], one
    /// for leaves that hashes alone could not name, and one that says that there may be more.
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
    /// What the given witnesses vouch for; none where none were given, or too few cosigned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witnessed: Option<Witnessed>,
    /// How many leaves an earlier verification vouches for; absent: all were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed_from: Option<u64>,
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
    /// The leaf, 0-based. Where only a range is known (the detail says so), the first in it that
    /// breaks a rule as well, or else its first.
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

/// Rules about the tree and its checkpoints; every other rule is about one leaf's own conduct.
const OF_THE_TREE: [&str; 12] = [
    "checkpoint",
    "fork",
    "index",
    "key",
    "origin",
    "rollback",
    "root",
    "signature",
    "tile",
    "truncated",
    "uncovered",
    "witness",
];

/// Collects findings up to a bound.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: Vec<Finding>,
    /// About texts beside the leaves: told after those about leaves.
    beside: Vec<Finding>,
    /// Some leaf of this range was changed; which one, hashes do not tell.
    changed: Option<(u64, u64)>,
}

impl Findings {
    pub(crate) fn add(&mut self, leaf: u64, rule: &str, detail: impl Into<String>) {
        if !self.is_full() {
            self.list.push(Finding { leaf, rule: rule.into(), detail: detail.into() });
        }
    }

    pub(crate) fn add_beside(&mut self, leaf: u64, rule: &str, detail: impl Into<String>) {
        if !self.is_full() {
            self.beside.push(Finding { leaf, rule: rule.into(), detail: detail.into() });
        }
    }

    /// Some leaf from `from` to before `to` is not what the checkpoint of `to` leaves covers.
    pub(crate) fn changed(&mut self, from: u64, to: u64) {
        self.changed.get_or_insert((from, to));
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.list.len() + self.beside.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.count() >= MOST_FINDINGS
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty() && self.beside.is_empty() && self.changed.is_none()
    }

    pub(crate) fn has(&self, rule: &str) -> bool {
        self.list.iter().any(|f| f.rule == rule)
    }

    /// In order of leaves; of one leaf, in the order they were found.
    pub(crate) fn into_sorted(mut self) -> Vec<Finding> {
        let full = self.is_full();
        self.list.sort_by_key(|f| f.leaf);
        if let Some((from, to)) = self.changed {
            let finding = self.blame(from, to);
            let place = self.list.partition_point(|f| f.leaf < finding.leaf);
            self.list.insert(place, finding);
        }
        self.list.append(&mut self.beside);
        if full {
            let last = self.list.last().map_or(0, |f| f.leaf);
            self.list.push(Finding {
                leaf: last,
                rule: "more".into(),
                detail: format!("verification stopped after {MOST_FINDINGS} findings"),
            });
        }
        self.list
    }

    /// Of a range with a changed leaf, the first that breaks a rule as well is the likely one.
    fn blame(&self, from: u64, to: u64) -> Finding {
        let likely = self
            .list
            .iter()
            .find(|f| (from..to).contains(&f.leaf) && !OF_THE_TREE.contains(&f.rule.as_str()));
        let detail = if to - from <= 1 {
            format!("this is not the leaf that the checkpoint of {to} leaves covers")
        } else {
            let last = to - 1;
            format!(
                "at least one of the leaves {from} to {last} is not that which the checkpoint of \
                 {to} leaves covers"
            )
        };
        Finding { leaf: likely.map_or(from, |f| f.leaf), rule: "root".into(), detail }
    }
}
