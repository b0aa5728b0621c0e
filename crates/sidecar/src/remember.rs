//! The last checkpoint of the log that this sidecar verified, and the refusal to go on with a log
//! that does not extend it (SECURITY 19).

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use grantwright_domain::{Timestamp, canonical};
use grantwright_proof::{
    Checkpoint, Hash, ProofError, TlogProof, Vkey, leaf_hash, note, verify_consistency,
    verify_inclusion,
};
use grantwright_wire::Refusal;
use grantwright_wire::v1::{ConsistencyReply, Evidence};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{SidecarError, files};

/// A verified promise of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Number of leaves.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
    /// The signed note.
    pub note: String,
}

/// What checked evidence says of a credential.
#[derive(Debug, Clone)]
pub struct Issued {
    /// `{"leaf","proof"}`, to be handed to the client.
    pub receipt: Value,
    /// When the leaf says that the credential was issued.
    pub at: Timestamp,
}

/// Why evidence does not hold.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// There is none.
    #[error("the reply carries no evidence")]
    Absent,
    /// The leaf is of another request or lease, or no "issued" leaf.
    #[error("the leaf is not the `issued` leaf of this request and lease")]
    OtherLeaf,
    /// A signature or proof is wrong.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

/// Most checkpoints of the past.
pub const MOST_PAST: usize = 64;
/// How often one is added to them.
const PAST_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

/// What the sidecar remembers of the log, in memory and on disk.
pub struct Remember {
    vkey: Vkey,
    path: PathBuf,
    kept: Mutex<Option<Kept>>,
    /// Checkpoints that were verified before, some of them, smallest first.
    past: Mutex<Vec<Kept>>,
    inconsistent: AtomicBool,
    /// Told when `kept` has changed and is not on disk yet.
    unsaved: Notify,
    /// Told when a proof of the newest state is wanted.
    pub(crate) recheck: Notify,
}

impl Remember {
    /// Reads what was kept. The key that signs the log was pinned when this sidecar enrolled.
    ///
    /// # Errors
    /// [`SidecarError::State`] if the kept checkpoint does not verify under that key: it is never
    /// silently dropped.
    pub fn open(vkey: Vkey, path: PathBuf) -> Result<Self, SidecarError> {
        let kept = match files::read_if_there(&path)? {
            None => None,
            Some(bytes) => {
                let unusable = |why: String| SidecarError::State { path: path.clone(), why };
                let note = String::from_utf8(bytes).map_err(|e| unusable(e.to_string()))?;
                Some(open(&note, &vkey).map_err(|e| {
                    unusable(format!("{e}; it is the proof against rollback: restore it"))
                })?)
            }
        };
        let past = files::read_if_there(&beside(&path))?.unwrap_or_default();
        let past = String::from_utf8(past).unwrap_or_default();
        // Evidence for whoever compares it, and nothing that is decided by here.
        let past = note::split(&past).into_iter().filter_map(|note| open(note, &vkey).ok());
        let past = Mutex::new(past.collect());
        Ok(Self {
            vkey,
            path,
            kept: Mutex::new(kept),
            past,
            inconsistent: AtomicBool::new(false),
            unsaved: Notify::new(),
            recheck: Notify::new(),
        })
    }

    /// The last verified checkpoint.
    pub fn kept(&self) -> Option<Kept> {
        self.lock().clone()
    }

    /// Checkpoints that this sidecar verified: up to [`MOST_PAST`] from its whole life, and the last.
    /// Signed notes, one after the other: shown beside another sidecar's, they show a split view.
    pub fn seen(&self) -> String {
        let last = self.kept();
        let mut out: String = self
            .past()
            .iter()
            .filter(|past| last.as_ref().is_none_or(|last| past.size != last.size))
            .map(|past| past.note.as_str())
            .collect();
        out.push_str(last.as_ref().map_or("", |last| &last.note));
        out
    }

