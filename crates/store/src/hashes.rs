//! Hashes of complete subtrees, from the tiles of a database. Full tiles of the lowest level and all
//! tiles above it have rows; the lowest level's last, growing tile is read from beside its leaves.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use grantwright_proof::tile::FULL_WIDTH;
use grantwright_proof::{Hash, HashReader, ProofError, Tile, TileKind, leaf_hash, node_hash};

use crate::db::{Db, DbError, Row, TileRow, Value};

/// Binary levels in one level of tiles.
const HEIGHT: u32 = 8;
const WIDTH: u64 = FULL_WIDTH as u64;

/// The growing tiles of each level, in the writer's memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct GrowingTiles {
    levels: Vec<Vec<Hash>>,
    /// Levels above the lowest whose growing tile changed since its row was written.
    changed: u32,
}

impl GrowingTiles {
    /// Notes a completed subtree; gives back the tile that it fills.
    pub(crate) fn complete(&mut self, level: u32, index: u64, hash: Hash) -> Option<TileRow> {
        if !level.is_multiple_of(HEIGHT) {
            return None;
        }
        let tile_level = (level / HEIGHT) as usize;
        while self.levels.len() <= tile_level {
            self.levels.push(Vec::with_capacity(WIDTH as usize));
        }
        let row = self.levels.get_mut(tile_level)?;
        row.push(hash);
        let full = row.len() == usize::from(FULL_WIDTH);
        let bit = 1 << tile_level;
        self.changed = if full { self.changed & !bit } else { self.changed | bit };
        full.then(|| {
            let hashes = bytes(row);
            row.clear();
            TileRow { level: level_byte(tile_level), index: index / WIDTH, hashes }
        })
    }

    /// The growing tiles above the lowest level that changed, for a tree of `size` leaves.
    pub(crate) fn changed(&mut self, size: u64) -> Vec<TileRow> {
        let changed = std::mem::take(&mut self.changed);
        let above = (0usize..).zip(&self.levels).skip(1);
        above
            .filter(|(level, row)| changed >> level & 1 == 1 && !row.is_empty())
            .map(|(level, row)| TileRow {
                level: level_byte(level),
                index: index_of(level, size),
                hashes: bytes(row),
            })
            .collect()
    }

    fn find(&self, level: u8, index: u64, size: u64) -> Option<&[Hash]> {
        let row = self.levels.get(usize::from(level))?;
        (index == index_of(level.into(), size)).then_some(row.as_slice())
    }
}

/// Number of the growing tile.
fn index_of(level: usize, size: u64) -> u64 {
    let levels = u32::try_from(level).unwrap_or(u32::MAX).saturating_mul(HEIGHT);
    size.checked_shr(levels).unwrap_or(0) / WIDTH
}

fn level_byte(level: usize) -> u8 {
    u8::try_from(level).unwrap_or(u8::MAX)
}

fn bytes(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|h| h.as_bytes()).copied().collect()
}

const NO_HASH: DbError = DbError::Malformed("leaf hash");

/// Level and index.
type TileName = (u8, u64);

/// Reads hashes of a tree of `size` leaves inside a transaction; keeps the tiles that it has read.
pub(crate) struct Tiles<'a> {
    db: RefCell<&'a mut dyn Db>,
    size: u64,
    growing: Option<&'a GrowingTiles>,
    /// The lowest level's growing tile is hashed from the leaves, not read from beside them.
    hashed: bool,
    read: RefCell<HashMap<TileName, Rc<[Hash]>>>,
    /// Nodes between the levels of tiles, once computed.
    nodes: RefCell<HashMap<(u32, u64), Hash>>,
    failed: RefCell<Option<DbError>>,
}

impl<'a> Tiles<'a> {
    pub(crate) fn new(db: &'a mut dyn Db, size: u64) -> Self {
        Self {
            db: RefCell::new(db),
            size,
            growing: None,
            hashed: false,
            read: RefCell::default(),
            nodes: RefCell::default(),
            failed: RefCell::default(),
        }
    }

    /// The writer's: growing tiles come from memory.
    pub(crate) fn with(db: &'a mut dyn Db, size: u64, growing: &'a GrowingTiles) -> Self {
        Self { growing: Some(growing), ..Self::new(db, size) }
    }

    /// What the database answered when a reading failed.
    pub(crate) fn failed(&self) -> Option<DbError> {
        self.failed.borrow_mut().take()
    }

