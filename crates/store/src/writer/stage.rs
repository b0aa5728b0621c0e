//! One transition against the present: compared, folded at its real indexes, and turned into rows.
//! Nothing in the memory changes before the whole transition is accepted.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use grantwright_domain::request::{Lease, LeaseState};
use grantwright_domain::{
    AgentId, Digest, Event, IdempotencyKey, InstanceId, LeaseId, Phase, RequestId, RequestState,
    Rights, Violation,
};
use grantwright_proof::{Checkpoint, Vkey};

use crate::StoreError;
use crate::db::{
    ClaimRow, Db, Found, KeyRow, LeafRow, LeaseRow, Needs, RequestRow, RowAt, Rows, SealedRow,
    TextRow,
};
use crate::head::{Macs, extend_chain};
use crate::memory::{self, Memory};
use crate::open_set::OpenRow;
use crate::transition::{Encoded, Ground, KeyClaim, Prepared, Side};

/// An accepted transition.
pub(super) struct Staged {
    pub state: Option<Box<RequestState>>,
    pub first_index: u64,
    /// Leaf, index and known size of the evidence that was asked for.
    pub wanted: Option<(Vec<u8>, u64, u64)>,
}

/// What the transitions of a batch ask of the database, in the order in which [`Stage::add`] takes
/// the answers.
pub(super) fn needs(work: &[Prepared]) -> Needs<'_> {
    let mut needs = Needs::default();
    for p in work {
        if let Some(request) = p.request.as_ref().filter(|_| needs_row(&p.base)) {
            needs.requests.push(request.as_str());
        }
        if let Some(claim) = &p.key {
            needs.keys.push((claim.agent.as_str(), claim.key.as_str()));
        }
    }
    needs
}

/// Requests before their outcome are in memory; of others the row says where they stand.
fn needs_row(base: &Ground) -> bool {
    let ended = |state: &RequestState| !state.phase.is_open() && state.phase != Phase::Intended;
    match base {
        Ground::New => true,
        Ground::At(state) => ended(state),
        Ground::Folded(folded) => folded.base().is_none_or(ended),
        Ground::Authority => false,
    }
}

/// A batch in the making.
pub(super) struct Stage<'a> {
    memory: &'a mut Memory,
    macs: &'a Macs,
    vkey: &'a Vkey,
    requests: std::vec::IntoIter<Option<RowAt>>,
    keys: std::vec::IntoIter<Option<KeyRow>>,
    touched: HashSet<RequestId>,
    claimed: HashMap<(AgentId, IdempotencyKey), (RequestId, InstanceId, Digest)>,
    pub rows: Rows,
}

