//! OAuth 2.0 token exchange (RFC 8693) at any authorization server that trusts the broker as an issuer: the
//! broker signs who asks and what was granted, and gets an access token for exactly that.
//!
//! ```toml
//! [template]
//! audience = "https://reports.example.com"    # or resource = "…", or both
//! scopes = ["reports:${dataset}:read"]
//! ```
//!
//! How long a token lives is the server's to say: one that lives longer than was granted is ended (RFC 7009)
//! and not delivered. To end it early it must be shown: the broker keeps it in memory until it ends, and
//! nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use grantwright_credential::{Credential, Kind, Secret};
use grantwright_domain::request::Lease;
use grantwright_domain::{Clock, Grant, LeaseId, Params, Scope, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{self, Endpoint, Http, SignAssertion, assertion, wider, within};
use crate::kept::Kept;
use crate::template::{Wildcards, bad_template, fill, slots, text_faults, unknown_keys};
use crate::{Backend, BoxFuture, Declaration, Ended, MintError, Minted, Minter, SetupError};

const NAME: &str = "the authorization server";
const KEYS: [&str; 3] = ["audience", "resource", "scopes"];
pub(crate) const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
pub(crate) const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
pub(crate) const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const SWEEP: Duration = Duration::from_secs(60);

/// What token exchange can do.
pub const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "oauth",
        credential: Kind::Jwt,
        ttl_floor_s: 1,
        ttl_ceiling_s: 43_200,
        revocable: Some(
            "the token is revoked (RFC 7009) and, where the server introspects, seen inactive; the broker keeps \
             it in memory for that, so after a restart it ends by itself",
        ),
        measured: "where the server introspects, yes: it says that the token is inactive; where not: no, the \
                   server's word",
        renewable: false,
        narrowing: "audience, resource and scopes of the template, with typed parameters in their slots",
        stamps: &["claims of the subject token: `agent`, `request_id`, `approvers`"],
    },
    faults: |scope| {
        let mut out = faults(scope);
        out.extend(BACKEND.declaration.ttl_faults(scope));
        out
    },
    preview: |scope, params| Ok(Asked::compile(scope, params)?.preview()),
};

/// How tokens end, and what is seen of it, where the server introspects and where it does not.
const SEEN: (&str, &str) = (
    "the token is revoked (RFC 7009), and the server's introspection says that it is inactive; the broker keeps \
     it in memory for that, so after a restart it ends by itself",
    "yes: the server's introspection says that the token is inactive",
);
const NOT_SEEN: (&str, &str) = (
    "the token is revoked (RFC 7009) by the server's word: it offers no introspection to see it by; the broker \
     keeps it in memory for that, so after a restart it ends by itself",
    "no, the server's word",
);

/// How the authorization server is reached.
pub struct OauthConfig {
    /// Its token endpoint.
    pub token_endpoint: Endpoint,
    /// Its revocation endpoint (RFC 7009).
    pub revocation_endpoint: Endpoint,
    /// Its introspection endpoint (RFC 7662), where there is one.
    pub introspection_endpoint: Option<Endpoint>,
    /// The broker's client id and secret there.
    pub client: (String, Secret<String>),
    /// What the subject tokens are for, usually the server's issuer.
    pub audience: String,
    /// Signs them.
    pub sign: SignAssertion,
}

/// Exchanges tokens.
pub struct OauthMinter {
    token: Http,
    revocation: Http,
    introspection: Option<Http>,
    client: (String, Secret<String>),
    audience: String,
    sign: SignAssertion,
    kept: Kept,
    clock: Arc<dyn Clock>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    #[serde(default)]
    audience: Option<String>,
    #[serde(default)]
    resource: Option<String>,
    scopes: Vec<String>,
}

struct Asked {
    audience: Option<String>,
    resource: Option<String>,
    scopes: BTreeSet<String>,
}

impl Asked {
    fn compile(scope: &Scope, params: &Params) -> Result<Self, MintError> {
        let template: Template = serde_json::from_value(Value::Object(scope.template.clone()))
            .map_err(|e| bad_template(e.to_string()))?;
        let filled = |text: &String| fill(text, scope, params);
        let asked = Self {
            audience: template.audience.as_ref().map(filled).transpose()?,
            resource: template.resource.as_ref().map(filled).transpose()?,
            scopes: template.scopes.iter().map(filled).collect::<Result<_, _>>()?,
        };
        // Without scopes a server gives what it likes.
        if asked.scopes.is_empty() || !asked.scopes.iter().all(|s| is_scope(s)) {
            return Err(bad_template("no scope, or one that is not of RFC 6749"));
        }
        Ok(asked)
    }

