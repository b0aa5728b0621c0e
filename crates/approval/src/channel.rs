//! What a channel is: a way to show people a request and to hear what they decide, other than the
//! broker's own pages and API. A channel renders, verifies and declares its bounds, all of it pure;
//! who may decide what is never its business, and sending is the broker's.

use grantwright_domain::event::Account;
use grantwright_domain::{Digest, GroupName, RequestId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::sheet::Sheet;

/// A way to show people requests and to hear from them.
///
/// Contract. Rendering is a pure function: the same sheet gives the same message, different digests
/// give different ones, and nothing that an agent says or names can look like the broker's words.
/// [`Channel::verify`] is the only maker of [`Verified`]: what it returns was authentic, fresh, and of
/// the configured workspace or tenant; it knows nothing of who may decide.
pub trait Channel: Send + Sync {
    /// Its word in votes and in policies: `slack`, `teams`, …
    fn name(&self) -> &'static str;

    /// Its bounds.
    fn limits(&self) -> Limits;

    /// The card as a message.
    fn card(&self, sheet: &Sheet) -> Message;

    /// Several requests of one task as one message, each with its own digest and its own buttons; at
    /// most [`Limits::most_grouped`] of them.
    fn group(&self, sheets: &[Sheet]) -> Message;

    /// A short message of the broker's own.
    fn notice(&self, notice: &Notice) -> Message;

    /// What stands for more requests than are shown one by one.
    fn flood(&self, flood: &Flood) -> Message;

    /// What a delivery says, once it is known to be authentic.
    ///
    /// # Errors
    /// Why it is not believed or not understood; nothing must then change.
    fn verify(&self, delivery: &Delivery, now: Timestamp) -> Result<Verified<Press>, Rejected>;
}

/// A channel's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Least time between two messages to one place, in milliseconds.
    pub message_every_ms: i64,
    /// Most requests shown one by one in one place; the rest are in its flood message.
    pub most_cards: usize,
    /// Longest body of a message, in bytes.
    pub most_bytes: usize,
    /// Most requests in one message; 1: each has its own.
    pub most_grouped: usize,
}

/// A rendered message; its form belongs to the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// One line for notifications.
    pub text: String,
    /// The body.
    pub body: Value,
}

/// A short message of the broker's own, beside a card or to one person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// One sentence, the broker's words; values in backticks.
    pub text: String,
    /// Somebody's own words, shown as quoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<Quote>,
    /// Where the request is in the console.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// Words that are not the broker's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// Made safe to show on one line.
    pub text: String,
    /// Whose they are: a person's id, or the card's note on the agent's words.
    pub by: String,
}

/// What stands for more requests than are shown one by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flood {
    /// How many wait.
    pub waiting: usize,
    /// How many of each agent, the most first, at most ten.
    pub agents: Vec<(String, usize)>,
    /// The console's inbox.
    pub link: String,
}

/// An incoming call as it arrived, before anything in it is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Headers, names in lower case; one that came twice is not here.
    pub headers: std::collections::BTreeMap<String, String>,
    /// The body's very bytes.
    pub body: Vec<u8>,
}

/// A value whose origin was proven; made by verifiers only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// Vouches for the value: for the code that has just verified it, and for nothing else.
    #[must_use]
    pub fn danger_vouch(value: T) -> Self {
        Self(value)
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> &T {
        &self.0
    }

    /// The value.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// What somebody did to a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Press {
    /// By which account.
    pub account: Account,
    /// Its name as the service shows it, for the page that links it; never an identity.
    pub shown_name: String,
    /// What they want.
    pub wish: Wish,
    /// The request.
    pub request: RequestId,
    /// The digest that was shown.
    pub digest: Digest,
    /// The last question, answer or change that was shown, by the ordinal of its leaf; 0: none.
    pub seen: u64,
    /// Unique to this delivery: the same again is the same press.
    pub delivery: String,
}

/// What somebody wants; what it means is decided elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Approve.
    Approve {
        /// What the person typed where the scope demands a confirmed fact.
        confirm: Option<String>,
    },
    /// Ask the agent.
    Ask {
        /// The question.
        text: String,
    },
    /// Deny.
    Deny {
        /// One-tap reason, or empty.
        reason_code: String,
        /// Free words.
        reason: Option<String>,
    },
    /// Approve narrower terms.
    Narrow {
        /// A shorter lifetime, in seconds.
        ttl_s: Option<u32>,
        /// Changed parameters, an object.
        params: Option<Value>,
        /// As for an approval.
        confirm: Option<String>,
    },
    /// Take an approval back.
    Withdraw,
}

/// Why a delivery is not believed, or not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Its signature is missing or wrong.
    #[error("the signature is missing or wrong")]
    Forged,
    /// Its time is missing, or too far from now.
    #[error("its time is missing or more than five minutes from now")]
    Stale,
    /// It is authentic, and of another workspace, tenant or application.
    #[error("it is of another workspace or application")]
    Stranger,
    /// It is authentic, and not of a known form.
    #[error("it is not of a known form: {0}")]
    Malformed(&'static str),
}

impl Rejected {
    /// The word for logs and measures.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Forged => "forged",
            Self::Stale => "stale",
            Self::Stranger => "stranger",
            Self::Malformed(_) => "malformed",
        }
    }
}

/// What a button carries: a reference that is compared, never an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handle {
    /// The request.
    pub request: RequestId,
    /// D as it was shown.
    pub digest: Digest,
    /// The last change that was shown.
    pub seen: u64,
}

impl Handle {
    /// One line: `1:request:digest:seen`.
    #[must_use]
    pub fn encode(&self) -> String {
        format!("1:{}:{}:{}", self.request, self.digest.hex(), self.seen)
    }

    /// Reads [`Handle::encode`]'s line.
    ///
    /// # Errors
    /// [`Rejected::Malformed`] for anything else.
    pub fn decode(text: &str) -> Result<Self, Rejected> {
        let parse = || {
            let mut parts = text.split(':');
            let (Some("1"), Some(id), Some(digest), Some(seen), None) =
                (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
            else {
                return None;
            };
            let canonical = seen == "0" || !seen.starts_with(['0', '+']);
            Some(Self {
                request: RequestId::parse(id).ok()?,
                digest: Digest::parse(digest).ok()?,
                seen: seen.parse().ok().filter(|_| canonical)?,
            })
        };
        parse().ok_or(Rejected::Malformed("the button's value"))
    }
}

/// To which groups' places a request is shown: those its verdict names.
#[must_use]
pub fn audience(sheet: &Sheet) -> Vec<GroupName> {
    sheet.card.state.groups.iter().filter_map(|g| GroupName::parse(g).ok()).collect()
}
