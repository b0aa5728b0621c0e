//! The one writer: takes what waits, folds it, writes it in one transaction, then answers.

mod stage;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use grantwright_domain::{AgentId, Authority, RequestId};
use grantwright_proof::{Checkpoint, Hash, NoteSigner};
use tokio::sync::{mpsc, oneshot};

use crate::db::{Db, DbError, Mode, Rows, Value};
use crate::fault::{Fault, Faults};
use crate::hashes::Tiles;
use crate::head::{Head, HeadRow, Keys, Macs, NO_CHAIN};
use crate::memory::Memory;
use crate::open_set::OpenSet;
use crate::side::{MAX_SIDE_BATCH, SideDone, SideWrite};
use crate::transition::Prepared;
use crate::{Committed, Evidence, StoreError};
use stage::{Stage, Staged};

/// Most transitions in one transaction.
pub(crate) const MAX_BATCH: usize = 256;
/// Transitions in a batch from which on the next batch is awaited a little: there are many callers, and
/// a commit costs the same for one as for fifty.
const CROWD: usize = 4;
/// Announced transitions from which on a batch is awaited with patience: backends keep their callers apart.
const MANY_COMING: usize = 16;
/// How long one look for more callers takes, and how many looks at most: 2 ms in all.
const LOOK: std::time::Duration = std::time::Duration::from_micros(250);
const LOOKS: usize = 8;
/// Transitions with which a batch is large enough to begin at once. Not all callers there are: while one
/// part of them waits for its commit, the requests of the others are made ready.
const ENOUGH: usize = 20;
/// Acknowledgements that wait for a transition to ride along with; more get a transaction.
const MAX_WAITING: usize = 4096;

/// Most live leases in one answer.
pub(crate) const MAX_LIVE: usize = 4096;

/// Where a caller waits.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked.
pub(crate) enum Command {
    Acknowledge(RequestId),
    Close(oneshot::Sender<()>),
    Commit(Box<Prepared>, Reply<Committed>),
    Live(Option<AgentId>, Option<RequestId>, Reply<Vec<RequestId>>),
    RaiseEpoch(Reply<u64>),
    Refresh(Reply<()>),
    Side(Box<SideWrite>, Reply<SideDone>),
    Unseal(Vec<RequestId>, Reply<()>),
}

/// What everyone may see: replaced after each commit.
#[derive(Debug)]
pub(crate) struct Published {
    pub head: Arc<Head>,
    pub authority: Arc<Authority>,
}

/// Shared by the writer and the handles.
pub(crate) type Board = Arc<RwLock<Published>>;

pub(crate) struct Writer {
    db: Box<dyn Db>,
    macs: Macs,
    signer: NoteSigner,
    /// None after a doubt: made again before anything else.
    memory: Option<Memory>,
    epoch: u64,
    ended: Option<StoreError>,
    waiting: Vec<RequestId>,
    board: Board,
    faults: Faults,
    /// Transitions that were announced.
    coming: Arc<AtomicUsize>,
}

impl Writer {
    /// Checks the whole store and makes the head row of a new one.
    pub(crate) fn open(
        mut db: Box<dyn Db>,
        keys: Keys,
        faults: Faults,
        coming: Arc<AtomicUsize>,
    ) -> Result<(Self, Board), StoreError> {
        let macs = Macs::new(&keys.mac_key);
        db.begin(Mode::Write)?;
        let head = match db.head()? {
            Some(head) => head,
            None => create_head(db.as_mut(), &macs)?,
        };
        // The cheap facts first: they name a restored head row or lost leaves best.
        macs.check(&head)?;
        check_count(db.as_mut(), &head)?;
        let memory = Memory::load(db.as_mut(), &macs, head, keys.signer.vkey())?;
        db.commit()?;
        let epoch = memory.head.epoch;
        let board = Arc::new(RwLock::new(publication(&memory)));
        let signer = keys.signer;
        let this = Self {
            db,
            macs,
            signer,
            memory: Some(memory),
            epoch,
            ended: None,
            waiting: Vec::new(),
            board: Arc::clone(&board),
            faults,
            coming,
        };
        Ok((this, board))
    }

