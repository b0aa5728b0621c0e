//! The connector's REST calls, with the bot's own token. It goes to allowed hosts only, compared
//! after parsing, and follows no redirect.

use std::sync::Arc;
use std::time::Duration;

use grantwright_credential::Secret;
use grantwright_domain::{Clock, Timestamp};
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde_json::Value;

use super::config::{TeamsSection, allowed, safe_url};
use crate::channels::SendError;
use crate::error::StartError;

/// Longest wait for one answer.
const CALL_TIME: Duration = Duration::from_secs(4);
/// Largest answer that is read, in bytes.
const MOST_ANSWER: usize = 64 << 10;
/// A token is replaced so long before its end.
const EARLY_MS: i64 = 5 * 60_000;
/// The pause after "too many" that names none, and the longest that is believed.
const PAUSE_MS: i64 = 2_000;
const MOST_PAUSE_S: i64 = 3600;

pub(super) struct Connector {
    http: Client,
    hosts: Vec<String>,
    token_url: Url,
    app_id: String,
    scope: String,
    secret: Secret<String>,
    clock: Arc<dyn Clock>,
    token: tokio::sync::Mutex<Option<Token>>,
}

struct Token {
    text: Secret<String>,
    until: Timestamp,
}

/// A client that goes where it is told and nowhere else.
pub(super) fn client() -> Result<Client, StartError> {
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(CALL_TIME)
        .connect_timeout(CALL_TIME)
        .pool_max_idle_per_host(8)
        .build()
        .map_err(|e| StartError::new(format!("channel.teams: no HTTP client: {e}")))
}

/// Reads at most `most` bytes of an answer.
pub(super) async fn bytes(mut response: Response, most: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        out.extend_from_slice(&chunk);
        if out.len() > most {
            return None;
        }
    }
    Some(out)
}

impl Connector {
    pub(super) fn new(
        section: &TeamsSection,
        secret: Secret<String>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let mut token_url = safe_url(&section.authority)
            .ok_or_else(|| StartError::new("channel.teams.authority: want https://…"))?;
        push(&mut token_url, &[&section.tenant, "oauth2", "v2.0", "token"])
            .ok_or_else(|| StartError::new("channel.teams.authority: want https://…"))?;
        if secret.expose_secret().trim().is_empty() {
            return Err(StartError::new("channel.teams.secret_file: the file is empty"));
        }
        Ok(Self {
            http: client()?,
            hosts: section.service_hosts.clone(),
            token_url,
            app_id: section.app_id.clone(),
            scope: section.scope.clone(),
            secret,
            clock,
            token: tokio::sync::Mutex::default(),
        })
    }

    /// Whether messages may go to this address.
    pub(super) fn allows(&self, service_url: &str) -> bool {
        safe_url(service_url).is_some_and(|url| allowed(&url, &self.hosts))
    }

    /// `POST {service}/v3/conversations/…`
    pub(super) async fn post(
        &self,
        service_url: &str,
        path: &[&str],
        body: &Value,
    ) -> Result<Value, SendError> {
        self.call(Method::POST, service_url, path, body).await
    }

    /// `PUT {service}/v3/conversations/…`
    pub(super) async fn put(
        &self,
        service_url: &str,
        path: &[&str],
        body: &Value,
    ) -> Result<(), SendError> {
        self.call(Method::PUT, service_url, path, body).await.map(drop)
    }

    async fn call(
        &self,
        method: Method,
        service_url: &str,
        path: &[&str],
        body: &Value,
    ) -> Result<Value, SendError> {
        let refused = || SendError::Barred("its address is not an allowed one".into());
        let mut url =
            safe_url(service_url).filter(|u| allowed(u, &self.hosts)).ok_or_else(refused)?;
        push(&mut url, &[&["v3", "conversations"], path].concat()).ok_or_else(refused)?;
        let token = self.token().await?;
        let sent = self
            .http
            .request(method, url)
            .bearer_auth(&token)
            .json(body)
            .send()
            .await
            .map_err(|e| SendError::Down(e.without_url().to_string()))?;
        let status = sent.status();
        if status == StatusCode::UNAUTHORIZED {
            *self.token.lock().await = None;
        }
        if status.is_success() {
            let read = bytes(sent, MOST_ANSWER).await;
            let read = read.ok_or_else(|| SendError::Down("the answer broke off".into()))?;
            return Ok(serde_json::from_slice(&read).unwrap_or_default());
        }
        Err(refusal(status, pause(&sent)))
    }

    /// The bot's token, asked for anew shortly before its end; one caller asks, the others wait.
    async fn token(&self) -> Result<String, SendError> {
        let mut held = self.token.lock().await;
        let now = self.clock.now();
        if let Some(token) = held.as_ref().filter(|t| t.until > now) {
            return Ok(token.text.expose_secret().clone());
        }
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", self.app_id.as_str()),
            ("client_secret", self.secret.expose_secret().trim()),
            ("scope", self.scope.as_str()),
        ];
        let sent = self
            .http
            .post(self.token_url.clone())
            .header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(encoded(&form))
            .send()
            .await
            .map_err(|e| SendError::Down(format!("the login service: {}", e.without_url())))?;
        let status = sent.status();
        if !status.is_success() {
            return Err(match status.as_u16() {
                429 => SendError::Later(pause(&sent)),
                400..=499 => SendError::Barred(format!(
                    "the login service refuses the app ({status}): check app_id, tenant and the secret"
                )),
                _ => SendError::Down(format!("the login service answers {status}")),
            });
        }
        let odd = || SendError::Down("the login service's answer holds no token".into());
        let read = bytes(sent, MOST_ANSWER).await.ok_or_else(odd)?;
        let said: Value = serde_json::from_slice(&read).map_err(|_| odd())?;
        let text = said.get("access_token").and_then(Value::as_str).ok_or_else(odd)?;
        let life = said.get("expires_in").and_then(Value::as_i64).unwrap_or(0).clamp(0, 86_400);
        let until = now.plus_millis((life * 1000 - EARLY_MS).max(0));
        *held = Some(Token { text: Secret::new(text.to_owned()), until });
        Ok(text.to_owned())
    }
}

/// Appends segments; each stays one, whatever it holds.
fn push(url: &mut Url, segments: &[&str]) -> Option<()> {
    url.set_query(None);
    url.set_fragment(None);
    if segments.iter().any(|s| matches!(*s, "" | "." | "..")) {
        return None;
    }
    url.path_segments_mut().ok()?.pop_if_empty().extend(segments);
    Some(())
}

fn pause(response: &Response) -> i64 {
    let named =
        response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse::<i64>().ok());
    named.map_or(PAUSE_MS, |s| s.clamp(1, MOST_PAUSE_S) * 1000)
}

fn refusal(status: StatusCode, pause_ms: i64) -> SendError {
    match status.as_u16() {
        429 => SendError::Later(pause_ms),
        401 | 408 | 412 | 500..=599 => SendError::Down(format!("it answers {status}")),
        404 | 410 => SendError::Gone,
        400 | 413 | 422 => SendError::Unshowable(format!("it answers {status}")),
        _ => SendError::Barred(format!("it answers {status}")),
    }
}

/// `application/x-www-form-urlencoded`.
fn encoded(form: &[(&str, &str)]) -> String {
    let mut url = Url::parse("http://form.invalid").ok();
    if let Some(url) = &mut url {
        url.query_pairs_mut().extend_pairs(form);
    }
    url.and_then(|u| u.query().map(ToOwned::to_owned)).unwrap_or_default()
}
