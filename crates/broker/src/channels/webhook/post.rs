//! One attempt to hand a message over: to the configured address, no redirect followed.

use std::time::Duration;

use grantwright_approval::webhook::Headers;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Url};

use super::config::WebhookSection;
use crate::channels::teams::config::safe_url;
use crate::error::StartError;

/// Longest wait for the tool's answer.
const CALL_TIME: Duration = Duration::from_secs(15);
/// The longest pause that the tool can ask for, in seconds.
const MOST_PAUSE_S: i64 = 3600;

/// What the tool said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// 2xx.
    Taken,
    /// 410: it wants no more.
    Gone,
    /// It cannot now; perhaps it said for how long, in milliseconds.
    Later(Option<i64>),
    /// It refuses this message, or points elsewhere.
    Refused(u16),
}

pub(super) struct Post {
    http: Client,
    url: Url,
}

impl Post {
    pub(super) fn new(section: &WebhookSection) -> Result<Self, StartError> {
        let url = safe_url(&section.url)
            .ok_or_else(|| StartError::new("channel.webhook.url: want https://…"))?;
        let http = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(CALL_TIME)
            .build()
            .map_err(|e| StartError::new(format!("channel.webhook: no HTTP client: {e}")))?;
        Ok(Self { http, url })
    }

    pub(super) fn address(&self) -> &str {
        self.url.as_str()
    }

    pub(super) async fn send(&self, headers: &Headers, body: Vec<u8>) -> Said {
        let sent = self
            .http
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", &headers.id)
            .header("webhook-timestamp", &headers.timestamp)
            .header("webhook-signature", &headers.signature)
            .body(body)
            .send()
            .await;
        let Ok(answer) = sent else { return Said::Later(None) };
        let pause = answer
            .headers()
            .get(RETRY_AFTER)
            .and_then(|v| v.to_str().ok()?.parse::<i64>().ok())
            .map(|s| s.clamp(1, MOST_PAUSE_S) * 1000);
        match answer.status().as_u16() {
            200..=299 => Said::Taken,
            410 => Said::Gone,
            408 | 425 | 429 | 500..=599 => Said::Later(pause),
            other => Said::Refused(other),
        }
    }
}
