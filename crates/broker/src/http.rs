//! The HTTP doors: people and operators (with a person's token), the log, discovery and health.

pub mod accounts;
pub mod ceremony;
pub mod console;
pub mod delegations;
mod guard;
pub mod introspect;
pub mod leases;
pub mod link;
pub mod listen;
#[cfg(test)]
mod listen_tests;
pub mod log;
pub mod login;
pub mod oidc;
pub mod open;
pub mod operators;
pub mod passkeys;
pub mod peer;
pub mod requests;
pub mod search;
pub mod session;
pub mod sign;
pub mod slack;
pub mod view;
pub mod webauthn;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use grantwright_domain::{Digest, HumanId, canonical};
use grantwright_wire::Refusal;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::core::Broker;
use crate::error::refuse;

/// What a route demands of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Nothing.
    Open,
    /// A service's own name and secret.
    Service,
    /// An active person's token.
    Person,
    /// An operator's token.
    Operator,
    /// Nothing but the own origin: a page of ours in a browser.
    Browser,
    /// A person signed in at the console; for anything but GET with the CSRF token and own origin.
    Session,
}

/// Every route, and what it demands; a test walks them with every kind of caller.
pub const ROUTES: &[(&str, &str, Demand)] = &[
    ("GET", "/.well-known/openid-configuration", Demand::Open),
    ("GET", "/jwks", Demand::Open),
    ("GET", "/issuers/{minter}/{*document}", Demand::Open),
    ("POST", "/introspect", Demand::Service),
    ("GET", "/healthz", Demand::Open),
    ("GET", "/readyz", Demand::Open),
    ("GET", "/metrics", Demand::Open),
    ("GET", "/log/checkpoint", Demand::Open),
    ("GET", "/log/tile/{*path}", Demand::Open),
    ("GET", "/log/witnessed", Demand::Open),
    ("GET", "/log/blob/{digest}", Demand::Open),
    ("GET", "/assets/{name}", Demand::Open),
    ("GET", "/", Demand::Session),
    ("GET", "/agents", Demand::Session),
    ("GET", "/agents/{name}", Demand::Session),
    ("GET", "/attention", Demand::Session),
    ("GET", "/delegations", Demand::Session),
    ("POST", "/delegations/{id}/end", Demand::Session),
    ("GET", "/leases", Demand::Session),
    ("POST", "/leases/{id}/revoke", Demand::Session),
    ("GET", "/live", Demand::Session),
    ("GET", "/log", Demand::Session),
    ("GET", "/policies", Demand::Session),
    ("GET", "/requests/{id}", Demand::Session),
    ("POST", "/requests/{id}/approve", Demand::Session),
    ("POST", "/requests/{id}/ask", Demand::Session),
    ("POST", "/requests/{id}/deny", Demand::Session),
    ("GET", "/requests/{id}/narrow", Demand::Session),
    ("POST", "/requests/{id}/narrow", Demand::Session),
    ("GET", "/requests/{id}/proof", Demand::Session),
    ("POST", "/requests/{id}/withdraw", Demand::Session),
    ("GET", "/login/{code}", Demand::Open),
    ("GET", "/enrol/{code}", Demand::Open),
    ("POST", "/enrol/{code}", Demand::Browser),
    ("POST", "/enrol/{code}/options", Demand::Browser),
    ("GET", "/signin", Demand::Open),
    ("POST", "/signin", Demand::Browser),
    ("POST", "/signin/options", Demand::Browser),
    ("GET", "/account", Demand::Session),
    ("POST", "/account/passkeys/{id}/remove", Demand::Session),
    ("POST", "/requests/{id}/passkey", Demand::Session),
    ("POST", "/requests/{id}/passkey/options", Demand::Session),
    ("GET", "/oidc/start", Demand::Open),
    ("GET", "/oidc/callback", Demand::Open),
    ("GET", "/session", Demand::Session),
    ("POST", "/signout", Demand::Session),
    ("POST", "/api/messages", Demand::Open),
    ("POST", "/webhook/decisions", Demand::Open),
    ("POST", "/api/v1/login", Demand::Open),
    ("GET", "/api/v1/me", Demand::Person),
    ("GET", "/api/v1/requests", Demand::Person),
    ("GET", "/api/v1/requests/{id}", Demand::Person),
    ("GET", "/api/v1/requests/{id}/events", Demand::Person),
    ("POST", "/api/v1/requests/{id}/approve", Demand::Person),
    ("POST", "/api/v1/requests/{id}/deny", Demand::Person),
    ("POST", "/api/v1/requests/{id}/ask", Demand::Person),
    ("POST", "/api/v1/requests/{id}/narrow", Demand::Person),
    ("POST", "/api/v1/requests/{id}/withdraw", Demand::Person),
    ("POST", "/api/v1/requests/{id}/erase", Demand::Operator),
    ("GET", "/api/v1/search", Demand::Person),
    ("GET", "/api/v1/delegations", Demand::Person),
    ("GET", "/api/v1/delegations/{id}", Demand::Person),
    ("POST", "/api/v1/delegations/{id}/end", Demand::Person),
    ("GET", "/api/v1/leases", Demand::Person),
    ("POST", "/api/v1/leases/{id}/revoke", Demand::Person),
    ("GET", "/api/v1/agents", Demand::Person),
    ("POST", "/api/v1/agents", Demand::Operator),
    ("POST", "/api/v1/agents/{name}/join", Demand::Operator),
    ("POST", "/api/v1/agents/{name}/revoke", Demand::Operator),
    ("GET", "/api/v1/people", Demand::Operator),
    ("POST", "/api/v1/people", Demand::Operator),
    ("POST", "/api/v1/people/{id}/account", Demand::Operator),
    ("POST", "/api/v1/people/{id}/token", Demand::Operator),
    ("POST", "/api/v1/people/{id}/link", Demand::Operator),
    ("GET", "/api/v1/people/{id}/passkeys", Demand::Operator),
    ("POST", "/api/v1/people/{id}/passkeys/{key}/revoke", Demand::Operator),
    ("GET", "/api/v1/groups", Demand::Operator),
    ("POST", "/api/v1/groups", Demand::Operator),
    ("GET", "/api/v1/models", Demand::Person),
    ("POST", "/api/v1/models", Demand::Operator),
    ("GET", "/api/v1/policy", Demand::Person),
    ("POST", "/api/v1/policy", Demand::Operator),
    ("GET", "/api/v1/scopes", Demand::Person),
    ("GET", "/api/v1/accounts", Demand::Person),
    ("POST", "/api/v1/accounts/unlink", Demand::Person),
    ("GET", "/link/{code}", Demand::Session),
    ("POST", "/link/{code}", Demand::Session),
    ("POST", "/slack/interactivity", Demand::Open),
];

