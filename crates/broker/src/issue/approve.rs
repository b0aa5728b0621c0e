//! Stage 4: the request parks, people are asked, and a call of the agent's that meets an approved
//! request collects it. Between calls only leaves remember it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use grantwright_domain::event::{Expired, Voted};
use grantwright_domain::text::{shorten, visible};
use grantwright_domain::{
    AgentId, Decision, Digest, Draft, Event, Params, Phase, RequestId, RequestState, Rights,
    Timestamp, VerdictKind,
};
use grantwright_store::{Loaded, RequestFilter, StoreError, Transition};
use grantwright_wire::Refusal;
use grantwright_wire::v1::{Ended, Outcome, Pending, Question, outcome};

use super::decide::{Asking, denial};
use super::deliver;
use super::mint::commit_staged;
use super::record::Staged;
use super::under;
use crate::core::{Broker, Caller};
use crate::error::{no_such_request, of_store, refuse};
use crate::guards::{limits, route, unusual};

/// Longest wait of one call.
const MAX_WAIT_MS: u32 = 60_000;
/// How long a call waits for another call's mint of the same request.
const SHARE_MS: u64 = 15_000;

/// Parked anew, or joined an identical open one.
#[expect(clippy::large_enum_variant, reason = "made once for a call and taken apart at once")]
pub enum Standing {
    /// Waits for people.
    Parked(Outcome),
    /// The identical open request.
    Joined(RequestId),
}

/// An approved request, rebuilt from its proven leaves.
pub struct Approved {
    staged: Box<Staged>,
}

impl Approved {
    pub(super) fn into_staged(self) -> Box<Staged> {
        self.staged
    }
}

/// How a call found the request.
pub enum Met {
    /// Ready to collect.
    Approved(Approved),
    /// Still waits; the wait is over.
    Waiting(Outcome),
    /// Issued, and delivered again.
    Delivered(Outcome),
    /// It ended.
    Ended(Box<Loaded>),
}

/// Parks a request that waits for people.
///
/// # Errors
/// 429 when the agent has its bound of open requests.
pub async fn park(broker: &Broker, asking: Asking) -> Result<Standing, Refusal> {
    let mut staged = asking.into_staged();
    let (authority, terms) = (staged.authority(), &staged.state().terms);
    under::leaves_time(broker, authority, terms, &staged.scope, staged.at)?;
    let agent = staged.caller.agent.clone();
    let lock = broker.parking(&agent);
    let _one_at_a_time = lock.lock().await;
    let most = broker.config.limits.open_requests_per_agent;
    let open = broker.store.count_open(&agent).await.map_err(of_store)?;
    let (caller, key) = (staged.caller.clone(), staged.key.clone());
    let too_many = if open >= u64::from(most) {
        Some(
            refuse(
                429,
                "too_many_open",
                format!("{open} requests of this agent are open already"),
                "wait until some are decided, or cancel them",
            )
            .retry_after_ms(5000),
        )
    } else {
        limits::ask(broker, &agent, staged.at).err()
    };
    if let Some(too_many) = too_many {
        // An identical open ask is one request, also at the bound.
        let identity = staged
            .state()
            .terms
            .identity()
            .map_err(|e| refuse(400, "malformed", e.to_string(), "correct the ask"))?;
        return match identical(broker, &agent, identity).await? {
            Some(request) => join(broker, &caller, key, request).await,
            None => Err(too_many),
        };
    }
    let past = broker.store.head().size;
    match unusual::of(broker, staged.state(), &staged.scope).await {
        Ok(facts) => staged.draft.remark(facts, past),
        Err(e) => tracing::warn!(error = %e, "what is unusual is not said"),
    }
    match commit_staged(broker, staged, None, false).await {
        Ok(committed) => {
            broker.counts.parked.fetch_add(1, Ordering::Relaxed);
            let state = committed.state.ok_or_else(no_such_request)?;
            if let Err(e) = route::first(broker, &state).await {
                tracing::warn!(error = %e, "nobody was chosen to be asked first: everybody is");
            }
            Ok(Standing::Parked(pending(broker, &state, &[])))
        }
        Err(StoreError::AlreadyOpen { request }) => join(broker, &caller, key, request).await,
        Err(StoreError::KeyTaken { request, instance, same_body }) => {
            let body = key.as_ref().map(|k| k.body).unwrap_or(grantwright_domain::Digest([0; 32]));
            let known = if same_body { body } else { grantwright_domain::Digest([0; 32]) };
            let record = grantwright_store::ClaimedKey { request, instance, body: known };
            super::admit::same(&caller, &record, body).map(Standing::Joined)
        }
        Err(e) => Err(of_store(e)),
    }
}

