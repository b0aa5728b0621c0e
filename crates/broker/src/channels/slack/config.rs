//! `[channel.slack]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use grantwright_domain::GroupName;
use serde::Deserialize;

/// One Slack workspace, through an application of your own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlackSection {
    /// The workspace's id, `T…`, or for an organisation-wide installation the enterprise's, `E…`.
    pub workspace: String,
    /// The application's id, `A…`; pins deliveries to it.
    #[serde(default)]
    pub app: Option<String>,
    /// File with the bot token, `xoxb-…`.
    pub bot_token_file: PathBuf,
    /// File with the app-level token, `xapp-…`: deliveries come over Socket Mode.
    #[serde(default)]
    pub app_token_file: Option<PathBuf>,
    /// File with the signing secret: deliveries come to `POST /slack/interactivity`.
    #[serde(default)]
    pub signing_secret_file: Option<PathBuf>,
    /// Where each approver group's requests are shown: ids of conversations, `C…`. The group
    /// `security` is told what looks wrong.
    #[serde(default)]
    pub groups: BTreeMap<GroupName, String>,
    /// Where the requests of groups without one of their own are shown.
    #[serde(default)]
    pub default_channel: Option<String>,
    /// The Web API.
    #[serde(default = "slack_api")]
    pub api: String,
}

fn slack_api() -> String {
    "https://slack.com/api".into()
}

impl SlackSection {
    /// Paths become relative to the configuration's folder.
    pub fn rebase(&mut self, base: &Path) {
        self.bot_token_file = base.join(&self.bot_token_file);
        self.app_token_file = self.app_token_file.take().map(|f| base.join(f));
        self.signing_secret_file = self.signing_secret_file.take().map(|f| base.join(f));
    }

    /// Every fault, with what to do.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut out = Vec::new();
        let id = |text: &str, first: &[char]| {
            text.starts_with(first)
                && (3..=32).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        };
        if !id(&self.workspace, &['T', 'E']) {
            out.push("channel.slack.workspace: want the workspace's id, T…, not its name".into());
        }
        if self.app.as_deref().is_some_and(|a| !id(a, &['A'])) {
            out.push("channel.slack.app: want the application's id, A…".into());
        }
        if self.app_token_file.is_none() && self.signing_secret_file.is_none() {
            out.push(
                "channel.slack: without app_token_file (Socket Mode) or signing_secret_file (HTTP) nobody could decide there; give one".into(),
            );
        }
        if self.groups.is_empty() && self.default_channel.is_none() {
            out.push("channel.slack: name a conversation for a group, or default_channel".into());
        }
        for (key, place) in self
            .groups
            .iter()
            .map(|(g, p)| (format!("groups.{g}"), p))
            .chain(self.default_channel.iter().map(|p| ("default_channel".to_owned(), p)))
        {
            if !id(place, &['C', 'G']) {
                out.push(format!(
                    "channel.slack.{key}: want a conversation's id, C…, not its name"
                ));
            }
        }
        let local = ["http://127.0.0.1:", "http://localhost:"];
        if !self.api.starts_with("https://") && !local.iter().any(|l| self.api.starts_with(l)) {
            out.push("channel.slack.api: want https://…".into());
        }
        out
    }
}
