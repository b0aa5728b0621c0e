//! The last checkpoint of the log that this sidecar verified, and the refusal to go on with a log
//! that does not extend it (SECURITY 19).

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use grantwright_domain::{Timestamp, canonical};
use grantwright_proof::epoch::Epoch;
use grantwright_proof::{
    Checkpoint, Hash, ProofError, TlogProof, Vkey, leaf_hash, note, verify_consistency,
    verify_inclusion,
};
use grantwright_wire::Refusal;
use grantwright_wire::v1::{ConsistencyReply, Evidence};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::pinned::PinnedLog;
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
    /// A new epoch could not be written down: the sidecar stays with the old one.
    #[error("the new epoch is not kept: {0}")]
    NotKept(String),
}

/// Most checkpoints of the past.
pub const MOST_PAST: usize = 64;
/// How often one is added to them.
const PAST_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

/// What the sidecar remembers of the log, in memory and on disk.
pub struct Remember {
    pinned: RwLock<PinnedLog>,
    path: PathBuf,
    kept: Mutex<Option<Kept>>,
    /// Checkpoints that were verified before, some of them, smallest first.
    past: Mutex<Vec<Kept>>,
    /// Checkpoints of epochs before this one, as evidence.
    older: Mutex<Vec<String>>,
    inconsistent: AtomicBool,
    /// The log's first leaf was looked at, and names no recovery key.
    no_recovery: AtomicBool,
    /// Told when `kept` has changed and is not on disk yet.
    unsaved: Notify,
    /// Told when a proof of the newest state is wanted.
    pub(crate) recheck: Notify,
}

impl Remember {
    /// Reads what was kept. The key that signs the log was pinned when this sidecar enrolled, or
    /// followed from the recovery key that was.
    ///
    /// # Errors
    /// [`SidecarError::State`] if the kept checkpoint does not verify under that key: it is never
    /// silently dropped.
    pub fn open(pinned: PinnedLog, path: PathBuf) -> Result<Self, SidecarError> {
        let vkey = &pinned.vkey;
        let is_older = |note: &str| pinned.older.iter().any(|key| open(note, key).is_ok());
        let mut older = Vec::new();
        let kept = match files::read_if_there(&path)? {
            None => None,
            Some(bytes) => {
                let unusable = |why: String| SidecarError::State { path: path.clone(), why };
                let note = String::from_utf8(bytes).map_err(|e| unusable(e.to_string()))?;
                match open(&note, vkey) {
                    Ok(kept) => Some(kept),
                    // A crash between the two files of a new epoch.
                    Err(_) if is_older(&note) => {
                        older.push(note);
                        None
                    }
                    Err(e) => {
                        let why = format!("{e}; it is the proof against rollback: restore it");
                        return Err(unusable(why));
                    }
                }
            }
        };
        let past = files::read_if_there(&beside(&path))?.unwrap_or_default();
        let past = String::from_utf8(past).unwrap_or_default();
        // Evidence for whoever compares it, and nothing that is decided by here.
        let notes = note::split(&past);
        let before = notes.iter().filter(|note| is_older(note)).map(|note| (*note).to_owned());
        older.splice(..0, before);
        let past = notes.into_iter().filter_map(|note| open(note, vkey).ok()).collect();
        Ok(Self {
            pinned: RwLock::new(pinned),
            path,
            kept: Mutex::new(kept),
            past: Mutex::new(past),
            older: Mutex::new(older),
            inconsistent: AtomicBool::new(false),
            no_recovery: AtomicBool::new(false),
            unsaved: Notify::new(),
            recheck: Notify::new(),
        })
    }

    /// The last verified checkpoint.
    pub fn kept(&self) -> Option<Kept> {
        self.lock().clone()
    }

    /// Checkpoints that this sidecar verified: up to [`MOST_PAST`] from its whole life, and the last.
    /// Signed notes, one after the other: shown beside another sidecar's, they show a split view. Those of
    /// older epochs come first.
    pub fn seen(&self) -> String {
        let last = self.kept();
        let mut out = self.older.lock().unwrap_or_else(PoisonError::into_inner).concat();
        let past: String = self
            .past()
            .iter()
            .filter(|past| last.as_ref().is_none_or(|last| past.size != last.size))
            .map(|past| past.note.as_str())
            .collect();
        out.push_str(&past);
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
        let head = self.opened(&evidence.checkpoint)?;
        let at = issued_at(&evidence.leaf, request_id, lease_id).ok_or(EvidenceError::OtherLeaf)?;
        let inclusion = hashes(&evidence.inclusion)?;
        let leaf = leaf_hash(&evidence.leaf);
        verify_inclusion(leaf, evidence.index, head.size, &inclusion, head.root)?;
        self.extend(self.of_this_log(sent), &head, &hashes(&evidence.consistency)?)?;
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
        let begun = self.begin_epoch(reply)?;
        let sent = self.of_this_log(sent);
        let head = self.opened(&reply.checkpoint)?;
        if let Some(sent) = sent
            && head.size < sent.size
        {
            // A standing log that is asked for its newest checkpoint has no older one to show.
            return Err(ProofError::SizesReversed { old: sent.size, new: head.size }.into());
        }
        if !begun {
            self.extend(sent, &head, &hashes(&reply.proof)?)?;
        }
        self.learn_recovery_key(&head, reply);
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
        let head = self.opened(note)?;
        match self.lock().as_ref() {
            Some(kept) if kept.size == head.size && kept.root != head.root => {
                Err(ProofError::RootMismatch.into())
            }
            Some(kept) => Ok(kept.size < head.size),
            None => Ok(true),
        }
    }

