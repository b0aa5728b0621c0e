//! Delegations, and ending them.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use grantwright_approval::console::delegations::{Delegation, Delegations, Handed, delegations};
use grantwright_approval::console::{Frame, Here, Notice, Viewer, page as document};
use grantwright_domain::{Authority, Delegation as Known, DelegationId, HumanId, Timestamp};
use serde::Deserialize;

use super::respond::{Page, Posted, html};
use crate::core::Broker;
use crate::http::Shared;
use crate::http::delegations::end_as;
use crate::http::session::Session;
use crate::rpc::delegations::state_word;

/// Rows of the page.
const ROWS: usize = 200;

/// `?state=all`.
#[derive(Debug, Default, Deserialize)]
pub struct Which {
    state: Option<String>,
}

/// Live ones, those that end first; or all that are remembered, newest first.
pub async fn page(State(broker): Shared, session: Session, Query(which): Query<Which>) -> Page {
    let live = which.state.as_deref() != Some("all");
    Ok(show(&broker, &session, live, None, StatusCode::OK))
}

fn show(
    broker: &Broker,
    session: &Session,
    live: bool,
    notice: Option<Notice<'_>>,
    status: StatusCode,
) -> axum::response::Response {
    let (authority, now) = (broker.authority(), broker.now());
    let known = authority.delegations.iter().filter(|(_, d)| !live || d.is_live(now));
    let mut known: Vec<_> = known.collect();
    match live {
        true => known.sort_by_key(|(_, d)| d.expires_at),
        false => known.sort_by_key(|(_, d)| std::cmp::Reverse(d.made_at)),
    }
    let rows = known.iter().take(ROWS).map(|(id, d)| row(&authority, &session.human, id, d, now));
    let matter = Delegations {
        rows: rows.collect(),
        more: known.len().saturating_sub(ROWS),
        live,
        csrf: &session.csrf,
        now,
    };
    let viewer = Viewer { human: session.human.as_str(), csrf: &session.csrf };
    let frame = Frame::new("Delegations", Here::Agents, viewer).saying(notice);
    html(status, document(&frame, &delegations(&matter)))
}

fn row(
    authority: &Authority,
    human: &HumanId,
    id: &DelegationId,
    d: &Known,
    now: Timestamp,
) -> Delegation {
    let scopes = d.scopes.iter().map(|(scope, bounds)| Handed {
        scope: scope.to_string(),
        bounds: bounds.params.iter().map(|(k, v)| (k.clone(), v.text())).collect(),
        ttl_s: bounds.ttl_s,
    });
    Delegation {
        id: id.to_string(),
        state: state_word(d, now),
        chain: d.chain.iter().map(ToString::to_string).collect(),
        to: d.to.to_string(),
        scopes: scopes.collect(),
        passes: d.passes,
        until: d.over_at(),
        may_end: authority.may_end(d, human),
    }
}

/// Ends one, and says so.
pub async fn end(State(broker): Shared, Path(id): Path<String>, posted: Posted) -> Page {
    let session = &posted.0.session;
    Ok(match end_as(&broker, &session.human, &id).await {
        Ok(_) => {
            let said = format!("Delegation {id} has ended, with what rested on it.");
            show(&broker, session, true, Some(Notice::Done(&said)), StatusCode::OK)
        }
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
            let notice = Notice::Refused(&refusal.detail, &refusal.next);
            show(&broker, session, true, Some(notice), status)
        }
    })
}
