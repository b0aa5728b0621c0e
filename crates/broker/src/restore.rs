//! `grantwright restore`: a new epoch of the log from a backup. The broker does not run; what the backup
//! holds is verified, the first leaf of the new log is signed by the offline recovery key, and only with
//! that do sidecars go on. Approvals that were not spent stay behind and are void.

use std::path::{Path, PathBuf};

use grantwright_domain::event::EpochStarted;
use grantwright_domain::{Authority, Clock, Timestamp};
use grantwright_proof::{Checkpoint, NoteSigner, Vkey, epoch, verify_consistency};
use grantwright_store::{Backup, Keys, Options, Store, StoreError};

use crate::app;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::error::StartError;
use crate::keys::{self, KeyDir};

/// The file of a new log key that does not sign yet.
const NEXT_KEY: &str = "log.skey.new";

/// What a restore needs.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The broker's configuration; its store must not exist yet, or be empty.
    pub config: PathBuf,
    /// A file that `grantwright backup` wrote, or the URL of a restored PostgreSQL database.
    pub backup: String,
    /// File with the private recovery key.
    pub recovery_key: PathBuf,
    /// Verifier key of the recovery key of the new epoch; absent: the same again.
    pub next_recovery_key: Option<String>,
    /// Checkpoints of the old log that somebody kept: signed notes.
    pub checkpoints: Vec<String>,
    /// Origin of the new log; absent: the old one's with `/epoch-N`.
    pub origin: Option<String>,
}

/// What a restore did.
#[derive(Debug, Clone)]
pub struct RestoreReport {
    /// Origin of the log that ended.
    pub old_origin: String,
    /// Its verifier key.
    pub old_vkey: String,
    /// Origin of the new one.
    pub origin: String,
    /// Its verifier key.
    pub vkey: String,
    /// Leaves that the backup held.
    pub restored: u64,
    /// Leaves that the old log is known to have had.
    pub known: u64,
    /// Leaves that were carried over.
    pub carried: u64,
    /// Requests among them: credentials that may live, and mints without an outcome.
    pub requests: u64,
}

/// Makes a recovery key: the private part goes to a new file of mode 0600, the verifier key comes back.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn make_key(path: &Path, trust_domain: &str) -> Result<String, StartError> {
    let seed = app::random()?.bytes::<32>();
    let name = format!("{trust_domain}/recovery");
    let signer = NoteSigner::from_seed(&name, &seed)
        .map_err(|e| StartError::new(format!("recovery key: {e}")))?;
    let skey = signer.expose_skey().map_err(|e| StartError::new(e.to_string()))?;
    keys::write_new(path, &skey)?;
    Ok(signer.vkey().to_string())
}

/// Begins a new epoch.
///
/// # Errors
/// Whatever does not fit: nothing has changed then, save a new store that no broker starts on.
pub fn restore(options: &RestoreOptions) -> Result<RestoreReport, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| StartError::new(format!("no runtime: {e}")))?;
    runtime.block_on(ceremony(options, SystemClock.now()))
}

async fn ceremony(options: &RestoreOptions, now: Timestamp) -> Result<RestoreReport, StartError> {
    let config = Config::load(&options.config)?;
    let key_dir = KeyDir::new(config.keys.dir.clone());
    let of_store = |e: StoreError| StartError::new(format!("the backup: {e}"));
    let folder = must_be_absent(&config.store.url)?;
    let recovery = recovery_signer(&options.recovery_key)?;
    let backup = Backup::open(&options.backup, app::store_keys(&key_dir)?, folder.as_deref())
        .await
        .map_err(|e| match e {
            StoreError::WrongKey { log, given } => StartError::new(format!(
                "the backup is of the log `{log}`, and `log.skey` is the key of `{given}`: where an epoch \
                 was begun from it already, sidecars that followed would refuse another"
            )),
            other => of_store(other),
        })?;
    let old = backup.store();
    let authority = old.authority();
    is_pinned(&authority, &recovery)?;
    let heritage = old.heritage(now).await.map_err(of_store)?;
    let old_vkey = Vkey::parse(&authority.vkey).map_err(|e| StartError::new(e.to_string()))?;
    let last = last_known(old, &authority, &old_vkey, &options.checkpoints).await?;

    let origin = options.origin.clone().unwrap_or_else(|| next_origin(&authority));
    let signer = NoteSigner::from_seed(&origin, &app::random()?.bytes::<32>())
        .map_err(|e| StartError::new(format!("origin: {e}")))?;
    let next = options.next_recovery_key.clone().unwrap_or_else(|| recovery.vkey().to_string());
    let first = EpochStarted {
        at: now,
        version: 1,
        origin,
        vkey: signer.vkey().to_string(),
        trust_domain: authority.trust_domain.clone(),
        recovery_key: next,
        old_origin: authority.origin.clone(),
        old_vkey: authority.vkey.clone(),
        old_checkpoint: last.note,
        restored: heritage.size,
        restored_root: heritage.root.to_base64(),
        carried: heritage.carried(),
        carried_root: heritage.carried_root.to_base64(),
        signature: String::new(),
    };
    let first = epoch::sign(&first, &recovery).map_err(|e| StartError::new(e.to_string()))?;
    // Whatever sidecars would refuse is refused here, before anything is written.
    epoch::verify(&first, recovery.vkey())
        .map_err(|e| StartError::new(format!("the new epoch is not sound: {e}")))?;

    let skey = signer.expose_skey().map_err(|e| StartError::new(e.to_string()))?;
    keys::replace(&key_dir.path(NEXT_KEY), &skey)?;
    let report = RestoreReport {
        old_origin: first.old_origin.clone(),
        old_vkey: first.old_vkey.clone(),
        origin: first.origin.clone(),
        vkey: first.vkey.clone(),
        restored: heritage.size,
        known: last.size,
        carried: heritage.carried(),
        requests: heritage.requests,
    };
    let mac_key = app::store_keys(&key_dir)?.mac_key;
    let new = new_store(&config.store.url, Keys { signer, mac_key }).await?;
    let begun = new.begin_epoch(old, first, heritage).await;
    new.close().await;
    begun.map_err(|e| StartError::new(format!("the new store: {e}")))?;
    backup.close().await;
    // The old key is evidence: it verifies what the old log signed.
    let kept = format!("log.skey.epoch-{}", authority.epochs.len() + 1);
    let before = key_dir.read("log.skey")?;
    if !key_dir.path(&kept).exists() {
        key_dir.create(&kept, before.expose_secret())?;
    }
    std::fs::rename(key_dir.path(NEXT_KEY), key_dir.path("log.skey"))
        .map_err(|e| StartError::new(format!("the new log key is not in place: {e}")))?;
    Ok(report)
}

