//! AWS STS: AssumeRole with a session policy for exactly the parameters, session tags and a source
//! identity (<https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>).
//!
//! The broker signs with a key, or with a web identity of its own (AssumeRoleWithWebIdentity, no AWS key at
//! all), from the role itself or from others assumed before it. One HTTP request per mint on a connection of
//! its own: the SDK's retries are off, nothing is redirected, and no proxy is taken from the environment. An
//! answer of class 4xx is a refusal. A 5xx, a timeout, a lost or unreadable answer is unknown: the session may
//! exist, with a token that nobody has.

mod answer;
mod bound;
mod failure;
mod iam;
mod identity;
mod policy;

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sts::config::retry::RetryConfig;
use aws_sdk_sts::config::timeout::TimeoutConfig;
use aws_sdk_sts::config::{BehaviorVersion, Region};
use aws_sdk_sts::types::{PolicyDescriptorType, Tag};
use aws_smithy_http_client::{Builder, tls};
use grantwright_credential::Kind;
use grantwright_domain::request::Lease;
use grantwright_domain::{Clock, Grant, HumanId, LeaseId, Params, Scope, Timestamp};
use serde_json::{Value, json};

use crate::call::is_here;
use crate::{Backend, BoxFuture, Declaration, Ended, MintError, Minted, Minter, SetupError};
use answer::{Answer, Expected, accept};
use failure::failure;
use iam::Iam;
pub use iam::{MAX_REVOKED, POLICY_NAME, RevokeConfig};
pub use identity::{Identity, WebIdentityToken};
use identity::{Standing, signed_by};
pub use policy::MAX_POLICY;
use policy::{TAGS, Template, minified, role};

/// How far the backend's clock and ours may differ, in seconds.
pub const CLOCK_BOUND_S: i64 = 30;
/// Longest session of a role that is assumed from another role's session.
const CHAINED_S: u32 = 3600;
/// Longest value of a session tag.
const MAX_TAG: usize = 256;
/// How long a connection may take, before anything is sent.
const CONNECT: Duration = Duration::from_secs(3);
const NOT_EARLY: &str = "cannot be recalled: AWS has no recall of a single session, and the broker may not \
                         deny it through IAM";

/// What AWS STS can do.
pub const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "sts",
        credential: Kind::Sts,
        ttl_floor_s: 900,
        ttl_ceiling_s: 43_200,
        revocable: None,
        measured: "",
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
    /// Region that signs and serves, for example `eu-west-1`: its own endpoint, never the global one.
    pub region: String,
    /// Instead of the region's own endpoint. One that is not of AWS says by that that its answers need not
    /// name the principal; see [`is_aws`].
    pub endpoint: Option<String>,
    /// Who the broker is.
    pub identity: Identity,
    /// Roles assumed one from the other before a scope's own; sessions last an hour at most then.
    pub chain: Vec<String>,
    /// How sessions are ended early, where IAM lets the broker.
    pub revoke: Option<RevokeConfig>,
    /// Longest wait for an answer; 10 s unless configured.
    pub timeout: Duration,
}

/// Mints through AWS STS.
pub struct StsMinter {
    client: aws_sdk_sts::Client,
    clock: Arc<dyn Clock>,
    standing: Standing,
    iam: Option<Iam>,
    declaration: Declaration,
    /// An answer that does not say whose session it is, is refused.
    at_aws: bool,
}

/// Names under which AWS serves STS, of all its partitions.
const OF_AWS: [&str; 7] = [
    "amazonaws.com",
    "amazonaws.com.cn",
    "amazonaws.eu",
    "api.aws",
    "api.amazonwebservices.com.cn",
    "c2s.ic.gov",
    "sc2s.sgov.gov",
];

