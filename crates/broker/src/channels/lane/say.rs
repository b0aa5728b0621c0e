//! Saying it: cards and the groups of them, notes under them, and the message that stands for a flood.

use std::collections::HashSet;

use grantwright_approval::Sheet;
use grantwright_approval::channel::{Flood, Message, Notice};
use grantwright_domain::request::LeaseState;
use grantwright_domain::{Digest, RequestId};
use grantwright_store::{Loaded, StoreError};

use super::{
    CARDS, Context, Done, FLOODS, Fault, FloodMessage, Lane, NOTES, Posted, card_key, place_key,
};
use crate::channels::SendError;
use crate::channels::sheet::sheet;

/// How long a row is kept if nothing ends it.
const KEEP_MS: i64 = 30 * 86_400_000;

impl Lane {
    /// What a message shows: its first request and those that share it, without any whose scope is
    /// not known; and whether nothing about them will change any more.
    async fn sheets(
        &self,
        ctx: &Context<'_>,
        head: &RequestId,
        open_only: bool,
    ) -> Result<(Vec<Sheet>, bool), StoreError> {
        let channel = ctx.courier.channel().name();
        let with = self.members.get(head).into_iter().flatten();
        let (mut sheets, mut over) = (Vec::new(), true);
        for request in std::iter::once(head).chain(with) {
            let Some(loaded) = ctx.broker.store.load(request).await? else { continue };
            if open_only && !loaded.state.phase.is_open() {
                continue;
            }
            over &= ended(&loaded);
            sheets.extend(sheet(ctx.broker, &loaded, channel));
        }
        Ok((sheets, over))
    }

    pub(super) async fn card(
        &mut self,
        ctx: &Context<'_>,
        request: &RequestId,
    ) -> Result<Done, Fault> {
        let Some(posted) = self.cards.get(request).cloned() else { return Ok(Done::Nothing) };
        let channel = ctx.courier.channel();
        // What ended before anybody was shown it here stays unsaid.
        let (sheets, over) = self.sheets(ctx, request, posted.reference.is_none()).await?;
        let message = match &sheets[..] {
            [] => {
                self.forget(ctx, request).await?;
                return Ok(Done::Nothing);
            }
            [sheet] => channel.card(sheet),
            several => channel.group(several),
        };
        let open: HashSet<RequestId> =
            sheets.iter().filter(|s| s.open).map(|s| s.handle.request.clone()).collect();
        let shown = Some(digest(&message));
        let mut next = Posted { shown, open: !open.is_empty(), ..posted.clone() };
        let sent = match &posted.reference {
            Some(_) if posted.shown == shown => Ok(None),
            Some(reference) => ctx.courier.update(reference, &message).await.map(|()| None),
            None => ctx.courier.post(&self.place, None, &message).await.map(Some),
        };
        let sent = match sent {
            Err(SendError::Unshowable(why)) => {
                tracing::error!(channel = channel.name(), %request, why, "a card cannot be shown; a link stands for it");
                let notice = Notice {
                    text: format!("A request of `{}` waits in the console.", posted.agent),
                    quote: None,
                    link: sheets.first().map(|s| s.link.clone()),
                };
                let message = channel.notice(&notice);
                match &posted.reference {
                    Some(reference) => ctx.courier.update(reference, &message).await.map(|()| None),
                    None => ctx.courier.post(&self.place, None, &message).await.map(Some),
                }
            }
            other => other,
        };
        let same = posted.reference.is_some() && posted.shown == shown;
        match sent {
            Ok(reference) => next.reference = reference.or(posted.reference),
            Err(SendError::Gone) if over => {}
            Err(SendError::Gone) => {
                next.reference = None;
                next.shown = None;
                self.cards.insert(request.clone(), next.clone());
                save(ctx, request, &next).await?;
                self.put_back(request.clone());
                return Ok(Done::Sent);
            }
            Err(e) => return Err(e.into()),
        }
        if over {
            self.forget(ctx, request).await?;
        } else {
            self.cards.insert(request.clone(), next.clone());
            for member in self.members.get(request).into_iter().flatten() {
                if let Some(card) = self.cards.get_mut(member) {
                    card.open = open.contains(member);
                }
            }
            if !same {
                save(ctx, request, &next).await?;
            }
        }
        Ok(if same { Done::Nothing } else { Done::Sent })
    }

