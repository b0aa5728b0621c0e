//! Who the broker is to AWS: keys of its own, or a web identity that it signs itself as an OIDC issuer, so
//! that it holds no AWS key; and the roles that it assumes on the way to a scope's role.

use std::sync::Arc;

use aws_credential_types::Credentials;
use grantwright_credential::Secret;
use grantwright_domain::Timestamp;
use serde_json::Value;
use tokio::sync::Mutex;

use super::StsMinter;
use super::answer::Answer;
use super::failure::failure;
use crate::{MintError, SetupError};

/// Signs a token of the broker's own identity for AWS, with these claims beside the usual ones; `None`
/// when it cannot be signed.
pub type WebIdentityToken =
    Arc<dyn Fn(&[(&str, Value)], Timestamp) -> Option<Secret<String>> + Send + Sync>;

/// How the broker proves to AWS who it is.
pub enum Identity {
    /// An access key.
    Keys {
        /// Access key of the broker.
        access_key_id: String,
        /// Its secret.
        secret_access_key: Secret<String>,
        /// Its session token, when the key is temporary.
        session_token: Option<Secret<String>>,
    },
    /// Tokens of its own issuer, which an IAM OIDC provider trusts.
    Web(WebIdentityToken),
}

/// Longest session of a role that is assumed on the way.
const HOP_S: i32 = 3600;
/// A session with less left is replaced.
const SPARE_S: i64 = 300;
/// Name of the broker's own sessions.
const SESSION: &str = "grantwright-broker";

/// The broker's own credentials, as far as known.
pub(super) struct Standing {
    pub(super) identity: Identity,
    /// Roles assumed one from the other before a scope's own.
    pub(super) chain: Vec<String>,
    held: Mutex<Option<(Credentials, Timestamp)>>,
    revoker: Mutex<Option<(Credentials, Timestamp)>>,
}

impl Standing {
    pub(super) fn new(identity: Identity, chain: Vec<String>) -> Result<Self, SetupError> {
        if let Identity::Keys { access_key_id, secret_access_key, session_token } = &identity {
            let no_token = session_token.as_ref().is_some_and(|t| t.expose_secret().is_empty());
            if access_key_id.is_empty() || secret_access_key.expose_secret().is_empty() || no_token
            {
                return Err(SetupError("sts: the broker's AWS keys are incomplete"));
            }
        }
        if chain.len() > 4 || chain.iter().any(|arn| super::policy::role(arn).is_none()) {
            return Err(SetupError("sts: `chain` wants at most four ARNs of IAM roles"));
        }
        Ok(Self { identity, chain, held: Mutex::default(), revoker: Mutex::default() })
    }

    /// The key, where the broker has one.
    pub(super) fn keys(&self) -> Option<Credentials> {
        let Identity::Keys { access_key_id, secret_access_key, session_token } = &self.identity
        else {
            return None;
        };
        Some(Credentials::new(
            access_key_id,
            secret_access_key.expose_secret(),
            session_token.as_ref().map(|t| t.expose_secret().clone()),
            None,
            "grantwright",
        ))
    }

    /// What a hostile answer might repeat.
    pub(super) fn secrets(&self) -> Vec<&Secret<String>> {
        match &self.identity {
            Identity::Keys { secret_access_key, session_token, .. } => {
                std::iter::once(secret_access_key).chain(session_token).collect()
            }
            Identity::Web(_) => Vec::new(),
        }
    }

    /// AWS refused the session: the next call makes a new one.
    pub(super) async fn lost(&self) {
        *self.held.lock().await = None;
    }

    /// As [`Self::lost`], of whichever of the kept sessions this is; another one, made meanwhile, stays.
    pub(super) async fn refused(&self, session: &Credentials) {
        for kept in [&self.held, &self.revoker] {
            let mut kept = kept.lock().await;
            let is_it = |(held, _): &(Credentials, Timestamp)| {
                held.access_key_id() == session.access_key_id()
            };
            if kept.as_ref().is_some_and(is_it) {
                *kept = None;
            }
        }
    }
}

