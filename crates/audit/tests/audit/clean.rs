//! A log that is as it should be, and what cannot be known of it.

use std::time::Instant;

use grantwright_audit::{CannotVerify, Rollback, verify};
use grantwright_domain::Event;
use grantwright_domain::event::Decision;
use serde_json::json;

use crate::fixture::{Writer, log, request, whole};
use crate::source::{Memory, Rules, SIGNER, STRANGER, batches, sign};

#[test]
fn a_true_log_is_proven() {
    let (events, mut log) = log();
    let mut told = 0;
    let kept = [log.newest()];
    let started = Instant::now();
    let report = verify(&mut log, Some(SIGNER.vkey()), &kept, &mut |n| told = n).unwrap();
    println!("{} leaves in {:?}", report.leaves, started.elapsed());
    assert_eq!(report.findings, []);
    assert!(report.ok);
    assert_eq!((report.leaves, told), (events.len() as u64, events.len() as u64));
    assert_eq!(report.rollback, Rollback::None);
    assert_eq!(report.open_intents.len(), 1);
    assert_eq!(report.open_intents[0].request_id, request("r-open"));
    assert_eq!(report.open_intents[0].leaf, report.leaves - 1);
    assert_eq!(report.requests, 11);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["rollback"], "none");
    assert_eq!(json["findings"], json!([]));
}

#[test]
fn without_a_key_the_logs_own_is_used_and_said() {
    let (_, mut log) = log();
    let report = verify(&mut log, None, &[], &mut |_| {}).unwrap();
    assert!(report.ok);
    assert_eq!(report.rollback, Rollback::NotChecked);
    assert!(report.undetectable.iter().any(|u| u.contains("no verifier key")));
}

#[test]
fn erased_texts_are_no_finding_and_counted() {
    let (_, mut log) = log();
    log.texts.retain(|t| t.name != "reason");
    let report = log.verify(&[]);
    assert!(report.ok);
    assert!(report.undetectable.iter().any(|u| u.starts_with("11 texts")));
}

#[test]
fn invariant_19_every_checkpoint_ever_seen_is_a_prefix() {
    let (events, mut log) = log();
    let kept: Vec<String> = log.checkpoints.iter().map(|c| c.1.clone()).collect();
    assert_eq!(kept.len(), batches(events.len()).len());
    let report = log.verify(&kept);
    assert!(report.ok);
    assert_eq!(report.rollback, Rollback::None);
}

#[test]
fn invariant_20_a_vote_forged_with_the_logs_key_is_listed_as_undetectable() {
    let mut w = Writer::new();
    w.ask("r-1", "demo.export", json!({"dataset": "customers", "rows": 5}));
    w.decide("r-1");
    // Bob never did: the holder of the key writes it all the same.
    let vote = w.ballot("r-1", "bob", "api", Decision::Approve);
    w.push(Event::Voted(vote));
    w.intend("r-1");
    w.issue("r-1", 900);
    let mut log = Memory::of(&w.events, &w.beside);
    let report = log.verify(&[log.newest()]);
    assert!(report.ok);
    let said = "votes that no passkey signed (1 through `api`) rest on the broker's word";
    assert!(report.undetectable.iter().any(|u| u.starts_with(said)), "{:?}", report.undetectable);
}

/// The operator who registered the agent made bob's token: the report says that she could be bob.
#[test]
fn invariant_10_votes_that_an_operator_could_have_cast_are_listed() {
    let mut w = Writer::new();
    w.ask("r-1", "demo.export", json!({"dataset": "customers", "rows": 5}));
    w.decide("r-1");
    let vote = w.ballot("r-1", "bob", "api", Decision::Approve);
    w.push(Event::Voted(vote));
    let mut log = Memory::of(&w.events, &w.beside);
    let report = log.verify(&[log.newest()]);
    assert!(report.ok);
    let listed = |u: &&String| u.starts_with("1 votes of `bob` were cast while `op`");
    let said = report.undetectable.iter().find(listed).expect("it is listed");
    assert!(said.contains("(1 of them within 24 h of a change by `op`"), "{said}");
}

#[test]
fn invariant_20_a_rollback_that_no_kept_checkpoint_contradicts_is_listed_as_undetectable() {
    let (events, log) = log();
    let boundary = batches(events.len())[12];
    let mut back = log.clone();
    back.leaves.retain(|l| l.0 < boundary);
    back.checkpoints.retain(|c| c.0 <= boundary);
    let report = back.verify(&[]);
    assert!(report.ok);
    assert_eq!(report.rollback, Rollback::NotChecked);
    assert!(report.undetectable.iter().any(|u| u.contains("rollback to an earlier state")));
    // With an older one kept it is as invisible, and the report says from where on.
    let older = log.checkpoints[3].1.clone();
    let report = back.verify(&[older]);
    assert!(report.ok);
    assert_eq!(report.rollback, Rollback::None);
    let said = format!("at least {} leaves", log.checkpoints[3].0);
    assert!(report.undetectable.iter().any(|u| u.contains(&said)));
    // With a newer one kept it is found.
    let report = back.verify(&[log.newest()]);
    assert!(report.names(boundary, "rollback"));
    assert_eq!(report.rollback, Rollback::Found);
}

#[test]
fn what_cannot_be_judged_is_not_a_finding() {
    let (_, log) = log();
    let stranger = STRANGER.vkey();
    let wrong = verify(&mut log.clone(), Some(stranger), &[], &mut |_| {});
    assert_eq!(wrong, Err(CannotVerify::WrongKey(stranger.to_string())));
    let mut nothing = Memory::default();
    assert_eq!(nothing.try_verify(&[]), Err(CannotVerify::NothingToVerify));
    assert!(matches!(
        log.clone().try_verify(&["garbage".into()]),
        Err(CannotVerify::KeptCheckpoint { number: 1, .. })
    ));
    let foreign = sign(&log.hashes, &[3], &STRANGER)[0].1.clone();
    assert!(matches!(
        log.clone().try_verify(&[log.newest(), foreign]),
        Err(CannotVerify::KeptCheckpoint { number: 2, .. })
    ));
}

#[test]
fn a_checkpoint_and_no_leaf_is_a_finding() {
    let (_, log) = log();
    let mut emptied = Memory { checkpoints: log.checkpoints.clone(), ..Memory::default() };
    assert!(emptied.verify(&[]).names(0, "truncated"));
    let report = verify(&mut emptied, None, &[], &mut |_| {}).unwrap();
    assert!(report.names(0, "truncated"));
    // Nothing at all, but a checkpoint that someone kept.
    let report = Memory::default().verify(&[log.newest()]);
    assert!(report.names(0, "rollback"));
}

#[test]
fn many_pages_are_walked_in_order() {
    let mut w = whole();
    for n in 0..700 {
        let id = format!("p-{n}");
        w.ask(&id, "demo.read", json!({"dataset": "sales"}));
        w.decide(&id);
        w.intend(&id);
        w.issue(&id, 900);
    }
    let mut log = Memory::of(&w.events, &w.beside);
    let started = Instant::now();
    let report = log.verify(&[log.newest()]);
    println!("{} leaves in {:?}", report.leaves, started.elapsed());
    assert!(report.ok, "{:?}", report.findings);
    let bad = log.leaves.len() - 2;
    log.leaves[bad].1 = b"{}".to_vec();
    assert_eq!(log.verify(&[]).first(), Some(bad as u64));
}
