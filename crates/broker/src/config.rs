//! The broker's configuration: TOML, unknown keys refused, every error reported at once, secrets by
//! file or environment reference and never inline.

use std::path::{Path, PathBuf};

use grantwright_domain::time::parse_ttl;
use serde::Deserialize;

use crate::error::StartError;

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
    /// The log's public side.
    #[serde(default)]
    pub log: LogSection,
    /// Backends.
    #[serde(default, rename = "minter")]
    pub minters: Vec<MinterSection>,
    /// Written by rename once both listeners are up.
    #[serde(default)]
    pub ready_file: Option<PathBuf>,
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

/// `[guards]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardsSection {
    /// Risk labels whose scopes must name a fact that an approver types; see `Scope::confirm`.
    #[serde(default)]
    pub two_step_risks: Vec<String>,
}

/// `[log]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSection {
    /// Whether entries, not only hashes, are served without a token.
    #[serde(default)]
    pub open_entries: bool,
}

/// `[limits]`; lifetimes as `15m`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open requests per agent; one more is 429.
    pub open_requests_per_agent: u32,
    /// Asks per second and agent.
    pub asks_per_second: u32,
    /// How long people have to decide.
    pub pending_ttl: String,
    /// How long a person's deny sticks to the identical ask.
    pub deny_sticky: String,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            open_requests_per_agent: 20,
            asks_per_second: 50,
            pending_ttl: "1h".into(),
            deny_sticky: "10m".into(),
        }
    }
}

/// One `[[minter]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum MinterSection {
    /// Built-in signed JWT.
    Jwt {
        /// The name scopes use.
        name: String,
        /// `EdDSA` or `ES256`.
        #[serde(default = "eddsa")]
        algorithm: String,
    },
    /// AWS STS AssumeRole.
    Sts {
        /// The name scopes use.
        name: String,
        /// Region.
        region: String,
        /// Endpoint override.
        #[serde(default)]
        endpoint: Option<String>,
        /// File with the access key id.
        access_key_id_file: PathBuf,
        /// File with the secret access key.
        secret_access_key_file: PathBuf,
        /// Longest wait for an answer, for example `10s`.
        #[serde(default = "ten_seconds")]
        timeout: String,
        /// File with the session token.
        #[serde(default)]
        session_token_file: Option<PathBuf>,
    },
    /// Exists, and refuses with a reason.
    Unconfigured {
        /// The name scopes use.
        name: String,
        /// The backend it stands for, `sts` or `vault`: its rules for templates hold.
        #[serde(default = "vault")]
        backend: String,
        /// Said to who asks.
        reason: String,
    },
}

fn auto() -> String {
    "auto".into()
}

fn ten_seconds() -> String {
    "10s".into()
}

fn vault() -> String {
    "vault".into()
}

fn eddsa() -> String {
    "EdDSA".into()
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
        config.ready_file = config.ready_file.map(|f| base.join(f));
        for minter in &mut config.minters {
            if let MinterSection::Sts {
                access_key_id_file,
                secret_access_key_file,
                session_token_file,
                ..
            } = minter
            {
                *access_key_id_file = base.join(&*access_key_id_file);
                *secret_access_key_file = base.join(&*secret_access_key_file);
                *session_token_file = session_token_file.take().map(|f| base.join(f));
            }
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
        ] {
            if let Err(e) = parse_ttl(ttl) {
                out.push(format!("{key}: {e}"));
            }
        }
        if self.limits.open_requests_per_agent == 0 || self.limits.asks_per_second == 0 {
            out.push("limits: 0 would refuse every ask; give at least 1".into());
        }
        if !self.store.url.starts_with("sqlite://") && !self.store.url.starts_with("postgres") {
            out.push("store.url: want sqlite:///absolute/path or postgres://…".into());
        }
        if self.public_url != "auto"
            && !self.public_url.starts_with("https://")
            && !self.public_url.starts_with("http://localhost")
        {
            out.push("public_url: want https://…, http://localhost:… or `auto`".into());
        }
        let mut names = std::collections::BTreeSet::new();
        for minter in &self.minters {
            if !names.insert(minter.name()) {
                out.push(format!("minter `{}` is there twice", minter.name()));
            }
            match minter {
                MinterSection::Sts { timeout, .. } => {
                    if let Err(e) = parse_ttl(timeout) {
                        out.push(format!("minter `{}`: timeout: {e}", minter.name()));
                    }
                }
                MinterSection::Unconfigured { backend, .. }
                    if !matches!(backend.as_str(), "sts" | "vault") =>
                {
                    out.push(format!(
                        "minter `{}`: backend `{backend}`: want sts or vault",
                        minter.name()
                    ));
                }
                _ => {}
            }
            if let MinterSection::Jwt { algorithm, .. } = minter
                && !matches!(algorithm.as_str(), "EdDSA" | "ES256")
            {
                out.push(format!("minter algorithm `{algorithm}`: want EdDSA or ES256"));
            }
        }
        out
    }

    /// How long people have to decide, in milliseconds.
    #[must_use]
    pub fn pending_ms(&self) -> i64 {
        i64::from(parse_ttl(&self.limits.pending_ttl).unwrap_or(3600)) * 1000
    }

    /// How long a deny sticks, in milliseconds.
    #[must_use]
    pub fn deny_sticky_ms(&self) -> i64 {
        i64::from(parse_ttl(&self.limits.deny_sticky).unwrap_or(600)) * 1000
    }
}

impl MinterSection {
    /// The name scopes use.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Jwt { name, .. } | Self::Sts { name, .. } | Self::Unconfigured { name, .. } => {
                name
            }
        }
    }
}
