//! Slack: the card in Block Kit, modals, and whose word a delivery is. Pure; the broker sends.
//!
//! Nothing that an agent says reaches markup: everything is `plain_text` or literal text in
//! `rich_text`. Slack's signature proves that Slack sent something, never who may approve.

mod blocks;
mod read;
mod sign;
mod views;

use grantwright_domain::Timestamp;

use crate::Sheet;
use crate::channel::{
    Channel, Delivery, Flood, Limits, Message, Notice, Press, Rejected, Verified,
};

pub use read::{Fields, Form, Incoming, ReplyTo, Submitted};
pub use sign::{SIGNATURE_AGE_S, sign};
pub use views::form;

/// Where a Slack workspace's deliveries and messages belong.
#[derive(Debug, Clone)]
pub struct Slack {
    team: String,
    app: Option<String>,
    secret: Option<Vec<u8>>,
}

impl Slack {
    /// For one workspace (or enterprise) id; `app` pins the application; without `secret` no HTTP
    /// delivery is believed. An empty secret counts as none.
    #[must_use]
    pub fn new(team: &str, app: Option<&str>, secret: Option<&[u8]>) -> Self {
        Self {
            team: team.to_owned(),
            app: app.map(ToOwned::to_owned),
            secret: secret.filter(|s| !s.is_empty()).map(<[u8]>::to_vec),
        }
    }

    /// What an HTTP delivery says.
    ///
    /// # Errors
    /// When it is not signed by Slack, not of now, not of this workspace, or of no known form.
    pub fn read_http(
        &self,
        delivery: &Delivery,
        now: Timestamp,
    ) -> Result<Verified<Incoming>, Rejected> {
        let secret = self.secret.as_deref().ok_or(Rejected::Forged)?;
        sign::check(secret, delivery, now)?;
        let payload = read::form_payload(&delivery.body)?;
        read::incoming(&payload, &self.team, self.app.as_deref()).map(Verified::danger_vouch)
    }

    /// What a payload says that came over Socket Mode, where the connection itself is Slack's.
    ///
    /// # Errors
    /// When it is not of this workspace, or of no known form.
    pub fn read_socket(&self, payload: &serde_json::Value) -> Result<Verified<Incoming>, Rejected> {
        read::incoming(payload, &self.team, self.app.as_deref()).map(Verified::danger_vouch)
    }
}

impl Channel for Slack {
    fn name(&self) -> &'static str {
        "slack"
    }

    fn limits(&self) -> Limits {
        Limits {
            message_every_ms: 1000,
            most_cards: 50,
            most_bytes: 100_000,
            most_grouped: blocks::MOST_GROUPED,
        }
    }

    fn card(&self, sheet: &Sheet) -> Message {
        blocks::card(sheet)
    }

    fn group(&self, sheets: &[Sheet]) -> Message {
        blocks::group(sheets)
    }

    fn notice(&self, notice: &Notice) -> Message {
        blocks::notice(notice)
    }

    fn flood(&self, flood: &Flood) -> Message {
        blocks::flood(flood)
    }

    fn verify(&self, delivery: &Delivery, now: Timestamp) -> Result<Verified<Press>, Rejected> {
        match self.read_http(delivery, now)?.into_inner() {
            Incoming::Press(press, _) => Ok(Verified::danger_vouch(*press)),
            _ => Err(Rejected::Malformed("no decision")),
        }
    }
}
