//! Transitions that the rules forbid, written by someone who holds the log's own key: every leaf
//! is hashed and signed as it should be, and conduct alone gives it away.

use grantwright_audit::{Options, Report, Sets, verify_with};
use grantwright_domain::event::*;
use grantwright_domain::{Digest, Event, LeaseId, ParamValue, Strength, Timestamp, VerdictKind};
use serde_json::json;

use crate::fixture::{SET, Writer, at, group, human, log, policy, request, set_of};
use crate::source::{Memory, Rules, SIGNER};

type Change<E> = fn(&mut E);

/// Signs the events anew and expects this finding.
fn expect(events: &[Event], leaf: usize, rule: &str) -> Report {
    let (_, beside) = log();
    expect_in(events, &beside, leaf, rule)
}

fn expect_in(events: &[Event], beside: &Memory, leaf: usize, rule: &str) -> Report {
    let mut log = Memory::of(events, beside);
    let report = log.verify(&[log.newest()]);
    assert!(report.names(leaf as u64, rule), "want {rule} at {leaf}: {:#?}", report.findings);
    assert_eq!(report.first(), Some(leaf as u64), "{rule}: {:#?}", report.findings);
    report
}

/// Alters the `n`th event of this request and kind, and returns its leaf.
macro_rules! alter {
    ($events:ident, $id:literal, $kind:literal, $n:literal, $variant:ident, |$e:ident| $change:expr) => {{
        let leaf = at(&$events, $id, $kind, $n);
        let Event::$variant($e) = &mut $events[leaf] else { panic!("another kind") };
        $change;
        leaf
    }};
}

#[test]
fn invariant_20_issued_without_a_verdict() {
    let (mut events, _) = log();
    events.remove(at(&events, "r-routine", "decided", 0));
    let leaf = at(&events, "r-routine", "intended", 0);
    expect(&events, leaf, "quorum");
}

#[test]
fn invariant_20_issued_without_an_intent() {
    let (mut events, _) = log();
    events.remove(at(&events, "r-routine", "intended", 0));
    expect(&events, at(&events, "r-routine", "issued", 0), "intent");
}

#[test]
fn invariant_20_issued_without_a_vote() {
    let (mut events, _) = log();
    for _ in 0..2 {
        events.remove(at(&events, "r-quorum", "voted", 0));
    }
    alter!(events, "r-quorum", "intended", 0, Intended, |e| e.approvers.clear());
    expect(&events, at(&events, "r-quorum", "intended", 0), "quorum");
}

#[test]
fn invariant_20_issued_with_one_vote_of_two() {
    let (mut events, _) = log();
    events.remove(at(&events, "r-quorum", "voted", 1));
    alter!(events, "r-quorum", "intended", 0, Intended, |e| e.approvers = set_of(&["bob"]));
    expect(&events, at(&events, "r-quorum", "intended", 0), "quorum");
}

#[test]
fn invariant_20_vote_by_the_owner() {
    let (mut events, _) = log();
    let leaf = alter!(events, "r-quorum", "voted", 0, Voted, |e| e.human = human("alice"));
    let report = expect(&events, leaf, "eligible");
    assert!(report.findings[0].detail.contains("self_approval"));
}

#[test]
fn invariant_20_vote_by_one_outside_the_group() {
    let (mut events, _) = log();
    let leaf = alter!(events, "r-quorum", "voted", 0, Voted, |e| {
        e.human = human("dave");
        e.groups = [group("security")].into();
    });
    let report = expect(&events, leaf, "eligible");
    assert!(report.findings[0].detail.contains("not_in_group"));
}

#[test]
fn invariant_20_vote_by_a_stranger() {
    let (mut events, _) = log();
    let leaf = alter!(events, "r-quorum", "voted", 0, Voted, |e| e.human = human("mallory"));
    expect(&events, leaf, "eligible");
}

#[test]
fn invariant_20_one_person_twice_for_a_quorum_of_two() {
    let (mut events, _) = log();
    let leaf = alter!(events, "r-quorum", "voted", 1, Voted, |e| e.human = human("bob"));
    expect(&events, leaf, "vote-once");
}

#[test]
fn invariant_20_vote_on_the_digest_before_the_narrowing() {
    let (mut events, _) = log();
    let Event::Narrowed(n) = &events[at(&events, "r-narrowed", "narrowed", 0)] else { panic!() };
    let old = n.old_digest;
    let leaf = alter!(events, "r-narrowed", "voted", 0, Voted, |e| e.digest = old);
    expect(&events, leaf, "digest");
}

