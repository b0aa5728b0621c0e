//! Slack: what its deliveries do, and how its messages are carried.

mod api;
pub mod config;
#[cfg(test)]
mod flood;
mod socket;
#[cfg(test)]
pub(super) mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use grantwright_approval::Sheet;
use grantwright_approval::channel::{Channel, Handle, Message, Press, Verified};
use grantwright_approval::slack::{self, Incoming, ReplyTo, Submitted};
use grantwright_domain::event::Account;
use grantwright_domain::{GroupName, Timestamp};
use grantwright_wire::Refusal;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::api::Api;
use self::config::SlackSection;
use super::{Courier, SendError, Sending, inbound, link, sheet};
use crate::core::Broker;
use crate::error::StartError;
use crate::error::{no_such_request, of_store, refuse};
use crate::keys::read_secret;

pub use socket::run;

/// Most deliveries that are worked on at once; more are not acknowledged.
const AT_ONCE: usize = 256;
/// Most deliveries that are being read at the same time: each may hold the longest body.
const READ_AT_ONCE: usize = 32;
/// For how long Slack's word on an account is believed.
const MEMBER_MS: i64 = 30_000;
/// How long the service may take to answer one call.
const CALL: Duration = Duration::from_secs(5);

/// See the module.
pub struct SlackChannel {
    section: SlackSection,
    slack: slack::Slack,
    api: Api,
    socket_mode: bool,
    members: Mutex<HashMap<String, Timestamp>>,
    room: Arc<Semaphore>,
    reading: Arc<Semaphore>,
}

/// What a delivery is answered with, at once: work comes after.
pub struct Ack(pub Option<Value>);

impl SlackChannel {
    /// With the secrets of the section's files.
    ///
    /// # Errors
    /// When a file cannot be read or is empty.
    pub fn new(section: &SlackSection) -> Result<Self, StartError> {
        let read = |path: &std::path::Path| {
            let text = read_secret(path)?.expose_secret().trim().to_owned();
            if text.is_empty() {
                return Err(StartError::new(format!("`{}` is empty", path.display())));
            }
            Ok(text)
        };
        let bot = read(&section.bot_token_file)?;
        let app = section.app_token_file.as_deref().map(read).transpose()?;
        let signing = section.signing_secret_file.as_deref().map(read).transpose()?;
        let slack = slack::Slack::new(
            &section.workspace,
            section.app.as_deref(),
            signing.as_deref().map(str::as_bytes),
        );
        Ok(Self {
            slack,
            socket_mode: app.is_some(),
            api: Api::new(&section.api, bot, app)?,
            members: Mutex::default(),
            room: Arc::new(Semaphore::new(AT_ONCE)),
            reading: Arc::new(Semaphore::new(READ_AT_ONCE)),
            section: section.clone(),
        })
    }

    /// Whether deliveries come over Socket Mode.
    #[must_use]
    pub fn socket_mode(&self) -> bool {
        self.socket_mode
    }

    /// The pure part.
    #[must_use]
    pub fn pure(&self) -> &slack::Slack {
        &self.slack
    }

