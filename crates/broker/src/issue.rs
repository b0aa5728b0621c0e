//! The story of a request, from an agent's ask to a delivered credential: one line per stage.
//!
//! ```text
//! agent ── HTTP / unix socket / AWS endpoint ──> sidecar: guard → cache → fetch
//! sidecar ── gRPC, mTLS ──> broker
//!    1 admit    who asks, well formed?, rate, duplicate?     → same request, same answer
//!    2 record   leaf "requested"                             → staged; nothing leaves before it is durable
//!    3 decide   Cedar verdict; leaf "decided"                → any policy error is a deny
//!    4 approve  park; ask humans; votes are leaves           → quorum or expiry
//!    5 intend   one transaction: grant spent + "intended"    → rows changed must be 1
//!    6 mint     a pure function of D and the pinned template → votes only stamp identity tags
//!    7 deliver  lease + leaf "issued" durable, then the reply
//! ```
//!
//! Each stage takes the value of the stage before; their fields are private and their constructors
//! are in their own files, so that skipping one does not compile.

pub mod admit;
pub mod approve;
pub mod decide;
pub mod deliver;
pub mod mint;
pub mod record;
pub(crate) mod sticky;
pub(crate) mod under;

#[cfg(test)]
mod races;
#[cfg(test)]
pub(crate) mod rig;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use grantwright_domain::RequestId;
use grantwright_wire::Refusal;
use grantwright_wire::v1::{AskRequest, Outcome};

use crate::core::{Broker, Caller};
use admit::Admission;
use approve::Standing;
use decide::Verdicted;

/// An agent asks.
///
/// # Errors
/// A refusal that says what to do; no credential comes with it.
pub async fn issue(
    broker: &Arc<Broker>,
    caller: &Caller,
    ask: AskRequest,
) -> Result<Outcome, Refusal> {
    let known_size = ask.known_size;
    let admitted = match admit::admit(broker, caller, ask).await? {
        Admission::New(admitted) => admitted,
        Admission::Same(request) => {
            // What is not the common case lies apart: every ask's future carries the largest branch.
            return Box::pin(collect(broker, caller, &request, 0, known_size, true)).await;
        }
    };
    let recorded = record::record(broker, admitted)?;
    match decide::decide(broker, recorded)? {
        // What calls a backend goes on when the caller hangs up; what only signs ends in one commit.
        Verdicted::Allowed(allowed) if mint::is_built_in(broker, &allowed) => {
            finish(broker, allowed, known_size).await
        }
        Verdicted::Allowed(allowed) => {
            let broker = Arc::clone(broker);
            let work = async move { finish(&broker, allowed, known_size).await };
            Box::pin(detached(work)).await
        }
        Verdicted::Asking(asking) => match Box::pin(approve::park(broker, asking)).await? {
            Standing::Parked(outcome) => Ok(outcome),
            Standing::Joined(request) => {
                Box::pin(collect(broker, caller, &request, 0, known_size, true)).await
            }
        },
        Verdicted::Denied(denied) => Err(Box::pin(decide::refuse_denied(broker, denied)).await?),
    }
}

/// Stages 5 to 7.
async fn finish(
    broker: &Broker,
    allowed: decide::Allowed,
    known_size: u64,
) -> Result<Outcome, Refusal> {
    // Until its outcome is known, nobody else takes it for one that was left without.
    let _minting =
        (!mint::is_built_in(broker, &allowed)).then(|| broker.minting(allowed.request_id()));
    let intended = mint::intend(broker, allowed).await?;
    let minted = mint::mint(broker, intended).await?;
    deliver::deliver(broker, minted, known_size).await
}

async fn detached(
    work: impl Future<Output = Result<Outcome, Refusal>> + Send + 'static,
) -> Result<Outcome, Refusal> {
    tokio::spawn(work).await.unwrap_or_else(|_| {
        Err(crate::error::refuse(
            503,
            "internal",
            "the broker failed within",
            "ask again with the same key",
        ))
    })
}

/// The agent looks, waits, and collects what was approved. `post`: the call was an ask, so the end
/// of the request is a refusal and not an answer.
///
/// # Errors
/// As [`issue`]; another agent's request is not found.
pub async fn collect(
    broker: &Arc<Broker>,
    caller: &Caller,
    id: &RequestId,
    wait_ms: u32,
    known_size: u64,
    post: bool,
) -> Result<Outcome, Refusal> {
    let approved = match approve::meet(broker, caller, id, wait_ms, known_size).await? {
        approve::Met::Approved(approved) => approved,
        approve::Met::Waiting(outcome) | approve::Met::Delivered(outcome) => return Ok(outcome),
        approve::Met::Ended(ended) if post => return Err(approve::ended_refusal(&ended)),
        approve::Met::Ended(ended) => return Ok(approve::ended_outcome(&ended)),
    };
    // From the intent on, a caller that hangs up ends nothing.
    let (broker, caller, id) = (Arc::clone(broker), caller.clone(), id.clone());
    let work = async move {
        let allowed = match decide::again(&broker, approved)? {
            Verdicted::Allowed(allowed) => allowed,
            Verdicted::Asking(asking) => return approve::back_to_people(&broker, asking).await,
            Verdicted::Denied(denied) => {
                let refusal = decide::refuse_denied(&broker, denied).await?;
                return if post {
                    Err(refusal)
                } else {
                    approve::look(&broker, &caller, &id, known_size).await
                };
            }
        };
        match finish(&broker, allowed, known_size).await {
            // Another call of the agent's collects at this moment: share its outcome.
            Err(refusal) if refusal.code == "changed_meanwhile" => {
                approve::share(&broker, &caller, &id, known_size, post).await
            }
            other => other,
        }
    };
    detached(work).await
}
