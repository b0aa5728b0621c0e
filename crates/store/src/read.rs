//! Readings. Each sees one snapshot and never blocks the writer.

use grantwright_domain::event::{Narrowed, Requested};
use grantwright_domain::request::LeaseState;
use grantwright_domain::{
    AgentId, Digest, Event, HumanId, IdempotencyKey, InstanceId, LeaseId, Phase, RequestId,
    RequestState, ScopeName, Timestamp,
};
use grantwright_proof::tile::encode_entries;
use grantwright_proof::{
    Frontier, Hash, Tile, TileKind, consistency_proof, inclusion_proof, leaf_hash,
};

use crate::db::{Db, DbError, Mode, Row, Value, placeholders};
use crate::hashes::Tiles;
use crate::head::Macs;
use crate::proven::{ProvenTiles, Prover};
use crate::{Sealed, StoreError};

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

/// A `SELECT` whose conditions grow one by one; parameters keep their order.
struct Select {
    sql: String,
    params: Vec<Value>,
}

impl Select {
    fn new(sql: &str) -> Self {
        Self { sql: format!("{sql} WHERE 1 = 1"), params: Vec::new() }
    }

    fn and(&mut self, condition: &str) {
        self.sql.push_str(" AND ");
        self.sql.push_str(condition);
    }

    /// `condition` ends before its parameter.
    fn and_value(&mut self, condition: &str, value: Value) {
        self.params.push(value);
        let number = self.params.len();
        self.and(&format!("{condition} ${number}"));
    }

    /// The same with a row of two values.
    fn and_values(&mut self, condition: &str, values: [Value; 2]) {
        self.params.extend(values);
        let last = self.params.len();
        self.and(&format!("{condition} (${}, ${last})", last - 1));
    }

    /// Those asked before. Of `few` rows, another index than the key finds them.
    fn and_before(&mut self, before: u64, few: bool) {
        let condition = if few { "+first_index <" } else { "first_index <" };
        self.and_value(condition, Value::from(before));
    }

    fn newest_first(mut self, db: &mut dyn Db, limit: u32) -> Result<Vec<Row>, StoreError> {
        self.by(NEWEST, limit);
        self.rows(db)
    }

    fn by(&mut self, order: &str, limit: u32) {
        self.params.push(Value::from(u64::from(rows_of(limit))));
        let number = self.params.len();
        self.sql.push_str(&format!(" ORDER BY {order} LIMIT ${number}"));
    }

    fn rows(self, db: &mut dyn Db) -> Result<Vec<Row>, StoreError> {
        Ok(db.query(&self.sql, &self.params)?)
    }
}

/// Newest first, along the key.
const NEWEST: &str = "first_index DESC";
/// The same of few rows that another index finds: the plus keeps SQLite from walking all requests by
/// their key instead.
const NEWEST_OF_FEW: &str = "+first_index DESC";

pub(crate) fn list(
    db: &mut dyn Db,
    filter: &RequestFilter,
) -> Result<Vec<RequestSummary>, StoreError> {
    let mut out = Vec::new();
    for row in list_select(filter).rows(db)? {
        match request_row(row) {
            Ok(request) => out.push(request),
            Err(e) => tracing::error!(error = %e, "ALARM: a request's row was written by others"),
        }
    }
    Ok(out)
}

fn list_select(filter: &RequestFilter) -> Select {
    let mut select = Select::new(&format!("SELECT {REQUEST} FROM requests"));
    // The index of open requests is small: nothing may lead SQLite to the history instead.
    let few = filter.open || filter.phase.is_some_and(Phase::is_open);
    if few {
        select.and("identity IS NOT NULL");
    }
    if filter.ended {
        select.and("identity IS NULL AND phase <> 'intended'");
    }
    if let Some(phase) = filter.phase {
        select.and_value("phase =", Value::from(phase.word()));
    }
    if let Some(agent) = &filter.agent {
        select.and_value("agent =", Value::from(agent.as_str()));
    }
    // Those of one agent have an index of their own, in this order.
    let few = few && filter.agent.is_none();
    if let Some(before) = filter.before {
        select.and_before(before, few);
    }
    if let Some((due, index)) = filter.soonest_from {
        select.and_values("(due_ms, first_index) >=", [Value::Int(due.millis()), index.into()]);
    }
    let order = match (filter.soonest, few) {
        (true, _) => "due_ms, first_index",
        (false, true) => NEWEST_OF_FEW,
        (false, false) => NEWEST,
    };
    select.by(order, filter.limit);
    select
}

