//! The fake Slack, the fake Bot Service or the fake clouds as a process of its own, for tests of the whole
//! system: `fakes slack`, `fakes teams`, `fakes clouds`. The first line that it prints says where it is; then it answers each
//! line of JSON on standard input with one line of JSON.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a fake fails loudly, in the test that runs it, and lives in real time"
)]

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use grantwright_testkit::clouds::{Call, Clouds, Say};
use grantwright_testkit::slack::{self, FakeSlack};
use grantwright_testkit::teams::{self, FakeTeams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let lines = std::io::stdin().lines().map_while(Result::ok);
    let asks = lines.map(|line| serde_json::from_str::<Value>(&line).unwrap());
    match std::env::args().nth(1).as_deref() {
        Some("slack") => {
            let fake = runtime.block_on(FakeSlack::start());
            say(&json!({
                "api": fake.api, "team": slack::TEAM, "app": slack::APP, "secret": slack::SECRET,
                "bot": slack::BOT, "app_token": slack::APP_TOKEN,
            }));
            asks.for_each(|ask| say(&runtime.block_on(on_slack(&fake, &ask))));
        }
        Some("teams") => {
            let fake = runtime.block_on(FakeTeams::start()).expect("a port");
            say(&json!({
                "app": teams::APP, "tenant": teams::TENANT, "secret": teams::SECRET,
                "service_url": fake.service_url(), "authority": fake.base(),
                "metadata": fake.metadata(),
            }));
            asks.for_each(|ask| say(&runtime.block_on(on_teams(&fake, &ask))));
        }
        Some("clouds") => {
            let fake = runtime.block_on(Clouds::start(now_s));
            let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
            let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
            fake.app_key(key.public_key().as_ref()).lasts(600);
            say(&json!({ "url": fake.url, "app_key": STANDARD.encode(der.as_ref()) }));
            asks.for_each(|ask| say(&on_clouds(&fake, &ask)));
        }
        _ => panic!("want `slack`, `teams` or `clouds`"),
    }
}

fn say(value: &Value) {
    println!("{value}");
}

fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// `messages {channel}` · `press {user, message, action, value?, to?}` · `submit {user, view, values,
/// to?}` · `views` · `whispers` · `broken`. `to`: the broker's address, for HTTP; else Socket Mode.
async fn on_slack(fake: &Arc<FakeSlack>, ask: &Value) -> Value {
    let user = text(ask, "user");
    match text(ask, "do") {
        "messages" => fake.in_channel(text(ask, "channel")).into(),
        "views" => fake.views.lock().unwrap().clone().into(),
        "whispers" => fake.whispers.lock().unwrap().clone().into(),
        "broken" => json!(*fake.broken.lock().unwrap()),
        "press" => {
            let payload = match ask["value"].as_str() {
                Some(value) => fake.press_value(user, &ask["message"], text(ask, "action"), value),
                None => fake.press(user, &ask["message"], text(ask, "action")),
            };
            deliver(fake, ask, &payload).await
        }
        "submit" => deliver(fake, ask, &fake.submit(user, &ask["view"], &ask["values"])).await,
        other => panic!("no such thing to do: {other}"),
    }
}

/// What the acknowledgement was, and after how many microseconds it came.
async fn deliver(fake: &Arc<FakeSlack>, ask: &Value, payload: &Value) -> Value {
    let begun = Instant::now();
    let acked = if let Some(to) = ask["to"].as_str() {
        let body = FakeSlack::body(payload);
        let at = now_s().to_string();
        let signed = signature(&at, body.as_bytes());
        let (status, _) = post(
            to,
            "/slack/interactivity",
            &[
                ("content-type", "application/x-www-form-urlencoded"),
                ("x-slack-request-timestamp", &at),
                ("x-slack-signature", &signed),
            ],
            body.as_bytes(),
        )
        .await;
        status == 200
    } else {
        let id = format!("e-{}", payload["trigger_id"].as_str().unwrap_or_default());
        while fake.envelope("interactive", &id, payload) == 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "nobody is connected");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let acked = || fake.acks.lock().unwrap().iter().any(|a| a["envelope_id"] == id.as_str());
        while !acked() && begun.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        acked()
    };
    json!({ "acked": acked, "us": u64::try_from(begun.elapsed().as_micros()).unwrap() })
}

/// As Slack signs, by its own documentation.
fn signature(at: &str, body: &[u8]) -> String {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, slack::SECRET.as_bytes());
    let base = [b"v0:", at.as_bytes(), b":", body].concat();
    let tag = aws_lc_rs::hmac::sign(&key, &base);
    let hex: String = tag.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("v0={hex}")
}

/// `messages` · `press {object_id, id, action, inputs, to}` · `say {object_id, id, text, to}`.
async fn on_teams(fake: &FakeTeams, ask: &Value) -> Value {
    let (who, id) = (text(ask, "object_id"), text(ask, "id"));
    let activity = match text(ask, "do") {
        "messages" => {
            let shown = |m: &teams::Sent| {
                json!({
                    "conversation": m.conversation, "id": m.id, "reply_to": m.reply_to,
                    "updates": m.updates, "card": m.card(), "summary": m.activity["summary"],
                })
            };
            return fake.messages().iter().map(shown).collect();
        }
        "press" => fake.press(who, id, &ask["action"], &ask["inputs"]),
        other => panic!("no such thing to do: {other}"),
    };
    let authorization = fake.authorization(now_s()).unwrap();
    let headers = [("content-type", "application/json"), ("authorization", &*authorization)];
    let body = activity.to_string();
    let (status, answer) = post(text(ask, "to"), "/api/messages", &headers, body.as_bytes()).await;
    json!({ "status": status, "answer": serde_json::from_slice::<Value>(&answer).unwrap_or_default() })
}

/// `calls {word}` · `live` · `objects` · `lasts {seconds}` · `tell {word, say, status?, text?}` · `well`.
fn on_clouds(fake: &Clouds, ask: &Value) -> Value {
    match text(ask, "do") {
        "calls" => {
            let shown = |c: Call| json!({ "method": c.method, "path": c.path, "body": c.body });
            fake.calls(text(ask, "word")).into_iter().map(shown).collect()
        }
        "live" => fake.live().into(),
        "objects" => fake.objects().into(),
        "lasts" => {
            fake.lasts(ask["seconds"].as_i64().unwrap());
            Value::Null
        }
        "tell" => {
            let what = match text(ask, "say") {
                "lost" => Say::Lost,
                "drop" => Say::Drop,
                "half" => Say::Half,
                "status" => {
                    let status = ask["status"].as_u64().unwrap().try_into().unwrap();
                    Say::Status(status, text(ask, "text").to_owned())
                }
                other => panic!("no such thing to say: {other}"),
            };
            fake.tell(text(ask, "word"), what);
            Value::Null
        }
        "well" => {
            fake.well();
            Value::Null
        }
        other => panic!("no such thing to do: {other}"),
    }
}

/// One HTTP/1.1 call to a broker on loopback: status and body.
async fn post(base: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, Vec<u8>) {
    let host = base.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(host).await.expect("the broker listens");
    let mut head = format!("POST {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
    (status, answer[end..].to_vec())
}
