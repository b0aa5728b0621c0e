use grantwright_domain::request::Lease;
use grantwright_domain::{Grant, LeaseId, Timestamp};

use crate::{Backend, BoxFuture, Ended, MintError, Minted, Minter};

/// A backend that is declared but not configured: its scopes load, are checked and shown as ever, and
/// every mint is refused with the reason.
pub struct Unconfigured {
    backend: Backend,
    reason: String,
}

impl Unconfigured {
    /// `reason` is public: what is missing, for example `AWS_ENDPOINT_URL_STS is not set`.
    #[must_use]
    pub fn new(backend: Backend, reason: impl Into<String>) -> Self {
        Self { backend, reason: reason.into() }
    }

    /// The refusal that every mint is given; may also be given before anybody is asked.
    #[must_use]
    pub fn refusal(&self) -> MintError {
        unconfigured(self.backend.declaration.name, &self.reason)
    }
}

impl Minter for Unconfigured {
    fn backend(&self) -> Backend {
        self.backend
    }

    fn ready(&self) -> Result<(), MintError> {
        Err(self.refusal())
    }

    fn mint(&self, _grant: Grant, _now: Timestamp) -> BoxFuture<'_, Result<Minted, MintError>> {
        Box::pin(std::future::ready(Err(self.refusal())))
    }

    fn can_end(&self, _lease: &LeaseId) -> bool {
        false
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Ended> {
        let effect = format!(
            "not ended: {} is not configured here ({}); it ends at {}",
            self.backend.declaration.name, self.reason, lease.expires_at
        );
        Box::pin(std::future::ready(Ended { ended: false, effect }))
    }
}

fn unconfigured(name: &str, reason: &str) -> MintError {
    let detail = format!("the backend {name} is not configured here: {reason}");
    MintError::refused("backend_unconfigured", detail.as_str(), &detail)
}
