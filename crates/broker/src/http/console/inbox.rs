//! The inbox.

use axum::extract::State;
use axum::http::StatusCode;
use grantwright_approval::console::inbox::{Ended, Inbox, Row, inbox};
use grantwright_approval::console::{Frame, Here, Viewer, page as document};
use grantwright_store::{RequestFilter, RequestSummary};

use super::matter::{At, card};
use super::respond::{Page, html};
use super::{desk, may};
use crate::error::of_store;
use crate::http::Shared;
use crate::http::session::Session;

/// Open requests that are looked at, those that end first.
const LOOKED_AT: u32 = 1024;
/// Rows of what waits for the reader.
const MINE: usize = 50;
/// Rows of what waits for others.
const OTHERS: usize = 20;
/// Rows of what ended.
const ENDED: u32 = 8;

/// What waits for the reader, most urgent first, then the rest.
pub async fn page(State(broker): Shared, session: Session) -> Page {
    let (authority, now) = (broker.authority(), broker.now());
    let at = At { broker: &broker, authority: &authority, now };
    let open = RequestFilter { open: true, soonest: true, limit: LOOKED_AT, ..Default::default() };
    let rows = broker.store.list(open).await.map_err(of_store)?;
    let total = broker.store.count_all_open().await.map_err(of_store)?;
    let (mut mine, mut others, mut seen) = (Vec::new(), Vec::new(), 0usize);
    for row in &rows {
        let Some(loaded) = desk::proven(&broker, row).await? else { continue };
        let state = &loaded.state;
        let Some(scope) = authority.catalog.get(&state.terms.template) else { continue };
        if !state.phase.is_open() || now >= state.expires_at() {
            seen += 1;
            continue;
        }
        let (to, most) = match may::waits_for(at, &session.human, &loaded, scope) {
            true => (&mut mine, MINE),
            false => (&mut others, OTHERS),
        };
        if to.len() < most {
            seen += 1;
            to.push(Row {
                id: row.id.to_string(),
                card: card(at, &loaded, scope),
                asked_at: row.created_at,
                approved: may::has_approved(&loaded, &session.human),
            });
        }
    }
    let ended = RequestFilter { ended: true, limit: ENDED, ..Default::default() };
    let ended = broker.store.list(ended).await.map_err(of_store)?;
    let matter = Inbox {
        mine,
        others,
        more: usize::try_from(total).unwrap_or(usize::MAX).saturating_sub(seen),
        ended: ended.iter().map(self::ended).collect(),
        now,
    };
    let viewer = Viewer { human: session.human.as_str(), csrf: &session.csrf };
    let title = match matter.mine.len() {
        0 => "Inbox".to_owned(),
        n => format!("Inbox ({n})"),
    };
    let frame = Frame::new(&title, Here::Inbox, viewer);
    Ok(html(StatusCode::OK, document(&frame, &inbox(&matter))))
}

/// A row of what is known of a request without proving it.
#[must_use]
pub fn ended(row: &RequestSummary) -> Ended {
    Ended {
        id: row.id.to_string(),
        agent: row.agent.to_string(),
        scope: row.scope.to_string(),
        phase: row.phase.clone(),
        asked_at: row.created_at,
    }
}
