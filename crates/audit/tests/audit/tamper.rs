//! The campaign of someone who can write the store, but does not hold the log's key.

use grantwright_audit::{Finding, Report, Rollback};
use grantwright_domain::{Event, canonical};
use grantwright_proof::{Checkpoint, leaf_hash};
use serde_json::{Map, Value};

use crate::fixture::{Writer, at, log, whole};
use crate::source::{Memory, ORIGIN, Rules, SIGNER, STRANGER, batches, sign};

/// With stored leaf hashes the leaf is named exactly; without, its batch is.
fn assert_names(spoilt: &Memory, bad: u64, what: &str) {
    let report = spoilt.clone().verify(&[]);
    assert!(!report.ok, "{what}: not detected");
    assert_eq!(report.first(), Some(bad), "{what}: {:?}", report.findings);
    if bad % 4 != 1 {
        return;
    }
    let report = spoilt.clone().without_hashes().verify(&[]);
    assert!(!report.ok, "{what} without hashes: not detected");
    let first = report.first().unwrap();
    let ends = batches(1 << 12);
    let batch = ends.partition_point(|end| *end <= bad);
    let from = if batch == 0 { 0 } else { ends[batch - 1] };
    assert!((from..ends[batch]).contains(&first), "{what}: names {first}, not its batch of {bad}");
}

fn foreign() -> Vec<u8> {
    let mut w = whole();
    w.ask("r-foreign", "demo.read", serde_json::json!({"dataset": "sales"}));
    w.events.last().unwrap().to_leaf().unwrap()
}

#[test]
fn invariant_20_every_single_insert_is_detected() {
    let (events, log) = log();
    let foreign = foreign();
    for place in 0..=events.len() {
        let copy = log.leaves[place.saturating_sub(1)].1.clone();
        for body in [foreign.clone(), copy] {
            let what = format!("insert at {place}");
            let mut spoilt = log.clone();
            spoilt.leaves.insert(place, (place as u64, body.clone()));
            // Hidden behind fresh indexes. A copy of the first leaf at its own place is one at 1.
            let same = log.leaves.get(place).is_some_and(|l| l.1 == body);
            let mut hidden = spoilt.clone();
            hidden.renumber();
            assert_names(&hidden, place as u64 + u64::from(same), &what);
            // As a second row of the same index.
            if place < events.len() && place % 3 == 0 {
                assert!(!spoilt.verify(&[]).ok, "{what}");
            }
        }
    }
}

#[test]
fn invariant_20_every_single_delete_is_detected() {
    let (events, log) = log();
    for place in 0..events.len() {
        let mut spoilt = log.clone();
        spoilt.leaves.remove(place);
        let last = place + 1 == events.len();
        let rule = if last { "truncated" } else { "index" };
        let report = spoilt.clone().verify(&[]);
        assert!(report.names(place as u64, rule), "{place}: {:?}", report.findings);
        assert_eq!(report.first(), Some(place as u64));
        if !last {
            spoilt.renumber();
            assert_names(&spoilt, place as u64, &format!("delete {place}"));
        }
    }
}

#[test]
fn invariant_20_every_swap_of_neighbours_is_detected() {
    let (events, log) = log();
    for place in 0..events.len() - 1 {
        let mut spoilt = log.clone();
        spoilt.leaves.swap(place, place + 1);
        spoilt.renumber();
        assert_names(&spoilt, place as u64, &format!("swap {place}"));
    }
}

