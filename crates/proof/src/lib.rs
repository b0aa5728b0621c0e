//! Pure verification of the transparency log: RFC 6962 Merkle trees, C2SP tiles, signed notes,
//! checkpoints and offline receipts; and of the passkeys with which people sign decisions.
//!
//! It hashes, signs and verifies values that it is given. It does not read files, clocks, networks
//! or random numbers, and it does not know what a leaf means. It may use `domain` and small
//! cryptographic crates only, because the sidecar links it.
//!
//! Where to start: [`verify_receipt`] for someone who holds a receipt, [`Edge`] for the writer of a
//! log, [`Checkpoint`] for what a log promises.

pub mod checkpoint;
pub mod cosignature;
pub mod edge;
pub mod epoch;
pub mod error;
pub mod hash;
pub mod note;
pub mod passkey;
pub mod prove;
pub mod tile;
pub mod tlog_proof;
pub mod tree;
pub mod verified;
pub mod witness;

mod decimal;

pub use checkpoint::Checkpoint;
pub use cosignature::{Cosigned, Cosigner, WitnessKey, cosignatures};
pub use edge::Edge;
pub use error::{NoteError, ProofError};
pub use hash::{EMPTY_ROOT, Hash, leaf_hash, node_hash};
pub use note::{NoteSigner, VerifiedNote, Vkey, verify_note};
pub use passkey::PasskeyError;
pub use prove::{HashReader, consistency_proof, inclusion_proof, root_hash};
pub use tile::{Tile, TileKind, TileReader};
pub use tlog_proof::{Receipt, ReceiptFacts, TlogProof, verify_receipt};
pub use tree::{Frontier, verify_consistency, verify_inclusion};
pub use verified::Verified;

/// The largest tree this crate speaks of: 2^63 − 1 leaves, so that every size and index fits the
/// signed 64-bit integers of SQL databases and of the Go implementations of these formats.
pub const MAX_SIZE: u64 = i64::MAX as u64;