const REQUEST: &str = "id, agent, instance, scope, phase, version, first_index, created_ms, \
                       due_ms, lease_id";

fn request_row(mut r: Row) -> Result<RequestSummary, StoreError> {
    Ok(RequestSummary {
        id: id(&mut r, 0, RequestId::parse)?,
        agent: id(&mut r, 1, AgentId::parse)?,
        instance: id(&mut r, 2, InstanceId::parse)?,
        scope: id(&mut r, 3, ScopeName::parse)?,
        phase: r.text(4)?,
        version: r.int(5)?,
        first_index: r.int(6)?,
        created_at: Timestamp::from_millis(r.signed(7)?),
        due_at: r.opt(8, Row::signed)?.map(Timestamp::from_millis),
        lease: if r.is_null(9) { None } else { Some(id(&mut r, 9, LeaseId::parse)?) },
    })
}

fn rows_of(limit: u32) -> u32 {
    if limit == 0 { MAX_ROWS } else { limit.min(MAX_ROWS) }
}

/// Rows that one search looks at, at most.
const LOOKED_AT: u64 = 10_000;
/// Leaves of one person that one search looks at, at most.
const LEAVES_OF_PEOPLE: u64 = 2_000;

/// See [`crate::Store::search`].
pub(crate) fn search(db: &mut dyn Db, s: &RequestSearch) -> Result<Found, StoreError> {
    // Request ids begin with their time, so that the index of ids finds a moment's place in the log.
    let at = |db: &mut dyn Db, moment: Timestamp| -> Result<Option<u64>, StoreError> {
        let sql = "SELECT first_index FROM requests WHERE id >= $1 ORDER BY id LIMIT 1";
        let id = format!("r{:012x}", moment.millis().max(0));
        let mut rows = db.query(sql, &[Value::from(id.as_str())])?;
        Ok(rows.first_mut().map(|r| r.int(0)).transpose()?)
    };
    let mut before = s.before.unwrap_or(i64::MAX.unsigned_abs());
    if let Some(until) = s.until {
        before = before.min(at(db, until)?.unwrap_or(before));
    }
    let least = match s.from {
        Some(from) => match at(db, from)? {
            Some(index) => index,
            None => return Ok(Found::default()),
        },
        None => 0,
    };
    // Of one agent, or for one scope, the index leads to those alone.
    let of = match (&s.agent, &s.scope) {
        (Some(agent), _) => Some(("agent", agent.as_str())),
        (None, Some(scope)) => Some(("scope", scope.as_str())),
        (None, None) => None,
    };
    // SQLite counts parameters as they appear.
    let mut window = vec![Value::from(least), Value::from(before)];
    let mut only = String::new();
    if let Some((column, value)) = of {
        window.push(Value::from(value));
        only = format!("AND {column} = $3");
    }
    // Only the oldest row that is looked at is read: the others are stepped over in the index.
    window.push(Value::from(LOOKED_AT - 1));
    let offset = window.len();
    let sql = format!(
        "SELECT first_index, created_ms FROM requests WHERE first_index >= $1 AND first_index < $2 \
         {only} ORDER BY first_index DESC LIMIT 1 OFFSET ${offset}"
    );
    let mut oldest = db.query(&sql, &window)?;
    let oldest = match oldest.first_mut() {
        Some(row) => Some((row.int(0)?, Timestamp::from_millis(row.signed(1)?))),
        None => None,
    };
    let floor = oldest.map_or(least, |(index, _)| index);
    let mut select = Select::new(&format!("SELECT {REQUEST} FROM requests"));
    select.and_value("first_index >=", Value::from(floor));
    select.and_value("first_index <", Value::from(before));
    if let Some(agent) = &s.agent {
        select.and_value("agent =", Value::from(agent.as_str()));
    }
    if let Some(scope) = &s.scope {
        select.and_value("scope =", Value::from(scope.as_str()));
    }
    if let Some(phase) = s.phase {
        select.and_value("phase =", Value::from(phase.word()));
    }
    if let Some(from) = s.from {
        select.and_value("created_ms >=", Value::Int(from.millis()));
    }
    if let Some(until) = s.until {
        select.and_value("created_ms <", Value::Int(until.millis()));
    }
    if let Some(text) = &s.text {
        let mut words = String::from("%");
        for c in text.to_lowercase().chars() {
            if matches!(c, '%' | '_' | '\\') {
                words.push('\\');
            }
            words.push(c);
        }
        words.push('%');
        select.params.push(Value::Text(words));
        let number = select.params.len();
        select.and(&format!(
            "EXISTS (SELECT 1 FROM texts t WHERE t.request_id = requests.id \
             AND t.name NOT LIKE 'param:%' AND lower(t.body) LIKE ${number} ESCAPE '\\')"
        ));
    }
    if let Some(human) = &s.human {
        let ids = of_person(db, human, floor)?;
        if ids.is_empty() {
            select.and("1 = 0");
        } else {
            let list = placeholders(select.params.len() + 1, ids.len());
            select.and(&format!("id IN ({list})"));
            select.params.extend(ids.into_iter().map(Value::Text));
        }
    }
    let limit = if s.resource.is_some() { MAX_ROWS } else { s.limit };
    let rows: Result<Vec<_>, _> =
        select.newest_first(db, limit)?.into_iter().map(request_row).collect();
    let mut rows = rows?;
    let last = |rows: &[RequestSummary]| rows.last().map(|r| (r.first_index, r.created_at));
    let mut next =
        if rows.len() as u64 >= u64::from(rows_of(limit)) { last(&rows) } else { oldest };
    if let Some(resource) = &s.resource {
        let most = usize::try_from(rows_of(s.limit)).unwrap_or(usize::MAX);
        rows = with_resource(db, rows, resource)?;
        if rows.len() > most {
            rows.truncate(most);
            next = last(&rows);
        }
    }
    Ok(Found { rows, next })
}