/// Every way to alter one field of a leaf, with the field's path.
fn alterations(path: &str, value: &Value) -> Vec<(String, Value)> {
    let here = |v: Value| (path.to_owned(), v);
    match value {
        Value::Object(map) => {
            let mut out = Vec::new();
            for (key, inner) in map {
                for (path, altered) in alterations(&format!("{path}.{key}"), inner) {
                    let mut copy = map.clone();
                    copy.insert(key.clone(), altered);
                    out.push((path, Value::Object(copy)));
                }
                let mut copy = map.clone();
                copy.remove(key);
                out.push((format!("{path}-{key}"), Value::Object(copy)));
            }
            let mut copy: Map<String, Value> = map.clone();
            copy.insert("zz".into(), Value::from(1));
            out.push((format!("{path}+"), Value::Object(copy)));
            out
        }
        Value::Array(items) => {
            let mut more = items.clone();
            more.push(Value::from("x"));
            let fewer = Value::Array(items.iter().skip(1).cloned().collect());
            let both = [(format!("{path}[-"), fewer), (format!("{path}[+"), Value::Array(more))];
            both.into_iter().filter(|(_, v)| v != value).collect()
        }
        Value::String(text) => {
            let mut chars: Vec<char> = text.chars().collect();
            // Still a digit, a letter, a digest: the kind of change that parses.
            if let Some(c) = chars.iter_mut().rev().find(|c| c.is_ascii_alphanumeric()) {
                *c = match *c {
                    '0'..='8' => (*c as u8 + 1) as char,
                    '9' => '0',
                    'a' => 'b',
                    _ => 'a',
                };
            } else {
                chars.push('x');
            }
            vec![here(Value::String(chars.into_iter().collect()))]
        }
        Value::Number(n) => vec![here(Value::from(n.as_i64().unwrap() + 1))],
        Value::Bool(b) => vec![here(Value::Bool(!b))],
        Value::Null => Vec::new(),
    }
}

#[test]
fn invariant_20_every_edit_of_a_field_is_detected() {
    let (events, log) = log();
    let mut done = std::collections::BTreeSet::new();
    for (place, event) in events.iter().enumerate() {
        let value = canonical::parse(&log.leaves[place].1).unwrap();
        let all = alterations(event.kind(), &value);
        // Every field of every kind, and of every leaf one field, another each time.
        let turn = place * 7 % all.len();
        for (n, (path, altered)) in all.into_iter().enumerate() {
            if !done.insert(path) && n != turn {
                continue;
            }
            let mut spoilt = log.clone();
            spoilt.leaves[place].1 = canonical::to_bytes(&altered).unwrap();
            let report = spoilt.verify(&[]);
            assert!(!report.ok, "leaf {place}: {altered}");
            assert_eq!(report.first(), Some(place as u64), "{altered}: {:?}", report.findings);
        }
    }
    assert!(done.len() > 250, "{}", done.len());
}

#[test]
fn invariant_20_every_class_of_byte_is_covered() {
    let (_, log) = log();
    let place = 20;
    let body = log.leaves[place].1.clone();
    let mut seen = std::collections::BTreeSet::new();
    for (i, byte) in body.iter().enumerate() {
        let class = (byte.is_ascii_alphabetic(), byte.is_ascii_digit(), *byte);
        let class = if class.0 || class.1 { (class.0, class.1, 0) } else { class };
        if !seen.insert(class) {
            continue;
        }
        for change in [Some(byte ^ 1), Some(byte ^ 0x80), None] {
            let mut spoilt = log.clone();
            match change {
                Some(byte) => spoilt.leaves[place].1[i] = byte,
                None => drop(spoilt.leaves[place].1.remove(i)),
            }
            assert_names(&spoilt, place as u64, &format!("byte {i}"));
        }
    }
    for extra in [&b" "[..], b"\n", b"{}", b"\0"] {
        let mut spoilt = log.clone();
        spoilt.leaves[place].1.extend_from_slice(extra);
        assert_names(&spoilt, place as u64, "appended");
    }
    let mut spoilt = log.clone();
    spoilt.leaves[place].1.clear();
    assert_names(&spoilt, place as u64, "emptied");
    assert!(seen.len() >= 8, "{seen:?}");
}

/// What is told of a request after its end is judged by all of its leaves, wherever they are.
#[test]
fn invariant_13_what_follows_an_end_is_named_by_its_rule() {
    let mut w = Writer::new();
    for n in 0..3 {
        let id = format!("r-{n}");
        w.ask(&id, "demo.read", serde_json::json!({"dataset": "sales"}));
        w.decide(&id);
        w.intend(&id);
        w.issue(&id, 60);
    }
    w.wait(60);
    w.end("r-0", "ended");
    let (whole, asked) = (w.events.len(), |kind, id| at(&w.events, id, kind, 0));
    for (kind, id, rule) in [
        ("requested", "r-0", "request-once"),
        ("requested", "r-1", "request-once"),
        ("decided", "r-0", "terminal"),
        ("decided", "r-1", "terminal"),
        ("intended", "r-1", "terminal"),
        ("issued", "r-0", "lease-once"),
        ("issued", "r-1", "lease-once"),
        ("expired", "r-0", "lease"),
    ] {
        let mut events = w.events.clone();
        let mut again = events[asked(kind, id)].clone();
        let late = w.now;
        match &mut again {
            Event::Requested(e) => e.at = late,
            Event::Decided(e) => e.at = late,
            Event::Intended(e) => e.at = late,
            Event::Issued(e) => e.at = late,
            Event::Expired(e) => e.at = late,
            _ => unreachable!(),
        }
        events.push(again);
        let report = Memory::of(&events, &w.beside).verify(&[]);
        assert!(report.names(whole as u64, rule), "{kind} {id}: {:?}", report.findings);
        assert_eq!(report.requests, 3, "{kind} {id}");
    }
}

