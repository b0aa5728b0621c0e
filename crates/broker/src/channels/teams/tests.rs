//! Teams against the fake Bot Service: the conformance suite, a request's whole life, what the
//! service does wrong, and where messages may go.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use grantwright_approval::channel::{Channel, Delivery, Wish};
use grantwright_approval::teams::KeySet;
use grantwright_credential::Secret;
use grantwright_domain::event::{Account, AccountLinked};
use grantwright_domain::{Clock, Digest, Event, RequestId, Timestamp};
use grantwright_store::Transition;
use grantwright_testkit::teams::{APP, FakeTeams, SECRET, Sent, TENANT};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::TeamsChannel;
use super::config::{TeamsSection, safe_url};
use crate::channels::conformance::Hand;
use crate::channels::{Channels, Courier, Desk, SendError, link};
use crate::issue::rig::{Rig, human, id_of, word};

const PLACE: &str = "19:reviewers@thread.tacv2";

fn section(fake: &FakeTeams) -> TeamsSection {
    let text = format!(
        "app_id = \"{APP}\"\ntenant = \"{TENANT}\"\nsecret_file = \"secret\"\n\
         service_hosts = [\"127.0.0.1\"]\nservice_url = \"{}\"\nauthority = \"{}\"\n\
         metadata_url = \"{}\"\nconversations = {{ reviewers = \"{PLACE}\" }}\n",
        fake.service_url(),
        fake.base(),
        fake.metadata()
    );
    let section: TeamsSection = toml::from_str(&text).unwrap();
    assert_eq!(section.faults(), Vec::<String>::new());
    section
}

/// An Entra object id for a person.
fn guid(who: &str) -> String {
    let hex = Digest::of("guid", who.as_bytes()).hex();
    [0..8, 8..12, 12..16, 16..20, 20..32].map(|r| hex[r].to_owned()).join("-")
}

struct Stand {
    rig: Rig,
    fake: FakeTeams,
    teams: Arc<TeamsChannel>,
    desk: Arc<Desk>,
    serial: std::sync::atomic::AtomicU32,
}

impl Stand {
    async fn new() -> Self {
        let (mut rig, fake) = (Rig::new().await, FakeTeams::start().await.unwrap());
        let (teams, desk) = Self::open(&mut rig, section(&fake)).await;
        let stand = Self { rig, fake, teams, desk, serial: 0.into() };
        stand.link("bob").await;
        stand.desk.turn(&stand.rig.broker).await;
        stand
    }

    async fn open(rig: &mut Rig, section: TeamsSection) -> (Arc<TeamsChannel>, Arc<Desk>) {
        let clock = Arc::clone(&rig.clock) as Arc<dyn Clock>;
        let secret = Secret::new(SECRET.to_owned());
        let store = rig.broker.store.clone();
        let teams = Arc::new(TeamsChannel::new(section, secret, store, clock).await.unwrap());
        let desk = Arc::new(Desk::new(Arc::clone(&teams) as Arc<dyn Courier>));
        let channels = Channels {
            desks: vec![Arc::clone(&desk)],
            teams: Some(Arc::clone(&teams)),
            ..Channels::default()
        };
        Arc::get_mut(&mut rig.broker).unwrap().channels = channels;
        (teams, desk)
    }

    async fn link(&self, who: &str) {
        let account =
            Account { channel: "teams".into(), tenant: TENANT.into(), account: guid(who) };
        let event = AccountLinked { at: self.rig.broker.now(), human: human(who), account };
        let linked = Transition::authority(vec![Event::AccountLinked(event)]);
        self.rig.broker.commit(linked).await.unwrap();
    }

