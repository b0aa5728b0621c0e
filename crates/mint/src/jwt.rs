//! The built-in issuer: signed JWTs (RFC 7519) that any OIDC library verifies. No I/O.
//!
//! ```toml
//! [template]
//! audience = "https://data.example.com"
//! claims = ["dataset"]     # optional: which parameters; absent: all that are not sensitive
//! ```
//!
//! Claims are a function of D, the template, the moment of issue and who approved, so a token that
//! was lost on its way is signed again, from its leaf, with the same claims. `iat` is the whole
//! second of the moment of issue, `exp` is `iat` plus the lifetime.

mod claims;
mod keys;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use grantwright_credential::{Credential, Kind, Secret};
use grantwright_domain::request::Lease;
use grantwright_domain::{Grant, Params, Scope, Timestamp};
use serde_json::{Value, json};

use crate::template::{bad_template, unknown_keys};
use crate::{
    Backend, BoxFuture, Declaration, Ended, MintError, Minted, Minter, SetupError, Signer,
};
pub use claims::JwtInput;
use claims::{APPROVERS, Claims, ParamClaims};
pub use keys::{PublicKey, SigningKey, discovery, jwks};

/// Life of the broker's own identity tokens, in seconds.
const IDENTITY_S: i64 = 60;

/// What the built-in issuer can do.
pub const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "jwt",
        credential: Kind::Jwt,
        ttl_floor_s: 1,
        ttl_ceiling_s: 43_200,
        revocable: None,
        renewable: false,
        narrowing: "claims: one audience from the template, the scope, its typed parameters",
        stamps: &["`sub` the agent's SPIFFE ID", "`request_id`", "`approvers`", "`jti` the lease"],
    },
    faults,
    preview: |scope, params| {
        let claims = ParamClaims::of(scope, params)?;
        Ok(json!({ "audience": audience(scope)?, "scope": scope.name, "params": claims }))
    },
};

/// The issuer: an address and its keys.
pub struct JwtIssuer {
    issuer: String,
    active: SigningKey,
    retired: Vec<PublicKey>,
}

impl JwtIssuer {
    /// `issuer` is the URL under which discovery and keys are served; `retired` keys still verify what
    /// they signed, and are published until that has expired.
    ///
    /// # Errors
    /// The URL is not http or https, or ends in `/`.
    pub fn new(
        issuer: impl Into<String>,
        active: SigningKey,
        retired: Vec<PublicKey>,
    ) -> Result<Self, SetupError> {
        let issuer = issuer.into();
        let http = issuer.starts_with("https://") || issuer.starts_with("http://");
        if !http || issuer.ends_with('/') || issuer.contains(['?', '#', ' ']) {
            return Err(SetupError(
                "jwt: the issuer wants an http or https URL, without a last `/`",
            ));
        }
        Ok(Self { issuer, active, retired })
    }

    /// All keys that verify, the active one first.
    pub fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        std::iter::once(self.active.public()).chain(&self.retired)
    }

    /// A token that says who the broker itself is, for one audience and one minute: `sub` is the issuer
    /// with `/broker`, so that no agent's token can pass for it. `None`: the key failed.
    #[must_use]
    pub fn identity_token(&self, audience: &str, now: Timestamp) -> Option<Secret<String>> {
        self.identity_token_with(audience, &[], now)
    }

    /// The same with more claims, for a service that reads them. `None`: the key failed.
    #[must_use]
    pub fn identity_token_with(
        &self,
        audience: &str,
        more: &[(&str, Value)],
        now: Timestamp,
    ) -> Option<Secret<String>> {
        let iat = now.seconds();
        let mut claims = json!({
            "iss": self.issuer,
            "sub": self.identity_subject(),
            "aud": audience,
            "iat": iat,
            "nbf": iat,
            "exp": iat + IDENTITY_S,
        });
        if let Value::Object(claims) = &mut claims {
            for (name, value) in more {
                claims.entry(*name).or_insert_with(|| value.clone());
            }
        }
        self.compact(&claims)
    }

    /// The subject of the broker's own identity tokens.
    #[must_use]
    pub fn identity_subject(&self) -> String {
        format!("{}/broker", self.issuer)
    }

    fn compact(&self, claims: &Value) -> Option<Secret<String>> {
        let mut token = format!(
            "{}.{}",
            self.active.header(),
            URL_SAFE_NO_PAD.encode(claims.to_string().as_bytes())
        );
        let signature = self.active.sign(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Some(Secret::new(token))
    }

    /// The document at `/jwks` (RFC 7517).
    #[must_use]
    pub fn jwks(&self) -> Value {
        jwks(self.keys())
    }

    /// The document at `/.well-known/openid-configuration` (OpenID Connect Discovery 1.0).
    #[must_use]
    pub fn discovery(&self) -> Value {
        discovery(&self.issuer, self.keys())
    }
}

