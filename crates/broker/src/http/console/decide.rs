//! Decisions from the console's forms. Each goes through [`people::act`], as from every channel; a
//! refusal comes back on the request's own page.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use grantwright_approval::console::Notice;
use grantwright_domain::{Digest, RequestId};
use grantwright_wire::Refusal;

use super::matter::{At, card};
use super::may::CHANNEL;
use super::request;
use super::respond::{Code, Page, Posted};
use crate::core::Broker;
use crate::error::{no_such_request, refuse};
use crate::http::Shared;
use crate::http::session::Session;
use crate::people::{self, Actor, Intention};

/// A form's fields.
pub type Fields = BTreeMap<String, String>;

/// A field that must be there.
///
/// # Errors
/// 400.
pub fn field<'a>(fields: &'a Fields, name: &str) -> Result<&'a str, Refusal> {
    fields.get(name).map(String::as_str).ok_or_else(|| {
        refuse(400, "malformed", format!("the form has no `{name}`"), "send the form of the page")
    })
}

/// A text that may be left empty.
fn text(fields: &Fields, name: &str) -> Option<String> {
    fields.get(name).filter(|t| !t.trim().is_empty()).cloned()
}

/// Approves the very digest that the page showed, having seen what it showed.
pub async fn approve(State(broker): Shared, Path(id): Path<String>, posted: Posted) -> Page {
    let work = async |fields: &Fields| {
        let seen = field(fields, "seen")?.parse().map_err(|_| {
            refuse(400, "malformed", "`seen` is not a number", "send the form of the page")
        })?;
        if !fields.contains_key("opened") {
            all_was_shown(&broker, &id).await?;
        }
        let confirm = text(fields, "confirm");
        Ok(Intention::Approve { reason: text(fields, "reason"), seen: Some(seen), confirm })
    };
    act(&broker, &id, &posted, "approve", work).await
}

/// What is too long for the card must be opened before it can be approved.
///
/// # Errors
/// 409 `not_opened`; when the request cannot be read.
pub async fn all_was_shown(broker: &Broker, id: &str) -> Result<(), Refusal> {
    let loaded = request::load(broker, id).await?;
    let (authority, now) = (broker.authority(), broker.now());
    let at = At { broker, authority: &authority, now };
    let card = card(at, &loaded, request::pinned(at, &loaded)?);
    match grantwright_approval::console::request::unopened(&card.full_view) {
        what if what.is_empty() => Ok(()),
        what => Err(refuse(409, "not_opened", what, "open it in full, then approve")),
    }
}

/// Denies, with a one-tap reason and words if there are any.
pub async fn deny(State(broker): Shared, Path(id): Path<String>, posted: Posted) -> Page {
    let work = async |fields: &Fields| {
        let reason_code = fields.get("reason_code").cloned().unwrap_or_default();
        Ok(Intention::Deny { reason: text(fields, "reason"), reason_code })
    };
    act(&broker, &id, &posted, "deny", work).await
}

/// Asks the agent: a suggested question, or the person's own.
pub async fn ask(State(broker): Shared, Path(id): Path<String>, posted: Posted) -> Page {
    let work = async |fields: &Fields| {
        let asked = text(fields, "suggested").or_else(|| text(fields, "text"));
        asked.map(|text| Intention::Ask { text }).ok_or_else(|| {
            refuse(400, "malformed", "there is no question", "write one, or choose one")
        })
    };
    act(&broker, &id, &posted, "ask", work).await
}

/// Takes an approval back.
pub async fn withdraw(State(broker): Shared, Path(id): Path<String>, posted: Posted) -> Page {
    act(&broker, &id, &posted, "withdraw", async |_| Ok(Intention::Withdraw)).await
}

/// Does what the form says, and leads back to the request's page.
///
/// # Errors
/// When the request cannot be read.
pub async fn act(
    broker: &Broker,
    id: &str,
    posted: &Posted,
    verb: &str,
    work: impl AsyncFnOnce(&Fields) -> Result<Intention, Refusal>,
) -> Page {
    let session = &posted.0.session;
    let done = async {
        let fields = posted.0.form()?;
        let digest: Digest = Digest::parse(field(&fields, "digest")?).map_err(|_| {
            refuse(400, "malformed", "`digest` is none", "send the form of the page")
        })?;
        let what = work(&fields).await?;
        let request = RequestId::parse(id).map_err(|_| no_such_request())?;
        let actor = Actor { human: session.human.clone(), channel: CHANNEL };
        let why = text(&fields, "why");
        people::because(broker, &actor, &request, digest, &what, why.as_deref()).await
    };
    let listed = posted.0.form().ok().and_then(|fields| fields.get("listed").cloned());
    match (done.await, listed.map(|of| RequestId::parse(&of))) {
        // From the page of one task back to it; from a block of the inbox to the inbox: the next of
        // the task is there.
        (Ok(_), Some(Ok(of))) => Ok(to(format!("/?of={of}&done={verb}"))),
        (Ok(_), Some(Err(_))) => Ok(to(format!("/?done={verb}"))),
        (Ok(_), None) => Ok(to(format!("/requests/{id}?done={verb}"))),
        (Err(refusal), _) => refused(broker, session, id, refusal).await,
    }
}

/// To a page that says what was done.
fn to(to: String) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response()
}

/// The request as it now is, with why it was refused above it.
async fn refused(broker: &Broker, session: &Session, id: &str, refusal: Refusal) -> Page {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
    let Ok(loaded) = request::load(broker, id).await else { return Err(refusal.into()) };
    let notice = Notice::Refused(&refusal.detail, &refusal.next);
    let mut page = request::render(broker, session, &loaded, false, Some(notice), status).await?;
    page.extensions_mut().insert(Code(refusal.code.to_string()));
    Ok(page)
}