/// The answers that belong to one transition.
struct Answers {
    request: Option<RowAt>,
    key: Option<KeyRow>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        memory: &'a mut Memory,
        macs: &'a Macs,
        vkey: &'a Vkey,
        found: Found,
    ) -> Self {
        Self {
            memory,
            macs,
            vkey,
            requests: found.requests.into_iter(),
            keys: found.keys.into_iter(),
            touched: HashSet::new(),
            claimed: HashMap::new(),
            rows: Rows::default(),
        }
    }

    /// Accepts a transition or says why not.
    pub(super) fn add(&mut self, p: Prepared, db: &mut dyn Db) -> Result<Staged, StoreError> {
        // Answers are taken first, so that a refusal leaves those of its neighbours in place.
        let answers = Answers {
            request: needs_row(&p.base).then(|| self.requests.next()).flatten().flatten(),
            key: p.key.as_ref().and_then(|_| self.keys.next()).flatten(),
        };
        let size = self.memory.edge.size();
        if p.known_size > size {
            return Err(StoreError::Ahead { known: p.known_size, size });
        }
        match p.request.clone() {
            None => self.authority(p, size, db),
            Some(id) => self.request(p, id, size, &answers),
        }
    }

    fn authority(&mut self, p: Prepared, size: u64, db: &mut dyn Db) -> Result<Staged, StoreError> {
        let one = p.leaves.len() == 1;
        // A refused event leaves its fold as it was; of several, an earlier one may have changed it.
        let mut copy = (!one).then(|| (*self.memory.authority).clone());
        for (index, leaf) in (size..).zip(&p.leaves) {
            match &leaf.event {
                // Further ones are an older log's, which a new epoch carries.
                Event::Opened(e) if index == 0 => self.check_opening(&e.origin, &e.vkey)?,
                Event::EpochStarted(e) if index == 0 => self.check_opening(&e.origin, &e.vkey)?,
                _ => {}
            }
            let blobs = p.side.blobs.as_slice();
            let present = copy.as_ref().unwrap_or(&self.memory.authority);
            let scopes = memory::new_scopes(present, &leaf.event, blobs, db)?;
            let target = match &mut copy {
                Some(copy) => copy,
                None => Arc::make_mut(&mut self.memory.authority),
            };
            memory::apply(target, index, &leaf.event, scopes)?;
        }
        if let Some(copy) = copy {
            self.memory.authority = Arc::new(copy);
        }
        let mut chain = self.memory.chain;
        for (index, leaf) in (size..).zip(&p.leaves) {
            chain = extend_chain(chain, index, &leaf.hash);
        }
        self.memory.chain = chain;
        self.rows.blobs.extend(p.side.blobs);
        let wanted = self.append(p.leaves, None, p.want_evidence.then_some(p.known_size));
        Ok(Staged { state: None, first_index: size, wanted })
    }

    fn check_opening(&self, origin: &str, vkey: &str) -> Result<(), StoreError> {
        let given = self.vkey.to_string();
        if vkey != given {
            return Err(StoreError::WrongKey { log: vkey.to_owned(), given });
        }
        Checkpoint::new(origin, 1, self.memory.edge.root())
            .map(|_| ())
            .map_err(|e| StoreError::Invalid(format!("origin `{origin}`: {e}")))
    }

    fn request(
        &mut self,
        p: Prepared,
        id: RequestId,
        size: u64,
        answers: &Answers,
    ) -> Result<Staged, StoreError> {
        if let Some(claim) = &p.key {
            self.check_key(claim, answers.key.as_ref())?;
        }
        let Prepared { base, leaves, key, side, want_evidence, known_size, .. } = p;
        let (state, at) = self.fold(base, &id, &leaves, size, answers.request)?;
        if leaves.is_empty() {
            self.claim(key, &id);
            return Ok(Staged { state: Some(state), first_index: size, wanted: None });
        }
        let identity = self.identity(&state, &id)?;
        check_leases(&leaves, &id)?;

        // Accepted: from here on nothing can be refused.
        let first = at.map_or(size, |at| at.first);
        let version = state.version;
        let pending = state.phase.is_open() || state.phase == Phase::Intended;
        let lease_of = lives(&state).then(|| state.terms.agent.clone());
        let kept = pending || lease_of.is_some();
        if kept || at.is_some() {
            let row = OpenRow { first, version, last: state.last_index, identity, lease_of };
            self.memory.open.set(self.macs, &id, kept.then_some(row));
        }
        self.touched.insert(id.clone());
        self.claim(key, &id);
        self.beside(side, &id);
        let was = at.map(|at| at.version);
        let row = request_row(&state, first, was, identity, size..size + leaves.len() as u64);
        if was.is_some() {
            self.rows.changed.push(row)
        } else {
            self.rows.new.push(row)
        }
        let wanted = self.append(leaves, Some(&id), want_evidence.then_some(known_size));
        Ok(Staged { state: Some(state), first_index: size, wanted })
    }

    /// The state after the events, and where the request's row stands. A draft that was folded under
    /// the very authority of this moment is taken as it is; else everything is folded here.
    fn fold(
        &self,
        base: Ground,
        id: &RequestId,
        leaves: &[Encoded],
        size: u64,
        row: Option<RowAt>,
    ) -> Result<(Box<RequestState>, Option<RowAt>), StoreError> {
        let read = match &base {
            Ground::At(state) => Some(&**state),
            Ground::Folded(folded) => folded.base(),
            Ground::Authority | Ground::New => None,
        };
        let at = match read {
            Some(state) => Some(self.compare(state, id, row)?),
            None => {
                self.is_new(id, row)?;
                None
            }
        };
        let last = (size + leaves.len() as u64).saturating_sub(1);
        let base = match base {
            Ground::At(state) => Some(state),
            Ground::Folded(folded) if !leaves.is_empty() => {
                match folded.land(&self.memory.authority, last) {
                    Ok(state) => return Ok((state, at)),
                    Err(base) => base,
                }
            }
            Ground::Folded(folded) => folded.base().cloned().map(Box::new),
            Ground::Authority | Ground::New => None,
        };
        let rights = Rights::Now(&self.memory.authority);
        let mut rest = (size..).zip(leaves);
        let mut state = match base {
            Some(state) => state,
            None => match rest.next() {
                Some((index, Encoded { event: Event::Requested(e), .. })) => {
                    Box::new(RequestState::begin(index, e, rights)?)
                }
                _ => return Err(StoreError::Invalid("no `requested` event".into())),
            },
        };
        for (index, leaf) in rest {
            state.apply(index, &leaf.event, rights)?;
        }
        Ok((state, at))
    }

    fn is_new(&self, id: &RequestId, row: Option<RowAt>) -> Result<(), StoreError> {
        if self.memory.authority.origin.is_empty() {
            let detail = "the first leaf of a log opens it".to_owned();
            return Err(Violation::rule("opened-first", detail).into());
        }
        if row.is_some() || self.touched.contains(id) {
            let detail = format!("request `{id}` exists");
            return Err(Violation::rule("request-once", detail).into());
        }
        Ok(())
    }

    /// Compare-and-set: the state that was read must be the present one.
    fn compare(
        &self,
        state: &RequestState,
        id: &RequestId,
        row: Option<RowAt>,
    ) -> Result<RowAt, StoreError> {
        let present = match self.memory.open.row(id) {
            Some(open) => Some(RowAt { first: open.first, version: open.version, last: open.last }),
            // Whatever a row says: what is not in the set has had its outcome, and its lease its end.
            None if state.phase.is_open() || state.phase == Phase::Intended => None,
            None if lives(state) => None,
            None if self.touched.contains(id) => None,
            None => row,
        };
        present
            .filter(|at| at.version == state.version && at.last == state.last_index)
            .ok_or(StoreError::Conflict)
    }

    fn check_key(&self, claim: &KeyClaim, row: Option<&KeyRow>) -> Result<(), StoreError> {
        if let Some(row) = row {
            let malformed = || StoreError::tampered("a claimed key's row is malformed");
            return Err(StoreError::KeyTaken {
                request: RequestId::parse(&row.request).map_err(|_| malformed())?,
                instance: InstanceId::parse(&row.instance).map_err(|_| malformed())?,
                same_body: row.body == claim.body,
            });
        }
        match self.claimed.get(&(claim.agent.clone(), claim.key.clone())) {
            None => Ok(()),
            Some((request, instance, body)) => Err(StoreError::KeyTaken {
                request: request.clone(),
                instance: instance.clone(),
                same_body: *body == claim.body,
            }),
        }
    }

    fn claim(&mut self, key: Option<KeyClaim>, id: &RequestId) {
        let Some(KeyClaim { agent, key, instance, body }) = key else { return };
        let claimed = (id.clone(), instance.clone(), body);
        self.claimed.insert((agent.clone(), key.clone()), claimed);
        self.rows.keys.push(ClaimRow { agent, key, request: id.clone(), instance, body });
    }

    /// What the request holds while it is open, if no other one holds it.
    fn identity(&self, state: &RequestState, id: &RequestId) -> Result<Option<Digest>, StoreError> {
        if !state.phase.is_open() {
            return Ok(None);
        }
        let identity = match self.memory.open.row(id).and_then(|row| row.identity) {
            Some(identity) => identity,
            // As first asked: narrowing does not change it.
            None => state.original.as_ref().unwrap_or(&state.terms).identity().map_err(|e| {
                StoreError::Invalid(format!("the terms have no canonical form: {e}"))
            })?,
        };
        match self.memory.open.by_identity(&identity) {
            Some(other) if other != id => Err(StoreError::AlreadyOpen { request: other.clone() }),
            _ => Ok(Some(identity)),
        }
    }

    fn beside(&mut self, side: Side, id: &RequestId) {
        self.rows.blobs.extend(side.blobs);
        self.rows.texts.extend(side.texts.into_iter().map(|t| TextRow {
            request: id.clone(),
            name: t.name,
            salt: t.salt,
            text: t.text,
        }));
        if let Some(sealed) = side.sealed {
            self.rows.sealed.push(SealedRow {
                request: id.clone(),
                instance: sealed.instance,
                bytes: sealed.bytes,
                until_ms: sealed.until.millis(),
            });
        }
        if side.delete_sealed {
            self.rows.unseal.push(id.clone());
        }
    }

    /// Appends the leaves; keeps the last one's bytes where evidence is wanted.
    fn append(
        &mut self,
        leaves: Vec<Encoded>,
        request: Option<&RequestId>,
        known: Option<u64>,
    ) -> Option<(Vec<u8>, u64, u64)> {
        let mut wanted = None;
        let last = leaves.len();
        for (n, leaf) in (1..).zip(leaves) {
            let index = self.memory.edge.size();
            let full = self.memory.append(leaf.hash);
            self.rows.tiles.extend(full);
            if n == last {
                wanted = known.map(|known| (leaf.body.clone(), index, known));
            }
            if let Event::Erased(e) = &leaf.event {
                self.rows.erase.push(e.of.clone());
            }
            let (request, kind) = (request.cloned(), leaf.event.kind());
            let Encoded { body, hash, .. } = leaf;
            self.rows.leaves.push(LeafRow { index, request, kind, body, hash });
        }
        wanted
    }
}

