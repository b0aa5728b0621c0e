//! Agents.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use grantwright_approval::console::agents::{Agent, One, Sidecar, agent, agents};
use grantwright_approval::console::{Frame, Here, Viewer, page as document};
use grantwright_domain::{AgentId, Authority};
use grantwright_store::{LeaseFilter, RequestFilter};

use super::matter::At;
use super::respond::{Page, html};
use super::{inbox, leases};
use crate::core::Broker;
use crate::error::{of_store, refuse};
use crate::http::Shared;
use crate::http::session::Session;

/// Agents on one page.
const MOST: usize = 500;
/// Requests and leases on an agent's page.
const ROWS: u32 = 25;

/// All agents.
pub async fn page(State(broker): Shared, session: Session) -> Page {
    let (authority, now) = (broker.authority(), broker.now());
    let open: BTreeMap<AgentId, u64> =
        broker.store.open_by_agent().await.map_err(of_store)?.into_iter().collect();
    let mut sidecars: BTreeMap<&AgentId, usize> = BTreeMap::new();
    for instance in authority.instances.values().filter(|i| !i.revoked) {
        *sidecars.entry(&instance.agent).or_default() += 1;
    }
    let shown: BTreeSet<&AgentId> = authority.agents.keys().take(MOST).collect();
    let rows: Vec<Agent> = shown
        .into_iter()
        .filter_map(|name| {
            let count = sidecars.get(name).copied().unwrap_or(0);
            row(&broker, &authority, name, count, open.get(name).copied().unwrap_or(0))
        })
        .collect();
    let more = authority.agents.len().saturating_sub(rows.len());
    let viewer = Viewer { human: session.human.as_str(), csrf: &session.csrf };
    let frame = Frame::new("Agents", Here::Agents, viewer);
    Ok(html(StatusCode::OK, document(&frame, &agents(&rows, more, now))))
}

fn row(
    broker: &Broker,
    authority: &Authority,
    name: &AgentId,
    sidecars: usize,
    open: u64,
) -> Option<Agent> {
    let known = authority.agents.get(name)?;
    let a = &known.attributes;
    let key = (a.model.clone(), a.model_version.clone());
    Some(Agent {
        name: name.to_string(),
        owner: known.owner().map(ToString::to_string).unwrap_or_default(),
        team: a.team.clone(),
        environment: a.environment.clone(),
        model: format!("{} {}", a.model, a.model_version).trim().to_owned(),
        qualified_until: authority.models.get(&key).copied().filter(|u| *u > broker.now()),
        revoked: known.revoked,
        sidecars,
        open,
    })
}

/// One agent.
pub async fn one(State(broker): Shared, session: Session, Path(name): Path<String>) -> Page {
    let (authority, now) = (broker.authority(), broker.now());
    let none = || refuse(404, "unknown_agent", "there is no such agent", "look at the list");
    let name = AgentId::parse(&name).map_err(|_| none())?;
    let known = authority.agents.get(&name).ok_or_else(none)?;
    let sidecars: Vec<Sidecar> = authority
        .instances
        .iter()
        .filter(|(_, i)| i.agent == name)
        .map(|(id, i)| Sidecar { name: id.to_string(), not_after: i.not_after, revoked: i.revoked })
        .take(MOST)
        .collect();
    let asked = RequestFilter { agent: Some(name.clone()), limit: ROWS, ..Default::default() };
    let asked = broker.store.list(asked).await.map_err(of_store)?;
    let at = At { broker: &broker, authority: &authority, now };
    let held = LeaseFilter {
        live: true,
        agent: Some(name.clone()),
        soonest_after: Some(now),
        limit: ROWS,
        ..Default::default()
    };
    let held = broker.store.leases(held).await.map_err(of_store)?;
    let live = sidecars.iter().filter(|s| !s.revoked).count();
    let open = broker.store.count_open(&name).await.map_err(of_store)?;
    let row = row(&broker, &authority, &name, live, open).ok_or_else(none)?;
    let matter = One {
        agent: &row,
        owners: known.owners.iter().map(|o| (o.human.to_string(), o.until)).collect(),
        sidecars,
        leases: held.iter().map(|l| leases::row(l, now)).collect(),
        requests: inbox::told(at, asked).await?,
        csrf: &session.csrf,
        now,
    };
    let viewer = Viewer { human: session.human.as_str(), csrf: &session.csrf };
    let frame = Frame::new(name.as_str(), Here::Agents, viewer);
    Ok(html(StatusCode::OK, document(&frame, &agent(&matter))))
}