    /// Forgets a message, and what shares it.
    async fn forget(&mut self, ctx: &Context<'_>, request: &RequestId) -> Result<(), StoreError> {
        let with = self.members.remove(request).unwrap_or_default();
        for request in std::iter::once(request).chain(&with) {
            let card = self.cards.remove(request);
            if let Some(group) = card.and_then(|c| c.group)
                && self.groups.get(&group) == Some(request)
            {
                self.groups.remove(&group);
            }
            let key = card_key(ctx.courier.channel().name(), request, &self.place);
            ctx.broker.store.side_delete(CARDS, &key).await?;
        }
        Ok(())
    }

    pub(super) async fn note(&mut self, ctx: &Context<'_>) -> Result<Done, Fault> {
        let Some((key, note)) = self.notes.front().cloned() else { return Ok(Done::Nothing) };
        let reference = |r| self.cards.get(&self.head(r)).and_then(|c| c.reference.clone());
        let card = note.thread.as_ref().map(reference);
        // Without its card there is no thread: the card itself will say what the note would.
        let sent = if card != Some(None) {
            let message = ctx.courier.channel().notice(&note.notice);
            match ctx.courier.post(&self.place, card.flatten().as_deref(), &message).await {
                Ok(_) => Done::Sent,
                Err(SendError::Gone | SendError::Unshowable(_)) => Done::Sent,
                // One person cannot be reached; others in their own lanes can.
                Err(SendError::Barred(why)) if note.thread.is_none() => {
                    tracing::warn!(why, "a note was not delivered");
                    Done::Sent
                }
                Err(e) => return Err(e.into()),
            }
        } else {
            Done::Nothing
        };
        self.notes.pop_front();
        ctx.broker.store.side_delete(NOTES, &key).await?;
        Ok(sent)
    }

    pub(super) async fn flood(&mut self, ctx: &Context<'_>) -> Result<Done, Fault> {
        let channel = ctx.courier.channel();
        let mut agents: Vec<(String, usize)> =
            self.waiting.iter().map(|(a, queue)| (a.to_string(), self.count(queue))).collect();
        agents.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        agents.truncate(10);
        let link = format!("{}/", ctx.broker.public_url);
        let flood = Flood { waiting: self.waits(), agents, link };
        let message = channel.flood(&flood);
        let shown = Some(digest(&message));
        if self.flood.reference.is_some() && self.flood.shown == shown {
            return Ok(Done::Nothing);
        }
        let reference = match &self.flood.reference {
            Some(reference) => match ctx.courier.update(reference, &message).await {
                Ok(()) => Some(reference.clone()),
                Err(SendError::Gone) => None,
                Err(e) => return Err(e.into()),
            },
            None => Some(ctx.courier.post(&self.place, None, &message).await?),
        };
        let reference = reference.filter(|_| flood.waiting > 0);
        self.flood = FloodMessage { reference, shown, ..self.flood.clone() };
        let key = format!("{}/{}", channel.name(), place_key(&self.place));
        let row = serde_json::to_vec(&self.flood).unwrap_or_default();
        let keep = Some(ctx.now.plus_millis(KEEP_MS));
        ctx.broker.store.side_put(FLOODS, &key, row, keep).await?;
        Ok(Done::Sent)
    }
}

pub(super) async fn save(
    ctx: &Context<'_>,
    request: &RequestId,
    posted: &Posted,
) -> Result<(), StoreError> {
    let key = card_key(ctx.courier.channel().name(), request, &posted.place);
    let row = serde_json::to_vec(posted).unwrap_or_default();
    let keep = Some(ctx.now.plus_millis(KEEP_MS));
    ctx.broker.store.side_put(CARDS, &key, row, keep).await
}

/// Nothing about it will change any more.
fn ended(loaded: &Loaded) -> bool {
    let state = &loaded.state;
    let lives = |lease: LeaseState| matches!(lease, LeaseState::Live | LeaseState::Withdrawn);
    !state.phase.is_open()
        && state.phase != grantwright_domain::Phase::Intended
        && !state.lease.as_ref().is_some_and(|l| lives(l.state))
}

fn digest(message: &Message) -> Digest {
    Digest::of("channel-message", format!("{}\n{}", message.text, message.body).as_bytes())
}
