//! Readings. Each sees one snapshot and never blocks the writer.

mod leases;
mod log;
mod requests;
mod select;

use grantwright_domain::event::{Narrowed, Requested};
use grantwright_domain::request::LeaseState;
use grantwright_domain::{
    AgentId, Digest, Event, HumanId, IdempotencyKey, InstanceId, LeaseId, Phase, RequestId,
    RequestState, ScopeName, Timestamp,
};
use grantwright_proof::{Frontier, leaf_hash};

use crate::StoreError;
use crate::db::{Db, DbError, Mode, Row, Value, placeholders};
use crate::head::Macs;
use crate::proven::{ProvenTiles, Prover};
pub(crate) use leases::{due, lease, leases, sealed, unacknowledged};
pub(crate) use log::{consistency, inclusion, leaves, proven_leaves, tile};
pub(crate) use requests::{count_all_open, denied_because, list, open_by_agent, search};

/// Most rows of one answer.
pub(crate) const MAX_ROWS: u32 = 1024;

/// A request as its proven leaves tell it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The fold of its leaves.
    pub state: RequestState,
    /// Its leaves, in order, each with its index.
    pub leaves: Vec<(u64, Event)>,
    /// What lies beside them.
    pub texts: Vec<StoredText>,
}

/// An erasable text; its commitment is in a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredText {
    /// `reason`, `task`, `question:<n>`, `answer:<n>`, `vote:<n>`, `narrowed:<n>` or `param:<x>`.
    pub name: String,
    /// Salt of the commitment.
    pub salt: [u8; 16],
    /// The text.
    pub text: String,
}

/// What an idempotency key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedKey {
    /// The request.
    pub request: RequestId,
    /// Whose ask it was.
    pub instance: InstanceId,
    /// Digest of the ask's body.
    pub body: Digest,
}

/// Which requests to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct RequestFilter {
    /// Only those that can still be decided.
    pub open: bool,
    /// Only those in this phase.
    pub phase: Option<Phase>,
    /// Only those that ended: they can no longer be decided.
    pub ended: bool,
    /// Those that end first, first; for open requests.
    pub soonest: bool,
    /// Only those at this place of [`Self::soonest`]'s order or behind it: when they end, and their
    /// `first_index`.
    pub soonest_from: Option<(Timestamp, u64)>,
    /// Only this agent's.
    pub agent: Option<AgentId>,
    /// Only those whose `first_index` is below this.
    pub before: Option<u64>,
    /// How many, 1024 at most; 0: 1024.
    pub limit: u32,
}

/// What to search requests for, newest first. A search looks at a bounded number of rows; its answer
/// says where the next goes on.
#[derive(Debug, Clone, Default)]
pub struct RequestSearch {
    /// Only this agent's.
    pub agent: Option<AgentId>,
    /// Only for this scope.
    pub scope: Option<ScopeName>,
    /// Only in this phase.
    pub phase: Option<Phase>,
    /// Only those that this person decided, asked about, narrowed or withdrew from.
    pub human: Option<HumanId>,
    /// Only those with these words beside them, whatever their case.
    pub text: Option<String>,
    /// Only those one of whose open parameters holds this text.
    pub resource: Option<String>,
    /// Asked at or after.
    pub from: Option<Timestamp>,
    /// Asked before.
    pub until: Option<Timestamp>,
    /// Only those whose `first_index` is below this.
    pub before: Option<u64>,
    /// How many to find, 1024 at most; 0: 1024.
    pub limit: u32,
}

/// What a search found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The rows, newest first.
    pub rows: Vec<RequestSummary>,
    /// Where the next search goes on ([`RequestSearch::before`]), and the time of the oldest row that
    /// this one looked at; none: it looked at all.
    pub next: Option<(u64, Timestamp)>,
}

/// A request's row: for lists, never for decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSummary {
    /// The request.
    pub id: RequestId,
    /// Who asked.
    pub agent: AgentId,
    /// Through which sidecar.
    pub instance: InstanceId,
    /// For what.
    pub scope: ScopeName,
    /// The phase's word.
    pub phase: String,
    /// Number of its leaves.
    pub version: u64,
    /// Index of its first leaf; newer requests have larger ones.
    pub first_index: u64,
    /// When it was asked.
    pub created_at: Timestamp,
    /// When time ends it or its lease.
    pub due_at: Option<Timestamp>,
    /// Its lease.
    pub lease: Option<LeaseId>,
}

/// Which leases to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct LeaseFilter {
    /// Only live ones.
    pub live: bool,
    /// Live ones that end after this moment, those that end first, first.
    pub soonest_after: Option<Timestamp>,
    /// Those that were ended early and would still live after this moment.
    pub ended_early: Option<Timestamp>,
    /// Only this agent's.
    pub agent: Option<AgentId>,
    /// Only those whose `first_index` is below this.
    pub before: Option<u64>,
    /// How many, 1024 at most; 0: 1024.
    pub limit: u32,
}

