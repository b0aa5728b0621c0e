//! A log that goes on from another one's backup: what it carries, and what it must not.

use std::sync::Arc;

use grantwright_domain::event::{EpochStarted, Opened, Requested};
use grantwright_domain::{Event, State};

use crate::world::{DAY_MS, ORIGIN, at, export, furnished, furniture, opened, set_human, terms};

const NEXT: &str = "log.example.org/epoch-2";

fn vkey(origin: &str) -> String {
    format!("{origin}+00000000+AAAA")
}

fn epoch(carried: u64) -> EpochStarted {
    EpochStarted {
        at: at(7 * DAY_MS),
        version: 1,
        origin: NEXT.into(),
        vkey: vkey(NEXT),
        trust_domain: "example.org".into(),
        recovery_key: vkey("recovery"),
        old_origin: ORIGIN.into(),
        old_vkey: vkey(ORIGIN),
        old_checkpoint: "…".into(),
        restored: 40,
        restored_root: "AAAA".into(),
        carried,
        carried_root: "AAAA".into(),
        signature: String::new(),
    }
}

fn started(carried: u64) -> State {
    let mut state = State::default();
    state.authority.learn(Arc::new(export())).expect("a digest");
    state.apply(&Event::EpochStarted(epoch(carried))).expect("an epoch");
    state
}

fn ask(id: &str, ms: i64) -> Requested {
    let terms = terms(id, at(ms), 900);
    let digest = terms.digest().expect("a digest");
    Requested { at: at(ms), digest, request_id: terms.request_id.clone(), renews: None, terms }
}

fn rule(state: &mut State, event: &Event) -> &'static str {
    state.apply(event).expect_err("refused").rule
}

#[test]
fn what_is_carried_over_gives_the_same_rights_under_another_name() {
    let carried = furniture();
    let mut state = started(carried.len() as u64);
    for event in &carried {
        state.apply(event).expect("as it stood in the old log");
    }
    let (old, new) = (furnished().authority, &state.authority);
    assert_eq!((new.origin.as_str(), new.vkey.as_str()), (NEXT, vkey(NEXT).as_str()));
    assert_eq!(new.humans, old.humans);
    assert_eq!(new.groups, old.groups);
    assert_eq!(new.agents, old.agents);
    assert_eq!(new.instances, old.instances);
    assert_eq!(new.scopes, old.scopes);
    assert_eq!(new.changes, old.changes);
    // From here on the log's time is that of its beginning.
    let late = set_human("root", "gina", true, false, DAY_MS);
    assert_eq!(rule(&mut state, &late), "time");
    state.apply(&set_human("root", "gina", true, false, 7 * DAY_MS)).expect("of this epoch");
}

#[test]
fn terms_of_the_old_log_are_carried_and_never_new() {
    let carried = furniture();
    let count = carried.len() as u64 + 1;
    let mut state = started(count);
    for event in &carried {
        state.apply(event).expect("as it stood");
    }
    let mut early = state.clone();
    early.apply(&Event::Requested(ask("r-1", 1000))).expect("carried over");
    assert_eq!(rule(&mut early, &Event::Requested(ask("r-2", 8 * DAY_MS))), "origin");
    // Terms of the new log have no place among what is carried over.
    let mut new = ask("r-3", 1000);
    new.terms.origin = NEXT.into();
    new.digest = new.terms.digest().expect("a digest");
    assert_eq!(rule(&mut state, &Event::Requested(new)), "origin");
}

#[test]
fn invariant_3_what_an_older_log_had_not_spent_is_void() {
    let mut carried = furniture();
    let asked = ask("r-1", 1000);
    let cancelled = Event::Cancelled(grantwright_domain::event::Cancelled {
        at: at(8 * DAY_MS),
        digest: asked.digest,
        request_id: asked.request_id.clone(),
        by: "agent".into(),
    });
    carried.push(Event::Requested(asked));
    let mut state = started(carried.len() as u64);
    for event in &carried {
        state.apply(event).expect("as it stood");
    }
    // No leaf about it has a place any more, not even one that ends it.
    assert_eq!(rule(&mut state.clone(), &cancelled), "epoch");
    let mut same = started(carried.len() as u64 + 1);
    for event in &carried {
        same.apply(event).expect("as it stood");
    }
    same.apply(&cancelled).expect("the old log's own leaf");
}

#[test]
fn an_epoch_begins_a_log_and_carries_the_first_leaf_of_the_one_before() {
    let mut state = furnished();
    assert_eq!(rule(&mut state, &Event::EpochStarted(epoch(9))), "opened-first");
    let mut state = started(3);
    assert_eq!(rule(&mut state, &set_human("root", "root", true, true, 0)), "epoch");
    let Event::Opened(first) = opened() else { panic!("opened") };
    let others = [
        Opened { origin: "log.example.org/other".into(), ..first.clone() },
        Opened { vkey: vkey("other"), ..first.clone() },
        Opened { trust_domain: "other.org".into(), ..first.clone() },
    ];
    for other in others {
        assert_eq!(rule(&mut started(3), &Event::Opened(other)), "epoch");
    }
    let mut state = started(3);
    state.apply(&Event::Opened(first.clone())).expect("the old log's first leaf");
    assert_eq!(rule(&mut state, &Event::Opened(first)), "opened-first");
    for bad in [
        EpochStarted { carried: 0, ..epoch(3) },
        EpochStarted { origin: ORIGIN.into(), ..epoch(3) },
        EpochStarted { vkey: vkey(ORIGIN), ..epoch(3) },
        EpochStarted { version: 2, ..epoch(3) },
    ] {
        assert_eq!(rule(&mut State::default(), &Event::EpochStarted(bad)), "epoch");
    }
}

#[test]
fn an_epoch_after_an_epoch_remembers_both() {
    let third = "log.example.org/epoch-3";
    let mut state = State::default();
    let newest = EpochStarted {
        origin: third.into(),
        vkey: vkey(third),
        old_origin: NEXT.into(),
        old_vkey: vkey(NEXT),
        ..epoch(3)
    };
    state.apply(&Event::EpochStarted(newest)).expect("begins");
    state.apply(&Event::EpochStarted(epoch(9))).expect("the log before it");
    let Event::Opened(first) = opened() else { panic!("opened") };
    let first = Opened { recovery_key: Some("recovery".into()), ..first };
    state.apply(&Event::Opened(first)).expect("the first log");
    let origins: Vec<&str> = state.authority.epochs.iter().map(|e| e.origin.as_str()).collect();
    assert_eq!(origins, [NEXT, third], "oldest first");
    assert_eq!(state.authority.first_recovery_key, "recovery");
    assert_eq!(state.authority.carried(), 3);
}
