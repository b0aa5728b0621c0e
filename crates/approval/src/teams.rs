//! Microsoft Teams: whose word an activity is, what it wants, and how the decision card looks there.
//!
//! Pure: keys, time and the card come in; [`activity::Activity`] and an Adaptive Card come out. A
//! token proves that the Bot Service sent an activity, never who may decide: that is told by the
//! account that a person linked, and by the rules.

use std::sync::{Arc, PoisonError, RwLock};

use grantwright_domain::Timestamp;

use crate::channel::{
    Channel, Delivery, Flood, Limits, Message, Notice, Press, Rejected, Verified,
};
use crate::sheet::Sheet;

pub mod activity;
pub mod card;
pub mod form;
pub mod keys;
mod run;
pub mod token;

pub use activity::{Activity, Person, Place, Pressed, What};
pub use keys::KeySet;
pub use token::{Expected, Forged};

/// Its word in votes and in policies.
pub const NAME: &str = "teams";

/// Least time between two messages to one conversation, in milliseconds: Teams takes 60 in 30 s.
const MESSAGE_EVERY_MS: i64 = 1000;
/// Most requests shown one by one in one conversation.
const MOST_CARDS: usize = 20;
/// Largest message, in bytes.
const MOST_MESSAGE: usize = 27 << 10;

/// Teams, for one tenant and one app.
#[derive(Debug)]
pub struct Teams {
    expected: Expected,
    tenant: String,
    keys: RwLock<Arc<KeySet>>,
}

impl Teams {
    /// Believes this issuer's tokens for this app, and this tenant's people; no key is known yet.
    #[must_use]
    pub fn new(expected: Expected, tenant: &str) -> Self {
        Self { expected, tenant: tenant.to_ascii_lowercase(), keys: RwLock::default() }
    }

    /// Takes up the service's present keys.
    pub fn set_keys(&self, keys: KeySet) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// The tenant, lower case.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Believes a posted activity, or not.
    ///
    /// # Errors
    /// Why not, for the log. [`Forged::UnknownKey`]: fetch the keys anew, then try once more.
    pub fn hear(&self, delivery: &Delivery, now: Timestamp) -> Result<Activity, Forged> {
        let keys = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        let header = delivery.headers.get("authorization").map(String::as_str);
        Activity::authentic(header, &delivery.body, &keys, &self.expected, &self.tenant, now)
    }
}

impl Channel for Teams {
    fn name(&self) -> &'static str {
        NAME
    }

    fn limits(&self) -> Limits {
        Limits {
            message_every_ms: MESSAGE_EVERY_MS,
            most_cards: MOST_CARDS,
            most_bytes: MOST_MESSAGE,
            most_grouped: card::MOST_GROUPED,
        }
    }

    fn card(&self, sheet: &Sheet) -> Message {
        Message { text: sheet.card.headline.clone(), body: card::adaptive_card(sheet, None) }
    }

    fn group(&self, sheets: &[Sheet]) -> Message {
        let text = format!("{} requests that came together", sheets.len());
        Message { text, body: card::group_card(sheets) }
    }

    fn notice(&self, notice: &Notice) -> Message {
        Message { text: notice.text.clone(), body: card::notice_card(notice) }
    }

    fn flood(&self, flood: &Flood) -> Message {
        let text = format!("{} more requests wait for you", flood.waiting);
        Message { text, body: card::flood_card(flood) }
    }

    fn verify(&self, delivery: &Delivery, now: Timestamp) -> Result<Verified<Press>, Rejected> {
        let activity = self.hear(delivery, now).map_err(|e| rejected(&e))?;
        activity.press().map(Verified::danger_vouch)
    }
}

fn rejected(forged: &Forged) -> Rejected {
    match forged {
        Forged::Time => Rejected::Stale,
        Forged::Audience | Forged::Tenant => Rejected::Stranger,
        Forged::Activity(_) => Rejected::Malformed("the activity"),
        _ => Rejected::Forged,
    }
}
