//! Slack from end to end, against the fake: request, card, question, answer, narrowing, approval,
//! credential; over HTTP and over Socket Mode; and everything a delivery can be that it should not be.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use grantwright_approval::channel::{Channel, Delivery, Rejected, Verified, Wish};
use grantwright_approval::slack::{self, Incoming};
use grantwright_domain::event::{Account, AccountLinked};
use grantwright_domain::{Event, RequestId, Timestamp};
use grantwright_store::Transition;
use grantwright_testkit::slack::{APP, APP_TOKEN, BOT, FakeSlack, Fault, SECRET, TEAM};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::SlackChannel;
use super::config::SlackSection;
use crate::channels::conformance::{Hand, Work, came};
use crate::channels::{Courier, Desk, inbound};
use crate::issue::rig::{Rig, human, id_of, word};

pub(super) struct Stand {
    pub(super) rig: Rig,
    pub(super) fake: Arc<FakeSlack>,
    pub(super) slack: Arc<SlackChannel>,
    pub(super) desk: Arc<Desk>,
}

fn section(rig: &Rig, api: &str) -> SlackSection {
    for (name, text) in [("bot", BOT), ("app", APP_TOKEN), ("secret", SECRET)] {
        crate::keys::replace(&rig.dir().join(name), text).unwrap();
    }
    let text = format!(
        "workspace = \"{TEAM}\"\napp = \"{APP}\"\nbot_token_file = \"bot\"\napp_token_file = \"app\"\n\
         signing_secret_file = \"secret\"\napi = \"{api}\"\n\
         [groups]\nreviewers = \"C111\"\nsecurity = \"C222\"\n"
    );
    let mut section: SlackSection = toml::from_str(&text).unwrap();
    section.rebase(rig.dir());
    assert_eq!(section.faults(), Vec::<String>::new());
    section
}

impl Stand {
    pub(super) async fn new() -> Self {
        let mut rig = Rig::new().await;
        let fake = FakeSlack::start().await;
        let slack = Arc::new(SlackChannel::new(&section(&rig, &fake.api)).unwrap());
        let desk = Arc::new(Desk::new(Arc::clone(&slack) as Arc<dyn Courier>));
        Arc::get_mut(&mut rig.broker).unwrap().channels.slack = Some(Arc::clone(&slack));
        let stand = Self { rig, fake, slack, desk };
        stand.settle(2).await;
        stand
    }

    pub(super) async fn link(&self, who: &str) {
        let account = Account {
            channel: "slack".into(),
            tenant: TEAM.into(),
            account: format!("U0{}", who.to_uppercase()),
        };
        let event = AccountLinked { at: self.rig.broker.now(), human: human(who), account };
        let linked = Transition::authority(vec![Event::AccountLinked(event)]);
        self.rig.broker.commit(linked).await.unwrap();
    }

    async fn ask(&self, scope: &str, key: &str) -> String {
        let params = match scope {
            "export" => r#"{"dataset":"a","rows":100}"#,
            _ => r#"{"dataset":"a"}"#,
        };
        id_of(&self.rig.issue(self.rig.ask(scope, params, key)).await.unwrap())
    }

    pub(super) async fn settle(&self, seconds: i64) {
        let end = self.rig.broker.now().plus_seconds(seconds);
        while self.rig.broker.now() < end {
            let next = self.desk.turn(&self.rig.broker).await;
            let wait = next.since(self.rig.broker.now()).clamp(1, 1000);
            self.rig.clock.advance(wait);
        }
        assert_eq!(*self.fake.broken.lock().unwrap(), Vec::<String>::new(), "Block Kit's bounds");
    }

    /// The only card.
    fn card(&self) -> Value {
        let cards: Vec<Value> = self
            .fake
            .in_channel("C111")
            .into_iter()
            .filter(|m| m["text"].as_str().is_some_and(|t| t.starts_with("A request of agent")))
            .collect();
        let [card] = &cards[..] else { panic!("{} cards", cards.len()) };
        card.clone()
    }

