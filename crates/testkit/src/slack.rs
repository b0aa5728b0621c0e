//! A fake Slack: the Web API, Socket Mode and interactive deliveries, with Block Kit's bounds, the
//! scopes that each method wants, and a queue of faults. Slack's own clients speak to it in
//! `tests/system/t_slack.py`, so that it is not a mirror of our beliefs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_tungstenite::tungstenite::Message;

mod blocks;

pub use blocks::fault;

/// The workspace.
pub const TEAM: &str = "T111";
/// The application.
pub const APP: &str = "A111";
/// The signing secret.
pub const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
/// The bot token.
pub const BOT: &str = "xoxb-fake";
/// The app-level token.
pub const APP_TOKEN: &str = "xapp-fake";

/// What the next call meets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// 429 with `Retry-After`.
    TooMany(u64),
    /// Another status, without a body.
    Status(u16),
    /// No answer.
    Silence,
    /// 200 with `ok: false`.
    Error(&'static str),
}

/// How fast it takes messages: one in so long, over the whole workspace; what comes sooner is 429.
struct Pace {
    every_ms: i64,
    clock: Box<dyn Fn() -> i64 + Send>,
    next: i64,
}

/// What it holds.
pub struct FakeSlack {
    /// Where the Web API is.
    pub api: String,
    /// Messages by `channel ts`.
    pub messages: Mutex<BTreeMap<String, Value>>,
    /// Messages to one person alone.
    pub whispers: Mutex<Vec<Value>>,
    /// Views that were opened.
    pub views: Mutex<Vec<Value>>,
    /// Faults to come.
    pub faults: Mutex<VecDeque<Fault>>,
    /// Calls, by method.
    pub calls: Mutex<Vec<String>>,
    /// What broke Block Kit's rules.
    pub broken: Mutex<Vec<String>>,
    /// Users that are not full members, with their word from `users.info`.
    pub users: Mutex<BTreeMap<String, Value>>,
    /// Acknowledgements over Socket Mode.
    pub acks: Mutex<Vec<Value>>,
    /// What the bot token may.
    pub scopes: Mutex<BTreeSet<String>>,
    /// When messages were taken, in milliseconds of the pace's clock; see [`Self::takes_one_every`].
    pub taken: Mutex<Vec<i64>>,
    /// Messages that came too soon.
    pub too_soon: Mutex<u64>,
    pace: Mutex<Option<Pace>>,
    socket: String,
    envelopes: broadcast::Sender<String>,
    serial: Mutex<u64>,
}

impl FakeSlack {
    /// Starts it on ports that the system chooses.
    pub async fn start() -> Arc<Self> {
        let http = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let ws = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = http.local_addr().expect("an address");
        let fake = Arc::new(Self {
            api: format!("http://{address}/api"),
            messages: Mutex::default(),
            whispers: Mutex::default(),
            views: Mutex::default(),
            faults: Mutex::default(),
            calls: Mutex::default(),
            broken: Mutex::default(),
            users: Mutex::default(),
            acks: Mutex::default(),
            scopes: Mutex::new(["chat:write", "users:read"].map(ToOwned::to_owned).into()),
            taken: Mutex::default(),
            too_soon: Mutex::default(),
            pace: Mutex::default(),
            socket: format!("ws://{}/link", ws.local_addr().expect("an address")),
            envelopes: broadcast::channel(1024).0,
            serial: Mutex::new(0),
        });
        let router = Router::new()
            .route("/api/{method}", post(call).get(call))
            .route("/hooks/{id}", post(hook))
            .with_state(Arc::clone(&fake));
        tokio::spawn(async move { axum::serve(http, router).await });
        let sockets = Arc::clone(&fake);
        tokio::spawn(async move {
            while let Ok((stream, _)) = ws.accept().await {
                let fake = Arc::clone(&sockets);
                tokio::spawn(async move { fake.connection(stream).await });
            }
        });
        fake
    }

    async fn connection(self: Arc<Self>, stream: tokio::net::TcpStream) {
        let mut envelopes = self.envelopes.subscribe();
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
        let hello = json!({
            "type": "hello", "num_connections": 1, "connection_info": { "app_id": APP },
            "debug_info": { "host": "applink-fake", "build_number": 1, "approximate_connection_time": 18060 },
        });
        if socket.send(Message::text(hello.to_string())).await.is_err() {
            return;
        }
        loop {
            tokio::select! {
                envelope = envelopes.recv() => {
                    let Ok(text) = envelope else { return };
                    if socket.send(Message::text(text)).await.is_err() { return; }
                }
                frame = socket.next() => match frame {
                    Some(Ok(Message::Text(text))) => {
                        if let Ok(ack) = serde_json::from_str(&text) {
                            self.acks.lock().unwrap().push(ack);
                        }
                    }
                    Some(Ok(_)) => {}
                    _ => return,
                },
            }
        }
    }