/// Those of the requests one of whose open parameters holds the text, by their first leaves.
fn with_resource(
    db: &mut dyn Db,
    rows: Vec<RequestSummary>,
    resource: &str,
) -> Result<Vec<RequestSummary>, StoreError> {
    let mut out = Vec::new();
    for chunk in rows.chunks(8) {
        let indexes: Vec<u64> = chunk.iter().map(|r| r.first_index).collect();
        let leaves = leaves_at(db, &indexes)?;
        out.extend(
            chunk
                .iter()
                .filter(|row| {
                    let leaf = leaves.iter().find(|(index, _)| *index == row.first_index);
                    match leaf.map(|(_, body)| Event::from_leaf(body)) {
                        Some(Ok(Event::Requested(e))) => {
                            e.terms.params.values().any(|value| value.text().contains(resource))
                        }
                        _ => false,
                    }
                })
                .cloned(),
        );
    }
    Ok(out)
}

/// Requests on which a person acted, by their newest leaves from `floor` on.
fn of_person(db: &mut dyn Db, human: &HumanId, floor: u64) -> Result<Vec<String>, StoreError> {
    // An id holds no character that JSON escapes.
    acted(db, &format!("\"human\":\"{human}\""), floor, 500)
}

/// Requests whose denial gave this reason, those denied last first.
pub(crate) fn denied_because(
    db: &mut dyn Db,
    reason_code: &str,
    floor: u64,
) -> Result<Vec<RequestId>, StoreError> {
    let plain = reason_code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if !plain {
        return Err(StoreError::Invalid("a reason's code is of `[a-z_]`".into()));
    }
    let found = acted(db, &format!("\"reason_code\":\"{reason_code}\""), floor, 64)?;
    let parse =
        |id: &String| RequestId::parse(id).map_err(|_| StoreError::tampered("a leaf's request"));
    found.iter().map(parse).collect()
}

