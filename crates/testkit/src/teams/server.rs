//! The fake's doors.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State as From;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{APP, ISSUER, SECRET, Sent, State, TENANT};

pub(super) async fn serve(listener: TcpListener, state: Arc<State>) {
    let app = axum::Router::new().fallback(answer).with_state(state);
    // It ends with its owner.
    let _ = axum::serve(listener, app).await;
}

pub(super) fn key_set(state: &State) -> Value {
    json!({ "keys": state.keys.iter().take(3).map(super::Key::jwk).collect::<Vec<_>>() })
}

type Answer = Response<Body>;

fn said(status: u16, body: &Value) -> Answer {
    let mut out = Response::new(Body::from(body.to_string()));
    *out.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    out.headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    out
}

fn error(status: u16, code: &str) -> Answer {
    said(status, &json!({ "error": { "code": code, "message": code } }))
}

async fn answer(
    From(state): From<Arc<State>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let path = uri.path().to_owned();
    match (method.as_str(), path.as_str()) {
        ("GET", "/v1/.well-known/openidconfiguration") => {
            return said(
                200,
                &json!({
                    "issuer": ISSUER, "authorization_endpoint": "https://invalid.botframework.com",
                    "jwks_uri": format!("{}/v1/.well-known/keys", state.base()),
                    "id_token_signing_alg_values_supported": ["RS256"],
                    "token_endpoint_auth_methods_supported": ["private_key_jwt"],
                }),
            );
        }
        ("GET", "/v1/.well-known/keys") => {
            state.held().key_fetches += 1;
            return said(200, &key_set(&state));
        }
        _ => {}
    }
    state.held().calls.push(format!("{method} {path}"));
    let mut parts = path.trim_matches('/').split('/');
    if method == Method::POST && path.ends_with("/oauth2/v2.0/token") {
        return login(&state, parts.next().unwrap_or_default(), &body);
    }
    let region = parts.next().unwrap_or_default();
    if region != "emea" || parts.next() != Some("v3") || parts.next() != Some("conversations") {
        return error(404, "NotFound");
    }
    connector(&state, &method, &parts.collect::<Vec<_>>(), &headers, &body)
}

/// RFC 6749 §4.4, as Entra answers it.
fn login(state: &State, tenant: &str, body: &Bytes) -> Answer {
    if let Some((status, body)) = state.held().login_faults.pop_front() {
        return said(status, &body);
    }
    let form = std::str::from_utf8(body).unwrap_or_default();
    let field = |name: &str| {
        let value = form.split('&').find_map(|f| f.strip_prefix(name)?.strip_prefix('='));
        value.map(decoded).unwrap_or_default()
    };
    let right = tenant == TENANT
        && field("grant_type") == "client_credentials"
        && field("client_id") == APP
        && field("client_secret") == SECRET
        && field("scope") == format!("{ISSUER}/.default");
    if !right {
        return said(
            401,
            &json!({ "error": "invalid_client", "error_description": "AADSTS7000215" }),
        );
    }
    let mut held = state.held();
    let token = format!("eyJ.fake-connector-token.{}", held.tokens.len() + held.calls.len());
    held.tokens.push(token.clone());
    said(
        200,
        &json!({ "token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": token }),
    )
}