#[test]
fn invariant_20_vote_after_a_deny() {
    let (mut events, _) = log();
    let denied = at(&events, "r-denied", "voted", 0);
    let Event::Voted(mut vote) = events[denied].clone() else { panic!() };
    vote.decision = Decision::Approve;
    vote.human = human("carol");
    events.insert(denied + 1, Event::Voted(vote));
    expect(&events, denied + 1, "terminal");
}

#[test]
fn invariant_20_vote_that_has_not_seen_the_answer() {
    let (mut events, _) = log();
    let leaf = alter!(events, "r-questioned", "voted", 0, Voted, |e| e.seen = None);
    expect(&events, leaf, "seen");
}

#[test]
fn invariant_20_vote_of_another_while_a_question_is_open() {
    let (mut events, _) = log();
    let answered = at(&events, "r-questioned", "answered", 0);
    events.remove(answered);
    let leaf = alter!(events, "r-questioned", "voted", 0, Voted, |e| {
        e.human = human("bob");
        e.seen = Some(2);
    });
    expect(&events, leaf, "question-open");
}

#[test]
fn invariant_20_vote_through_a_channel_that_policy_does_not_name() {
    let (mut events, _) = log();
    let leaf = alter!(events, "r-quorum", "voted", 0, Voted, |e| e.channel = "slack".into());
    let report = expect(&events, leaf, "eligible");
    assert!(report.findings[0].detail.contains("channel_not_allowed"));
}

#[test]
fn invariant_14_unsigned_vote_where_a_passkey_is_asked() {
    let mut w = Writer::new();
    w.ask("r-p", "demo.rotate-root", json!({}));
    w.decide("r-p");
    assert_eq!(w.of("r-p").verdict.as_ref().unwrap().strength, Strength::Passkey);
    let vote = w.ballot("r-p", "bob", "api", Decision::Approve);
    w.events.push(Event::Voted(vote));
    expect_in(&w.events, &w.beside, w.events.len() - 1, "passkey");
}

#[test]
fn invariant_17_vote_that_cedar_does_not_let_through() {
    let mut w = Writer::new();
    w.ask("r-e", "demo.export", json!({"dataset": "customers", "rows": 5}));
    w.decide("r-e");
    // Erin is eligible by `domain`; a policy forbids her to approve exports.
    let vote = w.ballot("r-e", "erin", "api", Decision::Approve);
    assert!(vote.policies.is_empty());
    w.push(Event::Voted(vote));
    expect_in(&w.events, &w.beside, w.events.len() - 1, "approve");
    // The same person may approve another scope.
    w.ask("r-f", "demo.escalate", json!({"role": "admin"}));
    w.decide("r-f");
    w.approve("r-f", "erin");
}

#[test]
fn invariant_17_vote_that_names_other_policies() {
    let (mut events, _) = log();
    let leaf =
        alter!(events, "r-quorum", "voted", 0, Voted, |e| e.policies = ["read".into()].into());
    expect(&events, leaf, "policies");
    let leaf = alter!(events, "r-quorum", "voted", 0, Voted, |e| e.policies.clear());
    expect(&events, leaf, "policies");
}

#[test]
fn invariant_17_vote_with_other_group_evidence() {
    let (mut events, _) = log();
    let leaf = alter!(events, "r-quorum", "voted", 0, Voted, |e| {
        e.groups.insert(group("security"));
    });
    expect(&events, leaf, "group-evidence");
}

#[test]
fn invariant_17_verdict_that_policy_does_not_give() {
    let (mut events, _) = log();
    let Event::Decided(allow) = events[at(&events, "r-routine", "decided", 0)].clone() else {
        panic!()
    };
    let leaf = alter!(events, "r-forbidden", "decided", 0, Decided, |e| {
        e.verdict = allow.verdict.clone();
    });
    expect(&events, leaf, "verdict");
}

