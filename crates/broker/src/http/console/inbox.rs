//! The inbox: what waits; and what the reader is told there, as owner of an agent or as one who looks
//! after security.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use grantwright_approval::console::inbox::{Alarm, Ended, Inbox, Row, inbox};
use grantwright_approval::console::{Frame, Here, Viewer, page as document};
use grantwright_approval::show::prose;
use grantwright_domain::{Event, HumanId, Phase};
use grantwright_store::{Loaded, RequestFilter, RequestSearch, RequestSummary};
use grantwright_wire::Refusal;

use super::desk::{self, Budget};
use super::matter::{At, card};
use super::may;
use super::respond::{Page, html};
use crate::core::Broker;
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
/// Requests that one view proves anew at most, for each of its lists.
const ANEW: usize = 64;
/// Agents of the reader's whose ends are told.
const OWNED: usize = 16;
/// Members see what reviewers say looks wrong.
const SECURITY: &str = "security";
/// Denied requests that are looked through for that, newest first.
const DENIED: u32 = 256;
/// So long it is shown (7 days).
const ALARM_MS: i64 = 7 * 86_400_000;
/// Most of them at once.
const ALARMS: usize = 8;
/// Longest words of a reviewer, in columns.
const WORDS: usize = 300;

/// What waits for the reader, most urgent first, then the rest.
pub async fn page(State(broker): Shared, session: Session) -> Page {
    let (authority, now) = (broker.authority(), broker.now());
    let at = At { broker: &broker, authority: &authority, now };
    let open = RequestFilter { open: true, soonest: true, limit: LOOKED_AT, ..Default::default() };
    let rows = broker.store.list(open).await.map_err(of_store)?;
    let total = broker.store.count_all_open().await.map_err(of_store)?;
    let (mut mine, mut others, mut seen) = (Vec::new(), Vec::new(), 0usize);
    let mut budget = Budget::of(ANEW);
    for row in &rows {
        // What ends later than a page full of what waits for the reader can wait too.
        if mine.len() >= MINE {
            break;
        }
        let Some(loaded) = budget.proven(&broker, row).await? else { continue };
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
    budget.catch_up(&broker);
    let ended = RequestFilter { ended: true, limit: ENDED, ..Default::default() };
    let ended = told(at, broker.store.list(ended).await.map_err(of_store)?).await?;
    let owned = owned(at, &session.human).await?;
    let matter = Inbox {
        alarms: alarms(&broker, at, &session.human).await?,
        mine,
        others,
        more: usize::try_from(total).unwrap_or(usize::MAX).saturating_sub(seen),
        ended: ended.into_iter().filter(|e| owned.iter().all(|o| o.id != e.id)).collect(),
        owned,
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

/// How requests of the reader's agents ended, newest first.
async fn owned(at: At<'_>, human: &HumanId) -> Result<Vec<Ended>, Refusal> {
    let owner = |a: &grantwright_domain::authority::Agent| a.owner() == Some(human);
    let mine = at.authority.agents.iter().filter(|(_, a)| owner(a)).map(|(name, _)| name);
    let mut rows = Vec::new();
    for agent in mine.take(OWNED) {
        let ended = RequestFilter {
            ended: true,
            agent: Some(agent.clone()),
            limit: ENDED,
            ..Default::default()
        };
        rows.extend(at.broker.store.list(ended).await.map_err(of_store)?);
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.first_index));
    rows.truncate(ENDED as usize);
    told(at, rows).await
}

/// What reviewers say looks wrong, newest first: for members of [`SECURITY`].
async fn alarms(broker: &Arc<Broker>, at: At<'_>, human: &HumanId) -> Result<Vec<Alarm>, Refusal> {
    if !at.authority.groups_of(human, at.now).iter().any(|g| g.as_str() == SECURITY) {
        return Ok(Vec::new());
    }
    let denied = RequestSearch {
        phase: Some(Phase::Denied),
        from: Some(at.now.plus_millis(-ALARM_MS)),
        limit: DENIED,
        ..Default::default()
    };
    let found = at.broker.store.search(denied).await.map_err(of_store)?;
    let (mut out, mut budget) = (Vec::new(), Budget::of(ANEW));
    for row in &found.rows {
        if out.len() >= ALARMS {
            break;
        }
        let Some(loaded) = budget.proven(broker, row).await? else { continue };
        let vote = loaded.leaves.iter().enumerate().find_map(|(n, (_, e))| match e {
            Event::Voted(vote) if vote.reason_code == "looks_wrong" => Some((n, vote)),
            _ => None,
        });
        if let Some((n, vote)) = vote {
            let words = words(&loaded, n).map(|text| prose(text, WORDS).text);
            out.push(Alarm {
                row: full(at, row, &loaded),
                by: vote.human.to_string(),
                at: vote.at,
                words: words.unwrap_or_default(),
            });
        }
    }
    budget.catch_up(broker);
    Ok(out)
}

/// The words that a person gave with the vote or the narrowing that is the request's `n`th leaf.
#[must_use]
pub fn words(loaded: &Loaded, n: usize) -> Option<&str> {
    let names = [format!("vote:{n}"), format!("narrowed:{n}")];
    loaded.texts.iter().find(|t| names.contains(&t.name)).map(|t| t.text.as_str())
}

/// Rows that say in words what was asked and how it ended.
///
/// # Errors
/// When a request cannot be read, or does not prove.
pub async fn told(at: At<'_>, rows: Vec<RequestSummary>) -> Result<Vec<Ended>, Refusal> {
    let mut out = Vec::with_capacity(rows.len());
    for row in &rows {
        out.push(match desk::proven(at.broker, row).await? {
            Some(loaded) => full(at, row, &loaded),
            None => ended(row),
        });
    }
    Ok(out)
}

fn full(at: At<'_>, row: &RequestSummary, loaded: &Loaded) -> Ended {
    let Some(scope) = at.authority.catalog.get(&loaded.state.terms.template) else {
        return ended(row);
    };
    let card = card(at, loaded, scope);
    Ended { what: card.headline, how: card.state.sentence, ..ended(row) }
}

/// A row of what is known of a request without proving it.
#[must_use]
pub fn ended(row: &RequestSummary) -> Ended {
    Ended {
        id: row.id.to_string(),
        agent: row.agent.to_string(),
        scope: row.scope.to_string(),
        what: String::new(),
        phase: row.phase.clone(),
        how: String::new(),
        asked_at: row.created_at,
    }
}
