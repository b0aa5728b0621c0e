//! Offline verification of a log: that nobody changed it (hashes), and that every credential in it
//! was issued by the rules (conduct). It also tells one request's story in plain words.
//!
//! It needs no broker and trusts none: its input is a [`Source`] of leaves, checkpoints and the
//! blobs beside them, and the key that signs the log. It writes nothing, reads no clock and knows
//! no store. It may use `domain`, `policy` and `proof`.
//!
//! Where to start: [`verify`]; [`story`] for `audit show`.

pub mod error;
pub mod export;
pub mod reconcile;
pub mod report;
pub mod reports;
pub mod source;
pub mod story;
pub mod tiles;
pub mod verify;
pub mod words;

mod conduct;
mod epoch;
mod grown;
mod known;
mod pipeline;
mod roots;
mod sets;
mod settled;
mod shape;
mod signatures;
mod texts;
mod witnesses;

pub use epoch::continues;
pub use error::CannotVerify;
pub use known::Known;
pub use report::{Finding, OpenIntent, Report, Rollback};
pub use sets::Sets;
pub use source::{Page, Source, Text};
pub use story::{EventView, Story, story};
pub use tiles::{Files, Tiles};
pub use verify::{Options, verify, verify_from, verify_with};
pub use witnesses::Witnessed;
pub use words::words;
