//! What can go wrong with a store.

use grantwright_domain::{Digest, InstanceId, RequestId, Violation};

use crate::db::DbError;

/// Why a transition or a reading was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The caller knows a larger log than this one: it must not be extended (`log_inconsistent`).
    #[error("the caller knows a log of {known} leaves, this one has {size}")]
    Ahead {
        /// The caller's size.
        known: u64,
        /// This log's size.
        size: u64,
    },
    /// An identical ask is open.
    #[error("request `{request}` asks for the same and is open")]
    AlreadyOpen {
        /// The open one.
        request: RequestId,
    },
    /// Too much waits already; nothing was written.
    #[error("too many operations wait for the store")]
    Busy,
    /// The request moved on since it was read: read it again, then decide again.
    #[error("the request moved on; read it again")]
    Conflict,
    /// The log entered another epoch: this broker may write nothing more.
    #[error("the log is in another epoch; start again")]
    EpochEnded,
    /// An earlier fault ended all writing until the store is opened again.
    #[error("the store stopped writing: {0}")]
    Halted(String),
    /// The transition is not well formed; nothing was written.
    #[error("not a transition: {0}")]
    Invalid(String),
    /// The idempotency key names a request already.
    #[error("the key names request `{request}`")]
    KeyTaken {
        /// Which one.
        request: RequestId,
        /// Whose ask it was.
        instance: InstanceId,
        /// It was claimed with the same body.
        same_body: bool,
    },
    /// Another broker owns this file or database.
    #[error("another broker uses `{0}`; stop it first")]
    Locked(String),
    /// A blob that the log names is not at hand, or is not what its digest says.
    #[error("no valid blob `{0}`")]
    MissingBlob(Digest),
    /// There is no store at this place.
    #[error("no store at `{0}`")]
    NotFound(String),
    /// The commit may or may not have happened: read before trying again.
    #[error("the outcome of the commit is unknown; read before trying again")]
    OutcomeUnknown,
    /// The database does not say what the keys outside it vouch for.
    #[error("the store was changed behind the broker's back: {0}")]
    Tampered(String),
    /// The database cannot be reached or used; nothing was written.
    #[error("the store cannot be used: {0}")]
    Unavailable(String),
    /// The URL names no store.
    #[error("`{0}` is not a store: want sqlite:///path or postgres://…")]
    Url(String),
    /// The rules forbid the transition; nothing was written.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The log was opened under another key.
    #[error("the log's key is `{log}`, not `{given}`")]
    WrongKey {
        /// Key in the first leaf.
        log: String,
        /// Key given.
        given: String,
    },
}

impl StoreError {
    pub(crate) fn tampered(what: impl Into<String>) -> Self {
        Self::Tampered(what.into())
    }

    /// True for faults after which nothing may be written until the store is opened again.
    pub(crate) fn ends_writing(&self) -> bool {
        matches!(
            self,
            Self::EpochEnded
                | Self::Halted(_)
                | Self::Locked(_)
                | Self::Tampered(_)
                | Self::WrongKey { .. }
        )
    }
}

impl From<DbError> for StoreError {
    fn from(e: DbError) -> Self {
        match e {
            DbError::Broken(detail) => Self::Halted(detail),
            DbError::Malformed(what) => Self::Tampered(format!("malformed {what}")),
            DbError::Taken => Self::Locked("this database".into()),
            DbError::Unavailable(detail) => Self::Unavailable(detail),
        }
    }
}
