//! What every door for decisions must bear: each way in which a delivery can be wrong gets a refusal
//! and changes nothing. A door's tests give a [`Hand`]; `docs/channels.md` holds the table of all.

mod hostile;
mod people;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use grantwright_approval::channel::{Channel, Delivery, Rejected, Wish};
use grantwright_approval::sheet::handle;
use grantwright_domain::event::{Account, AccountLinked, GroupSet, HumanSet};
use grantwright_domain::{Event, GroupName, RequestId, Timestamp};
use grantwright_store::{Loaded, Transition};

use super::inbound::{self, Outcome};
use crate::issue::rig::{Rig, human, id_of};
use crate::people::Intention;

/// A boxed future.
pub type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Plays the service's side of a door, with a workspace or tenant of [`Hand::tenant`].
pub trait Hand: Send + Sync {
    /// Its word in votes and policies.
    fn name(&self) -> &'static str {
        self.channel().map_or("", Channel::name)
    }
    /// The channel; none: people's own doors, which nobody stands behind.
    fn channel(&self) -> Option<&dyn Channel>;
    /// What a case comes to here, if not what it usually does.
    fn wants(&self, _case: &str) -> Option<&'static str> {
        None
    }
    /// Makes ready what accounts need, besides their leaves.
    fn ready<'a>(&'a self, _rig: &'a Rig) -> Work<'a, ()> {
        Box::pin(std::future::ready(()))
    }
    /// Whether its deliveries say when they were made, or its people's right to make them ends.
    fn is_timed(&self) -> bool {
        true
    }
    /// After how many milliseconds a delivery is stale.
    fn stale_after(&self) -> i64 {
        301_000
    }
    /// Gives a delivery to the broker; the word for what came of it.
    fn give<'a>(&'a self, rig: &'a Rig, delivery: &'a Delivery) -> Work<'a, String> {
        Box::pin(async move {
            let channel = self.channel().unwrap();
            match channel.verify(delivery, rig.broker.now()) {
                Err(rejected) => rejected.code().to_owned(),
                Ok(press) => came(inbound::press(&rig.broker, channel.name(), press).await),
            }
        })
    }
    /// Every text that a person is shown of a request.
    fn shows<'a>(&'a self, rig: &'a Rig, loaded: &'a Loaded) -> Work<'a, Vec<String>> {
        Box::pin(async move {
            let channel = self.channel().unwrap();
            let sheet = super::sheet::sheet(&rig.broker, loaded, channel.name()).unwrap();
            let message = channel.card(&sheet);
            let mut texts = hostile::texts(&message.body);
            texts.push(message.text);
            texts
        })
    }
    /// The workspace or tenant that it is configured for.
    fn tenant(&self) -> &str {
        "T1"
    }
    /// The leaf that makes a person's account known.
    fn introduce(&self, who: &str, at: Timestamp) -> Event {
        let account = Account {
            channel: self.name().into(),
            tenant: self.tenant().into(),
            account: self.account(who),
        };
        Event::AccountLinked(AccountLinked { at, human: human(who), account })
    }
    /// The account of a person, in the form that the service gives it.
    fn account(&self, who: &str) -> String {
        format!("U0{}", who.to_uppercase())
    }
    /// The delivery changed on its way, where that can be told.
    fn edit(&self, mut delivery: Delivery) -> Delivery {
        let at = delivery.body.len() / 2;
        if let Some(byte) = delivery.body.get_mut(at) {
            *byte ^= 1;
        }
        delivery
    }
    /// What the service sends when an account presses a button that carries `value`.
    fn press(
        &self,
        tenant: &str,
        account: &str,
        value: &str,
        wish: &Wish,
        id: &str,
        at: Timestamp,
    ) -> Delivery;
    /// The same, as authentic, with a body that is not of its form.
    fn garble(&self, delivery: Delivery) -> Delivery;
    /// The same as somebody else would send it, who does not hold the service's secret.
    fn forge(&self, delivery: Delivery) -> Delivery;
}

const APPROVE: Wish = Wish::Approve { confirm: None };

/// Everybody who has an account in each suite: alice owns the agent, dave may not decide.
pub const PEOPLE: [&str; 7] = ["alice", "bob", "carol", "dave", "frank", "grace", "heidi"];

/// The word for what came of a press; whoever pressed is told why nothing changed, and what to do.
pub fn came(outcome: Outcome) -> String {
    match outcome {
        Outcome::Done(_) => "done".into(),
        Outcome::Repeated => "repeated".into(),
        Outcome::Refused(refusal) => {
            assert!(!refusal.detail.is_empty() && !refusal.next.is_empty());
            refusal.code.to_string()
        }
        Outcome::Unlinked(url) => {
            assert!(url.starts_with("http://localhost:1/link/"));
            "link".into()
        }
    }
}

