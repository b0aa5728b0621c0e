//! Google Cloud: workload identity federation. The broker's own token, as an OIDC issuer, is exchanged for a
//! federated one, that for a service account's, and that, where the template draws a boundary, for one that
//! reaches into these buckets only (<https://cloud.google.com/iam/docs/workload-identity-federation>,
//! <https://cloud.google.com/iam/docs/downscoping-short-lived-credentials>).
//!
//! ```toml
//! [template]
//! service_account = "reader@project.iam.gserviceaccount.com"
//! scopes = ["https://www.googleapis.com/auth/devstorage.read_only"]
//! [[template.boundary]]                    # optional; Cloud Storage only
//! bucket = "${bucket}"
//! roles = ["roles/storage.objectViewer"]
//! prefix = "${prefix}"                     # optional
//! ```
//!
//! The broker holds no key of Google's. Its tokens cannot be recalled: they are made for exactly the grant's
//! lifetime, an hour at most.

use std::collections::BTreeMap;
use std::sync::Arc;

use grantwright_credential::{Credential, Kind, Secret};
use grantwright_domain::request::Lease;
use grantwright_domain::{Clock, Grant, Params, Scope, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{self, Endpoint, Http, SignAssertion, assertion, nothing_made, wider, within};
use crate::oauth::{ACCESS_TOKEN, EXCHANGE, JWT};
use crate::template::{Wildcards, bad_template, fill, slots, text_faults, unknown_keys};
use crate::{Backend, BoxFuture, Declaration, Ended, MintError, Minted, Minter, SetupError};

const NAME: &str = "Google Cloud";
const KEYS: [&str; 3] = ["service_account", "scopes", "boundary"];
const PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Most rules of a boundary.
const MAX_RULES: usize = 10;

/// What Google Cloud can do.
pub const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "gcp",
        credential: Kind::Jwt,
        ttl_floor_s: 60,
        ttl_ceiling_s: 3600,
        revocable: None,
        measured: "",
        renewable: false,
        narrowing: "the service account and scopes of the template; for Cloud Storage a credential access \
                    boundary, with typed parameters in its slots",
        stamps: &["claims of the federated token: `agent`, `request_id`"],
    },
    faults: |scope| {
        let mut out = faults(scope);
        out.extend(BACKEND.declaration.ttl_faults(scope));
        out
    },
    preview: |scope, params| Ok(Asked::compile(scope, params)?.preview()),
};

/// How Google Cloud is reached.
pub struct GcpConfig {
    /// `https://sts.googleapis.com`.
    pub sts: Endpoint,
    /// `https://iamcredentials.googleapis.com`.
    pub iam_credentials: Endpoint,
    /// The pool's provider:
    /// `//iam.googleapis.com/projects/…/locations/global/workloadIdentityPools/…/providers/…`.
    pub provider: String,
    /// Signs the broker's own tokens.
    pub sign: SignAssertion,
}

/// Mints access tokens.
pub struct GcpMinter {
    sts: Http,
    iam: Http,
    provider: String,
    sign: SignAssertion,
    clock: Arc<dyn Clock>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    service_account: String,
    scopes: Vec<String>,
    #[serde(default)]
    boundary: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    bucket: String,
    roles: Vec<String>,
    #[serde(default)]
    prefix: Option<String>,
}

struct Asked {
    account: String,
    scopes: Vec<String>,
    /// The boundary as Google reads it; none: the account's own reach.
    boundary: Option<Value>,
}

impl Asked {
    fn compile(scope: &Scope, params: &Params) -> Result<Self, MintError> {
        let template: Template = serde_json::from_value(Value::Object(scope.template.clone()))
            .map_err(|e| bad_template(e.to_string()))?;
        let account = fill(&template.service_account, scope, params)?;
        if !is_account(&account) {
            return Err(MintError::refused(
                "bad_parameter",
                "these parameters name no service account that Google Cloud could have",
                format!("`{account}`"),
            ));
        }
        if template.scopes.is_empty() {
            return Err(bad_template("no scope"));
        }
        let mut rules = Vec::with_capacity(template.boundary.len());
        for rule in &template.boundary {
            let bucket = fill(&rule.bucket, scope, params)?;
            let prefix = rule.prefix.as_ref().map(|p| fill(p, scope, params)).transpose()?;
            rules.push(boundary_rule(rule, &bucket, prefix.as_deref())?);
        }
        let boundary = (!rules.is_empty())
            .then(|| json!({ "accessBoundary": { "accessBoundaryRules": rules } }));
        Ok(Self { account, scopes: template.scopes, boundary })
    }

    fn preview(&self) -> Value {
        let rules =
            self.boundary.as_ref().and_then(|b| b.pointer("/accessBoundary/accessBoundaryRules"));
        json!({ "service_account": self.account, "scopes": self.scopes, "boundary": rules })
    }
}

