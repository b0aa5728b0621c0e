//! The webhook: the conformance suite, a request's life as a tool meets it, and a tool that fails.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::State as From;
use axum::http::{HeaderMap, Request, StatusCode};
use grantwright_approval::channel::{Channel, Delivery, Wish};
use grantwright_approval::webhook::{Endpoint, Headers, Webhook};
use grantwright_domain::event::TokenIssued;
use grantwright_domain::{Digest, Event, RequestId, Timestamp};
use grantwright_store::Transition;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::WebhookChannel;
use super::config::WebhookSection;
use crate::channels::Channels;
use crate::channels::conformance::Hand;
use crate::issue::rig::{Rig, human, id_of, word};
use crate::people::Intention;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const ORIGIN: &str = "test.example/log";

fn token(who: &str) -> String {
    Digest::of("test-token", who.as_bytes()).hex()
}

fn issued(who: &str, at: Timestamp) -> Event {
    Event::TokenIssued(TokenIssued {
        at,
        by: human("olivia"),
        token_id: format!("t-{who}"),
        human: human(who),
        token_hash: Digest::of("person-token", token(who).as_bytes()),
        expires_at: at.plus_seconds(43_200),
    })
}

/// What the tool does with the coming messages; empty: takes them.
#[derive(Default)]
struct Tool {
    taken: Mutex<Vec<(Headers, Value)>>,
    answers: Mutex<Vec<(u16, Option<&'static str>)>>,
    attempts: Mutex<Vec<String>>,
}

async fn tool(
    From(tool): From<Arc<Tool>>,
    headers: HeaderMap,
    body: Bytes,
) -> impl axum::response::IntoResponse {
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let signed = Headers {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
    };
    tool.attempts.lock().unwrap().push(signed.id.clone());
    let mut answers = tool.answers.lock().unwrap();
    if !answers.is_empty() {
        let (status, more) = answers.remove(0);
        let mut out = HeaderMap::new();
        if let Some(more) = more {
            let name = if status < 400 { "location" } else { "retry-after" };
            out.insert(name, more.parse().unwrap());
        }
        return (StatusCode::from_u16(status).unwrap(), out);
    }
    let value = serde_json::from_slice(&body).unwrap();
    // A receiver that knows one of the secrets verifies the very bytes.
    let at = Timestamp::from_millis(signed.timestamp.parse::<i64>().unwrap() * 1000);
    Endpoint::parse([OTHER]).unwrap().verify(&signed, &body, at).unwrap();
    tool.taken.lock().unwrap().push((signed, value));
    (StatusCode::NO_CONTENT, HeaderMap::new())
}

struct Stand {
    rig: Rig,
    tool: Arc<Tool>,
    hook: Arc<WebhookChannel>,
    url: String,
}

impl Stand {
    async fn new() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let held = Arc::new(Tool::default());
        let app = axum::Router::new().fallback(tool).with_state(Arc::clone(&held));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let mut rig = Rig::new().await;
        let hook = Self::open(&mut rig, &url);
        let stand = Self { rig, tool: held, hook, url };
        let now = stand.rig.broker.now();
        let tokens = ["alice", "bob", "carol"].map(|who| issued(who, now)).to_vec();
        stand.rig.broker.commit(Transition::authority(tokens)).await.unwrap();
        stand.hook.turn(&stand.rig.broker).await;
        stand
    }

    fn open(rig: &mut Rig, url: &str) -> Arc<WebhookChannel> {
        let section = WebhookSection { url: url.into(), secret_files: vec!["a".into()] };
        assert!(section.faults().is_empty());
        let secrets = [SECRET.to_owned() + "\n", OTHER.to_owned()];
        let hook = Arc::new(WebhookChannel::new(&section, &secrets, ORIGIN).unwrap());
        let channels = Channels { webhook: Some(Arc::clone(&hook)), ..Channels::default() };
        Arc::get_mut(&mut rig.broker).unwrap().channels = channels;
        hook
    }