    /// A place to read a delivery whose signature is not known yet; none while too many are read.
    #[must_use]
    pub fn reading(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.reading).try_acquire_owned().ok()
    }

    /// Takes a delivery on: answers at once, works after. None: too much is under way.
    #[must_use]
    pub fn take(
        self: &Arc<Self>,
        broker: &Arc<Broker>,
        incoming: Verified<Incoming>,
    ) -> Option<Ack> {
        let incoming = incoming.into_inner();
        if let Incoming::Submitted(form) = &incoming {
            let faults = form.faults();
            if !faults.is_empty() {
                return Some(Ack(Some(json!({ "response_action": "errors", "errors": faults }))));
            }
        }
        let place = Arc::clone(&self.room).try_acquire_owned().ok()?;
        let (this, broker) = (Arc::clone(self), Arc::clone(broker));
        tokio::spawn(async move {
            this.work(&broker, incoming).await;
            drop(place);
        });
        Some(Ack(None))
    }

    async fn work(&self, broker: &Broker, incoming: Incoming) {
        let (words, reply) = match incoming {
            Incoming::Nothing => return,
            Incoming::Press(press, reply) => (self.press(broker, *press).await, reply),
            Incoming::Open { form, handle, account, shown_name, trigger, reply } => {
                let opened =
                    self.open(broker, form, &handle, &account, &shown_name, &trigger, &reply).await;
                (opened.err().map(|r| words(&r)), reply)
            }
            Incoming::Submitted(form) => {
                let reply = form.reply.clone();
                let said = match self.submitted(broker, *form).await {
                    Ok(press) => self.press(broker, press).await,
                    Err(refusal) => Some(words(&refusal)),
                };
                (said, reply)
            }
        };
        if let Some(words) = words {
            self.whisper(&reply, &words).await;
        }
    }

    async fn press(&self, broker: &Broker, press: Press) -> Option<String> {
        // Slack's own word on the account comes first, where the account is somebody's.
        let known = broker.authority().accounts.contains_key(&press.account);
        if known && let Err(refusal) = self.member(broker, &press.account).await {
            return Some(words(&refusal));
        }
        inbound::press(broker, "slack", Verified::danger_vouch(press)).await.words()
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one delivery")]
    async fn open(
        &self,
        broker: &Broker,
        form: slack::Form,
        handle: &Handle,
        account: &Account,
        shown_name: &str,
        trigger: &str,
        reply: &ReplyTo,
    ) -> Result<(), Refusal> {
        if !broker.authority().accounts.contains_key(account) {
            let url = link::offer(broker, account, shown_name).await?;
            return Err(refuse(403, "unlinked", "this account is nobody's here", link_words(&url)));
        }
        let sheet = self.present(broker, handle).await?;
        let view = slack::form(form, &sheet, &reply.channel);
        let body = json!({ "trigger_id": trigger, "view": view });
        self.api.call("views.open", &body).await.map(drop).map_err(|e| {
            refuse(
                503,
                "form_not_opened",
                format!("Slack did not open the form ({e})"),
                "press again",
            )
        })
    }

    async fn submitted(&self, broker: &Broker, form: Submitted) -> Result<Press, Refusal> {
        let sheet = self.present(broker, &form.handle).await?;
        let wish = form
            .wish(&sheet)
            .map_err(|e| refuse(400, "malformed", e, "open the form again and correct it"))?;
        Ok(Press {
            account: form.account,
            shown_name: form.shown_name,
            wish,
            request: form.handle.request,
            digest: form.handle.digest,
            seen: form.handle.seen,
            delivery: form.delivery,
        })
    }

    /// The sheet to which a handle refers, if it is still the request's present one.
    async fn present(&self, broker: &Broker, handle: &Handle) -> Result<Sheet, Refusal> {
        let loaded = broker.store.load(&handle.request).await.map_err(of_store)?;
        let loaded = loaded.ok_or_else(no_such_request)?;
        let sheet = sheet::sheet(broker, &loaded, "slack").ok_or_else(no_such_request)?;
        if sheet.handle.digest != handle.digest {
            return Err(refuse(
                409,
                "digest_mismatch",
                "the request has changed since that card was shown",
                "look at the card again",
            ));
        }
        if !sheet.open {
            let said = format!("the request is not open: {}", sheet.card.state.sentence);
            return Err(refuse(409, "not_open", said, "nothing to do"));
        }
        Ok(sheet)
    }

    /// Slack's own word that the account is a full member of this workspace, now.
    async fn member(&self, broker: &Broker, account: &Account) -> Result<(), Refusal> {
        let now = broker.now();
        let fresh = |at: &Timestamp| now.since(*at) < MEMBER_MS;
        {
            let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
            if members.get(&account.account).is_some_and(fresh) {
                return Ok(());
            }
        }
        let user = self.api.user(&account.account).await.map_err(|e| {
            tracing::warn!(error = %e, "Slack did not say who somebody is");
            refuse(
                503,
                "slack_away",
                "Slack did not say whether this account is a member",
                "press again",
            )
        })?;
        let says = |key: &str| user.get(key).and_then(Value::as_bool).unwrap_or(false);
        let refused = ["deleted", "is_bot", "is_restricted", "is_ultra_restricted", "is_stranger"];
        let team = user.get("team_id").and_then(Value::as_str);
        let elsewhere = team.is_some_and(|t| t != self.section.workspace)
            && user.pointer("/enterprise_user/enterprise_id").and_then(Value::as_str)
                != Some(self.section.workspace.as_str());
        if refused.iter().any(|key| says(key)) || elsewhere {
            return Err(refuse(
                403,
                "not_a_member",
                "guests, bots, former members and members of other workspaces do not decide",
                "another eligible person can decide",
            ));
        }
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|_, at| fresh(at));
        members.insert(account.account.clone(), now);
        Ok(())
    }

    /// Tells the person who pressed, alone.
    async fn whisper(&self, reply: &ReplyTo, words: &str) {
        let blocks = json!([{ "type": "rich_text", "elements": [
            { "type": "rich_text_section", "elements": [{ "type": "text", "text": words }] },
        ] }]);
        let text = "Nothing was changed";
        if let Some(url) = &reply.response_url {
            let body = json!({
                "response_type": "ephemeral", "replace_original": false, "text": text, "blocks": blocks,
            });
            match self.api.respond(url, &body).await {
                Ok(()) => return,
                Err(e) => tracing::info!(error = %e, "an answer over the response address failed"),
            }
        }
        let body = json!({
            "channel": reply.channel, "user": reply.user, "text": text, "blocks": blocks,
        });
        if let Err(e) = self.api.call("chat.postEphemeral", &body).await {
            tracing::warn!(error = %e, "somebody could not be told why their press did nothing");
        }
    }
}

