//! The side table: small values by kind and key, for what serves people and channels and never
//! decides anything: sessions, nonces, message references, outboxes, cursors. The fold never reads it,
//! nothing in it is vouched for: a caller to whom it matters seals its values with a key of its own.
//!
//! Contract. A row whose end is at or before the caller's `now` is not there. A write is durable when
//! its call returns. Of callers that race for one row with [`Store::side_put_if_absent`],
//! [`Store::side_replace`] or [`Store::side_take`], one wins. How many rows a kind has is its owner's
//! to bound.

use grantwright_domain::Timestamp;

use crate::StoreError;
use crate::db::{Db, DbError, Row, Value};
use crate::read::MAX_ROWS;
use crate::store::Store;
use crate::writer::Command;

/// Largest value, in bytes.
pub const MAX_SIDE_VALUE: usize = 64 << 10;
/// Longest kind and key, in bytes.
const MAX_KIND: usize = 32;
const MAX_KEY: usize = 256;
/// Most side writes in one transaction.
pub(crate) const MAX_SIDE_BATCH: usize = 256;

/// A row of the side table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SideRow {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// Its end; none: it stays.
    pub expires_at: Option<Timestamp>,
}

/// One write.
#[derive(Debug)]
pub(crate) struct SideWrite {
    kind: &'static str,
    key: Vec<u8>,
    change: Change,
}

#[derive(Debug)]
enum Change {
    Delete,
    DeleteExpired { now: Timestamp },
    Put { value: Vec<u8>, expires_at: Option<Timestamp> },
    PutIfAbsent { value: Vec<u8>, expires_at: Option<Timestamp>, now: Timestamp },
    Replace { old: Vec<u8>, value: Vec<u8>, expires_at: Option<Timestamp>, now: Timestamp },
    Take { now: Timestamp },
}

/// What a write did.
#[derive(Debug, Default)]
pub(crate) struct SideDone {
    rows: u64,
    value: Option<Vec<u8>>,
}

impl Store {
    /// Writes a row, over whatever was there.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a kind, key or value beyond its bound; else as [`Store::commit`].
    pub async fn side_put(
        &self,
        kind: &'static str,
        key: &str,
        value: Vec<u8>,
        expires_at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        self.side(kind, key, Change::Put { value, expires_at }).await.map(drop)
    }

    /// Writes a row unless one is there at `now`; true when it was written.
    ///
    /// # Errors
    /// As [`Store::side_put`].
    pub async fn side_put_if_absent(
        &self,
        kind: &'static str,
        key: &str,
        value: Vec<u8>,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let done = self.side(kind, key, Change::PutIfAbsent { value, expires_at, now }).await?;
        Ok(done.rows == 1)
    }

    /// Replaces a row whose value is still `old` at `now`; true when it was.
    ///
    /// # Errors
    /// As [`Store::side_put`].
    pub async fn side_replace(
        &self,
        kind: &'static str,
        key: &str,
        old: Vec<u8>,
        value: Vec<u8>,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let change = Change::Replace { old, value, expires_at, now };
        Ok(self.side(kind, key, change).await?.rows == 1)
    }

    /// Deletes a row; true when there was one, ended or not.
    ///
    /// # Errors
    /// As [`Store::side_put`].
    pub async fn side_delete(&self, kind: &'static str, key: &str) -> Result<bool, StoreError> {
        Ok(self.side(kind, key, Change::Delete).await?.rows == 1)
    }

    /// Deletes a row and gives its value back, if it was there at `now`: what is spent once.
    ///
    /// # Errors
    /// As [`Store::side_put`].
    pub async fn side_take(
        &self,
        kind: &'static str,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.side(kind, key, Change::Take { now }).await?.value)
    }

    /// Deletes the rows of every kind that ended at or before `now`; how many.
    ///
    /// # Errors
    /// As [`Store::side_put`].
    pub async fn side_delete_expired(&self, now: Timestamp) -> Result<u64, StoreError> {
        Ok(self.side("any", "any", Change::DeleteExpired { now }).await?.rows)
    }

    /// One row, if it is there at `now`.
    ///
    /// # Errors
    /// See [`Store::key`].
    pub async fn side_get(
        &self,
        kind: &'static str,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<SideRow>, StoreError> {
        let key = key.as_bytes().to_vec();
        self.read(move |db| {
            let sql = "SELECT key, value, expires_ms FROM side WHERE kind = $1 AND key = $2 \
                       AND (expires_ms IS NULL OR expires_ms > $3)";
            let params = [Value::from(kind), Value::Blob(key), Value::Int(now.millis())];
            Ok(db.query(sql, &params)?.first_mut().map(row).transpose()?)
        })
        .await
    }

