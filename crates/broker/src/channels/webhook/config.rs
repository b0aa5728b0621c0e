//! `[channel.webhook]`.

use std::path::PathBuf;

use grantwright_approval::webhook::MOST_SECRETS;
use serde::Deserialize;

use crate::channels::teams::config::safe_url;

/// `[channel.webhook]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSection {
    /// Where events go; never changed by anything but this file.
    pub url: String,
    /// Files with a secret each, the one in use first: `whsec_…`, or `whsk_…` to sign asymmetrically.
    pub secret_files: Vec<PathBuf>,
}

impl WebhookSection {
    /// What is wrong with it.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut out = Vec::new();
        if safe_url(&self.url).is_none() {
            out.push(
                "channel.webhook.url: want https://…, without a name or password in it".into(),
            );
        }
        if self.secret_files.is_empty() || self.secret_files.len() > MOST_SECRETS {
            out.push(format!("channel.webhook.secret_files: want 1 to {MOST_SECRETS} files"));
        }
        out
    }
}
