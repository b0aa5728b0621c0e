//! One request: its terms, whose digest is D, and its state as the fold of its leaves.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::authority::Authority;
use crate::canonical::{self, CanonicalError};
use crate::digest::Digest;
use crate::eligible::{self, Ineligible};
use crate::event::{Decision, Event, Expired, Renewed, Requested, Revoked, Voted};
use crate::id::{AgentId, DelegationId, HumanId, InstanceId, LeaseId, RequestId, ScopeName};
use crate::param::Params;
use crate::passkey::{NONCE_LIFE_MS, PasskeyProof};
use crate::process::LocalProcess;
use crate::scope::Scope;
use crate::state::Violation;
use crate::time::Timestamp;
use crate::verdict::{Strength, Verdict, VerdictKind};

/// How long an approved request waits to be collected, unless configured: 10 min.
pub const COLLECT_MS: i64 = 600_000;
/// Most questions in the life of a request.
pub const MAX_QUESTIONS: usize = 5;

/// Everything D covers. Free text and sensitive values enter as salted commitments.
// In canonical order, as the log writes them: nothing need be sorted for a leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// Who asks.
    pub agent: AgentId,
    /// When the undecided request ends; pauses do not change it.
    pub decide_by: Timestamp,
    /// Agents that passed the right on, first the outermost.
    pub delegation: Vec<AgentId>,
    /// By which delegation; absent: by the agent's own right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegation_id: Option<DelegationId>,
    /// Through which sidecar.
    pub instance: InstanceId,
    /// The human on whose behalf the task runs, when proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<HumanId>,
    /// Origin of the log.
    pub origin: String,
    /// Open parameters.
    pub params: Params,
    /// The process that asked, as the sidecar saw it; absent where a token names the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<LocalProcess>,
    /// Commitment to the reason.
    pub reason: Digest,
    /// The request.
    pub request_id: RequestId,
    /// What is asked for.
    pub scope: ScopeName,
    /// Commitments to sensitive parameters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sealed_params: BTreeMap<String, Digest>,
    /// Commitment to the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Digest>,
    /// Digest of the scope's declaration, template included.
    pub template: Digest,
    /// Lifetime in seconds.
    pub ttl_s: u32,
    /// Version of this structure: 1.
    pub version: u32,
    /// Which local workload.
    pub workload: String,
}

impl Terms {
    /// D.
    ///
    /// # Errors
    /// Never for terms that were parsed; the canonical form has no floats or nulls.
    pub fn digest(&self) -> Result<Digest, CanonicalError> {
        canonical::digest("request", self)
    }

    /// What makes two asks identical (never reason or task); across instances they are separate.
    ///
    /// # Errors
    /// As [`Terms::digest`].
    pub fn identity(&self) -> Result<Digest, CanonicalError> {
        let asked = (
            &self.agent,
            &self.instance,
            &self.workload,
            &self.delegation,
            self.on_behalf_of.as_ref().map_or("", HumanId::as_str),
            &self.scope,
            &self.template,
            &self.params,
            &self.sealed_params,
            self.ttl_s,
        );
        match (&self.process, &self.delegation_id) {
            (None, None) => canonical::digest("identical", &asked),
            (Some(process), None) => canonical::digest("identical", &(asked, process.identity())),
            (process, Some(id)) => {
                let process = process.as_ref().map(LocalProcess::identity).into_iter();
                canonical::digest("identical", &(asked, id, process.collect::<Vec<_>>()))
            }
        }
    }

    /// What a deny sticks to: agent, scope and parameters only.
    ///
    /// # Errors
    /// As [`Terms::digest`].
    pub fn deny_key(&self) -> Result<Digest, CanonicalError> {
        canonical::digest("denied", &(&self.agent, &self.scope, &self.params, &self.sealed_params))
    }

