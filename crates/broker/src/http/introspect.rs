//! `POST /introspect` (RFC 7662): a service asks whether a token lives. Each service has its own secret
//! and is told of tokens for its own audience only.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use grantwright_domain::request::LeaseState;
use grantwright_domain::{Digest, LeaseId, Timestamp};
use serde_json::{Value, json};

use super::{Answer, Shared};
use crate::core::Broker;
use crate::error::{of_store, refuse};

/// A service that may ask.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub client: String,
    /// Digest of its secret.
    pub secret: Digest,
    /// The audience whose tokens it takes.
    pub audience: String,
}

/// What is kept of a service's secret.
#[must_use]
pub fn digest_of(secret: &str) -> Digest {
    Digest::of("service-secret", secret.as_bytes())
}

/// Says of a token that it is active, with its claims, or that it is not, and nothing more.
pub async fn introspect(State(broker): Shared, headers: HeaderMap, body: Bytes) -> Answer {
    let service = caller(&broker, &headers)?;
    broker.calls.take("service", &service.client, broker.now())?;
    let mut tokens = form_urlencoded::parse(&body).filter(|(name, _)| name == "token");
    let (Some((_, token)), None) = (tokens.next(), tokens.next()) else {
        return Err(refuse(
            400,
            "malformed",
            "the form wants one `token`",
            "send application/x-www-form-urlencoded: token=…",
        )
        .into());
    };
    let claims = match active(&broker, service, &token, broker.now()).await? {
        Some(claims) => claims,
        None => json!({ "active": false }),
    };
    Ok(Json(claims))
}

/// HTTP Basic (RFC 6749 §2.3.1). The secret has many random bits and is compared by its digest.
fn caller<'b>(
    broker: &'b Broker,
    headers: &HeaderMap,
) -> Result<&'b Service, grantwright_wire::Refusal> {
    let unknown = || {
        refuse(
            401,
            "not_a_service",
            "no known service's name and secret came with this call",
            "send HTTP Basic with a client of [[introspection]]",
        )
    };
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else { return Err(unknown()) };
    let text = value.to_str().ok().and_then(|v| v.strip_prefix("Basic ")).ok_or_else(unknown)?;
    let text = STANDARD.decode(text).ok().and_then(|b| String::from_utf8(b).ok());
    let text = text.ok_or_else(unknown)?;
    let (client, secret) = text.split_once(':').ok_or_else(unknown)?;
    let digest = digest_of(secret);
    broker.services.iter().find(|s| s.client == client && s.secret == digest).ok_or_else(unknown)
}

/// The claims of a token for this service that nobody ended: by the log, not by the token's word.
async fn active(
    broker: &Broker,
    service: &Service,
    token: &str,
    now: Timestamp,
) -> Result<Option<Value>, grantwright_wire::Refusal> {
    let claims = broker.minters.values().find_map(|m| m.introspect(token, now));
    let Some(Value::Object(mut claims)) = claims else { return Ok(None) };
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("aud") != Some(&service.audience) {
        return Ok(None);
    }
    let Some(id) = text("jti").and_then(|id| LeaseId::parse(id).ok()) else { return Ok(None) };
    if broker.ended.has(&id) {
        return Ok(None);
    }
    let Some(found) = broker.store.lease(&id).await.map_err(of_store)? else { return Ok(None) };
    // By its leaves, which are proven: a row could be made to say that an ended lease lives.
    let Some(loaded) = broker.store.load(&found.request).await.map_err(of_store)? else {
        return Ok(None);
    };
    let terms = &loaded.state.terms;
    let authority = broker.authority();
    let entitled = authority.agents.get(&terms.agent).is_some_and(|a| !a.revoked)
        && authority.instances.get(&terms.instance).is_some_and(|i| !i.revoked);
    let lease = loaded.state.lease.as_ref().filter(|l| l.id == id);
    if !entitled || !lease.is_some_and(|l| l.state == LeaseState::Live && l.expires_at > now) {
        return Ok(None);
    }
    claims.insert("active".into(), true.into());
    claims.insert("token_type".into(), "Bearer".into());
    Ok(Some(Value::Object(claims)))
}

#[cfg(test)]
mod tests {
    use grantwright_domain::RequestId;
    use grantwright_wire::v1::{granted::Delivery, outcome};
    use rusqlite::params;

    use super::*;
    use crate::issue::rig::{Rig, id_of};

    #[tokio::test]
    async fn invariant_24_a_row_that_leaves_out_the_last_leaf_makes_no_ended_token_active() {
        let rig = Rig::new().await;
        let ask = rig.ask("listed", r#"{"dataset":"customers"}"#, "k1");
        let outcome = rig.issue(ask).await.expect("granted");
        let Some(outcome::State::Granted(granted)) = &outcome.state else { panic!("{outcome:?}") };
        let Some(Delivery::Plain(json)) = &granted.delivery else { panic!("it is built in") };
        let token = serde_json::from_slice::<Value>(json).unwrap()["token"].clone();
        let service =
            Service { client: "test".into(), secret: digest_of("x"), audience: "test".into() };
        let is_active = async || {
            let told = active(&rig.broker, &service, token.as_str().unwrap(), rig.broker.now());
            told.await.unwrap().is_some()
        };
        let id = id_of(&outcome);
        let state = async || {
            let request = RequestId::parse(&id).unwrap();
            rig.broker.store.load(&request).await.unwrap().unwrap().state
        };
        assert!(is_active().await);
        crate::end::end_lease(&rig.broker, state().await, "alice").await.expect("ended");
        assert!(!is_active().await);
        // Somebody who writes to the database has the request end with the leaf before.
        let db = rusqlite::Connection::open(rig.dir().join("store.db")).unwrap();
        let sql = "SELECT leaf_list FROM requests WHERE id = ?1";
        let list: String = db.query_row(sql, [&id], |row| row.get(0)).unwrap();
        let (cut, _) = list.rsplit_once(',').unwrap();
        let sql = "UPDATE requests SET leaf_list = ?1, version = version - 1, lease_state = 'live' \
                   WHERE id = ?2";
        assert_eq!(db.execute(sql, params![cut, id]).unwrap(), 1);
        assert_eq!(state().await.lease.map(|l| l.state), Some(LeaseState::Live), "so they say");
        assert!(!is_active().await);
    }
}