    /// Goes on with the log that a new epoch began, if the recovery key that was pinned vouches for it and
    /// the epoch's first leaf is the log's. True when it did.
    fn begin_epoch(&self, reply: &ConsistencyReply) -> Result<bool, EvidenceError> {
        if reply.epochs.is_empty() {
            return Ok(false);
        }
        // Held to the end: of two replies that show the same epoch, one begins it.
        let mut pinned = self.pinned.write().unwrap_or_else(PoisonError::into_inner);
        let Some((next, epochs)) = pinned.follow(&reply.epochs)? else { return Ok(false) };
        let head = open(&reply.checkpoint, &next.vkey)?;
        let leaf = leaf_hash(reply.epochs.last().map_or(&[], Vec::as_slice));
        let proof = hashes(&reply.first_leaf_inclusion)?;
        verify_inclusion(leaf, 0, head.size, &proof, head.root)?;
        // The first of them goes on from the log that this sidecar saw.
        if let Some(epoch) = epochs.first() {
            self.compare(epoch)?;
        }
        next.save().map_err(|e| EvidenceError::NotKept(e.to_string()))?;
        tracing::warn!(
            old = pinned.vkey.name(),
            new = next.vkey.name(),
            size = head.size,
            "the log goes on in a new epoch, vouched for by its recovery key"
        );
        *pinned = next;
        let mut older = self.older.lock().unwrap_or_else(PoisonError::into_inner);
        older.extend(self.past().drain(..).map(|past| past.note));
        let last = self.lock().replace(head);
        older.extend(last.map(|last| last.note));
        let surplus = older.len().saturating_sub(MOST_PAST);
        older.drain(..surplus);
        drop(older);
        self.unsaved.notify_one();
        Ok(true)
    }

    /// Whether the log's first leaf is worth asking for: this sidecar enrolled before it pinned recovery
    /// keys.
    pub fn wants_recovery_key(&self) -> bool {
        let pinned = self.pinned.read().unwrap_or_else(PoisonError::into_inner);
        pinned.recovery.is_none() && !self.no_recovery.load(Ordering::Relaxed)
    }

    /// Pins the recovery key that the log's first leaf names, once that leaf is proven to be the first of
    /// the log that this sidecar trusts and has seen grow: nobody can name another key for it later. One
    /// that is pinned is never replaced. What does not hold is said, and changes nothing.
    fn learn_recovery_key(&self, head: &Kept, reply: &ConsistencyReply) {
        if reply.first_leaf.is_empty() || !self.wants_recovery_key() {
            return;
        }
        let proven = hashes(&reply.first_leaf_inclusion).and_then(|proof| {
            verify_inclusion(leaf_hash(&reply.first_leaf), 0, head.size, &proof, head.root)
        });
        if let Err(why) = proven {
            tracing::warn!(%why, "the broker showed a first leaf that is not the log's");
            return;
        }
        let mut pinned = self.pinned.write().unwrap_or_else(PoisonError::into_inner);
        let Some(recovery) = recovery_key(&reply.first_leaf, &pinned.vkey) else {
            self.no_recovery.store(true, Ordering::Relaxed);
            tracing::warn!(
                "the log names no recovery key: this sidecar follows it into no new epoch"
            );
            return;
        };
        let key = recovery.to_string();
        let next = pinned.with_recovery(recovery);
        match next.save() {
            Ok(()) => {
                tracing::warn!(key, "pinned the recovery key that the log's first leaf names");
                *pinned = next;
            }
            Err(why) => tracing::warn!(%why, "the recovery key is not kept"),
        }
    }

    /// Refuses an epoch that goes on from another history of the old log than this sidecar saw: whoever
    /// held the ceremony was shown a forged one. One that does not know the last of it is followed, loudly.
    fn compare(&self, epoch: &Epoch) -> Result<(), EvidenceError> {
        let seen: Vec<Kept> = self.past().iter().cloned().chain(self.kept()).collect();
        if seen.iter().any(|seen| epoch.contradicts(seen.size, seen.root)) {
            return Err(ProofError::RootMismatch.into());
        }
        let most = seen.iter().map(|seen| seen.size).max().unwrap_or(0);
        if most > epoch.last.size() {
            tracing::error!(
                kept = most,
                named = epoch.last.size(),
                "ALARM: the new epoch does not know the last leaves that this sidecar saw; their \
                 checkpoint stays beside the others as evidence"
            );
        }
        Ok(())
    }

    /// What was kept when a call was made, if it is of the log that is trusted now: an epoch may have
    /// begun since, and nothing leads from the log before to this one.
    fn of_this_log<'k>(&self, sent: Option<&'k Kept>) -> Option<&'k Kept> {
        let pinned = self.pinned.read().unwrap_or_else(PoisonError::into_inner);
        // Only verified notes are ever kept, and no two logs have one name.
        sent.filter(|sent| sent.note.lines().next() == Some(pinned.vkey.name()))
    }

    fn opened(&self, note: &str) -> Result<Kept, ProofError> {
        open(note, &self.pinned.read().unwrap_or_else(PoisonError::into_inner).vkey)
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

/// The recovery key that the first leaf of the log signed by `vkey` names.
fn recovery_key(leaf: &[u8], vkey: &Vkey) -> Option<Vkey> {
    let leaf = canonical::parse(leaf).ok()?;
    let text = |name: &str| leaf.get(name).and_then(Value::as_str);
    let begins = matches!(text("kind"), Some("opened" | "epoch_started"));
    if !begins || text("vkey")? != vkey.to_string() {
        return None;
    }
    Vkey::parse(text("recovery_key")?).ok()
}

#[cfg(test)]
#[path = "remember_tests.rs"]
mod tests;
