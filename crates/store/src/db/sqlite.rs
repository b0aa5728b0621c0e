//! SQLite: WAL, `synchronous=FULL`, cached statements, one broker at a time.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::types::{Value as Sql, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, params};
use rustix::fs::{FlockOperation, flock};

use super::schema::{Dialect, NEWEST};
use super::{Db, DbError, Found, KeyRow, Mode, Needs, RequestRow, Row, RowAt, Rows, Value, int};
use crate::StoreError;
use crate::head::HeadRow;
use grantwright_domain::Digest;

/// Pages of 4 KiB in the WAL before a commit moves those into the database that [`Mover`] did not yet: the
/// writer stands still for it. Of 8 KiB they cost one caller 7 % and brought many callers nothing.
const WAL_PAGES: i64 = 8000;
/// Pages that are written, about, before the mover is woken.
const MOVED_PAGES: usize = 2000;
/// What a batch writes beside its leaves, in pages, about.
const BATCH_PAGES: usize = 12;
/// Memory for pages, in KiB, negative as SQLite wants it.
const CACHE_KIB: i64 = -65_536;
/// How long a statement waits for another process's short lock, in milliseconds.
const BUSY_MS: u64 = 5000;

/// A connection; a writer's holds the broker's lock as long as it lives.
pub(crate) struct Sqlite {
    /// Ends first: the last connection that closes leaves no WAL behind.
    mover: Option<Mover>,
    connection: Connection,
    _lock: Option<File>,
}

/// Moves pages from the WAL into the database on a thread and a connection of its own, while the writer
/// goes on: moved by a commit, some thousand pages hold up every caller.
struct Mover {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Pages written since it was woken, about.
    written: usize,
}

impl Mover {
    fn start(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = connect(path, flags)?;
        durable(&connection)?;
        let (wake, woken) = sync_channel(1);
        let work = move || {
            while woken.recv().is_ok() {
                // Passive: it waits for nobody, and what it leaves in the WAL stays readable there.
                let moved = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
                if let Err(e) = moved {
                    tracing::warn!(error = %e, "pages of the WAL were not moved; a commit does it");
                }
            }
        };
        let thread = std::thread::Builder::new().name("wal".into()).spawn(work);
        let thread = thread.map_err(|e| StoreError::Unavailable(format!("no thread: {e}")))?;
        Ok(Self { wake: Some(wake), thread: Some(thread), written: 0 })
    }

