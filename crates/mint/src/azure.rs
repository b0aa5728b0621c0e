//! Azure: a federated credential. The broker's own token, as an OIDC issuer, is the client's assertion, and
//! Entra answers with an access token of that application for one resource
//! (<https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>).
//!
//! ```toml
//! [template]
//! client_id = "11111111-2222-3333-4444-555555555555"
//! scope = "https://${vault}.vault.azure.net/.default"
//! ```
//!
//! Entra decides how long its tokens live, 60 to 90 minutes, and recalls none: shorter grants are refused
//! before anybody is asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use grantwright_credential::{Credential, Kind, Secret};
use grantwright_domain::request::Lease;
use grantwright_domain::{Clock, Grant, Params, Scope, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{self, Endpoint, Http, SignAssertion, assertion, wider, within};
use crate::template::{Wildcards, bad_template, fill, slots, text_faults, unknown_keys};
use crate::{Backend, BoxFuture, Declaration, Ended, MintError, Minted, Minter, SetupError};

const NAME: &str = "Azure";
const KEYS: [&str; 2] = ["client_id", "scope"];
const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What Azure can do.
pub const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "azure",
        credential: Kind::Jwt,
        ttl_floor_s: 5400,
        ttl_ceiling_s: 43_200,
        revocable: None,
        measured: "",
        renewable: false,
        narrowing: "the application and the resource that the template names with typed parameters",
        stamps: &["claims of the assertion: `agent`, `request_id`"],
    },
    faults: |scope| {
        let mut out = faults(scope);
        out.extend(BACKEND.declaration.ttl_faults(scope));
        out
    },
    preview: |scope, params| Ok(Asked::compile(scope, params)?.preview()),
};

/// How Entra is reached.
pub struct AzureConfig {
    /// `https://login.microsoftonline.com`, or a national cloud's.
    pub endpoint: Endpoint,
    /// The tenant's id.
    pub tenant: String,
    /// Audience of the assertion, as the federated credential has it: `api://AzureADTokenExchange`.
    pub audience: String,
    /// Signs it.
    pub sign: SignAssertion,
}

/// Mints access tokens.
pub struct AzureMinter {
    http: Http,
    tenant: String,
    audience: String,
    sign: SignAssertion,
    clock: Arc<dyn Clock>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    client_id: String,
    scope: String,
}

struct Asked {
    client_id: String,
    scope: String,
}

impl Asked {
    fn compile(scope: &Scope, params: &Params) -> Result<Self, MintError> {
        let template: Template = serde_json::from_value(Value::Object(scope.template.clone()))
            .map_err(|e| bad_template(e.to_string()))?;
        let asked = Self {
            client_id: fill(&template.client_id, scope, params)?,
            scope: fill(&template.scope, scope, params)?,
        };
        if !is_guid(&asked.client_id) || !is_scope(&asked.scope) {
            return Err(MintError::refused(
                "bad_parameter",
                "these parameters name no application or resource that Azure could have",
                format!("`{}`, `{}`", asked.client_id, asked.scope),
            ));
        }
        Ok(asked)
    }

    fn preview(&self) -> Value {
        json!({ "client_id": self.client_id, "scope": self.scope })
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
    for (key, text) in [("client_id", &template.client_id), ("scope", &template.scope)] {
        let faults = text_faults(text, scope, Wildcards::Faults);
        out.extend(faults.into_iter().map(|f| format!("template.{key}: {f}")));
    }
    if !template.scope.ends_with("/.default") || template.scope.contains(' ') {
        out.push(format!(
            "template.scope: `{}` is not one resource followed by `/.default`",
            template.scope
        ));
    }
    if slots(&template.client_id).is_empty() && !is_guid(&template.client_id) {
        out.push(format!(
            "template.client_id: `{}` is not an application's id",
            template.client_id
        ));
    }
    for (name, spec) in &scope.params {
        let binds = |text: &String| slots(text).contains(&name.as_str());
        if !spec.sensitive && !binds(&template.client_id) && !binds(&template.scope) {
            out.push(format!(
                "parameter `{name}` does not narrow it: neither client_id nor scope has `${{{name}}}`"
            ));
        }
    }
    out
}

fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(n, b)| match n {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

fn is_scope(text: &str) -> bool {
    text.len() <= 256 && text.ends_with("/.default") && text.bytes().all(|b| b.is_ascii_graphic())
}

#[derive(Deserialize)]
struct Got {
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    token_type: String,
    #[serde(default)]
    expires_in: i64,
}

impl AzureMinter {
    /// A minter. The clock tells when answers arrive.
    ///
    /// # Errors
    /// The address, the tenant or the audience is not of its form.
    pub fn new(config: AzureConfig, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let http = Http::new(&config.endpoint, "azure: authority is not an https URL")?;
        if !is_guid(&config.tenant) {
            return Err(SetupError("azure: tenant is not a tenant's id"));
        }
        if config.audience.is_empty() {
            return Err(SetupError("azure: the audience of the assertion is empty"));
        }
        let AzureConfig { tenant, audience, sign, .. } = config;
        Ok(Self { http, tenant, audience, sign, clock })
    }

    async fn ask(&self, grant: Grant, now: Timestamp) -> Result<Minted, MintError> {
        BACKEND.declaration.admits_ttl(grant.ttl_s())?;
        let asked = Asked::compile(grant.scope(), grant.params())?;
        let more = [
            ("agent", json!(grant.agent().as_str())),
            ("request_id", json!(grant.request().as_str())),
        ];
        let own = assertion(&self.sign, &self.audience, &more, self.clock.now())?;
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &asked.client_id),
            ("scope", &asked.scope),
            ("client_assertion_type", ASSERTION),
            ("client_assertion", own.expose_secret()),
        ];
        let request = self.http.post(&[&self.tenant, "oauth2", "v2.0", "token"]);
        let request = call::form(request, &form);
        let answer = self.http.send(request).await.map_err(|f| f.into_mint_error(NAME))?;
        if !answer.is_success() {
            return Err(answer.into_mint_error(NAME, &[own.expose_secret()]));
        }
        let got: Got = answer.read().map_err(MintError::unknown)?;
        let token = Secret::new(got.access_token);
        if token.expose_secret().is_empty() {
            return Err(MintError::unknown("the answer holds no token"));
        }
        if !got.token_type.eq_ignore_ascii_case("bearer") {
            return Err(wider(format!("it is `{}`", got.token_type)));
        }
        let arrival = self.clock.now();
        let ends = arrival.plus_seconds(got.expires_in.clamp(-1, 1 << 32));
        let expires_at = within(ends, grant.ttl_s(), now, arrival).map_err(wider)?;
        let facts = BTreeMap::from([
            ("client_id".to_owned(), asked.client_id.clone()),
            ("scope".to_owned(), asked.scope.clone()),
            ("tenant".to_owned(), self.tenant.clone()),
        ]);
        let credential = Credential::jwt(token.expose_secret());
        Ok(Minted { credential, expires_at, revocable: false, facts })
    }
}

impl Minter for AzureMinter {
    fn backend(&self) -> Backend {
        BACKEND
    }

    fn mint(&self, grant: Grant, now: Timestamp) -> BoxFuture<'_, Result<Minted, MintError>> {
        Box::pin(self.ask(grant, now))
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Ended> {
        let effect = format!(
            "cannot be recalled: Entra has no recall of one access token; it ends at {}",
            lease.expires_at
        );
        Box::pin(std::future::ready(Ended { ended: false, effect }))
    }
}
