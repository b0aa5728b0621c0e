//! One place of a channel, and what waits to be said there: in fair order between agents, no faster
//! than the channel allows.

mod say;

use std::collections::{BTreeMap, HashSet, VecDeque};

use grantwright_approval::channel::Notice;
use grantwright_domain::{AgentId, Digest, RequestId, Timestamp};
use grantwright_store::StoreError;
use serde::{Deserialize, Serialize};

use self::say::save;
use super::{Courier, SendError};
use crate::core::Broker;

/// Kind of the rows of cards.
pub(super) const CARDS: &str = "chan-card";
/// Kind of the rows of notes.
pub(super) const NOTES: &str = "chan-note";
/// Kind of the rows of flood messages.
pub(super) const FLOODS: &str = "chan-flood";
/// More requests than this waiting to be shown in one place make a flood.
const FLOOD: usize = 20;
/// Least time between two changes of a flood message.
const FLOOD_EVERY_MS: i64 = 15_000;
/// The longest pause after failures.
const MOST_BACKOFF_MS: i64 = 60_000;
/// Most cards that are looked at in one turn without one being sent.
const LOOKS: usize = 256;

/// One request in one place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Posted {
    /// The place.
    pub place: String,
    /// Whose request.
    pub agent: AgentId,
    /// The message; none: not posted yet.
    pub reference: Option<String>,
    /// Digest of what it shows.
    pub shown: Option<Digest>,
    /// It can still be decided, as far as the message says.
    pub open: bool,
    /// It is shown in this one's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lead: Option<RequestId>,
    /// What it has in common with others that go into one message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Digest>,
    /// When it was to be shown first.
    #[serde(default)]
    pub at: Timestamp,
    /// Until when it is not shown: quiet hours.
    #[serde(default)]
    pub not_before: Timestamp,
    /// How far reminding went; see [`Step`].
    #[serde(default)]
    pub steps: u8,
}

/// How a request comes to a place.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// See [`Posted::group`].
    pub group: Option<Digest>,
    /// See [`Posted::not_before`].
    pub not_before: Timestamp,
}

/// Reminding, step by step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    /// Who is asked first was told.
    Told = 1,
    /// They were reminded.
    Reminded = 2,
    /// Everybody was told.
    Escalated = 4,
}

/// Something to say once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Note {
    /// Where.
    pub place: String,
    /// Under this request's card.
    pub thread: Option<RequestId>,
    /// What.
    pub notice: Notice,
}

/// The message that stands for a flood.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct FloodMessage {
    /// The place.
    pub place: String,
    /// The message; none: there is no flood.
    pub reference: Option<String>,
    /// What it shows.
    pub shown: Option<Digest>,
    /// When it was changed last, in milliseconds.
    pub at: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lane {
    place: String,
    next_at: Timestamp,
    failures: u32,
    cards: BTreeMap<RequestId, Posted>,
    changed: VecDeque<RequestId>,
    changing: HashSet<RequestId>,
    waiting: BTreeMap<AgentId, VecDeque<RequestId>>,
    /// Not shown before their time.
    held: std::collections::BTreeSet<(Timestamp, RequestId)>,
    /// Who shares the message of a request, in order.
    members: BTreeMap<RequestId, Vec<RequestId>>,
    /// The last message of each group.
    groups: BTreeMap<Digest, RequestId>,
    /// Whose turn it was last, and before.
    served: Option<AgentId>,
    served_before: Option<AgentId>,
    notes: VecDeque<(String, Note)>,
    flood: FloodMessage,
    class: u8,
}

/// What a lane works with.
pub(super) struct Context<'a> {
    pub broker: &'a Broker,
    pub courier: &'a dyn Courier,
    pub now: Timestamp,
}

enum Job {
    Card(RequestId),
    Note,
    Flood,
}

enum Done {
    Nothing,
    Sent,
}

enum Fault {
    Send(SendError),
    Store(StoreError),
}

impl From<SendError> for Fault {
    fn from(e: SendError) -> Self {
        Self::Send(e)
    }
}

impl From<StoreError> for Fault {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

/// The key of a row about a place: places may be longer than keys.
pub(super) fn place_key(place: &str) -> String {
    Digest::of("channel-place", place.as_bytes()).hex().chars().take(16).collect()
}

fn card_key(channel: &str, request: &RequestId, place: &str) -> String {
    format!("{channel}/{request}/{}", place_key(place))
}

impl Lane {
    pub(super) fn new(place: &str) -> Self {
        let flood = FloodMessage { place: place.into(), ..FloodMessage::default() };
        Self { place: place.into(), flood, ..Self::default() }
    }

    pub(super) fn has(&self, request: &RequestId) -> bool {
        self.cards.contains_key(request)
    }

    pub(super) fn size(&self) -> usize {
        self.cards.len()
    }