#[test]
fn invariant_20_several_edits_are_all_named() {
    let (_, log) = log();
    let mut spoilt = log.clone();
    for place in [5, 17, 40] {
        spoilt.leaves[place].1 = spoilt.leaves[place + 1].1.clone();
    }
    let report = spoilt.verify(&[]);
    for place in [5, 17, 40] {
        assert!(report.names(place, "root"), "{place}: {:?}", report.findings);
    }
}

#[test]
fn invariant_20_changed_leaf_hashes_cannot_hide_or_move_an_edit() {
    let (_, log) = log();
    let mut spoilt = log.clone();
    spoilt.leaves[21].1 = spoilt.leaves[22].1.clone();
    spoilt.hashes[21] = leaf_hash(&spoilt.leaves[21].1);
    let report = spoilt.verify(&[]);
    assert!(report.first().unwrap() <= 21, "{:?}", report.findings);
    // Wrong stored hashes alone change nothing that is verified.
    let mut spoilt = log.clone();
    spoilt.hashes[21] = leaf_hash(b"x");
    assert!(spoilt.verify(&[]).ok);
}

#[test]
fn invariant_20_truncation_at_every_length_is_detected() {
    let (events, log) = log();
    let kept = [log.newest()];
    let boundaries = batches(events.len());
    for length in 0..events.len() as u64 {
        let mut cut = log.clone();
        cut.leaves.retain(|l| l.0 < length);
        let report = cut.verify(&[]);
        assert!(report.names(length, "truncated"), "{length}: {:?}", report.findings);
        // With its checkpoints cut too, only what was kept outside shows it at a boundary.
        cut.checkpoints.retain(|c| c.0 <= length);
        let report = cut.clone().verify(&kept);
        assert!(report.names(length, "rollback"), "{length}: {:?}", report.findings);
        assert_eq!(report.rollback, Rollback::Found);
        if length > 0 && !boundaries.contains(&length) {
            let newest = boundaries.iter().rev().find(|b| **b < length).copied().unwrap_or(0);
            assert!(cut.verify(&[]).names(newest, "uncovered"), "{length}");
        }
    }
}

#[test]
fn invariant_19_a_fork_after_any_checkpoint_is_found_by_a_kept_one() {
    let (events, log) = log();
    let kept = [log.newest()];
    let other = foreign();
    for boundary in batches(events.len()) {
        // The holder of the key goes on differently from here, and grows past the kept size.
        let mut bodies: Vec<_> =
            log.leaves.iter().take(boundary as usize).map(|l| l.1.clone()).collect();
        if boundary == events.len() as u64 {
            bodies.pop();
        }
        bodies.resize(events.len() + 3, other.clone());
        let mut forked = Memory::of_bodies(bodies, &log);
        let report = forked.verify(&kept);
        assert_eq!(report.rollback, Rollback::Found, "{boundary}");
        assert!(report.findings.iter().any(|f| f.rule == "fork"), "{:?}", report.findings);
    }
}

#[test]
fn invariant_19_a_fork_that_keeps_every_rule_is_found() {
    let (_, log) = log();
    let mut w = whole();
    let split = w.events.len();
    w.ask("r-one", "demo.read", serde_json::json!({"dataset": "one"}));
    let one = Memory::of(&w.events, &w.beside);
    let mut w = whole();
    w.ask("r-two", "demo.read", serde_json::json!({"dataset": "two"}));
    w.decide("r-two");
    let mut two = Memory::of(&w.events, &w.beside);
    let report = two.verify(&[log.newest(), one.newest()]);
    assert_eq!(report.rollback, Rollback::Found);
    let [Finding { leaf, rule, .. }] = &report.findings[..] else { panic!("{report:?}") };
    assert_eq!((*leaf, rule.as_str()), (split as u64, "fork"));
    assert!(two.verify(&[log.newest()]).ok);
}