    /// Checks that `new` is these terms made narrower and nothing else.
    ///
    /// # Errors
    /// Says which field is wider or changed.
    pub fn narrows_to(&self, new: &Self, scope: &Scope) -> Result<(), String> {
        let same = Self { params: self.params.clone(), ttl_s: self.ttl_s, ..new.clone() };
        if &same != self {
            return Err("only the lifetime and parameters can be narrowed".into());
        }
        if new.ttl_s == 0 || new.ttl_s > self.ttl_s {
            return Err(format!("ttl: {} s is not within {} s", new.ttl_s, self.ttl_s));
        }
        if self.params.keys().ne(new.params.keys()) {
            return Err("params: the same parameters must be there".into());
        }
        for ((name, old), (_, value)) in self.params.iter().zip(&new.params) {
            let ordered = scope.params.get(name).is_some_and(|s| s.narrower_or_equal(old, value));
            if !ordered {
                return Err(format!(
                    "params.{name}: `{}` is not within `{}`",
                    value.text(),
                    old.text()
                ));
            }
        }
        if new.ttl_s == self.ttl_s && new.params == self.params {
            return Err("nothing is narrower".into());
        }
        Ok(())
    }
}

/// Where a request stands, in the order of its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Recorded, not yet decided.
    Recorded,
    /// Waiting for people.
    Pending,
    /// May be minted when the agent collects.
    Approved,
    /// The grant is spent; the backend is being called.
    Intended,
    /// The credential was issued.
    Granted,
    /// Refused by policy or a person.
    Denied,
    /// Time ran out before the intent.
    Expired,
    /// Ended by the agent or a revocation before the intent.
    Cancelled,
    /// The backend refused.
    Failed,
    /// The backend's answer was lost.
    Unknown,
}

impl Phase {
    /// Before the intent: it can still be decided.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Recorded | Self::Pending | Self::Approved)
    }
    /// The word on the wire.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Intended => "intended",
            Self::Granted => "granted",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// One person's standing or past vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vote {
    /// Index of its leaf.
    pub index: u64,
    /// Who.
    pub human: HumanId,
    /// For or against.
    pub decision: Decision,
    /// When.
    pub at: Timestamp,
    /// Through what.
    pub channel: String,
    /// D that was voted on.
    pub digest: Digest,
    /// Proof of strength `passkey` came with it: which passkey signed, and with which nonce.
    pub signed: Option<Signed>,
    /// Still counts: not withdrawn, not voided by a question, an answer or a narrowing.
    pub live: bool,
}

impl Vote {
    /// True when a passkey signed it that has not ended since.
    fn signs_still(&self, rights: Rights<'_>) -> bool {
        let lives = |id: &str| match rights {
            Rights::Now(a) => a.passkeys.get(id).is_some_and(|p| !p.revoked),
            Rights::Past => true,
        };
        self.signed.as_ref().is_some_and(|s| lives(&s.credential_id))
    }
}

/// By what a vote was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The passkey's credential id.
    pub credential_id: String,
    /// Spent by this vote.
    pub nonce: String,
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Ordinal of its leaf within the request, from 0: also its id.
    pub ordinal: u64,
    /// Who asked.
    pub human: HumanId,
    /// When.
    pub at: Timestamp,
    /// Ordinal and time of the answer.
    pub answered: Option<(u64, Timestamp)>,
    /// Closed without an answer, by its asker's approval.
    pub closed: bool,
}

/// The life of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// When the credential began.
    pub issued_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// It can be ended early.
    pub revocable: bool,
    /// `live`, `withdrawn`, `revoked` or `expired`.
    pub state: LeaseState,
    /// What ending it did.
    pub effect: String,
    /// What identifies it at the backend.
    pub facts: BTreeMap<String, String>,
}

impl Lease {
    /// Folds a leaf about this very lease in: its end, its extension, its revocation.
    /// It lasts until `until` at most, however often it is extended.
    fn step(&mut self, event: &Event, until: Timestamp) -> Result<(), Violation> {
        let refuse = |rule, detail: String| Err(Violation::rule(rule, detail));
        let named = match event {
            Event::Expired(e) => e.lease_id.as_ref(),
            Event::Renewed(e) => Some(&e.lease_id),
            Event::Revoked(e) => Some(&e.lease_id),
            _ => None,
        };
        if named != Some(&self.id) || !self.state.is_valid() {
            return Err(no_live_lease());
        }
        match event {
            Event::Expired(e) => {
                if e.at < self.expires_at {
                    return refuse("lease", format!("the lease ends at {} only", self.expires_at));
                }
                self.state = LeaseState::Expired;
            }
            Event::Renewed(e) => {
                if self.state != LeaseState::Live {
                    return refuse("lease", "a withdrawn lease is not extended".into());
                }
                if e.expires_at > until {
                    return refuse("lifetime", format!("renewed beyond its last end, {until}"));
                }
                if e.at >= self.expires_at || e.expires_at <= e.at {
                    return refuse(
                        "lifetime",
                        format!("renewed at {} until {}", e.at, e.expires_at),
                    );
                }
                self.expires_at = e.expires_at;
            }
            Event::Revoked(e) => {
                self.state =
                    if e.still_valid { LeaseState::Withdrawn } else { LeaseState::Revoked };
                self.effect.clone_from(&e.effect);
            }
            _ => {}
        }
        Ok(())
    }
}

