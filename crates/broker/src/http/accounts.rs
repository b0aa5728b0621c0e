//! Whose an account at the identity provider is: an operator says so, and each change is a leaf.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use grantwright_domain::event::IdentitySet;
use grantwright_domain::{Event, HumanId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::oidc::{MOST_PENDING, PENDING, Waiting, pending_key};
use super::operators::{commit, malformed};
use super::{Answer, Operator, Shared, body, session};
use crate::core::Broker;
use crate::error::{of_store, refuse};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Account {
    subject: String,
    issuer: Option<String>,
    #[serde(default)]
    unlink: bool,
}

/// Links an account to a person, or unlinks it. Unlinked, or linked once more, it ends the person's
/// sessions: whose account it was may have begun them.
pub async fn set(
    State(broker): Shared,
    Operator(by): Operator,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Answer {
    let b: Account = body(&bytes)?;
    let human = HumanId::parse(&id).map_err(malformed)?;
    let own = broker.oidc.as_ref().map(|p| p.issuer().to_owned());
    let issuer = b
        .issuer
        .or(own)
        .ok_or_else(|| malformed("`issuer` is missing, and no identity provider is configured"))?;
    let was = broker.authority().identified(&issuer, &b.subject) == Some(&human);
    if b.unlink && !was {
        let detail = "this account is not linked to that person";
        return Err(refuse(404, "not_linked", detail, "list people to see theirs").into());
    }
    let event = IdentitySet {
        at: broker.now(),
        by,
        issuer: issuer.clone(),
        subject: b.subject.clone(),
        human: (!b.unlink).then(|| human.clone()),
    };
    commit(&broker, Event::IdentitySet(event)).await?;
    if was {
        session::end_all(&broker, &human).await?;
    }
    let key = pending_key(&issuer, &b.subject);
    broker.store.side_delete(PENDING, &key).await.map_err(of_store)?;
    Ok(Json(json!({ "id": human, "accounts": of(&broker, &human) })))
}

/// A person's accounts.
#[must_use]
pub fn of(broker: &Broker, human: &HumanId) -> Vec<Value> {
    let authority = broker.authority();
    let own = authority.identities.iter().filter(|(_, i)| &i.human == human);
    own.map(|((issuer, subject), i)| json!({ "issuer": issuer, "subject": subject, "by": i.by }))
        .collect()
}

/// Accounts that tried to sign in and are nobody's yet.
///
/// # Errors
/// When the store cannot be read.
pub async fn waiting(broker: &Broker) -> Result<Vec<Value>, grantwright_wire::Refusal> {
    let rows = broker.store.side_list(PENDING, "", None, MOST_PENDING, broker.now()).await;
    let waiting = rows.map_err(of_store)?.into_iter();
    Ok(waiting
        .filter_map(|row| broker.vouch.open::<Waiting>(PENDING, &row))
        .map(|w| json!({ "issuer": w.issuer, "subject": w.subject, "name": w.name, "at": w.at }))
        .collect())
}
