//! The broker's configuration: TOML, unknown keys refused, every error reported at once, secrets by
//! file or environment reference and never inline.

pub mod clouds;

use std::path::{Path, PathBuf};

use grantwright_domain::time::parse_ttl;
use grantwright_mint::BACKENDS;
use grantwright_mint::vault::Engine;
use serde::Deserialize;

use self::clouds::{AzureSection, GcpSection, GithubSection, KubernetesSection, OauthSection};
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

/// `[oidc]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcSection {
    /// The issuer, exactly as its tokens name it.
    pub issuer: String,
    /// This broker's name there.
    pub client_id: String,
    /// File with the client's secret; absent: a public client, by PKCE alone.
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    /// Scopes to ask for besides `openid`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The claim that names the account for ever.
    #[serde(default = "sub")]
    pub subject_claim: String,
    /// The claim that names its groups; absent: the provider says nothing of groups.
    #[serde(default)]
    pub groups_claim: Option<String>,
    /// Groups there, by the claim's value, to groups here.
    #[serde(default)]
    pub groups: std::collections::BTreeMap<String, grantwright_domain::GroupName>,
    /// How long its word on groups counts, for example `8h`; a day at most.
    #[serde(default = "eight_hours")]
    pub max_staleness: String,
    /// The audience of `on_behalf_of` tokens; absent: `client_id`.
    #[serde(default)]
    pub on_behalf_of_audience: Option<String>,
    /// What becomes of an account that nobody linked.
    #[serde(default)]
    pub first_login: FirstLogin,
}

/// What becomes of an account that nobody linked yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstLogin {
    /// It waits, for a week, to be linked by an operator.
    Pending,
    /// It is turned away.
    #[default]
    Refuse,
}

impl OidcSection {
    /// The audience of `on_behalf_of` tokens.
    #[must_use]
    pub fn audience(&self) -> &str {
        self.on_behalf_of_audience.as_deref().unwrap_or(&self.client_id)
    }

    /// How long its word on groups counts, in milliseconds.
    #[must_use]
    pub fn staleness_ms(&self) -> i64 {
        i64::from(parse_ttl(&self.max_staleness).unwrap_or(0)) * 1000
    }

    fn faults(&self) -> Vec<String> {
        let mut out = Vec::new();
        if !self.issuer.starts_with("https://") && !self.issuer.starts_with("http://") {
            out.push("oidc.issuer: want https://…, as the provider's tokens name it".into());
        }
        for (key, text) in [("client_id", &self.client_id), ("subject_claim", &self.subject_claim)]
        {
            if text.is_empty() {
                out.push(format!("oidc.{key}: is empty"));
            }
        }
        if matches!(
            self.subject_claim.as_str(),
            "email"
                | "name"
                | "nickname"
                | "phone_number"
                | "preferred_username"
                | "upn"
                | "unique_name"
        ) {
            out.push(format!(
                "oidc.subject_claim: `{}` can be given to another person; want sub, or oid with Entra",
                self.subject_claim
            ));
        }
        match parse_ttl(&self.max_staleness) {
            Ok(s) if s <= 86_400 => {}
            Ok(_) => out.push("oidc.max_staleness: at most 24h".into()),
            Err(e) => out.push(format!("oidc.max_staleness: {e}")),
        }
        if self.groups_claim.is_none() != self.groups.is_empty() {
            out.push("oidc: groups_claim and [oidc.groups] need each other".into());
        }
        if self.on_behalf_of_audience.as_deref() == Some("") {
            out.push("oidc.on_behalf_of_audience: is empty".into());
        }
        out
    }
}

fn sub() -> String {
    "sub".into()
}