/// Whether STS is AWS's own: no other endpoint is configured, or one under a name of AWS's. MinIO and the like
/// answer without the principal, AWS never does.
fn is_aws(endpoint: Option<&str>) -> bool {
    let Some(endpoint) = endpoint else { return true };
    let url = reqwest::Url::parse(endpoint).ok();
    let host = url.as_ref().and_then(|u| u.host_str()).unwrap_or_default().trim_end_matches('.');
    let under = |name: &&str| {
        host.strip_suffix(*name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
    };
    OF_AWS.iter().any(under)
}

impl StsMinter {
    /// A minter. The clock tells when an answer arrived.
    ///
    /// # Errors
    /// Region, keys or chain are empty or not of their form, or an endpoint is not an HTTP URL.
    pub fn new(config: StsConfig, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        if config.region.is_empty() {
            return Err(SetupError("sts: no region is set"));
        }
        // What it answers is the credential: in the clear only on this host.
        let usable = |url: &String| {
            reqwest::Url::parse(url)
                .is_ok_and(|u| u.scheme() == "https" || u.scheme() == "http" && is_here(&u))
        };
        if config.endpoint.as_ref().is_some_and(|url| !usable(url)) {
            return Err(SetupError(
                "sts: the endpoint is no https URL, nor an http one of this host",
            ));
        }
        let standing = Standing::new(config.identity, config.chain)?;
        let iam = config.revoke.map(|revoke| Iam::new(revoke, config.timeout)).transpose()?;
        let mut declaration = BACKEND.declaration;
        if !standing.chain.is_empty() {
            declaration.ttl_ceiling_s = CHAINED_S;
        }
        if iam.is_some() {
            declaration.revocable = Some(iam::HOW);
            declaration.measured = iam::MEASURED;
        }
        let http = Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
            // As in `call.rs`: an answer belongs to its call.
            .pool_max_idle_per_host(0)
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT.min(config.timeout))
            .operation_timeout(config.timeout)
            .build();
        let mut sdk = aws_sdk_sts::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(config.region))
            .http_client(http)
            .interceptor(bound::Bound)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        if let Some(keys) = standing.keys() {
            sdk = sdk.credentials_provider(keys);
        }
        let at_aws = is_aws(config.endpoint.as_deref());
        sdk.set_endpoint_url(config.endpoint);
        let client = aws_sdk_sts::Client::from_conf(sdk.build());
        Ok(Self { client, clock, standing, iam, declaration, at_aws })
    }

    async fn assume(&self, grant: Grant, now: Timestamp) -> Result<Minted, MintError> {
        self.declaration.admits_ttl(grant.ttl_s())?;
        let asked = Asked::compile(grant.scope(), grant.params())?;
        let approvers = joined(grant.approvers().iter());
        if approvers.len() > MAX_TAG {
            return Err(MintError::refused(
                "too_many_approvers",
                "the approvers' names are longer than a session tag of AWS can hold",
                format!("{} characters, at most {MAX_TAG}", approvers.len()),
            ));
        }
        let [agent, request, approved] = TAGS;
        let tags = [
            (agent, grant.agent().as_str()),
            (request, grant.request().as_str()),
            (approved, approvers.as_str()),
        ];
        let base = self.base().await?;
        let answer = match &self.standing.identity {
            Identity::Web(sign) if base.is_none() => {
                self.by_web_identity(sign, &asked, &grant, &tags).await?
            }
            Identity::Web(_) | Identity::Keys { .. } => {
                self.by_role(base, &asked, &grant, &tags).await?
            }
        };
        let expected = Expected { role_arn: &asked.template.role_arn, at_aws: self.at_aws };
        let mut minted = accept(answer, &expected, &grant, now, self.clock.now())?;
        minted.revocable = self.iam.is_some();
        Ok(minted)
    }

    async fn by_role(
        &self,
        base: Option<aws_credential_types::Credentials>,
        asked: &Asked,
        grant: &Grant,
        tags: &[(&str, &str)],
    ) -> Result<Answer, MintError> {
        let mut call = self
            .client
            .assume_role()
            .role_arn(&asked.template.role_arn)
            .role_session_name(grant.request().as_str())
            .source_identity(grant.agent().as_str())
            .duration_seconds(i32::try_from(grant.ttl_s()).unwrap_or(i32::MAX))
            .set_policy(asked.policy_text.clone())
            .set_policy_arns(asked.arns())
            .set_external_id(asked.template.external_id.clone());
        for (key, value) in tags {
            let tag = Tag::builder().key(*key).value(*value).build();
            call =
                call.tags(tag.map_err(|e| MintError::refused("bad_tag", "a tag", e.to_string()))?);
        }
        for key in &asked.template.transitive_tags {
            call = call.transitive_tag_keys(key);
        }
        let chained = base.is_some();
        let answer = match base.map(signed_by) {
            Some(signer) => call.customize().config_override(signer).send().await,
            None => call.send().await,
        };
        match answer {
            Ok(answer) => Ok(answer.into()),
            Err(e) => {
                if chained {
                    self.standing.lost().await;
                }
                Err(failure(&e, &self.standing.secrets()))
            }
        }
    }

    /// The token carries tags and source identity, as claims that AWS reads
    /// (<https://docs.aws.amazon.com/IAM/latest/UserGuide/id_session-tags.html>).
    async fn by_web_identity(
        &self,
        sign: &WebIdentityToken,
        asked: &Asked,
        grant: &Grant,
        tags: &[(&str, &str)],
    ) -> Result<Answer, MintError> {
        if asked.template.external_id.is_some() {
            return Err(crate::template::bad_template(
                "external_id: a role that is assumed by web identity takes none",
            ));
        }
        let principal: serde_json::Map<String, Value> =
            tags.iter().map(|(key, value)| ((*key).to_owned(), json!([value]))).collect();
        let claims = [
            (
                "https://aws.amazon.com/tags",
                json!({
                    "principal_tags": principal,
                    "transitive_tag_keys": asked.template.transitive_tags,
                }),
            ),
            ("https://aws.amazon.com/source_identity", json!(grant.agent().as_str())),
        ];
        let token = sign(&claims, self.clock.now()).ok_or_else(|| {
            MintError::refused("not_signed", "the broker could not sign its token for AWS", "")
        })?;
        let call = self
            .client
            .assume_role_with_web_identity()
            .role_arn(&asked.template.role_arn)
            .role_session_name(grant.request().as_str())
            .duration_seconds(i32::try_from(grant.ttl_s()).unwrap_or(i32::MAX))
            .set_policy(asked.policy_text.clone())
            .set_policy_arns(asked.arns())
            .web_identity_token(token.expose_secret());
        let answer = call.send().await.map_err(|e| failure(&e, &[&token]))?;
        Ok(answer.into())
    }
}

