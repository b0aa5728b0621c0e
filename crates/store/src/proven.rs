//! Leaves that are read are proven to be in the log. Full tiles of their hashes never change: one that was
//! proven as a whole is kept, and the leaves that are read from it later are compared with it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use grantwright_proof::tile::FULL_WIDTH;
use grantwright_proof::{Frontier, Hash};

use crate::StoreError;
use crate::db::Db;
use crate::hashes::Tiles;
use crate::memory;

const WIDTH: u64 = FULL_WIDTH as u64;
/// Most tiles that are kept, 8 KiB each; of more, those that came first are forgotten.
const MOST: usize = 256;

/// Proven tiles of leaf hashes, by their number.
#[derive(Default)]
pub(crate) struct ProvenTiles(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    tiles: HashMap<u64, Arc<[Hash]>>,
    came: VecDeque<u64>,
}

impl ProvenTiles {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, number: u64) -> Option<Arc<[Hash]>> {
        self.lock().tiles.get(&number).map(Arc::clone)
    }

    fn keep(&self, number: u64, tile: Arc<[Hash]>) {
        let mut kept = self.lock();
        if kept.tiles.insert(number, tile).is_none() {
            kept.came.push_back(number);
        }
        while kept.came.len() > MOST {
            let Some(first) = kept.came.pop_front() else { break };
            kept.tiles.remove(&first);
        }
    }
}

/// Proves leaves of one snapshot of the log.
pub(crate) struct Prover<'a> {
    tiles: Tiles<'a>,
    size: u64,
    root: Hash,
    proven: &'a ProvenTiles,
}

impl<'a> Prover<'a> {
    /// `frontier`: of the snapshot, and trusted.
    pub(crate) fn new(db: &'a mut dyn Db, frontier: &Frontier, proven: &'a ProvenTiles) -> Self {
        let size = frontier.size();
        Self { tiles: Tiles::new(db, size), size, root: frontier.root(), proven }
    }

    /// Proves that a leaf is in the log, at this index.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when it is not, or when what would prove it was edited.
    pub(crate) fn prove(&self, index: u64, leaf: Hash) -> Result<(), StoreError> {
        let number = index / WIDTH;
        let at = usize::try_from(index % WIDTH).unwrap_or(usize::MAX);
        let is_full = number.saturating_add(1).saturating_mul(WIDTH) <= self.size;
        if is_full && let Some(tile) = self.proven.get(number) {
            return match tile.get(at) {
                Some(known) if *known == leaf => Ok(()),
                _ => Err(StoreError::tampered(format!("leaf {index} is not in the tree"))),
            };
        }
        memory::prove(index, leaf, self.size, self.root, &self.tiles)
            .map_err(|e| self.tiles.failed().map_or(e, StoreError::from))?;
        // The proof was made of all other hashes of the tile, and of the leaf in place of its own.
        if is_full
            && let Ok(tile) = self.tiles.tile(0, number)
            && tile.get(at) == Some(&leaf)
        {
            self.proven.keep(number, Arc::from(&*tile));
        }
        Ok(())
    }
}
