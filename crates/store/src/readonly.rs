//! Reading a store offline, without its keys and without trusting it: for the verifier and for
//! people who look into a log.
//!
//! Nothing is created beside the store. A SQLite store that a broker uses is read in one snapshot; one
//! that is at rest is copied (with its write-ahead log) into a private temporary folder first, since
//! SQLite would otherwise create files beside it. PostgreSQL is read in one read-only transaction.

mod raw;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use grantwright_domain::{Digest, RequestId};
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::db::postgres::Postgres;
use crate::db::sqlite::{Sqlite, lock_path};
use crate::db::{Db, Mode, Value};
use crate::read::{self, LeaseFilter, LeaseSummary, RequestFilter, RequestSummary, StoredText};
use crate::url::Url;
use crate::{Sealed, StoreError};

pub use raw::RawText;

/// Leaves that are read at once.
const PAGE: u64 = 1024;

/// One snapshot of a store. Nothing in it is vouched for.
pub struct Snapshot {
    db: Box<dyn Db>,
    /// Where the copy lies; removed with it.
    _copy: Option<TempDir>,
    /// The file at rest that is read in place, as it was.
    still: Option<Still>,
}

/// A SQLite file to which nobody writes, and how to see that nobody did.
struct Still {
    path: PathBuf,
    was: Seen,
}

/// What of a file changes when somebody writes to it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    file: (u64, u64, u64, i64, i64),
    wal: bool,
    in_use: bool,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Opens a snapshot. Blocks; it must not be called from an async context.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no store, [`StoreError::Url`] or
    /// [`StoreError::Unavailable`].
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let (mut db, copy): (Box<dyn Db>, _) = match Url::parse(url)? {
            Url::Postgres(url) => (Box::new(Postgres::open(&url, false, false)?), None),
            Url::Sqlite(path) => {
                let (db, copy) = open_sqlite(&path)?;
                (Box::new(db), copy)
            }
        };
        db.begin(Mode::Read)?;
        Self { db, _copy: copy, still: None }.of(url)
    }

    /// As [`Snapshot::open`], but a SQLite store at rest is read where it lies: for whoever reads much,
    /// and asks [`Snapshot::settled`] when done.
    ///
    /// # Errors
    /// As [`Snapshot::open`].
    pub fn open_in_place(url: &str) -> Result<Self, StoreError> {
        if let Url::Sqlite(path) = Url::parse(url)?
            && let Ok(was) = Seen::of(&path)
            && !was.wal
            && !was.in_use
        {
            let mut db = Box::new(Sqlite::open_still(&path)?);
            db.begin(Mode::Read)?;
            return Self { db, _copy: None, still: Some(Still { path, was }) }.of(url);
        }
        Self::open(url)
    }

    fn of(mut self, url: &str) -> Result<Self, StoreError> {
        match self.db.query("SELECT count(*) FROM head", &[]) {
            Ok(_) => Ok(self),
            Err(_) => Err(StoreError::NotFound(url.to_owned())),
        }
    }

    /// Whether all that was read is one moment of the store.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where it came into use while it was read in place.
    pub fn settled(&self) -> Result<(), StoreError> {
        match &self.still {
            Some(still) if Seen::of(&still.path).ok().as_ref() != Some(&still.was) => {
                Err(StoreError::Unavailable(format!(
                    "`{}` came into use while it was read: read it again",
                    still.path.display()
                )))
            }
            _ => Ok(()),
        }
    }

    /// What the head row says of the log's size.
    ///
    /// # Errors
    /// When the store cannot be read; so in all readings below.
    pub fn size(&mut self) -> Result<u64, StoreError> {
        let mut rows = self.db.query("SELECT size FROM head WHERE id = 1", &[])?;
        Ok(rows.first_mut().map(|r| r.int(0)).transpose()?.unwrap_or(0))
    }

    /// Gives each leaf's index and bytes, in order, to `visit`, until it returns false.
    ///
    /// # Errors
    /// See [`Snapshot::size`].
    pub fn for_each_leaf(
        &mut self,
        mut visit: impl FnMut(u64, &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let sql = "SELECT idx, body FROM leaves WHERE idx >= $1 ORDER BY idx LIMIT $2";
        let mut next = 0;
        loop {
            let mut rows = self.db.query(sql, &[Value::from(next), Value::from(PAGE)])?;
            if rows.is_empty() {
                return Ok(());
            }
            for row in &mut rows {
                let index = row.int(0)?;
                if !visit(index, &row.blob(1)?) {
                    return Ok(());
                }
                next = index.saturating_add(1);
            }
        }
    }

    /// The leaves whose rows name a request, with their indexes.
    ///
    /// # Errors
    /// See [`Snapshot::size`].
    pub fn request_leaves(&mut self, id: &RequestId) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let sql = "SELECT idx, body FROM leaves WHERE request_id = $1 ORDER BY idx";
        let rows = self.db.query(sql, &[Value::from(id.as_str())])?;
        rows.into_iter().map(|mut r| Ok((r.int(0)?, r.blob(1)?))).collect()
    }

    /// The signed checkpoint of the largest size.
    ///
    /// # Errors
    /// See [`Snapshot::size`].
    pub fn checkpoint(&mut self) -> Result<Option<String>, StoreError> {
        let sql = "SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1";
        Ok(self.db.query(sql, &[])?.first_mut().map(|r| r.text(0)).transpose()?)
    }

    /// The signed checkpoints with a size above `after`, smallest first, at most 1024.
    ///
    /// # Errors
    /// See [`Snapshot::size`].
    pub fn checkpoints(&mut self, after: u64) -> Result<Vec<(u64, String)>, StoreError> {
        let sql = "SELECT size, note FROM checkpoints WHERE size > $1 ORDER BY size LIMIT $2";
        let rows = self.db.query(sql, &[Value::from(after), Value::from(PAGE)])?;
        rows.into_iter().map(|mut r| Ok((r.int(0)?, r.text(1)?))).collect()
    }

    /// A blob by its digest.
    ///
    /// # Errors
    /// See [`Snapshot::size`].
    pub fn blob(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        crate::memory::read_blob(self.db.as_mut(), digest)
    }

    /// The erasable texts beside a request's leaves.
    ///
    /// # Errors
    /// See [`Snapshot::size`].
    pub fn texts(&mut self, id: &RequestId) -> Result<Vec<StoredText>, StoreError> {
        read::texts(self.db.as_mut(), id)
    }

    /// Requests, newest first.
    ///
    /// # Errors
    /// See [`Snapshot::size`].
    pub fn requests(&mut self, filter: &RequestFilter) -> Result<Vec<RequestSummary>, StoreError> {
        read::list(self.db.as_mut(), filter)
    }

    /// Leases, newest first.
    ///
    /// # Errors
    /// See [`Snapshot::size`].
    pub fn leases(&mut self, filter: &LeaseFilter) -> Result<Vec<LeaseSummary>, StoreError> {
        read::leases(self.db.as_mut(), filter)
    }

    /// The sealed copy of a request's credential: unreadable here, shown to prove so.
    ///
    /// # Errors
    /// See [`Snapshot::size`].
    pub fn sealed(
        &mut self,
        request: &RequestId,
        instance: &grantwright_domain::InstanceId,
    ) -> Result<Option<Sealed>, StoreError> {
        read::sealed(self.db.as_mut(), request, instance)
    }
}

