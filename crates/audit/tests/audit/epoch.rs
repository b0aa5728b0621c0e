//! Logs that go on from another one's backup.

use std::sync::LazyLock;

use grantwright_audit::{
    CannotVerify, Known, Options, Report, Rollback, continues, verify_from, verify_with,
};
use grantwright_domain::event::{EpochStarted, Expired, Intended, Issued};
use grantwright_domain::{Event, Phase};
use grantwright_proof::{Checkpoint, Frontier, Hash, NoteSigner, epoch, leaf_hash};
use serde_json::json;

use crate::fixture::{Writer, at, request, whole};
use crate::source::{Memory, ORIGIN, RECOVERY, Rules, SETS, SIGNER, STRANGER};

static NEXT: LazyLock<NoteSigner> =
    LazyLock::new(|| NoteSigner::from_seed("broker.test/log/epoch-2", &[17; 32]).unwrap());

fn bodies(events: &[Event]) -> Vec<Vec<u8>> {
    events.iter().map(|e| e.to_leaf().unwrap()).collect()
}

fn root(events: &[Event]) -> Hash {
    let mut tree = Frontier::new();
    bodies(events).iter().for_each(|body| tree.append(leaf_hash(body)));
    tree.root()
}

fn note(signer: &NoteSigner, size: u64, root: Hash) -> String {
    Checkpoint::new(signer.vkey().name(), size, root).unwrap().sign(signer)
}

/// What is carried over of a log: authority, live credentials, and intents without an outcome.
fn heritage(old: &Writer) -> Vec<Event> {
    let lives = |event: &&Event| {
        event.request_id().is_none_or(|id| {
            let state = &old.state.requests[id];
            state.phase == Phase::Intended
                || state.lease.as_ref().is_some_and(|lease| lease.state.is_valid())
        })
    };
    old.events.iter().filter(lives).cloned().collect()
}

/// The first leaf of the log that goes on from `old`, whose last known checkpoint is `lost` leaves on.
fn first(old: &Writer, carried: &[Event]) -> EpochStarted {
    let (size, root_then) = (old.events.len() as u64, root(&old.events));
    EpochStarted {
        at: old.now.plus_seconds(7200),
        version: 1,
        origin: NEXT.vkey().name().into(),
        vkey: NEXT.vkey().to_string(),
        trust_domain: "test".into(),
        recovery_key: RECOVERY.vkey().to_string(),
        old_origin: ORIGIN.into(),
        old_vkey: SIGNER.vkey().to_string(),
        old_checkpoint: note(&SIGNER, size, root_then),
        restored: size,
        restored_root: root_then.to_base64(),
        carried: carried.len() as u64,
        carried_root: root(carried).to_base64(),
        signature: String::new(),
    }
}

fn signed(first: &EpochStarted, by: &NoteSigner) -> Event {
    Event::EpochStarted(epoch::sign(first, by).unwrap())
}

/// The new log right after the ceremony.
fn begun(old: &Writer, carried: Vec<Event>) -> Writer {
    let first = signed(&first(old, &carried), &RECOVERY);
    Writer::go_on(std::iter::once(first).chain(carried).collect(), old)
}

/// A log with a life of its own after the ceremony.
fn lived() -> (Writer, Writer) {
    let old = whole();
    let mut new = begun(&old, heritage(&old));
    for n in 0..6 {
        let id = format!("s-{n}");
        new.ask(&id, "demo.read", json!({"dataset": "sales"}));
        new.decide(&id);
        new.intend(&id);
        new.issue(&id, 60);
    }
    new.end("r-open", "unknown");
    new.wait(900);
    for id in ["r-routine", "s-0", "r-questioned", "s-1"] {
        new.end(id, "ended");
    }
    new.ask("s-quorum", "demo.escalate", json!({"role": "admin"}));
    new.decide("s-quorum");
    new.approve("s-quorum", "bob");
    new.approve("s-quorum", "carol");
    new.intend("s-quorum");
    new.issue("s-quorum", 600);
    (old, new)
}

