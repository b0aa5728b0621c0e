//! Asking the broker, once for however many ask the same at the same time; and what a reply must
//! show before anyone is given a credential.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use grantwright_credential::{Credential, open, seal_info};
use grantwright_domain::{Digest, LeaseId, RequestId, Timestamp, canonical};
use grantwright_wire::Refusal;
use grantwright_wire::v1::{CollectRequest, Ended, Granted, Outcome, Pending, granted, outcome};
use tokio::sync::watch;

use crate::Sidecar;
use crate::ask::Ask;
use crate::lease::{Delivered, Lease};
use crate::remember::{Kept, log_inconsistent};

/// Where a request stands.
#[derive(Clone)]
pub(crate) enum Answer {
    Granted(Arc<Lease>),
    Pending(Arc<(String, Pending)>),
    Ended(Arc<(String, Ended)>),
}

pub(crate) type Fetched = Result<Answer, Arc<Refusal>>;

/// Turns that the other tasks have before an ask that waits for people is asked anew.
const TURNS: usize = 16;
/// Calls under way at the same time; more are refused.
const MOST_FLIGHTS: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum FlightKey {
    /// An ask without a key, by its identity.
    Ask(Digest),
    /// An ask under a client's key, by the digest of its body.
    Keyed(String, Digest),
    /// A look at a request: those of one second with the same patience are one.
    Collect(String, u32, i64),
}

/// Calls under way.
#[derive(Default)]
pub(crate) struct Flights(Mutex<HashMap<FlightKey, watch::Receiver<Option<Fetched>>>>);

/// Removes the flight however its task ends.
struct Landing(Arc<Sidecar>, FlightKey);

