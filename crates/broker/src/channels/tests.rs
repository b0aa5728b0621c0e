//! The desk: what it shows, keeps true, and bears of its service.

use std::collections::BTreeMap;
use std::sync::Arc;

use grantwright_domain::event::{Account, AccountLinked};
use grantwright_domain::{Event, RequestId};
use grantwright_store::Transition;

use super::conformance::suite;
use super::paper::{Paper, PaperCourier, Wall};
use super::{Desk, SendError};
use crate::issue::rig::{Rig, human, id_of, word};
use crate::people::Intention;

struct Stand {
    rig: Rig,
    desk: Desk,
    wall: Arc<Wall>,
}

impl Stand {
    async fn new() -> Self {
        let (rig, wall) = (Rig::new().await, Arc::new(Wall::default()));
        let desk = Self::desk(&wall);
        let stand = Self { rig, desk, wall };
        stand.desk.turn(&stand.rig.broker).await;
        stand
    }

    fn desk(wall: &Arc<Wall>) -> Desk {
        Desk::new(Arc::new(PaperCourier { paper: Paper::new(), wall: Arc::clone(wall) }))
    }

    async fn ask(&self, key: &str) -> String {
        let rows = key.trim_start_matches(|c: char| !c.is_ascii_digit());
        let params =
            format!(r#"{{"dataset":"a","rows":{}}}"#, if rows.is_empty() { "7" } else { rows });
        id_of(&self.rig.issue(self.rig.ask("export", &params, key)).await.unwrap())
    }

    /// Lets the desk work for a while.
    async fn settle(&self, seconds: i64) {
        let end = self.rig.broker.now().plus_seconds(seconds);
        while self.rig.broker.now() < end {
            let next = self.desk.turn(&self.rig.broker).await;
            let wait = next.since(self.rig.broker.now()).clamp(1, 1000);
            self.rig.clock.advance(wait);
        }
    }

    fn card(&self, id: &str) -> serde_json::Value {
        self.wall.cards().remove(id).unwrap_or_default()
    }

    fn notices(&self, place: &str) -> Vec<String> {
        let messages = self.wall.messages.lock().unwrap();
        messages
            .values()
            .filter(|m| m.place == place)
            .filter_map(|m| Some(m.body.get("notice")?.get("text")?.as_str()?.to_owned()))
            .collect()
    }

    async fn link(&self, who: &str) {
        let account = Account { channel: "paper".into(), tenant: "T1".into(), account: who.into() };
        let event = AccountLinked { at: self.rig.broker.now(), human: human(who), account };
        let linked = Transition::authority(vec![Event::AccountLinked(event)]);
        self.rig.broker.commit(linked).await.unwrap();
    }
}

#[tokio::test]
async fn the_paper_channel_conforms() {
    suite(&Paper::new()).await;
}

impl Stand {
    /// With these guards.
    async fn guarded(guards: &str) -> Self {
        let mut stand = Self::new().await;
        let broker = Arc::get_mut(&mut stand.rig.broker).unwrap();
        broker.config.guards = toml::from_str(guards).unwrap();
        assert_eq!(broker.config.guards.faults(), Vec::<String>::new());
        broker.config.limits.open_requests_per_agent = 50;
        stand
    }

