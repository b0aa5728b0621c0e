//! `[[minter]]` of Vault and OpenBao.

use std::path::{Path, PathBuf};

use grantwright_mint::vault::Engine;
use serde::Deserialize;

use super::minters::{ten_seconds, timeout_faults};

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
    pub(super) fn rebase(&mut self, base: &Path) {
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

    pub(super) fn faults(&self) -> Vec<String> {
        let mut out = timeout_faults(&self.name, &self.timeout);
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

fn database() -> String {
    "database".into()
}