    fn wrote(&mut self, rows: &Rows) {
        self.written += BATCH_PAGES + rows.leaves.len();
        if self.written >= MOVED_PAGES {
            self.written = 0;
            // One that is at it already goes on once it is done.
            let _ = self.wake.as_ref().map(|wake| wake.try_send(()));
        }
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.wake = None;
        // One that panicked moved nothing; a commit does.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Sqlite {
    /// Opens the one writing connection, makes the file (0600) and brings its tables up to date.
    pub(crate) fn open_writer(path: &Path) -> Result<Self, StoreError> {
        let lock = lock(path)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let unavailable =
            |e: std::io::Error| StoreError::Unavailable(format!("{}: {e}", path.display()));
        let file = options.open(path).map_err(unavailable)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(unavailable)?;
        drop(file);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = connect(path, flags)?;
        durable(&connection)?;
        connection.pragma_update(None, "foreign_keys", "OFF").map_err(fault)?;
        let mode: String = connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |r| r.get(0))
            .map_err(fault)?;
        if mode != "wal" {
            return Err(StoreError::Unavailable(format!("journal mode is `{mode}`, not `wal`")));
        }
        connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES).map_err(fault)?;
        connection.pragma_update(None, "cache_size", CACHE_KIB).map_err(fault)?;
        migrate(&connection)?;
        Ok(Self { mover: Some(Mover::start(path)?), connection, _lock: Some(lock) })
    }

    /// Opens a connection that cannot write. The writer's must have made the file.
    pub(crate) fn open_reader(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Ok(Self { mover: None, connection: connect(path, flags)?, _lock: None })
    }

    /// Opens a file that nobody writes to, without making anything beside it. Whoever asks looks
    /// afterwards whether nobody did.
    pub(crate) fn open_still(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_URI;
        let path = path
            .to_str()
            .ok_or_else(|| StoreError::Invalid("the path of a store is UTF-8".to_owned()))?;
        let escaped: String = path.bytes().fold(String::new(), |mut uri, byte| {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => {
                    uri.push(char::from(byte));
                }
                other => uri.push_str(&format!("%{other:02X}")),
            }
            uri
        });
        let uri = format!("file:{escaped}?immutable=1");
        // Not mapped into memory: who cuts the file off would end this process.
        Ok(Self { mover: None, connection: connect(Path::new(&uri), flags)?, _lock: None })
    }

    /// Writes what this connection sees at this moment into an empty file.
    pub(crate) fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        let path = path
            .to_str()
            .ok_or_else(|| StoreError::Invalid("the path of a copy is UTF-8".to_owned()))?;
        let done = self.connection.execute("VACUUM INTO ?1", params![path]);
        done.map(drop).map_err(|e| fault(e).into())
    }

    fn change(&mut self, rows: &[RequestRow]) -> rusqlite::Result<bool> {
        let mut update = self.connection.prepare_cached(
            "UPDATE requests SET phase = ?1, version = ?2, last_index = ?3, \
             leaf_list = leaf_list || ?4, due_ms = ?5, identity = ?6, lease_id = ?7, \
             lease_state = ?8, lease_expires_ms = ?9, revocable = ?10 \
             WHERE first_index = ?11 AND version = ?12 AND id = ?13",
        )?;
        for r in rows {
            let lease = r.lease.as_ref();
            let changed = update.execute(params![
                r.phase,
                int(r.version),
                int(r.last),
                r.leaves,
                r.due_ms,
                r.identity.as_ref().map(|d| d.0.as_slice()),
                lease.map(|l| l.id.as_str()),
                lease.map(|l| l.state),
                lease.map(|l| l.expires_ms),
                lease.map(|l| i64::from(l.revocable)),
                int(r.first),
                r.was.map(int),
                r.id.as_str(),
            ])?;
            if changed != 1 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn insert(&mut self, rows: &Rows) -> rusqlite::Result<()> {
        let c = &self.connection;
        let mut leaf = c.prepare_cached(
            "INSERT INTO leaves (idx, request_id, kind, body, hash) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        for l in &rows.leaves {
            let request = l.request.as_ref().map(|r| r.as_str());
            leaf.execute(params![int(l.index), request, l.kind, l.body, l.hash.as_bytes()])?;
        }
        let mut request = c.prepare_cached(
            "INSERT INTO requests (first_index, id, agent, instance, scope, phase, version, \
             last_index, leaf_list, created_ms, due_ms, identity, lease_id, lease_state, \
             lease_expires_ms, revocable) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        )?;
        for r in &rows.new {
            let lease = r.lease.as_ref();
            request.execute(params![
                int(r.first),
                r.id.as_str(),
                r.agent.as_str(),
                r.instance.as_str(),
                r.scope.as_str(),
                r.phase,
                int(r.version),
                int(r.last),
                r.leaves,
                r.created_ms,
                r.due_ms,
                r.identity.as_ref().map(|d| d.0.as_slice()),
                lease.map(|l| l.id.as_str()),
                lease.map(|l| l.state),
                lease.map(|l| l.expires_ms),
                lease.map(|l| i64::from(l.revocable)),
            ])?;
        }
        let mut key = c.prepare_cached(
            "INSERT INTO keys (agent, key, request_id, instance, body) \
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        for k in &rows.keys {
            let body = k.body.0.as_slice();
            let (agent, instance) = (k.agent.as_str(), k.instance.as_str());
            key.execute(params![agent, k.key.as_str(), k.request.as_str(), instance, body])?;
        }
        let mut text = c.prepare_cached(
            "INSERT INTO texts (request_id, name, salt, body) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (request_id, name) DO UPDATE SET salt = excluded.salt, body = excluded.body",
        )?;
        for t in &rows.texts {
            text.execute(params![t.request.as_str(), t.name, t.salt.as_slice(), t.text])?;
        }
        for (digest, body) in &rows.blobs {
            c.prepare_cached(
                "INSERT INTO blobs (digest, body) VALUES (?1, ?2) ON CONFLICT (digest) DO NOTHING",
            )?
            .execute(params![digest.0.as_slice(), body])?;
        }
        for s in &rows.sealed {
            c.prepare_cached(
                "INSERT INTO sealed (request_id, instance, body, until_ms) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (request_id) DO UPDATE SET instance = excluded.instance, \
                 body = excluded.body, until_ms = excluded.until_ms",
            )?
            .execute(params![
                s.request.as_str(),
                s.instance.as_str(),
                s.bytes,
                s.until_ms
            ])?;
        }
        for t in &rows.tiles {
            c.prepare_cached(
                "INSERT INTO tiles (level, idx, hashes) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (level, idx) DO UPDATE SET hashes = excluded.hashes",
            )?
            .execute(params![i64::from(t.level), int(t.index), t.hashes])?;
        }
        if !rows.erase.is_empty() {
            // What is deleted is overwritten too.
            c.pragma_update(None, "secure_delete", "ON")?;
            for request in &rows.erase {
                c.prepare_cached("DELETE FROM texts WHERE request_id = ?1")?
                    .execute(params![request.as_str()])?;
            }
            c.pragma_update(None, "secure_delete", "OFF")?;
        }
        for request in &rows.unseal {
            c.prepare_cached("DELETE FROM sealed WHERE request_id = ?1")?
                .execute(params![request.as_str()])?;
        }
        if let Some((size, note)) = &rows.checkpoint {
            c.prepare_cached("INSERT INTO checkpoints (size, note) VALUES (?1, ?2)")?
                .execute(params![int(*size), note])?;
        }
        if let Some(head) = &rows.head {
            c.prepare_cached(
                "UPDATE head SET size = ?1, frontier = ?2, epoch = ?3, chain = ?4, \
                 open_tag = ?5, mac = ?6 WHERE id = 1",
            )?
            .execute(params![
                int(head.size()),
                head.frontier.encode(),
                int(head.epoch),
                head.chain.0.as_slice(),
                head.open.as_slice(),
                head.mac.as_slice(),
            ])?;
        }
        Ok(())
    }
}

impl Db for Sqlite {
    fn begin(&mut self, mode: Mode) -> Result<(), DbError> {
        let sql = match mode {
            Mode::Read => "BEGIN",
            Mode::Write => "BEGIN IMMEDIATE",
        };
        self.connection.prepare_cached(sql).and_then(|mut s| s.execute([])).map_err(fault)?;
        Ok(())
    }

    fn head(&mut self) -> Result<Option<HeadRow>, DbError> {
        let sql = "SELECT size, frontier, epoch, chain, open_tag, mac FROM head WHERE id = 1";
        self.query(sql, &[])?.first_mut().map(Row::head).transpose()
    }

    fn lookup(&mut self, needs: &Needs<'_>) -> Result<Found, DbError> {
        let c = &self.connection;
        let read = || -> rusqlite::Result<Found> {
            let mut found = Found::default();
            let mut request = c.prepare_cached(
                "SELECT first_index, version, last_index FROM requests WHERE id = ?1",
            )?;
            for id in &needs.requests {
                let row = request.query_row([id], |r| {
                    let at = |i| r.get::<_, i64>(i).map(|v| u64::try_from(v).unwrap_or(0));
                    Ok(RowAt { first: at(0)?, version: at(1)?, last: at(2)? })
                });
                found.requests.push(row.optional()?);
            }
            let mut key = c.prepare_cached(
                "SELECT request_id, instance, body FROM keys WHERE agent = ?1 AND key = ?2",
            )?;
            for (agent, name) in &needs.keys {
                let row = key.query_row([agent, name], |r| {
                    let body = Digest(r.get(2)?);
                    Ok(KeyRow { request: r.get(0)?, instance: r.get(1)?, body })
                });
                found.keys.push(row.optional()?);
            }
            Ok(found)
        };
        read().map_err(fault)
    }

    fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, DbError> {
        let read = || -> rusqlite::Result<Vec<Row>> {
            let mut statement = self.connection.prepare_cached(sql)?;
            let columns = statement.column_count();
            let mut rows =
                statement.query(rusqlite::params_from_iter(params.iter().map(sql_value)))?;
            let mut out = Vec::new();
            while let Some(row) = rows.next()? {
                let mut values = Vec::with_capacity(columns);
                for column in 0..columns {
                    values.push(match row.get_ref(column)? {
                        ValueRef::Null | ValueRef::Real(_) => Value::Null,
                        ValueRef::Integer(i) => Value::Int(i),
                        ValueRef::Text(t) => Value::Text(String::from_utf8_lossy(t).into_owned()),
                        ValueRef::Blob(b) => Value::Blob(b.to_vec()),
                    });
                }
                out.push(Row(values));
            }
            Ok(out)
        };
        read().map_err(fault)
    }

    fn each_bytes(
        &mut self,
        sql: &str,
        params: &[Value],
        each: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<(), DbError> {
        let negative = DbError::Malformed("negative column");
        let read = || -> rusqlite::Result<Result<(), DbError>> {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows =
                statement.query(rusqlite::params_from_iter(params.iter().map(sql_value)))?;
            while let Some(row) = rows.next()? {
                let Ok(number) = u64::try_from(row.get::<_, i64>(0)?) else {
                    return Ok(Err(negative));
                };
                match row.get_ref(1)? {
                    ValueRef::Blob(bytes) | ValueRef::Text(bytes) => each(number, bytes),
                    ValueRef::Integer(i) => each(number, i.to_string().as_bytes()),
                    ValueRef::Null | ValueRef::Real(_) => each(number, b""),
                }
            }
            Ok(Ok(()))
        };
        read().map_err(fault)?
    }

    fn write(&mut self, rows: &Rows) -> Result<(), DbError> {
        if !self.change(&rows.changed).map_err(fault)? {
            return Err(DbError::Malformed("request row: it is not as it was written"));
        }
        if let Some(mover) = &mut self.mover {
            mover.wrote(rows);
        }
        self.insert(rows).map_err(fault)
    }

    fn commit(&mut self) -> Result<(), DbError> {
        let c = &self.connection;
        c.prepare_cached("COMMIT").and_then(|mut s| s.execute([])).map_err(fault)?;
        Ok(())
    }

    fn rollback(&mut self) {
        if !self.connection.is_autocommit()
            && let Err(e) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::warn!(error = %e, "a transaction could not be rolled back");
        }
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn reconnects(&self) -> bool {
        false
    }
}

fn sql_value(value: &Value) -> Sql {
    match value {
        Value::Null => Sql::Null,
        Value::Int(i) => Sql::Integer(*i),
        Value::Text(t) => Sql::Text(t.clone()),
        Value::Blob(b) => Sql::Blob(b.clone()),
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, flags).map_err(fault)?;
    connection.busy_timeout(std::time::Duration::from_millis(BUSY_MS)).map_err(fault)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// What is committed is on the disk, and a checkpoint of the WAL syncs as strictly as a commit.
fn durable(connection: &Connection) -> Result<(), StoreError> {
    connection.pragma_update(None, "synchronous", "FULL").map_err(fault)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true).map_err(fault)?;
    Ok(())
}

/// Path of the file whose lock says that a broker uses the store.
pub(crate) fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let at = lock_path(path);
    let unavailable = |e: std::io::Error| StoreError::Unavailable(format!("{}: {e}", at.display()));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&at).map_err(unavailable)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked(path.display().to_string())),
        Err(e) => Err(unavailable(e.into())),
    }
}

