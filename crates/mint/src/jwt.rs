//! The built-in issuer: signed JWTs (RFC 7519) that any OIDC library verifies. No I/O.
//!
//! ```toml
//! [template]
//! audience = "https://data.example.com"
//! claims = ["dataset"]     # optional: which parameters; absent: all that are not sensitive
//! holder = "key"           # optional: the parameter with the holder's key, for the claim `cnf`
//! status = true            # optional: who takes these tokens reads the status list or introspects
//! ```
//!
//! Claims are a function of D, the template, the moment of issue and who approved, so a token that
//! was lost on its way is signed again, from its leaf, with the same claims. `iat` is the whole
//! second of the moment of issue, `exp` is `iat` plus the lifetime.

mod claims;
mod keys;
mod status;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use grantwright_credential::{Credential, Kind, Secret};
use grantwright_domain::param::KeyFormat;
use grantwright_domain::request::Lease;
use grantwright_domain::{Grant, LeaseId, Params, Scope, Timestamp};
use serde_json::{Value, json};

use crate::signing::holder;
use crate::template::{bad_template, holder_faults, unknown_keys};
use crate::{
    Backend, BoxFuture, Declaration, Document, Ended, EndedLease, MintError, Minted, Minter,
    Publisher, SetupError, SignInput, Signer,
};
pub(crate) use claims::{Claims, ParamClaims};
pub use keys::{PublicKey, SigningKey, discovery, jwks};
use status::{Lists, Place, STATUS};

/// Life of the broker's own identity tokens, in seconds.
const IDENTITY_S: i64 = 60;

/// What the built-in issuer can do.
pub const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "jwt",
        credential: Kind::Jwt,
        ttl_floor_s: 1,
        ttl_ceiling_s: 43_200,
        revocable: Some(
            "where the scope says `status = true`: introspection calls it inactive and its bit in the \
             status list is set; a service that looks at neither takes it to its end",
        ),
        measured: "yes: the broker itself answers introspection and signs the list, from the log; that a service looks is \
                   not seen",
        renewable: false,
        narrowing: "claims: one audience from the template, the scope, its typed parameters; `cnf` \
                    where the scope names the holder's key",
        stamps: &["`sub` the agent's SPIFFE ID", "`request_id`", "`approvers`", "`jti` the lease"],
    },
    faults,
    preview: |scope, params| {
        let claims = ParamClaims::of(scope, params)?;
        let mut out =
            json!({ "audience": audience(scope)?, "scope": scope.name, "params": claims });
        if let (Some(key), Value::Object(members)) = (held_by(scope, params)?, &mut out) {
            members.insert("holder".into(), key.into());
        }
        Ok(out)
    },
};

/// The issuer: an address, its keys, and its status lists.
pub struct JwtIssuer {
    issuer: String,
    ring: RwLock<Arc<Ring>>,
    lists: Lists,
}

struct Ring {
    active: SigningKey,
    /// Published and not signing: retired ones, and the next one.
    others: Vec<PublicKey>,
}

impl JwtIssuer {
    /// `issuer` is the URL under which discovery and keys are served; `others` are published and do not
    /// sign: retired keys until what they signed has expired, and the next one ahead of its turn.
    ///
    /// # Errors
    /// The URL is not http or https, or ends in `/`.
    pub fn new(
        issuer: impl Into<String>,
        active: SigningKey,
        others: Vec<PublicKey>,
    ) -> Result<Self, SetupError> {
        let issuer = issuer.into();
        let http = issuer.starts_with("https://") || issuer.starts_with("http://");
        if !http || issuer.ends_with('/') || issuer.contains(['?', '#', ' ']) {
            return Err(SetupError(
                "jwt: the issuer wants an http or https URL, without a last `/`",
            ));
        }
        let lists = Lists::new(issuer.clone(), "0");
        Ok(Self { issuer, ring: RwLock::new(Arc::new(Ring { active, others })), lists })
    }

    /// `url` is where the broker serves this issuer's status lists, without a last `/`; `tag` must be
    /// another one at each start.
    #[must_use]
    pub fn publishing(mut self, url: impl Into<String>, tag: &str) -> Self {
        self.lists = Lists::new(url.into(), tag);
        self
    }

    /// Signs with another key from now on.
    pub fn replace(&self, active: SigningKey, others: Vec<PublicKey>) {
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(Ring { active, others });
    }

    fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// All keys that verify, the active one first.
    pub fn keys(&self) -> Vec<PublicKey> {
        let ring = self.ring();
        std::iter::once(ring.active.public()).chain(&ring.others).cloned().collect()
    }

    /// The claims of a token that this issuer signed and that has not expired.
    fn read(&self, token: &str, now: Timestamp) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let json = |part: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
            serde_json::from_slice::<Value>(&bytes).ok()
        };
        let header = json(header)?;
        let named = |name: &str| header.get(name).and_then(Value::as_str);
        let (kid, alg) = (named("kid")?, named("alg")?);
        let keys = self.keys();
        let key = keys.iter().find(|k| k.kid() == kid && k.alg() == alg)?;
        if named("typ") != Some("JWT")
            || !key.verifies(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?)
        {
            return None;
        }
        let claims = json(payload)?;
        let ours = claims.get("iss").and_then(Value::as_str) == Some(&self.issuer);
        let lives = claims.get("exp").and_then(Value::as_i64).is_some_and(|e| e > now.seconds());
        (ours && lives).then_some(claims)
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
        let ring = self.ring();
        signed(&ring.active, ring.active.header(), &claims.to_string()).map(Secret::new)
    }

    /// The document at `/jwks` (RFC 7517).
    #[must_use]
    pub fn jwks(&self) -> Value {
        jwks(&self.keys())
    }

    /// The document at `/.well-known/openid-configuration` (OpenID Connect Discovery 1.0).
    #[must_use]
    pub fn discovery(&self) -> Value {
        discovery(&self.issuer, &self.keys())
    }
}