    /// Gives a payload to the HTTP door as Slack would; what the door answers.
    pub(super) async fn http(&self, payload: &Value) -> (u16, Value) {
        let body = FakeSlack::body(payload);
        let at = self.rig.broker.now().seconds().to_string();
        let signed = slack::sign(SECRET.as_bytes(), &at, body.as_bytes());
        let request = axum::http::Request::post("/slack/interactivity")
            .header("host", "localhost:1")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("x-slack-request-timestamp", at)
            .header("x-slack-signature", signed)
            .body(Body::from(body))
            .unwrap();
        let response =
            crate::http::router(Arc::clone(&self.rig.broker)).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Waits until something is so.
    pub(super) async fn until(&self, what: &str, so: impl AsyncFn() -> bool) {
        for _ in 0..6000 {
            if so().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{what}: {:?}", self.fake.whispers.lock().unwrap());
    }

    async fn whispered(&self, words: &str) {
        let told = async || {
            self.fake.whispers.lock().unwrap().iter().any(|w| w.to_string().contains(words))
        };
        self.until(words, told).await;
        self.fake.whispers.lock().unwrap().clear();
    }

    pub(super) async fn state(&self, id: &str) -> grantwright_domain::RequestState {
        let id = RequestId::parse(id).unwrap();
        self.rig.broker.store.load(&id).await.unwrap().unwrap().state
    }
}

#[tokio::test]
async fn from_request_to_credential() {
    let stand = Stand::new().await;
    stand.link("bob").await;
    let id = stand.ask("export", "k1").await;
    stand.settle(3).await;
    let card = stand.card();
    assert!(card.to_string().contains("Export 100 rows of "), "{card}");

    // Ask: the button opens a form, the form asks, the agent answers, all see it.
    let (status, _) = stand.http(&stand.fake.press("U0BOB", &card, "gw_ask")).await;
    assert_eq!(status, 200);
    stand.until("a form", async || stand.fake.views.lock().unwrap().len() == 1).await;
    let view = stand.fake.views.lock().unwrap()[0].clone();
    let nothing = stand.http(&stand.fake.submit("U0BOB", &view, &json!({}))).await;
    assert_eq!(nothing.1["response_action"], "errors");
    let question =
        json!({ "text": { "v": { "type": "plain_text_input", "value": "which <@U1> report?" } } });
    let (status, _) = stand.http(&stand.fake.submit("U0BOB", &view, &question)).await;
    assert_eq!(status, 200);
    stand.until("the question", async || stand.state(&id).await.open_question().is_some()).await;
    let request = RequestId::parse(&id).unwrap();
    let caller = &stand.rig.caller;
    crate::people::answer(&stand.rig.broker, caller, &request, "the <!channel> one").await.unwrap();
    stand.settle(6).await;
    assert!(stand.card().to_string().contains("the <!channel> one"));
    let threads = stand.fake.in_channel("C111").into_iter().filter(|m| m["thread_ts"].is_string());
    assert_eq!(threads.count(), 2, "the question and its answer are in the thread");

    // The old card's button refers to what it showed: it is refused with words.
    stand.http(&stand.fake.press("U0BOB", &card, "gw_approve")).await;
    stand.whispered("something new").await;

    // Narrow, which approves the narrower.
    let card = stand.card();
    stand.http(&stand.fake.press("U0BOB", &card, "gw_narrow")).await;
    stand.until("a form", async || stand.fake.views.lock().unwrap().len() == 2).await;
    let view = stand.fake.views.lock().unwrap()[1].clone();
    let less = json!({
        "ttl": { "v": { "type": "static_select", "selected_option": { "value": "300" } } },
        "p_rows": { "v": { "type": "number_input", "value": "10" } },
    });
    stand.http(&stand.fake.submit("U0BOB", &view, &less)).await;
    stand.until("narrowed", async || stand.state(&id).await.original.is_some()).await;
    let state = stand.state(&id).await;
    assert_eq!((state.terms.ttl_s, state.votes.len()), (300, 1));
    assert_eq!(state.votes[0].channel, "slack");
    assert_eq!(word(&stand.rig.collect(&id).await.unwrap()), "granted");
    stand.settle(5).await;
    let card = stand.card();
    assert!(card.to_string().contains("issued as lease"), "{card}");
    assert!(!card.to_string().contains("gw_approve"), "no buttons after the end");
    stand.rig.fold().await;
}

#[tokio::test]
async fn over_socket_mode_the_acknowledgement_comes_first() {
    let stand = Stand::new().await;
    stand.link("bob").await;
    let id = stand.ask("export", "k1").await;
    stand.settle(3).await;
    let running = tokio::spawn(super::run(Arc::clone(&stand.rig.broker), Arc::clone(&stand.slack)));
    let press = stand.fake.press("U0BOB", &stand.card(), "gw_approve");
    // Until the connection is there nobody hears it.
    stand.until("connected", async || stand.fake.envelope("interactive", "e1", &press) > 0).await;
    stand.until("approved", async || stand.state(&id).await.votes.len() == 1).await;
    let acked = |id: &str| stand.fake.acks.lock().unwrap().iter().any(|a| a["envelope_id"] == id);
    stand.until("acknowledged", async || acked("e1")).await;
    // Slack winds the connection up: the next delivery is heard all the same.
    stand.fake.disconnect("refresh_requested");
    let opens = async || {
        stand.fake.calls.lock().unwrap().iter().filter(|c| *c == "apps.connections.open").count()
            >= 2
    };
    stand.until("a second connection", opens).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let withdraw = stand.fake.press_value(
        "U0BOB",
        &stand.card(),
        "gw_withdraw",
        &grantwright_approval::sheet::handle(&stand.state(&id).await).encode(),
    );
    stand.fake.envelope("interactive", "e2", &withdraw);
    stand.until("withdrawn", async || !stand.state(&id).await.votes[0].live).await;
    // What is not of this workspace is acknowledged, and does nothing.
    let mut stranger = stand.fake.press("U0BOB", &stand.card(), "gw_approve");
    stranger["team"]["id"] = "T999".into();
    stand.fake.envelope("interactive", "e3", &stranger);
    stand.until("acknowledged", async || acked("e3")).await;
    assert_eq!(stand.state(&id).await.votes.len(), 1);
    running.abort();
}

#[tokio::test]
async fn accounts_are_linked_by_their_person_and_members_only_decide() {
    let stand = Stand::new().await;
    let id = stand.ask("export", "k1").await;
    stand.settle(3).await;
    let card = stand.card();
    stand.http(&stand.fake.press("U0BOB", &card, "gw_approve")).await;
    let url = async || {
        stand.fake.whispers.lock().unwrap().iter().find_map(|w| {
            let text = w.to_string();
            let (_, rest) = text.split_once("/link/")?;
            Some(rest.chars().take(64).collect::<String>())
        })
    };
    stand.until("a link", async || url().await.is_some()).await;
    let code = url().await.unwrap();
    let linked = crate::channels::link::confirm(&stand.rig.broker, &human("bob"), &code).await;
    assert_eq!(linked.unwrap().account.account, "U0BOB");
    let again = crate::channels::link::confirm(&stand.rig.broker, &human("carol"), &code).await;
    assert_eq!(again.unwrap_err().code, "link_refused", "the code works once");
    for (key, word) in [("deleted", true), ("is_restricted", true), ("is_bot", true)] {
        let user = json!({ key: word });
        stand.fake.users.lock().unwrap().insert("U0BOB".into(), user);
        stand.http(&stand.fake.press("U0BOB", &card, "gw_approve")).await;
        stand.whispered("guests, bots, former members").await;
    }
    stand.fake.users.lock().unwrap().insert("U0BOB".into(), json!({ "team_id": "T999" }));
    stand.http(&stand.fake.press("U0BOB", &card, "gw_approve")).await;
    stand.whispered("guests, bots, former members").await;
    stand.fake.users.lock().unwrap().clear();
    // Slack that does not say who it is decides nothing.
    stand.fake.faults.lock().unwrap().push_back(Fault::Status(503));
    stand.http(&stand.fake.press("U0BOB", &card, "gw_approve")).await;
    stand.whispered("Slack did not say").await;
    assert_eq!(stand.state(&id).await.votes.len(), 0);
    stand.http(&stand.fake.press("U0BOB", &card, "gw_approve")).await;
    stand.until("approved", async || stand.state(&id).await.votes.len() == 1).await;
    // The owner, through an account of her own, is told why not.
    stand.link("alice").await;
    stand.http(&stand.fake.press("U0ALICE", &card, "gw_deny")).await;
}

#[tokio::test]
async fn a_passkey_request_is_approved_in_the_console_and_outages_decide_nothing() {
    let stand = Stand::new().await;
    let before = stand.rig.broker.store.head().size;
    stand.fake.faults.lock().unwrap().extend([
        Fault::TooMany(7),
        Fault::Status(500),
        Fault::Error("internal_error"),
    ]);
    let id = stand.ask("signed", "k1").await;
    let asked = stand.rig.broker.store.head().size;
    assert!(asked > before);
    stand.settle(6).await;
    assert_eq!(stand.fake.calls.lock().unwrap().len(), 1, "it waits as long as Slack says");
    stand.settle(60).await;
    let card = stand.card();
    let actions =
        card["blocks"].as_array().unwrap().iter().find(|b| b["type"] == "actions").unwrap();
    let buttons: Vec<_> =
        actions["elements"].as_array().unwrap().iter().map(|e| &e["text"]["text"]).collect();
    assert_eq!(buttons, ["Approve", "Deny", "Ask", "Narrow"]);
    assert_eq!(actions["elements"][0]["url"], format!("http://localhost:1/requests/{id}"));
    assert!(actions["elements"].as_array().unwrap().iter().all(|e| e["style"].is_null()));
    assert_eq!(stand.rig.broker.store.head().size, asked, "nothing was decided");
}

/// Slack's side; over HTTP, or over Socket Mode, where deliveries come on a connection of ours.
struct SlackHand {
    pure: slack::Slack,
    fake: Arc<FakeSlack>,
    socket: bool,
    channel: std::sync::Mutex<Option<Arc<SlackChannel>>>,
}

impl SlackHand {
    async fn new(app: Option<&str>, secret: &str, socket: bool) -> Self {
        let pure = slack::Slack::new(TEAM, app, Some(secret.as_bytes()));
        Self { pure, fake: FakeSlack::start().await, socket, channel: std::sync::Mutex::default() }
    }

    /// What a delivery says, in its mode.
    fn read(&self, delivery: &Delivery, now: Timestamp) -> Result<Incoming, String> {
        let code = |rejected: Rejected| rejected.code().to_owned();
        let read = if self.socket {
            let payload = serde_json::from_slice(&delivery.body).map_err(|_| "ignored")?;
            self.pure.read_socket(&payload)
        } else {
            self.pure.read_http(delivery, now)
        };
        read.map(Verified::into_inner).map_err(code)
    }

    fn signed(&self, payload: &Value, at: Timestamp) -> Delivery {
        if self.socket {
            return Delivery { headers: Default::default(), body: payload.to_string().into() };
        }
        let body = FakeSlack::body(payload).into_bytes();
        let at = at.seconds().to_string();
        let signed = slack::sign(SECRET.as_bytes(), &at, &body);
        let headers = [("x-slack-request-timestamp", at), ("x-slack-signature", signed)];
        Delivery { headers: headers.map(|(k, v)| (k.to_owned(), v)).into(), body }
    }

    /// A form that somebody fills in and sends: the view that its button opens.
    fn form(&self, account: &str, value: &str, wish: &Wish) -> Option<Value> {
        let typed = |text: &Value| json!({ "v": { "type": "plain_text_input", "value": text } });
        let (id, fields) = match wish {
            Wish::Ask { text } => ("gw_ask", json!({ "text": typed(&text.as_str().into()) })),
            Wish::Narrow { params: Some(Value::Object(params)), .. } => {
                let field =
                    |(k, v): (&String, &Value)| (format!("p_{k}"), typed(&v.to_string().into()));
                ("gw_narrow", Value::Object(params.iter().map(field).collect()))
            }
            _ => return None,
        };
        let view = json!({ "callback_id": id, "private_metadata": format!("{value} C111") });
        Some(self.fake.submit(account, &view, &fields))
    }
}

impl Hand for SlackHand {
    fn channel(&self) -> Option<&dyn Channel> {
        Some(&self.pure)
    }
    fn tenant(&self) -> &str {
        TEAM
    }
    fn ready<'a>(&'a self, rig: &'a Rig) -> Work<'a, ()> {
        Box::pin(async move {
            let channel = SlackChannel::new(&section(rig, &self.fake.api)).unwrap();
            *self.channel.lock().unwrap() = Some(Arc::new(channel));
        })
    }
    fn is_timed(&self) -> bool {
        !self.socket
    }
    fn wants(&self, case: &str) -> Option<&'static str> {
        let socket = Some(match case {
            "late" | "early" => "carries no time",
            "replayed" => "repeated, then repeated",
            "forged" => "stranger",
            "edited" => "digest_mismatch",
            "malformed JSON" => "ignored",
            _ => return (case == "200 parameters").then_some("not_narrower"),
        });
        socket.filter(|_| self.socket)
    }
    fn give<'a>(&'a self, rig: &'a Rig, delivery: &'a Delivery) -> Work<'a, String> {
        Box::pin(async move {
            let press = match self.read(delivery, rig.broker.now()) {
                Err(code) => return code,
                Ok(Incoming::Press(press, _)) => *press,
                Ok(Incoming::Submitted(form)) => {
                    assert!(form.faults().is_empty());
                    let channel = self.channel.lock().unwrap().clone().unwrap();
                    match channel.submitted(&rig.broker, *form).await {
                        Ok(press) => press,
                        Err(refusal) => return refusal.code.to_string(),
                    }
                }
                Ok(other) => panic!("{other:?}"),
            };
            came(inbound::press(&rig.broker, "slack", Verified::danger_vouch(press)).await)
        })
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
        let message = json!({ "channel": "C111", "ts": "1.1" });
        let button = || self.fake.press_value(account, &message, "gw_approve", value);
        let mut payload = self.form(account, value, wish).unwrap_or_else(button);
        payload["team"]["id"] = tenant.into();
        payload["user"]["team_id"] = tenant.into();
        payload["trigger_id"] = id.into();
        self.signed(&payload, at)
    }
    fn garble(&self, mut delivery: Delivery) -> Delivery {
        delivery.body = if self.socket { b"{not".to_vec() } else { b"payload=%7Bnot".to_vec() };
        if let Some(at) = delivery.headers.get("x-slack-request-timestamp") {
            let signed = slack::sign(SECRET.as_bytes(), at, &delivery.body);
            delivery.headers.insert("x-slack-signature".into(), signed);
        }
        delivery
    }
    /// Another application's, where there is nothing to sign.
    fn forge(&self, mut delivery: Delivery) -> Delivery {
        if self.socket {
            let text = String::from_utf8(delivery.body).unwrap();
            delivery.body = text.replace(APP, "A999").into_bytes();
            return delivery;
        }
        let at = delivery.headers["x-slack-request-timestamp"].clone();
        let signed = slack::sign(b"guessed", &at, &delivery.body);
        delivery.headers.insert("x-slack-signature".into(), signed);
        delivery
    }
    /// TLS keeps a connection's deliveries whole: what can be told is another digest.
    fn edit(&self, mut delivery: Delivery) -> Delivery {
        if self.socket {
            let mut payload: Value = serde_json::from_slice(&delivery.body).unwrap();
            let value = payload["actions"][0]["value"].as_str().unwrap().to_owned();
            let digest = value.split(':').nth(2).unwrap();
            let other = value.replace(digest, &"ab".repeat(32));
            payload["actions"][0]["value"] = other.into();
            delivery.body = payload.to_string().into_bytes();
        } else {
            let at = delivery.body.len() / 2;
            delivery.body[at] ^= 1;
        }
        delivery
    }
}

/// Slack's side over HTTP, for the suite.
pub async fn hand() -> Box<dyn Hand> {
    Box::new(SlackHand::new(Some(APP), SECRET, false).await)
}

/// The same over Socket Mode.
pub async fn socket_hand() -> Box<dyn Hand> {
    Box::new(SlackHand::new(Some(APP), SECRET, true).await)
}

#[tokio::test]
async fn invariant_12_without_a_secret_nothing_is_believed() {
    // No secret verifies nothing; neither does an empty one.
    for secret in [None, Some(&b""[..])] {
        let open = slack::Slack::new(TEAM, Some(APP), secret);
        let hand = SlackHand::new(None, "x", false).await;
        let at = Timestamp::from_millis(1_800_000_000_000);
        let delivery = hand.press(TEAM, "U1", "x", &Wish::Withdraw, "d", at);
        let signed = slack::sign(b"", &at.seconds().to_string(), &delivery.body);
        let mut delivery = delivery;
        delivery.headers.insert("x-slack-signature".into(), signed);
        assert!(open.verify(&delivery, at).is_err());
    }
}
