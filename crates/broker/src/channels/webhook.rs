//! The generic webhook: every event of a request, in the log's order, at least once, to one address
//! from the configuration; and decisions that a tool hands in with the deciding person's own token.

pub mod config;
pub mod door;
mod event;
mod post;
mod remind;
#[cfg(test)]
pub(super) mod tests;

use std::sync::Arc;
use std::time::Duration;

use grantwright_approval::webhook::{Endpoint, Webhook};
use grantwright_domain::{Event, Timestamp, VerdictKind};
use grantwright_store::StoreError;
use serde::{Deserialize, Serialize};

use self::config::WebhookSection;
use self::post::{Post, Said};
use crate::core::Broker;
use crate::error::StartError;

/// Kind of the rows of cursors and of who keeps one.
const CURSORS: &str = "hook-cursor";
const KEEPER: &str = "hook-keeper";
/// For how long a broker keeps the webhook without saying so again.
const KEPT_MS: i64 = 30_000;
/// Leaves read at once.
const LEAVES: u32 = 256;
/// It looks at least this often: other brokers commit too.
const LOOK_MS: i64 = 1_000;
/// The pauses after failures of one message, in seconds; the last repeats.
const PAUSES_S: [i64; 6] = [1, 5, 30, 120, 300, 600];
/// A message that the tool refuses for certain (4xx) is given up after so many attempts.
const MOST_REFUSALS: u32 = 5;
/// What could not be delivered for so long is given up: the log keeps it.
const MOST_AGE_MS: i64 = 3 * 24 * 3_600_000;

/// See the module.
pub struct WebhookChannel {
    webhook: Webhook,
    post: Post,
    state: tokio::sync::Mutex<State>,
    stirred: tokio::sync::Notify,
}

#[derive(Default)]
struct State {
    keeper: Option<(Vec<u8>, Timestamp)>,
    cursor: Option<Cursor>,
    /// Attempts at the message that is next.
    failures: u32,
    not_before: Timestamp,
    reminders: remind::Reminders,
}

/// What came of an attempt to hand a message over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// It was taken, or given up for good.
    Done,
    /// It waits; [`State::not_before`] says until when.
    Waits,
}

/// How far the tool was told, durable: the log itself is the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    origin: String,
    next: u64,
    /// The tool said that it wants no more; cleared by another address.
    gone: Option<String>,
}

/// Works the webhook until the process ends.
pub async fn run(broker: Arc<Broker>, webhook: Arc<WebhookChannel>) {
    loop {
        let next = webhook.turn(&broker).await;
        let ms = next.since(broker.now()).clamp(0, LOOK_MS);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(ms.unsigned_abs())) => {}
            () = webhook.stirred.notified() => {}
        }
    }
}

impl WebhookChannel {
    /// The webhook as configured, of the broker whose log has this origin.
    ///
    /// # Errors
    /// When a secret does not parse or there is none.
    pub fn new(
        section: &WebhookSection,
        secrets: &[String],
        origin: &str,
    ) -> Result<Self, StartError> {
        let endpoint = Endpoint::parse(secrets.iter().map(|s| s.trim()))
            .map_err(|e| StartError::new(format!("channel.webhook.secret_files: {e}")))?;
        Ok(Self {
            webhook: Webhook::new(endpoint, origin),
            post: Post::new(section)?,
            state: tokio::sync::Mutex::default(),
            stirred: tokio::sync::Notify::new(),
        })
    }

    /// Something was committed.
    pub fn stir(&self) {
        self.stirred.notify_one();
    }

    /// Tells what may be told now, and answers when to come back.
    pub async fn turn(&self, broker: &Broker) -> Timestamp {
        let mut state = self.state.lock().await;
        match self.work(broker, &mut state).await {
            Ok(next) => next,
            Err(e) => {
                tracing::warn!(channel = "webhook", error = %e, "the webhook could not read or write its rows");
                state.cursor = None;
                broker.now().plus_millis(LOOK_MS)
            }
        }
    }

    async fn work(&self, broker: &Broker, state: &mut State) -> Result<Timestamp, StoreError> {
        let now = broker.now();
        let idle = now.plus_millis(LOOK_MS);
        if !keep(broker, state).await? {
            return Ok(idle);
        }
        if now < state.not_before {
            return Ok(state.not_before);
        }
        let mut cursor = match state.cursor.take() {
            Some(cursor) => cursor,
            None => self.restore(broker).await?,
        };
        let mut done = self.tell(broker, state, &mut cursor).await;
        if done.is_ok()
            && cursor.gone.as_deref() != Some(self.post.address())
            && state.not_before <= broker.now()
            && let Err(e) = self.remind(broker, state, &mut cursor).await
        {
            done = Err(e);
        }
        state.cursor = Some(cursor);
        done.map(|next| next.max(state.not_before))
    }

    /// Tells what is new until there is nothing more or something fails.
    async fn tell(
        &self,
        broker: &Broker,
        state: &mut State,
        cursor: &mut Cursor,
    ) -> Result<Timestamp, StoreError> {
        let idle = broker.now().plus_millis(LOOK_MS);
        if cursor.gone.as_deref() == Some(self.post.address()) {
            return Ok(idle);
        }
        let leaves = broker.store.leaves(cursor.next, LEAVES).await?;
        let full = leaves.len() == LEAVES as usize;
        let begun = broker.now();
        for (index, leaf) in leaves {
            let told = match Event::from_leaf(&leaf) {
                Ok(event) => self.tell_one(broker, state, cursor, index, &event).await?,
                Err(_) => true,
            };
            if !told {
                return Ok(state.not_before);
            }
            cursor.next = index + 1;
            if event::is_told(&leaf) {
                self.save(broker, cursor).await?;
            }
            // Who keeps it says so again in time.
            if broker.now().since(begun) > KEPT_MS / 3 {
                return Ok(broker.now());
            }
        }
        Ok(if full { broker.now() } else { idle })
    }

