//! Forbidden transitions about rights that agents handed on, written by someone who holds the log's own
//! key.

use grantwright_domain::event::*;
use grantwright_domain::{AgentId, DelegationId, Digest, Event, InstanceId, ParamValue};
use serde_json::json;

use crate::fixture::{Writer, at, human, request};
use crate::source::{Memory, Rules};

/// `planner` (dave's) hands `demo-agent` (alice's) some scopes for twenty minutes; all of what is asked
/// under it is well.
fn handed() -> Writer {
    let mut w = Writer::new();
    w.enrol("planner", "dave", "i-2");
    w.enrol("router", "dave", "i-3");
    let scopes = ["demo.read", "demo.escalate"];
    w.hand("d-1", ("planner", "i-2"), "demo-agent", &scopes, 1200);
    w.ask_under("r-read", "demo.read", json!({"dataset": "sales"}), Some("d-1"), 600);
    w.decide("r-read");
    w.intend("r-read");
    w.issue("r-read", 600);
    w.ask_under("r-role", "demo.escalate", json!({"role": "admin"}), Some("d-1"), 300);
    w.decide("r-role");
    w
}

/// Expects this finding, and none before it.
fn expect(events: &[Event], w: &Writer, leaf: usize, rule: &str) -> String {
    let mut log = Memory::of(events, &w.beside);
    let report = log.verify(&[log.newest()]);
    assert!(report.names(leaf as u64, rule), "want {rule} at {leaf}: {:#?}", report.findings);
    assert_eq!(report.first(), Some(leaf as u64), "{rule}: {:#?}", report.findings);
    report.findings[0].detail.clone()
}

fn clean(w: &Writer) {
    let report = Memory::of(&w.events, &w.beside).verify(&[]);
    assert!(report.ok, "{:#?}", report.findings);
}

#[test]
fn what_is_handed_on_and_asked_under_it_verifies() {
    let mut w = handed();
    clean(&w);
    w.push(Event::DelegationEnded(DelegationEnded {
        at: w.now,
        delegation_id: DelegationId::parse("d-1").unwrap(),
        agent: None,
        human: Some(human("dave")),
    }));
    w.end("r-read", "revoked");
    w.end("r-role", "cancelled");
    clean(&w);
}

