//! What is asked under a delegation ends with it. So that no credential outlives its delegation, it is
//! minted early enough: until then people may decide, and what was approved too late is ended.

use grantwright_domain::event::Cancelled;
use grantwright_domain::{
    AgentId, Authority, DelegationId, Event, RequestState, Scope, ScopeName, Terms, Timestamp,
};
use grantwright_store::{StoreError, Transition};
use grantwright_wire::Refusal;

use crate::core::{Broker, Caller};
use crate::error::{of_store, of_violation, refuse};

/// A backend has this long to make a credential whose life then still ends with the delegation. What took
/// longer is ended at once and not delivered.
const BACKEND_MS: i64 = 30_000;
/// People are not asked who would have less time than this.
const PEOPLE_MS: i64 = 10_000;
/// Who ends a request that its delegation covers no longer.
pub(crate) const BY: &str = "delegation";

/// A delegation and its chain.
pub(super) type Under = (DelegationId, Vec<AgentId>);

/// The delegation that an ask names, and the longest lifetime, in seconds, that an ask gets which names
/// none: half of what is left of the delegation, so that people who must decide first have the other half.
///
/// # Errors
/// 400 for what is no id, 403 and 404 as the rules say.
pub(super) fn named(
    authority: &Authority,
    caller: &Caller,
    id: &str,
    scope: &ScopeName,
    now: Timestamp,
) -> Result<(Option<Under>, u32), Refusal> {
    if id.is_empty() {
        return Ok((None, u32::MAX));
    }
    let id = DelegationId::parse(id).map_err(|e| {
        refuse(400, "malformed", e.to_string(), "send the delegation's id, or none")
    })?;
    let known = authority.delegation(&id, &caller.agent, now).map_err(|v| of_violation(&v))?;
    let left = u32::try_from(known.expires_at.since(now) / 2000).unwrap_or(u32::MAX);
    let longest = known.scopes.get(scope).map_or(u32::MAX, |bounds| bounds.ttl_s.min(left));
    Ok((Some((id, known.chain.clone())), longest))
}

/// The last moment at which what these terms ask for can be minted; none where they name no delegation.
pub(super) fn latest(
    broker: &Broker,
    authority: &Authority,
    terms: &Terms,
    scope: &Scope,
) -> Option<Timestamp> {
    let ends = authority.lasts(terms)?;
    let built_in = broker.minter(scope).is_ok_and(|m| m.signer().is_some());
    let takes = if built_in { 0 } else { BACKEND_MS };
    Some(ends.plus_seconds(-i64::from(terms.ttl_s)).plus_millis(-takes))
}

/// Whether what these terms ask for may be minted at `now` by their delegation.
///
/// # Errors
/// Why not, and what to do.
pub(crate) fn fits(
    broker: &Broker,
    authority: &Authority,
    terms: &Terms,
    scope: &Scope,
    now: Timestamp,
) -> Result<(), Refusal> {
    authority.covers(terms, now).map_err(|v| of_violation(&v))?;
    match latest(broker, authority, terms, scope) {
        Some(latest) if now > latest => Err(too_late(
            terms,
            "is longer than its delegation lasts, with the time that the backend may take",
        )),
        _ => Ok(()),
    }
}

/// Whether people can still decide, and it be minted, before its delegation ends.
///
/// # Errors
/// As [`fits`].
pub(super) fn leaves_time(
    broker: &Broker,
    authority: &Authority,
    terms: &Terms,
    scope: &Scope,
    now: Timestamp,
) -> Result<(), Refusal> {
    match latest(broker, authority, terms, scope) {
        Some(latest) if latest.since(now) < PEOPLE_MS => Err(too_late(
            terms,
            "leaves people, who must decide this, no time before its delegation ends",
        )),
        _ => Ok(()),
    }
}

fn too_late(terms: &Terms, why: &str) -> Refusal {
    refuse(
        403,
        "delegation_wider",
        format!("`ttl` of {} s {why}", terms.ttl_s),
        "ask for a shorter `ttl`, or whoever handed it on for a longer delegation",
    )
}

/// When an undecided request ends: at the latest when it could be minted no longer.
pub(super) fn decide_by(
    latest: Option<Timestamp>,
    at: Timestamp,
    otherwise: Timestamp,
) -> Timestamp {
    // Something that nobody need decide may use up the delegation to its end.
    latest.map_or(otherwise, |latest| otherwise.min(latest.max(at.plus_millis(1))))
}

/// Ends a request that its delegation covers no longer; whoever changed it first is as good.
///
/// # Errors
/// When the log cannot be written.
pub(super) async fn give_up(
    broker: &Broker,
    state: RequestState,
    now: Timestamp,
) -> Result<(), Refusal> {
    let id = state.terms.request_id.clone();
    let event = Event::Cancelled(Cancelled {
        at: now.max(state.last_at),
        digest: state.digest,
        request_id: id.clone(),
        by: BY.into(),
    });
    match broker.commit(Transition::at(state, vec![event])).await {
        Ok(_) | Err(StoreError::Conflict) => {
            broker.wake.changed(&id);
            Ok(())
        }
        Err(e) => Err(of_store(e)),
    }
}