impl StsMinter {
    /// The session from which scopes' roles are assumed; `None`: the broker's own key signs.
    pub(super) async fn base(&self) -> Result<Option<Credentials>, MintError> {
        let mut held = self.standing.held.lock().await;
        let good =
            |(_, ends): &&(Credentials, Timestamp)| *ends > self.clock.now().plus_seconds(SPARE_S);
        if let Some((session, _)) = held.as_ref().filter(good) {
            return Ok(Some(session.clone()));
        }
        let mut session = None;
        for role in &self.standing.chain {
            session = Some(self.hop(role, session.map(|(session, _)| session)).await?);
        }
        held.clone_from(&session);
        Ok(session.map(|(session, _)| session))
    }

    /// The session that ends others' sessions: of the role that may do so, or as for minting.
    pub(super) async fn revoker(&self, role: Option<&str>) -> Result<Credentials, MintError> {
        let Some(role) = role else {
            let base = self.base().await?;
            return base.or_else(|| self.standing.keys()).ok_or_else(|| {
                nothing_made("no AWS credentials to revoke with: name a `role_arn` for it")
            });
        };
        let mut held = self.standing.revoker.lock().await;
        let good =
            |(_, ends): &&(Credentials, Timestamp)| *ends > self.clock.now().plus_seconds(SPARE_S);
        if let Some((session, _)) = held.as_ref().filter(good) {
            return Ok(session.clone());
        }
        let base = self.base().await?;
        let from_base = base.is_some();
        let (session, ends) = match self.hop(role, base).await {
            Err(e) if from_base => {
                self.standing.lost().await;
                return Err(e);
            }
            done => done?,
        };
        *held = Some((session.clone(), ends));
        Ok(session)
    }

    /// Assumes one role for the broker itself. No grant is spent on it: a lost answer is a refusal.
    async fn hop(
        &self,
        role: &str,
        from: Option<Credentials>,
    ) -> Result<(Credentials, Timestamp), MintError> {
        let answer = match (&self.standing.identity, from) {
            (Identity::Web(sign), None) => {
                let token = sign(&[], self.clock.now())
                    .ok_or_else(|| nothing_made("the broker could not sign its token"))?;
                let call = self
                    .client
                    .assume_role_with_web_identity()
                    .role_arn(role)
                    .role_session_name(SESSION)
                    .duration_seconds(HOP_S)
                    .web_identity_token(token.expose_secret());
                call.send().await.map(Answer::from).map_err(|e| failure(&e, &[&token]))
            }
            (_, from) => {
                let call = self
                    .client
                    .assume_role()
                    .role_arn(role)
                    .role_session_name(SESSION)
                    .duration_seconds(HOP_S);
                let answer = match from.map(signed_by) {
                    Some(signer) => call.customize().config_override(signer).send().await,
                    None => call.send().await,
                };
                answer.map(Answer::from).map_err(|e| failure(&e, &self.standing.secrets()))
            }
        };
        let got = answer.map_err(definite)?.of(role, SESSION, self.at_aws);
        let got = got
            .map_err(nothing_made)?
            .ok_or_else(|| nothing_made("the answer holds no credentials"))?;
        let ends = Timestamp::from_millis(got.expiration.to_millis().unwrap_or(0));
        if ends <= self.clock.now() || got.access_key_id.is_empty() {
            return Err(nothing_made(format!("the session of `{role}` ended already")));
        }
        let session = Credentials::new(
            got.access_key_id,
            got.secret_access_key,
            Some(got.session_token),
            None,
            "grantwright",
        );
        Ok((session, ends))
    }
}

/// Signs one call with a session.
pub(super) fn signed_by(session: Credentials) -> aws_sdk_sts::config::Builder {
    aws_sdk_sts::Config::builder().credentials_provider(session)
}

fn nothing_made(operator: impl AsRef<str>) -> MintError {
    MintError::refused(
        "backend_away",
        "AWS gave the broker no session to work with; nothing was made",
        operator,
    )
}

/// The broker's own session is no credential of a grant: what was lost there is not unknown.
fn definite(error: MintError) -> MintError {
    match error {
        MintError::Unknown { operator, .. } => nothing_made(operator),
        refused @ MintError::Refused { .. } => refused,
    }
}