    fn scope_text(&self) -> String {
        self.scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    fn preview(&self) -> Value {
        json!({ "audience": self.audience, "resource": self.resource, "scopes": self.scopes })
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
    if template.scopes.is_empty() || template.scopes.len() > 32 {
        out.push(
            "template.scopes: want 1 to 32; without any the server gives what it likes".into(),
        );
    }
    if template.audience.is_none() && template.resource.is_none() {
        out.push(
            "template: want audience or resource: a token for everybody narrows nothing".into(),
        );
    }
    let single = template.audience.iter().map(|t| ("audience", t));
    let single = single.chain(template.resource.iter().map(|t| ("resource", t)));
    for (key, text) in single.clone().chain(template.scopes.iter().map(|t| ("scopes", t))) {
        let faults = text_faults(text, scope, Wildcards::Faults);
        out.extend(faults.into_iter().map(|f| format!("template.{key}: {f}")));
        if key == "scopes" && text.contains([' ', '"', '\\']) {
            out.push(format!("template.scopes: `{text}` is not one scope"));
        }
    }
    for (name, spec) in &scope.params {
        let binds = |text: &String| slots(text).contains(&name.as_str());
        let bound = single.clone().any(|(_, text)| binds(text))
            || !template.scopes.is_empty() && template.scopes.iter().all(binds);
        if !spec.sensitive && !bound {
            out.push(format!(
                "parameter `{name}` does not narrow it: neither audience, resource nor every scope has \
                 `${{{name}}}`"
            ));
        }
    }
    out
}

/// RFC 6749 §3.3.
fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
}

#[derive(Deserialize)]
struct Exchanged {
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    issued_token_type: String,
    #[serde(default)]
    token_type: String,
    expires_in: Option<i64>,
    scope: Option<String>,
}

#[derive(Deserialize)]
struct Introspected {
    active: bool,
}

impl OauthMinter {
    /// A minter. The clock tells when answers arrive.
    ///
    /// # Errors
    /// An address or the client is not usable.
    pub fn new(config: OauthConfig, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let token = Http::new(&config.token_endpoint, "oauth: token_endpoint is not an https URL")?;
        let what = "oauth: revocation_endpoint is not an https URL";
        let revocation = Http::new(&config.revocation_endpoint, what)?;
        let what = "oauth: introspection_endpoint is not an https URL";
        let introspection =
            config.introspection_endpoint.map(|e| Http::new(&e, what)).transpose()?;
        if config.client.0.is_empty() || config.client.1.expose_secret().is_empty() {
            return Err(SetupError("oauth: the client's id or secret is empty"));
        }
        if config.audience.is_empty() {
            return Err(SetupError("oauth: the audience of subject tokens is empty"));
        }
        Ok(Self {
            token,
            revocation,
            introspection,
            client: config.client,
            audience: config.audience,
            sign: config.sign,
            kept: Kept::default(),
            clock,
        })
    }

    fn as_client(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        request.basic_auth(&self.client.0, Some(self.client.1.expose_secret()))
    }

    async fn exchange(&self, grant: Grant, now: Timestamp) -> Result<Minted, MintError> {
        BACKEND.declaration.admits_ttl(grant.ttl_s())?;
        let asked = Asked::compile(grant.scope(), grant.params())?;
        let approvers: Vec<&str> = grant.approvers().iter().map(|h| h.as_str()).collect();
        let agent = format!("spiffe://{}/agent/{}", grant.trust_domain(), grant.agent());
        let more = [
            ("agent", json!(agent)),
            ("request_id", json!(grant.request().as_str())),
            ("approvers", json!(approvers)),
        ];
        let subject = assertion(&self.sign, &self.audience, &more, self.clock.now())?;
        let scopes = asked.scope_text();
        let mut form = vec![
            ("grant_type", EXCHANGE),
            ("requested_token_type", ACCESS_TOKEN),
            ("subject_token", subject.expose_secret()),
            ("subject_token_type", JWT),
            ("scope", &scopes),
        ];
        form.extend(asked.audience.as_deref().map(|a| ("audience", a)));
        form.extend(asked.resource.as_deref().map(|r| ("resource", r)));
        let request = call::form(self.as_client(self.token.post(&[])), &form);
        let answer = self.token.send(request).await.map_err(|f| f.into_mint_error(NAME))?;
        if !answer.is_success() {
            let secrets =
                [subject.expose_secret(), self.client.1.expose_secret()].map(String::as_str);
            return Err(answer.into_mint_error(NAME, &secrets));
        }
        let got: Exchanged = answer.read().map_err(MintError::unknown)?;
        let token = Secret::new(got.access_token.clone());
        if token.expose_secret().is_empty() {
            return Err(MintError::unknown("the answer holds no token"));
        }
        match self.accept(&got, &asked, &grant, now) {
            Ok(minted) => {
                let ends = minted.expires_at;
                self.kept.keep(grant.lease().clone(), token.expose_secret(), ends, now);
                Ok(minted)
            }
            Err(reason) => Err(match self.end(&token).await {
                Ok(_) => wider(reason),
                Err(why) => MintError::unknown(format!("{reason}; not ended: {why}")),
            }),
        }
    }