/// The open request of this agent with this identity.
async fn identical(
    broker: &Broker,
    agent: &AgentId,
    identity: Digest,
) -> Result<Option<RequestId>, Refusal> {
    let filter =
        RequestFilter { open: true, agent: Some(agent.clone()), ..RequestFilter::default() };
    for summary in broker.store.list(filter).await.map_err(of_store)? {
        let Some(loaded) = broker.store.load(&summary.id).await.map_err(of_store)? else {
            continue;
        };
        // The identity is that of the terms as first asked.
        let terms = loaded.state.original.as_ref().unwrap_or(&loaded.state.terms);
        if terms.identity().is_ok_and(|i| i == identity) {
            return Ok(Some(summary.id));
        }
    }
    Ok(None)
}

/// Joins an identical open request; the key, if any, is bound to it.
async fn join(
    broker: &Broker,
    caller: &Caller,
    key: Option<grantwright_store::KeyClaim>,
    request: RequestId,
) -> Result<Standing, Refusal> {
    let Some(key) = key else { return Ok(Standing::Joined(request)) };
    for _ in 0..8 {
        let loaded = load(broker, caller, &request).await?;
        let mut claim = Transition::at(loaded.state, Vec::new());
        claim.key = Some(key.clone());
        match broker.commit(claim).await {
            Err(StoreError::Conflict) => {}
            Ok(_) => return Ok(Standing::Joined(request)),
            Err(StoreError::KeyTaken { request: other, .. }) if other == request => {
                return Ok(Standing::Joined(request));
            }
            Err(e) => return Err(of_store(e)),
        }
    }
    Err(refuse(503, "busy", "the request changes at this moment", "ask again with the same key"))
}

/// Returns an approved request to the people: what was met is no longer enough.
///
/// # Errors
/// When the log cannot be written.
pub async fn back_to_people(broker: &Broker, asking: Asking) -> Result<Outcome, Refusal> {
    let staged = asking.into_staged();
    let id = staged.state().terms.request_id.clone();
    let committed = commit_staged(broker, staged, None, false).await.map_err(of_store)?;
    broker.wake.changed(&id);
    let state = committed.state.ok_or_else(no_such_request)?;
    Ok(pending(broker, &state, &[]))
}

/// Reads a request of the caller's agent; another agent's does not exist.
pub(crate) async fn load(
    broker: &Broker,
    caller: &Caller,
    id: &RequestId,
) -> Result<Loaded, Refusal> {
    let loaded = broker.store.load(id).await.map_err(of_store)?.ok_or_else(no_such_request)?;
    if loaded.state.terms.agent != caller.agent {
        return Err(no_such_request());
    }
    if loaded.state.terms.instance != caller.instance {
        return Err(refuse(
            409,
            "other_instance",
            "this request was made through another sidecar of this agent",
            "look there",
        )
        .request_id(id.as_str()));
    }
    Ok(loaded)
}

