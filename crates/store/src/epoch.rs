//! What a new epoch takes over from a restored store: the leaves of everything decisions rest on, and
//! of every request whose credential may still live or whose outcome was not recorded, as they are.
//! All other requests stay in the old log; approvals that were not spent are void with them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use grantwright_domain::event::EpochStarted;
use grantwright_domain::request::Lease;
use grantwright_domain::time::CLOCK_BOUND_MS;
use grantwright_domain::{
    AgentId, Digest, Event, IdempotencyKey, InstanceId, RequestId, Timestamp, Violation,
};
use grantwright_proof::{Frontier, Hash, leaf_hash};
use tempfile::TempDir;

use crate::db::{Db, Value};
use crate::read::{self, StoredText};
use crate::{KeyClaim, Keys, MAX_EVENTS, Side, Store, StoreError, Text, Transition};

/// A store that was restored to be read: a SQLite file is copied first, so that it stays as it is.
#[derive(Debug)]
pub struct Backup {
    store: Store,
    _copy: Option<TempDir>,
}

impl Backup {
    /// Opens a file, `sqlite:///…` or `postgres://…`; the copy of a file is made in `folder`. The keys
    /// must be those of the log in it.
    ///
    /// # Errors
    /// As [`Store::open`]; [`StoreError::NotFound`] when there is no such file.
    pub async fn open(from: &str, keys: Keys, folder: Option<&Path>) -> Result<Self, StoreError> {
        if from.starts_with("postgres") {
            return Ok(Self { store: Store::open(from, keys).await?, _copy: None });
        }
        let path = Path::new(from.strip_prefix("sqlite://").unwrap_or(from));
        if !path.is_file() {
            return Err(StoreError::NotFound(path.display().to_string()));
        }
        let failed = |e: std::io::Error| StoreError::Unavailable(e.to_string());
        let mut builder = tempfile::Builder::new();
        builder.prefix("grantwright-");
        let copy = match folder {
            Some(folder) => builder.tempdir_in(folder),
            None => builder.tempdir(),
        };
        let copy = copy.map_err(failed)?;
        let place = copy.path().join("store");
        fs::copy(path, &place).map_err(failed)?;
        let wal = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push("-wal");
            PathBuf::from(name)
        };
        if wal(path).is_file() {
            fs::copy(wal(path), wal(&place)).map_err(failed)?;
        }
        let place = std::path::absolute(&place).map_err(failed)?;
        let store = Store::open(&format!("sqlite://{}", place.display()), keys).await?;
        Ok(Self { store, _copy: Some(copy) })
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Closes it and removes the copy.
    pub async fn close(self) {
        self.store.close().await;
    }
}

/// Rows read at once.
const PAGE: u64 = 1024;

/// What a store leaves to the next epoch.
#[derive(Debug)]
pub struct Heritage {
    /// Leaves that the store holds.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
    /// Root over the leaves that are carried over.
    pub carried_root: Hash,
    /// Requests that are carried over.
    pub requests: u64,
    leaves: Vec<Event>,
    texts: HashMap<RequestId, Vec<StoredText>>,
    keys: HashMap<RequestId, Vec<KeyClaim>>,
}

impl Heritage {
    /// How many leaves are carried over.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.leaves.len() as u64
    }
}

impl Store {
    /// What the next epoch takes over at `now`. Leaves of requests are proven to be in the log; those
    /// without a request were when the store was opened.
    ///
    /// # Errors
    /// [`StoreError::Tampered`], or when the store cannot be read; [`StoreError::Violation`] where a leaf
    /// is dated after now: nothing could follow it in the next epoch.
    pub async fn heritage(&self, now: Timestamp) -> Result<Heritage, StoreError> {
        let head = self.head();
        let mut leaves: BTreeMap<u64, Event> =
            self.read(authority_leaves).await?.into_iter().collect();
        let mut ids = self.read(move |db| living(db, now)).await?;
        self.vouched(now, &mut ids).await?;
        let keys = self.read(move |db| keys_of_living(db, now)).await?;
        let mut texts = HashMap::new();
        for id in &ids {
            let gone = || StoreError::tampered(format!("request `{id}` is gone"));
            let loaded = self.load(id).await?.ok_or_else(gone)?;
            leaves.extend(loaded.leaves);
            texts.insert(id.clone(), loaded.texts);
        }
        let mut tree = Frontier::new();
        for (index, event) in &leaves {
            if event.at().since(now) > CLOCK_BOUND_MS {
                let at = event.at();
                let detail = format!(
                    "leaf {index} is dated {at}, and now is {now}: nothing could follow it; set this \
                     machine's clock right, or take another backup"
                );
                return Err(Violation::rule("time", detail).into());
            }
            let body = event.to_leaf().map_err(|e| StoreError::Invalid(e.to_string()))?;
            tree.append(leaf_hash(&body));
        }
        Ok(Heritage {
            size: head.size,
            root: head.root,
            carried_root: tree.root(),
            requests: ids.len() as u64,
            leaves: leaves.into_values().collect(),
            texts,
            keys,
        })
    }

    /// Adds what lives and whose row says that it does not: rows say what their writer likes, the memory
    /// of what lives is under the head's tag.
    async fn vouched(&self, now: Timestamp, ids: &mut Vec<RequestId>) -> Result<(), StoreError> {
        let known: BTreeSet<RequestId> = ids.iter().cloned().collect();
        let mut after = None;
        loop {
            let page = self.live(None, after.as_ref()).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for id in page {
                if known.contains(&id) {
                    continue;
                }
                let gone = || StoreError::tampered(format!("request `{id}` is gone"));
                let state = self.load(&id).await?.ok_or_else(gone)?.state;
                // To the end that was approved: it may have been extended since this copy was made.
                let end = |l: &Lease| l.issued_at.plus_seconds(i64::from(state.terms.ttl_s));
                if state.lease.as_ref().is_some_and(|l| end(l).max(l.expires_at) > now) {
                    ids.push(id);
                }
            }
        }
    }

