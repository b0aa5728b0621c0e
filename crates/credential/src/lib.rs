//! Minted plaintext: the one place where a credential lies readable in memory, and the sealing
//! that carries it past everything which must not read it.
//!
//! Only functions named `expose_…` let a secret out; one search for that word lists every place.
//! It does no I/O, keeps nothing, and knows neither backends nor stores. Of the workspace it may
//! use `domain`. Its one source of randomness is the system's, through HPKE: a seal whose
//! randomness a caller could choose would be no seal.

mod credential;
mod error;
mod seal;
mod secret;

pub use credential::{Credential, Kind, Sts};
pub use error::CredentialError;
pub use seal::{SEAL_KEY_LEN, SealKeyPair, SealPublicKey, Sealed, open, seal, seal_info};
pub use secret::Secret;
