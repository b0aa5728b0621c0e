//! What people do to requests. One function owns each change; every door calls these.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use grantwright_domain::event::{
    Answered, Cancelled, Decided, Narrowed, Questioned, Voted, Withdrawn,
};
use grantwright_domain::passkey::PasskeyProof;
use grantwright_domain::{
    Authority, Decision, Digest, Event, GroupName, HumanId, ParamValue, Params, RequestId,
    RequestState, Rights, Strength, Terms, Timestamp, VerdictKind, param,
};
use grantwright_proof::passkey::verify_vote;
use grantwright_store::{Loaded, StoreError, Text, Transition};
use grantwright_wire::Refusal;
use serde_json::Value;

use crate::core::{Broker, Caller};
use crate::error::{no_such_request, of_store, of_violation, refuse};
use crate::guards::{limits, two_step};
use crate::http::ceremony::{self, Party};
use crate::issue::{approve, decide, sticky, under};

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

/// A second identical vote changes nothing.
fn said_already(state: &RequestState, actor: &Actor, digest: Digest, what: &Intention) -> bool {
    let decision = match what {
        Intention::Approve { .. } | Intention::Sign { .. } => Decision::Approve,
        Intention::Deny { .. } => Decision::Deny,
        _ => return false,
    };
    state
        .votes
        .iter()
        .any(|v| v.live && v.human == actor.human && v.decision == decision && v.digest == digest)
}

struct Step<'a> {
    broker: &'a Broker,
    authority: std::sync::Arc<Authority>,
    actor: &'a Actor,
    now: Timestamp,
    digest: Digest,
    /// The decision in force.
    decided: Option<&'a Decided>,
    /// Why the person narrows.
    why: Option<&'a str>,
}

/// By what a person may decide.
struct Permitted {
    groups: BTreeSet<GroupName>,
    policies: BTreeSet<String>,
    policy_set: Digest,
}

type Staged = (Vec<Event>, Vec<Text>);
/// The events of narrowing, and the request after them.
type Narrower = (Vec<Event>, RequestState);