    fn accept(
        &self,
        got: &Exchanged,
        asked: &Asked,
        grant: &Grant,
        now: Timestamp,
    ) -> Result<Minted, String> {
        if ![ACCESS_TOKEN, JWT].contains(&got.issued_token_type.as_str())
            || !got.token_type.eq_ignore_ascii_case("bearer")
        {
            return Err(format!("it is `{}`, `{}`", got.issued_token_type, got.token_type));
        }
        // RFC 8693 §2.2.1: absent means as asked.
        let scopes = got.scope.as_ref().map_or_else(BTreeSet::new, |s| {
            s.split(' ').filter(|s| !s.is_empty()).map(str::to_owned).collect()
        });
        if let Some(more) = scopes.iter().find(|s| !asked.scopes.contains(*s)) {
            return Err(format!("it has the scope `{more}`"));
        }
        let left = got.expires_in.ok_or("it does not say when it ends")?;
        let arrival = self.clock.now();
        let expires_at =
            within(arrival.plus_seconds(left.clamp(-1, 1 << 32)), grant.ttl_s(), now, arrival)?;
        let mut facts = BTreeMap::from([("scopes".to_owned(), asked.scope_text())]);
        facts.extend(asked.audience.clone().map(|a| ("audience".to_owned(), a)));
        facts.extend(asked.resource.clone().map(|r| ("resource".to_owned(), r)));
        let credential = Credential::jwt(&got.access_token);
        Ok(Minted { credential, expires_at, revocable: true, facts })
    }

    /// Revokes a token; none: it was seen inactive, else the status by which the server says that it did it.
    async fn end(&self, token: &Secret<String>) -> Result<Option<u16>, &'static str> {
        let form = [("token", token.expose_secret().as_str()), ("token_type_hint", "access_token")];
        let revoke = call::form(self.as_client(self.revocation.post(&[])), &form);
        let revoked =
            self.revocation.send(revoke).await.map_err(|_| "the server did not answer")?;
        if !revoked.is_success() {
            return Err("the server did not revoke it");
        }
        let Some(introspection) = &self.introspection else { return Ok(Some(revoked.status)) };
        let look = call::form(self.as_client(introspection.post(&[])), &form);
        let seen = introspection.send(look).await.ok().filter(call::Answer::is_success);
        match seen.and_then(|a| a.read::<Introspected>().ok()) {
            Some(Introspected { active: false }) => Ok(None),
            Some(Introspected { active: true }) => {
                Err("the server said it revoked the token, which is still active")
            }
            None => Err("the server said it revoked the token, and a look to see that failed"),
        }
    }
}

impl Minter for OauthMinter {
    fn backend(&self) -> Backend {
        let (how, measured) = if self.introspection.is_some() { SEEN } else { NOT_SEEN };
        let declaration = Declaration { revocable: Some(how), measured, ..BACKEND.declaration };
        Backend { declaration, ..BACKEND }
    }

    fn mint(&self, grant: Grant, now: Timestamp) -> BoxFuture<'_, Result<Minted, MintError>> {
        Box::pin(self.exchange(grant, now))
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Ended> {
        Box::pin(async move {
            let otherwise = format!("it ends by itself at {}", lease.expires_at);
            let Some(token) = self.kept.token(&lease.id) else {
                let effect = format!(
                    "not ended: it must be shown to be revoked, and the broker was started anew since; \
                     {otherwise}"
                );
                return Ended { ended: false, effect };
            };
            match self.end(&token).await {
                Ok(word) => {
                    self.kept.forget(&lease.id);
                    let effect = match word {
                        None => {
                            "the server revoked the token, and its introspection says that it is inactive"
                                .to_owned()
                        }
                        // It answers the same for a token that it does not know (RFC 7009 §2.2).
                        Some(status) => format!(
                            "revoked by the server's word: it answered {status} (RFC 7009), as it does for any \
                             token; it offers no introspection, so that the token is refused was not seen"
                        ),
                    };
                    Ended { ended: true, effect }
                }
                Err(why) => {
                    Ended { ended: false, effect: format!("not ended: {why}; {otherwise}") }
                }
            }
        })
    }

    fn can_end(&self, lease: &LeaseId) -> bool {
        self.kept.has(lease)
    }

    fn keep(&self) -> BoxFuture<'_, Option<Duration>> {
        self.kept.sweep(self.clock.now());
        Box::pin(std::future::ready(Some(SWEEP)))
    }
}