fn migrate(connection: &Connection) -> Result<(), StoreError> {
    connection
        .execute_batch("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
        .map_err(fault)?;
    let version: i64 = connection
        .query_row("SELECT coalesce(max(version), 0) FROM schema_version", [], |r| r.get(0))
        .map_err(fault)?;
    let version = u64::try_from(version).unwrap_or(0);
    if version > NEWEST {
        return Err(StoreError::Unavailable(format!(
            "its tables are of version {version}, this program knows {NEWEST}: use a newer one"
        )));
    }
    for (to, sql) in Dialect::Sqlite.after(version) {
        let step =
            format!("BEGIN IMMEDIATE; {sql}; INSERT INTO schema_version VALUES ({to}); COMMIT");
        connection.execute_batch(&step).map_err(fault)?;
    }
    Ok(())
}

/// Sorts SQLite's errors: what puts integrity in doubt ends all writing.
fn fault(e: rusqlite::Error) -> DbError {
    let detail = e.to_string();
    match e.sqlite_error_code() {
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::ConstraintViolation,
        ) => DbError::Broken(detail),
        None => DbError::Malformed("stored value"),
        Some(_) => DbError::Unavailable(detail),
    }
}

#[cfg(test)]
mod tests {
    use grantwright_proof::leaf_hash;

