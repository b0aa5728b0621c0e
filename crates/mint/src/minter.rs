use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use grantwright_credential::{Credential, Kind};
use grantwright_domain::request::Lease;
use grantwright_domain::{Grant, LeaseId, Params, Scope, Timestamp};
use serde_json::Value;

use crate::{MintError, SignInput};

/// A boxed future, so that minters can be chosen by configuration.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What turns a grant into a credential.
///
/// *Permissions.* What is minted is a function of the grant's terms and its pinned template alone,
/// and is what [`Minter::preview`] showed for the same scope and parameters. Approvers stamp
/// identity tags, never permissions.
///
/// *Once.* A grant is moved in and makes at most one call to the backend. Nothing is repeated, by
/// no layer: no retries in an SDK, no redirect, no pooled connection that resends. A caller that
/// may hang up runs [`Minter::mint`] detached, since dropping its future loses the answer, not the
/// credential.
///
/// *Outcome.* [`MintError::Refused`] says that no usable credential came of it; where that is not
/// certain it is [`MintError::Unknown`]. An answer beyond the grant is refused and dropped.
///
/// *Time.* `now` is when the grant is spent. The credential ends no later than `now` plus the grant's
/// lifetime, on a whole second, so that an outcome recorded at `now` or later is within its terms.
///
/// *Secrets.* Only [`Minted::credential`] holds any; errors, facts and previews hold none, and no
/// parameter marked sensitive.
pub trait Minter: Send + Sync {
    /// Which backend it is: what can be said and checked of it without its configuration; constant.
    fn backend(&self) -> Backend;

    /// What this backend can do; constant.
    fn declaration(&self) -> Declaration {
        self.backend().declaration
    }

    /// What is wrong with a scope for this backend, each as a sentence: unknown keys of the template,
    /// slots that are not parameters or could act as patterns, anything that could express more than
    /// the parameters say. Asked when scopes are loaded; a scope with faults is not loaded.
    fn faults(&self, scope: &Scope) -> Vec<String> {
        (self.backend().faults)(scope)
    }

    /// What will be issued, for reviewers. Open parameters suffice; no call is made.
    ///
    /// # Errors
    /// When the template cannot be filled with these parameters: the mint would refuse as well.
    fn preview(&self, scope: &Scope, params: &Params) -> Result<Value, MintError> {
        (self.backend().preview)(scope, params)
    }

    /// Mints what was granted, once.
    ///
    /// # Errors
    /// Refused, or unknown; either way no credential comes with it.
    fn mint(&self, grant: Grant, now: Timestamp) -> BoxFuture<'_, Result<Minted, MintError>>;

    /// Ends a lease early where the backend can, and says what that did. It may be repeated.
    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Ended>;

    /// For how many seconds at a time credentials of this scope are made, and then extended, where its
    /// template says so; `None`: for the whole of their approved lifetime at once. The shorter the step,
    /// the sooner a credential ends that nobody uses any more.
    fn step_s(&self, _scope: &Scope) -> Option<u32> {
        None
    }

    /// Extends a lease in place, to `until` at the latest, and says until when it lives then, on a whole
    /// second. It may be repeated. The caller sees to it that `until` is within the approved lifetime,
    /// and has recorded it: after a lost answer the lease may live until then.
    ///
    /// # Errors
    /// Refused: it lives as long as before; `backend_wider`: longer than `until`, so it is to be ended.
    /// Unknown: it may live until `until`.
    fn renew<'a>(
        &'a self,
        _lease: &'a Lease,
        _until: Timestamp,
    ) -> BoxFuture<'a, Result<Timestamp, MintError>> {
        let name = self.declaration().name;
        let refused = MintError::refused("not_renewable", format!("{name} extends nothing"), "");
        Box::pin(std::future::ready(Err(refused)))
    }

    /// Ends what a mint made whose outcome was never recorded, where this backend finds that by its lease:
    /// asked after a crash between the intent and the outcome, with the open parameters. `None`: it cannot
    /// be found.
    fn undo<'a>(
        &'a self,
        lease: &'a LeaseId,
        scope: &'a Scope,
        params: &'a Params,
    ) -> BoxFuture<'a, Option<Ended>> {
        let _ = (lease, scope, params);
        Box::pin(std::future::ready(None))
    }

    /// Whether asks for this backend make sense at all: asked before a request is recorded, so that
    /// nobody is asked to approve what cannot be minted.
    ///
    /// # Errors
    /// The refusal that every mint would meet.
    fn ready(&self) -> Result<(), MintError> {
        Ok(())
    }

    /// Looks after what must outlive single grants: renews the broker's own token, sweeps what a crash
    /// left. Called again and again by the broker; says how long until the next time, `None`: never.
    fn keep(&self) -> BoxFuture<'_, Option<Duration>> {
        Box::pin(std::future::ready(None))
    }

    /// The way to mint without I/O, for built-in issuers: the signature may then be computed on a
    /// staged intent, and computed again for delivery.
    fn signer(&self) -> Option<&dyn Signer> {
        None
    }

    /// How credentials of this scope can be ended early; none: they cannot. As declared, unless the
    /// scope's template decides.
    fn revocable(&self, _scope: &Scope) -> Option<&'static str> {
        self.declaration().revocable
    }

    /// Whether a lease that could be ended early when it was made still can: with what was kept in memory,
    /// or with a right that the broker had, it may not.
    fn can_end(&self, _lease: &LeaseId) -> bool {
        true
    }

    /// The claims of a token that this issuer signed and that has not expired; whether it ended early
    /// is for the log to say. `None`: it is no such token.
    fn introspect(&self, _token: &str, _now: Timestamp) -> Option<Value> {
        None
    }

    /// What a built-in issuer publishes: its public keys, and the list of what ended early.
    fn publisher(&self) -> Option<&dyn Publisher> {
        None
    }
}