impl Minter for StsMinter {
    fn backend(&self) -> Backend {
        Backend { declaration: self.declaration, ..BACKEND }
    }

    fn faults(&self, scope: &Scope) -> Vec<String> {
        let mut out = policy::faults(scope);
        out.extend(self.declaration.ttl_faults(scope));
        out
    }

    fn mint(&self, grant: Grant, now: Timestamp) -> BoxFuture<'_, Result<Minted, MintError>> {
        Box::pin(self.assume(grant, now))
    }

    fn can_end(&self, _lease: &LeaseId) -> bool {
        self.iam.is_some()
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Ended> {
        Box::pin(async move {
            match &self.iam {
                Some(iam) => self.deny(iam, lease).await,
                None => Ended {
                    ended: false,
                    effect: format!("{NOT_EARLY}; it ends at {}", lease.expires_at),
                },
            }
        })
    }
}

/// What a grant asks of STS, votes aside.
struct Asked {
    template: Template,
    policy: Option<Value>,
    policy_text: Option<String>,
}

impl Asked {
    fn compile(scope: &Scope, params: &Params) -> Result<Self, MintError> {
        let template = Template::of(scope)?;
        if role(&template.role_arn).is_none() {
            return Err(crate::template::bad_template("role_arn is not the ARN of one IAM role"));
        }
        if template.is_managed_only() {
            if template.policy_arns.is_empty() {
                return Err(crate::template::bad_template("no policy: it would be the whole role"));
            }
            return Ok(Self { template, policy: None, policy_text: None });
        }
        let policy = template.compile(scope, params)?;
        let policy_text = minified(&policy, &template.policy_arns)?;
        Ok(Self { template, policy: Some(policy), policy_text: Some(policy_text) })
    }

    fn arns(&self) -> Option<Vec<PolicyDescriptorType>> {
        let arns = &self.template.policy_arns;
        let one = |arn: &String| PolicyDescriptorType::builder().arn(arn).build();
        (!arns.is_empty()).then(|| arns.iter().map(one).collect())
    }

