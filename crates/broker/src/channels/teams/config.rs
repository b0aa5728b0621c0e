//! `[channel.teams]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use grantwright_approval::teams::activity::is_guid;
use grantwright_domain::GroupName;
use reqwest::Url;
use serde::Deserialize;

/// `[channel.teams]`; the services' addresses are those of the public cloud unless given.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeamsSection {
    /// The bot's Microsoft app id.
    pub app_id: String,
    /// The only tenant whose people are heard.
    pub tenant: String,
    /// File with the app's client secret.
    pub secret_file: PathBuf,
    /// Where each group's requests are shown: conversation by group.
    pub conversations: BTreeMap<String, String>,
    /// Hosts to which messages may go. An activity's `serviceUrl` must name one of them.
    #[serde(default = "service_hosts")]
    pub service_hosts: Vec<String>,
    /// The connector's address until a conversation has told its own.
    #[serde(default = "service_url")]
    pub service_url: String,
    /// The login service.
    #[serde(default = "authority")]
    pub authority: String,
    /// For what the bot's own token is asked.
    #[serde(default = "scope")]
    pub scope: String,
    /// Who signs the Bot Service's tokens.
    #[serde(default = "issuer")]
    pub issuer: String,
    /// Where its keys are named.
    #[serde(default = "metadata_url")]
    pub metadata_url: String,
}

fn service_hosts() -> Vec<String> {
    vec!["smba.trafficmanager.net".into()]
}

fn service_url() -> String {
    "https://smba.trafficmanager.net/teams/".into()
}

fn authority() -> String {
    "https://login.microsoftonline.com".into()
}

fn scope() -> String {
    "https://api.botframework.com/.default".into()
}

fn issuer() -> String {
    "https://api.botframework.com".into()
}

fn metadata_url() -> String {
    "https://login.botframework.com/v1/.well-known/openidconfiguration".into()
}

impl TeamsSection {
    /// What is wrong with it.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (key, id) in [("app_id", &self.app_id), ("tenant", &self.tenant)] {
            if !is_guid(id) {
                out.push(format!(
                    "channel.teams.{key}: want a GUID such as 11111111-2222-3333-4444-555555555555"
                ));
            }
        }
        for (key, url) in [
            ("service_url", &self.service_url),
            ("authority", &self.authority),
            ("metadata_url", &self.metadata_url),
        ] {
            if safe_url(url).is_none() {
                out.push(format!(
                    "channel.teams.{key}: want https://…, without a name or password in it"
                ));
            }
        }
        if self.issuer.is_empty() || self.scope.is_empty() {
            out.push("channel.teams.issuer and .scope: an empty one would match nothing".into());
        }
        if safe_url(&self.service_url).is_some_and(|u| !allowed(&u, &self.service_hosts)) {
            out.push("channel.teams.service_url: its host is not among service_hosts".into());
        }
        if self.conversations.is_empty() {
            out.push("channel.teams.conversations: name at least one group's conversation".into());
        }
        for (group, conversation) in &self.conversations {
            if GroupName::parse(group).is_err() {
                out.push(format!(
                    "channel.teams.conversations: `{group}` is not the name of a group"
                ));
            }
            if conversation.is_empty() || conversation.len() > 400 || conversation.starts_with('@')
            {
                out.push(format!("channel.teams.conversations.{group}: want a conversation id such as 19:…@thread.tacv2"));
            }
        }
        out
    }
}

/// An address to which secrets may go: https, or http on this very machine, with nothing before the host.
#[must_use]
pub fn safe_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    let plain = url.username().is_empty() && url.password().is_none();
    let scheme = url.scheme() == "https" || (local && url.scheme() == "http");
    (plain && scheme && url.host_str().is_some()).then_some(url)
}

/// True when the address's host is one of these, as parsed, not as written.
#[must_use]
pub fn allowed(url: &Url, hosts: &[String]) -> bool {
    url.host_str().is_some_and(|host| hosts.iter().any(|h| h.eq_ignore_ascii_case(host)))
}