/// One rule: values are typed, and none can hold a quote of the condition's language.
fn boundary_rule(rule: &Rule, bucket: &str, prefix: Option<&str>) -> Result<Value, MintError> {
    let plain = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'))
    };
    if !plain(bucket) || bucket.contains('/') || !prefix.is_none_or(plain) {
        return Err(MintError::refused(
            "bad_parameter",
            "these parameters name no bucket or prefix that Cloud Storage could have",
            format!("`{bucket}`, `{}`", prefix.unwrap_or_default()),
        ));
    }
    let permissions: Vec<String> = rule.roles.iter().map(|role| format!("inRole:{role}")).collect();
    let mut out = json!({
        "availableResource": format!("//storage.googleapis.com/projects/_/buckets/{bucket}"),
        "availablePermissions": permissions,
    });
    if let (Some(prefix), Value::Object(out)) = (prefix, &mut out) {
        let expression = format!(
            "resource.name.startsWith('projects/_/buckets/{bucket}/objects/{prefix}') || \
             api.getAttribute('storage.googleapis.com/objectListPrefix', '').startsWith('{prefix}')"
        );
        out.insert("availabilityCondition".into(), json!({ "expression": expression }));
    }
    Ok(out)
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
    let faults = text_faults(&template.service_account, scope, Wildcards::Faults);
    out.extend(faults.into_iter().map(|f| format!("template.service_account: {f}")));
    let url =
        |s: &String| s.starts_with("https://www.googleapis.com/auth/") && !s.contains(['$', ' ']);
    if template.scopes.is_empty() || !template.scopes.iter().all(url) {
        out.push(
            "template.scopes: want https://www.googleapis.com/auth/…, at least one, literally"
                .into(),
        );
    }
    if template.boundary.len() > MAX_RULES {
        out.push(format!("template.boundary: want {MAX_RULES} rules at most"));
    }
    for rule in &template.boundary {
        let role = |r: &String| {
            r.strip_prefix("roles/storage.")
                .is_some_and(|r| r.bytes().all(|b| b.is_ascii_alphanumeric()))
        };
        if rule.roles.is_empty() || !rule.roles.iter().all(role) {
            out.push("template.boundary: want roles of Cloud Storage, `roles/storage.…`".into());
        }
        for (key, text) in std::iter::once(("bucket", &rule.bucket))
            .chain(rule.prefix.iter().map(|p| ("prefix", p)))
        {
            let faults = text_faults(text, scope, Wildcards::Faults);
            out.extend(faults.into_iter().map(|f| format!("template.boundary.{key}: {f}")));
        }
        if rule.prefix.as_ref().is_some_and(|p| !ends_in_slash(p, scope)) {
            out.push(
                "template.boundary.prefix: want a `/` at its end: others that begin alike would match".into(),
            );
        }
    }
    for (name, spec) in &scope.params {
        let binds = |text: &String| slots(text).contains(&name.as_str());
        let every = |rule: &Rule| binds(&rule.bucket) || rule.prefix.as_ref().is_some_and(binds);
        let bound = binds(&template.service_account)
            || !template.boundary.is_empty() && template.boundary.iter().all(every);
        if !spec.sensitive && !bound {
            out.push(format!(
                "parameter `{name}` does not narrow it: neither service_account nor every rule of the \
                 boundary has `${{{name}}}`"
            ));
        }
    }
    out
}

fn ends_in_slash(text: &str, scope: &Scope) -> bool {
    use grantwright_domain::param::ParamType;
    let last = slots(text).last().and_then(|name| scope.params.get(*name));
    text.ends_with('/')
        || text.ends_with('}') && last.is_some_and(|spec| spec.kind == ParamType::S3Prefix)
}

fn is_account(text: &str) -> bool {
    let Some((name, domain)) = text.split_once('@') else { return false };
    let plain =
        |t: &str| t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    !name.is_empty()
        && plain(name)
        && domain
            .strip_suffix(".iam.gserviceaccount.com")
            .is_some_and(|p| !p.is_empty() && plain(p))
}

#[derive(Deserialize)]
struct Exchanged {
    access_token: String,
    #[serde(default)]
    issued_token_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Generated {
    access_token: String,
    expire_time: String,
}

impl GcpMinter {
    /// A minter. The clock tells when answers arrive.
    ///
    /// # Errors
    /// An address or the provider is not of its form.
    pub fn new(config: GcpConfig, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let sts = Http::new(&config.sts, "gcp: sts_endpoint is not an https URL")?;
        let what = "gcp: iam_credentials_endpoint is not an https URL";
        let iam = Http::new(&config.iam_credentials, what)?;
        let parts: Vec<&str> = config.provider.split('/').collect();
        let is_provider = matches!(
            parts.as_slice(),
            [
                "",
                "",
                _,
                "projects",
                _,
                "locations",
                "global",
                "workloadIdentityPools",
                _,
                "providers",
                _
            ]
        );
        if !is_provider || parts.iter().skip(2).any(|p| p.is_empty()) {
            return Err(SetupError(
                "gcp: provider wants //iam.googleapis.com/projects/NUMBER/locations/global/\
                 workloadIdentityPools/POOL/providers/PROVIDER",
            ));
        }
        Ok(Self { sts, iam, provider: config.provider, sign: config.sign, clock })
    }