fn eight_hours() -> String {
    "8h".into()
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
    /// Built-in OpenSSH certificates.
    Ssh {
        /// The name scopes use; also in the names of its key files and documents.
        name: String,
    },
    /// AWS STS.
    Sts(StsSection),
    /// PostgreSQL: a role per grant.
    Postgres {
        /// The name scopes use.
        name: String,
        /// `postgres://user@host/database`, without a password; loopback or a socket's folder unless
        /// `ca_file` says how it is encrypted.
        url: String,
        /// PEM of the authority that signs the server's certificate: then only TLS is spoken.
        #[serde(default)]
        ca_file: Option<PathBuf>,
        /// File with the user's password.
        #[serde(default)]
        password_file: Option<PathBuf>,
        /// Longest wait for an answer, for example `10s`.
        #[serde(default = "ten_seconds")]
        timeout: String,
    },
    /// Built-in X.509 certificates.
    X509 {
        /// The name scopes use; also in the names of its key files and documents.
        name: String,
    },
    /// HashiCorp Vault or OpenBao.
    Vault(VaultSection),
    /// Kubernetes service accounts' tokens.
    Kubernetes(KubernetesSection),
    /// GitHub App installation tokens.
    Github(GithubSection),
    /// OAuth 2.0 token exchange.
    Oauth(OauthSection),
    /// Google Cloud workload identity federation.
    Gcp(GcpSection),
    /// Azure federated credentials.
    Azure(AzureSection),
    /// Exists, and refuses with a reason.
    Unconfigured {
        /// The name scopes use.
        name: String,
        /// The backend it stands for, by its name in docs/backends.md: its rules for templates hold.
        #[serde(default = "vault")]
        backend: String,
        /// Said to who asks.
        reason: String,
    },
}

/// A `[[minter]]` of kind `sts`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StsSection {
    /// The name scopes use.
    pub name: String,
    /// Region.
    pub region: String,
    /// Endpoint override; one that is not of AWS says that its answers need not name the principal.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// File with the access key id.
    #[serde(default)]
    pub access_key_id_file: Option<PathBuf>,
    /// File with the secret access key.
    #[serde(default)]
    pub secret_access_key_file: Option<PathBuf>,
    /// File with the session token.
    #[serde(default)]
    pub session_token_file: Option<PathBuf>,
    /// Instead of keys: the audience of the broker's own identity tokens, as the IAM OIDC provider has it.
    #[serde(default)]
    pub web_identity_audience: Option<String>,
    /// Roles assumed one from the other before a scope's own.
    #[serde(default)]
    pub chain: Vec<String>,
    /// How sessions are ended early.
    #[serde(default)]
    pub revoke: Option<StsRevoke>,
    /// Longest wait for an answer, for example `10s`.
    #[serde(default = "ten_seconds")]
    pub timeout: String,
}

/// `[minter.revoke]` of an STS.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StsRevoke {
    /// Role that may change the scopes' roles; absent: as it mints.
    #[serde(default)]
    pub role_arn: Option<String>,
    /// Instead of `https://iam.amazonaws.com`.
    #[serde(default)]
    pub iam_endpoint: Option<String>,
    /// Region that signs for IAM.
    #[serde(default = "us_east_1")]
    pub iam_region: String,
}

impl StsSection {
    fn rebase(&mut self, base: &Path) {
        for file in [
            &mut self.access_key_id_file,
            &mut self.secret_access_key_file,
            &mut self.session_token_file,
        ] {
            *file = file.take().map(|f| base.join(f));
        }
    }

    fn faults(&self) -> Vec<String> {
        let mut out = Vec::new();
        let name = &self.name;
        if let Err(e) = parse_ttl(&self.timeout) {
            out.push(format!("minter `{name}`: timeout: {e}"));
        }
        let keys = (self.access_key_id_file.is_some(), self.secret_access_key_file.is_some());
        match (keys, self.web_identity_audience.is_some()) {
            ((true, true), false) | ((false, false), true) => {}
            ((false, false), false) => out.push(format!(
                "minter `{name}`: want access_key_id_file and secret_access_key_file, or \
                 web_identity_audience"
            )),
            (_, true) => out.push(format!(
                "minter `{name}`: want an access key or web_identity_audience, not both"
            )),
            _ => out.push(format!(
                "minter `{name}`: want access_key_id_file and secret_access_key_file both"
            )),
        }
        if self.session_token_file.is_some() && !keys.0 {
            out.push(format!("minter `{name}`: session_token_file wants the key it belongs to"));
        }
        out
    }
}

