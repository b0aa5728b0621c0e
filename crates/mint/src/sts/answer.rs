//! An answer of STS, checked against the grant before anything of it is delivered.

use std::collections::BTreeMap;

use aws_sdk_sts::operation::assume_role::AssumeRoleOutput;
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityOutput;
use aws_sdk_sts::types::Credentials;
use grantwright_credential::{Credential, Secret, Sts};
use grantwright_domain::{Grant, Timestamp};

use super::CLOCK_BOUND_S;
use super::policy::role;
use crate::{MintError, Minted};

/// What both calls answer.
pub(super) struct Answer {
    pub(super) credentials: Option<Credentials>,
    arn: String,
    source: String,
    packed: Option<i32>,
}

impl From<AssumeRoleOutput> for Answer {
    fn from(from: AssumeRoleOutput) -> Self {
        #[expect(
            deprecated,
            reason = "what servers answer today; its successor is not sent by all"
        )]
        let packed = from.packed_policy_size;
        Self {
            credentials: from.credentials,
            arn: from.assumed_role_user.map(|user| user.arn).unwrap_or_default(),
            source: from.source_identity.unwrap_or_default(),
            packed,
        }
    }
}

impl From<AssumeRoleWithWebIdentityOutput> for Answer {
    fn from(from: AssumeRoleWithWebIdentityOutput) -> Self {
        #[expect(
            deprecated,
            reason = "what servers answer today; its successor is not sent by all"
        )]
        let packed = from.packed_policy_size;
        Self {
            credentials: from.credentials,
            arn: from.assumed_role_user.map(|user| user.arn).unwrap_or_default(),
            source: from.source_identity.unwrap_or_default(),
            packed,
        }
    }
}

impl Answer {
    /// The session's credentials, if it is of this role and under this name. At AWS, which always says whose
    /// it is, an answer must.
    ///
    /// # Errors
    /// Whose it is instead.
    pub(super) fn of(
        self,
        role_arn: &str,
        session: &str,
        at_aws: bool,
    ) -> Result<Option<Credentials>, String> {
        match self.arn.as_str() {
            "" if at_aws => Err("the answer does not say whose session it is".into()),
            "" => Ok(self.credentials),
            arn if names_session(arn, role_arn, session) => Ok(self.credentials),
            arn => Err(format!("the answer is the session of `{arn}`, not of `{role_arn}`")),
        }
    }
}

/// Of whom the session is to be.
pub(super) struct Expected<'a> {
    pub(super) role_arn: &'a str,
    /// The answer must say so: AWS's always does, so that one without is not AWS's.
    pub(super) at_aws: bool,
}

/// Checks an answer against the grant (what is wider is dropped) and takes the credential out.
pub(super) fn accept(
    answer: Answer,
    expected: &Expected<'_>,
    grant: &Grant,
    now: Timestamp,
    arrival: Timestamp,
) -> Result<Minted, MintError> {
    let session = grant.request().as_str();
    let Expected { role_arn, at_aws } = *expected;
    let Answer { credentials, arn, source, packed } = answer;
    let Some(got) = credentials else {
        return Err(MintError::unknown("the answer holds no credentials"));
    };
    let secret = Secret::new(got.secret_access_key);
    let token = Secret::new(got.session_token);
    let (secret, token) = (secret.expose_secret(), token.expose_secret());
    let ends = got.expiration.to_millis().unwrap_or(0);
    if [&got.access_key_id, secret, token].into_iter().any(String::is_empty) || ends == 0 {
        return Err(MintError::unknown("the answer's credentials are incomplete"));
    }

    let ends = Timestamp::from_millis(ends).whole_second();
    let ttl = i64::from(grant.ttl_s());
    if ends > arrival.plus_seconds(ttl + CLOCK_BOUND_S) {
        return Err(wider(format!("it ends at {ends}, {ttl} s were granted at {now}")));
    }
    let expires_at = ends.min(now.plus_seconds(ttl).whole_second());
    if expires_at <= arrival || expires_at <= now {
        return Err(wider(format!("it ended at {ends} already, and arrived at {arrival}")));
    }
    if at_aws && (arn.is_empty() || source.is_empty()) {
        return Err(wider("it does not say whose session it is"));
    }
    if !arn.is_empty() && !names_session(&arn, role_arn, session) {
        return Err(wider(format!("it is for `{arn}`")));
    }
    if !source.is_empty() && source != grant.agent().as_str() {
        return Err(wider(format!("its source identity is `{source}`")));
    }

    let mut facts = BTreeMap::from([
        ("access_key_id".to_owned(), got.access_key_id.clone()),
        ("role_session_name".to_owned(), session.to_owned()),
    ]);
    if !arn.is_empty() {
        facts.insert("assumed_role_arn".into(), arn);
    }
    if let Some(percent) = packed {
        facts.insert("packed_policy_size".into(), percent.to_string());
    }
    // The whole answer is hostile until shown otherwise: it may repeat a secret where none belongs.
    if facts.values().any(|fact| fact.contains(secret.as_str()) || fact.contains(token.as_str())) {
        return Err(wider("a secret stands where an identifier belongs"));
    }
    facts.insert("role_arn".into(), role_arn.to_owned());
    let credential = Credential::sts(Sts {
        access_key_id: &got.access_key_id,
        secret_access_key: secret,
        session_token: token,
        expiration: &expires_at.to_string(),
    });
    Ok(Minted { credential, expires_at, revocable: false, facts })
}

