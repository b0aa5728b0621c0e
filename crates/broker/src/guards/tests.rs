//! The guards against fatigue, on a broker of the rig.

use std::sync::Arc;

use grantwright_domain::{HumanId, RequestId};
use grantwright_store::Loaded;

use super::config::GuardsSection;
use super::{pulse, route};
use crate::issue::rig::{Rig, human, id_of, word};
use crate::people::Intention;

async fn rig(guards: &str) -> Rig {
    let mut rig = Rig::new().await;
    configure(&mut rig, guards);
    rig
}

fn configure(rig: &mut Rig, guards: &str) {
    let section: GuardsSection = toml::from_str(guards).unwrap();
    assert_eq!(section.faults(), Vec::<String>::new());
    let config = &mut Arc::get_mut(&mut rig.broker).unwrap().config;
    config.guards = section;
    config.limits.open_requests_per_agent = 100;
}

async fn asked(rig: &Rig, rows: u32) -> String {
    let params = format!(r#"{{"dataset":"a","rows":{rows}}}"#);
    id_of(&rig.issue(rig.ask("export", &params, "")).await.unwrap())
}

async fn load(rig: &Rig, id: &str) -> Loaded {
    rig.broker.store.load(&RequestId::parse(id).unwrap()).await.unwrap().unwrap()
}

async fn first(rig: &Rig, id: &str) -> Vec<HumanId> {
    route::first(&rig.broker, &load(rig, id).await.state).await.unwrap()
}

fn deny() -> Intention {
    Intention::Deny { reason: None, reason_code: "not_now".into() }
}

#[tokio::test]
async fn people_take_turns_and_who_may_not_decide_has_none() {
    // Alice owns the agent: she is in the group and is never asked.
    let mut rig = rig("[routing.reviewers]\nby = \"round-robin\"\n").await;
    let mut said = Vec::new();
    for rows in 1..=4 {
        let id = asked(&rig, rows).await;
        let people = first(&rig, &id).await;
        assert_eq!(people, first(&rig, &id).await, "said once, it stays");
        said.extend(people);
    }
    assert_eq!(said, ["bob", "carol", "bob", "carol"].map(human));
    // After a restart the turn goes on, and what was said is still known.
    rig.clock.advance(1);
    rig.crash().await;
    configure(&mut rig, "[routing.reviewers]\nby = \"round-robin\"\nfirst = 2\n");
    let id = asked(&rig, 5).await;
    assert_eq!(first(&rig, &id).await, ["bob", "carol"].map(human));
    // Anybody eligible decides all the same.
    rig.approve("carol", &id).await.unwrap();
}

#[tokio::test]
async fn who_is_on_call_is_asked_first_unless_they_may_not_decide() {
    // 2027-01-15 is a Friday; the rig begins at 08:00.
    let shift = |people: &str| {
        format!(
            "[routing.reviewers]\nby = \"on-call\"\n[[routing.reviewers.shift]]\n\
             days = [\"fri\"]\nfrom = \"06:00\"\nuntil = \"18:00\"\npeople = [{people}]\n"
        )
    };
    let rig = rig(&shift("\"carol\"")).await;
    let id = asked(&rig, 1).await;
    assert_eq!(first(&rig, &id).await, [human("carol")]);
    let rig = self::rig(&shift("\"alice\"")).await;
    let id = asked(&rig, 1).await;
    assert_eq!(first(&rig, &id).await, [human("bob")], "the owner is on call: the next in turn");
}

#[tokio::test]
async fn an_agent_brings_so_many_requests_an_hour_to_people_and_no_more() {
    let rig = rig("asks_per_agent_hour = 3\n").await;
    for rows in 1..=3 {
        asked(&rig, rows).await;
        rig.clock.advance(60_000);
    }
    let again = rig.issue(rig.ask("export", r#"{"dataset":"a","rows":2}"#, "")).await;
    assert_eq!(word(&again.unwrap()), "pending", "an identical open ask is the same request");
    let before = rig.broker.store.head().size;
    let ask = rig.ask("export", r#"{"dataset":"a","rows":9}"#, "");
    let refused = rig.issue(ask.clone()).await.unwrap_err();
    assert_eq!((refused.status, refused.code.as_ref()), (429, "too_many_for_people"));
    assert_eq!(refused.retry_after_ms, 57 * 60_000, "until the first is an hour ago");
    assert_eq!(rig.broker.store.head().size, before, "nothing was written");
    // What needs no people goes on.
    let read = rig.issue(rig.ask("read", r#"{"dataset":"a"}"#, "")).await.unwrap();
    assert_eq!(word(&read), "granted");
    rig.clock.advance(57 * 60_000 + 1);
    assert_eq!(word(&rig.issue(ask).await.unwrap()), "pending");
}

#[tokio::test]
async fn a_person_approves_so_many_an_hour_and_denies_without_bound() {
    let mut rig = rig("approvals_per_reviewer_hour = 2\n").await;
    for rows in 1..=2 {
        let id = asked(&rig, rows).await;
        rig.approve("bob", &id).await.unwrap();
    }
    // A restart does not give anybody new ones.
    rig.clock.advance(1);
    rig.crash().await;
    configure(&mut rig, "approvals_per_reviewer_hour = 2\n");
    let id = asked(&rig, 3).await;
    let narrow = Intention::Narrow { ttl_s: Some(60), params: None, confirm: None };
    for refused in [rig.approve("bob", &id).await, rig.act("bob", &id, narrow).await] {
        let refused = refused.unwrap_err();
        assert_eq!((refused.status, refused.code.as_ref()), (429, "too_many_approvals"));
    }
    assert_eq!(load(&rig, &id).await.state.votes.len(), 0);
    rig.act("bob", &id, deny()).await.unwrap();
    let id = asked(&rig, 4).await;
    rig.approve("carol", &id).await.unwrap();
    let id = asked(&rig, 5).await;
    rig.clock.advance(3_600_001 - 60_000);
    rig.act("bob", &id, Intention::Ask { text: "which?".into() }).await.unwrap();
    rig.clock.advance(60_000);
    rig.approve("bob", &id).await.unwrap();
    rig.fold().await;
}

#[tokio::test]
async fn in_quiet_hours_time_to_decide_begins_when_they_end() {
    let quiet = "[quiet]\nfrom = \"20:00\"\nuntil = \"09:00\"\nwakes = [\"high\"]\n";
    let rig = rig(quiet).await;
    let id = asked(&rig, 1).await;
    let state = load(&rig, &id).await.state;
    assert_eq!(state.deadline.to_string(), "2027-01-15T10:00:00Z");
    let rig = self::rig(&quiet.replace("high", "unlabelled")).await;
    let id = asked(&rig, 1).await;
    let state = load(&rig, &id).await.state;
    assert_eq!(state.deadline.to_string(), "2027-01-15T09:00:00Z");
}

#[tokio::test]
async fn what_people_did_is_measured_and_measured_alike_after_a_restart() {
    let mut rig = rig("").await;
    let start = rig.broker.now();
    // Bob reads for a minute, then presses three in a row; carol asks, and denies after the answer.
    let ids = [asked(&rig, 1).await, asked(&rig, 2).await, asked(&rig, 3).await];
    rig.clock.advance(60_000);
    for id in &ids {
        rig.approve("bob", id).await.unwrap();
        rig.clock.advance(1_000);
    }
    let id = asked(&rig, 4).await;
    rig.clock.advance(10_000);
    rig.act("carol", &id, Intention::Ask { text: "which?".into() }).await.unwrap();
    rig.clock.advance(100_000);
    let request = RequestId::parse(&id).unwrap();
    crate::people::answer(&rig.broker, &rig.caller, &request, "this").await.unwrap();
    rig.clock.advance(20_000);
    rig.act("carol", &id, deny()).await.unwrap();
    asked(&rig, 5).await;
    rig.issue(rig.ask("read", r#"{"dataset":"a"}"#, "")).await.unwrap();
    rig.clock.advance(3_600_001);
    crate::end::sweep::once(&rig.broker).await.unwrap();
    let seen = rig.broker.guards.measures(start);
    assert_eq!((seen.asked, seen.expired, seen.questions), (5, 1, 1));
    let (bob, carol) = (seen.people[&human("bob")], seen.people[&human("carol")]);
    assert_eq!((bob.approvals, bob.denials, bob.quick, bob.busiest_day), (3, 0, 2, 3));
    assert_eq!(bob.looked_ms, 1_000, "two of three within a second of the one before");
    assert_eq!((carol.approvals, carol.denials, carol.questions, carol.quick), (0, 1, 1, 0));
    assert_eq!(carol.looked_ms, 20_000, "since the answer");
    assert_eq!(seen.took, [60_000, 61_000, 62_000, 130_000]);
    assert_eq!((seen.took(50), seen.took(99)), (Some(61_000), Some(130_000)));
    rig.clock.advance(1);
    rig.crash().await;
    assert_eq!(rig.broker.guards.measures(start), seen);
    rig.clock.advance(pulse::KEPT_MS);
    assert_eq!(rig.broker.guards.measures(rig.broker.now()).asked, 0);
}

#[tokio::test]
async fn the_card_says_what_is_unlike_the_agents_past_and_the_leaf_keeps_it() {
    let rig = rig("").await;
    let said = async |id: &str| {
        let loaded = load(&rig, id).await;
        let scope = rig.broker.authority().catalog.get(&loaded.state.terms.template).cloned();
        crate::http::view::card_of(&rig.broker, &loaded, &scope.unwrap()).unusual
    };
    let id = asked(&rig, 10).await;
    assert_eq!(said(&id).await, ["first time for this scope"]);
    rig.approve("bob", &id).await.unwrap();
    assert_eq!(word(&rig.collect(&id).await.unwrap()), "granted");
    let id = asked(&rig, 11).await;
    assert_eq!(said(&id).await, Vec::<String>::new(), "nothing when nothing is");
    rig.act("carol", &id, deny()).await.unwrap();
    let id = asked(&rig, 40).await;
    let want = ["denied by carol on 2027-01-15", "4 × its largest rows so far"];
    assert_eq!(said(&id).await, want);
    // Narrowed, it is no longer four times as much; and it is in the log, with what it rests on.
    let narrow = serde_json::json!({ "rows": 12 });
    let narrow = Intention::Narrow { ttl_s: None, params: Some(narrow), confirm: None };
    rig.act("bob", &id, narrow).await.unwrap();
    assert_eq!(said(&id).await, Vec::<String>::new());
    let (_, events) = rig.fold().await;
    let kept = events.iter().rev().find_map(|e| match e {
        grantwright_domain::Event::Decided(d) if d.past.is_some() => Some(d),
        _ => None,
    });
    assert_eq!(kept.unwrap().unusual, want);
}