/// A lease is named after its request, which is new once and issued once: so no two leases are one.
fn check_leases(leaves: &[Encoded], id: &RequestId) -> Result<(), StoreError> {
    let mine = LeaseId::of(id);
    let stray = leaves.iter().find_map(|leaf| match &leaf.event {
        Event::Issued(e) => Some(&e.lease_id).filter(|lease| Some(*lease) != mine.as_ref()),
        _ => None,
    });
    match stray {
        None => Ok(()),
        Some(lease) => {
            let detail = format!("lease `{lease}` is not named after request `{id}`");
            Err(Violation::rule("lease-once", detail).into())
        }
    }
}

/// The request's lease has not ended.
fn lives(state: &RequestState) -> bool {
    let ended = |l: &Lease| matches!(l.state, LeaseState::Revoked | LeaseState::Expired);
    state.lease.as_ref().is_some_and(|l| !ended(l))
}

fn request_row(
    state: &RequestState,
    first: u64,
    was: Option<u64>,
    identity: Option<Digest>,
    indexes: std::ops::Range<u64>,
) -> RequestRow {
    let terms = &state.terms;
    let live = state.lease.as_ref().filter(|_| lives(state));
    let due = match state.phase {
        phase if phase.is_open() => Some(state.expires_at()),
        _ => live.map(|l| l.expires_at),
    };
    let mut leaves = String::with_capacity(40);
    for index in indexes {
        // Writing to a string cannot fail.
        let _ = write!(leaves, ",{index}");
    }
    RequestRow {
        first,
        id: terms.request_id.clone(),
        agent: terms.agent.clone(),
        instance: terms.instance.clone(),
        scope: terms.scope.clone(),
        phase: state.phase.word(),
        was,
        version: state.version,
        last: state.last_index,
        leaves,
        created_ms: state.requested_at.millis(),
        due_ms: due.map(grantwright_domain::Timestamp::millis),
        identity,
        lease: state.lease.as_ref().map(lease_row),
    }
}

fn lease_row(lease: &Lease) -> LeaseRow {
    let state = match lease.state {
        LeaseState::Live => "live",
        LeaseState::Withdrawn => "withdrawn",
        LeaseState::Revoked => "revoked",
        LeaseState::Expired => "expired",
    };
    let expires_ms = lease.expires_at.millis();
    LeaseRow { id: lease.id.clone(), state, expires_ms, revocable: lease.revocable }
}
