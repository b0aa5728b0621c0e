//! Who is told that a request waits: first whoever is asked first, then they again, and before its
//! end everybody who may decide. Nothing of it decides anything.

use grantwright_approval::channel::Notice;
use grantwright_domain::{HumanId, Phase, RequestId, Timestamp};
use grantwright_store::{Loaded, StoreError};

use super::desk::State;
use super::lane::{Context, Posted, Step};
use super::sheet::sheet;
use crate::guards::remind::{Stage, said};
use crate::guards::route;

impl State {
    /// Says what is due of what is shown and waits.
    pub(super) async fn remind(&mut self, ctx: &Context<'_>) -> Result<(), StoreError> {
        let guards = &ctx.broker.config.guards;
        let none = guards.remind_after.is_none() && guards.escalate_before.is_none();
        if none && guards.routing.is_empty() {
            return Ok(());
        }
        let shown: Vec<(String, RequestId, Posted)> = self
            .lanes
            .iter()
            .flat_map(|(place, lane)| {
                lane.shown().into_iter().map(|(id, posted)| (place.clone(), id, posted))
            })
            .collect();
        for (place, id, posted) in shown {
            if let Some(at) = self.looked.get(&id)
                && ctx.now < *at
            {
                continue;
            }
            let next = self.remind_one(ctx, &place, &id, &posted).await?;
            self.looked.insert(id, next);
        }
        let lanes = &self.lanes;
        self.looked.retain(|id, _| lanes.values().any(|lane| lane.has(id)));
        Ok(())
    }

    /// Says what is due of one request; when to look again.
    async fn remind_one(
        &mut self,
        ctx: &Context<'_>,
        place: &str,
        id: &RequestId,
        posted: &Posted,
    ) -> Result<Timestamp, StoreError> {
        let guards = &ctx.broker.config.guards;
        let soon = ctx.now.plus_millis(5_000);
        let Some(loaded) = ctx.broker.store.load(id).await? else { return Ok(soon) };
        let state = &loaded.state;
        let scope = ctx.broker.authority().catalog.get(&state.terms.template).cloned();
        let risk = scope.as_ref().map_or("", |scope| scope.labels.risk.as_str());
        let begun = posted.at.max(posted.not_before);
        let (stage, next) = guards.stage(state, risk, begun, ctx.now);
        let waits = state.phase == Phase::Pending && state.open_question().is_none();
        if stage == Stage::Quiet || !waits {
            return Ok(next.unwrap_or(soon));
        }
        let first = route::known(ctx.broker, state).unwrap_or_default();
        let done = |step: Step| posted.steps & step as u8 != 0;
        let said = said(stage, state.expires_at(), ctx.now);
        if stage == Stage::Escalated && !done(Step::Escalated) {
            let everybody: Vec<HumanId> =
                route::eligible_people(&ctx.broker.authority(), state, ctx.now)
                    .into_iter()
                    .collect();
            self.tell_all(ctx, place, &loaded, "end", &said, &everybody).await?;
            let group = guards.escalate_to.as_ref();
            if let Some(place) = group.and_then(|g| ctx.courier.place(g)).filter(|p| p != place) {
                let notice =
                    Notice { link: Some(ctx.broker.link(id)), ..about(ctx, &loaded, &said) };
                self.say(ctx, &format!("g-end-{id}"), &[place], None, &notice).await?;
            }
            let steps = Step::Told as u8 | Step::Reminded as u8 | Step::Escalated as u8;
            self.lane(place).stepped(ctx, id, steps).await?;
        } else if stage == Stage::Reminded && !done(Step::Reminded) {
            self.tell_all(ctx, place, &loaded, "again", &said, &first).await?;
            self.lane(place).stepped(ctx, id, Step::Told as u8 | Step::Reminded as u8).await?;
        } else if !first.is_empty() && !done(Step::Told) {
            let said = "You are asked first.";
            self.tell_each(ctx, &loaded, "first", said, &first).await?;
            self.lane(place).stepped(ctx, id, Step::Told as u8).await?;
        }
        Ok(ctx.now.plus_millis(1_000))
    }

    /// In the request's thread, and to each of these people alone.
    async fn tell_all(
        &mut self,
        ctx: &Context<'_>,
        place: &str,
        loaded: &Loaded,
        what: &str,
        said: &str,
        people: &[HumanId],
    ) -> Result<(), StoreError> {
        let id = &loaded.state.terms.request_id;
        let notice = Notice { text: said.to_owned(), quote: None, link: None };
        self.say(ctx, &format!("g-{what}-{id}"), &[place.to_owned()], Some(id), &notice).await?;
        self.tell_each(ctx, loaded, what, said, people).await
    }

    async fn tell_each(
        &mut self,
        ctx: &Context<'_>,
        loaded: &Loaded,
        what: &str,
        said: &str,
        people: &[HumanId],
    ) -> Result<(), StoreError> {
        let id = &loaded.state.terms.request_id;
        let authority = ctx.broker.authority();
        let (channel, tenant) = (ctx.courier.channel().name(), ctx.courier.tenant());
        let direct = |human| {
            authority.account_of(human, channel, tenant).and_then(|a| ctx.courier.direct(a))
        };
        let places: Vec<String> = people.iter().filter_map(direct).collect();
        let notice = Notice { link: Some(ctx.broker.link(id)), ..about(ctx, loaded, said) };
        self.say(ctx, &format!("g-{what}-{id}"), &places, None, &notice).await
    }
}

/// The same, where the card is not beside it.
fn about(ctx: &Context<'_>, loaded: &Loaded, said: &str) -> Notice {
    let what = sheet(ctx.broker, loaded, ctx.courier.channel().name());
    let headline = what.map(|s| s.card.headline).unwrap_or_default();
    let text = format!("{headline} (`{}`). {said}", loaded.state.terms.agent);
    Notice { text, quote: None, link: None }
}