    /// Works until every handle is gone or one closes the store.
    pub(crate) fn run(mut self, commands: &mut mpsc::Receiver<Command>) {
        let mut batch: Vec<(Prepared, Reply<Committed>)> = Vec::with_capacity(MAX_BATCH);
        let mut beside: Vec<(Box<SideWrite>, Reply<SideDone>)> = Vec::new();
        let mut last = 0;
        while let Some(first) = commands.blocking_recv() {
            let patient = self.coming.load(Ordering::Relaxed) >= MANY_COMING;
            if last >= CROWD || patient {
                gather(commands, patient);
            }
            let mut command = Some(first);
            let mut other = None;
            while let Some(next) = command.take() {
                match next {
                    Command::Commit(prepared, reply) => batch.push((*prepared, reply)),
                    Command::Side(write, reply) => beside.push((write, reply)),
                    // One that is forgotten costs no more than an early end of its lease.
                    Command::Acknowledge(request) if self.waiting.len() < 2 * MAX_WAITING => {
                        self.waiting.push(request);
                    }
                    Command::Acknowledge(_) => {}
                    next => {
                        other = Some(next);
                        break;
                    }
                }
                if batch.len() < MAX_BATCH && beside.len() < MAX_SIDE_BATCH {
                    command = commands.try_recv().ok();
                }
            }
            last = batch.len();
            if !batch.is_empty() || self.waiting.len() >= MAX_WAITING {
                self.commit(&mut batch);
            }
            if !beside.is_empty() {
                self.write_beside(&mut beside);
            }
            match other {
                None | Some(Command::Acknowledge(_) | Command::Commit(..) | Command::Side(..)) => {}
                Some(Command::Live(agent, after, reply)) => {
                    answer(reply, self.live(agent.as_ref(), after.as_ref()));
                }
                Some(Command::RaiseEpoch(reply)) => answer(reply, self.raise_epoch()),
                Some(Command::Refresh(reply)) => answer(reply, self.refresh()),
                Some(Command::Unseal(requests, reply)) => answer(reply, self.unseal(requests)),
                Some(Command::Close(done)) => {
                    self.flush();
                    drop(self);
                    // Nobody may wait any more; that is no fault.
                    let _ = done.send(());
                    return;
                }
            }
        }
        self.flush();
    }

    fn commit(&mut self, batch: &mut Vec<(Prepared, Reply<Committed>)>) {
        let (work, replies): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        match self.transact(work) {
            Ok(results) => {
                for (reply, result) in replies.into_iter().zip(results) {
                    answer(reply, result);
                }
            }
            Err(e) => {
                let e = self.doubt(e);
                for reply in replies {
                    answer(reply, Err(e.clone()));
                }
            }
        }
    }

    /// Writes side rows that wait together, in a transaction of their own: all of them or none.
    fn write_beside(&mut self, beside: &mut Vec<(Box<SideWrite>, Reply<SideDone>)>) {
        let (writes, replies): (Vec<_>, Vec<_>) = beside.drain(..).unzip();
        let mut write = || {
            if let Some(e) = &self.ended {
                return Err(e.clone());
            }
            if let Err(e) = self.db.begin(Mode::Write) {
                // A connection that broke while idle shows itself only now.
                self.db.rollback();
                self.db.begin(Mode::Write).map_err(|_| e)?;
            }
            let mut done = Vec::with_capacity(writes.len());
            for w in &writes {
                done.push(crate::side::write(self.db.as_mut(), w)?);
            }
            self.durable()?;
            Ok(done)
        };
        match write() {
            Ok(done) => {
                for (reply, done) in replies.into_iter().zip(done) {
                    answer(reply, Ok(done));
                }
            }
            Err(e) => {
                let e = self.doubt(e);
                for reply in replies {
                    answer(reply, Err(e.clone()));
                }
            }
        }
    }

