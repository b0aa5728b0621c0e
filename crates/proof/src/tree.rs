//! The verifier's half of RFC 6962: checking proofs, and the frontier from which a tree grows.

use crate::{EMPTY_ROOT, Hash, MAX_SIZE, ProofError, node_hash};

/// Checks that `leaf` is leaf number `index` of the tree of `size` leaves with this `root`
/// (RFC 9162 §2.1.3.2). The proof must hold exactly the hashes needed.
///
/// # Errors
/// [`ProofError::IndexOutOfRange`], [`ProofError::WrongLength`] or [`ProofError::RootMismatch`].
pub fn verify_inclusion(
    leaf: Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: Hash,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::IndexOutOfRange { index, size });
    }
    let mut node = index;
    let mut last = size - 1;
    let mut hash = leaf;
    for sibling in proof {
        if last == 0 {
            return Err(ProofError::WrongLength);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            climb_to_right_child(&mut node, &mut last);
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(ProofError::WrongLength);
    }
    if hash == root { Ok(()) } else { Err(ProofError::RootMismatch) }
}

/// Checks that the tree of `new_size` leaves extends the tree of `old_size` leaves
/// (RFC 9162 §2.1.4.2). Equal sizes need equal roots and no hashes; the empty tree is extended by
/// every tree, but its root must be [`EMPTY_ROOT`].
///
/// # Errors
/// [`ProofError::SizesReversed`], [`ProofError::WrongLength`], [`ProofError::OldRootMismatch`] or
/// [`ProofError::RootMismatch`].
pub fn verify_consistency(
    old_size: u64,
    old_root: Hash,
    new_size: u64,
    new_root: Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if old_size > new_size {
        return Err(ProofError::SizesReversed { old: old_size, new: new_size });
    }
    if old_size == 0 && old_root != EMPTY_ROOT {
        return Err(ProofError::OldRootMismatch);
    }
    if old_size == 0 || old_size == new_size {
        if !proof.is_empty() {
            return Err(ProofError::WrongLength);
        }
        let same = old_size != new_size || old_root == new_root;
        return if same { Ok(()) } else { Err(ProofError::RootMismatch) };
    }

    // A power of two is itself a node of the new tree, so its root is not repeated in the proof.
    let (seed, rest) = if old_size.is_power_of_two() {
        (old_root, proof)
    } else {
        let (first, rest) = proof.split_first().ok_or(ProofError::WrongLength)?;
        (*first, rest)
    };
    let shift = (old_size - 1).trailing_ones();
    let mut node = (old_size - 1) >> shift;
    let mut last = (new_size - 1) >> shift;
    let mut old = seed;
    let mut new = seed;
    for sibling in rest {
        if last == 0 {
            return Err(ProofError::WrongLength);
        }
        if node & 1 == 1 || node == last {
            old = node_hash(sibling, &old);
            new = node_hash(sibling, &new);
            climb_to_right_child(&mut node, &mut last);
        } else {
            new = node_hash(&new, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(ProofError::WrongLength);
    }
    if old != old_root {
        return Err(ProofError::OldRootMismatch);
    }
    if new == new_root { Ok(()) } else { Err(ProofError::RootMismatch) }
}

/// Skips the levels at which the last node has no sibling and rises unchanged.
fn climb_to_right_child(node: &mut u64, last: &mut u64) {
    while *node & 1 == 0 && *node != 0 {
        *node >>= 1;
        *last >>= 1;
    }
}

/// The roots of the complete subtrees that make up a tree: all that is needed to append to it and
/// to know its root. At most 63 hashes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    pub(crate) size: u64,
    /// One root for each bit set in `size`, largest subtree first.
    pub(crate) peaks: Vec<Hash>,
}

impl Frontier {
    /// The frontier of the empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// `peaks` must hold one hash for each bit set in `size`, largest subtree first.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] if it does not, or if `size` exceeds [`MAX_SIZE`].
    pub fn from_peaks(size: u64, peaks: Vec<Hash>) -> Result<Self, ProofError> {
        if size > MAX_SIZE || peaks.len() != size.count_ones() as usize {
            return Err(ProofError::Malformed { what: "frontier" });
        }
        Ok(Self { size, peaks })
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the complete subtrees, largest first.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// `(level, index, root)` of the complete subtrees, largest first.
    pub fn subtrees(&self) -> impl Iterator<Item = (u32, u64, Hash)> + '_ {
        peak_levels(self.size)
            .zip(&self.peaks)
            .map(|(level, peak)| (level, (self.size >> level) - 1, *peak))
    }

    /// Adds one leaf.
    pub fn append(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The root of the tree.
    pub fn root(&self) -> Hash {
        fold_peaks(self.peaks.iter().rev().copied())
    }

    /// The size (8 bytes, big-endian), then the subtree roots, largest first.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + Hash::LEN * self.peaks.len());
        bytes.extend_from_slice(&self.size.to_be_bytes());
        for peak in &self.peaks {
            bytes.extend_from_slice(peak.as_bytes());
        }
        bytes
    }

    /// Reads what [`Self::encode`] wrote, and nothing longer or shorter.
    ///
    /// # Errors
    /// [`ProofError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ProofError> {
        let malformed = ProofError::Malformed { what: "frontier" };
        let (size, rest) = bytes.split_first_chunk::<8>().ok_or(malformed)?;
        let peaks = rest.chunks(Hash::LEN).map(Hash::from_slice).collect::<Result<_, _>>()?;
        Self::from_peaks(u64::from_be_bytes(*size), peaks)
    }
}

/// The levels of the complete subtrees that make up a tree of `size` leaves, largest first.
pub(crate) fn peak_levels(mut size: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let level = size.checked_ilog2()?;
        size ^= 1 << level;
        Some(level)
    })
}

/// The root above these complete subtrees, given smallest (rightmost) first.
pub(crate) fn fold_peaks(smallest_first: impl Iterator<Item = Hash>) -> Hash {
    smallest_first.reduce(|right, left| node_hash(&left, &right)).unwrap_or(EMPTY_ROOT)
}
