//! HashiCorp Vault and OpenBao (<https://developer.hashicorp.com/vault/api-docs>), one engine per minter:
//! accounts of the database engine, which exist as long as their lease, set to the grant's lifetime, looked
//! up and ended there; sessions of AWS; tokens of Vault itself; identity tokens; certificates of its PKI and
//! SSH engines; tokens signed by its transit engine.
//!
//! A grant makes one call that creates anything, on a connection of its own. What is refused (4xx, or a
//! sealed Vault) made nothing; a 5xx, a timeout, a lost or unreadable answer is unknown. An answer
//! beyond the grant is revoked at once, and that is seen, before the grant counts as refused.

mod aws;
mod child;
mod client;
mod database;
mod identity;
mod lease;
mod pki;
mod role;
mod session;
mod ssh;
mod token;
mod transit;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use grantwright_credential::{Kind, Secret};
use grantwright_domain::request::Lease;
use grantwright_domain::{Clock, Grant, LeaseId, Params, Scope, Timestamp};
use rustify::endpoint::Endpoint;

use crate::template::{step_faults, step_s};
use crate::{Backend, BoxFuture, Declaration, Ended, MintError, Minted, Minter, SetupError};
use client::{Client, Connection, Envelope, Fault, Reach, is_path, is_segment};
use database::Asked;
use session::Session;
pub use session::{IdentityToken, Login};

/// What Vault's database engine can do.
pub const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "vault",
        credential: Kind::UserPass,
        ttl_floor_s: 1,
        ttl_ceiling_s: 43_200,
        revocable: Some(
            "the lease is revoked at Vault, which drops the account it made; a lookup sees it gone",
        ),
        measured: "yes: Vault looks the lease up after, and knows it no more",
        renewable: true,
        narrowing: "the database role that the template names, of the connection that the \
                    parameters name",
        stamps: &[],
    },
    faults: |scope| {
        let mut out = database::faults(scope);
        out.extend(BACKEND.declaration.ttl_faults(scope));
        out.extend(step_faults(scope, &BACKEND.declaration));
        out
    },
    preview: |scope, params| Ok(Asked::compile(scope, params)?.preview()),
};

/// Which of Vault's engines a minter uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Sessions of AWS.
    Aws,
    /// Accounts of a database.
    Database,
    /// Identity tokens, signed by Vault.
    Identity,
    /// X.509 certificates.
    Pki,
    /// OpenSSH certificates.
    Ssh,
    /// Tokens of Vault itself.
    Token,
    /// Tokens of ours, signed by a key of Vault's.
    Transit,
}

impl Engine {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Aws,
        Self::Database,
        Self::Identity,
        Self::Pki,
        Self::Ssh,
        Self::Token,
        Self::Transit,
    ];

    /// The word in a configuration.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Database => "database",
            Self::Identity => "identity",
            Self::Pki => "pki",
            Self::Ssh => "ssh",
            Self::Token => "token",
            Self::Transit => "transit",
        }
    }

    /// What it can do.
    #[must_use]
    pub const fn backend(self) -> Backend {
        match self {
            Self::Aws => aws::BACKEND,
            Self::Database => BACKEND,
            Self::Identity => identity::BACKEND,
            Self::Pki => pki::BACKEND,
            Self::Ssh => ssh::BACKEND,
            Self::Token => token::BACKEND,
            Self::Transit => transit::BACKEND,
        }
    }
}

/// How Vault is reached.
pub struct VaultConfig {
    /// What is minted there.
    pub engine: Engine,
    /// Answers that hold credentials are wrapped between Vault and the broker: whoever fetched one before
    /// the broker did is found out.
    pub wrap: bool,
    /// Its address, for example `https://vault.example.com:8200`.
    pub address: String,
    /// Namespace, for example `team-a/prod`.
    pub namespace: Option<String>,
    /// PEM file of the authority that signs its certificate; absent: the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the client's certificate and key, for the login by certificate.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// How the broker logs in.
    pub login: Login,
    /// Longest wait for an answer; 10 s unless configured.
    pub timeout: Duration,
    /// Accounts of the database engine are made with a token of their own each, so that what a lost answer
    /// left is found by it; a call more per mint.
    pub token_per_mint: bool,
}

