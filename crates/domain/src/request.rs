//! One request: its terms, whose digest is D, and its state as the fold of its leaves.

mod lease;
mod steps;
mod terms;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::authority::Authority;
use crate::digest::Digest;
use crate::eligible;
use crate::event::{Decision, Event, Requested};
use crate::id::{HumanId, LeaseId};
use crate::state::Violation;
use crate::time::Timestamp;
use crate::verdict::{Strength, Verdict, VerdictKind};
pub use lease::{Granted, Lease, LeaseState};
pub use terms::Terms;

/// How long an approved request waits to be collected, unless configured: 10 min.
pub const COLLECT_MS: i64 = 600_000;
/// Most questions in the life of a request.
pub const MAX_QUESTIONS: usize = 5;

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
