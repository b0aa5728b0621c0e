//! How credentials end before their time, and where that shows.

use grantwright_domain::{Event, RequestId};
use grantwright_store::StoreError;

use super::{CUSTOMERS, EXPORT, check};
use crate::end;
use crate::issue::rig::{Rig, human, id_of, word};

#[tokio::test]
async fn a_credential_that_cannot_be_recalled_is_withdrawn_and_said_to_live_on() {
    use grantwright_domain::request::LeaseState;
    let rig = Rig::new().await;
    let id = id_of(&rig.issue(rig.ask("read", CUSTOMERS, "k1")).await.expect("granted"));
    let parsed = RequestId::parse(&id).unwrap();
    let load = async || rig.broker.store.load(&parsed).await.unwrap().unwrap().state;
    let ended = end::end_lease(&rig.broker, load().await, "olivia").await.expect("withdrawn");
    assert!(!ended.ended);
    assert_eq!(load().await.lease.map(|l| l.state), Some(LeaseState::Withdrawn));
    assert_eq!(rig.collect(&id).await.expect_err("no longer served").code, "already_issued");
    let live = grantwright_store::LeaseFilter { live: true, ..Default::default() };
    assert_eq!(rig.broker.store.leases(live.clone()).await.unwrap().len(), 1, "still listed");
    rig.clock.advance(900_001);
    end::sweep::once(&rig.broker).await.expect("swept");
    assert!(rig.broker.store.leases(live).await.unwrap().is_empty(), "it ended by itself");
    check(&rig).await;
}

#[tokio::test]
async fn invariant_24_what_ended_early_is_listed_until_it_expires_across_a_restart() {
    use grantwright_domain::request::LeaseState;
    let mut rig = Rig::new().await;
    let id = id_of(&rig.issue(rig.ask("listed", CUSTOMERS, "k1")).await.expect("granted"));
    let plain = id_of(&rig.issue(rig.ask("read", CUSTOMERS, "k2")).await.expect("granted"));
    let load = async |rig: &Rig, id: &str| {
        let id = RequestId::parse(id).unwrap();
        rig.broker.store.load(&id).await.unwrap().unwrap().state
    };
    let lease = load(&rig, &id).await.lease.expect("a lease");
    assert!(lease.revocable, "its scope says that services look");
    let list = lease.facts["status"].split_once('/').expect("a place").0.to_owned();
    let document = |rig: &Rig| {
        let name = format!("status/{list}");
        crate::ended::document(&rig.broker, "jwt", &name).expect("served").bytes.clone()
    };
    let clean = document(&rig);
    let ended = end::end_lease(&rig.broker, load(&rig, &id).await, "alice").await.expect("ended");
    assert!(ended.ended && ended.effect.contains(&list), "{ended:?}");
    assert_eq!(load(&rig, &id).await.lease.map(|l| l.state), Some(LeaseState::Revoked));
    assert_ne!(document(&rig), clean, "listed as soon as its leaf is durable");
    let ended = end::end_lease(&rig.broker, load(&rig, &plain).await, "alice").await.expect("told");
    assert!(!ended.ended, "nobody looks, so nobody claims that it ended");

    let before = document(&rig);
    rig.crash().await;
    assert_eq!(document(&rig), before, "the list is the fold of the log");
    assert_eq!(rig.broker.ended.count(), 2);
    rig.clock.advance(900_001);
    end::sweep::once(&rig.broker).await.expect("swept");
    assert_eq!(rig.broker.ended.count(), 0, "what expired is no longer listed");
    rig.crash().await;
    assert_eq!(rig.broker.ended.count(), 0);
    check(&rig).await;
}

