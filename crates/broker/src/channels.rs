//! Chat channels: each shows requests to the people whom policy names, keeps every message true as
//! the request changes, and brings presses to the one decision function.
//!
//! A [`Desk`] follows the log, so that it misses nothing over restarts and over other brokers'
//! commits; what it has to say lies in the side table until it is said. Nothing here decides: a
//! service that is away, slow or refuses delays messages and never a request's end.

#[cfg(test)]
pub mod conformance;
mod desk;
mod follow;
pub mod inbound;
mod lane;
pub mod link;
#[cfg(test)]
mod paper;
mod remind;
pub mod sheet;
pub mod slack;
pub mod teams;
#[cfg(test)]
mod tests;
pub mod webhook;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use grantwright_approval::channel::{Channel, Message};
use grantwright_domain::GroupName;
use grantwright_domain::event::Account;

pub use desk::{Desk, run};

/// A boxed future.
pub type Sending<'a, T> = Pin<Box<dyn Future<Output = Result<T, SendError>> + Send + 'a>>;

/// Carries a channel's messages to its service.
///
/// Contract. Each call sends at most once and ends within ten seconds. Nothing is retried inside: the
/// desk does that. A message that was sent although the call failed may be sent again. References
/// are opaque, at most 1 KiB, and work for ever, also for another process.
pub trait Courier: Send + Sync {
    /// The channel it carries for.
    fn channel(&self) -> &dyn Channel;

    /// The workspace or tenant it is configured for.
    fn tenant(&self) -> &str;

    /// Where requests for this group are shown; none: nowhere here.
    fn place(&self, group: &GroupName) -> Option<String>;

    /// Where one person is told something; none: not possible here.
    fn direct(&self, account: &Account) -> Option<String>;

    /// Posts a message, under another one where `thread` is its reference; answers its reference.
    fn post<'a>(
        &'a self,
        place: &'a str,
        thread: Option<&'a str>,
        message: &'a Message,
    ) -> Sending<'a, String>;

    /// Replaces a message.
    fn update<'a>(&'a self, reference: &'a str, message: &'a Message) -> Sending<'a, ()>;
}

/// Why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The service says when to come back.
    #[error("the service asks to wait {0} ms")]
    Later(i64),
    /// It did not answer, or not sensibly; worth another try.
    #[error("the service did not answer: {0}")]
    Down(String),
    /// The message that was to be replaced is not there any more.
    #[error("the message is gone")]
    Gone,
    /// It refuses us or the place; an operator must look.
    #[error("the service refuses: {0}")]
    Barred(String),
    /// It refuses this very message.
    #[error("the service refuses the message: {0}")]
    Unshowable(String),
}

/// The configured channels.
#[derive(Default)]
pub struct Channels {
    /// Their desks.
    pub desks: Vec<Arc<Desk>>,
    /// Teams, where it is configured.
    pub teams: Option<Arc<teams::TeamsChannel>>,
    /// The webhook, where it is configured.
    pub webhook: Option<Arc<webhook::WebhookChannel>>,
    /// Slack, where it is configured.
    pub slack: Option<Arc<slack::SlackChannel>>,
}

impl Channels {
    /// Something was committed.
    pub fn stir(&self) {
        for desk in &self.desks {
            desk.stir();
        }
        if let Some(webhook) = &self.webhook {
            webhook.stir();
        }
    }
}