    async fn exchange(
        &self,
        form: &[(&str, &str)],
        secrets: &[&str],
    ) -> Result<Secret<String>, MintError> {
        let request = call::form(self.sts.post(&["v1", "token"]), form);
        let answer = self.sts.send(request).await.map_err(|f| f.into_mint_error(NAME))?;
        if !answer.is_success() {
            return Err(answer.into_mint_error(NAME, secrets));
        }
        let got: Exchanged = answer.read().map_err(MintError::unknown)?;
        let token = Secret::new(got.access_token);
        if token.expose_secret().is_empty() {
            return Err(MintError::unknown("the answer holds no token"));
        }
        if got.issued_token_type != ACCESS_TOKEN {
            return Err(wider("it is no access token"));
        }
        Ok(token)
    }

    async fn impersonate(&self, grant: Grant, now: Timestamp) -> Result<Minted, MintError> {
        BACKEND.declaration.admits_ttl(grant.ttl_s())?;
        let asked = Asked::compile(grant.scope(), grant.params())?;
        let more = [
            ("agent", json!(grant.agent().as_str())),
            ("request_id", json!(grant.request().as_str())),
        ];
        let audience = format!("https:{}", self.provider);
        let own = assertion(&self.sign, &audience, &more, self.clock.now())?;
        let form = [
            ("grant_type", EXCHANGE),
            ("requested_token_type", ACCESS_TOKEN),
            ("audience", &self.provider),
            ("scope", PLATFORM),
            ("subject_token", own.expose_secret()),
            ("subject_token_type", JWT),
        ];
        // The federated token stays here, and can do no more than become the service account's.
        let federated = self.exchange(&form, &[own.expose_secret()]).await;
        let federated = federated.map_err(|e| nothing_made(e, NAME))?;
        let federated = federated.expose_secret();

        let account = format!("{}:generateAccessToken", asked.account);
        let path = ["v1", "projects", "-", "serviceAccounts", &account];
        let body = json!({ "scope": asked.scopes, "lifetime": format!("{}s", grant.ttl_s()) });
        let request = self.iam.post(&path).bearer_auth(federated).json(&body);
        let answer = self.iam.send(request).await.map_err(|f| f.into_mint_error(NAME))?;
        if !answer.is_success() {
            return Err(answer.into_mint_error(NAME, &[federated]));
        }
        let made: Generated = answer.read().map_err(MintError::unknown)?;
        let mut token = Secret::new(made.access_token);
        let ends = Timestamp::parse(&made.expire_time)
            .map_err(|_| MintError::unknown("the answer does not say when it ends"))?;
        let expires_at = within(ends, grant.ttl_s(), now, self.clock.now()).map_err(wider)?;

        if let Some(boundary) = &asked.boundary {
            let options = boundary.to_string();
            let form = [
                ("grant_type", EXCHANGE),
                ("requested_token_type", ACCESS_TOKEN),
                ("subject_token", token.expose_secret().as_str()),
                ("subject_token_type", ACCESS_TOKEN),
                ("options", &options),
            ];
            let narrowed = self.exchange(&form, &[token.expose_secret()]).await?;
            if narrowed.expose_secret() == token.expose_secret() {
                return Err(wider("it is the token without the boundary"));
            }
            token = narrowed;
        }
        if token.expose_secret().is_empty() || token.expose_secret() == federated {
            return Err(MintError::unknown("the answer holds no token of its own"));
        }
        let facts = BTreeMap::from([("service_account".to_owned(), asked.account.clone())]);
        let credential = Credential::jwt(token.expose_secret());
        Ok(Minted { credential, expires_at, revocable: false, facts })
    }
}

impl Minter for GcpMinter {
    fn backend(&self) -> Backend {
        BACKEND
    }

    fn mint(&self, grant: Grant, now: Timestamp) -> BoxFuture<'_, Result<Minted, MintError>> {
        Box::pin(self.impersonate(grant, now))
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Ended> {
        let effect = format!(
            "cannot be recalled: Google Cloud has no recall of a service account's token; it ends at {}",
            lease.expires_at
        );
        Box::pin(std::future::ready(Ended { ended: false, effect }))
    }
}
