//! Key files: each of mode 0600 in one folder; a missing or readable-by-others key stops the start.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use grantwright_credential::Secret;

use crate::error::StartError;

/// The folder of keys.
#[derive(Debug, Clone)]
pub struct KeyDir(PathBuf);

impl KeyDir {
    /// The folder at `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The path of one file.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Reads a secret key.
    ///
    /// # Errors
    /// When the file is missing, empty, or readable by others than its owner.
    pub fn read(&self, name: &str) -> Result<Secret<String>, StartError> {
        let path = self.path(name);
        read_secret(&path)
    }

    /// Writes a new secret key; an existing one is never overwritten.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn create(&self, name: &str, text: &str) -> Result<(), StartError> {
        write_new(&self.path(name), text)
    }

    /// Keeps what is public of a key beside it; what is there already must be the same.
    ///
    /// # Errors
    /// When it differs, or cannot be read or written.
    pub fn publish(&self, name: &str, text: &str) -> Result<(), StartError> {
        let path = self.path(name);
        match std::fs::read_to_string(&path) {
            Ok(kept) if kept == text => Ok(()),
            Ok(_) => Err(StartError::new(format!(
                "`{}` is not of the key beside it; restore both from their backup",
                path.display()
            ))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => replace(&path, text),
            Err(e) => Err(StartError::new(format!("`{}` cannot be read: {e}", path.display()))),
        }
    }
}

/// Reads a secret file of mode 0600.
///
/// # Errors
/// When it is missing, empty, or readable by others than its owner.
pub fn read_secret(path: &Path) -> Result<Secret<String>, StartError> {
    let shown = path.display();
    let meta = std::fs::metadata(path).map_err(|e| {
        StartError::new(format!("the key `{shown}` cannot be read: {e}; restore it, or make a new broker with `grantwright init`"))
    })?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StartError::new(format!(
            "the key `{shown}` is readable by others (mode {mode:04o}); run: chmod 600 {shown}"
        )));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|e| StartError::new(format!("the key `{shown}` cannot be read: {e}")))?;
    if text.trim().is_empty() {
        return Err(StartError::new(format!(
            "the key `{shown}` is empty; restore it from its backup"
        )));
    }
    Ok(Secret::new(text))
}

/// Writes a new file of mode 0600; an existing one is never overwritten.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn write_new(path: &Path, text: &str) -> Result<(), StartError> {
    let failed =
        |e: std::io::Error| StartError::new(format!("cannot write `{}`: {e}", path.display()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// Writes a file of mode 0600 in one step: whole or not at all.
///
/// # Errors
/// When the folder cannot be written.
pub fn replace(path: &Path, text: &str) -> Result<(), StartError> {
    let failed =
        |e: std::io::Error| StartError::new(format!("cannot write `{}`: {e}", path.display()));
    let part = path.with_extension("part");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&part, path).map_err(failed)
}
