//! Identity tokens: signed by Vault for the entity that the broker is there, for the client of one role.
//!
//! They say that the broker asked, for whom they are, and until when; the agent is in the broker's own log.

use std::collections::BTreeMap;

use grantwright_credential::{Credential, Kind};
use grantwright_domain::{Grant, Timestamp};
use serde_json::Value;

use super::VaultMinter;
use super::client::{Call, Envelope, Fault};
use super::role::{self, Asked};
use crate::call::{claims, wider};
use crate::{Backend, Declaration, MintError, Minted};

/// What Vault's identity tokens can do.
pub(super) const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "vault-identity",
        credential: Kind::Jwt,
        ttl_floor_s: 60,
        ttl_ceiling_s: 43_200,
        revocable: None,
        measured: "",
        renewable: false,
        narrowing: "the identity role at Vault that the template names with typed parameters: its audience",
        stamps: &[],
    },
    faults: |scope| {
        let mut out = role::faults(scope);
        out.extend(BACKEND.declaration.ttl_faults(scope));
        out
    },
    preview: |scope, params| Ok(Asked::compile(scope, params)?.preview()),
};

impl VaultMinter {
    pub(super) async fn mint_identity(
        &self,
        grant: Grant,
        now: Timestamp,
    ) -> Result<Minted, MintError> {
        BACKEND.declaration.admits_ttl(grant.ttl_s())?;
        let asked = Asked::compile(grant.scope(), grant.params())?;
        let found =
            self.look(|| Call::get(format!("{}/oidc/role/{}", asked.mount, asked.role))).await?;
        // The role decides how long its tokens live: nothing is made that would live longer.
        let lasts = found.number("ttl").unwrap_or(i64::MAX);
        if lasts > i64::from(grant.ttl_s()) {
            return Err(MintError::refused(
                "ttl_too_short",
                "tokens of this role at Vault live longer than was granted",
                format!("`{}` issues for {lasts} s, {} s were granted", asked.role, grant.ttl_s()),
            ));
        }
        let audience = found.text("client_id").to_owned();
        let path = format!("{}/oidc/token/{}", asked.mount, asked.role);
        let answer = self.make(&path, Call::get(&path)).await.map_err(Fault::into_mint_error)?;
        self.identity_of(&answer, &asked, &audience, &grant, now)
    }

    fn identity_of(
        &self,
        answer: &Envelope,
        asked: &Asked,
        audience: &str,
        grant: &Grant,
        now: Timestamp,
    ) -> Result<Minted, MintError> {
        let token = answer.text("token");
        let claims =
            claims(token).ok_or_else(|| MintError::unknown("the answer holds no token"))?;
        let of = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
        if audience.is_empty() || of("aud") != audience {
            return Err(wider(format!("it is for `{}`, not for `{audience}`", of("aud"))));
        }
        let ends = claims.get("exp").and_then(Value::as_i64).unwrap_or(i64::MAX / 2000);
        let ends = Timestamp::from_millis(ends.saturating_mul(1000));
        let ttl = i64::from(grant.ttl_s());
        let arrival = self.clock.now();
        if ends > arrival.plus_seconds(ttl + 30) {
            return Err(wider(format!("it ends at {ends}, {ttl} s were granted at {now}")));
        }
        let expires_at = ends.min(now.plus_seconds(ttl)).whole_second();
        if expires_at <= arrival || expires_at <= now {
            return Err(wider(format!("it ended at {ends} already")));
        }
        let facts = BTreeMap::from([
            ("audience".to_owned(), audience.to_owned()),
            ("subject".to_owned(), of("sub").to_owned()),
            ("vault_role".to_owned(), format!("{}/oidc/role/{}", asked.mount, asked.role)),
        ]);
        Ok(Minted { credential: Credential::jwt(token), expires_at, revocable: false, facts })
    }
}
