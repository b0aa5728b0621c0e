//! What is written before what leaves, and what a fault at any commit leaves behind.

use grantwright_domain::{Event, Phase, RequestId};
use grantwright_store::Fault;
use grantwright_wire::v1::{granted::Delivery, outcome};

use super::{CUSTOMERS, EXPORT, check};
use crate::end;
use crate::issue::rig::{Answer, Rig, human, id_of, word};

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
