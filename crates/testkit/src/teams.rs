//! A fake of the three services behind a Teams bot, on one loopback port: the Bot Service's signing
//! keys, the login service that gives the bot its own token, and the connector that carries messages.
//!
//! It knows nothing of this project's code: shapes are those of the public documentation, and
//! Microsoft's own SDK (`botframework-connector`) is run against it to see that they are right.

mod server;
mod sign;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

pub use sign::{Claims, Key, payload};

/// The issuer of the Bot Service's tokens.
pub const ISSUER: &str = "https://api.botframework.com";
/// The bot's app id.
pub const APP: &str = "6d1f3a2e-8f0b-4c57-9a55-0c5f6f1b7a01";
/// The tenant.
pub const TENANT: &str = "22222222-2222-2222-2222-222222222222";
/// The bot's secret at the login service.
pub const SECRET: &str = "t3ams-cl1ent-s3cret-canary";

/// The fake; its parts end when it is dropped.
pub struct FakeTeams {
    state: Arc<State>,
    port: u16,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for FakeTeams {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// What it holds, behind one lock.
#[derive(Default)]
pub(crate) struct Held {
    /// What each coming call of the connector is answered instead: status, `Retry-After`, body.
    faults: VecDeque<(u16, Option<u32>, Value)>,
    /// What each coming call of the login service is answered instead.
    login_faults: VecDeque<(u16, Value)>,
    /// Every message, in order of its first arrival.
    messages: Vec<Sent>,
    /// Calls by path, failed ones too.
    calls: Vec<String>,
    /// Tokens that it gave out.
    tokens: Vec<String>,
    /// Fetches of the signing keys.
    key_fetches: usize,
    /// Redirects every connector call elsewhere.
    redirect: Option<String>,
}

/// A message as it now is.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The conversation.
    pub conversation: String,
    /// Its id.
    pub id: String,
    /// The message that it answers.
    pub reply_to: Option<String>,
    /// The activity.
    pub activity: Value,
    /// How often it was replaced.
    pub updates: usize,
    /// Somebody deleted it.
    pub deleted: bool,
}

impl Sent {
    /// The Adaptive Card that it shows; null where there is none.
    #[must_use]
    pub fn card(&self) -> &Value {
        self.activity.pointer("/attachments/0/content").unwrap_or(&Value::Null)
    }
}

pub(crate) struct State {
    held: Mutex<Held>,
    /// Endorsed for Teams; endorsed for another channel; endorsed for none; not published.
    keys: [Key; 4],
    port: std::sync::OnceLock<u16>,
}

impl State {
    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.get().copied().unwrap_or_default())
    }
}

