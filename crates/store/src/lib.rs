//! The durable log and its tables: requests, leases, keys, texts, leaves, tiles and checkpoints, in
//! SQLite or PostgreSQL. One writer thread owns the truth and commits concurrent transitions in
//! batches; every transition is folded by `domain` before it is written.
//!
//! It does not decide anything: the rules are `domain`'s, the tree is `proof`'s. It owns no clock and
//! no randomness, and it cannot name a minted secret. It may use `domain` and `proof`.
//!
//! What it trusts: its two keys (the log's signing key and the key of the head row's MAC), its own
//! memory, and nothing that a database says. The head row carries a MAC over the tree's frontier, the
//! epoch, a chain over the leaves that say who may decide, and a tag over every request before its
//! outcome. A request is therefore known only by folding proven leaves, all of them.
//!
//! Where to start: [`Store::open`], [`Store::commit`], [`Transition`].

pub mod conformance;
pub mod readonly;

mod db;
mod epoch;
mod error;
mod fault;
mod hashes;
mod head;
mod memory;
mod open_set;
mod proven;
mod read;
mod side;
mod store;
mod transition;
mod url;
mod writer;

pub use epoch::{Backup, Heritage};
pub use error::StoreError;
pub use fault::{Fault, Faults};
pub use head::{Head, Keys};
pub use read::{
    ClaimedKey, Due, Found, LeaseFilter, LeaseSummary, Loaded, RequestFilter, RequestSearch,
    RequestSummary, StoredText, Unacknowledged,
};
pub use side::{MAX_SIDE_VALUE, SideRow};
pub use store::{Coming, Options, Store};
pub use transition::{
    Base, Committed, Evidence, KeyClaim, MAX_EVENTS, Sealed, Side, Text, Transition,
};
