//! Fetches the Bot Service's signing keys: when a token names one that is not known, and once a day.

use grantwright_approval::teams::keys::{MOST_BYTES, keys_address};
use grantwright_approval::teams::{KeySet, Teams};
use grantwright_domain::Timestamp;
use reqwest::{Client, Url};

use super::config::{TeamsSection, safe_url};
use super::connector::{bytes, client};
use crate::error::StartError;

/// Keys are fetched again after this time.
const FRESH_MS: i64 = 24 * 3_600_000;
/// Keys that could not be fetched again for so long are believed no more.
const STALE_MS: i64 = 5 * 24 * 3_600_000;
/// However many unknown keys tokens name, they are fetched no more often.
const LEAST_MS: i64 = 60_000;

pub(super) struct Keys {
    http: Client,
    metadata: Url,
    issuer: String,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    tried: Option<Timestamp>,
    fetched: Option<Timestamp>,
}

impl Keys {
    pub(super) fn new(section: &TeamsSection) -> Result<Self, StartError> {
        let metadata = safe_url(&section.metadata_url)
            .ok_or_else(|| StartError::new("channel.teams.metadata_url: want https://…"))?;
        let issuer = section.issuer.clone();
        Ok(Self { http: client()?, metadata, issuer, state: tokio::sync::Mutex::default() })
    }

    /// Fetches what is due; `unknown`: a token names a key that is not there. One caller fetches, the
    /// others wait for it.
    pub(super) async fn refresh(&self, teams: &Teams, unknown: bool, now: Timestamp) {
        let mut state = self.state.lock().await;
        let since = |at: Option<Timestamp>| at.map_or(i64::MAX, |at| now.since(at));
        let due = unknown || since(state.fetched) >= FRESH_MS;
        if !due || since(state.tried) < LEAST_MS {
            return;
        }
        state.tried = Some(now);
        match self.fetch().await {
            Ok(keys) => {
                state.fetched = Some(now);
                teams.set_keys(keys);
            }
            Err(why) => {
                tracing::warn!(channel = "teams", why, "the signing keys were not fetched");
                if since(state.fetched) >= STALE_MS {
                    teams.set_keys(KeySet::default());
                }
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let document = self.get(self.metadata.clone()).await?;
        let address = keys_address(&document, &self.issuer).map_err(|e| e.to_string())?;
        // The document names the keys' address; the configuration says whose it may be.
        let address = safe_url(&address)
            .filter(|a| a.origin() == self.metadata.origin())
            .ok_or("the keys' address is of another origin than the metadata's")?;
        KeySet::parse(&self.get(address).await?).map_err(|e| e.to_string())
    }

    async fn get(&self, url: Url) -> Result<Vec<u8>, String> {
        let sent = self.http.get(url).send().await.map_err(|e| e.without_url().to_string())?;
        if !sent.status().is_success() {
            return Err(format!("the login service answers {}", sent.status()));
        }
        bytes(sent, MOST_BYTES).await.ok_or_else(|| "the answer is too long or broke off".into())
    }
}
