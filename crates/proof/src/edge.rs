//! The right edge of a growing tree, in memory, for the one writer of a log.

use std::collections::VecDeque;

use crate::{
    Frontier, Hash, HashReader, ProofError, consistency_proof, inclusion_proof, node_hash,
    tree::{fold_peaks, peak_levels},
};

/// Leaves whose proofs an [`Edge`] can always give from memory, if it saw them appended.
pub const WINDOW: u64 = 4096;

/// The tree's size and, per level, the latest complete subtrees.
///
/// Appending costs about one node hash a leaf. Inclusion proofs of the latest [`WINDOW`] leaves and
/// consistency proofs from the latest [`WINDOW`] sizes, to any size up to the present one, read
/// nothing but memory (about 300 KB). After a restart from a frontier this holds for every leaf
/// and size from there on.
///
/// A batch whose transaction fails is undone like this:
///
/// ```
/// # use grantwright_proof::{Edge, leaf_hash};
/// let mut edge = Edge::new();
/// let before = edge.frontier();
/// edge.append(leaf_hash(b"entry"));
/// edge.rollback(&before);
/// assert_eq!(edge.size(), 0);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Edge {
    size: u64,
    levels: Vec<Level>,
}

/// The complete subtrees `first ..` of one level, without a gap up to the latest.
#[derive(Debug, Clone, Default)]
struct Level {
    first: u64,
    hashes: VecDeque<Hash>,
}

impl Edge {
    /// The edge of the empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// The edge of a tree that goes on from `frontier`, which the caller trusts.
    pub fn from_frontier(frontier: &Frontier) -> Self {
        let mut edge = Self { size: frontier.size(), levels: Vec::new() };
        let levels = (u64::BITS - frontier.size().leading_zeros()) as usize;
        edge.levels.resize_with(levels, Level::default);
        for (level, first) in edge.levels.iter_mut().zip((0..).map(|l: u32| edge.size >> l)) {
            level.first = first;
        }
        for (level, index, hash) in frontier.subtrees() {
            if let Some(level) = edge.levels.get_mut(level as usize) {
                level.first = index;
                level.hashes.push_back(hash);
            }
        }
        edge
    }

