//! Texts beside the leaves, compared with the commitments in the leaves.

use std::borrow::Cow;
use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::BuildHasher as _;
use std::sync::mpsc::sync_channel;
use std::thread;

use grantwright_domain::event::{Narrowed, Voted};
use grantwright_domain::{Digest, Event, RequestId};

use crate::report::{Findings, MOST_FINDINGS};
use crate::settled::{Mark, mark};
use crate::story::{self, Leaves};
use crate::{CannotVerify, Source, Text};

/// Texts to a page, and pages that a thread may have waiting.
const PAGE: usize = 256;
const AHEAD: usize = 4;
/// More threads than this find nothing to do: one thread reads.
const MOST_THREADS: usize = 8;

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

impl Held {
    /// The commitments of the leaves of one request.
    fn of(leaves: &Leaves) -> Self {
        let mut held = Self::default();
        for (leaf, event) in leaves {
            let Ok(event) = event else { continue };
            each_commitment(event, |name, digest| match name {
                Some(name) => {
                    held.leaf = *leaf;
                    held.ask.insert(name.into_owned(), digest);
                }
                None => held.later.push((*leaf, digest)),
            });
        }
        held
    }
}

/// What a leaf commits to: by name what belongs to the ask, without one what was said later.
fn each_commitment(event: &Event, mut each: impl FnMut(Option<Cow<'static, str>>, Digest)) {
    match event {
        Event::Requested(e) => {
            each(Some("reason".into()), e.terms.reason);
            if let Some(task) = e.terms.task {
                each(Some("task".into()), task);
            }
            for (name, digest) in &e.terms.sealed_params {
                each(Some(format!("param:{name}").into()), *digest);
            }
        }
        Event::Questioned(e) => each(None, e.text),
        Event::Answered(e) => each(None, e.text),
        Event::Narrowed(Narrowed { reason: Some(reason), .. })
        | Event::Voted(Voted { reason: Some(reason), .. }) => each(None, *reason),
        _ => {}
    }
}

/// All commitments of a log, each as a number that only this verification can make: a log tells of
/// millions, and what they are is asked again only where a text is not what it should be.
#[derive(Default)]
pub(crate) struct Commitments {
    key: RandomState,
    made: Vec<u64>,
    /// The requests whose texts are compared, where that is not all of them: those that began since an
    /// earlier verification.
    only: Option<HashSet<Mark>>,
}

/// What came of comparing texts.
#[derive(Default)]
struct Compared {
    /// Texts that are what a leaf commits to.
    present: u64,
    /// Bounded: requests with a text that is not what a leaf commits to, or that are not there.
    doubted: BTreeSet<RequestId>,
}

impl Commitments {
    /// Those of requests that begin from now on.
    pub(crate) fn from_now() -> Self {
        Self { only: Some(HashSet::new()), ..Self::default() }
    }

    fn is_asked(&self, request: &RequestId) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&mark(request.as_str())))
    }

    /// Remembers what a leaf commits to.
    pub(crate) fn learn(&mut self, event: &Event) {
        let Some(request) = event.request_id() else { return };
        let Self { key, made, only } = self;
        if let Some(only) = only {
            let mark = mark(request.as_str());
            if matches!(event, Event::Requested(_)) {
                only.insert(mark);
            } else if !only.contains(&mark) {
                return;
            }
        }
        each_commitment(event, |name, digest| {
            made.push(key.hash_one((request, name.as_deref(), digest)));
        });
    }

    /// Compares the stored texts; absent ones are fine, and so are those of requests that the log does
    /// not hold, which prove nothing and are never shown. How many commitments have no text.
    pub(crate) fn check(
        &mut self,
        source: &mut dyn Source,
        findings: &mut Findings,
    ) -> Result<u64, CannotVerify> {
        self.made.sort_unstable();
        let Compared { present, doubted } = self.compare(source)?;
        for request in doubted.iter().take(MOST_FINDINGS) {
            let leaves = story::leaves_of(request, u64::MAX, source)?;
            if !leaves.is_empty() {
                name_wrong(request, &Held::of(&leaves), source, findings)?;
            }
        }
        Ok((self.made.len() as u64).saturating_sub(present))
    }

    /// Compares all texts; many of them on threads beside the one that reads them.
    fn compare(&self, source: &mut dyn Source) -> Result<Compared, CannotVerify> {
        let count = thread::available_parallelism().map_or(2, usize::from).clamp(1, MOST_THREADS);
        thread::scope(|scope| {
            let (mut page, mut turn) = (Vec::new(), 0);
            let mut threads = Vec::new();
            source.texts(None, &mut |text| {
                page.push(text);
                if page.len() < PAGE {
                    return;
                }
                if threads.is_empty() {
                    threads.extend((0..count).map(|_| {
                        let (give, pages) = sync_channel::<Vec<Text>>(AHEAD);
                        (give, scope.spawn(move || self.compared(pages.iter().flatten())))
                    }));
                }
                if let Some((give, _)) = threads.get(turn % count) {
                    // Who takes nothing any more has panicked, which is told below.
                    let _ = give.send(std::mem::take(&mut page));
                }
                turn += 1;
            })?;
            let mut all = self.compared(page.into_iter());
            for (give, thread) in threads {
                drop(give);
                let lost = "a thread of the verification ended early";
                let done = thread.join().map_err(|_| CannotVerify::Unreadable(lost.into()))?;
                all.present += done.present;
                all.doubted.extend(done.doubted);
            }
            Ok(all)
        })
    }

    fn compared(&self, texts: impl Iterator<Item = Text>) -> Compared {
        let mut out = Compared::default();
        for text in texts {
            if !self.is_asked(&text.request) {
            } else if self.holds(&text) {
                out.present += 1;
            } else if out.doubted.len() < MOST_FINDINGS {
                out.doubted.insert(text.request);
            }
        }
        out
    }

    fn holds(&self, text: &Text) -> bool {
        let Some(digest) = text.commitment() else { return false };
        let made = |name: Option<&str>| {
            self.made.binary_search(&self.key.hash_one((&text.request, name, digest))).is_ok()
        };
        let of_ask =
            matches!(text.name.as_str(), "reason" | "task") || text.name.starts_with("param:");
        made(Some(&text.name)) || (!of_ask && made(None))
    }
}

/// Names the texts of a request that are not what its leaves commit to.
fn name_wrong(
    request: &RequestId,
    held: &Held,
    source: &mut dyn Source,
    findings: &mut Findings,
) -> Result<(), CannotVerify> {
    // Later texts that a leaf commits to, and those that none does.
    let mut told: HashSet<Digest> = HashSet::new();
    let mut stray: Vec<Text> = Vec::new();
    source.texts(Some(request), &mut |text| {
        let commitment = text.commitment();
        let later = |d| held.later.iter().any(|(_, l)| *l == d);
        match (held.ask.get(&text.name), commitment) {
            (Some(wanted), _) if commitment == Some(*wanted) => {}
            (None, Some(d)) if later(d) => drop(told.insert(d)),
            (Some(_), _) => findings.add_beside(held.leaf, "commitment", not_committed(&text)),
            (None, _) if stray.len() < MOST_FINDINGS => stray.push(text),
            (None, _) => {}
        }
    })?;
    for text in &stray {
        // A commitment whose own text is missing is the one that this text was put in for.
        let untold = held.later.iter().find(|(_, d)| !told.contains(d));
        let leaf = untold.map_or(held.leaf, |(leaf, _)| *leaf);
        findings.add_beside(leaf, "commitment", not_committed(text));
    }
    Ok(())
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