    async fn ask(&self) -> String {
        let ask = self.rig.ask("export", r#"{"dataset":"a","rows":10}"#, "");
        id_of(&self.rig.issue(ask).await.unwrap())
    }

    async fn settle(&self, seconds: i64) {
        let end = self.rig.broker.now().plus_seconds(seconds);
        while self.rig.broker.now() < end {
            let next = self.desk.turn(&self.rig.broker).await;
            let wait = next.since(self.rig.broker.now()).clamp(1, 1000);
            self.rig.clock.advance(wait);
        }
    }

    /// The one card in the reviewers' conversation.
    fn message(&self) -> Sent {
        let mut all: Vec<Sent> = self.fake.messages();
        all.retain(|m| m.card().get("refresh").is_some() || m.updates > 0);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    async fn post(&self, body: &Value) -> (StatusCode, Value) {
        let now = self.rig.broker.now().millis() / 1000;
        self.post_with(&self.fake.authorization(now).unwrap(), body).await
    }

    async fn post_with(&self, authorization: &str, body: &Value) -> (StatusCode, Value) {
        let request = Request::post("/api/messages")
            .header("host", "localhost:1")
            .header("authorization", authorization)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        let answer =
            crate::http::router(Arc::clone(&self.rig.broker)).oneshot(request).await.unwrap();
        let status = answer.status();
        let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Somebody presses a button of this card, with inputs filled in; the answer's type and value.
    async fn press(&self, who: &str, card: &Value, title: &str, inputs: Value) -> (String, Value) {
        let n = self.serial.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let action = button(card, title).unwrap_or_else(|| panic!("no button {title}: {card}"));
        let body = self.fake.press(&guid(who), &format!("f:{n}"), &action, &inputs);
        let (status, answer) = self.post(&body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let kind = answer["type"].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
        (kind, answer["value"].clone())
    }

    async fn votes(&self, id: &str) -> usize {
        let id = RequestId::parse(id).unwrap();
        self.rig.broker.store.load(&id).await.unwrap().unwrap().state.votes.len()
    }
}

/// The action behind a button: its own, or its form's.
fn button(card: &Value, title: &str) -> Option<Value> {
    let action = card["actions"].as_array()?.iter().find(|a| a["title"] == title)?.clone();
    Some(match action["type"].as_str()? {
        "Action.ShowCard" => action["card"]["actions"][0].clone(),
        _ => action,
    })
}

#[tokio::test]
async fn a_requests_life_on_teams() {
    let stand = Stand::new().await;
    let id = stand.ask().await;
    stand.settle(2).await;
    let message = stand.message();
    assert!(message.conversation.starts_with(PLACE), "{message:?}");
    assert!(message.activity["summary"].as_str().unwrap().contains("Export 10 rows"));
    let first = message.card().clone();

    // Carol's account is nobody's yet: she is given a link, confirms it signed in, presses again.
    let (kind, linking) = stand.press("carol", &first, "Approve", json!({})).await;
    assert_eq!(kind, "adaptive");
    assert_eq!(stand.votes(&id).await, 0);
    let url = linking["actions"][0]["url"].as_str().unwrap();
    let code = url.rsplit('/').next().unwrap();
    link::confirm(&stand.rig.broker, &human("carol"), code).await.unwrap();

    // She asks; the agent sees the question and answers; her old card is told to look again.
    let (kind, asked) =
        stand.press("carol", &first, "Ask", json!({ "ask_text": "which report?" })).await;
    assert_eq!(kind, "adaptive");
    assert!(asked.to_string().contains("waits for the agent to answer carol"), "{asked}");
    let pending = stand.rig.collect(&id).await.unwrap();
    assert_eq!(word(&pending), "pending");
    assert!(format!("{pending:?}").contains("which report?"));
    let request = RequestId::parse(&id).unwrap();
    let (broker, caller) = (&stand.rig.broker, &stand.rig.caller);
    crate::people::answer(broker, caller, &request, "the **nightly** one").await.unwrap();
    let (kind, words) = stand.press("carol", &first, "Approve", json!({})).await;
    assert_eq!(kind, "message");
    assert!(words.as_str().unwrap().contains("Nothing was changed"), "{words}");
    assert_eq!(stand.votes(&id).await, 0);

    // The card in the channel has changed in place, and holds the answer as the agent's words.
    stand.settle(3).await;
    let message = stand.message();
    assert!(message.updates > 0);
    assert!(message.card().to_string().contains("the **nightly** one"));
    // Her client fetches her own view: no human act.
    let mut refresh =
        stand.fake.press(&guid("carol"), "f:r", &first["refresh"]["action"], &json!({}));
    refresh["value"]["trigger"] = "automatic".into();
    let (_, view) = stand.post(&refresh).await;
    let view = view["value"].clone();
    assert!(view.to_string().contains("(in "), "{view}");

    // Narrow: shown first, decided then.
    let inputs = json!({ "narrow_ttl": "300s", "narrow_number_rows": "4" });
    let (kind, preview) = stand.press("carol", &view, "Narrow", inputs).await;
    assert_eq!(kind, "adaptive");
    assert!(preview.to_string().contains("nothing is decided yet"), "{preview}");
    assert!(preview.to_string().contains("rows: 10 → 4"), "{preview}");
    assert_eq!(stand.votes(&id).await, 0);
    let (kind, narrowed) = stand.press("carol", &preview, "Narrow and approve", json!({})).await;
    assert_eq!(kind, "adaptive", "{narrowed}");
    let loaded = stand.rig.broker.store.load(&request).await.unwrap().unwrap();
    assert_eq!(loaded.state.votes[0].channel, "teams");
    assert_eq!(loaded.state.terms.ttl_s, 300);

    // The agent collects; the card says so and offers nothing more.
    assert_eq!(word(&stand.rig.collect(&id).await.unwrap()), "granted");
    stand.settle(3).await;
    let card = stand.message().card().clone();
    assert!(card.to_string().contains("issued as lease"), "{card}");
    assert!(!card.to_string().contains("Action.Execute"), "{card}");
    stand.rig.fold().await;
}

#[tokio::test]
async fn references_are_durable_and_the_service_may_be_away() {
    let mut stand = Stand::new().await;
    stand.fake.fail_next(429, Some(5), json!({}));
    stand.fake.fail_next(502, None, json!({}));
    let id = stand.ask().await;
    stand.settle(4).await;
    assert!(stand.fake.messages().is_empty(), "it asked to wait five seconds");
    stand.settle(60).await;
    assert_eq!(stand.fake.messages().len(), 1);
    let before = stand.message();
    // People's addresses and conversations outlive the broker too.
    let (kind, _) = stand.press("bob", before.card(), "Ask", json!({ "ask_text": "why?" })).await;
    assert_eq!(kind, "adaptive");

    stand.desk.leave(&stand.rig.broker).await;
    stand.rig.crash().await;
    let (teams, desk) = Stand::open(&mut stand.rig, section(&stand.fake)).await;
    (stand.teams, stand.desk) = (teams, desk);
    assert!(
        stand
            .teams
            .direct(&Account {
                channel: "teams".into(),
                tenant: TENANT.into(),
                account: guid("bob")
            })
            .is_some()
    );
    stand
        .rig
        .act(
            "bob",
            &id,
            crate::people::Intention::Deny { reason: None, reason_code: "not_now".into() },
        )
        .await
        .unwrap();
    stand.fake.forget_tokens();
    stand.settle(30).await;
    let after = stand.message();
    assert_eq!(after.id, before.id);
    let posted = stand.fake.messages();
    assert_eq!(posted.iter().filter(|m| m.reply_to.is_none()).count(), 1, "one card, ever");
    assert!(after.card().to_string().contains("denied by bob"), "{after:?}");
    // Nobody was asked for the secret more often than tokens ended.
    let logins = stand.fake.calls().iter().filter(|c| c.contains("oauth2")).count();
    assert!(logins <= 3, "{logins}");
}

#[tokio::test]
async fn invariant_12_what_is_not_believed_changes_nothing() {
    let stand = Stand::new().await;
    let id = stand.ask().await;
    stand.settle(2).await;
    let card = stand.message().card().clone();
    let action = button(&card, "Approve").unwrap();
    let body = stand.fake.press(&guid("bob"), "f:1", &action, &json!({}));
    let now = stand.rig.broker.now().millis() / 1000;
    let size = stand.rig.broker.store.head().size;
    for header in [
        String::new(),
        stand.fake.thiefs_key().bearer(&stand.fake.claims(now)).unwrap(),
        stand.fake.other_channels_key().bearer(&stand.fake.claims(now)).unwrap(),
        stand.fake.authorization(now - 8000).unwrap(),
    ] {
        let (status, answer) = stand.post_with(&header, &body).await;
        assert_eq!(
            (status, answer["code"].as_str()),
            (StatusCode::UNAUTHORIZED, Some("not_believed"))
        );
    }
    assert_eq!((stand.rig.broker.store.head().size, stand.votes(&id).await), (size, 0));
    // However many unknown keys are named, the keys are fetched once.
    let fetched = stand.fake.key_fetches();
    for _ in 0..5 {
        let head = json!({ "alg": "RS256", "kid": "unknown" });
        let payload = grantwright_testkit::teams::payload(&stand.fake.claims(now));
        let header = stand.fake.key().bearer_of(&head, &payload).unwrap();
        assert_eq!(stand.post_with(&header, &body).await.0, StatusCode::UNAUTHORIZED);
    }
    assert!(stand.fake.key_fetches() <= fetched + 1);
    // The genuine one counts, once: the same again gives the card and changes nothing.
    for _ in 0..2 {
        let (status, answer) = stand.post(&body).await;
        assert_eq!((status, answer["statusCode"].as_u64()), (StatusCode::OK, Some(200)));
        assert_eq!(stand.votes(&id).await, 1);
    }
}

#[tokio::test]
async fn messages_go_to_allowed_hosts_only() {
    let stand = Stand::new().await;
    let notice =
        grantwright_approval::channel::Notice { text: "x".into(), quote: None, link: None };
    let message = stand.teams.channel().notice(&notice);
    // A conversation that claims to be elsewhere is not remembered.
    let mut added = stand.fake.activity(&guid("bob"), "f:9");
    added["type"] = "installationUpdate".into();
    added["action"] = "add".into();
    added["serviceUrl"] = "http://127.0.0.1.evil.example/emea/".into();
    let mut claims = stand.fake.claims(stand.rig.broker.now().millis() / 1000);
    claims.service_url = Some("http://127.0.0.1.evil.example/emea/".into());
    let header = stand.fake.key().bearer(&claims).unwrap();
    assert_eq!(stand.post_with(&header, &added).await.0, StatusCode::OK);
    assert_eq!(stand.teams.service_url(PLACE), stand.fake.service_url());
    assert!(stand.teams.post(PLACE, None, &message).await.is_ok());
    for bad in [
        "https://smba.trafficmanager.net@evil.example/",
        "https://evil.example/",
        "http://10.0.0.1/",
        "ftp://127.0.0.1/",
        "//127.0.0.1/",
        "https://127.0.0.1.evil.example/",
        "",
        "https://user:pass@127.0.0.1/",
    ] {
        assert!(!stand.teams.connector.allows(bad), "{bad}");
    }
    assert!(safe_url("http://evil.example/").is_none());
    // A redirect is refused, not followed.
    stand.fake.redirect_to("https://evil.example/steal");
    assert!(matches!(stand.teams.post(PLACE, None, &message).await, Err(SendError::Barred(_))));
    // Each segment stays one.
    let reference = json!({ "c": "19:x/../../secret?y#z", "a": ".." }).to_string();
    assert!(stand.teams.update(&reference, &message).await.is_err());
}

#[tokio::test]
async fn an_account_that_is_nobodys_learns_nothing() {
    let stand = Stand::new().await;
    let _ = stand.ask().await;
    stand.settle(2).await;
    let card = stand.message().card().clone();
    let refresh = stand.fake.press(&guid("mallory"), "f:1", &card["refresh"]["action"], &json!({}));
    let (_, answer) = stand.post(&refresh).await;
    assert_eq!(answer["value"]["code"], "not_linked");
    // Alone with the bot, who writes is given a link; in a channel, nobody is.
    let mut said = stand.fake.activity(&guid("mallory"), "f:2");
    said["type"] = "message".into();
    said["text"] = "hello".into();
    let count = stand.fake.messages().len();
    assert_eq!(stand.post(&said).await, (StatusCode::OK, Value::Null));
    assert_eq!(stand.fake.messages().len(), count);
    said["conversation"] =
        json!({ "id": "a:mallory", "conversationType": "personal", "tenantId": TENANT });
    assert_eq!(stand.post(&said).await.0, StatusCode::OK);
    let greeting = stand.fake.messages().pop().unwrap();
    assert!(greeting.card()["actions"][0]["url"].as_str().unwrap().contains("/link/"));
}

#[test]
fn every_fault_of_the_configuration_is_told() {
    let text = "app_id = \"x\"\ntenant = \"*\"\nsecret_file = \"s\"\nservice_hosts = []\n\
                service_url = \"http://evil.example\"\nauthority = \"https://a@b\"\n\
                metadata_url = \"\"\nissuer = \"\"\n[conversations]\n\"No Group\" = \"\"\n";
    let section: TeamsSection = toml::from_str(text).unwrap();
    let faults = section.faults().join("\n");
    for key in
        ["app_id", "tenant", "service_url", "authority", "metadata_url", "issuer", "No Group"]
    {
        assert!(faults.contains(key), "{key}: {faults}");
    }
    assert!(toml::from_str::<TeamsSection>("app_id = \"x\"\nsecret = \"inline\"").is_err());
}

/// The Bot Service's side.
struct TeamsHand {
    fake: FakeTeams,
    teams: grantwright_approval::teams::Teams,
}

impl Hand for TeamsHand {
    fn channel(&self) -> Option<&dyn Channel> {
        Some(&self.teams)
    }
    fn tenant(&self) -> &str {
        TENANT
    }
    fn account(&self, who: &str) -> String {
        guid(who)
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
        let (verb, inputs) = match wish {
            Wish::Approve { confirm } => ("approve", json!({ "confirm": confirm })),
            Wish::Withdraw => ("withdraw", json!({})),
            Wish::Ask { text } => ("ask", json!({ "ask_text": text })),
            Wish::Deny { reason_code, .. } => ("deny", json!({ "deny_code": reason_code })),
            Wish::Narrow { params: Some(params), .. } => {
                let params = params.as_object().unwrap().iter();
                let inputs: serde_json::Map<_, _> =
                    params.map(|(k, v)| (format!("narrow_number_{k}"), v.clone())).collect();
                ("narrow", Value::Object(inputs))
            }
            Wish::Narrow { ttl_s, .. } => {
                ("narrow", json!({ "narrow_ttl": format!("{}s", ttl_s.unwrap_or(1)) }))
            }
        };
        let action = json!({ "type": "Action.Execute", "verb": verb, "data": { "handle": value } });
        let mut body = self.fake.press(account, id, &action, &inputs);
        body["channelData"]["tenant"]["id"] = tenant.into();
        body["conversation"]["tenantId"] = tenant.into();
        // A token that ends now is believed for as long as clocks may differ.
        let seconds = at.millis().div_euclid(1000);
        let mut claims = self.fake.claims(seconds);
        (claims.not_before, claims.expires) = (Some(seconds), Some(seconds));
        let header = self.fake.key().bearer(&claims).unwrap();
        Delivery {
            headers: BTreeMap::from([("authorization".to_owned(), header)]),
            body: body.to_string().into_bytes(),
        }
    }
    fn garble(&self, mut delivery: Delivery) -> Delivery {
        delivery.body = b"{\"type\":".to_vec();
        delivery
    }
    fn forge(&self, mut delivery: Delivery) -> Delivery {
        let claims = self.fake.claims(0);
        let header = self.fake.thiefs_key().bearer(&claims).unwrap();
        delivery.headers.insert("authorization".into(), header);
        delivery
    }
    /// The token does not cover the body, TLS does: what can be told is a token that was changed.
    fn edit(&self, mut delivery: Delivery) -> Delivery {
        let header = delivery.headers.get_mut("authorization").unwrap();
        let at = header.len() / 2;
        let other = if header.as_bytes()[at] == b'A' { "B" } else { "A" };
        header.replace_range(at..=at, other);
        delivery
    }
}

/// The Bot Service's side, for the suite.
pub async fn hand() -> Box<dyn Hand> {
    let fake = FakeTeams::start().await.unwrap();
    let expected = grantwright_approval::teams::Expected {
        issuer: grantwright_testkit::teams::ISSUER.into(),
        app_id: APP.into(),
    };
    let teams = grantwright_approval::teams::Teams::new(expected, TENANT);
    teams.set_keys(KeySet::parse(fake.key_set().to_string().as_bytes()).unwrap());
    Box::new(TeamsHand { fake, teams })
}
