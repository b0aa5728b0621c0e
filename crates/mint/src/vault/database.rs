//! The database engine: an account that exists as long as its lease.
//!
//! ```toml
//! [template]
//! mount = "database"
//! role = "db-read"
//! connection = "${database}"
//! step_s = 300             # optional; made for so long at a time, and extended
//! ```
//!
//! The role at Vault decides what the account may do. Before anything is made the role is read, and must
//! be one of the connection that the template names with the request's parameters.

use std::collections::BTreeMap;

use grantwright_credential::Credential;
use grantwright_domain::{Grant, Params, Scope, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use vaultrs::api::database::requests::{GenerateCredentialsRequest, ReadRoleRequest};

use super::child::Child;
use super::client::{Envelope, is_path, is_segment};
use super::lease::Seen;
use super::{BACKEND, VaultMinter};
use crate::call::wider;
use crate::template::{Wildcards, bad_template, fill, first_s, slots, text_faults, unknown_keys};
use crate::{Ended, MintError, Minted};

const KEYS: [&str; 4] = ["mount", "role", "connection", "step_s"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    mount: String,
    role: String,
    connection: String,
    /// Read by `template::step_s`.
    #[serde(default, rename = "step_s")]
    _step_s: Option<u32>,
}

/// What a grant asks for.
pub(super) struct Asked {
    mount: String,
    role: String,
    connection: String,
}

impl Asked {
    pub(super) fn compile(scope: &Scope, params: &Params) -> Result<Self, MintError> {
        let template: Template = serde_json::from_value(Value::Object(scope.template.clone()))
            .map_err(|e| bad_template(e.to_string()))?;
        let asked = Self {
            mount: template.mount,
            role: fill(&template.role, scope, params)?,
            connection: fill(&template.connection, scope, params)?,
        };
        if !is_path(&asked.mount) {
            return Err(bad_template("mount is not the path of one engine"));
        }
        for (name, text) in [("role", &asked.role), ("connection", &asked.connection)] {
            if !is_segment(text) {
                return Err(MintError::refused(
                    "bad_parameter",
                    "these parameters name no role or connection that Vault could have",
                    format!("{name} `{text}`"),
                ));
            }
        }
        Ok(asked)
    }

    pub(super) fn preview(&self) -> Value {
        json!({ "mount": self.mount, "role": self.role, "connection": self.connection })
    }
}

pub(super) fn faults(scope: &Scope) -> Vec<String> {
    let mut out = unknown_keys("template", scope.template.keys(), &KEYS);
    let template: Template = match serde_json::from_value(Value::Object(scope.template.clone())) {
        Ok(template) => template,
        Err(e) => {
            out.push(format!("template: {e}"));
            return out;
        }
    };
    if !is_path(&template.mount) {
        out.push(format!(
            "template.mount: `{}` is not the path of one engine, literally",
            template.mount
        ));
    }
    for (key, text) in [("role", &template.role), ("connection", &template.connection)] {
        let faults = text_faults(text, scope, Wildcards::Faults);
        out.extend(faults.into_iter().map(|f| format!("template.{key}: {f}")));
    }
    for (name, spec) in &scope.params {
        let binds = |text: &String| slots(text).contains(&name.as_str());
        if !spec.sensitive && !binds(&template.role) && !binds(&template.connection) {
            out.push(format!(
                "parameter `{name}` does not narrow it: neither role nor connection has `${{{name}}}`"
            ));
        }
    }
    out
}

impl VaultMinter {
    pub(super) async fn mint_account(
        &self,
        grant: Grant,
        now: Timestamp,
    ) -> Result<Minted, MintError> {
        BACKEND.declaration.admits_ttl(grant.ttl_s())?;
        let asked = Asked::compile(grant.scope(), grant.params())?;
        self.check_role(&asked).await?;
        let request =
            GenerateCredentialsRequest { mount: asked.mount.clone(), name: asked.role.clone() };
        let path = format!("{}/creds/{}", asked.mount, asked.role);
        let child = self.child(&grant).await?;
        let made = match &child {
            Some(child) => self.make_with(child.token(), &path, request).await,
            None => self.make(&path, request).await,
        };
        let answer = match made {
            Ok(answer) => answer,
            Err(fault) => return Err(self.lost_with(fault, child.as_ref()).await),
        };
        let lease = answer.lease_id.clone();
        let mut minted = match self.accept(&answer, &asked, &grant, now).await {
            Ok(minted) => minted,
            Err(reason) => return Err(self.give_back(&lease, child.as_ref(), reason).await),
        };
        if let Some(child) = &child {
            child.stamp(&mut minted.facts);
            minted.expires_at = minted.expires_at.min(child.ends().whole_second());
        }
        Ok(minted)
    }

    /// The role must be one of the connection that was approved. Reading it also shows whether the
    /// token is good, before anything is made.
    async fn check_role(&self, asked: &Asked) -> Result<(), MintError> {
        let request = || ReadRoleRequest { mount: asked.mount.clone(), name: asked.role.clone() };
        let found = self.look(request).await?;
        let connection = found.text("db_name");
        if connection != asked.connection {
            return Err(MintError::refused(
                "bad_parameter",
                "the role at Vault is not one of the database that was asked for",
                format!("`{}` is of `{connection}`, not `{}`", asked.role, asked.connection),
            ));
        }
        Ok(())
    }

    async fn accept(
        &self,
        answer: &Envelope,
        asked: &Asked,
        grant: &Grant,
        now: Timestamp,
    ) -> Result<Minted, String> {
        let lease = answer.lease_id.as_str();
        let of_role = format!("{}/creds/{}/", asked.mount, asked.role);
        if !lease.strip_prefix(&of_role).is_some_and(is_segment) {
            return Err(format!("its lease is `{lease}`, not one of `{of_role}`"));
        }
        let (username, password) = (answer.text("username"), answer.text("password"));
        if username.is_empty() || password.is_empty() {
            return Err("it holds no user name and password".into());
        }
        let ttl = i64::from(first_s(grant.scope(), grant.ttl_s()));
        let mut left = answer.lease_duration;
        if left != ttl && answer.renewable {
            let renewed =
                self.renew(lease, ttl).await.map_err(|f| format!("not set to {ttl} s: {f}"))?;
            left = renewed.lease_duration;
            // A lease that was longer: what Vault says of it now is looked up, not believed.
            if answer.lease_duration > ttl {
                left = match self.look_up(lease).await {
                    Ok(Seen::There(seen)) => left.max(seen),
                    Ok(Seen::Gone) => return Err("it is gone already".into()),
                    Err(f) => return Err(format!("its length could not be seen: {f}")),
                };
            }
        }
        if left > ttl {
            return Err(format!("it lasts {left} s, {ttl} s were granted"));
        }
        let arrival = self.clock.now();
        let ends = arrival.plus_seconds(left).min(now.plus_seconds(ttl));
        let expires_at = ends.whole_second();
        if expires_at <= now || expires_at <= arrival {
            return Err(format!("it lasts {left} s, and ended at {expires_at}"));
        }
        let facts = BTreeMap::from([
            ("username".to_owned(), username.to_owned()),
            ("vault_lease_id".to_owned(), lease.to_owned()),
            ("vault_role".to_owned(), format!("{}/roles/{}", asked.mount, asked.role)),
        ]);
        if facts.values().any(|fact| fact.contains(password)) {
            return Err("its password stands where a name belongs".into());
        }
        let credential = Credential::userpass(username, password);
        Ok(Minted { credential, expires_at, revocable: true, facts })
    }

    /// What was made and cannot be delivered is ended; where that is not seen, it is unknown.
    async fn give_back(&self, lease: &str, child: Option<&Child>, reason: String) -> MintError {
        let mut ended = Ended { ended: false, effect: "it has no lease to revoke".into() };
        if !lease.is_empty() {
            ended = self.end(lease, "it ends by itself").await;
        }
        if let Some(child) = child {
            ended = self.end_child(child).await;
        }
        match ended.ended {
            true => wider(reason),
            false => MintError::unknown(format!("{reason}; {}", ended.effect)),
        }
    }
}
