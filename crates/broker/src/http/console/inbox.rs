//! The inbox: what waits; and what the reader is told there, as owner of an agent or as one who looks
//! after security. `/?of=ID` is the same for what waits of one request's task alone, `/?from=PLACE`
//! the page of what ends later.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use grantwright_approval::console::inbox::{
    Alarm, Block, Ended, Inbox, Place, Row, Task, inbox, place, task,
};
use grantwright_approval::console::{Frame, Here, Notice, Viewer, page as document};
use grantwright_approval::show::prose;
use grantwright_domain::{AgentId, Digest, Event, HumanId, RequestId, Scope, Strength, Timestamp};
use grantwright_store::{Loaded, RequestFilter, RequestSummary};
use grantwright_wire::Refusal;
use serde::Deserialize;

use super::desk::{self, Budget};
use super::matter::{At, card};
use super::respond::{Page, html};
use super::{may, request};
use crate::core::Broker;
use crate::error::{no_such_request, of_store};
use crate::guards::{group, route};
use crate::http::Shared;
use crate::http::session::Session;

/// Open requests that are looked at, those that end first.
const LOOKED_AT: u32 = 1024;
/// Blocks of what waits for the reader.
const MINE: usize = 50;
/// Blocks of what waits for others.
const OTHERS: usize = 20;
/// Requests of a block that the inbox shows; its task's page has them all.
const OF_BLOCK: usize = 3;
/// Requests of a block that are looked at closely enough to know for whom they wait.
const JUDGED: usize = 16;
/// Requests on the page of one task.
const OF_TASK: usize = 25;
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

/// `?done=…&from=…&of=…`.
#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    done: Option<String>,
    from: Option<String>,
    of: Option<String>,
}

/// What waits for the reader, most urgent first, then the rest.
pub async fn page(State(broker): Shared, session: Session, Query(asked): Query<Asked>) -> Page {
    let (authority, now) = (broker.authority(), broker.now());
    let at = At { broker: &broker, authority: &authority, now };
    let from = asked.from.as_deref().and_then(place);
    let viewer = Viewer { human: session.human.as_str(), csrf: &session.csrf };
    let done = asked.done.as_deref().and_then(request::done).map(Notice::Done);
    let (title, content) = match &asked.of {
        Some(of) => {
            let matter = of_task(&broker, at, &session, of, from).await?;
            ("One task".to_owned(), task(&matter))
        }
        None => {
            let matter = all(&broker, at, &session, from).await?;
            let title = match (matter.waits, matter.uncounted) {
                (0, _) => "Inbox".to_owned(),
                (n, false) => format!("Inbox ({n})"),
                (n, true) => format!("Inbox ({n}+)"),
            };
            (title, inbox(&matter))
        }
    };
    let frame = Frame::new(&title, Here::Inbox, viewer).saying(done);
    Ok(html(StatusCode::OK, document(&frame, &content)))
}

async fn all<'a>(
    broker: &Arc<Broker>,
    at: At<'_>,
    session: &'a Session,
    from: Option<Place>,
) -> Result<Inbox<'a>, Refusal> {
    let total = broker.store.count_all_open().await.map_err(of_store)?;
    let open = open(broker, at, &session.human, from).await?;
    let ended = RequestFilter { ended: true, limit: ENDED, ..Default::default() };
    let ended = told(at, broker.store.list(ended).await.map_err(of_store)?).await?;
    let owned = owned(at, &session.human).await?;
    Ok(Inbox {
        alarms: alarms(broker, at, &session.human).await?,
        mine: open.mine,
        others: open.others,
        waits: open.waits,
        uncounted: open.uncounted || open.later.is_some(),
        open: usize::try_from(total).unwrap_or(usize::MAX),
        later: open.later,
        follows: from.is_some(),
        ended: ended.into_iter().filter(|e| owned.iter().all(|o| o.id != e.id)).collect(),
        owned,
        reader: session.human.as_str(),
        csrf: &session.csrf,
        now: at.now,
    })
}

/// What can still be decided, as far as the page shows it.
#[derive(Default)]
struct Open {
    mine: Vec<Block>,
    others: Vec<Block>,
    waits: usize,
    uncounted: bool,
    later: Option<Place>,
}

/// An open request, proven.
struct Waiting {
    place: Place,
    row: RequestSummary,
    loaded: Arc<Loaded>,
    scope: Arc<Scope>,
}

/// What was looked at.
#[derive(Default)]
struct Looked {
    /// With what each has in common with others, and when it was asked.
    waiting: Vec<(Option<Digest>, Timestamp, Waiting)>,
    /// Where the first stands that was not.
    later: Option<Place>,
}

impl Looked {
    fn ends_at(&mut self, place: Place) {
        self.later = Some(self.later.map_or(place, |known| known.min(place)));
    }
}

