//! The SSH engine: an OpenSSH user certificate that Vault signs (`sign`), for the public key of who asked.
//!
//! ```toml
//! [template]
//! mount = "ssh"
//! role = "deploy"
//! public_key = "key"            # and the rest as of the built-in issuer
//! principals = ["${account}"]
//! ```
//!
//! What a role adds by itself is refused before anything is signed; what comes back is read, and must say
//! exactly what was asked. Vault keeps no list of what it signed: a certificate cannot be recalled.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use grantwright_credential::{Credential, Kind};
use grantwright_domain::param::KeyFormat;
use grantwright_domain::{Grant, Params, Scope, Timestamp};
use serde_json::{Map, Value, json};

use super::VaultMinter;
use super::client::{Call, Envelope, Fault};
use super::role::Bounded;
use crate::call::{wider, within};
use crate::ssh::{Asked, Certificate, faults_of, fingerprint, key_id};
use crate::template::{bad_template, holder_faults};
use crate::{Backend, Declaration, MintError, Minted, SignInput};

/// What Vault's SSH engine can do.
pub(super) const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "vault-ssh",
        credential: Kind::Ssh,
        ttl_floor_s: 1,
        ttl_ceiling_s: 43_200,
        revocable: None,
        measured: "",
        renewable: false,
        narrowing: "principals, one forced command and source addresses, with typed parameters in \
                    their slots, within the role at Vault that the template names",
        stamps: &["the key id, where the role admits one: agent, request, approvers"],
    },
    faults: |scope| {
        let (mut out, rest) = Bounded::faults(scope);
        out.extend(faults_of(&rest, scope));
        out.extend(holder_faults(scope, "public_key", KeyFormat::Ssh));
        out.extend(BACKEND.declaration.ttl_faults(scope));
        out
    },
    preview: |scope, params| {
        let bounded = Bounded::of(scope)?;
        Ok(with_role(&bounded, Asked::of(&bounded.rest, scope, params)?.preview()))
    },
};

/// What will be issued, and by which role.
pub(super) fn with_role(bounded: &Bounded, mut preview: Value) -> Value {
    if let Value::Object(members) = &mut preview {
        members.insert("mount".into(), bounded.mount.as_str().into());
        members.insert("role".into(), bounded.role.as_str().into());
    }
    preview
}

fn compile(scope: &Scope, params: &Params) -> Result<(Bounded, Asked), MintError> {
    let bounded = Bounded::of(scope)?;
    let asked = Asked::of(&bounded.rest, scope, params)?;
    Ok((bounded, asked))
}

/// The options that only narrow: what Vault is asked for, and what must come back.
fn critical(asked: &Asked) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    if let Some(command) = &asked.force_command {
        out.insert("force-command".to_owned(), command.clone());
    }
    if !asked.source_address.is_empty() {
        out.insert("source-address".to_owned(), asked.source_address.join(","));
    }
    out
}

impl VaultMinter {
    pub(super) async fn mint_ssh(&self, grant: Grant, now: Timestamp) -> Result<Minted, MintError> {
        BACKEND.declaration.admits_ttl(grant.ttl_s())?;
        let (bounded, asked) = compile(grant.scope(), grant.params())?;
        let path = format!("{}/roles/{}", bounded.mount, bounded.role);
        let role = self.look(|| Call::get(&path)).await?;
        check_role(&role, &asked).map_err(bad_template)?;
        let mut body = json!({
            "public_key": format!("{} {}", asked.key.algorithm(), STANDARD.encode(asked.key.blob())),
            "valid_principals": asked.principals.iter().cloned().collect::<Vec<_>>().join(","),
            "cert_type": "user",
            "ttl": format!("{}s", grant.ttl_s()),
            "critical_options": critical(&asked),
            "extensions": asked.extensions.iter().map(|e| (e.clone(), "".into())).collect::<Map<_, _>>(),
        });
        let stamp = key_id(&SignInput::granted(&grant, now));
        let stamped = role.data.get("allow_user_key_ids").and_then(Value::as_bool) == Some(true);
        if let (true, Value::Object(members)) = (stamped, &mut body) {
            members.insert("key_id".into(), stamp.as_str().into());
        }
        let path = format!("{}/sign/{}", bounded.mount, bounded.role);
        let answer = self.make(&path, Call::post(&path, body)).await;
        let answer = answer.map_err(Fault::into_mint_error)?;
        let line = answer.text("signed_key").trim();
        if line.is_empty() {
            return Err(MintError::unknown("the answer holds no certificate"));
        }
        let read = Certificate::read(line, &asked.key).ok_or_else(|| {
            wider("it is no certificate of a user for the key that was asked for")
        })?;
        let expires_at =
            check(&read, &asked, stamped.then_some(&stamp), &grant, now, self.clock.now())?;
        let facts = BTreeMap::from([
            ("ca".to_owned(), fingerprint(&read.authority)),
            ("key".to_owned(), fingerprint(asked.key.blob())),
            ("serial".to_owned(), read.serial.to_string()),
            bounded.fact(),
        ]);
        Ok(Minted { credential: Credential::ssh(line), expires_at, revocable: false, facts })
    }
}

/// What the role would do by itself.
fn check_role(role: &Envelope, asked: &Asked) -> Result<(), String> {
    let is = |key: &str| role.data.get(key).and_then(Value::as_bool).unwrap_or(false);
    let adds = |key: &str| match role.data.get(key) {
        Some(Value::Object(members)) => !members.is_empty(),
        Some(Value::Null) | None => false,
        Some(_) => true,
    };
    if role.text("key_type") != "ca" || !is("allow_user_certificates") {
        return Err("the role at Vault signs no certificates of users".into());
    }
    if asked.extensions.is_empty() && adds("default_extensions") {
        return Err("the role at Vault adds extensions where none are asked for: it wants no \
                    default_extensions"
            .into());
    }
    if critical(asked).is_empty() && adds("default_critical_options") {
        return Err(
            "the role at Vault adds critical options of its own: say them in the template".into()
        );
    }
    Ok(())
}

fn check(
    read: &Certificate,
    asked: &Asked,
    stamp: Option<&String>,
    grant: &Grant,
    now: Timestamp,
    arrival: Timestamp,
) -> Result<Timestamp, MintError> {
    let principals: BTreeSet<String> = read.principals.iter().cloned().collect();
    // None means every account to OpenSSH.
    if principals != asked.principals || read.principals.is_empty() {
        return Err(wider(format!("its principals are {principals:?}")));
    }
    if read.critical != critical(asked) {
        return Err(wider(format!("its critical options are {:?}", read.critical.keys())));
    }
    let extensions: BTreeSet<&String> = read.extensions.keys().collect();
    if extensions != asked.extensions.iter().collect() {
        return Err(wider(format!("its extensions are {extensions:?}")));
    }
    if stamp.is_some_and(|stamp| *stamp != read.key_id) {
        return Err(wider("its key id is another"));
    }
    let after = i64::try_from(read.valid_after).unwrap_or(i64::MAX);
    if after > arrival.seconds().saturating_add(crate::call::CLOCK_BOUND_S) {
        return Err(wider(format!("it begins at {after}, later than now")));
    }
    let ends = i64::try_from(read.valid_before).unwrap_or(i64::MAX).min(i64::MAX / 2000);
    within(Timestamp::from_millis(ends * 1000), grant.ttl_s(), now, arrival).map_err(wider)
}