#[test]
fn invariant_20_an_edit_is_not_called_a_fork() {
    let (_, log) = log();
    let mut spoilt = log.clone();
    spoilt.leaves[30].1 = foreign();
    let report = spoilt.without_hashes().verify(&[log.newest()]);
    assert!(!report.ok);
    assert_eq!(report.rollback, Rollback::None);
}

#[test]
fn a_kept_checkpoint_of_another_log_is_a_fork() {
    let (_, mut log) = log();
    let other = Checkpoint::new("broker.test/log2", 1, log.hashes[0]).unwrap();
    let note = other.sign(&SIGNER);
    let report = log.verify(&[note]);
    assert!(report.names(0, "fork"));
}

#[test]
fn invariant_20_changed_checkpoints_are_detected() {
    let (events, log) = log();
    let count = log.checkpoints.len();
    for n in 0..count {
        // Signed by another key.
        let mut spoilt = log.clone();
        let size = log.checkpoints[n].0;
        spoilt.checkpoints[n].1 = sign(&log.hashes, &[size], &STRANGER)[0].1.clone();
        let report = spoilt.verify(&[]);
        assert!(report.names(size - 1, "signature"), "{size}: {:?}", report.findings);
        // Stored under another size.
        let mut spoilt = log.clone();
        spoilt.checkpoints[n].0 += 1;
        assert!(spoilt.verify(&[]).names(size, "checkpoint"), "{size}");
        // Unreadable.
        let mut spoilt = log.clone();
        spoilt.checkpoints[n].1.pop();
        assert!(spoilt.verify(&[]).names(size - 1, "signature"), "{size}");
    }
    // The last one removed: the leaves after the one before it are covered by nothing.
    let mut spoilt = log.clone();
    spoilt.checkpoints.pop();
    let before = batches(events.len())[count - 2];
    assert!(spoilt.verify(&[]).names(before, "uncovered"));
    spoilt.checkpoints.clear();
    assert!(spoilt.verify(&[]).names(0, "uncovered"));
    // One of another log, by the same key.
    let mut spoilt = log.clone();
    let other = Checkpoint::new("broker.test/log2", 1, log.hashes[0]).unwrap();
    spoilt.checkpoints.push((1, other.sign(&SIGNER)));
    assert!(spoilt.verify(&[]).names(0, "origin"));
    assert_ne!(ORIGIN, other.origin());
}

#[test]
fn invariant_22_texts_beside_leaves_must_be_what_was_committed_to() {
    let (_, log) = log();
    let check = |spoilt: &mut Memory, what: &str| {
        let report: Report = spoilt.verify(&[]);
        let found = report.findings.iter().any(|f| f.rule == "commitment");
        assert!(found, "{what}: {:?}", report.findings);
    };
    for n in 0..log.texts.len() {
        let mut spoilt = log.clone();
        spoilt.texts[n].text.push('!');
        check(&mut spoilt, "text");
        let mut spoilt = log.clone();
        spoilt.texts[n].salt[0] ^= 1;
        check(&mut spoilt, "salt");
        let mut spoilt = log.clone();
        spoilt.texts[n].salt.pop();
        check(&mut spoilt, "short salt");
        let mut spoilt = log.clone();
        let other = log.texts.iter().find(|t| t.request != log.texts[n].request).unwrap();
        spoilt.texts[n].request = other.request.clone();
        check(&mut spoilt, "another request's");
        if log.texts[n].name == "reason" {
            let mut spoilt = log.clone();
            spoilt.texts[n].name = "task".into();
            check(&mut spoilt, "another name");
        }
    }
}

#[test]
fn a_log_of_nonsense_ends_after_a_bounded_number_of_findings() {
    let (_, log) = log();
    let mut spoilt = log.clone();
    spoilt.leaves.iter_mut().skip(1).for_each(|l| l.1 = b"nonsense".to_vec());
    let report = spoilt.verify(&[]);
    assert_eq!(report.findings.len(), grantwright_audit::report::MOST_FINDINGS + 1);
    assert_eq!(report.first(), Some(1));
    assert_eq!(report.findings.last().unwrap().rule, "more");
}