#[test]
fn invariant_17_every_field_of_a_verdict_must_be_what_policy_gives() {
    let (events, _) = log();
    let leaf = at(&events, "r-quorum", "decided", 0);
    let changes: [Change<Decided>; 11] = [
        |e| e.verdict.kind = VerdictKind::Allow,
        |e| e.verdict.code = "x".into(),
        |e| e.verdict.reason.push('x'),
        |e| e.verdict.policies = ["read".into()].into(),
        |e| e.verdict.quorum = 1,
        |e| e.verdict.strength = Strength::Passkey,
        |e| {
            e.verdict.channels.insert("slack".into());
        },
        |e| e.verdict.approvers = [group("security")].into(),
        |e| e.verdict.max_ttl_s += 1,
        |e| {
            e.context.insert("on_behalf_of".into(), json!(true));
        },
        |e| {
            e.context.remove("time");
        },
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut events = events.clone();
        let Event::Decided(e) = &mut events[leaf] else { panic!() };
        change(e);
        let (_, beside) = log();
        let report = Memory::of(&events, &beside).verify(&[]);
        assert!(report.names(leaf as u64, "verdict"), "{n}: {:#?}", report.findings);
        assert_eq!(report.first(), Some(leaf as u64));
    }
}

#[test]
fn invariant_17_verdict_upon_attributes_that_nobody_registered() {
    let (mut events, _) = log();
    let leaf = alter!(events, "r-routine", "decided", 0, Decided, |e| {
        e.attributes.insert("team".into(), json!("Sales"));
    });
    expect(&events, leaf, "attributes");
}

#[test]
fn invariant_17_verdict_of_a_policy_set_that_is_not_in_force() {
    let (mut events, _) = log();
    let leaf = alter!(events, "r-routine", "decided", 0, Decided, |e| {
        e.verdict.policy_set = Digest::of("test", b"other");
    });
    expect(&events, leaf, "policy-set");
}

#[test]
fn invariant_17_policy_changed_between_the_verdict_and_the_intent() {
    let (mut events, mut beside) = log();
    let other = policy("Europe/Berlin");
    assert_ne!(other.digest(), SET.digest());
    beside.blobs.insert(other.digest(), other.blob().to_vec());
    let leaf = at(&events, "r-open", "intended", 0);
    let load = Event::PolicyLoaded(PolicyLoaded {
        at: events[leaf].at(),
        by: human("op"),
        policy_set: other.digest(),
        scopes: other.scope_digests().unwrap(),
    });
    events.insert(leaf, load);
    expect_in(&events, &beside, leaf + 1, "policy-set");
    // Without the blob nothing could be replayed.
    beside.blobs.remove(&other.digest());
    expect_in(&events, &beside, leaf, "blob");
}

#[test]
fn invariant_17_blobs_must_be_those_that_the_leaf_names() {
    let (events, log) = log();
    let leaf = at(&events, "", "policy_loaded", 0);
    for (n, digest) in log.blobs.keys().enumerate() {
        let mut spoilt = log.clone();
        spoilt.blobs.remove(digest);
        expect_in(&events, &spoilt, leaf, "blob");
        let mut spoilt = log.clone();
        spoilt.blobs.get_mut(digest).unwrap().push(b' ');
        expect_in(&events, &spoilt, leaf, "blob");
        let mut spoilt = log.clone();
        let another = log.blobs.values().nth((n + 1) % log.blobs.len()).unwrap().clone();
        spoilt.blobs.insert(*digest, another);
        expect_in(&events, &spoilt, leaf, "blob");
    }
    // A laxer policy under the same digest.
    let mut spoilt = log.clone();
    let blob = spoilt.blobs.get_mut(&SET.digest()).unwrap();
    *blob = String::from_utf8(blob.clone()).unwrap().replace("forbid", "permit").into_bytes();
    expect_in(&events, &spoilt, leaf, "blob");
}

#[test]
fn invariant_17_a_set_compiled_for_one_log_stands_for_its_own_texts_only() {
    let (events, log) = log();
    let leaf = at(&events, "", "policy_loaded", 0) as u64;
    let sets = Sets::default();
    let options = Options { vkey: Some(SIGNER.vkey()), sets: Some(&sets), ..Options::default() };
    let verify = |mut log: Memory| verify_with(&mut log, &options, &mut |_| {}).unwrap();
    assert!(verify(log.clone()).ok);
    for digest in log.blobs.keys() {
        let mut spoilt = log.clone();
        let another = log.blobs.values().find(|blob| **blob != log.blobs[digest]).unwrap().clone();
        spoilt.blobs.insert(*digest, another);
        assert!(verify(spoilt).names(leaf, "blob"));
        let mut spoilt = log.clone();
        let blob = spoilt.blobs.get_mut(digest).unwrap();
        *blob = String::from_utf8(blob.clone()).unwrap().replacen("forbid", "permit", 1).into();
        assert_eq!(verify(spoilt.clone()).ok, spoilt.blobs == log.blobs);
    }
    assert!(verify(log).ok);
}

