//! Reports: what they count, what they find, and that each line can be proven.

use grantwright_audit::reports::{Evidence, Kind, Wanted, report};
use grantwright_domain::event::Decision;
use grantwright_domain::{Event, Timestamp};
use grantwright_proof::{Receipt, verify_receipt};

use crate::fixture::{Writer, agent, human, log};
use crate::source::{Memory, ORIGIN, SIGNER};

/// The control whose population is every leaf.
const EVENTS: &str = "AU-2, AU-3, AU-3(1), AU-12";

fn wanted(kind: Kind) -> Wanted {
    Wanted {
        kind,
        from: Timestamp::parse("2026-11-20T00:00:00Z").unwrap(),
        until: Timestamp::parse("2026-12-20T00:00:00Z").unwrap(),
        seed: "2026".into(),
        sample: 5,
        now: None,
    }
}

fn made(kind: Kind) -> Evidence {
    let (_, mut log) = log();
    let kept = [log.newest()];
    report(&mut log, Some(SIGNER.vkey()), &kept, &wanted(kind)).unwrap()
}

fn control<'e>(e: &'e Evidence, id: &str) -> &'e grantwright_audit::reports::Section {
    e.controls.iter().find(|c| c.control == id).unwrap()
}

#[test]
fn every_line_of_a_report_is_proven_by_its_receipt() {
    for kind in [Kind::Soc2, Kind::FedRamp, Kind::AccessReview] {
        let e = made(kind);
        assert!(e.verification.ok);
        let mut proven = 0;
        for line in e.controls.iter().flat_map(|c| c.sample.iter().chain(&c.failing)) {
            let receipt = line.receipt.as_ref().unwrap();
            let receipt: Receipt = serde_json::from_value(receipt.clone()).unwrap();
            let facts = verify_receipt(&receipt, SIGNER.vkey(), ORIGIN).unwrap().into_inner();
            assert_eq!(facts.index, line.leaf);
            let event = Event::from_leaf(&facts.leaf).unwrap();
            if let Some(request) = &line.request {
                assert_eq!(event.request_id(), Some(request));
            }
            proven += 1;
        }
        assert!(proven > 10, "{proven}");
    }
}

#[test]
fn populations_are_whole_and_a_true_log_has_only_its_open_questions() {
    let (events, _) = log();
    let count = |kind: &str| events.iter().filter(|e| e.kind() == kind).count() as u64;
    let e = made(Kind::Soc2);
    assert_eq!(control(&e, "CC6.1").population, count("issued"));
    assert_eq!(control(&e, "CC8.1").population, count("policy_loaded"));
    for id in ["CC6.1", "CC6.2", "CC6.3", "CC8.1"] {
        assert_eq!(control(&e, id).exceptions, 0, "{:?}", control(&e, id).failing);
    }
    // An outcome that is not known is an exception until somebody looks.
    let alarms = control(&e, "CC7.2");
    assert_eq!(alarms.exceptions, count("unknown"));
    let fedramp = made(Kind::FedRamp);
    assert_eq!(control(&fedramp, EVENTS).population, events.len() as u64);
}

#[test]
fn an_owner_who_approved_is_an_exception_and_the_log_is_not_proven() {
    // Written past the rules, as somebody with the log's key could.
    let mut w = Writer::new();
    w.ask("r-own", "demo.export", serde_json::json!({"dataset": "x", "rows": 1}));
    w.decide("r-own");
    let mut vote = w.ballot("r-own", "bob", "api", Decision::Approve);
    vote.human = human("alice");
    let at = vote.at;
    let terms = w.of("r-own").terms.clone();
    let mut events = w.events.clone();
    events.push(Event::Voted(vote));
    let digest = terms.digest().unwrap();
    events.push(Event::Intended(grantwright_domain::event::Intended {
        at,
        digest,
        request_id: terms.request_id.clone(),
        minter: "jwt".into(),
        approvers: [human("alice")].into(),
    }));
    events.push(Event::Issued(grantwright_domain::event::Issued {
        at,
        digest,
        request_id: terms.request_id.clone(),
        lease_id: grantwright_domain::LeaseId::parse("l-own").unwrap(),
        expires_at: at.plus_seconds(60),
        revocable: false,
        facts: Default::default(),
    }));
    let mut log = Memory::of(&events, &w.beside);
    let e = report(&mut log, Some(SIGNER.vkey()), &[], &wanted(Kind::Soc2)).unwrap();
    assert!(!e.verification.ok);
    let found = &control(&e, "CC6.3").failing;
    assert_eq!(found.len(), 1);
    assert!(found[0].exception.as_ref().unwrap().contains("alice answers for the agent"));
    assert!(e.to_html().contains("Not proven"));
    // What breaks the whole log is an exception of the control that protects it, and only then.
    let kept = "AU-9, AU-9(3), AU-11";
    let fedramp = report(&mut log, Some(SIGNER.vkey()), &[], &wanted(Kind::FedRamp)).unwrap();
    assert_eq!(control(&fedramp, kept).exceptions, fedramp.verification.findings as u64);
    assert!(control(&fedramp, kept).exceptions > 0);
    assert_eq!(control(&made(Kind::FedRamp), kept).exceptions, 0);
}

#[test]
fn the_same_seed_gives_the_same_report_and_another_another_sample() {
    assert_eq!(made(Kind::Soc2).to_html(), made(Kind::Soc2).to_html());
    let (_, mut log) = log();
    let other = Wanted { seed: "2027".into(), ..wanted(Kind::FedRamp) };
    let other = report(&mut log, Some(SIGNER.vkey()), &[], &other).unwrap();
    let lines =
        |e: &Evidence| -> Vec<u64> { control(e, EVENTS).sample.iter().map(|l| l.leaf).collect() };
    assert_eq!(lines(&other).len(), 5);
    assert_ne!(lines(&other), lines(&made(Kind::FedRamp)));
}

#[test]
fn reports_on_one_agent_and_one_person() {
    let one = made(Kind::Agent(agent()));
    assert!(one.tables[0].rows.iter().all(|r| r[3] == "demo-agent"));
    let bob = made(Kind::Reviewer(human("bob")));
    let votes = control(&bob, "Votes");
    let (events, _) = log();
    let bobs = events.iter().filter(|e| matches!(e, Event::Voted(v) if v.human == human("bob")));
    assert_eq!(votes.population, bobs.count() as u64);
    let csv = bob.to_csv();
    assert!(csv.starts_with("\"control\",") && csv.lines().count() > 3);
}

#[test]
fn nothing_that_was_said_is_in_a_report_and_nothing_becomes_markup() {
    for kind in [Kind::Soc2, Kind::FedRamp, Kind::AccessReview] {
        let html = made(kind).to_html();
        assert!(!html.contains("because r-") && !html.contains("OPS-1"));
        assert!(!html.contains("<script"));
    }
}

#[test]
fn leaves_that_are_dated_after_now_are_no_proof() {
    let (events, mut log) = log();
    let at = |seconds| Some(events[0].at().plus_seconds(seconds));
    let mut at_time = |now| {
        let wanted = Wanted { now, ..wanted(Kind::Soc2) };
        report(&mut log, Some(SIGNER.vkey()), &[], &wanted).unwrap().verification
    };
    assert!(at_time(at(30 * 86_400)).ok);
    let early = at_time(at(-86_400));
    assert!(!early.ok && early.first.unwrap().contains("after now"), "{:?}", early.findings);
}
