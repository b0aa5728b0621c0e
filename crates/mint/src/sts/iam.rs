//! Ending sessions of STS: AWS recalls none, but evaluates permissions on each request, so the role is told
//! to deny everything to the sessions that carry the request's tag
//! (<https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_control-access_disable-perms.html>).
//!
//! One inline policy of the role holds the tags of all sessions that were ended and have not ended by
//! themselves yet, one statement per hour of their ends; what is over is taken out with the next.

use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use grantwright_domain::Timestamp;
use grantwright_domain::request::Lease;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::StsMinter;
use super::policy::role;
use crate::call::{Endpoint, Http};
use crate::{Ended, SetupError};

/// The inline policy of ours.
pub const POLICY_NAME: &str = "GrantwrightRevoked";
/// Most characters of it: a role's inline policies have 10,240 together.
pub const MAX_REVOKED: usize = 8000;
pub(super) const HOW: &str = "the role denies everything to sessions with the request's tag, through an inline \
                              policy that is read back; AWS applies it within moments";
pub(super) const MEASURED: &str =
    "yes: IAM shows the policy after; that AWS applies it to the session is AWS's word";
const HOUR_S: i64 = 3600;
/// What IAM calls a session that it does not know, or not any more.
const OVER: [&str; 3] = ["ExpiredToken", "InvalidClientTokenId", "UnrecognizedClient"];
const TAG: &str = "aws:PrincipalTag/request";

/// How sessions are ended early.
pub struct RevokeConfig {
    /// Instead of `https://iam.amazonaws.com`.
    pub endpoint: Option<String>,
    /// Region that signs; `us-east-1` for IAM's one endpoint.
    pub region: String,
    /// Role of the broker's that may change the scopes' roles; absent: as it mints.
    pub role_arn: Option<String>,
}

pub(super) struct Iam {
    http: Http,
    host: String,
    url: String,
    region: String,
    role: Option<String>,
    /// Reads and writes of the policy do not mix.
    one: Mutex<()>,
}

/// Why IAM did not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It does not take the session for this, or not any more.
    Denied(&'static str),
    Other(&'static str),
}

impl Fault {
    fn why(self) -> &'static str {
        match self {
            Self::Denied(why) | Self::Other(why) => why,
        }
    }
}

impl Iam {
    pub(super) fn new(config: RevokeConfig, timeout: Duration) -> Result<Self, SetupError> {
        let url = config.endpoint.unwrap_or_else(|| "https://iam.amazonaws.com".into());
        let endpoint = Endpoint { url, ca_file: None, timeout };
        let http = Http::new(&endpoint, "sts: the endpoint of IAM is not an https URL")?;
        if config.role_arn.as_ref().is_some_and(|arn| role(arn).is_none()) {
            return Err(SetupError("sts: revoke.role_arn is not the ARN of one IAM role"));
        }
        let at = http.url(&[]);
        let host = match (at.host_str(), at.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => return Err(SetupError("sts: the endpoint of IAM names no host")),
        };
        let region = config.region;
        Ok(Self {
            http,
            host,
            url: at.to_string(),
            region,
            role: config.role_arn,
            one: Mutex::default(),
        })
    }

    /// One call of IAM's Query API; `None`: it knows nothing of that name.
    async fn call(
        &self,
        keys: &Credentials,
        now: Timestamp,
        form: &[(&str, &str)],
    ) -> Result<Option<String>, Fault> {
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .append_pair("Version", "2010-05-08")
            .finish();
        let unsigned = Fault::Other("the call to IAM could not be signed");
        let seconds = u64::try_from(now.seconds()).map_err(|_| unsigned)?;
        let identity = keys.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("iam")
            .time(UNIX_EPOCH + Duration::from_secs(seconds))
            .settings(SigningSettings::default())
            .build()
            .map_err(|_| unsigned)?
            .into();
        let kind = "application/x-www-form-urlencoded";
        let headers = [("host", self.host.as_str()), ("content-type", kind)];
        let signable = SignableRequest::new(
            "POST",
            self.url.as_str(),
            headers.into_iter(),
            SignableBody::Bytes(body.as_bytes()),
        )
        .map_err(|_| unsigned)?;
        let (instructions, _) = sign(signable, &params).map_err(|_| unsigned)?.into_parts();
        let mut request = self.http.post(&[]).header("content-type", kind);
        for (name, value) in instructions.headers() {
            request = request.header(name, value);
        }
        let answer = self.http.send(request.body(body)).await;
        let answer = answer.map_err(|_| Fault::Other("IAM did not answer"))?;
        let over = OVER.iter().any(|code| answer.text().contains(&format!("<Code>{code}")));
        match answer.status {
            200 => Ok(Some(answer.text().to_owned())),
            404 => Ok(None),
            400 | 401 | 403 if over => {
                Err(Fault::Denied("IAM does not take the broker's session any more"))
            }
            401 | 403 => {
                let why = "IAM does not let the broker change the role's inline policies";
                Err(Fault::Denied(why))
            }
            429 => Err(Fault::Other("IAM refused for load")),
            _ => Err(Fault::Other("IAM refused")),
        }
    }

    async fn read(&self, keys: &Credentials, now: Timestamp, name: &str) -> Result<Value, Fault> {
        let form = [("Action", "GetRolePolicy"), ("RoleName", name), ("PolicyName", POLICY_NAME)];
        let Some(xml) = self.call(keys, now, &form).await? else { return Ok(Value::Null) };
        let document = xml
            .split_once("<PolicyDocument>")
            .and_then(|(_, rest)| rest.split_once("</PolicyDocument>"))
            .map(|(document, _)| unescape(document));
        document
            .and_then(|text| serde_json::from_str(&text).ok())
            .ok_or(Fault::Other("IAM's answer is not of its form"))
    }
}

