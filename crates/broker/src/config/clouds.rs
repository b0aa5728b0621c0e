//! `[[minter]]` of the backends that are reached by plain HTTPS calls.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::minters::ten_seconds;

/// A `[[minter]]` of kind `kubernetes`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesSection {
    /// The name scopes use.
    pub name: String,
    /// The API server, for example `https://kubernetes.default.svc`.
    pub address: String,
    /// File with the broker's own token.
    pub token_file: PathBuf,
    /// PEM of the authority that signs its certificate; absent: the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Longest wait for an answer, for example `10s`.
    #[serde(default = "ten_seconds")]
    pub timeout: String,
}

/// A `[[minter]]` of kind `github`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GithubSection {
    /// The name scopes use.
    pub name: String,
    /// The API.
    #[serde(default = "github_api")]
    pub api: String,
    /// The App's id, or its client id.
    pub app: String,
    /// File with the App's private key: RSA, PEM.
    pub private_key_file: PathBuf,
    /// PEM of the authority that signs an Enterprise server's certificate; absent: the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Longest wait for an answer, for example `10s`.
    #[serde(default = "ten_seconds")]
    pub timeout: String,
}

/// A `[[minter]]` of kind `oauth`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OauthSection {
    /// The name scopes use.
    pub name: String,
    /// Its token endpoint.
    pub token_endpoint: String,
    /// Its revocation endpoint.
    pub revocation_endpoint: String,
    /// Its introspection endpoint, to see that a token is inactive.
    #[serde(default)]
    pub introspection_endpoint: Option<String>,
    /// The broker's client id there.
    pub client_id: String,
    /// File with the client's secret.
    pub client_secret_file: PathBuf,
    /// What the broker's subject tokens are for, usually the server's issuer.
    pub audience: String,
    /// PEM of the authority that signs its certificate; absent: the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Longest wait for an answer, for example `10s`.
    #[serde(default = "ten_seconds")]
    pub timeout: String,
}

/// A `[[minter]]` of kind `gcp`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcpSection {
    /// The name scopes use.
    pub name: String,
    /// The workload identity pool's provider, `//iam.googleapis.com/projects/…`.
    pub provider: String,
    /// The token service.
    #[serde(default = "google_sts")]
    pub sts_endpoint: String,
    /// The service accounts' credentials.
    #[serde(default = "google_iam")]
    pub iam_credentials_endpoint: String,
    /// Longest wait for an answer, for example `10s`.
    #[serde(default = "ten_seconds")]
    pub timeout: String,
}

/// A `[[minter]]` of kind `azure`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AzureSection {
    /// The name scopes use.
    pub name: String,
    /// The tenant's id.
    pub tenant: String,
    /// The login service.
    #[serde(default = "azure_authority")]
    pub authority: String,
    /// Audience of the broker's assertion, as the federated credential has it.
    #[serde(default = "azure_audience")]
    pub audience: String,
    /// Longest wait for an answer, for example `10s`.
    #[serde(default = "ten_seconds")]
    pub timeout: String,
}

fn github_api() -> String {
    "https://api.github.com".into()
}

fn google_sts() -> String {
    "https://sts.googleapis.com".into()
}

fn google_iam() -> String {
    "https://iamcredentials.googleapis.com".into()
}

fn azure_authority() -> String {
    "https://login.microsoftonline.com".into()
}

fn azure_audience() -> String {
    "api://AzureADTokenExchange".into()
}

/// Paths are relative to the configuration's folder.
pub(super) fn rebase(base: &Path, files: [&mut PathBuf; 1], more: &mut Option<PathBuf>) {
    for file in files {
        *file = base.join(&*file);
    }
    *more = more.take().map(|f| base.join(f));
}
