//! The prover's half of RFC 6962: roots and proofs from the hashes of complete subtrees.

use crate::{
    Hash, ProofError, node_hash,
    tree::{fold_peaks, peak_levels},
};

/// Where the hashes of complete subtrees come from: memory, tiles or a database.
///
/// Contract: the answer for a subtree never changes once given. An answer may come from an
/// untrusted place; a proof built from a wrong hash does not verify, and whoever builds one for
/// others verifies it first against a root they trust. Nothing is cached here.
pub trait HashReader {
    /// The root of the complete subtree of 2^`level` leaves that begins at leaf
    /// `index << level`.
    ///
    /// # Errors
    /// [`ProofError::MissingHash`] if that subtree is not at hand or not complete,
    /// [`ProofError::Unreadable`] if the place where it is kept failed.
    fn complete(&self, level: u32, index: u64) -> Result<Hash, ProofError>;
}

impl<R: HashReader + ?Sized> HashReader for &R {
    fn complete(&self, level: u32, index: u64) -> Result<Hash, ProofError> {
        (**self).complete(level, index)
    }
}

/// The root of the tree of the first `size` leaves.
///
/// # Errors
/// Those of the reader.
pub fn root_hash(size: u64, hashes: &impl HashReader) -> Result<Hash, ProofError> {
    range_hash(0, size, hashes)
}

/// The proof that leaf `index` is in the tree of the first `size` leaves (RFC 6962 §2.1.1),
/// the leaf's sibling first.
///
/// # Errors
/// [`ProofError::IndexOutOfRange`], or those of the reader.
pub fn inclusion_proof(
    index: u64,
    size: u64,
    hashes: &impl HashReader,
) -> Result<Vec<Hash>, ProofError> {
    if index >= size {
        return Err(ProofError::IndexOutOfRange { index, size });
    }
    let (mut start, mut end) = (0, size);
    let mut proof = Vec::with_capacity(levels(end - start));
    while end - start > 1 {
        let middle = split(start, end);
        if index < middle {
            proof.push(range_hash(middle, end, hashes)?);
            end = middle;
        } else {
            proof.push(range_hash(start, middle, hashes)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The proof that the tree of the first `new` leaves extends the tree of the first `old`
/// (RFC 6962 §2.1.2). Empty if `old` is 0 or equals `new`.
///
/// # Errors
/// [`ProofError::SizesReversed`], or those of the reader.
pub fn consistency_proof(
    old: u64,
    new: u64,
    hashes: &impl HashReader,
) -> Result<Vec<Hash>, ProofError> {
    if old > new {
        return Err(ProofError::SizesReversed { old, new });
    }
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    let (mut start, mut end) = (0, new);
    // One more where it begins with a subtree of the old tree.
    let mut proof = Vec::with_capacity(levels(end - start) + 1);
    while end != old {
        let middle = split(start, end);
        if old <= middle {
            proof.push(range_hash(middle, end, hashes)?);
            end = middle;
        } else {
            proof.push(range_hash(start, middle, hashes)?);
            start = middle;
        }
    }
    // A subtree that begins at leaf 0 is the old tree itself, whose root the verifier has.
    if start != 0 {
        proof.push(range_hash(start, end, hashes)?);
    }
    proof.reverse();
    Ok(proof)
}

/// How many levels a tree of so many leaves has at most: as many as an inclusion proof has hashes.
fn levels(leaves: u64) -> usize {
    (u64::BITS - leaves.leading_zeros()) as usize
}

/// Where RFC 6962 splits `start..end` (at least two leaves): the largest power of two below its
/// length.
fn split(start: u64, end: u64) -> u64 {
    start + (1 << (end - start - 1).ilog2())
}

/// The hash of leaves `start..end`, where `start` is a multiple of the smallest power of two that
/// is not below the length. Reads one hash for each bit set in the length.
fn range_hash(start: u64, end: u64, hashes: &impl HashReader) -> Result<Hash, ProofError> {
    let leaves = end - start;
    // Most are one complete subtree, which needs no list of peaks.
    if leaves.is_power_of_two() {
        let level = leaves.ilog2();
        return hashes.complete(level, start >> level);
    }
    let mut at = start;
    let mut peaks = Vec::with_capacity(levels(leaves));
    for level in peak_levels(leaves) {
        peaks.push(hashes.complete(level, at >> level)?);
        at += 1 << level;
    }
    Ok(fold_peaks(peaks.into_iter().rev()))
}

/// The root above complete siblings of one level; their number must be a power of two.
pub(crate) fn fold_level(mut nodes: Vec<Hash>) -> Option<Hash> {
    while nodes.len() > 1 {
        let (pairs, rest) = nodes.as_chunks::<2>();
        if !rest.is_empty() {
            return None;
        }
        nodes = pairs.iter().map(|[left, right]| node_hash(left, right)).collect();
    }
    nodes.pop()
}
