//! Stage 7: lease and leaf "issued" durable, then the reply. Not written: revoked, not delivered.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use grantwright_credential::{Credential, SealPublicKey, seal, seal_info};
use grantwright_domain::event::Issued;
use grantwright_domain::request::Lease;
use grantwright_domain::text::{shorten, visible};
use grantwright_domain::{
    Authority, Event, InstanceId, RequestId, RequestState, Terms, VerdictKind,
};
use grantwright_mint::SignInput;
use grantwright_store::{Evidence, Loaded, Sealed, StoreError};
use grantwright_wire::Refusal;
use grantwright_wire::v1::{self, Granted, Outcome, granted::Delivery, outcome};

use super::mint::{Minted, commit_staged};
use crate::core::Broker;
use crate::error::{of_store, of_violation, refuse};

/// How long an unacknowledged credential is delivered again: two minutes.
pub const REDELIVER_MS: i64 = 120_000;
/// Most deliveries remembered at a time.
pub const MAX_REMEMBERED: usize = 50_000;

/// Delivers a minted credential.
///
/// # Errors
/// When it could not be made durable; it is then revoked where possible and never delivered.
pub async fn deliver(broker: &Broker, minted: Minted, known_size: u64) -> Result<Outcome, Refusal> {
    let (mut staged, lease_id, made, minter) = minted.into_parts();
    let built_in = minter.signer().is_some();
    let at = if built_in { staged.at } else { broker.now().max(staged.state().last_at) };
    let id = staged.state().terms.request_id.clone();
    let issued = Issued {
        at,
        digest: staged.state().digest,
        request_id: id.clone(),
        lease_id: lease_id.clone(),
        expires_at: made.expires_at,
        revocable: made.revocable,
        facts: made.facts,
    };
    // What is ended at its backend, should it not become durable.
    let lease = (!built_in).then(|| Lease {
        id: lease_id,
        issued_at: at,
        expires_at: issued.expires_at,
        revocable: issued.revocable,
        state: grantwright_domain::request::LeaseState::Live,
        effect: String::new(),
        facts: issued.facts.clone(),
    });
    let to = staged.caller.instance.clone();
    let (decided_under, peer) = (Arc::clone(staged.authority()), staged.caller.peer.to_string());
    let written = async {
        staged.push(Event::Issued(issued))?;
        staged.known_size = known_size;
        let instance = staged.caller.instance.clone();
        let delivery =
            delivery(staged.authority(), staged.state(), &instance, &made.credential, built_in)?;
        let sealed = match &delivery {
            Delivery::Sealed(bytes) => {
                Some(Sealed { instance, bytes: bytes.clone(), until: at.plus_millis(REDELIVER_MS) })
            }
            Delivery::Plain(_) => None,
        };
        let committed = match commit_staged(broker, staged, sealed, true).await {
            Ok(committed) => committed,
            // The same key was answered a moment ago: this signature is dropped.
            Err(StoreError::KeyTaken { .. }) => {
                return Err(refuse(
                    409,
                    "changed_meanwhile",
                    "the same ask is being answered at this moment",
                    "ask again with the same key",
                ));
            }
            Err(e) => return Err(of_store(e)),
        };
        Ok((delivery, committed))
    };
    match written.await {
        Ok((delivery, committed)) => {
            broker.counts.issued.fetch_add(1, Ordering::Relaxed);
            broker.wake.changed(&id);
            if !built_in {
                remember_sealed(broker, &id, &to);
            }
            let state = committed.state.ok_or_else(|| {
                refuse(
                    503,
                    "internal",
                    "the request was not returned",
                    "ask again with the same key",
                )
            })?;
            // Revoked while the backend was at work: recorded, ended, and not delivered.
            if let Err(refusal) = still_lives(broker, &state) {
                Box::pin(crate::end::end_lease(broker, *state, "broker")).await?;
                return Err(refusal);
            }
            // So is what policy would not grant any more: who looks at live leases when rights change has
            // not seen this one.
            if let Some(why) = lost_meanwhile(broker, &state, &decided_under, &peer)? {
                tracing::warn!(request = %id, why, "rights changed while the backend was at work");
                let ending = crate::end::end_lease_for(broker, *state, "broker", why);
                Box::pin(ending).await?;
                broker.counts.ended_with_rights.fetch_add(1, Ordering::Relaxed);
                return Err(refuse(
                    403,
                    "denied",
                    format!("{why}: that changed while the backend was at work, and what it made was ended"),
                    "ask anew: it is decided afresh",
                )
                .request_id(id.as_str()));
            }
            Ok(granted(broker, &state, delivery, committed.evidence.map(evidence)).await)
        }
        Err(refusal) => {
            if let Some(lease) = lease {
                let ended = minter.revoke(&lease).await;
                tracing::error!(request = %id, effect = ended.effect, "a credential could not be made durable and was not delivered");
            }
            Err(refusal.request_id(id.as_str()))
        }
    }
}