    /// Sends an envelope over Socket Mode; how many connections are there.
    pub fn envelope(&self, kind: &str, id: &str, payload: &Value) -> usize {
        let envelope = json!({
            "type": kind, "envelope_id": id, "accepts_response_payload": true, "payload": payload,
        });
        self.envelopes.send(envelope.to_string()).unwrap_or(0)
    }

    /// Tells the connections that they are wound up.
    pub fn disconnect(&self, reason: &str) {
        let _ = self.envelopes.send(json!({ "type": "disconnect", "reason": reason }).to_string());
    }

    /// From now on one message is taken in so long, posted or changed, wherever it goes: the others are
    /// 429 with `Retry-After`. `clock` tells milliseconds.
    pub fn takes_one_every(&self, every_ms: i64, clock: impl Fn() -> i64 + Send + 'static) {
        let next = clock();
        *self.pace.lock().unwrap() = Some(Pace { every_ms, clock: Box::new(clock), next });
    }

    /// In how many seconds this message may come again; none: it is taken.
    fn wait(&self, method: &str) -> Option<u64> {
        let mut pace = self.pace.lock().unwrap();
        let pace =
            pace.as_mut().filter(|_| matches!(method, "chat.postMessage" | "chat.update"))?;
        let now = (pace.clock)();
        if now < pace.next {
            *self.too_soon.lock().unwrap() += 1;
            let ms = u64::try_from(pace.next - now).unwrap_or(0);
            return Some(ms.div_ceil(1000).max(1));
        }
        pace.next = now + pace.every_ms;
        self.taken.lock().unwrap().push(now);
        None
    }

    fn next(&self) -> u64 {
        let mut serial = self.serial.lock().unwrap();
        *serial += 1;
        *serial
    }

    /// Every message in a conversation, oldest first.
    pub fn in_channel(&self, channel: &str) -> Vec<Value> {
        let messages = self.messages.lock().unwrap();
        messages.values().filter(|m| m["channel"] == channel).cloned().collect()
    }

    /// The payload of a press of this button of this message.
    ///
    /// # Panics
    /// When there is no such button: nobody could press it.
    pub fn press(&self, user: &str, message: &Value, action: &str) -> Value {
        let blocks = message["blocks"].as_array().expect("blocks");
        let buttons = blocks.iter().flat_map(|b| b["elements"].as_array().into_iter().flatten());
        let button = buttons
            .into_iter()
            .find(|e| e["action_id"] == action)
            .unwrap_or_else(|| panic!("no button {action} in {message}"));
        self.press_value(user, message, action, button["value"].as_str().unwrap_or_default())
    }

    /// The same, of a button that carries `value`.
    pub fn press_value(&self, user: &str, message: &Value, action: &str, value: &str) -> Value {
        let n = self.next();
        let base = self.api.trim_end_matches("/api");
        json!({
            "type": "block_actions", "team": { "id": TEAM, "domain": "acme" },
            "user": { "id": user, "username": user.to_lowercase(), "team_id": TEAM },
            "api_app_id": APP, "token": "ignored",
            "container": {
                "type": "message", "message_ts": message["ts"], "channel_id": message["channel"],
                "is_ephemeral": false,
            },
            "trigger_id": format!("{n}.trigger"), "channel": { "id": message["channel"], "name": "approvals" },
            "message": message, "state": { "values": {} }, "response_url": format!("{base}/hooks/{n}"),
            "is_enterprise_install": false, "enterprise": null,
            "actions": [{
                "type": "button", "block_id": "gw_decide", "action_id": action, "value": value,
                "action_ts": format!("{n}.1"), "text": { "type": "plain_text", "text": action },
            }],
        })
    }

    /// The payload of sending a view with these values by block.
    pub fn submit(&self, user: &str, view: &Value, values: &Value) -> Value {
        let n = self.next();
        let mut view = view.clone();
        view["id"] = format!("V{n}").into();
        view["hash"] = format!("{n}.hash").into();
        view["state"] = json!({ "values": values });
        json!({
            "type": "view_submission", "team": { "id": TEAM, "domain": "acme" },
            "user": { "id": user, "username": user.to_lowercase(), "team_id": TEAM },
            "api_app_id": APP, "token": "ignored", "trigger_id": format!("{n}.trigger"),
            "view": view, "response_urls": [], "is_enterprise_install": false, "enterprise": null,
        })
    }

    /// An interactive delivery's body.
    #[must_use]
    pub fn body(payload: &Value) -> String {
        let encoded: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("payload", &payload.to_string())
            .finish();
        encoded
    }

