//! `Grant` in, credential out: one file per backend behind one seam, [`Minter`].
//!
//! A minter sees a grant and nothing else: no policy, no vote, no store. What it mints is a function
//! of the grant's terms and its pinned template; votes stamp identity tags only. It makes at most
//! one call to its backend per grant, never repeats one, and tells refused from unknown. It keeps
//! nothing and logs nothing. Of the workspace it may use `domain` and `credential`.

pub mod azure;
pub mod conformance;
pub mod gcp;
pub mod github;
pub mod jwt;
pub mod kubernetes;
pub mod oauth;
pub mod postgres;
pub mod ssh;
pub mod sts;
pub mod vault;
pub mod x509;

mod call;
mod error;
mod kept;
mod minter;
mod signing;
mod template;
mod unconfigured;

pub use call::{Endpoint, SignAssertion};
pub use error::{MintError, SetupError, remedy};
pub use minter::{
    Backend, BoxFuture, Declaration, Document, Ended, EndedLease, Minted, Minter, Publisher, Signer,
};
pub use signing::SignInput;
pub use unconfigured::Unconfigured;

/// Every backend there is, in the order of the documentation.
pub const BACKENDS: &[Backend] = &[
    jwt::BACKEND,
    ssh::BACKEND,
    x509::BACKEND,
    sts::BACKEND,
    vault::BACKEND,
    vault::Engine::Aws.backend(),
    vault::Engine::Identity.backend(),
    vault::Engine::Pki.backend(),
    vault::Engine::Ssh.backend(),
    vault::Engine::Transit.backend(),
    vault::Engine::Token.backend(),
    postgres::BACKEND,
    kubernetes::BACKEND,
    github::BACKEND,
    oauth::BACKEND,
    gcp::BACKEND,
    azure::BACKEND,
];