    async fn settle(&self, seconds: i64) {
        let end = self.rig.broker.now().plus_seconds(seconds);
        while self.rig.broker.now() < end {
            let next = self.hook.turn(&self.rig.broker).await;
            let wait = next.since(self.rig.broker.now()).clamp(1, 1_000);
            self.rig.clock.advance(wait);
        }
    }

    async fn ask(&self) -> String {
        let ask = self.rig.ask("export", r#"{"dataset":"a","rows":10}"#, "");
        id_of(&self.rig.issue(ask).await.unwrap())
    }

    fn types(&self) -> Vec<String> {
        let taken = self.tool.taken.lock().unwrap();
        taken.iter().map(|(_, v)| v["type"].as_str().unwrap().to_owned()).collect()
    }

    fn last(&self) -> Value {
        self.tool.taken.lock().unwrap().last().unwrap().1.clone()
    }

    /// The tool hands a decision in, with what is on its last event.
    async fn decide(&self, id: &str, who: &str, decision: Value) -> (StatusCode, Value) {
        let handle = self.last()["data"]["handle"].clone();
        let mut body = json!({
            "to": ORIGIN, "request_id": handle["request_id"], "digest": handle["digest"],
            "seen": handle["seen"],
        });
        body.as_object_mut().unwrap().extend(decision.as_object().unwrap().clone());
        let body = body.to_string();
        let at = self.rig.broker.now();
        let signed = Endpoint::parse([SECRET]).unwrap().sign(id, at, body.as_bytes()).unwrap();
        let request = Request::post("/webhook/decisions")
            .header("host", "localhost:1")
            .header("webhook-id", signed.id)
            .header("webhook-timestamp", signed.timestamp)
            .header("webhook-signature", signed.signature)
            .header("authorization", format!("Bearer {}", token(who)))
            .body(Body::from(body))
            .unwrap();
        let answer =
            crate::http::router(Arc::clone(&self.rig.broker)).oneshot(request).await.unwrap();
        let status = answer.status();
        let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap())
    }
}

#[tokio::test]
async fn a_requests_life_by_webhook() {
    let stand = Stand::new().await;
    let id = stand.ask().await;
    stand.settle(2).await;
    assert_eq!(stand.types(), ["request.requested", "request.decided", "request.pending"]);
    let pending = stand.last();
    assert_eq!(pending["data"]["card"]["headline"], "Export 10 rows of `a`");
    assert_eq!(pending["data"]["from"], ORIGIN);

    // The owner may not; nobody's token is nobody; bob may ask.
    let (status, said) = stand.decide("w1", "alice", json!({ "decision": "approve" })).await;
    assert_eq!((status, said["code"].as_str()), (StatusCode::FORBIDDEN, Some("self_approval")));
    let (status, said) = stand.decide("w2", "nobody", json!({ "decision": "approve" })).await;
    assert_eq!((status, said["code"].as_str()), (StatusCode::UNAUTHORIZED, Some("not_signed_in")));
    let ask = json!({ "decision": "ask", "text": "which report?" });
    assert_eq!(stand.decide("w3", "bob", ask.clone()).await.0, StatusCode::OK);
    // The same message again does nothing twice.
    let (status, said) = stand.decide("w3", "bob", ask).await;
    assert_eq!((status, said["code"].as_str()), (StatusCode::CONFLICT, Some("repeated")));

    let request = RequestId::parse(&id).unwrap();
    let (broker, caller) = (&stand.rig.broker, &stand.rig.caller);
    crate::people::answer(broker, caller, &request, "the nightly one").await.unwrap();
    // What bob decides now is on a card without the answer.
    let (status, said) = stand.decide("w4", "bob", json!({ "decision": "approve" })).await;
    assert_eq!((status, said["code"].as_str()), (StatusCode::CONFLICT, Some("not_seen")));
    stand.settle(2).await;
    assert_eq!(stand.last()["data"]["card"]["words"]["answers"][0]["text"], "the nightly one");

    let narrow = json!({ "decision": "narrow", "ttl": "5m", "params": { "rows": 4 } });
    let (status, said) = stand.decide("w5", "bob", narrow).await;
    assert_eq!(status, StatusCode::OK, "{said}");
    assert_eq!(said["votes"][0]["channel"], "webhook");
    assert_eq!(word(&stand.rig.collect(&id).await.unwrap()), "granted");
    stand.settle(2).await;
    let types = stand.types();
    assert_eq!(
        types[3..],
        [
            "request.questioned",
            "request.answered",
            "request.narrowed",
            "request.decided",
            "request.pending",
            "request.voted",
            "request.decided",
            "request.issued"
        ]
    );
    assert_eq!(stand.last()["data"]["ttl_s"], 300);
    assert!(stand.last()["data"]["lease_id"].is_string());
    // No secret is in what was sent, and every message came once.
    let taken = stand.tool.taken.lock().unwrap();
    let all = taken.iter().map(|(_, v)| v.to_string()).collect::<String>();
    for canary in [token("bob").as_str(), "whsec_", "p4ss-c4n4ry", "eyJ"] {
        assert!(!all.contains(canary), "{canary}");
    }
    let ids: std::collections::BTreeSet<_> = taken.iter().map(|(h, _)| h.id.clone()).collect();
    assert_eq!(ids.len(), taken.len());
}

