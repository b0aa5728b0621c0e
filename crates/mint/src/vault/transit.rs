//! The transit engine: a JWT with the claims of the built-in issuer, signed by a key that never leaves Vault.
//!
//! ```toml
//! [template]
//! mount = "transit"
//! key = "tokens"                              # ecdsa-p256 or ed25519
//! issuer = "https://tokens.example.com"       # who publishes Vault's public keys
//! audience = "https://data.example.com"
//! claims = ["dataset"]                        # optional, as of the built-in issuer
//! ```
//!
//! The signature is verified with the key's public half before the token is delivered. `kid` is the key's
//! name and version. Nothing recalls a signature.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use grantwright_credential::{Credential, Kind};
use grantwright_domain::{Grant, Params, Scope, Timestamp};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::VaultMinter;
use super::client::{Call, Envelope, Fault, is_path, is_segment};
use crate::call::wider;
use crate::jwt::{Claims, ParamClaims, PublicKey, audience, claim_faults};
use crate::template::{bad_template, unknown_keys};
use crate::{Backend, Declaration, MintError, Minted, SignInput};

const KEYS: [&str; 5] = ["mount", "key", "issuer", "audience", "claims"];

/// What Vault's transit engine can do.
pub(super) const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "vault-transit",
        credential: Kind::Jwt,
        ttl_floor_s: 1,
        ttl_ceiling_s: 43_200,
        revocable: None,
        measured: "",
        renewable: false,
        narrowing: "claims: one audience from the template, the scope, its typed parameters",
        stamps: &["`sub` the agent's SPIFFE ID", "`request_id`", "`approvers`", "`jti` the lease"],
    },
    faults: |scope| {
        let mut out = unknown_keys("template", scope.template.keys(), &KEYS);
        if Asked::of(scope).is_none() {
            out.push(
                "template: want mount (the path of one engine), key (one name) and issuer (an http or \
                 https URL), literally"
                    .into(),
            );
        }
        out.extend(claim_faults(scope));
        out.extend(BACKEND.declaration.ttl_faults(scope));
        out
    },
    preview: |scope, params| {
        let asked = Asked::compile(scope)?;
        Ok(json!({
            "audience": audience(scope)?, "issuer": asked.issuer, "scope": scope.name,
            "params": ParamClaims::of(scope, params)?, "mount": asked.mount, "key": asked.key,
        }))
    },
};

struct Asked<'a> {
    mount: &'a str,
    key: &'a str,
    issuer: &'a str,
}

impl<'a> Asked<'a> {
    fn of(scope: &'a Scope) -> Option<Self> {
        let text = |key: &str| scope.template.get(key).and_then(Value::as_str);
        let is_issuer = |url: &&str| {
            (url.starts_with("https://") || url.starts_with("http://"))
                && url.bytes().all(|b| b.is_ascii_graphic() && !b"${}*\"\\?#".contains(&b))
        };
        Some(Self {
            mount: text("mount").filter(|it| is_path(it))?,
            key: text("key").filter(|it| is_segment(it))?,
            issuer: text("issuer").filter(is_issuer)?,
        })
    }

    fn compile(scope: &'a Scope) -> Result<Self, MintError> {
        Self::of(scope)
            .ok_or_else(|| bad_template("mount, key and issuer name no key of one engine"))
    }
}

/// The newest version of a key, and its public half.
fn newest(found: &Envelope) -> Option<(i64, PublicKey)> {
    let version = found.number("latest_version")?;
    let text = found.data.get("keys")?.get(version.to_string())?.get("public_key")?.as_str()?;
    let key = match found.text("type") {
        "ed25519" => {
            let point = STANDARD.decode(text).ok().filter(|point| point.len() == 32)?;
            PublicKey::ed25519(&point)
        }
        "ecdsa-p256" => {
            let der = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()).ok()?;
            // RFC 5480: 26 bytes before the point.
            PublicKey::p256(der.as_ref().get(26..).filter(|point| point.len() == 65)?)?
        }
        _ => return None,
    };
    Some((version, key))
}

fn claims(
    scope: &Scope,
    params: &Params,
    input: &SignInput<'_>,
    issuer: &str,
) -> Result<String, MintError> {
    let claims = Claims {
        iss: issuer,
        sub: format_args!("spiffe://{}/agent/{}", input.trust_domain, input.agent),
        aud: audience(scope)?,
        iat: input.issued_at.seconds(),
        nbf: input.issued_at.seconds(),
        exp: input.ends().seconds(),
        jti: input.lease,
        scope: scope.name.as_str(),
        request_id: input.request,
        params: ParamClaims::of(scope, params)?,
        approvers: &input.approvers,
        cnf: None,
        status: None,
    };
    serde_json::to_string(&claims).map_err(|e| bad_template(e.to_string()))
}

impl VaultMinter {
    pub(super) async fn mint_signature(
        &self,
        grant: Grant,
        now: Timestamp,
    ) -> Result<Minted, MintError> {
        BACKEND.declaration.admits_ttl(grant.ttl_s())?;
        let asked = Asked::compile(grant.scope())?;
        let path = format!("{}/keys/{}", asked.mount, asked.key);
        let found = self.look(|| Call::get(&path)).await?;
        let (version, key) = newest(&found).ok_or_else(|| {
            bad_template(format!(
                "`{}` at Vault is no key of kind ecdsa-p256 or ed25519",
                asked.key
            ))
        })?;
        let input = SignInput::granted(&grant, now);
        let claims = claims(grant.scope(), grant.params(), &input, asked.issuer)?;
        let kid = format!("{}-v{version}", asked.key);
        let header = json!({ "alg": key.alg(), "kid": kid, "typ": "JWT" }).to_string();
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let mut body = json!({ "input": STANDARD.encode(&signed), "key_version": version });
        if let (true, Value::Object(members)) = (key.alg() == "ES256", &mut body) {
            members.insert("hash_algorithm".into(), "sha2-256".into());
            members.insert("marshaling_algorithm".into(), "jws".into());
        }
        let path = format!("{}/sign/{}", asked.mount, asked.key);
        let answer = self.make(&path, Call::post(&path, body)).await;
        let answer = answer.map_err(Fault::into_mint_error)?;
        let text = answer.text("signature");
        if text.is_empty() {
            return Err(MintError::unknown("the answer holds no signature"));
        }
        let signature = text
            .strip_prefix(&format!("vault:v{version}:"))
            .and_then(|text| match key.alg() {
                "ES256" => URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok(),
                _ => STANDARD.decode(text).ok(),
            })
            .filter(|signature| key.verifies(signed.as_bytes(), signature))
            .ok_or_else(|| wider("its signature is not one of this token by that key"))?;
        let expires_at = input.ends();
        if expires_at <= self.clock.now() {
            return Err(wider(format!("it ended at {expires_at} already")));
        }
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        let facts = BTreeMap::from([
            ("audience".to_owned(), audience(grant.scope())?.to_owned()),
            ("kid".to_owned(), kid),
            ("vault_key".to_owned(), format!("{}/keys/{}", asked.mount, asked.key)),
        ]);
        Ok(Minted { credential: Credential::jwt(&token), expires_at, revocable: false, facts })
    }
}
