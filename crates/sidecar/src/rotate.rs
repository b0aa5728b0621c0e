//! A new certificate at half life. If the old one ran out first, a new enrolment.

use std::sync::Arc;
use std::time::Duration;

use grantwright_domain::Timestamp;
use grantwright_wire::TrustDomain;

use crate::identity::{Certified, Identity};
use crate::upstream::transport;
use crate::{Sidecar, SidecarError, chance, enrol};

impl Sidecar {
    /// Keeps the certificate fresh; never returns.
    pub(crate) async fn keep_certified(self: Arc<Self>) {
        loop {
            let identity = self.identity();
            self.sleep_until(due(&identity)).await;
            let renewed = if identity.is_valid(self.now()) {
                self.rotate(&identity).await
            } else {
                enrol::enrol(&self.config, &self.state, Some(&identity), &*self.clock).await
            };
            match renewed.and_then(|identity| self.replace_identity(identity)) {
                Ok(()) => tracing::info!("certificate renewed"),
                Err(error) => {
                    tracing::warn!(%error, "the certificate is not renewed yet");
                    let wait_ms = 1000 + chance::below(4000);
                    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                }
            }
        }
    }

    async fn rotate(&self, identity: &Identity) -> Result<Identity, SidecarError> {
        let key = self.state.next_key(Some(identity))?;
        let reply = self.upstream.renew(key.csr_der.clone()).await.map_err(|refusal| {
            if refusal.status == 503 {
                return SidecarError::BrokerAway(refusal.title);
            }
            SidecarError::EnrolRefused {
                detail: format!("{} ({})", refusal.title, refusal.code),
                next: "look at the broker's log: a copied key may have renewed before",
            }
        })?;
        let certified = Certified {
            chain: reply.certificate_chain_der,
            bundle: reply.trust_bundle_der,
            not_after: Timestamp::from_millis(reply.not_after_ms),
        };
        let trust_domain = TrustDomain::parse(&self.config.trust_domain).map_err(transport)?;
        key.check(&certified, &trust_domain)?;
        let Identity { agent, instance, log_vkey, .. } = identity;
        self.state.adopt(key, certified, agent, instance, log_vkey, self.now())
    }

    /// In short steps: a clock may be set while we sleep, and a laptop may too.
    async fn sleep_until(&self, due: Timestamp) {
        loop {
            let left = due.since(self.now());
            if left <= 0 {
                return;
            }
            let step = u64::try_from(left.min(5_000)).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(step)).await;
        }
    }
}

/// Half of the certificate's life, and up to a tenth more.
fn due(identity: &Identity) -> Timestamp {
    let life = identity.not_after.since(identity.obtained).max(0);
    let jitter = i64::try_from(chance::below(life.unsigned_abs() / 10)).unwrap_or(0);
    identity.obtained.plus_millis(life / 2 + jitter)
}