/// A case and what it must come to.
const CASES: [(&str, &str); 31] = [
    ("genuine", "done"),
    ("duplicate", "repeated"),
    ("pressed twice", "done, changes nothing"),
    ("five at once", "one vote each"),
    ("twice by five people at once", "five votes of ten presses"),
    ("late", "stale"),
    ("early", "stale"),
    ("reordered", "not_seen"),
    ("replayed", "repeated, then stale"),
    ("forged", "forged"),
    ("edited", "forged"),
    ("malformed", "malformed"),
    ("malformed JSON", "malformed"),
    ("100 kB of words", "malformed"),
    ("200 parameters", "bad_params"),
    ("markdown", "done, shown inert"),
    ("HTML", "done, shown inert"),
    ("ANSI", "done, shown inert"),
    ("bidirectional", "done, shown inert"),
    ("zero-width", "done, shown inert"),
    ("tag characters", "done, shown inert"),
    ("wrong digest", "digest_mismatch"),
    ("narrowed meanwhile", "digest_mismatch"),
    ("wrong workspace", "stranger"),
    ("unknown account", "link"),
    ("owner of the agent", "self_approval"),
    ("not in the group", "not_in_group"),
    ("passkey request", "passkey_required"),
    ("expired", "not_open"),
    ("already decided", "not_open"),
    ("unknown request", "unknown_request"),
];

struct Bench<'h> {
    hand: &'h dyn Hand,
    rig: Rig,
    serial: std::sync::atomic::AtomicU32,
}

/// A door's column of the table: what each case came to.
pub type Column = BTreeMap<&'static str, String>;

/// Runs every case, each on a fresh broker.
pub async fn suite(hand: &dyn Hand) -> Column {
    let name = hand.name();
    let (mut column, mut unlike) = (Column::new(), Vec::new());
    for (case, usual) in CASES {
        let bench = Bench::new(hand).await;
        let got = bench.run(case).await;
        let want = hand.wants(case).unwrap_or(usual);
        if got != want {
            unlike.push(format!("{name}: {case}: {got}, not {want}"));
        }
        bench.rig.fold().await;
        column.insert(case, got);
    }
    assert_eq!(unlike, Vec::<String>::new());
    column
}

/// Every door bears every case; the table of the manual says what each comes to.
#[tokio::test(flavor = "multi_thread")]
async fn invariant_12_every_door_bears_every_case_as_the_table_says() {
    let (api, console, slack, socket, teams, webhook) = tokio::join!(
        async { suite(&people::Api).await },
        async { suite(&people::Console::default()).await },
        async { suite(&*super::slack::tests::hand().await).await },
        async { suite(&*super::slack::tests::socket_hand().await).await },
        async { suite(&*super::teams::tests::hand().await).await },
        async { suite(&*super::webhook::tests::hand()).await },
    );
    let columns = [
        ("console", console),
        ("api", api),
        ("slack", slack),
        ("slack, Socket Mode", socket),
        ("teams", teams),
        ("webhook", webhook),
    ];
    let mut table = String::from("| case |");
    columns.iter().for_each(|(name, _)| table.push_str(&format!(" {name} |")));
    table.push_str(&format!("\n|---|{}\n", "---|".repeat(columns.len())));
    for (case, _) in CASES {
        table.push_str(&format!("| {case} |"));
        columns.iter().for_each(|(_, column)| table.push_str(&format!(" {} |", column[case])));
        table.push('\n');
    }
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/channels.md");
    let text = std::fs::read_to_string(page).unwrap();
    let (before, rest) = text.split_once("<!-- table -->\n").unwrap();
    let (held, after) = rest.split_once("<!-- end -->").unwrap();
    #[expect(clippy::disallowed_methods, reason = "a switch of the test itself")]
    let bless = std::env::var("GRANTWRIGHT_BLESS").is_ok();
    if bless {
        let whole = format!("{before}<!-- table -->\n{table}<!-- end -->{after}");
        std::fs::write(page, whole).unwrap();
    } else {
        assert_eq!(held, table, "docs/channels.md: run this test with GRANTWRIGHT_BLESS=1");
    }
}

