//! The inbox: what waits; and what the reader is told there, as owner of an agent or as one who looks
//! after security.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use grantwright_approval::console::inbox::{Alarm, Block, Ended, Inbox, Row, inbox};
use grantwright_approval::console::{Frame, Here, Notice, Viewer, page as document};
use grantwright_approval::show::prose;
use grantwright_domain::{AgentId, Digest, Event, HumanId, Scope, Strength};
use grantwright_store::{Loaded, RequestFilter, RequestSummary};
use grantwright_wire::Refusal;
use serde::Deserialize;

use super::desk::{self, Budget};
use super::matter::{At, card};
use super::respond::{Page, html};
use super::{may, request};
use crate::core::Broker;
use crate::error::of_store;
use crate::guards::{group, route};
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
/// Agents that are looked at although all of their requests end late, and requests of each.
const LATER: usize = 64;
const OF_LATER: u32 = 8;
/// Agents of the reader's whose ends are told.
const OWNED: usize = 16;
/// Members see what reviewers say looks wrong.
const SECURITY: &str = "security";
/// So long it is shown (7 days).
const ALARM_MS: i64 = 7 * 86_400_000;
/// Most of them at once.
const ALARMS: usize = 8;
/// Longest words of a reviewer, in columns.
const WORDS: usize = 300;

/// `?done=…`.
#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    done: Option<String>,
}

/// What waits for the reader, most urgent first, then the rest.
pub async fn page(State(broker): Shared, session: Session, Query(asked): Query<Asked>) -> Page {
    let (authority, now) = (broker.authority(), broker.now());
    let at = At { broker: &broker, authority: &authority, now };
    let total = broker.store.count_all_open().await.map_err(of_store)?;
    let open = open(&broker, at, &session.human).await?;
    let ended = RequestFilter { ended: true, limit: ENDED, ..Default::default() };
    let ended = told(at, broker.store.list(ended).await.map_err(of_store)?).await?;
    let owned = owned(at, &session.human).await?;
    let window = broker.config.guards.group_window_ms();
    let together = |rows: Vec<Listed>| -> Vec<Block> {
        let rows = rows.into_iter().map(|l| (l.together, l.row.asked_at, l.row)).collect();
        group::blocks(rows, window).into_iter().map(|rows| Block { rows }).collect()
    };
    let waits = open.mine.len();
    let matter = Inbox {
        alarms: alarms(&broker, at, &session.human).await?,
        mine: together(open.mine),
        others: together(open.others),
        more: usize::try_from(total).unwrap_or(usize::MAX).saturating_sub(open.seen),
        ended: ended.into_iter().filter(|e| owned.iter().all(|o| o.id != e.id)).collect(),
        owned,
        reader: session.human.as_str(),
        csrf: &session.csrf,
        now,
    };
    let viewer = Viewer { human: session.human.as_str(), csrf: &session.csrf };
    let title = match waits {
        0 => "Inbox".to_owned(),
        n => format!("Inbox ({n})"),
    };
    let done = asked.done.as_deref().and_then(request::done).map(Notice::Done);
    let frame = Frame::new(&title, Here::Inbox, viewer).saying(done);
    Ok(html(StatusCode::OK, document(&frame, &inbox(&matter))))
}

/// What can still be decided, as far as the page shows it.
#[derive(Default)]
struct Open {
    mine: Vec<Listed>,
    others: Vec<Listed>,
    seen: usize,
}

/// A row, and what it has in common with others.
struct Listed {
    together: Option<Digest>,
    row: Row,
}

/// Looks through what is open, what ends first first; an agent whose requests all end later than
/// so many of others is looked at all the same.
async fn open(broker: &Arc<Broker>, at: At<'_>, human: &HumanId) -> Result<Open, Refusal> {
    let (mut out, mut budget) = (Open::default(), Budget::of(ANEW));
    let soonest = RequestFilter { open: true, soonest: true, ..Default::default() };
    let filter = RequestFilter { limit: LOOKED_AT, ..soonest.clone() };
    let rows = broker.store.list(filter).await.map_err(of_store)?;
    look(at, human, &rows, &mut budget, &mut out).await?;
    if rows.len() == LOOKED_AT as usize && out.mine.len() < MINE {
        let met: BTreeSet<&AgentId> = rows.iter().map(|row| &row.agent).collect();
        let all = broker.store.open_by_agent().await.map_err(of_store)?;
        for (agent, _) in all.into_iter().filter(|(agent, _)| !met.contains(agent)).take(LATER) {
            let theirs = RequestFilter { agent: Some(agent), limit: OF_LATER, ..soonest.clone() };
            let rows = broker.store.list(theirs).await.map_err(of_store)?;
            look(at, human, &rows, &mut budget, &mut out).await?;
        }
    }
    budget.catch_up(broker);
    Ok(out)
}

