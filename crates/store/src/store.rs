//! The handle: callers send transitions and readings through it to the threads that own the database.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread;

use grantwright_domain::{
    AgentId, Authority, Digest, Event, IdempotencyKey, InstanceId, LeaseId, RequestId, Timestamp,
};
use grantwright_proof::{Hash, Tile};
use tokio::sync::{mpsc, oneshot};

use crate::db::Db;
use crate::db::postgres::Postgres;
use crate::db::sqlite::Sqlite;
use crate::head::Macs;
use crate::proven::ProvenTiles;
use crate::read;
use crate::transition::Transition;
use crate::url::Url;
use crate::writer::{Board, Command, Writer};
use crate::{
    ClaimedKey, Committed, Due, Faults, Found, Head, Keys, LeaseFilter, LeaseSummary, Loaded,
    RequestFilter, RequestSearch, RequestSummary, Sealed, StoreError, Unacknowledged,
};

/// Operations that may wait for the writer; more are refused.
const MAX_WAITING: usize = 16_384;
/// Readings that may wait for one reading thread.
const MAX_READINGS: usize = 4_096;
/// Reading threads, each with its own connection.
const READERS: usize = 2;

type Reading = Box<dyn FnOnce(&mut dyn Db) + Send>;

/// What [`Store::open_with`] may be told.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Faults to inject; empty in a product.
    pub faults: Faults,
    /// Refuse to share a PostgreSQL database with another broker that is alone there, and stop writing
    /// when the lock that says so is lost to one. A SQLite file is never shared.
    pub alone: bool,
}

/// An open store. Clones share it; it closes when the last is dropped or one is closed.
#[derive(Clone)]
pub struct Store {
    writer: mpsc::Sender<Command>,
    readers: Arc<[mpsc::Sender<Reading>]>,
    turn: Arc<AtomicUsize>,
    board: Board,
    macs: Macs,
    coming: Arc<AtomicUsize>,
    proven: Arc<ProvenTiles>,
}