    /// The hashes of one tile at its widest; the lowest level's are proven by nothing yet.
    pub(crate) fn tile(&self, level: u8, index: u64) -> Result<Rc<[Hash]>, ProofError> {
        let missing = ProofError::MissingHash { level: u32::from(level) * HEIGHT, index };
        let Some(tile) = Tile::at_size(TileKind::Hashes { level }, index, self.size) else {
            return Err(missing);
        };
        if let Some(found) = self.read.borrow().get(&(level, index)) {
            return Ok(Rc::clone(found));
        }
        let width = usize::from(tile.width());
        let hashes: Rc<[Hash]> = match self.growing.and_then(|g| g.find(level, index, self.size)) {
            Some(row) => row.get(..width).ok_or(missing.clone())?.into(),
            None => self.fetch(level, index, width).map_err(|e| self.fail(e))?.into(),
        };
        if hashes.len() != width {
            return Err(missing);
        }
        self.read.borrow_mut().insert((level, index), Rc::clone(&hashes));
        Ok(hashes)
    }

    fn fetch(&self, level: u8, index: u64, width: usize) -> Result<Vec<Hash>, DbError> {
        let mut db = self.db.borrow_mut();
        if level == 0 && width < usize::from(FULL_WIDTH) {
            let range = [Value::from(index * WIDTH), Value::from(self.size)];
            if self.hashed {
                let sql = "SELECT body FROM leaves WHERE idx >= $1 AND idx < $2 ORDER BY idx";
                let mut rows = db.query(sql, &range)?;
                return rows.iter_mut().map(|r| r.blob(0).map(|body| leaf_hash(&body))).collect();
            }
            let sql = "SELECT hash FROM leaves WHERE idx >= $1 AND idx < $2 ORDER BY idx";
            let mut rows = db.query(sql, &range)?;
            let hash = |row: &mut Row| Hash::from_slice(&row.blob(0)?).map_err(|_| NO_HASH);
            return rows.iter_mut().map(hash).collect();
        }
        let sql = "SELECT hashes FROM tiles WHERE level = $1 AND idx = $2";
        let mut rows = db.query(sql, &[Value::from(u64::from(level)), Value::from(index)])?;
        let hashes = rows.first_mut().map(|r| r.blob(0)).transpose()?.unwrap_or_default();
        let hashes = hashes.chunks_exact(Hash::LEN).take(width).map(Hash::from_slice);
        hashes.collect::<Result<_, _>>().map_err(|_| DbError::Malformed("tile"))
    }

    fn fail(&self, e: DbError) -> ProofError {
        self.failed.borrow_mut().replace(e);
        ProofError::Unreadable("the database failed".into())
    }
}

impl HashReader for Tiles<'_> {
    fn complete(&self, level: u32, index: u64) -> Result<Hash, ProofError> {
        if let Some(known) = self.nodes.borrow().get(&(level, index)) {
            return Ok(*known);
        }
        let missing = ProofError::MissingHash { level, index };
        let (tile_level, span) = (level / HEIGHT, 1u64 << (level % HEIGHT));
        let Some(start) = index.checked_mul(span) else { return Err(missing) };
        let tile_level = u8::try_from(tile_level).map_err(|_| missing.clone())?;
        let tile = self.tile(tile_level, start / WIDTH)?;
        let from = usize::try_from(start % WIDTH).map_err(|_| missing.clone())?;
        let nodes = usize::try_from(span).ok().and_then(|n| tile.get(from..from + n));
        let mut nodes = nodes.ok_or(missing.clone())?.to_vec();
        while nodes.len() > 1 {
            let (pairs, _) = nodes.as_chunks::<2>();
            nodes = pairs.iter().map(|[left, right]| node_hash(left, right)).collect();
        }
        let hash = nodes.pop().ok_or(missing)?;
        if span > 1 {
            self.nodes.borrow_mut().insert((level, index), hash);
        }
        Ok(hash)
    }
}

/// The growing tiles of a tree of `size` leaves, read from the database, the lowest hashed anew. Whoever
/// trusts a frontier compares it: it commits to every hash here.
pub(crate) fn read_growing(db: &mut dyn Db, size: u64) -> Result<GrowingTiles, DbError> {
    let mut growing = GrowingTiles::default();
    let tiles = Tiles { hashed: true, ..Tiles::new(db, size) };
    for level in 0u8..8 {
        let count = size.checked_shr(u32::from(level) * HEIGHT).unwrap_or(0);
        if count == 0 {
            break;
        }
        let row = match count % WIDTH {
            0 => Vec::with_capacity(WIDTH as usize),
            width => {
                let tile = tiles.tile(level, count / WIDTH);
                let tile = tile.map_err(|_| {
                    tiles.failed().unwrap_or(DbError::Malformed("tile: hashes are missing"))
                })?;
                let width = usize::try_from(width).unwrap_or(0);
                tile.get(..width).map(<[Hash]>::to_vec).unwrap_or_default()
            }
        };
        growing.levels.push(row);
    }
    Ok(growing)
}
