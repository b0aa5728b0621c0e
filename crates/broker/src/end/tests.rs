//! How live leases go on and end: extended within D, ended with the right they rest on, and out of reach
//! of whoever writes to the database.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use grantwright_domain::event::{AgentRevoked, AgentSet, Attributes, ModelSet};
use grantwright_domain::request::LeaseState;
use grantwright_domain::{AgentId, Event, HumanId, RequestId, RequestState, Timestamp};
use grantwright_store::{Fault, Transition};
use grantwright_wire::Refusal;
use grantwright_wire::v1::ExtendReply;

use super::sweep::{self, Place};
use super::{end_agent, end_lease, extend, queue, rights};
use crate::issue::rig::{Answer, Rig, human, id_of};
use crate::policies;

async fn granted(rig: &Rig, scope: &str, dataset: &str) -> RequestId {
    let params = format!(r#"{{"dataset":"{dataset}"}}"#);
    let outcome = rig.issue(rig.ask(scope, &params, "")).await.expect("granted");
    RequestId::parse(&id_of(&outcome)).unwrap()
}

async fn state(rig: &Rig, id: &RequestId) -> RequestState {
    rig.broker.store.load(id).await.unwrap().unwrap().state
}

async fn lives(rig: &Rig, id: &RequestId) -> LeaseState {
    state(rig, id).await.lease.expect("a lease").state
}

/// Asks as a sidecar does that knows what the log says.
async fn extended(rig: &Rig, id: &RequestId) -> Result<ExtendReply, Refusal> {
    let held = state(rig, id).await.lease.expect("a lease").expires_at;
    extend::extend(&rig.broker, &rig.caller, id, held).await
}

async fn renewed(rig: &Rig) -> usize {
    rig.fold().await.1.iter().filter(|e| matches!(e, Event::Renewed(_))).count()
}

/// What a database writer does behind the broker's back.
fn sql(rig: &Rig, sql: &str) {
    let connection = rusqlite::Connection::open(rig.dir().join("store.db")).unwrap();
    assert!(connection.execute(sql, []).unwrap() > 0, "`{sql}` changed nothing");
}

#[tokio::test]
async fn invariant_26_a_lease_is_extended_in_steps_and_never_past_its_approved_end() {
    let rig = Rig::new().await;
    let id = granted(&rig, "stepped", "sales").await;
    let begun = rig.broker.now().whole_second().millis();
    let end = state(&rig, &id).await.lease.unwrap().issued_at.plus_seconds(900);
    assert_eq!(state(&rig, &id).await.lease.unwrap().expires_at.millis(), begun + 60_000);
    for step in 1.. {
        rig.clock.advance(45_000);
        let reply = extended(&rig, &id).await.expect("extended");
        let held = state(&rig, &id).await.lease.unwrap().expires_at;
        assert_eq!(reply.expires_at_ms, held.millis());
        assert!(held <= end, "never past the approved end");
        assert_eq!(renewed(&rig).await, step);
        if held == end {
            break;
        }
    }
    let before = renewed(&rig).await;
    let again = extended(&rig, &id).await.expect("as it is");
    assert_eq!((again.expires_at_ms, renewed(&rig).await), (end.millis(), before));
    assert_eq!(extend::latest(&rig.broker, &state(&rig, &id).await), None);
    rig.clock.advance(60_000);
    sweep::once(&rig.broker).await.expect("swept");
    assert_eq!(lives(&rig, &id).await, LeaseState::Expired);
    let late = extended(&rig, &id).await.expect_err("ended");
    assert_eq!(late.code, "not_live");
    rig.fold().await;
}

#[tokio::test]
async fn what_nobody_extends_ends_with_its_step() {
    let rig = Rig::new().await;
    let id = granted(&rig, "stepped", "sales").await;
    rig.clock.advance(60_000);
    sweep::once(&rig.broker).await.expect("swept");
    assert_eq!(lives(&rig, &id).await, LeaseState::Expired);
    // Neither another's nor what was made for its whole life is extended.
    let other = granted(&rig, "stepped", "orders").await;
    let mut stranger = rig.caller.clone();
    stranger.agent = AgentId::parse("other").unwrap();
    let refused = extend::extend(&rig.broker, &stranger, &other, rig.broker.now())
        .await
        .expect_err("not theirs");
    assert_eq!(refused.status, 404);
    let whole = granted(&rig, "account", "sales").await;
    let refused = extended(&rig, &whole).await.expect_err("whole");
    assert_eq!(refused.code, "not_renewable");
}

#[tokio::test]
async fn the_log_never_says_less_than_the_backend_may_have_done() {
    let rig = Rig::new().await;
    for (answer, leaves, moved) in
        [(Answer::Refuse, 2, false), (Answer::Lose, 1, true), (Answer::Good, 1, true)]
    {
        let id = granted(&rig, "stepped", &format!("{answer:?}").to_lowercase()).await;
        let (before, count) = (state(&rig, &id).await.lease.unwrap(), renewed(&rig).await);
        rig.clock.advance(30_000);
        rig.backend.answers.lock().unwrap().push(answer);
        let reply = extended(&rig, &id).await;
        assert_eq!(reply.is_ok(), answer == Answer::Good, "{reply:?}");
        let after = state(&rig, &id).await.lease.unwrap();
        assert_eq!(after.expires_at > before.expires_at, moved, "{answer:?}");
        assert_eq!((after.state, renewed(&rig).await), (LeaseState::Live, count + leaves));
    }
    // A backend that gave more than it was asked for is not believed: the credential ends.
    let id = granted(&rig, "stepped", "wider").await;
    rig.clock.advance(30_000);
    rig.backend.answers.lock().unwrap().push(Answer::Wider);
    extended(&rig, &id).await.expect_err("wider");
    assert_eq!(lives(&rig, &id).await, LeaseState::Revoked);
    rig.fold().await;
}

/// The leaf is durable, and the broker stops before it asked its backend, or the answer is lost: the log says
/// a later end than the credential has. Asked again, the backend is asked for that end, with no other leaf.
#[tokio::test]
async fn an_extension_that_was_cut_short_is_made_when_it_is_asked_for_again() {
    let mut rig = Rig::new().await;
    let id = granted(&rig, "stepped", "sales").await;
    let mut held = state(&rig, &id).await.lease.unwrap().expires_at;
    let end = held.plus_seconds(840);
    for last in [false, true] {
        while last && end.since(held) > 60_000 {
            rig.clock.advance(45_000);
            held = Timestamp::from_millis(extended(&rig, &id).await.expect("so far").expires_at_ms);
        }
        rig.clock.advance(45_000);
        rig.backend.answers.lock().unwrap().push(Answer::Lose);
        let lost = extend::extend(&rig.broker, &rig.caller, &id, held).await.expect_err("lost");
        assert_eq!((lost.status, lost.code.as_str()), (503, "not_extended"), "it is asked again");
        let said = state(&rig, &id).await.lease.unwrap().expires_at;
        assert!(said > held && said <= end, "the log says the longer");
        rig.crash().await;
        let (leaves, calls) = (renewed(&rig).await, rig.backend.renewed.load(Ordering::SeqCst));
        let made = extend::extend(&rig.broker, &rig.caller, &id, held).await.expect("made");
        assert_eq!(made.expires_at_ms, said.millis());
        let again = extend::extend(&rig.broker, &rig.caller, &id, said).await.expect("known");
        assert_eq!(again.expires_at_ms, said.millis());
        assert_eq!(renewed(&rig).await, leaves, "no other leaf");
        assert_eq!(rig.backend.renewed.load(Ordering::SeqCst), calls + 1, "and one call");
        held = said;
    }
    assert_eq!(held, end, "the last step too");
    rig.fold().await;
}

/// A sidecar, or whoever stole its key, that asks without end: a leaf for each third of a step at most.
#[tokio::test]
async fn invariant_28_extensions_cost_few_leaves_however_often_they_are_asked_for() {
    let rig = Rig::new().await;
    let id = granted(&rig, "stepped", "sales").await;
    for _ in 0..60 {
        rig.clock.advance(1_000);
        extended(&rig, &id).await.expect("as it is, or extended");
    }
    assert!((2..=3).contains(&renewed(&rig).await), "{}", renewed(&rig).await);
    // Two at once: the end at the backend is the one that was said last.
    rig.clock.advance(30_000);
    let held = state(&rig, &id).await.lease.unwrap().expires_at;
    let ask = || extend::extend(&rig.broker, &rig.caller, &id, held);
    let (one, other) = tokio::join!(ask(), ask());
    let ends = [one, other].map(|r| r.map_or_else(|r| r.status.into(), |r| r.expires_at_ms));
    let said = state(&rig, &id).await.lease.unwrap().expires_at.millis();
    assert!(ends.iter().all(|e| *e == said || *e == 503), "{ends:?}, {said}");
    assert!(ends.contains(&said), "{ends:?}, {said}");
    rig.fold().await;
}

#[tokio::test]
async fn invariant_11_an_extension_is_decided_by_the_rights_of_its_moment() {
    let rig = Rig::new().await;
    let id = granted(&rig, "stepped", "sales").await;
    rig.load_policy("forbid (principal, action, resource == Scope::\"stepped\");\n").await;
    rig.clock.advance(30_000);
    let refused = extended(&rig, &id).await.expect_err("denied");
    assert_eq!(refused.code, "denied");
    assert_eq!((lives(&rig, &id).await, renewed(&rig).await), (LeaseState::Revoked, 0));
}

#[tokio::test]
async fn invariant_11_live_leases_end_when_policy_or_scope_no_longer_allow_them() {
    let rig = Rig::new().await;
    let ids = [granted(&rig, "account", "sales").await, granted(&rig, "account", "orders").await];
    let read = granted(&rig, "stepped", "sales").await;
    assert_eq!(rights::look(&rig.broker).await.expect("looked"), 0, "everybody at the start");
    rig.load_policy("").await;
    assert_eq!(rights::look(&rig.broker).await.expect("looked"), 0, "the same policy");
    // One dataset is forbidden now: the other's lease goes on.
    rig.load_policy(
        "forbid (principal, action == Action::\"issue\", resource == Scope::\"account\")\n\
         when { context.params has dataset && context.params.dataset == \"sales\" };\n",
    )
    .await;
    assert_eq!(rights::look(&rig.broker).await.expect("looked"), 1);
    assert_eq!(lives(&rig, &ids[0]).await, LeaseState::Revoked);
    assert_eq!(lives(&rig, &ids[1]).await, LeaseState::Live);
    let effect = state(&rig, &ids[0]).await.lease.unwrap().effect;
    assert!(effect.contains("policy no longer allows it"), "{effect}");
    // A scope that is gone.
    let mut sources = crate::issue::rig::sources("");
    for text in sources.scopes.values_mut().chain(sources.policies.values_mut()) {
        *text = text.replace("\"account\"", "\"renamed\"");
    }
    let set = policies::check(&rig.broker, &sources).unwrap();
    policies::load(&rig.broker, &human("olivia"), set).await.unwrap();
    assert_eq!(rights::look(&rig.broker).await.expect("looked"), 1);
    assert_eq!(lives(&rig, &ids[1]).await, LeaseState::Revoked);
    assert_eq!(lives(&rig, &read).await, LeaseState::Live);
    rig.fold().await;
}

/// The grant is spent, the backend is slow, and meanwhile somebody changes what decides.
#[tokio::test]
async fn invariant_11_what_policy_no_longer_allows_when_a_slow_mint_ends_is_not_delivered() {
    let forbidden =
        "forbid (principal, action == Action::\"issue\", resource == Scope::\"account\");\n";
    let asks = "@id(\"now-asks\") @quorum(\"1\") @approvers(\"reviewers\") @strength(\"chat\") @channels(\"api\")\n\
                permit (principal, action == Action::\"issueAfterApproval\", resource == Scope::\"account\");\n";
    let other = "forbid (principal, action == Action::\"issue\", resource == Scope::\"read\");\n";
    for (change, delivered) in [(forbidden, false), (asks, false), (other, true), ("", true)] {
        let rig = Rig::new().await;
        rig.backend.slow.store(true, Ordering::SeqCst);
        let (outcome, ()) =
            tokio::join!(rig.issue(rig.ask("account", r#"{"dataset":"sales"}"#, "k")), async {
                rig.backend.begun.notified().await;
                rig.load_policy(change).await;
                rig.backend.go_on.notify_one();
            });
        let id = match &outcome {
            Ok(outcome) => id_of(outcome),
            Err(refusal) => refusal.request_id.clone(),
        };
        let id = RequestId::parse(&id).unwrap();
        assert_eq!(outcome.is_ok(), delivered, "{change}: {outcome:?}");
        let ended = rig.backend.revoked.load(Ordering::SeqCst);
        let expected = if delivered { (LeaseState::Live, 0) } else { (LeaseState::Revoked, 1) };
        assert_eq!((lives(&rig, &id).await, ended), expected, "{change}");
        if let Err(refusal) = outcome {
            assert_eq!((refusal.status, refusal.code.as_str()), (403, "denied"), "{refusal:?}");
            // Nor with the same key, nor by looking.
            let again = rig.issue(rig.ask("account", r#"{"dataset":"sales"}"#, "k")).await;
            assert!(again.is_err(), "{again:?}");
            assert!(rig.broker.store.sealed(&id, &rig.caller.instance).await.unwrap().is_none());
        }
        rig.fold().await;
    }
}

/// A sealed copy that nobody fetched, whose lease could not be ended, is not forgotten; and what somebody wrote
/// before it keeps it from nothing.
#[tokio::test]
async fn an_unacknowledged_lease_is_ended_however_often_that_fails() {
    let rig = Rig::new().await;
    let kept = async |id: &RequestId| {
        rig.broker.store.sealed(id, &rig.caller.instance).await.unwrap().is_some()
    };
    let id = granted(&rig, "account", "sales").await;
    rig.clock.advance(120_001);
    rig.faults.push(Fault::BeforeCommit);
    sweep::once(&rig.broker).await.expect("swept");
    assert!(
        lives(&rig, &id).await == LeaseState::Live && kept(&id).await,
        "its end was not written"
    );
    sweep::once(&rig.broker).await.expect("swept");
    assert!(lives(&rig, &id).await == LeaseState::Revoked && !kept(&id).await);
    // More than one page of rows that are none, and of copies whose requests are not there.
    let id = granted(&rig, "account", "orders").await;
    sql(
        &rig,
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 1100) \
         INSERT INTO sealed (request_id, instance, body, until_ms) SELECT \
         CASE WHEN i < 600 THEN 'no id ' || i ELSE 'rgone' || i END, 'i-1', x'00', 1 FROM n",
    );
    rig.clock.advance(120_001);
    let mut place = Place::default();
    sweep::on(&rig.broker, &mut place).await.expect("swept");
    assert_eq!((lives(&rig, &id).await, place), (LeaseState::Revoked, Place::default()));
    assert!(!kept(&id).await);
    let left = rig.broker.store.unacknowledged(rig.broker.now(), 1000, 0).await.unwrap();
    assert_eq!((left.requests.len(), left.malformed), (0, 600), "only what is nobody's stays");
    rig.fold().await;
}

/// A revocation and the watch over rights see the same change: what one of them ends the other leaves alone.
#[tokio::test]
async fn an_agent_that_is_being_revoked_is_not_looked_at_twice() {
    let rig = Rig::new().await;
    let agent = rig.caller.agent.clone();
    rights::look(&rig.broker).await.expect("everybody at the start");
    let id = granted(&rig, "account", "sales").await;
    let at_it = rig.broker.rights.begin(&agent);
    let revoked = Event::AgentRevoked(AgentRevoked {
        at: rig.broker.now(),
        by: human("olivia"),
        agent: agent.clone(),
    });
    rig.broker.commit(Transition::authority(vec![revoked])).await.unwrap();
    assert_eq!(rights::look(&rig.broker).await.expect("looked"), 0);
    assert_eq!(rig.backend.revoked.load(Ordering::SeqCst), 0, "somebody else is at it");
    // Who was at it gave up: what it left is ended without waiting for another change.
    drop(at_it);
    assert_eq!(rights::look(&rig.broker).await.expect("looked"), 1);
    assert_eq!(lives(&rig, &id).await, LeaseState::Revoked);
    assert_eq!(rig.backend.revoked.load(Ordering::SeqCst), 1);
    assert_eq!(rights::look(&rig.broker).await.expect("looked"), 0);
    rig.fold().await;
}

fn agent_with_model(rig: &Rig, by: &HumanId) -> Event {
    let attributes =
        Attributes { model: "m".into(), model_version: "1".into(), ..Attributes::default() };
    Event::AgentSet(AgentSet {
        at: rig.broker.now(),
        by: by.clone(),
        agent: rig.caller.agent.clone(),
        owner: human("alice"),
        attributes,
    })
}

#[tokio::test]
async fn invariant_24_live_leases_end_when_the_model_lapses_and_when_a_revocation_was_cut_short() {
    let mut rig = Rig::new().await;
    let olivia = human("olivia");
    let qualified = Event::ModelSet(ModelSet {
        at: rig.broker.now(),
        by: olivia.clone(),
        model: "m".into(),
        model_version: "1".into(),
        until: Some(rig.broker.now().plus_millis(100_000)),
    });
    let events = vec![qualified, agent_with_model(&rig, &olivia)];
    rig.broker.commit(Transition::authority(events)).await.unwrap();
    rig.load_policy(
        "forbid (principal, action == Action::\"issue\", resource == Scope::\"account\")\n\
         unless { principal.qualified };\n",
    )
    .await;
    let id = granted(&rig, "account", "sales").await;
    assert_eq!(rights::look(&rig.broker).await.expect("looked"), 0);
    rig.clock.advance(100_001);
    assert_eq!(rights::look(&rig.broker).await.expect("looked"), 1, "no leaf said so: time did");
    assert_eq!(lives(&rig, &id).await, LeaseState::Revoked);
    // The leaf is durable, and the broker stops before it ended anything.
    let id = granted(&rig, "stepped", "sales").await;
    let revoked = Event::AgentRevoked(AgentRevoked {
        at: rig.broker.now(),
        by: olivia,
        agent: rig.caller.agent.clone(),
    });
    rig.broker.commit(Transition::authority(vec![revoked])).await.unwrap();
    rig.crash().await;
    assert_eq!(rights::look(&rig.broker).await.expect("looked"), 1);
    assert_eq!(lives(&rig, &id).await, LeaseState::Revoked);
    rig.fold().await;
}

#[tokio::test]
async fn a_revocation_reaches_leases_whose_rows_somebody_hid() {
    let rig = Rig::new().await;
    let agent = rig.caller.agent.clone();
    let hidden = granted(&rig, "account", "sales").await;
    sql(
        &rig,
        "UPDATE requests SET lease_state = 'expired', due_ms = NULL, agent = 'other' \
         WHERE lease_id IS NOT NULL",
    );
    let done = end_agent(&rig.broker, &agent, None, "olivia").await.expect("ended");
    assert_eq!(done.leases.len(), 1, "the row hides nothing");
    assert_eq!(lives(&rig, &hidden).await, LeaseState::Revoked);
    // A row that is gone cannot be ended here: that is said, and the others end all the same.
    let gone = granted(&rig, "account", "orders").await;
    let kept = granted(&rig, "account", "people").await;
    sql(&rig, &format!("DELETE FROM requests WHERE id = '{gone}'"));
    let refused = end_agent(&rig.broker, &agent, None, "olivia").await.expect_err("said");
    assert_eq!(refused.code, "store_tampered");
    assert_eq!(lives(&rig, &kept).await, LeaseState::Revoked);
}

#[tokio::test]
async fn invariant_28_a_malformed_row_keeps_nobody_from_its_end() {
    let rig = Rig::new().await;
    let id = granted(&rig, "read", "sales").await;
    let broken = granted(&rig, "read", "orders").await;
    // More rows that are none than one sweep looks at, each due before all others; some at no whole moment.
    sql(
        &rig,
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 11000) \
         INSERT INTO requests (first_index, id, agent, instance, scope, phase, version, last_index, \
         leaf_list, created_ms, due_ms, lease_id, lease_state, lease_expires_ms, revocable) \
         SELECT 1000000 + i, 'no id ' || i, 'etl', 'i', 's', 'granted', 1, 1, 'x', 1, \
         CASE WHEN i < 600 THEN 0.5 ELSE 1 END, 'no id', 'live', 1, 1 FROM n",
    );
    // And one of ours whose leaves are not told.
    sql(&rig, &format!("UPDATE requests SET leaf_list = ',x' WHERE id = '{broken}'"));
    rig.clock.advance(900_001);
    let mut from = Place::default();
    sweep::on(&rig.broker, &mut from).await.expect("swept");
    assert!(
        from.due.is_some(),
        "the next sweep goes on, and does not begin again with the same rows"
    );
    sweep::on(&rig.broker, &mut from).await.expect("swept");
    assert_eq!((lives(&rig, &id).await, from.due), (LeaseState::Expired, None));
    assert!(rig.broker.counts.faulty.load(Ordering::Relaxed) > 10_000, "counted");
}

#[tokio::test]
async fn an_undone_revocation_outlives_the_broker_and_its_age_is_told() {
    let mut rig = Rig::new().await;
    let id = granted(&rig, "account", "sales").await;
    rig.backend.stubborn.store(u64::MAX, Ordering::SeqCst);
    let ended = end_lease(&rig.broker, state(&rig, &id).await, "olivia").await.expect("tried");
    assert!(!ended.ended);
    for hour in 1..5 {
        // Away for hours, over restarts: within its lifetime no attempt is the last.
        rig.clock.advance(100_000);
        queue::work_once(&rig.broker).await;
        assert_eq!(
            rig.broker.ending.waiting(rig.broker.now()),
            (1, hour * 100_000),
            "attempt {hour}"
        );
        rig.crash().await;
        queue::restore(&rig.broker).await.expect("read");
    }
    rig.backend.stubborn.store(0, Ordering::SeqCst);
    rig.clock.advance(100_000);
    queue::work_once(&rig.broker).await;
    assert_eq!(rig.broker.ending.waiting(rig.broker.now()), (0, 0));
    assert_eq!(lives(&rig, &id).await, LeaseState::Revoked);
    rig.fold().await;
}

/// What the broker ends by itself is published as ended while the backend of the agent's other leases has not
/// answered, however many of these there are and in whatever order they come.
#[tokio::test]
async fn invariant_24_a_backend_that_never_answers_delays_no_built_in_credential() {
    let rig = Rig::new().await;
    let letters = |n: u8| format!("{}{}", char::from(b'a' + n / 26), char::from(b'a' + n % 26));
    let (mut outside, mut built_in) = (Vec::new(), Vec::new());
    for n in 0..72 {
        match n % 9 {
            0 => built_in.push(granted(&rig, "listed", &letters(n)).await),
            _ => outside.push(granted(&rig, "account", &letters(n)).await),
        }
    }
    rig.backend.deaf.store(true, Ordering::SeqCst);
    let (broker, agent) = (Arc::clone(&rig.broker), rig.caller.agent.clone());
    let ending = tokio::spawn(async move { end_agent(&broker, &agent, None, "olivia").await });
    for id in &built_in {
        let lease = state(&rig, id).await.lease.expect("a lease").id;
        let published = async {
            while !rig.broker.ended.has(&lease) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), published).await.expect("published");
        assert_eq!(lives(&rig, id).await, LeaseState::Revoked);
    }
    assert!(!ending.is_finished(), "the backend has not answered");
    assert!(rig.backend.revoked.load(Ordering::SeqCst) > 0, "and was asked");
    for id in &outside {
        assert_eq!(lives(&rig, id).await, LeaseState::Live);
    }
    rig.fold().await;
}

/// A backend that never answers is waited for once: what else is to end there is tried again later, and what
/// is to end elsewhere does not stand in line behind it.
#[tokio::test]
async fn invariant_24_a_silent_backend_is_not_waited_for_by_each_of_its_leases() {
    let rig = Rig::new().await;
    let mut ids = Vec::new();
    for dataset in ["sales", "orders", "people"] {
        ids.push(granted(&rig, "account", dataset).await);
    }
    let built_in = granted(&rig, "listed", "sales").await;
    rig.backend.stubborn.store(u64::MAX, Ordering::SeqCst);
    rig.backend.dawdles.store(20_000, Ordering::SeqCst);
    let agent = rig.caller.agent.clone();
    let done = end_agent(&rig.broker, &agent, None, "olivia").await.expect("ended");
    assert_eq!(done.leases.len(), 4);
    assert_eq!(rig.backend.revoked.load(Ordering::SeqCst), 1, "asked once");
    for id in &ids {
        assert_eq!(lives(&rig, id).await, LeaseState::Withdrawn);
    }
    assert_eq!(lives(&rig, &built_in).await, LeaseState::Revoked);
    assert_eq!(rig.broker.ending.waiting(rig.broker.now()).0, 3);
    // It is back: nobody asks again, the queue does, and others ask it again too.
    rig.backend.stubborn.store(0, Ordering::SeqCst);
    rig.backend.dawdles.store(0, Ordering::SeqCst);
    rig.clock.advance(1_000);
    queue::work_once(&rig.broker).await;
    for id in &ids {
        assert_eq!(lives(&rig, id).await, LeaseState::Revoked);
    }
    let id = granted(&rig, "account", "more").await;
    let ended = end_lease(&rig.broker, state(&rig, &id).await, "olivia").await.expect("ended");
    assert!(ended.ended, "{ended:?}");
    rig.fold().await;
}
