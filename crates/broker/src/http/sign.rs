//! Signing in: a one-time link's code becomes a person's token.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use grantwright_domain::authority::TOKEN_LIFE_MS;
use grantwright_domain::event::{LinkSpent, TokenIssued};
use grantwright_domain::{Digest, Event, HumanId, Timestamp};
use grantwright_store::{StoreError, Transition};
use serde::Deserialize;
use serde_json::json;

use super::{Answer, Person, Shared, body};
use crate::core::Broker;
use crate::error::{of_store, refuse};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    code: String,
}

/// Redeems a link of purpose `api`; its code works once.
pub async fn login(State(broker): Shared, bytes: Bytes) -> Answer {
    let login: Login = body(&bytes)?;
    let refused = || {
        refuse(
            401,
            "link_refused",
            "the link is unknown, used or expired",
            "ask an operator for a new one",
        )
    };
    let now = broker.now();
    let authority = broker.authority();
    let link = authority
        .links
        .get(&Digest::of("one-time-link", login.code.as_bytes()))
        .filter(|l| !l.spent && l.expires_at > now && l.purpose == "api")
        .ok_or_else(refused)?;
    let by = link.made_by.as_ref().unwrap_or(&link.subject);
    let made = new_token(&broker, by, &link.subject, now, TOKEN_LIFE_MS);
    let spent = Event::LinkSpent(LinkSpent { at: now, link_id: link.id.clone() });
    match broker
        .commit(Transition::authority(vec![spent, Event::TokenIssued(made.event.clone())]))
        .await
    {
        Ok(_) => Ok(Json(made.json())),
        Err(StoreError::Violation(_)) => Err(refused().into()),
        Err(e) => Err(of_store(e).into()),
    }
}

/// A token and the leaf that makes it; the token itself is never stored.
pub struct NewToken {
    /// The secret.
    pub token: String,
    /// Its leaf.
    pub event: TokenIssued,
}

impl NewToken {
    /// As the API answers it.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        json!({ "token": self.token, "token_id": self.event.token_id, "human": self.event.human, "expires_at": self.event.expires_at })
    }
}

/// Makes a person's token.
pub fn new_token(
    broker: &Broker,
    by: &HumanId,
    human: &HumanId,
    now: Timestamp,
    life_ms: i64,
) -> NewToken {
    let token = format!("gwp_{}", broker.random.secret());
    let event = TokenIssued {
        at: now,
        by: by.clone(),
        token_id: broker.random.name("t-"),
        human: human.clone(),
        token_hash: Digest::of("person-token", token.as_bytes()),
        expires_at: now.plus_millis(life_ms.min(TOKEN_LIFE_MS)),
    };
    NewToken { token, event }
}

/// Who the token's person is.
pub async fn me(State(broker): Shared, Person(human): Person) -> Answer {
    let authority = broker.authority();
    Ok(Json(
        json!({ "human": human, "operator": authority.is_operator(&human), "groups": authority.groups_of(&human, broker.now()) }),
    ))
}
