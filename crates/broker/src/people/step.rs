//! One person's step on a request: what it says, whether they may, and the leaves it makes.

use std::collections::BTreeSet;
use std::sync::Arc;

use grantwright_domain::event::{Decided, Questioned, Voted, Withdrawn};
use grantwright_domain::passkey::PasskeyProof;
use grantwright_domain::{
    Authority, Decision, Digest, Event, GroupName, RequestState, Rights, Terms, Timestamp,
    VerdictKind,
};
use grantwright_proof::passkey::verify_vote;
use grantwright_store::Text;
use grantwright_wire::Refusal;

use super::{Actor, Intention, MAX_TEXT};
use crate::core::Broker;
use crate::error::{of_violation, refuse};
use crate::guards::two_step;
use crate::http::ceremony::{self, Party};
use crate::issue::{decide, under};

/// A second identical vote changes nothing.
pub(super) fn said_already(
    state: &RequestState,
    actor: &Actor,
    digest: Digest,
    what: &Intention,
) -> bool {
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

/// One person's step on one request, before anything is written.
pub(super) struct Step<'a> {
    pub(super) broker: &'a Broker,
    pub(super) authority: Arc<Authority>,
    pub(super) actor: &'a Actor,
    pub(super) now: Timestamp,
    pub(super) digest: Digest,
    /// The decision in force.
    pub(super) decided: Option<&'a Decided>,
    /// Why the person narrows.
    pub(super) why: Option<&'a str>,
}

/// By what a person may decide.
pub(super) struct Permitted {
    groups: BTreeSet<GroupName>,
    policies: BTreeSet<String>,
    policy_set: Digest,
}

/// The events of a step, and the texts they commit to.
pub(super) type Staged = (Vec<Event>, Vec<Text>);

impl Step<'_> {
    pub(super) fn events(&self, state: &RequestState, what: &Intention) -> Result<Staged, Refusal> {
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
    pub(super) fn dry_run(&self, state: &RequestState, events: &[Event]) -> Result<(), Refusal> {
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
    pub(super) fn permitted(
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
    pub(super) fn voted(
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
    pub(super) fn confirmed(
        &self,
        terms: &Terms,
        typed: Option<&str>,
    ) -> Result<Option<String>, Refusal> {
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

    pub(super) fn commit(
        &self,
        texts: &mut Vec<Text>,
        name: String,
        text: &str,
    ) -> Result<Digest, Refusal> {
        committed(self.broker, texts, name, text)
    }
}

/// The commitment to a text, which lies beside the log.
pub(super) fn committed(
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
