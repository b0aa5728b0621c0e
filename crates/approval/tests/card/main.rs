//! The decision card and its plain text, from outside.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "fixtures of tests, outside `#[test]`"
)]

mod fixture;
mod invariant_09;
mod pretenders;
mod shape;