    /// Rows of a kind whose keys begin with `prefix` and come after `after`, in the order of their
    /// keys' bytes: those there at `now`, at most `limit` and at most 1024.
    ///
    /// # Errors
    /// See [`Store::key`].
    pub async fn side_list(
        &self,
        kind: &'static str,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<SideRow>, StoreError> {
        let from = prefix.as_bytes().to_vec();
        // No key holds this byte: keys are text.
        let to = [prefix.as_bytes(), &[0xff]].concat();
        let after = after.map(|a| a.as_bytes().to_vec()).unwrap_or_default();
        let limit = u64::from(limit.min(MAX_ROWS));
        self.read(move |db| {
            let sql = "SELECT key, value, expires_ms FROM side WHERE kind = $1 AND key >= $2 \
                       AND key < $3 AND key > $4 AND (expires_ms IS NULL OR expires_ms > $5) \
                       ORDER BY key LIMIT $6";
            let params = [
                Value::from(kind),
                Value::Blob(from),
                Value::Blob(to),
                Value::Blob(after),
                Value::Int(now.millis()),
                Value::from(limit),
            ];
            Ok(db.query(sql, &params)?.iter_mut().map(row).collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn side(
        &self,
        kind: &'static str,
        key: &str,
        change: Change,
    ) -> Result<SideDone, StoreError> {
        let value = match &change {
            Change::Put { value, .. }
            | Change::PutIfAbsent { value, .. }
            | Change::Replace { value, .. } => value.len(),
            Change::Delete | Change::DeleteExpired { .. } | Change::Take { .. } => 0,
        };
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let invalid = |what: &str| Err(StoreError::Invalid(what.to_owned()));
        if kind.is_empty() || kind.len() > MAX_KIND || !kind.bytes().all(plain) {
            return invalid("a side row's kind is 1 to 32 of a-z, 0-9 and -");
        }
        if key.is_empty() || key.len() > MAX_KEY || key.chars().any(char::is_control) {
            return invalid("a side row's key has 1 to 256 bytes without control characters");
        }
        if value > MAX_SIDE_VALUE {
            return invalid("a side row's value has 64 KiB at most");
        }
        let write = Box::new(SideWrite { kind, key: key.as_bytes().to_vec(), change });
        self.ask(|reply| Command::Side(write, reply)).await
    }
}

/// Carries out one write inside a transaction.
pub(crate) fn write(db: &mut dyn Db, w: &SideWrite) -> Result<SideDone, DbError> {
    const PUT: &str = "INSERT INTO side (kind, key, value, expires_ms) VALUES ($1, $2, $3, $4) \
        ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value, \
        expires_ms = excluded.expires_ms";
    let name = || [Value::from(w.kind), Value::Blob(w.key.clone())];
    let end = |at: &Option<Timestamp>| at.map_or(Value::Null, |t| Value::Int(t.millis()));
    let mut rows = match &w.change {
        Change::Put { value, expires_at } => {
            let [kind, key] = name();
            let params = [kind, key, Value::Blob(value.clone()), end(expires_at)];
            db.query(&format!("{PUT} RETURNING key"), &params)?
        }
        Change::PutIfAbsent { value, expires_at, now } => {
            let [kind, key] = name();
            let now = Value::Int(now.millis());
            let params = [kind, key, Value::Blob(value.clone()), end(expires_at), now];
            db.query(&format!("{PUT} WHERE side.expires_ms <= $5 RETURNING key"), &params)?
        }
        Change::Replace { old, value, expires_at, now } => {
            let [kind, key] = name();
            let sql = "UPDATE side SET value = $1, expires_ms = $2 WHERE kind = $3 AND key = $4 \
                       AND value = $5 AND (expires_ms IS NULL OR expires_ms > $6) RETURNING key";
            let (value, old) = (Value::Blob(value.clone()), Value::Blob(old.clone()));
            let params = [value, end(expires_at), kind, key, old, Value::Int(now.millis())];
            db.query(sql, &params)?
        }
        Change::Delete => {
            db.query("DELETE FROM side WHERE kind = $1 AND key = $2 RETURNING key", &name())?
        }
        Change::Take { now } => {
            let sql = "DELETE FROM side WHERE kind = $1 AND key = $2 RETURNING value, expires_ms";
            let mut rows = db.query(sql, &name())?;
            if let Some(row) = rows.first_mut() {
                let value = row.blob(0)?;
                let end = row.opt(1, Row::signed)?;
                if end.is_none_or(|end| end > now.millis()) {
                    return Ok(SideDone { rows: 1, value: Some(value) });
                }
            }
            return Ok(SideDone::default());
        }
        Change::DeleteExpired { now } => {
            let sql = "DELETE FROM side WHERE expires_ms <= $1 RETURNING key";
            db.query(sql, &[Value::Int(now.millis())])?
        }
    };
    let count = rows.drain(..).count();
    Ok(SideDone { rows: count as u64, value: None })
}

fn row(r: &mut Row) -> Result<SideRow, DbError> {
    let key = String::from_utf8(r.blob(0)?).map_err(|_| DbError::Malformed("side key"))?;
    let expires_at = r.opt(2, Row::signed)?.map(Timestamp::from_millis);
    Ok(SideRow { key, value: r.blob(1)?, expires_at })
}