/// Meets a request: waits for its decision for up to `wait_ms`, and takes it when it is approved.
///
/// # Errors
/// 404, 409 `other_instance`, 410 once it cannot be delivered again.
pub async fn meet(
    broker: &Arc<Broker>,
    caller: &Caller,
    id: &RequestId,
    wait_ms: u32,
    known_size: u64,
) -> Result<Met, Refusal> {
    let _place = if wait_ms > 0 { Some(broker.wait(&caller.agent)?) } else { None };
    let begun = tokio::time::Instant::now();
    // A question that opens while the call waits ends the wait: the agent can answer it.
    let mut asked_before = None;
    let patience = begun + Duration::from_millis(u64::from(wait_ms.min(MAX_WAIT_MS)));
    loop {
        let waiting = broker.wake.enter(id);
        let mut change = std::pin::pin!(waiting.change());
        change.as_mut().enable();
        let loaded = load(broker, caller, id).await?;
        let now = broker.now();
        let state = &loaded.state;
        let until = match state.phase {
            Phase::Granted => {
                return deliver::redeliver(broker, &loaded, known_size).await.map(Met::Delivered);
            }
            Phase::Approved | Phase::Pending | Phase::Recorded if now >= state.expires_at() => {
                expire(broker, loaded.state, now).await?;
                continue;
            }
            // Approved, or approved before policy changed: it is decided again. When it is only a right
            // that went away, it waits for another person.
            Phase::Approved if is_collectable(broker, state, now) => {
                if let Err(refusal) = in_time(broker, state, now) {
                    under::give_up(broker, loaded.state, now).await?;
                    return Err(refusal.request_id(id.as_str()));
                }
                return Ok(Met::Approved(approved(broker, caller, loaded, now, known_size)?));
            }
            Phase::Approved | Phase::Pending | Phase::Recorded => {
                let open = state.open_question().map(|q| q.ordinal);
                let before = *asked_before.get_or_insert(open);
                if open.is_some() && open != before { begun } else { patience }
            }
            Phase::Intended => begun + Duration::from_millis(SHARE_MS),
            _ => return Ok(Met::Ended(Box::new(loaded))),
        };
        if tokio::time::Instant::now() >= until {
            return if state.phase == Phase::Intended {
                Err(refuse(
                    503,
                    "being_issued",
                    "the credential is being issued at this moment",
                    "look again",
                )
                .request_id(id.as_str())
                .retry_after_ms(1000))
            } else {
                Ok(Met::Waiting(pending(broker, state, &loaded.texts)))
            };
        }
        let left = u64::try_from(state.expires_at().since(now)).unwrap_or(0) + 1;
        let ends = tokio::time::Instant::now() + Duration::from_millis(left);
        tokio::select! {
            () = change => {}
            () = tokio::time::sleep_until(until.min(ends)) => {}
        }
    }
}

/// Whether its delegation, if it names one, still covers what was approved.
fn in_time(broker: &Broker, state: &RequestState, now: Timestamp) -> Result<(), Refusal> {
    let authority = broker.authority();
    match authority.catalog.get(&state.terms.template) {
        Some(scope) => under::fits(broker, &authority, &state.terms, scope, now),
        None => Ok(()),
    }
}

fn is_collectable(broker: &Broker, state: &RequestState, now: Timestamp) -> bool {
    let authority = broker.authority();
    state.decided_under != authority.policy_set || state.is_met(Rights::Now(&authority), now)
}

fn approved(
    broker: &Broker,
    caller: &Caller,
    loaded: Loaded,
    now: Timestamp,
    known_size: u64,
) -> Result<Approved, Refusal> {
    let authority = broker.authority();
    let scope = authority
        .catalog
        .get(&loaded.state.terms.template)
        .cloned()
        .ok_or_else(|| refuse(503, "internal", "the pinned template is missing", "ask anew"))?;
    let sensitive = sensitive(&loaded)?;
    broker.pace.saw(&loaded.state);
    // Time does not run backwards within a request.
    let at = now.max(loaded.state.last_at);
    Ok(Approved {
        staged: Box::new(Staged {
            caller: caller.clone(),
            at,
            scope,
            sensitive,
            draft: Draft::on(authority, loaded.state),
            texts: Vec::new(),
            key: None,
            known_size,
        }),
    })
}

