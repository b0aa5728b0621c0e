//! How each leaf changes a request, and what forbids it.

use super::lease::no_live_lease;
use super::{
    Lease, LeaseState, MAX_QUESTIONS, Phase, Question, RequestState, Rights, Signed, Vote,
    agent_lives, bound, in_order, same_hand,
};
use crate::digest::Digest;
use crate::eligible::{self, Ineligible};
use crate::event::{Decision, Event, Expired, Renewed, Revoked, Voted};
use crate::id::HumanId;
use crate::passkey::{NONCE_LIFE_MS, PasskeyProof};
use crate::state::Violation;
use crate::time::Timestamp;
use crate::verdict::{Strength, VerdictKind};

impl RequestState {
    fn require(
        &self,
        ok: bool,
        rule: &'static str,
        detail: impl FnOnce() -> String,
    ) -> Result<(), Violation> {
        if ok { Ok(()) } else { Err(Violation::rule(rule, detail())) }
    }

    /// What a request of an older log had not spent ended with that log: in a later epoch nobody decides
    /// it, and nothing is issued on its intent, for which the older log may have issued already.
    fn unspent(&self, index: u64, event: &Event, rights: Rights<'_>) -> Result<(), Violation> {
        let Rights::Now(authority) = rights else { return Ok(()) };
        let spends = self.phase.is_open() || matches!(event, Event::Issued(_));
        self.require(!spends || authority.may_name(index, &self.terms.origin), "epoch", || {
            format!("it was asked in the log `{}`, and ended with it", self.terms.origin)
        })
    }

    fn open(&self, digest: Digest, at: Timestamp) -> Result<(), Violation> {
        self.require(self.phase.is_open(), "terminal", || {
            format!("the request is {} already", self.phase.word())
        })?;
        self.require(digest == self.digest, "digest", || {
            "the digest is not the request's present one".into()
        })?;
        self.require(at < self.expires_at(), "deadline", || {
            format!("the request ended at {}", self.expires_at())
        })
    }

    fn may_vote(
        &self,
        human: &HumanId,
        channel: &str,
        rights: Rights<'_>,
        at: Timestamp,
    ) -> Result<(), Violation> {
        let Rights::Now(authority) = rights else { return Ok(()) };
        eligible::check(self, authority, human, channel, at).map_err(|e: Ineligible| {
            Violation::coded("eligible", e.code(), format!("`{human}`: {e}"))
        })
    }

    /// The proof of a vote, if it has one: of its form, in time, with a nonce that was not spent on
    /// this request before, by a live passkey of that very person. That the agent's owner did not make
    /// it is asked with the voter's other rights, at the vote and at the intent. Nonces of other
    /// requests are no use here, since D is signed. The signature itself is checked by the broker
    /// before this event is written, and by whoever verifies the log.
    fn signed(&self, e: &Voted, rights: Rights<'_>) -> Result<Option<Signed>, Violation> {
        let Some(proof) = &e.proof else { return Ok(None) };
        let refuse = |code, detail: &str| Violation::coded("passkey", code, detail.to_owned());
        let proof = PasskeyProof::read(proof).map_err(|d| refuse("passkey_malformed", &d))?;
        if proof.expires_at <= e.at || proof.expires_at.since(e.at) > NONCE_LIFE_MS {
            return Err(refuse("passkey_expired", "the signature is not of this time"));
        }
        let spent = |v: &Vote| v.signed.as_ref().is_some_and(|s| s.nonce == proof.nonce);
        if self.votes.iter().any(spent) {
            return Err(refuse("passkey_spent", "the signature was used already"));
        }
        if let Rights::Now(authority) = rights {
            let passkey = authority.passkeys.get(&proof.credential_id);
            if !passkey.is_some_and(|p| p.human == e.human && !p.revoked) {
                return Err(refuse(
                    "passkey_unknown",
                    "the passkey is not enrolled to this person, or has ended",
                ));
            }
        }
        Ok(Some(Signed { credential_id: proof.credential_id, nonce: proof.nonce }))
    }

    fn refresh(&mut self, rights: Rights<'_>, at: Timestamp) {
        // The bound on collecting follows from the leaves alone, so that whoever folds them later
        // finds the same end; who may still decide shows in the phase, and is asked at the intent.
        if self.is_met(Rights::Past, at) {
            self.approved_at.get_or_insert(at);
        } else {
            self.approved_at = None;
        }
        if self.is_met(rights, at) {
            self.phase = Phase::Approved;
        } else if self.phase == Phase::Approved || self.phase == Phase::Recorded {
            self.phase = Phase::Pending;
        }
    }

