//! Enrolment: a one-time join token and a certificate request become an instance.

use std::sync::{Arc, PoisonError};

use grantwright_credential::SealPublicKey;
use grantwright_domain::event::InstanceEnrolled;
use grantwright_domain::{AgentId, Authority, Digest, Event, InstanceId, Timestamp};
use grantwright_store::{StoreError, Transition};
use grantwright_wire::Refusal;
use grantwright_wire::v1::enrolment_server::Enrolment;
use grantwright_wire::v1::{EnrolReply, EnrolRequest};
use tonic::{Request, Response, Status};

use crate::ca::{Ca, CsrError, Signed};
use crate::core::Broker;
use crate::error::{of_store, refuse};

/// The service.
pub struct EnrolmentService(pub Arc<Broker>);

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolReply>, Status> {
        Ok(Response::new(enrol(&self.0, request.into_inner()).await?))
    }
}

async fn enrol(broker: &Broker, ask: EnrolRequest) -> Result<EnrolReply, Refusal> {
    broker.consistent()?;
    // One answer for unknown, spent and expired: a token's existence does not leak.
    let refused = || {
        refuse(
            401,
            "join_refused",
            "the join token is unknown, spent or expired",
            "an operator makes a new one with `grantwright agent join`",
        )
    };
    let authority = broker.authority();
    let now = broker.now();
    let hash = Digest::of("join-token", ask.join_token.as_bytes());
    let malformed =
        |detail: &str| refuse(400, "malformed", detail.to_owned(), "update the sidecar");
    let ca = Arc::clone(&broker.ca.read().unwrap_or_else(PoisonError::into_inner));
    if let Some(reply) = again(&ca, &authority, hash, &ask, now) {
        return reply.map_err(|e| malformed(&e.to_string()));
    }
    let join = authority
        .joins
        .get(&hash)
        .filter(|j| !j.spent && j.expires_at > now)
        .ok_or_else(refused)?;
    let seal_key = SealPublicKey::from_bytes(&ask.seal_public_key)
        .and_then(|k| k.check().map(|()| k))
        .map_err(|_| malformed("the sealing key is not a usable X25519 key"))?;
    let signed = ca
        .sign_agent(&ask.csr_der, &join.subject, broker.random.bytes::<16>(), now)
        .map_err(|e| malformed(&e.to_string()))?;
    let instance = InstanceId::parse(&broker.random.name("i-")).map_err(|_| refused())?;
    let event = Event::InstanceEnrolled(InstanceEnrolled {
        at: now,
        join_id: join.id.clone(),
        agent: join.subject.clone(),
        instance: instance.clone(),
        serial: signed.serial.clone(),
        key: signed.key,
        seal_key: hex::encode(seal_key.to_bytes()),
        not_after: signed.not_after,
    });
    match broker.commit(Transition::authority(vec![event])).await {
        Ok(_) => {}
        // Another enrolment spent the token first.
        Err(StoreError::Violation(_)) => return Err(refused()),
        Err(e) => return Err(of_store(e)),
    }
    Ok(reply(&ca, &authority, signed, &join.subject, &instance))
}

/// The answer of an enrolment whose first answer was lost: the same token with the same key, while
/// its first certificate lives. A different key is refused like any spent token.
fn again(
    ca: &Ca,
    authority: &Authority,
    hash: Digest,
    ask: &EnrolRequest,
    now: Timestamp,
) -> Option<Result<EnrolReply, CsrError>> {
    let join = authority.joins.get(&hash).filter(|j| j.spent)?;
    let (id, instance) = authority.instances.iter().find(|(_, i)| {
        i.join_id == join.id && i.serials.len() == 1 && !i.revoked && i.not_after > now
    })?;
    if instance.seal_key != hex::encode(&ask.seal_public_key) {
        return None;
    }
    let signed = match ca.sign_again(&ask.csr_der, &instance.agent, instance, now) {
        Ok(signed) => signed,
        Err(e) => return Some(Err(e)),
    };
    (signed.key == instance.key).then(|| Ok(reply(ca, authority, signed, &instance.agent, id)))
}

fn reply(
    ca: &Ca,
    authority: &Authority,
    signed: Signed,
    agent: &AgentId,
    instance: &InstanceId,
) -> EnrolReply {
    EnrolReply {
        certificate_chain_der: signed.chain.iter().map(|c| c.to_vec()).collect(),
        trust_bundle_der: ca.roots().iter().map(|c| c.to_vec()).collect(),
        trust_domain: authority.trust_domain.clone(),
        agent: agent.to_string(),
        instance: instance.to_string(),
        log_vkey: authority.vkey.clone(),
        not_after_ms: signed.not_after.millis(),
        recovery_key: authority.recovery_key.clone(),
        epochs: first_leaves(authority),
    }
}

/// The first leaves of the logs since the first one, oldest first.
pub(crate) fn first_leaves(authority: &Authority) -> Vec<Vec<u8>> {
    authority.epochs.iter().filter_map(|epoch| epoch.to_leaf().ok()).collect()
}
