//! What people did lately: from what is committed, and at the start from the log's last leaves. It
//! feeds the bounds by the hour, `/metrics` and the console's page, and decides nothing else.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use grantwright_domain::{AgentId, Decision, Event, HumanId, RequestId, Timestamp, VerdictKind};
use grantwright_store::StoreError;

use crate::core::Broker;

/// For how long it remembers.
pub const KEPT_MS: i64 = 7 * 86_400_000;
/// An hour.
pub const HOUR_MS: i64 = 3_600_000;
/// A day.
pub const DAY_MS: i64 = 86_400_000;
/// A decision below this was hardly read.
pub const QUICK_MS: i64 = 5_000;
const MINUTE_MS: i64 = 60_000;
/// Most spans whose measures are kept.
const MOST_MADE: usize = 4;
/// Most acts that it remembers.
const MOST: usize = 200_000;
/// Most leaves that are read at the start.
const MOST_LEAVES: u64 = 500_000;
/// Leaves read at once.
const PAGE: u32 = 4096;
/// See the module.
#[derive(Debug, Default)]
pub struct Pulse {
    acts: VecDeque<Act>,
    open: HashMap<RequestId, Open>,
    last: HashMap<HumanId, Timestamp>,
    /// The last request that was made: its verdict follows in the same commit.
    fresh: Option<(RequestId, AgentId)>,
    /// How many acts there ever were.
    heard: u64,
    /// Measures as they were made last.
    made: Vec<Made>,
}

/// Measures, and what they were made of.
#[derive(Debug)]
struct Made {
    heard: u64,
    minute: i64,
    measures: Arc<Measures>,
}

/// Something that happened between an agent and people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// People were asked.
    Asked(AgentId),
    /// A person voted.
    Voted {
        /// Who.
        human: HumanId,
        /// For or against.
        decision: Decision,
        /// Since people were asked, in milliseconds.
        took_ms: i64,
        /// At most so long they can have looked at it: since they were asked, since others last
        /// changed it, since their own last vote.
        looked_ms: i64,
    },
    /// A person asked back.
    Questioned(HumanId),
    /// Time ended it undecided.
    Expired,
}

#[derive(Debug)]
struct Open {
    asked_at: Timestamp,
    changed: Option<(Timestamp, Option<HumanId>)>,
    approved: bool,
}

impl Pulse {
    /// Takes up what was committed.
    pub fn heard(&mut self, events: &[Event]) {
        for event in events {
            self.hear(event);
        }
    }

    fn hear(&mut self, event: &Event) {
        let at = event.at();
        match event {
            Event::Requested(e) => {
                self.fresh = Some((e.request_id.clone(), e.terms.agent.clone()));
            }
            Event::Decided(e) if e.verdict.kind == VerdictKind::Ask => {
                // Decided anew after a narrowing or at collection, it is the same request.
                let fresh = self.fresh.take().filter(|(request, _)| *request == e.request_id);
                if let Some((request, agent)) = fresh {
                    let open = Open { asked_at: at, changed: None, approved: false };
                    self.open.insert(request, open);
                    self.push(at, What::Asked(agent));
                }
            }
            Event::Narrowed(e) => self.change(&e.request_id, at, Some(e.human.clone())),
            Event::Answered(e) => self.change(&e.request_id, at, None),
            Event::Questioned(e) => self.push(at, What::Questioned(e.human.clone())),
            Event::Withdrawn(e) => {
                if let Some(open) = self.open.get_mut(&e.request_id) {
                    open.approved = false;
                }
            }
            Event::Voted(e) => self.voted(e),
            Event::Expired(e) if e.lease_id.is_none() => {
                let open = self.open.remove(&e.request_id);
                if open.is_some_and(|open| !open.approved) {
                    self.push(at, What::Expired);
                }
            }
            _ => {}
        }
    }

