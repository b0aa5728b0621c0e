//! What the agent's calls do, whichever door they came in by: a door reads the call, this does it, and
//! the door writes the answer in its own words.

use std::sync::Arc;

use grantwright_domain::RequestId;
use grantwright_wire::Refusal;
use grantwright_wire::v1::{AnswerRequest, CancelRequest, ReleaseReply, ReleaseRequest};

use crate::Sidecar;
use crate::ask::Ask;
use crate::fetch::{Answer, Fetched};

use super::reply::ended;
use super::while_consistent;

/// Reads the ask; once more where the scope turns out to be declared otherwise than it was known.
pub(super) type Read<'a> = &'a (dyn Fn() -> Result<Ask, Box<Refusal>> + Send + Sync);

/// Granted or pending; a request that has ended is a refusal of the ask that met it.
pub(super) async fn ask(
    sidecar: &Arc<Sidecar>,
    read: Read<'_>,
) -> Result<(Arc<Ask>, Answer), Arc<Refusal>> {
    while_consistent(sidecar)?;
    let held = || read().and_then(|ask| sidecar.held(ask));
    let mut ask = Arc::new(held()?);
    let mut found = sidecar.lease_for(&ask);
    if found.is_none() {
        found = sidecar.extended_for(&ask).await;
    }
    if let Some(lease) = found {
        sidecar.metrics.from_memory.add(1);
        return Ok((ask, Answer::Granted(lease)));
    }
    let is_known = sidecar.knows(&ask.scope);
    let mut fetched = sidecar.ask(&ask, None).await;
    if fetched.as_ref().is_err_and(|it| it.code == "bad_params") {
        // Declared since the list was made, perhaps: what is missing may be a key of ours.
        let _ = match is_known {
            true => sidecar.certain_scopes().await,
            false => sidecar.refresh_scopes().await,
        };
        match held() {
            Ok(filled) if filled.identity != ask.identity => {
                ask = Arc::new(filled);
                fetched = sidecar.ask(&ask, None).await;
            }
            _ => {}
        }
    }
    match fetched {
        Ok(Answer::Ended(it)) => Err(Arc::new(ended(&it))),
        Ok(answer) => Ok((ask, answer)),
        // While no broker answers, a credential is given to its very end.
        Err(refusal) if refusal.code == "broker_away" => match sidecar.lease_to_the_end(&ask) {
            Some(lease) => Ok((ask, Answer::Granted(lease))),
            None => Err(refusal),
        },
        Err(refusal) => Err(refusal),
    }
}

/// Where the request stands; collects an approved one.
pub(super) async fn look(
    sidecar: &Arc<Sidecar>,
    id: &str,
    wait_ms: Result<u32, Box<Refusal>>,
) -> Fetched {
    while_consistent(sidecar)?;
    let (wait_ms, id) = (wait_ms?, request_id(id)?);
    let now = sidecar.now();
    let people = sidecar.serves_people(now);
    let kept = sidecar.cache().of_request(id.as_str(), now).filter(|it| people || !it.people);
    if let Some(lease) = kept {
        sidecar.metrics.from_memory.add(1);
        if lease.can_extend() {
            sidecar.used(&lease, now);
        }
        return Ok(Answer::Granted(lease));
    }
    sidecar.collect(&id, wait_ms).await
}

/// Answers a reviewer's question.
pub(super) async fn answer(
    sidecar: &Arc<Sidecar>,
    id: &str,
    text: Result<String, Box<Refusal>>,
) -> Fetched {
    while_consistent(sidecar)?;
    let (id, text) = (request_id(id)?, text?);
    let sent = sidecar.remember.kept();
    let ask = sidecar.cache().open_ask(id.as_str());
    let request = AnswerRequest { request_id: id.to_string(), text };
    let reply = sidecar.upstream.answer(request).await;
    sidecar.settle(reply, sent.as_ref(), ask.as_ref())
}

/// Ends a request that is still open.
pub(super) async fn cancel(sidecar: &Arc<Sidecar>, id: &str) -> Fetched {
    end(sidecar, &request_id(id)?).await
}

async fn end(sidecar: &Arc<Sidecar>, id: &RequestId) -> Fetched {
    let sent = sidecar.remember.kept();
    let ask = sidecar.cache().open_ask(id.as_str());
    let reply = sidecar.upstream.cancel(CancelRequest { request_id: id.to_string() }).await;
    sidecar.settle(reply, sent.as_ref(), ask.as_ref())
}

/// What a release did.
pub(super) enum Release {
    /// The lease ended, as far as its backend can end it.
    Released(ReleaseReply),
    /// There was none yet: the request as it now is.
    Cancelled(Answer),
}

/// Ends the lease that the request issued; a request that issued none yet is cancelled.
pub(super) async fn release(sidecar: &Arc<Sidecar>, id: &str) -> Result<Release, Arc<Refusal>> {
    let id = request_id(id)?;
    let lease_id = match sidecar.cache().of_request(id.as_str(), sidecar.now()) {
        Some(lease) => lease.lease_id.clone(),
        None => String::new(),
    };
    let request = ReleaseRequest { lease_id, request_id: id.to_string() };
    match sidecar.upstream.release(request).await {
        Ok(released) => {
            // Whatever the backend made of it: the client has no more use for it.
            sidecar.cache().evict_request(id.as_str(), sidecar.now());
            Ok(Release::Released(released))
        }
        Err(refusal) if refusal.code == "not_granted" => {
            end(sidecar, &id).await.map(Release::Cancelled)
        }
        Err(refusal) => Err(Arc::from(refusal)),
    }
}

/// What cannot be a request's id is none: 404, as for another agent's.
pub(super) fn request_id(text: &str) -> Result<RequestId, Box<Refusal>> {
    RequestId::parse(text).map_err(|_| {
        Box::new(
            Refusal::new(404, "unknown_request", "There is no such request.")
                .next("Check the id; requests of other agents cannot be seen."),
        )
    })
}