fn delivery(
    authority: &Authority,
    state: &RequestState,
    instance: &InstanceId,
    credential: &Credential,
    built_in: bool,
) -> Result<Delivery, Refusal> {
    if built_in {
        return Ok(Delivery::Plain(credential.expose_json().to_vec()));
    }
    let unsealable = || {
        refuse(
            503,
            "internal",
            "the credential could not be sealed to its sidecar",
            "enrol the sidecar again",
        )
    };
    let key =
        authority.instances.get(instance).map(|i| i.seal_key.clone()).ok_or_else(unsealable)?;
    let key = hex::decode(key)
        .ok()
        .and_then(|k| SealPublicKey::from_bytes(&k).ok())
        .ok_or_else(unsealable)?;
    let info = seal_info(state.terms.request_id.as_str(), instance.as_str());
    let sealed = seal(&key, &info, credential).map_err(|_| unsealable())?;
    Ok(Delivery::Sealed(sealed.into_bytes()))
}

/// Whether agent and instance may still be given a credential, at this moment.
fn still_lives(broker: &Broker, state: &RequestState) -> Result<(), Refusal> {
    let authority = broker.authority();
    let terms = &state.terms;
    let lives = authority.agents.get(&terms.agent).is_some_and(|a| !a.revoked)
        && authority.instances.get(&terms.instance).is_some_and(|i| !i.revoked);
    if let Some(id) = &terms.delegation_id {
        let known = authority.delegation(id, &terms.agent, broker.now());
        known.map_err(|v| of_violation(&v).request_id(terms.request_id.as_str()))?;
    }
    if lives {
        return Ok(());
    }
    Err(refuse(403, "revoked", "this sidecar's right has ended", "an operator enrols it anew")
        .request_id(terms.request_id.as_str()))
}

/// Why what was just issued would not be granted now; looked at only if what decides has changed since.
fn lost_meanwhile(
    broker: &Broker,
    state: &RequestState,
    decided_under: &Arc<Authority>,
    peer: &str,
) -> Result<Option<&'static str>, Refusal> {
    let authority = broker.authority();
    if Arc::ptr_eq(&authority, decided_under) {
        return Ok(None);
    }
    crate::end::rights::lost(broker, &authority, state, peer, broker.now())
        .map_err(|refusal| refusal.request_id(state.terms.request_id.as_str()))
}

/// Delivers an issued credential again to the sidecar that asked for it.
///
/// # Errors
/// 410 `already_issued` once it was acknowledged, two minutes passed, or its lease ended.
pub async fn redeliver(
    broker: &Broker,
    loaded: &Loaded,
    known_size: u64,
) -> Result<Outcome, Refusal> {
    let state = &loaded.state;
    let id = &state.terms.request_id;
    let gone = |lease: &Lease| {
        refuse(
            410,
            "already_issued",
            "the credential was delivered already",
            "ask anew, with a new key",
        )
        .request_id(id.as_str())
        .lease_id(lease.id.as_str())
    };
    let Some(lease) = &state.lease else {
        return Err(refuse(503, "internal", "the lease is missing", "ask anew"));
    };
    let now = broker.now();
    let live =
        lease.state == grantwright_domain::request::LeaseState::Live && lease.expires_at > now;
    let acknowledged = broker
        .acknowledged
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .get(&state.terms.instance)
        .is_some_and(|mine| mine.contains_key(id));
    if !live || acknowledged || now.since(lease.issued_at) > REDELIVER_MS {
        return Err(gone(lease));
    }
    still_lives(broker, state)?;
    let authority = broker.authority();
    let scope = authority
        .catalog
        .get(&state.terms.template)
        .ok_or_else(|| refuse(503, "internal", "the pinned template is missing", "ask anew"))?;
    let minter = broker.minter(scope)?;
    let delivery = match minter.signer() {
        Some(signer) => {
            let made = SignInput::issued(state, scope, &authority.trust_domain)
                .and_then(|input| signer.sign(&input))
                .map_err(|_| gone(lease))?;
            Delivery::Plain(made.credential.expose_json().to_vec())
        }
        None => {
            remember_sealed(broker, id, &state.terms.instance);
            let copy = broker.store.sealed(id, &state.terms.instance).await.map_err(of_store)?;
            Delivery::Sealed(copy.ok_or_else(|| gone(lease))?.bytes)
        }
    };
    let index = loaded.leaves.iter().rev().find(|(_, e)| matches!(e, Event::Issued(_)));
    let proof = match index {
        Some((index, event)) => prove(broker, *index, event, known_size).await?,
        None => return Err(gone(lease)),
    };
    Ok(granted(broker, state, delivery, Some(evidence(proof))).await)
}