/// A lease's row: for lists, never for decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseSummary {
    /// The lease.
    pub id: LeaseId,
    /// Its request.
    pub request: RequestId,
    /// Whose.
    pub agent: AgentId,
    /// Through which sidecar.
    pub instance: InstanceId,
    /// For what.
    pub scope: ScopeName,
    /// Whether it lives.
    pub state: LeaseState,
    /// When it ends.
    pub expires_at: Timestamp,
    /// It can be ended early.
    pub revocable: bool,
    /// Index of its request's first leaf.
    pub first_index: u64,
    /// When its request was recorded.
    pub requested_at: Timestamp,
}

/// What time has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// Open requests past their end.
    pub requests: Vec<RequestId>,
    /// Live leases past their end.
    pub leases: Vec<(LeaseId, RequestId)>,
    /// Rows that cannot be read: somebody wrote them behind the broker's back.
    pub malformed: u64,
    /// Where the next page begins; none: this was the last.
    pub next: Option<(Timestamp, u64)>,
}

/// Sealed copies that nobody acknowledged in time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unacknowledged {
    /// Whose they are.
    pub requests: Vec<RequestId>,
    /// Rows that cannot be read: somebody wrote them behind the broker's back.
    pub malformed: u64,
    /// There are more behind these.
    pub more: bool,
}

/// One reading in its own snapshot.
pub(crate) fn inside<T>(
    db: &mut dyn Db,
    read: impl FnOnce(&mut dyn Db) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    if let Err(DbError::Unavailable(_)) = db.begin(Mode::Read) {
        db.rollback();
        db.begin(Mode::Read)?;
    }
    let out = read(db);
    db.rollback();
    out
}

/// The frontier of this snapshot, vouched for by the MAC, at least as long as the caller knows.
fn frontier(db: &mut dyn Db, macs: &Macs, known: u64) -> Result<Frontier, StoreError> {
    let head = db.head()?.ok_or_else(|| StoreError::tampered("the head row is gone"))?;
    macs.check(&head)?;
    if head.size() < known {
        return Err(StoreError::tampered("the head row went back"));
    }
    Ok(head.frontier)
}

/// See [`crate::Store::load`].
pub(crate) fn load(
    db: &mut dyn Db,
    macs: &Macs,
    proven: &ProvenTiles,
    known: u64,
    id: &RequestId,
) -> Result<Option<Loaded>, StoreError> {
    let sql = "SELECT leaf_list, version FROM requests WHERE id = $1";
    let mut rows = db.query(sql, &[Value::from(id.as_str())])?;
    let Some(row) = rows.first_mut() else { return Ok(None) };
    let list = row.text(0)?;
    let indexes: Result<Vec<u64>, _> = list.split(',').skip(1).map(str::parse).collect();
    let indexes = indexes.map_err(|_| StoreError::tampered("a request's list of leaves"))?;
    if indexes.len() as u64 != row.int(1)? || !indexes.is_sorted_by(|a, b| a < b) {
        return Err(StoreError::tampered("a request's list of leaves"));
    }
    let frontier = frontier(db, macs, known)?;
    let mut bodies = Vec::with_capacity(indexes.len());
    for chunk in indexes.chunks(8) {
        bodies.extend(leaves_at(db, chunk)?);
    }
    if bodies.iter().map(|(index, _)| index).ne(&indexes) {
        return Err(StoreError::tampered(format!("leaves of request `{id}` are missing")));
    }
    let mut leaves = Vec::with_capacity(bodies.len());
    let prover = Prover::new(db, &frontier, proven);
    for (index, body) in bodies {
        prover.prove(index, leaf_hash(&body))?;
        let event = Event::from_leaf(&body)
            .map_err(|e| StoreError::tampered(format!("leaf {index}: {e}")))?;
        if event.request_id() != Some(id) {
            return Err(StoreError::tampered(format!("leaf {index} is of another request")));
        }
        leaves.push((index, event));
    }
    drop(prover);
    let state = RequestState::refold(leaves.iter().map(|(index, event)| (*index, event)))
        .map_err(|e| StoreError::tampered(format!("leaves of request `{id}`: {e}")))?;
    let mut texts = texts(db, id)?;
    texts.retain(|text| {
        let meant = is_committed(&leaves, text);
        if !meant {
            tracing::error!(request = %id, text = %text.name, "a text is not what its leaf commits to");
        }
        meant
    });
    Ok(Some(Loaded { state, leaves, texts }))
}