/// Requests on which people acted with this field in their leaf, by the newest from `floor` on.
fn acted(db: &mut dyn Db, field: &str, floor: u64, most: usize) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT request_id, body FROM leaves WHERE kind IN ('voted', 'questioned', \
               'narrowed', 'withdrawn') AND idx >= $1 ORDER BY idx DESC LIMIT $2";
    let rows = db.query(sql, &[Value::from(floor), Value::from(LEAVES_OF_PEOPLE)])?;
    let mut out = Vec::new();
    for mut row in rows {
        let (Some(request), body) = (row.opt(0, Row::text)?, row.blob(1)?) else { continue };
        let is_meant = body.windows(field.len()).any(|w| w == field.as_bytes());
        if is_meant && !out.contains(&request) && out.len() < most {
            out.push(request);
        }
    }
    Ok(out)
}

pub(crate) fn count_all_open(db: &mut dyn Db) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM requests WHERE identity IS NOT NULL";
    Ok(db.query(sql, &[])?.first_mut().map(|r| r.int(0)).transpose()?.unwrap_or(0))
}

pub(crate) fn open_by_agent(db: &mut dyn Db) -> Result<Vec<(AgentId, u64)>, StoreError> {
    let sql = "SELECT agent, count(*) FROM requests WHERE identity IS NOT NULL GROUP BY agent";
    let rows = db.query(sql, &[])?;
    rows.into_iter().map(|mut r| Ok((id(&mut r, 0, AgentId::parse)?, r.int(1)?))).collect()
}

const LEASE: &str = "SELECT lease_id, id, agent, instance, scope, lease_state, lease_expires_ms, \
                     revocable, first_index, created_ms FROM requests";

fn lease_row(mut r: Row) -> Result<LeaseSummary, StoreError> {
    let state = match r.text(5)?.as_str() {
        "live" => LeaseState::Live,
        "withdrawn" => LeaseState::Withdrawn,
        "revoked" => LeaseState::Revoked,
        "expired" => LeaseState::Expired,
        _ => return Err(StoreError::tampered("a lease's state")),
    };
    Ok(LeaseSummary {
        id: id(&mut r, 0, LeaseId::parse)?,
        request: id(&mut r, 1, RequestId::parse)?,
        agent: id(&mut r, 2, AgentId::parse)?,
        instance: id(&mut r, 3, InstanceId::parse)?,
        scope: id(&mut r, 4, ScopeName::parse)?,
        state,
        expires_at: Timestamp::from_millis(r.signed(6)?),
        revocable: r.signed(7)? != 0,
        first_index: r.int(8)?,
        requested_at: Timestamp::from_millis(r.signed(9)?),
    })
}

pub(crate) fn lease(db: &mut dyn Db, id: &LeaseId) -> Result<Option<LeaseSummary>, StoreError> {
    // By its request, which its name says.
    let Some(request) = id.request() else { return Ok(None) };
    let mut select = Select::new(LEASE);
    select.and_value("id =", Value::from(request.as_str()));
    select.and_value("lease_id =", Value::from(id.as_str()));
    select.newest_first(db, 1)?.into_iter().next().map(lease_row).transpose()
}

pub(crate) fn leases(
    db: &mut dyn Db,
    filter: &LeaseFilter,
) -> Result<Vec<LeaseSummary>, StoreError> {
    let mut out = Vec::new();
    let mut malformed = 0u64;
    for row in leases_select(filter).rows(db)? {
        match lease_row(row) {
            Ok(lease) => out.push(lease),
            Err(_) => malformed += 1,
        }
    }
    if malformed > 0 {
        tracing::error!(malformed, "ALARM: rows of leases were written behind the broker's back");
    }
    Ok(out)
}