fn log(w: &Writer) -> Memory {
    log_of(&w.events, w)
}

fn log_of(events: &[Event], w: &Writer) -> Memory {
    signed_log(events, w, &NEXT)
}

/// With the texts of its own requests.
fn signed_log(events: &[Event], w: &Writer, signer: &NoteSigner) -> Memory {
    let mut log = Memory::signed(bodies(events), &w.beside, signer);
    log.texts.retain(|text| events.iter().any(|e| e.request_id() == Some(&text.request)));
    log
}

fn options() -> Options<'static> {
    Options { vkey: Some(NEXT.vkey()), sets: Some(&SETS), ..Options::default() }
}

fn verify(log: &mut Memory, kept: &[String]) -> Report {
    verify_with(log, &Options { kept, ..options() }, &mut |_| {}).unwrap()
}

#[test]
fn what_a_new_epoch_carries_over_and_does_after_it_is_proven() {
    let (_, w) = lived();
    let report = verify(&mut log(&w), &[]);
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!(report.origin, NEXT.vkey().name());
    assert!(report.open_intents.is_empty(), "{:?}", report.open_intents);
    let said = |report: &Report| {
        report.undetectable.iter().any(|u| u.contains(&RECOVERY.vkey().to_string()))
    };
    assert!(said(&report), "{:?}", report.undetectable);
    // Only that nobody changed it is asked of the same leaves.
    let hashes = Options { hashes_only: true, ..options() };
    let report = verify_with(&mut log(&w), &hashes, &mut |_| {}).unwrap();
    assert!(report.ok && said(&report), "{:?}", report.findings);
}

#[test]
fn going_on_from_an_earlier_verification_is_right_across_an_epoch() {
    let (_, w) = lived();
    let Event::EpochStarted(epoch) = &w.events[0] else { panic!("an epoch") };
    let carried = epoch.carried as usize;
    let full = verify(&mut log(&w), &[]);
    for first in (1..=w.events.len()).step_by(4).chain([carried + 1, w.events.len()]) {
        let mut part = log_of(&w.events[..first], &w);
        part.texts.clear();
        let (report, known) = verify_from(&mut part, &options(), None, &mut |_| {}).unwrap();
        if first <= carried {
            // A log that carries less than it says is no log to go on from.
            assert!(report.names(0, "epoch-carried"), "{first}: {:?}", report.findings);
            assert!(known.is_none());
            continue;
        }
        assert!(report.ok, "{first}: {:?}", report.findings);
        let known = Known::read(&known.unwrap().write()).unwrap();
        let (report, next) =
            verify_from(&mut log(&w), &options(), Some(&known), &mut |_| {}).unwrap();
        assert!(report.ok, "{first}: {:?}", report.findings);
        assert_eq!(report.resumed_from, Some(first as u64));
        assert_eq!((report.leaves, report.requests), (full.leaves, full.requests), "{first}");
        assert_eq!(report.open_intents, full.open_intents, "{first}");
        let (report, _) =
            verify_from(&mut log(&w), &options(), next.as_ref(), &mut |_| {}).unwrap();
        assert!(report.ok && report.resumed_from == Some(full.leaves), "{:?}", report.findings);
    }
}

/// Leaves that the log's key signed after the carried ones: found by the whole verification, and by one
/// that knows all before them.
fn forbidden(w: &Writer, event: Event, rule: &str) {
    let at = w.events.len() as u64;
    let (report, known) = verify_from(&mut log(w), &options(), None, &mut |_| {}).unwrap();
    assert!(report.ok, "{:?}", report.findings);
    let mut events = w.events.clone();
    events.push(event);
    let report = verify(&mut log_of(&events, w), &[]);
    assert!(report.names(at, rule), "{rule}: {:?}", report.findings);
    let mut log = log_of(&events, w);
    let (report, _) = verify_from(&mut log, &options(), known.as_ref(), &mut |_| {}).unwrap();
    assert!(report.names(at, rule), "{rule}: {:?}", report.findings);
}

