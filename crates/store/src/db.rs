//! The seam between the writer's and readers' logic, which exists once, and the two databases.
//!
//! Contract. *Durability*: when [`Db::commit`] returns `Ok`, the transaction survives a power cut;
//! when it returns an error, nobody knows, and the caller reads again. *Isolation*: a transaction in
//! [`Mode::Write`] holds the head row's lock from [`Db::head`] to its end, so that writers form one
//! total order; one in [`Mode::Read`] sees one snapshot. *Retry*: none here. *Concurrency*: one
//! thread owns a `Db`. *Failure*: after an error inside a transaction only [`Db::rollback`] may
//! follow; a lost connection is made again by the next [`Db::begin`].

pub(crate) mod postgres;
pub(crate) mod schema;
pub(crate) mod sqlite;

use grantwright_domain::{
    AgentId, Digest, IdempotencyKey, InstanceId, LeaseId, RequestId, ScopeName,
};
use grantwright_proof::{Frontier, Hash};

use crate::head::HeadRow;

/// What went wrong with the database itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DbError {
    /// Integrity or durability is in doubt: nothing more may be written.
    Broken(String),
    /// A stored value is not of its form.
    Malformed(&'static str),
    /// Another broker holds this store.
    Taken,
    /// Not reachable or not usable now.
    Unavailable(String),
}

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Read,
    Write,
}

/// A value of either database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Int(i64),
    Text(String),
    Blob(Vec<u8>),
}

impl From<u64> for Value {
    fn from(v: u64) -> Self {
        Self::Int(int(v))
    }
}

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Self::Text(v.to_owned())
    }
}

impl From<Digest> for Value {
    fn from(v: Digest) -> Self {
        Self::Blob(v.0.to_vec())
    }
}

/// Sizes and indexes are at most 2^63 − 1 (`proof::MAX_SIZE`).
pub(crate) fn int(v: u64) -> i64 {
    i64::try_from(v).unwrap_or(i64::MAX)
}

/// One row of a reading, taken apart column by column.
#[derive(Debug)]
pub(crate) struct Row(pub Vec<Value>);

impl Row {
    fn take(&mut self, column: usize) -> Value {
        self.0.get_mut(column).map_or(Value::Null, |v| std::mem::replace(v, Value::Null))
    }

    pub(crate) fn signed(&mut self, column: usize) -> Result<i64, DbError> {
        match self.take(column) {
            Value::Int(i) => Ok(i),
            _ => Err(DbError::Malformed("integer column")),
        }
    }

    pub(crate) fn int(&mut self, column: usize) -> Result<u64, DbError> {
        u64::try_from(self.signed(column)?).map_err(|_| DbError::Malformed("negative column"))
    }

    pub(crate) fn text(&mut self, column: usize) -> Result<String, DbError> {
        match self.take(column) {
            Value::Text(t) => Ok(t),
            _ => Err(DbError::Malformed("text column")),
        }
    }

    pub(crate) fn blob(&mut self, column: usize) -> Result<Vec<u8>, DbError> {
        match self.take(column) {
            Value::Blob(b) => Ok(b),
            _ => Err(DbError::Malformed("binary column")),
        }
    }

    /// The bytes of a value of any type.
    pub(crate) fn any_bytes(&mut self, column: usize) -> Vec<u8> {
        match self.take(column) {
            Value::Blob(bytes) => bytes,
            Value::Text(text) => text.into_bytes(),
            Value::Int(i) => i.to_string().into_bytes(),
            Value::Null => Vec::new(),
        }
    }

    pub(crate) fn bytes32(&mut self, column: usize) -> Result<[u8; 32], DbError> {
        self.blob(column)?.try_into().map_err(|_| DbError::Malformed("32-byte column"))
    }

    pub(crate) fn is_null(&self, column: usize) -> bool {
        matches!(self.0.get(column), None | Some(Value::Null))
    }

    pub(crate) fn opt<T>(
        &mut self,
        column: usize,
        read: impl FnOnce(&mut Self, usize) -> Result<T, DbError>,
    ) -> Result<Option<T>, DbError> {
        if self.is_null(column) { Ok(None) } else { read(self, column).map(Some) }
    }

    /// The columns `size, frontier, epoch, chain, open, mac`.
    pub(crate) fn head(&mut self) -> Result<HeadRow, DbError> {
        let malformed = DbError::Malformed("head row");
        let size = self.int(0)?;
        let frontier = Frontier::decode(&self.blob(1)?).map_err(|_| malformed.clone())?;
        if frontier.size() != size {
            return Err(malformed);
        }
        Ok(HeadRow {
            frontier,
            epoch: self.int(2)?,
            chain: Digest(self.bytes32(3)?),
            open: self.bytes32(4)?,
            mac: self.bytes32(5)?,
        })
    }
}

/// What a batch asks before it folds; answers come in the same order.
#[derive(Debug, Default)]
pub(crate) struct Needs<'a> {
    pub requests: Vec<&'a str>,
    /// Agent and key.
    pub keys: Vec<(&'a str, &'a str)>,
}

/// Where a request's row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowAt {
    pub first: u64,
    pub version: u64,
    pub last: u64,
}