/// Who writes to the database and has the broker start again takes nothing off the lists of what ended.
#[tokio::test]
async fn invariant_24_what_ended_early_is_found_in_the_log_where_rows_hide_it() {
    let mut rig = Rig::new().await;
    let mut ids = Vec::new();
    for (dataset, key) in [("customers", "k1"), ("orders", "k2")] {
        let params = format!(r#"{{"dataset":"{dataset}"}}"#);
        let id = id_of(&rig.issue(rig.ask("listed", &params, key)).await.expect("granted"));
        ids.push(RequestId::parse(&id).unwrap());
    }
    for id in &ids {
        let state = rig.broker.store.load(id).await.unwrap().unwrap().state;
        end::end_lease(&rig.broker, state, "alice").await.expect("ended");
    }
    let sql = |rig: &Rig, sql: &str| {
        let db = rusqlite::Connection::open(rig.dir().join("store.db")).unwrap();
        assert_eq!(db.execute(sql, []).unwrap(), 1, "`{sql}`");
    };
    sql(&rig, &format!("UPDATE requests SET lease_state = 'expired' WHERE id = '{}'", ids[0]));
    rig.crash().await;
    assert_eq!(rig.broker.ended.count(), 1, "by the rows");
    let size = rig.broker.store.head().size;
    assert_eq!(crate::ended::look_back(&rig.broker, size).await.unwrap(), 1);
    assert_eq!(rig.broker.ended.count(), 2, "by the leaves");
    assert_eq!(crate::ended::look_back(&rig.broker, size).await.unwrap(), 0, "listed already");
    // Nor by an edit of the leaf itself, which shows.
    let last = rig.broker.store.load(&ids[0]).await.unwrap().unwrap().leaves.pop().unwrap().0;
    sql(&rig, &format!("UPDATE leaves SET body = x'7b7d' WHERE idx = {last}"));
    let refused = crate::ended::look_back(&rig.broker, size).await;
    assert!(matches!(refused, Err(StoreError::Tampered(_))), "{refused:?}");
}

#[tokio::test]
async fn invariant_24_a_revoked_agent_has_no_open_request_and_no_live_lease() {
    use grantwright_domain::event::AgentRevoked;
    let rig = Rig::new().await;
    let pending = id_of(&rig.issue(rig.ask("export", EXPORT, "")).await.expect("pending"));
    rig.issue(rig.ask("account", CUSTOMERS, "")).await.expect("granted");
    let revoked = Event::AgentRevoked(AgentRevoked {
        at: rig.broker.now(),
        by: human("olivia"),
        agent: rig.caller.agent.clone(),
    });
    rig.broker.store.commit(grantwright_store::Transition::authority(vec![revoked])).await.unwrap();
    let done = end::end_agent(&rig.broker, &rig.caller.agent, None, "olivia").await.expect("ended");
    assert_eq!(done.requests, vec![pending]);
    assert!(done.leases.iter().all(|(_, _, ended)| ended.ended) && done.leases.len() == 1);
    assert!(rig.issue(rig.ask("read", CUSTOMERS, "")).await.is_err());
    check(&rig).await;
}

#[tokio::test]
async fn an_unacknowledged_account_is_revoked_after_two_minutes() {
    let rig = Rig::new().await;
    let id = id_of(&rig.issue(rig.ask("account", CUSTOMERS, "k1")).await.expect("granted"));
    assert_eq!(word(&rig.collect(&id).await.expect("delivered again")), "granted");
    rig.clock.advance(120_001);
    end::sweep::once(&rig.broker).await.expect("swept");
    assert_eq!(rig.collect(&id).await.expect_err("gone").code, "already_issued");
    assert_eq!(rig.backend.revoked.load(std::sync::atomic::Ordering::SeqCst), 1);
    check(&rig).await;
}

#[tokio::test]
async fn a_revocation_that_its_backend_did_not_do_is_tried_again_across_a_restart() {
    use grantwright_domain::request::LeaseState;
    use std::sync::atomic::Ordering::SeqCst;
    let mut rig = Rig::new().await;
    let id = id_of(&rig.issue(rig.ask("account", CUSTOMERS, "k1")).await.expect("granted"));
    let id = RequestId::parse(&id).unwrap();
    rig.backend.stubborn.store(3, SeqCst);
    let state = rig.broker.store.load(&id).await.unwrap().unwrap().state;
    let ended = end::end_lease(&rig.broker, state, "alice").await.expect("recorded");
    assert!(!ended.ended, "{ended:?}");
    let lease =
        async |rig: &Rig| rig.broker.store.load(&id).await.unwrap().unwrap().state.lease.unwrap();
    assert_eq!(lease(&rig).await.state, LeaseState::Withdrawn);
    assert_eq!(rig.broker.ending.waiting(rig.broker.now()).0, 1);
    end::queue::work_once(&rig.broker).await;
    assert_eq!(rig.backend.revoked.load(SeqCst), 1, "tried before it is due");

    // The broker ends and starts anew: the queue is the fold of the log.
    rig.crash().await;
    assert_eq!(rig.broker.ending.waiting(rig.broker.now()).0, 0);
    end::queue::restore(&rig.broker).await.expect("restored");
    rig.clock.advance(40_000);
    let (count, oldest) = rig.broker.ending.waiting(rig.broker.now());
    assert_eq!((count, oldest), (1, 40_000), "its age is that of the revocation");
    while rig.backend.stubborn.load(SeqCst) > 0 {
        end::queue::work_once(&rig.broker).await;
        rig.clock.advance(60_001);
    }
    end::queue::work_once(&rig.broker).await;
    let done = lease(&rig).await;
    assert_eq!((done.state, done.effect.as_str()), (LeaseState::Revoked, "the account is gone"));
    assert_eq!(rig.broker.ending.waiting(rig.broker.now()), (0, 0));
    let (_, events) = rig.fold().await;
    let revoked = events.iter().filter(|e| matches!(e, Event::Revoked(_))).count();
    assert_eq!(revoked, 2, "one leaf says it was withdrawn, one that it ended; no leaf per try");
    check(&rig).await;
}
