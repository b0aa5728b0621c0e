//! The generic webhook as a channel: what another tool is told, and what it hands in for people.
//!
//! A decision that it hands in is signed like every message, so that it is fresh and not repeated,
//! names this broker, and carries the deciding person's own API token: the tool's signature proves
//! the tool, never a person.

use grantwright_domain::event::Account;
use grantwright_domain::time::parse_ttl;
use grantwright_domain::{Digest, RequestId, Timestamp, canonical};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Endpoint, Headers, WebhookError};
use crate::channel::{
    Channel, Delivery, Flood, Limits, Message, Notice, Press, Rejected, Verified, Wish,
};
use crate::sheet::Sheet;

/// Its word in votes and in policies.
pub const NAME: &str = "webhook";

/// The webhook of one tool.
#[derive(Debug)]
pub struct Webhook {
    endpoint: Endpoint,
    origin: String,
}

/// The body of a decision.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Handed {
    to: String,
    request_id: RequestId,
    digest: Digest,
    decision: String,
    #[serde(default)]
    seen: u64,
    reason: Option<String>,
    #[serde(default)]
    reason_code: String,
    text: Option<String>,
    ttl: Option<String>,
    params: Option<Value>,
    confirm: Option<String>,
}

impl Webhook {
    /// The tool with these secrets, of the broker whose log has this origin.
    #[must_use]
    pub fn new(endpoint: Endpoint, origin: &str) -> Self {
        Self { endpoint, origin: origin.to_owned() }
    }

    /// Its secrets.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The broker's name, in messages to and from it.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

impl Channel for Webhook {
    fn name(&self) -> &'static str {
        NAME
    }

    fn limits(&self) -> Limits {
        Limits {
            message_every_ms: 0,
            most_cards: usize::MAX,
            most_bytes: super::MOST_BODY,
            most_grouped: usize::MAX,
        }
    }

    fn card(&self, sheet: &Sheet) -> Message {
        let body = json!({
            "card": sheet.card, "handle": {
                "request_id": sheet.handle.request, "digest": sheet.handle.digest,
                "seen": sheet.handle.seen,
            },
            "link": sheet.link, "open": sheet.open, "votes_count": sheet.votes_count,
            "questions": sheet.questions, "asked_first": sheet.asked,
        });
        Message { text: sheet.card.headline.clone(), body }
    }

    fn group(&self, sheets: &[Sheet]) -> Message {
        let text = format!("{} requests of one task", sheets.len());
        let bodies: Vec<Value> = sheets.iter().map(|sheet| self.card(sheet).body).collect();
        Message { text, body: json!({ "requests": bodies }) }
    }

    fn notice(&self, notice: &Notice) -> Message {
        Message { text: notice.text.clone(), body: json!({ "notice": notice }) }
    }

    fn flood(&self, flood: &Flood) -> Message {
        Message {
            text: format!("{} more requests wait", flood.waiting),
            body: json!({ "flood": flood }),
        }
    }

    fn verify(&self, delivery: &Delivery, now: Timestamp) -> Result<Verified<Press>, Rejected> {
        let header = |name: &str| delivery.headers.get(name).cloned().unwrap_or_default();
        let headers = Headers {
            id: header("webhook-id"),
            timestamp: header("webhook-timestamp"),
            signature: header("webhook-signature"),
        };
        self.endpoint.verify(&headers, &delivery.body, now).map_err(|e| match e {
            WebhookError::Stale => Rejected::Stale,
            _ => Rejected::Forged,
        })?;
        let authorization = header("authorization");
        let token = authorization.strip_prefix("Bearer ").filter(|t| (1..=512).contains(&t.len()));
        // Without a token there is nobody: an empty account is known to no one.
        let account =
            token.map(|t| Digest::of("person-token", t.as_bytes()).hex()).unwrap_or_default();
        let malformed = |what| Rejected::Malformed(what);
        let body = canonical::parse(&delivery.body)
            .map_err(|_| malformed("the body is not strict JSON"))?;
        let handed: Handed = serde_json::from_value(body)
            .map_err(|_| malformed("the body has not the fields of a decision"))?;
        if handed.to != self.origin {
            return Err(Rejected::Stranger);
        }
        Ok(Verified::danger_vouch(Press {
            account: Account { channel: NAME.into(), tenant: self.origin.clone(), account },
            shown_name: String::new(),
            wish: wish(&handed)?,
            request: handed.request_id,
            digest: handed.digest,
            seen: handed.seen,
            delivery: headers.id,
        }))
    }
}

fn wish(handed: &Handed) -> Result<Wish, Rejected> {
    let malformed = |what| Rejected::Malformed(what);
    Ok(match handed.decision.as_str() {
        "approve" => Wish::Approve { confirm: handed.confirm.clone() },
        "ask" => {
            Wish::Ask { text: handed.text.clone().ok_or(malformed("a question wants `text`"))? }
        }
        "deny" => {
            Wish::Deny { reason_code: handed.reason_code.clone(), reason: handed.reason.clone() }
        }
        "narrow" => Wish::Narrow {
            ttl_s: handed
                .ttl
                .as_deref()
                .map(parse_ttl)
                .transpose()
                .map_err(|_| malformed("`ttl` is not one like 5m"))?,
            params: handed.params.clone(),
            confirm: handed.confirm.clone(),
        },
        "withdraw" => Wish::Withdraw,
        _ => {
            return Err(malformed("`decision` is not one of approve, ask, deny, narrow, withdraw"));
        }
    })
}