    fn voted(&mut self, e: &grantwright_domain::event::Voted) {
        let Some(open) = self.open.get_mut(&e.request_id) else { return };
        open.approved = e.decision == Decision::Approve;
        let changed = open.changed.as_ref().filter(|(_, by)| by.as_ref() != Some(&e.human));
        let mut since = open.asked_at.max(changed.map_or(open.asked_at, |(at, _)| *at));
        if let Some(last) = self.last.insert(e.human.clone(), e.at) {
            since = since.max(last);
        }
        let what = What::Voted {
            human: e.human.clone(),
            decision: e.decision,
            took_ms: e.at.since(open.asked_at).max(0),
            looked_ms: e.at.since(since).max(0),
        };
        self.push(e.at, what);
    }

    fn change(&mut self, request: &RequestId, at: Timestamp, by: Option<HumanId>) {
        if let Some(open) = self.open.get_mut(request) {
            open.changed = Some((at, by));
        }
    }

    fn push(&mut self, at: Timestamp, what: What) {
        let old = at.plus_millis(-KEPT_MS);
        while self.acts.len() >= MOST || self.acts.front().is_some_and(|act| act.at < old) {
            self.acts.pop_front();
        }
        if self.open.len() >= MOST {
            self.open.retain(|_, open| open.asked_at >= old);
        }
        if self.last.len() >= MOST {
            self.last.retain(|_, last| *last >= old);
        }
        self.acts.push_back(Act { at, what });
        self.heard += 1;
    }

    fn since(&self, start: Timestamp) -> impl Iterator<Item = &Act> {
        self.acts.iter().rev().take_while(move |act| act.at >= start)
    }

    /// How many requests of the agent reached people since; and when the oldest of them did.
    #[must_use]
    pub fn asks_of(&self, agent: &AgentId, start: Timestamp) -> (u32, Option<Timestamp>) {
        self.count(start, |what| matches!(what, What::Asked(by) if by == agent))
    }

    /// How many approvals the person gave since; and when the oldest of them.
    #[must_use]
    pub fn approvals_of(&self, person: &HumanId, start: Timestamp) -> (u32, Option<Timestamp>) {
        self.count(start, |what| {
            matches!(what, What::Voted { human, decision: Decision::Approve, .. } if human == person)
        })
    }

    fn count(&self, start: Timestamp, counts: impl Fn(&What) -> bool) -> (u32, Option<Timestamp>) {
        let (mut n, mut oldest) = (0u32, None);
        for act in self.since(start).filter(|act| counts(&act.what)) {
            (n, oldest) = (n.saturating_add(1), Some(act.at));
        }
        (n, oldest)
    }

    /// The measures of everybody since the whole minute before `start`: made anew when something
    /// happened, or a minute passed.
    pub fn measures(&mut self, start: Timestamp) -> Arc<Measures> {
        let minute = start.millis().div_euclid(MINUTE_MS);
        if let Some(made) = self.made.iter().find(|m| m.minute == minute && m.heard == self.heard) {
            return Arc::clone(&made.measures);
        }
        let measures = Arc::new(self.measured(Timestamp::from_millis(minute * MINUTE_MS)));
        let heard = self.heard;
        self.made.retain(|m| m.heard == heard && m.minute != minute);
        if self.made.len() >= MOST_MADE {
            self.made.clear();
        }
        self.made.push(Made { heard, minute, measures: Arc::clone(&measures) });
        measures
    }

    fn measured(&self, start: Timestamp) -> Measures {
        let mut out = Measures::default();
        let mut took = Vec::new();
        let mut looked: BTreeMap<&HumanId, Vec<i64>> = BTreeMap::new();
        let mut days: BTreeMap<(&HumanId, i64), u64> = BTreeMap::new();
        for act in self.since(start) {
            match &act.what {
                What::Asked(_) => out.asked += 1,
                What::Expired => out.expired += 1,
                What::Questioned(human) => {
                    out.questions += 1;
                    out.people.entry(human.clone()).or_default().questions += 1;
                }
                What::Voted { human, decision, took_ms, looked_ms } => {
                    let person = out.people.entry(human.clone()).or_default();
                    match decision {
                        Decision::Approve => person.approvals += 1,
                        Decision::Deny => person.denials += 1,
                    }
                    person.quick += u64::from(*looked_ms < QUICK_MS);
                    took.push(*took_ms);
                    looked.entry(human).or_default().push(*looked_ms);
                    *days.entry((human, act.at.millis().div_euclid(DAY_MS))).or_default() += 1;
                }
            }
        }
        took.sort_unstable();
        out.took = took;
        for (human, mut all) in looked {
            all.sort_unstable();
            if let Some(person) = out.people.get_mut(human) {
                person.looked_ms = rank(&all, 50).unwrap_or_default();
            }
        }
        for ((human, _), n) in days {
            if let Some(person) = out.people.get_mut(human) {
                person.busiest_day = person.busiest_day.max(n);
            }
        }
        out
    }
}