    fn past(&self) -> std::sync::MutexGuard<'_, Vec<Kept>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers one more; of older ones every second goes when there are too many.
    fn remember(&self, kept: Kept) {
        let mut past = self.past();
        if past.last().is_some_and(|last| last.size >= kept.size) {
            return;
        }
        past.push(kept);
        if past.len() > MOST_PAST {
            let mut place = 0;
            past.retain(|_| {
                place += 1;
                place > MOST_PAST / 2 || place % 2 == 1
            });
        }
    }

    /// Its size; 0 when there is none.
    pub fn size(&self) -> u64 {
        self.lock().as_ref().map_or(0, |kept| kept.size)
    }

    /// True while the log is known to have shrunk or forked: nothing is served then.
    pub fn is_inconsistent(&self) -> bool {
        self.inconsistent.load(Ordering::Relaxed)
    }

    /// Refuses everything until a later proof holds.
    pub fn latch(&self, why: &dyn std::fmt::Display) {
        if !self.inconsistent.swap(true, Ordering::Relaxed) {
            tracing::error!(%why, "the log does not extend what this sidecar saw: serving nothing");
        }
        self.recheck.notify_one();
    }

    /// Checks the evidence of a granted reply. `sent` is what was kept when the call was made.
    ///
    /// # Errors
    /// [`EvidenceError`]; the caller latches and does not deliver.
    pub fn check_evidence(
        &self,
        sent: Option<&Kept>,
        evidence: Option<&Evidence>,
        request_id: &str,
        lease_id: &str,
    ) -> Result<Issued, EvidenceError> {
        let evidence = evidence.ok_or(EvidenceError::Absent)?;
        let head = open(&evidence.checkpoint, &self.vkey)?;
        let at = issued_at(&evidence.leaf, request_id, lease_id).ok_or(EvidenceError::OtherLeaf)?;
        let inclusion = hashes(&evidence.inclusion)?;
        let leaf = leaf_hash(&evidence.leaf);
        verify_inclusion(leaf, evidence.index, head.size, &inclusion, head.root)?;
        self.extend(sent, &head, &hashes(&evidence.consistency)?)?;
        let proof = TlogProof {
            extra: None,
            index: evidence.index,
            hashes: inclusion,
            checkpoint: evidence.checkpoint.clone(),
        };
        let receipt = json!({"leaf": STANDARD.encode(&evidence.leaf), "proof": proof.to_string()});
        Ok(Issued { receipt, at })
    }

    /// Checks that the log extends what was kept, and serves again if it had not.
    ///
    /// # Errors
    /// [`EvidenceError`]; the caller latches.
    pub fn check_consistency(
        &self,
        sent: Option<&Kept>,
        reply: &ConsistencyReply,
    ) -> Result<(), EvidenceError> {
        let head = open(&reply.checkpoint, &self.vkey)?;
        if let Some(sent) = sent
            && head.size < sent.size
        {
            // A standing log that is asked for its newest checkpoint has no older one to show.
            return Err(ProofError::SizesReversed { old: sent.size, new: head.size }.into());
        }
        self.extend(sent, &head, &hashes(&reply.proof)?)?;
        if self.inconsistent.swap(false, Ordering::Relaxed) {
            tracing::info!(
                size = head.size,
                "the log extends what this sidecar saw: serving again"
            );
        }
        Ok(())
    }

    /// A newer checkpoint was announced: true if it is worth asking for its proof.
    ///
    /// # Errors
    /// [`EvidenceError`] if it contradicts what is kept by itself.
    pub fn announced(&self, note: &str) -> Result<bool, EvidenceError> {
        let head = open(note, &self.vkey)?;
        match self.lock().as_ref() {
            Some(kept) if kept.size == head.size && kept.root != head.root => {
                Err(ProofError::RootMismatch.into())
            }
            Some(kept) => Ok(kept.size < head.size),
            None => Ok(true),
        }
    }