    fn transact(
        &mut self,
        work: Vec<Prepared>,
    ) -> Result<Vec<Result<Committed, StoreError>>, StoreError> {
        self.enter(Mode::Write)?;
        let found = self.db.lookup(&stage::needs(&work))?;
        let Self { db, macs, signer, memory, .. } = self;
        let Some(memory) = memory.as_mut() else { return Err(no_memory()) };
        let mut stage = Stage::new(memory, macs, signer.vkey(), found);
        let staged: Vec<Result<Staged, StoreError>> =
            work.into_iter().map(|prepared| stage.add(prepared, db.as_mut())).collect();
        let mut rows = stage.rows;
        rows.unseal.extend(self.waiting.iter().cloned());
        finish(memory, macs, signer, &mut rows)?;
        if rows.is_empty() {
            db.rollback();
        } else {
            db.write(&rows)?;
        }
        let size = memory.edge.size();
        let checkpoint = &memory.checkpoint;
        let tiles = Tiles::with(db.as_mut(), size, &memory.growing);
        // Callers of one batch often know the same size.
        let mut known_proofs: HashMap<u64, Vec<Hash>> = HashMap::new();
        let mut out = Vec::with_capacity(staged.len());
        for result in staged {
            out.push(match result {
                Err(e) => Err(e),
                Ok(staged) => {
                    let evidence = staged
                        .wanted
                        .map(|(leaf, index, known)| {
                            let known = (known, &mut known_proofs);
                            prove(memory, &tiles, leaf, index, known)
                        })
                        .transpose()?;
                    let first_index = staged.first_index;
                    let checkpoint = Arc::clone(checkpoint);
                    Ok(Committed { state: staged.state, first_index, size, checkpoint, evidence })
                }
            });
        }
        drop(tiles);
        if !rows.is_empty() {
            self.durable()?;
            self.waiting.clear();
            self.publish();
        }
        Ok(out)
    }

    /// Begins a transaction in which the memory is up to date.
    fn enter(&mut self, mode: Mode) -> Result<(), StoreError> {
        if let Some(e) = &self.ended {
            return Err(e.clone());
        }
        match self.try_enter(mode) {
            // A connection that broke while idle shows itself only now; nothing was written yet.
            Err(StoreError::Unavailable(_)) if self.db.reconnects() => {
                self.db.rollback();
                // Alone, the memory stays: a head that moved meanwhile is another broker's doing.
                if self.db.is_shared() {
                    self.memory = None;
                }
                self.try_enter(mode)
            }
            entered => entered,
        }
    }

    fn try_enter(&mut self, mode: Mode) -> Result<(), StoreError> {
        self.db.begin(mode)?;
        let head = self.db.head()?.ok_or_else(|| StoreError::tampered("the head row is gone"))?;
        let vkey = self.signer.vkey();
        match &mut self.memory {
            Some(memory) => memory.catch_up(self.db.as_mut(), &self.macs, head, vkey)?,
            None => {
                let known = self.board.read().unwrap_or_else(PoisonError::into_inner).head.size;
                if head.size() < known {
                    return Err(StoreError::tampered("the head row went back"));
                }
                self.memory = Some(Memory::load(self.db.as_mut(), &self.macs, head, vkey)?);
            }
        }
        match &self.memory {
            Some(memory) if memory.head.epoch == self.epoch => Ok(()),
            _ => Err(StoreError::EpochEnded),
        }
    }

    /// Commits; an error says whether anything may have been written.
    fn durable(&mut self) -> Result<(), StoreError> {
        let fault = self.faults.pop();
        match fault {
            Fault::None | Fault::AfterCommit => {}
            Fault::BeforeCommit => {
                return Err(StoreError::Unavailable("the transaction was lost".into()));
            }
            Fault::Fsync => return Err(StoreError::Halted("fsync failed".into())),
        }
        match self.db.commit() {
            Ok(()) if fault == Fault::AfterCommit => Err(StoreError::OutcomeUnknown),
            Ok(()) => Ok(()),
            Err(DbError::Broken(detail)) => Err(StoreError::Halted(detail)),
            Err(e) => {
                tracing::error!(error = ?e, "the outcome of a commit is unknown");
                Err(StoreError::OutcomeUnknown)
            }
        }
    }