    fn end(&mut self, phase: Phase, code: &str) {
        self.phase = phase;
        self.end_code = code.into();
    }

    /// Ends the pause of the open question, if any, at `at`.
    fn resume(&mut self, at: Timestamp, answer: Option<u64>) {
        let left = self.pause_left_ms;
        let Some(q) = self.questions.iter_mut().find(|q| q.answered.is_none() && !q.closed) else {
            return;
        };
        let used = at.since(q.at).clamp(0, left);
        match answer {
            Some(index) => q.answered = Some((index, at)),
            None => q.closed = true,
        }
        self.deadline = self.deadline.plus_millis(used);
        self.pause_left_ms = left - used;
    }

    fn void_votes(&mut self, except: Option<&HumanId>) {
        for vote in &mut self.votes {
            if vote.decision == Decision::Approve && Some(&vote.human) != except {
                vote.live = false;
            }
        }
    }

    pub(super) fn step(
        &mut self,
        index: u64,
        event: &Event,
        rights: Rights<'_>,
    ) -> Result<(), Violation> {
        in_order(index, self.last_at, event, rights)?;
        self.unspent(index, event, rights)?;
        match event {
            Event::Decided(e) => {
                self.open(e.digest, e.at)?;
                self.require(e.again || self.verdict.is_none(), "decided-once", || {
                    "decided already".into()
                })?;
                self.in_force(e.verdict.policy_set, rights)?;
                let verdict = match &self.floor {
                    Some(floor) => e.verdict.clone().stricter(floor),
                    None => e.verdict.clone(),
                };
                let denied = verdict.kind == VerdictKind::Deny;
                let code = verdict.code.clone();
                let too_long = !denied && !verdict.admits_ttl(self.terms.ttl_s);
                self.verdict = Some(verdict);
                self.decided_under = Some(e.verdict.policy_set);
                self.excluded.clone_from(&e.excluded);
                if denied {
                    self.end(Phase::Denied, if code.is_empty() { "denied" } else { &code });
                } else if too_long {
                    self.end(Phase::Denied, "ttl_too_long");
                } else {
                    self.refresh(rights, e.at);
                }
            }
            Event::Questioned(e) => {
                self.open(e.digest, e.at)?;
                self.require(self.phase != Phase::Recorded, "order", || "not decided yet".into())?;
                self.require(self.open_question().is_none(), "question-open", || {
                    "a question is open already".into()
                })?;
                self.require(self.questions.len() < MAX_QUESTIONS, "question-bound", || {
                    "no more questions".into()
                })?;
                self.may_vote(&e.human, &e.channel, rights, e.at)?;
                self.questions.push(Question {
                    ordinal: self.version,
                    human: e.human.clone(),
                    at: e.at,
                    answered: None,
                    closed: false,
                });
                self.last_seen = Some(self.version);
                self.void_votes(None);
                self.refresh(rights, e.at);
            }
            Event::Answered(e) => {
                self.open(e.digest, e.at)?;
                self.require(self.open_question().is_some(), "answer", || {
                    "no question is open".into()
                })?;
                self.resume(e.at, Some(self.version));
                self.last_seen = Some(self.version);
                self.void_votes(None);
                self.refresh(rights, e.at);
            }
            Event::Narrowed(e) => {
                self.open(e.old_digest, e.at)?;
                self.require(self.phase != Phase::Recorded, "order", || "not decided yet".into())?;
                let asker = self.open_question().map(|q| q.human.clone());
                self.require(
                    asker.is_none() || asker.as_ref() == Some(&e.human),
                    "question-open",
                    || "only the asker of the open question may narrow".into(),
                )?;
                self.may_vote(&e.human, &e.channel, rights, e.at)?;
                let digest =
                    e.terms.digest().map_err(|x| Violation::rule("canonical", x.to_string()))?;
                self.require(digest == e.digest, "digest", || {
                    "the digest is not that of the terms".into()
                })?;
                if let Rights::Now(authority) = rights {
                    let scope = authority.catalog.get(&self.terms.template).ok_or_else(|| {
                        Violation::rule("scope-known", "the scope's declaration is missing".into())
                    })?;
                    self.terms
                        .narrows_to(&e.terms, scope)
                        .map_err(|d| Violation::coded("narrower", "not_narrower", d))?;
                }
                self.resume(e.at, None);
                let old = std::mem::replace(&mut self.terms, e.terms.clone());
                self.original.get_or_insert(old);
                self.digest = digest;
                self.floor = self.verdict.take();
                self.last_seen = Some(self.version);
                self.void_votes(None);
                self.phase = Phase::Recorded;
                self.approved_at = None;
            }
            Event::Voted(e) => {
                self.open(e.digest, e.at)?;
                self.require(self.phase != Phase::Recorded, "order", || "not decided yet".into())?;
                self.in_force(e.policy_set, rights)?;
                self.may_vote(&e.human, &e.channel, rights, e.at)?;
                if let Rights::Now(authority) = rights {
                    self.require(
                        e.groups == authority.groups_of(&e.human, e.at),
                        "group-evidence",
                        || "the groups are not the voter's".into(),
                    )?;
                }
                let signed = self.signed(e, rights)?;
                let vote = Vote {
                    index,
                    human: e.human.clone(),
                    decision: e.decision,
                    at: e.at,
                    channel: e.channel.clone(),
                    digest: e.digest,
                    signed,
                    live: true,
                };
                match e.decision {
                    Decision::Deny => {
                        self.votes.push(vote);
                        self.resume(e.at, None);
                        self.end(Phase::Denied, "denied");
                    }
                    Decision::Approve => {
                        let strong =
                            self.verdict.as_ref().is_some_and(|v| v.strength == Strength::Passkey);
                        if strong && vote.signed.is_none() {
                            return Err(Violation::coded(
                                "passkey",
                                "passkey_required",
                                "this needs a decision signed with a passkey".into(),
                            ));
                        }
                        self.confirmed(e, rights)?;
                        self.require(e.seen == self.last_seen, "seen", || {
                            "the vote has not seen the last question, answer or change".into()
                        })?;
                        if let Some(q) = self.open_question() {
                            self.require(q.human == e.human, "question-open", || {
                                "only the asker may approve while the question is open".into()
                            })?;
                        }
                        let twice = self.votes.iter().any(|v| {
                            v.live && v.human == e.human && v.decision == Decision::Approve
                        });
                        self.require(!twice, "vote-once", || {
                            format!("`{}` approved already", e.human)
                        })?;
                        self.second_hand(e, rights)?;
                        self.resume(e.at, None);
                        self.votes.push(vote);
                        self.refresh(rights, e.at);
                    }
                }
            }
            Event::Withdrawn(e) => {
                self.open(e.digest, e.at)?;
                let vote = self
                    .votes
                    .iter_mut()
                    .find(|v| v.live && v.human == e.human && v.decision == Decision::Approve);
                match vote {
                    Some(v) => v.live = false,
                    None => {
                        return Err(Violation::coded(
                            "withdraw",
                            "nothing_to_withdraw",
                            format!("`{}` has no standing approval", e.human),
                        ));
                    }
                }
                self.refresh(rights, e.at);
            }
            Event::Intended(e) => {
                self.open(e.digest, e.at)?;
                self.require(self.phase == Phase::Approved, "quorum", || {
                    format!("the request is {}, not approved", self.phase.word())
                })?;
                if let Rights::Now(authority) = rights {
                    self.require(self.is_met(rights, e.at), "quorum", || {
                        "the verdict is not met at the intent".into()
                    })?;
                    self.require(self.decided_under == authority.policy_set, "policy-set", || {
                        "the verdict is of a policy set that is no longer in force".into()
                    })?;
                    let standing = self.standing(rights, e.at);
                    self.require(e.approvers == standing, "approvers", || {
                        "the approvers are not those whose votes stand".into()
                    })?;
                    let minter =
                        authority.catalog.get(&self.terms.template).map(|s| s.minter.as_str());
                    self.require(minter == Some(e.minter.as_str()), "minter", || {
                        "the minter is not the scope's".into()
                    })?;
                    self.require(agent_lives(&self.terms, authority), "agent-live", || {
                        "the agent or its instance is revoked".into()
                    })?;
                    authority.covers(&self.terms, e.at)?;
                }
                self.phase = Phase::Intended;
            }
            Event::Issued(e) => {
                self.require(self.phase == Phase::Intended, "intent", || {
                    format!("issued while {}", self.phase.word())
                })?;
                self.require(e.digest == self.digest, "digest", || {
                    "issued under another digest".into()
                })?;
                let ends = e.at.plus_seconds(i64::from(self.terms.ttl_s));
                self.require(e.expires_at > e.at && e.expires_at <= ends, "lifetime", || {
                    format!("the credential ends at {}, its approval at {ends}", e.expires_at)
                })?;
                if let Rights::Now(authority) = rights {
                    authority.outlasts(&self.terms, e.expires_at)?;
                }
                self.phase = Phase::Granted;
                self.lease = Some(Lease {
                    id: e.lease_id.clone(),
                    issued_at: e.at,
                    expires_at: e.expires_at,
                    revocable: e.revocable,
                    state: LeaseState::Live,
                    effect: String::new(),
                    facts: e.facts.clone(),
                });
            }
            Event::Failed(e) => {
                self.require(self.phase == Phase::Intended, "intent", || {
                    format!("failed while {}", self.phase.word())
                })?;
                self.require(e.digest == self.digest, "digest", || {
                    "failed under another digest".into()
                })?;
                self.end(Phase::Failed, &e.code);
            }
            Event::Unknown(e) => {
                self.require(self.phase == Phase::Intended, "intent", || {
                    format!("unknown while {}", self.phase.word())
                })?;
                self.require(e.digest == self.digest, "digest", || {
                    "unknown under another digest".into()
                })?;
                self.end(Phase::Unknown, "outcome_unknown");
            }
            Event::Cancelled(e) => {
                self.require(self.phase.is_open(), "terminal", || {
                    format!("the request is {} already", self.phase.word())
                })?;
                self.require(e.digest == self.digest, "digest", || "another digest".into())?;
                self.end(Phase::Cancelled, "cancelled");
            }
            Event::Expired(e) if e.lease_id.is_none() => {
                bound(e.digest, self.digest)?;
                self.require(self.phase.is_open(), "terminal", || {
                    format!("the request is {} already", self.phase.word())
                })?;
                self.require(e.at >= self.expires_at(), "deadline", || {
                    format!("it ends at {} only", self.expires_at())
                })?;
                self.end(Phase::Expired, "expired");
            }
            Event::Expired(Expired { digest, .. })
            | Event::Renewed(Renewed { digest, .. })
            | Event::Revoked(Revoked { digest, .. }) => {
                bound(*digest, self.digest)?;
                let until = self.lease.as_ref().map(|lease| self.approved_until(lease));
                match (&mut self.lease, until) {
                    (Some(lease), Some(until)) => lease.step(event, until)?,
                    _ => return Err(no_live_lease()),
                }
                if let (Event::Renewed(e), Rights::Now(authority)) = (event, rights) {
                    authority.outlasts(&self.terms, e.expires_at)?;
                }
            }
            _ => {
                return Err(Violation::rule(
                    "kind",
                    format!("`{}` cannot follow here", event.kind()),
                ));
            }
        }
        Ok(())
    }

