//! What a crash or a failed write left between an intent and its outcome.

use std::sync::PoisonError;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use grantwright_domain::event::Unknown;
use grantwright_domain::{Event, LeaseId, RequestId, RequestState};
use grantwright_mint::Ended;
use grantwright_store::{StoreError, Transition};
use grantwright_wire::Refusal;

use super::{AT_ONCE, faulty, ignore_conflict};
use crate::core::Broker;
use crate::error::of_store;

/// Longest look for what an unrecorded mint made.
const UNDO: Duration = Duration::from_secs(10);

/// Records the intents that a crash or a failed write left without an outcome as unknown: never tried
/// again blindly. At the start and with each sweep.
///
/// # Errors
/// When the log cannot be read or written.
pub async fn resolve_unfinished(broker: &Broker) -> Result<usize, Refusal> {
    let unfinished = broker.store.unfinished().await.map_err(of_store)?;
    // So many at a time: a backend that is away delays the start by one wait, not by one for each.
    let work = unfinished.into_iter().map(|id| resolve_one(broker, id));
    let mut work = stream::iter(work).buffer_unordered(AT_ONCE);
    let mut resolved = 0;
    while let Some(done) = work.next().await {
        resolved += usize::from(done?);
    }
    Ok(resolved)
}

/// The same for one; says whether it was.
async fn resolve_one(broker: &Broker, id: RequestId) -> Result<bool, Refusal> {
    // Listed before this look: what is being minted now is marked, and its end unmarks it.
    if broker.minting.lock().unwrap_or_else(PoisonError::into_inner).contains(&id) {
        return Ok(false);
    }
    let loaded = match broker.store.load(&id).await {
        Err(e @ StoreError::Tampered(_)) => {
            faulty(broker, 1, &e.to_string());
            return Ok(false);
        }
        other => other.map_err(of_store)?,
    };
    let Some(state) = loaded.map(|l| l.state) else { return Ok(false) };
    if state.phase != grantwright_domain::Phase::Intended {
        return Ok(false);
    }
    let mut detail =
        "the broker stopped, or could not write, between the intent and its outcome".to_owned();
    if let Some(ended) = undo(broker, &state).await {
        detail.push_str("; ");
        detail.push_str(&ended.effect);
    }
    let event = Event::Unknown(Unknown {
        at: broker.now().max(state.last_at),
        digest: state.digest,
        request_id: id.clone(),
        detail,
    });
    tracing::error!(request = %id, "the outcome of a mint is unknown: it was not recorded");
    ignore_conflict(broker.commit(Transition::at(state, vec![event])).await)?;
    broker.counts.unknown.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    broker.wake.changed(&id);
    Ok(true)
}

/// Ends what an unrecorded mint may have made, where its backend finds that by the lease.
async fn undo(broker: &Broker, state: &RequestState) -> Option<Ended> {
    let lease = LeaseId::of(&state.terms.request_id)?;
    let authority = broker.authority();
    let scope = authority.catalog.get(&state.terms.template)?;
    let minter = broker.minters.get(&scope.minter)?;
    // A backend that does not answer must not keep the broker from starting.
    tokio::time::timeout(UNDO, minter.undo(&lease, scope, &state.terms.params)).await.ok().flatten()
}
