//! Texts beside the leaves, compared with the commitments in the leaves.

use std::collections::{BTreeMap, HashMap, HashSet};

use grantwright_domain::event::{Narrowed, Voted};
use grantwright_domain::{Digest, Event, RequestId};

use crate::report::{Findings, MOST_FINDINGS};
use crate::{CannotVerify, Source, Text};

/// What the leaves of one request commit to.
#[derive(Default)]
struct Held {
    /// Reason, task and sensitive parameters of the ask, by the name of their text.
    ask: BTreeMap<String, Digest>,
    /// Questions, answers and reasons of votes and of narrowing, with their leaves.
    later: Vec<(u64, Digest)>,
    /// The leaf of the ask.
    leaf: u64,
}

/// All commitments of a log.
#[derive(Default)]
pub(crate) struct Commitments {
    by_request: HashMap<RequestId, Held>,
    total: u64,
}

impl Commitments {
    /// Remembers what a leaf commits to.
    pub(crate) fn learn(&mut self, leaf: u64, event: &Event) {
        let later = match event {
            Event::Requested(e) => {
                let held = self.by_request.entry(e.request_id.clone()).or_default();
                if held.ask.is_empty() {
                    held.leaf = leaf;
                    held.ask.insert("reason".into(), e.terms.reason);
                    held.ask.extend(e.terms.task.map(|task| ("task".to_owned(), task)));
                    let params = e.terms.sealed_params.iter();
                    held.ask.extend(params.map(|(name, d)| (format!("param:{name}"), *d)));
                    self.total += held.ask.len() as u64;
                }
                return;
            }
            Event::Questioned(e) => (&e.request_id, e.text),
            Event::Answered(e) => (&e.request_id, e.text),
            Event::Narrowed(Narrowed { request_id, reason: Some(reason), .. })
            | Event::Voted(Voted { request_id, reason: Some(reason), .. }) => (request_id, *reason),
            _ => return,
        };
        // Of a request that the log does not hold nothing is known.
        if let Some(held) = self.by_request.get_mut(later.0) {
            held.later.push((leaf, later.1));
            self.total += 1;
        }
    }

    /// Compares the stored texts; absent ones are fine. How many commitments have no text.
    pub(crate) fn check(
        &self,
        source: &mut dyn Source,
        findings: &mut Findings,
    ) -> Result<u64, CannotVerify> {
        let mut present = 0u64;
        // Later texts that a leaf commits to, and those (a bounded number) that none does.
        let mut told: HashSet<Digest> = HashSet::new();
        let mut stray: Vec<Text> = Vec::new();
        source.texts(None, &mut |text| {
            // A text of no request in the log proves nothing and is never shown.
            let Some(held) = self.by_request.get(&text.request) else { return };
            let commitment = text.commitment();
            let wanted = held.ask.get(&text.name);
            let later = |d| held.later.iter().any(|(_, l)| *l == d);
            match (wanted, commitment) {
                (Some(wanted), _) if commitment == Some(*wanted) => present += 1,
                (None, Some(d)) if later(d) => {
                    present += u64::from(told.insert(d));
                }
                (Some(_), _) => {
                    findings.add_beside(held.leaf, "commitment", not_committed(&text));
                }
                (None, _) if stray.len() < MOST_FINDINGS => stray.push(text),
                (None, _) => {}
            }
        })?;
        for text in &stray {
            // A commitment whose own text is missing is the one that this text was put in for.
            let held = self.by_request.get(&text.request);
            let leaf = held.map_or(0, |h| {
                let untold = h.later.iter().find(|(_, d)| !told.contains(d));
                untold.map_or(h.leaf, |(leaf, _)| *leaf)
            });
            findings.add_beside(leaf, "commitment", not_committed(text));
        }
        Ok(self.total.saturating_sub(present))
    }
}

fn not_committed(text: &Text) -> String {
    let name = grantwright_domain::text::visible(&text.name);
    format!("the stored text `{name}` of request `{}` is not what a leaf commits to", text.request)
}

/// Texts of one request that are what its leaves commit to, found by their commitment.
#[derive(Debug, Clone, Default)]
pub struct Said(HashMap<Digest, String>);

impl Said {
    /// Reads the texts of a request. A text that is not what a leaf commits to is never found.
    ///
    /// # Errors
    /// [`CannotVerify::Unreadable`].
    pub fn of(source: &mut dyn Source, request: &RequestId) -> Result<Self, CannotVerify> {
        let mut said = Self::default();
        source.texts(Some(request), &mut |text| {
            if &text.request == request {
                said.learn(&text);
            }
        })?;
        Ok(said)
    }

    /// Adds one text.
    pub fn learn(&mut self, text: &Text) {
        if let Some(commitment) = text.commitment() {
            self.0.insert(commitment, text.text.clone());
        }
    }

    /// The text behind a commitment; none when it was erased.
    #[must_use]
    pub fn get(&self, commitment: &Digest) -> Option<&str> {
        self.0.get(commitment).map(String::as_str)
    }
}
