//! A lease extended in place, within D: what its sidecar uses goes on, what nobody uses ends within a step.
//!
//! The leaf "renewed" is durable before the backend is asked, as an intent is before a mint: the log never
//! says less than what the credential can do. Where the backend then did less, another leaf says so.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use grantwright_domain::event::Renewed;
use grantwright_domain::request::{Lease, LeaseState};
use grantwright_domain::{Event, RequestId, RequestState, Timestamp};
use grantwright_mint::{MintError, Minter};
use grantwright_store::{StoreError, Transition};
use grantwright_wire::Refusal;
use grantwright_wire::v1::ExtendReply;

use super::{end_lease, rights};
use crate::core::{Broker, Caller};
use crate::error::{of_store, refuse};
use crate::issue::approve;

/// A backend that gave so much less than the leaf says is not worth another leaf, in milliseconds.
const CLOSE_MS: i64 = 2000;

/// Until when a lease can be extended at most: the approved end, where its scope is made in steps.
#[must_use]
pub fn latest(broker: &Broker, state: &RequestState) -> Option<Timestamp> {
    let lease = state.lease.as_ref()?;
    in_steps(broker, state)?;
    Some(approved_end(broker, state, lease)).filter(|end| *end > lease.expires_at)
}

/// No later than its delegation, if it rests on one.
fn approved_end(broker: &Broker, state: &RequestState, lease: &Lease) -> Timestamp {
    let end = lease.issued_at.plus_seconds(i64::from(state.terms.ttl_s));
    let lasts = broker.authority().lasts(&state.terms);
    lasts.map_or(end, |lasts| lasts.min(end)).whole_second()
}

fn in_steps<'b>(broker: &'b Broker, state: &RequestState) -> Option<(u32, &'b Arc<dyn Minter>)> {
    let authority = broker.authority();
    let scope = authority.catalog.get(&state.terms.template)?;
    let minter = broker.minters.get(&scope.minter)?;
    Some((minter.step_s(scope)?, minter))
}

/// The sidecar that holds a credential asks for its next step; `held` is when it ends as far as the
/// sidecar knows. It goes on when the caller hangs up.
///
/// # Errors
/// 404 for another's request; 409 when the lease has ended or is not made in steps; 403 when the right it
/// rests on is gone, and the lease with it; 502 when the backend did not extend it; 503 when it may have,
/// or another extension is under way: asked again, the same end is told or made.
pub async fn extend(
    broker: &Arc<Broker>,
    caller: &Caller,
    id: &RequestId,
    held: Timestamp,
) -> Result<ExtendReply, Refusal> {
    broker.consistent()?;
    broker.witnessed()?;
    broker.sinks.gate(broker.now())?;
    let loaded = approve::load(broker, caller, id).await?;
    let peer = rights::peer_of(&loaded.leaves);
    let (broker, id) = (Arc::clone(broker), id.clone());
    let work = async move {
        // Two at once could end at the backend in another order than in the log.
        match broker.minting_alone(&loaded.state.terms.request_id) {
            Some(_alone) => step(&broker, loaded.state, &peer, held).await,
            None => Err(again("another extension of this credential is under way")),
        }
    };
    let done = tokio::spawn(work).await.unwrap_or_else(|_| Err(again("the broker failed within")));
    done.map_err(|refusal| refusal.request_id(id.as_str()))
}

fn again(detail: impl Into<String>) -> Refusal {
    refuse(503, "not_extended", detail, "ask for the extension again shortly").retry_after_ms(1000)
}

