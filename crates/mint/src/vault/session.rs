//! The broker's own token at Vault: logged in for, renewed ahead, and got anew when it is lost.
//!
//! Every lease is a child of the token that made it: when the token ends, so do they. A token that can
//! be renewed is renewed at two thirds of its life; one that cannot is replaced by a login then, and
//! what it minted ends with it, no later than its own end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use grantwright_credential::Secret;
use grantwright_domain::{Clock, Timestamp};
use serde_json::json;
use tokio::sync::Mutex;
use vaultrs::api::auth::approle::requests::LoginWithApproleRequest;
use vaultrs::api::auth::kubernetes::requests::LoginWithKubernetesRequest;
use vaultrs::api::auth::oidc::requests::JWTLoginRequest;
use vaultrs::api::token::requests::LookupTokenSelfRequest;

use super::client::{Auth, Call, Client, Connection, Fault};

/// How often at least the token is looked after.
const LOOK: Duration = Duration::from_secs(60);
/// How soon again after a failure.
const AGAIN: Duration = Duration::from_secs(2);

/// A token of the broker's own identity for Vault to verify; `None` when it cannot be signed.
pub type IdentityToken = Arc<dyn Fn(Timestamp) -> Option<Secret<String>> + Send + Sync>;

/// How the broker proves to Vault who it is. Secrets are read from their files at each login, so that
/// who rotates them needs no restart of the broker.
#[derive(Clone)]
pub enum Login {
    /// AppRole: a role id, and the file of its secret id.
    AppRole {
        /// Mount, usually `approle`.
        mount: String,
        /// File with the role id.
        role_id_file: PathBuf,
        /// File with the secret id.
        secret_id_file: PathBuf,
    },
    /// TLS certificate: the client certificate of the connection.
    Cert {
        /// Mount, usually `cert`.
        mount: String,
        /// The role at Vault.
        role: String,
    },
    /// JWT: a token that the broker signs as an OIDC issuer.
    Jwt {
        /// Mount, usually `jwt`.
        mount: String,
        /// The role at Vault.
        role: String,
        /// Signs the token.
        token: IdentityToken,
    },
    /// Kubernetes: the service account's token, from the file that the kubelet renews.
    Kubernetes {
        /// Mount, usually `kubernetes`.
        mount: String,
        /// The role at Vault.
        role: String,
        /// File with the service account's token.
        token_file: PathBuf,
    },
    /// A token that somebody else made, from a file.
    Token {
        /// The file.
        file: PathBuf,
    },
}

struct Held {
    token: Arc<Secret<String>>,
    /// None: it does not end, or Vault does not say.
    ends: Option<Timestamp>,
    renew_at: Option<Timestamp>,
    renewable: bool,
}

pub(super) struct Session {
    login: Login,
    clock: Arc<dyn Clock>,
    held: Mutex<Option<Held>>,
}

impl Session {
    pub(super) fn new(login: Login, clock: Arc<dyn Clock>) -> Self {
        Self { login, clock, held: Mutex::new(None) }
    }

    /// A token that is good as far as known; logs in where there is none.
    pub(super) async fn token(&self, client: &Client) -> Result<Arc<Secret<String>>, Fault> {
        let mut held = self.held.lock().await;
        let now = self.clock.now();
        if let Some(good) = held.as_ref().filter(|h| h.ends.is_none_or(|ends| ends > now)) {
            return Ok(Arc::clone(&good.token));
        }
        let fresh = self.log_in(client).await?;
        let token = Arc::clone(&fresh.token);
        *held = Some(fresh);
        Ok(token)
    }

    /// Vault refused this token: the next call logs in anew.
    pub(super) async fn lost(&self, token: &Arc<Secret<String>>) {
        let mut held = self.held.lock().await;
        if held.as_ref().is_some_and(|h| Arc::ptr_eq(&h.token, token)) {
            *held = None;
        }
    }

