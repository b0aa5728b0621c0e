//! Reminders to a tool: what time alone makes worth telling of requests that wait, each once.

use std::collections::BTreeMap;

use grantwright_domain::{Phase, RequestId, Timestamp};
use grantwright_store::{Loaded, RequestFilter, StoreError};

use super::{Attempt, Cursor, State, WebhookChannel, event};
use crate::core::Broker;
use crate::guards::remind::Stage;

/// Kind of the rows that say what a tool was told of a request.
const TOLD: &str = "hook-told";
/// How often it looks at what waits.
const EVERY_MS: i64 = 5_000;
/// Most requests that are read in one turn.
const READ: usize = 64;
/// How long a row is kept after the end of its request.
const KEEP_MS: i64 = 86_400_000;
/// It looks at a request at least so often.
const LOOK_MS: i64 = 3_600_000;

/// When to look at what again.
#[derive(Debug, Default)]
pub(super) struct Reminders {
    at: Timestamp,
    /// By request: its version when it was read, and when its next step is due.
    looked: BTreeMap<RequestId, (u64, Timestamp)>,
}

impl WebhookChannel {
    /// Tells what is due.
    pub(super) async fn remind(
        &self,
        broker: &Broker,
        state: &mut State,
        cursor: &mut Cursor,
    ) -> Result<(), StoreError> {
        let (guards, now) = (&broker.config.guards, broker.now());
        let none = guards.remind_after.is_none() && guards.escalate_before.is_none();
        if none || now < state.reminders.at {
            return Ok(());
        }
        state.reminders.at = now.plus_millis(EVERY_MS);
        let waiting = waiting(broker).await?;
        state.reminders.looked.retain(|id, _| waiting.contains_key(id));
        let mut left = READ;
        for (id, version) in waiting {
            let known = state.reminders.looked.get(&id);
            if known.is_some_and(|(seen, next)| *seen == version && now < *next) {
                continue;
            }
            if left == 0 {
                state.reminders.at = now;
                return Ok(());
            }
            left -= 1;
            let Some(loaded) = broker.store.load(&id).await? else { continue };
            let Some(next) = self.remind_one(broker, state, cursor, &loaded).await? else {
                return Ok(());
            };
            state.reminders.looked.insert(id, (version, next));
        }
        Ok(())
    }

    /// Tells what is due of one request; when to look again, none: the tool must be asked again.
    async fn remind_one(
        &self,
        broker: &Broker,
        state: &mut State,
        cursor: &mut Cursor,
        loaded: &Loaded,
    ) -> Result<Option<Timestamp>, StoreError> {
        let (guards, now) = (&broker.config.guards, broker.now());
        let request = &loaded.state;
        let scope = broker.authority().catalog.get(&request.terms.template).cloned();
        let risk = scope.as_ref().map_or("", |scope| scope.labels.risk.as_str());
        let begun = guards.begun(risk, request.requested_at);
        let (stage, next) = guards.stage(request, risk, begun, now);
        let next = next.unwrap_or(now.plus_millis(LOOK_MS));
        if stage < Stage::Reminded {
            return Ok(Some(next));
        }
        let id = &request.terms.request_id;
        let key = format!("{id}/{stage:?}");
        let row = broker.store.side_get(TOLD, &key, now).await?;
        if row.and_then(|row| broker.vouch.open::<bool>(TOLD, &row)).is_some() {
            return Ok(Some(next));
        }
        if let Some(message) = event::reminder(broker, &self.webhook, loaded, stage, now)
            && self.attempt(broker, state, cursor, message, now).await? == Attempt::Waits
        {
            return Ok(None);
        }
        let row = broker.vouch.seal(TOLD, &key, &true)?;
        let until = request.expires_at().plus_millis(KEEP_MS);
        broker.store.side_put(TOLD, &key, row, Some(until)).await?;
        Ok(Some(next))
    }
}

/// What waits for people, with its version.
async fn waiting(broker: &Broker) -> Result<BTreeMap<RequestId, u64>, StoreError> {
    let phase = Some(Phase::Pending);
    let mut filter = RequestFilter { open: true, phase, ..RequestFilter::default() };
    let mut out = BTreeMap::new();
    loop {
        let page = broker.store.list(filter.clone()).await?;
        let Some(last) = page.last() else { return Ok(out) };
        filter.before = Some(last.first_index);
        out.extend(page.into_iter().map(|row| (row.id, row.version)));
    }
}