impl Drop for Landing {
    fn drop(&mut self) {
        self.0.flights.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl Sidecar {
    /// Asks, unless the same ask is under way: then waits for that. The call goes on when its
    /// waiters hang up, and its credential is then found in memory.
    pub(crate) async fn ask(self: &Arc<Self>, ask: &Arc<Ask>, renews: Option<&str>) -> Fetched {
        let key = match &ask.idempotency_key {
            Some(key) if renews.is_none() => FlightKey::Keyed(key.to_string(), ask.body_digest),
            _ => FlightKey::Ask(ask.identity),
        };
        let (sidecar, ask) = (Arc::clone(self), Arc::clone(ask));
        let renews = renews.map(ToOwned::to_owned);
        self.fly(key, || async move {
            let sent = sidecar.remember.kept();
            let size = sent.as_ref().map_or(0, |kept| kept.size);
            let request = ask.to_wire(&sidecar.workload, renews.as_deref(), size);
            sidecar.metrics.asked.add(1);
            let reply = sidecar.upstream.ask(request).await;
            let fetched = sidecar.settle(reply, sent.as_ref(), Some(&ask));
            let id = match &fetched {
                Ok(Answer::Granted(lease)) => Some(lease.request_id.as_str()),
                Ok(Answer::Pending(pending)) => Some(pending.0.as_str()),
                _ => None,
            };
            if let (Some(id), Some(key), None) = (id, &ask.idempotency_key, &renews) {
                sidecar.cache().bind_key(key.as_str(), ask.body_digest, id);
            }
            fetched
        })
        .await
    }

    /// Looks where a request stands, waiting up to `wait_ms` for a change; collects it if approved.
    pub(crate) async fn collect(self: &Arc<Self>, id: &RequestId, wait_ms: u32) -> Fetched {
        let key = FlightKey::Collect(id.to_string(), wait_ms, self.now().seconds());
        let (sidecar, request_id) = (Arc::clone(self), id.to_string());
        self.fly(key, || async move {
            let sent = sidecar.remember.kept();
            let known_size = sent.as_ref().map_or(0, |kept| kept.size);
            let ask = sidecar.cache().open_ask(&request_id);
            if sidecar.known_scopes().is_none() {
                // A credential may be for a key of ours, which is found by what scopes declare.
                let _ = sidecar.certain_scopes().await;
            }
            let request = CollectRequest { request_id, wait_ms, known_size };
            let reply = sidecar.upstream.collect(request).await;
            sidecar.settle(reply, sent.as_ref(), ask.as_ref())
        })
        .await
    }

    async fn fly<F: Future<Output = Fetched> + Send + 'static>(
        self: &Arc<Self>,
        key: FlightKey,
        call: impl FnOnce() -> F,
    ) -> Fetched {
        let mut landed = {
            let mut flights = self.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
            match flights.get(&key) {
                Some(landed) => landed.clone(),
                None if flights.len() >= MOST_FLIGHTS => return Err(Arc::new(busy())),
                None => {
                    let (report, landed) = watch::channel(None);
                    flights.insert(key.clone(), landed.clone());
                    let landing = Landing(Arc::clone(self), key);
                    // A large thing, which those who only wait do not carry.
                    let call = Box::pin(call());
                    tokio::spawn(async move {
                        let fetched = call.await;
                        if matches!(fetched, Ok(Answer::Pending(_))) {
                            // Asks that have arrived and were not read yet join this one.
                            for _ in 0..TURNS {
                                tokio::task::yield_now().await;
                            }
                        }
                        // Gone from the list first: whoever comes now looks into memory.
                        drop(landing);
                        let _ = report.send(Some(fetched));
                    });
                    landed
                }
            }
        };
        match landed.wait_for(Option::is_some).await {
            Ok(fetched) => fetched.clone().unwrap_or_else(|| Err(Arc::new(Refusal::broker_away()))),
            Err(_) => Err(Arc::new(Refusal::broker_away())),
        }
    }

    /// Turns a reply into an answer: nothing in it is believed that it does not show.
    pub(crate) fn settle(
        &self,
        reply: Result<Outcome, Box<Refusal>>,
        sent: Option<&Kept>,
        ask: Option<&Arc<Ask>>,
    ) -> Fetched {
        let outcome = reply.map_err(|refusal| {
            if refusal.code == "log_inconsistent" {
                self.remember.latch(&"the broker says so");
            }
            Arc::from(refusal)
        })?;
        let id = RequestId::parse(&outcome.request_id).map_err(|_| bad_reply("request id"))?;
        match outcome.state {
            Some(outcome::State::Granted(granted)) => {
                self.take(id.as_str(), granted, sent, ask).map(Answer::Granted)
            }
            Some(outcome::State::Pending(pending)) => {
                if let Some(ask) = ask {
                    self.cache().note_open(id.as_str(), ask);
                }
                Ok(Answer::Pending(Arc::new((outcome.request_id, pending))))
            }
            Some(outcome::State::Ended(ended)) => {
                let mut cache = self.cache();
                cache.close(id.as_str());
                cache.evict_request(id.as_str(), self.now());
                drop(cache);
                Ok(Answer::Ended(Arc::new((outcome.request_id, ended))))
            }
            None => Err(bad_reply("state")),
        }
    }

    /// Verifies, opens, keeps and acknowledges a credential.
    fn take(
        &self,
        request_id: &str,
        granted: Granted,
        sent: Option<&Kept>,
        ask: Option<&Arc<Ask>>,
    ) -> Result<Arc<Lease>, Arc<Refusal>> {
        let lease_id = LeaseId::parse(&granted.lease_id).map_err(|_| bad_reply("lease id"))?;
        let issued = self
            .remember
            .check_evidence(sent, granted.evidence.as_ref(), request_id, lease_id.as_str())
            .map_err(|error| {
                self.remember.latch(&error);
                Arc::new(log_inconsistent())
            })?;
        if self.remember.is_inconsistent() {
            return Err(Arc::new(log_inconsistent()));
        }
        let credential = match granted.delivery {
            Some(granted::Delivery::Plain(json)) => Credential::from_json(json),
            Some(granted::Delivery::Sealed(sealed)) => {
                let identity = self.identity();
                open(&identity.seal, &seal_info(request_id, &identity.instance), &sealed)
            }
            None => return Err(bad_reply("credential")),
        }
        .map_err(|error| {
            tracing::error!(%error, request_id, "a delivery is not usable and not acknowledged");
            bad_reply("credential")
        })?;
        let now = self.now();
        let expires_at = Timestamp::from_millis(granted.expires_at_ms);
        if expires_at <= now || self.has_ended(lease_id.as_str()) {
            let gone = Refusal::new(410, "lease_ended", "The credential has already ended.");
            let gone = gone.next("Ask again.").request_id(request_id).lease_id(lease_id.as_str());
            return Err(Arc::new(gone));
        }
        let params = canonical::parse(&granted.params_jcs).ok();
        let scope = ask.map(|ask| ask.scope.as_str());
        let credential = self.with_holder(credential, scope, params.as_ref());
        let delivered = Delivered {
            request_id,
            lease_id: lease_id.as_str(),
            issued_at: issued.at,
            expires_at,
            people: granted.people,
            receipt: &issued.receipt,
            narrowed: &granted.narrowed,
            params: params.as_ref(),
            revocable: granted.revocable,
            extends_until: Some(Timestamp::from_millis(granted.extends_until_ms))
                .filter(|until| *until > expires_at),
        };
        let lease = Arc::new(Lease::new(&delivered, credential, ask.cloned(), now));
        self.attendance.acknowledge(request_id, now);
        self.metrics.granted.add(1);
        Ok(self.cache().insert(lease, now))
    }
}

/// 429 `busy`.
pub(crate) fn busy() -> Refusal {
    Refusal::new(429, "busy", "Too many calls are under way at this sidecar.")
        .next("Try again shortly.")
        .retry_after_ms(1000)
}

fn bad_reply(part: &str) -> Arc<Refusal> {
    tracing::error!(part, "the broker's reply is not usable");
    Arc::new(
        Refusal::new(502, "bad_reply", "The broker's reply could not be used.")
            .detail("nothing was delivered; an unacknowledged credential is revoked by the broker")
            .next("Look at the sidecar's log."),
    )
}