    pub(super) fn notes(&self) -> usize {
        self.notes.len()
    }

    /// When it has something to say next; none: nothing waits.
    pub(super) fn due(&self, most_cards: usize) -> Option<Timestamp> {
        let flood_at = Timestamp::from_millis(self.flood.at).plus_millis(FLOOD_EVERY_MS);
        let at_once = !self.changed.is_empty()
            || !self.notes.is_empty()
            || (!self.waiting.is_empty() && self.live() < most_cards)
            || (self.flood.reference.is_none() && self.waits() > FLOOD);
        let due = match (at_once, self.flood.reference.is_some()) {
            (true, _) => Some(self.next_at),
            (false, true) => Some(self.next_at.max(flood_at)),
            (false, false) => None,
        };
        let held = self.held.first().map(|(at, _)| *at);
        due.into_iter().chain(held).min()
    }

    /// Takes a row up again after a start.
    pub(super) fn restore(&mut self, request: RequestId, posted: Posted) {
        if let Some(group) = posted.group
            && posted.lead.is_none()
        {
            self.groups.insert(group, request.clone());
        }
        match &posted.lead {
            Some(lead) => self.members.entry(lead.clone()).or_default().push(request.clone()),
            None if posted.reference.is_some() => {
                if self.changing.insert(request.clone()) {
                    self.changed.push_back(request.clone());
                }
            }
            None if posted.not_before > Timestamp::default() => {
                self.held.insert((posted.not_before, request.clone()));
            }
            None => self.wait(&posted.agent, request.clone()),
        }
        self.cards.insert(request, posted);
    }

    fn wait(&mut self, agent: &AgentId, request: RequestId) {
        self.waiting.entry(agent.clone()).or_default().push_back(request);
    }

    /// What was held back until now waits for its turn.
    fn release(&mut self, now: Timestamp) {
        while let Some((at, request)) = self.held.first().cloned()
            && at <= now
        {
            self.held.pop_first();
            if let Some(agent) = self.cards.get(&request).map(|c| c.agent.clone()) {
                self.wait(&agent, request);
            }
        }
    }

    /// In whose message a new request of this group is shown.
    fn leader(&self, ctx: &Context<'_>, wanted: &Wanted) -> Option<RequestId> {
        let lead = self.groups.get(&wanted.group?)?;
        let card = self.cards.get(lead)?;
        let window = ctx.broker.config.guards.group_window_ms();
        let with = self.members.get(lead).map_or(0, Vec::len) + 1;
        let room = with < ctx.courier.channel().limits().most_grouped;
        let fits = card.open && room && ctx.now.since(card.at) <= window;
        fits.then(|| lead.clone())
    }

    pub(super) fn restore_flood(&mut self, flood: FloodMessage) {
        self.flood = flood;
    }

    pub(super) fn say(&mut self, key: String, note: Note) {
        self.notes.push_back((key, note));
    }

    /// A request is to be shown here, durably from now on.
    pub(super) async fn want(
        &mut self,
        ctx: &Context<'_>,
        request: &RequestId,
        agent: &AgentId,
        wanted: Wanted,
    ) -> Result<(), StoreError> {
        if self.has(request) {
            self.change(request);
            return Ok(());
        }
        let lead = self.leader(ctx, &wanted);
        let posted = Posted {
            place: self.place.clone(),
            agent: agent.clone(),
            reference: None,
            shown: None,
            open: true,
            lead: lead.clone(),
            group: wanted.group,
            at: ctx.now,
            not_before: wanted.not_before,
            steps: 0,
        };
        save(ctx, request, &posted).await?;
        self.restore(request.clone(), posted);
        if let Some(lead) = lead {
            self.change(&lead);
        }
        Ok(())
    }

    /// The request in whose message this one is shown: mostly its own.
    fn head(&self, request: &RequestId) -> RequestId {
        let lead = self.cards.get(request).and_then(|c| c.lead.clone());
        lead.unwrap_or_else(|| request.clone())
    }

    /// A request that may be shown here changed.
    pub(super) fn change(&mut self, request: &RequestId) {
        let head = self.head(request);
        let posted = self.cards.get(&head).is_some_and(|c| c.reference.is_some());
        if posted && self.changing.insert(head.clone()) {
            self.changed.push_back(head);
        }
    }

    /// What is shown here and open: its message's first request, and how far reminding went.
    pub(super) fn shown(&self) -> Vec<(RequestId, Posted)> {
        let shown = self.cards.iter().filter(|(_, card)| {
            let head = card.lead.as_ref().and_then(|lead| self.cards.get(lead)).unwrap_or(card);
            card.open && head.reference.is_some()
        });
        shown.map(|(id, card)| (id.clone(), card.clone())).collect()
    }