fn wider(operator: impl AsRef<str>) -> MintError {
    MintError::refused(
        "backend_wider",
        "the backend's answer is not within what was granted, so it is not delivered",
        operator,
    )
}

/// True when the ARN of an assumed role is that of this role and session: an account, the role's
/// name without its path, the session.
fn names_session(assumed: &str, role_arn: &str, session: &str) -> bool {
    let Some((account, name)) = role(role_arn) else { return false };
    let mut parts = assumed.splitn(6, ':');
    let head: [&str; 5] = std::array::from_fn(|_| parts.next().unwrap_or(""));
    let [arn, partition, service, region, of] = head;
    let expected = format!("assumed-role/{name}/{session}");
    (arn, service, region, of) == ("arn", "sts", "", account)
        && partition.starts_with("aws")
        && parts.next() == Some(expected.as_str())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use grantwright_domain::{Clock, Scope};
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::Minter as _;
    use crate::conformance::danger_grant;
    use crate::sts::{StsMinter, is_aws};

    const ARN: &str = "arn:aws:sts::111122223333:assumed-role/reader/r-1";
    const OTHER: &str = "arn:aws:sts::111122223333:assumed-role/reader/r-2";

    struct At;

    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(1_767_225_600_000)
        }
    }

    fn configured(endpoint: Option<&str>) -> StsMinter {
        let config = crate::sts::tests::by_keys("eu-west-1", endpoint);
        StsMinter::new(config, Arc::new(At)).unwrap()
    }

    /// What becomes of an answer that names this principal, where the minter is configured with `endpoint`.
    async fn outcome(endpoint: Option<&str>, arn: &str, source: &str) -> Result<Minted, MintError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let body = format!(
            "<AssumeRoleResponse><AssumeRoleResult><SourceIdentity>{source}</SourceIdentity>\
             <AssumedRoleUser><AssumedRoleId>A:r-1</AssumedRoleId><Arn>{arn}</Arn></AssumedRoleUser>\
             <Credentials><AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>minted-secret\
             </SecretAccessKey><SessionToken>minted-token</SessionToken><Expiration>{}</Expiration>\
             </Credentials></AssumeRoleResult></AssumeRoleResponse>",
            At.now().plus_seconds(900)
        );
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            // The last field of the form that is always sent.
            while !String::from_utf8_lossy(&asked).contains("SourceIdentity=demo-agent") {
                stream.read_buf(&mut asked).await.unwrap();
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).await.unwrap();
            stream.shutdown().await.ok();
        });
        let mut minter = configured(endpoint);
        // The same minter, whose calls end here.
        minter.client = configured(Some(&url)).client;
        let scope: Scope = serde_json::from_value(json!({
            "name": "aws.read",
            "title": "Read",
            "minter": "sts",
            "template": {
                "role_arn": "arn:aws:iam::111122223333:role/agents/reader",
                "policy": [{ "actions": ["s3:GetObject"], "resources": ["arn:aws:s3:::demo/a/*"] }],
            },
        }))
        .unwrap();
        let grant = danger_grant(&scope, &Default::default(), &[], 900, At.now()).unwrap();
        minter.mint(grant, At.now()).await
    }

    #[tokio::test]
    async fn invariant_05_at_aws_an_answer_that_names_no_principal_is_not_delivered() {
        for (endpoint, arn, source, taken) in [
            (None, ARN, "demo-agent", true),
            (None, "", "demo-agent", false),
            (None, ARN, "", false),
            (None, "", "", false),
            (Some("https://vpce-0a.sts.eu-west-1.vpce.amazonaws.com"), "", "", false),
            // Whoever names another endpoint says that it is not AWS: MinIO names nobody.
            (Some("https://minio.example.com"), "", "", true),
            (Some("https://minio.example.com"), OTHER, "", false),
        ] {
            let outcome = outcome(endpoint, arn, source).await;
            let said = format!("{endpoint:?} {arn} {source}: {outcome:?}");
            assert_eq!(
                outcome.map(drop).err().map(|e| e.code()),
                (!taken).then_some("backend_wider"),
                "{said}"
            );
            assert!(!said.contains("minted-"), "{said}");
        }
    }

    #[test]
    fn only_a_name_of_awss_own_is_aws() {
        for (endpoint, aws) in [
            (None, true),
            (Some("https://sts.eu-west-1.amazonaws.com"), true),
            (Some("https://STS.cn-north-1.Amazonaws.com.cn."), true),
            (Some("https://sts.us-east-1.api.aws"), true),
            (Some("http://127.0.0.1:9000"), false),
            (Some("https://amazonaws.com.example.org"), false),
            (Some("https://notamazonaws.com"), false),
            (Some("https://minio.example.org/sts.amazonaws.com"), false),
        ] {
            assert_eq!(is_aws(endpoint), aws, "{endpoint:?}");
        }
    }
}
