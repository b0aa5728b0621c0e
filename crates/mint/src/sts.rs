//! AWS STS: AssumeRole with a session policy for exactly the parameters, session tags and a source
//! identity (<https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>).
//!
//! One HTTP request per mint on a connection of its own: the SDK's retries are off, nothing is
//! redirected, and no proxy is taken from the environment. An answer of class 4xx is a refusal. A
//! 5xx, a timeout, a lost or unreadable answer is unknown: the session may exist, with a token that
//! nobody has.

mod answer;
mod failure;
mod policy;

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_sts::config::retry::RetryConfig;
use aws_sdk_sts::config::timeout::TimeoutConfig;
use aws_sdk_sts::config::{BehaviorVersion, Region};
use aws_sdk_sts::types::Tag;
use aws_smithy_http_client::{Builder, tls};
use grantwright_credential::{Kind, Secret};
use grantwright_domain::request::Lease;
use grantwright_domain::{Clock, Grant, HumanId, Params, Scope, Timestamp};
use serde_json::{Value, json};

use crate::{Backend, BoxFuture, Declaration, Ended, MintError, Minted, Minter, SetupError};
use answer::accept;
use failure::failure;
pub use policy::MAX_POLICY;
use policy::{Template, minified, role};

/// How far the backend's clock and ours may differ, in seconds.
pub const CLOCK_BOUND_S: i64 = 30;
/// Longest value of a session tag.
const MAX_TAG: usize = 256;
/// How long a connection may take, before anything is sent.
const CONNECT: Duration = Duration::from_secs(3);
const NOT_EARLY: &str = "cannot be recalled: AWS has no recall of a single session";

/// What AWS STS can do.
pub const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "sts",
        credential: Kind::Sts,
        ttl_floor_s: 900,
        ttl_ceiling_s: 43_200,
        revocable: None,
        renewable: false,
        narrowing: "a session policy compiled from the template, with typed parameters in its slots",
        stamps: &[
            "session tags `agent`, `request`, `approvers`",
            "`SourceIdentity` the agent",
            "`RoleSessionName` the request",
        ],
    },
    faults: |scope| {
        let mut out = policy::faults(scope);
        out.extend(BACKEND.declaration.ttl_faults(scope));
        out
    },
    preview: |scope, params| Ok(Asked::compile(scope, params)?.preview()),
};

/// How STS is reached.
pub struct StsConfig {
    /// Region that signs and serves, for example `eu-west-1`.
    pub region: String,
    /// Instead of the region's own endpoint.
    pub endpoint: Option<String>,
    /// Access key of the broker.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: Secret<String>,
    /// Its session token, when the key is temporary.
    pub session_token: Option<Secret<String>>,
    /// Longest wait for an answer; 10 s unless configured.
    pub timeout: Duration,
}

/// Mints through AWS STS.
pub struct StsMinter {
    client: aws_sdk_sts::Client,
    clock: Arc<dyn Clock>,
    own_secrets: Vec<Secret<String>>,
}

impl StsMinter {
    /// A minter. The clock tells when an answer arrived.
    ///
    /// # Errors
    /// Region or keys are empty, or the endpoint is not an HTTP URL.
    pub fn new(config: StsConfig, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let secret = config.secret_access_key;
        let token = config.session_token;
        let no_token = token.as_ref().is_some_and(|t| t.expose_secret().is_empty());
        if config.access_key_id.is_empty() || secret.expose_secret().is_empty() || no_token {
            return Err(SetupError("sts: the broker's AWS keys are incomplete"));
        }
        if config.region.is_empty() {
            return Err(SetupError("sts: no region is set"));
        }
        let http_url = |url: &String| url.starts_with("https://") || url.starts_with("http://");
        if config.endpoint.as_ref().is_some_and(|url| !http_url(url)) {
            return Err(SetupError("sts: the endpoint is not an http or https URL"));
        }
        let keys = Credentials::new(
            config.access_key_id,
            secret.expose_secret(),
            token.as_ref().map(|t| t.expose_secret().clone()),
            None,
            "grantwright",
        );
        let http = Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
            .pool_max_idle_per_host(0)
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT.min(config.timeout))
            .operation_timeout(config.timeout)
            .build();
        let mut sdk = aws_sdk_sts::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(config.region))
            .credentials_provider(keys)
            .http_client(http)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        sdk.set_endpoint_url(config.endpoint);
        Ok(Self {
            client: aws_sdk_sts::Client::from_conf(sdk.build()),
            clock,
            own_secrets: std::iter::once(secret).chain(token).collect(),
        })
    }

    async fn assume(&self, grant: Grant, now: Timestamp) -> Result<Minted, MintError> {
        BACKEND.declaration.admits_ttl(grant.ttl_s())?;
        let asked = Asked::compile(grant.scope(), grant.params())?;
        let approvers = joined(grant.approvers().iter());
        if approvers.len() > MAX_TAG {
            return Err(MintError::refused(
                "too_many_approvers",
                "the approvers' names are longer than a session tag of AWS can hold",
                format!("{} characters, at most {MAX_TAG}", approvers.len()),
            ));
        }
        let tags = [
            ("agent", grant.agent().as_str()),
            ("request", grant.request().as_str()),
            ("approvers", approvers.as_str()),
        ];
        let mut call = self
            .client
            .assume_role()
            .role_arn(&asked.template.role_arn)
            .role_session_name(grant.request().as_str())
            .source_identity(grant.agent().as_str())
            .duration_seconds(i32::try_from(grant.ttl_s()).unwrap_or(i32::MAX))
            .policy(&asked.policy_text)
            .set_external_id(asked.template.external_id.clone());
        for (key, value) in tags {
            let tag = Tag::builder().key(key).value(value).build();
            call =
                call.tags(tag.map_err(|e| MintError::refused("bad_tag", "a tag", e.to_string()))?);
        }
        let answer = call.send().await.map_err(|e| failure(&e, &self.own_secrets))?;
        accept(answer, &asked.template.role_arn, &grant, now, self.clock.now())
    }
}

impl Minter for StsMinter {
    fn declaration(&self) -> Declaration {
        BACKEND.declaration
    }

    fn faults(&self, scope: &Scope) -> Vec<String> {
        (BACKEND.faults)(scope)
    }

    fn preview(&self, scope: &Scope, params: &Params) -> Result<Value, MintError> {
        (BACKEND.preview)(scope, params)
    }

    fn mint(&self, grant: Grant, now: Timestamp) -> BoxFuture<'_, Result<Minted, MintError>> {
        Box::pin(self.assume(grant, now))
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Ended> {
        let effect = format!("{NOT_EARLY}; it ends at {}", lease.expires_at);
        Box::pin(std::future::ready(Ended { ended: false, effect }))
    }
}

/// What a grant asks of STS, votes aside.
struct Asked {
    template: Template,
    policy: Value,
    policy_text: String,
}

impl Asked {
    fn compile(scope: &Scope, params: &Params) -> Result<Self, MintError> {
        let template = Template::of(scope)?;
        if role(&template.role_arn).is_none() {
            return Err(crate::template::bad_template("role_arn is not the ARN of one IAM role"));
        }
        let policy = template.compile(scope, params)?;
        let policy_text = minified(&policy)?;
        Ok(Self { template, policy, policy_text })
    }

    fn preview(self) -> Value {
        json!({ "role_arn": self.template.role_arn, "session_policy": self.policy })
    }
}

fn joined<'a>(humans: impl Iterator<Item = &'a HumanId>) -> String {
    humans.map(HumanId::as_str).collect::<Vec<_>>().join(" ")
}
