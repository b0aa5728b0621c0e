//! Verification that goes on from an earlier one; and witnesses.

use grantwright_audit::{CannotVerify, Known, Options, Report, Rollback, verify_from, verify_with};
use grantwright_domain::{Event, Timestamp};
use grantwright_proof::{Cosigner, leaf_hash};
use serde_json::json;

use crate::fixture::{Writer, at, log, whole};
use crate::source::{Memory, Rules, SIGNER, STRANGER, sign};

fn options() -> Options<'static> {
    Options { vkey: Some(SIGNER.vkey()), ..Options::default() }
}

/// What is known of the first leaves, as it is read back from its file.
fn known(events: &[Event], beside: &Memory, first: usize) -> Known {
    let mut part = Memory::of(&events[..first], beside);
    // What people will say is not there yet.
    part.texts.clear();
    let (report, known) = verify_from(&mut part, &options(), None, &mut |_| {}).unwrap();
    assert!(report.ok, "{first}: {:?}", report.findings);
    let known = known.unwrap();
    assert_eq!(known.size(), first as u64);
    Known::read(&known.write()).unwrap()
}

fn go_on(log: &mut Memory, known: &Known) -> Report {
    verify_from(log, &options(), Some(known), &mut |_| {}).unwrap().0
}

#[test]
fn going_on_from_anywhere_ends_where_reading_all_does() {
    let w = whole();
    let full = Memory::of(&w.events, &w.beside).verify(&[]);
    for first in (1..=w.events.len()).step_by(3).chain([w.events.len()]) {
        let known = known(&w.events, &w.beside, first);
        let mut log = Memory::of(&w.events, &w.beside);
        let (report, next) = verify_from(&mut log, &options(), Some(&known), &mut |_| {}).unwrap();
        assert!(report.ok, "{first}: {:?}", report.findings);
        assert_eq!(report.resumed_from, Some(first as u64));
        assert_eq!(report.leaves, full.leaves);
        assert_eq!(report.requests, full.requests, "{first}");
        assert_eq!(report.open_intents, full.open_intents, "{first}");
        let votes = |r: &Report| r.undetectable.iter().filter(|u| u.contains("vote")).count();
        assert_eq!(votes(&report), votes(&full), "{first}: {:?}", report.undetectable);
        assert!(report.undetectable.iter().any(|u| u.contains("verified earlier")));
        // And once more, with nothing new.
        let report = go_on(&mut log, &next.unwrap());
        assert!(report.ok && report.resumed_from == Some(full.leaves), "{:?}", report.findings);
    }
}

#[test]
fn invariant_20_what_breaks_a_rule_later_is_found_whatever_is_known() {
    let mut w = Writer::new();
    w.ask("r-1", "demo.read", json!({"dataset": "sales"}));
    w.decide("r-1");
    w.intend("r-1");
    w.issue("r-1", 60);
    w.ask("r-2", "demo.read", json!({"dataset": "sales"}));
    let first = w.events.len();
    let known = known(&w.events, &w.beside, first);
    for (kind, id, rule) in [
        ("issued", "r-1", "lease-once"),
        ("requested", "r-1", "request-once"),
        ("intended", "r-1", "terminal"),
    ] {
        let mut events = w.events.clone();
        let mut again = events[at(&events, id, kind, 0)].clone();
        match &mut again {
            Event::Requested(e) => e.at = w.now,
            Event::Intended(e) => e.at = w.now,
            Event::Issued(e) => e.at = w.now,
            _ => unreachable!(),
        }
        events.push(again);
        let report = go_on(&mut Memory::of(&events, &w.beside), &known);
        assert!(report.names(first as u64, rule), "{kind}: {:?}", report.findings);
        // All of it was read then.
        assert_eq!(report.resumed_from, None);
    }
    // An intent without a verdict, of a request that was open.
    let mut events = w.events.clone();
    let digest = w.of("r-2").digest;
    let Event::Intended(mut e) = events[at(&events, "r-1", "intended", 0)].clone() else {
        panic!()
    };
    (e.at, e.digest, e.request_id) = (w.now, digest, crate::fixture::request("r-2"));
    events.push(Event::Intended(e));
    let report = go_on(&mut Memory::of(&events, &w.beside), &known);
    assert_eq!(report.first(), Some(first as u64), "{:?}", report.findings);
}

#[test]
fn invariant_19_a_log_that_went_back_or_forked_is_not_gone_on_from() {
    let (events, log) = log();
    let known = known(&events, &log, 30);
    // Shorter than what is known.
    let report = go_on(&mut Memory::of(&events[..20], &log), &known);
    assert_eq!((report.ok, report.rollback), (false, Rollback::Found), "{:?}", report.findings);
    // Another history from an earlier leaf on, by the same key.
    let mut other = events.clone();
    other.remove(25);
    other.truncate(40);
    let bodies: Vec<Vec<u8>> = other.iter().map(|e| e.to_leaf().unwrap()).collect();
    let report = go_on(&mut Memory::of_bodies(bodies, &log), &known);
    assert_eq!((report.ok, report.rollback), (false, Rollback::Found), "{:?}", report.findings);
    assert!(report.findings.iter().any(|f| f.rule == "fork"), "{:?}", report.findings);
}

