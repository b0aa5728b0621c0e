//! Tokens of Vault itself: a child of the broker's token with the policies that the template names, a life
//! that cannot be extended, and as many uses as it says. What it reads, a secret of the KV engine for example,
//! is then read from Vault by who asked, under Vault's own audit.
//!
//! ```toml
//! [template]
//! policies = ["read-${dataset}"]
//! num_uses = 3            # optional; absent: as many as its life admits
//! role = "grantwright"    # optional: a token role at Vault that bounds what can be made
//! ```

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};
use grantwright_credential::{Credential, Kind};
use grantwright_domain::{Grant, LeaseId, Params, Scope, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::VaultMinter;
use super::client::{Auth, Call, Connection, Fault, is_segment};
use super::role::no_such;
use crate::template::{Wildcards, bad_template, fill, slots, text_faults, unknown_keys};
use crate::{Backend, Declaration, Ended, MintError, Minted};

const KEYS: [&str; 3] = ["policies", "num_uses", "role"];
const MAX_USES: i64 = 1_000_000;
/// Most tokens that are looked at to find one.
const MOST_ACCESSORS: usize = 10_000;
/// How many are looked at at a time.
pub(super) const LOOKS_AT_ONCE: usize = 16;

/// What tokens of Vault can do.
pub(super) const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "vault-token",
        credential: Kind::Jwt,
        ttl_floor_s: 1,
        ttl_ceiling_s: 43_200,
        revocable: Some(
            "the token is revoked by its accessor, with all that it made; a lookup sees it gone",
        ),
        measured: "yes: Vault looks the token up after, and knows it no more",
        renewable: false,
        narrowing: "the policies that the template names with typed parameters, and the number of uses",
        stamps: &["the token's metadata: agent, request, approvers"],
    },
    faults: |scope| {
        let mut out = faults(scope);
        out.extend(BACKEND.declaration.ttl_faults(scope));
        out
    },
    preview: |scope, params| Ok(Asked::compile(scope, params)?.preview()),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    policies: Vec<String>,
    #[serde(default)]
    num_uses: i64,
    #[serde(default)]
    role: Option<String>,
}

struct Asked {
    policies: BTreeSet<String>,
    num_uses: i64,
    role: Option<String>,
}

impl Asked {
    fn compile(scope: &Scope, params: &Params) -> Result<Self, MintError> {
        let template: Template = serde_json::from_value(Value::Object(scope.template.clone()))
            .map_err(|e| bad_template(e.to_string()))?;
        let mut policies = BTreeSet::new();
        for text in &template.policies {
            let policy = fill(text, scope, params)?;
            // Vault reads names in lower case.
            if !is_segment(&policy) || policy.to_ascii_lowercase() != policy || policy == "root" {
                return Err(no_such("policy", &policy));
            }
            policies.insert(policy);
        }
        let role_fits = template.role.as_deref().is_none_or(is_segment);
        if policies.is_empty() || !role_fits || !(0..=MAX_USES).contains(&template.num_uses) {
            return Err(bad_template("no policy, or a role or a number of uses that cannot be"));
        }
        Ok(Self { policies, num_uses: template.num_uses, role: template.role })
    }

    fn preview(&self) -> Value {
        json!({ "policies": self.policies, "num_uses": self.num_uses })
    }
}

fn faults(scope: &Scope) -> Vec<String> {
    let mut out = unknown_keys("template", scope.template.keys(), &KEYS);
    let template: Template = match serde_json::from_value(Value::Object(scope.template.clone())) {
        Ok(template) => template,
        Err(e) => {
            out.push(format!("template: {e}"));
            return out;
        }
    };
    if template.policies.is_empty() || template.policies.len() > 16 {
        out.push("template.policies: want 1 to 16 policies".into());
    }
    if !(0..=MAX_USES).contains(&template.num_uses) {
        out.push(format!("template.num_uses: want 1 to {MAX_USES}"));
    }
    if template.role.as_deref().is_some_and(|r| !is_segment(r)) {
        out.push("template.role: want the name of one token role, literally".into());
    }
    for policy in &template.policies {
        let faults = text_faults(policy, scope, Wildcards::Faults);
        out.extend(faults.into_iter().map(|f| format!("template.policies: {f}")));
        if ["root", "default"].contains(&policy.to_ascii_lowercase().as_str()) {
            out.push(format!("template.policies: `{policy}` narrows nothing"));
        }
    }
    for (name, spec) in &scope.params {
        let binds = |text: &String| slots(text).contains(&name.as_str());
        if !spec.sensitive && !template.policies.iter().all(binds) {
            out.push(format!(
                "parameter `{name}` does not narrow it: not every policy has `${{{name}}}`"
            ));
        }
    }
    out
}