#[test]
fn invariant_20_intent_after_the_time_ran_out() {
    let (mut events, _) = log();
    let leaf = alter!(events, "r-open", "intended", 0, Intended, |e| {
        e.at = e.at.plus_seconds(601);
    });
    expect(&events, leaf, "deadline");
}

#[test]
fn invariant_20_intent_with_other_approvers_or_minter() {
    let (mut events, _) = log();
    let leaf = alter!(events, "r-quorum", "intended", 0, Intended, |e| {
        e.approvers = set_of(&["bob"]);
    });
    expect(&events, leaf, "approvers");
    let (mut events, _) = log();
    let leaf = alter!(events, "r-quorum", "intended", 0, Intended, |e| e.minter = "aws".into());
    expect(&events, leaf, "minter");
}

#[test]
fn invariant_03_second_intent_and_second_credential() {
    let (events, _) = log();
    let intended = at(&events, "r-routine", "intended", 0);
    let mut twice = events.clone();
    twice.insert(intended + 1, events[intended].clone());
    expect(&twice, intended + 1, "terminal");
    let issued = at(&events, "r-routine", "issued", 0);
    let mut twice = events.clone();
    twice.insert(issued + 1, events[issued].clone());
    expect(&twice, issued + 1, "lease-once");
    let mut twice = events.clone();
    let Event::Issued(mut e) = events[issued].clone() else { panic!() };
    e.lease_id = LeaseId::parse("l-second").unwrap();
    twice.insert(issued + 1, Event::Issued(e));
    expect(&twice, issued + 1, "intent");
    // And another intent after the outcome.
    let mut again = events.clone();
    again.insert(issued + 1, events[intended].clone());
    let report = Memory::of(&again, &log().1).verify(&[]);
    assert!(report.names(issued as u64 + 1, "time"), "{:?}", report.findings);
}

#[test]
fn invariant_05_lifetime_beyond_the_approval() {
    let (mut events, _) = log();
    let leaf = alter!(events, "r-routine", "issued", 0, Issued, |e| {
        e.expires_at = e.at.plus_seconds(901);
    });
    expect(&events, leaf, "lifetime");
    let (mut events, _) = log();
    let leaf = alter!(events, "r-narrowed", "renewed", 0, Renewed, |e| {
        e.expires_at = e.expires_at.plus_seconds(1);
    });
    expect(&events, leaf, "lifetime");
}

#[test]
fn invariant_13_nothing_follows_an_end() {
    let (events, _) = log();
    for (id, kind) in [
        ("r-forbidden", "decided"),
        ("r-cancelled", "cancelled"),
        ("r-passkey", "expired"),
        ("r-withdrawn", "failed"),
        ("r-unknown", "unknown"),
        ("r-denied", "voted"),
        ("r-quorum", "intended"),
    ] {
        let leaf = at(&events, id, kind, 0);
        let digest = match &events[at(&events, id, "requested", 0)] {
            Event::Requested(e) => e.digest,
            _ => panic!(),
        };
        let mut more = events.clone();
        more.insert(
            leaf + 1,
            Event::Cancelled(Cancelled {
                at: events[leaf].at(),
                digest,
                request_id: request(id),
                by: "agent".into(),
            }),
        );
        expect(&more, leaf + 1, "terminal");
    }
}

#[test]
fn invariant_20_ended_too_early() {
    let (mut events, _) = log();
    let leaf = at(&events, "r-cancelled", "cancelled", 0);
    let Event::Cancelled(e) = events[leaf].clone() else { panic!() };
    events[leaf] = Event::Expired(Expired {
        at: e.at,
        digest: e.digest,
        request_id: e.request_id,
        lease_id: None,
    });
    expect(&events, leaf, "deadline");
    let (mut events, _) = log();
    let leaf = alter!(events, "r-quorum", "revoked", 0, Revoked, |e| {
        e.lease_id = LeaseId::parse("l-other").unwrap();
    });
    expect(&events, leaf, "lease");
}

#[test]
fn invariant_20_changes_by_someone_who_is_no_operator() {
    let (events, _) = log();
    for kind in ["agent_set", "group_set", "model_set", "policy_loaded", "join_created"] {
        let mut spoilt = events.clone();
        let leaf = at(&events, "", kind, 0);
        match &mut spoilt[leaf] {
            Event::AgentSet(e) => e.by = human("bob"),
            Event::GroupSet(e) => e.by = human("bob"),
            Event::ModelSet(e) => e.by = human("bob"),
            Event::PolicyLoaded(e) => e.by = human("bob"),
            Event::JoinCreated(e) => e.by = human("bob"),
            _ => panic!(),
        }
        expect(&spoilt, leaf, "operator");
    }
    let mut spoilt = events.clone();
    let leaf = alter!(spoilt, "", "human_set", 1, HumanSet, |e| e.by = human("bob"));
    expect(&spoilt, leaf, "operator");
}