    /// Renews the token when that is due; says when to look again.
    pub(super) async fn keep(&self, client: &Client) -> Duration {
        if self.token(client).await.is_err() {
            return AGAIN;
        }
        let mut held = self.held.lock().await;
        let now = self.clock.now();
        let Some(current) = held.as_mut() else { return AGAIN };
        let Some(due) = current.renew_at else { return LOOK };
        if now < due {
            let wait = u64::try_from(due.since(now)).unwrap_or_default();
            return Duration::from_millis(wait).min(LOOK);
        }
        if current.renewable {
            // vaultrs's request for it has a tab in its path.
            let call = Call::post("auth/token/renew-self", json!({}));
            let answer = client.call(Connection::Kept, current.token.expose_secret(), call).await;
            match answer.map(|mut e| e.auth.take()) {
                Ok(Some(auth)) => {
                    (current.ends, current.renew_at) = life(auth.lease_duration, now);
                    current.renewable = auth.renewable;
                    return AGAIN;
                }
                // Away for a moment: the token lives on, and is renewed when Vault is back.
                Err(fault) if !fault.is_definite() || matches!(fault, Fault::NeverSent(_)) => {
                    return AGAIN;
                }
                Ok(None) | Err(_) => {}
            }
        }
        if let Ok(fresh) = self.log_in(client).await {
            *held = Some(fresh);
        }
        AGAIN
    }

    async fn log_in(&self, client: &Client) -> Result<Held, Fault> {
        let now = self.clock.now();
        let auth = match &self.login {
            Login::Token { file } => return self.adopt(client, read(file)?).await,
            Login::AppRole { mount, role_id_file, secret_id_file } => {
                let request = LoginWithApproleRequest {
                    mount: mount.clone(),
                    role_id: read(role_id_file)?.expose_secret().clone(),
                    secret_id: read(secret_id_file)?.expose_secret().clone(),
                };
                client.call(Connection::Fresh, "", request).await
            }
            Login::Cert { mount, role } => {
                let path = format!("auth/{mount}/login");
                client.call(Connection::Fresh, "", Call::post(path, json!({ "name": role }))).await
            }
            Login::Jwt { mount, role, token } => {
                let unsigned = || Fault::NeverSent("the broker could not sign its token".into());
                let request = JWTLoginRequest {
                    mount: mount.clone(),
                    jwt: token(now).ok_or_else(unsigned)?.expose_secret().clone(),
                    role: Some(role.clone()),
                };
                client.call(Connection::Fresh, "", request).await
            }
            Login::Kubernetes { mount, role, token_file } => {
                let request = LoginWithKubernetesRequest {
                    mount: mount.clone(),
                    role: role.clone(),
                    jwt: read(token_file)?.expose_secret().clone(),
                };
                client.call(Connection::Fresh, "", request).await
            }
        };
        let mut answer = auth?;
        match answer.auth.take() {
            Some(auth) if !auth.client_token.is_empty() => Ok(held(auth, now)),
            _ => Err(Fault::Lost("the login's answer holds no token".into())),
        }
    }

    /// A token from a file: its life is looked up where it may do that, since its policies need not
    /// contain `default`.
    async fn adopt(&self, client: &Client, token: Secret<String>) -> Result<Held, Fault> {
        let now = self.clock.now();
        let mut out = Held { token: Arc::new(token), ends: None, renew_at: None, renewable: false };
        let token = Arc::clone(&out.token);
        let request = LookupTokenSelfRequest {};
        match client.call(Connection::Fresh, token.expose_secret(), request).await {
            Ok(found) => {
                let renewable = found.data.get("renewable").and_then(serde_json::Value::as_bool);
                out.renewable = renewable.unwrap_or(false);
                (out.ends, out.renew_at) = life(found.number("ttl").unwrap_or(0), now);
            }
            Err(fault) if fault.is_denied() => {}
            Err(fault) => return Err(fault),
        }
        Ok(out)
    }
}

fn held(mut auth: Auth, now: Timestamp) -> Held {
    let (ends, renew_at) = life(auth.lease_duration, now);
    let token = Arc::new(Secret::new(std::mem::take(&mut auth.client_token)));
    Held { token, ends, renew_at, renewable: auth.renewable }
}

/// End and time of renewal; a life of 0 s does not end.
fn life(seconds: i64, now: Timestamp) -> (Option<Timestamp>, Option<Timestamp>) {
    if seconds <= 0 {
        return (None, None);
    }
    let seconds = seconds.min(10 * 365 * 86_400);
    (Some(now.plus_seconds(seconds)), Some(now.plus_millis(seconds * 2000 / 3)))
}

fn read(path: &PathBuf) -> Result<Secret<String>, Fault> {
    let text = std::fs::read_to_string(path)
        .map(Secret::new)
        .map_err(|e| Fault::NeverSent(format!("`{}` cannot be read: {e}", path.display())))?;
    let token = Secret::new(text.expose_secret().trim().to_owned());
    if token.expose_secret().is_empty() {
        return Err(Fault::NeverSent(format!("`{}` is empty", path.display())));
    }
    Ok(token)
}