    /// Tells one leaf's messages; false when the tool must be asked again later.
    async fn tell_one(
        &self,
        broker: &Broker,
        state: &mut State,
        cursor: &mut Cursor,
        index: u64,
        event: &Event,
    ) -> Result<bool, StoreError> {
        let Some(id) = event.request_id() else { return Ok(true) };
        let Some(loaded) = broker.store.load(id).await? else { return Ok(true) };
        if let Event::Decided(e) = event
            && e.verdict.kind == VerdictKind::Ask
            && loaded.state.phase.is_open()
        {
            // Who is asked first is said with the request.
            crate::guards::route::first(broker, &loaded.state).await?;
        }
        for message in event::messages(broker, &self.webhook, index, event, &loaded) {
            if self.attempt(broker, state, cursor, message, event.at()).await? == Attempt::Waits {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One attempt to hand over what is worth saying since `at`.
    async fn attempt(
        &self,
        broker: &Broker,
        state: &mut State,
        cursor: &mut Cursor,
        message: event::Message,
        at: Timestamp,
    ) -> Result<Attempt, StoreError> {
        let now = broker.now();
        let said = match self.webhook.endpoint().sign(&message.id, now, &message.body) {
            Ok(headers) => self.post.send(&headers, message.body).await,
            Err(_) => Said::Refused(0),
        };
        let given_up = match said {
            Said::Taken => false,
            Said::Gone => {
                tracing::error!(
                    channel = "webhook",
                    "the tool wants no more messages (410); nothing is sent until the address changes"
                );
                cursor.gone = Some(self.post.address().to_owned());
                self.save(broker, cursor).await?;
                state.not_before = now.plus_millis(LOOK_MS);
                return Ok(Attempt::Waits);
            }
            Said::Refused(_) => state.failures + 1 >= MOST_REFUSALS,
            Said::Later(_) => now.since(at) > MOST_AGE_MS,
        };
        if matches!(said, Said::Taken) || given_up {
            if given_up {
                tracing::error!(
                    channel = "webhook",
                    id = message.id,
                    "a message was given up; the log keeps what it said"
                );
            }
            state.failures = 0;
            return Ok(Attempt::Done);
        }
        let step = usize::try_from(state.failures).unwrap_or(usize::MAX).min(PAUSES_S.len() - 1);
        let pause = PAUSES_S.get(step).copied().unwrap_or(600) * 1000;
        let named = if let Said::Later(Some(ms)) = said { ms } else { 0 };
        // Two brokers that fail together do not come back together.
        let jitter = i64::from(broker.random.bytes::<1>()[0]) * pause / 1024;
        state.failures = state.failures.saturating_add(1);
        state.not_before = now.plus_millis(pause.max(named) + jitter);
        tracing::warn!(channel = "webhook", said = ?said, failures = state.failures, "a message waits");
        Ok(Attempt::Waits)
    }

    /// Where telling goes on; a first start, and another log, begin with what came since this broker started.
    async fn restore(&self, broker: &Broker) -> Result<Cursor, StoreError> {
        let row = broker.store.side_get(CURSORS, "webhook", broker.now()).await?;
        let cursor: Option<Cursor> = row.as_ref().and_then(|row| broker.vouch.open(CURSORS, row));
        let (origin, size) = (broker.authority().origin.clone(), broker.store.head().size);
        let forged = cursor.is_none();
        if let Some(cursor) = cursor.filter(|c| c.origin == origin && c.next <= size) {
            return Ok(cursor);
        }
        // A cursor that is not ours may have been put forward, to keep events from their receiver.
        let next = if row.is_some() && forged { 0 } else { broker.size_at_start };
        let cursor = Cursor { origin, next, gone: None };
        self.save(broker, &cursor).await?;
        Ok(cursor)
    }

    async fn save(&self, broker: &Broker, cursor: &Cursor) -> Result<(), StoreError> {
        let row = broker.vouch.seal(CURSORS, "webhook", cursor)?;
        broker.store.side_put(CURSORS, "webhook", row, None).await
    }

    /// Lets another broker keep it at once.
    pub async fn leave(&self, broker: &Broker) {
        let mut state = self.state.lock().await;
        if state.keeper.take().is_some()
            && let Err(e) = broker.store.side_delete(KEEPER, "webhook").await
        {
            tracing::warn!(channel = "webhook", error = %e, "the webhook was not left in order");
        }
        *state = State::default();
    }
}

/// Whether this broker keeps the webhook: of several one at a time tells.
async fn keep(broker: &Broker, state: &mut State) -> Result<bool, StoreError> {
    let now = broker.now();
    let until = now.plus_millis(KEPT_MS);
    if let Some((name, kept_until)) = &mut state.keeper {
        if kept_until.since(now) > KEPT_MS / 2 {
            return Ok(true);
        }
        let (old, new) = (name.clone(), name.clone());
        if broker.store.side_replace(KEEPER, "webhook", old, new, Some(until), now).await? {
            *kept_until = until;
            return Ok(true);
        }
        *state = State::default();
    }
    let name = broker.random.name("hook-").into_bytes();
    let row = name.clone();
    let won = broker.store.side_put_if_absent(KEEPER, "webhook", row, Some(until), now).await?;
    state.keeper = won.then_some((name, until));
    Ok(won)
}
