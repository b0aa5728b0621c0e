//! The environment, read here and nowhere else in this crate, and the clock.

use std::path::PathBuf;

use grantwright_domain::Timestamp;

use crate::exit::Failure;

/// The variables of `DIR/env` that commands take as their defaults. Empty counts as absent.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `GRANTWRIGHT_CONSOLE`: base of the people's API.
    pub console: Option<String>,
    /// `GRANTWRIGHT_HUMAN_TOKEN_FILE`: the person's API token.
    pub token_file: Option<PathBuf>,
    /// `GRANTWRIGHT_STORE`: URL of the store, for read-only commands.
    pub store: Option<String>,
    /// `GRANTWRIGHT_LOG_VKEY`: the log's verifier key.
    pub vkey: Option<String>,
    /// `GRANTWRIGHT_CHECKPOINT`: file of the last checkpoint a sidecar saw.
    pub checkpoint: Option<PathBuf>,
    /// `GRANTWRIGHT_SIDECAR`: the sidecar's TCP address.
    pub sidecar: Option<String>,
    /// `GRANTWRIGHT_SIDECAR_SOCKET`: the sidecar's unix socket.
    pub sidecar_socket: Option<PathBuf>,
    /// `GRANTWRIGHT_TOKEN_FILE`: the agent's token for the sidecar's TCP address.
    pub sidecar_token_file: Option<PathBuf>,
    /// `GRANTWRIGHT_HELPERS`, else `grantwright/helpers.toml` in `XDG_CONFIG_HOME`, else in `~/.config`.
    pub helpers: Option<PathBuf>,
    /// What this environment says to AWS SDKs, for the doctor.
    pub sdk: Vec<(&'static str, String)>,
    /// `XDG_RUNTIME_DIR`: a folder of this user that no disk holds.
    pub runtime_dir: Option<PathBuf>,
    /// Whether colour is unwelcome (`NO_COLOR`, or a terminal without it).
    pub plain: bool,
}

/// Variables that lead AWS SDKs to a sidecar, or past it.
const SDK: [&str; 12] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "HTTP_PROXY",
    "NO_PROXY",
    "http_proxy",
    "no_proxy",
];

impl Settings {
    /// Reads the environment.
    pub fn read() -> Self {
        Self {
            console: variable("GRANTWRIGHT_CONSOLE"),
            token_file: variable("GRANTWRIGHT_HUMAN_TOKEN_FILE").map(PathBuf::from),
            store: variable("GRANTWRIGHT_STORE"),
            vkey: variable("GRANTWRIGHT_LOG_VKEY"),
            checkpoint: variable("GRANTWRIGHT_CHECKPOINT").map(PathBuf::from),
            sidecar: variable("GRANTWRIGHT_SIDECAR"),
            sidecar_socket: variable("GRANTWRIGHT_SIDECAR_SOCKET").map(PathBuf::from),
            sidecar_token_file: variable("GRANTWRIGHT_TOKEN_FILE").map(PathBuf::from),
            helpers: variable("GRANTWRIGHT_HELPERS").map(PathBuf::from).or_else(|| {
                let config = variable("XDG_CONFIG_HOME").map(PathBuf::from);
                let home = || variable("HOME").map(|home| PathBuf::from(home).join(".config"));
                Some(config.or_else(home)?.join("grantwright/helpers.toml"))
            }),
            sdk: SDK.iter().filter_map(|name| Some((*name, variable(name)?))).collect(),
            runtime_dir: variable("XDG_RUNTIME_DIR").map(PathBuf::from),
            plain: variable("NO_COLOR").is_some() || variable("TERM").is_some_and(|t| t == "dumb"),
        }
    }

    /// The people's API, or what to set.
    pub fn console(&self) -> Result<&str, Failure> {
        self.console.as_deref().ok_or_else(|| {
            Failure::unable("GRANTWRIGHT_CONSOLE is not set: it names the broker, for example http://localhost:8080")
        })
    }

    /// The store, or what to set.
    pub fn store(&self) -> Result<&str, Failure> {
        self.store.as_deref().ok_or_else(|| {
            Failure::unable(
                "GRANTWRIGHT_STORE is not set: it names the store, for example sqlite:///var/lib/grantwright/store.db",
            )
        })
    }
}

