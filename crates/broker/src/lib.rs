//! The broker: wires policy, approval, minters, store and wire together and tells the story of a
//! request (`issue.rs`).
//!
//! It decides nothing itself: `policy` answers, `domain` allows or forbids each step, `store` makes
//! it durable, `mint` makes credentials. It may use every crate but `sidecar` and `cli`.

mod app;
mod ca;
mod channels;
mod clock;
mod config;
mod core;
#[cfg(test)]
mod doors_tests;
mod end;
mod ended;
mod error;
mod guards;
mod http;
mod init;
mod issue;
mod keys;
mod oidc;
mod pace;
#[cfg(test)]
mod passkey_tests;
mod people;
mod policies;
mod rates;
mod restore;
mod rpc;
#[cfg(test)]
mod session_tests;
mod sinks;
#[cfg(test)]
mod start_tests;
mod token_keys;
mod vouch;
mod wake;
mod witness;

/// What each door demands of its caller, for the tests that walk them.
pub mod doors {
    pub use crate::http::{Demand as HttpDemand, ROUTES};
    pub use crate::rpc::access::{Demand as RpcDemand, TABLE};
}

pub use app::{CaStep, ca_step, run, token_key_step};
pub use config::{Config, LogFormat};
pub use error::StartError;
pub use http::listen::{Bounds, serve as serve_http};
pub use init::{InitOptions, InitReport, Recovery, fresh_link, init};
pub use restore::{RestoreOptions, RestoreReport, make_key, restore};
