//! `/link/{code}`: a signed-in person confirms that an account of a chat service is theirs. And the
//! accounts of the person whose token it is: to list and to unlink.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use grantwright_approval::console::layout::{Frame, Here, Viewer, page};
use grantwright_approval::console::link as pages;
use grantwright_domain::Event;
use grantwright_domain::event::{Account, AccountUnlinked};
use grantwright_store::Transition;
use serde_json::json;

use super::console::respond;
use super::session::{Session, SessionPost};
use super::{Answer, Person, Shared, body};
use crate::channels::link;
use crate::error::of_store;

/// Shows what would be linked.
pub async fn show(State(broker): Shared, session: Session, Path(code): Path<String>) -> Response {
    match link::look(&broker, &code).await {
        Err(refusal) => respond::problem(&refusal),
        Ok(offer) => {
            let Account { channel, tenant, account } = &offer.account;
            let (human, csrf) = (session.human.as_str(), session.csrf.as_str());
            let content =
                pages::ask(human, channel, tenant, account, &offer.shown_name, &code, csrf);
            let frame = Frame::new("Link an account", Here::Account, Viewer { human, csrf });
            respond::html(StatusCode::OK, page(&frame, &content))
        }
    }
}

/// Links it.
pub async fn confirm(
    State(broker): Shared,
    Path(code): Path<String>,
    call: SessionPost,
) -> Response {
    let session = &call.session;
    match link::confirm(&broker, &session.human, &code).await {
        Err(refusal) => respond::problem(&refusal),
        Ok(offer) => {
            let (human, csrf) = (session.human.as_str(), session.csrf.as_str());
            let content = pages::done(human, &offer.account.channel, &offer.account.account);
            let frame = Frame::new("Linked", Here::Account, Viewer { human, csrf });
            respond::html(StatusCode::OK, page(&frame, &content))
        }
    }
}

/// The person's accounts; an operator sees everybody's.
pub async fn list(State(broker): Shared, Person(human): Person) -> Answer {
    let authority = broker.authority();
    let all = authority.is_operator(&human);
    let accounts: Vec<_> = authority
        .accounts
        .iter()
        .filter(|(_, whose)| all || **whose == human)
        .map(|(account, whose)| json!({ "account": account, "human": whose }))
        .collect();
    Ok(Json(json!({ "accounts": accounts })))
}

/// Unlinks an account: one's own, or as an operator anybody's.
pub async fn unlink(State(broker): Shared, Person(by): Person, bytes: Bytes) -> Answer {
    let account: Account = body(&bytes)?;
    let event = AccountUnlinked { at: broker.now(), by, account: account.clone() };
    broker
        .commit(Transition::authority(vec![Event::AccountUnlinked(event)]))
        .await
        .map_err(of_store)?;
    Ok(Json(json!({ "unlinked": account })))
}
