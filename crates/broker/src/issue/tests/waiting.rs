//! Denies that stick, questions, ends by time, and bounds.

use grantwright_domain::RequestId;
use grantwright_wire::v1::outcome;

use super::{CUSTOMERS, EXPORT, check, deny, narrow};
use crate::issue::rig::{Rig, id_of, word};
use crate::people::Intention;
use crate::{end, people};

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
    let ends = [
        (&denied, "denied"),
        (&cancelled, "cancelled"),
        (&expired, "expired"),
        (&uncollected, "expired"),
    ];
    for (id, want) in ends {
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
    for (id, want) in ends {
        assert_eq!(word(&rig.collect(id).await.expect("its end")), want);
    }
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
            crate::issue::collect(&rig.broker, &rig.caller, &id, 60_000, 0, false).await
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
    let ask = crate::issue::issue(&rig.broker, &rig.caller, rig.ask("read", CUSTOMERS, "k1"));
    assert!(size_of_val(&ask) <= 3072, "{} bytes", size_of_val(&ask));
    ask.await.expect("granted");
}
