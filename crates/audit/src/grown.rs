//! The tiles that the leaves make, compared with those that are served.

use grantwright_proof::tile::FULL_WIDTH;
use grantwright_proof::{Hash, node_hash};

use crate::report::Findings;
use crate::{CannotVerify, Source};

/// Leaves below one hash of each level of tiles: 256 to the power of the level.
const WIDTH: usize = FULL_WIDTH as usize;

/// The growing tile of each level, and how many are full.
#[derive(Clone, Default)]
pub(crate) struct Grown {
    pub(crate) levels: Vec<(u64, Vec<Hash>)>,
    /// A tile was wrong: those above it would be too.
    found: bool,
}

impl Grown {
    pub(crate) fn from_levels(levels: Vec<(u64, Vec<Hash>)>) -> Self {
        Self { levels, found: false }
    }

    /// Adds a leaf's hash, and compares the tiles that it fills.
    pub(crate) fn add(
        &mut self,
        leaf: Hash,
        source: &mut dyn Source,
        findings: &mut Findings,
    ) -> Result<(), CannotVerify> {
        let mut hash = leaf;
        for level in 0u8..8 {
            if self.levels.len() <= usize::from(level) {
                self.levels.push((0, Vec::with_capacity(WIDTH)));
            }
            let Some((full, tile)) = self.levels.get_mut(usize::from(level)) else { break };
            tile.push(hash);
            if tile.len() < WIDTH {
                break;
            }
            let whole = std::mem::replace(tile, Vec::with_capacity(WIDTH));
            let index = *full;
            *full += 1;
            self.compare(level, index, &whole, source, findings)?;
            hash = fold(whole);
        }
        Ok(())
    }

    /// Compares the tiles that are not full, after the last leaf.
    pub(crate) fn finish(
        &mut self,
        source: &mut dyn Source,
        findings: &mut Findings,
    ) -> Result<(), CannotVerify> {
        for (level, (index, tile)) in (0u8..).zip(self.levels.clone()) {
            if !tile.is_empty() {
                self.compare(level, index, &tile, source, findings)?;
            }
        }
        Ok(())
    }

    fn compare(
        &mut self,
        level: u8,
        index: u64,
        hashes: &[Hash],
        source: &mut dyn Source,
        findings: &mut Findings,
    ) -> Result<(), CannotVerify> {
        if self.found {
            return Ok(());
        }
        let below = 1u64 << (8 * u32::from(level).min(7));
        let first = index.saturating_mul(below).saturating_mul(WIDTH as u64);
        let served = source.hash_tile(level, index)?;
        let Some(bytes) = served else {
            self.found = true;
            findings.add(first, "tile", format!("hash tile {index} of level {level} is absent"));
            return Ok(());
        };
        let mut served = bytes.chunks_exact(Hash::LEN);
        let wrong = hashes.iter().position(|hash| served.next() != Some(hash.as_bytes()));
        if let Some(wrong) = wrong {
            self.found = true;
            let leaf = first.saturating_add((wrong as u64).saturating_mul(below));
            let detail =
                format!("hash {wrong} of tile {index} of level {level} is not that of the leaves");
            findings.add(leaf, "tile", detail);
        }
        Ok(())
    }
}

/// The root over 256 hashes.
fn fold(mut hashes: Vec<Hash>) -> Hash {
    while hashes.len() > 1 {
        let (pairs, _) = hashes.as_chunks::<2>();
        hashes = pairs.iter().map(|[left, right]| node_hash(left, right)).collect();
    }
    hashes.pop().unwrap_or(grantwright_proof::EMPTY_ROOT)
}