    /// The proof leads from `sent` to `head`, or, when the reply is older, from `head` to `sent`.
    fn extend(&self, sent: Option<&Kept>, head: &Kept, proof: &[Hash]) -> Result<(), ProofError> {
        if let Some(sent) = sent {
            let (old, new) = if head.size < sent.size { (head, sent) } else { (sent, head) };
            verify_consistency(old.size, old.root, new.size, new.root, proof)?;
        }
        let mut kept = self.lock();
        match kept.as_ref() {
            Some(now) if now.size == head.size && now.root != head.root => {
                return Err(ProofError::RootMismatch);
            }
            // Another reply came meanwhile. Both extend `sent`; that one extends the other is for
            // the next proof to show.
            Some(now) if Some(now) != sent => {
                if now.size < head.size {
                    self.recheck.notify_one();
                }
                return Ok(());
            }
            Some(now) if now.size >= head.size => return Ok(()),
            _ => {}
        }
        *kept = Some(head.clone());
        self.unsaved.notify_one();
        Ok(())
    }

    /// Writes what changed, at most a few times a second, off the path of answers. Never returns.
    pub(crate) async fn keep_saved(&self) {
        let mut told: Option<tokio::time::Instant> = None;
        loop {
            self.unsaved.notified().await;
            self.save().await;
            if told.is_none_or(|told| told.elapsed() >= PAST_EVERY) {
                told = Some(tokio::time::Instant::now());
                self.save_past().await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// Writes the checkpoints of the past, beside the last one.
    async fn save_past(&self) {
        let Some(kept) = self.kept() else { return };
        self.remember(kept);
        let (path, text) = (beside(&self.path), self.seen());
        let written =
            tokio::task::spawn_blocking(move || files::write_private(&path, text.as_bytes())).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "the checkpoints of the past are not kept");
        }
    }

    /// Writes what is kept, durably.
    pub(crate) async fn save(&self) {
        let Some(kept) = self.kept() else { return };
        let path = self.path.clone();
        let written =
            tokio::task::spawn_blocking(move || files::write_private(&path, kept.note.as_bytes()))
                .await;
        if let Ok(Err(error)) = written {
            tracing::error!(%error, "the checkpoint is not kept");
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            self.unsaved.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is said while the log is inconsistent.
pub(crate) fn log_inconsistent() -> Refusal {
    Refusal::new(503, "log_inconsistent", "The broker's log does not extend what was seen before.")
        .detail("the log shrank or forked since this sidecar's last checkpoint")
        .next("Tell whoever runs the broker; the sidecar serves again once the true log is back.")
        .retry_after_ms(1000)
}

fn open(note: &str, vkey: &Vkey) -> Result<Kept, ProofError> {
    let checkpoint = Checkpoint::open(note, vkey, vkey.name())?;
    Ok(Kept { size: checkpoint.size(), root: checkpoint.root(), note: note.to_owned() })
}

/// Where the checkpoints of the past lie: beside the last one, its name with an `s`.
fn beside(path: &std::path::Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push("s");
    path.with_file_name(name)
}

fn hashes(list: &[Vec<u8>]) -> Result<Vec<Hash>, ProofError> {
    if list.len() > 64 {
        return Err(ProofError::WrongLength);
    }
    list.iter().map(|bytes| Hash::from_slice(bytes)).collect()
}

/// When the leaf was written, if it is the `issued` leaf of this request and lease (SECURITY 22).
fn issued_at(leaf: &[u8], request_id: &str, lease_id: &str) -> Option<Timestamp> {
    let leaf = canonical::parse(leaf).ok()?;
    let is = |name: &str, value: &str| leaf.get(name).and_then(Value::as_str) == Some(value);
    if !is("kind", "issued") || !is("request_id", request_id) || !is("lease_id", lease_id) {
        return None;
    }
    Timestamp::parse(leaf.get("at")?.as_str()?).ok()
}

#[cfg(test)]
#[path = "remember_tests.rs"]
mod tests;
