//! What travels between sidecar and broker, and between agents and the sidecar's gRPC door: the generated
//! messages of `proto/`, the mutually authenticated TLS beneath the former, who the peer is, and how a refusal becomes a status.
//!
//! It decides nothing about requests, keeps nothing, and reads neither files nor environment. Of the
//! workspace it may use `domain`, `credential` and `proof`.

pub mod accept;
pub mod agent;
pub mod connect;
mod error;
mod gather;
pub mod identity;
mod redact;
pub mod status;
pub mod tls;
/// Generated from `proto/grantwright/v1/broker.proto`; `tests/generated.rs` re-derives it.
#[allow(missing_docs, clippy::all, reason = "generated")]
pub mod v1 {
    include!("gen/grantwright.v1.rs");
}

pub use accept::{Incoming, Limits, PeerInfo};
pub use connect::channel;
pub use error::WireError;
pub use gather::Call;
pub use identity::{PeerIdentity, SpiffeId, TrustDomain, peer};
pub use status::Refusal;
pub use tls::{TlsClient, TlsServer};