async fn look(
    at: At<'_>,
    human: &HumanId,
    rows: &[RequestSummary],
    budget: &mut Budget,
    out: &mut Open,
) -> Result<(), Refusal> {
    for row in rows {
        // What ends later than a page full of what waits for the reader can wait too.
        if out.mine.len() >= MINE {
            break;
        }
        let Some(loaded) = budget.proven(at.broker, row).await? else { continue };
        let state = &loaded.state;
        let Some(scope) = at.authority.catalog.get(&state.terms.template) else { continue };
        if !state.phase.is_open() || at.now >= state.expires_at() {
            out.seen += 1;
            continue;
        }
        let mine = may::waits_for(at, human, &loaded, scope);
        let (to, most) = if mine { (&mut out.mine, MINE) } else { (&mut out.others, OTHERS) };
        if to.len() < most {
            out.seen += 1;
            to.push(listed(at, row, &loaded, scope, human, mine));
        }
    }
    Ok(())
}

fn listed(
    at: At<'_>,
    row: &RequestSummary,
    loaded: &Loaded,
    scope: &Scope,
    human: &HumanId,
    mine: bool,
) -> Listed {
    let state = &loaded.state;
    let first = route::known(at.broker, state).unwrap_or_default();
    let soon = at.broker.config.guards.escalate_before_ms();
    let card = card(at, loaded, scope);
    Listed {
        together: group::key(loaded),
        row: Row {
            id: row.id.to_string(),
            asked_at: row.created_at,
            approved: may::has_approved(loaded, human),
            first: first.iter().map(ToString::to_string).collect(),
            everybody: soon.is_some_and(|ms| at.now >= state.expires_at().plus_millis(-ms)),
            seen: state.last_seen.unwrap_or(0),
            version: state.version,
            approve_here: mine
                && card.state.strength == Some(Strength::Chat)
                && card.state.confirm.is_none()
                && card.full_view.is_empty(),
            card,
        },
    }
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
    let (mut out, mut budget) = (Vec::new(), Budget::of(ANEW));
    for id in desk::looks_wrong(broker).await? {
        if out.len() >= ALARMS {
            break;
        }
        let Some(loaded) = budget.ended(broker, &id).await? else { continue };
        let vote = loaded.leaves.iter().enumerate().find_map(|(n, (_, e))| match e {
            Event::Voted(vote) if vote.reason_code == "looks_wrong" => Some((n, vote)),
            _ => None,
        });
        let Some((n, vote)) = vote else { continue };
        if at.now.since(vote.at) > ALARM_MS {
            break;
        }
        let words = words(&loaded, n).map(|text| prose(text, WORDS).text);
        let terms = &loaded.state.terms;
        let row = Ended {
            id: id.to_string(),
            agent: terms.agent.to_string(),
            scope: terms.scope.to_string(),
            what: String::new(),
            phase: loaded.state.phase.word().to_owned(),
            how: String::new(),
            asked_at: loaded.state.requested_at,
        };
        out.push(Alarm {
            row: said(at, row, &loaded),
            by: vote.human.to_string(),
            at: vote.at,
            words: words.unwrap_or_default(),
        });
    }
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
            Some(loaded) => said(at, ended(row), &loaded),
            None => ended(row),
        });
    }
    Ok(out)
}

fn said(at: At<'_>, row: Ended, loaded: &Loaded) -> Ended {
    let Some(scope) = at.authority.catalog.get(&loaded.state.terms.template) else {
        return row;
    };
    let card = card(at, loaded, scope);
    Ended { what: card.headline, how: card.state.sentence, ..row }
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