fn words(refusal: &Refusal) -> String {
    format!("Nothing was changed: {}. Next: {}.", refusal.detail, refusal.next)
}

fn link_words(url: &str) -> String {
    format!("open this link within 10 minutes, sign in and confirm; then press again: {url}")
}

impl Courier for SlackChannel {
    fn channel(&self) -> &dyn Channel {
        &self.slack
    }

    fn tenant(&self) -> &str {
        &self.section.workspace
    }

    fn place(&self, group: &GroupName) -> Option<String> {
        self.section.groups.get(group).cloned().or_else(|| self.section.default_channel.clone())
    }

    fn direct(&self, account: &Account) -> Option<String> {
        Some(account.account.clone())
    }

    fn post<'a>(
        &'a self,
        place: &'a str,
        thread: Option<&'a str>,
        message: &'a Message,
    ) -> Sending<'a, String> {
        Box::pin(async move {
            let mut body = quiet(message, place);
            if let (Some(thread), Value::Object(map)) = (thread, &mut body) {
                let (_, ts) = thread.split_once(' ').ok_or(SendError::Gone)?;
                map.insert("thread_ts".into(), ts.into());
            }
            let answer = self.api.call("chat.postMessage", &body).await?;
            let text = |key: &str| answer.get(key).and_then(Value::as_str);
            match (text("channel"), text("ts")) {
                (Some(channel), Some(ts)) => Ok(format!("{channel} {ts}")),
                _ => Err(SendError::Down("no message in the answer".into())),
            }
        })
    }

    fn update<'a>(&'a self, reference: &'a str, message: &'a Message) -> Sending<'a, ()> {
        Box::pin(async move {
            let (channel, ts) = reference.split_once(' ').ok_or(SendError::Gone)?;
            let mut body = quiet(message, channel);
            if let Value::Object(map) = &mut body {
                map.insert("ts".into(), ts.into());
            }
            self.api.call("chat.update", &body).await.map(drop)
        })
    }
}

/// The message with everything off by which Slack would read more into it than is there.
fn quiet(message: &Message, channel: &str) -> Value {
    let mut body = message.body.clone();
    if let Value::Object(map) = &mut body {
        map.insert("channel".into(), channel.into());
        map.insert("parse".into(), "none".into());
        for off in ["link_names", "unfurl_links", "unfurl_media", "mrkdwn"] {
            map.insert(off.into(), false.into());
        }
    }
    body
}