impl<'h> Bench<'h> {
    async fn new(hand: &'h dyn Hand) -> Self {
        let rig = Rig::new().await;
        let (at, by) = (rig.broker.now(), human("olivia"));
        let mut events: Vec<Event> = PEOPLE[4..]
            .iter()
            .map(|who| HumanSet {
                at,
                by: by.clone(),
                human: human(who),
                active: true,
                operator: false,
            })
            .map(Event::HumanSet)
            .collect();
        let members = PEOPLE.iter().filter(|who| **who != "dave").map(|who| human(who)).collect();
        let group = GroupName::parse("reviewers").unwrap();
        events.push(Event::GroupSet(GroupSet { at, by, group, members }));
        events.extend(PEOPLE.map(|who| hand.introduce(who, at)));
        rig.broker.commit(Transition::authority(events)).await.unwrap();
        hand.ready(&rig).await;
        Self { hand, rig, serial: 0.into() }
    }

    async fn asked(&self, scope: &str) -> Loaded {
        self.asked_because(scope, "a test").await
    }

    async fn asked_because(&self, scope: &str, reason: &str) -> Loaded {
        let params = match scope {
            "export" => r#"{"dataset":"a","rows":10}"#,
            _ => r#"{"dataset":"a"}"#,
        };
        let mut ask = self.rig.ask(scope, params, scope);
        ask.reason = reason.into();
        let outcome = self.rig.issue(ask).await.unwrap();
        self.load(&id_of(&outcome)).await
    }

    async fn load(&self, id: &str) -> Loaded {
        self.rig.broker.store.load(&RequestId::parse(id).unwrap()).await.unwrap().unwrap()
    }

    fn made(&self, who: &str, value: &str, wish: &Wish) -> Delivery {
        let n = self.serial.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let (tenant, at) = (self.hand.tenant(), self.rig.broker.now());
        self.hand.press(tenant, &self.hand.account(who), value, wish, &format!("d{n}"), at)
    }

    async fn give(&self, delivery: &Delivery) -> String {
        self.hand.give(&self.rig, delivery).await
    }

    /// Gives a delivery that must change nothing.
    async fn refused(&self, delivery: &Delivery) -> String {
        let before = self.rig.broker.store.head().size;
        let said = self.give(delivery).await;
        assert_eq!(self.rig.broker.store.head().size, before, "a refused press changes nothing");
        said
    }

