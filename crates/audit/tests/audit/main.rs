//! A whole log in memory, made by the real rules and policy, and everything one can do to it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests may fail as tests may"
)]

mod clean;
mod epoch;
mod export;
mod fixture;
mod forbidden;
mod handed;
mod passkey;
mod reconcile;
mod reports;
mod resume;
mod source;
mod store;
mod story;
mod tamper;