/// Request, instance and body of a claimed key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyRow {
    pub request: String,
    pub instance: String,
    pub body: Digest,
}

/// The answers to [`Needs`].
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub requests: Vec<Option<RowAt>>,
    pub keys: Vec<Option<KeyRow>>,
}

/// A leaf's row.
#[derive(Debug)]
pub(crate) struct LeafRow {
    pub index: u64,
    pub request: Option<RequestId>,
    pub kind: &'static str,
    pub body: Vec<u8>,
    /// The leaf hash of `body`: for the verifier, to name a changed leaf, and for proofs, whose roots
    /// vouch for it.
    pub hash: Hash,
}

/// A request's row, or the change of one.
#[derive(Debug)]
pub(crate) struct RequestRow {
    pub first: u64,
    pub id: RequestId,
    pub agent: AgentId,
    pub instance: InstanceId,
    pub scope: ScopeName,
    pub phase: &'static str,
    /// The version it had; none: a new row.
    pub was: Option<u64>,
    pub version: u64,
    pub last: u64,
    /// Indexes of the new leaves, each with a comma before it.
    pub leaves: String,
    pub created_ms: i64,
    /// When time ends the request or its lease; none when nothing is left to end.
    pub due_ms: Option<i64>,
    pub identity: Option<Digest>,
    pub lease: Option<LeaseRow>,
}

/// The lease's columns.
#[derive(Debug)]
pub(crate) struct LeaseRow {
    pub id: LeaseId,
    pub state: &'static str,
    pub expires_ms: i64,
    pub revocable: bool,
}

/// An erasable text's row.
#[derive(Debug)]
pub(crate) struct TextRow {
    pub request: RequestId,
    pub name: String,
    pub salt: [u8; 16],
    pub text: String,
}

/// A claimed key's row.
#[derive(Debug)]
pub(crate) struct ClaimRow {
    pub agent: AgentId,
    pub key: IdempotencyKey,
    pub request: RequestId,
    pub instance: InstanceId,
    pub body: Digest,
}

/// A sealed copy's row.
#[derive(Debug)]
pub(crate) struct SealedRow {
    pub request: RequestId,
    pub instance: InstanceId,
    pub bytes: Vec<u8>,
    pub until_ms: i64,
}

/// A tile's row.
#[derive(Debug)]
pub(crate) struct TileRow {
    pub level: u8,
    pub index: u64,
    pub hashes: Vec<u8>,
}

/// Everything one batch writes.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub leaves: Vec<LeafRow>,
    /// Changes come before new rows, so that an identity that ends can begin again.
    pub changed: Vec<RequestRow>,
    pub new: Vec<RequestRow>,
    pub keys: Vec<ClaimRow>,
    pub texts: Vec<TextRow>,
    pub blobs: Vec<(Digest, Vec<u8>)>,
    pub sealed: Vec<SealedRow>,
    pub tiles: Vec<TileRow>,
    /// Requests whose sealed copy goes.
    pub unseal: Vec<RequestId>,
    /// Requests whose texts go.
    pub erase: Vec<RequestId>,
    pub checkpoint: Option<(u64, String)>,
    pub head: Option<HeadRow>,
}

impl Rows {
    pub(crate) fn is_empty(&self) -> bool {
        self.leaves.is_empty()
            && self.keys.is_empty()
            && self.unseal.is_empty()
            && self.head.is_none()
            && self.blobs.is_empty()
    }
}

/// A database; the contract stands at the head of this file.
pub(crate) trait Db: Send {
    /// Opens a transaction.
    fn begin(&mut self, mode: Mode) -> Result<(), DbError>;
    /// Reads the head row; in [`Mode::Write`] locks it first.
    fn head(&mut self) -> Result<Option<HeadRow>, DbError>;
    /// Answers what a batch needs.
    fn lookup(&mut self, needs: &Needs<'_>) -> Result<Found, DbError>;
    /// Reads rows. Parameters are `$1`, `$2`, … and appear in that order.
    fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, DbError>;

    /// Hands the number and the bytes of each row to `each`, without a copy where the database can. A
    /// second column of another type is given as the bytes that it has.
    fn each_bytes(
        &mut self,
        sql: &str,
        params: &[Value],
        each: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<(), DbError> {
        for mut row in self.query(sql, params)? {
            each(row.int(0)?, &row.any_bytes(1));
        }
        Ok(())
    }
    /// Writes a batch. A row that is not as the writer knows it is [`DbError::Malformed`].
    fn write(&mut self, rows: &Rows) -> Result<(), DbError>;
    /// Ends the transaction for good.
    fn commit(&mut self) -> Result<(), DbError>;
    /// Ends the transaction as if it had not been; without one it does nothing.
    fn rollback(&mut self);
    /// Whether other brokers may append too.
    fn is_shared(&self) -> bool;
    /// Whether a connection that was lost is made again.
    fn reconnects(&self) -> bool;
}

/// `$first, $first+1, …` for a list of `count` parameters.
pub(crate) fn placeholders(first: usize, count: usize) -> String {
    let list: Vec<String> = (first..first + count).map(|n| format!("${n}")).collect();
    list.join(",")
}