fn no_live_lease() -> Violation {
    Violation::rule("lease", "no live lease of that id".into())
}

/// Whether a credential still lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// Valid until its end.
    Live,
    /// No longer served, but its backend could not end it: valid until its own end.
    Withdrawn,
    /// Ended early.
    Revoked,
    /// Ended by itself.
    Expired,
}

impl LeaseState {
    /// The credential may still be valid: a leaf may tell of its end.
    #[must_use]
    pub fn is_valid(self) -> bool {
        matches!(self, Self::Live | Self::Withdrawn)
    }
}

/// What is left of a request once its credential was issued: all that its later leaves are judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// D that was minted.
    pub digest: Digest,
    /// How far its lease can be extended: for the lifetime that was approved, and no further than the
    /// delegation under which it was issued.
    pub until: Timestamp,
    /// Time of the request's last leaf.
    pub last_at: Timestamp,
    /// The lease.
    pub lease: Lease,
}

impl Granted {
    /// Folds the next leaf of the request in.
    ///
    /// # Errors
    /// Whenever [`RequestState::apply`] refuses it, by that rule where it is about the lease.
    pub fn apply(
        &mut self,
        index: u64,
        event: &Event,
        rights: Rights<'_>,
    ) -> Result<(), Violation> {
        let (Event::Expired(Expired { digest, .. })
        | Event::Renewed(Renewed { digest, .. })
        | Event::Revoked(Revoked { digest, .. })) = event
        else {
            return Err(Violation::rule("terminal", "the request is granted already".into()));
        };
        in_order(index, self.last_at, event, rights)?;
        bound(*digest, self.digest)?;
        self.lease.step(event, self.until)?;
        self.last_at = event.at();
        Ok(())
    }
}

/// A leaf is not before its request's last one, nor before what the log has seen.
fn in_order(
    index: u64,
    last_at: Timestamp,
    event: &Event,
    rights: Rights<'_>,
) -> Result<(), Violation> {
    if event.at() < last_at {
        return Err(Violation::rule("time", "time runs backwards within the request".into()));
    }
    match rights {
        Rights::Now(authority) => authority.not_before(index, event.at()),
        Rights::Past => Ok(()),
    }
}

fn bound(given: Digest, present: Digest) -> Result<(), Violation> {
    if given == present {
        return Ok(());
    }
    Err(Violation::rule("digest", "the digest is not the request's present one".into()))
}

/// By whose rights an event is folded.
#[derive(Debug, Clone, Copy)]
pub enum Rights<'a> {
    /// At its own moment: everything is checked against the authority of that moment.
    Now(&'a Authority),
    /// Later, from leaves that are proven to be in the log: rights were checked when they were
    /// written, and are checked again at the next step that is taken now.
    Past,
}

