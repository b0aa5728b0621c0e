//! Reports for auditors: for each control that such a log can evidence, what was promised, the population, what
//! happened, the exceptions, and a sample in which each line names its leaf and carries its proof.
//!
//! The whole population is tested, not only the sample. The sample depends on nothing but the seed and the
//! leaves, so that an auditor who draws it again draws the same. A report reads no clock: the same log, window
//! and seed give the same report.

mod charts;
mod controls;
mod csv;
mod gather;
mod html;
mod people;
mod prove;
mod sample;

use std::collections::BTreeMap;

use grantwright_domain::{AgentId, HumanId, RequestId, Timestamp};
use grantwright_proof::Vkey;
use serde::Serialize;
use serde_json::Value;

use crate::{CannotVerify, Options, Source, verify_with};

pub use charts::{Chart, Series};

/// Exceptions of one control that are listed; the rest is counted.
pub const MOST_EXCEPTIONS: usize = 1000;

/// Which report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Who may what, who decides, what was alive for how long.
    AccessReview,
    /// One agent.
    Agent(AgentId),
    /// NIST SP 800-53 r5 controls, as FedRAMP baselines select them.
    FedRamp,
    /// One person's decisions.
    Reviewer(HumanId),
    /// SOC 2 trust services criteria.
    Soc2,
}

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Which report.
    pub kind: Kind,
    /// From this moment on.
    pub from: Timestamp,
    /// Until before this moment.
    pub until: Timestamp,
    /// What the sample is drawn with.
    pub seed: String,
    /// Lines in each sample.
    pub sample: usize,
    /// The time now, if leaves that claim a later one are findings.
    pub now: Option<Timestamp>,
}

/// A report.
#[derive(Debug, Clone, Serialize)]
pub struct Evidence {
    /// Its title.
    pub title: String,
    /// Origin of the log.
    pub origin: String,
    /// The log's verifier key, by which the checkpoint is signed.
    pub vkey: String,
    /// From.
    pub from: Timestamp,
    /// Until.
    pub until: Timestamp,
    /// What the samples were drawn with.
    pub seed: String,
    /// The signed checkpoint that every proof leads to.
    pub checkpoint: String,
    /// Leaves under it.
    pub leaves: u64,
    /// What verification of the whole log found.
    pub verification: Verification,
    /// Numbers that say it in short: a name and its value.
    pub summary: Vec<(String, String)>,
    /// Pictures.
    pub charts: Vec<Chart>,
    /// Controls and what was found.
    pub controls: Vec<Section>,
    /// Other tables.
    pub tables: Vec<Table>,
}

/// What `audit verify` says of the same log.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// Hashes and conduct are proven.
    pub ok: bool,
    /// How many findings there are, and the first.
    pub findings: usize,
    /// The first finding.
    pub first: Option<String>,
    /// What it cannot know.
    pub not_covered: Vec<String>,
}

/// One control.
#[derive(Debug, Clone, Serialize)]
pub struct Section {
    /// For example `CC6.3`.
    pub control: String,
    /// Its title.
    pub title: String,
    /// What was promised, testable.
    pub promise: String,
    /// What is counted.
    pub population_is: String,
    /// How many there are; all were tested.
    pub population: u64,
    /// How many did not keep the promise.
    pub exceptions: u64,
    /// Those, the first [`MOST_EXCEPTIONS`].
    pub failing: Vec<Line>,
    /// The sample.
    pub sample: Vec<Line>,
}

/// One leaf of a population.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// Index of its leaf.
    pub leaf: u64,
    /// When.
    pub at: Timestamp,
    /// Its request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// What happened; safe to show.
    pub words: String,
    /// Why it does not keep the promise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exception: Option<String>,
    /// The leaf and its proof: `grantwright audit receipt` verifies it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Value>,
}

/// A table for people who look things up.
#[derive(Debug, Clone, Serialize)]
pub struct Table {
    /// Its title.
    pub title: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// Its rows.
    pub rows: Vec<Vec<String>>,
}

/// Makes a report. It verifies the whole log first, and says what it found.
///
/// # Errors
/// Those of [`verify_with`]; [`CannotVerify::NothingToVerify`] for a window that is empty or turned round.
pub fn report(
    source: &mut dyn Source,
    vkey: Option<&Vkey>,
    kept: &[String],
    wanted: &Wanted,
) -> Result<Evidence, CannotVerify> {
    if wanted.from >= wanted.until {
        return Err(CannotVerify::NothingToVerify);
    }
    let options = Options { vkey, kept, now: wanted.now, ..Options::default() };
    let verified = verify_with(source, &options, &mut |_| {})?;
    let data = gather::gather(source, vkey, wanted)?;
    let controls = match wanted.kind {
        Kind::Soc2 => controls::SOC2,
        Kind::FedRamp => controls::FEDRAMP,
        Kind::AccessReview => controls::ACCESS,
        Kind::Agent(_) | Kind::Reviewer(_) => controls::ONE,
    };
    let mut sections = controls::sections(controls, &data, wanted, verified.findings.len());
    prove::attach(&mut sections, source, &data)?;
    Ok(Evidence {
        title: title(&wanted.kind),
        origin: data.origin.clone(),
        vkey: data.vkey.clone(),
        from: wanted.from,
        until: wanted.until,
        seed: wanted.seed.clone(),
        checkpoint: data.checkpoint.clone(),
        leaves: data.size,
        verification: Verification {
            ok: verified.ok,
            findings: verified.findings.len(),
            first: verified.findings.first().map(|f| {
                grantwright_domain::text::visible(&format!(
                    "leaf {}: {}: {}",
                    f.leaf, f.rule, f.detail
                ))
            }),
            not_covered: verified.undetectable.clone(),
        },
        summary: people::summary(&data),
        charts: charts::all(&data, wanted),
        controls: sections,
        tables: people::tables(&data, wanted),
    })
}

impl Evidence {
    /// One page of HTML that prints well; no script, nothing from elsewhere.
    #[must_use]
    pub fn to_html(&self) -> String {
        html::page(self)
    }

    /// One row a line of every population's sample and exceptions.
    #[must_use]
    pub fn to_csv(&self) -> String {
        csv::rows(self)
    }
}

fn title(kind: &Kind) -> String {
    match kind {
        Kind::AccessReview => "Access review".into(),
        Kind::Agent(agent) => format!("Agent {agent}"),
        Kind::FedRamp => "FedRAMP: NIST SP 800-53 r5 controls".into(),
        Kind::Reviewer(human) => format!("Reviewer {human}"),
        Kind::Soc2 => "SOC 2: trust services criteria".into(),
    }
}

/// Counts by name, the largest first.
fn ranked(counts: &BTreeMap<String, u64>) -> Vec<(&String, u64)> {
    let mut out: Vec<_> = counts.iter().map(|(name, n)| (name, *n)).collect();
    out.sort_by_key(|(name, n)| (std::cmp::Reverse(*n), (*name).clone()));
    out
}