/// The doors.
pub fn router(broker: Arc<Broker>) -> Router {
    Router::new()
        .route("/.well-known/openid-configuration", get(open::discovery))
        .route("/jwks", get(open::jwks))
        .route("/issuers/{minter}/{*document}", get(open::issuer))
        .route("/introspect", post(introspect::introspect))
        .route("/healthz", get(open::healthz))
        .route("/readyz", get(open::readyz))
        .route("/metrics", get(open::metrics))
        .route("/log/checkpoint", get(log::checkpoint))
        .route("/log/tile/{*path}", get(log::tile))
        .route("/log/witnessed", get(log::witnessed))
        .route("/log/blob/{digest}", get(log::blob))
        .route("/login/{code}", get(login::login))
        .route("/enrol/{code}", get(passkeys::enrol_page).post(passkeys::enrol))
        .route("/enrol/{code}/options", post(passkeys::enrol_options))
        .route("/signin", get(passkeys::signin_page).post(passkeys::signin))
        .route("/signin/options", post(passkeys::signin_options))
        .route("/account", get(passkeys::account))
        .route("/account/passkeys/{id}/remove", post(passkeys::remove))
        .route("/requests/{id}/passkey", post(passkeys::decide))
        .route("/requests/{id}/passkey/options", post(passkeys::decide_options))
        .route("/oidc/start", get(oidc::start))
        .route("/oidc/callback", get(oidc::callback))
        .route("/session", get(session::show))
        .route("/signout", post(session::sign_out))
        .route("/api/messages", post(crate::channels::teams::door::messages))
        .route("/webhook/decisions", post(crate::channels::webhook::door::decisions))
        .route("/api/v1/login", post(sign::login))
        .route("/api/v1/me", get(sign::me))
        .route("/api/v1/requests", get(requests::list))
        .route("/api/v1/requests/{id}", get(requests::show))
        .route("/api/v1/requests/{id}/events", get(requests::events))
        .route("/api/v1/requests/{id}/approve", post(requests::approve))
        .route("/api/v1/requests/{id}/deny", post(requests::deny))
        .route("/api/v1/requests/{id}/ask", post(requests::ask))
        .route("/api/v1/requests/{id}/narrow", post(requests::narrow))
        .route("/api/v1/requests/{id}/withdraw", post(requests::withdraw))
        .route("/api/v1/requests/{id}/erase", post(search::erase))
        .route("/api/v1/search", get(search::search))
        .route("/api/v1/delegations", get(delegations::list))
        .route("/api/v1/delegations/{id}", get(delegations::show))
        .route("/api/v1/delegations/{id}/end", post(delegations::end))
        .route("/api/v1/leases", get(leases::list))
        .route("/api/v1/leases/{id}/revoke", post(leases::revoke))
        .route("/api/v1/agents", get(operators::agents).post(operators::set_agent))
        .route("/api/v1/agents/{name}/join", post(operators::join))
        .route("/api/v1/agents/{name}/revoke", post(operators::revoke_agent))
        .route("/api/v1/people", get(operators::people).post(operators::set_person))
        .route("/api/v1/people/{id}/account", post(accounts::set))
        .route("/api/v1/people/{id}/token", post(operators::token))
        .route("/api/v1/people/{id}/link", post(operators::link))
        .route("/api/v1/people/{id}/passkeys", get(passkeys::list))
        .route("/api/v1/people/{id}/passkeys/{key}/revoke", post(passkeys::revoke_by_operator))
        .route("/api/v1/groups", get(operators::groups).post(operators::set_group))
        .route("/api/v1/models", get(operators::models).post(operators::set_model))
        .route(
            "/api/v1/policy",
            get(operators::policy)
                .post(operators::set_policy)
                .layer(DefaultBodyLimit::max(guard::MOST_POLICY)),
        )
        .route("/api/v1/scopes", get(operators::scopes))
        .merge(console::routes())
        .route("/api/v1/accounts", get(link::list))
        .route("/api/v1/accounts/unlink", post(link::unlink))
        .route("/link/{code}", get(link::show).post(link::confirm))
        .route(
            "/slack/interactivity",
            post(slack::interactivity).layer(DefaultBodyLimit::max(slack::MOST_DELIVERY)),
        )
        .fallback(async |headers: HeaderMap| {
            let refusal = refuse(404, "no_such_door", "there is nothing here", "see docs/api.md");
            match console::respond::reads_pages(&headers) {
                true => console::respond::problem(&refusal),
                false => problem(refusal),
            }
        })
        .method_not_allowed_fallback(async || {
            problem(refuse(
                405,
                "method_not_allowed",
                "this door takes another method",
                "see docs/api.md",
            ))
        })
        .layer(DefaultBodyLimit::max(guard::MOST_BODY))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&broker), guard::guard))
        .with_state(broker)
}