#[test]
fn invariant_10_operator_who_changed_the_group_may_not_vote() {
    let (mut events, _) = log();
    let ballot = at(&events, "r-quorum", "voted", 0);
    let when = events[ballot].at();
    let bob =
        HumanSet { at: when, by: human("op"), human: human("bob"), active: true, operator: true };
    let set = GroupSet {
        at: when,
        by: human("bob"),
        group: group("reviewers"),
        members: set_of(&["alice", "bob", "carol", "erin"]),
    };
    events.insert(ballot, Event::GroupSet(set));
    events.insert(ballot, Event::HumanSet(bob));
    let report = expect(&events, ballot + 2, "eligible");
    assert!(report.findings[0].detail.contains("recent_change"));
}

#[test]
fn invariant_11_approver_who_left_the_group_before_the_intent() {
    let (mut events, _) = log();
    let leaf = at(&events, "r-questioned", "intended", 0);
    let set = GroupSet {
        at: events[leaf].at(),
        by: human("op"),
        group: group("reviewers"),
        members: set_of(&["alice", "bob"]),
    };
    events.insert(leaf, Event::GroupSet(set));
    expect(&events, leaf + 1, "quorum");
}

#[test]
fn invariant_24_request_of_a_revoked_agent() {
    let (mut events, _) = log();
    let leaf = at(&events, "r-routine", "requested", 0);
    let revoked =
        AgentRevoked { at: events[leaf].at(), by: human("op"), agent: crate::fixture::agent() };
    events.insert(leaf, Event::AgentRevoked(revoked));
    expect(&events, leaf + 1, "agent-live");
}

#[test]
fn invariant_20_terms_that_are_not_the_scopes() {
    let spoil = |change: Change<Requested>| {
        let (mut events, _) = log();
        let leaf = alter!(events, "r-cancelled", "requested", 0, Requested, |e| {
            change(e);
            e.digest = e.terms.digest().unwrap();
        });
        events.truncate(leaf + 1);
        (events, leaf)
    };
    let changes: [(Change<Requested>, &str); 7] = [
        (|e| drop(e.terms.params.insert("rows".into(), ParamValue::Integer(1_000_001))), "params"),
        (|e| drop(e.terms.params.remove("rows")), "params"),
        (|e| drop(e.terms.params.insert("x".into(), ParamValue::Boolean(true))), "params"),
        (|e| e.terms.sealed_params.extend([("x".into(), e.digest)]), "params"),
        (|e| e.terms.template = e.digest, "scope-pinned"),
        (|e| e.terms.origin = "broker.test/log2".into(), "origin"),
        (|e| e.terms.ttl_s = 0, "terms"),
    ];
    for (change, rule) in changes {
        let (events, leaf) = spoil(change);
        expect(&events, leaf, rule);
    }
}

#[test]
fn invariant_20_narrowed_to_something_wider() {
    let (mut events, _) = log();
    let leaf = alter!(events, "r-narrowed", "narrowed", 0, Narrowed, |e| {
        e.terms.params.insert("rows".into(), ParamValue::Integer(6000));
        e.digest = e.terms.digest().unwrap();
    });
    expect(&events, leaf, "narrower");
}

#[test]
fn invariant_22_every_leaf_belongs_to_its_request() {
    let (events, beside) = log();
    for (leaf, event) in events.iter().enumerate().filter(|(_, e)| e.request_id().is_some()) {
        let other = if event.request_id() == Some(&request("r-quorum")) {
            "r-narrowed"
        } else {
            "r-quorum"
        };
        let mut value = serde_json::to_value(event).unwrap();
        value["request_id"] = json!(other);
        let mut moved = events.clone();
        moved[leaf] = serde_json::from_value(value).unwrap();
        let report = Memory::of(&moved, &beside).verify(&[]);
        assert!(!report.ok, "{leaf}");
        assert_eq!(report.first(), Some(leaf as u64), "{:?}", report.findings);
    }
}

