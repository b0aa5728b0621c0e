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

/// Checks an answer against the grant (what is wider is dropped) and takes the credential out.
pub(super) fn accept(
    answer: Answer,
    role_arn: &str,
    grant: &Grant,
    now: Timestamp,
    arrival: Timestamp,
) -> Result<Minted, MintError> {
    let session = grant.request().as_str();
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
