//! The gRPC doors, for sidecars. The subject of every call is this connection's verified certificate.

pub mod access;
mod asks;
pub mod broker;
pub mod delegations;
pub mod enrolment;
mod scopes;