#[test]
fn invariant_20_the_log_opens_once_and_first() {
    let (events, _) = log();
    let mut twice = events.clone();
    twice.insert(5, events[0].clone());
    expect(&twice, 5, "opened-first");
    expect(&events[1..], 0, "opened-first");
    let mut other = events.clone();
    alter!(other, "", "opened", 0, Opened, |e| e.origin = "broker.test/log2".into());
    expect(&other, 0, "origin");
    let mut other = events.clone();
    alter!(other, "", "opened", 0, Opened, |e| {
        e.vkey = crate::source::STRANGER.vkey().to_string();
    });
    expect(&other, 0, "key");
}

#[test]
fn invariant_20_tokens_are_used_once() {
    let (events, _) = log();
    for kind in ["instance_enrolled", "link_spent"] {
        let leaf = at(&events, "", kind, 0);
        let mut twice = events.clone();
        twice.insert(leaf + 1, events[leaf].clone());
        let rule = if kind == "link_spent" { "link-single-use" } else { "join-single-use" };
        expect(&twice, leaf + 1, rule);
    }
}

#[test]
fn invariant_20_time_that_runs_far_backwards() {
    let (mut events, _) = log();
    let leaf = alter!(events, "r-open", "requested", 0, Requested, |e| {
        e.at = Timestamp::from_millis(e.at.millis() - 302_000);
    });
    expect(&events, leaf, "time");
    // Within the clock bound brokers may differ.
    let (mut events, beside) = log();
    alter!(events, "r-open", "requested", 0, Requested, |e| {
        e.at = Timestamp::from_millis(e.at.millis() - 299_000);
    });
    assert!(Memory::of(&events, &beside).verify(&[]).ok);
}

#[test]
fn invariant_20_leaves_of_unknown_form() {
    let (events, beside) = log();
    let bodies: Vec<Vec<u8>> = events.iter().map(|e| e.to_leaf().unwrap()).collect();
    let spoilers: [&[u8]; 5] = [
        b"{\"at\":\"2026-11-20T09:00:00Z\",\"kind\":\"blessed\"}",
        b"{\"at\": \"2026-11-20T09:00:00Z\",\"kind\":\"link_spent\",\"link_id\":\"k1\"}",
        b"{\"at\":\"2026-11-20T09:00:00Z\",\"kind\":\"link_spent\",\"link_id\":\"k1\",\"x\":1}",
        b"[]",
        b"\xff",
    ];
    for spoiler in spoilers {
        let mut bodies = bodies.clone();
        bodies.push(spoiler.to_vec());
        let report = Memory::of_bodies(bodies, &beside).verify(&[]);
        assert!(report.names(events.len() as u64, "canonical"), "{:?}", report.findings);
    }
}

#[test]
fn invariant_20_leaves_whose_keys_are_not_sorted() {
    let (events, beside) = log();
    let mut bodies: Vec<Vec<u8>> = events.iter().map(|e| e.to_leaf().unwrap()).collect();
    assert!(bodies[0].starts_with(b"{\"at\":"));
    let unsorted = b"{\"kind\":\"link_spent\",\"at\":\"2026-11-20T09:00:00Z\",\"link_id\":\"k1\"}";
    bodies.push(unsorted.to_vec());
    let report = Memory::of_bodies(bodies, &beside).verify(&[]);
    assert!(report.names(events.len() as u64, "canonical"), "{:?}", report.findings);
}

#[test]
fn a_broken_request_is_named_once_and_the_others_are_still_judged() {
    let (mut events, _) = log();
    let first = alter!(events, "r-routine", "intended", 0, Intended, |e| {
        e.minter = "other".into();
    });
    let second = alter!(events, "r-open", "intended", 0, Intended, |e| e.minter = "other".into());
    let report = expect(&events, first, "minter");
    let leaves: Vec<u64> = report.findings.iter().map(|f| f.leaf).collect();
    assert_eq!(leaves, [first as u64, second as u64]);
    assert!(report.open_intents.is_empty());
}

#[test]
fn invariant_20_a_change_dated_back_to_rights_of_another_day() {
    let (mut events, _) = log();
    let leaf = at(&events, "", "model_set", 0).max(at(&events, "", "group_set", 0));
    let late = events[..leaf].iter().filter(|e| e.request_id().is_none()).map(Event::at).max();
    let back = late.expect("leaves before it").plus_millis(-30_001);
    match &mut events[leaf] {
        Event::ModelSet(e) => e.at = back,
        Event::GroupSet(e) => e.at = back,
        _ => panic!(),
    }
    expect(&events, leaf, "time");
}
