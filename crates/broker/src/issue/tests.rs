//! The invariants of issuing and approving, each under its number in `SECURITY.md`, and the fault
//! matrix: each commit of each story fails once before and once after it takes effect; then the
//! broker dies, starts again, and everything is checked.

use grantwright_domain::{Event, Phase, RequestId};
use grantwright_store::{Fault, StoreError};
use grantwright_wire::v1::{granted::Delivery, outcome};

use super::rig::{Answer, Rig, human, id_of, word};
use crate::people::Intention;
use crate::{end, people};

const CUSTOMERS: &str = r#"{"dataset":"customers"}"#;
const EXPORT: &str = r#"{"dataset":"customers","rows":100}"#;

fn deny() -> Intention {
    Intention::Deny { reason: None, reason_code: "not_now".into() }
}

fn narrow(ttl_s: Option<u32>, params: Option<serde_json::Value>) -> Intention {
    Intention::Narrow { ttl_s, params, confirm: None }
}

/// No request is issued twice, nothing was minted more than once, and the rules allow every leaf.
async fn check(rig: &Rig) {
    let (state, events) = rig.fold().await;
    for id in state.requests.keys() {
        let count = |kind: &str| {
            events.iter().filter(|e| e.kind() == kind && e.request_id() == Some(id)).count()
        };
        assert!(count("issued") <= 1, "{id} issued more than once");
        assert!(count("intended") <= 1, "{id} intended more than once");
    }
    for (digest, times) in rig.backend.minted.lock().unwrap().iter() {
        assert!(*times <= 1, "{digest} was minted {times} times");
    }
}

#[tokio::test]
async fn invariant_01_no_credential_leaves_before_its_leaves_are_durable() {
    for fault in [Fault::BeforeCommit, Fault::AfterCommit, Fault::Fsync] {
        for scope in ["read", "account"] {
            let mut rig = Rig::new().await;
            if scope == "account" {
                rig.faults.push(Fault::None);
            }
            rig.faults.push(fault);
            let refusal =
                rig.issue(rig.ask(scope, CUSTOMERS, "k1")).await.expect_err("the commit failed");
            assert_eq!(refusal.status, 503, "{refusal:?}");
            rig.crash().await;
            check(&rig).await;
        }
    }
}

#[tokio::test]
async fn invariant_02_no_backend_is_called_before_its_intent_is_durable() {
    for fault in [Fault::BeforeCommit, Fault::AfterCommit, Fault::Fsync] {
        let mut rig = Rig::new().await;
        rig.faults.push(fault);
        rig.issue(rig.ask("account", CUSTOMERS, "k1")).await.expect_err("the intent failed");
        assert!(rig.backend.minted.lock().unwrap().is_empty(), "{fault:?}");
        rig.crash().await;
        check(&rig).await;
    }
}

/// Each story, with the fault at its nth commit; afterwards the agent asks again with the same key.
#[tokio::test]
async fn invariant_03_one_approval_one_mint_over_every_fault_and_a_restart() {
    for scope in ["read", "account", "export", "root-account"] {
        for nth in 0..4 {
            for fault in [Fault::BeforeCommit, Fault::AfterCommit, Fault::Fsync] {
                let mut rig = Rig::new().await;
                let params = if scope == "export" { EXPORT } else { CUSTOMERS };
                for _ in 0..nth {
                    rig.faults.push(Fault::None);
                }
                rig.faults.push(fault);
                let first = rig.issue(rig.ask(scope, params, "k1")).await;
                if let Ok(outcome) = &first
                    && word(outcome) == "pending"
                {
                    let _ = rig.approve("bob", &id_of(outcome)).await;
                    let _ = rig.collect(&id_of(outcome)).await;
                }
                rig.crash().await;
                check(&rig).await;
                // The same ask again: the same request, or a new one where nothing was durable.
                let again = rig.issue(rig.ask(scope, params, "k1")).await;
                if let Ok(outcome) = &again
                    && word(outcome) == "pending"
                {
                    rig.approve("bob", &id_of(outcome)).await.expect("approve");
                    let collected = rig.collect(&id_of(outcome)).await;
                    let known = collected.as_ref().is_err_and(|r| r.status >= 410);
                    assert!(collected.is_ok() || known, "{collected:?}");
                }
                check(&rig).await;
                let keyed = rig.fold().await.0.requests.len();
                assert!(keyed <= 1, "{scope} {nth} {fault:?}: one key made {keyed} requests");
            }
        }
    }
}

