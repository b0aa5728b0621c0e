//! Leases, and ending them.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use grantwright_approval::console::leases::{Lease, Leases, leases};
use grantwright_approval::console::{Frame, Here, Notice, Viewer, page as document};
use grantwright_domain::Timestamp;
use grantwright_store::{LeaseFilter, LeaseSummary};
use serde::Deserialize;

use super::respond::{Page, Posted, html};
use crate::core::Broker;
use crate::error::of_store;
use crate::http::Shared;
use crate::http::leases::{can_end, end_as, shown_state};
use crate::http::session::Session;

/// Rows of one page.
const ROWS: u32 = 100;

/// `?state=all&before=…`.
#[derive(Debug, Default, Deserialize)]
pub struct Which {
    state: Option<String>,
    before: Option<u64>,
}

/// Leases: live ones, those that end first; or all, newest first.
pub async fn page(State(broker): Shared, session: Session, Query(which): Query<Which>) -> Page {
    show(&broker, &session, &which, None, StatusCode::OK).await
}

async fn show(
    broker: &Broker,
    session: &Session,
    which: &Which,
    notice: Option<Notice<'_>>,
    status: StatusCode,
) -> Page {
    let now = broker.now();
    let live = which.state.as_deref() != Some("all");
    let filter = LeaseFilter {
        live,
        soonest_after: live.then_some(now),
        before: which.before,
        limit: ROWS,
        ..LeaseFilter::default()
    };
    let rows = broker.store.leases(filter).await.map_err(of_store)?;
    let full = !live && rows.len() >= ROWS as usize;
    let next = rows.last().filter(|_| full);
    let authority = broker.authority();
    let shown =
        |l: &LeaseSummary| Lease { revocable: can_end(broker, &authority, l), ..row(l, now) };
    let matter = Leases {
        next: next.map(|l| format!("/leases?state=all&before={}", l.first_index)),
        rows: rows.iter().map(shown).collect(),
        live,
        csrf: &session.csrf,
        now,
    };
    let viewer = Viewer { human: session.human.as_str(), csrf: &session.csrf };
    let frame = Frame::new("Leases", Here::Leases, viewer).saying(notice);
    Ok(html(status, document(&frame, &leases(&matter))))
}

/// A lease as it is shown.
#[must_use]
pub fn row(lease: &LeaseSummary, now: Timestamp) -> Lease {
    Lease {
        id: lease.id.to_string(),
        request: lease.request.to_string(),
        agent: lease.agent.to_string(),
        scope: lease.scope.to_string(),
        state: shown_state(lease.state, lease.expires_at, now),
        expires_at: lease.expires_at,
        revocable: lease.revocable,
    }
}

/// Ends a lease, and says what that did.
pub async fn revoke(State(broker): Shared, Path(id): Path<String>, posted: Posted) -> Page {
    let session = &posted.0.session;
    let which = Which::default();
    match end_as(&broker, &session.human, &id).await {
        Ok(ended) => {
            let said = match ended.ended {
                true => format!("Lease {id} has ended: {}.", ended.effect),
                false => format!("Lease {id} is no longer served, but lives on: {}.", ended.effect),
            };
            show(&broker, session, &which, Some(Notice::Done(&said)), StatusCode::OK).await
        }
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
            let notice = Notice::Refused(&refusal.detail, &refusal.next);
            show(&broker, session, &which, Some(notice), status).await
        }
    }
}
