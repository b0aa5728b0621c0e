//! Five thousand requests wait for people, and Slack takes one message a second in the whole
//! workspace: the fake counts, and says 429 to what comes sooner. None is lost, time decides none but
//! by ending it, agents are served in turn, and one message stands for what does not fit; over an
//! outage and the broker's death too. The clock is the test's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use grantwright_domain::{Clock as _, Decision, Event, Phase};
use grantwright_testkit::slack::Fault;
use serde_json::Value;

use super::tests::Stand;
use crate::channels::{Courier, Desk};
use crate::core::{Broker, Caller};
use crate::issue::rig::{Rig, human, id_of, word};
use crate::people::Intention;

/// One agent floods.
const FLOOD: usize = 4000;
/// Four others ask so much each.
const FEW: usize = 250;
const OTHERS: [(&str, &str, u32); 4] =
    [("billing", "erin", 21), ("crm", "erin", 22), ("search", "erin", 23), ("web", "erin", 24)];
/// Nobody decides before this second.
const DECIDED_FROM: i64 = 90;
/// Slack is away, and then asks to wait.
const AWAY: i64 = 160;
/// The broker dies.
const DIES: i64 = 240;
/// People go home.
const UNTIL: i64 = 340;

/// What was asked: by whom, and in which moment of the flood.
type Asked = BTreeMap<String, (usize, usize)>;

fn broker(rig: &mut Rig) -> &mut Broker {
    Arc::get_mut(&mut rig.broker).unwrap()
}

/// Letters that count: a dataset's name.
fn name(n: usize) -> String {
    format!("{n:05}").bytes().map(|b| char::from(b - b'0' + b'a')).collect()
}