/// The state of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestState {
    /// The present terms.
    pub terms: Terms,
    /// D of the present terms.
    pub digest: Digest,
    /// The terms as first asked, when they were narrowed since.
    pub original: Option<Terms>,
    /// When it was recorded.
    pub requested_at: Timestamp,
    /// The lease it replaces.
    pub renews: Option<LeaseId>,
    /// How many leaves it has: what compare-and-set compares.
    pub version: u64,
    /// Index of its last leaf.
    pub last_index: u64,
    /// Time of its last leaf.
    pub last_at: Timestamp,
    /// Where it stands.
    pub phase: Phase,
    /// The verdict in force, none before the first.
    pub verdict: Option<Verdict>,
    /// Voters whom policy let approve no longer when it last decided.
    pub excluded: BTreeSet<HumanId>,
    /// The policy set of the last verdict; must be in force still at the intent.
    pub decided_under: Option<Digest>,
    /// What earlier verdicts demand of narrowed terms as well.
    pub floor: Option<Verdict>,
    /// Votes, in order.
    pub votes: Vec<Vote>,
    /// Questions, in order.
    pub questions: Vec<Question>,
    /// Ordinal within the request of the last question, answer or narrowing leaf.
    pub last_seen: Option<u64>,
    /// When an undecided request ends, pauses included.
    pub deadline: Timestamp,
    /// Pause still available, in milliseconds.
    pub pause_left_ms: i64,
    /// Since when its votes suffice as they were cast; whether they still do is asked at the intent.
    pub approved_at: Option<Timestamp>,
    /// A code for the end: `denied`, `ttl_too_long`, a failure's code; empty before.
    pub end_code: String,
    /// The lease, once issued.
    pub lease: Option<Lease>,
}

impl RequestState {
    /// The state after the first leaf.
    ///
    /// # Errors
    /// When D is not the digest of the terms, or the terms do not belong to this log, agent or scope.
    pub fn begin(index: u64, e: &Requested, rights: Rights<'_>) -> Result<Self, Violation> {
        let digest = e.terms.digest().map_err(|x| Violation::rule("canonical", x.to_string()))?;
        Self::begin_with(index, e.clone(), digest, rights)
    }

    /// The state after the first leaf, whose terms have this `digest`.
    pub(crate) fn begin_with(
        index: u64,
        e: Requested,
        digest: Digest,
        rights: Rights<'_>,
    ) -> Result<Self, Violation> {
        let t = &e.terms;
        let refuse = |rule, detail: String| Err(Violation::rule(rule, detail));
        if digest != e.digest {
            return refuse("digest", "the digest is not that of the terms".into());
        }
        if t.version != 1 || t.request_id != e.request_id {
            return refuse("digest", "the terms are of another version or request".into());
        }
        if let Rights::Now(authority) = rights {
            if !authority.may_name(index, &t.origin) {
                return refuse("origin", format!("the terms name the log `{}`", t.origin));
            }
            if !agent_lives(t, authority) {
                return refuse(
                    "agent-live",
                    format!("agent `{}` or its instance is unknown or revoked", t.agent),
                );
            }
            authority.not_before(index, e.at)?;
            if authority.scopes.get(&t.scope) != Some(&t.template) {
                return refuse(
                    "scope-pinned",
                    format!("scope `{}` is not in force with this template", t.scope),
                );
            }
            authority.covers(t, e.at)?;
        }
        if t.ttl_s == 0 || t.decide_by <= e.at {
            return refuse("terms", "no lifetime, or no time to decide".into());
        }
        Ok(Self {
            digest,
            original: None,
            requested_at: e.at,
            renews: e.renews,
            version: 1,
            last_index: index,
            last_at: e.at,
            phase: Phase::Recorded,
            verdict: None,
            decided_under: None,
            excluded: BTreeSet::new(),
            floor: None,
            votes: Vec::new(),
            questions: Vec::new(),
            last_seen: None,
            deadline: t.decide_by,
            pause_left_ms: t.decide_by.since(e.at),
            approved_at: None,
            end_code: String::new(),
            lease: None,
            terms: e.terms,
        })
    }

    /// The question that waits for its answer.
    #[must_use]
    pub fn open_question(&self) -> Option<&Question> {
        self.questions.iter().find(|q| q.answered.is_none() && !q.closed)
    }

