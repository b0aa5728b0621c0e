//! `POST /v1/credentials`.

use std::sync::Arc;

use grantwright_domain::Timestamp;
use grantwright_wire::Refusal;
use http::request::Parts;

use crate::Sidecar;
use crate::ask::{Ask, malformed};
use crate::fetch::Answer;
use crate::lease::{Lease, Renewal};
use crate::process::Caller;
use crate::renew::is_due;

use super::calls;
use super::reply::{Reply, problem, secret, standing};

/// The bytes that decide the answer: the mark of who asks, query, keys in the head, and body. They begin with a letter, so
/// that none is mistaken for an address; no part but the last can hold a zero byte.
pub(super) fn raw(caller: &Caller, head: &Parts, body: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(caller.mark.len() + 68 + body.len());
    raw.extend_from_slice(&caller.mark);
    raw.push(b'P');
    if let Some(query) = head.uri.query() {
        raw.push(b'?');
        raw.extend_from_slice(query.as_bytes());
    }
    for key in head.headers.get_all("idempotency-key") {
        raw.push(b'\n');
        raw.extend_from_slice(key.as_bytes());
    }
    raw.push(0);
    raw.extend_from_slice(body);
    raw
}

pub(super) async fn post(
    sidecar: &Arc<Sidecar>,
    caller: &Caller,
    head: &Parts,
    body: &[u8],
    raw: &[u8],
) -> Reply {
    match calls::ask(sidecar, &|| read(sidecar, caller, head, body)).await {
        Ok((ask, Answer::Granted(lease))) => granted(sidecar, &ask, &lease, raw),
        Ok((_, other)) => standing(sidecar, Ok(other)),
        Err(refusal) => problem(sidecar, &refusal),
    }
}

fn read(
    sidecar: &Sidecar,
    caller: &Caller,
    head: &Parts,
    body: &[u8],
) -> Result<Ask, Box<Refusal>> {
    if head.uri.query().is_some() {
        return Err(malformed("this path takes no query"));
    }
    Ask::from_body(body, header_key(head)?, &sidecar.workload, caller)
}

/// The header `Idempotency-Key`.
pub(super) fn header_key(head: &Parts) -> Result<Option<&str>, Box<Refusal>> {
    let mut keys = head.headers.get_all("idempotency-key").iter();
    match (keys.next(), keys.next()) {
        (None, _) => Ok(None),
        (Some(key), None) => {
            key.to_str().map(Some).map_err(|_| malformed("`Idempotency-Key` is no plain text"))
        }
        _ => Err(malformed("`Idempotency-Key` is there twice")),
    }
}

fn granted(sidecar: &Arc<Sidecar>, ask: &Ask, lease: &Arc<Lease>, raw: &[u8]) -> Reply {
    // A person's token is not kept in memory just to be compared with.
    if ask.on_behalf_of.is_none() {
        let keyed = ask.idempotency_key.is_some();
        sidecar.cache().remember_raw(raw, lease, &lease.body, keyed, sidecar.now());
    }
    secret(lease.body.clone())
}

impl Sidecar {
    /// The credential in memory that answers this ask: under a key, its own request's; without, an
    /// identical ask's, while it has good life.
    pub(super) fn lease_for(self: &Arc<Self>, ask: &Ask) -> Option<Arc<Lease>> {
        let now = self.now();
        let people = self.serves_people(now);
        let cache = self.cache();
        let lease = match &ask.idempotency_key {
            Some(key) => cache.of_key(key.as_str(), ask.body_digest, now),
            None => cache.lease(ask.identity, now).filter(|lease| lease.has_good_life(now)),
        };
        drop(cache);
        let lease = lease.filter(|lease| people || !lease.people)?;
        if ask.idempotency_key.is_none() || lease.can_extend() {
            self.used(&lease, now);
        }
        Some(lease)
    }

    /// A lease is in use: that is what has it renewed, and one that is made in steps extended.
    pub(super) fn used(self: &Arc<Self>, lease: &Arc<Lease>, now: Timestamp) {
        lease.touch(now);
        self.consider_renewal(lease, now);
    }

    /// The credential in memory that answers an ask without a key once it is extended: one that is made in
    /// steps, and whose present step nears its end.
    pub(super) async fn extended_for(self: &Arc<Self>, ask: &Ask) -> Option<Arc<Lease>> {
        let lease = self.lease_to_the_end(ask).filter(|lease| lease.can_extend())?;
        let now = self.now();
        lease.touch(now);
        if let Some(was) = lease.renewal_if(|it| is_due(it, now), Renewal::Asking) {
            // It goes on when the client hangs up.
            tokio::spawn(Arc::clone(self).renew(lease, was)).await.ok()?;
        }
        let now = self.now();
        self.lease_to_the_end(ask).filter(|lease| lease.has_good_life(now) || lease.can_extend())
    }

    /// The credential in memory that answers an ask without a key, however little life it has left.
    pub(super) fn lease_to_the_end(&self, ask: &Ask) -> Option<Arc<Lease>> {
        if ask.idempotency_key.is_some() {
            return None;
        }
        let now = self.now();
        let people = self.serves_people(now);
        self.cache().lease(ask.identity, now).filter(|lease| people || !lease.people)
    }
}
