//! `POST /api/messages`: what the Bot Service sends. Believed by its token, decided by the one
//! decision function, answered with the card as it then is.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use grantwright_approval::channel::{Channel, Delivery, Notice, Verified, Wish};
use grantwright_approval::teams::card::{adaptive_card, notice_card, preview_card};
use grantwright_approval::teams::{Activity, Forged, NAME, Person, Pressed, What};
use grantwright_domain::{HumanId, RequestId};
use grantwright_store::Loaded;
use grantwright_wire::Refusal;
use serde_json::{Value, json};

use super::TeamsChannel;
use crate::channels::inbound::{self, Outcome};
use crate::channels::sheet::sheet;
use crate::channels::{Courier, link};
use crate::core::Broker;
use crate::error::{no_such_request, of_store, refuse};
use crate::http::problem;
use crate::people::{self, Actor};

/// The client waits about ten seconds for an answer; what takes longer goes on without one.
const ANSWER_TIME: Duration = Duration::from_secs(6);

/// The door.
pub async fn messages(
    State(broker): State<Arc<Broker>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(channel) = broker.channels.teams.clone() else {
        return problem(refuse(404, "no_such_door", "there is nothing here", "see docs/api.md"));
    };
    let delivery = delivery(&headers, &body);
    let activity = match channel.believe(&broker, &delivery).await {
        Ok(activity) => activity,
        Err(why) => {
            tracing::info!(channel = NAME, why = %why, "an activity was not believed");
            return problem(refuse(
                401,
                "not_believed",
                "the activity is not the Bot Service's, or not for this bot and tenant",
                "nothing to do",
            ));
        }
    };
    let invoke = matches!(activity.what(), What::Pressed(_) | What::Refresh(_));
    let work = {
        let (broker, channel) = (Arc::clone(&broker), Arc::clone(&channel));
        tokio::spawn(async move { channel.heard(&broker, &delivery, &activity).await })
    };
    let answer = match tokio::time::timeout(ANSWER_TIME, work).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Some(fault("internal", "this failed inside; nothing may have happened")),
        Err(_) => Some(words("It is recorded and takes longer than usual; the card will change.")),
    };
    match answer {
        Some(value) if invoke => (StatusCode::OK, axum::Json(value)).into_response(),
        _ => StatusCode::OK.into_response(),
    }
}

/// A call as channels verify it.
pub(crate) fn delivery(headers: &HeaderMap, body: &Bytes) -> Delivery {
    let mut out = std::collections::BTreeMap::new();
    for name in headers.keys() {
        let mut values = headers.get_all(name).iter();
        if let (Some(Ok(value)), None) = (values.next().map(|v| v.to_str()), values.next()) {
            out.insert(name.as_str().to_owned(), value.to_owned());
        }
    }
    Delivery { headers: out, body: body.to_vec() }
}

/// An answer to an invoke: a card for who pressed.
fn card(value: Value) -> Value {
    json!({ "statusCode": 200, "type": "application/vnd.microsoft.card.adaptive", "value": value })
}

/// An answer to an invoke: a sentence for who pressed.
fn words(text: &str) -> Value {
    json!({ "statusCode": 200, "type": "application/vnd.microsoft.activity.message", "value": text })
}

/// An answer to an invoke that leaves the card as it is.
fn fault(code: &str, message: &str) -> Value {
    json!({
        "statusCode": 400, "type": "application/vnd.microsoft.error",
        "value": { "code": code, "message": message },
    })
}

fn refused(refusal: &Refusal) -> Value {
    words(&format!("Nothing was changed: {}. Next: {}.", refusal.detail, refusal.next))
}

impl TeamsChannel {
    /// Believes a delivery, with keys fetched anew where that may help.
    async fn believe(&self, broker: &Broker, delivery: &Delivery) -> Result<Activity, Forged> {
        let now = broker.now();
        self.keys.refresh(&self.teams, false, now).await;
        match self.teams.hear(delivery, now) {
            Err(Forged::UnknownKey(_)) => {
                self.keys.refresh(&self.teams, true, now).await;
                self.teams.hear(delivery, now)
            }
            heard => heard,
        }
    }