/// The new store must not be there: what is there is evidence of what happened. Gives back its folder.
fn must_be_absent(url: &str) -> Result<Option<PathBuf>, StartError> {
    let Some(path) = url.strip_prefix("sqlite://").map(PathBuf::from) else { return Ok(None) };
    if path.exists() {
        return Err(StartError::new(format!(
            "`{0}` exists: move it, `{0}-wal` and `{0}-shm` away and keep them, they are evidence",
            path.display()
        )));
    }
    Ok(path.parent().map(Path::to_path_buf))
}

/// A database that holds a log already is of another key.
async fn new_store(url: &str, keys: Keys) -> Result<Store, StartError> {
    let options = Options { alone: true, ..Options::default() };
    Store::open_with(url, keys, options).await.map_err(|e| match e {
        StoreError::WrongKey { log, .. } => StartError::new(format!(
            "the store that the configuration names must be empty, and holds the log `{log}`: keep it, it \
             is evidence, and name another database"
        )),
        other => StartError::new(format!("the new store: {other}")),
    })
}

fn recovery_signer(path: &Path) -> Result<NoteSigner, StartError> {
    let text = keys::read_secret(path)?;
    NoteSigner::from_skey(text.expose_secret().trim()).map_err(|e| {
        StartError::new(format!("`{}` is no private recovery key: {e}", path.display()))
    })
}

/// Sidecars accept nothing that another key signed.
fn is_pinned(authority: &Authority, recovery: &NoteSigner) -> Result<(), StartError> {
    if authority.recovery_key.is_empty() {
        return Err(StartError::new(
            "this log names no recovery key, so no sidecar would accept a new epoch of it; \
             make a new broker with `grantwright init` and enrol anew",
        ));
    }
    if authority.recovery_key != recovery.vkey().to_string() {
        return Err(StartError::new(format!(
            "this is not the recovery key that the log names and sidecars pinned, `{}`",
            authority.recovery_key
        )));
    }
    Ok(())
}

struct Last {
    size: u64,
    note: String,
}

/// The last known checkpoint of the old log. Those that the backup reaches must be its own history.
async fn last_known(
    old: &Store,
    authority: &Authority,
    vkey: &Vkey,
    kept: &[String],
) -> Result<Last, StartError> {
    let head = old.head();
    let mut last: Option<(Checkpoint, String)> = None;
    for note in kept {
        if is_of_older_epoch(authority, note) {
            continue;
        }
        let checkpoint = Checkpoint::open(note, vkey, vkey.name())
            .map_err(|e| StartError::new(format!("a given checkpoint is not of this log: {e}")))?
            .into_inner();
        let size = checkpoint.size();
        if size <= head.size {
            let proof = old.consistency(size, head.size).await;
            let proof = proof.map_err(|e| StartError::new(format!("the backup: {e}")))?;
            verify_consistency(size, checkpoint.root(), head.size, head.root, &proof).map_err(
                |_| {
                    StartError::new(format!(
                        "the backup is of another history than the checkpoint of {size} leaves \
                         that somebody kept: one of them is forged"
                    ))
                },
            )?;
            continue;
        }
        match &last {
            Some((other, _)) if other.size() == size && other.root() != checkpoint.root() => {
                return Err(StartError::new(format!(
                    "two of the given checkpoints of {size} leaves differ: the log showed two \
                     histories; find out which is true, and give only its checkpoints"
                )));
            }
            Some((other, _)) if other.size() >= size => {}
            _ => last = Some((checkpoint, note.clone())),
        }
    }
    Ok(match last {
        Some((checkpoint, note)) => Last { size: checkpoint.size(), note },
        None => Last { size: head.size, note: head.checkpoint.to_string() },
    })
}

fn is_of_older_epoch(authority: &Authority, note: &str) -> bool {
    authority.epochs.iter().any(|epoch| {
        Vkey::parse(&epoch.old_vkey)
            .is_ok_and(|key| Checkpoint::open(note, &key, key.name()).is_ok())
    })
}

fn next_origin(authority: &Authority) -> String {
    let number = authority.epochs.len() + 1;
    let origin = authority.origin.as_str();
    let base = origin.strip_suffix(&format!("/epoch-{number}")).unwrap_or(origin);
    format!("{base}/epoch-{}", number + 1)
}
