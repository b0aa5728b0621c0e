//! A credential in memory: what clients are given, until when, and what became of it.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use grantwright_credential::{Credential, Kind, Secret};
use grantwright_domain::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ask::Ask;

/// An ask without a key is given a cached credential only while more than this is left of it.
pub const GOOD_LIFE_MS: i64 = 60_000;

/// How far the replacement of a lease has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// Nobody asked yet; not again before this moment.
    Due(Timestamp),
    /// A call is under way.
    Asking,
    /// It waits for people, as this request; looked at last then.
    Open(String, Timestamp),
    /// It was refused: not asked again in this lease's life.
    Over,
}

/// A delivered and verified credential.
pub struct Lease {
    /// The request that issued it.
    pub request_id: String,
    /// Its lease.
    pub lease_id: String,
    /// When it was issued, as its leaf says.
    pub issued_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// The verdict needed people.
    pub people: bool,
    /// What was asked for it, where this sidecar asked.
    pub ask: Option<Arc<Ask>>,
    /// Until when it can be extended in place at most; none: it was made for its whole life.
    pub extends_until: Option<Timestamp>,
    /// The body of the 200 answer.
    pub body: Bytes,
    /// Where in it the credential begins.
    credential_at: usize,
    /// It is made in steps, also in its last one.
    in_steps: bool,
    /// When its present step began: at the issue, or when it was extended last.
    since: Timestamp,
    /// What the body says beside the credential.
    tail: Map<String, Value>,
    credential: Credential,
    aws: OnceLock<Option<Bytes>>,
    ended: AtomicBool,
    superseded: AtomicBool,
    not_extended: AtomicBool,
    last_use: AtomicI64,
    renewal: Mutex<Renewal>,
}

/// The parts of a [`Lease`] that come from the reply.
pub struct Delivered<'a> {
    /// See [`Lease::request_id`].
    pub request_id: &'a str,
    /// See [`Lease::lease_id`].
    pub lease_id: &'a str,
    /// See [`Lease::issued_at`].
    pub issued_at: Timestamp,
    /// See [`Lease::expires_at`].
    pub expires_at: Timestamp,
    /// See [`Lease::people`].
    pub people: bool,
    /// `{"leaf","proof"}`.
    pub receipt: &'a Value,
    /// What a reviewer narrowed; empty: nothing.
    pub narrowed: &'a str,
    /// The parameters as granted.
    pub params: Option<&'a Value>,
    /// It can be ended early.
    pub revocable: bool,
    /// See [`Lease::extends_until`].
    pub extends_until: Option<Timestamp>,
}

impl Lease {
    /// From what was delivered and verified.
    #[must_use]
    pub fn new(
        from: &Delivered<'_>,
        credential: Credential,
        ask: Option<Arc<Ask>>,
        now: Timestamp,
    ) -> Self {
        let tail = tail_of(from);
        let (body, credential_at) = granted_body(from.request_id, &credential, &tail);
        Self {
            request_id: from.request_id.to_owned(),
            lease_id: from.lease_id.to_owned(),
            issued_at: from.issued_at,
            expires_at: from.expires_at,
            people: from.people,
            ask,
            extends_until: from.extends_until,
            body,
            credential_at,
            in_steps: from.extends_until.is_some(),
            since: from.issued_at,
            tail,
            credential,
            aws: OnceLock::new(),
            ended: AtomicBool::new(false),
            superseded: AtomicBool::new(false),
            not_extended: AtomicBool::new(false),
            last_use: AtomicI64::new(now.millis()),
            renewal: Mutex::new(Renewal::Due(now)),
        }
    }

    /// The same credential, which lives until later: its next step begins `now`.
    #[must_use]
    pub fn extended(&self, expires_at: Timestamp, now: Timestamp) -> Option<Self> {
        let credential = Credential::from_json(self.credential.expose_json().to_vec()).ok()?;
        let mut tail = self.tail.clone();
        tail.insert("expires_at".into(), serde_json::json!(expires_at));
        let extends_until = self.extends_until.filter(|until| *until > expires_at);
        if extends_until.is_none() {
            tail.remove("extends_until");
        }
        let (body, credential_at) = granted_body(&self.request_id, &credential, &tail);
        Some(Self {
            request_id: self.request_id.clone(),
            lease_id: self.lease_id.clone(),
            issued_at: self.issued_at,
            expires_at,
            people: self.people,
            ask: self.ask.clone(),
            extends_until,
            body,
            credential_at,
            in_steps: self.in_steps,
            since: now,
            tail,
            credential,
            aws: OnceLock::new(),
            ended: AtomicBool::new(self.ended.load(Ordering::Relaxed)),
            superseded: AtomicBool::new(self.superseded.load(Ordering::Relaxed)),
            not_extended: AtomicBool::new(false),
            last_use: AtomicI64::new(self.last_use.load(Ordering::Relaxed)),
            renewal: Mutex::new(Renewal::Due(now)),
        })
    }

    /// The credential's JSON, where it lies in the body: it is wiped with it.
    pub fn credential_json(&self) -> Bytes {
        let end = self.credential_at + self.credential.expose_json().len();
        self.body.slice(self.credential_at..end)
    }

    /// What the body says beside the credential.
    pub fn tail(&self) -> &Map<String, Value> {
        &self.tail
    }

    /// It may be extended in place.
    pub fn can_extend(&self) -> bool {
        self.extends_until.is_some() && !self.not_extended.load(Ordering::Relaxed)
    }

    /// The broker did not extend it, and will not.
    pub fn is_not_extended(&self) {
        self.not_extended.store(true, Ordering::Relaxed);
    }