    fn may(&self, headers: &HeaderMap, method: &str) -> Result<(), &'static str> {
        let wanted = match method {
            "chat.postMessage" | "chat.update" | "chat.postEphemeral" => Some("chat:write"),
            "users.info" => Some("users:read"),
            _ => None,
        };
        let token = headers.get("authorization").and_then(|v| v.to_str().ok());
        let want = if method == "apps.connections.open" { APP_TOKEN } else { BOT };
        if token.and_then(|t| t.strip_prefix("Bearer ")) != Some(want) {
            return Err("invalid_auth");
        }
        match wanted {
            Some(scope) if !self.scopes.lock().unwrap().contains(scope) => Err("missing_scope"),
            _ => Ok(()),
        }
    }

    fn answer(&self, method: &str, mut body: Value) -> Result<Value, String> {
        let text = |body: &Value, key: &str| body[key].as_str().unwrap_or_default().to_owned();
        let blocks = body["blocks"].clone();
        if let Some(why) = (!blocks.is_null()).then(|| fault(&blocks, 50)).flatten() {
            self.broken.lock().unwrap().push(why);
            return Err("invalid_blocks".into());
        }
        match method {
            "auth.test" => Ok(json!({
                "url": "https://acme.slack.com/", "team": "acme", "team_id": TEAM, "user": "grantwright",
                "user_id": "UBOT", "bot_id": "BBOT",
            })),
            "apps.connections.open" => {
                Ok(json!({ "url": format!("{}?ticket={}", self.socket, self.next()) }))
            }
            "chat.postMessage" => {
                let channel = text(&body, "channel");
                if !channel.starts_with(['C', 'U', 'D', 'G']) {
                    return Err("channel_not_found".into());
                }
                if text(&body, "text").is_empty() && blocks.is_null() {
                    return Err("no_text".into());
                }
                let ts = format!("1763675934.{:06}", self.next());
                body["ts"] = ts.clone().into();
                self.messages.lock().unwrap().insert(format!("{channel} {ts}"), body.clone());
                Ok(json!({ "channel": channel, "ts": ts, "message": body }))
            }
            "chat.update" => {
                let (channel, ts) = (text(&body, "channel"), text(&body, "ts"));
                let mut messages = self.messages.lock().unwrap();
                let found =
                    messages.get_mut(&format!("{channel} {ts}")).ok_or("message_not_found")?;
                for key in ["text", "blocks"] {
                    found[key] = body[key].clone();
                }
                Ok(json!({ "channel": channel, "ts": ts, "text": body["text"] }))
            }
            "chat.postEphemeral" => {
                self.whispers.lock().unwrap().push(body);
                Ok(json!({ "message_ts": format!("1763675934.{:06}", self.next()) }))
            }
            "views.open" => {
                let view = body["view"].clone();
                if let Some(why) = blocks::view_fault(&view) {
                    self.broken.lock().unwrap().push(why);
                    return Err("invalid_arguments".into());
                }
                self.views.lock().unwrap().push(view.clone());
                Ok(json!({ "view": view }))
            }
            "users.info" => {
                let id = text(&body, "user");
                let mut user = json!({
                    "id": id, "team_id": TEAM, "name": id.to_lowercase(), "deleted": false,
                    "is_bot": false, "is_restricted": false, "is_ultra_restricted": false,
                });
                if let Some(other) = self.users.lock().unwrap().get(&id) {
                    for (key, value) in other.as_object().into_iter().flatten() {
                        user[key] = value.clone();
                    }
                }
                Ok(json!({ "user": user }))
            }
            _ => Err("unknown_method".into()),
        }
    }
}

async fn call(
    State(fake): State<Arc<FakeSlack>>,
    Path(method): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    fake.calls.lock().unwrap().push(method.clone());
    let next = fake.faults.lock().unwrap().pop_front();
    match next {
        Some(Fault::TooMany(seconds)) => return too_many(seconds),
        Some(Fault::Status(status)) => {
            return StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY).into_response();
        }
        Some(Fault::Silence) => tokio::time::sleep(Duration::from_secs(3600)).await,
        Some(Fault::Error(error)) => {
            return Json(json!({ "ok": false, "error": error })).into_response();
        }
        None => {}
    }
    if let Some(seconds) = fake.wait(&method) {
        return too_many(seconds);
    }
    // Clients send JSON, a form, or a query.
    let given = serde_json::from_slice(&body).unwrap_or_else(|_| {
        let form = form_urlencoded::parse(&body).map(|(k, v)| {
            let nested = v.starts_with(['[', '{']).then(|| serde_json::from_str(&v).ok()).flatten();
            (k.into_owned(), nested.unwrap_or_else(|| Value::from(v.as_ref())))
        });
        let query = query.into_iter().map(|(k, v)| (k, Value::from(v)));
        Value::Object(form.chain(query).collect())
    });
    let said = fake.may(&headers, &method).map_err(ToOwned::to_owned);
    let answer = match said.and_then(|()| fake.answer(&method, given)) {
        Ok(mut answer) => {
            answer["ok"] = true.into();
            answer
        }
        Err(error) => json!({ "ok": false, "error": error }),
    };
    Json(answer).into_response()
}

fn too_many(seconds: u64) -> Response {
    let mut response = Response::new(Body::from(r#"{"ok":false,"error":"ratelimited"}"#));
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    response.headers_mut().insert("retry-after", seconds.into());
    response
}

async fn hook(State(fake): State<Arc<FakeSlack>>, Json(body): Json<Value>) -> &'static str {
    fake.whispers.lock().unwrap().push(body);
    "ok"
}
