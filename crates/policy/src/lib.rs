//! Cedar in, [`grantwright_domain::Verdict`] out: loads scopes and policies with every fault at
//! once, decides requests, says who may approve, and replays what the log recorded.
//!
//! It is pure: no I/O, no clock, no randomness, and no secret can be named here. Free text never
//! reaches a policy. Anything that cannot be evaluated is a deny.
//! It may use `domain`.

mod approve;
mod cases;
mod chain;
mod decide;
mod facts;
mod fault;
mod index;
mod load;
mod outlook;
mod remembered;
mod replay;
mod rule;
mod schema;
mod scopes;
mod set;
mod statement;

pub use approve::{Approval, Refusal};
pub use cases::Tried;
pub use decide::Asked;
pub use facts::{attributes, attributes_are};
pub use fault::Fault;
pub use load::Sources;
pub use outlook::{Asks, Outlook, People};
pub use replay::{Moment, Replayed};
pub use schema::{CedarType, schema_text};
pub use set::PolicySet;

#[cfg(test)]
mod tests;
