//! The tree over the leaves, compared with every checkpoint at its size.

use std::collections::BTreeMap;

use grantwright_proof::{Checkpoint, Frontier, Hash, leaf_hash};

use crate::pipeline::PAGE;
use crate::report::{Findings, Rollback};
use crate::{CannotVerify, Source};

/// Grows with the leaves, and knows where the log stopped being what its checkpoints promise.
pub(crate) struct Roots {
    /// What verified checkpoints promise, by size.
    stored: Vec<Promise>,
    /// How many of them were compared.
    compared: usize,
    frontier: Frontier,
    /// The tree at the last checkpoint that agreed.
    good: Frontier,
    /// A checkpoint disagreed, and the leaves to blame could not be named: later roots say nothing.
    broken: bool,
    /// Checkpoints kept outside, with the root that the log has at their size.
    kept: Vec<(Checkpoint, Option<Hash>)>,
}

/// That the log has this root at this size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Promise {
    pub(crate) size: u64,
    pub(crate) root: Hash,
}

impl Roots {
    /// `known`: the tree that was verified before, and what was promised of it.
    pub(crate) fn new(
        mut stored: Vec<Promise>,
        kept: Vec<Checkpoint>,
        known: Option<(&Frontier, &[Promise])>,
    ) -> Self {
        stored.sort_by_key(|promise| promise.size);
        let (frontier, told) = known.map_or_else(Default::default, |(f, told)| (f.clone(), told));
        let size = frontier.size();
        let root_then = |c: &Checkpoint| {
            let of_its_size = told.iter().filter(|p| p.size == c.size() && p.root == c.root());
            of_its_size.map(|p| p.root).next().filter(|_| c.size() < size)
        };
        let mut roots = Self {
            compared: stored.partition_point(|promise| promise.size < size),
            stored,
            good: frontier.clone(),
            frontier,
            broken: false,
            kept: kept.into_iter().map(|c| (root_then(&c), c)).map(|(r, c)| (c, r)).collect(),
        };
        roots.keep();
        roots
    }

    /// The tree over the leaves so far, and what was promised of it.
    pub(crate) fn known(&self) -> (Frontier, Vec<Promise>) {
        (self.frontier.clone(), self.stored.clone())
    }

    /// Leaves so far.
    pub(crate) fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The newest stored checkpoint that verified.
    pub(crate) fn newest(&self) -> Option<Promise> {
        self.stored.last().copied()
    }

    /// Adds a leaf and compares the root with the checkpoints of this size.
    pub(crate) fn add(
        &mut self,
        leaf: Hash,
        source: &mut dyn Source,
        findings: &mut Findings,
    ) -> Result<(), CannotVerify> {
        self.frontier.append(leaf);
        let size = self.frontier.size();
        while let Some(checkpoint) = self.stored.get(self.compared) {
            if checkpoint.size > size {
                break;
            }
            let (at, promised) = (checkpoint.size, checkpoint.root);
            self.compared += 1;
            if self.broken || at < size {
                continue;
            }
            if promised == self.frontier.root() {
                self.good.clone_from(&self.frontier);
            } else {
                self.blame(promised, source, findings)?;
            }
        }
        self.keep();
        Ok(())
    }

    /// Whether what is stored of the tree that was verified before is what was found then.
    pub(crate) fn still_holds(&self) -> bool {
        let now = self.stored.iter().skip(self.compared).take_while(|p| p.size == self.size());
        now.map(|p| p.root).all(|root| root == self.frontier.root())
    }

    /// Remembers the root at the sizes of kept checkpoints.
    fn keep(&mut self) {
        for (checkpoint, root) in &mut self.kept {
            if checkpoint.size() == self.frontier.size() {
                *root = Some(self.frontier.root());
            }
        }
    }

    /// Names the leaves that are not what the checkpoint of the present size promises. Stored leaf
    /// hashes are believed where they lead from the last good tree to the promised root.
    fn blame(
        &mut self,
        promised: Hash,
        source: &mut dyn Source,
        findings: &mut Findings,
    ) -> Result<(), CannotVerify> {
        let size = self.frontier.size();
        let (proven, named) = self.name(size, promised, source, findings)?;
        if let Some(proven) = proven {
            self.frontier.clone_from(&proven);
            self.good = proven;
        }
        if !named {
            self.broken = true;
            findings.changed(self.good.size().min(size - 1), size);
        }
        Ok(())
    }

