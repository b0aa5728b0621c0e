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

mod keys;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use grantwright_credential::{Credential, Kind};
use grantwright_domain::request::{Lease, Phase};
use grantwright_domain::{
    Grant, HumanId, LeaseId, ParamValue, Params, RequestId, RequestState, Scope, Timestamp,
};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};

use crate::template::{bad_template, unknown_keys};
use crate::{
    Backend, BoxFuture, Declaration, Ended, MintError, Minted, Minter, SetupError, Signer,
};
pub use keys::{PublicKey, SigningKey, discovery, jwks};

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

/// The fact that keeps whose approvals were stamped, so that they are stamped again alike.
const APPROVERS: &str = "approvers";

/// Everything that claims are made of.
#[derive(Debug, Clone)]
pub struct JwtInput<'a> {
    trust_domain: &'a str,
    agent: &'a str,
    scope: &'a Scope,
    params: &'a Params,
    ttl_s: u32,
    lease: &'a str,
    request: &'a str,
    approvers: Vec<&'a str>,
    issued_at: Timestamp,
}

impl<'a> JwtInput<'a> {
    /// For a grant, issued `at`: the time of the "issued" leaf.
    #[must_use]
    pub fn granted(grant: &'a Grant, at: Timestamp) -> Self {
        Self {
            trust_domain: grant.trust_domain(),
            agent: grant.agent().as_str(),
            scope: grant.scope(),
            params: grant.params(),
            ttl_s: grant.ttl_s(),
            lease: LeaseId::as_str(grant.lease()),
            request: RequestId::as_str(grant.request()),
            approvers: grant.approvers().iter().map(HumanId::as_str).collect(),
            issued_at: at.whole_second(),
        }
    }

    /// For a request that was issued, to sign its credential again with the same claims. `scope` is
    /// the pinned declaration.
    ///
    /// # Errors
    /// Refused: it was not issued, or under another declaration.
    pub fn issued(
        state: &'a RequestState,
        scope: &'a Scope,
        trust_domain: &'a str,
    ) -> Result<Self, MintError> {
        let refuse =
            |why: &str| MintError::refused("not_issued", "there is nothing to issue again", why);
        let lease = match (&state.phase, &state.lease) {
            (Phase::Granted, Some(lease)) => lease,
            (phase, _) => return Err(refuse(&format!("the request is {}", phase.word()))),
        };
        if scope.digest().ok() != Some(state.terms.template) {
            return Err(refuse("the declaration is not the pinned one"));
        }
        let issued_at = lease.issued_at.whole_second();
        if issued_at.plus_seconds(i64::from(state.terms.ttl_s)) != lease.expires_at {
            return Err(refuse("the lease ends at another time than this issuer's would"));
        }
        Ok(Self {
            trust_domain,
            agent: state.terms.agent.as_str(),
            scope,
            params: &state.terms.params,
            ttl_s: state.terms.ttl_s,
            lease: lease.id.as_str(),
            request: state.terms.request_id.as_str(),
            approvers: lease.facts.get(APPROVERS).map_or_else(Vec::new, |a| a.split(' ').collect()),
            issued_at,
        })
    }
}

#[derive(serde::Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: std::fmt::Arguments<'a>,
    aud: &'a str,
    iat: i64,
    nbf: i64,
    exp: i64,
    jti: &'a str,
    scope: &'a str,
    request_id: &'a str,
    params: ParamClaims<'a>,
    approvers: &'a [&'a str],
}

/// The parameters that become claims: those the template lists, never a sensitive one.
struct ParamClaims<'a> {
    scope: &'a Scope,
    params: &'a Params,
    listed: Option<&'a [Value]>,
}

impl<'a> ParamClaims<'a> {
    fn of(scope: &'a Scope, params: &'a Params) -> Result<Self, MintError> {
        let listed = match scope.template.get("claims") {
            None => None,
            Some(Value::Array(names)) => Some(names.as_slice()),
            Some(_) => return Err(bad_template("`claims` is not a list")),
        };
        Ok(Self { scope, params, listed })
    }

    fn chosen(&self) -> impl Iterator<Item = (&'a String, &'a ParamValue)> {
        self.params.iter().filter(|(name, _)| {
            self.scope.params.get(*name).is_some_and(|spec| !spec.sensitive)
                && self.listed.is_none_or(|l| l.iter().any(|n| n.as_str() == Some(name.as_str())))
        })
    }
}

impl Serialize for ParamClaims<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        for (name, value) in self.chosen() {
            map.serialize_entry(name, value)?;
        }
        map.end()
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
