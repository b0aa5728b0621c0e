//! Proofs of the lines of a report: the tree over all leaves, and a receipt for each line.

use grantwright_proof::{
    Checkpoint, Hash, HashReader, ProofError, Receipt, TlogProof, Vkey, inclusion_proof, node_hash,
};

use super::Section;
use super::gather::Data;
use crate::{CannotVerify, Source, signatures};

/// The complete subtrees of a tree: 64 bytes a leaf.
#[derive(Default)]
pub(super) struct Tree(Vec<Vec<Hash>>);

impl Tree {
    pub(super) fn append(&mut self, leaf: Hash) {
        let (mut level, mut hash) = (0, leaf);
        loop {
            if self.0.len() <= level {
                self.0.push(Vec::new());
            }
            let Some(row) = self.0.get_mut(level) else { return };
            row.push(hash);
            let (Some([left, right]), true) = (row.last_chunk::<2>(), row.len().is_multiple_of(2))
            else {
                return;
            };
            hash = node_hash(left, right);
            level += 1;
        }
    }
}

impl HashReader for Tree {
    fn complete(&self, level: u32, index: u64) -> Result<Hash, ProofError> {
        let row = usize::try_from(level).ok().and_then(|level| self.0.get(level));
        let at = usize::try_from(index).ok();
        let found = row.zip(at).and_then(|(row, at)| row.get(at).copied());
        found.ok_or(ProofError::MissingHash { level, index })
    }
}

/// The newest stored checkpoint that the key signed and the leaves fill.
pub(super) fn newest(
    source: &mut dyn Source,
    vkey: &Vkey,
    leaves: u64,
) -> Result<(String, Checkpoint), CannotVerify> {
    let mut stored = source.checkpoints()?;
    stored.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    for (_, note) in stored {
        if let Ok(checkpoint) = signatures::open(&note, vkey)
            && checkpoint.size() <= leaves
        {
            return Ok((note, checkpoint));
        }
    }
    Err(CannotVerify::NothingToVerify)
}

/// Gives each line its receipt.
pub(super) fn attach(
    sections: &mut [Section],
    source: &mut dyn Source,
    data: &Data,
) -> Result<(), CannotVerify> {
    for section in sections {
        for line in section.sample.iter_mut().chain(&mut section.failing) {
            // A leaf newer than the last checkpoint has no proof yet.
            let Ok(hashes) = inclusion_proof(line.leaf, data.size, &data.tree) else { continue };
            let page = source.leaves(line.leaf, 1)?;
            let Some((_, leaf)) = page.into_iter().find(|(index, _)| *index == line.leaf) else {
                continue;
            };
            let checkpoint = data.checkpoint.clone();
            let proof = TlogProof { extra: None, index: line.leaf, hashes, checkpoint };
            line.receipt = serde_json::to_value(Receipt { leaf, proof }).ok();
        }
    }
    Ok(())
}