/// Mints through Vault.
pub struct VaultMinter {
    engine: Engine,
    wrap: bool,
    token_per_mint: bool,
    client: Client,
    session: Session,
    clock: Arc<dyn Clock>,
}

impl VaultMinter {
    /// A minter. The clock tells when answers arrive.
    ///
    /// # Errors
    /// The address, the namespace, a mount or a certificate is not usable.
    pub fn new(config: VaultConfig, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let (mount, role) = match &config.login {
            Login::AppRole { mount, .. } => (Some(mount), None),
            Login::Cert { mount, role }
            | Login::Jwt { mount, role, .. }
            | Login::Kubernetes { mount, role, .. } => (Some(mount), Some(role)),
            Login::Token { .. } => (None, None),
        };
        if mount.is_some_and(|m| !is_path(m)) || role.is_some_and(|r| !is_segment(r)) {
            return Err(SetupError("vault: mount and role of the login want plain names"));
        }
        if matches!(config.login, Login::Cert { .. }) && config.identity.is_none() {
            return Err(SetupError("vault: the login by certificate wants certificate and key"));
        }
        let identity = config.identity.map(|(certificate, key)| {
            let read = |path| {
                std::fs::read(path)
                    .map_err(|_| SetupError("vault: certificate or key cannot be read"))
            };
            let mut pem = read(certificate)?;
            pem.push(b'\n');
            pem.extend(read(key)?);
            Ok(pem)
        });
        let client = Client::new(&Reach {
            address: config.address,
            namespace: config.namespace,
            ca: config.ca_file,
            identity: identity.transpose()?,
            timeout: config.timeout,
        })?;
        let session = Session::new(config.login, Arc::clone(&clock));
        let VaultConfig { engine, wrap, token_per_mint, .. } = config;
        Ok(Self { engine, wrap, token_per_mint, client, session, clock })
    }

    /// The one call of a grant that makes anything.
    async fn make<E: Endpoint>(&self, path: &str, endpoint: E) -> Result<Envelope, Fault> {
        let token = self.token().await?;
        let answer = self.make_with(token.expose_secret(), path, endpoint).await;
        if answer.as_ref().is_err_and(Fault::is_denied) {
            self.session.lost(&token).await;
        }
        answer
    }

    /// The same, with a token of its own.
    async fn make_with<E: Endpoint>(
        &self,
        token: &str,
        path: &str,
        endpoint: E,
    ) -> Result<Envelope, Fault> {
        match self.wrap {
            true => self.client.call_wrapped(token, endpoint, path).await,
            false => self.client.call(Connection::Fresh, token, endpoint).await,
        }
    }

    /// A look before anything is made, repeated once after a login or a lost answer: it makes nothing.
    async fn look<E: Endpoint>(&self, request: impl Fn() -> E) -> Result<Envelope, MintError> {
        let found = match self.call(Connection::Kept, request()).await {
            Err(fault) if fault.is_denied() || matches!(fault, Fault::Lost(_)) => {
                self.call(Connection::Fresh, request()).await
            }
            other => other,
        };
        found.map_err(|fault| match fault.into_mint_error() {
            MintError::Unknown { operator, .. } => MintError::refused(
                "backend_away",
                "Vault did not answer when its role was read; nothing was made",
                operator,
            ),
            refused => refused,
        })
    }

    async fn token(&self) -> Result<Arc<Secret<String>>, Fault> {
        self.session.token(&self.client).await.map_err(|fault| match fault {
            // What a login could not do was not done by the call behind it.
            Fault::Lost(said) => Fault::NeverSent(format!("no login: {said}")),
            Fault::NeverSent(said) => Fault::NeverSent(said),
            Fault::Answered { status, said } if status >= 500 => {
                Fault::NeverSent(format!("no login: status {status}: {said}"))
            }
            other => other,
        })
    }