/// Copies a SQLite store, in use or at rest, as it is at one moment. The copy is one file of mode 0600, which
/// must not exist, and durable when this returns. Blocks.
///
/// # Errors
/// [`StoreError::Invalid`] for PostgreSQL, which has its own tools, [`StoreError::NotFound`], or
/// [`StoreError::Unavailable`].
pub fn backup(url: &str, to: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::OpenOptionsExt;
    let Url::Sqlite(path) = Url::parse(url)? else {
        return Err(StoreError::Invalid(
            "PostgreSQL is backed up with pg_dump or pg_basebackup, in one snapshot".into(),
        ));
    };
    let unavailable =
        |e: std::io::Error| StoreError::Unavailable(format!("`{}`: {e}", to.display()));
    let (store, copy) = open_sqlite(&path)?;
    // Made first, so that nobody else can read it at any moment.
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    let file = file.map_err(unavailable)?;
    if let Err(e) = store.copy_to(to) {
        let _ = fs::remove_file(to);
        return Err(e);
    }
    drop(copy);
    file.sync_all().map_err(unavailable)?;
    let folder = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(unavailable)
}

impl Seen {
    fn of(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let file = fs::metadata(path)?;
        // Empty once all of it is in the file.
        let wal = fs::metadata(wal(path)).is_ok_and(|wal| wal.len() > 0);
        let file = (file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec());
        Ok(Self { file, wal, in_use: in_use(path).1 })
    }
}

/// The file whose lock a broker holds, if there is one, and whether one does.
fn in_use(path: &Path) -> (Option<File>, bool) {
    let lock = File::open(lock_path(path)).ok();
    let in_use = lock.as_ref().is_some_and(|lock| {
        flock(lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    });
    (lock, in_use)
}

fn wal(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

fn open_sqlite(path: &Path) -> Result<(Sqlite, Option<TempDir>), StoreError> {
    if !path.is_file() {
        return Err(StoreError::NotFound(path.display().to_string()));
    }
    let (lock, in_use) = in_use(path);
    if in_use {
        return Ok((Sqlite::open_reader(path)?, None));
    }
    // The shared lock, where there is one, keeps a broker from starting during the copy.
    let unavailable = |e: std::io::Error| StoreError::Unavailable(e.to_string());
    let folder = tempfile::Builder::new().prefix("grantwright-").tempdir().map_err(unavailable)?;
    let copy = folder.path().join("store");
    fs::copy(path, &copy).map_err(unavailable)?;
    if wal(path).is_file() {
        fs::copy(wal(path), wal(&copy)).map_err(unavailable)?;
    }
    drop(lock);
    Ok((Sqlite::open_reader(&copy)?, Some(folder)))
}