/// What the demo takes from the environment when it starts.
#[derive(Debug, Clone, Default)]
pub struct DemoSettings {
    /// `GRANTWRIGHT_DEMO_PENDING_TTL`: life of a pending request, for example `2s`.
    pub pending_ttl: Option<String>,
    /// `GRANTWRIGHT_DEMO_ASKS_PER_SECOND`.
    pub asks_per_second: Option<String>,
    /// `GRANTWRIGHT_DEMO_OPEN_REQUESTS`: how many of an agent's requests may be open, for measurements.
    pub open_requests: Option<String>,
    /// `GRANTWRIGHT_DEMO_CERTIFICATE_LIFE`: life of the sidecar's certificate, for example `90s`.
    pub certificate_life: Option<String>,
    /// `GRANTWRIGHT_DEMO_ROLE_ARN`: the role that the AWS scopes assume.
    pub role_arn: Option<String>,
    /// Static AWS credentials, and where STS is.
    pub aws: Option<AwsSettings>,
    /// Why there are none.
    pub aws_absent: String,
    /// Where Vault is, with its token.
    pub vault: Option<VaultSettings>,
    /// Why there is none.
    pub vault_absent: String,
}

/// Vault from the environment.
#[derive(Clone)]
pub struct VaultSettings {
    /// `VAULT_ADDR`.
    pub address: String,
    /// `VAULT_TOKEN`.
    pub token: String,
    /// `VAULT_NAMESPACE`.
    pub namespace: Option<String>,
    /// `VAULT_CACERT`: PEM of the authority of Vault's certificate.
    pub ca_file: Option<String>,
}

impl std::fmt::Debug for VaultSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VaultSettings").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Static AWS credentials from the environment.
#[derive(Clone)]
pub struct AwsSettings {
    /// `AWS_ENDPOINT_URL_STS`.
    pub endpoint: String,
    /// `AWS_REGION`, else `AWS_DEFAULT_REGION`, else `us-east-1`.
    pub region: String,
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: String,
    /// `AWS_SESSION_TOKEN`.
    pub session_token: Option<String>,
}

impl std::fmt::Debug for AwsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwsSettings").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl DemoSettings {
    /// Reads the environment.
    pub fn read() -> Self {
        let endpoint = variable("AWS_ENDPOINT_URL_STS");
        let key = variable("AWS_ACCESS_KEY_ID");
        let secret = variable("AWS_SECRET_ACCESS_KEY");
        let mut aws_absent = String::new();
        let aws = match (endpoint, key, secret) {
            (Some(endpoint), Some(access_key_id), Some(secret_access_key)) => Some(AwsSettings {
                endpoint,
                region: variable("AWS_REGION")
                    .or_else(|| variable("AWS_DEFAULT_REGION"))
                    .unwrap_or_else(|| "us-east-1".into()),
                access_key_id,
                secret_access_key,
                session_token: variable("AWS_SESSION_TOKEN"),
            }),
            (endpoint, key, secret) => {
                aws_absent = absent(&[
                    ("AWS_ENDPOINT_URL_STS", endpoint.is_none()),
                    ("AWS_ACCESS_KEY_ID", key.is_none()),
                    ("AWS_SECRET_ACCESS_KEY", secret.is_none()),
                ]);
                None
            }
        };
        let (address, token) = (variable("VAULT_ADDR"), variable("VAULT_TOKEN"));
        let vault_absent =
            absent(&[("VAULT_ADDR", address.is_none()), ("VAULT_TOKEN", token.is_none())]);
        let vault = address.zip(token).map(|(address, token)| VaultSettings {
            address,
            token,
            namespace: variable("VAULT_NAMESPACE"),
            ca_file: variable("VAULT_CACERT"),
        });
        Self {
            pending_ttl: variable("GRANTWRIGHT_DEMO_PENDING_TTL"),
            asks_per_second: variable("GRANTWRIGHT_DEMO_ASKS_PER_SECOND"),
            open_requests: variable("GRANTWRIGHT_DEMO_OPEN_REQUESTS"),
            certificate_life: variable("GRANTWRIGHT_DEMO_CERTIFICATE_LIFE"),
            role_arn: variable("GRANTWRIGHT_DEMO_ROLE_ARN"),
            aws,
            aws_absent,
            vault,
            vault_absent,
        }
    }
}

/// Which variables are missing, in words.
fn absent(variables: &[(&str, bool)]) -> String {
    let missing: Vec<&str> =
        variables.iter().filter_map(|(name, absent)| absent.then_some(*name)).collect();
    let were = if missing.len() == 1 { "was" } else { "were" };
    format!("{} {were} not set when the demo started", missing.join(", "))
}

/// The time now, for what people read ("in 42 min"); no rule rests on it.
pub fn now() -> Timestamp {
    Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())
}

#[expect(clippy::disallowed_methods, reason = "the one place where this crate reads variables")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
