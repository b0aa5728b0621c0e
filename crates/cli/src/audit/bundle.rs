//! An evidence bundle: a log's files and what explains them, in one archive (tar, gzip).
//!
//! Unpacking trusts nothing: only the paths of a log's files are taken, each once, and size and
//! compression are bounded.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Component, Path};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use grantwright_audit::tiles::MAX_FILE;
use tempfile::TempDir;

use crate::exit::Failure;

/// What the bundle's `format` file says.
pub const FORMAT: &str = "grantwright-bundle/v1\n";
/// Bytes that a bundle may hold before its compression is looked at.
const FREE: u64 = 64 << 20;
/// No honest bundle shrinks further: leaves are hashes and ids.
const MOST_RATIO: u64 = 200;
/// Most files.
const MOST_FILES: usize = 4_000_000;
/// Folders and files at the top of a bundle; anything else is refused.
const KNOWN: [&str; 8] =
    ["format", "checkpoint", "checkpoints", "tile", "blob", "texts", "keys.txt", "README.txt"];

/// Where exported files go.
pub trait Sink {
    /// Adds a file; never twice the same.
    ///
    /// # Errors
    /// When it cannot be written.
    fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), Failure>;
}

/// A bundle that is being written.
pub struct Pack {
    tar: tar::Builder<GzEncoder<BufWriter<File>>>,
    place: std::path::PathBuf,
    beside: std::path::PathBuf,
}

impl Pack {
    /// Begins a bundle; `place` appears when it is whole.
    ///
    /// # Errors
    /// When its folder cannot be written.
    pub fn begin(place: &Path) -> Result<Self, Failure> {
        let name = place.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let beside = place.with_file_name(format!(".{name}.new"));
        let file = File::create(&beside).map_err(|e| Failure::file(place, &e))?;
        let gzip = GzEncoder::new(BufWriter::new(file), Compression::default());
        Ok(Self { tar: tar::Builder::new(gzip), place: place.to_owned(), beside })
    }

    /// Ends it.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn end(self) -> Result<(), Failure> {
        let fault = |e: std::io::Error| Failure::file(&self.place, &e);
        let mut writer = self.tar.into_inner().and_then(GzEncoder::finish).map_err(fault)?;
        writer.flush().and_then(|()| writer.get_ref().sync_all()).map_err(fault)?;
        std::fs::rename(&self.beside, &self.place).map_err(fault)
    }
}

impl Sink for Pack {
    fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), Failure> {
        // No times and no names of users: the same log gives the same bundle.
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        self.tar.append_data(&mut header, path, bytes).map_err(|e| Failure::file(&self.place, &e))
    }
}