/// Remembers to whom a sealed copy went: only that instance can acknowledge it.
fn remember_sealed(broker: &Broker, id: &RequestId, instance: &InstanceId) {
    let mut sealed = broker.sealed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // Without a place the copy is deleted when its time ends.
    if sealed.len() < MAX_REMEMBERED {
        sealed.insert(id.clone(), (instance.clone(), broker.now()));
    }
}

/// Evidence of a leaf that is in the log already.
async fn prove(
    broker: &Broker,
    index: u64,
    event: &Event,
    known_size: u64,
) -> Result<Evidence, Refusal> {
    let head = broker.store.head();
    let leaf = event
        .to_leaf()
        .map_err(|_| refuse(503, "internal", "the leaf cannot be written", "ask anew"))?;
    let inclusion = broker.store.inclusion(index, head.size).await.map_err(of_store)?;
    let consistency = match known_size {
        0 => Vec::new(),
        known => broker.store.consistency(known, head.size).await.map_err(of_store)?,
    };
    Ok(Evidence {
        leaf,
        index,
        inclusion,
        consistent_from: known_size,
        consistency,
        checkpoint: Arc::clone(&head.checkpoint),
    })
}

async fn granted(
    broker: &Broker,
    state: &RequestState,
    delivery: Delivery,
    evidence: Option<v1::Evidence>,
) -> Outcome {
    let lease = state.lease.as_ref();
    Outcome {
        request_id: state.terms.request_id.to_string(),
        state: Some(outcome::State::Granted(Granted {
            lease_id: lease.map(|l| l.id.to_string()).unwrap_or_default(),
            expires_at_ms: lease.map_or(0, |l| l.expires_at.millis()),
            delivery: Some(delivery),
            evidence,
            people: state.verdict.as_ref().is_some_and(|v| v.kind == VerdictKind::Ask),
            narrowed: match &state.original {
                Some(old) => Box::pin(narrowed(broker, state, old)).await,
                None => String::new(),
            },
            params_jcs: grantwright_domain::canonical::to_bytes(&state.terms.params)
                .unwrap_or_default(),
            revocable: lease.is_some_and(|l| l.revocable),
            extends_until_ms: crate::end::extend::latest(broker, state).map_or(0, |t| t.millis()),
        })),
    }
}

/// In plain words what a reviewer narrowed, and in theirs why.
async fn narrowed(broker: &Broker, state: &RequestState, old: &Terms) -> String {
    let new = &state.terms;
    let mut parts = Vec::new();
    if old.ttl_s != new.ttl_s {
        parts.push(format!("lifetime from {} s to {} s", old.ttl_s, new.ttl_s));
    }
    for (name, value) in &new.params {
        match old.params.get(name) {
            Some(before) if before != value => {
                parts.push(format!("{name} from {} to {}", before.text(), value.text()))
            }
            _ => {}
        }
    }
    let mut out = format!("a reviewer narrowed {}", parts.join(", "));
    // What the credential is does not hang on these words: without them it is delivered as well.
    let loaded = broker.store.load(&state.terms.request_id).await.ok().flatten();
    let why = loaded.as_ref().and_then(|loaded| {
        let last = loaded.leaves.iter().rposition(|(_, e)| matches!(e, Event::Narrowed(_)))?;
        let name = format!("narrowed:{last}");
        loaded.texts.iter().find(|t| t.name == name)
    });
    if let Some(why) = why {
        out.push_str(&format!(" (“{}”)", shorten(&visible(&why.text), 300)));
    }
    out
}

fn evidence(e: Evidence) -> v1::Evidence {
    let bytes =
        |hashes: Vec<grantwright_proof::Hash>| hashes.into_iter().map(|h| h.0.to_vec()).collect();
    v1::Evidence {
        leaf: e.leaf,
        index: e.index,
        inclusion: bytes(e.inclusion),
        checkpoint: e.checkpoint.to_string(),
        consistent_from: e.consistent_from,
        consistency: bytes(e.consistency),
    }
}
