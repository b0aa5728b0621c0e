//! A token for one mint, where the configuration says `token_per_mint`: a child of the broker's token, as long
//! as the grant, whose metadata names the lease. What is made with it ends with it, so that what a lost
//! answer or a crash left is found and revoked by an accessor, though nobody ever heard its lease's id.
//!
//! It costs a call more per mint, and one that Vault writes down; that is why it is not always so.

use std::collections::BTreeMap;

use grantwright_credential::Secret;
use grantwright_domain::{Grant, LeaseId, Timestamp};
use serde_json::{Value, json};

use super::VaultMinter;
use super::client::{Call, Connection, Fault};
use crate::{Ended, MintError};

/// The fact of a lease that names its token.
pub(super) const ACCESSOR: &str = "vault_accessor";

/// See the module. It never leaves the broker.
pub(super) struct Child {
    token: Secret<String>,
    accessor: String,
    ends: Timestamp,
}

impl Child {
    pub(super) fn token(&self) -> &str {
        self.token.expose_secret()
    }

    /// When it ends, and what was made with it.
    pub(super) fn ends(&self) -> Timestamp {
        self.ends
    }

    pub(super) fn stamp(&self, facts: &mut BTreeMap<String, String>) {
        facts.insert(ACCESSOR.to_owned(), self.accessor.clone());
    }
}

/// What a token's metadata says of the grant.
pub(super) fn meta(grant: &Grant) -> Value {
    let approvers: Vec<&str> = grant.approvers().iter().map(|h| h.as_str()).collect();
    json!({
        "agent": grant.agent().as_str(),
        "request": grant.request().as_str(),
        "lease": grant.lease().as_str(),
        "approvers": approvers.join(" "),
    })
}

impl VaultMinter {
    /// Makes the token of a mint; nothing where the configuration wants none. Nothing that anybody could use
    /// comes of a failure: the token ends by itself, and made nothing.
    pub(super) async fn child(&self, grant: &Grant) -> Result<Option<Child>, MintError> {
        if !self.token_per_mint {
            return Ok(None);
        }
        let ttl = format!("{}s", grant.ttl_s());
        let body = json!({
            "no_default_policy": true,
            "ttl": ttl,
            "explicit_max_ttl": ttl,
            "renewable": false,
            "type": "service",
            "display_name": "grantwright",
            "meta": meta(grant),
        });
        let begun = self.clock.now();
        let made = self.call(Connection::Fresh, Call::post("auth/token/create", body)).await;
        let mut answer = made.map_err(|fault| {
            let (code, detail) = match &fault {
                Fault::Answered { status: 401 | 403, .. } => {
                    ("backend_denied", "Vault does not let the broker make a token for this mint")
                }
                _ => ("backend_away", "Vault gave no token for this mint; nothing else was made"),
            };
            MintError::refused(code, detail, fault.to_string())
        })?;
        let whole = |auth: &super::client::Auth| {
            !auth.client_token.is_empty()
                && !auth.accessor.is_empty()
                && !auth.accessor.contains(&auth.client_token)
                && auth.lease_duration > 0
        };
        let Some(mut auth) = answer.auth.take().filter(whole) else {
            return Err(MintError::refused(
                "backend_away",
                "Vault gave no token for this mint; nothing else was made",
                "no token, no accessor, or no end",
            ));
        };
        Ok(Some(Child {
            token: Secret::new(std::mem::take(&mut auth.client_token)),
            accessor: std::mem::take(&mut auth.accessor),
            ends: begun.plus_seconds(auth.lease_duration.min(i64::from(grant.ttl_s()))),
        }))
    }

    /// What a failed call of a mint comes to: with its token, whatever it made is revoked. Vault drops a call
    /// whose caller has hung up, and undoes what that made.
    pub(super) async fn lost_with(&self, fault: Fault, child: Option<&Child>) -> MintError {
        let Some(child) = child else { return fault.into_mint_error() };
        let ended = self.end_child(child).await;
        if fault.is_definite() {
            return fault.into_mint_error();
        }
        match ended.ended {
            true => MintError::refused(
                "backend_away",
                "Vault's answer was lost; the token that was to make the credential is revoked, and \
                 whatever was made with it",
                fault.to_string(),
            ),
            false => MintError::unknown(format!("{fault}; {}", ended.effect)),
        }
    }

    /// Ends a mint's token, and with it what was made with it.
    pub(super) async fn end_child(&self, child: &Child) -> Ended {
        self.end_token(&child.accessor, "it ends by itself").await
    }

    /// Revokes a token that has nothing left to do. That it stays is no harm: it ends by itself, and nobody
    /// has it.
    pub(super) async fn drop_token(&self, accessor: &str) {
        let call = Call::post("auth/token/revoke-accessor", json!({ "accessor": accessor }));
        drop(self.call(Connection::Kept, call).await);
    }

    /// Ends what a mint made whose outcome was never recorded, by its token. `None`: it had none, or the broker
    /// may not look for it.
    pub(super) async fn undo_child(&self, lease: &LeaseId) -> Option<Ended> {
        if !self.token_per_mint {
            return None;
        }
        let mut ended = self.undo_token(lease).await?;
        if ended.ended {
            ended.effect.push_str(", and nothing that was made with it is left");
        }
        Some(ended)
    }
}
