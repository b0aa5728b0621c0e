//! Kubernetes: a service account's token for exactly these audiences and this long, bound to an object that is
//! made for it and deleted when the lease ends
//! (<https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-request-v1/>).
//!
//! ```toml
//! [template]
//! namespace = "${namespace}"
//! service_account = "reader"
//! audiences = ["https://kubernetes.default.svc"]
//! ```
//!
//! A token cannot be recalled by itself, but the API server and every TokenReview refuse one whose bound
//! object is gone: each token is bound to an empty Secret named after its lease. Whoever verifies signatures
//! offline accepts it until it ends.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use grantwright_credential::{Credential, Kind, Secret};
use grantwright_domain::request::Lease;
use grantwright_domain::{Clock, Digest, Grant, LeaseId, Params, Scope, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{Answer, Endpoint, Http, claims, nothing_made, wider, within};
use crate::template::{Wildcards, bad_template, fill, slots, text_faults, unknown_keys};
use crate::{Backend, BoxFuture, Declaration, Ended, MintError, Minted, Minter, SetupError};

const NAME: &str = "Kubernetes";
const KEYS: [&str; 3] = ["namespace", "service_account", "audiences"];

/// What Kubernetes can do.
pub const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "kubernetes",
        credential: Kind::Jwt,
        ttl_floor_s: 600,
        ttl_ceiling_s: 43_200,
        revocable: Some(
            "the object that the token is bound to is deleted, and seen gone: the API server refuses the \
             token then, who verifies it offline does not",
        ),
        measured: "yes: the object is looked up after, and gone",
        renewable: false,
        narrowing: "the service account and the audiences that the template names with typed parameters",
        stamps: &["annotations of the bound object: request, agent, approvers, end"],
    },
    faults: |scope| {
        let mut out = faults(scope);
        out.extend(BACKEND.declaration.ttl_faults(scope));
        out
    },
    preview: |scope, params| Ok(Asked::compile(scope, params)?.preview()),
};

/// How the API server is reached.
pub struct KubernetesConfig {
    /// The API server.
    pub endpoint: Endpoint,
    /// File with the broker's own token, read at each call: the kubelet renews it.
    pub token_file: PathBuf,
}

/// Mints service accounts' tokens.
pub struct KubernetesMinter {
    http: Http,
    token_file: PathBuf,
    clock: Arc<dyn Clock>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    namespace: String,
    service_account: String,
    audiences: Vec<String>,
}

struct Asked {
    namespace: String,
    account: String,
    audiences: Vec<String>,
}

impl Asked {
    fn compile(scope: &Scope, params: &Params) -> Result<Self, MintError> {
        let template: Template = serde_json::from_value(Value::Object(scope.template.clone()))
            .map_err(|e| bad_template(e.to_string()))?;
        let filled = |text: &String| fill(text, scope, params);
        let asked = Self {
            namespace: filled(&template.namespace)?,
            account: filled(&template.service_account)?,
            audiences: template.audiences.iter().map(filled).collect::<Result<_, _>>()?,
        };
        if asked.audiences.is_empty() {
            return Err(bad_template("no audience: the token would be good at the API server"));
        }
        for name in [&asked.namespace, &asked.account] {
            if !is_name(name) {
                return Err(MintError::refused(
                    "bad_parameter",
                    "these parameters name no service account that Kubernetes could have",
                    format!("`{name}`"),
                ));
            }
        }
        Ok(asked)
    }

    fn preview(&self) -> Value {
        json!({
            "namespace": self.namespace,
            "service_account": self.account,
            "audiences": self.audiences,
        })
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
    if template.audiences.is_empty() || template.audiences.len() > 16 {
        out.push("template.audiences: want 1 to 16 audiences".into());
    }
    let texts =
        [("namespace", &template.namespace), ("service_account", &template.service_account)];
    let audiences = template.audiences.iter().map(|a| ("audiences", a));
    for (key, text) in texts.into_iter().chain(audiences) {
        let faults = text_faults(text, scope, Wildcards::Faults);
        out.extend(faults.into_iter().map(|f| format!("template.{key}: {f}")));
    }
    for (name, spec) in &scope.params {
        let binds = |text: &String| slots(text).contains(&name.as_str());
        let bound = binds(&template.namespace)
            || binds(&template.service_account)
            || !template.audiences.is_empty() && template.audiences.iter().all(binds);
        if !spec.sensitive && !bound {
            out.push(format!(
                "parameter `{name}` does not narrow it: neither namespace, service_account nor every \
                 audience has `${{{name}}}`"
            ));
        }
    }
    out
}

/// A name of RFC 1123.
fn is_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let end = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.len() <= 253
        && name.bytes().all(inner)
        && end(name.as_bytes().first())
        && end(name.as_bytes().last())
}

