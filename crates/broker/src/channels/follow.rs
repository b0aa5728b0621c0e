//! What the log's new leaves mean to a channel: who is shown a request, and who is told what.

use std::collections::BTreeSet;

use grantwright_approval::channel::{Notice, Quote};
use grantwright_approval::show;
use grantwright_domain::{
    Authority, Decision, Event, GroupName, HumanId, RequestId, Timestamp, Verdict, VerdictKind,
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
/// More outcomes than this waiting to be told to one person are told as one.
const MANY_OUTCOMES: usize = 20;
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
        // What no place here shows may still be somebody's here: its owner's, or security's.
        if places.is_empty() && !self.elsewhere.contains(id) && !looks_wrong(event) {
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
        if places.is_empty() && self.elsewhere.len() < MOST_HELD {
            self.elsewhere.insert(id.clone());
        }
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

    /// Who is told what besides the card: the thread, security, and whose request it is.
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
                let notice = Notice { text: said, quote, link: link.clone() };
                self.say(ctx, &mark(index), &security(ctx), None, &notice).await?;
            }
            _ => {}
        }
        self.tell_whose(ctx, index, event, &loaded).await?;
        if !loaded.state.phase.is_open() {
            self.elsewhere.remove(id);
        }
        Ok(())
    }

    /// The agent's owner, and the human on whose behalf it asked, are told how a request ended, and
    /// with what; of a flood of ends, the first, and that there are more.
    async fn tell_whose(
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
        if !ends {
            return Ok(());
        }
        let (authority, terms) = (ctx.broker.authority(), &loaded.state.terms);
        let owner = authority.agents.get(&terms.agent).and_then(|a| a.owner());
        let other = terms.on_behalf_of.as_ref().filter(|human| Some(*human) != owner);
        let channel = ctx.courier.channel().name();
        for (human, whose) in [(owner, "Your agent"), (other, "On your behalf, agent")] {
            let place = human.and_then(|human| direct(ctx, &authority, human));
            let Some(place) = place else { continue };
            let (mark, notice) = if self.lane(&place).notes() < MANY_OUTCOMES {
                let Some(sheet) = sheet(ctx.broker, loaded, channel) else { return Ok(()) };
                let (card, link) = (&sheet.card, Some(sheet.link.clone()));
                let text = format!(
                    "{whose} `{}`: {} — {}",
                    card.who.agent, card.headline, card.state.sentence
                );
                (mark(index), Notice { text, quote: None, link })
            } else {
                let text = "More of your requests ended than are told here one by one.".into();
                let link = Some(format!("{}/", ctx.broker.public_url));
                ("more".to_owned(), Notice { text, quote: None, link })
            };
            self.say(ctx, &mark, &[place], None, &notice).await?;
        }
        Ok(())
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

/// Where one person is told something, if their account here is known.
fn direct(ctx: &Context<'_>, authority: &Authority, human: &HumanId) -> Option<String> {
    let account = authority.account_of(human, ctx.courier.channel().name(), ctx.courier.tenant());
    account.and_then(|account| ctx.courier.direct(account))
}

/// Where security is told something: its place, or else its members, each alone.
fn security(ctx: &Context<'_>) -> Vec<String> {
    let Ok(group) = GroupName::parse(SECURITY) else { return Vec::new() };
    if let Some(place) = ctx.courier.place(&group) {
        return vec![place];
    }
    let authority = ctx.broker.authority();
    let members = authority.members_of(&group, ctx.now);
    members.iter().filter_map(|human| direct(ctx, &authority, human)).collect()
}

/// A reviewer says so.
fn looks_wrong(event: &Event) -> bool {
    matches!(event, Event::Voted(vote) if vote.reason_code == "looks_wrong")
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
