//! The log that this sidecar trusts: its key, the offline recovery key that was pinned when it enrolled
//! (or learned from the log's first leaf, by one that enrolled before), and the keys of the epochs before. Only a leaf signed by the recovery key moves it to another log.

use std::path::{Path, PathBuf};

use grantwright_domain::event::EpochStarted;
use grantwright_proof::epoch::{self, Epoch};
use grantwright_proof::{ProofError, Verified, Vkey};
use serde::{Deserialize, Serialize};

use crate::{SidecarError, files};

/// See the module.
#[derive(Debug, Clone)]
pub struct PinnedLog {
    /// The key that signs the log.
    pub vkey: Vkey,
    /// The key that signs the first leaf of the next epoch; none was pinned: no epoch is accepted.
    pub recovery: Option<Vkey>,
    /// Keys of the logs before, oldest first.
    pub older: Vec<Vkey>,
    file: PathBuf,
}

/// `log.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    log_vkey: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovery_key: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    older: Vec<String>,
}

impl PinnedLog {
    /// What is pinned at the first enrolment; not on disk yet.
    pub fn new(state_dir: &Path, vkey: Vkey, recovery: Option<Vkey>) -> Self {
        Self { vkey, recovery, older: Vec::new(), file: state_dir.join("log.json") }
    }

    /// What is pinned. A sidecar that enrolled with a broker which named no recovery key pinned the
    /// log's key alone.
    ///
    /// # Errors
    /// [`SidecarError::State`] if the file is damaged: it is never silently replaced.
    pub fn open(state_dir: &Path, enrolled: &Vkey) -> Result<Self, SidecarError> {
        let new = Self::new(state_dir, enrolled.clone(), None);
        let Some(bytes) = files::read_if_there(&new.file)? else { return Ok(new) };
        let unusable = |why: String| SidecarError::State { path: new.file.clone(), why };
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|e| unusable(e.to_string()))?;
        if stored.version != 1 {
            return Err(unusable(format!("version {} is not known", stored.version)));
        }
        let key = |text: &String| Vkey::parse(text).map_err(|e| unusable(e.to_string()));
        Ok(Self {
            vkey: key(&stored.log_vkey)?,
            recovery: stored.recovery_key.as_ref().map(key).transpose()?,
            older: stored.older.iter().map(key).collect::<Result<_, _>>()?,
            file: new.file.clone(),
        })
    }

    /// The same, with the key that its log was found to name; not on disk yet.
    #[must_use]
    pub fn with_recovery(&self, recovery: Vkey) -> Self {
        Self { recovery: Some(recovery), ..self.clone() }
    }

    /// Writes it, durably.
    ///
    /// # Errors
    /// [`SidecarError::File`] or [`SidecarError::State`].
    pub fn save(&self) -> Result<(), SidecarError> {
        let stored = Stored {
            version: 1,
            log_vkey: self.vkey.to_string(),
            recovery_key: self.recovery.as_ref().map(Vkey::to_string),
            older: self.older.iter().map(Vkey::to_string).collect(),
        };
        let json = serde_json::to_vec_pretty(&stored)
            .map_err(|e| SidecarError::State { path: self.file.clone(), why: e.to_string() })?;
        files::write_private(&self.file, &json)
    }

    /// Where the epochs lead from here, if they lead on, and the epochs that were passed, oldest first; not
    /// on disk yet.
    ///
    /// # Errors
    /// [`ProofError`] where the pinned recovery key does not vouch for them, none is pinned, or they lead
    /// back to a log that ended.
    pub fn follow(&self, epochs: &[Vec<u8>]) -> Result<Option<(Self, Vec<Epoch>)>, ProofError> {
        let malformed = |_| ProofError::Malformed { what: "first leaf of an epoch" };
        let epochs: Vec<EpochStarted> = epochs
            .iter()
            .take(epoch::MAX_EPOCHS + 1)
            .map(|leaf| EpochStarted::from_leaf(leaf).map_err(malformed))
            .collect::<Result<_, _>>()?;
        if !epochs.iter().any(|e| e.old_vkey == self.vkey.to_string()) {
            return Ok(None);
        }
        let no_key = ProofError::Malformed { what: "epoch: no recovery key was pinned" };
        let recovery = self.recovery.as_ref().ok_or(no_key)?;
        let led = epoch::follow(&epochs, &self.vkey, recovery)?;
        let led: Vec<Epoch> = led.into_iter().map(Verified::into_inner).collect();
        let Some(last) = led.last() else { return Ok(None) };
        if self.older.iter().any(|old| led.iter().any(|e| epoch::same_log(old, &e.vkey))) {
            return Err(ProofError::Malformed { what: "epoch: it leads back to a log that ended" });
        }
        let older = self.older.iter().chain(led.iter().map(|e| &e.old)).cloned().collect();
        let next = Self {
            vkey: last.vkey.clone(),
            recovery: Some(last.recovery.clone()),
            older,
            file: self.file.clone(),
        };
        Ok(Some((next, led)))
    }
}