#[tokio::test]
async fn a_tool_hears_who_is_asked_first_who_holds_the_approval_and_that_time_runs_out() {
    let mut stand = Stand::new().await;
    let guards = "remind_after = \"15m\"\nescalate_before = \"10m\"\nescalate_to = \"leads\"\n\
                  [routing.reviewers]\nby = \"round-robin\"\n";
    let guard = |stand: &mut Stand| {
        let config = &mut Arc::get_mut(&mut stand.rig.broker).unwrap().config;
        config.guards = toml::from_str(guards).unwrap();
    };
    guard(&mut stand);
    let id = stand.ask().await;
    stand.settle(2).await;
    assert_eq!(stand.last()["type"], "request.pending");
    assert_eq!(stand.last()["data"]["asked_first"], json!(["bob"]));
    let together = stand.last()["data"]["together"].clone();
    assert!(together.is_string());

    // A restart between the steps repeats none of them.
    stand.rig.clock.advance(15 * 60_000);
    stand.settle(12).await;
    assert_eq!(stand.last()["type"], "request.reminded");
    assert_eq!(stand.last()["data"]["people"], json!(["bob"]));
    stand.hook.leave(&stand.rig.broker).await;
    stand.rig.crash().await;
    guard(&mut stand);
    crate::guards::route::restore(&stand.rig.broker).await.unwrap();
    stand.hook = Stand::open(&mut stand.rig, &stand.url);
    stand.rig.clock.advance(36 * 60_000);
    stand.settle(12).await;
    let last = stand.last();
    assert_eq!(last["type"], "request.escalated");
    assert_eq!(last["data"]["people"], json!(["bob", "carol"]), "the owner may not decide");
    assert_eq!((&last["data"]["group"], &last["data"]["together"]), (&json!("leads"), &together));
    assert_eq!(last["data"]["asked_first"], json!(["bob"]), "known after a restart");
    let said = last["data"]["said"].as_str().unwrap();
    assert!(said.starts_with("This ends undecided in "), "{said}");
    assert_eq!(last["data"]["handle"]["request_id"], json!(id));

    // Whoever asked holds the approval until the agent answers, and nobody is reminded meanwhile.
    stand.rig.act("carol", &id, Intention::Ask { text: "which?".into() }).await.unwrap();
    stand.settle(2).await;
    assert_eq!(stand.last()["type"], "request.questioned");
    assert_eq!(stand.last()["data"]["approval_held_by"], json!("carol"));
    stand.settle(30).await;
    let types = stand.types();
    let told = ["request.reminded", "request.escalated"];
    let told = told.map(|kind| types.iter().filter(|t| *t == kind).count());
    assert_eq!(told, [1, 1], "{types:?}");
    let ids: Vec<String> =
        stand.tool.taken.lock().unwrap().iter().map(|(headers, _)| headers.id.clone()).collect();
    let once: std::collections::BTreeSet<&String> = ids.iter().collect();
    assert_eq!(once.len(), ids.len(), "each message came once");
}