/// The sensitive parameters that lie beside the log, each checked against its commitment.
fn sensitive(loaded: &Loaded) -> Result<Params, Refusal> {
    let mut out = Params::new();
    for (name, commitment) in &loaded.state.terms.sealed_params {
        let wanted = format!("param:{name}");
        let value = loaded
            .texts
            .iter()
            .find(|t| t.name == wanted)
            .filter(|t| grantwright_domain::Digest::commitment(&t.salt, &t.text) == *commitment)
            .and_then(|t| serde_json::from_str(&t.text).ok())
            .ok_or_else(|| {
                refuse(410, "parameters_erased", "a sensitive parameter was erased", "ask anew")
            })?;
        out.insert(name.clone(), value);
    }
    Ok(out)
}

/// Another call of this agent's mints the same request: waits for what it got.
///
/// # Errors
/// As [`meet`].
pub async fn share(
    broker: &Arc<Broker>,
    caller: &Caller,
    id: &RequestId,
    known_size: u64,
    post: bool,
) -> Result<Outcome, Refusal> {
    match meet(broker, caller, id, 1000, known_size).await? {
        Met::Waiting(outcome) | Met::Delivered(outcome) => Ok(outcome),
        Met::Ended(ended) if post => Err(ended_refusal(&ended)),
        Met::Ended(ended) => Ok(ended_outcome(&ended)),
        Met::Approved(_) => {
            Err(refuse(503, "changed_meanwhile", "the request changed meanwhile", "ask again")
                .request_id(id.as_str())
                .retry_after_ms(100))
        }
    }
}

/// Where the request stands, without waiting and without collecting.
///
/// # Errors
/// As [`meet`].
pub async fn look(
    broker: &Broker,
    caller: &Caller,
    id: &RequestId,
    known_size: u64,
) -> Result<Outcome, Refusal> {
    let loaded = load(broker, caller, id).await?;
    match loaded.state.phase {
        Phase::Granted => deliver::redeliver(broker, &loaded, known_size).await,
        p if p.is_open() || p == Phase::Intended => {
            Ok(pending(broker, &loaded.state, &loaded.texts))
        }
        _ => Ok(ended_outcome(&loaded)),
    }
}

/// Ends a request whose time ran out. Another who ended it first is as good.
///
/// # Errors
/// When the log cannot be written.
pub async fn expire(broker: &Broker, state: RequestState, now: Timestamp) -> Result<(), Refusal> {
    let id = state.terms.request_id.clone();
    let event = Event::Expired(Expired {
        at: now.max(state.last_at),
        digest: state.digest,
        request_id: id.clone(),
        lease_id: None,
    });
    match broker.commit(Transition::at(state, vec![event])).await {
        Ok(_) | Err(StoreError::Conflict) => {
            broker.wake.changed(&id);
            Ok(())
        }
        Err(e) => Err(of_store(e)),
    }
}

/// A pending request as the agent sees it.
pub(crate) fn pending(
    broker: &Broker,
    state: &RequestState,
    texts: &[grantwright_store::StoredText],
) -> Outcome {
    let verdict = state.verdict.as_ref().filter(|v| v.kind == VerdictKind::Ask);
    let have = state.standing(Rights::Now(&broker.authority()), broker.now()).len();
    let question = state.open_question().map(|q| Question {
        question_id: format!("q{}", q.ordinal),
        by: q.human.to_string(),
        text: texts
            .iter()
            .find(|t| t.name == format!("question:{}", q.ordinal))
            .map(|t| t.text.clone())
            .unwrap_or_default(),
    });
    Outcome {
        request_id: state.terms.request_id.to_string(),
        state: Some(outcome::State::Pending(Pending {
            votes_needed: verdict.map_or(0, |v| v.quorum),
            votes_have: u32::try_from(have).unwrap_or(u32::MAX),
            strength: verdict.map_or("chat", |v| strength_word(v.strength)).to_owned(),
            groups: verdict
                .map(|v| v.approvers.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            channels: verdict.map(|v| v.channels.iter().cloned().collect()).unwrap_or_default(),
            approved: state.phase == Phase::Approved && is_collectable(broker, state, broker.now()),
            question,
            expires_at_ms: state.expires_at().millis(),
            link: broker.link(&state.terms.request_id),
            digest: state.digest.hex(),
        })),
    }
}

pub(crate) fn strength_word(strength: grantwright_domain::Strength) -> &'static str {
    match strength {
        grantwright_domain::Strength::Chat => "chat",
        grantwright_domain::Strength::Passkey => "passkey",
    }
}

