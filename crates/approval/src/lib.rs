//! What people are shown before they decide: the decision card, made of a request's typed fields,
//! its rendering as plain text and for channels, and the proof that an answer came from a channel.
//!
//! It decides nothing (eligibility and quorum are `domain`'s), does no I/O and owns no clock. It
//! uses `domain` and `proof` only, so it cannot name a minted secret.

pub mod card;
pub mod channel;
pub mod console;
mod parts;
pub mod sheet;
pub mod show;
pub mod slack;
pub mod teams;
pub mod text;
pub mod webhook;

pub use card::{Card, Material, card};
pub use channel::Channel;
pub use parts::{Whole, whole};
pub use sheet::Sheet;
pub use text::render_text;
