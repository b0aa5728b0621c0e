//! One channel's desk: it follows the log, and sees that what is to be said is said, in every place
//! at its own pace. Of several brokers one at a time keeps the desk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use grantwright_domain::{RequestId, Timestamp};
use grantwright_store::StoreError;
use serde::de::DeserializeOwned;

use super::lane::{CARDS, Context, FLOODS, FloodMessage, Lane, NOTES, Note, Posted};
use super::{Courier, SendError};
use crate::core::Broker;

/// Kind of the row that says which broker keeps a desk.
const KEEPER: &str = "chan-keeper";
/// For how long a broker keeps a desk without saying so again.
const KEPT_MS: i64 = 15_000;
/// How often it says so.
const KEEP_EVERY_MS: i64 = 5_000;
/// A desk looks at least this often: other brokers commit too.
const LOOK_EVERY_MS: i64 = 1_000;
/// After the service asked to wait, its places take turns for so long, one message at a time.
const PACED_MS: i64 = 60_000;
/// Commits in quick succession are looked at together.
const GATHER: Duration = Duration::from_millis(20);

/// See the module.
pub struct Desk {
    /// How messages are carried.
    pub(super) courier: Arc<dyn Courier>,
    state: tokio::sync::Mutex<State>,
    stirred: tokio::sync::Notify,
}

#[derive(Default)]
pub(super) struct State {
    /// Names this keeper; none before it first tried.
    keeper: Option<Keeper>,
    /// What is durable was read.
    restored: bool,
    /// The next leaf to read.
    pub(super) cursor: u64,
    pub(super) lanes: BTreeMap<String, Lane>,
    blocked_until: Timestamp,
    /// Until then one place speaks at a time: the service counts over all of them.
    paced_until: Timestamp,
    /// The place that spoke last.
    spoke: Option<String>,
    /// Open requests that people decide and that no place here shows.
    pub(super) elsewhere: BTreeSet<RequestId>,
    /// More requests waited than a desk holds: look for those left out.
    pub(super) left_out: bool,
    /// When to look again whether somebody is to be reminded of a request.
    pub(super) looked: BTreeMap<RequestId, Timestamp>,
}

struct Keeper {
    name: Vec<u8>,
    until: Timestamp,
}

/// Works a desk until the process ends.
pub async fn run(broker: Arc<Broker>, desk: Arc<Desk>) {
    loop {
        let next = desk.turn(&broker).await;
        let ms = next.since(broker.now()).clamp(0, LOOK_EVERY_MS);
        let pause = Duration::from_millis(ms.unsigned_abs());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = desk.stirred.notified() => tokio::time::sleep(GATHER).await,
        }
    }
}

impl Desk {
    /// A desk that has not looked yet.
    #[must_use]
    pub fn new(courier: Arc<dyn Courier>) -> Self {
        Self { courier, state: tokio::sync::Mutex::default(), stirred: tokio::sync::Notify::new() }
    }

    /// Something was committed.
    pub fn stir(&self) {
        self.stirred.notify_one();
    }

    /// Reads what is new, says what may be said now, and answers when to come back.
    pub async fn turn(&self, broker: &Broker) -> Timestamp {
        let mut state = self.state.lock().await;
        let now = broker.now();
        let channel = self.courier.channel().name();
        match self.work(broker, &mut state, now).await {
            Ok(next) => next,
            Err(e) => {
                tracing::warn!(channel, error = %e, "a desk could not read or write its rows");
                // Whatever was half done is read again.
                state.restored = false;
                now.plus_millis(LOOK_EVERY_MS)
            }
        }
    }

    async fn work(
        &self,
        broker: &Broker,
        state: &mut State,
        now: Timestamp,
    ) -> Result<Timestamp, StoreError> {
        let idle = now.plus_millis(LOOK_EVERY_MS);
        if !self.keep(broker, state, now).await? {
            return Ok(idle);
        }
        let ctx = Context { broker, courier: &*self.courier, now };
        if !state.restored {
            state.restore(&ctx).await?;
        }
        let more = state.follow(&ctx).await?;
        if state.left_out {
            state.look_for_open(&ctx).await?;
        }
        state.remind(&ctx).await?;
        let limits = self.courier.channel().limits();
        if now >= state.blocked_until {
            let said = match now < state.paced_until {
                true => vec![state.one_place(&ctx).await],
                false => join_all(state.lanes.values_mut().map(|lane| lane.step(&ctx))).await,
            };
            for fault in said.into_iter().filter_map(Result::err) {
                tracing::warn!(channel = self.courier.channel().name(), error = %fault, "a message waits");
                if let SendError::Later(ms) = fault {
                    let until = now.plus_millis(ms.clamp(1, 3_600_000));
                    state.blocked_until = state.blocked_until.max(until);
                    state.paced_until = state.blocked_until.plus_millis(PACED_MS);
                }
            }
        }
        state.lanes.retain(|_, lane| lane.size() > 0 || lane.due(limits.most_cards).is_some());
        let due = state.lanes.values().filter_map(|lane| lane.due(limits.most_cards)).min();
        let next = due.map_or(idle, |due| due.max(state.blocked_until).min(idle));
        Ok(if more { now } else { next.max(now) })
    }

