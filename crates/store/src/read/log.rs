//! The log itself: leaves, proofs and tiles.

use grantwright_domain::Event;
use grantwright_proof::tile::encode_entries;
use grantwright_proof::{Hash, Tile, TileKind, consistency_proof, inclusion_proof, leaf_hash};

use super::{MAX_ROWS, frontier};
use crate::StoreError;
use crate::db::{Db, Value};
use crate::hashes::Tiles;
use crate::head::Macs;
use crate::proven::{ProvenTiles, Prover};

/// Leaves `from ..`, at most `limit`.
pub(crate) fn leaves(
    db: &mut dyn Db,
    from: u64,
    limit: u64,
) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
    let to = from.saturating_add(limit);
    let sql = "SELECT idx, body FROM leaves WHERE idx >= $1 AND idx < $2 ORDER BY idx";
    let rows = db.query(sql, &[Value::from(from), Value::from(to)])?;
    rows.into_iter().map(|mut r| Ok((r.int(0)?, r.blob(1)?))).collect()
}

/// See [`crate::Store::proven_leaves`].
pub(crate) fn proven_leaves(
    db: &mut dyn Db,
    macs: &Macs,
    proven: &ProvenTiles,
    known: u64,
    from: u64,
    to: u64,
) -> Result<Vec<(u64, Event)>, StoreError> {
    let frontier = frontier(db, macs, known)?;
    let to = to.min(frontier.size()).min(from.saturating_add(u64::from(MAX_ROWS)));
    let rows = leaves(db, from, to.saturating_sub(from))?;
    if !rows.iter().map(|(index, _)| *index).eq(from..to) {
        return Err(StoreError::tampered(format!("leaves from {from} on are missing")));
    }
    let prover = Prover::new(db, &frontier, proven);
    let mut events = Vec::with_capacity(rows.len());
    for (index, body) in rows {
        prover.prove(index, leaf_hash(&body))?;
        let event = Event::from_leaf(&body)
            .map_err(|e| StoreError::tampered(format!("leaf {index}: {e}")))?;
        events.push((index, event));
    }
    Ok(events)
}

pub(crate) fn inclusion(
    db: &mut dyn Db,
    macs: &Macs,
    known: u64,
    index: u64,
    size: u64,
) -> Result<Vec<Hash>, StoreError> {
    let whole = frontier(db, macs, known)?.size();
    proof(db, whole, size, |tiles| inclusion_proof(index, size, tiles))
}

pub(crate) fn consistency(
    db: &mut dyn Db,
    macs: &Macs,
    known: u64,
    old: u64,
    new: u64,
) -> Result<Vec<Hash>, StoreError> {
    let whole = frontier(db, macs, known)?.size();
    proof(db, whole, new, |tiles| consistency_proof(old, new, tiles))
}

fn proof(
    db: &mut dyn Db,
    whole: u64,
    size: u64,
    make: impl FnOnce(&Tiles<'_>) -> Result<Vec<Hash>, grantwright_proof::ProofError>,
) -> Result<Vec<Hash>, StoreError> {
    if size > whole {
        return Err(StoreError::Ahead { known: size, size: whole });
    }
    let tiles = Tiles::new(db, whole);
    make(&tiles).map_err(|e| match tiles.failed() {
        Some(db) => db.into(),
        None => StoreError::Invalid(e.to_string()),
    })
}

pub(crate) fn tile(
    db: &mut dyn Db,
    macs: &Macs,
    known: u64,
    tile: &Tile,
) -> Result<Option<Vec<u8>>, StoreError> {
    let size = frontier(db, macs, known)?.size();
    if !tile.is_within(size) {
        return Ok(None);
    }
    match tile.kind() {
        TileKind::Entries => {
            let bodies = leaves(db, tile.first(), tile.width().into())?;
            if bodies.len() != usize::from(tile.width()) {
                return Err(StoreError::tampered("leaves are missing"));
            }
            let bundle = encode_entries(bodies.into_iter().map(|(_, body)| body));
            bundle.map(Some).map_err(|e| StoreError::tampered(e.to_string()))
        }
        TileKind::Hashes { level } => {
            let tiles = Tiles::new(db, size);
            let hashes = tiles.tile(level, tile.index()).map_err(|e| {
                tiles.failed().map_or_else(|| StoreError::tampered(e.to_string()), Into::into)
            })?;
            let hashes = hashes.iter().take(tile.width().into());
            Ok(Some(hashes.flat_map(|h| h.as_bytes()).copied().collect()))
        }
    }
}