/// A compact JWS (RFC 7515 §7.1) with this encoded header.
fn signed(key: &SigningKey, header: &str, claims: &str) -> Option<String> {
    let mut token = String::with_capacity(header.len() + claims.len() * 4 / 3 + 96);
    token.push_str(header);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims, &mut token);
    let signature = key.sign(token.as_bytes())?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Some(token)
}

impl Signer for JwtIssuer {
    fn sign(&self, input: &SignInput<'_>) -> Result<Minted, MintError> {
        BACKEND.declaration.admits_ttl(input.ttl_s)?;
        let audience = audience(input.scope)?;
        let expires_at = input.ends();
        let place = listed(input.scope).then(|| match input.facts {
            Some(facts) => Place::kept(facts),
            None => Some(self.lists.draw()),
        });
        let place = place.flatten();
        let jkt = held_by(input.scope, input.params)?;
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
            cnf: jkt.map(|jkt| json!({ "jkt": jkt })),
            status: place.as_ref().and_then(|p| self.lists.claim(p)),
        };
        let json = serde_json::to_string(&claims).map_err(|e| unsigned(e.to_string()))?;
        let ring = self.ring();
        let token = signed(&ring.active, ring.active.header(), &json)
            .ok_or_else(|| unsigned("the key failed"))?;
        let mut facts = input.facts_with([
            ("audience", audience.to_owned()),
            ("kid", ring.active.public().kid().to_owned()),
        ]);
        let revocable = place.is_some();
        if let Some(place) = place {
            facts.insert(STATUS.into(), place.into_fact());
        }
        Ok(Minted { credential: Credential::jwt(&token), expires_at, revocable, facts })
    }
}

impl Publisher for JwtIssuer {
    fn document(
        &self,
        name: &str,
        ended: &BTreeMap<LeaseId, EndedLease>,
        now: Timestamp,
    ) -> Result<Option<Document>, MintError> {
        let list = name.strip_prefix("status/");
        let claims = list.and_then(|list| self.lists.claims(&self.issuer, list, ended, now));
        let Some(claims) = claims else { return Ok(None) };
        let ring = self.ring();
        let header = ring.active.header_of("statuslist+jwt");
        let token = signed(&ring.active, &header, &claims.to_string())
            .ok_or_else(|| unsigned("the key failed"))?;
        let bytes = token.into_bytes();
        Ok(Some(Document { content_type: "application/statuslist+jwt", bytes }))
    }
}

impl Minter for JwtIssuer {
    fn backend(&self) -> Backend {
        BACKEND
    }

    fn mint(&self, grant: Grant, now: Timestamp) -> BoxFuture<'_, Result<Minted, MintError>> {
        Box::pin(std::future::ready(self.sign(&SignInput::granted(&grant, now))))
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Ended> {
        let place = lease.facts.get(STATUS).and_then(|p| p.split_once('/'));
        let ended = place.is_some();
        let effect = match place {
            Some((list, index)) => format!(
                "introspection says inactive, and bit {index} of {} is set: services that look refuse it",
                self.lists.uri(list)
            ),
            None => format!(
                "introspection says inactive, but it cannot be recalled: whoever verifies the signature \
                 alone accepts it until {}",
                lease.expires_at
            ),
        };
        Box::pin(std::future::ready(Ended { ended, effect }))
    }

    fn signer(&self) -> Option<&dyn Signer> {
        Some(self)
    }

    fn revocable(&self, scope: &Scope) -> Option<&'static str> {
        BACKEND.declaration.revocable.filter(|_| listed(scope))
    }

    fn publisher(&self) -> Option<&dyn Publisher> {
        Some(self)
    }

    fn introspect(&self, token: &str, now: Timestamp) -> Option<Value> {
        self.read(token, now)
    }
}

/// Services that take these tokens look whether they ended early.
fn listed(scope: &Scope) -> bool {
    scope.template.get("status").and_then(Value::as_bool).unwrap_or(false)
}

/// The thumbprint of the holder's key, where the scope binds tokens to it.
fn held_by<'a>(scope: &Scope, params: &'a Params) -> Result<Option<&'a str>, MintError> {
    match scope.template.get("holder") {
        None => Ok(None),
        Some(_) => holder(scope, params, "holder").map(Some),
    }
}

pub(crate) fn audience(scope: &Scope) -> Result<&str, MintError> {
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
    let known = ["audience", "claims", "holder", "status"];
    let mut out = unknown_keys("template", scope.template.keys(), &known);
    if scope.template.contains_key("holder") {
        out.extend(holder_faults(scope, "holder", KeyFormat::Jkt));
    }
    if scope.template.get("status").is_some_and(|s| !s.is_boolean()) {
        out.push("template.status: want true or false".into());
    }
    out.extend(claim_faults(scope));
    out.extend(BACKEND.declaration.ttl_faults(scope));
    out
}

/// What is wrong with the audience and the claims of the scope's template.
pub(crate) fn claim_faults(scope: &Scope) -> Vec<String> {
    let mut out = Vec::new();
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
    out
}

fn unsigned(operator: impl AsRef<str>) -> MintError {
    MintError::refused("not_signed", "the token could not be signed", operator)
}
