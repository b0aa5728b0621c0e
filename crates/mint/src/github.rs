//! GitHub: an installation token of a GitHub App, for these repositories and permissions only
//! (<https://docs.github.com/en/rest/apps/apps#create-an-installation-access-token-for-an-app>).
//!
//! ```toml
//! [template]
//! installation = 12345
//! repositories = ["${repository}"]
//! permissions = { contents = "read" }
//! ```
//!
//! GitHub's tokens live one hour, never less, and end early only when they are used to end themselves: the
//! broker keeps each in memory until it ends, and nowhere else. After a restart it ends by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use grantwright_credential::{Credential, Kind, Secret};
use grantwright_domain::request::Lease;
use grantwright_domain::{Clock, Grant, LeaseId, Params, Scope, Timestamp};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{Endpoint, Http, wider, within};
use crate::kept::Kept;
use crate::template::{Wildcards, bad_template, fill, slots, text_faults, unknown_keys};
use crate::{Backend, BoxFuture, Declaration, Ended, MintError, Minted, Minter, SetupError};

const NAME: &str = "GitHub";
const KEYS: [&str; 3] = ["installation", "repositories", "permissions"];
/// Most repositories of one token.
const MAX_REPOSITORIES: usize = 500;
/// Life of the App's own tokens, in seconds; they begin a minute early, for clocks that are late.
const APP_S: i64 = 540;
const SWEEP: Duration = Duration::from_secs(60);

/// What GitHub can do.
pub const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "github",
        credential: Kind::Jwt,
        ttl_floor_s: 3600,
        ttl_ceiling_s: 43_200,
        revocable: Some(
            "the token is used to end itself, and seen refused; the broker keeps it in memory for that, so \
             after a restart it ends by itself, an hour after it was made",
        ),
        measured: "yes: the token is tried after, and refused",
        renewable: false,
        narrowing: "the repositories that the template names with typed parameters, and its permissions",
        stamps: &[],
    },
    faults: |scope| {
        let mut out = faults(scope);
        out.extend(BACKEND.declaration.ttl_faults(scope));
        out
    },
    preview: |scope, params| Ok(Asked::compile(scope, params)?.preview()),
};

/// How GitHub is reached.
pub struct GithubConfig {
    /// The API: `https://api.github.com`, or an Enterprise server's.
    pub endpoint: Endpoint,
    /// The App's id, or its client id.
    pub app: String,
    /// The App's private key: RSA, PEM.
    pub private_key: Secret<String>,
}

/// Mints installation tokens.
pub struct GithubMinter {
    http: Http,
    app: String,
    key: RsaKeyPair,
    kept: Kept,
    clock: Arc<dyn Clock>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    installation: u64,
    repositories: Vec<String>,
    permissions: BTreeMap<String, String>,
}

struct Asked {
    installation: u64,
    repositories: BTreeSet<String>,
    permissions: BTreeMap<String, String>,
}

impl Asked {
    fn compile(scope: &Scope, params: &Params) -> Result<Self, MintError> {
        let template: Template = serde_json::from_value(Value::Object(scope.template.clone()))
            .map_err(|e| bad_template(e.to_string()))?;
        let mut repositories = BTreeSet::new();
        for text in &template.repositories {
            let name = fill(text, scope, params)?;
            if !is_repository(&name) {
                return Err(MintError::refused(
                    "bad_parameter",
                    "these parameters name no repository that GitHub could have",
                    format!("`{name}`"),
                ));
            }
            repositories.insert(name);
        }
        // Without a list, GitHub gives all repositories and all permissions of the installation.
        if repositories.is_empty() || template.permissions.is_empty() {
            return Err(bad_template("no repository, or no permission"));
        }
        Ok(Self {
            installation: template.installation,
            repositories,
            permissions: template.permissions,
        })
    }