/// Looks through what is open, what ends first first; an agent whose requests all end later than
/// so many of others is looked at all the same.
async fn open(
    broker: &Arc<Broker>,
    at: At<'_>,
    human: &HumanId,
    from: Option<Place>,
) -> Result<Open, Refusal> {
    let (mut looked, mut budget) = (Looked::default(), Budget::of(ANEW));
    let soonest = RequestFilter { open: true, soonest: true, ..Default::default() };
    let filter = RequestFilter { limit: LOOKED_AT, soonest_from: from, ..soonest.clone() };
    let rows = broker.store.list(filter).await.map_err(of_store)?;
    look(at, &rows, &mut budget, &mut looked).await?;
    let mut late = Looked::default();
    if rows.len() == LOOKED_AT as usize {
        rows.last().into_iter().for_each(|row| looked.ends_at(place_of(row)));
        if from.is_none() {
            let met: BTreeSet<&AgentId> = rows.iter().map(|row| &row.agent).collect();
            let all = broker.store.open_by_agent().await.map_err(of_store)?;
            for (agent, _) in all.into_iter().filter(|(agent, _)| !met.contains(agent)).take(LATER)
            {
                let theirs =
                    RequestFilter { agent: Some(agent), limit: OF_LATER, ..soonest.clone() };
                let rows = broker.store.list(theirs).await.map_err(of_store)?;
                look(at, &rows, &mut budget, &mut late).await?;
            }
        }
    }
    budget.catch_up(broker);
    let window = broker.config.guards.group_window_ms();
    looked.waiting.extend(late.waiting);
    let mut out = Open { later: looked.later, ..Open::default() };
    for block in group::blocks(looked.waiting, window) {
        if out.mine.len() >= MINE {
            let next = block.iter().map(|w| w.place).min();
            out.later = out.later.into_iter().chain(next).min();
            break;
        }
        share(at, human, block, &mut out);
    }
    Ok(out)
}

fn place_of(row: &RequestSummary) -> Place {
    (row.due_at.unwrap_or_default(), row.first_index)
}

async fn look(
    at: At<'_>,
    rows: &[RequestSummary],
    budget: &mut Budget,
    looked: &mut Looked,
) -> Result<(), Refusal> {
    for row in rows {
        let Some(loaded) = budget.proven(at.broker, row).await? else {
            // It is proven behind this page, and stands on the next.
            if budget.is_spent() {
                looked.ends_at(place_of(row));
            }
            continue;
        };
        let state = &loaded.state;
        let Some(scope) = at.authority.catalog.get(&state.terms.template) else { continue };
        if state.phase.is_open() && at.now < state.expires_at() {
            let key = group::key(&loaded);
            let scope = Arc::clone(scope);
            let waiting = Waiting { place: place_of(row), row: row.clone(), loaded, scope };
            looked.waiting.push((key, row.created_at, waiting));
        }
    }
    Ok(())
}

/// One block's requests: those that wait for the reader, and those that do not.
fn share(at: At<'_>, human: &HumanId, mut block: Vec<Waiting>, out: &mut Open) {
    block.sort_by_key(|w| w.place);
    let unjudged = block.len().saturating_sub(JUDGED);
    let (mut mine, mut others) = (Vec::new(), Vec::new());
    for waiting in block.iter().take(JUDGED) {
        let is_mine = may::waits_for(at, human, &waiting.loaded, &waiting.scope);
        if is_mine { mine.push(waiting) } else { others.push(waiting) }
    }
    out.waits += mine.len();
    let (of_mine, of_others) = if mine.is_empty() { (0, unjudged) } else { (unjudged, 0) };
    out.uncounted |= unjudged > 0;
    let add = |to: &mut Vec<Block>, from: &[&Waiting], unjudged: usize, mine: bool| {
        let rows: Vec<Row> = from.iter().take(OF_BLOCK).map(|w| row(at, w, human, mine)).collect();
        let more = from.len() - rows.len() + unjudged;
        if !rows.is_empty() {
            to.push(Block { rows, more });
        }
    };
    add(&mut out.mine, &mine, of_mine, true);
    if out.others.len() < OTHERS {
        add(&mut out.others, &others, of_others, false);
    }
}

fn row(at: At<'_>, waiting: &Waiting, human: &HumanId, mine: bool) -> Row {
    let Waiting { place, row, loaded, scope } = waiting;
    let state = &loaded.state;
    let first = route::known(at.broker, state).unwrap_or_default();
    let soon = at.broker.config.guards.escalate_before_ms();
    let card = card(at, loaded, scope);
    Row {
        id: row.id.to_string(),
        place: *place,
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
    }
}

/// What waits of the task of one request, most urgent first, whenever it was asked.
async fn of_task<'a>(
    broker: &Arc<Broker>,
    at: At<'_>,
    session: &'a Session,
    of: &'a str,
    from: Option<Place>,
) -> Result<Task<'a>, Refusal> {
    let (mut looked, mut budget) = (Looked::default(), Budget::of(ANEW));
    let id = RequestId::parse(of).map_err(|_| no_such_request())?;
    let one = broker.store.load(&id).await.map_err(of_store)?.ok_or_else(no_such_request)?;
    let filter = RequestFilter {
        open: true,
        soonest: true,
        soonest_from: from,
        agent: Some(one.state.terms.agent.clone()),
        limit: LOOKED_AT,
        ..Default::default()
    };
    let rows = broker.store.list(filter).await.map_err(of_store)?;
    look(at, &rows, &mut budget, &mut looked).await?;
    budget.catch_up(broker);
    if rows.len() == LOOKED_AT as usize {
        rows.last().into_iter().for_each(|row| looked.ends_at(place_of(row)));
    }
    let key = group::key(&one).unwrap_or_else(|| Digest::of("channel-task", of.as_bytes()));
    let (human, mut shown) = (&session.human, Vec::new());
    for (theirs, _, waiting) in std::mem::take(&mut looked.waiting) {
        let is_it = theirs == Some(key) || waiting.row.id == id;
        if !is_it {
            continue;
        }
        if shown.len() >= OF_TASK {
            looked.ends_at(waiting.place);
            break;
        }
        let mine = may::waits_for(at, human, &waiting.loaded, &waiting.scope);
        shown.push(row(at, &waiting, human, mine));
    }
    Ok(Task {
        of,
        block: Block { rows: shown, more: 0 },
        later: looked.later,
        reader: human.as_str(),
        csrf: &session.csrf,
        now: at.now,
    })
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
