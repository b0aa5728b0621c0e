//! One signed message an event (Standard Webhooks 1.0), in order; the next leaves once the last was taken.

use std::path::PathBuf;
use std::time::Duration;

use grantwright_approval::webhook::Endpoint;
use grantwright_audit::export::Format;
use grantwright_domain::Digest;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Url};

use super::config::WebTarget;
use super::{Delivery, Line};
use crate::channels::teams::config::safe_url;
use crate::core::Broker;
use crate::error::StartError;
use crate::keys::read_secret;

/// Longest wait for one answer.
const CALL_TIME: Duration = Duration::from_secs(15);

/// See the module.
pub(super) struct WebSink {
    http: Client,
    url: Url,
    endpoint: Endpoint,
    media_type: &'static str,
}

impl WebSink {
    pub(super) fn new(t: &WebTarget, format: Format) -> Result<Self, StartError> {
        let url = safe_url(&t.url)
            .ok_or_else(|| StartError::new("export: webhook.url: want https://…"))?;
        let read = |path: &PathBuf| read_secret(path).map(|s| s.expose_secret().trim().to_owned());
        let secrets = t.secret_files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let endpoint = Endpoint::parse(secrets.iter().map(String::as_str))
            .map_err(|e| StartError::new(format!("export: webhook.secret_files: {e}")))?;
        let http = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(CALL_TIME)
            .build()
            .map_err(|e| StartError::new(format!("export: no HTTP client: {e}")))?;
        Ok(Self { http, url, endpoint, media_type: format.media_type() })
    }

    /// Posts lines until one is not taken.
    pub(super) async fn deliver(&self, broker: &Broker, lines: &[Line]) -> Delivery {
        // A log that begins anew after a restore has other messages under the same indexes.
        let log = Digest::of("export-log", broker.authority().origin.as_bytes()).hex();
        let log = log.get(..12).unwrap_or("log");
        for (taken, line) in lines.iter().enumerate() {
            let id = format!("leaf_{log}_{}", line.index);
            if let Err(fault) = self.post(broker, &id, line).await {
                return Delivery { taken, fault: Some(fault) };
            }
        }
        Delivery { taken: lines.len(), fault: None }
    }

    async fn post(&self, broker: &Broker, id: &str, line: &Line) -> Result<(), String> {
        let signed = self.endpoint.sign(id, broker.now(), &line.bytes);
        let signed = signed.map_err(|e| e.to_string())?;
        let sent = self
            .http
            .post(self.url.clone())
            .header(CONTENT_TYPE, self.media_type)
            .header("webhook-id", &signed.id)
            .header("webhook-timestamp", &signed.timestamp)
            .header("webhook-signature", &signed.signature)
            .body(line.bytes.clone())
            .send()
            .await;
        let answer = sent.map_err(|e| e.without_url().to_string())?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(format!("leaf {}: the receiver answered {}", line.index, answer.status().as_u16()))
    }
}
