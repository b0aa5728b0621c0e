//! Who is asked first: whoever is on call, or the next in turn, of those who may decide. The others
//! may decide all the same; they are told when time runs short.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use grantwright_domain::{
    Authority, GroupName, HumanId, RequestId, RequestState, Timestamp, eligible,
};
use grantwright_store::StoreError;

use super::config::RoutingBy;
use super::limits;
use crate::core::Broker;

/// Kind of the rows that say who is asked first, by request.
const ROUTES: &str = "guard-route";
/// Kind of the rows that say whose turn it was, by group.
const TURNS: &str = "guard-turn";
/// How long a route is kept if nothing ends its request.
const KEEP_MS: i64 = 30 * 86_400_000;
/// Most routes that are kept in memory; beyond them everybody is asked.
const MOST: usize = 50_000;

/// Who is asked first for this request; nobody: everybody is. It stays the same once it was said.
///
/// # Errors
/// When the store cannot be read or written.
pub async fn first(broker: &Broker, state: &RequestState) -> Result<Vec<HumanId>, StoreError> {
    let id = &state.terms.request_id;
    let Some(verdict) = &state.verdict else { return Ok(Vec::new()) };
    let routing = &broker.config.guards.routing;
    if !verdict.approvers.iter().any(|group| routing.contains_key(group)) {
        return Ok(Vec::new());
    }
    if let Some(known) = known(broker, state) {
        return Ok(known);
    }
    let _one_at_a_time = broker.guards.turn.lock().await;
    let now = broker.now();
    if let Some(row) = broker.store.side_get(ROUTES, id.as_str(), now).await? {
        let people: Vec<HumanId> = serde_json::from_slice(&row.value).unwrap_or_default();
        return Ok(remember(broker, state, people));
    }
    let authority = broker.authority();
    let may = eligible_people(&authority, state, now);
    let mut people: Vec<HumanId> = Vec::new();
    for group in &verdict.approvers {
        let Some(section) = routing.get(group) else { continue };
        let mut chosen: Vec<HumanId> = match section.by {
            RoutingBy::OnCall => broker.config.guards.on_call(group, now),
            RoutingBy::RoundRobin => Vec::new(),
        };
        chosen.retain(|human| may.contains(human));
        if chosen.is_empty() {
            chosen = in_turn(broker, group, &may, section.first, now).await?;
        }
        chosen.truncate(section.first);
        people.extend(chosen);
    }
    people.dedup();
    let row = serde_json::to_vec(&people).unwrap_or_default();
    broker.store.side_put(ROUTES, id.as_str(), row, Some(now.plus_millis(KEEP_MS))).await?;
    Ok(remember(broker, state, people))
}

/// Reads who is asked first for what was open before the start.
///
/// # Errors
/// When the store cannot be read.
pub async fn restore(broker: &Broker) -> Result<(), StoreError> {
    let mut after: Option<String> = None;
    let mut known = BTreeMap::new();
    loop {
        let now = broker.now();
        let page = broker.store.side_list(ROUTES, "", after.as_deref(), 1024, now).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.key.clone());
        for row in page {
            let people = serde_json::from_slice::<Vec<HumanId>>(&row.value);
            if let (Ok(id), Ok(people)) = (RequestId::parse(&row.key), people) {
                known.insert(id, people);
            }
        }
        // Ids sort by age: the oldest are over.
        while known.len() >= MOST {
            known.pop_first();
        }
    }
    let known = known.into_iter().collect();
    *broker.guards.routes.lock().unwrap_or_else(PoisonError::into_inner) = known;
    Ok(())
}

/// Who is asked first, where it was said already.
#[must_use]
pub fn known(broker: &Broker, state: &RequestState) -> Option<Vec<HumanId>> {
    let routes = broker.guards.routes.lock().unwrap_or_else(PoisonError::into_inner);
    routes.get(&state.terms.request_id).cloned()
}

fn remember(broker: &Broker, state: &RequestState, people: Vec<HumanId>) -> Vec<HumanId> {
    let mut routes = broker.guards.routes.lock().unwrap_or_else(PoisonError::into_inner);
    if routes.len() >= MOST {
        routes.clear();
    }
    routes.insert(state.terms.request_id.clone(), people.clone());
    people
}

/// Everybody who may decide this request through some channel now.
#[must_use]
pub fn eligible_people(
    authority: &Authority,
    state: &RequestState,
    now: Timestamp,
) -> BTreeSet<HumanId> {
    let channels = state.verdict.iter().flat_map(|v| &v.channels);
    let channels: Vec<&String> = channels.collect();
    let may = |human: &HumanId| {
        channels.iter().any(|c| eligible::check(state, authority, human, c, now).is_ok())
    };
    authority.humans.keys().filter(|human| may(human)).cloned().collect()
}

/// The next of those who may, after who had the last turn; who is at their bound is passed over.
async fn in_turn(
    broker: &Broker,
    group: &GroupName,
    may: &BTreeSet<HumanId>,
    how_many: usize,
    now: Timestamp,
) -> Result<Vec<HumanId>, StoreError> {
    let rested = |human: &&HumanId| limits::approve(broker, human, now).is_ok();
    let mut list: Vec<&HumanId> = may.iter().filter(rested).collect();
    if list.is_empty() {
        list = may.iter().collect();
    }
    let row = broker.store.side_get(TURNS, group.as_str(), now).await?;
    let last = row.and_then(|r| String::from_utf8(r.value).ok()).unwrap_or_default();
    let (before, after): (Vec<&HumanId>, Vec<&HumanId>) =
        list.into_iter().partition(|human| human.as_str() <= last.as_str());
    let chosen: Vec<HumanId> = after.into_iter().chain(before).take(how_many).cloned().collect();
    if let Some(human) = chosen.last() {
        let row = human.as_str().as_bytes().to_vec();
        broker.store.side_put(TURNS, group.as_str(), row, None).await?;
    }
    Ok(chosen)
}