#[tokio::test]
async fn a_tool_that_fails_gets_every_message_once_it_can() {
    let mut stand = Stand::new().await;
    let none = None;
    *stand.tool.answers.lock().unwrap() = vec![
        (500, none),
        (429, Some("60")),
        (503, none),
        (200 + 104, none),
        (307, Some("http://127.0.0.1:1/")),
    ];
    let id = stand.ask().await;
    let begun = stand.rig.broker.now();
    stand.settle(3).await;
    assert!(stand.types().is_empty());
    let tried = stand.tool.attempts.lock().unwrap().clone();
    assert!(
        tried.windows(2).all(|w| w[0] == w[1]),
        "attempts at one message have one id: {tried:?}"
    );

    // The broker dies meanwhile, and more happens before it is back.
    stand.hook.leave(&stand.rig.broker).await;
    stand.rig.crash().await;
    let deny = Intention::Deny { reason: None, reason_code: "looks_wrong".into() };
    stand.rig.act("bob", &id, deny).await.unwrap();
    stand.hook = Stand::open(&mut stand.rig, &stand.url);
    stand.settle(1200).await;
    assert!(stand.rig.broker.now().since(begun) > 60_000);
    assert_eq!(
        stand.types(),
        [
            "request.requested",
            "request.decided",
            "request.pending",
            "request.voted",
            "request.ended",
            "request.looks_wrong"
        ]
    );
    assert_eq!(stand.last()["data"]["state"], "denied");
    assert_eq!(stand.last()["data"]["reason_code"], "looks_wrong");
}