impl Step<'_> {
    fn events(&self, state: &RequestState, what: &Intention) -> Result<Staged, Refusal> {
        match what {
            Intention::Approve { reason, seen, confirm } => {
                let confirm = confirm.as_deref();
                self.vote(state, Decision::Approve, reason.as_deref(), "", *seen, confirm)
            }
            Intention::Deny { reason, reason_code } => {
                if !matches!(
                    reason_code.as_str(),
                    "" | "not_now" | "too_much" | "wrong_person" | "looks_wrong"
                ) {
                    return Err(refuse(
                        400,
                        "malformed",
                        "`reason_code` is not one of not_now, too_much, wrong_person, looks_wrong",
                        "correct it",
                    ));
                }
                if reason_code == "looks_wrong" {
                    tracing::warn!(request = %state.terms.request_id, agent = %state.terms.agent, by = %self.actor.human,
                        "a reviewer says this request looks wrong");
                }
                self.vote(state, Decision::Deny, reason.as_deref(), reason_code, None, None)
            }
            Intention::Ask { text } => self.question(state, text),
            Intention::Narrow { ttl_s, params, confirm } => {
                self.narrow(state, *ttl_s, params.as_ref(), confirm.as_deref())
            }
            Intention::Sign { reason, seen, confirm, proof } => {
                let confirm = confirm.as_deref();
                let (mut events, texts) =
                    self.vote(state, Decision::Approve, reason.as_deref(), "", *seen, confirm)?;
                for event in &mut events {
                    if let Event::Voted(vote) = event {
                        self.sign(vote, proof)?;
                    }
                }
                Ok((events, texts))
            }
            Intention::Withdraw => Ok((
                vec![Event::Withdrawn(Withdrawn {
                    at: self.now,
                    digest: self.digest,
                    request_id: state.terms.request_id.clone(),
                    human: self.actor.human.clone(),
                    channel: self.actor.channel.to_owned(),
                })],
                Vec::new(),
            )),
        }
    }

    /// Puts the proof into the vote, once its signature is seen to be over this very vote.
    fn sign(&self, vote: &mut Voted, proof: &PasskeyProof) -> Result<(), Refusal> {
        let Party { id, origin, .. } = &self.broker.party;
        vote.proof = Some(proof.to_map());
        let passkey = self.authority.passkeys.get(&proof.credential_id);
        let passkey =
            passkey.filter(|p| p.human == vote.human && p.rp_id == *id).ok_or_else(|| {
                refuse(
                    403,
                    "passkey_unknown",
                    "this passkey is not enrolled to you here",
                    "use yours",
                )
            })?;
        let verified = verify_vote(vote, passkey, &self.authority.origin, Some(origin))
            .map_err(ceremony::refused)?;
        vote.proof = Some(verified.to_map());
        Ok(())
    }

    /// Folds the events in a copy: the person gets the rules' own words before anything is written.
    fn dry_run(&self, state: &RequestState, events: &[Event]) -> Result<(), Refusal> {
        let mut copy = state.clone();
        for event in events {
            copy.apply(u64::MAX, event, Rights::Now(&self.authority))
                .map_err(|v| of_violation(&v))?;
        }
        Ok(())
    }

    fn vote(
        &self,
        state: &RequestState,
        decision: Decision,
        reason: Option<&str>,
        code: &str,
        seen: Option<u64>,
        confirm: Option<&str>,
    ) -> Result<Staged, Refusal> {
        let mut texts = Vec::new();
        let reason = match reason {
            Some(text) if !text.is_empty() => {
                Some(self.commit(&mut texts, format!("vote:{}", state.version), text)?)
            }
            _ => None,
        };
        let seen = match seen {
            // Nothing but the ask itself was shown.
            Some(0) => None,
            Some(ordinal) => Some(ordinal),
            None => state.last_seen,
        };
        let mut vote = self.voted(
            state,
            &state.terms,
            self.digest,
            decision,
            seen,
            code,
            reason,
            self.decided,
        )?;
        if decision == Decision::Approve {
            vote.confirmed = self.confirmed(&state.terms, confirm)?;
        }
        Ok((vec![Event::Voted(vote)], texts))
    }

    /// Asks the rules and policy whether this person may decide these terms: a vote takes it, and a
    /// question or a narrowing, which void others' votes, take no less.
    fn permitted(
        &self,
        state: &RequestState,
        terms: &Terms,
        decided: Option<&Decided>,
    ) -> Result<Permitted, Refusal> {
        let policy = decide::in_force(self.broker, &self.authority)?;
        let groups = self.authority.groups_of(&self.actor.human, self.now);
        let scope = self.authority.catalog.get(&terms.template).ok_or_else(|| {
            refuse(
                503,
                "internal",
                "the pinned template is missing",
                "deny, and let the agent ask anew",
            )
        })?;
        // The rules' own reason comes first: it is the more telling one.
        grantwright_domain::eligible::check(
            state,
            &self.authority,
            &self.actor.human,
            self.actor.channel,
            self.now,
        )
        .or_else(|e| match (state.phase.is_open(), &state.verdict) {
            (true, Some(v)) if v.kind == VerdictKind::Ask => Err(refuse(
                403,
                e.code(),
                format!("`{}`: {e}", self.actor.human),
                "another eligible person can decide",
            )),
            _ => Ok(()),
        })?;
        let ballot = decide::Ballot {
            human: &self.actor.human,
            channel: self.actor.channel,
            terms,
            scope,
            decided,
            at: self.now,
        };
        let policies = decide::may_approve(&policy, &self.authority, &ballot).map_err(|e| {
            refuse(403, e.code(), e.to_string(), "another eligible person can decide")
        })?;
        Ok(Permitted { groups, policies, policy_set: policy.digest() })
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one leaf")]
    fn voted(
        &self,
        state: &RequestState,
        terms: &Terms,
        digest: Digest,
        decision: Decision,
        seen: Option<u64>,
        code: &str,
        reason: Option<Digest>,
        decided: Option<&Decided>,
    ) -> Result<Voted, Refusal> {
        let Permitted { groups, policies, policy_set } = self.permitted(state, terms, decided)?;
        if decision == Decision::Approve && state.phase.is_open() {
            self.in_time(terms)?;
        }
        Ok(Voted {
            at: self.now,
            digest,
            request_id: terms.request_id.clone(),
            human: self.actor.human.clone(),
            decision,
            channel: self.actor.channel.to_owned(),
            seen,
            groups,
            policies,
            policy_set,
            reason_code: code.to_owned(),
            reason,
            confirmed: None,
            proof: None,
        })
    }

    /// What its delegation covers no longer could not be minted: nobody is let approve it in vain.
    fn in_time(&self, terms: &Terms) -> Result<(), Refusal> {
        let Some(scope) = self.authority.catalog.get(&terms.template) else { return Ok(()) };
        under::fits(self.broker, &self.authority, terms, scope, self.now).map_err(|r| {
            r.next("narrow it to a shorter lifetime, or deny it: it is asked under a delegation")
        })
    }

    /// The fact that the approver confirmed, where the scope demands one.
    fn confirmed(&self, terms: &Terms, typed: Option<&str>) -> Result<Option<String>, Refusal> {
        let scope = self.authority.catalog.get(&terms.template);
        let Some(fact) = scope.and_then(|s| s.confirm.as_ref()) else { return Ok(None) };
        if typed.is_some_and(|typed| two_step::is_said(terms, fact, typed)) {
            return Ok(Some(fact.clone()));
        }
        Err(refuse(
            403,
            "confirmation_required",
            match typed {
                None => format!("approving this takes its {} typed by hand", two_step::named(fact)),
                Some(_) => format!("what was typed is not its {}", two_step::named(fact)),
            },
            "read it in the request, and send it as `confirm`",
        ))
    }

    fn question(&self, state: &RequestState, text: &str) -> Result<Staged, Refusal> {
        if state.phase.is_open() && state.verdict.is_some() {
            self.permitted(state, &state.terms, self.decided)?;
        }
        let mut texts = Vec::new();
        let text = self.commit(&mut texts, format!("question:{}", state.version), text)?;
        Ok((
            vec![Event::Questioned(Questioned {
                at: self.now,
                digest: self.digest,
                request_id: state.terms.request_id.clone(),
                human: self.actor.human.clone(),
                channel: self.actor.channel.to_owned(),
                text,
            })],
            texts,
        ))
    }

    fn narrow(
        &self,
        state: &RequestState,
        ttl_s: Option<u32>,
        params: Option<&Value>,
        confirm: Option<&str>,
    ) -> Result<Staged, Refusal> {
        let (mut events, next) = self.narrower(state, ttl_s, params)?;
        let decided = decide::last(events.iter()).cloned();
        let mut texts = Vec::new();
        if let Some(why) = self.why.filter(|w| !w.trim().is_empty()) {
            let reason = self.commit(&mut texts, format!("narrowed:{}", state.version), why)?;
            for event in &mut events {
                if let Event::Narrowed(narrowed) = event {
                    narrowed.reason = Some(reason);
                }
            }
        }
        let (terms, digest) = (&next.terms, next.digest);
        let asks = next.verdict.as_ref().is_some_and(|v| v.kind == VerdictKind::Ask);
        let signed = next.verdict.as_ref().is_some_and(|v| v.strength == Strength::Passkey);
        // For a passkey scope the narrowing is a proposal, to be signed.
        if asks && !signed && next.phase.is_open() {
            let seen = next.last_seen;
            let mut vote = self.voted(
                &next,
                terms,
                digest,
                Decision::Approve,
                seen,
                "",
                None,
                decided.as_ref(),
            )?;
            vote.confirmed = self.confirmed(terms, confirm)?;
            events.push(Event::Voted(vote));
        } else {
            self.permitted(&next, terms, decided.as_ref())?;
        }
        Ok((events, texts))
    }

    /// The narrower terms and their verdict, and the request as it then is.
    fn narrower(
        &self,
        state: &RequestState,
        ttl_s: Option<u32>,
        params: Option<&Value>,
    ) -> Result<Narrower, Refusal> {
        let old = &state.terms;
        let scope = self.authority.catalog.get(&old.template).ok_or_else(|| {
            refuse(
                503,
                "internal",
                "the pinned template is missing",
                "deny, and let the agent ask anew",
            )
        })?;
        let terms = Terms {
            ttl_s: ttl_s.unwrap_or(old.ttl_s),
            params: merged(scope, &old.params, params)?,
            ..old.clone()
        };
        let digest =
            terms.digest().map_err(|e| refuse(400, "malformed", e.to_string(), "correct it"))?;
        let narrowed = Event::Narrowed(Narrowed {
            at: self.now,
            digest,
            old_digest: self.digest,
            request_id: old.request_id.clone(),
            human: self.actor.human.clone(),
            channel: self.actor.channel.to_owned(),
            terms: terms.clone(),
            reason: None,
        });
        let mut next = state.clone();
        next.apply(u64::MAX, &narrowed, Rights::Now(&self.authority))
            .map_err(|v| of_violation(&v))?;
        let policy = decide::in_force(self.broker, &self.authority)?;
        let (verdict, attributes, context) =
            decide::evaluate(&policy, &self.authority, &next, scope, "", self.now);
        let decided = Event::Decided(Decided {
            at: self.now,
            digest,
            request_id: old.request_id.clone(),
            verdict,
            attributes,
            context,
            chain: decide::chain(&self.authority, &next.terms, self.now),
            again: false,
            excluded: Default::default(),
            unusual: Vec::new(),
            past: None,
        });
        next.apply(u64::MAX, &decided, Rights::Now(&self.authority))
            .map_err(|v| of_violation(&v))?;
        Ok((vec![narrowed, decided], next))
    }

    fn commit(&self, texts: &mut Vec<Text>, name: String, text: &str) -> Result<Digest, Refusal> {
        committed(self.broker, texts, name, text)
    }
}