#[test]
fn invariant_3_what_the_old_log_had_not_spent_is_void_in_the_new_one() {
    let mut old = whole();
    old.ask("r-met", "demo.export", json!({"dataset": "customers", "rows": 10}));
    old.decide("r-met");
    old.approve("r-met", "bob");
    // A ceremony that carries an approval over, although ours would not.
    let mut carried = heritage(&old);
    let of = |id: &str| {
        let id = request(id);
        old.events.iter().filter(move |e| e.request_id() == Some(&id)).cloned()
    };
    carried.extend(of("r-met"));
    let w = begun(&old, carried);
    let digest = |id: &str| w.of(id).digest;
    let spent = Intended {
        at: w.now,
        digest: digest("r-met"),
        request_id: request("r-met"),
        minter: "jwt".into(),
        approvers: crate::fixture::set_of(&["bob"]),
    };
    forbidden(&w, Event::Intended(spent), "epoch");
    let voted = old.events.iter().rfind(|e| e.kind() == "voted").unwrap();
    let Event::Voted(mut vote) = voted.clone() else { panic!("a vote") };
    (vote.at, vote.human) = (w.now, crate::fixture::human("carol"));
    forbidden(&w, Event::Voted(vote), "epoch");
    // An intent was spent on a mint that the old log may have told of after the backup.
    let issued = Issued {
        at: w.now,
        digest: digest("r-open"),
        request_id: request("r-open"),
        lease_id: grantwright_domain::LeaseId::parse("l-again").unwrap(),
        expires_at: w.now.plus_seconds(60),
        revocable: true,
        facts: Default::default(),
    };
    forbidden(&w, Event::Issued(issued), "epoch");
}

#[test]
fn leaves_of_the_new_epoch_are_not_dated_before_it() {
    let old = whole();
    let w = begun(&old, heritage(&old));
    let lease = w.of("r-routine").lease.clone().unwrap();
    let ended = |at| {
        Event::Expired(Expired {
            at,
            digest: w.of("r-routine").digest,
            request_id: request("r-routine"),
            lease_id: Some(lease.id.clone()),
        })
    };
    // Of a request that is settled, whose own leaves it does not contradict.
    let early = w.events[0].at().plus_seconds(-60);
    assert!(early > lease.expires_at);
    forbidden(&w, ended(early), "time");
    let mut fine = begun(&old, heritage(&old));
    fine.push(ended(w.now));
    assert!(verify(&mut log(&fine), &[]).ok);
}

#[test]
fn only_the_recovery_key_of_the_log_before_vouches_for_an_epoch() {
    let old = whole();
    let carried = heritage(&old);
    let good = first(&old, &carried);
    let other = NoteSigner::from_seed(RECOVERY.vkey().name(), &[10; 32]).unwrap();
    let log = |first: Event| {
        let events: Vec<Event> = std::iter::once(first).chain(carried.iter().cloned()).collect();
        log_of(&events, &old)
    };
    assert!(verify(&mut log(signed(&good, &RECOVERY)), &[]).ok);
    for key in [&other, &*SIGNER, &*NEXT, &*STRANGER] {
        let report = verify(&mut log(signed(&good, key)), &[]);
        assert!(report.names(0, "epoch-signature"), "{:?}", report.findings);
    }
    let unsigned = verify(&mut log(Event::EpochStarted(good.clone())), &[]);
    assert!(unsigned.names(0, "epoch-signature"), "{:?}", unsigned.findings);
    // Another recovery key that the leaf itself names is not the one that the old log named.
    let own = EpochStarted { recovery_key: other.vkey().to_string(), ..good.clone() };
    let report = verify(&mut log(signed(&own, &other)), &[]);
    assert!(report.names(0, "epoch-signature"), "{:?}", report.findings);
    // What it carries is what it says.
    for bad in [
        EpochStarted { carried_root: Hash([1; 32]).to_base64(), ..good.clone() },
        EpochStarted { carried: good.carried + 1, ..good.clone() },
        EpochStarted { carried: good.carried - 1, ..good },
    ] {
        let report = verify(&mut log(signed(&bad, &RECOVERY)), &[]);
        assert!(!report.ok, "{bad:?}");
    }
}