    /// Whether this broker keeps the desk.
    async fn keep(
        &self,
        broker: &Broker,
        state: &mut State,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let channel = self.courier.channel().name();
        let until = now.plus_millis(KEPT_MS);
        let kept = match &state.keeper {
            Some(keeper) if keeper.until.since(now) > KEPT_MS - KEEP_EVERY_MS => return Ok(true),
            Some(Keeper { name, .. }) => {
                let (old, new) = (name.clone(), name.clone());
                broker.store.side_replace(KEEPER, channel, old, new, Some(until), now).await?
            }
            None => false,
        };
        if kept {
            if let Some(keeper) = &mut state.keeper {
                keeper.until = until;
            }
            return Ok(true);
        }
        // Another one may have kept it meanwhile: everything is read anew.
        let name = broker.random.name("desk-").into_bytes();
        *state = State::default();
        let row = name.clone();
        let won = broker.store.side_put_if_absent(KEEPER, channel, row, Some(until), now).await?;
        state.keeper = won.then_some(Keeper { name, until });
        Ok(won)
    }

    /// Lets another broker keep the desk at once.
    pub async fn leave(&self, broker: &Broker) {
        let mut state = self.state.lock().await;
        if state.keeper.take().is_some() {
            let channel = self.courier.channel().name();
            if let Err(e) = broker.store.side_delete(KEEPER, channel).await {
                tracing::warn!(channel, error = %e, "the desk was not left in order");
            }
        }
        *state = State::default();
    }
}

impl State {
    /// Takes up what was left to say.
    async fn restore(&mut self, ctx: &Context<'_>) -> Result<(), StoreError> {
        self.lanes.clear();
        let channel = ctx.courier.channel().name();
        let mut cards: Vec<(RequestId, Posted)> = Vec::new();
        rows(ctx, CARDS, |key, posted: Posted| {
            let id = key.strip_prefix(channel).and_then(|k| k.strip_prefix('/'));
            let id = id.and_then(|k| k.split('/').next());
            if let Some(id) = id.and_then(|id| RequestId::parse(id).ok()) {
                cards.push((id, posted));
            }
        })
        .await?;
        // Ids sort by age.
        cards.sort_by(|a, b| a.0.cmp(&b.0));
        for (id, posted) in cards {
            self.lane(&posted.place.clone()).restore(id, posted);
        }
        let mut notes = Vec::new();
        rows(ctx, NOTES, |key, note: Note| notes.push((key.to_owned(), note))).await?;
        for (key, note) in notes {
            self.lane(&note.place.clone()).say(key, note);
        }
        let mut floods = Vec::new();
        rows(ctx, FLOODS, |_, flood: FloodMessage| floods.push(flood)).await?;
        for flood in floods.into_iter().filter(|f| f.reference.is_some()) {
            self.lane(&flood.place.clone()).restore_flood(flood);
        }
        self.restore_cursor(ctx).await?;
        self.restored = true;
        Ok(())
    }

    /// Lets the next place speak that has something to say; the others wait as long as one place does
    /// between two messages.
    async fn one_place(&mut self, ctx: &Context<'_>) -> Result<bool, SendError> {
        let limits = ctx.courier.channel().limits();
        let after = |place: &&String| self.spoke.as_ref().is_none_or(|spoke| *place > spoke);
        let (next, before): (Vec<_>, Vec<_>) = self.lanes.keys().partition(after);
        let places: Vec<String> = next.into_iter().chain(before).cloned().collect();
        for place in places {
            let lane = self.lane(&place);
            if lane.due(limits.most_cards).is_none_or(|due| due > ctx.now) {
                continue;
            }
            let said = lane.step(ctx).await;
            if !matches!(said, Ok(false)) {
                self.spoke = Some(place);
                self.blocked_until = ctx.now.plus_millis(limits.message_every_ms);
                return said;
            }
        }
        Ok(false)
    }

    /// The lane of a place.
    pub(super) fn lane(&mut self, place: &str) -> &mut Lane {
        self.lanes.entry(place.to_owned()).or_insert_with(|| Lane::new(place))
    }
}

/// Reads the rows of a channel; one that does not parse is left out.
async fn rows<T: DeserializeOwned>(
    ctx: &Context<'_>,
    kind: &'static str,
    mut each: impl FnMut(&str, T),
) -> Result<(), StoreError> {
    let prefix = format!("{}/", ctx.courier.channel().name());
    let mut after: Option<String> = None;
    loop {
        let page =
            ctx.broker.store.side_list(kind, &prefix, after.as_deref(), 1024, ctx.now).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.key.clone());
        for row in &page {
            match serde_json::from_slice(&row.value) {
                Ok(value) => each(&row.key, value),
                Err(e) => tracing::warn!(kind, key = row.key, error = %e, "a row was left out"),
            }
        }
    }
}