    async fn of_task(&self, task: &str, rows: u32) -> String {
        let params = format!(r#"{{"dataset":"a","rows":{rows}}}"#);
        let ask = grantwright_wire::v1::AskRequest {
            task: task.into(),
            ..self.rig.ask("export", &params, "")
        };
        id_of(&self.rig.issue(ask).await.unwrap())
    }

    /// Lets it work for a long time, in which little happens.
    async fn pass(&self, minutes: i64) {
        for _ in 0..minutes * 3 {
            self.rig.clock.advance(20_000);
            self.desk.turn(&self.rig.broker).await;
        }
    }

    /// How many requests each message in the reviewers' place holds, oldest first.
    fn messages(&self) -> Vec<usize> {
        let messages = self.wall.messages.lock().unwrap();
        let here = messages.values().filter(|m| m.place == "#reviewers" && m.thread.is_none());
        here.map(|m| m.body.get("requests").and_then(|r| r.as_array()).map_or(1, Vec::len))
            .collect()
    }
}

/// One message, one digest and one decision for each request in it.
#[tokio::test]
async fn requests_of_one_task_are_one_message_and_each_is_decided_by_itself() {
    let mut stand = Stand::guarded("group_window = \"2m\"\n").await;
    let (a, b) = (stand.of_task("nightly", 1).await, stand.of_task("nightly", 2).await);
    let alone = stand.of_task("other", 3).await;
    stand.settle(5).await;
    assert_eq!(stand.messages(), [2, 1]);
    // A third joins the message that is there; the place has room for three; a fifth comes too late.
    let c = stand.of_task("nightly", 4).await;
    stand.settle(3).await;
    assert_eq!(stand.messages(), [3, 1]);
    let d = stand.of_task("nightly", 5).await;
    stand.settle(3).await;
    assert_eq!(stand.messages(), [3, 1, 1]);
    stand.rig.clock.advance(120_001);
    let late = stand.of_task("nightly", 6).await;
    stand.settle(3).await;
    assert_eq!(stand.messages(), [3, 1, 1, 1]);
    let handles: std::collections::BTreeSet<_> = [&a, &b, &c, &d, &alone, &late]
        .map(|id| stand.card(id)["value"].as_str().unwrap().to_owned())
        .into();
    assert_eq!(handles.len(), 6, "each has its own digest");
    // Deciding one leaves the others as they are, also over a restart; what is told is in the thread.
    stand.rig.approve("bob", &b).await.unwrap();
    stand.desk.leave(&stand.rig.broker).await;
    stand.rig.crash().await;
    stand.desk = Stand::desk(&stand.wall);
    stand.rig.act("carol", &c, Intention::Ask { text: "which?".into() }).await.unwrap();
    stand.settle(5).await;
    assert_eq!(stand.messages(), [3, 1, 1, 1]);
    let says = |id: &String| stand.card(id)["state"].as_str().unwrap().to_owned();
    assert_eq!(says(&a), "waits for one person");
    assert!(says(&b).starts_with("approved"));
    assert_eq!(says(&c), "waits for the agent to answer carol");
    let threads: Vec<_> =
        stand.wall.messages.lock().unwrap().values().filter_map(|m| m.thread.clone()).collect();
    assert_eq!(threads, ["m00000"], "the question is below the common message");
    for id in [&a, &b, &c, &d, &alone, &late] {
        let deny = Intention::Deny { reason: None, reason_code: "not_now".into() };
        stand.rig.act("carol", id, deny).await.unwrap();
    }
    stand.settle(30).await;
    assert!(stand.wall.cards().values().all(|card| card["open"] == false));
    let now = stand.rig.broker.now();
    let rows = stand.rig.broker.store.side_list("chan-card", "", None, 10, now).await.unwrap();
    assert!(rows.is_empty(), "nothing is kept of what ended");
}

#[tokio::test]
async fn in_quiet_hours_only_what_is_urgent_is_shown_and_the_rest_when_they_end() {
    // The rig begins on a Friday at 08:00; quiet until nine.
    let quiet = "[quiet]\nfrom = \"20:00\"\nuntil = \"09:00\"\nwakes = [\"high\"]\n";
    let mut stand = Stand::guarded(quiet).await;
    let id = stand.ask("k1").await;
    stand.pass(10).await;
    assert_eq!(stand.wall.calls.lock().unwrap().len(), 0);
    // A restart does not wake anybody either.
    stand.rig.clock.advance(1);
    stand.desk.leave(&stand.rig.broker).await;
    stand.rig.crash().await;
    Arc::get_mut(&mut stand.rig.broker).unwrap().config.guards = toml::from_str(quiet).unwrap();
    stand.desk = Stand::desk(&stand.wall);
    stand.pass(48).await;
    assert_eq!(stand.wall.calls.lock().unwrap().len(), 0);
    stand.pass(3).await;
    assert_eq!(stand.card(&id)["open"], true);
    let stand = Stand::guarded(&quiet.replace("high", "unlabelled")).await;
    let id = stand.ask("k1").await;
    stand.settle(5).await;
    assert_eq!(stand.card(&id)["open"], true, "this risk wakes");
}

#[tokio::test]
async fn who_is_asked_first_is_told_reminded_and_before_the_end_everybody_is() {
    let stand = Stand::guarded(
        "remind_after = \"15m\"\nescalate_before = \"10m\"\nescalate_to = \"leads\"\n\
         [routing.reviewers]\nby = \"round-robin\"\n",
    )
    .await;
    for who in ["alice", "bob", "carol"] {
        stand.link(who).await;
    }
    let id = stand.ask("k1").await;
    stand.settle(10).await;
    assert_eq!(stand.card(&id)["asked"], serde_json::json!(["bob"]));
    assert_eq!(stand.notices("@bob"), ["Export 1 rows of `a` (`etl`). You are asked first."]);
    stand.pass(15).await;
    assert_eq!(stand.notices("@bob").len(), 2, "reminded once");
    assert!(stand.notices("@carol").is_empty());
    stand.pass(36).await;
    let (bob, carol) = (stand.notices("@bob"), stand.notices("@carol"));
    assert_eq!(
        (bob.len(), carol.len(), stand.notices("@alice").len()),
        (3, 1, 0),
        "the owner may not"
    );
    assert!(carol[0].contains("ends undecided in"), "{carol:?}");
    assert_eq!(stand.notices("#leads").len(), 1);
    assert_eq!(stand.notices("#reviewers").len(), 2, "in the thread, too");
    // Then time ends it, as a deny, and nobody is told again.
    stand.pass(15).await;
    crate::end::sweep::once(&stand.rig.broker).await.unwrap();
    stand.settle(60).await;
    assert_eq!(stand.notices("@bob").len(), 3);
    assert_eq!(stand.card(&id)["open"], false);
    // What is decided in time bothers nobody; a question stops reminding, too.
    let quick = stand.ask("k2").await;
    stand.settle(5).await;
    assert_eq!(stand.card(&quick)["asked"], serde_json::json!(["carol"]), "the next in turn");
    stand.rig.act("bob", &quick, Intention::Ask { text: "which?".into() }).await.unwrap();
    stand.pass(20).await;
    assert_eq!(stand.notices("@carol").len(), 2, "told, not reminded");
}

#[tokio::test]
async fn a_card_follows_its_request_to_the_end() {
    let stand = Stand::new().await;
    stand.link("alice").await;
    let id = stand.ask("k1").await;
    stand.settle(3).await;
    assert_eq!(stand.card(&id)["state"], "waits for one person");
    let asked = stand.rig.act("bob", &id, Intention::Ask { text: "which?".into() }).await;
    asked.unwrap();
    stand.settle(5).await;
    assert_eq!(stand.card(&id)["state"], "waits for the agent to answer bob");
    let request = RequestId::parse(&id).unwrap();
    let caller = &stand.rig.caller;
    crate::people::answer(&stand.rig.broker, caller, &request, "that one").await.unwrap();
    stand.settle(5).await;
    assert_eq!(stand.card(&id)["answers"], 1);
    let narrow = Intention::Narrow { ttl_s: Some(60), params: None, confirm: None };
    stand.rig.act("bob", &id, narrow).await.unwrap();
    stand.settle(5).await;
    assert!(stand.card(&id)["state"].as_str().unwrap().starts_with("approved"));
    assert_eq!(word(&stand.rig.collect(&id).await.unwrap()), "granted");
    stand.settle(5).await;
    assert!(stand.card(&id)["state"].as_str().unwrap().starts_with("issued as lease"));
    assert_eq!(stand.card(&id)["open"], false);
    // The thread has the question and the answer; the owner is told the outcome.
    assert_eq!(
        stand.notices("#reviewers"),
        ["bob asks the agent:".to_owned(), "The agent answers:".to_owned()]
    );
    let told = stand.notices("@alice");
    assert_eq!(told.len(), 1);
    assert!(
        told[0].starts_with("Your agent `etl`: Export 1 rows of `a` — issued as lease"),
        "{told:?}"
    );
    // When the lease ends by itself the card says so, and nothing is kept of it.
    stand.rig.clock.advance(61_000);
    crate::end::sweep::once(&stand.rig.broker).await.unwrap();
    stand.settle(5).await;
    assert!(stand.card(&id)["state"].as_str().unwrap().ends_with("ended by itself"));
    let rows = stand.rig.broker.store.side_list("chan-card", "", None, 10, stand.rig.broker.now());
    assert!(rows.await.unwrap().is_empty());
}

#[tokio::test]
async fn what_looks_wrong_is_told_to_security() {
    let stand = Stand::new().await;
    let id = stand.ask("k1").await;
    stand.settle(2).await;
    let deny = Intention::Deny { reason: Some("odd".into()), reason_code: "looks_wrong".into() };
    stand.rig.act("bob", &id, deny).await.unwrap();
    stand.settle(3).await;
    let told = stand.notices("#security");
    assert_eq!(told, ["bob denied a request of `etl` because it looks wrong."]);
    assert_eq!(stand.card(&id)["open"], false);
}

#[tokio::test]
async fn where_no_card_is_shown_whoever_it_concerns_is_told_all_the_same() {
    let stand = Stand::new().await;
    for group in ["reviewers", "security"] {
        stand.wall.nowhere.lock().unwrap().insert(group.into());
    }
    for who in ["alice", "bob", "dave"] {
        stand.link(who).await;
    }
    let id = stand.ask("k1").await;
    stand.rig.issue(stand.rig.ask("read", r#"{"dataset":"a"}"#, "routine")).await.unwrap();
    stand.settle(2).await;
    assert_eq!(*stand.wall.calls.lock().unwrap(), Vec::<String>::new());
    let deny = Intention::Deny { reason: Some("odd".into()), reason_code: "looks_wrong".into() };
    stand.rig.act("bob", &id, deny).await.unwrap();
    stand.settle(3).await;
    let security = stand.notices("@dave");
    assert_eq!(security, ["bob denied a request of `etl` because it looks wrong."]);
    let owner = stand.notices("@alice");
    assert_eq!(owner.len(), 1, "of what people decided, not of the routine: {owner:?}");
    assert!(owner[0].starts_with("Your agent `etl`: Export 1 rows of `a` — denied"), "{owner:?}");
    assert_eq!(stand.notices("@bob"), Vec::<String>::new());
}

#[tokio::test]
async fn a_restart_loses_nothing_and_says_nothing_twice() {
    let mut stand = Stand::new().await;
    let shown = stand.ask("k1").await;
    stand.settle(3).await;
    // Voted on while the desk is away; another was asked meanwhile, and one only queued.
    stand.rig.approve("bob", &shown).await.unwrap();
    let later = stand.ask("k2").await;
    stand.desk.leave(&stand.rig.broker).await;
    stand.rig.crash().await;
    stand.desk = Stand::desk(&stand.wall);
    stand.settle(5).await;
    assert!(stand.card(&shown)["state"].as_str().unwrap().starts_with("approved"));
    assert_eq!(stand.card(&later)["open"], true);
    assert_eq!(stand.wall.messages.lock().unwrap().len(), 2, "each card once");
    let before = stand.wall.calls.lock().unwrap().len();
    stand.desk = Stand::desk(&stand.wall);
    stand.rig.crash().await;
    // The former keeper did not leave in order: the desk is taken over when its time has passed.
    stand.settle(20).await;
    assert_eq!(stand.wall.calls.lock().unwrap().len(), before, "nothing changed, nothing is said");
    stand
        .rig
        .act("bob", &later, Intention::Deny { reason: None, reason_code: String::new() })
        .await
        .unwrap();
    stand.settle(3).await;
    assert_eq!(stand.card(&later)["open"], false);
}

#[tokio::test]
async fn faults_of_the_service_delay_and_never_decide() {
    let stand = Stand::new().await;
    let id = stand.ask("k1").await;
    let before = stand.rig.broker.store.head().size;
    stand.wall.faults.lock().unwrap().extend([
        SendError::Later(30_000),
        SendError::Down("timeout".into()),
        SendError::Barred("not_in_channel".into()),
        SendError::Down("503".into()),
    ]);
    stand.settle(29).await;
    assert_eq!(stand.wall.calls.lock().unwrap().len(), 1, "it waits as long as it was told");
    stand.settle(300).await;
    assert_eq!(stand.card(&id)["open"], true);
    assert_eq!(stand.rig.broker.store.head().size, before, "nothing was decided");
    // A message that somebody deleted is posted anew while it matters.
    stand.wall.messages.lock().unwrap().clear();
    stand.rig.act("bob", &id, Intention::Ask { text: "which?".into() }).await.unwrap();
    stand.settle(5).await;
    assert_eq!(stand.card(&id)["questions"], 1);
    // One that the service does not take is stood for by a link.
    stand.wall.faults.lock().unwrap().push_back(SendError::Unshowable("invalid_blocks".into()));
    let request = RequestId::parse(&id).unwrap();
    crate::people::answer(&stand.rig.broker, &stand.rig.caller, &request, "x").await.unwrap();
    stand.settle(5).await;
    assert_eq!(stand.card(&id), serde_json::Value::Null);
    assert!(stand.notices("#reviewers").iter().any(|n| n.contains("waits in the console")));
}

#[tokio::test]
async fn two_brokers_do_not_both_keep_a_desk() {
    let stand = Stand::new().await;
    let other = Stand::desk(&stand.wall);
    let id = stand.ask("k1").await;
    for _ in 0..4 {
        other.turn(&stand.rig.broker).await;
        stand.desk.turn(&stand.rig.broker).await;
    }
    assert_eq!(stand.wall.messages.lock().unwrap().len(), 1);
    assert_eq!(stand.card(&id)["open"], true);
    // The keeper dies; after its time the other goes on.
    stand.rig.clock.advance(15_001);
    stand
        .rig
        .act("bob", &id, Intention::Deny { reason: None, reason_code: String::new() })
        .await
        .unwrap();
    other.turn(&stand.rig.broker).await;
    assert_eq!(stand.card(&id)["open"], false);
    let counted: BTreeMap<_, _> = stand.wall.cards();
    assert_eq!(counted.len(), 1);
}

/// One agent floods, another asks a little; the service takes one message a second. (Five thousand:
/// `slack::flood`.)
#[tokio::test]
async fn a_flood_loses_nothing_decides_nothing_and_is_fair_between_agents() {
    const FLOOD: usize = 800;
    const FEW: usize = 400;
    let mut stand = Stand::new().await;
    std::sync::Arc::get_mut(&mut stand.rig.broker).unwrap().config.limits.open_requests_per_agent =
        5000;
    let other = crate::core::Caller {
        agent: grantwright_domain::AgentId::parse("other").unwrap(),
        instance: grantwright_domain::InstanceId::parse("i-2").unwrap(),
        ..stand.rig.caller.clone()
    };
    let broker = &stand.rig.broker;
    let mut asks = Vec::new();
    for n in 0..FLOOD + FEW {
        let name: String = format!("{n:05}").bytes().map(|b| char::from(b - b'0' + b'a')).collect();
        let params = format!(r#"{{"dataset":"{name}","rows":1}}"#);
        let ask = stand.rig.ask("export", &params, &format!("k{n}"));
        asks.push((if n < FLOOD { &stand.rig.caller } else { &other }, ask));
    }
    for some in asks.chunks(100) {
        let issued =
            some.iter().map(|(caller, ask)| crate::issue::issue(broker, caller, ask.clone()));
        for outcome in futures_util::future::join_all(issued).await {
            assert_eq!(word(&outcome.unwrap()), "pending");
        }
    }
    // Each card that is shown is denied: room for the next.
    let mut shown = Vec::new();
    for _ in 0..600 {
        stand.settle(1).await;
        let cards = stand.wall.cards();
        let open = cards.values().filter(|c| c["open"] == true).count();
        assert!(open <= 50, "{open} cards at once");
        for (id, card) in cards.iter().filter(|(_, c)| c["open"] == true) {
            if !shown.iter().any(|(seen, _)| seen == id) {
                shown.push((id.clone(), card["agent"].as_str().unwrap_or_default().to_owned()));
                let deny = Intention::Deny { reason: None, reason_code: "not_now".into() };
                stand.rig.act("bob", id, deny).await.unwrap();
            }
        }
    }
    let calls = stand.wall.calls.lock().unwrap().len();
    assert!(calls <= 603, "one message a second: {calls} in 600 s");
    let of = |agent: &str| shown.iter().filter(|(_, a)| a == agent).count();
    assert!(shown.len() > 200, "{} were shown", shown.len());
    assert!(of("etl").abs_diff(of("other")) <= 1, "fair: {} and {}", of("etl"), of("other"));
    let flood =
        stand.wall.messages.lock().unwrap().values().find_map(|m| m.body.get("flood").cloned());
    let waiting = flood.unwrap()["waiting"].as_u64().unwrap();
    let rest = u64::try_from(FLOOD + FEW - shown.len()).unwrap();
    assert!(
        waiting.abs_diff(rest) <= 16,
        "the flood message speaks for the rest: {waiting}, {rest}"
    );
    // Time ends the rest, as a deny, and nothing else does.
    stand.rig.clock.advance(3_600_000);
    for _ in 0..=(FLOOD + FEW) / 500 {
        crate::end::sweep::once(&stand.rig.broker).await.unwrap();
    }
    stand.settle(120).await;
    let (state, _) = stand.rig.fold().await;
    assert_eq!(state.requests.len(), FLOOD + FEW, "none is lost");
    let denied = state.requests.values().filter(|r| r.phase == grantwright_domain::Phase::Denied);
    assert_eq!(denied.count(), shown.len());
    let expired = state.requests.values().filter(|r| r.phase == grantwright_domain::Phase::Expired);
    assert_eq!(expired.count(), FLOOD + FEW - shown.len());
    assert!(stand.wall.cards().values().all(|c| c["open"] == false));
}
