//! What can be wrong with a proof or a note.

use thiserror::Error;

/// Why a tree, proof, tile, checkpoint or receipt was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProofError {
    /// The leaf index is not below the tree size.
    #[error("leaf {index} is outside a tree of {size} leaves")]
    IndexOutOfRange { index: u64, size: u64 },
    /// The older size is above the newer one, or above the tree at hand.
    #[error("a tree of {new} leaves cannot extend one of {old}")]
    SizesReversed { old: u64, new: u64 },
    /// The proof holds too few or too many hashes for the sizes it claims.
    #[error("the proof has the wrong number of hashes")]
    WrongLength,
    /// The proof leads to another root than the one claimed.
    #[error("the proof does not lead to the root")]
    RootMismatch,
    /// The consistency proof does not start from the older root.
    #[error("the proof does not start from the older root")]
    OldRootMismatch,
    /// A complete subtree is not (or not yet) at hand.
    #[error("hash {index} of level {level} is not available")]
    MissingHash { level: u32, index: u64 },
    /// The place where hashes are kept could not be read.
    #[error("stored hashes could not be read: {0}")]
    Unreadable(String),
    /// Bytes or text do not follow their format; `what` names the part.
    #[error("malformed {what}")]
    Malformed { what: &'static str },
    /// A log entry exceeds what an entry bundle can hold (65,535 bytes).
    #[error("an entry of {len} bytes exceeds 65,535")]
    EntryTooLong { len: usize },
    /// The checkpoint is of another log.
    #[error("the checkpoint is of log `{found}`, not of `{expected}`")]
    WrongOrigin { expected: String, found: String },
    /// The signed note around a checkpoint was refused.
    #[error(transparent)]
    Note(#[from] NoteError),
}

/// Why a signed note or one of its keys was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoteError {
    /// The note does not follow the format; `what` names the part.
    #[error("malformed note: {what}")]
    Malformed { what: &'static str },
    /// A key name is empty or holds a space, a control character or `+`.
    #[error("key name `{0}` is empty or holds a space, a control character or `+`")]
    BadName(String),
    /// A verifier or signer key does not follow its format; `what` names the part.
    #[error("malformed key: {what}")]
    BadKey { what: &'static str },
    /// The key is of a type other than Ed25519 (1).
    #[error("key type {0} is not supported, use Ed25519 (1)")]
    UnsupportedKeyType(u8),
    /// The note holds more signatures than a verifier is willing to look at.
    #[error("the note holds more than {limit} signatures")]
    TooManySignatures { limit: usize },
    /// A signature by a known key is wrong; the whole note is refused.
    #[error("the signature of `{0}` does not verify")]
    BadSignature(String),
    /// No known key signed the note.
    #[error("no known key signed the note")]
    NoKnownSignature,
    /// The signing library refused to work.
    #[error("the key could not be used")]
    Crypto,
}