#[test]
fn invariant_20_rights_that_nobody_could_hand_on() {
    let w = handed();
    let leaf = at(&w.events, "", "delegated", 0);
    let agent = |name: &str| AgentId::parse(name).unwrap();
    type Change<'a> = &'a dyn Fn(&mut Delegated);
    let changes: [(&str, Change<'_>); 10] = [
        ("delegation", &|e| e.to = agent("nobody")),
        ("delegation", &|e| e.to = agent("planner")),
        ("agent-live", &|e| e.from = agent("router")),
        ("agent-live", &|e| e.instance = InstanceId::parse("i-9").unwrap()),
        ("delegation", &|e| e.parent = Some(DelegationId::parse("d-0").unwrap())),
        ("delegation", &|e| e.passes = 4),
        ("delegation", &|e| e.expires_at = e.at.plus_seconds(86_401)),
        ("delegation", &|e| e.scopes.clear()),
        ("delegation", &|e| e.scopes.values_mut().for_each(|b| b.ttl_s = 901)),
        ("scope-pinned", &|e| {
            e.scopes.values_mut().for_each(|b| b.template = Digest::of("test", b"other"));
        }),
    ];
    for (rule, change) in changes {
        let mut events = w.events.clone();
        let Event::Delegated(e) = &mut events[leaf] else { panic!("another kind") };
        change(e);
        expect(&events, &w, leaf, rule);
    }
    let mut twice = w.events.clone();
    twice.insert(leaf + 1, twice[leaf].clone());
    expect(&twice, &w, leaf + 1, "delegation");
}

#[test]
fn invariant_20_asks_that_the_delegation_does_not_cover() {
    let w = handed();
    let leaf = at(&w.events, "r-read", "requested", 0);
    type Change<'a> = &'a dyn Fn(&mut Requested);
    let changes: [Change<'_>; 5] = [
        &|e| e.terms.delegation_id = Some(DelegationId::parse("d-9").unwrap()),
        &|e| e.terms.delegation_id = None,
        &|e| e.terms.delegation.clear(),
        &|e| e.terms.delegation.push(AgentId::parse("router").unwrap()),
        &|e| e.terms.ttl_s = 1201,
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut events = w.events.clone();
        let Event::Requested(e) = &mut events[leaf] else { panic!("another kind") };
        change(e);
        e.digest = e.terms.digest().unwrap();
        let report = Memory::of(&events, &w.beside).verify(&[]);
        assert!(report.names(leaf as u64, "delegation"), "{n}: {:#?}", report.findings);
    }
    // Parameters beyond those that were handed on.
    let mut events = w.events.clone();
    let Event::Delegated(e) = &mut events[at(&w.events, "", "delegated", 0)] else { panic!() };
    let bounds = e.scopes.values_mut().next_back().expect("demo.read");
    bounds.params.insert("dataset".into(), ParamValue::Text("orders".into()));
    expect(&events, &w, leaf, "delegation");
}

#[test]
fn invariant_20_nothing_is_asked_or_intended_once_a_delegation_is_over() {
    let w = handed();
    let leaf = at(&w.events, "r-read", "requested", 0);
    let ends = |at, id: &str, agent: &str| {
        Event::DelegationEnded(DelegationEnded {
            at,
            delegation_id: DelegationId::parse(id).unwrap(),
            agent: Some(AgentId::parse(agent).unwrap()),
            human: None,
        })
    };
    for (before, rule) in
        [(leaf, "delegation"), (at(&w.events, "r-read", "intended", 0), "delegation")]
    {
        let mut events = w.events.clone();
        events.insert(before, ends(events[before].at(), "d-1", "planner"));
        expect(&events, &w, before + 1, rule);
    }
    // By who has no part in it, of what there is not, and twice.
    for (id, agent) in [("d-1", "router"), ("d-9", "planner")] {
        let mut events = w.events.clone();
        events.insert(leaf, ends(events[leaf].at(), id, agent));
        expect(&events, &w, leaf, "delegation");
    }
    let mut events = w.events.clone();
    let end = ends(events.last().unwrap().at(), "d-1", "planner");
    events.extend([end.clone(), end]);
    expect(&events, &w, events.len() - 1, "delegation");
}

#[test]
fn invariant_26_a_credential_that_outlives_its_delegation() {
    let mut w = handed();
    // Twenty minutes less what went by: the backend took so long that its fifteen end after it.
    w.wait(290);
    w.ask_under("r-late", "demo.read", json!({"dataset": "sales"}), Some("d-1"), 898);
    w.decide("r-late");
    w.intend("r-late");
    let ends = w.state.authority.delegations[&DelegationId::parse("d-1").unwrap()].expires_at;
    w.wait(5);
    let fine = w.now.plus_seconds(898).min(ends).since(w.now) / 1000;
    assert!(fine < 898, "its whole lifetime does not fit any more");
    w.issue("r-late", fine);
    clean(&w);
    let leaf = at(&w.events, "r-late", "issued", 0);
    let mut events = w.events.clone();
    let Event::Issued(e) = &mut events[leaf] else { panic!("another kind") };
    e.expires_at = ends.plus_millis(1);
    let why = expect(&events, &w, leaf, "delegation");
    assert!(why.contains("its delegation until"), "{why}");
    // And one that is extended beyond it: once while its request is at hand, once when it is settled.
    let digest = w.of("r-late").digest;
    let lease_id = w.of("r-late").lease.as_ref().unwrap().id.clone();
    for end in [ends, ends.plus_millis(1)] {
        let mut events = w.events.clone();
        let Event::Issued(e) = &mut events[leaf] else { panic!("another kind") };
        e.expires_at = e.at.plus_seconds(60);
        events.push(Event::Renewed(Renewed {
            at: w.now,
            digest,
            request_id: request("r-late"),
            lease_id: lease_id.clone(),
            expires_at: end,
        }));
        let report = Memory::of(&events, &w.beside).verify(&[]);
        let last = events.len() - 1;
        if end == ends {
            assert!(report.ok, "{:#?}", report.findings);
        } else {
            assert_eq!(report.first(), Some(last as u64), "{:#?}", report.findings);
        }
    }
}

#[test]
fn invariant_10_votes_of_who_may_not_approve_for_an_agent_of_the_chain() {
    let mut w = handed();
    // Dave owns the planner; erin may approve for the demo agent, but policy does not let her for the
    // planner; carol may for both.
    let vote = |w: &Writer, who: &str| w.ballot("r-role", who, "api", Decision::Approve);
    let mut refused = vote(&w, "bob");
    assert!(refused.policies.is_empty(), "policy does not let bob");
    refused.policies = ["reviewers-approve".to_owned()].into();
    let mut events = w.events.clone();
    events.push(Event::Voted(refused));
    let why = expect(&events, &w, events.len() - 1, "approve");
    assert!(why.contains("through `planner`: only carol approves for the planner"), "{why}");
    w.approve("r-role", "carol");
    clean(&w);
    // The same person for the agent's own right.
    w.ask("r-own", "demo.escalate", json!({"role": "admin"}));
    w.decide("r-own");
    w.approve("r-own", "bob");
    clean(&w);
}

#[test]
fn invariant_10_votes_of_who_owns_an_agent_of_the_chain() {
    let mut w = handed();
    let members = crate::fixture::set_of(&["alice", "bob", "carol", "dave", "erin"]);
    let group = crate::fixture::group("reviewers");
    w.push(Event::GroupSet(GroupSet { at: w.now, by: human("op"), group, members }));
    let vote = w.ballot("r-role", "dave", "api", Decision::Approve);
    let mut events = w.events.clone();
    events.push(Event::Voted(vote));
    let why = expect(&events, &w, events.len() - 1, "eligible");
    assert!(why.contains("delegate_approval"), "{why}");
}

#[test]
fn invariant_17_a_verdict_that_leaves_out_who_passed_the_right_on() {
    let w = handed();
    let leaf = at(&w.events, "r-role", "decided", 0);
    let mut events = w.events.clone();
    let Event::Decided(e) = &mut events[leaf] else { panic!("another kind") };
    e.chain.clear();
    expect(&events, &w, leaf, "attributes");
}