/// Whether a leaf of this request commits to the text, under the text's own name. What none commits
/// to was put there by somebody who writes to the database: people would decide by it, so it is as
/// if erased.
fn is_committed(leaves: &[(u64, Event)], text: &StoredText) -> bool {
    let commitment = Digest::commitment(&text.salt, &text.text);
    leaves.iter().enumerate().any(|(ordinal, (_, event))| match event {
        Event::Narrowed(e) if text.name == format!("narrowed:{ordinal}") => {
            e.reason == Some(commitment)
        }
        Event::Requested(Requested { terms, .. }) | Event::Narrowed(Narrowed { terms, .. }) => {
            let meant = match text.name.as_str() {
                "reason" => Some(terms.reason),
                "task" => terms.task,
                name => {
                    name.strip_prefix("param:").and_then(|p| terms.sealed_params.get(p)).copied()
                }
            };
            meant == Some(commitment)
        }
        Event::Questioned(e) => e.text == commitment && text.name == format!("question:{ordinal}"),
        Event::Answered(e) => e.text == commitment && text.name == format!("answer:{ordinal}"),
        Event::Voted(e) => e.reason == Some(commitment) && text.name.starts_with("vote:"),
        _ => false,
    })
}

/// Up to eight leaves; the list of parameters has one length, so that the statement is prepared once.
fn leaves_at(db: &mut dyn Db, indexes: &[u64]) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
    let Some(last) = indexes.last() else { return Ok(Vec::new()) };
    let padded = indexes.iter().chain(std::iter::repeat(last)).take(8);
    let params: Vec<Value> = padded.map(|i| Value::from(*i)).collect();
    let list = placeholders(1, params.len());
    let sql = format!("SELECT idx, body FROM leaves WHERE idx IN ({list}) ORDER BY idx");
    let rows = db.query(&sql, &params)?;
    rows.into_iter().map(|mut r| Ok((r.int(0)?, r.blob(1)?))).collect()
}

pub(crate) fn texts(db: &mut dyn Db, id: &RequestId) -> Result<Vec<StoredText>, StoreError> {
    let sql = "SELECT name, salt, body FROM texts WHERE request_id = $1 ORDER BY name";
    let rows = db.query(sql, &[Value::from(id.as_str())])?;
    rows.into_iter()
        .map(|mut r| {
            let salt = r.blob(1)?.try_into().map_err(|_| DbError::Malformed("salt"))?;
            Ok(StoredText { name: r.text(0)?, salt, text: r.text(2)? })
        })
        .collect()
}

pub(crate) fn key(
    db: &mut dyn Db,
    agent: &AgentId,
    key: &IdempotencyKey,
) -> Result<Option<ClaimedKey>, StoreError> {
    let sql = "SELECT request_id, instance, body FROM keys WHERE agent = $1 AND key = $2";
    let mut rows = db.query(sql, &[Value::from(agent.as_str()), Value::from(key.as_str())])?;
    let Some(row) = rows.first_mut() else { return Ok(None) };
    let body = Digest(row.bytes32(2)?);
    let (request, instance) = (id(row, 0, RequestId::parse)?, id(row, 1, InstanceId::parse)?);
    Ok(Some(ClaimedKey { request, instance, body }))
}

pub(crate) fn unfinished(db: &mut dyn Db) -> Result<Vec<RequestId>, StoreError> {
    let sql = "SELECT id FROM requests WHERE phase = 'intended' ORDER BY first_index";
    // The head row vouches for those that are ours: one that cannot be read is none of them.
    Ok(db.query(sql, &[])?.iter_mut().filter_map(|r| id(r, 0, RequestId::parse).ok()).collect())
}

/// Denied by a vote, newest first: its leaf is the request's last.
pub(crate) fn denied_by_people(
    db: &mut dyn Db,
    before: Option<u64>,
) -> Result<Vec<(u64, RequestId)>, StoreError> {
    let sql = "SELECT r.last_index, r.id FROM requests r JOIN leaves l ON l.idx = r.last_index \
               WHERE r.phase = 'denied' AND l.kind = 'voted' AND r.last_index < $1 \
               ORDER BY r.last_index DESC LIMIT 200";
    let before = Value::Int(before.map_or(i64::MAX, crate::db::int));
    let mut rows = db.query(sql, &[before])?;
    rows.iter_mut().map(|r| Ok((r.int(0)?, id(r, 1, RequestId::parse)?))).collect()
}

pub(crate) fn count_open(db: &mut dyn Db, agent: &AgentId) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM requests WHERE agent = $1 AND identity IS NOT NULL";
    let mut rows = db.query(sql, &[Value::from(agent.as_str())])?;
    Ok(rows.first_mut().map(|r| r.int(0)).transpose()?.unwrap_or(0))
}

/// Parses an identifier of a row.
pub(crate) fn id<T, E>(
    row: &mut Row,
    column: usize,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, StoreError> {
    parse(&row.text(column)?).map_err(|_| StoreError::tampered("an identifier in a row"))
}

#[cfg(test)]
mod plans;