impl FakeTeams {
    /// Starts it on a port that the system chooses.
    ///
    /// # Errors
    /// When there is no port, or a key cannot be made.
    pub async fn start() -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let keys = [
            Key::generate("teams-1", &["msteams", "skype"])?,
            Key::generate("chat-1", &["webchat"])?,
            Key::generate("bare-1", &[])?,
            Key::generate("teams-1", &["msteams"])?,
        ];
        let state =
            Arc::new(State { held: Mutex::default(), keys, port: std::sync::OnceLock::new() });
        let _ = state.port.set(port);
        let server = tokio::spawn(server::serve(listener, Arc::clone(&state)));
        Ok(Self { state, port, server })
    }

    /// `http://127.0.0.1:…`, without a slash.
    #[must_use]
    pub fn base(&self) -> String {
        self.state.base()
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The connector's address, as activities name it.
    #[must_use]
    pub fn service_url(&self) -> String {
        format!("{}/emea/", self.base())
    }

    /// The OpenID metadata's address.
    #[must_use]
    pub fn metadata(&self) -> String {
        format!("{}/v1/.well-known/openidconfiguration", self.base())
    }

    /// The published key set.
    #[must_use]
    pub fn key_set(&self) -> Value {
        server::key_set(&self.state)
    }

    /// The key that signs for Teams.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.state.keys[0]
    }

    /// A published key that is endorsed for another channel only.
    #[must_use]
    pub fn other_channels_key(&self) -> &Key {
        &self.state.keys[1]
    }

    /// A published key without endorsements.
    #[must_use]
    pub fn bare_key(&self) -> &Key {
        &self.state.keys[2]
    }

    /// A key that is not published, under the id of the first.
    #[must_use]
    pub fn thiefs_key(&self) -> &Key {
        &self.state.keys[3]
    }

    /// What a genuine token says at `now_s` (seconds since 1970).
    #[must_use]
    pub fn claims(&self, now_s: i64) -> Claims {
        Claims {
            issuer: ISSUER.into(),
            audience: APP.into(),
            service_url: Some(self.service_url()),
            not_before: Some(now_s - 60),
            expires: Some(now_s + 3600),
        }
    }

    /// A genuine `Authorization` header.
    ///
    /// # Errors
    /// When signing fails.
    pub fn authorization(&self, now_s: i64) -> std::io::Result<String> {
        self.key().bearer(&self.claims(now_s))
    }

    /// An activity by a person of the tenant, to be completed.
    #[must_use]
    pub fn activity(&self, object_id: &str, id: &str) -> Value {
        json!({
            "id": id, "channelId": "msteams", "serviceUrl": self.service_url(),
            "timestamp": "2026-11-21T13:38:00.000Z",
            "from": { "id": format!("29:{object_id}"), "name": "Somebody", "aadObjectId": object_id },
            "recipient": { "id": format!("28:{APP}"), "name": "Grantwright" },
            "conversation": {
                "id": "19:reviewers@thread.tacv2;messageid=1", "conversationType": "channel",
                "isGroup": true, "tenantId": TENANT,
            },
            "channelData": {
                "tenant": { "id": TENANT }, "channel": { "id": "19:reviewers@thread.tacv2" },
            },
        })
    }

    /// The invoke that pressing this action of a card sends, with the inputs filled in.
    #[must_use]
    pub fn press(&self, object_id: &str, id: &str, action: &Value, inputs: &Value) -> Value {
        let mut data = action.get("data").cloned().unwrap_or_else(|| json!({}));
        if let (Value::Object(data), Value::Object(inputs)) = (&mut data, inputs) {
            data.extend(inputs.clone());
        }
        let mut out = self.activity(object_id, id);
        if let Value::Object(map) = &mut out {
            map.insert("type".into(), "invoke".into());
            map.insert("name".into(), "adaptiveCard/action".into());
            map.insert("replyToId".into(), "1763675934000".into());
            map.insert(
                "value".into(),
                json!({
                    "action": {
                        "type": action.get("type"), "verb": action.get("verb"), "data": data,
                    },
                    "trigger": "manual",
                }),
            );
        }
        out
    }

    /// Answers the next call of the connector with this instead, and does nothing.
    pub fn fail_next(&self, status: u16, retry_after_s: Option<u32>, body: Value) {
        self.state.held().faults.push_back((status, retry_after_s, body));
    }

    /// Answers the next call of the login service with this instead.
    pub fn fail_next_login(&self, status: u16, body: Value) {
        self.state.held().login_faults.push_back((status, body));
    }

    /// Answers every call of the connector with a redirect from now on.
    pub fn redirect_to(&self, target: &str) {
        self.state.held().redirect = Some(target.to_owned());
    }

    /// Every token that it gave out stops working.
    pub fn forget_tokens(&self) {
        self.state.held().tokens.clear();
    }

    /// The messages as they now are.
    #[must_use]
    pub fn messages(&self) -> Vec<Sent> {
        self.state.held().messages.clone()
    }

    /// Every call of connector and login service, as `METHOD path`.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.state.held().calls.clone()
    }

    /// How often the signing keys were fetched.
    #[must_use]
    pub fn key_fetches(&self) -> usize {
        self.state.held().key_fetches
    }
}
