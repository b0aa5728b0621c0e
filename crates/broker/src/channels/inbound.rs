//! A verified press becomes an act of a person: each delivery once, by the account's person, through
//! the one decision function.

use grantwright_approval::channel::{Press, Verified, Wish};
use grantwright_approval::sheet::Approve;
use grantwright_approval::webhook;
use grantwright_domain::{Digest, HumanId, Strength};
use grantwright_wire::Refusal;

use super::{link, sheet};
use crate::core::Broker;
use crate::error::{of_store, refuse};
use crate::people::{self, Actor, Intention};

/// Kind of the rows that remember deliveries.
const SEEN: &str = "chan-seen";
/// For how long a delivery is remembered: longer than it could come again. A token of the Bot
/// Service, with which an activity of Teams could, lives a day at most.
const SEEN_MS: i64 = 25 * 3_600_000;

const CHAT: Option<Strength> = Some(Strength::Chat);

/// What came of a press.
#[derive(Debug)]
pub enum Outcome {
    /// It was done, or had been done already.
    #[allow(dead_code, reason = "channels that answer a press with the card read it")]
    Done(Box<grantwright_store::Loaded>),
    /// The same delivery came before: nothing happened, and nobody is told.
    Repeated,
    /// Nothing happened; say why to the person alone.
    Refused(Refusal),
    /// The account is nobody's yet: this page links it.
    Unlinked(String),
}

impl Outcome {
    /// Plain words for the person who pressed; none where the card says it all.
    #[must_use]
    pub fn words(&self) -> Option<String> {
        match self {
            Self::Done(_) | Self::Repeated => None,
            Self::Refused(refusal) => {
                Some(format!("Nothing was changed: {}. Next: {}.", refusal.detail, refusal.next))
            }
            Self::Unlinked(url) => Some(format!(
                "Nothing was changed: this account is not linked to a person here. Open this link \
                 within 10 minutes, sign in and confirm; then press again: {url}"
            )),
        }
    }
}

/// Carries out what somebody pressed.
pub async fn press(broker: &Broker, channel: &'static str, press: Verified<Press>) -> Outcome {
    let press = press.into_inner();
    match act(broker, channel, &press).await {
        Ok(outcome) => outcome,
        Err(refusal) => {
            tracing::info!(
                channel, request = %press.request, code = refusal.code, "a press was refused"
            );
            Outcome::Refused(refusal)
        }
    }
}

async fn act(broker: &Broker, channel: &'static str, press: &Press) -> Result<Outcome, Refusal> {
    if press.account.channel != channel {
        return Err(refuse(
            403,
            "wrong_channel",
            "the account is of another channel",
            "press again",
        ));
    }
    if !first_time(broker, &press.account.tenant, channel, &press.delivery).await? {
        return Ok(Outcome::Repeated);
    }
    let human: Option<HumanId> = match channel {
        // A tool outside has no accounts: it hands in the person's own token, by its digest.
        webhook::NAME => {
            let token = Digest::parse(&press.account.account).ok();
            let human = token.and_then(|token| crate::http::person_of(broker, &token));
            Some(human.ok_or_else(not_signed_in)?)
        }
        _ => broker.authority().accounts.get(&press.account).cloned(),
    };
    let Some(human) = human else {
        return link::offer(broker, &press.account, &press.shown_name).await.map(Outcome::Unlinked);
    };
    let what = match &press.wish {
        Wish::Approve { confirm } => {
            Intention::Approve { reason: None, seen: Some(press.seen), confirm: confirm.clone() }
        }
        Wish::Ask { text } => Intention::Ask { text: text.clone() },
        Wish::Deny { reason_code, reason } => {
            Intention::Deny { reason: reason.clone(), reason_code: reason_code.clone() }
        }
        Wish::Narrow { ttl_s, params, confirm } => {
            Intention::Narrow { ttl_s: *ttl_s, params: params.clone(), confirm: confirm.clone() }
        }
        Wish::Withdraw => Intention::Withdraw,
    };
    // Narrowing approves what is left: what no card shows whole may be in it as well.
    if matches!(press.wish, Wish::Approve { .. } | Wish::Narrow { .. }) {
        seen_whole(broker, channel, press).await?;
    }
    let actor = Actor { human, channel };
    let loaded = people::act(broker, &actor, &press.request, press.digest, &what).await?;
    Ok(Outcome::Done(Box::new(loaded)))
}

fn not_signed_in() -> Refusal {
    refuse(
        401,
        "not_signed_in",
        "no valid token of the deciding person came with this decision",
        "send the person's own `Authorization: Bearer <token>`, under a new webhook-id",
    )
}

/// What does not fit a card is approved where it can be seen whole.
async fn seen_whole(broker: &Broker, channel: &str, press: &Press) -> Result<(), Refusal> {
    let loaded = broker.store.load(&press.request).await.map_err(of_store)?;
    let sheet = loaded.and_then(|l| sheet::sheet(broker, &l, channel));
    match sheet.map(|s| (s.approve, s.votes_count && s.card.state.strength == CHAT, s.link)) {
        Some((Approve::Console(why), true, link)) => {
            Err(refuse(403, "full_view_required", why, format!("open {link}")))
        }
        _ => Ok(()),
    }
}

/// Remembers a delivery; false when it came before.
async fn first_time(
    broker: &Broker,
    tenant: &str,
    channel: &str,
    delivery: &str,
) -> Result<bool, Refusal> {
    let now = broker.now();
    let whole = format!("{tenant}\n{delivery}");
    let key = format!("{channel}/{}", Digest::of("channel-delivery", whole.as_bytes()).hex());
    let end = Some(now.plus_millis(SEEN_MS));
    broker.store.side_put_if_absent(SEEN, &key, Vec::new(), end, now).await.map_err(of_store)
}
