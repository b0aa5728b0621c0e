//! The AWS engine: a session of the role that Vault's role names. Its own lease is not kept: revoking it says
//! that it worked, and AWS accepts the session all the same.

use std::collections::BTreeMap;

use grantwright_credential::{Credential, Kind, Sts};
use grantwright_domain::{Grant, Timestamp};
use serde_json::{Value, json};

use super::VaultMinter;
use super::client::{Call, Envelope, Fault};
use super::role::{self, Asked};
use crate::call::wider;
use crate::{Backend, Declaration, MintError, Minted};

/// How far Vault's and AWS's clocks and ours may differ, in seconds.
const CLOCK_BOUND_S: i64 = 30;

/// What Vault's AWS engine can do.
pub(super) const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "vault-aws",
        credential: Kind::Sts,
        ttl_floor_s: 900,
        ttl_ceiling_s: 43_200,
        revocable: None,
        measured: "",
        renewable: false,
        narrowing: "the role of Vault's AWS engine that the template names with typed parameters",
        stamps: &["`RoleSessionName` the request"],
    },
    faults: |scope| {
        let mut out = role::faults(scope);
        out.extend(BACKEND.declaration.ttl_faults(scope));
        out
    },
    preview: |scope, params| Ok(Asked::compile(scope, params)?.preview()),
};

impl VaultMinter {
    pub(super) async fn mint_session(
        &self,
        grant: Grant,
        now: Timestamp,
    ) -> Result<Minted, MintError> {
        BACKEND.declaration.admits_ttl(grant.ttl_s())?;
        let asked = Asked::compile(grant.scope(), grant.params())?;
        let found =
            self.look(|| Call::get(format!("{}/roles/{}", asked.mount, asked.role))).await?;
        let kinds =
            found.data.get("credential_type").or_else(|| found.data.get("credential_types"));
        let kinds = match kinds {
            Some(Value::String(kinds)) => kinds.split(',').map(str::to_owned).collect(),
            Some(Value::Array(kinds)) => {
                kinds.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            _ => Vec::new(),
        };
        if kinds.is_empty() || kinds.iter().any(|k| k != "assumed_role" && k != "federation_token")
        {
            return Err(MintError::refused(
                "bad_template",
                "the role at Vault makes IAM users, which outlive their grant; want assumed_role or \
                 federation_token",
                format!("`{}` is of {kinds:?}", asked.role),
            ));
        }
        let path = format!("{}/sts/{}", asked.mount, asked.role);
        let body = json!({
            "ttl": format!("{}s", grant.ttl_s()),
            "role_session_name": grant.request().as_str(),
        });
        let answer =
            self.make(&path, Call::post(&path, body)).await.map_err(Fault::into_mint_error)?;
        self.session_of(&answer, &asked, &grant, now)
    }

    fn session_of(
        &self,
        answer: &Envelope,
        asked: &Asked,
        grant: &Grant,
        now: Timestamp,
    ) -> Result<Minted, MintError> {
        let (key, secret) = (answer.text("access_key"), answer.text("secret_key"));
        let token = match answer.text("session_token") {
            "" => answer.text("security_token"),
            token => token,
        };
        if [key, secret, token].contains(&"") {
            return Err(MintError::unknown("the answer holds no whole session"));
        }
        let ttl = i64::from(grant.ttl_s());
        let left = match answer.lease_duration {
            0 => answer.number("ttl").unwrap_or(0),
            left => left,
        };
        if left > ttl + CLOCK_BOUND_S || left <= 0 {
            return Err(wider(format!("it lasts {left} s, {ttl} s were granted")));
        }
        let arrival = self.clock.now();
        let expires_at = arrival.plus_seconds(left).min(now.plus_seconds(ttl)).whole_second();
        if expires_at <= arrival || expires_at <= now {
            return Err(wider(format!("it ended at {expires_at} already")));
        }
        let arn = answer.text("arn");
        let session = grant.request().as_str();
        if arn.contains(":assumed-role/") && arn.rsplit('/').next() != Some(session) {
            return Err(wider(format!("it is for `{arn}`")));
        }
        let facts = BTreeMap::from([
            ("access_key_id".to_owned(), key.to_owned()),
            ("arn".to_owned(), arn.to_owned()),
            ("vault_role".to_owned(), format!("{}/roles/{}", asked.mount, asked.role)),
        ]);
        if facts.values().any(|fact| fact.contains(secret) || fact.contains(token)) {
            return Err(wider("a secret stands where an identifier belongs"));
        }
        let credential = Credential::sts(Sts {
            access_key_id: key,
            secret_access_key: secret,
            session_token: token,
            expiration: &expires_at.to_string(),
        });
        Ok(Minted { credential, expires_at, revocable: false, facts })
    }
}
