//! What the log's new leaves mean to a channel: who is shown a request, and who is told what.

use std::collections::BTreeSet;

use grantwright_approval::channel::{Notice, Quote};
use grantwright_approval::show;
use grantwright_domain::{
    Decision, Event, GroupName, HumanId, RequestId, Timestamp, Verdict, VerdictKind,
};
use grantwright_store::{Loaded, RequestFilter, StoreError};
use serde::{Deserialize, Serialize};

use super::desk::State;
use super::lane::{Context, NOTES, Note, Wanted, place_key};
use super::sheet::sheet;
use crate::guards::group;

/// Kind of the row that says how far a channel read.
const CURSORS: &str = "chan-cursor";
/// Most leaves read in one turn.
const LEAVES: u32 = 1024;
/// Most requests that one place holds; more are looked for when these have ended.
const MOST_HELD: usize = 20_000;
/// Most notes that wait in one place; the cards say the same.
const MOST_NOTES: usize = 2_000;
/// How long a note is worth saying.
const NOTE_MS: i64 = 2 * 86_400_000;
/// Most columns of somebody's words in a note.
const WORDS: usize = 600;
/// Who is told when a reviewer says that something looks wrong.
const SECURITY: &str = "security";

#[derive(Serialize, Deserialize)]
struct Cursor {
    origin: String,
    next: u64,
}

impl State {
    /// Where reading goes on; a first start, and another log, begin with what is open now.
    pub(super) async fn restore_cursor(&mut self, ctx: &Context<'_>) -> Result<(), StoreError> {
        let channel = ctx.courier.channel().name();
        let row = ctx.broker.store.side_get(CURSORS, channel, ctx.now).await?;
        let cursor = row.and_then(|r| serde_json::from_slice::<Cursor>(&r.value).ok());
        let (origin, size) = (ctx.broker.authority().origin.clone(), ctx.broker.store.head().size);
        match cursor.filter(|c| c.origin == origin && c.next <= size) {
            Some(cursor) => self.cursor = cursor.next,
            None => {
                self.cursor = size;
                self.look_for_open(ctx).await?;
                self.save_cursor(ctx).await?;
            }
        }
        Ok(())
    }

    async fn save_cursor(&self, ctx: &Context<'_>) -> Result<(), StoreError> {
        let cursor = Cursor { origin: ctx.broker.authority().origin.clone(), next: self.cursor };
        let row = serde_json::to_vec(&cursor).unwrap_or_default();
        ctx.broker.store.side_put(CURSORS, ctx.courier.channel().name(), row, None).await
    }

    /// Reads new leaves; true when there may be more. Everything that they ask for is durable
    /// before the cursor moves.
    pub(super) async fn follow(&mut self, ctx: &Context<'_>) -> Result<bool, StoreError> {
        let leaves = ctx.broker.store.leaves(self.cursor, LEAVES).await?;
        let Some((last, _)) = leaves.last() else { return Ok(false) };
        let (next, full) = (last + 1, leaves.len() == LEAVES as usize);
        for (index, leaf) in &leaves {
            if let Ok(event) = Event::from_leaf(leaf) {
                self.heard(ctx, *index, &event).await?;
            }
        }
        self.cursor = next;
        self.save_cursor(ctx).await?;
        Ok(full)
    }

    /// Shows every open request that people decide and that is not shown yet.
    pub(super) async fn look_for_open(&mut self, ctx: &Context<'_>) -> Result<(), StoreError> {
        if self.lanes.values().any(|lane| lane.size() >= MOST_HELD / 2) && self.left_out {
            return Ok(());
        }
        self.left_out = false;
        let mut filter = RequestFilter { open: true, ..RequestFilter::default() };
        let mut open = Vec::new();
        loop {
            let page = ctx.broker.store.list(filter.clone()).await?;
            let Some(last) = page.last() else { break };
            filter.before = Some(last.first_index);
            open.extend(page.into_iter().map(|summary| summary.id));
        }
        for id in open.iter().rev() {
            if let Some(loaded) = ctx.broker.store.load(id).await?
                && let Some(verdict) = loaded.state.verdict.clone()
            {
                self.want(ctx, id, &loaded, &verdict).await?;
            }
        }
        Ok(())
    }

    async fn heard(
        &mut self,
        ctx: &Context<'_>,
        index: u64,
        event: &Event,
    ) -> Result<(), StoreError> {
        let Some(id) = event.request_id() else { return Ok(()) };
        if let Event::Decided(e) = event
            && e.verdict.kind == VerdictKind::Ask
        {
            if let Some(loaded) = ctx.broker.store.load(id).await? {
                self.want(ctx, id, &loaded, &e.verdict).await?;
            }
            return Ok(());
        }
        let places: Vec<String> =
            self.lanes.iter().filter(|(_, l)| l.has(id)).map(|(p, _)| p.clone()).collect();
        if places.is_empty() {
            return Ok(());
        }
        for place in &places {
            self.lane(place).change(id);
        }
        self.tell(ctx, index, event, id, &places).await
    }