/// Why a request ended, in words; a person's own words are quoted.
pub(crate) fn end_reason(loaded: &Loaded) -> String {
    let state = &loaded.state;
    match state.phase {
        Phase::Denied => {
            let vote = loaded.leaves.iter().enumerate().find_map(|(ordinal, (_, e))| match e {
                Event::Voted(v) if v.decision == Decision::Deny => Some((ordinal, v)),
                _ => None,
            });
            match vote {
                Some((ordinal, vote)) => denied_by(loaded, ordinal, vote),
                None => {
                    state.verdict.as_ref().map_or_else(|| "denied".into(), |v| v.reason.clone())
                }
            }
        }
        Phase::Expired if state.approved_at.is_some() => {
            "approved, but not collected in time".into()
        }
        Phase::Expired => "nobody decided in time".into(),
        Phase::Cancelled => match loaded.leaves.last() {
            Some((_, Event::Cancelled(e))) if e.by == under::BY => {
                "cancelled: the delegation under which it was asked ended, or lasted too short"
                    .into()
            }
            _ => "cancelled".into(),
        },
        // What was told when it failed, to whoever looks after that.
        Phase::Failed => {
            let told = loaded.leaves.iter().rev().find_map(|(_, e)| match e {
                Event::Failed(e) => Some(e.detail.clone()),
                _ => None,
            });
            told.unwrap_or_else(|| "the backend refused".into())
        }
        Phase::Unknown => "the backend's answer was lost".into(),
        other => other.word().into(),
    }
}

fn denied_by(loaded: &Loaded, ordinal: usize, vote: &Voted) -> String {
    let mut out = format!("denied by {}", vote.human);
    let tapped = match vote.reason_code.as_str() {
        "not_now" => ": not now",
        "too_much" => ": too much",
        "wrong_person" => ": wrong person",
        "looks_wrong" => ": looks wrong",
        _ => "",
    };
    out.push_str(tapped);
    let name = format!("vote:{ordinal}");
    if let Some(text) = loaded.texts.iter().find(|t| t.name == name) {
        out.push_str(&format!(" (“{}”)", shorten(&visible(&text.text), 300)));
    }
    out
}

/// An ended request as an answer.
pub(crate) fn ended_outcome(loaded: &Loaded) -> Outcome {
    let state = &loaded.state;
    Outcome {
        request_id: state.terms.request_id.to_string(),
        state: Some(outcome::State::Ended(Ended {
            state: state.phase.word().to_owned(),
            code: state.end_code.clone(),
            reason: end_reason(loaded),
            lease_id: state.lease.as_ref().map(|l| l.id.to_string()).unwrap_or_default(),
        })),
    }
}

/// An ended request as a refusal of the ask that met it.
pub(crate) fn ended_refusal(loaded: &Loaded) -> Refusal {
    let state = &loaded.state;
    let reason = end_reason(loaded);
    let refusal = match state.phase {
        Phase::Denied if state.votes.iter().any(|v| v.decision == Decision::Deny) => {
            refuse(403, "denied", reason, "ask for less or for something else")
        }
        Phase::Denied => denial(&state.end_code, state.verdict.as_ref()),
        Phase::Expired => refuse(403, "expired", reason, "ask anew, with a new key"),
        Phase::Cancelled => refuse(403, "cancelled", reason, "ask anew, with a new key"),
        Phase::Failed => refuse(
            502,
            "mint_failed",
            reason,
            format!("{}; the approval is spent", grantwright_mint::remedy(&state.end_code)),
        ),
        _ => refuse(
            502,
            "outcome_unknown",
            reason,
            "an operator looks at the backend; it is never tried again by itself",
        ),
    };
    refusal.request_id(state.terms.request_id.as_str())
}