    /// Fills this store, which must be empty, with a new epoch: its signed first leaf, and the leaves
    /// that `old` leaves to it. A crash in between leaves a log that no broker goes on with.
    ///
    /// # Errors
    /// As [`Store::commit`]; [`StoreError::Invalid`] when this store holds a log already.
    pub async fn begin_epoch(
        &self,
        old: &Self,
        first: EpochStarted,
        heritage: Heritage,
    ) -> Result<(), StoreError> {
        if self.head().size != 0 {
            return Err(StoreError::Invalid("the new store must be empty".into()));
        }
        let Heritage { leaves, mut texts, mut keys, .. } = heritage;
        let carried = leaves.len() as u64;
        self.commit(Transition::authority(vec![Event::EpochStarted(first)])).await?;
        let mut states = HashMap::new();
        let mut known = HashSet::new();
        let mut leaves = leaves.into_iter().peekable();
        while let Some(event) = leaves.next() {
            let id = event.request_id().cloned();
            let with_blobs = matches!(event, Event::PolicyLoaded(_));
            let blobs = blobs_of(old, &event, &mut known).await?;
            let mut events = vec![event];
            while let Some(next) = leaves.next_if(|next| {
                let policy = with_blobs || matches!(next, Event::PolicyLoaded(_));
                !policy && next.request_id() == id.as_ref() && events.len() < MAX_EVENTS
            }) {
                events.push(next);
            }
            let Some(id) = id else {
                let side = Side { blobs, ..Side::default() };
                self.commit(Transition { side, ..Transition::authority(events) }).await?;
                continue;
            };
            let mut more = Vec::new();
            let transition = match states.remove(&id) {
                Some(state) => Transition::at(state, events),
                None => {
                    more = keys.remove(&id).unwrap_or_default();
                    let texts = texts.remove(&id).unwrap_or_default().into_iter();
                    let texts =
                        texts.map(|t| Text { name: t.name, salt: t.salt, text: t.text }).collect();
                    let side = Side { texts, ..Side::default() };
                    Transition { key: more.pop(), side, ..Transition::new(events) }
                }
            };
            let mut state = self.commit(transition).await?.state;
            for key in more {
                let Some(at) = state.take() else { break };
                let claim = Transition { key: Some(key), ..Transition::at(at, Vec::new()) };
                state = self.commit(claim).await?.state;
            }
            states.extend(state.map(|state| (id, *state)));
        }
        if self.head().size != carried + 1 {
            return Err(StoreError::Invalid("somebody else writes to the new store".into()));
        }
        Ok(())
    }
}

/// The blobs that a `policy_loaded` names and that are not there yet.
async fn blobs_of(
    old: &Store,
    event: &Event,
    known: &mut HashSet<Digest>,
) -> Result<Vec<(Digest, Vec<u8>)>, StoreError> {
    let Event::PolicyLoaded(e) = event else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for digest in std::iter::once(&e.policy_set).chain(e.scopes.values()) {
        // A declaration that is missing stops the new store; a policy's text stops whoever replays it.
        if known.insert(*digest) {
            out.extend(old.blob(*digest).await?.map(|blob| (*digest, blob)));
        }
    }
    Ok(out)
}

fn authority_leaves(db: &mut dyn Db) -> Result<Vec<(u64, Event)>, StoreError> {
    let sql = "SELECT idx, body FROM leaves WHERE request_id IS NULL AND idx >= $1 \
               ORDER BY idx LIMIT $2";
    let (mut out, mut next) = (Vec::new(), 0);
    loop {
        let rows = db.query(sql, &[Value::from(next), Value::from(PAGE)])?;
        if rows.is_empty() {
            return Ok(out);
        }
        for mut row in rows {
            let index = row.int(0)?;
            let event = Event::from_leaf(&row.blob(1)?)
                .map_err(|e| StoreError::tampered(format!("leaf {index}: {e}")))?;
            out.push((index, event));
            next = index + 1;
        }
    }
}

/// Which requests: also those that were ended early and would still live, which their issuer publishes.
const LIVING: &str = "(r.phase = 'intended' OR r.lease_expires_ms > $1)";

fn living(db: &mut dyn Db, now: Timestamp) -> Result<Vec<RequestId>, StoreError> {
    let sql = format!("SELECT r.id FROM requests r WHERE {LIVING} ORDER BY r.first_index");
    let mut rows = db.query(&sql, &[Value::Int(now.millis())])?;
    rows.iter_mut().map(|r| read::id(r, 0, RequestId::parse)).collect()
}

fn keys_of_living(
    db: &mut dyn Db,
    now: Timestamp,
) -> Result<HashMap<RequestId, Vec<KeyClaim>>, StoreError> {
    let sql = format!(
        "SELECT k.request_id, k.agent, k.key, k.instance, k.body FROM keys k \
         JOIN requests r ON r.id = k.request_id WHERE {LIVING} ORDER BY k.agent, k.key"
    );
    let mut out: HashMap<RequestId, Vec<KeyClaim>> = HashMap::new();
    for mut row in db.query(&sql, &[Value::Int(now.millis())])? {
        let request = read::id(&mut row, 0, RequestId::parse)?;
        let claim = KeyClaim {
            agent: read::id(&mut row, 1, AgentId::parse)?,
            key: read::id(&mut row, 2, IdempotencyKey::parse)?,
            instance: read::id(&mut row, 3, InstanceId::parse)?,
            body: Digest(row.bytes32(4)?),
        };
        out.entry(request).or_default().push(claim);
    }
    Ok(out)
}