async fn step(
    broker: &Arc<Broker>,
    state: RequestState,
    peer: &str,
    held: Timestamp,
) -> Result<ExtendReply, Refusal> {
    let now = broker.now().max(state.last_at);
    let live = |l: &Lease| l.state == LeaseState::Live && l.expires_at > now;
    let Some(lease) = state.lease.clone().filter(live) else {
        return Err(refuse(409, "not_live", "the credential has ended", "ask anew"));
    };
    let Some((step_s, minter)) = in_steps(broker, &state) else {
        return Err(refuse(
            409,
            "not_renewable",
            "this credential was made for its whole life at once",
            "ask anew before it ends",
        ));
    };
    let (step_s, end) = (i64::from(step_s), approved_end(broker, &state, &lease));
    let until = now.plus_seconds(step_s).min(end).whole_second();
    // However often it is asked for: a leaf for each third of a step, and one for the end.
    let worth = lease.expires_at.plus_millis(step_s * 1000 / 3).min(end);
    let is_next = until > lease.expires_at && until >= worth;
    if !is_next && held >= lease.expires_at {
        return Ok(ExtendReply { expires_at_ms: lease.expires_at.millis() });
    }
    let authority = broker.authority();
    if let Some(why) = rights::lost(broker, &authority, &state, peer, now)? {
        end_lease(broker, state, "broker").await?;
        return Err(refuse(403, "denied", format!("{why}; the credential is ended"), "ask anew"));
    }
    // The sidecar knows less than the log says: the broker stopped before it asked the backend, or the
    // answer was lost. The backend is asked for what the log says already.
    let (until, state) = match is_next {
        true => (until, record(broker, state, &lease, until).await?),
        false => (lease.expires_at, state),
    };
    let refusal = match minter.renew(&lease, until).await {
        Ok(seen) if seen <= until => {
            if until.since(seen) > CLOSE_MS {
                correct(broker, state, &lease, seen).await;
            }
            broker.counts.renewed.fetch_add(1, Ordering::Relaxed);
            return Ok(ExtendReply { expires_at_ms: seen.millis() });
        }
        Ok(seen) => MintError::refused("backend_wider", WIDER, seen.to_string()),
        Err(error) => error,
    };
    let (code, operator) = match &refusal {
        MintError::Refused { code, operator, .. } => (*code, operator),
        MintError::Unknown { operator, .. } => ("outcome_unknown", operator),
    };
    tracing::warn!(lease = %lease.id, code, operator, "a credential was not extended");
    match code {
        "backend_wider" => drop(end_lease(broker, state, "broker").await?),
        // It may have been: the log says the longer, and the same is asked for again.
        "outcome_unknown" => return Err(again(refusal.to_string())),
        _ if is_next => correct(broker, state, &lease, lease.expires_at).await,
        _ => {}
    }
    Err(refuse(502, "not_extended", refusal.to_string(), "ask anew before it ends"))
}

const WIDER: &str = "the backend extended it beyond what was asked, so it is ended";

/// The leaf before the call.
async fn record(
    broker: &Broker,
    state: RequestState,
    lease: &Lease,
    until: Timestamp,
) -> Result<RequestState, Refusal> {
    let event = renewed(broker, &state, lease, until);
    let committed = match broker.commit(Transition::at(state, vec![event])).await {
        // It ends, or is extended through another broker: the next look says which.
        Err(StoreError::Conflict) => return Err(again("the credential changed meanwhile")),
        other => other.map_err(of_store)?,
    };
    committed
        .state
        .map(|state| *state)
        .ok_or_else(|| refuse(503, "internal", "the request was not returned", "ask again shortly"))
}

/// The backend did less than the leaf says. Where that cannot be written, the log says the longer.
async fn correct(broker: &Broker, state: RequestState, lease: &Lease, seen: Timestamp) {
    let event = renewed(broker, &state, lease, seen);
    if let Err(e) = broker.commit(Transition::at(state, vec![event])).await {
        tracing::warn!(lease = %lease.id, error = %e, "the log says a later end than the backend");
    }
}

fn renewed(broker: &Broker, state: &RequestState, lease: &Lease, until: Timestamp) -> Event {
    Event::Renewed(Renewed {
        at: broker.now().max(state.last_at),
        digest: state.digest,
        request_id: state.terms.request_id.clone(),
        lease_id: lease.id.clone(),
        expires_at: until,
    })
}
