//! `[[minter]]`: the backends that credentials come from.

use std::path::{Path, PathBuf};

use grantwright_domain::time::parse_ttl;
use grantwright_mint::BACKENDS;
use serde::Deserialize;

use super::clouds::{
    self, AzureSection, GcpSection, GithubSection, KubernetesSection, OauthSection,
};
use super::sts::StsSection;
use super::vault::VaultSection;

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

    /// Paths are relative to the configuration's folder.
    pub(super) fn rebase(&mut self, base: &Path) {
        match self {
            Self::Sts(sts) => sts.rebase(base),
            Self::Vault(vault) => vault.rebase(base),
            Self::Postgres { password_file, ca_file, .. } => {
                for file in [password_file, ca_file] {
                    *file = file.take().map(|f| base.join(f));
                }
            }
            Self::Kubernetes(s) => clouds::rebase(base, [&mut s.token_file], &mut s.ca_file),
            Self::Github(s) => clouds::rebase(base, [&mut s.private_key_file], &mut s.ca_file),
            Self::Oauth(s) => clouds::rebase(base, [&mut s.client_secret_file], &mut s.ca_file),
            Self::Jwt { .. }
            | Self::Ssh { .. }
            | Self::X509 { .. }
            | Self::Gcp(_)
            | Self::Azure(_)
            | Self::Unconfigured { .. } => {}
        }
    }

    pub(super) fn faults(&self) -> Vec<String> {
        match self {
            Self::Sts(sts) => sts.faults(),
            Self::Vault(vault) => vault.faults(),
            Self::Postgres { name, timeout, .. }
            | Self::Kubernetes(KubernetesSection { name, timeout, .. })
            | Self::Github(GithubSection { name, timeout, .. })
            | Self::Oauth(OauthSection { name, timeout, .. })
            | Self::Gcp(GcpSection { name, timeout, .. })
            | Self::Azure(AzureSection { name, timeout, .. }) => timeout_faults(name, timeout),
            Self::Unconfigured { name, backend, .. }
                if !BACKENDS.iter().any(|b| b.declaration.name == backend) =>
            {
                let known: Vec<&str> = BACKENDS.iter().map(|b| b.declaration.name).collect();
                let known = known.join(", ");
                vec![format!("minter `{name}`: backend `{backend}`: want one of {known}")]
            }
            Self::Ssh { name } | Self::X509 { name } if !is_file_name(name) => {
                vec![format!("minter `{name}`: names of this kind are 1 to 32 of a-z 0-9 -")]
            }
            Self::Jwt { algorithm, .. } if !matches!(algorithm.as_str(), "EdDSA" | "ES256") => {
                vec![format!("minter algorithm `{algorithm}`: want EdDSA or ES256")]
            }
            Self::Jwt { .. } | Self::Ssh { .. } | Self::X509 { .. } | Self::Unconfigured { .. } => {
                Vec::new()
            }
        }
    }
}

fn eddsa() -> String {
    "EdDSA".into()
}

fn vault() -> String {
    "vault".into()
}

/// How long a backend is waited for.
pub(super) fn ten_seconds() -> String {
    "10s".into()
}

/// Faults of the one setting that all have.
pub(super) fn timeout_faults(name: &str, timeout: &str) -> Vec<String> {
    let fault = |e| format!("minter `{name}`: timeout: {e}");
    parse_ttl(timeout).err().map(fault).into_iter().collect()
}

/// Names of key files and documents are made of it.
fn is_file_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
