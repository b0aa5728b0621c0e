//! Texts beside the leaves, compared with the commitments in the leaves.

use std::collections::{BTreeMap, HashMap};

use grantwright_domain::{Digest, Event, RequestId};

use crate::report::Findings;
use crate::{CannotVerify, Source, Text};

/// What the leaves of one request commit to.
#[derive(Default)]
struct Held {
    /// Reason, task and sensitive parameters of the ask, by the name of their text.
    ask: BTreeMap<String, Digest>,
    /// Questions, answers and reasons of votes.
    later: Vec<Digest>,
    /// The leaf to name when a text is none of these.
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
            Event::Voted(e) => match e.reason {
                Some(reason) => (&e.request_id, reason),
                None => return,
            },
            _ => return,
        };
        self.by_request.entry(later.0.clone()).or_default().later.push(later.1);
        self.total += 1;
    }

    /// Compares the stored texts; absent ones are fine. How many commitments have no text.
    pub(crate) fn check(
        &self,
        source: &mut dyn Source,
        findings: &mut Findings,
    ) -> Result<u64, CannotVerify> {
        let mut present = 0u64;
        source.texts(None, &mut |text| {
            // A text of no request in the log proves nothing and is never shown.
            let Some(held) = self.by_request.get(&text.request) else { return };
            if held.admits(&text) {
                present += 1;
            } else {
                let name = grantwright_domain::text::visible(&text.name);
                let detail = format!(
                    "the stored text `{name}` of request `{}` is not what the leaf commits to",
                    text.request
                );
                findings.add(held.leaf, "commitment", detail);
            }
        })?;
        Ok(self.total.saturating_sub(present))
    }
}

impl Held {
    fn admits(&self, text: &Text) -> bool {
        let Some(commitment) = text.commitment() else { return false };
        match self.ask.get(&text.name) {
            Some(wanted) => *wanted == commitment,
            None => self.later.contains(&commitment),
        }
    }
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
