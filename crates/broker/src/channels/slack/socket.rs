//! Socket Mode: Slack's deliveries over a connection that we open, so that no public address is
//! needed. Each is acknowledged first and worked on after; a new connection is there before an old
//! one that Slack winds up is given up.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Upgraded;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::super::SendError;
use super::{CALL, SlackChannel, api};
use crate::core::Broker;

/// A connection on which nothing came for so long, pings included, is dead.
const SILENCE: Duration = Duration::from_secs(60);
/// How often we ping.
const PING: Duration = Duration::from_secs(15);
/// For how long an old connection is listened to while the new one is there.
const DRAIN: Duration = Duration::from_secs(30);
/// Longest pause between attempts.
const MOST_PAUSE_MS: u64 = 60_000;
/// Largest delivery.
const MOST_FRAME: usize = 1 << 20;

type Socket = WebSocketStream<Upgraded>;

/// Why a connection is left.
enum Left {
    /// Slack winds it up: open another one before it is closed.
    WindUp(Box<Socket>),
    /// It ended, or is dead.
    Ended,
    /// Socket Mode was switched off.
    Disabled,
}

/// Keeps a connection until the process ends.
pub async fn run(broker: Arc<Broker>, slack: Arc<SlackChannel>) {
    let mut failures = 0u32;
    loop {
        let pause = match connect(&broker, &slack).await {
            Ok(socket) => match serve(&broker, &slack, socket).await {
                Left::WindUp(old) => {
                    failures = 0;
                    tokio::spawn(drain(Arc::clone(&broker), Arc::clone(&slack), *old));
                    continue;
                }
                Left::Ended => {
                    failures = 1;
                    1000
                }
                Left::Disabled => {
                    tracing::error!("Slack's Socket Mode is switched off for this application");
                    MOST_PAUSE_MS
                }
            },
            Err(SendError::Later(ms)) => ms.unsigned_abs(),
            Err(e) => {
                failures = failures.saturating_add(1);
                tracing::warn!(error = %e, "no connection to Slack; it is tried again");
                1000u64.saturating_mul(1 << failures.min(6))
            }
        };
        let spread = u64::from(u16::from_be_bytes(broker.random.bytes::<2>()));
        let pause = (pause + pause * spread / 131_072).min(MOST_PAUSE_MS);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

async fn drain(broker: Arc<Broker>, slack: Arc<SlackChannel>, socket: Socket) {
    // Whatever still comes on the old connection is acknowledged there.
    let _ = timeout(DRAIN, serve(&broker, &slack, socket)).await;
}

/// RFC 6455's opening handshake over the HTTP client, so that one TLS stack serves all.
async fn connect(broker: &Broker, slack: &SlackChannel) -> Result<Socket, SendError> {
    let url = slack.api.socket().await?;
    let key = STANDARD.encode(broker.random.bytes::<16>());
    let broken = |what: &str| SendError::Down(what.to_owned());
    let client = api::client(None).map_err(|e| SendError::Barred(e.to_string()))?;
    let call = client
        .get(url)
        .version(http::Version::HTTP_11)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", &key);
    let answer = timeout(CALL, call.send())
        .await
        .map_err(|_| broken("no answer in time"))?
        .map_err(|_| broken("no connection"))?;
    let accept = answer.headers().get("sec-websocket-accept").and_then(|v| v.to_str().ok());
    if answer.status().as_u16() != 101 || accept != Some(accepted(&key).as_str()) {
        return Err(broken("the address speaks no WebSocket"));
    }
    let raw = timeout(CALL, answer.upgrade())
        .await
        .map_err(|_| broken("no answer in time"))?
        .map_err(|_| broken("the connection broke"))?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MOST_FRAME))
        .max_frame_size(Some(MOST_FRAME));
    Ok(WebSocketStream::from_raw_socket(raw, Role::Client, Some(config)).await)
}

/// What the service proves to have read of our key (RFC 6455 §4.2.2).
fn accepted(key: &str) -> String {
    let whole = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, whole.as_bytes()).as_ref())
}

async fn serve(broker: &Arc<Broker>, slack: &Arc<SlackChannel>, mut socket: Socket) -> Left {
    let mut ping = tokio::time::interval(PING);
    let mut heard = tokio::time::Instant::now();
    loop {
        let frame = tokio::select! {
            frame = socket.next() => frame,
            _ = ping.tick() => {
                if heard.elapsed() > SILENCE || socket.send(Message::Ping(Vec::new().into())).await.is_err() {
                    return Left::Ended;
                }
                continue;
            }
        };
        heard = tokio::time::Instant::now();
        let text = match frame {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Left::Ended,
            Some(Ok(_)) => continue,
        };
        let Ok(envelope) = serde_json::from_str::<Value>(&text) else { continue };
        let say = |key: &str| envelope.get(key).and_then(Value::as_str).unwrap_or_default();
        match say("type") {
            "disconnect" if say("reason") == "link_disabled" => return Left::Disabled,
            "disconnect" => return Left::WindUp(Box::new(socket)),
            "interactive" => {
                let Some(ack) = take(broker, slack, &envelope) else { continue };
                if socket.send(Message::text(ack.to_string())).await.is_err() {
                    return Left::Ended;
                }
            }
            // Other kinds are acknowledged so that they are not sent again, and do nothing.
            _ if !say("envelope_id").is_empty() => {
                let ack = json!({ "envelope_id": say("envelope_id") });
                if socket.send(Message::text(ack.to_string())).await.is_err() {
                    return Left::Ended;
                }
            }
            _ => {}
        }
    }
}

/// Takes an envelope on; its acknowledgement, or none when too much is under way.
fn take(broker: &Arc<Broker>, slack: &Arc<SlackChannel>, envelope: &Value) -> Option<Value> {
    let id = envelope.get("envelope_id")?.as_str()?;
    let payload = match slack.slack.read_socket(envelope.get("payload")?) {
        Ok(incoming) => slack.take(broker, incoming)?.0,
        Err(rejected) => {
            tracing::warn!(code = rejected.code(), why = %rejected, "a delivery was not taken");
            None
        }
    };
    Some(match payload {
        Some(payload) => json!({ "envelope_id": id, "payload": payload }),
        None => json!({ "envelope_id": id }),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_rfcs_own_key() {
        assert_eq!(super::accepted("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
