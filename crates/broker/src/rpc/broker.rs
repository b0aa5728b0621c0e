//! The calls of an enrolled sidecar.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use futures_util::Stream;
use grantwright_domain::event::{InstanceRenewed, InstanceRevoked};
use grantwright_domain::{Authority, Event, LeaseId, RequestId, Timestamp};
use grantwright_proof::{Checkpoint, verify_consistency};
use grantwright_store::{Head, LeaseFilter, StoreError, Transition};
use grantwright_wire::v1::broker_server::Broker as Service;
use grantwright_wire::v1::{
    AnswerRequest, AskRequest, AttendDown, AttendUp, CancelRequest, CollectRequest,
    ConsistencyReply, ConsistencyRequest, DelegateRequest, Delegation, DelegationsReply,
    DelegationsRequest, EndDelegationRequest, ExtendReply, ExtendRequest, NumberedAsk, Outcome,
    ReleaseReply, ReleaseRequest, RenewReply, RenewRequest, ScopesReply, ScopesRequest,
};
use grantwright_wire::{PeerInfo, Refusal};
use tonic::{Request, Response, Status, Streaming};

use super::access::caller;
use super::asks;
use super::delegations;
use super::enrolment::first_leaves;
use super::scopes::scopes;
use crate::ca::{Ca, CsrError, Signed};
use crate::core::{Broker, Caller, Place};
use crate::error::{no_such_request, of_store, refuse};
use crate::issue::deliver::MAX_REMEMBERED;
use crate::issue::{self, approve};
use crate::wake::Tidings;
use crate::{end, people};

/// The service.
pub struct BrokerService(pub Arc<Broker>);

type Downstream = Pin<Box<dyn Stream<Item = Result<AttendDown, Status>> + Send>>;

fn request_id(text: &str) -> Result<RequestId, Refusal> {
    RequestId::parse(text).map_err(|_| no_such_request())
}