impl VaultMinter {
    pub(super) async fn mint_token(
        &self,
        grant: Grant,
        now: Timestamp,
    ) -> Result<Minted, MintError> {
        BACKEND.declaration.admits_ttl(grant.ttl_s())?;
        let asked = Asked::compile(grant.scope(), grant.params())?;
        let ttl = format!("{}s", grant.ttl_s());
        let body = json!({
            "policies": asked.policies,
            "no_default_policy": true,
            "ttl": ttl,
            "explicit_max_ttl": ttl,
            "renewable": false,
            "type": "service",
            "num_uses": asked.num_uses,
            "display_name": "grantwright",
            "meta": super::child::meta(&grant),
        });
        let path = match &asked.role {
            Some(role) => {
                // Also shows whether the broker's own token is good, before anything is made.
                let found = self.look(|| Call::get(format!("auth/token/roles/{role}"))).await?;
                if found.data.get("orphan").and_then(Value::as_bool) != Some(false) {
                    return Err(bad_template(format!(
                        "the token role `{role}` makes orphans, which outlive the broker's own token"
                    )));
                }
                format!("auth/token/create/{role}")
            }
            None => "auth/token/create".to_owned(),
        };
        let mut answer = match self.make(&path, Call::post(&path, body)).await {
            Ok(answer) => answer,
            Err(fault) => return Err(self.lost_token(fault, grant.lease()).await),
        };
        let Some(auth) = answer.auth.take().filter(|a| !a.client_token.is_empty()) else {
            return Err(MintError::unknown("the answer holds no token"));
        };
        match self.token_of(&auth, &asked, &grant, now) {
            Ok(minted) => Ok(minted),
            Err(reason) if auth.accessor.is_empty() => {
                Err(MintError::unknown(format!("{reason}; it has no accessor to revoke it by")))
            }
            Err(reason) => {
                let ended = self.end_token(&auth.accessor, "it ends by itself").await;
                Err(match ended.ended {
                    true => crate::call::wider(reason),
                    false => MintError::unknown(format!("{reason}; {}", ended.effect)),
                })
            }
        }
    }

    fn token_of(
        &self,
        auth: &Auth,
        asked: &Asked,
        grant: &Grant,
        now: Timestamp,
    ) -> Result<Minted, String> {
        let ttl = i64::from(grant.ttl_s());
        let policies: BTreeSet<String> = auth.policies.iter().cloned().collect();
        if policies != asked.policies || !auth.identity_policies.is_empty() {
            return Err(format!("its policies are {policies:?} and {:?}", auth.identity_policies));
        }
        if auth.num_uses != asked.num_uses || auth.renewable {
            return Err(format!("it has {} uses, renewable: {}", auth.num_uses, auth.renewable));
        }
        if auth.lease_duration <= 0 || auth.lease_duration > ttl {
            return Err(format!("it lasts {} s, {ttl} s were granted", auth.lease_duration));
        }
        if auth.accessor.is_empty() || auth.accessor.contains(&auth.client_token) {
            return Err("it has no accessor".into());
        }
        let arrival = self.clock.now();
        let ends = arrival.plus_seconds(auth.lease_duration).min(now.plus_seconds(ttl));
        let expires_at = ends.whole_second();
        if expires_at <= now || expires_at <= arrival {
            return Err(format!("it ended at {expires_at} already"));
        }
        let facts = BTreeMap::from([
            (super::child::ACCESSOR.to_owned(), auth.accessor.clone()),
            ("vault_policies".to_owned(), policies.into_iter().collect::<Vec<_>>().join(" ")),
        ]);
        let credential = Credential::jwt(&auth.client_token);
        Ok(Minted { credential, expires_at, revocable: true, facts })
    }

