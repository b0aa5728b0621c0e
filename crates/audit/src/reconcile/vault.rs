//! Vault's (or OpenBao's) audit log: one entry a line, matched by the lease that a response names, or by the
//! token that a call was made with, or made: by its accessor, else by its metadata, where the broker names the
//! lease.
//!
//! Vault writes most values as an HMAC under a key of its own, accessors too unless the audit device has
//! `hmac_accessor = false`; lease ids, metadata and paths it writes as they are. What an account in a database
//! then did, its database tells, not Vault.

use std::borrow::Cow;

use grantwright_domain::Timestamp;
use grantwright_domain::text::{shorten, visible};
use serde::Deserialize;

use super::{CLOCK_MS, Known, Lease, Leases, Mismatch};

/// What an accessor begins with where Vault writes its HMAC.
const HASHED: &str = "hmac-";

#[derive(Debug, Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    /// Of the token that the call was made with.
    #[serde(borrow, default)]
    auth: Option<Auth<'a>>,
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
    /// Of the token that the call made.
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
    #[serde(borrow)]
    metadata: Option<Metadata<'a>>,
}

/// What the broker writes into the tokens that it makes.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata<'a> {
    #[serde(borrow)]
    lease: Option<Cow<'a, str>>,
}

impl Auth<'_> {
    /// The lease whose token it is.
    fn lease<'l>(&self, leases: &'l Leases) -> Option<&'l Lease> {
        match self.accessor.as_deref().filter(|a| !a.is_empty() && !a.starts_with(HASHED)) {
            Some(accessor) => leases.by_vault(accessor),
            None => self.names(leases),
        }
    }

    /// The lease that its metadata names: anybody who may make tokens can write that.
    fn names<'l>(&self, leases: &'l Leases) -> Option<&'l Lease> {
        leases.by_token(self.metadata.as_ref()?.lease.as_deref()?)
    }
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
    if entry.kind != "response" {
        known.unrelated += 1;
        return;
    }
    let request = entry.request.unwrap_or_default();
    let path = request.path.as_deref().unwrap_or_default();
    let call = visible(&format!("{} {path}", request.operation.as_deref().unwrap_or_default()));
    let allowed = entry.error.as_deref().is_none_or(str::is_empty);
    let response = entry.response.unwrap_or_default();
    let (with, made) = (entry.auth.unwrap_or_default(), response.auth.unwrap_or_default());
    let named = response.secret.unwrap_or_default().lease_id.filter(|id| !id.is_empty());
    let named = named.as_deref().unwrap_or_default();
    let ours = leases.by_vault(named);
    let strange = named.rsplit_once('/').map(|(path, _)| format!("{path}/"));
    let strange = strange.is_some_and(|path| leases.paths.contains(&path));
    let mut found = |rule: &str, lease: Option<&Lease>, detail: String| {
        known.found(Mismatch {
            rule: rule.into(),
            at,
            lease: lease.map(|l| l.id.clone()),
            request: lease.map(|l| l.request.clone()),
            event: visible(request.id.as_deref().unwrap_or(path)),
            detail,
        });
    };
    let lease = if let Some(lease) = ours {
        lease
    } else if strange {
        let shown = shorten(&visible(named), 200);
        let words = format!("Vault made the lease `{shown}`, which this log does not know");
        return found("never-minted", None, words);
    } else if let Some(lease) = made.lease(leases) {
        known.matched += 1;
        known.used.entry(lease.id.clone()).or_default().minted = true;
        return;
    } else if let Some(lease) = with.lease(leases) {
        lease
    } else if let Some(lease) = made.names(leases).or_else(|| with.names(leases)) {
        let words = format!("a token that names the lease `{}` is not the one of it", lease.id);
        return found("never-minted", Some(lease), words);
    } else {
        known.unrelated += 1;
        return;
    };
    if allowed && at.since(lease.until) > CLOCK_MS {
        let words = format!("{call} at {at}, and the lease lived until {}", lease.until);
        found("after-end", Some(lease), words);
    }
    known.call(lease, at, &call, allowed);
    if ours.is_some() {
        known.used.entry(lease.id.clone()).or_default().minted = true;
    }
}