/// What people did in a time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measures {
    /// Requests that reached people.
    pub asked: u64,
    /// Requests that time ended undecided.
    pub expired: u64,
    /// Questions.
    pub questions: u64,
    /// From the ask to each vote, in milliseconds, the least first.
    pub took: Vec<i64>,
    /// By person.
    pub people: BTreeMap<HumanId, Reviewer>,
}

/// What one person did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reviewer {
    /// Approvals.
    pub approvals: u64,
    /// Denials.
    pub denials: u64,
    /// Questions.
    pub questions: u64,
    /// Votes within five seconds.
    pub quick: u64,
    /// Half of the votes took less, in milliseconds.
    pub looked_ms: i64,
    /// Most votes on one day (UTC).
    pub busiest_day: u64,
}

impl Measures {
    /// The sum over everybody.
    #[must_use]
    pub fn all(&self) -> Reviewer {
        self.people.values().fold(Reviewer::default(), |sum, p| Reviewer {
            approvals: sum.approvals + p.approvals,
            denials: sum.denials + p.denials,
            questions: sum.questions + p.questions,
            quick: sum.quick + p.quick,
            looked_ms: 0,
            busiest_day: sum.busiest_day.max(p.busiest_day),
        })
    }

    /// So many of a hundred votes came within this, in milliseconds; none without votes.
    #[must_use]
    pub fn took(&self, percent: usize) -> Option<i64> {
        rank(&self.took, percent)
    }
}

/// The nearest rank of a sorted list.
fn rank(sorted: &[i64], percent: usize) -> Option<i64> {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied()
}

/// Reads the log's last leaves: what happened before the start.
///
/// # Errors
/// When the store cannot be read.
pub async fn restore(broker: &Broker) -> Result<(), StoreError> {
    let size = broker.store.head().size;
    let old = broker.now().plus_millis(-KEPT_MS);
    let mut pulse = Pulse::default();
    let mut requested: Option<Vec<u8>> = None;
    let mut next = size.saturating_sub(MOST_LEAVES);
    while next < size {
        let leaves = broker.store.leaves(next, PAGE).await?;
        let Some((last, _)) = leaves.last() else { break };
        next = last + 1;
        for (_, leaf) in leaves {
            // Most leaves are a busy agent's routine: they are not even parsed.
            let asks = match Event::kind_of(&leaf) {
                Some("requested") => {
                    requested = Some(leaf);
                    continue;
                }
                Some("decided") if asks_people(&leaf) => true,
                Some(
                    "answered" | "expired" | "narrowed" | "questioned" | "voted" | "withdrawn",
                ) => false,
                _ => continue,
            };
            let Ok(event) = Event::from_leaf(&leaf) else { continue };
            if event.at() < old {
                continue;
            }
            if asks && let Some(first) = requested.take().and_then(|l| Event::from_leaf(&l).ok()) {
                pulse.hear(&first);
            }
            pulse.hear(&event);
        }
    }
    broker.guards.restored(pulse);
    Ok(())
}

/// Of the leaf of a verdict.
fn asks_people(leaf: &[u8]) -> bool {
    std::str::from_utf8(leaf).is_ok_and(|text| text.contains("\"verdict\":\"ask\""))
}

/// Whether it hears this event; a request's first leaf only beside a verdict that asks people.
#[must_use]
pub fn matters(events: &[Event]) -> bool {
    events.iter().any(|event| match event {
        Event::Decided(e) => e.verdict.kind == VerdictKind::Ask,
        Event::Answered(_)
        | Event::Narrowed(_)
        | Event::Questioned(_)
        | Event::Voted(_)
        | Event::Withdrawn(_) => true,
        Event::Expired(e) => e.lease_id.is_none(),
        _ => false,
    })
}
