//! One request.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use grantwright_approval::console::request::{May, Page as Matter, PolicyText, Routing, request};
use grantwright_approval::console::{Frame, Here, Notice, Viewer, page as document, story};
use grantwright_approval::whole;
use grantwright_domain::{Phase, RequestId, Scope, Verdict};
use grantwright_store::{Loaded, RequestFilter};
use grantwright_wire::Refusal;
use serde::Deserialize;

use super::matter::{At, material};
use super::respond::{Page, html};
use super::{inbox, may, narrow};
use crate::core::Broker;
use crate::error::{no_such_request, of_store, refuse};
use crate::guards::route;
use crate::http::Shared;
use crate::http::session::Session;
use crate::issue::decide;

/// Earlier requests of the agent that are shown.
const BEFORE: u32 = 8;

/// `?full=1&done=…`.
#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    full: Option<String>,
    done: Option<String>,
}

/// The page.
pub async fn page(
    State(broker): Shared,
    session: Session,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
) -> Page {
    let loaded = load(&broker, &id).await?;
    let notice = asked.done.as_deref().and_then(done).map(Notice::Done);
    Ok(render(&broker, &session, &loaded, asked.full.is_some(), notice, StatusCode::OK).await?)
}

/// A request by what an address says.
///
/// # Errors
/// 404.
pub async fn load(broker: &Broker, id: &str) -> Result<Loaded, Refusal> {
    let id = RequestId::parse(id).map_err(|_| no_such_request())?;
    broker.store.load(&id).await.map_err(of_store)?.ok_or_else(no_such_request)
}

/// The declaration that the request pins.
///
/// # Errors
/// 503 when it is missing.
pub fn pinned<'a>(at: At<'a>, loaded: &Loaded) -> Result<&'a Scope, Refusal> {
    let scope = at.authority.catalog.get(&loaded.state.terms.template);
    scope.map(AsRef::as_ref).ok_or_else(|| {
        refuse(
            503,
            "internal",
            "the pinned template is missing",
            "deny, and let the agent ask anew",
        )
    })
}

/// What is said after a decision; the words are ours, whatever the address says.
pub(super) fn done(verb: &str) -> Option<&'static str> {
    Some(match verb {
        "approve" => "You approved it. Until the agent collects it, you can withdraw.",
        "ask" => "Your question is on its way to the agent. The clock pauses until it answers.",
        "deny" => "You denied it. The agent is told.",
        "narrow" => "You narrowed it. What it became is below; earlier votes no longer count.",
        "withdraw" => "You withdrew your approval.",
        _ => return None,
    })
}

/// The page of a request, with something said above it.
///
/// # Errors
/// When something cannot be read.
pub async fn render(
    broker: &Broker,
    session: &Session,
    loaded: &Loaded,
    full: bool,
    notice: Option<Notice<'_>>,
    status: StatusCode,
) -> Result<Response, Refusal> {
    let (authority, now) = (broker.authority(), broker.now());
    let at = At { broker, authority: &authority, now };
    let scope = pinned(at, loaded)?;
    let state = &loaded.state;
    let before = RequestFilter {
        agent: Some(state.terms.agent.clone()),
        before: loaded.leaves.first().map(|(index, _)| *index),
        limit: BEFORE,
        ..RequestFilter::default()
    };
    let before = broker.store.list(before).await.map_err(of_store)?;
    let before = inbox::told(at, before).await?;
    let (card, whole) = material(at, loaded, state, scope, |m| {
        let card = grantwright_approval::card(m);
        let whole = if full { whole(m, &card.full_view) } else { Vec::new() };
        (card, whole)
    });
    let expired = state.phase.is_open() && now >= state.expires_at();
    let eligible = match expired {
        true => Err("Its time is over.".to_owned()),
        false => may::decide(at, &session.human, loaded, scope),
    };
    let asker = state.open_question().map(|q| &q.human);
    let id = state.terms.request_id.to_string();
    let matter = Matter {
        id: &id,
        csrf: &session.csrf,
        reader: session.human.as_str(),
        routing: routing(at, loaded, scope),
        card: &card,
        may: May {
            decide: eligible,
            approve: match asker.filter(|h| **h != session.human) {
                Some(asker) => Err(format!(
                    "{asker} asked the agent; until it answers only {asker} may approve."
                )),
                None => Ok(()),
            },
            withdraw: state.phase.is_open() && may::has_approved(loaded, &session.human),
            narrow: state.phase != Phase::Recorded && narrow::is_possible(state, scope),
        },
        seen: state.last_seen.unwrap_or(0),
        version: state.version,
        whole,
        suggested: &scope.questions,
        policies: state.verdict.as_ref().map_or_else(Vec::new, |v| policies(at, v)),
        before,
        steps: (0..)
            .zip(&loaded.leaves)
            .map(|(n, (index, e))| story::step(*index, e, inbox::words(loaded, n)))
            .collect(),
        asked_at: state.requested_at,
        scope: state.terms.scope.as_str(),
        now,
    };
    let title = card.headline.replace('`', "");
    let viewer = Viewer { human: session.human.as_str(), csrf: &session.csrf };
    let frame = Frame::new(&title, Here::Inbox, viewer).saying(notice);
    Ok(html(status, document(&frame, &request(&matter))))
}

/// Who is told when, of a request that waits; nothing once it does not, or while the agent is asked.
fn routing(at: At<'_>, loaded: &Loaded, scope: &Scope) -> Routing {
    let (state, guards) = (&loaded.state, &at.broker.config.guards);
    if state.phase != Phase::Pending {
        return Routing::default();
    }
    let first = route::known(at.broker, state).unwrap_or_default();
    let first = first.iter().map(ToString::to_string).collect();
    if state.open_question().is_some() {
        return Routing { first, ..Routing::default() };
    }
    let risk = scope.labels.risk.as_str();
    let begun = guards.begun(risk, state.requested_at);
    let everybody = guards.escalate_before_ms().map(|ms| state.expires_at().plus_millis(-ms));
    let again = guards.remind_after_ms().map(|ms| begun.plus_millis(ms));
    Routing {
        first,
        quiet_until: guards.quiet_until(risk, at.now),
        // With little time from the start there is none before everybody is told.
        again: again.filter(|again| everybody.is_none_or(|all| *again < all)),
        everybody,
    }
}

/// The policies that decided, with their text where they are still the ones in force.
fn policies(at: At<'_>, verdict: &Verdict) -> Vec<PolicyText> {
    let set = decide::in_force(at.broker, at.authority).ok();
    let set = set.filter(|set| set.digest() == verdict.policy_set);
    let text = |id: &String| {
        let place = set.as_ref().and_then(|s| s.place(id));
        let place = place.map(|(file, line)| format!("{file}, line {line}"));
        let text = set.as_ref().and_then(|s| s.source(id)).unwrap_or_default().to_owned();
        let place = place.unwrap_or_else(|| "of a policy set that is no longer in force".into());
        PolicyText { id: id.clone(), place, text }
    };
    verdict.policies.iter().map(text).collect()
}