    fn preview(self) -> Value {
        let mut out = json!({ "role_arn": self.template.role_arn });
        if let Value::Object(out) = &mut out {
            if let Some(policy) = self.policy {
                out.insert("session_policy".into(), policy);
            }
            if !self.template.policy_arns.is_empty() {
                out.insert("managed_policies".into(), self.template.policy_arns.into());
            }
        }
        out
    }
}

fn joined<'a>(humans: impl Iterator<Item = &'a HumanId>) -> String {
    humans.map(HumanId::as_str).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use aws_sdk_sts::config::interceptors::BeforeTransmitInterceptorContextRef;
    use aws_sdk_sts::config::{ConfigBag, Credentials, Intercept, RuntimeComponents};
    use aws_sdk_sts::error::BoxError;
    use grantwright_credential::Secret;

    use super::*;

    /// Keeps where each call would go and how it is signed, and lets none go.
    #[derive(Debug, Clone, Default)]
    struct Stopped(Arc<Mutex<Vec<(String, String)>>>);

    impl Intercept for Stopped {
        fn name(&self) -> &'static str {
            "stopped"
        }

        fn read_before_transmit(
            &self,
            context: &BeforeTransmitInterceptorContextRef<'_>,
            _: &RuntimeComponents,
            _: &mut ConfigBag,
        ) -> Result<(), BoxError> {
            let call = context.request();
            let signed = call.headers().get("authorization").unwrap_or_default().to_owned();
            self.0.lock().unwrap().push((call.uri().to_owned(), signed));
            Err("nothing leaves a test".into())
        }
    }

    /// A broker with keys of its own.
    pub(super) fn by_keys(region: &str, endpoint: Option<&str>) -> StsConfig {
        StsConfig {
            region: region.into(),
            endpoint: endpoint.map(Into::into),
            identity: Identity::Keys {
                access_key_id: "AKIAOWN".into(),
                secret_access_key: Secret::new("own-secret".into()),
                session_token: None,
            },
            chain: Vec::new(),
            revoke: None,
            timeout: Duration::from_secs(10),
        }
    }

    struct At;

    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(1_767_225_600_000)
        }
    }

    /// The global endpoint is one region for all, and its sessions are not taken everywhere.
    #[tokio::test]
    async fn calls_go_to_their_regions_own_endpoint_and_are_signed_for_it() {
        for (region, host) in [
            ("eu-west-1", "sts.eu-west-1.amazonaws.com"),
            ("us-east-1", "sts.us-east-1.amazonaws.com"),
            ("cn-north-1", "sts.cn-north-1.amazonaws.com.cn"),
        ] {
            let minter = StsMinter::new(by_keys(region, None), Arc::new(At)).unwrap();
            let stopped = Stopped::default();
            let role = "arn:aws:iam::111122223333:role/reader";
            let assume = || minter.client.assume_role().role_arn(role).role_session_name("r-1");
            // By the broker's own key; from a role on the way; without any key.
            let own = assume().customize().interceptor(stopped.clone());
            own.send().await.map(drop).unwrap_err();
            let hop = Credentials::new("ASIAHOP", "s", Some("t".into()), None, "test");
            let chained = assume().customize().config_override(signed_by(hop));
            chained.interceptor(stopped.clone()).send().await.map(drop).unwrap_err();
            let web = minter.client.assume_role_with_web_identity().role_arn(role);
            let web = web.role_session_name("r-1").web_identity_token("a.b.c").customize();
            web.interceptor(stopped.clone()).send().await.map(drop).unwrap_err();
            let calls = stopped.0.lock().unwrap().clone();
            assert_eq!(calls.len(), 3, "{region}: {calls:?}");
            for ((uri, signed), key) in calls.iter().zip(["AKIAOWN", "ASIAHOP", ""]) {
                let url = reqwest::Url::parse(uri).unwrap();
                assert_eq!((url.scheme(), url.host_str()), ("https", Some(host)), "{uri}");
                match key {
                    "" => assert_eq!(signed, "", "a token of our own needs no key of AWS"),
                    key => {
                        assert!(signed.contains(&format!("Credential={key}/")), "{signed}");
                        assert!(
                            signed.contains(&format!("/{region}/sts/aws4_request")),
                            "{signed}"
                        );
                    }
                }
            }
        }
    }
}