    use super::super::LeafRow;
    use super::*;

    /// While pages are moved beside it, the writer goes on; and when it ends, all is in the one file.
    #[test]
    fn pages_move_beside_the_writer_and_no_wal_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let mut db = Sqlite::open_writer(&path).unwrap();
        let (batches, each) = (120u64, 100u64);
        for batch in 0..batches {
            let leaf = |n| {
                let body = vec![u8::try_from(n % 251).unwrap(); 500];
                let hash = leaf_hash(&body);
                LeafRow { index: batch * each + n, request: None, kind: "x", body, hash }
            };
            db.begin(Mode::Write).unwrap();
            db.write(&Rows { leaves: (0..each).map(leaf).collect(), ..Rows::default() }).unwrap();
            db.commit().unwrap();
        }
        assert!(batches * (each + BATCH_PAGES as u64) > 3 * MOVED_PAGES as u64, "it was woken");
        drop(db);
        assert!(!folder.path().join("store.db-wal").exists());
        let mut db = Sqlite::open_still(&path).unwrap();
        let mut rows = db.query("SELECT count(*), sum(length(body)) FROM leaves", &[]).unwrap();
        let row = rows.first_mut().unwrap();
        assert_eq!(
            (row.int(0).unwrap(), row.int(1).unwrap()),
            (batches * each, batches * each * 500)
        );
    }
}