/// A `[[minter]]` of kind `vault`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultSection {
    /// The name scopes use.
    pub name: String,
    /// Address, for example `https://vault.example.com:8200`.
    pub address: String,
    /// Which engine mints: `database`, `aws`, `identity`, `pki`, `ssh`, `token` or `transit`.
    #[serde(default = "database")]
    pub engine: String,
    /// Answers with credentials are wrapped on their way to the broker.
    #[serde(default)]
    pub wrap: bool,
    /// Accounts of the engine `database` are made with a token of their own each, by which what a lost
    /// answer or a crash left is found and revoked.
    #[serde(default)]
    pub token_per_mint: bool,
    /// Namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// PEM of the authority that signs Vault's certificate; absent: the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// PEM of the broker's certificate, for the login `cert`.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    /// PEM of its key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Longest wait for an answer, for example `10s`.
    #[serde(default = "ten_seconds")]
    pub timeout: String,
    /// How the broker logs in.
    pub login: VaultLogin,
}

/// `[minter.login]` of a Vault.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub enum VaultLogin {
    /// AppRole.
    Approle {
        /// Where it is mounted.
        #[serde(default = "approle")]
        mount: String,
        /// File with the role id.
        role_id_file: PathBuf,
        /// File with the secret id.
        secret_id_file: PathBuf,
    },
    /// TLS certificate.
    Cert {
        /// Where it is mounted.
        #[serde(default = "cert")]
        mount: String,
        /// Role at Vault.
        role: String,
    },
    /// The broker's own OIDC identity, signed by its first minter of kind `jwt`.
    Jwt {
        /// Where it is mounted.
        #[serde(default = "jwt")]
        mount: String,
        /// Role at Vault.
        role: String,
        /// Audience that the role is bound to.
        audience: String,
    },
    /// Kubernetes service account.
    Kubernetes {
        /// Where it is mounted.
        #[serde(default = "kubernetes")]
        mount: String,
        /// Role at Vault.
        role: String,
        /// File with the service account's token.
        token_file: PathBuf,
    },
    /// A token made elsewhere.
    Token {
        /// File with the token.
        token_file: PathBuf,
    },
}

