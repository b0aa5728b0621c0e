//! AWS CloudTrail: files of records, matched with leases of STS sessions.

use std::borrow::Cow;

use grantwright_domain::Timestamp;
use grantwright_domain::text::{shorten, visible};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::leases::role_of;
use super::{CLOCK_MS, Known, Lease, Leases, Mismatch};

/// A record, as much of it as is compared.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    #[serde(borrow)]
    event_time: Cow<'a, str>,
    #[serde(borrow)]
    event_source: Cow<'a, str>,
    #[serde(borrow)]
    event_name: Cow<'a, str>,
    #[serde(borrow, default)]
    user_identity: Option<Identity<'a>>,
    #[serde(borrow, default, rename = "eventID")]
    event_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    error_code: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    request_parameters: Option<&'a RawValue>,
    #[serde(borrow, default)]
    response_elements: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity<'a> {
    #[serde(borrow, default)]
    arn: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    access_key_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    session_context: Option<Context<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Context<'a> {
    #[serde(borrow, default)]
    source_identity: Option<Cow<'a, str>>,
}

/// What S3 calls name.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Parameters<'a> {
    #[serde(borrow)]
    bucket_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    prefix: Option<Cow<'a, str>>,
}

/// What names a session that is made.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Session<'a> {
    #[serde(borrow)]
    role_arn: Option<Cow<'a, str>>,
    #[serde(borrow)]
    role_session_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    source_identity: Option<Cow<'a, str>>,
    /// Where they came in the token of a web identity or in a SAML assertion.
    #[serde(borrow)]
    principal_tags: Option<Tags<'a>>,
    /// Where they came in the call.
    #[serde(borrow)]
    tags: Option<Vec<Tag<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Tag<'a> {
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    value: Option<Cow<'a, str>>,
}

impl Session<'_> {
    /// The request that its tags name.
    fn request(&self) -> Option<&str> {
        let own = self.tags.iter().flatten().find(|tag| tag.key.as_deref() == Some("request"));
        let own = own.and_then(|tag| tag.value.as_deref());
        own.or_else(|| self.principal_tags.as_ref()?.request.as_deref())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Tags<'a> {
    #[serde(borrow)]
    request: Option<Cow<'a, str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Elements<'a> {
    #[serde(borrow)]
    credentials: Option<Keys<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys<'a> {
    #[serde(borrow)]
    access_key_id: Option<Cow<'a, str>>,
}

/// The records of a delivered file: `{"Records": […]}`.
#[derive(Deserialize)]
struct Delivered<'a> {
    #[serde(borrow, rename = "Records")]
    records: Vec<&'a RawValue>,
}

/// Reads one delivered file, or one record of a file that holds one a line. What is not a record is counted
/// and passed over.
///
/// # Errors
/// When the bytes are no JSON at all.
pub fn read(json: &str, leases: &Leases, known: &mut Known) -> Result<(), String> {
    let broken = |e: serde_json::Error| format!("not CloudTrail's JSON: {e}");
    let start = json.trim_start();
    if start.starts_with('{') && start.get(..200).unwrap_or(start).contains("\"Records\"") {
        let delivered: Delivered<'_> = serde_json::from_str(json).map_err(broken)?;
        for record in delivered.records {
            one(record.get(), leases, known);
        }
        return Ok(());
    }
    let record: &RawValue = serde_json::from_str(json).map_err(broken)?;
    one(record.get(), leases, known);
    Ok(())
}

fn one(json: &str, leases: &Leases, known: &mut Known) {
    let record = serde_json::from_str::<Record<'_>>(json).ok();
    let Some((at, record)) = record.and_then(|r| Some((Timestamp::parse(&r.event_time).ok()?, r)))
    else {
        known.malformed += 1;
        return;
    };
    known.seen(at);
    if record.event_source == "sts.amazonaws.com" && record.event_name.starts_with("AssumeRole") {
        assumed(&record, at, leases, known);
    } else {
        called(&record, at, leases, known);
    }
}

/// A mint, as STS saw it.
fn assumed(r: &Record<'_>, at: Timestamp, leases: &Leases, known: &mut Known) {
    let Some(asked) = parsed::<Session<'_>>(r.request_parameters) else {
        known.malformed += 1;
        return;
    };
    let got: Elements<'_> = parsed(r.response_elements).unwrap_or_default();
    let key = got.credentials.unwrap_or_default().access_key_id;
    let by_key = key.as_deref().and_then(|key| leases.by_key(key));
    if let Some(lease) = by_key {
        known.matched += 1;
        known.used.entry(lease.id.clone()).or_default().minted = true;
        let said = asked.source_identity.as_deref();
        if said.is_some_and(|said| said != lease.agent.as_str()) {
            let words = format!("STS saw the source identity {}", shown(said.unwrap_or_default()));
            finding(known, r, at, "wrong-identity", Some(lease), words);
        }
        return;
    }
    if r.error_code.is_some() {
        known.unrelated += 1;
        return;
    }
    // A session under a name that only we give, with a key that we do not know.
    let name = asked.role_session_name.as_deref().unwrap_or_default();
    let ours = leases.by_session(name).or_else(|| leases.by_session(asked.request()?));
    let identity = asked.source_identity.as_deref().unwrap_or_default();
    let role = asked.role_arn.as_deref().and_then(role_name);
    let pretends = leases.agents.contains(identity)
        || ours.is_some()
        || role.is_some_and(|role| leases.roles.contains(&role));
    if !pretends {
        known.unrelated += 1;
        return;
    }
    let words = format!(
        "session {} of {} was made with a key that no lease of this log has",
        shown(name),
        shown(asked.role_arn.as_deref().unwrap_or_default())
    );
    finding(known, r, at, "never-minted", ours, words);
}

