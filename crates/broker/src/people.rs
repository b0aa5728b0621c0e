//! What people do to requests. One function owns each change; every door calls these.

mod narrow;
mod step;

use std::sync::atomic::Ordering;

use grantwright_domain::event::{Answered, Cancelled};
use grantwright_domain::passkey::PasskeyProof;
use grantwright_domain::{Decision, Digest, Event, HumanId, RequestId, RequestState, Timestamp};
use grantwright_store::{Loaded, StoreError, Text, Transition};
use grantwright_wire::Refusal;
use serde_json::Value;

use self::step::{Step, committed, said_already};
use crate::core::{Broker, Caller};
use crate::error::{no_such_request, of_store, refuse};
use crate::guards::limits;
use crate::issue::{approve, decide, sticky};

/// Longest text of a question, an answer or a reason, in characters.
pub const MAX_TEXT: usize = 2000;

/// A verified person and the door they came through.
#[derive(Debug, Clone)]
pub struct Actor {
    /// Who.
    pub human: HumanId,
    /// `api`, `console`, `slack`, …
    pub channel: &'static str,
}

/// What a person wants.
#[derive(Debug)]
pub enum Intention {
    /// Approve this digest; `seen`: the ordinal of the last question, answer or change that was shown.
    Approve {
        /// Free words.
        reason: Option<String>,
        /// See above; absent: whatever is there now was shown.
        seen: Option<u64>,
        /// What the person typed where the scope demands a confirmed fact.
        confirm: Option<String>,
    },
    /// Ask back.
    Ask {
        /// The question.
        text: String,
    },
    /// Deny.
    Deny {
        /// Free words, told to the agent's owner.
        reason: Option<String>,
        /// One-tap reason.
        reason_code: String,
    },
    /// Replace the terms by narrower ones, and approve those.
    Narrow {
        /// A shorter lifetime.
        ttl_s: Option<u32>,
        /// Parameters to shrink.
        params: Option<Value>,
        /// What the person typed where the scope demands a confirmed fact: as it is once narrowed.
        confirm: Option<String>,
    },
    /// Approve this digest, signed with a passkey.
    Sign {
        /// As for [`Intention::Approve`].
        reason: Option<String>,
        /// As for [`Intention::Approve`].
        seen: Option<u64>,
        /// As for [`Intention::Approve`].
        confirm: Option<String>,
        /// What the passkey said; its nonce was taken, so that it is used once.
        proof: Box<PasskeyProof>,
    },
    /// Take an approval back.
    Withdraw,
}

/// Carries out what a person wants on this very digest.
///
/// # Errors
/// 403 with why they may not, 404, 409 not open or another digest, 400 malformed or not narrower.
pub async fn act(
    broker: &Broker,
    actor: &Actor,
    id: &RequestId,
    digest: Digest,
    what: &Intention,
) -> Result<Loaded, Refusal> {
    because(broker, actor, id, digest, what, None).await
}

/// As [`act`], with why the person narrows, in their words: the agent is told.
///
/// # Errors
/// As [`act`].
pub async fn because(
    broker: &Broker,
    actor: &Actor,
    id: &RequestId,
    digest: Digest,
    what: &Intention,
    why: Option<&str>,
) -> Result<Loaded, Refusal> {
    broker.consistent()?;
    for _ in 0..8 {
        let loaded = broker.store.load(id).await.map_err(of_store)?.ok_or_else(no_such_request)?;
        let now = broker.now().max(loaded.state.last_at);
        if loaded.state.phase.is_open() && now >= loaded.state.expires_at() {
            approve::expire(broker, loaded.state, now).await?;
            continue;
        }
        if said_already(&loaded.state, actor, digest, what) {
            return Ok(loaded);
        }
        if approves(what) {
            limits::approve(broker, &actor.human, now).map_err(|r| r.request_id(id.as_str()))?;
        }
        let step = Step {
            broker,
            authority: broker.authority(),
            actor,
            now,
            digest,
            decided: decide::last(loaded.leaves.iter().map(|(_, event)| event)),
            why,
        };
        let (events, texts) =
            step.events(&loaded.state, what).map_err(|r| r.request_id(id.as_str()))?;
        step.dry_run(&loaded.state, &events).map_err(|r| {
            let r = r.request_id(id.as_str());
            if r.code != "passkey_required" {
                return r;
            }
            r.next(format!("open {} and sign with your passkey", broker.link(id)))
        })?;
        let denied =
            events.iter().any(|e| matches!(e, Event::Voted(v) if v.decision == Decision::Deny));
        let mut terms = vec![loaded.state.terms.clone()];
        terms.extend(loaded.state.original.clone());
        let mut transition = Transition::at(loaded.state, events);
        transition.side.texts = texts;
        match broker.commit(transition).await {
            Ok(_) => {
                if denied {
                    broker.counts.denied.fetch_add(1, Ordering::Relaxed);
                    terms.iter().for_each(|t| sticky::remember(broker, t, &loaded.texts, now));
                }
                broker.wake.changed(id);
                return broker.store.load(id).await.map_err(of_store)?.ok_or_else(no_such_request);
            }
            Err(StoreError::Conflict) => {}
            Err(e) => return Err(of_store(e).request_id(id.as_str())),
        }
    }
    Err(refuse(
        409,
        "changed_meanwhile",
        "others decide at this moment",
        "look at the request again",
    ))
}