    /// The edge of the tree of `size` leaves whose hashes `reader` holds. What was read is as
    /// trustworthy as the reader: compare [`Self::root`] with a root you trust.
    ///
    /// # Errors
    /// Those of the reader, or [`ProofError::Malformed`] above [`crate::MAX_SIZE`].
    pub fn restore(size: u64, reader: &impl HashReader) -> Result<Self, ProofError> {
        let peaks = peak_levels(size)
            .map(|level| reader.complete(level, (size >> level) - 1))
            .collect::<Result<_, _>>()?;
        Ok(Self::from_frontier(&Frontier::from_peaks(size, peaks)?))
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree. Costs one hash for each bit set in the size, less one.
    pub fn root(&self) -> Hash {
        fold_peaks(self.peaks_smallest_first())
    }

    /// What a log's head row keeps, and what [`Self::rollback`] returns to. At most 63 hashes.
    pub fn frontier(&self) -> Frontier {
        let mut peaks: Vec<_> = self.peaks_smallest_first().collect();
        peaks.reverse();
        Frontier { size: self.size, peaks }
    }

    /// Adds one leaf, given its [`crate::leaf_hash`].
    pub fn append(&mut self, leaf: Hash) {
        self.append_with(leaf, &mut |_, _, _| {});
    }

    /// Adds leaves in order.
    pub fn extend(&mut self, leaves: impl IntoIterator<Item = Hash>) {
        for leaf in leaves {
            self.append(leaf);
        }
    }

    /// Adds one leaf and tells of each subtree it completes (`level`, `index`, hash), the leaf
    /// itself first, so that a store can keep them for a [`HashReader`].
    pub fn append_with(&mut self, leaf: Hash, completed: &mut impl FnMut(u32, u64, Hash)) {
        let mut hash = leaf;
        for (level, number) in (0..u64::BITS).map(|level| (level, self.size >> level)) {
            if self.levels.len() <= level as usize {
                self.levels.push(Level { first: number, hashes: VecDeque::new() });
            }
            let Some(row) = self.levels.get_mut(level as usize) else { break };
            let left = row.hashes.back().copied();
            row.hashes.push_back(hash);
            if row.hashes.len() > window(level) {
                row.hashes.pop_front();
                row.first += 1;
            }
            completed(level, number, hash);
            match left {
                Some(left) if number & 1 == 1 => hash = node_hash(&left, &hash),
                _ => break,
            }
        }
        self.size += 1;
    }

    /// Returns to the state in which `frontier` was taken, whatever was appended since. Cheap:
    /// hashes of later leaves are dropped; a batch larger than [`WINDOW`] loses the window too.
    pub fn rollback(&mut self, frontier: &Frontier) {
        // Equal peaks commit to every leaf below them, so older hashes in the window stay true.
        let kept = frontier.subtrees().all(|(level, index, hash)| {
            self.complete(level, index).is_ok_and(|found| found == hash)
        });
        if !kept || frontier.size() > self.size {
            *self = Self::from_frontier(frontier);
            return;
        }
        self.size = frontier.size();
        for (level, row) in (0u32..).zip(&mut self.levels) {
            let count = frontier.size() >> level;
            row.hashes.truncate(usize::try_from(count.saturating_sub(row.first)).unwrap_or(0));
            row.first = row.first.min(count);
        }
    }

    /// The proof of leaf `index` in the tree of `size` leaves, at most the present size; hashes
    /// that left the window come from `older`.
    ///
    /// # Errors
    /// [`ProofError::IndexOutOfRange`], [`ProofError::SizesReversed`], or those of `older`.
    pub fn inclusion_proof(
        &self,
        index: u64,
        size: u64,
        older: &impl HashReader,
    ) -> Result<Vec<Hash>, ProofError> {
        self.check_size(size)?;
        inclusion_proof(index, size, &WithOlder { edge: self, older })
    }

    /// The proof that the tree of `new` leaves, at most the present size, extends that of `old`;
    /// hashes that left the window come from `older`.
    ///
    /// # Errors
    /// [`ProofError::SizesReversed`], or those of `older`.
    pub fn consistency_proof(
        &self,
        old: u64,
        new: u64,
        older: &impl HashReader,
    ) -> Result<Vec<Hash>, ProofError> {
        self.check_size(new)?;
        consistency_proof(old, new, &WithOlder { edge: self, older })
    }

    fn check_size(&self, size: u64) -> Result<(), ProofError> {
        if size > self.size {
            return Err(ProofError::SizesReversed { old: size, new: self.size });
        }
        Ok(())
    }

    fn peaks_smallest_first(&self) -> impl Iterator<Item = Hash> + '_ {
        (0u32..)
            .zip(&self.levels)
            .filter(|(level, _)| self.size >> level & 1 == 1)
            .filter_map(|(_, row)| row.hashes.back().copied())
    }
}

/// The window alone, for whoever wants no other source of hashes.
impl HashReader for Edge {
    fn complete(&self, level: u32, index: u64) -> Result<Hash, ProofError> {
        self.levels
            .get(level as usize)
            .and_then(|row| row.hashes.get(usize::try_from(index.checked_sub(row.first)?).ok()?))
            .copied()
            .ok_or(ProofError::MissingHash { level, index })
    }
}

struct WithOlder<'a, R> {
    edge: &'a Edge,
    older: &'a R,
}

impl<R: HashReader> HashReader for WithOlder<'_, R> {
    fn complete(&self, level: u32, index: u64) -> Result<Hash, ProofError> {
        self.edge.complete(level, index).or_else(|_| self.older.complete(level, index))
    }
}

/// How many subtrees a level keeps: those over [`WINDOW`] leaves, and two for the ragged ends.
fn window(level: u32) -> usize {
    usize::try_from(WINDOW >> level).unwrap_or(0) + 2
}