fn leases_select(filter: &LeaseFilter) -> Select {
    let mut select = Select::new(LEASE);
    select.and("lease_id IS NOT NULL");
    // These have small indexes: what lives in the order of the key, the others in orders of their own.
    let few = filter.ended_early.is_some() || filter.soonest_after.is_some();
    if filter.live {
        // As the index of them says it, word for word.
        select.and("lease_state IN ('live', 'withdrawn')");
    }
    if let Some(now) = filter.ended_early {
        // As the index of them says it, word for word.
        select.and("lease_state IN ('revoked', 'withdrawn')");
        select.and_value("lease_expires_ms >", Value::Int(now.millis()));
    }
    if let Some(agent) = &filter.agent {
        // An expression is not indexed: what is due, or lives, is walked, not all that the agent ever
        // asked.
        let column = if few || filter.live { "agent || '' =" } else { "agent =" };
        select.and_value(column, Value::from(agent.as_str()));
    }
    if let Some(before) = filter.before {
        select.and_before(before, few);
    }
    let order = match filter.soonest_after {
        Some(now) => {
            select.and_value("due_ms >", Value::Int(now.millis()));
            "due_ms, first_index"
        }
        None if few => NEWEST_OF_FEW,
        None => NEWEST,
    };
    select.by(order, filter.limit);
    select
}

pub(crate) fn sealed(
    db: &mut dyn Db,
    request: &RequestId,
    instance: &InstanceId,
) -> Result<Option<Sealed>, StoreError> {
    let sql = "SELECT body, until_ms FROM sealed WHERE request_id = $1 AND instance = $2";
    let params = [Value::from(request.as_str()), Value::from(instance.as_str())];
    let mut rows = db.query(sql, &params)?;
    let Some(row) = rows.first_mut() else { return Ok(None) };
    let until = Timestamp::from_millis(row.signed(1)?);
    Ok(Some(Sealed { instance: instance.clone(), bytes: row.blob(0)?, until }))
}

pub(crate) fn due(
    db: &mut dyn Db,
    now: Timestamp,
    limit: u32,
    from: Option<(Timestamp, u64)>,
) -> Result<Due, StoreError> {
    let limit = limit.clamp(1, MAX_ROWS);
    let (ms, first) = from.map_or((i64::MIN, 0), |(at, first)| (at.millis(), first));
    let mut due = Due::default();
    let sql = "SELECT id, lease_id, due_ms, first_index, CAST(due_ms AS BIGINT) FROM requests \
               WHERE due_ms IS NOT NULL AND due_ms <= $1 \
               AND due_ms >= $2 AND (due_ms > $2 OR +first_index > $3) \
               ORDER BY due_ms, first_index LIMIT $4";
    let most = Value::from(u64::from(limit));
    let params = [Value::Int(now.millis()), Value::Int(ms), Value::from(first), most];
    let rows = db.query(sql, &params)?;
    let whole = rows.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    for mut row in rows {
        // Nor may a moment that is no whole number, which SQLite keeps, be where the pages stop: past it
        // is the next whole one.
        let place = match row.signed(2) {
            Ok(at) => (at, row.int(3).unwrap_or(first)),
            Err(_) => (row.signed(4).unwrap_or(ms).saturating_add(1), 0),
        };
        due.next = whole.then_some((Timestamp::from_millis(place.0), place.1));
        let leased = !row.is_null(1);
        let request = id(&mut row, 0, RequestId::parse);
        match (request, leased.then(|| id(&mut row, 1, LeaseId::parse))) {
            (Ok(request), None) => due.requests.push(request),
            (Ok(request), Some(Ok(lease))) => due.leases.push((lease, request)),
            _ => due.malformed += 1,
        }
    }
    Ok(due)
}

pub(crate) fn unacknowledged(
    db: &mut dyn Db,
    now: Timestamp,
    limit: u32,
    skip: u64,
) -> Result<Unacknowledged, StoreError> {
    let limit = limit.clamp(1, MAX_ROWS);
    let sql = "SELECT request_id FROM sealed WHERE until_ms <= $1 \
               ORDER BY until_ms, request_id LIMIT $2 OFFSET $3";
    let params = [Value::Int(now.millis()), Value::from(u64::from(limit)), Value::from(skip)];
    let mut out = Unacknowledged::default();
    let rows = db.query(sql, &params)?;
    out.more = rows.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    for mut row in rows {
        match id(&mut row, 0, RequestId::parse) {
            Ok(request) => out.requests.push(request),
            Err(_) => out.malformed += 1,
        }
    }
    Ok(out)
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

/// Leaves `from ..`, at most `limit`.
pub(crate) fn leaves(
    db: &mut dyn Db,
    from: u64,
    limit: u64,
) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
    let to = from.saturating_add(limit);
    let sql = "SELECT idx, body FROM leaves WHERE idx >= $1 AND idx < $2 ORDER BY idx";
    let rows = db.query(sql, &[Value::from(from), Value::from(to)])?;
    rows.into_iter().map(|mut r| Ok((r.int(0)?, r.blob(1)?))).collect()
}