    /// Reminding went so far, durably.
    pub(super) async fn stepped(
        &mut self,
        ctx: &Context<'_>,
        request: &RequestId,
        steps: u8,
    ) -> Result<(), StoreError> {
        let Some(card) = self.cards.get_mut(request) else { return Ok(()) };
        card.steps |= steps;
        let card = card.clone();
        save(ctx, request, &card).await
    }

    fn live(&self) -> usize {
        self.cards.values().filter(|c| c.reference.is_some() && c.open).count()
    }

    /// Requests that wait to be shown.
    fn waits(&self) -> usize {
        self.waiting.values().map(|queue| self.count(queue)).sum()
    }

    fn count(&self, queue: &VecDeque<RequestId>) -> usize {
        let with = |request| 1 + self.members.get(request).map_or(0, Vec::len);
        queue.iter().map(with).sum()
    }

    /// Says the next thing, if it is time; true when something was sent.
    pub(super) async fn step(&mut self, ctx: &Context<'_>) -> Result<bool, SendError> {
        self.release(ctx.now);
        let mut sent = false;
        for _ in 0..LOOKS {
            if ctx.now < self.next_at {
                break;
            }
            let Some(job) = self.pick(ctx) else { break };
            let done = match &job {
                Job::Card(request) => self.card(ctx, request).await,
                Job::Note => self.note(ctx).await,
                Job::Flood => self.flood(ctx).await,
            };
            match done {
                Ok(Done::Nothing) => {}
                Ok(Done::Sent) => {
                    self.failures = 0;
                    let every = ctx.courier.channel().limits().message_every_ms;
                    self.next_at = ctx.now.plus_millis(every);
                    sent = true;
                }
                Err(fault) => {
                    if let Job::Card(request) = job {
                        self.turn_back(&request);
                        self.put_back(request);
                    }
                    return self.failed(ctx, fault).map(|()| sent);
                }
            }
        }
        Ok(sent)
    }

    /// The next job: changes, notes and new cards take turns.
    fn pick(&mut self, ctx: &Context<'_>) -> Option<Job> {
        let flood_due = ctx.now.millis().saturating_sub(self.flood.at) >= FLOOD_EVERY_MS;
        if flood_due && (self.flood.reference.is_some() || self.waits() > FLOOD) {
            self.flood.at = ctx.now.millis();
            return Some(Job::Flood);
        }
        for _ in 0..3 {
            self.class = (self.class + 1) % 3;
            let job = match self.class {
                0 => self.changed.pop_front().map(|request| {
                    self.changing.remove(&request);
                    Job::Card(request)
                }),
                1 => (!self.notes.is_empty()).then_some(Job::Note),
                _ if self.live() < ctx.courier.channel().limits().most_cards => {
                    self.next_waiting().map(Job::Card)
                }
                _ => None,
            };
            if job.is_some() {
                return job;
            }
        }
        None
    }

    /// The oldest request of the agent whose turn it is.
    fn next_waiting(&mut self) -> Option<RequestId> {
        let after = self.served.clone().and_then(|served| {
            let above = (std::ops::Bound::Excluded(served), std::ops::Bound::Unbounded);
            self.waiting.range(above).next().map(|(agent, _)| agent.clone())
        });
        let agent = after.or_else(|| self.waiting.keys().next().cloned())?;
        let queue = self.waiting.get_mut(&agent)?;
        let request = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&agent);
        }
        self.served_before = self.served.replace(agent);
        request
    }

    /// A new card was not sent: its agent keeps its turn.
    fn turn_back(&mut self, request: &RequestId) {
        if self.cards.get(request).is_some_and(|card| card.reference.is_none()) {
            self.served = self.served_before.take();
        }
    }

    fn put_back(&mut self, request: RequestId) {
        match self.cards.get(&request) {
            Some(card) if card.reference.is_none() => {
                self.waiting.entry(card.agent.clone()).or_default().push_front(request);
            }
            Some(_) if self.changing.insert(request.clone()) => self.changed.push_front(request),
            _ => {}
        }
    }

    fn failed(&mut self, ctx: &Context<'_>, fault: Fault) -> Result<(), SendError> {
        self.failures = self.failures.saturating_add(1);
        let doubled = 1000i64.saturating_mul(1 << self.failures.min(6));
        let spread = i64::from(u16::from_be_bytes(ctx.broker.random.bytes::<2>()));
        let pause = (doubled + doubled * spread / 131_072).min(MOST_BACKOFF_MS);
        let (pause, said) = match fault {
            Fault::Send(e @ SendError::Later(ms)) => (ms.clamp(1, 3_600_000), Err(e)),
            Fault::Send(e @ SendError::Barred(_)) => (MOST_BACKOFF_MS, Err(e)),
            Fault::Send(e) => (pause, Err(e)),
            Fault::Store(e) => (pause, Err(SendError::Down(e.to_string()))),
        };
        self.next_at = ctx.now.plus_millis(pause);
        said
    }
}