#[tonic::async_trait]
impl Service for BrokerService {
    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        let caller = caller(&self.0, "grantwright.v1.Broker/Renew", &request)?;
        Ok(Response::new(renew(&self.0, &caller, &request.into_inner().csr_der).await?))
    }

    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<Outcome>, Status> {
        let (_, extensions, ask) = request.into_parts();
        let peer = extensions.get();
        let _at_work = peer.map(PeerInfo::at_work);
        Ok(Response::new(asks::ask(&self.0, peer, ask).await?))
    }

    type AsksStream = asks::Answers;

    async fn asks(
        &self,
        request: Request<Streaming<NumberedAsk>>,
    ) -> Result<Response<asks::Answers>, Status> {
        let caller = caller(&self.0, "grantwright.v1.Broker/Asks", &request)?;
        let place = self.0.stream(&caller.instance)?;
        let (_, extensions, asks) = request.into_parts();
        Ok(Response::new(asks::serve(Arc::clone(&self.0), extensions.get().cloned(), asks, place)))
    }

    async fn collect(&self, request: Request<CollectRequest>) -> Result<Response<Outcome>, Status> {
        let caller = caller(&self.0, "grantwright.v1.Broker/Collect", &request)?;
        let ask = request.into_inner();
        let id = request_id(&ask.request_id)?;
        Ok(Response::new(
            issue::collect(&self.0, &caller, &id, ask.wait_ms, ask.known_size, false).await?,
        ))
    }

    async fn answer(&self, request: Request<AnswerRequest>) -> Result<Response<Outcome>, Status> {
        let caller = caller(&self.0, "grantwright.v1.Broker/Answer", &request)?;
        let ask = request.into_inner();
        let loaded =
            people::answer(&self.0, &caller, &request_id(&ask.request_id)?, &ask.text).await?;
        Ok(Response::new(approve::pending(&self.0, &loaded.state, &loaded.texts)))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<Outcome>, Status> {
        let caller = caller(&self.0, "grantwright.v1.Broker/Cancel", &request)?;
        let loaded =
            people::cancel(&self.0, &caller, &request_id(&request.into_inner().request_id)?)
                .await?;
        Ok(Response::new(approve::ended_outcome(&loaded)))
    }

    async fn release(
        &self,
        request: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseReply>, Status> {
        let caller = caller(&self.0, "grantwright.v1.Broker/Release", &request)?;
        Ok(Response::new(release(&self.0, &caller, &request.into_inner()).await?))
    }

    async fn extend(
        &self,
        request: Request<ExtendRequest>,
    ) -> Result<Response<ExtendReply>, Status> {
        let caller = caller(&self.0, "grantwright.v1.Broker/Extend", &request)?;
        let ask = request.into_inner();
        let id = request_id(&ask.request_id)?;
        let held = Timestamp::from_millis(ask.held_until_ms);
        Ok(Response::new(Box::pin(end::extend::extend(&self.0, &caller, &id, held)).await?))
    }

    async fn scopes(
        &self,
        request: Request<ScopesRequest>,
    ) -> Result<Response<ScopesReply>, Status> {
        let caller = caller(&self.0, "grantwright.v1.Broker/Scopes", &request)?;
        Ok(Response::new(ScopesReply { scopes_json: scopes(&self.0, &caller.agent) }))
    }

    async fn delegate(
        &self,
        request: Request<DelegateRequest>,
    ) -> Result<Response<Delegation>, Status> {
        let caller = caller(&self.0, "grantwright.v1.Broker/Delegate", &request)?;
        Ok(Response::new(delegations::delegate(&self.0, &caller, request.into_inner()).await?))
    }

    async fn delegations(
        &self,
        request: Request<DelegationsRequest>,
    ) -> Result<Response<DelegationsReply>, Status> {
        let caller = caller(&self.0, "grantwright.v1.Broker/Delegations", &request)?;
        Ok(Response::new(delegations::list(&self.0, &caller)))
    }

    async fn end_delegation(
        &self,
        request: Request<EndDelegationRequest>,
    ) -> Result<Response<Delegation>, Status> {
        let caller = caller(&self.0, "grantwright.v1.Broker/EndDelegation", &request)?;
        let id = request.into_inner().delegation;
        Ok(Response::new(delegations::end(&self.0, &caller, &id).await?))
    }

    async fn consistency(
        &self,
        request: Request<ConsistencyRequest>,
    ) -> Result<Response<ConsistencyReply>, Status> {
        caller(&self.0, "grantwright.v1.Broker/Consistency", &request)?;
        let asked = request.into_inner();
        let mut reply = consistency(&self.0, &asked.kept).await?;
        if asked.first_leaf {
            show_first_leaf(&self.0, &mut reply).await?;
        }
        Ok(Response::new(reply))
    }

    type AttendStream = Downstream;

    async fn attend(
        &self,
        request: Request<Streaming<AttendUp>>,
    ) -> Result<Response<Downstream>, Status> {
        let caller = caller(&self.0, "grantwright.v1.Broker/Attend", &request)?;
        let place = self.0.stream(&caller.instance)?;
        Ok(Response::new(attend(Arc::clone(&self.0), caller, request.into_inner(), place)))
    }
}

/// One renewal per serial; a second one ends the lineage and alarms: a copied key shows itself.
async fn renew(broker: &Arc<Broker>, caller: &Caller, csr: &[u8]) -> Result<RenewReply, Refusal> {
    broker.consistent()?;
    let now = broker.now();
    let ca = Arc::clone(&broker.ca.read().unwrap_or_else(PoisonError::into_inner));
    let malformed = |e: CsrError| refuse(400, "malformed", e.to_string(), "update the sidecar");
    let authority = broker.authority();
    if let Some(instance) = authority.instances.get(&caller.instance) {
        // The serial before the present one, with the present one's key: its answer was lost.
        let before = instance.serials.len().checked_sub(2).and_then(|i| instance.serials.get(i));
        if before == Some(&caller.serial) && instance.not_after > now {
            let signed = ca.sign_again(csr, &caller.agent, instance, now).map_err(malformed)?;
            if signed.key == instance.key {
                return Ok(renewed(&ca, &signed));
            }
        }
    }
    let signed =
        ca.sign_agent(csr, &caller.agent, broker.random.bytes::<16>(), now).map_err(malformed)?;
    let event = Event::InstanceRenewed(InstanceRenewed {
        at: now,
        instance: caller.instance.clone(),
        old_serial: caller.serial.clone(),
        serial: signed.serial.clone(),
        key: signed.key,
        not_after: signed.not_after,
    });
    match broker.commit(Transition::authority(vec![event])).await {
        Ok(_) => Ok(renewed(&ca, &signed)),
        Err(StoreError::Violation(v)) if v.rule == "renew-once" => {
            tracing::error!(instance = %caller.instance, agent = %caller.agent, peer = %caller.peer,
                "ALARM: a renewed certificate was renewed again: its key may be copied; the lineage is revoked");
            let event = Event::InstanceRevoked(InstanceRevoked {
                at: broker.now(),
                by: "broker".into(),
                instance: caller.instance.clone(),
                reason: "a renewed certificate was renewed again".into(),
            });
            broker.commit(Transition::authority(vec![event])).await.map_err(of_store)?;
            end::end_agent(broker, &caller.agent, Some(&caller.instance), "broker").await?;
            Err(refuse(
                403,
                "revoked",
                "this certificate was renewed before, so its key may have been copied; the lineage is revoked",
                "an operator enrols the sidecar anew",
            ))
        }
        Err(e) => Err(of_store(e)),
    }
}

fn renewed(ca: &Ca, signed: &Signed) -> RenewReply {
    RenewReply {
        certificate_chain_der: signed.chain.iter().map(|c| c.to_vec()).collect(),
        trust_bundle_der: ca.roots().iter().map(|c| c.to_vec()).collect(),
        not_after_ms: signed.not_after.millis(),
    }
}

async fn release(
    broker: &Broker,
    caller: &Caller,
    ask: &ReleaseRequest,
) -> Result<ReleaseReply, Refusal> {
    let unknown = || refuse(404, "unknown_lease", "there is no such lease", "check the lease id");
    let id = if ask.request_id.is_empty() {
        let lease = LeaseId::parse(&ask.lease_id).map_err(|_| unknown())?;
        broker.store.lease(&lease).await.map_err(of_store)?.ok_or_else(unknown)?.request
    } else {
        request_id(&ask.request_id)?
    };
    let loaded = approve::load(broker, caller, &id).await.map_err(|_| unknown())?;
    if loaded.state.lease.is_none() {
        return Err(refuse(
            409,
            "not_granted",
            "nothing was issued for this request",
            "cancel it instead",
        )
        .request_id(id.as_str()));
    }
    let lease_id = loaded.state.lease.as_ref().map(|l| l.id.to_string()).ok_or_else(unknown)?;
    let ended = end::end_lease(broker, loaded.state, "agent").await?;
    Ok(ReleaseReply { lease_id, effect: ended.effect, ended: ended.ended })
}

/// Proves that the log extends what this sidecar kept. A checkpoint that this log signed and does
/// not extend stops everything that would append: the store was rolled back or forked.
pub(crate) async fn consistency(broker: &Broker, kept: &str) -> Result<ConsistencyReply, Refusal> {
    let head = broker.store.head();
    let authority = broker.authority();
    if kept.is_empty() {
        return newest(broker, &authority, &head).await;
    }
    let malformed = |what: &str| {
        refuse(400, "malformed", what.to_owned(), "show the checkpoint as it was signed")
    };
    let vkey = grantwright_proof::Vkey::parse(&authority.vkey).map_err(|_| {
        refuse(503, "internal", "the log's own key does not parse", "restore the keys")
    })?;
    let kept = match Checkpoint::open(kept, &vkey, &authority.origin) {
        Ok(kept) => kept,
        Err(_) if is_older(&authority, kept) => return newest(broker, &authority, &head).await,
        Err(_) => return Err(malformed("the checkpoint is not one of this log")),
    };
    let contradicts = || {
        broker.inconsistent.store(true, Ordering::Relaxed);
        tracing::error!(
            kept = kept.size(),
            size = head.size,
            "ALARM: a sidecar holds a checkpoint that this log signed and does not extend; nothing is issued"
        );
        refuse(
            503,
            "log_inconsistent",
            "this log signed a checkpoint that it does not extend",
            "restore the true store",
        )
    };
    if kept.size() > head.size {
        return Err(contradicts());
    }
    let newest = Checkpoint::open(&head.checkpoint, &vkey, &authority.origin).map_err(|_| {
        refuse(503, "internal", "the newest checkpoint does not verify", "restore the keys")
    })?;
    let proof = broker.store.consistency(kept.size(), head.size).await.map_err(of_store)?;
    if verify_consistency(kept.size(), kept.root(), newest.size(), newest.root(), &proof).is_err() {
        return Err(contradicts());
    }
    Ok(ConsistencyReply {
        checkpoint: head.checkpoint.to_string(),
        proof: proof.into_iter().map(|h| h.0.to_vec()).collect(),
        ..ConsistencyReply::default()
    })
}

/// The newest checkpoint for a sidecar that kept none of this log, with what leads here from older ones.
async fn newest(
    broker: &Broker,
    authority: &Authority,
    head: &Head,
) -> Result<ConsistencyReply, Refusal> {
    let epochs = first_leaves(authority);
    let inclusion = match epochs.is_empty() || head.size == 0 {
        true => Vec::new(),
        false => broker.store.inclusion(0, head.size).await.map_err(of_store)?,
    };
    Ok(ConsistencyReply {
        checkpoint: head.checkpoint.to_string(),
        proof: Vec::new(),
        epochs,
        first_leaf_inclusion: inclusion.into_iter().map(|h| h.0.to_vec()).collect(),
        ..ConsistencyReply::default()
    })
}

/// Adds the log's first leaf and the proof that it is, by the reply's own checkpoint.
async fn show_first_leaf(broker: &Broker, reply: &mut ConsistencyReply) -> Result<(), Refusal> {
    let size = reply.checkpoint.lines().nth(1).and_then(|size| size.parse::<u64>().ok());
    let first = broker.store.leaves(0, 1).await.map_err(of_store)?;
    let (Some(size), Some((_, leaf))) = (size.filter(|size| *size > 0), first.into_iter().next())
    else {
        return Ok(());
    };
    let inclusion = broker.store.inclusion(0, size).await.map_err(of_store)?;
    reply.first_leaf_inclusion = inclusion.into_iter().map(|h| h.0.to_vec()).collect();
    reply.first_leaf = leaf.to_vec();
    Ok(())
}

/// Whether a checkpoint is of an epoch before this log's. What it saw and the ceremony did not know is
/// lost, and said loudly.
fn is_older(authority: &Authority, kept: &str) -> bool {
    authority.epochs.iter().any(|epoch| {
        let Ok(key) = grantwright_proof::Vkey::parse(&epoch.old_vkey) else { return false };
        let Ok(kept) = Checkpoint::open(kept, &key, key.name()) else { return false };
        let named = Checkpoint::open(&epoch.old_checkpoint, &key, key.name());
        if named.is_ok_and(|named| named.size() < kept.size()) {
            tracing::error!(
                log = key.name(),
                kept = kept.size(),
                "ALARM: a sidecar saw leaves of the old log that the new epoch does not know"
            );
        }
        true
    })
}

/// Acknowledgements up, evictions down, for as long as the sidecar lives.
fn attend(
    broker: Arc<Broker>,
    caller: Caller,
    mut up: Streaming<AttendUp>,
    place: Place,
) -> Downstream {
    let (down, receiver) = tokio::sync::mpsc::channel(64);
    tokio::spawn(async move {
        let _place = place;
        let mut tidings = broker.wake.hear();
        // What ended while this sidecar was away; taken after it hears, so that nothing is missed.
        let ended = ended_early(&broker, &caller).await;
        if !ended.is_empty()
            && down
                .send(Ok(AttendDown { ended_leases: ended, ..AttendDown::default() }))
                .await
                .is_err()
        {
            return;
        }
        let (mut ticks, mut told) = (0u32, 0u64);
        let mut tick = tokio::time::interval(std::time::Duration::from_secs(1));
        loop {
            tokio::select! {
                message = up.message() => match message {
                    Ok(Some(up)) => acknowledge(&broker, &caller, &up.acknowledged),
                    _ => return,
                },
                heard = tidings.recv() => {
                    let message = match heard {
                        Ok(Tidings::Ended(agent, lease)) if agent == caller.agent => AttendDown {
                            ended_leases: vec![lease.to_string()], ..AttendDown::default()
                        },
                        Ok(Tidings::Revoked(agent)) if agent == caller.agent => {
                            let _ = down.send(Ok(AttendDown { revoked: true, ..AttendDown::default() })).await;
                            return;
                        }
                        Ok(_) => continue,
                        // Too slow to hear each: the sidecar connects again and starts afresh.
                        Err(_) => return,
                    };
                    if down.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
                // An instance whose right or certificate ended is told within a second.
                _ = tick.tick() => {
                    if !may_attend(&broker, &caller) {
                        let _ = down.send(Ok(AttendDown { revoked: true, ..AttendDown::default() })).await;
                        return;
                    }
                    // Spread over the sidecars, so that each keeps a recent checkpoint.
                    ticks += 1;
                    let head = broker.store.head();
                    if ticks % CHECKPOINT_TICKS == 0 && head.size != told {
                        told = head.size;
                        let checkpoint = head.checkpoint.to_string();
                        if down.send(Ok(AttendDown { checkpoint, ..AttendDown::default() })).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    });
    Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))
}

/// Seconds between the checkpoints that an attending sidecar is told.
const CHECKPOINT_TICKS: u32 = 10;

fn may_attend(broker: &Broker, caller: &Caller) -> bool {
    let authority = broker.authority();
    authority.instances.get(&caller.instance).is_some_and(|i| !i.revoked)
        && authority.agents.get(&caller.agent).is_some_and(|a| !a.revoked)
}

/// This instance's leases that ended early and would still live.
async fn ended_early(broker: &Broker, caller: &Caller) -> Vec<String> {
    let mut filter = LeaseFilter {
        agent: Some(caller.agent.clone()),
        ended_early: Some(broker.now()),
        ..LeaseFilter::default()
    };
    let mut out = Vec::new();
    while let Ok(page) = broker
        .store
        .leases(filter.clone())
        .await
        .inspect_err(|e| tracing::warn!(error = %e, "ended leases could not be read"))
    {
        let Some(last) = page.last() else { break };
        filter.before = Some(last.first_index);
        let mine = page.iter().filter(|l| l.instance == caller.instance);
        out.extend(mine.map(|l| l.id.to_string()));
    }
    out
}

fn acknowledge(broker: &Broker, caller: &Caller, requests: &[String]) {
    let now = broker.now();
    for id in requests.iter().take(1000).filter_map(|id| RequestId::parse(id).ok()) {
        let sealed_to_caller = {
            let mut sealed = broker.sealed.lock().unwrap_or_else(PoisonError::into_inner);
            let is = sealed.get(&id).is_some_and(|(instance, _)| *instance == caller.instance);
            if is {
                sealed.remove(&id);
            }
            is
        };
        if sealed_to_caller {
            // Kept a little longer when the writer is busy: its time ends it.
            if let Err(e) = broker.store.acknowledge(id.clone()) {
                tracing::warn!(request = %id, error = %e, "an acknowledgement waits for its time");
            }
        }
        let mut acknowledged = broker.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        // Its own bound for each instance: nobody's made-up ids push out another's.
        let mine = acknowledged.entry(caller.instance.clone()).or_default();
        if mine.len() < MAX_REMEMBERED {
            mine.insert(id, now);
        }
    }
}