    fn preview(&self) -> Value {
        json!({
            "installation": self.installation,
            "repositories": self.repositories,
            "permissions": self.permissions,
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
    if template.repositories.is_empty() || template.repositories.len() > MAX_REPOSITORIES {
        out.push(format!(
            "template.repositories: want 1 to {MAX_REPOSITORIES}; without any a token has all of the \
             installation"
        ));
    }
    if template.permissions.is_empty() {
        out.push(
            "template.permissions: want at least one; without any a token has all of the App"
                .into(),
        );
    }
    for (name, level) in &template.permissions {
        let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && !name.is_empty();
        if !plain || !["read", "write", "admin"].contains(&level.as_str()) {
            out.push(format!(
                "template.permissions: `{name} = {level}`: want read, write or admin of a permission"
            ));
        }
    }
    for repository in &template.repositories {
        let faults = text_faults(repository, scope, Wildcards::Faults);
        out.extend(faults.into_iter().map(|f| format!("template.repositories: {f}")));
    }
    for (name, spec) in &scope.params {
        let binds = |text: &String| slots(text).contains(&name.as_str());
        if !spec.sensitive && !template.repositories.iter().all(binds) {
            out.push(format!(
                "parameter `{name}` does not narrow it: not every repository has `${{{name}}}`"
            ));
        }
    }
    out
}

/// A repository's name, without its owner: an installation is of one owner.
fn is_repository(name: &str) -> bool {
    (1..=100).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && name != "."
        && name != ".."
}

#[derive(Deserialize)]
struct Made {
    token: String,
    expires_at: String,
    #[serde(default)]
    permissions: BTreeMap<String, String>,
    #[serde(default)]
    repository_selection: String,
    #[serde(default)]
    repositories: Vec<Repository>,
}

#[derive(Deserialize)]
struct Repository {
    name: String,
}

impl GithubMinter {
    /// A minter. The clock dates the App's own tokens, and tells when answers arrive.
    ///
    /// # Errors
    /// The address, the App's id or its key is not usable.
    pub fn new(config: GithubConfig, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let http = Http::new(&config.endpoint, "github: the address is not an https URL")?;
        if config.app.is_empty() || !config.app.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(SetupError("github: the App's id is missing"));
        }
        let pem = config.private_key.expose_secret().as_bytes();
        let der = PrivateKeyDer::from_pem_slice(pem)
            .map_err(|_| SetupError("github: the App's private key is not PEM"))?;
        let key = match &der {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
            _ => return Err(SetupError("github: the App's private key is not RSA")),
        };
        let key =
            key.map_err(|_| SetupError("github: the App's private key is not a usable RSA key"))?;
        Ok(Self { http, app: config.app, key, kept: Kept::default(), clock })
    }

    /// A token that says who the App is (RS256, ten minutes at most).
    fn app_token(&self) -> Result<Secret<String>, MintError> {
        let now = self.clock.now().seconds();
        let claims = json!({ "iat": now - 60, "exp": now + APP_S, "iss": self.app });
        let mut token = URL_SAFE_NO_PAD.encode(br#"{"alg":"RS256","typ":"JWT"}"#);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
        let mut signature = vec![0; self.key.public_modulus_len()];
        let signed = self.key.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            token.as_bytes(),
            &mut signature,
        );
        signed.map_err(|_| {
            MintError::refused(
                "not_signed",
                "the App's token could not be signed",
                "the key failed",
            )
        })?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(Secret::new(token))
    }

    fn as_github(&self, request: reqwest::RequestBuilder, token: &str) -> reqwest::RequestBuilder {
        request
            .header("accept", "application/vnd.github+json")
            .header("x-github-api-version", "2022-11-28")
            .header("user-agent", "grantwright")
            .bearer_auth(token)
    }

    async fn install(&self, grant: Grant, now: Timestamp) -> Result<Minted, MintError> {
        BACKEND.declaration.admits_ttl(grant.ttl_s())?;
        let asked = Asked::compile(grant.scope(), grant.params())?;
        let own = self.app_token()?;
        let installation = asked.installation.to_string();
        let body = json!({ "repositories": asked.repositories, "permissions": asked.permissions });
        let path = ["app", "installations", &installation, "access_tokens"];
        let request = self.as_github(self.http.post(&path), own.expose_secret()).json(&body);
        let answer = self.http.send(request).await.map_err(|f| f.into_mint_error(NAME))?;
        if !answer.is_success() {
            return Err(answer.into_mint_error(NAME, &[own.expose_secret()]));
        }
        let made: Made = answer.read().map_err(MintError::unknown)?;
        let token = Secret::new(made.token.clone());
        if token.expose_secret().is_empty() {
            return Err(MintError::unknown("the answer holds no token"));
        }
        match self.accept(&made, &asked, &grant, now) {
            Ok(minted) => {
                let ends = minted.expires_at;
                self.kept.keep(grant.lease().clone(), token.expose_secret(), ends, now);
                Ok(minted)
            }
            Err(reason) => {
                let ended = self.end(&token).await;
                Err(match ended {
                    Ok(()) => wider(reason),
                    Err(why) => MintError::unknown(format!("{reason}; not ended: {why}")),
                })
            }
        }
    }

    fn accept(
        &self,
        made: &Made,
        asked: &Asked,
        grant: &Grant,
        now: Timestamp,
    ) -> Result<Minted, String> {
        let ends =
            Timestamp::parse(&made.expires_at).map_err(|_| "it does not say when it ends")?;
        let expires_at = within(ends, grant.ttl_s(), now, self.clock.now())?;
        if made.repository_selection != "selected" {
            return Err(format!("it is for `{}` repositories", made.repository_selection));
        }
        let got: BTreeSet<String> = made.repositories.iter().map(|r| r.name.clone()).collect();
        if got.is_empty() || !got.is_subset(&asked.repositories) {
            return Err(format!("it is for {got:?}"));
        }
        // GitHub adds `metadata = read` to every token by itself.
        let wide = made.permissions.iter().find(|(name, level)| {
            asked.permissions.get(*name) != Some(level)
                && (name.as_str(), level.as_str()) != ("metadata", "read")
        });
        if let Some((name, level)) = wide {
            return Err(format!("it has `{name} = {level}`"));
        }
        let facts = BTreeMap::from([
            ("installation".to_owned(), asked.installation.to_string()),
            ("repositories".to_owned(), got.into_iter().collect::<Vec<_>>().join(" ")),
        ]);
        let credential = Credential::jwt(&made.token);
        Ok(Minted { credential, expires_at, revocable: true, facts })
    }

    /// Has a token end itself, and looks that it is refused.
    async fn end(&self, token: &Secret<String>) -> Result<(), &'static str> {
        let token = token.expose_secret();
        let ended = self.as_github(self.http.delete(&["installation", "token"]), token);
        let ended = self.http.send(ended).await.map_err(|_| "GitHub did not answer")?;
        if ended.status == 401 {
            return Ok(());
        }
        if ended.status != 204 {
            return Err("GitHub did not end it");
        }
        let seen = self.as_github(self.http.get(&["installation", "repositories"]), token);
        match self.http.send(seen).await {
            Ok(answer) if answer.status == 401 => Ok(()),
            Ok(_) => Err("GitHub said it ended the token, and accepts it still"),
            Err(_) => Err("GitHub said it ended the token, and a look to see that failed"),
        }
    }
}

impl Minter for GithubMinter {
    fn backend(&self) -> Backend {
        BACKEND
    }

    fn mint(&self, grant: Grant, now: Timestamp) -> BoxFuture<'_, Result<Minted, MintError>> {
        Box::pin(self.install(grant, now))
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Ended> {
        Box::pin(async move {
            let otherwise = format!("it ends by itself at {}", lease.expires_at);
            let Some(token) = self.kept.token(&lease.id) else {
                let effect = format!(
                    "not ended: only the token itself can do that, and the broker was started anew since; \
                     {otherwise}"
                );
                return Ended { ended: false, effect };
            };
            match self.end(&token).await {
                Ok(()) => {
                    self.kept.forget(&lease.id);
                    Ended { ended: true, effect: "GitHub ended the token and refuses it".into() }
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