/// A transition that is sure to come, see [`Store::coming`]; dropping it says that none does any more.
#[derive(Debug)]
pub struct Coming(Arc<AtomicUsize>);

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("head", &self.head()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a store and makes it if there is none: `sqlite:///absolute/path` (mode 0600, one broker)
    /// or `postgres://…` (many brokers).
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::Tampered`], [`StoreError::WrongKey`],
    /// [`StoreError::Url`] or [`StoreError::Unavailable`].
    pub async fn open(url: &str, keys: Keys) -> Result<Self, StoreError> {
        Self::open_with(url, keys, Options::default()).await
    }

    /// Opens a store with options.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_with(url: &str, keys: Keys, options: Options) -> Result<Self, StoreError> {
        let url = Url::parse(url)?;
        let macs = Macs::new(&keys.mac_key);
        let (writer, mut commands) = mpsc::channel(MAX_WAITING);
        let (opened, is_open) = oneshot::channel();
        let place = url.clone();
        let coming = Arc::<AtomicUsize>::default();
        let awaited = Arc::clone(&coming);
        spawn("store-writer", move || {
            let open = || {
                let db: Box<dyn Db> = match &place {
                    Url::Sqlite(path) => Box::new(Sqlite::open_writer(path)?),
                    Url::Postgres(url) => Box::new(Postgres::open(url, true, options.alone)?),
                };
                Writer::open(db, keys, options.faults, awaited)
            };
            match open() {
                Ok((writer, board)) => {
                    if opened.send(Ok(board)).is_ok() {
                        writer.run(&mut commands);
                    }
                }
                // Whoever opened may have gone away.
                Err(e) => drop(opened.send(Err(e))),
            }
        })?;
        let board = is_open.await.map_err(|_| stopped())??;
        let mut readers = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            readers.push(reader(url.clone()).await?);
        }
        let (turn, proven) = Default::default();
        Ok(Self { writer, readers: readers.into(), turn, board, macs, coming, proven })
    }

    /// Announces a transition that comes when a backend has answered. While many are announced, commits await
    /// some of them for up to 2 ms: a commit costs the same for one as for twenty. Where a backend hangs, that
    /// is what many calls to it cost each commit, until they are given up.
    #[must_use]
    pub fn coming(&self) -> Coming {
        self.coming.fetch_add(1, Ordering::Relaxed);
        Coming(Arc::clone(&self.coming))
    }

    /// Writes a transition and returns once it is durable. It is written even if the caller stops
    /// waiting.
    ///
    /// # Errors
    /// Any [`StoreError`]; only after [`StoreError::OutcomeUnknown`] and [`StoreError::Halted`] may
    /// something have been written.
    pub fn commit(
        &self,
        transition: Transition,
    ) -> impl Future<Output = Result<Committed, StoreError>> + Send {
        // Outside the future, which every ask's future holds: it would carry the transition, too.
        let prepared = transition.prepare().map(Box::new);
        async move {
            let prepared = prepared?;
            self.ask(|reply| Command::Commit(prepared, reply)).await
        }
    }

    /// Deletes the sealed copy of a request's credential, along with some later batch.
    ///
    /// # Errors
    /// [`StoreError::Busy`] or [`StoreError::Halted`].
    pub fn acknowledge(&self, request: RequestId) -> Result<(), StoreError> {
        self.writer.try_send(Command::Acknowledge(request)).map_err(|e| full(&e))
    }

    /// Deletes the sealed copies of these requests, and those that were acknowledged.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn unseal(&self, requests: Vec<RequestId>) -> Result<(), StoreError> {
        self.ask(|reply| Command::Unseal(requests, reply)).await
    }

    /// Begins a new epoch, in which this store goes on and every other broker's writes end with
    /// [`StoreError::EpochEnded`]. Returns it.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn raise_epoch(&self) -> Result<u64, StoreError> {
        self.ask(Command::RaiseEpoch).await
    }

    /// Reads what other brokers appended, so that [`Store::authority`] and [`Store::head`] know it.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn refresh(&self) -> Result<(), StoreError> {
        self.ask(Command::Refresh).await
    }

    /// Waits until the writer has stopped and given its lock back.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        if self.writer.send(Command::Close(done)).await.is_ok() {
            // An error says that it stopped before it answered.
            let _ = closed.await;
        }
    }

    /// Who may decide, after the last commit.
    #[must_use]
    pub fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.board.read().unwrap_or_else(PoisonError::into_inner).authority)
    }

    /// The log after the last commit.
    #[must_use]
    pub fn head(&self) -> Arc<Head> {
        Arc::clone(&self.board.read().unwrap_or_else(PoisonError::into_inner).head)
    }

    /// A request, folded from its leaves, each proven to be in the present log. None: no such request.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when leaves are missing, edited or another request's.
    pub async fn load(&self, id: &RequestId) -> Result<Option<Loaded>, StoreError> {
        let (id, macs, known) = (id.clone(), self.macs.clone(), self.head().size);
        let proven = Arc::clone(&self.proven);
        self.read(move |db| read::load(db, &macs, &proven, known, &id)).await
    }

    /// What an agent's idempotency key names.
    ///
    /// # Errors
    /// When the store cannot be read; so in all readings below.
    pub async fn key(
        &self,
        agent: &AgentId,
        key: &IdempotencyKey,
    ) -> Result<Option<ClaimedKey>, StoreError> {
        let (agent, key) = (agent.clone(), key.clone());
        self.read(move |db| read::key(db, &agent, &key)).await
    }

    /// Requests, newest first.
    ///
    /// # Errors
    /// See [`Store::key`].
    pub async fn list(&self, filter: RequestFilter) -> Result<Vec<RequestSummary>, StoreError> {
        self.read(move |db| read::list(db, &filter)).await
    }

    /// One lease.
    ///
    /// # Errors
    /// See [`Store::key`].
    pub async fn lease(&self, id: &LeaseId) -> Result<Option<LeaseSummary>, StoreError> {
        let id = id.clone();
        self.read(move |db| read::lease(db, &id)).await
    }

    /// Leases, newest first.
    ///
    /// # Errors
    /// See [`Store::key`].
    pub async fn leases(&self, filter: LeaseFilter) -> Result<Vec<LeaseSummary>, StoreError> {
        self.read(move |db| read::leases(db, &filter)).await
    }

    /// The sealed credential of a request, for the instance it is sealed to.
    ///
    /// # Errors
    /// See [`Store::key`].
    pub async fn sealed(
        &self,
        request: &RequestId,
        instance: &InstanceId,
    ) -> Result<Option<Sealed>, StoreError> {
        let (request, instance) = (request.clone(), instance.clone());
        self.read(move |db| read::sealed(db, &request, &instance)).await
    }

    /// A blob; whoever uses it checks its digest.
    ///
    /// # Errors
    /// See [`Store::key`].
    pub async fn blob(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(move |db| crate::memory::read_blob(db, &digest)).await
    }

    /// Requests whose lease lives, of one agent or of all, by their ids, those after `after`; some
    /// thousand at a time, empty at the end. From memory, for which the head row vouches: a row that is
    /// hidden or edited hides no lease.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn live(
        &self,
        agent: Option<&AgentId>,
        after: Option<&RequestId>,
    ) -> Result<Vec<RequestId>, StoreError> {
        let (agent, after) = (agent.cloned(), after.cloned());
        self.ask(|reply| Command::Live(agent, after, reply)).await
    }

    /// What time has ended by `now`, oldest first, at most `limit` of each kind; `from` is the
    /// [`Due::next`] of the page before.
    ///
    /// # Errors
    /// See [`Store::key`]. A row that cannot be read is no error: it is counted and left out.
    pub async fn due(
        &self,
        now: Timestamp,
        limit: u32,
        from: Option<(Timestamp, u64)>,
    ) -> Result<Due, StoreError> {
        self.read(move |db| read::due(db, now, limit, from)).await
    }

    /// Sealed copies whose time ended by `now` and that nobody acknowledged, oldest first: at most `limit`,
    /// without the first `skip`.
    ///
    /// # Errors
    /// See [`Store::key`]. A row that cannot be read is no error: it is counted and left out.
    pub async fn unacknowledged(
        &self,
        now: Timestamp,
        limit: u32,
        skip: u64,
    ) -> Result<Unacknowledged, StoreError> {
        self.read(move |db| read::unacknowledged(db, now, limit, skip)).await
    }

    /// Requests with an intent and no outcome: after a crash, mints whose answer is unknown.
    ///
    /// # Errors
    /// See [`Store::key`].
    pub async fn unfinished(&self) -> Result<Vec<RequestId>, StoreError> {
        self.read(read::unfinished).await
    }

    /// Requests that a person denied, with the index of their last leaf, newest first and before
    /// `before`; at most 200. The next page begins before the last one's index.
    ///
    /// # Errors
    /// See [`Store::key`].
    pub async fn denied_by_people(
        &self,
        before: Option<u64>,
    ) -> Result<Vec<(u64, RequestId)>, StoreError> {
        self.read(move |db| read::denied_by_people(db, before)).await
    }

    /// Requests that a person denied with this reason (`[a-z_]+`) in leaf `from` or later, those
    /// denied last first; at most 64, of the last 2,000 things that people did.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a reason that is none; else see [`Store::key`].
    pub async fn denied_because(
        &self,
        reason_code: &'static str,
        from: u64,
    ) -> Result<Vec<RequestId>, StoreError> {
        self.read(move |db| read::denied_because(db, reason_code, from)).await
    }

    /// How many of an agent's requests are open.
    ///
    /// # Errors
    /// See [`Store::key`].
    pub async fn count_open(&self, agent: &AgentId) -> Result<u64, StoreError> {
        let agent = agent.clone();
        self.read(move |db| read::count_open(db, &agent)).await
    }

    /// How many requests can be decided, over all agents.
    ///
    /// # Errors
    /// See [`Store::key`].
    pub async fn count_all_open(&self) -> Result<u64, StoreError> {
        self.read(read::count_all_open).await
    }

    /// How many requests can be decided, by agent; agents that have none are left out.
    ///
    /// # Errors
    /// See [`Store::key`].
    pub async fn open_by_agent(&self) -> Result<Vec<(AgentId, u64)>, StoreError> {
        self.read(read::open_by_agent).await
    }

    /// Searches requests, newest first, within bounds.
    ///
    /// # Errors
    /// See [`Store::key`].
    pub async fn search(&self, search: RequestSearch) -> Result<Found, StoreError> {
        self.read(move |db| read::search(db, &search)).await
    }

    /// Leaves `from ..` with their indexes, at most `limit` and at most 1024.
    ///
    /// # Errors
    /// See [`Store::key`].
    pub async fn leaves(&self, from: u64, limit: u32) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let limit = u64::from(limit.min(read::MAX_ROWS));
        self.read(move |db| read::leaves(db, from, limit)).await
    }

    /// Leaves `from ..` and before `to`, at most 1024: each proven to be in the present log, and none left out.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when leaves are missing or edited; else see [`Store::key`].
    pub async fn proven_leaves(&self, from: u64, to: u64) -> Result<Vec<(u64, Event)>, StoreError> {
        let (macs, known) = (self.macs.clone(), self.head().size);
        let proven = Arc::clone(&self.proven);
        self.read(move |db| read::proven_leaves(db, &macs, &proven, known, from, to)).await
    }

    /// The proof that leaf `index` is in the tree of `size` leaves.
    ///
    /// # Errors
    /// [`StoreError::Ahead`] for a size beyond the log, [`StoreError::Invalid`] for an index beyond it.
    pub async fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>, StoreError> {
        let (macs, known) = (self.macs.clone(), self.head().size);
        self.read(move |db| read::inclusion(db, &macs, known, index, size)).await
    }

    /// The proof that the tree of `new` leaves extends that of `old`.
    ///
    /// # Errors
    /// As [`Store::inclusion`].
    pub async fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, StoreError> {
        let (macs, known) = (self.macs.clone(), self.head().size);
        self.read(move |db| read::consistency(db, &macs, known, old, new)).await
    }

    /// The bytes of a hash tile or an entry bundle; none when the log does not fill it yet.
    ///
    /// # Errors
    /// See [`Store::key`].
    pub async fn tile(&self, tile: Tile) -> Result<Option<Vec<u8>>, StoreError> {
        let (macs, known) = (self.macs.clone(), self.head().size);
        self.read(move |db| read::tile(db, &macs, known, &tile)).await
    }

    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.writer.try_send(command(reply)).map_err(|e| full(&e))?;
        answer.await.map_err(|_| stopped())?
    }

    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut dyn Db) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job: Reading = Box::new(move |db| {
            // The caller may be gone.
            let _ = reply.send(read::inside(db, read));
        });
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % READERS;
        let reader = self.readers.get(turn).ok_or_else(stopped)?;
        reader.try_send(job).map_err(|e| full(&e))?;
        answer.await.map_err(|_| stopped())?
    }
}

async fn reader(url: Url) -> Result<mpsc::Sender<Reading>, StoreError> {
    let (sender, mut jobs) = mpsc::channel::<Reading>(MAX_READINGS);
    let (opened, is_open) = oneshot::channel();
    spawn("store-reader", move || {
        let open = || -> Result<Box<dyn Db>, StoreError> {
            Ok(match &url {
                Url::Sqlite(path) => Box::new(Sqlite::open_reader(path)?),
                Url::Postgres(url) => Box::new(Postgres::open(url, false, false)?),
            })
        };
        match open() {
            Ok(mut db) => {
                if opened.send(Ok(())).is_ok() {
                    while let Some(job) = jobs.blocking_recv() {
                        job(db.as_mut());
                    }
                }
            }
            Err(e) => drop(opened.send(Err(e))),
        }
    })?;
    is_open.await.map_err(|_| stopped())??;
    Ok(sender)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map(drop).map_err(|e| StoreError::Unavailable(e.to_string()))
}

fn full<T>(e: &mpsc::error::TrySendError<T>) -> StoreError {
    match e {
        mpsc::error::TrySendError::Full(_) => StoreError::Busy,
        mpsc::error::TrySendError::Closed(_) => stopped(),
    }
}

fn stopped() -> StoreError {
    StoreError::Halted("it was closed".into())
}