impl Iam {
    /// Puts a session into the role's policy, unless it is there, and sees that it is.
    async fn tell(
        &self,
        keys: &Credentials,
        now: Timestamp,
        name: &str,
        session: &str,
        ends: Timestamp,
    ) -> Result<(), Fault> {
        let _one = self.one.lock().await;
        let policy = self.read(keys, now, name).await?;
        if denies(&policy, session) {
            return Ok(());
        }
        let text = with_session(policy, session, ends, now).to_string();
        if text.len() > MAX_REVOKED {
            let why = "the role's list of ended sessions is full until some have ended";
            return Err(Fault::Other(why));
        }
        let form = [
            ("Action", "PutRolePolicy"),
            ("RoleName", name),
            ("PolicyName", POLICY_NAME),
            ("PolicyDocument", text.as_str()),
        ];
        if self.call(keys, now, &form).await?.is_none() {
            return Err(Fault::Other("IAM knows no such role"));
        }
        match denies(&self.read(keys, now, name).await?, session) {
            true => Ok(()),
            false => Err(Fault::Other("IAM took the policy, and does not have it")),
        }
    }
}

impl StsMinter {
    /// Tells the role to deny this lease's session, and looks that it does.
    pub(super) async fn deny(&self, iam: &Iam, lease: &Lease) -> Ended {
        let still = |why: &str| Ended {
            ended: false,
            effect: format!("not ended: {why}; it ends by itself at {}", lease.expires_at),
        };
        let facts = (lease.facts.get("role_arn"), lease.facts.get("role_session_name"));
        let (Some(arn), Some(session)) = facts else {
            return still("its role and session are not known");
        };
        let Some((_, name)) = role(arn) else { return still("its role is not known") };
        let keys = match self.revoker(iam.role.as_deref()).await {
            Ok(keys) => keys,
            Err(_) => return still("AWS gives the broker no session to revoke with"),
        };
        match iam.tell(&keys, self.clock.now(), name, session, lease.expires_at).await {
            Ok(()) => Ended {
                ended: true,
                effect: format!(
                    "the role `{name}` denies everything to the session, seen in its policy \
                     `{POLICY_NAME}`; AWS applies it within moments"
                ),
            },
            Err(fault) => {
                // The next try begins with another session: this one may be over, or of rights that changed.
                if matches!(fault, Fault::Denied(_)) {
                    self.standing.refused(&keys).await;
                }
                still(fault.why())
            }
        }
    }
}

fn statements(policy: &Value) -> Vec<Value> {
    match policy.get("Statement") {
        Some(Value::Array(statements)) => statements.clone(),
        Some(Value::Null) | None => Vec::new(),
        Some(one) => vec![one.clone()],
    }
}

fn sessions(statement: &Value) -> Vec<&str> {
    match statement.pointer(&format!("/Condition/StringEquals/{}", TAG.replace('/', "~1"))) {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(id)) => vec![id],
        _ => Vec::new(),
    }
}

fn denies(policy: &Value, session: &str) -> bool {
    statements(policy).iter().any(|s| {
        s.get("Effect").and_then(Value::as_str) == Some("Deny") && sessions(s).contains(&session)
    })
}

/// The hour by which what a statement denies has ended.
fn over(statement: &Value) -> Option<i64> {
    statement.get("Sid")?.as_str()?.strip_prefix("Until")?.parse().ok()
}

/// The policy with one session more, and without those that have ended by themselves.
fn with_session(policy: Value, session: &str, ends: Timestamp, now: Timestamp) -> Value {
    let until = (ends.seconds() / HOUR_S + 1) * HOUR_S;
    let mut kept: Vec<Value> = statements(&policy)
        .into_iter()
        .filter(|s| over(s).is_none_or(|hour| hour > now.seconds()))
        .collect();
    let same = kept.iter().position(|s| over(s) == Some(until));
    let mut ids: Vec<String> = Vec::new();
    if let Some(at) = same {
        ids.extend(sessions(&kept.remove(at)).into_iter().map(str::to_owned));
    }
    ids.push(session.to_owned());
    kept.push(json!({
        "Sid": format!("Until{until}"),
        "Effect": "Deny",
        "Action": "*",
        "Resource": "*",
        "Condition": { "StringEquals": { TAG: ids } },
    }));
    json!({ "Version": "2012-10-17", "Statement": kept })
}

fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| byte == b'%').and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_more_keeps_the_others_until_they_have_ended() {
        let at = |s: i64| Timestamp::from_millis(s * 1000);
        let one = with_session(Value::Null, "r-1", at(7000), at(6000));
        let two = with_session(one, "r-2", at(7100), at(6000));
        assert!(denies(&two, "r-1") && denies(&two, "r-2") && !denies(&two, "r-3"));
        assert_eq!(statements(&two).len(), 1, "one statement an hour");
        let later = with_session(two, "r-3", at(12_000), at(7201));
        assert!(!denies(&later, "r-1") && denies(&later, "r-3"));
        let by_hand = json!({ "Statement": { "Sid": "Keep", "Effect": "Deny" } });
        assert_eq!(statements(&with_session(by_hand, "r", at(0), at(0))).len(), 2);
    }

    #[test]
    fn documents_read_back() {
        assert_eq!(unescape("%7B%22a%22%3A%20%22%2A%C3%A9%22%7D"), "{\"a\": \"*é\"}");
        assert_eq!(unescape("100%"), "100%");
    }
}
