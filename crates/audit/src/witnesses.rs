//! Cosignatures: which checkpoint enough of the given witnesses vouch for.

use grantwright_proof::{Checkpoint, Vkey, WitnessKey, cosignatures};
use serde::Serialize;

use crate::report::Findings;
use crate::signatures;

/// The checkpoint of the most leaves that enough witnesses cosigned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Witnessed {
    /// Its leaves.
    pub size: u64,
    /// Who cosigned it, of the witnesses that were given.
    pub witnesses: Vec<String>,
    /// The first of their times, by their own clocks: seconds since the epoch.
    pub since: u64,
}

/// Looks for it among the checkpoints of a log.
pub(crate) struct Search<'a> {
    witnesses: &'a [WitnessKey],
    quorum: usize,
    found: Option<Witnessed>,
}

impl<'a> Search<'a> {
    pub(crate) fn new(witnesses: &'a [WitnessKey], quorum: usize) -> Self {
        Self { witnesses, quorum, found: None }
    }

    /// Looks at a note; `checkpoint` is what the log's key signed in it.
    pub(crate) fn note(&mut self, note: &str, checkpoint: &Checkpoint, findings: &mut Findings) {
        // One line is the log's own.
        let cosigned = note.lines().filter(|line| line.starts_with('—')).nth(1).is_some();
        if self.witnesses.is_empty() || !cosigned {
            return;
        }
        let size = checkpoint.size();
        let all = match cosignatures(note, self.witnesses) {
            Ok(all) => all,
            Err(why) => {
                let detail = format!("the cosigned checkpoint of {size} leaves: {why}");
                findings.add(size.saturating_sub(1), "witness", detail);
                return;
            }
        };
        let newer = self.found.as_ref().is_none_or(|found| found.size < size);
        if all.len() >= self.quorum && newer {
            self.found = Some(Witnessed {
                size,
                witnesses: all.iter().map(|c| c.witness.name().to_owned()).collect(),
                since: all.iter().map(|c| c.time).min().unwrap_or(0),
            });
        }
    }

    /// As [`Search::note`], of a note that is not opened yet.
    pub(crate) fn closed(
        &mut self,
        note: &str,
        key: &Vkey,
        findings: &mut Findings,
    ) -> Option<Checkpoint> {
        match signatures::open(note, key) {
            Ok(checkpoint) => {
                self.note(note, &checkpoint, findings);
                Some(checkpoint)
            }
            Err(why) => {
                findings.add(0, "signature", format!("the cosigned checkpoint: {why}"));
                None
            }
        }
    }

    /// What was found. That witnesses were given and too few of them cosigned is a finding.
    pub(crate) fn end(self, findings: &mut Findings) -> Option<Witnessed> {
        if self.found.is_none() && !self.witnesses.is_empty() {
            let detail = format!(
                "no checkpoint of this log is cosigned by {} of the {} witnesses that were given",
                self.quorum,
                self.witnesses.len()
            );
            findings.add(0, "witness", detail);
        }
        self.found
    }
}
