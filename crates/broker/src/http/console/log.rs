//! Searching the log, and the proof that a request's leaves are in it.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use grantwright_approval::console::log::{Log, Terms, log};
use grantwright_approval::console::{Frame, Here, Viewer, page as document};
use grantwright_domain::{AgentId, HumanId, Phase, ScopeName, Timestamp};
use grantwright_store::RequestSearch;
use grantwright_wire::Refusal;
use serde_json::{Value, json};

use super::inbox;
use super::request::load;
use super::respond::{Page, html};
use crate::error::{of_store, refuse};
use crate::http::session::Session;
use crate::http::{Refused, Shared};

/// Rows of one page.
const ROWS: u32 = 50;
/// Names that are offered to choose from.
const OFFERED: usize = 200;
/// Most leaves of one request that are proven in a page.
const PROVEN: usize = 64;
/// Longest words to search for, in characters.
const WORDS: usize = 100;

/// The search.
pub async fn page(
    State(broker): Shared,
    session: Session,
    Query(asked): Query<BTreeMap<String, String>>,
) -> Page {
    let word = |name: &str| asked.get(name).map(|t| t.trim().to_owned()).unwrap_or_default();
    let terms = Terms {
        agent: word("agent"),
        human: word("human"),
        scope: word("scope"),
        outcome: word("outcome"),
        from: word("from"),
        until: word("until"),
        text: word("text"),
        resource: word("resource"),
    };
    let search = RequestSearch {
        before: asked.get("before").and_then(|b| b.parse().ok()),
        limit: ROWS,
        ..search(&terms)?
    };
    let found = broker.store.search(search).await.map_err(of_store)?;
    let authority = broker.authority();
    let head = broker.store.head();
    let matter = Log {
        next: found.next.map(|(before, seen)| (again(&asked, before), seen)),
        rows: found.rows.iter().map(inbox::ended).collect(),
        agents: authority.agents.keys().take(OFFERED).map(ToString::to_string).collect(),
        scopes: authority.scopes.keys().take(OFFERED).map(ToString::to_string).collect(),
        terms,
        leaves: head.size,
        checkpoint: &head.checkpoint,
        now: broker.now(),
    };
    let viewer = Viewer { human: session.human.as_str(), csrf: &session.csrf };
    let frame = Frame::new("Log", Here::Log, viewer);
    Ok(html(StatusCode::OK, document(&frame, &log(&matter))))
}

fn again(asked: &BTreeMap<String, String>, before: u64) -> String {
    let mut query = form_urlencoded::Serializer::new(String::from("/log?"));
    query.extend_pairs(asked.iter().filter(|(name, _)| *name != "before"));
    query.append_pair("before", &before.to_string());
    query.finish()
}

/// What is searched for, from its words.
///
/// # Errors
/// 400 `malformed`.
pub(in crate::http) fn search(terms: &Terms) -> Result<RequestSearch, Refusal> {
    let wrong = |what: String| refuse(400, "malformed", what, "correct it and search again");
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let named = |e: &dyn std::fmt::Display| wrong(e.to_string());
    let outcome = |word: String| {
        let all = [
            Phase::Recorded,
            Phase::Pending,
            Phase::Approved,
            Phase::Intended,
            Phase::Granted,
            Phase::Denied,
            Phase::Expired,
            Phase::Cancelled,
            Phase::Failed,
            Phase::Unknown,
        ];
        all.into_iter()
            .find(|p| p.word() == word)
            .ok_or_else(|| wrong("there is no such outcome".into()))
    };
    let day = |text: String, end: bool| {
        let is_day = text.len() == 10;
        let at = if is_day { format!("{text}T00:00:00Z") } else { text };
        let at = Timestamp::parse(&at).map_err(|e| named(&e))?;
        Ok::<_, Refusal>(if is_day && end { at.plus_seconds(86_400) } else { at })
    };
    if terms.text.chars().count() > WORDS {
        return Err(wrong(format!("words to search for are at most {WORDS} characters")));
    }
    if terms.resource.chars().count() > WORDS {
        return Err(wrong(format!("a resource is at most {WORDS} characters")));
    }
    Ok(RequestSearch {
        agent: given(&terms.agent)
            .map(|t| AgentId::parse(&t).map_err(|e| named(&e)))
            .transpose()?,
        scope: given(&terms.scope)
            .map(|t| ScopeName::parse(&t).map_err(|e| named(&e)))
            .transpose()?,
        human: given(&terms.human)
            .map(|t| HumanId::parse(&t).map_err(|e| named(&e)))
            .transpose()?,
        phase: given(&terms.outcome).map(outcome).transpose()?,
        text: given(&terms.text),
        resource: given(&terms.resource),
        from: given(&terms.from).map(|t| day(t, false)).transpose()?,
        until: given(&terms.until).map(|t| day(t, true)).transpose()?,
        ..RequestSearch::default()
    })
}

/// A request's leaves with their inclusion proofs under the newest checkpoint, for the browser to
/// verify: `{"vkey", "checkpoint", "leaves": [{"index", "leaf", "proof"}]}`, bytes in base64.
pub async fn proof(
    State(broker): Shared,
    _session: Session,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refused> {
    let loaded = load(&broker, &id).await?;
    let head = broker.store.head();
    let mut leaves = Vec::new();
    for (index, event) in loaded.leaves.iter().take(PROVEN) {
        if *index >= head.size {
            continue;
        }
        let leaf = event.to_leaf().map_err(|_| {
            refuse(500, "internal", "a leaf cannot be written", "use `grantwright audit`")
        })?;
        let path = broker.store.inclusion(*index, head.size).await.map_err(of_store)?;
        let path: Vec<String> = path.iter().map(|h| BASE64_STANDARD.encode(h.as_bytes())).collect();
        leaves.push(json!({
            "index": index, "leaf": BASE64_STANDARD.encode(leaf), "proof": path,
        }));
    }
    let vkey = broker.authority().vkey.clone();
    Ok(Json(json!({ "vkey": vkey, "checkpoint": head.checkpoint.as_ref(), "leaves": leaves })))
}