    fn in_force(&self, policy_set: Digest, rights: Rights<'_>) -> Result<(), Violation> {
        match rights {
            Rights::Now(a) => self.require(Some(policy_set) == a.policy_set, "policy-set", || {
                "it names a policy set that is not in force".into()
            }),
            Rights::Past => Ok(()),
        }
    }

    /// Where more than one must approve, a vote that would count as another's is refused, with why.
    fn second_hand(&self, e: &Voted, rights: Rights<'_>) -> Result<(), Violation> {
        let Rights::Now(authority) = rights else { return Ok(()) };
        if self.verdict.as_ref().is_none_or(|v| v.quorum < 2) {
            return Ok(());
        }
        let standing = self.standing(rights, e.at);
        match same_hand(authority, &e.human, &standing, e.at) {
            None => Ok(()),
            Some(other) => {
                let detail = format!(
                    "one of `{}` and `{other}`, who approved, made a token, link, passkey or \
                     account for the other: their two votes count as one",
                    e.human
                );
                Err(Violation::coded("eligible", "same_hand", detail))
            }
        }
    }

    /// A scope may demand that an approver confirms a fact of the request.
    fn confirmed(&self, e: &Voted, rights: Rights<'_>) -> Result<(), Violation> {
        let Rights::Now(authority) = rights else { return Ok(()) };
        let scope = authority.catalog.get(&self.terms.template);
        let wanted = scope.and_then(|s| s.confirm.as_ref());
        if wanted.is_none() || e.confirmed.as_ref() == wanted {
            return Ok(());
        }
        Err(Violation::coded(
            "confirmation",
            "confirmation_required",
            "approving this scope takes a confirmed fact of the request".into(),
        ))
    }
}