#[tokio::test]
async fn invariant_06_same_key_same_answer_and_another_agents_request_is_not_found() {
    let mut rig = Rig::new().await;
    let first = rig.issue(rig.ask("read", CUSTOMERS, "k1")).await.expect("granted");
    let again = rig.issue(rig.ask("read", CUSTOMERS, "k1")).await.expect("granted again");
    assert_eq!(id_of(&first), id_of(&again));
    let token = |o: &grantwright_wire::v1::Outcome| match &o.state {
        Some(outcome::State::Granted(g)) => match &g.delivery {
            Some(Delivery::Plain(bytes)) => bytes.clone(),
            other => panic!("{:?}", other.is_some()),
        },
        _ => panic!("not granted"),
    };
    assert_eq!(token(&first), token(&again), "signed again with the same claims");
    let mut other_body = rig.ask("read", r#"{"dataset":"orders"}"#, "k1");
    assert_eq!(rig.issue(other_body.clone()).await.expect_err("other body").code, "key_reused");
    other_body.idempotency_key = "k2".into();
    rig.issue(other_body).await.expect("another key");
    let denied = rig.issue(rig.ask("never", CUSTOMERS, "k3")).await.expect_err("denied");
    let denied_again = rig.issue(rig.ask("never", CUSTOMERS, "k3")).await.expect_err("denied");
    assert_eq!((denied.code, denied.request_id), (denied_again.code, denied_again.request_id));
    rig.caller.instance = grantwright_domain::InstanceId::parse("i-11").unwrap();
    let elsewhere = rig.issue(rig.ask("read", CUSTOMERS, "k1")).await.expect_err("another sidecar");
    assert_eq!(elsewhere.code, "other_instance");
    rig.caller.agent = grantwright_domain::AgentId::parse("other").unwrap();
    rig.caller.instance = grantwright_domain::InstanceId::parse("i-2").unwrap();
    assert_eq!(rig.collect(&id_of(&first)).await.expect_err("not theirs").code, "unknown_request");
    check(&rig).await;
}

#[tokio::test]
async fn invariant_07_an_error_carries_no_credential_and_leaves_no_spent_approval_without_an_intent()
 {
    let rig = Rig::new().await;
    rig.backend.answers.lock().unwrap().push(Answer::Refuse);
    let pending = rig.issue(rig.ask("root-account", CUSTOMERS, "k1")).await.expect("pending");
    rig.approve("bob", &id_of(&pending)).await.expect("approved");
    let refusal = rig.collect(&id_of(&pending)).await.expect_err("refused");
    assert_eq!((refusal.status, refusal.code.as_str()), (502, "mint_failed"));
    assert!(!format!("{refusal:?}").contains("c4n4ry"));
    // Which scope, why, and what to do: at once, and to whoever looks or asks the same later.
    assert_eq!(refusal.detail, "scope `root-account`: the backend said no");
    assert!(refusal.next.contains("gives the broker the right"), "{}", refusal.next);
    assert!(refusal.next.ends_with("the approval is spent"), "{}", refusal.next);
    let looked = rig.collect(&id_of(&pending)).await.expect("told");
    let Some(outcome::State::Ended(ended)) = &looked.state else { panic!("{looked:?}") };
    assert_eq!((ended.code.as_str(), &ended.reason), ("backend_denied", &refusal.detail));
    let again = rig.issue(rig.ask("root-account", CUSTOMERS, "k1")).await.expect_err("spent");
    assert_eq!((&again.detail, &again.next), (&refusal.detail, &refusal.next));
    let (state, events) = rig.fold().await;
    let id = RequestId::parse(&id_of(&pending)).unwrap();
    assert_eq!(state.requests[&id].phase, Phase::Failed);
    assert!(events.iter().any(|e| matches!(e, Event::Intended(i) if i.request_id == id)));
}

#[tokio::test]
async fn invariant_08_an_unknown_outcome_is_never_retried_and_stays_visible() {
    let mut rig = Rig::new().await;
    rig.backend.answers.lock().unwrap().push(Answer::Lose);
    let refusal = rig.issue(rig.ask("account", CUSTOMERS, "k1")).await.expect_err("lost");
    assert_eq!(refusal.code, "outcome_unknown");
    for _ in 0..3 {
        assert_eq!(
            rig.issue(rig.ask("account", CUSTOMERS, "k1")).await.expect_err("still").code,
            "outcome_unknown"
        );
        assert_eq!(word(&rig.collect(&refusal.request_id).await.expect("a state")), "unknown");
        rig.crash().await;
    }
    assert_eq!(rig.backend.minted.lock().unwrap().values().sum::<u64>(), 1);
    check(&rig).await;
}

#[tokio::test]
async fn invariant_10_owner_outsider_and_repeat_do_not_count() {
    let rig = Rig::new().await;
    let pending = rig.issue(rig.ask("escalate", CUSTOMERS, "k1")).await.expect("pending");
    let id = id_of(&pending);
    assert_eq!(rig.approve("alice", &id).await.expect_err("owner").code, "self_approval");
    assert_eq!(rig.approve("dave", &id).await.expect_err("outsider").code, "not_in_group");
    assert_eq!(rig.approve("olivia", &id).await.expect_err("operator").code, "not_in_group");
    assert_eq!(rig.act("alice", &id, deny()).await.expect_err("owner").code, "self_approval");
    rig.approve("bob", &id).await.expect("one");
    let twice = rig.approve("bob", &id).await.expect("the same vote again changes nothing");
    assert_eq!(twice.state.votes.len(), 1);
    assert_eq!(word(&rig.collect(&id).await.expect("pending")), "pending");
    rig.approve("carol", &id).await.expect("two");
    assert_eq!(word(&rig.collect(&id).await.expect("granted")), "granted");
    check(&rig).await;
}

#[tokio::test]
async fn invariant_10_an_owner_who_hands_the_agent_over_still_may_not_approve() {
    use grantwright_domain::event::{AgentSet, Attributes};
    let rig = Rig::new().await;
    let id = id_of(&rig.issue(rig.ask("export", EXPORT, "")).await.expect("pending"));
    rig.clock.advance(10);
    let hand_over = |owner| {
        Event::AgentSet(AgentSet {
            at: rig.broker.now(),
            by: human("olivia"),
            agent: rig.caller.agent.clone(),
            owner: human(owner),
            attributes: Attributes::default(),
        })
    };
    rig.broker
        .store
        .commit(grantwright_store::Transition::authority(vec![hand_over("erin")]))
        .await
        .unwrap();
    rig.clock.advance(10);
    assert_eq!(rig.approve("alice", &id).await.expect_err("owned it").code, "self_approval");
    rig.approve("bob", &id).await.expect("bob may");
    check(&rig).await;
}

#[tokio::test]
async fn invariant_10_a_person_whose_token_the_owner_made_may_not_approve() {
    use grantwright_domain::event::HumanSet;
    let rig = Rig::new().await;
    let at = rig.broker.now();
    let by = human("alice");
    let promote = Event::HumanSet(HumanSet {
        at,
        by: human("olivia"),
        human: by.clone(),
        active: true,
        operator: true,
    });
    let made = crate::http::sign::new_token(&rig.broker, &by, &human("bob"), at, 60_000);
    let events = vec![promote, Event::TokenIssued(made.event)];
    rig.broker.commit(grantwright_store::Transition::authority(events)).await.unwrap();
    let id = id_of(&rig.issue(rig.ask("export", EXPORT, "")).await.expect("pending"));
    assert_eq!(rig.approve("bob", &id).await.expect_err("alice could be bob").code, "owners_token");
    rig.approve("carol", &id).await.expect("carol may");
    check(&rig).await;
}

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
async fn a_deny_of_narrowed_terms_sticks_to_the_ask_as_first_made() {
    let rig = Rig::new().await;
    let id = id_of(&rig.issue(rig.ask("escalate", CUSTOMERS, "")).await.expect("pending"));
    rig.act("bob", &id, narrow(Some(60), None)).await.expect("narrowed");
    rig.act("carol", &id, deny()).await.expect("denied");
    let again = rig.issue(rig.ask("escalate", CUSTOMERS, "")).await.expect_err("sticky");
    assert_eq!(again.code, "denied");
    let export = id_of(&rig.issue(rig.ask("export", EXPORT, "")).await.expect("pending"));
    rig.act("bob", &export, narrow(None, Some(serde_json::json!({"rows": 5}))))
        .await
        .expect("narrowed");
    rig.act("carol", &export, deny()).await.expect("denied");
    for rows in [100, 5] {
        let params = format!(r#"{{"dataset":"customers","rows":{rows}}}"#);
        assert_eq!(
            rig.issue(rig.ask("export", &params, "")).await.expect_err("sticky").code,
            "denied"
        );
    }
}

#[tokio::test]
async fn invariant_11_a_lease_ends_when_the_approver_it_rests_on_loses_the_right() {
    use grantwright_domain::event::GroupSet;
    use grantwright_domain::request::LeaseState;
    let rig = Rig::new().await;
    let mut ids = Vec::new();
    for (scope, dataset) in [("risky", "customers"), ("risky", "orders"), ("root-account", "x")] {
        let params = format!(r#"{{"dataset":"{dataset}"}}"#);
        let id = id_of(&rig.issue(rig.ask(scope, &params, "")).await.expect("pending"));
        rig.approve(if dataset == "orders" { "carol" } else { "bob" }, &id)
            .await
            .expect("approved");
        assert_eq!(word(&rig.collect(&id).await.expect("collected")), "granted");
        ids.push(RequestId::parse(&id).unwrap());
    }
    let states = async || {
        let mut out = Vec::new();
        for id in &ids {
            let state = rig.broker.store.load(id).await.unwrap().unwrap().state;
            out.push(state.lease.expect("a lease").state);
        }
        out
    };
    rig.clock.advance(10_000);
    end::sweep::once(&rig.broker).await.expect("swept");
    assert_eq!(states().await, [LeaseState::Live; 3], "everybody still has the right");
    let group = Event::GroupSet(GroupSet {
        at: rig.broker.now(),
        by: human("olivia"),
        group: grantwright_domain::GroupName::parse("reviewers").unwrap(),
        members: [human("alice"), human("carol")].into(),
    });
    rig.broker.commit(grantwright_store::Transition::authority(vec![group])).await.unwrap();
    rig.clock.advance(10_000);
    end::sweep::once(&rig.broker).await.expect("swept");
    let want = [LeaseState::Revoked, LeaseState::Live, LeaseState::Live];
    assert_eq!(states().await, want, "bob's of that risk, and nobody else's");
    check(&rig).await;
}

#[tokio::test]
async fn looking_at_an_approval_that_lost_its_voter_writes_nothing() {
    use grantwright_domain::event::GroupSet;
    let rig = Rig::new().await;
    let id = id_of(&rig.issue(rig.ask("export", EXPORT, "")).await.expect("pending"));
    rig.approve("bob", &id).await.expect("approved");
    rig.clock.advance(10);
    let group = Event::GroupSet(GroupSet {
        at: rig.broker.now(),
        by: human("olivia"),
        group: grantwright_domain::GroupName::parse("reviewers").unwrap(),
        members: [human("carol")].into(),
    });
    rig.broker.commit(grantwright_store::Transition::authority(vec![group])).await.unwrap();
    let before = rig.broker.store.head().size;
    for _ in 0..5 {
        assert_eq!(word(&rig.collect(&id).await.expect("pending")), "pending");
    }
    assert_eq!(rig.broker.store.head().size, before);
}

#[tokio::test]
async fn invariant_11_rights_hold_at_the_mint_as_well() {
    use grantwright_domain::event::GroupSet;
    let rig = Rig::new().await;
    let id = id_of(&rig.issue(rig.ask("export", EXPORT, "")).await.expect("pending"));
    rig.approve("bob", &id).await.expect("approved");
    rig.clock.advance(10);
    let members = ["alice", "carol"].map(human).into_iter().collect();
    let group = Event::GroupSet(GroupSet {
        at: rig.broker.now(),
        by: human("olivia"),
        group: grantwright_domain::GroupName::parse("reviewers").unwrap(),
        members,
    });
    rig.broker.store.commit(grantwright_store::Transition::authority(vec![group])).await.unwrap();
    rig.clock.advance(10);
    assert_eq!(word(&rig.collect(&id).await.expect("back to people")), "pending");
    rig.approve("carol", &id).await.expect("carol still may");
    assert_eq!(word(&rig.collect(&id).await.expect("granted")), "granted");
    check(&rig).await;
}

#[tokio::test]
async fn invariant_11_the_providers_word_on_groups_counts_while_it_is_fresh() {
    use grantwright_domain::event::{GroupsClaimed, IdentitySet};
    let rig = Rig::new().await;
    let (issuer, subject) = ("https://id.example".to_owned(), "u-dave".to_owned());
    let link = Event::IdentitySet(IdentitySet {
        at: rig.broker.now(),
        by: human("olivia"),
        issuer: issuer.clone(),
        subject: subject.clone(),
        human: Some(human("dave")),
    });
    let claim = || {
        Event::GroupsClaimed(GroupsClaimed {
            at: rig.broker.now(),
            human: human("dave"),
            issuer: issuer.clone(),
            subject: subject.clone(),
            groups: [grantwright_domain::GroupName::parse("reviewers").unwrap()].into(),
            until: rig.broker.now().plus_millis(60_000),
        })
    };
    let commit = async |events| {
        let authority = grantwright_store::Transition::authority(events);
        rig.broker.store.commit(authority).await.unwrap();
    };
    commit(vec![link, claim()]).await;
    let id = id_of(&rig.issue(rig.ask("export", EXPORT, "")).await.expect("pending"));
    rig.approve("dave", &id).await.expect("a member by the provider's word");
    rig.clock.advance(60_000);
    assert_eq!(word(&rig.collect(&id).await.expect("stale at the mint")), "pending");
    let other = rig.ask("export", r#"{"dataset":"customers","rows":7}"#, "");
    let other = id_of(&rig.issue(other).await.expect("pending"));
    let stale = rig.approve("dave", &other).await.map(drop).expect_err("stale at the vote");
    assert_eq!(stale.code, "stale_membership");
    commit(vec![claim()]).await;
    rig.approve("dave", &other).await.expect("signed in again");
    rig.clock.advance(59_999);
    assert_eq!(word(&rig.collect(&other).await.expect("still fresh")), "granted");
    check(&rig).await;
}

#[tokio::test]
async fn invariant_11_a_stricter_policy_at_collection_goes_back_to_people() {
    let rig = Rig::new().await;
    let id = id_of(&rig.issue(rig.ask("export", EXPORT, "")).await.expect("pending"));
    rig.approve("bob", &id).await.expect("approved");
    rig.load_policy("@id(\"more\") @quorum(\"2\") @approvers(\"reviewers\") @strength(\"chat\") @channels(\"api\")\n\
        permit (principal, action == Action::\"issueAfterApproval\", resource == Scope::\"export\");\n").await;
    assert_eq!(word(&rig.collect(&id).await.expect("back")), "pending");
    rig.approve("carol", &id).await.expect("second");
    assert_eq!(word(&rig.collect(&id).await.expect("granted")), "granted");
    let other = id_of(
        &rig.issue(rig.ask("export", r#"{"dataset":"orders","rows":1}"#, ""))
            .await
            .expect("pending"),
    );
    rig.approve("bob", &other).await.expect("one");
    rig.approve("carol", &other).await.expect("two");
    rig.load_policy("@id(\"stop\") forbid (principal, action, resource == Scope::\"export\");\n")
        .await;
    assert_eq!(word(&rig.collect(&other).await.expect("ended")), "denied");
    check(&rig).await;
}

#[tokio::test]
async fn invariant_11_cedar_is_asked_again_for_each_approver_at_the_mint() {
    let rig = Rig::new().await;
    let id = id_of(&rig.issue(rig.ask("export", EXPORT, "")).await.expect("pending"));
    rig.approve("bob", &id).await.expect("approved");
    rig.load_policy(
        "@id(\"not-bob\") forbid (principal == Human::\"bob\", action == Action::\"approve\", resource);\n",
    )
    .await;
    assert_eq!(word(&rig.collect(&id).await.expect("back to people")), "pending");
    rig.approve("bob", &id).await.expect("the same vote again changes nothing");
    assert_eq!(word(&rig.collect(&id).await.expect("and does not count")), "pending");
    rig.approve("carol", &id).await.expect("carol may");
    assert_eq!(word(&rig.collect(&id).await.expect("granted")), "granted");
    check(&rig).await;
}

#[tokio::test]
async fn invariant_12_a_vote_needs_the_present_digest_and_a_live_request() {
    let rig = Rig::new().await;
    let id = id_of(&rig.issue(rig.ask("export", EXPORT, "")).await.expect("pending"));
    let old =
        rig.broker.store.load(&RequestId::parse(&id).unwrap()).await.unwrap().unwrap().state.digest;
    let narrowed = rig
        .act("bob", &id, narrow(Some(300), Some(serde_json::json!({"rows": 10}))))
        .await
        .expect("narrowed");
    assert_eq!(narrowed.state.phase, Phase::Approved, "narrowing is the narrower's own approval");
    let parsed = RequestId::parse(&id).unwrap();
    let on_old = rig
        .act_on(
            "carol",
            &parsed,
            old,
            Intention::Approve { reason: None, seen: None, confirm: None },
        )
        .await;
    assert_eq!(on_old.expect_err("old digest").status, 409);
    for wider in [
        narrow(Some(600), None),
        narrow(None, Some(serde_json::json!({"rows": 11}))),
        narrow(None, Some(serde_json::json!({"dataset": "orders"}))),
        narrow(None, None),
    ] {
        assert_eq!(rig.act("carol", &id, wider).await.expect_err("wider").code, "not_narrower");
    }
    let granted = rig.collect(&id).await.expect("granted");
    let Some(outcome::State::Granted(g)) = granted.state else { panic!("not granted") };
    assert!(g.narrowed.contains("rows from 100 to 10"), "{}", g.narrowed);
    assert_eq!(rig.approve("carol", &id).await.expect_err("spent").code, "not_open");
    check(&rig).await;
}

#[tokio::test]
async fn invariant_13_every_end_is_an_end_and_time_is_a_deny() {
    let mut rig = Rig::new().await;
    let ask = |rig: &Rig, n: u32| {
        rig.ask("export", &format!(r#"{{"dataset":"customers","rows":{n}}}"#), "")
    };
    let denied = id_of(&rig.issue(ask(&rig, 1)).await.expect("pending"));
    rig.act("bob", &denied, deny()).await.expect("denied");
    assert_eq!(rig.issue(ask(&rig, 1)).await.expect_err("sticky").code, "denied");
    let cancelled = id_of(&rig.issue(ask(&rig, 2)).await.expect("pending"));
    people::cancel(&rig.broker, &rig.caller, &RequestId::parse(&cancelled).unwrap())
        .await
        .expect("cancelled");
    let expired = id_of(&rig.issue(ask(&rig, 3)).await.expect("pending"));
    let uncollected = id_of(&rig.issue(ask(&rig, 4)).await.expect("pending"));
    rig.approve("bob", &uncollected).await.expect("approved");
    rig.clock.advance(3_600_001);
    for (id, want) in [
        (&denied, "denied"),
        (&cancelled, "cancelled"),
        (&expired, "expired"),
        (&uncollected, "expired"),
    ] {
        assert_eq!(word(&rig.collect(id).await.expect("its end")), want);
        for what in [
            deny(),
            Intention::Approve { reason: None, seen: None, confirm: None },
            Intention::Ask { text: "why?".into() },
            narrow(Some(1), None),
            Intention::Withdraw,
        ] {
            let refusal = rig.act("carol", id, what).await.expect_err("ended");
            assert_eq!(refusal.status, 409, "{want}: {refusal:?}");
        }
    }
    rig.crash().await;
    for (id, want) in [
        (&denied, "denied"),
        (&cancelled, "cancelled"),
        (&expired, "expired"),
        (&uncollected, "expired"),
    ] {
        assert_eq!(word(&rig.collect(id).await.expect("its end")), want);
    }
    check(&rig).await;
}

#[tokio::test]
async fn invariant_15_nothing_a_client_sends_sets_state_approver_strength_or_time() {
    let rig = Rig::new().await;
    let id = id_of(&rig.issue(rig.ask("signed", CUSTOMERS, "")).await.expect("pending"));
    assert_eq!(rig.approve("bob", &id).await.expect_err("unsigned").code, "passkey_required");
    for bad in [
        r#"{"dataset":"customers","state":"approved"}"#,
        r#"{"dataset":"customers","dataset":"x"}"#,
        r#"{"dataset":1}"#,
        r#"{}"#,
        r#"[]"#,
        r#"{"dataset":"a*"}"#,
        "{",
        "",
    ] {
        let refusal = rig.issue(rig.ask("read", bad, "")).await.expect_err("malformed");
        assert_eq!(refusal.status, 400, "{bad}: {refusal:?}");
    }
    check(&rig).await;
}

#[tokio::test]
async fn invariant_21_no_credential_or_token_stands_in_what_the_broker_writes() {
    let rig = Rig::new().await;
    let granted = rig.issue(rig.ask("read", CUSTOMERS, "k1")).await.expect("granted");
    rig.issue(rig.ask("account", CUSTOMERS, "k2")).await.expect("granted");
    let Some(outcome::State::Granted(g)) = granted.state else { panic!("not granted") };
    let Some(Delivery::Plain(json)) = g.delivery else { panic!("not delivered") };
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let jwt = json["token"].as_str().unwrap().to_owned();
    let signature = jwt.rsplit('.').next().unwrap();
    let now = rig.broker.now();
    let made =
        crate::http::sign::new_token(&rig.broker, &human("olivia"), &human("bob"), now, 60_000);
    let issued = Event::TokenIssued(made.event);
    rig.broker.commit(grantwright_store::Transition::authority(vec![issued])).await.unwrap();
    let secrets = [jwt.as_bytes(), signature.as_bytes(), b"p4ss-c4n4ry", made.token.as_bytes()];
    let seen = grantwright_testkit::canary::sightings(rig.dir(), &secrets).unwrap();
    assert!(seen.is_empty(), "{seen:?}");
    let known = grantwright_testkit::canary::sightings(rig.dir(), &[b"customers".as_slice()]);
    assert!(!known.unwrap().is_empty(), "the search sees what is there");
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
async fn invariant_28_open_requests_are_bounded_and_identical_ones_are_one() {
    let rig = Rig::new().await;
    let ask = |n: u32| rig.ask("export", &format!(r#"{{"dataset":"customers","rows":{n}}}"#), "");
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(id_of(&rig.issue(ask(n)).await.expect("pending")));
    }
    assert_eq!(rig.issue(ask(5)).await.expect_err("one more").code, "too_many_open");
    assert_eq!(id_of(&rig.issue(ask(0)).await.expect("joined")), ids[0], "also at the bound");
    let mut again = ask(1);
    again.idempotency_key = "k1".into();
    assert_eq!(id_of(&rig.issue(again).await.expect("joined, with a key")), ids[1]);
    check(&rig).await;
}

#[tokio::test]
async fn a_question_pauses_the_clock_and_voids_votes() {
    let rig = Rig::new().await;
    let id = id_of(&rig.issue(rig.ask("escalate", CUSTOMERS, "")).await.expect("pending"));
    let parsed = RequestId::parse(&id).unwrap();
    rig.approve("bob", &id).await.expect("approved");
    rig.act("carol", &id, Intention::Ask { text: "which ticket?".into() }).await.expect("asked");
    assert_eq!(
        rig.approve("bob", &id).await.expect_err("a question is open").code,
        "question_open"
    );
    let Some(outcome::State::Pending(p)) = rig.collect(&id).await.expect("pending").state else {
        panic!("not pending")
    };
    assert_eq!(p.question.map(|q| q.text).as_deref(), Some("which ticket?"));
    rig.clock.advance(1_800_000);
    let before = rig.broker.store.load(&parsed).await.unwrap().unwrap().state.deadline;
    let after =
        people::answer(&rig.broker, &rig.caller, &parsed, "T-1").await.expect("answered").state;
    assert_eq!(after.deadline.since(before), 1_800_000, "the pause is given back");
    assert!(
        after.votes.iter().all(|v| !v.live),
        "a vote that has not seen the answer does not count"
    );
    assert_eq!(
        people::answer(&rig.broker, &rig.caller, &parsed, "again")
            .await
            .expect_err("none open")
            .code,
        "no_question"
    );
    rig.approve("bob", &id).await.expect("again");
    rig.approve("carol", &id).await.expect("and carol");
    assert_eq!(word(&rig.collect(&id).await.expect("granted")), "granted");
    check(&rig).await;
}

#[tokio::test]
async fn a_question_and_a_vote_end_the_wait_of_a_call() {
    let rig = std::sync::Arc::new(Rig::new().await);
    let id = id_of(&rig.issue(rig.ask("export", EXPORT, "")).await.expect("pending"));
    let waits = |id: String| {
        let rig = std::sync::Arc::clone(&rig);
        tokio::spawn(async move {
            let id = RequestId::parse(&id).unwrap();
            super::collect(&rig.broker, &rig.caller, &id, 60_000, 0, false).await
        })
    };
    let waiting = waits(id.clone());
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    rig.act("bob", &id, Intention::Ask { text: "why?".into() }).await.expect("asked");
    let Some(outcome::State::Pending(p)) = waiting.await.unwrap().expect("pending").state else {
        panic!("not pending")
    };
    assert_eq!(p.question.map(|q| q.text).as_deref(), Some("why?"));
    let waiting = waits(id.clone());
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    rig.approve("bob", &id).await.expect("its asker may");
    assert_eq!(word(&waiting.await.unwrap().expect("collected")), "granted");
}

#[tokio::test]
async fn many_collect_at_once_and_one_mint_serves_them() {
    let rig = std::sync::Arc::new(Rig::new().await);
    for scope in ["export", "root-account"] {
        let params = if scope == "export" { EXPORT } else { CUSTOMERS };
        let id = id_of(&rig.issue(rig.ask(scope, params, "")).await.expect("pending"));
        rig.approve("bob", &id).await.expect("approved");
        let calls: Vec<_> = (0..16)
            .map(|_| {
                let (rig, id) = (std::sync::Arc::clone(&rig), id.clone());
                tokio::spawn(async move { rig.collect(&id).await })
            })
            .collect();
        for call in calls {
            let outcome = call.await.unwrap();
            assert_eq!(word(&outcome.expect("granted")), "granted");
        }
    }
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

#[tokio::test]
async fn invariant_12_two_steps_an_approval_counts_only_with_the_typed_fact() {
    let rig = Rig::new().await;
    let ask = rig.ask("two-step", r#"{"dataset":"customers","rows":10000}"#, "");
    let id = id_of(&rig.issue(ask).await.expect("pending"));
    let typed = |confirm: Option<&str>| Intention::Approve {
        reason: None,
        seen: None,
        confirm: confirm.map(str::to_owned),
    };
    for wrong in [None, Some(""), Some("yes"), Some("1000"), Some("customers"), Some("1e4")] {
        let refusal = rig.act("bob", &id, typed(wrong)).await.expect_err("not confirmed");
        assert_eq!(
            (refusal.status, refusal.code.as_str()),
            (403, "confirmation_required"),
            "{wrong:?}"
        );
        assert!(!refusal.detail.contains("10000"), "the fact is not given away");
    }
    let narrowed = |confirm: Option<&str>| Intention::Narrow {
        ttl_s: None,
        params: Some(serde_json::json!({"rows": 500})),
        confirm: confirm.map(str::to_owned),
    };
    let refusal = rig.act("bob", &id, narrowed(Some("10000"))).await.expect_err("the old fact");
    assert_eq!(refusal.code, "confirmation_required");
    let loaded = rig.act("carol", &id, narrowed(Some("500"))).await.expect("narrowed");
    assert_eq!(loaded.state.phase, Phase::Approved);
    let ask = rig.ask("two-step", r#"{"dataset":"orders","rows":10000}"#, "");
    let id = id_of(&rig.issue(ask).await.expect("pending"));
    let loaded = rig.act("bob", &id, typed(Some(" 10,000 "))).await.expect("confirmed");
    assert_eq!(loaded.state.phase, Phase::Approved);
    let said = loaded.leaves.iter().find_map(|(_, e)| match e {
        Event::Voted(v) => v.confirmed.clone(),
        _ => None,
    });
    assert_eq!(said.as_deref(), Some("rows"));
    assert_eq!(word(&rig.collect(&id).await.expect("collected")), "granted");
    check(&rig).await;
}

#[tokio::test]
async fn invariant_26_nothing_is_issued_by_a_clock_that_jumped() {
    let rig = Rig::new().await;
    rig.issue(rig.ask("read", CUSTOMERS, "k1")).await.expect("granted");
    let size = rig.broker.store.head().size;
    for ms in [31_000, -31_000] {
        rig.clock.jump(ms);
        for scope in ["read", "account", "export"] {
            let refused =
                rig.issue(rig.ask(scope, EXPORT, "k2")).await.expect_err("the clock jumped");
            assert_eq!(
                (refused.status, refused.code.as_str()),
                (503, "clock_jumped"),
                "{scope} {ms}"
            );
        }
        assert_eq!(rig.broker.store.head().size, size, "nothing was appended");
    }
    rig.clock.jump(0);
    rig.issue(rig.ask("read", CUSTOMERS, "k3")).await.expect("it agrees again");
}

#[tokio::test]
async fn invariant_08_an_intent_without_an_outcome_is_resolved_by_the_sweep() {
    let rig = Rig::new().await;
    rig.faults.push(Fault::None);
    rig.faults.push(Fault::BeforeCommit);
    rig.issue(rig.ask("account", CUSTOMERS, "k1")).await.expect_err("the outcome was not written");
    let left = rig.broker.store.unfinished().await.unwrap();
    let [id] = left.as_slice() else { panic!("{left:?}") };
    // While it is being minted here it is nobody else's.
    let minting = rig.broker.minting(id);
    end::sweep::once(&rig.broker).await.expect("swept");
    assert_eq!(rig.broker.store.unfinished().await.unwrap().len(), 1);
    drop(minting);
    end::sweep::once(&rig.broker).await.expect("swept");
    let loaded = rig.broker.store.load(id).await.unwrap().expect("it is there");
    assert_eq!(loaded.state.phase, Phase::Unknown);
    assert!(rig.broker.store.unfinished().await.unwrap().is_empty());
    check(&rig).await;
}

#[tokio::test]
async fn invariant_13_a_sticky_deny_survives_a_restart_behind_a_thousand_other_refusals() {
    let mut rig = Rig::new().await;
    let asked = rig.issue(rig.ask("export", EXPORT, "k1")).await.expect("pending");
    rig.act("bob", &id_of(&asked), deny()).await.expect("denied");
    for n in 0..1010 {
        let ask = rig.ask("never", CUSTOMERS, &format!("n{n}"));
        assert_eq!(rig.issue(ask).await.expect_err("forbidden").code, "denied");
    }
    rig.crash().await;
    let again = rig.issue(rig.ask("export", EXPORT, "k2")).await.expect_err("it sticks");
    assert_eq!(again.code, "denied");
    rig.clock.advance(rig.broker.config.deny_sticky_ms());
    rig.crash().await;
    rig.issue(rig.ask("export", EXPORT, "k3")).await.expect("asked anew");
}

/// Two asks that one deny would have met both are denied one after the other: the later deny counts, after a
/// restart too, which reads the earlier one last.
#[tokio::test]
async fn invariant_13_the_latest_deny_says_how_long_it_sticks() {
    let mut rig = Rig::new().await;
    let ask = |rig: &Rig, workload: &str| grantwright_wire::v1::AskRequest {
        workload: workload.into(),
        ..rig.ask("export", EXPORT, "")
    };
    let first = id_of(&rig.issue(ask(&rig, "uid:1")).await.expect("pending"));
    let second = id_of(&rig.issue(ask(&rig, "uid:2")).await.expect("pending"));
    let sticky = rig.broker.config.deny_sticky_ms();
    rig.act("bob", &first, deny()).await.expect("denied");
    rig.clock.advance(sticky / 2);
    rig.act("carol", &second, deny()).await.expect("denied");
    rig.clock.advance(sticky / 4);
    rig.crash().await;
    rig.clock.advance(sticky / 2);
    let again = rig.issue(ask(&rig, "uid:3")).await.expect_err("it sticks");
    assert_eq!(again.code, "denied");
    rig.clock.advance(sticky / 4);
    rig.issue(ask(&rig, "uid:3")).await.expect("asked anew");
    end::sweep::once(&rig.broker).await.expect("swept");
    assert!(rig.broker.denies.lock().unwrap().is_empty());
}

#[tokio::test]
async fn invariant_28_streams_of_one_sidecar_are_bounded() {
    let rig = Rig::new().await;
    let open: Vec<_> = (0..8).map(|_| rig.broker.stream(&rig.caller.instance).unwrap()).collect();
    let refused = rig.broker.stream(&rig.caller.instance).err().expect("one too many");
    assert_eq!((refused.status, refused.code.as_str()), (429, "too_many_streams"));
    drop(open);
    rig.broker.stream(&rig.caller.instance).map(drop).expect("there is room again");
}

/// Each ask under way holds one, and moves it: what is rare is boxed, and what is large.
#[tokio::test]
async fn the_future_of_an_ask_is_small() {
    let rig = Rig::new().await;
    let ask = super::issue(&rig.broker, &rig.caller, rig.ask("read", CUSTOMERS, "k1"));
    assert!(size_of_val(&ask) <= 3072, "{} bytes", size_of_val(&ask));
    ask.await.expect("granted");
}
