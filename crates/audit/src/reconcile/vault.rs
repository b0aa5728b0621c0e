//! Vault's (or OpenBao's) audit log: one entry a line, matched by the lease that a response names.
//!
//! Vault writes most values as an HMAC under a key of its own; lease ids and paths it writes as they are.
//! What an account in a database then did, its database tells, not Vault.

use std::borrow::Cow;

use grantwright_domain::Timestamp;
use grantwright_domain::text::{shorten, visible};
use serde::Deserialize;

use super::{CLOCK_MS, Known, Leases, Mismatch};

#[derive(Debug, Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    request: Option<Request<'a>>,
    #[serde(borrow, default)]
    response: Option<Response<'a>>,
    #[serde(borrow, default)]
    error: Option<Cow<'a, str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Request<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    operation: Option<Cow<'a, str>>,
    #[serde(borrow)]
    path: Option<Cow<'a, str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Response<'a> {
    #[serde(borrow)]
    secret: Option<Secret<'a>>,
    #[serde(borrow)]
    auth: Option<Auth<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Secret<'a> {
    #[serde(borrow)]
    lease_id: Option<Cow<'a, str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Auth<'a> {
    #[serde(borrow)]
    accessor: Option<Cow<'a, str>>,
}

/// Reads one line. What is not an entry is counted and passed over.
pub fn read(line: &str, leases: &Leases, known: &mut Known) {
    let entry = serde_json::from_str::<Entry<'_>>(line).ok();
    let Some((entry, at)) = entry.and_then(|e| {
        // Vault writes nanoseconds.
        let at = Timestamp::parse(&e.time).ok()?;
        Some((e, at))
    }) else {
        known.malformed += 1;
        return;
    };
    known.seen(at);
    let request = entry.request.unwrap_or_default();
    let path = request.path.as_deref().unwrap_or_default();
    let response = entry.response.unwrap_or_default();
    let named = response.secret.unwrap_or_default().lease_id.filter(|id| !id.is_empty());
    let accessor = response.auth.unwrap_or_default().accessor.filter(|a| !a.is_empty());
    let Some(id) = named.or(accessor).filter(|_| entry.kind == "response") else {
        known.unrelated += 1;
        return;
    };
    let event = visible(request.id.as_deref().unwrap_or(path));
    if let Some(lease) = leases.by_vault(&id) {
        let allowed = entry.error.as_deref().is_none_or(str::is_empty);
        let operation = request.operation.as_deref().unwrap_or_default();
        known.call(lease, at, &visible(&format!("{operation} {path}")), allowed);
        known.used.entry(lease.id.clone()).or_default().minted = true;
        if (lease.from.since(at).abs() > CLOCK_MS) && at.since(lease.until) > CLOCK_MS {
            known.found(Mismatch {
                rule: "after-end".into(),
                at,
                lease: Some(lease.id.clone()),
                request: Some(lease.request.clone()),
                event,
                detail: format!("{operation} at {at}, and the lease lived until {}", lease.until),
            });
        }
        return;
    }
    let ours =
        id.rsplit_once('/').is_some_and(|(path, _)| leases.paths.contains(&format!("{path}/")));
    if !ours {
        known.unrelated += 1;
        return;
    }
    known.found(Mismatch {
        rule: "never-minted".into(),
        at,
        lease: None,
        request: None,
        event,
        detail: format!(
            "Vault made the lease `{}`, which this log does not know",
            shorten(&visible(&id), 200)
        ),
    });
}