#[tokio::test]
async fn what_is_asked_before_a_first_start_looks_is_told() {
    let mut stand = Stand::new().await;
    let told = stand.ask().await;
    stand.settle(3).await;
    // Without its cursor the next start is a first one: what was before it is not its matter.
    stand.hook.leave(&stand.rig.broker).await;
    stand.rig.broker.store.side_delete(super::CURSORS, "webhook").await.unwrap();
    stand.rig.crash().await;
    stand.hook = Stand::open(&mut stand.rig, &stand.url);
    stand.tool.taken.lock().unwrap().clear();
    let ask = stand.rig.ask("export", r#"{"dataset":"b","rows":1}"#, "second");
    let asked = id_of(&stand.rig.issue(ask).await.unwrap());
    stand.settle(3).await;
    assert_eq!(stand.types(), ["request.requested", "request.decided", "request.pending"]);
    assert_ne!(told, asked);
    assert_eq!(stand.last()["data"]["request_id"], asked);
}

#[tokio::test]
async fn what_is_refused_for_certain_is_given_up_and_gone_is_gone() {
    let stand = Stand::new().await;
    *stand.tool.answers.lock().unwrap() = vec![(400, None); 5];
    let _ = stand.ask().await;
    stand.settle(1200).await;
    // The first was given up after five attempts, the others came.
    assert_eq!(stand.types(), ["request.decided", "request.pending"]);
    *stand.tool.answers.lock().unwrap() = vec![(410, None)];
    let attempts = stand.tool.attempts.lock().unwrap().len();
    let ask = stand.rig.ask("export", r#"{"dataset":"b","rows":1}"#, "second");
    stand.rig.issue(ask).await.unwrap();
    stand.settle(1200).await;
    assert_eq!(stand.tool.attempts.lock().unwrap().len(), attempts + 1);
    assert_eq!(stand.types().len(), 2);
}

#[test]
fn the_configuration_is_checked() {
    for (url, files) in [
        ("http://tool.example/", 1),
        ("https://u:p@tool.example/", 1),
        ("", 1),
        ("https://tool.example/", 0),
        ("https://tool.example/", 5),
    ] {
        let section = WebhookSection { url: url.into(), secret_files: vec!["f".into(); files] };
        assert!(!section.faults().is_empty(), "{url} {files}");
    }
    let section =
        WebhookSection { url: "https://tool.example/".into(), secret_files: vec!["f".into()] };
    assert!(section.faults().is_empty());
    for bad in [vec![], vec![String::new()], vec!["secret".to_owned()]] {
        assert!(WebhookChannel::new(&section, &bad, ORIGIN).is_err());
    }
}

/// The tool's side.
struct ToolHand(Webhook);

impl Hand for ToolHand {
    fn channel(&self) -> Option<&dyn Channel> {
        Some(&self.0)
    }
    fn tenant(&self) -> &str {
        ORIGIN
    }
    fn account(&self, who: &str) -> String {
        token(who)
    }
    fn wants(&self, case: &str) -> Option<&'static str> {
        (case == "unknown account").then_some("not_signed_in")
    }
    fn introduce(&self, who: &str, at: Timestamp) -> Event {
        issued(who, at)
    }
    fn press(
        &self,
        tenant: &str,
        account: &str,
        value: &str,
        wish: &Wish,
        id: &str,
        at: Timestamp,
    ) -> Delivery {
        let parts: Vec<&str> = value.split(':').collect();
        let part = |n: usize| parts.get(n).copied().unwrap_or_default();
        let mut body = match wish {
            Wish::Approve { confirm } => json!({ "decision": "approve", "confirm": confirm }),
            Wish::Withdraw => json!({ "decision": "withdraw" }),
            Wish::Ask { text } => json!({ "decision": "ask", "text": text }),
            Wish::Deny { reason_code, .. } => {
                json!({ "decision": "deny", "reason_code": reason_code })
            }
            Wish::Narrow { params: Some(params), .. } => {
                json!({ "decision": "narrow", "params": params })
            }
            Wish::Narrow { ttl_s, .. } => {
                json!({ "decision": "narrow", "ttl": format!("{}s", ttl_s.unwrap_or(1)) })
            }
        };
        let map = body.as_object_mut().unwrap();
        map.retain(|_, v| !v.is_null());
        map.insert("to".into(), tenant.into());
        map.insert("request_id".into(), part(1).into());
        map.insert("digest".into(), part(2).into());
        // A handle with something behind it is no handle.
        let seen = part(3).parse::<u64>().ok().filter(|_| parts.len() == 4);
        map.insert("seen".into(), seen.map_or(Value::from("odd"), Value::from));
        let body = body.to_string().into_bytes();
        let signed = self.0.endpoint().sign(id, at, &body).unwrap();
        let headers = BTreeMap::from([
            ("webhook-id".to_owned(), signed.id),
            ("webhook-timestamp".to_owned(), signed.timestamp),
            ("webhook-signature".to_owned(), signed.signature),
            ("authorization".to_owned(), format!("Bearer {account}")),
        ]);
        Delivery { headers, body }
    }
    fn garble(&self, mut delivery: Delivery) -> Delivery {
        delivery.body = b"{\"to\":".to_vec();
        let at = delivery.headers["webhook-timestamp"].parse::<i64>().unwrap() * 1000;
        let id = delivery.headers["webhook-id"].clone();
        let at = Timestamp::from_millis(at);
        let signed = self.0.endpoint().sign(&id, at, &delivery.body).unwrap();
        delivery.headers.insert("webhook-signature".into(), signed.signature);
        delivery
    }
    fn forge(&self, mut delivery: Delivery) -> Delivery {
        let at = delivery.headers["webhook-timestamp"].parse::<i64>().unwrap() * 1000;
        let other = Endpoint::parse([OTHER]).unwrap();
        let id = delivery.headers["webhook-id"].clone();
        let signed = other.sign(&id, Timestamp::from_millis(at), &delivery.body).unwrap();
        delivery.headers.insert("webhook-signature".into(), signed.signature);
        delivery
    }
}

/// The tool's side, for the suite.
pub fn hand() -> Box<dyn Hand> {
    Box::new(ToolHand(Webhook::new(Endpoint::parse([SECRET]).unwrap(), ORIGIN)))
}
