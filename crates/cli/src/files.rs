//! Files that hold secrets, written so that no other user and no half-written state is ever seen.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::exit::Failure;

/// Writes `text` to `path` with mode 0600: a new file beside it, synced, then renamed over it.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    write_private_bytes(path, text.as_bytes())
}

/// As [`write_private`], of bytes.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_private_bytes(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let beside = beside(path);
    let fault = |e: std::io::Error| Failure::file(path, &e);
    let _ = std::fs::remove_file(&beside);
    let mut file: File =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).map_err(fault)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fault)?;
    std::fs::rename(&beside, path).map_err(fault)
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.new"))
}

/// Reads a one-line secret; a newline at its end is tolerated.
///
/// # Errors
/// When it cannot be read, is empty, or holds more than one line.
pub fn read_secret(path: &Path) -> Result<String, Failure> {
    let text = read(path)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() || line.contains(['\n', '\r', ' ']) {
        return Err(Failure::unable(format!(
            "`{}` does not hold one token on one line",
            path.display()
        )));
    }
    Ok(line.to_owned())
}

/// Reads a text file.
///
/// # Errors
/// When it cannot be read or is not UTF-8.
pub fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| Failure::file(path, &e))
}

/// Reads a text file of at most `most` bytes.
///
/// # Errors
/// As [`read`], and when it is longer.
pub fn read_most(path: &Path, most: u64) -> Result<String, Failure> {
    let mut text = String::new();
    let file = File::open(path).map_err(|e| Failure::file(path, &e))?;
    let limit = most.saturating_add(1);
    file.take(limit).read_to_string(&mut text).map_err(|e| Failure::file(path, &e))?;
    if text.len() as u64 > most {
        let detail = format!("`{}` is longer than {most} bytes", path.display());
        return Err(Failure::unable(detail));
    }
    Ok(text)
}

/// The files of `dir` that end in `.ext`, by name, with their text.
///
/// # Errors
/// When the folder or a file cannot be read.
pub fn read_folder(
    dir: &Path,
    ext: &str,
) -> Result<std::collections::BTreeMap<String, String>, Failure> {
    let mut out = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(|e| Failure::file(dir, &e))? {
        let path = entry.map_err(|e| Failure::file(dir, &e))?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if path.extension().is_some_and(|e| e == ext) && !name.starts_with('.') {
            out.insert(name, read(&path)?);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn private_files_are_private_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bob.token");
        write_private(&path, "old").unwrap();
        write_private(&path, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_token_file_may_end_in_a_newline_and_holds_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        for (text, want) in
            [("abc", Some("abc")), ("abc\n", Some("abc")), ("", None), ("a\nb", None)]
        {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read_secret(&path).ok().as_deref(), want, "{text:?}");
        }
    }
}