    /// After any failure: forget, and where integrity is in doubt, write no more.
    fn doubt(&mut self, e: StoreError) -> StoreError {
        self.db.rollback();
        self.memory = None;
        if self.ended.is_none() && e.ends_writing() {
            tracing::error!(error = %e, "the store writes no more until it is opened again");
            self.ended = Some(match &e {
                StoreError::EpochEnded => StoreError::EpochEnded,
                StoreError::Halted(detail) => StoreError::Halted(detail.clone()),
                other => StoreError::Halted(other.to_string()),
            });
        }
        e
    }

    fn publish(&self) {
        if let Some(memory) = &self.memory {
            *self.board.write().unwrap_or_else(PoisonError::into_inner) = publication(memory);
        }
    }

    fn refresh(&mut self) -> Result<(), StoreError> {
        let entered = self.enter(Mode::Read).map_err(|e| self.doubt(e));
        self.db.rollback();
        entered?;
        self.publish();
        Ok(())
    }

    /// The next [`MAX_LIVE`] requests whose lease lives.
    fn live(
        &mut self,
        agent: Option<&AgentId>,
        after: Option<&RequestId>,
    ) -> Result<Vec<RequestId>, StoreError> {
        // Alone, the memory is the present; others may have written meanwhile.
        if self.db.is_shared() || self.memory.is_none() {
            let entered = self.enter(Mode::Read).map_err(|e| self.doubt(e));
            self.db.rollback();
            entered?;
        }
        let memory = self.memory.as_ref().ok_or_else(no_memory)?;
        Ok(memory.open.live(agent, after, MAX_LIVE))
    }

    fn raise_epoch(&mut self) -> Result<u64, StoreError> {
        let mut raise = || {
            self.enter(Mode::Write)?;
            let Some(memory) = self.memory.as_mut() else { return Err(no_memory()) };
            let frontier = memory.edge.frontier();
            let tag = memory.open.tag(&self.macs);
            memory.head = self.macs.seal(frontier, self.epoch + 1, memory.chain, tag);
            let rows = Rows { head: Some(memory.head.clone()), ..Rows::default() };
            self.db.write(&rows)?;
            self.durable()?;
            self.epoch += 1;
            self.publish();
            Ok(self.epoch)
        };
        let raised = raise();
        raised.map_err(|e| self.doubt(e))
    }

    /// Deletes the sealed copies of these requests, and those that were acknowledged.
    fn unseal(&mut self, mut requests: Vec<RequestId>) -> Result<(), StoreError> {
        let mut unseal = || {
            self.enter(Mode::Write)?;
            requests.extend(self.waiting.iter().cloned());
            let rows = Rows { unseal: std::mem::take(&mut requests), ..Rows::default() };
            self.db.write(&rows)?;
            self.durable()?;
            self.waiting.clear();
            Ok(())
        };
        let done = unseal();
        done.map_err(|e| self.doubt(e))
    }

    fn flush(&mut self) {
        if !self.waiting.is_empty()
            && let Err(e) = self.unseal(Vec::new())
        {
            tracing::warn!(error = %e, "sealed copies stay until the next sweep");
        }
    }
}

/// Waits while more callers arrive, with patience also while none does. With few callers it is never called,
/// so that nobody waits for others who do not come.
fn gather(commands: &mpsc::Receiver<Command>, patient: bool) {
    let mut waiting = commands.len();
    for _ in 0..LOOKS {
        if waiting >= ENOUGH {
            return;
        }
        std::thread::sleep(LOOK);
        let now = commands.len();
        if now == waiting && !patient {
            return;
        }
        waiting = now;
    }
}