    /// Does what an activity asks for; the answer counts for invokes only.
    async fn heard(
        &self,
        broker: &Broker,
        delivery: &Delivery,
        activity: &Activity,
    ) -> Option<Value> {
        let human =
            activity.person().and_then(|p| broker.authority().accounts.get(&p.account).cloned());
        if let (Some(person), Some(_)) = (activity.person(), &human)
            && let Err(e) = self.meet(person, activity.place()).await
        {
            tracing::warn!(channel = NAME, error = %e, "a person's address was not kept");
        }
        let kept = match activity.what() {
            What::Installed | What::Said(_) => self.remember(activity.place()).await,
            What::Removed => self.forget(activity.place()).await,
            _ => Ok(()),
        };
        if let Err(e) = kept {
            tracing::warn!(channel = NAME, error = %e, "a conversation's address was not kept");
        }
        match activity.what() {
            What::Pressed(pressed) if pressed.preview => {
                Some(self.preview(broker, human, pressed).await.unwrap_or_else(|r| refused(&r)))
            }
            What::Pressed(pressed) => Some(self.pressed(broker, delivery, pressed).await),
            What::Refresh(request) if human.is_some() => {
                Some(self.shown(broker, request).await.unwrap_or_else(|r| refused(&r)))
            }
            What::Refresh(_) => Some(fault("not_linked", "this account is not linked to a person")),
            What::Said(_) if activity.place().kind == "personal" => {
                self.greet(broker, activity, human).await;
                None
            }
            _ => None,
        }
    }

    async fn pressed(&self, broker: &Broker, delivery: &Delivery, pressed: &Pressed) -> Value {
        let press: Verified<_> = match self.teams.verify(delivery, broker.now()) {
            Ok(press) => press,
            Err(why) => {
                return fault(why.code(), "the press is not understood; nothing was changed");
            }
        };
        let request = &pressed.handle.request;
        match inbound::press(broker, NAME, press).await {
            Outcome::Done(loaded) => self.card_now(broker, &loaded),
            Outcome::Repeated => self.shown(broker, request).await.unwrap_or_else(|r| refused(&r)),
            Outcome::Refused(refusal) => refused(&refusal),
            Outcome::Unlinked(url) => card(notice_card(&Notice {
                text: "This Teams account is not linked to a person here, so nothing was changed. \
                       Open the link within 10 minutes, sign in and confirm; then press again."
                    .into(),
                quote: None,
                link: Some(url),
            })),
        }
    }

    /// The card as it now is, for one person.
    fn card_now(&self, broker: &Broker, loaded: &Loaded) -> Value {
        match sheet(broker, loaded, NAME) {
            Some(sheet) => card(adaptive_card(&sheet, Some(broker.now()))),
            None => fault("unknown_scope", "the request's scope is not known any more"),
        }
    }

    async fn shown(&self, broker: &Broker, request: &RequestId) -> Result<Value, Refusal> {
        let loaded = broker.store.load(request).await.map_err(of_store)?;
        Ok(self.card_now(broker, &loaded.ok_or_else(no_such_request)?))
    }

    /// What narrower terms would issue; decides nothing.
    async fn preview(
        &self,
        broker: &Broker,
        human: Option<HumanId>,
        pressed: &Pressed,
    ) -> Result<Value, Refusal> {
        let human = human.ok_or_else(|| {
            refuse(
                403,
                "not_linked",
                "this account is not linked to a person here",
                "press Approve or Deny once: the answer links it",
            )
        })?;
        let Wish::Narrow { ttl_s, params, .. } = &pressed.wish else {
            return Ok(fault("malformed", "there is nothing to preview"));
        };
        let request = &pressed.handle.request;
        let loaded = broker.store.load(request).await.map_err(of_store)?;
        let loaded = loaded.ok_or_else(no_such_request)?;
        let actor = Actor { human, channel: NAME };
        let next = people::preview(
            broker,
            &actor,
            request,
            pressed.handle.digest,
            *ttl_s,
            params.as_ref(),
        )
        .await?;
        let (Some(now), Some(then)) = (sheet(broker, &loaded, NAME), sheet(broker, &next, NAME))
        else {
            return Ok(fault("unknown_scope", "the request's scope is not known any more"));
        };
        Ok(card(preview_card(&now, &then.card, *ttl_s, params.as_ref(), broker.now())))
    }

    /// Answers somebody who wrote to the bot alone: who they are here, or how to link the account.
    async fn greet(&self, broker: &Broker, activity: &Activity, human: Option<HumanId>) {
        let Some(person) = activity.person() else { return };
        let notice = match human {
            Some(human) => Notice {
                text: format!("You decide here as `{human}`."),
                quote: None,
                link: Some(broker.public_url.clone()),
            },
            None => match self.offer(broker, person).await {
                Ok(notice) => notice,
                Err(_) => return,
            },
        };
        let message = self.teams.notice(&notice);
        let place = &activity.place().conversation;
        if let Err(e) = self.post(place, None, &message).await {
            tracing::info!(channel = NAME, error = %e, "a greeting was not sent");
        }
    }

    async fn offer(&self, broker: &Broker, person: &Person) -> Result<Notice, Refusal> {
        let url = link::offer(broker, &person.account, &person.shown_name).await?;
        Ok(Notice {
            text: "This Teams account is not linked to a person here. Open the link within 10 \
                   minutes, sign in and confirm."
                .into(),
            quote: None,
            link: Some(url),
        })
    }
}
