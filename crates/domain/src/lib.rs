//! The words and rules of Grantwright: requests, verdicts, votes, grants, leases, and the one
//! `apply` that folds events into state. The broker moves by it and the offline verifier proves by it.
//!
//! It does no I/O, spawns nothing, owns no clock and no randomness: time and salts are arguments.
//! It uses no other crate of the workspace.

pub mod authority;
pub mod canonical;
pub mod delegation;
pub mod digest;
pub mod draft;
pub mod eligible;
pub mod event;
pub mod grant;
pub mod id;
pub mod param;
pub mod passkey;
pub mod process;
pub mod request;
pub mod scope;
pub mod state;
pub mod text;
pub mod time;
pub mod verdict;

pub use authority::Authority;
pub use canonical::CanonicalError;
pub use delegation::Delegation;
pub use digest::Digest;
pub use draft::Draft;
pub use eligible::Ineligible;
pub use event::{Decision, Event, Leaf};
pub use grant::Grant;
pub use id::{
    AgentId, DelegationId, GroupName, HumanId, IdempotencyKey, InstanceId, LeaseId, RequestId,
    ScopeName,
};
pub use param::{ParamError, ParamValue, Params};
pub use process::LocalProcess;
pub use request::{Granted, Phase, RequestState, Rights, Terms};
pub use scope::Scope;
pub use state::{FoldMap, State, Violation};
pub use time::{Clock, Timestamp};
pub use verdict::{Strength, Verdict, VerdictKind};