    /// One call with the broker's token.
    async fn call<E: Endpoint>(
        &self,
        connection: Connection,
        endpoint: E,
    ) -> Result<Envelope, Fault> {
        let token = self.token().await?;
        let answer = self.client.call(connection, token.expose_secret(), endpoint).await;
        if answer.as_ref().is_err_and(Fault::is_denied) {
            self.session.lost(&token).await;
        }
        answer
    }
}

impl Minter for VaultMinter {
    fn backend(&self) -> Backend {
        self.engine.backend()
    }

    fn mint(&self, grant: Grant, now: Timestamp) -> BoxFuture<'_, Result<Minted, MintError>> {
        match self.engine {
            Engine::Aws => Box::pin(self.mint_session(grant, now)),
            Engine::Database => Box::pin(self.mint_account(grant, now)),
            Engine::Identity => Box::pin(self.mint_identity(grant, now)),
            Engine::Pki => Box::pin(self.mint_certificate(grant, now)),
            Engine::Ssh => Box::pin(self.mint_ssh(grant, now)),
            Engine::Token => Box::pin(self.mint_token(grant, now)),
            Engine::Transit => Box::pin(self.mint_signature(grant, now)),
        }
    }

    fn undo<'a>(
        &'a self,
        lease: &'a LeaseId,
        scope: &'a Scope,
        _: &'a Params,
    ) -> BoxFuture<'a, Option<Ended>> {
        Box::pin(async move {
            match self.engine {
                Engine::Database => self.undo_child(lease).await,
                Engine::Pki => self.undo_certificate(lease, scope).await,
                Engine::Token => self.undo_token(lease).await,
                Engine::Aws | Engine::Identity | Engine::Ssh | Engine::Transit => None,
            }
        })
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Ended> {
        Box::pin(async move {
            let otherwise = format!("it ends by itself at {}", lease.expires_at);
            let known = |name: &str| lease.facts.get(name);
            match self.engine {
                Engine::Database if let Some(id) = known("vault_lease_id") => {
                    let ended = self.end(id, &otherwise).await;
                    if let (true, Some(accessor)) = (ended.ended, known(child::ACCESSOR)) {
                        self.drop_token(accessor).await;
                    }
                    ended
                }
                Engine::Token if let Some(accessor) = known("vault_accessor") => {
                    self.end_token(accessor, &otherwise).await
                }
                Engine::Database | Engine::Token => Ended {
                    ended: false,
                    effect: format!("not ended: its lease at Vault is not known; {otherwise}"),
                },
                Engine::Pki => self.end_pki(lease, &otherwise).await,
                Engine::Ssh => Ended {
                    ended: false,
                    effect: format!(
                        "cannot be recalled: Vault keeps no list of the certificates it signed, and sshd \
                         accepts this one; {otherwise}"
                    ),
                },
                Engine::Aws => Ended {
                    ended: false,
                    effect: format!(
                        "cannot be recalled: Vault forgets the lease, and AWS accepts the session \
                         all the same; {otherwise}"
                    ),
                },
                Engine::Identity | Engine::Transit => Ended {
                    ended: false,
                    effect: format!(
                        "cannot be recalled: whoever verifies the signature accepts it; {otherwise}"
                    ),
                },
            }
        })
    }

    fn step_s(&self, scope: &Scope) -> Option<u32> {
        step_s(scope).filter(|_| self.engine == Engine::Database)
    }

    fn renew<'a>(
        &'a self,
        lease: &'a Lease,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<Timestamp, MintError>> {
        Box::pin(async move {
            match (self.engine, lease.facts.get("vault_lease_id")) {
                (Engine::Database, Some(id)) => self.extend(id, until).await,
                _ => Err(MintError::refused(
                    "not_renewable",
                    "Vault extends accounts of the database engine only",
                    "",
                )),
            }
        })
    }

    fn keep(&self) -> BoxFuture<'_, Option<Duration>> {
        Box::pin(async move { Some(self.session.keep(&self.client).await) })
    }
}