/// Whether it is a vote for the request, or for a narrower one.
fn approves(what: &Intention) -> bool {
    matches!(what, Intention::Approve { .. } | Intention::Narrow { .. } | Intention::Sign { .. })
}

/// The request as narrower terms would make it, with the verdict on them; nothing is written and
/// nobody has voted.
///
/// # Errors
/// As [`act`] on [`Intention::Narrow`], save what only a vote can be refused for.
pub async fn preview(
    broker: &Broker,
    actor: &Actor,
    id: &RequestId,
    digest: Digest,
    ttl_s: Option<u32>,
    params: Option<&Value>,
) -> Result<Loaded, Refusal> {
    let mut loaded = broker.store.load(id).await.map_err(of_store)?.ok_or_else(no_such_request)?;
    let step = Step {
        broker,
        authority: broker.authority(),
        actor,
        now: broker.now().max(loaded.state.last_at),
        digest,
        decided: None,
        why: None,
    };
    let narrower = step.narrower(&loaded.state, ttl_s, params);
    loaded.state = narrower.map_err(|r| r.request_id(id.as_str()))?.1;
    Ok(loaded)
}

/// The agent answers the open question.
///
/// # Errors
/// 404, 409 when no question is open.
pub async fn answer(
    broker: &Broker,
    caller: &Caller,
    id: &RequestId,
    text: &str,
) -> Result<Loaded, Refusal> {
    step_of_agent(broker, caller, id, |state, now| {
        let mut texts = Vec::new();
        let text = committed(broker, &mut texts, format!("answer:{}", state.version), text)?;
        let event = Event::Answered(Answered {
            at: now,
            digest: state.digest,
            request_id: id.clone(),
            text,
        });
        Ok((event, texts))
    })
    .await
}

/// The agent ends its own open request.
///
/// # Errors
/// 404, 409 when it is not open.
pub async fn cancel(broker: &Broker, caller: &Caller, id: &RequestId) -> Result<Loaded, Refusal> {
    step_of_agent(broker, caller, id, |state, now| {
        let event = Event::Cancelled(Cancelled {
            at: now,
            digest: state.digest,
            request_id: id.clone(),
            by: "agent".into(),
        });
        Ok((event, Vec::new()))
    })
    .await
}

async fn step_of_agent(
    broker: &Broker,
    caller: &Caller,
    id: &RequestId,
    make: impl Fn(&RequestState, Timestamp) -> Result<(Event, Vec<Text>), Refusal>,
) -> Result<Loaded, Refusal> {
    broker.consistent()?;
    for _ in 0..8 {
        let loaded = approve::load(broker, caller, id).await?;
        let now = broker.now().max(loaded.state.last_at);
        if loaded.state.phase.is_open() && now >= loaded.state.expires_at() {
            approve::expire(broker, loaded.state, now).await?;
            continue;
        }
        let (event, texts) = make(&loaded.state, now)?;
        let mut transition = Transition::at(loaded.state, vec![event]);
        transition.side.texts = texts;
        match broker.commit(transition).await {
            Ok(_) => {
                broker.wake.changed(id);
                return approve::load(broker, caller, id).await;
            }
            Err(StoreError::Conflict) => {}
            Err(e) => return Err(of_store(e).request_id(id.as_str())),
        }
    }
    Err(refuse(409, "changed_meanwhile", "the request changes at this moment", "look again"))
}
