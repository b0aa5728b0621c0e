//! Rules as properties: verdicts, narrowing, authority, and whole histories against a naive judge.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on stops"
)]

mod authority;
mod delegation;
mod epoch;
mod history;
mod judge;
mod membership;
mod narrow;
mod passkey;
mod verdict;
mod world;
