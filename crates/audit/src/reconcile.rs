//! Issued to used: a backend's own audit log, compared with what this log says was issued.
//!
//! A backend's event belongs to a lease by the access key, else by the session's name with its source identity,
//! else by tags, else by the backend's lease id or accessor. What belongs to none, and was made with what only
//! the broker hands out, was never minted by us.

pub mod cloudtrail;
mod leases;
pub mod vault;

use std::collections::{BTreeMap, BTreeSet};

use grantwright_domain::{LeaseId, RequestId, Timestamp};
use serde::{Deserialize, Serialize};

pub use leases::{Lease, Leases};

/// Findings that are listed; the rest is counted.
pub const MOST_FINDINGS: usize = 10_000;
/// Different calls that are told apart for one lease.
const MOST_CALLS: usize = 64;
/// A call may be recorded by the backend's clock, so far from ours.
const CLOCK_MS: i64 = 60_000;

/// What is known so far. It is kept between runs, so that each event is counted once.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Origin of the log that it is about.
    pub origin: String,
    /// How far each file was read.
    #[serde(default)]
    pub files: BTreeMap<String, Place>,
    /// What each lease was used for.
    #[serde(default)]
    pub used: BTreeMap<LeaseId, Use>,
    /// What does not agree.
    #[serde(default)]
    pub findings: Vec<Mismatch>,
    /// How many there are of each rule.
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
    /// Backend events read.
    #[serde(default)]
    pub events: u64,
    /// Of them, those of a lease of ours.
    #[serde(default)]
    pub matched: u64,
    /// Of them, those of other principals.
    #[serde(default)]
    pub unrelated: u64,
    /// Entries that are no events.
    #[serde(default)]
    pub malformed: u64,
    /// The span that the backend's events cover.
    #[serde(default)]
    pub span: Option<(Timestamp, Timestamp)>,
}

/// How far a file was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Bytes read of it, always whole entries.
    pub offset: u64,
    /// SHA-256 of its first bytes, hexadecimal: another file under the same name begins anew.
    pub head: String,
    /// How many bytes `head` covers.
    pub head_len: u64,
}

/// What a lease was used for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Use {
    /// Calls that the backend allowed.
    pub calls: u64,
    /// Calls that it refused.
    pub refused: u64,
    /// The first.
    pub first: Option<Timestamp>,
    /// The last.
    pub last: Option<Timestamp>,
    /// Calls by name; of many different ones the rest is `…`.
    pub by_call: BTreeMap<String, u64>,
    /// The backend itself says that it minted it.
    #[serde(default)]
    pub minted: bool,
}

/// Something that does not agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mismatch {
    /// A short stable word: `outside`, `after-end`, `never-minted`, `wrong-identity`, `unknown-lease`.
    pub rule: String,
    /// When the backend saw it.
    pub at: Timestamp,
    /// The lease that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
    /// Its request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// The backend's name for the event.
    pub event: String,
    /// In words; safe to show.
    pub detail: String,
}

/// What a lease came to.
#[derive(Debug, Clone, Serialize)]
pub struct LeaseView {
    /// The lease.
    pub lease_id: LeaseId,
    /// Its request.
    pub request_id: RequestId,
    /// Leaf of its "issued".
    pub leaf: u64,
    /// Whose.
    pub agent: String,
    /// For what.
    pub scope: String,
    /// Who approved it; empty: policy alone.
    pub approvers: Vec<String>,
    /// Its life.
    pub from: Timestamp,
    /// Its end.
    pub until: Timestamp,
    /// `used`, `refused` (only refused calls), `never used`, or `not covered` by the files that were read.
    pub state: &'static str,
    /// What it was used for.
    pub used: Use,
}

impl Known {
    /// Of a log.
    #[must_use]
    pub fn new(origin: &str) -> Self {
        Self { origin: origin.into(), ..Self::default() }
    }

    fn seen(&mut self, at: Timestamp) {
        self.events += 1;
        self.span = Some(match self.span {
            None => (at, at),
            Some((from, until)) => (from.min(at), until.max(at)),
        });
    }

    fn call(&mut self, lease: &Lease, at: Timestamp, name: &str, allowed: bool) {
        self.matched += 1;
        let used = self.used.entry(lease.id.clone()).or_default();
        if allowed {
            used.calls += 1;
        } else {
            used.refused += 1;
        }
        used.first = Some(used.first.map_or(at, |first| first.min(at)));
        used.last = Some(used.last.map_or(at, |last| last.max(at)));
        let known = used.by_call.contains_key(name) || used.by_call.len() < MOST_CALLS;
        *used.by_call.entry(if known { name } else { "…" }.to_owned()).or_default() += 1;
    }

    fn found(&mut self, mismatch: Mismatch) {
        *self.counts.entry(mismatch.rule.clone()).or_default() += 1;
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(mismatch);
        }
    }

    /// Every lease of the backend, with what it came to, in the order of their leaves.
    #[must_use]
    pub fn leases(&self, leases: &Leases, of: Backend) -> Vec<LeaseView> {
        let covered = |lease: &Lease| {
            // A backend may cut its times to whole seconds.
            self.span.is_some_and(|(from, until)| {
                lease.from.plus_millis(-CLOCK_MS) <= until && lease.until >= from
            })
        };
        let mut out: Vec<LeaseView> = leases
            .all()
            .filter(|lease| lease.backend == of)
            .map(|lease| {
                let used = self.used.get(&lease.id).cloned().unwrap_or_default();
                let state = match (used.calls, used.refused) {
                    (1.., _) => "used",
                    (0, 1..) => "refused",
                    (0, 0) if covered(lease) => "never used",
                    (0, 0) => "not covered",
                };
                LeaseView {
                    lease_id: lease.id.clone(),
                    request_id: lease.request.clone(),
                    leaf: lease.leaf,
                    agent: lease.agent.to_string(),
                    scope: lease.scope.to_string(),
                    approvers: lease.approvers.iter().map(ToString::to_string).collect(),
                    from: lease.from,
                    until: lease.until,
                    state,
                    used,
                }
            })
            .collect();
        out.sort_by_key(|view| view.leaf);
        out
    }
}

/// Whose audit log it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// AWS.
    CloudTrail,
    /// Vault or OpenBao.
    Vault,
    /// None of them.
    Other,
}

/// Names that only the broker hands out: whoever bears one was minted by us, or pretends.
type Names = BTreeSet<String>;
