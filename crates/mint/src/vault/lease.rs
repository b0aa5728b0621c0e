//! Leases at Vault: looked up, renewed to a length, revoked, with the effect seen.

use grantwright_domain::Timestamp;
use grantwright_domain::time::CLOCK_BOUND_MS;
use serde_json::json;

use super::VaultMinter;
use super::client::{Call, Connection, Envelope, Fault};
use crate::call::wider;
use crate::{Ended, MintError};

/// What a lookup saw.
pub(super) enum Seen {
    /// It is there; seconds it has left.
    There(i64),
    /// Vault knows no such lease.
    Gone,
}

impl VaultMinter {
    pub(super) async fn look_up(&self, lease: &str) -> Result<Seen, Fault> {
        let call = Call::post("sys/leases/lookup", json!({ "lease_id": lease }));
        match self.call(Connection::Kept, call).await {
            Ok(found) => Ok(Seen::There(found.number("ttl").unwrap_or(i64::MAX))),
            Err(Fault::Answered { status: 400 | 404, said }) if is_gone(&said) => Ok(Seen::Gone),
            Err(fault) => Err(fault),
        }
    }

    /// Sets what a lease has left to `seconds`, shorter or longer; Vault may give less.
    pub(super) async fn renew(&self, lease: &str, seconds: i64) -> Result<Envelope, Fault> {
        let body = json!({ "lease_id": lease, "increment": seconds });
        self.call(Connection::Kept, Call::post("sys/leases/renew", body)).await
    }

    /// Sets what a lease has left so that it ends at `until`; Vault gives less where the role's own bound
    /// is near, and that is the answer.
    pub(super) async fn extend(
        &self,
        lease: &str,
        until: Timestamp,
    ) -> Result<Timestamp, MintError> {
        // Vault counts from when it hears: after a slow call, which may have moved the end too far, it is
        // told the shorter.
        for _ in 0..2 {
            let seconds = until.since(self.clock.now()) / 1000;
            if seconds <= 0 {
                return Err(MintError::refused("too_late", "its time is over already", ""));
            }
            let answer = self.renew(lease, seconds).await.map_err(Fault::into_mint_error)?;
            let left = answer.lease_duration;
            if left > seconds {
                return Err(wider(format!("it lasts {left} s, {seconds} s were asked for")));
            }
            let ends = self.clock.now().plus_seconds(left);
            if ends.since(until) <= CLOCK_BOUND_MS {
                return Ok(ends.min(until).whole_second());
            }
        }
        Err(wider("Vault was so slow that the lease may end too late"))
    }

    /// Revokes and waits: without `sync`, Vault answers well before it has done anything. That the
    /// lease is gone is then looked up, not believed.
    pub(super) async fn end(&self, lease: &str, otherwise: &str) -> Ended {
        let body = json!({ "lease_id": lease, "sync": true });
        let revoked = self.call(Connection::Kept, Call::post("sys/leases/revoke", body)).await;
        let still =
            |effect: String| Ended { ended: false, effect: format!("{effect}; {otherwise}") };
        let seen = self.look_up(lease).await;
        match (revoked, seen) {
            (Ok(_), Ok(Seen::Gone)) => {
                Ended { ended: true, effect: "Vault revoked the lease and knows it no more".into() }
            }
            (Err(_), Ok(Seen::Gone)) => {
                Ended { ended: true, effect: "the lease is gone at Vault already".into() }
            }
            (Ok(_), Ok(Seen::There(left))) => {
                still(format!("Vault said it revoked the lease, which still has {left} s"))
            }
            (Err(fault), Ok(Seen::There(_))) => still(format!("not ended: {}", told(&fault))),
            (Ok(_), Err(fault)) => still(format!(
                "Vault said it revoked the lease, and a lookup to see that failed: {}",
                told(&fault)
            )),
            (Err(fault), Err(_)) => still(format!("not ended: {}", told(&fault))),
        }
    }
}

/// Chosen words for a fault: what Vault said is not for the log of the broker's evidence.
pub(super) fn told(fault: &Fault) -> &'static str {
    match fault {
        Fault::NeverSent(_) => "Vault cannot be reached",
        Fault::Lost(_) => "Vault's answer was lost",
        Fault::Answered { status: 401 | 403, .. } => "the broker's token may not end leases",
        Fault::Answered { status: 503, .. } => "Vault is sealed",
        Fault::Answered { .. } => "Vault could not end it",
    }
}

/// Vault's words for a lease that is not there, of `lookup` and of `renew`.
fn is_gone(said: &str) -> bool {
    said.contains("invalid lease") || said.contains("lease not found")
}