/// Signs the checkpoint and seals the head row, if leaves were added.
fn finish(
    memory: &mut Memory,
    macs: &Macs,
    signer: &NoteSigner,
    rows: &mut Rows,
) -> Result<(), StoreError> {
    if rows.leaves.is_empty() {
        return Ok(());
    }
    let size = memory.edge.size();
    let checkpoint = Checkpoint::new(memory.authority.origin.as_str(), size, memory.edge.root())
        .map_err(|e| StoreError::Invalid(e.to_string()))?;
    let note = checkpoint.sign(signer);
    memory.checkpoint = Arc::from(note.as_str());
    rows.checkpoint = Some((size, note));
    rows.tiles.extend(memory.growing.changed(size));
    let tag = memory.open.tag(macs);
    memory.head = macs.seal(memory.edge.frontier(), memory.head.epoch, memory.chain, tag);
    rows.head = Some(memory.head.clone());
    Ok(())
}

fn prove(
    memory: &Memory,
    tiles: &Tiles<'_>,
    leaf: Vec<u8>,
    index: u64,
    (known, proofs): (u64, &mut HashMap<u64, Vec<Hash>>),
) -> Result<Evidence, StoreError> {
    let size = memory.edge.size();
    let failed = |e: grantwright_proof::ProofError| match tiles.failed() {
        Some(db) => StoreError::from(db),
        None => StoreError::tampered(e.to_string()),
    };
    let inclusion = memory.edge.inclusion_proof(index, size, tiles).map_err(failed)?;
    let consistency = match proofs.get(&known) {
        Some(proof) => proof.clone(),
        None => {
            let proof = memory.edge.consistency_proof(known, size, tiles).map_err(failed)?;
            proofs.insert(known, proof.clone());
            proof
        }
    };
    let checkpoint = Arc::clone(&memory.checkpoint);
    Ok(Evidence { leaf, index, inclusion, consistent_from: known, consistency, checkpoint })
}

/// Makes the head row of a store without leaves, unless another broker did meanwhile.
fn create_head(db: &mut dyn Db, macs: &Macs) -> Result<HeadRow, StoreError> {
    let tag = OpenSet::default().tag(macs);
    let head = macs.seal(grantwright_proof::Frontier::new(), 1, NO_CHAIN, tag);
    let values = [
        Value::from(0),
        Value::Blob(head.frontier.encode()),
        Value::from(head.epoch),
        Value::from(head.chain),
        Value::Blob(head.open.to_vec()),
        Value::Blob(head.mac.to_vec()),
    ];
    let sql = "INSERT INTO head (id, size, frontier, epoch, chain, open_tag, mac) \
               VALUES (1, $1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING";
    db.query(sql, &values)?;
    db.head()?.ok_or_else(|| StoreError::tampered("the head row is gone"))
}

/// A hidden leaf, or one beyond the head, shows in the count.
fn check_count(db: &mut dyn Db, head: &HeadRow) -> Result<(), StoreError> {
    let mut rows = db.query("SELECT count(*), coalesce(max(idx), -1) FROM leaves", &[])?;
    let row = rows.first_mut().ok_or_else(|| StoreError::tampered("leaves cannot be counted"))?;
    let (count, last) = (row.int(0)?, row.signed(1)?);
    if count == head.size() && last == crate::db::int(head.size()) - 1 {
        return Ok(());
    }
    Err(StoreError::tampered(format!(
        "the head row speaks of {} leaves, the last number {last} of {count} is there",
        head.size()
    )))
}

fn publication(memory: &Memory) -> Published {
    let root: Hash = memory.edge.root();
    let head = Head {
        size: memory.edge.size(),
        root,
        epoch: memory.head.epoch,
        checkpoint: Arc::clone(&memory.checkpoint),
    };
    Published { head: Arc::new(head), authority: Arc::clone(&memory.authority) }
}

fn no_memory() -> StoreError {
    StoreError::Unavailable("the log could not be read".into())
}

/// The caller may be gone; what was written stays written.
fn answer<T>(reply: Reply<T>, result: Result<T, StoreError>) {
    let _ = reply.send(result);
}