#[test]
fn an_old_log_that_named_no_recovery_key_has_no_next_epoch() {
    let old = whole();
    let mut carried = heritage(&old);
    let Event::Opened(opened) = &mut carried[0] else { panic!("opened") };
    opened.recovery_key = None;
    let first = signed(&first(&old, &carried), &RECOVERY);
    let events: Vec<Event> = std::iter::once(first).chain(carried).collect();
    let report = verify(&mut log_of(&events, &old), &[]);
    assert!(report.names(0, "epoch-signature"), "{:?}", report.findings);
}

#[test]
fn invariant_19_kept_checkpoints_of_the_log_before_show_what_nobody_declared_lost() {
    let (old, w) = lived();
    let size = old.events.len() as u64;
    let root_then = root(&old.events);
    let judged = |note: String| verify(&mut log(&w), &[note]);
    for fine in [note(&SIGNER, size, root_then), note(&SIGNER, 7, root(&old.events[..7]))] {
        let report = judged(fine);
        assert!(report.ok, "{:?}", report.findings);
        assert_eq!(report.rollback, Rollback::NotChecked, "it says nothing of this log");
        assert!(report.undetectable.iter().any(|u| u.contains("1 kept checkpoints are of logs")));
    }
    let report = judged(note(&SIGNER, size + 1, Hash([1; 32])));
    assert!(report.names(0, "rollback"), "{:?}", report.findings);
    assert_eq!(report.rollback, Rollback::Found);
    let report = judged(note(&SIGNER, size, Hash([1; 32])));
    assert!(report.names(0, "fork"), "{:?}", report.findings);
    assert_eq!(report.rollback, Rollback::Found);
    // One of neither log is no evidence at all.
    let stray = [note(&STRANGER, size, root_then)];
    let options = Options { kept: &stray, ..options() };
    let refused = verify_with(&mut log(&w), &options, &mut |_| {});
    assert!(matches!(refused, Err(CannotVerify::KeptCheckpoint { number: 1, .. })));
}

#[test]
fn an_epoch_rests_on_the_recovery_key_that_was_pinned() {
    let (old, w) = lived();
    let pinned = |log: &mut Memory, vkey: Option<&NoteSigner>, recovery: &NoteSigner| {
        let (vkey, recovery) = (vkey.map(NoteSigner::vkey), Some(recovery.vkey()));
        verify_with(log, &Options { vkey, recovery, ..Options::default() }, &mut |_| {})
    };
    // It vouches for the new key to whoever has none, or knows only the old log's.
    for known in [None, Some(&*SIGNER), Some(&*NEXT)] {
        let report = pinned(&mut log(&w), known, &RECOVERY).unwrap();
        assert!(report.ok && report.origin == NEXT.vkey().name(), "{:?}", report.findings);
        let said = |word: &str| report.undetectable.iter().any(|u| u.contains(word));
        assert!(!said("no verifier key was given") && !said("--recovery-key"));
    }
    let report = pinned(&mut log(&w), None, &STRANGER).unwrap();
    assert!(report.names(0, "recovery-key"), "{:?}", report.findings);
    let refused = pinned(&mut log(&w), Some(&*SIGNER), &STRANGER);
    assert!(matches!(refused, Err(CannotVerify::WrongKey(_))));
    // A forger who writes all of it anew, and names the true key for the epoch to come.
    let mut carried = heritage(&old);
    let Some(Event::Opened(opened)) = carried.first_mut() else { panic!("a first leaf") };
    opened.recovery_key = Some(STRANGER.vkey().to_string());
    let forged = signed(&first(&old, &carried), &STRANGER);
    let forged: Vec<Event> = std::iter::once(forged).chain(carried).collect();
    assert!(verify(&mut log_of(&forged, &old), &[]).ok, "nothing else tells");
    let report = pinned(&mut log_of(&forged, &old), None, &RECOVERY).unwrap();
    assert!(report.names(0, "recovery-key"), "{:?}", report.findings);
    // A log that began no epoch names the key that would.
    let mut before = Memory::of(&old.events, &old.beside);
    assert!(pinned(&mut before, Some(&*SIGNER), &RECOVERY).unwrap().ok);
    let report = pinned(&mut before, Some(&*SIGNER), &STRANGER).unwrap();
    assert!(report.names(0, "recovery-key"), "{:?}", report.findings);
}

