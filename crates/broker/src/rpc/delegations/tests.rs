//! A right that is handed on: who may approve what is asked under it, whose policy decides, and how all
//! of it ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use grantwright_domain::event::{AgentRevoked, AgentSet, InstanceRevoked};
use grantwright_domain::request::LeaseState;
use grantwright_domain::{AgentId, Event, InstanceId, RequestId, RequestState, VerdictKind};
use grantwright_store::Transition;
use grantwright_wire::Refusal;
use grantwright_wire::v1::{AskRequest, DelegateRequest, Outcome, outcome};
use serde_json::{Value, json};

use super::{delegate, end, list};
use crate::core::Caller;
use crate::issue::rig::{Rig, human, id_of, word};
use crate::{end as ends, issue};

const CUSTOMERS: &str = r#"{"dataset":"customers"}"#;
const ORDERS: &str = r#"{"dataset":"orders"}"#;
const EXPORT: &str = r#"{"dataset":"customers","rows":10}"#;

/// `etl` is alice's, `planner` bob's, `router` erin's. alice, bob and carol review.
struct World {
    rig: Rig,
    planner: Caller,
    router: Caller,
}

impl World {
    async fn new() -> Self {
        let rig = Rig::new().await;
        let planner = rig.enrol("planner", "bob", 3).await;
        let router = rig.enrol("router", "erin", 4).await;
        Self { rig, planner, router }
    }

    async fn hand(&self, by: &Caller, to: &str, scopes: Value) -> Result<Value, Refusal> {
        self.hand_on(by, to, scopes, "", 0, 0).await
    }

    async fn hand_on(
        &self,
        by: &Caller,
        to: &str,
        scopes: Value,
        parent: &str,
        ttl_s: u32,
        passes: u32,
    ) -> Result<Value, Refusal> {
        let ask = DelegateRequest {
            to: to.into(),
            parent: parent.into(),
            scopes_jcs: grantwright_domain::canonical::to_bytes(&scopes).unwrap(),
            ttl_s,
            passes,
        };
        let made = delegate(&self.rig.broker, by, ask).await?;
        Ok(serde_json::from_slice(&made.delegation_json).unwrap())
    }

    /// `planner` hands this to `etl`; the delegation's id.
    async fn handed(&self, scopes: Value) -> String {
        id(&self.hand(&self.planner, "etl", scopes).await.expect("handed on"))
    }

    fn under(&self, delegation: &str, scope: &str, params: &str) -> AskRequest {
        AskRequest { delegation: delegation.into(), ..self.rig.ask(scope, params, "") }
    }

    async fn ask(&self, delegation: &str, scope: &str, params: &str) -> Result<Outcome, Refusal> {
        self.rig.issue(self.under(delegation, scope, params)).await
    }

    async fn state(&self, id: &str) -> RequestState {
        let id = RequestId::parse(id).unwrap();
        self.rig.broker.store.load(&id).await.unwrap().unwrap().state
    }

    async fn commit(&self, event: Event) {
        self.rig.broker.commit(Transition::authority(vec![event])).await.unwrap();
    }
}

fn id(delegation: &Value) -> String {
    delegation["delegation_id"].as_str().unwrap().to_owned()
}

fn code(result: Result<Outcome, Refusal>) -> String {
    match result {
        Ok(outcome) => word(&outcome),
        Err(refusal) => refusal.code,
    }
}

