//! The broker's configuration: TOML, unknown keys refused, every error reported at once, secrets by
//! file or environment reference and never inline.

pub mod clouds;
pub mod minters;
pub mod oidc;
pub mod sts;
pub mod vault;

use std::path::{Path, PathBuf};

use grantwright_domain::time::parse_ttl;
use serde::Deserialize;

use self::minters::MinterSection;
use self::oidc::OidcSection;
use crate::ca::CERTIFICATE_S;
use crate::channels::slack::config::SlackSection;
use crate::channels::teams::config::TeamsSection;
use crate::channels::webhook::config::WebhookSection;
use crate::error::StartError;
use crate::guards::config::GuardsSection;
use crate::sinks::config::ExportSection;
use crate::witness::{PolicySection, WitnessSection};

/// `broker.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where it listens.
    pub listen: Listen,
    /// Base of links for people and issuer of tokens; `auto` is `http://localhost:<port>`.
    #[serde(default = "auto")]
    pub public_url: String,
    /// Where the log and its tables are.
    pub store: StoreSection,
    /// Where the keys are.
    pub keys: KeysSection,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
    /// What keeps people who decide attentive.
    #[serde(default)]
    pub guards: GuardsSection,
    /// The company's identity provider.
    #[serde(default)]
    pub oidc: Option<OidcSection>,
    /// The log's public side.
    #[serde(default)]
    pub log: LogSection,
    /// Backends.
    #[serde(default, rename = "minter")]
    pub minters: Vec<MinterSection>,
    /// Services that may ask whether a token lives.
    #[serde(default)]
    pub introspection: Vec<IntrospectionSection>,
    /// Ways to reach people beside the console and the API.
    #[serde(default)]
    pub channel: ChannelSection,
    /// Where the log is exported to.
    #[serde(default, rename = "export")]
    pub exports: Vec<ExportSection>,
    /// Written by rename once both listeners are up.
    #[serde(default)]
    pub ready_file: Option<PathBuf>,
    /// How events are written to standard error.
    #[serde(default)]
    pub log_format: LogFormat,
}

/// `log_format`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Lines for people.
    #[default]
    Text,
}

/// Addresses to listen on; port 0 lets the system choose.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// gRPC over mutual TLS, for sidecars.
    pub grpc: String,
    /// HTTP, for people, the log and discovery.
    pub http: String,
}

/// `[store]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSection {
    /// `sqlite:///absolute/path` or `postgres://…`.
    pub url: String,
}

/// `[keys]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysSection {
    /// Folder of the key files, each of mode 0600.
    pub dir: PathBuf,
}

/// `[log]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSection {
    /// Whether entries, not only hashes, are served without a token.
    #[serde(default)]
    pub open_entries: bool,
    /// Who else sees that the log only grows.
    #[serde(default)]
    pub witness: Vec<WitnessSection>,
    /// How many of them must agree.
    #[serde(default)]
    pub witnessing: PolicySection,
}

/// `[channel.…]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelSection {
    /// Microsoft Teams.
    #[serde(default)]
    pub teams: Option<TeamsSection>,
    /// One tool outside.
    #[serde(default)]
    pub webhook: Option<WebhookSection>,
    /// Slack.
    #[serde(default)]
    pub slack: Option<SlackSection>,
}

/// `[limits]`; lifetimes as `15m`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open requests per agent; one more is 429.
    pub open_requests_per_agent: u32,
    /// Asks per second and agent.
    pub asks_per_second: u32,
    /// Other calls per second, of one agent and of one person.
    pub calls_per_second: u32,
    /// Calls per second of one address to the doors where people sign in.
    pub sign_ins_per_second: u32,
    /// How long people have to decide.
    pub pending_ttl: String,
    /// How long a person's deny sticks to the identical ask.
    pub deny_sticky: String,
    /// Life of a sidecar's certificate, renewed at half of it; 30 s to 24 h.
    pub certificate_life: String,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            open_requests_per_agent: 20,
            asks_per_second: 50,
            calls_per_second: 200,
            sign_ins_per_second: 20,
            pending_ttl: "1h".into(),
            deny_sticky: "10m".into(),
            certificate_life: "1h".into(),
        }
    }
}

/// One `[[introspection]]`: a service that takes tokens and may ask whether they live.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntrospectionSection {
    /// Its name, for HTTP Basic.
    pub client: String,
    /// File with its secret, 32 characters or more.
    pub secret_file: PathBuf,
    /// The audience of its tokens: it is told of no others.
    pub audience: String,
}

fn auto() -> String {
    "auto".into()
}