/// All that is asked, the flood in between the others.
async fn ask_all(rig: &Rig, callers: &[Caller]) -> Asked {
    let mut asks = Vec::new();
    for n in 0..FLOOD {
        asks.push((0, n));
        if n % (FLOOD / FEW) == 0 {
            asks.extend((1..callers.len()).map(|caller| (caller, n / (FLOOD / FEW))));
        }
    }
    let mut asked = Asked::new();
    for (moment, some) in asks.chunks(100).enumerate() {
        rig.clock.advance(1);
        let issued = some.iter().map(async |(caller, n)| {
            let params = format!(r#"{{"dataset":"{}","rows":1}}"#, name(*n));
            let ask = rig.ask("export", &params, &format!("k{n}"));
            crate::issue::issue(&rig.broker, &callers[*caller], ask).await.unwrap()
        });
        let outcomes = futures_util::future::join_all(issued).await;
        for (outcome, what) in outcomes.into_iter().zip(some) {
            assert_eq!(word(&outcome), "pending");
            asked.insert(id_of(&outcome), (what.0, moment));
        }
    }
    asked
}

/// The request of a card that can be decided: its Approve button says which.
fn request(message: &Value) -> Option<String> {
    let blocks = message["blocks"].as_array()?;
    let buttons = blocks.iter().filter_map(|block| block["elements"].as_array()).flatten();
    let mut approve = buttons.filter(|b| b["action_id"] == "gw_approve");
    Some(approve.next()?["value"].as_str()?.split(':').nth(1)?.to_owned())
}

fn is_flood(message: &Value) -> bool {
    message["text"] == "Many requests wait for decisions"
}

/// What stands in the reviewers' conversation: open cards with their requests, in the order in which
/// they were posted, and messages that stand for a flood.
fn standing(stand: &Stand) -> (Vec<(String, Value)>, Vec<Value>) {
    let messages = stand.fake.messages.lock().unwrap();
    let here = || messages.values().filter(|m| m["channel"] == "C111");
    let open = here().filter_map(|m| Some((request(m)?, m.clone()))).collect();
    (open, here().filter(|m| is_flood(m)).cloned().collect())
}

/// Decides a card: every eighth is approved in Slack and collected by its agent, the others denied.
async fn decide(stand: &Stand, n: usize, id: &str, card: &Value, caller: &Caller) -> Phase {
    if !n.is_multiple_of(8) {
        let deny = Intention::Deny { reason: None, reason_code: "not_now".into() };
        stand.rig.act("carol", id, deny).await.unwrap();
        return Phase::Denied;
    }
    let (status, _) = stand.http(&stand.fake.press("U0BOB", card, "gw_approve")).await;
    assert_eq!(status, 200);
    stand.until("the vote", async || stand.state(id).await.votes.len() == 1).await;
    let request = grantwright_domain::RequestId::parse(id).unwrap();
    let outcome = crate::issue::collect(&stand.rig.broker, caller, &request, 0, 0, false).await;
    assert_eq!(word(&outcome.unwrap()), "granted");
    Phase::Granted
}

/// The broker dies and another takes the desk over.
async fn die(stand: &mut Stand) {
    stand.rig.crash().await;
    let slack = Arc::clone(&stand.slack);
    broker(&mut stand.rig).channels.slack = Some(Arc::clone(&slack));
    stand.desk = Arc::new(Desk::new(slack as Arc<dyn Courier>));
}

#[tokio::test]
async fn five_thousand_wait_for_a_slack_that_takes_one_message_a_second() {
    let mut stand = Stand::new().await;
    broker(&mut stand.rig).config.limits.open_requests_per_agent = 5000;
    let mut callers = vec![stand.rig.caller.clone()];
    for (agent, owner, n) in OTHERS {
        callers.push(stand.rig.enrol(agent, owner, n).await);
    }
    for who in ["alice", "bob", "erin"] {
        stand.link(who).await;
    }
    let clock = Arc::clone(&stand.rig.clock);
    stand.fake.takes_one_every(1000, move || clock.now().millis());
    let asked = ask_all(&stand.rig, &callers).await;
    assert_eq!(asked.len(), FLOOD + OTHERS.len() * FEW);

    let mut shown: Vec<String> = Vec::new();
    let mut decided: BTreeMap<String, Phase> = BTreeMap::new();
    for second in 0..UNTIL {
        if second == AWAY {
            let away = [Fault::Status(503), Fault::TooMany(20), Fault::Status(500)];
            stand.fake.faults.lock().unwrap().extend(away);
        }
        if second == DIES {
            die(&mut stand).await;
        }
        stand.settle(1).await;
        let (open, floods) = standing(&stand);
        assert!(open.len() <= 50, "{} cards at once", open.len());
        assert!(floods.len() <= 1, "one message stands for the flood");
        for (id, _) in &open {
            if !shown.contains(id) {
                shown.push(id.clone());
            }
        }
        if second == DECIDED_FROM {
            assert_eq!(open.len(), 50, "full, and the flood's message beside it");
            assert_eq!(floods.len(), 1);
        }
        for (id, card) in open.iter().filter(|_| second >= DECIDED_FROM) {
            if !decided.contains_key(id) {
                let caller = &callers[asked[id].0];
                let phase = decide(&stand, decided.len(), id, card, caller).await;
                decided.insert(id.clone(), phase);
            }
        }
    }
    in_turn(&asked, &shown);
    let (_, floods) = standing(&stand);
    let waits: u64 = floods[0]["blocks"][0]
        .to_string()
        .split(' ')
        .find_map(|w| w.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok())
        .unwrap();
    let rest = u64::try_from(asked.len() - shown.len()).unwrap();
    assert!(waits.abs_diff(rest) <= 20, "the flood's message speaks for the rest: {waits}, {rest}");
    assert!(floods[0].to_string().contains("etl") && floods[0].to_string().contains("billing"));

    // Nobody decides any more: time ends the rest.
    let night = stand.rig.broker.now();
    stand.rig.clock.advance(3_600_000);
    for _ in 0..=asked.len() / 500 {
        crate::end::sweep::once(&stand.rig.broker).await.unwrap();
    }
    stand.settle(400).await;
    none_is_lost(&stand, &asked, &decided, night).await;
    let (open, floods) = standing(&stand);
    assert!(open.is_empty(), "{} cards look open", open.len());
    assert!(floods[0].to_string().contains("No further requests wait"), "{}", floods[0]);
    one_a_second(&stand);
    // Who owns the flooding agent is told that more ended, and not four thousand times.
    let told = stand.fake.in_channel("U0ALICE");
    assert!(told.iter().any(|m| m.to_string().contains("More of your requests ended")));
    assert!(told.len() < shown.len() + 50, "{} messages to the owner", told.len());
}

/// Agents are served in turn, each from its oldest request on; a death costs no more than one turn.
fn in_turn(asked: &Asked, shown: &[String]) {
    let mut of: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for id in shown {
        let (caller, moment) = asked[id];
        of.entry(caller).or_default().push(moment);
    }
    let counts: Vec<usize> = (0..=OTHERS.len()).map(|caller| of[&caller].len()).collect();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(*least >= 12 && *most < FEW, "enough to tell, and nobody ran out: {counts:?}");
    assert!(most - least <= 2, "in turn: {counts:?}");
    for shown in of.values() {
        assert!(shown.is_sorted(), "the oldest first: {shown:?}");
    }
}

/// Every request ended, by a person's decision or, in its time, by expiry.
async fn none_is_lost(
    stand: &Stand,
    asked: &Asked,
    decided: &BTreeMap<String, Phase>,
    night: grantwright_domain::Timestamp,
) {
    let (state, events) = stand.rig.fold().await;
    let all: BTreeSet<String> = state.requests.keys().map(ToString::to_string).collect();
    assert_eq!(all, asked.keys().cloned().collect(), "none is lost, none came of itself");
    for (id, request) in &state.requests {
        let want = decided.get(id.as_str()).copied().unwrap_or(Phase::Expired);
        assert_eq!(request.phase, want, "{id}");
        let votes = usize::from(want != Phase::Expired);
        assert_eq!(request.votes.len(), votes, "{id}: nobody voted but people");
    }
    for event in &events {
        match event {
            Event::Voted(vote) if vote.decision == Decision::Approve => {
                assert_eq!((&vote.human, vote.channel.as_str()), (&human("bob"), "slack"));
            }
            Event::Voted(vote) => assert_eq!(vote.human, human("carol")),
            Event::Expired(end) if end.lease_id.is_none() => {
                assert!(end.at.since(night) > 0, "it had its whole time");
            }
            _ => {}
        }
    }
}

/// Slack took one message a second at most, and was seldom asked sooner.
fn one_a_second(stand: &Stand) {
    let taken = stand.fake.taken.lock().unwrap();
    assert!(taken.is_sorted_by(|a, b| b - a >= 1000));
    let too_soon = *stand.fake.too_soon.lock().unwrap();
    assert!(too_soon * 20 <= u64::try_from(taken.len()).unwrap(), "{too_soon} of {}", taken.len());
}