/// Unpacks a bundle into a private folder.
///
/// # Errors
/// When the archive is cut short, damaged, no bundle of this format, or larger than it may be.
pub fn unpack(bundle: &Path) -> Result<TempDir, Failure> {
    let file = File::open(bundle).map_err(|e| Failure::file(bundle, &e))?;
    let packed = file.metadata().map_err(|e| Failure::file(bundle, &e))?.len();
    let most = FREE.saturating_add(packed.saturating_mul(MOST_RATIO));
    let wrong = |why: &dyn std::fmt::Display| {
        Failure::unable(format!("`{}` is not a whole bundle: {why}", bundle.display()))
    };
    let folder =
        tempfile::Builder::new().prefix("grantwright-bundle-").tempdir().map_err(|e| wrong(&e))?;
    let mut gzip = GzDecoder::new(BufReader::new(file)).take(most.saturating_add(1));
    let mut seen = HashSet::new();
    let mut total = 0u64;
    {
        let mut archive = tar::Archive::new(&mut gzip);
        for entry in archive.entries().map_err(|e| wrong(&e))? {
            let mut entry = entry.map_err(|e| wrong(&e))?;
            let path = entry.path().map_err(|e| wrong(&e))?.into_owned();
            let shown = grantwright_domain::text::visible(&path.to_string_lossy());
            let size = entry.size();
            total = total.saturating_add(size);
            let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
            let top = path.components().next().and_then(|c| c.as_os_str().to_str());
            if !entry.header().entry_type().is_file() || !plain {
                return Err(wrong(&format!("it holds `{shown}`, which is no plain file")));
            }
            if !top.is_some_and(|top| KNOWN.contains(&top)) {
                return Err(wrong(&format!("it holds `{shown}`, which no bundle has")));
            }
            if size > MAX_FILE as u64 || total > most || seen.len() >= MOST_FILES {
                return Err(wrong(&format!("`{shown}` makes it larger than a bundle may be")));
            }
            if !seen.insert(path.clone()) {
                return Err(wrong(&format!("it holds `{shown}` twice")));
            }
            let place = folder.path().join(&path);
            if let Some(parent) = place.parent() {
                std::fs::create_dir_all(parent).map_err(|e| wrong(&e))?;
            }
            let mut out = File::create(&place).map_err(|e| wrong(&e))?;
            let copied = std::io::copy(&mut entry, &mut out).map_err(|e| wrong(&e))?;
            if copied != size {
                return Err(wrong(&format!("`{shown}` is cut short")));
            }
        }
    }
    // The checksum stands at the end of the compressed stream.
    std::io::copy(&mut gzip, &mut std::io::sink()).map_err(|e| wrong(&e))?;
    if gzip.limit() == 0 {
        return Err(wrong(&"it is larger than a bundle may be"));
    }
    let format = std::fs::read(folder.path().join("format")).unwrap_or_default();
    if format != FORMAT.as_bytes() {
        return Err(wrong(&format!("its `format` is not {}", FORMAT.trim_end())));
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(files: &[(&str, &[u8])]) -> (TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("b.tar.gz");
        let mut pack = Pack::begin(&place).unwrap();
        for (path, bytes) in files {
            pack.put(path, bytes).unwrap();
        }
        pack.end().unwrap();
        (dir, place)
    }

    #[test]
    fn a_whole_bundle_is_taken_and_its_bytes_are_the_same_each_time() {
        let files: [(&str, &[u8]); 2] =
            [("format", FORMAT.as_bytes()), ("tile/0/x001/000", b"hashes")];
        let (_one, place) = pack(&files);
        let (_two, other) = pack(&files);
        assert_eq!(std::fs::read(&place).unwrap(), std::fs::read(other).unwrap());
        let folder = unpack(&place).unwrap();
        assert_eq!(std::fs::read(folder.path().join("tile/0/x001/000")).unwrap(), b"hashes");
    }

    #[test]
    fn what_is_cut_short_or_flipped_is_refused_at_every_place() {
        let noise: Vec<u8> =
            (0..4000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let (_dir, place) = pack(&[("format", FORMAT.as_bytes()), ("checkpoint", &noise)]);
        let whole = std::fs::read(&place).unwrap();
        for length in (0..whole.len()).step_by(97) {
            std::fs::write(&place, &whole[..length]).unwrap();
            assert!(unpack(&place).is_err(), "cut at {length}");
        }
        // The ten bytes of gzip's header carry a time and flags that say nothing of the content.
        for at in (10..whole.len()).step_by(41) {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            std::fs::write(&place, &bytes).unwrap();
            assert!(unpack(&place).is_err(), "flipped at {at}");
        }
    }

    #[test]
    fn strange_members_and_bombs_are_refused() {
        let format = ("format", FORMAT.as_bytes());
        for files in [
            vec![format, ("secrets", b"".as_slice())],
            vec![format, ("checkpoint", b"a"), ("checkpoint", b"b")],
            vec![("checkpoint", b"a".as_slice())],
            vec![("format", b"grantwright-bundle/v2\n".as_slice())],
        ] {
            let (_dir, place) = pack(&files);
            assert!(unpack(&place).is_err(), "{files:?}");
        }
        let zeros = vec![0; MAX_FILE];
        let names: Vec<String> = (0..8).map(|n| format!("tile/{n}")).collect();
        let mut files = vec![format];
        files.extend(names.iter().map(|name| (name.as_str(), zeros.as_slice())));
        let (_dir, place) = pack(&files);
        assert!(unpack(&place).unwrap_err().to_string().contains("larger"));
    }

    #[test]
    fn paths_that_lead_outside_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("b.tar.gz");
        for name in [&b"../out"[..], b"/etc/out", b"tile/../../out"] {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name);
            header.set_size(0);
            header.set_entry_type(tar::EntryType::Regular);
            header.set_cksum();
            let file = File::create(&place).unwrap();
            let mut tar = tar::Builder::new(GzEncoder::new(file, Compression::default()));
            tar.append(&header, std::io::empty()).unwrap();
            tar.into_inner().unwrap().finish().unwrap();
            assert!(unpack(&place).is_err(), "{name:?}");
        }
    }
}