impl Config {
    /// Reads and checks the file; paths in it are relative to its folder.
    ///
    /// # Errors
    /// Every fault of the file, with what to do.
    pub fn load(path: &Path) -> Result<Self, StartError> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            StartError::new(format!(
                "cannot read `{}`: {e}; `grantwright init` makes one",
                path.display()
            ))
        })?;
        let mut config: Self = toml::from_str(&text).map_err(|e| {
            StartError::new(format!("`{}`: {}", path.display(), e.to_string().trim_end()))
        })?;
        let base = path.parent().unwrap_or(Path::new("."));
        config.keys.dir = base.join(&config.keys.dir);
        if let Some(oidc) = &mut config.oidc {
            oidc.client_secret_file = oidc.client_secret_file.take().map(|f| base.join(f));
        }
        config.ready_file = config.ready_file.map(|f| base.join(f));
        for service in &mut config.introspection {
            service.secret_file = base.join(&service.secret_file);
        }
        for minter in &mut config.minters {
            minter.rebase(base);
        }
        if let Some(teams) = &mut config.channel.teams {
            teams.secret_file = base.join(&teams.secret_file);
        }
        for file in config.channel.webhook.iter_mut().flat_map(|w| &mut w.secret_files) {
            *file = base.join(&*file);
        }
        if let Some(slack) = &mut config.channel.slack {
            slack.rebase(base);
        }
        for export in &mut config.exports {
            export.rebase(base);
        }
        let faults = config.faults();
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(StartError::new(format!("`{}`:\n  {}", path.display(), faults.join("\n  "))))
        }
    }

    fn faults(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (key, address) in
            [("listen.grpc", &self.listen.grpc), ("listen.http", &self.listen.http)]
        {
            if address.parse::<std::net::SocketAddr>().is_err() {
                out.push(format!(
                    "{key}: `{address}` is not an address and port, for example 127.0.0.1:8443"
                ));
            }
        }
        for (key, ttl) in [
            ("limits.pending_ttl", &self.limits.pending_ttl),
            ("limits.deny_sticky", &self.limits.deny_sticky),
            ("limits.certificate_life", &self.limits.certificate_life),
        ] {
            if let Err(e) = parse_ttl(ttl) {
                out.push(format!("{key}: {e}"));
            }
        }
        if !(30..=86_400).contains(&self.certificate_s()) {
            out.push(
                "limits.certificate_life: want 30s to 24h; sidecars renew at half of it".into(),
            );
        }
        if [
            self.limits.open_requests_per_agent,
            self.limits.asks_per_second,
            self.limits.calls_per_second,
            self.limits.sign_ins_per_second,
        ]
        .contains(&0)
        {
            out.push("limits: 0 would refuse every call; give at least 1".into());
        }
        if !self.store.url.starts_with("sqlite://") && !self.store.url.starts_with("postgres") {
            out.push("store.url: want sqlite:///absolute/path or postgres://…".into());
        }
        if self.public_url != "auto"
            && !self.public_url.starts_with("https://")
            && !self.public_url.starts_with("http://localhost")
        {
            out.push("public_url: want https://…, http://localhost:… or `auto`".into());
        } else if self.public_url != "auto"
            && let Err(why) = crate::http::ceremony::Party::of(&self.public_url)
        {
            out.push(format!("public_url: {why}"));
        }
        out.extend(self.guards.faults());
        out.extend(self.channel.teams.iter().flat_map(TeamsSection::faults));
        out.extend(self.channel.webhook.iter().flat_map(WebhookSection::faults));
        out.extend(self.oidc.iter().flat_map(OidcSection::faults));
        out.extend(self.log.witnessing.faults(&self.log.witness));
        out.extend(self.channel.slack.iter().flat_map(SlackSection::faults));
        let mut services = std::collections::BTreeSet::new();
        for service in &self.introspection {
            if service.client.is_empty() || service.client.contains(':') {
                out.push("introspection.client: want a name without a colon".into());
            }
            if service.audience.is_empty() {
                out.push("introspection.audience: is empty".into());
            }
            if !services.insert(&service.client) {
                out.push(format!("introspection `{}` is there twice", service.client));
            }
        }
        let mut names = std::collections::BTreeSet::new();
        out.extend(self.exports.iter().flat_map(ExportSection::faults));
        for (n, export) in self.exports.iter().enumerate() {
            if self.exports.iter().take(n).any(|other| other.name == export.name) {
                out.push(format!("export `{}` is there twice", export.name));
            }
        }
        for minter in &self.minters {
            if !names.insert(minter.name()) {
                out.push(format!("minter `{}` is there twice", minter.name()));
            }
            out.extend(minter.faults());
        }
        out
    }

    /// How long people have to decide, in milliseconds.
    #[must_use]
    pub fn pending_ms(&self) -> i64 {
        i64::from(parse_ttl(&self.limits.pending_ttl).unwrap_or(3600)) * 1000
    }

    /// Life of a sidecar's certificate, in seconds.
    #[must_use]
    pub fn certificate_s(&self) -> i64 {
        parse_ttl(&self.limits.certificate_life).map_or(CERTIFICATE_S, i64::from)
    }

    /// How long a deny sticks, in milliseconds.
    #[must_use]
    pub fn deny_sticky_ms(&self) -> i64 {
        i64::from(parse_ttl(&self.limits.deny_sticky).unwrap_or(600)) * 1000
    }
}