    /// The accessor of the token that a lease names in its metadata, where the broker may list and look up.
    async fn find_token(&self, lease: &LeaseId) -> Result<Option<String>, Fault> {
        let listed = self.call(Connection::Kept, Call::list("auth/token/accessors")).await?;
        let accessors = listed.data.get("keys").and_then(Value::as_array);
        let accessors = accessors.map(Vec::as_slice).unwrap_or_default();
        let looks = accessors.iter().take(MOST_ACCESSORS).filter_map(Value::as_str);
        let looks: Vec<String> = looks.map(ToOwned::to_owned).collect();
        let looks = looks.into_iter().map(|accessor| self.is_token_of(accessor, lease));
        let mut looks = stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE);
        while let Some(found) = looks.next().await {
            if let Some(accessor) = found? {
                return Ok(Some(accessor));
            }
        }
        match accessors.len() {
            0..=MOST_ACCESSORS => Ok(None),
            more => Err(Fault::NeverSent(format!("{more} tokens are too many to look at"))),
        }
    }

    /// The accessor again, if its token names the lease.
    async fn is_token_of(
        &self,
        accessor: String,
        lease: &LeaseId,
    ) -> Result<Option<String>, Fault> {
        let call = Call::post("auth/token/lookup-accessor", json!({ "accessor": accessor }));
        match self.call(Connection::Kept, call).await {
            Ok(found) => {
                let named = found.data.pointer("/meta/lease").and_then(Value::as_str);
                Ok((named == Some(lease.as_str())).then_some(accessor))
            }
            // It ended meanwhile.
            Err(Fault::Answered { said, .. }) if said.contains("invalid accessor") => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Ends the token of a mint whose outcome was never recorded. `None`: the broker may not look for it.
    pub(super) async fn undo_token(&self, lease: &LeaseId) -> Option<Ended> {
        match self.find_token(lease).await.ok()? {
            Some(accessor) => Some(self.end_token(&accessor, "it ends by itself").await),
            None => Some(Ended { ended: true, effect: "Vault has no token of it".to_owned() }),
        }
    }

    /// What a lost answer comes to: the token may be there, or come to be while it is looked for.
    async fn lost_token(&self, fault: Fault, lease: &LeaseId) -> MintError {
        let found =
            if fault.is_definite() { None } else { self.find_token(lease).await.ok().flatten() };
        let Some(accessor) = found else { return fault.into_mint_error() };
        let ended = self.end_token(&accessor, "it ends by itself").await;
        match ended.ended {
            true => MintError::refused(
                "backend_away",
                "Vault's answer was lost; the token it had made was found and revoked",
                fault.to_string(),
            ),
            false => MintError::unknown(format!("{fault}; {}", ended.effect)),
        }
    }

    /// Revokes a token by its accessor and looks that it is gone.
    pub(super) async fn end_token(&self, accessor: &str, otherwise: &str) -> Ended {
        let body = || json!({ "accessor": accessor });
        let call = Call::post("auth/token/revoke-accessor", body());
        let revoked = self.call(Connection::Kept, call).await;
        let call = Call::post("auth/token/lookup-accessor", body());
        match (revoked, self.call(Connection::Kept, call).await) {
            (_, Err(Fault::Answered { status: 400 | 403 | 404, said }))
                if said.contains("invalid accessor") =>
            {
                Ended { ended: true, effect: "Vault knows the token no more".into() }
            }
            (Err(fault), _) => Ended {
                ended: false,
                effect: format!("not ended: {}; {otherwise}", super::lease::told(&fault)),
            },
            (Ok(_), Ok(_)) => Ended {
                ended: false,
                effect: format!(
                    "Vault said it revoked the token, which is still there; {otherwise}"
                ),
            },
            (Ok(_), Err(fault)) => Ended {
                ended: false,
                effect: format!(
                    "Vault said it revoked the token, and a lookup to see that failed: {}; {otherwise}",
                    super::lease::told(&fault)
                ),
            },
        }
    }
}
