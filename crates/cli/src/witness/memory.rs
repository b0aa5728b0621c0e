//! What the witness remembers: of each log the checkpoint that it cosigned last, one file each.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use grantwright_proof::{Checkpoint, Hash, Vkey};
use sha2::{Digest as _, Sha256};

use crate::exit::Failure;
use crate::files;

/// The checkpoint cosigned last of a log.
#[derive(Debug, Clone)]
pub struct Last {
    /// Number of leaves.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
    /// The note, with the cosignature.
    pub note: String,
}

/// All of them, by origin. Read from disk when a log is first heard of.
pub struct Memory {
    dir: PathBuf,
    known: HashMap<String, Last>,
}

/// The name under which a log's checkpoint is kept and served.
pub fn name_of(origin: &str) -> String {
    hex::encode(Sha256::digest(origin.as_bytes()))
}

impl Memory {
    /// # Errors
    /// When the folder cannot be written.
    pub fn open(dir: &Path) -> Result<Self, Failure> {
        let dir = dir.join("checkpoints");
        std::fs::create_dir_all(&dir).map_err(|e| Failure::file(&dir, &e))?;
        Ok(Self { dir, known: HashMap::new() })
    }

    /// What was cosigned last.
    ///
    /// # Errors
    /// When what is kept cannot be read or is not of this log: it is never taken for nothing.
    pub fn last(&mut self, log: &Vkey) -> Result<Option<&Last>, Failure> {
        let origin = log.name();
        let place = self.dir.join(name_of(origin));
        if !self.known.contains_key(origin) && place.exists() {
            let note = files::read(&place)?;
            let open = Checkpoint::open(&note, log, origin)
                .map_err(|e| Failure::unable(format!("`{}`: {e}; restore it", place.display())))?;
            let last = Last { size: open.size(), root: open.root(), note };
            self.known.insert(origin.to_owned(), last);
        }
        Ok(self.known.get(origin))
    }

    /// Keeps a checkpoint, durably: file and folder are synced before this returns.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn keep(&mut self, origin: &str, last: Last) -> Result<(), Failure> {
        let place = self.dir.join(name_of(origin));
        files::write_private(&place, &last.note)?;
        let folder = std::fs::File::open(&self.dir).map_err(|e| Failure::file(&self.dir, &e))?;
        folder.sync_all().map_err(|e| Failure::file(&self.dir, &e))?;
        self.known.insert(origin.to_owned(), last);
        Ok(())
    }
}
