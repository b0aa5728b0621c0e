//! Why nothing could be said about a log. Faults of the log itself are findings, not errors.

use thiserror::Error;

/// The log could not be judged: exit code 2.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CannotVerify {
    /// No checkpoint is signed by the key: it is the key of another log.
    #[error("no checkpoint of this log is signed by the key `{0}`; is it the key of another log?")]
    WrongKey(String),
    /// No key was given, and the first leaf names none.
    #[error("no verifier key was given and the log's first leaf names none; give one with --vkey")]
    NoKey,
    /// There is neither a leaf nor a checkpoint.
    #[error("there is nothing to verify: no leaf and no checkpoint")]
    NothingToVerify,
    /// The log is no later epoch of another one.
    #[error("this log begins no epoch: there is no log before it")]
    NoEpoch,
    /// A checkpoint that was kept outside the log cannot be used as evidence.
    #[error("kept checkpoint {number} cannot be used: {why}")]
    KeptCheckpoint {
        /// Which one, counted from 1.
        number: usize,
        /// What is wrong with it.
        why: String,
    },
    /// More witnesses are demanded than there are, or none.
    #[error("a quorum of {quorum} is none of {witnesses} witnesses: want 1 to {witnesses}")]
    Quorum {
        /// How many are to cosign.
        quorum: usize,
        /// How many were given.
        witnesses: usize,
    },
    /// What an earlier verification found is no use for this one.
    #[error("the earlier verification cannot be gone on from: {0}; verify without it once")]
    Known(&'static str),
    /// The store could not be read, or is absent.
    #[error("the log could not be read: {0}")]
    Unreadable(String),
    /// No leaf of that request is in the log.
    #[error("the log holds no request `{0}`")]
    NoRequest(String),
    /// The log is not whole: a leaf is not there that its checkpoint promises, or that stands before others.
    #[error("leaf {leaf} is missing: {why}; `grantwright audit verify` says more")]
    Missing {
        /// Its index.
        leaf: u64,
        /// How that is known.
        why: String,
    },
    /// A leaf of the request is not one that can be told in words.
    #[error("leaf {leaf} is not a leaf of a known kind: {why}")]
    BadLeaf {
        /// Its index.
        leaf: u64,
        /// What is wrong.
        why: String,
    },
}
