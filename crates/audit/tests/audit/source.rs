//! A log in memory that tests can spoil.

use std::collections::HashMap;
use std::sync::LazyLock;

use grantwright_audit::{CannotVerify, Options, Report, Sets, Source, Text, verify_with};
use grantwright_domain::{Digest, Event, RequestId};
use grantwright_proof::{Checkpoint, Frontier, Hash, NoteSigner, leaf_hash};

pub const ORIGIN: &str = "broker.test/log";

pub static SIGNER: LazyLock<NoteSigner> =
    LazyLock::new(|| NoteSigner::from_seed(ORIGIN, &[7; 32]).unwrap());
pub static RECOVERY: LazyLock<NoteSigner> =
    LazyLock::new(|| NoteSigner::from_seed("broker.test/recovery", &[9; 32]).unwrap());
pub static STRANGER: LazyLock<NoteSigner> =
    LazyLock::new(|| NoteSigner::from_seed(ORIGIN, &[8; 32]).unwrap());
/// Most logs of these tests rest on the same policy.
pub static SETS: LazyLock<Sets> = LazyLock::new(Sets::default);

#[derive(Clone, Default)]
pub struct Memory {
    pub leaves: Vec<(u64, Vec<u8>)>,
    pub checkpoints: Vec<(u64, String)>,
    /// Stored leaf hashes; empty: the source offers none.
    pub hashes: Vec<Hash>,
    pub blobs: HashMap<Digest, Vec<u8>>,
    pub texts: Vec<Text>,
}

/// Sizes at which a checkpoint is signed: batches of one to four leaves.
pub fn batches(leaves: usize) -> Vec<u64> {
    let mut out = Vec::new();
    let mut size = 0;
    for step in [1, 3, 2, 4].into_iter().cycle() {
        if size >= leaves {
            return out;
        }
        size = (size + step).min(leaves);
        out.push(size as u64);
    }
    out
}

impl Memory {
    /// The log of these events, signed by the real key.
    pub fn of(events: &[Event], beside: &Self) -> Self {
        let bodies = events.iter().map(|e| e.to_leaf().unwrap()).collect();
        Self::of_bodies(bodies, beside)
    }

    pub fn of_bodies(bodies: Vec<Vec<u8>>, beside: &Self) -> Self {
        Self::signed(bodies, beside, &SIGNER)
    }

    /// The log of these leaves, signed by this key in its name.
    pub fn signed(bodies: Vec<Vec<u8>>, beside: &Self, signer: &NoteSigner) -> Self {
        let hashes: Vec<Hash> = bodies.iter().map(|b| leaf_hash(b)).collect();
        let sizes = batches(bodies.len());
        Self {
            checkpoints: sign(&hashes, &sizes, signer),
            leaves: (0..).zip(bodies).collect(),
            hashes,
            blobs: beside.blobs.clone(),
            texts: beside.texts.clone(),
        }
    }

    /// The same leaves under fresh indexes, as one would write them to hide a change.
    pub fn renumber(&mut self) {
        for (index, leaf) in (0..).zip(&mut self.leaves) {
            leaf.0 = index;
        }
    }

    pub fn without_hashes(mut self) -> Self {
        self.hashes.clear();
        self
    }

    pub fn newest(&self) -> String {
        self.checkpoints.iter().max_by_key(|c| c.0).unwrap().1.clone()
    }

    pub fn verify(&mut self, kept: &[String]) -> Report {
        self.try_verify(kept).unwrap()
    }

    pub fn try_verify(&mut self, kept: &[String]) -> Result<Report, CannotVerify> {
        let options =
            Options { vkey: Some(SIGNER.vkey()), kept, sets: Some(&SETS), ..<_>::default() };
        verify_with(self, &options, &mut |_| {})
    }
}

/// Checkpoints at these sizes.
pub fn sign(hashes: &[Hash], sizes: &[u64], signer: &NoteSigner) -> Vec<(u64, String)> {
    let mut frontier = Frontier::new();
    let mut out = Vec::new();
    for hash in hashes {
        frontier.append(*hash);
        if sizes.contains(&frontier.size()) {
            let checkpoint =
                Checkpoint::new(signer.vkey().name(), frontier.size(), frontier.root());
            let checkpoint = checkpoint.unwrap();
            out.push((frontier.size(), checkpoint.sign(signer)));
        }
    }
    out
}

impl Source for Memory {
    fn leaves(&mut self, from: u64, most: usize) -> Result<Vec<(u64, Vec<u8>)>, CannotVerify> {
        let mut rows: Vec<_> = self.leaves.iter().filter(|l| l.0 >= from).cloned().collect();
        rows.sort_by_key(|l| l.0);
        rows.truncate(most);
        Ok(rows)
    }
    fn count(&mut self) -> Result<Option<u64>, CannotVerify> {
        Ok(Some(self.leaves.len() as u64))
    }
    fn checkpoints(&mut self) -> Result<Vec<(u64, String)>, CannotVerify> {
        Ok(self.checkpoints.clone())
    }
    fn leaf_hashes(&mut self, from: u64, most: usize) -> Result<Vec<Hash>, CannotVerify> {
        Ok(self.hashes.iter().skip(from as usize).take(most).copied().collect())
    }
    fn blob(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, CannotVerify> {
        Ok(self.blobs.get(digest).cloned())
    }
    fn texts(
        &mut self,
        request: Option<&RequestId>,
        each: &mut dyn FnMut(Text),
    ) -> Result<(), CannotVerify> {
        let wanted = |t: &&Text| request.is_none_or(|r| r == &t.request);
        self.texts.iter().filter(wanted).cloned().for_each(each);
        Ok(())
    }
}

pub trait Rules {
    /// True when a finding names this leaf and rule.
    fn names(&self, leaf: u64, rule: &str) -> bool;
    /// The first finding's leaf.
    fn first(&self) -> Option<u64>;
}

impl Rules for Report {
    fn names(&self, leaf: u64, rule: &str) -> bool {
        !self.ok && self.findings.iter().any(|f| f.leaf == leaf && f.rule == rule)
    }
    fn first(&self) -> Option<u64> {
        self.findings.first().map(|f| f.leaf)
    }
}