fn committed(
    broker: &Broker,
    texts: &mut Vec<Text>,
    name: String,
    text: &str,
) -> Result<Digest, Refusal> {
    if text.trim().is_empty() || text.chars().count() > MAX_TEXT {
        return Err(refuse(
            400,
            "malformed",
            format!("the text is empty or longer than {MAX_TEXT} characters"),
            "shorten it",
        ));
    }
    let salt = broker.random.bytes::<16>();
    let digest = Digest::commitment(&salt, text);
    texts.push(Text { name, salt, text: text.to_owned() });
    Ok(digest)
}

fn merged(
    scope: &grantwright_domain::Scope,
    old: &Params,
    change: Option<&Value>,
) -> Result<Params, Refusal> {
    let mut out = old.clone();
    let Some(change) = change else { return Ok(out) };
    let Value::Object(change) = change else {
        return Err(refuse(400, "malformed", "`params` wants an object", "correct it"));
    };
    for (name, value) in change {
        let wrong = |detail: String| refuse(400, "bad_params", detail, "correct the parameter");
        let spec = scope.params.get(name).filter(|_| old.contains_key(name)).ok_or_else(|| {
            wrong(format!(
                "`{}` is not a parameter of this request",
                grantwright_domain::text::shorten(name, 40)
            ))
        })?;
        let value: ParamValue =
            spec.check(name, value).map_err(|e: param::ParamError| wrong(e.to_string()))?;
        out.insert(name.clone(), value);
    }
    Ok(out)
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