#[test]
fn a_second_ceremony_from_the_same_backup_is_another_log() {
    let (old, one) = lived();
    let key = NoteSigner::from_seed(NEXT.vkey().name(), &[18; 32]).unwrap();
    let carried = heritage(&old);
    let two = EpochStarted { vkey: key.vkey().to_string(), ..first(&old, &carried) };
    let two: Vec<Event> = std::iter::once(signed(&two, &RECOVERY)).chain(carried).collect();
    let mut two = signed_log(&two, &old, &key);
    let alone = Options { vkey: Some(key.vkey()), ..Options::default() };
    assert!(verify_with(&mut two, &alone, &mut |_| {}).unwrap().ok);
    // Whoever saw one of them is not shown the other as its continuation.
    let kept = [log(&one).newest()];
    let refused = verify_with(&mut two, &Options { kept: &kept, ..alone }, &mut |_| {});
    assert!(matches!(refused, Err(CannotVerify::KeptCheckpoint { .. })));
    let refused = verify_with(&mut two, &options(), &mut |_| {});
    assert!(matches!(refused, Err(CannotVerify::WrongKey(_))));
}

#[test]
fn the_new_log_is_compared_with_the_one_before() {
    let (old, w) = lived();
    let before = || Memory::of(&old.events, &old.beside);
    let compared = |mut old: Memory, new: &Writer| continues(&mut old, &mut log(new)).unwrap();
    assert!(compared(before(), &w).is_empty());
    // The old log may have more by now than was restored.
    let mut more = whole();
    more.ask("r-late", "demo.read", json!({"dataset": "sales"}));
    assert!(compared(Memory::of(&more.events, &more.beside), &w).is_empty());
    let names = |old: Memory, new: &Writer, rule: &str| {
        let found = compared(old, new);
        assert!(found.iter().any(|f| f.rule == rule), "{rule}: {found:?}");
    };
    names(Memory::of(&old.events[..40], &old.beside), &w, "epoch-restored");
    // A leaf about authority left out, one of a request left out, two swapped.
    let carried = heritage(&old);
    let without = |kind: &str, id: &str| {
        let mut carried = carried.clone();
        carried.remove(at(&carried, id, kind, 0));
        let first = signed(&first(&old, &carried), &RECOVERY);
        let events: Vec<Event> = std::iter::once(first).chain(carried).collect();
        let mut new = Writer::new();
        new.events = events;
        new
    };
    names(before(), &without("token_issued", ""), "epoch-carried");
    names(before(), &without("intended", "r-open"), "epoch-carried");
    let mut swapped = carried.clone();
    swapped.swap(2, 3);
    let mut new = Writer::new();
    new.events =
        std::iter::once(signed(&first(&old, &swapped), &RECOVERY)).chain(swapped).collect();
    names(before(), &new, "epoch-carried");
    let none = continues(&mut before(), &mut before());
    assert!(matches!(none, Err(CannotVerify::NoEpoch)));
}
