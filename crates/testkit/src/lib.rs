//! What tests of several crates share. It is a dev-dependency only: no product code links it.
//!
//! Fakes live beside the seam that they stand in for (`store` has its faults, `mint` its hostile
//! servers); here is what belongs to none of them. It may use any crate but `cli`.

pub mod authenticator;
pub mod canary;
#[allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a fake fails loudly, in the test that uses it"
)]
pub mod clouds;
#[allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a fake fails loudly, in the test that uses it"
)]
pub mod slack;
pub mod teams;
