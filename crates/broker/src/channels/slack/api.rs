//! Slack's Web API: each call once, to configured hosts only, without redirects; an answer of 200
//! may still be a refusal.

use std::time::Duration;

use grantwright_credential::Secret;
use reqwest::Client;
use reqwest::header::RETRY_AFTER;
use serde_json::Value;

use super::super::SendError;
use super::CALL;
use crate::error::StartError;

/// Largest answer that is read.
const MOST_ANSWER: usize = 1 << 20;

/// See the module.
pub(super) struct Api {
    client: Client,
    base: String,
    bot: Secret<String>,
    app: Option<Secret<String>>,
}

impl Api {
    pub(super) fn new(base: &str, bot: String, app: Option<String>) -> Result<Self, StartError> {
        Ok(Self {
            client: client(Some(CALL))?,
            base: base.trim_end_matches('/').to_owned(),
            bot: Secret::new(bot),
            app: app.map(Secret::new),
        })
    }

    /// Calls a method with the bot token.
    pub(super) async fn call(&self, method: &str, body: &Value) -> Result<Value, SendError> {
        let url = format!("{}/{method}", self.base);
        let call = self.client.post(url).bearer_auth(self.bot.expose_secret()).json(body);
        said(method, self.send(call).await?)
    }

    /// A user, by its id.
    pub(super) async fn user(&self, id: &str) -> Result<Value, SendError> {
        let mut url = reqwest::Url::parse(&format!("{}/users.info", self.base))
            .map_err(|_| SendError::Barred("channel.slack.api is no address".into()))?;
        url.query_pairs_mut().append_pair("user", id);
        let call = self.client.get(url).bearer_auth(self.bot.expose_secret());
        let mut answer = said("users.info", self.send(call).await?)?;
        let user = answer.get_mut("user").map(Value::take);
        user.ok_or_else(|| SendError::Down("no user in the answer".into()))
    }

    /// A fresh address for Socket Mode, with `https` or `http` in front.
    pub(super) async fn socket(&self) -> Result<String, SendError> {
        let app = self.app.as_ref().ok_or_else(|| SendError::Barred("no app token".into()))?;
        let url = format!("{}/apps.connections.open", self.base);
        let call = self.client.post(url).bearer_auth(app.expose_secret());
        let answer = said("apps.connections.open", self.send(call).await?)?;
        let url = answer.get("url").and_then(Value::as_str).unwrap_or_default();
        let local = self.base.starts_with("http://");
        match (url.strip_prefix("wss://"), url.strip_prefix("ws://")) {
            (Some(rest), _) => Ok(format!("https://{rest}")),
            (_, Some(rest)) if local => Ok(format!("http://{rest}")),
            _ => Err(SendError::Down("no wss:// address in the answer".into())),
        }
    }

    /// Answers over a `response_url`, if it is Slack's.
    pub(super) async fn respond(&self, url: &str, body: &Value) -> Result<(), SendError> {
        if !is_slacks(&self.base, url) {
            return Err(SendError::Barred("the response address is not Slack's".into()));
        }
        let answer = self.client.post(url).json(body).send().await;
        let answer = answer.map_err(|e| down(&e))?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(SendError::Down(format!("status {}", answer.status().as_u16())))
    }

    async fn send(&self, call: reqwest::RequestBuilder) -> Result<Value, SendError> {
        let mut answer = call.send().await.map_err(|e| down(&e))?;
        let status = answer.status().as_u16();
        if status == 429 {
            let after = answer.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok());
            let seconds = after.and_then(|s| s.trim().parse::<i64>().ok()).unwrap_or(30);
            return Err(SendError::Later(seconds.clamp(1, 3600) * 1000));
        }
        if status != 200 {
            return Err(SendError::Down(format!("status {status}")));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| down(&e))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MOST_ANSWER {
                return Err(SendError::Down("the answer is too long".into()));
            }
        }
        serde_json::from_slice(&bytes).map_err(|_| SendError::Down("the answer is no JSON".into()))
    }
}

/// A client that follows nothing.
pub(super) fn client(timeout: Option<Duration>) -> Result<Client, StartError> {
    let mut builder = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CALL)
        .user_agent("grantwright");
    if let Some(timeout) = timeout {
        builder = builder.timeout(timeout);
    }
    builder.build().map_err(|e| StartError::new(format!("channel.slack: {e}")))
}

/// Errors of reqwest name the address, which may be a capability.
fn down(e: &reqwest::Error) -> SendError {
    let what = if e.is_timeout() { "no answer in time" } else { "no connection, or it broke" };
    SendError::Down(what.into())
}

/// What an answer of 200 says.
fn said(method: &str, answer: Value) -> Result<Value, SendError> {
    if answer.get("ok").and_then(Value::as_bool) == Some(true) {
        return Ok(answer);
    }
    let error = answer.get("error").and_then(Value::as_str).unwrap_or("no reason given");
    let shown = grantwright_domain::text::shorten(&grantwright_domain::text::visible(error), 60);
    Err(match error {
        "message_not_found" | "cant_update_message" | "edit_window_closed" | "thread_not_found" => {
            SendError::Gone
        }
        "invalid_blocks"
        | "invalid_blocks_format"
        | "invalid_arguments"
        | "msg_too_long"
        | "msg_blocks_too_long"
        | "no_text" => SendError::Unshowable(shown),
        "ratelimited" | "rate_limited" => SendError::Later(30_000),
        "internal_error" | "fatal_error" | "service_unavailable" | "request_timeout" => {
            SendError::Down(shown)
        }
        _ => SendError::Barred(format!("{method}: {shown}")),
    })
}

/// Whether an address is Slack's own, compared after parsing. Where the Web API is local, as in
/// tests, the same host and port.
fn is_slacks(base: &str, url: &str) -> bool {
    let (Ok(base), Ok(url)) = (reqwest::Url::parse(base), reqwest::Url::parse(url)) else {
        return false;
    };
    if !url.username().is_empty() || url.password().is_some() {
        return false;
    }
    if base.scheme() == "http" {
        return url.origin() == base.origin();
    }
    let host = base.host_str().map(|h| format!("hooks.{h}"));
    url.scheme() == "https" && url.port().is_none() && url.host_str() == host.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_slacks_own_address_is_answered() {
        let base = "https://slack.com/api";
        assert!(is_slacks(base, "https://hooks.slack.com/actions/T1/1/x"));
        for odd in [
            "http://hooks.slack.com/x",
            "https://hooks.slack.com:8443/x",
            "https://hooks.slack.com.evil.example/x",
            "https://hooks.slack.com@evil.example/x",
            "https://user@hooks.slack.com/x",
            "https://evil.example/hooks.slack.com",
            "https://slack.com/x",
            "//hooks.slack.com/x",
            "file:///etc/passwd",
            "",
        ] {
            assert!(!is_slacks(base, odd), "{odd}");
        }
        assert!(is_slacks("http://127.0.0.1:9/api", "http://127.0.0.1:9/hooks/1"));
        assert!(!is_slacks("http://127.0.0.1:9/api", "http://127.0.0.1:10/hooks/1"));
    }
}