    async fn run(&self, case: &str) -> String {
        if let Some(text) = hostile::text(case) {
            return hostile::shown(self, text).await;
        }
        let scope = if case == "passkey request" { "signed" } else { "export" };
        let loaded = self.asked(scope).await;
        let id = loaded.state.terms.request_id.to_string();
        let value = handle(&loaded.state).encode();
        let approve = self.made("bob", &value, &APPROVE);
        match case {
            "genuine" => {
                let said = self.give(&approve).await;
                let votes = self.load(&id).await.state.votes;
                assert_eq!(votes.len(), 1);
                assert_eq!(votes[0].channel, self.hand.name());
                assert_eq!(votes[0].human, human("bob"));
                said
            }
            "duplicate" => {
                self.give(&approve).await;
                self.refused(&approve).await
            }
            "pressed twice" => {
                self.give(&approve).await;
                let again = self.made("bob", &value, &APPROVE);
                format!("{}, changes nothing", self.refused(&again).await)
            }
            "five at once" => {
                let presses = ["bob", "carol", "bob", "carol", "bob"]
                    .map(|who| self.made(who, &value, &APPROVE));
                futures_util::future::join_all(presses.iter().map(|p| self.give(p))).await;
                let votes = self.load(&id).await.state.votes;
                let people: std::collections::BTreeSet<_> =
                    votes.iter().map(|v| v.human.clone()).collect();
                assert_eq!(votes.len(), people.len());
                assert!(!votes.is_empty());
                "one vote each".into()
            }
            "twice by five people at once" => {
                let before = self.rig.broker.store.head().size;
                let presses: Vec<Delivery> = ["bob", "carol", "frank", "grace", "heidi"]
                    .iter()
                    .flat_map(|who| [(); 2].map(|()| self.made(who, &value, &APPROVE)))
                    .collect();
                futures_util::future::join_all(presses.iter().map(|p| self.give(p))).await;
                let votes = self.load(&id).await.state.votes;
                let people: std::collections::BTreeSet<_> =
                    votes.iter().map(|v| v.human.clone()).collect();
                assert_eq!((votes.len(), people.len()), (5, 5));
                assert_eq!(self.rig.broker.store.head().size, before + 5, "a leaf for each vote");
                "five votes of ten presses".into()
            }
            "malformed JSON" => self.refused(&self.hand.garble(approve)).await,
            "100 kB of words" => {
                let ask = Wish::Ask { text: "why? ".repeat(20_000) };
                self.refused(&self.made("bob", &value, &ask)).await
            }
            "200 parameters" => {
                self.refused(&self.made("bob", &value, &hostile::two_hundred())).await
            }
            "late" | "early" if !self.hand.is_timed() => "carries no time".into(),
            "late" => {
                self.rig.clock.advance(self.hand.stale_after());
                self.refused(&approve).await
            }
            "early" if self.hand.channel().is_none() => "carries no time".into(),
            "early" => {
                self.rig.clock.advance(-301_000);
                self.refused(&approve).await
            }
            "reordered" => {
                // The press was made before a question was asked and answered.
                let ask = Intention::Ask { text: "which?".into() };
                self.rig.act("carol", &id, ask).await.unwrap();
                let request = RequestId::parse(&id).unwrap();
                crate::people::answer(&self.rig.broker, &self.rig.caller, &request, "this one")
                    .await
                    .unwrap();
                self.refused(&approve).await
            }
            "replayed" => {
                self.give(&approve).await;
                let first = self.refused(&approve).await;
                self.rig.clock.advance(self.hand.stale_after());
                format!("{first}, then {}", self.refused(&approve).await)
            }
            "forged" => self.refused(&self.hand.forge(approve)).await,
            "edited" => self.refused(&self.hand.edit(approve)).await,
            "malformed" => {
                let mut said = Vec::new();
                for odd in ["", "1", "2:r:0:0", "1:x:y:z", &format!("{value}:1"), &"9".repeat(1500)]
                {
                    said.push(self.refused(&self.made("bob", odd, &APPROVE)).await);
                }
                said.dedup();
                said.join(", ")
            }
            "wrong digest" => {
                let other = value.replace(&loaded.state.digest.hex(), &"ab".repeat(32));
                self.refused(&self.made("bob", &other, &APPROVE)).await
            }
            "narrowed meanwhile" => {
                let narrow = Intention::Narrow { ttl_s: Some(60), params: None, confirm: None };
                self.rig.act("carol", &id, narrow).await.unwrap();
                self.refused(&approve).await
            }
            "wrong workspace" => {
                let (account, at) = (self.hand.account("bob"), self.rig.broker.now());
                let other = self.hand.press("T9", &account, &value, &APPROVE, "d9", at);
                self.refused(&other).await
            }
            "unknown account" => self.refused(&self.made("mallory", &value, &APPROVE)).await,
            "owner of the agent" => self.refused(&self.made("alice", &value, &APPROVE)).await,
            "not in the group" => self.refused(&self.made("dave", &value, &APPROVE)).await,
            "passkey request" => self.refused(&approve).await,
            "expired" => {
                self.rig.clock.advance(3_600_001);
                crate::end::sweep::once(&self.rig.broker).await.unwrap();
                self.hand.ready(&self.rig).await;
                self.refused(&self.made("bob", &value, &APPROVE)).await
            }
            "already decided" => {
                let deny = Intention::Deny { reason: None, reason_code: String::new() };
                self.rig.act("carol", &id, deny).await.unwrap();
                self.refused(&approve).await
            }
            "unknown request" => {
                let other = value.replace(&id, "r-none");
                self.refused(&self.made("bob", &other, &APPROVE)).await
            }
            other => panic!("no such case: {other}"),
        }
    }
}

/// A vote in chat is for what the card shows, and narrowing is a vote for what is left.
#[tokio::test]
async fn what_no_card_shows_whole_is_neither_approved_nor_narrowed_in_chat() {
    let hand = super::paper::Paper::new();
    let bench = Bench::new(&hand).await;
    let mut ask = bench.rig.ask("export", r#"{"dataset":"a","rows":10}"#, "long");
    ask.reason = "because of this ".repeat(100);
    let outcome = bench.rig.issue(ask).await.unwrap();
    let value = handle(&bench.load(&id_of(&outcome)).await.state).encode();
    let narrow = Wish::Narrow { ttl_s: Some(60), params: None, confirm: None };
    for wish in [APPROVE, narrow] {
        let said = bench.refused(&bench.made("bob", &value, &wish)).await;
        assert!(said.contains("full_view_required"), "{said}");
    }
}

/// What is rejected has a word.
#[test]
fn rejections_have_words() {
    for rejected in
        [Rejected::Forged, Rejected::Stale, Rejected::Stranger, Rejected::Malformed("x")]
    {
        assert!(!rejected.code().is_empty() && !rejected.to_string().is_empty());
    }
}
