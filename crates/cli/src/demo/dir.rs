//! The demo's folder: fresh, resumed, or refused; and the paths inside it.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::exit::Failure;

/// Marks a folder whose story was told; such a folder is resumed.
pub const MARK: &str = "demo.toml";
/// Longest path that a unix socket can have, with room to spare.
const MAX_SOCKET: usize = 100;

/// What a folder is to the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Missing or empty.
    Fresh,
    /// Holds `demo.toml`.
    Resumed,
}

/// The folder, held by this process alone.
pub struct DemoDir {
    /// Absolute path.
    pub path: PathBuf,
    /// Fresh or resumed.
    pub kind: Kind,
    socket_dir: Option<tempfile::TempDir>,
    // Dropped after the socket's folder: both vanish with the demo unless it was told to keep them.
    temporary: Option<tempfile::TempDir>,
    _lock: Lock,
}

impl DemoDir {
    /// Opens `dir`, or a new temporary folder, which is removed at the end unless `keep`.
    ///
    /// # Errors
    /// When the folder holds something else, another demo runs in it, or it cannot be written.
    pub fn open(dir: Option<&Path>, keep: bool) -> Result<Self, Failure> {
        let (path, kind, temporary) = match dir {
            Some(dir) => {
                let kind = kind(dir)?;
                let mut builder = DirBuilder::new();
                builder.recursive(true).mode(0o700);
                builder.create(dir).map_err(|e| Failure::file(dir, &e))?;
                (dir.canonicalize().map_err(|e| Failure::file(dir, &e))?, kind, None)
            }
            None => {
                let made = tempfile::Builder::new().prefix("grantwright-demo-").tempdir();
                let made = made
                    .map_err(|e| Failure::unable(format!("cannot make a temporary folder: {e}")))?;
                if keep {
                    (made.keep(), Kind::Fresh, None)
                } else {
                    (made.path().to_owned(), Kind::Fresh, Some(made))
                }
            }
        };
        let lock = lock(&path)?;
        let socket_dir = if path.join("sidecar.sock").as_os_str().len() > MAX_SOCKET {
            let made = tempfile::Builder::new().prefix("grantwright-").tempdir();
            Some(made.map_err(|e| Failure::unable(format!("cannot make a temporary folder: {e}")))?)
        } else {
            None
        };
        Ok(Self { path, kind, socket_dir, temporary, _lock: lock })
    }

    /// A path inside.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where the sidecar's socket is: inside, unless that path is too long for a socket.
    pub fn socket(&self) -> PathBuf {
        self.socket_dir.as_ref().map_or(&*self.path, tempfile::TempDir::path).join("sidecar.sock")
    }

    /// True when the folder vanishes with the demo.
    pub fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    /// Makes a folder inside, for this user alone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.file(name);
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&path).map_err(|e| Failure::file(&path, &e))?;
        Ok(path)
    }
}

/// Says what `dir` is, or why the demo will not touch it.
///
/// # Errors
/// When it is no folder, or holds anything but a demo.
pub fn kind(dir: &Path) -> Result<Kind, Failure> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Kind::Fresh),
        Err(e) => return Err(Failure::file(dir, &e)),
    };
    if entries.count() == 0 {
        return Ok(Kind::Fresh);
    }
    if dir.join(MARK).is_file() {
        return Ok(Kind::Resumed);
    }
    Err(Failure::unable(format!(
        "`{}` is neither empty nor a demo's folder (it has no {MARK}); give another folder, or empty it",
        dir.display()
    )))
}

/// Released when dropped, also where a process that is being started still holds a copy of the file.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Two demos in one folder would be two writers of one log.
fn lock(dir: &Path) -> Result<Lock, Failure> {
    let path = dir.join(".lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| Failure::file(&path, &e))?;
    file.try_lock().map_err(|_| {
        Failure::unable(format!("another demo runs in `{}`; end it first", dir.display()))
    })?;
    Ok(Lock(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_empty_are_fresh_a_demo_is_resumed_anything_else_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(kind(&dir.path().join("missing")).unwrap(), Kind::Fresh);
        assert_eq!(kind(dir.path()).unwrap(), Kind::Fresh);
        std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        assert!(kind(dir.path()).is_err());
        assert!(kind(&dir.path().join("notes.txt")).is_err());
        std::fs::write(dir.path().join(MARK), "version = 1").unwrap();
        assert_eq!(kind(dir.path()).unwrap(), Kind::Resumed);
    }

    #[test]
    fn one_demo_per_folder() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("demo");
        let first = DemoDir::open(Some(&inside), true).unwrap();
        std::fs::write(inside.join(MARK), "").unwrap();
        assert!(DemoDir::open(Some(&inside), true).is_err());
        drop(first);
        assert_eq!(DemoDir::open(Some(&inside), true).unwrap().kind, Kind::Resumed);
    }

    #[test]
    fn a_temporary_folder_vanishes_and_a_long_path_gets_its_socket_elsewhere() {
        let demo = DemoDir::open(None, false).unwrap();
        let path = demo.path.clone();
        assert!(demo.is_temporary() && path.is_dir());
        drop(demo);
        assert!(!path.exists());
        let dir = tempfile::tempdir().unwrap();
        let long = DemoDir::open(Some(&dir.path().join("x".repeat(120))), false).unwrap();
        assert!(long.socket().as_os_str().len() <= MAX_SOCKET);
    }
}