/// The documents of a built-in issuer that anyone may read. What ended early is told by the broker,
/// from the log: the issuer keeps nothing.
pub trait Publisher: Send + Sync {
    /// The document of this name, for example `ca.pub`; none: there is no such document. `ended` are
    /// the leases of this issuer that ended early and have not expired.
    ///
    /// # Errors
    /// When it cannot be signed.
    fn document(
        &self,
        name: &str,
        ended: &BTreeMap<LeaseId, EndedLease>,
        now: Timestamp,
    ) -> Result<Option<Document>, MintError>;
}

/// A lease that ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedLease {
    /// When it was ended.
    pub at: Timestamp,
    /// When it would have ended by itself: nothing is published of it after.
    pub expires_at: Timestamp,
    /// What its issuer stamped.
    pub facts: BTreeMap<String, String>,
}

/// A published document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Media type.
    pub content_type: &'static str,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Mints by computing alone; the same input gives the same claims at any time.
pub trait Signer: Send + Sync {
    /// Signs.
    ///
    /// # Errors
    /// Refused, when the pinned template does not fit this backend.
    fn sign(&self, input: &SignInput<'_>) -> Result<Minted, MintError>;
}

/// A minted credential and what may be said of it.
#[derive(Debug)]
pub struct Minted {
    /// The secret itself.
    pub credential: Credential,
    /// When it ends by itself: a whole second, within the grant's lifetime.
    pub expires_at: Timestamp,
    /// Whether [`Minter::revoke`] can end it.
    pub revocable: bool,
    /// What identifies it at the backend; goes into the log, so never a secret.
    pub facts: BTreeMap<String, String>,
}

/// What ending a lease did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The credential no longer works; seen, unless [`Declaration::measured`] says on whose word it is.
    pub ended: bool,
    /// The effect in plain words.
    pub effect: String,
}

/// What a backend can do: shown before anything is issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declaration {
    /// The backend in one word.
    pub name: &'static str,
    /// What it issues.
    pub credential: Kind,
    /// Shortest lifetime in seconds.
    pub ttl_floor_s: u32,
    /// Longest lifetime in seconds.
    pub ttl_ceiling_s: u32,
    /// How a credential can be ended early; none: it cannot.
    pub revocable: Option<&'static str>,
    /// Whether the effect of an early end is seen, and how; empty where there is none.
    pub measured: &'static str,
    /// A lease can be extended in place.
    pub renewable: bool,
    /// By what the credential is narrowed to the parameters.
    pub narrowing: &'static str,
    /// What is stamped into it for the backend's own trail.
    pub stamps: &'static [&'static str],
}

impl Declaration {
    /// Checks a lifetime in seconds against the bounds.
    ///
    /// # Errors
    /// `ttl_too_short` or `ttl_too_long`, naming the bound.
    pub fn admits_ttl(&self, ttl_s: u32) -> Result<(), MintError> {
        let (code, word, bound) = if ttl_s < self.ttl_floor_s {
            ("ttl_too_short", "shortest", self.ttl_floor_s)
        } else if ttl_s > self.ttl_ceiling_s {
            ("ttl_too_long", "longest", self.ttl_ceiling_s)
        } else {
            return Ok(());
        };
        let detail = format!("the {word} lifetime that {} can issue is {bound} s", self.name);
        Err(MintError::refused(code, detail, format!("{ttl_s} s were granted")))
    }

    /// Faults of a scope's lifetimes.
    pub(crate) fn ttl_faults(&self, scope: &Scope) -> Vec<String> {
        [("default_s", scope.ttl.default_s), ("max_s", scope.ttl.max_s)]
            .into_iter()
            .filter(|(_, ttl_s)| self.admits_ttl(*ttl_s).is_err())
            .map(|(key, ttl_s)| {
                format!(
                    "ttl.{key}: {ttl_s} s, but {} issues for {} s to {} s",
                    self.name, self.ttl_floor_s, self.ttl_ceiling_s
                )
            })
            .collect()
    }
}

/// A backend without its configuration: what can be said and checked before there is any.
#[derive(Debug, Clone, Copy)]
pub struct Backend {
    /// What it can do.
    pub declaration: Declaration,
    /// As [`Minter::faults`].
    pub faults: fn(&Scope) -> Vec<String>,
    /// As [`Minter::preview`].
    pub preview: fn(&Scope, &Params) -> Result<Value, MintError>,
}