/// A call with a session's credentials.
fn called(r: &Record<'_>, at: Timestamp, leases: &Leases, known: &mut Known) {
    let Some(identity) = &r.user_identity else {
        known.unrelated += 1;
        return;
    };
    let arn = identity.arn.as_deref().unwrap_or_default();
    let session = arn.contains(":assumed-role/").then(|| arn.rsplit('/').next()).flatten();
    let said = identity.session_context.as_ref().and_then(|c| c.source_identity.as_deref());
    let key = identity.access_key_id.as_deref();
    let named = session.and_then(|name| leases.by_session(name));
    let lease = match key.and_then(|key| leases.by_key(key)) {
        Some(lease) => lease,
        None => {
            let ours = leases.agents.contains(said.unwrap_or_default())
                || named.is_some()
                || role_of(arn).is_some_and(|role| leases.roles.contains(&role));
            if !ours {
                known.unrelated += 1;
                return;
            }
            // Some services leave the key out; then name and identity must both agree.
            match named.filter(|l| key.is_none() && said == Some(l.agent.as_str())) {
                Some(lease) => lease,
                None => {
                    let words =
                        format!("{} was used, and no lease of this log has its key", shown(arn));
                    finding(known, r, at, "never-minted", named, words);
                    return;
                }
            }
        }
    };
    let allowed = r.error_code.is_none();
    let service = r.event_source.strip_suffix(".amazonaws.com").unwrap_or(&r.event_source);
    let call = visible(&format!("{service}:{}", r.event_name));
    known.call(lease, at, &call, allowed);
    if said.is_some_and(|said| said != lease.agent.as_str()) {
        let words =
            format!("the call bore the source identity {}", shown(said.unwrap_or_default()));
        finding(known, r, at, "wrong-identity", Some(lease), words);
    }
    let late = at.since(lease.until) > CLOCK_MS;
    if allowed && (late || lease.from.since(at) > CLOCK_MS) {
        let words = format!("{call} at {at}, and the lease lived until {}", lease.until);
        finding(known, r, at, "after-end", Some(lease), words);
    }
    if let Some(words) = outside(r, service, lease) {
        // What the backend refused was not used; it is counted among the refused calls.
        if allowed {
            finding(known, r, at, "outside", Some(lease), format!("{call}: {words}"));
        }
    }
}

/// In which way a call is outside what was approved.
fn outside(r: &Record<'_>, service: &str, lease: &Lease) -> Option<String> {
    let action = format!("{service}:{}", permission(service, &r.event_name)).to_ascii_lowercase();
    if !lease.actions.is_empty() && !lease.actions.contains(&action) {
        return Some(format!("{} is not among the actions of {}", shown(&action), lease.scope));
    }
    if service != "s3" {
        return None;
    }
    let Some(p) = parsed::<Parameters<'_>>(r.request_parameters) else {
        return Some("what it names cannot be read".into());
    };
    if let (Some(approved), Some(used)) = (lease.params.get("bucket"), p.bucket_name.as_deref())
        && approved != used
    {
        return Some(format!("bucket {}, approved {}", shown(used), shown(approved)));
    }
    let approved = lease.params.get("prefix")?;
    for used in [p.key.as_deref(), p.prefix.as_deref()].into_iter().flatten() {
        if !used.starts_with(approved.as_str()) {
            return Some(format!("{}, approved {}", shown(used), shown(approved)));
        }
    }
    None
}

/// The permission that a call needs, where it has another name.
fn permission<'n>(service: &str, call: &'n str) -> &'n str {
    match (service, call) {
        ("s3", "ListObjects" | "ListObjectsV2" | "HeadBucket") => "ListBucket",
        ("s3", "HeadObject") => "GetObject",
        (
            "s3",
            "CopyObject" | "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload",
        ) => "PutObject",
        ("s3", "DeleteObjects") => "DeleteObject",
        (_, other) => other,
    }
}

/// `account/role` of `arn:aws:iam::account:role/path/role`.
fn role_name(arn: &str) -> Option<String> {
    let mut parts = arn.splitn(6, ':').skip(4);
    let (account, resource) = (parts.next()?, parts.next()?);
    let role = resource.strip_prefix("role/")?.rsplit('/').next()?;
    Some(format!("{account}/{role}"))
}

/// What is compared of an object; none where it has another form.
fn parsed<'a, T: Deserialize<'a> + Default>(json: Option<&'a RawValue>) -> Option<T> {
    json.map_or_else(|| Some(T::default()), |json| serde_json::from_str(json.get()).ok())
}

fn shown(text: &str) -> String {
    format!("`{}`", shorten(&visible(text), 200))
}

fn finding(
    known: &mut Known,
    r: &Record<'_>,
    at: Timestamp,
    rule: &str,
    lease: Option<&Lease>,
    detail: String,
) {
    known.found(Mismatch {
        rule: rule.into(),
        at,
        lease: lease.map(|l| l.id.clone()),
        request: lease.map(|l| l.request.clone()),
        event: visible(r.event_id.as_deref().unwrap_or(&r.event_name)),
        detail,
    });
}