impl Signer for JwtIssuer {
    fn sign(&self, input: &JwtInput<'_>) -> Result<Minted, MintError> {
        BACKEND.declaration.admits_ttl(input.ttl_s)?;
        let audience = audience(input.scope)?;
        let expires_at = input.issued_at.plus_seconds(i64::from(input.ttl_s));
        let claims = Claims {
            iss: &self.issuer,
            sub: format_args!("spiffe://{}/agent/{}", input.trust_domain, input.agent),
            aud: audience,
            iat: input.issued_at.seconds(),
            nbf: input.issued_at.seconds(),
            exp: expires_at.seconds(),
            jti: input.lease,
            scope: input.scope.name.as_str(),
            request_id: input.request,
            params: ParamClaims::of(input.scope, input.params)?,
            approvers: &input.approvers,
        };
        let mut json = Vec::with_capacity(1024);
        serde_json::to_writer(&mut json, &claims).map_err(|e| unsigned(e.to_string()))?;
        let mut token = String::with_capacity(self.active.header().len() + json.len() * 4 / 3 + 96);
        token.push_str(self.active.header());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(&json, &mut token);
        let signature =
            self.active.sign(token.as_bytes()).ok_or_else(|| unsigned("the key failed"))?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);

        let mut facts = BTreeMap::from([
            ("audience".to_owned(), audience.to_owned()),
            ("kid".to_owned(), self.active.public().kid().to_owned()),
        ]);
        if !input.approvers.is_empty() {
            facts.insert(APPROVERS.into(), input.approvers.join(" "));
        }
        Ok(Minted { credential: Credential::jwt(&token), expires_at, revocable: false, facts })
    }
}

impl Minter for JwtIssuer {
    fn declaration(&self) -> Declaration {
        BACKEND.declaration
    }

    fn faults(&self, scope: &Scope) -> Vec<String> {
        faults(scope)
    }

    fn preview(&self, scope: &Scope, params: &Params) -> Result<Value, MintError> {
        (BACKEND.preview)(scope, params)
    }

    fn mint(&self, grant: Grant, now: Timestamp) -> BoxFuture<'_, Result<Minted, MintError>> {
        Box::pin(std::future::ready(self.sign(&JwtInput::granted(&grant, now))))
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Ended> {
        let effect = format!(
            "cannot be recalled: whoever verifies the signature accepts it until {}",
            lease.expires_at
        );
        Box::pin(std::future::ready(Ended { ended: false, effect }))
    }

    fn signer(&self) -> Option<&dyn Signer> {
        Some(self)
    }
}

fn audience(scope: &Scope) -> Result<&str, MintError> {
    let audience = scope.template.get("audience").and_then(Value::as_str);
    audience
        .filter(|a| is_audience(a))
        .ok_or_else(|| bad_template("`audience` is missing or empty"))
}

/// One literal name or URL: printable ASCII without spaces, slots or wildcards.
fn is_audience(text: &str) -> bool {
    (1..=256).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic() && !b"${}*\"\\".contains(&b))
}

fn faults(scope: &Scope) -> Vec<String> {
    let mut out = unknown_keys("template", scope.template.keys(), &["audience", "claims"]);
    if audience(scope).is_err() {
        out.push(
            "template.audience: want one literal audience, 1 to 256 printable characters without spaces, \
             slots or wildcards"
                .into(),
        );
    }
    match scope.template.get("claims") {
        None => {}
        Some(Value::Array(names)) => {
            for name in names {
                match name.as_str().map(|n| (n, scope.params.get(n))) {
                    Some((_, Some(spec))) if !spec.sensitive => {}
                    Some((n, Some(_))) => {
                        out.push(format!(
                            "template.claims: `{n}` is sensitive and cannot be a claim"
                        ));
                    }
                    _ => out.push(format!("template.claims: {name} is not a parameter")),
                }
            }
        }
        Some(_) => out.push("template.claims: want a list of parameters' names".into()),
    }
    out.extend(BACKEND.declaration.ttl_faults(scope));
    out
}

fn unsigned(operator: impl AsRef<str>) -> MintError {
    MintError::refused("not_signed", "the token could not be signed", operator)
}
