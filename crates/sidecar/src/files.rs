//! Files that must be whole or absent, and private: written aside, synced, then renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, fchown};
use std::path::Path;

use crate::SidecarError;

/// Replaces the file with these bytes, mode 0600, durable when this returns.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), SidecarError> {
    write_for(path, bytes, None)
}

/// As [`write_private`], and the file is this user's; this process's own for none.
pub(crate) fn write_for(path: &Path, bytes: &[u8], user: Option<u32>) -> Result<(), SidecarError> {
    let fail = |source| SidecarError::File { what: "write", path: path.into(), source };
    let name = path.file_name().ok_or_else(|| fail(ErrorKind::InvalidFilename.into()))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut aside = std::ffi::OsString::from(".");
    aside.push(name);
    aside.push(format!(".{}.new", std::process::id()));
    let aside = folder.join(aside);
    let write = || {
        // One left behind by a crash of the same process id would be in the way.
        match fs::remove_file(&aside) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(bytes)?;
        if user.is_some() {
            fchown(&file, user, None)?;
        }
        file.sync_all()?;
        fs::rename(&aside, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(fail)
}

/// Makes the folder and those above it, mode 0700, if absent.
pub(crate) fn private_folder(path: &Path) -> Result<(), SidecarError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| SidecarError::File { what: "make the folder", path: path.into(), source })
}

/// The file's bytes; `None` when there is no such file.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, SidecarError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SidecarError::File { what: "read", path: path.into(), source }),
    }
}