/// `application/x-www-form-urlencoded`.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(b) = bytes.get(at) {
        let hex = text.get(at + 1..at + 3).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (b, hex) {
            (b'%', Some(b)) => {
                out.push(b);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (b, _) => out.push(*b),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn connector(
    state: &State,
    method: &Method,
    path: &[&str],
    headers: &HeaderMap,
    body: &Bytes,
) -> Answer {
    let mut held = state.held();
    if let Some(target) = &held.redirect {
        let mut out = said(307, &Value::Null);
        if let Ok(target) = header::HeaderValue::from_str(target) {
            out.headers_mut().insert(header::LOCATION, target);
        }
        return out;
    }
    if let Some((status, retry_after, body)) = held.faults.pop_front() {
        let mut out = said(status, &body);
        if let Some(seconds) = retry_after {
            out.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
        }
        return out;
    }
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok()?.strip_prefix("Bearer "))
        .unwrap_or_default();
    if !held.tokens.iter().any(|t| t == token) {
        return error(401, "Unauthorized");
    }
    if body.len() > 28 << 10 {
        return error(413, "MessageSizeTooBig");
    }
    let activity: Value = match (body.is_empty(), serde_json::from_slice(body)) {
        (true, _) => Value::Null,
        (_, Ok(value)) => value,
        _ => return error(400, "BadSyntax"),
    };
    match (method.as_str(), path) {
        ("POST", []) => {
            if activity.pointer("/channelData/tenant/id").or(activity.get("tenantId"))
                != Some(&Value::from(TENANT))
            {
                return error(400, "BadArgument");
            }
            let member =
                activity.pointer("/members/0/id").and_then(Value::as_str).unwrap_or_default();
            said(201, &json!({ "id": format!("a:{member}") }))
        }
        ("GET", [conversation, "members", member]) => said(
            200,
            &json!({
                "id": decoded(member), "tenantId": TENANT,
                "aadObjectId": decoded(member).trim_start_matches("29:"),
                "name": decoded(conversation),
            }),
        ),
        ("POST", [conversation, "activities", reply @ ..]) if reply.len() < 2 => {
            if let Err(e) = fits(&activity) {
                return error(400, e);
            }
            let id = format!("17636759{:05}", held.messages.len() + 1);
            let mut conversation = decoded(conversation);
            let reply_to = reply.first().map(|id| decoded(id));
            // A message to a channel itself begins a conversation of its own.
            if conversation.ends_with("@thread.tacv2") {
                conversation = format!("{conversation};messageid={id}");
            }
            held.messages.push(Sent {
                conversation,
                id: id.clone(),
                reply_to,
                activity,
                updates: 0,
                deleted: false,
            });
            said(201, &json!({ "id": id }))
        }
        ("PUT", [conversation, "activities", id]) => {
            if let Err(e) = fits(&activity) {
                return error(400, e);
            }
            let (conversation, id) = (decoded(conversation), decoded(id));
            let base = |c: &str| c.split(';').next().unwrap_or_default().to_owned();
            let found = held
                .messages
                .iter_mut()
                .find(|m| m.id == id && !m.deleted && base(&m.conversation) == base(&conversation));
            let Some(message) = found else { return error(404, "ActivityNotFoundInConversation") };
            message.activity = activity;
            message.updates += 1;
            said(200, &json!({ "id": id }))
        }
        ("DELETE", [_, "activities", id]) => {
            let id = decoded(id);
            match held.messages.iter_mut().find(|m| m.id == id) {
                Some(message) => message.deleted = true,
                None => return error(404, "ActivityNotFoundInConversation"),
            }
            said(200, &json!({}))
        }
        _ => error(404, "NotFound"),
    }
}

/// What Teams demands of a message and its card.
fn fits(activity: &Value) -> Result<(), &'static str> {
    if activity.get("type").and_then(Value::as_str) != Some("message") {
        return Err("BadArgument");
    }
    let Some(attachment) = activity.pointer("/attachments/0") else { return Ok(()) };
    let text = |at: &str| attachment.pointer(at).and_then(Value::as_str).unwrap_or_default();
    let card = attachment.get("content").unwrap_or(&Value::Null);
    let right = text("/contentType") == "application/vnd.microsoft.card.adaptive"
        && text("/content/type") == "AdaptiveCard"
        && matches!(text("/content/version"), "1.2" | "1.3" | "1.4" | "1.5");
    let people = card.pointer("/refresh/userIds").and_then(Value::as_array).map_or(0, Vec::len);
    let actions = card.get("actions").and_then(Value::as_array).map_or(0, Vec::len);
    if !right || people > 60 || actions > 6 {
        return Err("BadArgument");
    }
    Ok(())
}