    /// Compares the leaves after the last good tree with stored leaf hashes, if those lead to the
    /// promised root of `size` leaves: the tree that they prove, and whether a leaf was named.
    fn name(
        &self,
        size: u64,
        promised: Hash,
        source: &mut dyn Source,
        findings: &mut Findings,
    ) -> Result<(Option<Frontier>, bool), CannotVerify> {
        let from = self.good.size();
        let hashes = stored_hashes(from, size, source)?;
        let mut proven = self.good.clone();
        hashes.iter().for_each(|hash| proven.append(*hash));
        if proven.size() != size || proven.root() != promised {
            return Ok((None, false));
        }
        let mut named = false;
        let mut next = from;
        while next < size && !findings.is_full() {
            let page = source.leaves(next, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            next = last.saturating_add(1).max(next.saturating_add(1));
            for (index, body) in page.iter().filter(|(index, _)| *index < size) {
                let at = usize::try_from(index.saturating_sub(from)).unwrap_or(usize::MAX);
                if hashes.get(at) != Some(&leaf_hash(body)) {
                    named = true;
                    let detail =
                        format!("this is not the leaf that the checkpoint of {size} leaves covers");
                    findings.add(*index, "root", detail);
                }
            }
        }
        Ok((Some(proven), named))
    }

    /// After the last leaf: does the newest checkpoint cover exactly these leaves?
    pub(crate) fn finish(
        &self,
        source: &mut dyn Source,
        findings: &mut Findings,
    ) -> Result<(), CannotVerify> {
        let leaves = self.size();
        match self.stored.last().map(|promise| promise.size) {
            None if leaves == 0 => {}
            Some(0) if leaves == 0 => {
                findings.add(0, "truncated", "there is a checkpoint and no leaf");
            }
            None => findings.add(0, "uncovered", "no checkpoint covers the leaves"),
            Some(size) if size > leaves => {
                let detail =
                    format!("the newest checkpoint covers {size} leaves, the log holds {leaves}");
                findings.add(leaves, "truncated", detail);
                // The first checkpoint that was not reached covers the last leaves.
                let next = self.stored.get(self.compared).filter(|_| !self.broken);
                if let Some(checkpoint) = next.filter(|_| self.good.size() < leaves) {
                    self.name(checkpoint.size, checkpoint.root, source, findings)?;
                }
            }
            Some(size) if size < leaves => findings.add(
                size,
                "uncovered",
                format!("no checkpoint covers the leaves after the first {size}"),
            ),
            Some(_) => {}
        }
        Ok(())
    }

    /// How many stored checkpoints verified.
    pub(crate) fn verified(&self) -> u64 {
        self.stored.len() as u64
    }

    /// Size of the largest kept checkpoint.
    pub(crate) fn largest_kept(&self) -> Option<u64> {
        self.kept.iter().map(|(c, _)| c.size()).max()
    }

    /// Compares the kept checkpoints with the log, of which `leaves` are stored. Where the walk
    /// ended early (`whole` is false), those beyond it are compared with stored checkpoints only.
    pub(crate) fn rollback(
        &self,
        origin: &str,
        whole: bool,
        leaves: u64,
        findings: &mut Findings,
    ) -> Rollback {
        if self.kept.is_empty() {
            return Rollback::NotChecked;
        }
        // What is promised by the log's own checkpoints, for telling a fork from an edit.
        let own: BTreeMap<u64, Hash> = self.stored.iter().map(|c| (c.size, c.root)).collect();
        let agrees = |c: &Checkpoint, root: &Option<Hash>| {
            c.origin() == origin
                && (*root == Some(c.root()) || own.get(&c.size()) == Some(&c.root()))
        };
        let known = self
            .kept
            .iter()
            .filter(|(c, root)| agrees(c, root) && c.size() <= leaves)
            .map(|(c, _)| c.size())
            .max()
            .unwrap_or(0);
        let mut found = false;
        for (checkpoint, root) in &self.kept {
            let size = checkpoint.size();
            if size > leaves {
                found = true;
                let detail =
                    format!("a kept checkpoint covers {size} leaves, the log holds {leaves}");
                findings.add(leaves, "rollback", detail);
            } else if !agrees(checkpoint, root) && (whole || root.is_some()) {
                found = true;
                let detail = if checkpoint.origin() == origin {
                    format!("a kept checkpoint of {size} leaves promises other leaves than these")
                } else {
                    let other = grantwright_domain::text::visible(checkpoint.origin());
                    format!("a kept checkpoint is of the log `{other}`, this is `{origin}`")
                };
                findings.add(known.min(size.saturating_sub(1)), "fork", detail);
            }
        }
        if found { Rollback::Found } else { Rollback::None }
    }
}

fn stored_hashes(from: u64, to: u64, source: &mut dyn Source) -> Result<Vec<Hash>, CannotVerify> {
    let mut out = Vec::new();
    let mut next = from;
    while next < to {
        let most = usize::try_from(to - next).unwrap_or(PAGE).min(PAGE);
        let mut page = source.leaf_hashes(next, most)?;
        page.truncate(most);
        if page.is_empty() {
            break;
        }
        next += page.len() as u64;
        out.append(&mut page);
    }
    Ok(out)
}