/// A refusal as an RFC 9457 problem.
pub fn problem(refusal: Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(Body::from(refusal.to_problem_json().to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = refusal.retry_after_s() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A refusal that a handler returns.
pub struct Refused(pub Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        problem(self.0)
    }
}

/// What handlers return.
pub type Answer = Result<axum::Json<Value>, Refused>;

/// Strict JSON into a type: duplicate keys, floats, nulls and unknown fields are refused.
///
/// # Errors
/// 400 `malformed` with what is wrong.
pub fn body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Refusal> {
    let malformed =
        |e: String| refuse(400, "malformed", e, "see docs/api.md for this call's fields");
    let value = canonical::parse(bytes).map_err(|e| malformed(e.to_string()))?;
    serde_json::from_value(value).map_err(|e| malformed(e.to_string()))
}

/// The person whose token this is.
pub struct Person(pub HumanId);
/// The operator whose token this is.
pub struct Operator(pub HumanId);

fn bearer(broker: &Broker, headers: &axum::http::HeaderMap) -> Result<HumanId, Refusal> {
    let unknown = || {
        refuse(
            401,
            "not_signed_in",
            "no valid token of a person came with this call",
            "send `Authorization: Bearer <token>`; an operator makes tokens",
        )
    };
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else { return Err(unknown()) };
    let token = value.to_str().ok().and_then(|v| v.strip_prefix("Bearer ")).ok_or_else(unknown)?;
    let human =
        person_of(broker, &Digest::of("person-token", token.as_bytes())).ok_or_else(unknown)?;
    broker.calls.take("person", human.as_str(), broker.now())?;
    Ok(human)
}

/// The active person whose token has this digest. A token has 256 random bits and is looked up by
/// its digest: no timing tells anything.
pub fn person_of(broker: &Broker, token: &Digest) -> Option<HumanId> {
    let authority = broker.authority();
    let known = authority.tokens.get(token)?;
    let active = authority.humans.get(&known.subject).is_some_and(|h| h.active);
    let good = !known.spent && known.expires_at > broker.now() && active;
    good.then(|| known.subject.clone())
}

impl axum::extract::FromRequestParts<Arc<Broker>> for Person {
    type Rejection = Refused;
    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        broker: &Arc<Broker>,
    ) -> Result<Self, Refused> {
        Ok(Self(bearer(broker, &parts.headers)?))
    }
}

impl axum::extract::FromRequestParts<Arc<Broker>> for Operator {
    type Rejection = Refused;
    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        broker: &Arc<Broker>,
    ) -> Result<Self, Refused> {
        let human = bearer(broker, &parts.headers)?;
        if !broker.authority().is_operator(&human) {
            return Err(Refused(refuse(
                403,
                "not_operator",
                "only an operator may do this",
                "ask an operator",
            )));
        }
        Ok(Self(human))
    }
}

/// The shared state, for handlers.
pub type Shared = State<Arc<Broker>>;