/// The object of a lease: the same at every time, and of no other lease.
fn object(lease: &LeaseId) -> String {
    let digest = Digest::of("kubernetes-object", lease.as_str().as_bytes()).to_string();
    format!(
        "grantwright-{}",
        digest.chars().filter(char::is_ascii_hexdigit).take(40).collect::<String>()
    )
}

#[derive(Deserialize)]
struct Made {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    uid: String,
}

#[derive(Deserialize)]
struct TokenRequest {
    status: TokenStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenStatus {
    token: String,
    expiration_timestamp: String,
}

impl KubernetesMinter {
    /// A minter. The clock tells when answers arrive.
    ///
    /// # Errors
    /// The address or the authority's file is not usable.
    pub fn new(config: KubernetesConfig, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let http = Http::new(&config.endpoint, "kubernetes: the address is not an https URL")?;
        Ok(Self { http, token_file: config.token_file, clock })
    }

    fn own_token(&self) -> Result<Secret<String>, MintError> {
        let read = std::fs::read_to_string(&self.token_file).map(Secret::new);
        read.map(|t| Secret::new(t.expose_secret().trim().to_owned()))
            .ok()
            .filter(|t| !t.expose_secret().is_empty())
            .ok_or_else(|| {
                MintError::refused(
                    "backend_away",
                    "the broker has no token of its own for Kubernetes",
                    format!("`{}` cannot be read, or is empty", self.token_file.display()),
                )
            })
    }

    async fn exchange(
        &self,
        own: &Secret<String>,
        request: reqwest::RequestBuilder,
    ) -> Result<Answer, MintError> {
        let own = own.expose_secret();
        let answer = self.http.send(request.bearer_auth(own)).await;
        let answer = answer.map_err(|f| f.into_mint_error(NAME))?;
        if answer.is_success() { Ok(answer) } else { Err(answer.into_mint_error(NAME, &[own])) }
    }

    async fn request(&self, grant: Grant, now: Timestamp) -> Result<Minted, MintError> {
        BACKEND.declaration.admits_ttl(grant.ttl_s())?;
        let asked = Asked::compile(grant.scope(), grant.params())?;
        let own = self.own_token()?;
        let name = object(grant.lease());
        let uid = self.bind(&own, &asked, &name, &grant, now).await;
        let uid = match uid {
            Ok(uid) => uid,
            // An object alone is no credential: what became of it is not unknown.
            Err(error) => {
                self.unbind(&asked.namespace, &name, "").await;
                return Err(nothing_made(error, NAME));
            }
        };
        let made = self.token(&own, &asked, &name, &uid, &grant, now).await;
        let error = match made {
            Ok(minted) => return Ok(minted),
            Err(error) => error,
        };
        // Whatever was made is bound to the object: without it, it is no credential.
        let ended = self.unbind(&asked.namespace, &name, "").await;
        match (error, ended.ended) {
            (MintError::Unknown { operator, .. }, true) => Err(MintError::refused(
                "backend_away",
                "Kubernetes's answer was lost; the object that the token is bound to was deleted",
                operator,
            )),
            (MintError::Refused { operator, .. }, false) => {
                Err(MintError::unknown(format!("{operator}; {}", ended.effect)))
            }
            (error, _) => Err(error),
        }
    }

