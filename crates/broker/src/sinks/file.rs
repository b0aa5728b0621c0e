//! A file of one event a line, synced before the cursor moves on, rotated by size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::Line;
use super::config::FileTarget;

/// How far back the end of a line that a crash cut off is looked for.
const TAIL: u64 = 1 << 20;

/// See the module.
pub(super) struct FileSink(Arc<Mutex<Rotated>>);

struct Rotated {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    open: Option<(File, u64)>,
}

impl FileSink {
    pub(super) fn new(target: &FileTarget) -> Self {
        let FileTarget { path, max_bytes, keep } = target.clone();
        Self(Arc::new(Mutex::new(Rotated { path, max_bytes, keep, open: None })))
    }

    /// Appends the lines, durably.
    pub(super) async fn deliver(&self, lines: &[Line]) -> Result<(), String> {
        let (file, lines) = (Arc::clone(&self.0), lines.to_vec());
        let work = move || {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let done = file.append(&lines);
            if done.is_err() {
                // What is on disk is looked at anew.
                file.open = None;
            }
            done.map_err(|e| format!("`{}`: {e}", file.path.display()))
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|_| "the writer ended early".to_owned())?
    }
}

impl Rotated {
    fn append(&mut self, lines: &[Line]) -> io::Result<()> {
        let mut batch = Vec::new();
        for line in lines {
            let held = self.current()?.1.saturating_add(batch.len() as u64);
            let new = line.bytes.len() as u64 + 1;
            if held > 0 && held.saturating_add(new) > self.max_bytes {
                self.write(&batch)?;
                batch.clear();
                self.rotate()?;
            }
            batch.extend_from_slice(&line.bytes);
            batch.push(b'\n');
        }
        self.write(&batch)
    }

    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        let (file, size) = self.current()?;
        file.write_all(batch)?;
        file.sync_data()?;
        *size = size.saturating_add(batch.len() as u64);
        Ok(())
    }

    /// The open file and its size; somebody may have moved it away.
    fn current(&mut self) -> io::Result<(&mut File, &mut u64)> {
        let there = fs::metadata(&self.path).ok().map(|m| (m.dev(), m.ino()));
        if let Some((file, _)) = &self.open {
            let held = file.metadata()?;
            if there != Some((held.dev(), held.ino())) {
                self.open = None;
            }
        }
        if self.open.is_none() {
            let mut options = OpenOptions::new();
            let mut file =
                options.read(true).append(true).create(true).mode(0o600).open(&self.path)?;
            let size = whole_lines(&mut file)?;
            self.open = Some((file, size));
        }
        let open = self.open.as_mut().map(|(file, size)| (file, size));
        open.ok_or_else(|| io::Error::other("not open"))
    }

    /// `.1` becomes `.2`, and so on; what is beyond `keep` goes.
    fn rotate(&mut self) -> io::Result<()> {
        self.open = None;
        let numbered = |n: u32| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        if self.keep == 0 {
            return fs::remove_file(&self.path);
        }
        for n in (1..self.keep).rev() {
            let from = numbered(n);
            if from.exists() {
                fs::rename(from, numbered(n.saturating_add(1)))?;
            }
        }
        fs::rename(&self.path, numbered(1))?;
        // The names are durable before anything is written under the old one again.
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(folder.unwrap_or(std::path::Path::new(".")))?.sync_all()
    }
}

/// Cuts off a last line without an end, which a crash left; the size that remains.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let from = size.saturating_sub(TAIL);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.take(TAIL).read_to_end(&mut tail)?;
    let kept = tail.iter().rposition(|b| *b == b'\n').map_or(0, |at| at as u64 + 1);
    let whole = from.saturating_add(kept);
    if whole < size {
        file.set_len(whole)?;
    }
    Ok(whole)
}
