//! A fresh credential before the old one ends. One that policy alone allows is renewed in the
//! background; one that needed people is asked for again only by a call, once, and never silently.
//!
//! One that its backend makes in steps is extended in place first, within what was approved: that is the
//! same credential, so it needs nobody.

use std::sync::Arc;
use std::time::Duration;

use grantwright_domain::{RequestId, Timestamp};
use grantwright_wire::v1::ExtendRequest;

use crate::fetch::Answer;
use crate::lease::{Lease, Renewal};
use crate::{Sidecar, chance};

/// How often the background looks for what is due.
const TICK: Duration = Duration::from_millis(500);
/// How often a call looks whether people have decided on a renewal meanwhile.
const LOOK_MS: i64 = 10_000;
/// After no broker answered.
const AGAIN_MS: i64 = 5_000;

impl Sidecar {
    /// Renews what is in recent use and allowed without people, at two thirds of its life.
    pub(crate) async fn keep_renewed(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TICK).await;
            let now = self.now();
            let due = self.due(now);
            for lease in due {
                if let Some(was) = lease.renewal_if(|it| is_due(it, now), Renewal::Asking) {
                    tokio::spawn(Arc::clone(&self).renew(lease, was));
                }
            }
        }
    }

    fn due(&self, now: Timestamp) -> Vec<Arc<Lease>> {
        let mut cache = self.cache();
        cache.sweep(now);
        let is_due = |lease: &&Arc<Lease>| {
            (!lease.people || lease.can_extend())
                && now >= lease.renew_at()
                && lease.is_in_recent_use()
        };
        cache.current().filter(is_due).cloned().collect()
    }

    /// A call was just answered with this lease: if it needed people and nears its end, asks for the
    /// next one while this one still serves.
    pub(crate) fn consider_renewal(self: &Arc<Self>, lease: &Arc<Lease>, now: Timestamp) {
        let asked = lease.ask.is_some() || lease.can_extend();
        if now < lease.renew_at() || lease.is_superseded() || !asked {
            return;
        }
        let when = |it: &Renewal| match it {
            Renewal::Due(_) => (lease.people || lease.can_extend()) && is_due(it, now),
            Renewal::Open(_, looked) => now.since(*looked) >= LOOK_MS,
            Renewal::Asking | Renewal::Over => false,
        };
        if let Some(was) = lease.renewal_if(when, Renewal::Asking) {
            tokio::spawn(Arc::clone(self).renew(Arc::clone(lease), was));
        }
    }

    /// Asks for the next lease, or looks at the ask that waits for people. A credential that comes
    /// of it takes the old one's place in memory.
    pub(crate) async fn renew(self: Arc<Self>, lease: Arc<Lease>, was: Renewal) {
        if lease.can_extend() {
            let next = self.extend(&lease).await;
            if next != Renewal::Asking {
                lease.set_renewal(next);
                return;
            }
            if lease.people {
                // Asked for again by a call, not from here.
                lease.set_renewal(Renewal::Due(self.now()));
                return;
            }
        }
        let open = match &was {
            Renewal::Open(id, _) => RequestId::parse(id).ok(),
            _ => None,
        };
        let fetched = match (&open, &lease.ask) {
            (Some(id), _) => self.collect(id, 0).await,
            (None, Some(ask)) => {
                self.metrics.renewed.add(1);
                self.ask(ask, Some(&lease.lease_id)).await
            }
            (None, None) => return,
        };
        let now = self.now();
        lease.set_renewal(match fetched {
            Ok(Answer::Granted(_) | Answer::Ended(_)) => Renewal::Over,
            Ok(Answer::Pending(pending)) => Renewal::Open(pending.0.clone(), now),
            Err(refusal) if matches!(refusal.status, 429 | 503) => match open {
                Some(id) => Renewal::Open(id.to_string(), now),
                None => {
                    let jitter = i64::try_from(chance::below(AGAIN_MS.unsigned_abs()));
                    Renewal::Due(now.plus_millis(AGAIN_MS + jitter.unwrap_or(0)))
                }
            },
            Err(refusal) => {
                tracing::warn!(code = refusal.code, lease = lease.lease_id, "not renewed");
                Renewal::Over
            }
        });
    }
}

impl Sidecar {
    /// Extends a lease in place: over then, since another took its place. [`Renewal::Asking`]: it cannot
    /// be, so a fresh one is to be asked for.
    async fn extend(&self, lease: &Arc<Lease>) -> Renewal {
        let reply = self
            .upstream
            .extend(ExtendRequest {
                request_id: lease.request_id.clone(),
                held_until_ms: lease.expires_at.millis(),
            })
            .await;
        let now = self.now();
        match reply {
            Ok(reply) => {
                let until = Timestamp::from_millis(reply.expires_at_ms);
                // No later than it may be, whatever the reply says.
                let until = lease.extends_until.map_or(until, |latest| until.min(latest));
                let next = (until > lease.expires_at).then(|| lease.extended(until, now)).flatten();
                match next {
                    Some(next) => {
                        self.metrics.renewed.add(1);
                        self.cache().replace(lease, next);
                        Renewal::Over
                    }
                    None => Renewal::Due(now.plus_millis(pause_ms(lease, now))),
                }
            }
            // Perhaps it was: asked again, the broker says until when.
            Err(refusal) if matches!(refusal.status, 429 | 503) => {
                let pause = pause_ms(lease, now);
                let jitter = i64::try_from(chance::below(pause.unsigned_abs())).unwrap_or(0);
                Renewal::Due(now.plus_millis(pause + jitter))
            }
            Err(refusal) => {
                tracing::warn!(code = refusal.code, lease = lease.lease_id, "not extended");
                lease.is_not_extended();
                Renewal::Asking
            }
        }
    }
}

/// Short steps leave little time to ask again.
fn pause_ms(lease: &Lease, now: Timestamp) -> i64 {
    (lease.expires_at.since(now) / 4).clamp(200, AGAIN_MS)
}

pub(crate) fn is_due(renewal: &Renewal, now: Timestamp) -> bool {
    matches!(renewal, Renewal::Due(at) if now >= *at)
}
