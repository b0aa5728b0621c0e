//! What people are shown before they decide: the decision card, made of a request's typed fields,
//! and its rendering as plain text.
//!
//! It decides nothing (eligibility and quorum are `domain`'s), does no I/O and owns no clock. It
//! uses `domain` and `proof` only, so it cannot name a minted secret.

pub mod card;
pub mod console;
mod parts;
pub mod show;
pub mod text;

pub use card::{Card, Material, card};
pub use text::render_text;