    /// Makes the object that the token will be bound to.
    async fn bind(
        &self,
        own: &Secret<String>,
        asked: &Asked,
        name: &str,
        grant: &Grant,
        now: Timestamp,
    ) -> Result<String, MintError> {
        let approvers: Vec<&str> = grant.approvers().iter().map(|h| h.as_str()).collect();
        let body = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {
                "name": name,
                "labels": { "app.kubernetes.io/managed-by": "grantwright" },
                "annotations": {
                    "grantwright/request": grant.request().as_str(),
                    "grantwright/agent": grant.agent().as_str(),
                    "grantwright/approvers": approvers.join(" "),
                    "grantwright/until": now.plus_seconds(i64::from(grant.ttl_s())).to_string(),
                },
            },
        });
        let path = ["api", "v1", "namespaces", &asked.namespace, "secrets"];
        let answer = self.exchange(own, self.http.post(&path).json(&body)).await?;
        let made: Made = answer.read().map_err(MintError::unknown)?;
        Ok(made.metadata.uid)
    }

    async fn token(
        &self,
        own: &Secret<String>,
        asked: &Asked,
        name: &str,
        uid: &str,
        grant: &Grant,
        now: Timestamp,
    ) -> Result<Minted, MintError> {
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "audiences": asked.audiences,
                "expirationSeconds": grant.ttl_s(),
                "boundObjectRef": { "apiVersion": "v1", "kind": "Secret", "name": name, "uid": uid },
            },
        });
        let path = [
            "api",
            "v1",
            "namespaces",
            &asked.namespace,
            "serviceaccounts",
            &asked.account,
            "token",
        ];
        let answer = self.exchange(own, self.http.post(&path).json(&body)).await?;
        let made: TokenRequest = answer.read().map_err(MintError::unknown)?;
        let token = Secret::new(made.status.token);
        let ends = Timestamp::parse(&made.status.expiration_timestamp);
        let claims = claims(token.expose_secret());
        let (Ok(ends), Some(claims)) = (ends, claims) else {
            return Err(MintError::unknown("the answer holds no token"));
        };
        let expires_at = within(ends, grant.ttl_s(), now, self.clock.now()).map_err(wider)?;
        let subject = format!("system:serviceaccount:{}:{}", asked.namespace, asked.account);
        if claims.get("sub").and_then(Value::as_str) != Some(&subject) {
            return Err(wider("it is for another principal"));
        }
        if claims.get("aud") != Some(&json!(asked.audiences)) {
            return Err(wider("it is for other audiences"));
        }
        let claimed = claims.get("exp").and_then(Value::as_i64).unwrap_or(i64::MAX);
        if claimed > ends.seconds() + 1 {
            return Err(wider("it ends later than its answer says"));
        }
        if claims.pointer("/kubernetes.io/secret/uid").and_then(Value::as_str) != Some(uid) {
            return Err(wider("it is not bound to the object that was made for it"));
        }
        let facts = BTreeMap::from([
            ("bound_object".to_owned(), name.to_owned()),
            ("namespace".to_owned(), asked.namespace.clone()),
            ("service_account".to_owned(), asked.account.clone()),
        ]);
        let credential = Credential::jwt(token.expose_secret());
        Ok(Minted { credential, expires_at, revocable: true, facts })
    }

    /// Deletes the object and looks that it is gone, by deleting it again: reading one would need the right
    /// to read every Secret there.
    async fn unbind(&self, namespace: &str, name: &str, otherwise: &str) -> Ended {
        let still =
            |why: String| Ended { ended: false, effect: format!("not ended: {why}{otherwise}") };
        let path = ["api", "v1", "namespaces", namespace, "secrets", name];
        for _ in 0..3 {
            let own = match self.own_token() {
                Ok(own) => own,
                Err(e) => return still(e.to_string()),
            };
            let request = self.http.delete(&path).bearer_auth(own.expose_secret());
            match self.http.send(request).await {
                Ok(answer) if answer.status == 404 => {
                    return Ended {
                        ended: true,
                        effect:
                            "the object that the token was bound to is gone: the API server and \
                                 TokenReview refuse it"
                                .into(),
                    };
                }
                Ok(answer) if answer.is_success() => {}
                Ok(answer) if matches!(answer.status, 401 | 403) => {
                    return still("the broker may not delete the token's object".into());
                }
                Ok(answer) => return still(format!("Kubernetes answered {}", answer.status)),
                Err(_) => return still("Kubernetes did not answer".into()),
            }
        }
        still("the object that the token is bound to is still there".into())
    }
}

impl Minter for KubernetesMinter {
    fn backend(&self) -> Backend {
        BACKEND
    }

    fn mint(&self, grant: Grant, now: Timestamp) -> BoxFuture<'_, Result<Minted, MintError>> {
        Box::pin(self.request(grant, now))
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Ended> {
        Box::pin(async move {
            let otherwise = format!("; it ends by itself at {}", lease.expires_at);
            match (lease.facts.get("namespace"), lease.facts.get("bound_object")) {
                (Some(namespace), Some(name)) => self.unbind(namespace, name, &otherwise).await,
                _ => Ended {
                    ended: false,
                    effect: format!("not ended: its object is not known{otherwise}"),
                },
            }
        })
    }

    fn undo<'a>(
        &'a self,
        lease: &'a LeaseId,
        scope: &'a Scope,
        params: &'a Params,
    ) -> BoxFuture<'a, Option<Ended>> {
        Box::pin(async move {
            let asked = Asked::compile(scope, params).ok()?;
            Some(self.unbind(&asked.namespace, &object(lease), "").await)
        })
    }
}