    /// The body that AWS SDKs want; `None` if this is no AWS credential.
    pub fn aws_body(&self) -> Option<Bytes> {
        self.aws.get_or_init(|| aws_body(&self.credential, self.expires_at)).clone()
    }

    /// Two thirds of its life are over from here on.
    pub fn renew_at(&self) -> Timestamp {
        self.since.plus_millis(self.life_ms() / 3 * 2)
    }

    fn life_ms(&self) -> i64 {
        self.expires_at.since(self.since).max(0)
    }

    /// Until when it may be given for a new ask without a key. One that is made in steps, and extended, may
    /// be short: of that the last third is kept.
    pub fn good_until(&self) -> Timestamp {
        let in_steps = self.in_steps && !self.not_extended.load(Ordering::Relaxed);
        let rest = if in_steps { self.life_ms() / 3 } else { GOOD_LIFE_MS };
        self.expires_at.plus_millis(-rest.min(GOOD_LIFE_MS))
    }

    /// True while it may be given for a new ask without a key.
    pub fn has_good_life(&self, now: Timestamp) -> bool {
        now < self.good_until()
    }

    /// True when it may be given at all: neither expired nor ended.
    pub fn is_live(&self, now: Timestamp) -> bool {
        now < self.expires_at && !self.ended.load(Ordering::Relaxed)
    }

    /// It ended early: never given again.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// A fresher one answers new asks; this one only repeats its own request's answer.
    pub fn supersede(&self) {
        self.superseded.store(true, Ordering::Relaxed);
    }

    /// See [`Lease::supersede`].
    pub fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Relaxed)
    }

    /// It was given for a new ask.
    pub fn touch(&self, now: Timestamp) {
        self.last_use.store(now.millis(), Ordering::Relaxed);
    }

    /// Given for a new ask within the last third of a life before its renewal is due.
    pub fn is_in_recent_use(&self) -> bool {
        let from = self.renew_at().plus_millis(-self.life_ms() / 3);
        self.last_use.load(Ordering::Relaxed) > from.millis()
    }

    /// Sets how far its replacement is, if `when` allows; returns what it was then.
    pub fn renewal_if(
        &self,
        when: impl FnOnce(&Renewal) -> bool,
        next: Renewal,
    ) -> Option<Renewal> {
        let mut now = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        when(&now).then(|| std::mem::replace(&mut *now, next))
    }

    /// Sets how far its replacement is.
    pub fn set_renewal(&self, next: Renewal) {
        *self.renewal.lock().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// Roughly what it costs in memory, in bytes.
    pub fn weight(&self) -> usize {
        let ask = self.ask.as_ref().map_or(0, |a| a.params_jcs.len() + a.reason.len());
        // The AWS form, when built, is shorter than the credential itself.
        2 * self.body.len() + 2 * self.credential.expose_json().len() + ask + 512
    }
}

/// Answer bytes that are wiped when the last response that holds them is sent.
struct Wiped(Secret<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

fn wiped(bytes: Vec<u8>) -> Bytes {
    Bytes::from_owner(Wiped(Secret::new(bytes)))
}

fn tail_of(from: &Delivered<'_>) -> Map<String, Value> {
    let mut tail = Map::new();
    tail.insert("expires_at".into(), serde_json::json!(from.expires_at));
    tail.insert("lease_id".into(), from.lease_id.into());
    tail.insert("receipt".into(), from.receipt.clone());
    tail.insert("revocable".into(), from.revocable.into());
    if let Some(until) = from.extends_until {
        tail.insert("extends_until".into(), serde_json::json!(until));
    }
    if !from.narrowed.is_empty() {
        tail.insert("narrowed".into(), from.narrowed.into());
    }
    if let Some(params) = from.params {
        tail.insert("params".into(), params.clone());
    }
    tail
}

/// The body, and where in it the credential begins.
fn granted_body(
    request_id: &str,
    credential: &Credential,
    tail: &Map<String, Value>,
) -> (Bytes, usize) {
    let head = format!(
        "{{\"state\":\"granted\",\"request_id\":{},\"credential\":",
        Value::from(request_id)
    );
    let tail = serde_json::to_string(tail).unwrap_or_default();
    let secret = credential.expose_json();
    // Whole room at once, so that no copy of the secret is left behind by growth.
    let mut body = Vec::with_capacity(head.len() + secret.len() + tail.len());
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(secret);
    body.push(b',');
    body.extend_from_slice(tail.get(1..).unwrap_or("}").as_bytes());
    (wiped(body), head.len())
}

/// As STS answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Sts<'a> {
    #[serde(borrow)]
    access_key_id: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    secret_access_key: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    session_token: std::borrow::Cow<'a, str>,
}

/// As AWS SDKs read it from a container endpoint.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Container<'a> {
    access_key_id: &'a str,
    secret_access_key: &'a str,
    token: &'a str,
    /// RFC 3339 UTC, whole seconds: some SDKs read no others.
    expiration: Timestamp,
}

fn aws_body(credential: &Credential, expires_at: Timestamp) -> Option<Bytes> {
    if credential.kind() != Kind::Sts {
        return None;
    }
    let json = credential.expose_json();
    let sts: Sts<'_> = serde_json::from_slice(json).ok()?;
    let container = Container {
        access_key_id: &sts.access_key_id,
        secret_access_key: &sts.secret_access_key,
        token: &sts.session_token,
        expiration: expires_at.whole_second(),
    };
    let mut body = Vec::with_capacity(json.len() + 64);
    serde_json::to_writer(&mut body, &container).ok()?;
    Some(wiped(body))
}