#[test]
fn a_leaf_that_still_matters_is_read_again_and_others_are_named_as_not() {
    let (events, log) = log();
    let known = known(&events, &log, events.len());
    let mut spoilt = log.clone();
    spoilt.leaves[1].1 = spoilt.leaves[2].1.clone();
    let report = go_on(&mut spoilt, &known);
    assert_eq!(report.first(), Some(1), "{:?}", report.findings);
    let mut spoilt = log.clone();
    let over = at(&events, "r-cancelled", "decided", 0);
    spoilt.leaves[over].1.push(b' ');
    let report = go_on(&mut spoilt, &known);
    assert!(report.ok && report.undetectable.iter().any(|u| u.contains("cannot be seen")));
}

#[test]
fn a_file_that_is_not_whole_or_not_of_this_log_is_refused() {
    let (events, mut log) = log();
    let bytes = known(&events, &log, 30).write();
    for length in (0..bytes.len()).step_by(41) {
        assert!(Known::read(&bytes[..length]).is_err(), "cut at {length}");
    }
    for place in (0..bytes.len()).step_by(29) {
        let mut flipped = bytes.clone();
        flipped[place] ^= 1;
        assert!(Known::read(&flipped).is_err(), "flipped at {place}");
    }
    assert!(Known::read(&[&bytes[..], b"\0"].concat()).is_err());
    let other = String::from_utf8_lossy(&bytes[..40]).replace("verified/2", "verified/0");
    let why = Known::read(&[other.as_bytes(), &bytes[40..]].concat()).err().unwrap();
    assert!(why.contains("another version"), "{why}");
    let known = Known::read(&bytes).unwrap();
    let mut refused =
        |options: Options<'_>| verify_from(&mut log, &options, Some(&known), &mut |_| {}).err();
    let stranger = Options { vkey: Some(STRANGER.vkey()), ..options() };
    assert!(matches!(refused(stranger), Some(CannotVerify::Known(_))));
    assert!(matches!(
        refused(Options { hashes_only: true, ..options() }),
        Some(CannotVerify::Known(_))
    ));
}

#[test]
fn a_log_with_findings_leaves_nothing_to_go_on_from() {
    let (_, mut log) = log();
    log.leaves[7].1 = log.leaves[8].1.clone();
    let (report, next) = verify_from(&mut log, &options(), None, &mut |_| {}).unwrap();
    assert!(!report.ok && next.is_none());
    // Nor does one from tomorrow.
    let (_, mut log) = crate::fixture::log();
    let now = Some(Timestamp::parse("2026-11-01T00:00:00Z").unwrap());
    let (report, next) =
        verify_from(&mut log, &Options { now, ..options() }, None, &mut |_| {}).unwrap();
    assert!(!report.ok && next.is_none());
}

#[test]
fn witnesses_vouch_by_quorum_and_never_by_default() {
    let (events, log) = log();
    let witness = |n: u8| Cosigner::from_seed(&format!("w{n}.example"), &[n; 32]).unwrap();
    let (one, two, three) = (witness(1), witness(2), witness(3));
    let keys = [one.key().clone(), two.key().clone(), three.key().clone()];
    let size = log.checkpoints[10].0;
    let note = &log.checkpoints[10].1;
    let text = format!("{}\n", note.split_once("\n\n").unwrap().0);
    let cosigned = [note.clone(), one.cosign(&text, 2_000), two.cosign(&text, 1_000)].concat();
    let verify = |log: &Memory, kept: &[String], quorum| {
        let options = Options { witnesses: &keys, quorum, kept, ..options() };
        verify_with(&mut log.clone(), &options, &mut |_| {})
    };
    let mut witnessed = log.clone();
    witnessed.checkpoints[10].1 = cosigned.clone();
    for (log, kept) in [(&witnessed, vec![]), (&log, vec![cosigned.clone()])] {
        let report = verify(log, &kept, 2).unwrap();
        assert!(report.ok, "{:?}", report.findings);
        let found = report.witnessed.unwrap();
        assert_eq!((found.size, found.since, found.witnesses.len()), (size, 1_000, 2));
        assert!(report.undetectable.iter().any(|u| u.contains("no witness vouches yet")));
        let report = verify(log, &kept, 3).unwrap();
        assert!(report.names(0, "witness") && report.witnessed.is_none());
    }
    assert!(verify(&log, &[], 1).unwrap().names(0, "witness"), "nobody cosigned");
    for quorum in [0, 4] {
        assert!(matches!(verify(&witnessed, &[], quorum), Err(CannotVerify::Quorum { .. })));
    }
    // One line twice is one witness; a line over another text is none, and said.
    let mut twice = log.clone();
    twice.checkpoints[10].1 = [note.clone(), one.cosign(&text, 5), one.cosign(&text, 6)].concat();
    assert!(verify(&twice, &[], 2).unwrap().names(0, "witness"));
    let mut forged = log.clone();
    forged.checkpoints[10].1 = [note.clone(), one.cosign("another\n", 5)].concat();
    assert!(verify(&forged, &[], 1).unwrap().names(size - 1, "witness"));
    // What they cosigned is not these leaves: the fork is found as ever.
    let hashes: Vec<_> = (0..events.len()).map(|n| leaf_hash(&n.to_be_bytes())).collect();
    let fork = sign(&hashes, &[size], &SIGNER)[0].1.clone();
    let text = format!("{}\n", fork.split_once("\n\n").unwrap().0);
    let fork = [fork, one.cosign(&text, 5)].concat();
    let report = verify(&log, &[fork], 1).unwrap();
    assert_eq!((report.ok, report.rollback), (false, Rollback::Found));
}