/// See [`crate::Store::proven_leaves`].
pub(crate) fn proven_leaves(
    db: &mut dyn Db,
    macs: &Macs,
    proven: &ProvenTiles,
    known: u64,
    from: u64,
    to: u64,
) -> Result<Vec<(u64, Event)>, StoreError> {
    let frontier = frontier(db, macs, known)?;
    let to = to.min(frontier.size()).min(from.saturating_add(u64::from(MAX_ROWS)));
    let rows = leaves(db, from, to.saturating_sub(from))?;
    if !rows.iter().map(|(index, _)| *index).eq(from..to) {
        return Err(StoreError::tampered(format!("leaves from {from} on are missing")));
    }
    let prover = Prover::new(db, &frontier, proven);
    let mut events = Vec::with_capacity(rows.len());
    for (index, body) in rows {
        prover.prove(index, leaf_hash(&body))?;
        let event = Event::from_leaf(&body)
            .map_err(|e| StoreError::tampered(format!("leaf {index}: {e}")))?;
        events.push((index, event));
    }
    Ok(events)
}

pub(crate) fn inclusion(
    db: &mut dyn Db,
    macs: &Macs,
    known: u64,
    index: u64,
    size: u64,
) -> Result<Vec<Hash>, StoreError> {
    let whole = frontier(db, macs, known)?.size();
    proof(db, whole, size, |tiles| inclusion_proof(index, size, tiles))
}

pub(crate) fn consistency(
    db: &mut dyn Db,
    macs: &Macs,
    known: u64,
    old: u64,
    new: u64,
) -> Result<Vec<Hash>, StoreError> {
    let whole = frontier(db, macs, known)?.size();
    proof(db, whole, new, |tiles| consistency_proof(old, new, tiles))
}

fn proof(
    db: &mut dyn Db,
    whole: u64,
    size: u64,
    make: impl FnOnce(&Tiles<'_>) -> Result<Vec<Hash>, grantwright_proof::ProofError>,
) -> Result<Vec<Hash>, StoreError> {
    if size > whole {
        return Err(StoreError::Ahead { known: size, size: whole });
    }
    let tiles = Tiles::new(db, whole);
    make(&tiles).map_err(|e| match tiles.failed() {
        Some(db) => db.into(),
        None => StoreError::Invalid(e.to_string()),
    })
}

pub(crate) fn tile(
    db: &mut dyn Db,
    macs: &Macs,
    known: u64,
    tile: &Tile,
) -> Result<Option<Vec<u8>>, StoreError> {
    let size = frontier(db, macs, known)?.size();
    if !tile.is_within(size) {
        return Ok(None);
    }
    match tile.kind() {
        TileKind::Entries => {
            let bodies = leaves(db, tile.first(), tile.width().into())?;
            if bodies.len() != usize::from(tile.width()) {
                return Err(StoreError::tampered("leaves are missing"));
            }
            let bundle = encode_entries(bodies.into_iter().map(|(_, body)| body));
            bundle.map(Some).map_err(|e| StoreError::tampered(e.to_string()))
        }
        TileKind::Hashes { level } => {
            let tiles = Tiles::new(db, size);
            let hashes = tiles.tile(level, tile.index()).map_err(|e| {
                tiles.failed().map_or_else(|| StoreError::tampered(e.to_string()), Into::into)
            })?;
            let hashes = hashes.iter().take(tile.width().into());
            Ok(Some(hashes.flat_map(|h| h.as_bytes()).copied().collect()))
        }
    }
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
