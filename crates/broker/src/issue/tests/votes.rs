//! Who may approve, what a vote is bound to, and that rights hold when it is collected.

use grantwright_domain::{Event, Phase, RequestId};
use grantwright_wire::v1::outcome;

use super::{CUSTOMERS, EXPORT, check, deny, narrow};
use crate::end;
use crate::issue::rig::{Rig, human, id_of, word};
use crate::people::Intention;

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