    async fn want(
        &mut self,
        ctx: &Context<'_>,
        id: &RequestId,
        loaded: &Loaded,
        verdict: &Verdict,
    ) -> Result<(), StoreError> {
        let channel = ctx.courier.channel().name();
        let here = ["console", channel].iter().any(|c| verdict.channels.contains(*c));
        if verdict.kind != VerdictKind::Ask || !here || !loaded.state.phase.is_open() {
            return Ok(());
        }
        let places: BTreeSet<String> =
            verdict.approvers.iter().filter_map(|g| ctx.courier.place(g)).collect();
        let terms = &loaded.state.terms;
        let scope = ctx.broker.authority().catalog.get(&terms.template).cloned();
        let risk = scope.as_ref().map_or("", |scope| scope.labels.risk.as_str());
        let wanted = Wanted {
            group: group::key(loaded),
            not_before: ctx.broker.config.guards.quiet_until(risk, ctx.now).unwrap_or_default(),
        };
        if !places.is_empty() {
            // Who is asked first is said on the card.
            crate::guards::route::first(ctx.broker, &loaded.state).await?;
        }
        for place in places {
            let lane = self.lane(&place);
            if lane.size() >= MOST_HELD && !lane.has(id) {
                tracing::warn!(
                    channel,
                    place,
                    "more requests wait than a place holds; the console has them all"
                );
                self.left_out = true;
                continue;
            }
            lane.want(ctx, id, &loaded.state.terms.agent, wanted.clone()).await?;
        }
        Ok(())
    }

    /// Who is told what besides the card: the thread, security, and the agent's owner.
    async fn tell(
        &mut self,
        ctx: &Context<'_>,
        index: u64,
        event: &Event,
        id: &RequestId,
        places: &[String],
    ) -> Result<(), StoreError> {
        if !speaks(event) {
            return Ok(());
        }
        let Some(loaded) = ctx.broker.store.load(id).await? else { return Ok(()) };
        let text = |name: String| {
            let found = loaded.texts.iter().find(|t| t.name == name);
            found.map(|t| show::prose(&t.text, WORDS).text)
        };
        let ordinal = loaded.leaves.iter().position(|(i, _)| *i == index).unwrap_or_default();
        let quote =
            |name: String, by: &str| text(name).map(|text| Quote { text, by: by.to_owned() });
        let link = Some(ctx.broker.link(id));
        match event {
            Event::Questioned(e) => {
                let quote = quote(format!("question:{ordinal}"), e.human.as_str());
                let said = format!("{} asks the agent:", e.human);
                let notice = Notice { text: said, quote, link: None };
                self.say(ctx, &mark(index), places, Some(id), &notice).await?;
            }
            Event::Answered(_) => {
                let by = "said by the agent, not checked";
                let quote = quote(format!("answer:{ordinal}"), by);
                let notice = Notice { text: "The agent answers:".into(), quote, link: None };
                self.say(ctx, &mark(index), places, Some(id), &notice).await?;
            }
            Event::Voted(e) if e.reason_code == "looks_wrong" => {
                let quote = quote(format!("vote:{ordinal}"), e.human.as_str());
                let said = format!(
                    "{} denied a request of `{}` because it looks wrong.",
                    e.human, loaded.state.terms.agent
                );
                let place = GroupName::parse(SECURITY).ok().and_then(|g| ctx.courier.place(&g));
                let notice = Notice { text: said, quote, link: link.clone() };
                self.say(ctx, &mark(index), place.as_slice(), None, &notice).await?;
            }
            _ => {}
        }
        self.tell_owner(ctx, index, event, &loaded).await
    }

    /// The agent's owner is told how a request ended, and with what.
    async fn tell_owner(
        &mut self,
        ctx: &Context<'_>,
        index: u64,
        event: &Event,
        loaded: &Loaded,
    ) -> Result<(), StoreError> {
        let ends = match event {
            Event::Voted(e) => e.decision == Decision::Deny,
            Event::Questioned(_) | Event::Answered(_) => false,
            _ => true,
        };
        let authority = ctx.broker.authority();
        let owner: Option<HumanId> =
            authority.agents.get(&loaded.state.terms.agent).and_then(|a| a.owner().cloned());
        let channel = ctx.courier.channel().name();
        let account = owner
            .filter(|_| ends)
            .and_then(|o| authority.account_of(&o, channel, ctx.courier.tenant()).cloned());
        let Some(place) = account.and_then(|a| ctx.courier.direct(&a)) else { return Ok(()) };
        let Some(sheet) = sheet(ctx.broker, loaded, channel) else { return Ok(()) };
        let card = &sheet.card;
        let said =
            format!("Your agent `{}`: {} — {}", card.who.agent, card.headline, card.state.sentence);
        let notice = Notice { text: said, quote: None, link: Some(sheet.link.clone()) };
        self.say(ctx, &mark(index), &[place], None, &notice).await
    }

    /// Says something once in each place; `mark` names it.
    pub(super) async fn say(
        &mut self,
        ctx: &Context<'_>,
        mark: &str,
        places: &[String],
        thread: Option<&RequestId>,
        notice: &Notice,
    ) -> Result<(), StoreError> {
        let channel = ctx.courier.channel().name();
        for place in places {
            if self.lane(place).notes() >= MOST_NOTES {
                tracing::warn!(channel, place, "too many notes wait; one was left out");
                continue;
            }
            let key = format!("{channel}/{mark}/{}", place_key(place));
            let note =
                Note { place: place.clone(), thread: thread.cloned(), notice: notice.clone() };
            let row = serde_json::to_vec(&note).unwrap_or_default();
            let end: Option<Timestamp> = Some(ctx.now.plus_millis(NOTE_MS));
            if ctx.broker.store.side_put_if_absent(NOTES, &key, row, end, ctx.now).await? {
                self.lane(place).say(key, note);
            }
        }
        Ok(())
    }
}

/// How a note of a leaf is named; sorted by age.
fn mark(index: u64) -> String {
    format!("{index:016x}")
}

/// Whether somebody is told of this leaf besides the card.
fn speaks(event: &Event) -> bool {
    match event {
        Event::Questioned(_)
        | Event::Answered(_)
        | Event::Issued(_)
        | Event::Failed(_)
        | Event::Unknown(_)
        | Event::Cancelled(_)
        | Event::Revoked(_) => true,
        Event::Voted(e) => e.decision == Decision::Deny,
        Event::Expired(e) => e.lease_id.is_none(),
        _ => false,
    }
}