impl VaultSection {
    fn rebase(&mut self, base: &Path) {
        for file in [&mut self.ca_file, &mut self.certificate_file, &mut self.key_file] {
            *file = file.take().map(|f| base.join(f));
        }
        match &mut self.login {
            VaultLogin::Approle { role_id_file, secret_id_file, .. } => {
                *role_id_file = base.join(&*role_id_file);
                *secret_id_file = base.join(&*secret_id_file);
            }
            VaultLogin::Kubernetes { token_file, .. } | VaultLogin::Token { token_file } => {
                *token_file = base.join(&*token_file);
            }
            VaultLogin::Cert { .. } | VaultLogin::Jwt { .. } => {}
        }
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> Option<Engine> {
        Engine::ALL.into_iter().find(|engine| engine.word() == self.engine)
    }

    fn faults(&self) -> Vec<String> {
        let mut out = Vec::new();
        if let Err(e) = parse_ttl(&self.timeout) {
            out.push(format!("minter `{}`: timeout: {e}", self.name));
        }
        if self.engine().is_none() {
            let words: Vec<&str> = Engine::ALL.iter().map(|e| e.word()).collect();
            out.push(format!(
                "minter `{}`: engine `{}`: want one of {}",
                self.name,
                self.engine,
                words.join(", ")
            ));
        }
        if self.token_per_mint && self.engine() != Some(Engine::Database) {
            out.push(format!(
                "minter `{}`: token_per_mint is for the engine `database`; leave it out",
                self.name
            ));
        }
        if self.certificate_file.is_some() != self.key_file.is_some() {
            out.push(format!("minter `{}`: want certificate_file and key_file both", self.name));
        }
        out
    }
}

fn approle() -> String {
    "approle".into()
}

fn cert() -> String {
    "cert".into()
}

fn jwt() -> String {
    "jwt".into()
}

fn kubernetes() -> String {
    "kubernetes".into()
}

fn auto() -> String {
    "auto".into()
}

fn ten_seconds() -> String {
    "10s".into()
}

fn database() -> String {
    "database".into()
}

fn us_east_1() -> String {
    "us-east-1".into()
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
        if let Some(oidc) = &mut config.oidc {
            oidc.client_secret_file = oidc.client_secret_file.take().map(|f| base.join(f));
        }
        config.ready_file = config.ready_file.map(|f| base.join(f));
        for service in &mut config.introspection {
            service.secret_file = base.join(&service.secret_file);
        }
        for minter in &mut config.minters {
            if let MinterSection::Vault(vault) = minter {
                vault.rebase(base);
            }
            if let MinterSection::Postgres { password_file, ca_file, .. } = minter {
                *password_file = password_file.take().map(|f| base.join(f));
                *ca_file = ca_file.take().map(|f| base.join(f));
            }
            match minter {
                MinterSection::Sts(sts) => sts.rebase(base),
                MinterSection::Kubernetes(s) => {
                    clouds::rebase(base, [&mut s.token_file], &mut s.ca_file);
                }
                MinterSection::Github(s) => {
                    clouds::rebase(base, [&mut s.private_key_file], &mut s.ca_file);
                }
                MinterSection::Oauth(s) => {
                    clouds::rebase(base, [&mut s.client_secret_file], &mut s.ca_file);
                }
                _ => {}
            }
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
            match minter {
                MinterSection::Sts(sts) => out.extend(sts.faults()),
                MinterSection::Postgres { timeout, .. } => {
                    if let Err(e) = parse_ttl(timeout) {
                        out.push(format!("minter `{}`: timeout: {e}", minter.name()));
                    }
                }
                MinterSection::Vault(vault) => out.extend(vault.faults()),
                MinterSection::Kubernetes(KubernetesSection { name, timeout, .. })
                | MinterSection::Github(GithubSection { name, timeout, .. })
                | MinterSection::Oauth(OauthSection { name, timeout, .. })
                | MinterSection::Gcp(GcpSection { name, timeout, .. })
                | MinterSection::Azure(AzureSection { name, timeout, .. }) => {
                    out.extend(clouds::timeout_faults(name, timeout));
                }
                MinterSection::Unconfigured { backend, .. }
                    if !BACKENDS.iter().any(|b| b.declaration.name == backend) =>
                {
                    let names: Vec<&str> = BACKENDS.iter().map(|b| b.declaration.name).collect();
                    out.push(format!(
                        "minter `{}`: backend `{backend}`: want one of {}",
                        minter.name(),
                        names.join(", ")
                    ));
                }
                _ => {}
            }
            if let MinterSection::Ssh { name } | MinterSection::X509 { name } = minter
                && !is_file_name(name)
            {
                out.push(format!("minter `{name}`: names of this kind are 1 to 32 of a-z 0-9 -"));
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

/// Names of key files and documents are made of it.
fn is_file_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

impl MinterSection {
    /// The name scopes use.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Jwt { name, .. }
            | Self::Ssh { name }
            | Self::X509 { name }
            | Self::Postgres { name, .. }
            | Self::Unconfigured { name, .. } => name,
            Self::Kubernetes(s) => &s.name,
            Self::Github(s) => &s.name,
            Self::Oauth(s) => &s.name,
            Self::Gcp(s) => &s.name,
            Self::Azure(s) => &s.name,
            Self::Sts(sts) => &sts.name,
            Self::Vault(vault) => &vault.name,
        }
    }
}
