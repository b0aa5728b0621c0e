//! Readings for the verifier, which trusts nothing: a value of the wrong type is given as the bytes it
//! has, so that a changed row becomes a finding and not a reading that fails.

use grantwright_domain::RequestId;
use grantwright_proof::Hash;

use super::Snapshot;
use crate::StoreError;
use crate::db::{Row, Value};

/// Leaves of a full tile.
const TILE: u64 = 256;

/// An erasable text as it lies in its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawText {
    /// The request it claims to belong to.
    pub request: String,
    /// Its name.
    pub name: String,
    /// The salt, 16 bytes if nobody changed it.
    pub salt: Vec<u8>,
    /// The text.
    pub text: String,
}

impl Snapshot {
    /// Leaves whose index is at least `from`, in order of their index, at most `most`.
    ///
    /// # Errors
    /// See [`Snapshot::size`]; so in all readings below.
    pub fn raw_leaves(&mut self, from: u64, most: u64) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let sql = "SELECT idx, body FROM leaves WHERE idx >= $1 ORDER BY idx LIMIT $2";
        let rows = self.db.query(sql, &[Value::from(from), Value::from(most)])?;
        rows.into_iter().map(|mut row| Ok((row.int(0)?, bytes(&mut row, 1)))).collect()
    }

    /// As [`Snapshot::raw_leaves`], handing each to `each`.
    ///
    /// # Errors
    /// See [`Snapshot::size`].
    pub fn each_raw_leaf(
        &mut self,
        from: u64,
        most: u64,
        each: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<(), StoreError> {
        let sql = "SELECT idx, body FROM leaves WHERE idx >= $1 ORDER BY idx LIMIT $2";
        Ok(self.db.each_bytes(sql, &[Value::from(from), Value::from(most)], each)?)
    }

    /// How many rows of leaves there are, whatever their indexes.
    ///
    /// # Errors
    /// See [`Snapshot::size`].
    pub fn count_leaves(&mut self) -> Result<u64, StoreError> {
        let mut rows = self.db.query("SELECT count(*) FROM leaves", &[])?;
        Ok(rows.first_mut().map(|row| row.int(0)).transpose()?.unwrap_or(0))
    }

    /// Stored checkpoints with the size of their rows, those of more than `after` leaves, at most `most`.
    ///
    /// # Errors
    /// See [`Snapshot::size`].
    pub fn raw_checkpoints(
        &mut self,
        after: Option<u64>,
        most: u64,
    ) -> Result<Vec<(u64, String)>, StoreError> {
        let sql = "SELECT size, note FROM checkpoints WHERE size > $1 ORDER BY size LIMIT $2";
        let after = after.map_or(Value::Int(i64::MIN), Value::from);
        let rows = self.db.query(sql, &[after, Value::from(most)])?;
        rows.into_iter().map(|mut row| Ok((row.int(0)?, text(&mut row, 1)))).collect()
    }

    /// The newest checkpoint that witnesses cosigned, as a broker keeps it in the side table.
    ///
    /// # Errors
    /// See [`Snapshot::size`].
    pub fn raw_witnessed(&mut self) -> Result<Option<String>, StoreError> {
        let sql = "SELECT value FROM side WHERE kind = $1 AND key = $2";
        let rows =
            self.db.query(sql, &[Value::from("witnessed"), Value::Blob(b"newest".to_vec())])?;
        Ok(rows.into_iter().next().map(|mut row| text(&mut row, 0)))
    }

    /// Stored leaf hashes from index `from` on, at most `most`: those of full tiles, and after the
    /// last of them those in the leaves' own rows. Ends where one is missing or has another length.
    ///
    /// # Errors
    /// See [`Snapshot::size`].
    pub fn leaf_hashes(&mut self, from: u64, most: usize) -> Result<Vec<Hash>, StoreError> {
        let mut hashes = self.tile_hashes(from, most)?;
        let next = from.saturating_add(hashes.len() as u64);
        let rest = most.saturating_sub(hashes.len());
        if rest > 0 {
            let sql = "SELECT idx, hash FROM leaves WHERE idx >= $1 ORDER BY idx LIMIT $2";
            let rows = self.db.query(sql, &[Value::from(next), Value::from(rest as u64)])?;
            for (want, mut row) in (next..).zip(rows) {
                match Hash::from_slice(&bytes(&mut row, 1)) {
                    Ok(hash) if row.int(0)? == want => hashes.push(hash),
                    _ => break,
                }
            }
        }
        Ok(hashes)
    }

    fn tile_hashes(&mut self, from: u64, most: usize) -> Result<Vec<Hash>, StoreError> {
        let sql =
            "SELECT idx, hashes FROM tiles WHERE level = $1 AND idx >= $2 ORDER BY idx LIMIT $3";
        let tiles = (most as u64).div_ceil(TILE) + 1;
        let first = from / TILE;
        let params = [Value::from(0), Value::from(first), Value::from(tiles)];
        let mut hashes = Vec::new();
        for (want, mut row) in (first..).zip(self.db.query(sql, &params)?) {
            let (index, tile) = (row.int(0)?, bytes(&mut row, 1));
            if index != want || tile.len() as u64 != TILE * Hash::LEN as u64 {
                break;
            }
            hashes.extend(tile.chunks_exact(Hash::LEN).map_while(|h| Hash::from_slice(h).ok()));
        }
        let skip = usize::try_from(from % TILE).unwrap_or(usize::MAX);
        Ok(hashes.into_iter().skip(skip).take(most).collect())
    }

    /// The texts beside the log after this place, in order of request and name, at most `most`.
    ///
    /// # Errors
    /// See [`Snapshot::size`].
    pub fn raw_texts(
        &mut self,
        after: Option<(&str, &str)>,
        most: u64,
    ) -> Result<Vec<RawText>, StoreError> {
        let (request, name) = after.unwrap_or_default();
        let sql = "SELECT request_id, name, salt, body FROM texts \
                   WHERE (request_id, name) > ($1, $2) ORDER BY request_id, name LIMIT $3";
        let params = [Value::from(request), Value::from(name), Value::from(most)];
        Ok(self.db.query(sql, &params)?.into_iter().map(raw_text).collect())
    }

    /// The texts beside one request.
    ///
    /// # Errors
    /// See [`Snapshot::size`].
    pub fn raw_texts_of(&mut self, request: &RequestId) -> Result<Vec<RawText>, StoreError> {
        let sql =
            "SELECT request_id, name, salt, body FROM texts WHERE request_id = $1 ORDER BY name";
        let rows = self.db.query(sql, &[Value::from(request.as_str())])?;
        Ok(rows.into_iter().map(raw_text).collect())
    }
}

fn raw_text(mut row: Row) -> RawText {
    RawText {
        request: text(&mut row, 0),
        name: text(&mut row, 1),
        salt: bytes(&mut row, 2),
        text: text(&mut row, 3),
    }
}

fn bytes(row: &mut Row, column: usize) -> Vec<u8> {
    row.any_bytes(column)
}

fn text(row: &mut Row, column: usize) -> String {
    String::from_utf8_lossy(&bytes(row, column)).into_owned()
}