#[tokio::test]
async fn invariant_10_the_owner_of_no_agent_along_the_chain_approves() {
    let world = World::new().await;
    let rig = &world.rig;
    let first = world
        .hand_on(&world.router, "planner", json!({"export": {}}), "", 0, 1)
        .await
        .expect("router to planner");
    let second = world
        .hand_on(&world.planner, "etl", json!({"export": {}}), &id(&first), 0, 0)
        .await
        .expect("planner to etl");
    assert_eq!(second["chain"], json!(["router", "planner"]));
    let request = id_of(&world.ask(&id(&second), "export", EXPORT).await.expect("pending"));
    let state = world.state(&request).await;
    assert_eq!(state.terms.delegation, ["router", "planner"].map(|a| AgentId::parse(a).unwrap()));
    assert_eq!(state.terms.delegation_id.as_ref().unwrap().as_str(), id(&second));
    // Every reviewer sees the whole chain.
    let loaded = rig.broker.store.load(&state.terms.request_id).await.unwrap().unwrap();
    let shown = crate::http::view::request(&rig.broker, &loaded);
    assert_eq!(shown["card"]["who"]["delegation"], json!(["router", "planner"]));
    for (owner, code) in [("bob", "delegate_approval"), ("alice", "self_approval")] {
        assert_eq!(rig.approve(owner, &request).await.expect_err(owner).code, code);
    }
    // erin owns the router, and becomes a reviewer in the meantime.
    let members = ["alice", "bob", "carol", "erin"].map(human).into();
    world
        .commit(Event::GroupSet(grantwright_domain::event::GroupSet {
            at: rig.broker.now(),
            by: human("olivia"),
            group: grantwright_domain::GroupName::parse("reviewers").unwrap(),
            members,
        }))
        .await;
    assert_eq!(rig.approve("erin", &request).await.expect_err("erin").code, "delegate_approval");
    rig.approve("carol", &request).await.expect("carol owns none of them");
    assert_eq!(word(&rig.collect(&request).await.expect("granted")), "granted");
    rig.fold().await;
}

#[tokio::test]
async fn invariant_10_whose_agent_handed_it_on_does_not_approve_after_giving_the_agent_away() {
    let world = World::new().await;
    let rig = &world.rig;
    let delegation = world.handed(json!({"export": {}})).await;
    rig.clock.advance(1000);
    world
        .commit(Event::AgentSet(AgentSet {
            at: rig.broker.now(),
            by: human("olivia"),
            agent: world.planner.agent.clone(),
            owner: human("erin"),
            attributes: Default::default(),
        }))
        .await;
    rig.clock.advance(1000);
    let request = id_of(&world.ask(&delegation, "export", EXPORT).await.expect("pending"));
    assert_eq!(rig.approve("bob", &request).await.expect_err("bob").code, "delegate_approval");
    rig.approve("carol", &request).await.expect("carol never owned it");
    // What is handed on from now on is none of bob's.
    let delegation = world.handed(json!({"export": {}})).await;
    const OTHER: &str = r#"{"dataset":"orders","rows":10}"#;
    let request = id_of(&world.ask(&delegation, "export", OTHER).await.expect("pending"));
    rig.approve("bob", &request).await.expect("it is erin's planner");
    rig.fold().await;
}

#[tokio::test]
async fn who_passed_it_on_must_have_the_right_too() {
    let world = World::new().await;
    let rig = &world.rig;
    rig.load_policy(
        r#"
@id("planner-asks") @quorum("1") @approvers("reviewers") @strength("chat") @channels("api") @max_ttl("5m")
permit (principal == Agent::"planner", action == Action::"issueAfterApproval", resource == Scope::"read");
@id("planner-never") forbid (principal == Agent::"planner", action, resource == Scope::"account");
@id("not-through") forbid (principal == Agent::"etl", action, resource == Scope::"listed")
when { context.delegation.contains("planner") && context.delegation_depth == 1 };
"#,
    )
    .await;
    let scopes = json!({"read": {}, "account": {}, "listed": {}});
    let delegation = world.handed(scopes).await;
    for scope in ["read", "account", "listed"] {
        assert_eq!(
            code(world.ask("", scope, CUSTOMERS).await),
            "granted",
            "{scope}: its own right"
        );
    }
    // Its own 15 minutes are longer than the planner's 5.
    assert_eq!(code(world.ask(&delegation, "read", CUSTOMERS).await), "ttl_too_long");
    let short = AskRequest { ttl_s: 300, ..world.under(&delegation, "read", CUSTOMERS) };
    let request = id_of(&rig.issue(short).await.expect("people are asked"));
    let verdict = world.state(&request).await.verdict.expect("decided");
    assert_eq!((verdict.kind, verdict.quorum, verdict.max_ttl_s), (VerdictKind::Ask, 1, 300));
    assert!(verdict.reason.starts_with("through `planner`: "), "{}", verdict.reason);
    assert!(["read", "planner-asks"].iter().all(|p| verdict.policies.contains(*p)));
    for scope in ["account", "listed"] {
        assert_eq!(code(world.ask(&delegation, scope, CUSTOMERS).await), "denied", "{scope}");
    }
    // The planner itself is asked of as the verdict above was.
    let mine = AskRequest { ttl_s: 300, ..world.under("", "read", CUSTOMERS) };
    let asked = issue::issue(&rig.broker, &world.planner, mine).await.expect("pending");
    assert_eq!(word(&asked), "pending");
}