    /// When time ends the request: the collect bound once approved, else the deadline, which an open
    /// question defers by what is left of the pause.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        match (self.approved_at, self.open_question()) {
            (Some(at), _) if self.phase.is_open() => at.plus_millis(COLLECT_MS),
            (_, Some(_)) => self.deadline.plus_millis(self.pause_left_ms),
            _ => self.deadline,
        }
    }

    /// Distinct people whose approval of the present D stands and who are eligible at `now`. Of two
    /// who voted, one of whom could act as the other, the first counts: both may be one person.
    ///
    /// Two as whom the same third person could act both count: in a new installation every token is
    /// made by its one operator. The audit's report names those votes.
    #[must_use]
    pub fn standing(&self, rights: Rights<'_>, now: Timestamp) -> BTreeSet<HumanId> {
        let Some(verdict) = &self.verdict else { return BTreeSet::new() };
        let valid = self.votes.iter().filter(|v| {
            v.live
                && v.decision == Decision::Approve
                && v.digest == self.digest
                && !self.excluded.contains(&v.human)
                && (verdict.strength == Strength::Chat || v.signs_still(rights))
                && match rights {
                    Rights::Now(a) => eligible::check(self, a, &v.human, &v.channel, now).is_ok(),
                    Rights::Past => true,
                }
        });
        let mut counted = BTreeSet::new();
        for vote in valid {
            let alone = match rights {
                Rights::Now(a) => same_hand(a, &vote.human, &counted, now).is_none(),
                Rights::Past => true,
            };
            if alone {
                counted.insert(vote.human.clone());
            }
        }
        counted
    }

    /// Whether the verdict in force is met at `now`.
    #[must_use]
    pub fn is_met(&self, rights: Rights<'_>, now: Timestamp) -> bool {
        match &self.verdict {
            Some(v) if v.kind == VerdictKind::Allow => v.admits_ttl(self.terms.ttl_s),
            Some(v) if v.kind == VerdictKind::Ask => {
                v.admits_ttl(self.terms.ttl_s)
                    && self.open_question().is_none()
                    && v.quorum > 0
                    && self.standing(rights, now).len() >= v.quorum as usize
            }
            _ => false,
        }
    }

    /// Folds the next leaf of this request in.
    ///
    /// # Errors
    /// When the rules forbid the event here. The state may then be half changed: drop it.
    pub fn apply(
        &mut self,
        index: u64,
        event: &Event,
        rights: Rights<'_>,
    ) -> Result<(), Violation> {
        self.step(index, event, rights)?;
        self.version += 1;
        self.last_index = index;
        self.last_at = event.at();
        Ok(())
    }

    /// What is left once the credential was issued and while it may be valid; none before, and after.
    #[must_use]
    pub fn granted(&self, authority: &Authority) -> Option<Granted> {
        let lease = self.lease.as_ref().filter(|lease| lease.state.is_valid())?;
        let approved = self.approved_until(lease);
        let ends = authority.lasts(&self.terms).unwrap_or(approved);
        let (digest, until, last_at) = (self.digest, approved.min(ends), self.last_at);
        Some(Granted { digest, until, last_at, lease: lease.clone() })
    }

    /// How far people or policy let a lease be extended.
    fn approved_until(&self, lease: &Lease) -> Timestamp {
        lease.issued_at.plus_seconds(i64::from(self.terms.ttl_s))
    }

    /// The state after a request's proven leaves, in order.
    ///
    /// # Errors
    /// When the first is not `requested` or the rules forbid one: leaves are missing or reordered.
    pub fn refold<'e>(
        leaves: impl IntoIterator<Item = (u64, &'e Event)>,
    ) -> Result<Self, Violation> {
        let mut leaves = leaves.into_iter();
        let mut state = match leaves.next() {
            Some((index, Event::Requested(e))) => Self::begin(index, e, Rights::Past)?,
            _ => return Err(Violation::rule("request-known", "its first leaf is missing".into())),
        };
        for (index, event) in leaves {
            state.apply(index, event, Rights::Past)?;
        }
        Ok(state)
    }

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

    fn step(&mut self, index: u64, event: &Event, rights: Rights<'_>) -> Result<(), Violation> {
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

fn agent_lives(terms: &Terms, authority: &Authority) -> bool {
    authority.agents.get(&terms.agent).is_some_and(|a| !a.revoked)
        && authority
            .instances
            .get(&terms.instance)
            .is_some_and(|i| i.agent == terms.agent && !i.revoked)
}

/// Who of these could act as `human`, or as whom `human` could act.
fn same_hand<'a>(
    authority: &Authority,
    human: &HumanId,
    of: &'a BTreeSet<HumanId>,
    now: Timestamp,
) -> Option<&'a HumanId> {
    let could = |one: &HumanId, other: &HumanId| authority.stand_ins(other, now).any(|x| x == one);
    of.iter().find(|other| could(human, other) || could(other, human))
}