#[tokio::test]
async fn an_ask_stays_within_what_was_handed_on() {
    let world = World::new().await;
    let scopes = json!({
        "read": {"params": {"dataset": "customers"}, "ttl_s": 60},
        "export": {"params": {"rows": 10}},
    });
    let delegation = world.handed(scopes).await;
    let Some(outcome::State::Granted(granted)) =
        world.ask(&delegation, "read", CUSTOMERS).await.expect("granted").state
    else {
        panic!("not granted")
    };
    let now = world.rig.broker.now().millis();
    assert_eq!(granted.expires_at_ms - now, 60_000, "absent: as long as was handed on");
    for (scope, params) in [
        ("read", r#"{"dataset":"orders"}"#),
        ("export", r#"{"dataset":"customers","rows":11}"#),
        ("account", CUSTOMERS),
    ] {
        assert_eq!(
            code(world.ask(&delegation, scope, params).await),
            "delegation_wider",
            "{scope}"
        );
    }
    let long = AskRequest { ttl_s: 61, ..world.under(&delegation, "read", CUSTOMERS) };
    assert_eq!(code(world.rig.issue(long).await), "delegation_wider");
    assert_eq!(code(world.ask(&delegation, "export", EXPORT).await), "pending");
    // Another agent's delegation is not found, and neither is one that there is not.
    for (caller, delegation) in
        [(&world.router, delegation.as_str()), (&world.planner, delegation.as_str())]
    {
        let ask = world.under(delegation, "read", CUSTOMERS);
        let refused = issue::issue(&world.rig.broker, caller, ask).await.expect_err("foreign");
        assert_eq!((refused.status, refused.code.as_str()), (404, "delegation_unknown"));
    }
    assert_eq!(code(world.ask("d-none", "read", CUSTOMERS).await), "delegation_unknown");
    // Nothing that is issued outlives it.
    world.rig.clock.advance(3_600_000 - 30_000);
    let Some(outcome::State::Granted(granted)) =
        world.ask(&delegation, "read", CUSTOMERS).await.expect("granted").state
    else {
        panic!("not granted")
    };
    assert!(granted.expires_at_ms - world.rig.broker.now().millis() <= 30_000);
    world.rig.clock.advance(30_000);
    assert_eq!(code(world.ask(&delegation, "read", CUSTOMERS).await), "delegation_ended");
    world.rig.fold().await;
}

#[tokio::test]
async fn what_is_malformed_or_wider_is_not_handed_on() {
    let world = World::new().await;
    for (to, scopes, code) in [
        ("Not An Agent", json!({"read": {}}), "malformed"),
        ("nobody", json!({"read": {}}), "delegate_unknown"),
        ("planner", json!({"read": {}}), "delegation_cycle"),
        ("etl", json!([]), "malformed"),
        ("etl", json!({}), "delegation_wider"),
        ("etl", json!({"nothing": {}}), "unknown_scope"),
        ("etl", json!({"read": []}), "malformed"),
        ("etl", json!({"read": {"more": 1}}), "malformed"),
        ("etl", json!({"read": {"ttl_s": -1}}), "malformed"),
        ("etl", json!({"read": {"ttl_s": 901}}), "delegation_wider"),
        ("etl", json!({"read": {"params": {"dataset": "*"}}}), "bad_params"),
        ("etl", json!({"read": {"params": {"table": "x"}}}), "bad_params"),
    ] {
        let refused = world.hand(&world.planner, to, scopes.clone()).await.expect_err(code);
        assert_eq!(refused.code, code, "{to} {scopes}: {}", refused.detail);
    }
    // Bounds that are not named again are handed down; wider ones are refused.
    let scopes = json!({"export": {"params": {"rows": 10}, "ttl_s": 120}});
    let first = world.hand_on(&world.planner, "etl", scopes, "", 600, 1).await.expect("handed on");
    let etl = &world.rig.caller;
    let second =
        world.hand_on(etl, "router", json!({"export": {}}), &id(&first), 0, 0).await.expect("on");
    assert_eq!(second["scopes"], json!({"export": {"params": {"rows": 10}, "ttl_s": 120}}));
    assert_eq!(
        (&second["expires_at"], &second["parent"]),
        (&first["expires_at"], &first["delegation_id"])
    );
    for (scopes, ttl_s) in [
        (json!({"export": {"params": {"rows": 11}}}), 0),
        (json!({"export": {"ttl_s": 121}}), 0),
        (json!({"export": {}}), 601),
        (json!({"read": {}}), 0),
    ] {
        let refused = world
            .hand_on(etl, "router", scopes.clone(), &id(&first), ttl_s, 0)
            .await
            .expect_err("wider");
        assert_eq!(refused.code, "delegation_wider", "{scopes}");
    }
    let foreign =
        world.hand_on(&world.router, "etl", json!({"export": {}}), &id(&first), 0, 0).await;
    assert_eq!(foreign.expect_err("not the router's").code, "delegation_unknown");
}

#[tokio::test]
async fn the_end_of_a_delegation_ends_all_that_was_asked_under_it() {
    let world = World::new().await;
    let rig = &world.rig;
    let delegation = world.handed(json!({"account": {}, "export": {}, "escalate": {}})).await;
    let lease = id_of(&world.ask(&delegation, "account", CUSTOMERS).await.expect("granted"));
    let own = id_of(&world.ask("", "account", CUSTOMERS).await.expect("its own"));
    let pending = id_of(&world.ask(&delegation, "escalate", CUSTOMERS).await.expect("pending"));
    let approved = id_of(&world.ask(&delegation, "export", EXPORT).await.expect("pending"));
    rig.approve("carol", &approved).await.expect("approved");
    // Who is not of its chain does not find it.
    let refused = end(&rig.broker, &world.router, &delegation).await.expect_err("foreign");
    assert_eq!((refused.status, refused.code.as_str()), (404, "delegation_unknown"));
    let ended = end(&rig.broker, &world.planner, &delegation).await.expect("ended");
    let ended: Value = serde_json::from_slice(&ended.delegation_json).unwrap();
    assert_eq!(ended["state"], "ended");
    assert_eq!(world.state(&lease).await.lease.unwrap().state, LeaseState::Revoked);
    assert_eq!(world.state(&own).await.lease.unwrap().state, LeaseState::Live, "its own right");
    assert_eq!(rig.backend.revoked.load(Ordering::SeqCst), 1);
    for id in [&pending, &approved] {
        assert_eq!(code(rig.collect(id).await), "cancelled");
    }
    assert_eq!(code(world.ask(&delegation, "account", CUSTOMERS).await), "delegation_ended");
    end(&rig.broker, &world.planner, &delegation).await.expect("twice changes nothing");
    let listed = list(&rig.broker, &rig.caller);
    assert_eq!(listed.delegations_json.len(), 1);
    assert_eq!(list(&rig.broker, &world.router).delegations_json.len(), 0);
    rig.fold().await;
}

#[tokio::test]
async fn invariant_28_what_somebody_spoilt_keeps_no_other_lease_from_its_end() {
    let world = World::new().await;
    let rig = &world.rig;
    let delegation = world.handed(json!({"account": {}, "escalate": {}})).await;
    let first = id_of(&world.ask(&delegation, "account", CUSTOMERS).await.expect("granted"));
    let pending = id_of(&world.ask(&delegation, "escalate", CUSTOMERS).await.expect("pending"));
    let spoilt = id_of(&world.ask(&delegation, "account", ORDERS).await.expect("granted"));
    let connection = rusqlite::Connection::open(rig.dir().join("store.db")).unwrap();
    for id in [&pending, &spoilt] {
        let sql = "UPDATE requests SET leaf_list = ',x' WHERE id = ?1";
        assert_eq!(connection.execute(sql, [id.as_str()]).unwrap(), 1);
    }
    end(&rig.broker, &world.planner, &delegation).await.expect("ended");
    assert_eq!(world.state(&first).await.lease.unwrap().state, LeaseState::Revoked);
    assert!(rig.broker.counts.faulty.load(Ordering::Relaxed) >= 2, "told");
    // It is tried again for as long as it is so.
    let now = rig.broker.now();
    ends::delegated::settle(&rig.broker, now).await.expect_err("not all of it ended");
}

#[tokio::test]
async fn a_delegation_that_ends_between_approval_and_mint_is_not_minted_under() {
    let world = World::new().await;
    let rig = &world.rig;
    let delegation = world.handed(json!({"root-account": {}})).await;
    let request = id_of(&world.ask(&delegation, "root-account", CUSTOMERS).await.expect("pending"));
    rig.approve("carol", &request).await.expect("approved");
    // Its leaf is in the log, and nothing has been settled yet.
    world
        .commit(Event::DelegationEnded(grantwright_domain::event::DelegationEnded {
            at: rig.broker.now(),
            delegation_id: grantwright_domain::DelegationId::parse(&delegation).unwrap(),
            agent: None,
            human: Some(human("bob")),
        }))
        .await;
    assert_eq!(code(rig.collect(&request).await), "delegation_ended");
    assert!(rig.backend.minted.lock().unwrap().is_empty());
    ends::sweep::once(&rig.broker).await.expect("sweeps");
    assert_eq!(code(rig.collect(&request).await), "cancelled");
}

/// By whoever revokes the agent that handed it on, and by the sweep, where that was not done to its end.
#[tokio::test]
async fn invariant_24_what_was_handed_on_ends_while_a_backend_of_others_does_not_answer() {
    for swept in [false, true] {
        let world = World::new().await;
        let rig = &world.rig;
        let delegation = world.handed(json!({"listed": {}})).await;
        let request = id_of(&world.ask(&delegation, "listed", CUSTOMERS).await.expect("granted"));
        let lease = world.state(&request).await.lease.unwrap().id;
        let own = rig.ask("account", ORDERS, "");
        issue::issue(&rig.broker, &world.planner, own).await.expect("granted");
        rig.backend.deaf.store(true, Ordering::SeqCst);
        let (broker, agent) = (Arc::clone(&rig.broker), world.planner.agent.clone());
        if swept {
            // Nobody acknowledged the planner's own: that ends with the same sweep.
            rig.clock.advance(120_001);
            world
                .commit(Event::DelegationEnded(grantwright_domain::event::DelegationEnded {
                    at: rig.broker.now(),
                    delegation_id: grantwright_domain::DelegationId::parse(&delegation).unwrap(),
                    agent: None,
                    human: Some(human("bob")),
                }))
                .await;
            tokio::spawn(ends::sweep::run(broker));
        } else {
            let (at, by) = (rig.broker.now(), human("olivia"));
            world.commit(Event::AgentRevoked(AgentRevoked { at, by, agent: agent.clone() })).await;
            tokio::spawn(async move { ends::end_agent(&broker, &agent, None, "olivia").await });
        }
        let published = async {
            while !rig.broker.ended.has(&lease) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let published = tokio::time::timeout(Duration::from_secs(30), published).await;
        published.unwrap_or_else(|_| panic!("it waits for the backend; swept: {swept}"));
        rig.fold().await;
    }
}

#[tokio::test]
async fn invariant_24_with_an_agent_or_its_sidecar_ends_what_it_handed_on() {
    let agent = |world: &World| {
        Event::AgentRevoked(AgentRevoked {
            at: world.rig.broker.now(),
            by: human("olivia"),
            agent: world.planner.agent.clone(),
        })
    };
    let sidecar = |world: &World| {
        Event::InstanceRevoked(InstanceRevoked {
            at: world.rig.broker.now(),
            by: "broker".into(),
            instance: InstanceId::parse("i-3").unwrap(),
            reason: "its key was copied".into(),
        })
    };
    for revoked in [&agent as &dyn Fn(&World) -> Event, &sidecar] {
        let mut world = World::new().await;
        let delegation = world.handed(json!({"account": {}})).await;
        let lease = id_of(&world.ask(&delegation, "account", CUSTOMERS).await.expect("granted"));
        let event = revoked(&world);
        world.commit(event).await;
        assert_eq!(code(world.ask(&delegation, "account", CUSTOMERS).await), "delegation_ended");
        // The broker that should have ended the lease dies; the next one does.
        world.rig.crash().await;
        ends::sweep::once(&world.rig.broker).await.expect("sweeps");
        assert_eq!(world.state(&lease).await.lease.unwrap().state, LeaseState::Revoked);
        world.rig.fold().await;
    }
}

/// The planner's owner approves nothing of the planner's, says policy; its seniors approve all of it.
const PLANNERS: &str = r#"
@id("seniors-only") @reason("only seniors approve for the planner")
forbid (principal, action == Action::"approve", resource)
when { context.agent == Agent::"planner" } unless { principal in Group::"seniors" };
"#;

#[tokio::test]
async fn invariant_10_policy_lets_people_approve_for_every_agent_along_the_chain() {
    let world = World::new().await;
    let rig = &world.rig;
    rig.load_policy(PLANNERS).await;
    let seniors = |members: &[&str]| {
        Event::GroupSet(grantwright_domain::event::GroupSet {
            at: rig.broker.now(),
            by: human("olivia"),
            group: grantwright_domain::GroupName::parse("seniors").unwrap(),
            members: members.iter().map(|m| human(m)).collect(),
        })
    };
    world.commit(seniors(&[])).await;
    let delegation = world.handed(json!({"export": {}})).await;
    let own = id_of(&world.ask("", "export", EXPORT).await.expect("pending"));
    let through = id_of(&world.ask(&delegation, "export", EXPORT).await.expect("pending"));
    let refused = rig.approve("carol", &through).await.expect_err("not for the planner");
    assert_eq!((refused.status, refused.code.as_str()), (403, "approve_forbidden"));
    assert!(refused.detail.contains("through `planner`: only seniors approve"), "{refused:?}");
    rig.approve("carol", &own).await.expect("for the etl alone she does");
    world.commit(seniors(&["carol"])).await;
    rig.approve("carol", &through).await.expect("she is a senior");
    // Between her vote and the collection she is one no longer: it waits for another.
    world.commit(seniors(&[])).await;
    assert_eq!(word(&rig.collect(&through).await.expect("looked at")), "pending");
    let excluded = world.state(&through).await.excluded;
    assert_eq!(excluded, [human("carol")].into());
    rig.fold().await;
}

#[tokio::test]
async fn invariant_13_a_deny_sticks_along_the_chain_both_ways() {
    let world = World::new().await;
    let rig = &world.rig;
    let deny = || crate::people::Intention::Deny { reason: None, reason_code: String::new() };
    let delegation = world.handed(json!({"export": {}})).await;
    let ask = |params: &str| world.under("", "export", params);
    let asked = |params: &str| AskRequest { delegation: delegation.clone(), ..ask(params) };
    // The planner is denied, and sends the etl.
    let denied = issue::issue(&rig.broker, &world.planner, ask(EXPORT)).await.expect("pending");
    rig.act("carol", &id_of(&denied), deny()).await.expect("denied");
    assert_eq!(code(rig.issue(asked(EXPORT)).await), "denied", "asked through the etl");
    assert_eq!(code(rig.issue(ask(EXPORT)).await), "pending", "the etl's own right is its own");
    // The etl is denied what it asked for the planner, which asks for itself.
    const OTHER: &str = r#"{"dataset":"orders","rows":10}"#;
    let denied = rig.issue(asked(OTHER)).await.expect("pending");
    rig.act("carol", &id_of(&denied), deny()).await.expect("denied");
    let planners = issue::issue(&rig.broker, &world.planner, ask(OTHER)).await;
    assert_eq!(code(planners), "denied", "asked by who had sent it");
    assert_eq!(code(rig.issue(ask(OTHER)).await), "denied", "asked by who was sent");
    // Or sends somebody else.
    let other = world.hand(&world.planner, "router", json!({"export": {}})).await.expect("handed");
    let through = AskRequest { delegation: id(&other), ..ask(OTHER) };
    assert_eq!(code(issue::issue(&rig.broker, &world.router, through).await), "denied");
    let own = issue::issue(&rig.broker, &world.router, ask(OTHER)).await;
    assert_eq!(code(own), "pending", "who had no part in it");
}

#[tokio::test]
async fn invariant_13_a_deny_of_sensitive_parameters_sticks_along_the_chain_and_over_a_restart() {
    let mut world = World::new().await;
    let deny = crate::people::Intention::Deny { reason: None, reason_code: String::new() };
    const ANN: &str = r#"{"customer":"ann"}"#;
    const BEN: &str = r#"{"customer":"ben"}"#;
    let delegation = world.handed(json!({"lookup": {}})).await;
    let denied = id_of(&world.ask(&delegation, "lookup", ANN).await.expect("pending"));
    world.rig.act("carol", &denied, deny).await.expect("denied");
    for restarted in [false, true] {
        if restarted {
            world.rig.crash().await;
        }
        let ask = |params: &str| world.under("", "lookup", params);
        let planners = issue::issue(&world.rig.broker, &world.planner, ask(ANN)).await;
        assert_eq!(code(planners), "denied", "{restarted}");
        assert_eq!(code(world.rig.issue(ask(ANN)).await), "denied", "{restarted}");
    }
    let other = world.under("", "lookup", BEN);
    let other = issue::issue(&world.rig.broker, &world.planner, other).await;
    assert_eq!(code(other), "pending", "of somebody else");
}

#[tokio::test]
async fn people_decide_in_time_for_the_delegation_or_not_at_all() {
    let world = World::new().await;
    let rig = &world.rig;
    let made = world.hand_on(&world.planner, "etl", json!({"export": {}}), "", 600, 0).await;
    let delegation = id(&made.expect("for ten minutes"));
    let ask = |ttl_s: u32| AskRequest { ttl_s, ..world.under(&delegation, "export", EXPORT) };
    // Five minutes of ten: people have the other five, whatever else they would have.
    let request = id_of(&rig.issue(ask(300)).await.expect("pending"));
    let state = world.state(&request).await;
    assert_eq!(state.deadline.since(state.requested_at), 300_000);
    // A question defers the deadline, not the delegation's end.
    let asks = crate::people::Intention::Ask { text: "which table?".into() };
    rig.act("carol", &request, asks).await.expect("asked");
    rig.clock.advance(299_000);
    crate::people::answer(
        &rig.broker,
        &rig.caller,
        &RequestId::parse(&request).unwrap(),
        "customers",
    )
    .await
    .expect("answered");
    rig.clock.advance(2_000);
    let late = rig.approve("carol", &request).await.expect_err("it could not be minted");
    assert_eq!((late.status, late.code.as_str()), (403, "delegation_wider"));
    assert!(late.detail.contains("is longer than delegation"), "{late:?}");
    assert!(late.next.contains("narrow"), "{late:?}");
    // Narrower, it is.
    let narrow = crate::people::Intention::Narrow { ttl_s: Some(60), params: None, confirm: None };
    rig.act("carol", &request, narrow).await.expect("narrowed, and approved");
    // Nobody collects it until it cannot be minted any more.
    rig.clock.advance(240_000);
    let late = rig.collect(&request).await.expect_err("too late");
    assert_eq!((late.status, late.code.as_str()), (403, "delegation_wider"));
    let ended = rig.collect(&request).await.expect("looked at");
    assert_eq!(word(&ended), "cancelled");
    let Some(outcome::State::Ended(ended)) = ended.state else { panic!("not ended") };
    assert!(ended.reason.contains("the delegation under which it was asked"), "{}", ended.reason);
    // People are not asked who have no time.
    let refused = rig.issue(ask(50)).await.expect_err("nobody could decide");
    assert_eq!((refused.status, refused.code.as_str()), (403, "delegation_wider"));
    assert!(refused.detail.contains("no time"), "{refused:?}");
    rig.fold().await;
}

#[tokio::test]
async fn invariant_26_no_credential_outlives_its_delegation_however_long_its_backend_takes() {
    let world = World::new().await;
    let rig = &world.rig;
    let scopes = json!({"read": {}, "account": {}});
    let made = world.hand_on(&world.planner, "etl", scopes, "", 600, 0).await;
    let delegation = id(&made.expect("for ten minutes"));
    let ask = |scope: &str, ttl_s: u32| AskRequest {
        ttl_s,
        ..world.under(&delegation, scope, CUSTOMERS)
    };
    // What the broker signs itself takes no time; a backend is given some.
    assert_eq!(code(rig.issue(ask("read", 600)).await), "granted");
    let refused = rig.issue(ask("account", 571)).await.expect_err("no time for the backend");
    assert_eq!((refused.status, refused.code.as_str()), (403, "delegation_wider"));
    assert!(refused.detail.contains("the backend may take"), "{refused:?}");
    // One that takes longer all the same: what it made is ended, and nobody gets it.
    rig.backend.takes.store(31_000, Ordering::SeqCst);
    let refused = rig.issue(ask("account", 570)).await.expect_err("it came too late");
    assert_eq!(refused.code, "delegation_outlived");
    assert_eq!(rig.backend.revoked.load(Ordering::SeqCst), 1);
    rig.backend.takes.store(0, Ordering::SeqCst);
    ends::sweep::once(&rig.broker).await.expect("its outcome is told");
    assert_eq!(code(rig.issue(ask("account", 500)).await), "granted");
    rig.fold().await;
}
