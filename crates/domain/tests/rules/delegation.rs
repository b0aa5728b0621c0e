//! Who may hand what to whom, and what may be asked under it. Every hostile variation is refused.

use grantwright_domain::event::{
    AgentRevoked, Decided, Delegated, DelegationEnded, InstanceRevoked, Intended, Issued, Renewed,
    Requested,
};
use grantwright_domain::{
    Digest, Event, LeaseId, ParamValue, Phase, RequestState, Rights, State, Strength, Terms,
    Verdict, VerdictKind,
};

use crate::world::{
    AGENTS, DAY_MS, agent, at, delegation, enrol, export, furnished, handed, human, instance, join,
    policy, request, set_agent, terms,
};

/// The world, where `planner` (bob's), `router` (frank's) and `worker` (carol's) are enrolled too.
fn world() -> State {
    let mut state = furnished();
    let mut events = vec![set_agent("root", "worker", "carol", 0)];
    for (n, name) in ["planner", "router", "worker"].iter().enumerate() {
        let (id, serial) = (n + 2, format!("e{n}"));
        events.push(join(&format!("j-{id}"), 0xe0 + n as u8, name, 0, 60_000));
        events.push(enrol(&format!("j-{id}"), name, &format!("i-{id}"), &serial, 0));
    }
    for event in &events {
        taken(&mut state, event);
    }
    state
}

fn taken(state: &mut State, event: &Event) {
    state.apply(event).unwrap_or_else(|v| panic!("{event:?}: {v:?}"));
}

fn refused(state: &State, event: &Event, code: &str) {
    let violation = state.clone().apply(event).expect_err(code);
    assert_eq!(violation.code, code, "{event:?}: {violation}");
}

/// The planner's right, for the router, to be passed on `passes` times.
fn first(passes: u32) -> Delegated {
    Delegated { passes, ..handed("d-1", ("planner", "i-2"), "router", 1) }
}

/// What the router passes on of it.
fn second() -> Delegated {
    Delegated {
        parent: Some(delegation("d-1")),
        expires_at: at(DAY_MS),
        ..handed("d-2", ("router", "i-3"), AGENTS[0], 2)
    }
}

fn bound(e: &mut Delegated, name: &str, value: ParamValue) {
    let bounds = e.scopes.get_mut(&export().name).expect("handed on");
    bounds.params.insert(name.into(), value);
}

fn text(value: &str) -> ParamValue {
    ParamValue::Text(value.into())
}

fn under(id: &str, chain: &[&str], ms: i64) -> Terms {
    let mut terms = terms("r-1", at(ms), 900);
    terms.delegation_id = Some(delegation(id));
    terms.delegation = chain.iter().map(|a| agent(a)).collect();
    terms
}

fn asks(terms: &Terms, ms: i64) -> Event {
    let digest = terms.digest().expect("a digest");
    let request_id = terms.request_id.clone();
    Event::Requested(Requested {
        at: at(ms),
        digest,
        request_id,
        renews: None,
        terms: terms.clone(),
    })
}

fn allowed(terms: &Terms, ms: i64) -> Event {
    let verdict = Verdict {
        kind: VerdictKind::Allow,
        code: String::new(),
        reason: String::new(),
        policies: Default::default(),
        policy_set: policy(0),
        quorum: 0,
        strength: Strength::Chat,
        channels: Default::default(),
        approvers: Default::default(),
        max_ttl_s: 900,
    };
    Event::Decided(Decided {
        at: at(ms),
        digest: terms.digest().expect("a digest"),
        request_id: request("r-1"),
        verdict,
        attributes: Default::default(),
        context: Default::default(),
        chain: Vec::new(),
        excluded: Default::default(),
        again: false,
        unusual: Vec::new(),
        past: None,
    })
}

fn intends(terms: &Terms, ms: i64) -> Event {
    Event::Intended(Intended {
        at: at(ms),
        digest: terms.digest().expect("a digest"),
        request_id: request("r-1"),
        minter: "jwt".into(),
        approvers: Default::default(),
    })
}

fn ended(id: &str, by: &str, ms: i64) -> Event {
    let id = delegation(id);
    Event::DelegationEnded(DelegationEnded {
        at: at(ms),
        delegation_id: id,
        agent: Some(agent(by)),
        human: None,
    })
}

fn live(state: &State, id: &str, ms: i64) -> bool {
    state.authority.delegations[&delegation(id)].is_live(at(ms))
}

#[test]
fn a_right_is_passed_on_within_its_bounds_and_asked_under() {
    let mut state = world();
    taken(&mut state, &Event::Delegated(first(1)));
    taken(&mut state, &Event::Delegated(second()));
    let terms = under("d-2", &["planner", "router"], 3);
    for event in [asks(&terms, 3), allowed(&terms, 4), intends(&terms, 5)] {
        taken(&mut state, &event);
    }
    assert_eq!(state.requests[&request("r-1")].phase, Phase::Intended);
}

#[test]
fn nothing_wider_than_what_was_handed_on_is_passed_on() {
    let mut state = world();
    let other = grantwright_domain::ScopeName::parse("demo.read").expect("a scope");
    let Event::PolicyLoaded(mut loaded) = crate::world::load_policy("root", 0, 0) else {
        panic!("a policy")
    };
    loaded.scopes.insert(other.clone(), export().digest().expect("a digest"));
    taken(&mut state, &Event::PolicyLoaded(loaded));
    let mut parent = first(1);
    parent.expires_at = at(DAY_MS / 2);
    bound(&mut parent, "rows", ParamValue::Integer(500));
    bound(&mut parent, "dataset", text("orders"));
    parent.scopes.get_mut(&export().name).expect("a scope").ttl_s = 300;
    taken(&mut state, &Event::Delegated(parent));
    let mut good = second();
    good.expires_at = at(DAY_MS / 2);
    bound(&mut good, "rows", ParamValue::Integer(500));
    bound(&mut good, "dataset", text("orders"));
    good.scopes.get_mut(&export().name).expect("a scope").ttl_s = 300;
    taken(&mut state.clone(), &Event::Delegated(good.clone()));
    let hostile = |code: &str, change: &dyn Fn(&mut Delegated)| {
        let mut bad = good.clone();
        change(&mut bad);
        refused(&state, &Event::Delegated(bad), code);
    };
    let wider = "delegation_wider";
    hostile(wider, &|e| e.expires_at = at(DAY_MS / 2 + 1));
    hostile(wider, &|e| bound(e, "rows", ParamValue::Integer(501)));
    hostile(wider, &|e| bound(e, "dataset", text("customers")));
    hostile(wider, &|e| {
        e.scopes.get_mut(&export().name).expect("a scope").ttl_s = 301;
    });
    // Left open, it would be all of it.
    hostile(wider, &|e| {
        e.scopes.get_mut(&export().name).expect("a scope").params.remove("rows");
    });
    // In force, but never handed on.
    hostile(wider, &|e| {
        let bounds = e.scopes[&export().name].clone();
        e.scopes.insert(other.clone(), bounds);
    });
}

#[test]
fn only_what_is_in_force_and_of_its_type_bounds_a_scope() {
    let state = world();
    let hostile = |code: &str, change: &dyn Fn(&mut Delegated)| {
        let mut bad = first(0);
        change(&mut bad);
        refused(&state, &Event::Delegated(bad), code);
    };
    hostile("scope-pinned", &|e| {
        e.scopes.get_mut(&export().name).expect("a scope").template = Digest([9; 32]);
    });
    hostile("delegation_wider", &|e| e.scopes.clear());
    hostile("delegation_wider", &|e| {
        e.scopes.get_mut(&export().name).expect("a scope").ttl_s = 0;
    });
    hostile("delegation_wider", &|e| {
        e.scopes.get_mut(&export().name).expect("a scope").ttl_s = 901;
    });
    hostile("delegation_params", &|e| bound(e, "rows", ParamValue::Integer(1_000_001)));
    hostile("delegation_params", &|e| bound(e, "rows", text("all")));
    hostile("delegation_params", &|e| bound(e, "prefix", text("public/*")));
    hostile("delegation_params", &|e| bound(e, "nothing", text("x")));
    hostile("delegation_wider", &|e| e.expires_at = at(1));
    hostile("delegation_wider", &|e| e.expires_at = at(1 + DAY_MS + 1));
}

#[test]
fn it_is_handed_by_a_live_agent_to_another_and_never_in_a_circle() {
    let mut state = world();
    let hostile = |state: &State, code: &str, change: &dyn Fn(&mut Delegated)| {
        let mut bad = first(1);
        change(&mut bad);
        refused(state, &Event::Delegated(bad), code);
    };
    hostile(&state, "delegation_cycle", &|e| e.to = agent("planner"));
    hostile(&state, "delegate_unknown", &|e| e.to = agent("nobody"));
    // Another agent's sidecar, or none.
    hostile(&state, "agent-live", &|e| e.instance = instance("i-3"));
    hostile(&state, "agent-live", &|e| e.instance = instance("i-99"));
    hostile(&state, "agent-live", &|e| e.from = agent("nobody"));
    taken(&mut state, &Event::Delegated(first(3)));
    hostile(&state, "delegation_once", &|_| {});
    let back = Delegated { to: agent("planner"), ..second() };
    refused(&state, &Event::Delegated(back), "delegation_cycle");
    // Only who holds it passes it on.
    let foreign = Delegated { from: agent("worker"), instance: instance("i-4"), ..second() };
    refused(&state, &Event::Delegated(foreign), "delegation_unknown");
    let none = Delegated { parent: Some(delegation("d-9")), ..second() };
    refused(&state, &Event::Delegated(none), "delegation_unknown");
}

#[test]
fn depth_is_bounded_and_goes_down() {
    let mut state = world();
    refused(&state, &Event::Delegated(first(4)), "delegation_depth");
    refused(&state, &Event::Delegated(first(u32::MAX)), "delegation_depth");
    for (passes, next, ok) in [(0, 0, false), (1, 0, true), (1, 1, false), (2, 1, true)] {
        let mut state = state.clone();
        taken(&mut state, &Event::Delegated(first(passes)));
        let again = Event::Delegated(Delegated { passes: next, ..second() });
        match ok {
            true => taken(&mut state, &again),
            false => refused(&state, &again, "delegation_depth"),
        }
    }
    // planner → router → worker → a → b: four pass it on, a fifth does not.
    for (n, name) in ["a-4", "a-5", "a-6"].iter().enumerate() {
        let id = n + 5;
        taken(&mut state, &set_agent("root", name, "dave", 0));
        taken(&mut state, &join(&format!("j-{id}"), 0xd0 + n as u8, name, 0, 60_000));
        taken(
            &mut state,
            &enrol(&format!("j-{id}"), name, &format!("i-{id}"), &format!("d{n}"), 0),
        );
    }
    let path = ["planner", "router", "worker", "a-4", "a-5", "a-6"];
    for n in 0..4 {
        let from = (path[n], format!("i-{}", n + 2));
        let step = Delegated {
            parent: n.checked_sub(1).map(|p| delegation(&format!("d-{p}"))),
            passes: 3 - n as u32,
            expires_at: at(DAY_MS),
            ..handed(&format!("d-{n}"), (from.0, &from.1), path[n + 1], 1)
        };
        taken(&mut state, &Event::Delegated(step));
    }
    let fifth = Delegated {
        parent: Some(delegation("d-3")),
        expires_at: at(DAY_MS),
        ..handed("d-4", ("a-5", "i-6"), "a-6", 1)
    };
    refused(&state, &Event::Delegated(fifth), "delegation_depth");
}

#[test]
fn an_ask_lies_within_its_delegation() {
    let mut state = world();
    let mut handed = Delegated { to: agent(AGENTS[0]), ..first(0) };
    bound(&mut handed, "rows", ParamValue::Integer(10_000));
    bound(&mut handed, "dataset", text("orders"));
    bound(&mut handed, "prefix", text("public/"));
    handed.expires_at = at(3_600_000);
    taken(&mut state, &Event::Delegated(handed));
    let mut good = under("d-1", &["planner"], 2);
    good.params.insert("prefix".into(), text("public/2026/"));
    taken(&mut state.clone(), &asks(&good, 2));
    let hostile = |code: &str, ms: i64, change: &dyn Fn(&mut Terms)| {
        let mut bad = Terms { decide_by: at(ms + DAY_MS), ..good.clone() };
        change(&mut bad);
        refused(&state, &asks(&bad, ms), code);
    };
    let wider = "delegation_wider";
    hostile(wider, 2, &|t| {
        t.params.insert("rows".into(), ParamValue::Integer(10_001));
    });
    hostile(wider, 2, &|t| {
        t.params.insert("dataset".into(), text("customers"));
    });
    hostile(wider, 2, &|t| {
        t.params.insert("prefix".into(), text("private/"));
    });
    // A parameter that is left out could mean all of it.
    hostile(wider, 2, &|t| drop(t.params.remove("prefix")));
    hostile(wider, 2, &|t| t.ttl_s = 901);
    // What is issued would outlive it, by a millisecond.
    hostile(wider, 3_600_000 - 900_000 + 1, &|_| {});
    hostile("delegation_ended", 3_600_000, &|t| t.ttl_s = 1);
    // Another's, none, and chains that are not its own.
    hostile("delegation_unknown", 2, &|t| t.delegation_id = Some(delegation("d-9")));
    hostile("delegation_unknown", 2, &|t| t.delegation_id = None);
    hostile("delegation_unknown", 2, &|t| t.delegation.clear());
    hostile("delegation_unknown", 2, &|t| t.delegation = vec![agent("router")]);
    hostile("delegation_unknown", 2, &|t| t.delegation.push(agent("router")));
    hostile("delegation_unknown", 2, &|t| {
        (t.agent, t.instance) = (agent("router"), instance("i-3"));
    });
}

fn issued(terms: &Terms, ms: i64, ends: i64) -> Event {
    Event::Issued(Issued {
        at: at(ms),
        digest: terms.digest().expect("a digest"),
        request_id: request("r-1"),
        lease_id: LeaseId::parse("l-1").expect("an id"),
        expires_at: at(ends),
        revocable: true,
        facts: Default::default(),
    })
}

#[test]
fn invariant_26_no_credential_outlives_its_delegation() {
    let mut state = world();
    let end = 900_010;
    let mut handed = Delegated { to: agent(AGENTS[0]), ..first(0) };
    handed.expires_at = at(end);
    taken(&mut state, &Event::Delegated(handed));
    let terms = under("d-1", &["planner"], 3);
    for event in [asks(&terms, 3), allowed(&terms, 4), intends(&terms, 5)] {
        taken(&mut state, &event);
    }
    // Its backend took long: fifteen minutes from now end after the delegation.
    let now = 60_000;
    refused(&state, &issued(&terms, now, end + 1), "delegation_outlived");
    let mut whole = state.clone();
    taken(&mut whole, &issued(&terms, now, end));
    // Nor is it extended beyond that, by the request's whole state and by what is left of it.
    taken(&mut state, &issued(&terms, now, now + 60_000));
    let renewed = |ends: i64| {
        Event::Renewed(Renewed {
            at: at(now + 1),
            digest: terms.digest().expect("a digest"),
            request_id: request("r-1"),
            lease_id: LeaseId::parse("l-1").expect("an id"),
            expires_at: at(ends),
        })
    };
    refused(&state, &renewed(end + 1), "delegation_outlived");
    taken(&mut state.clone(), &renewed(end));
    let left = state.requests[&request("r-1")].granted(&state.authority).expect("it lives");
    let rights = Rights::Now(&state.authority);
    left.clone().apply(state.size, &renewed(end + 1), rights).expect_err("beyond it");
    left.clone().apply(state.size, &renewed(end), rights).expect("within it");
    // Folded from leaves alone, its rights are asked of the authority.
    let mut refolded = RequestState::refold([
        (1, &asks(&terms, 3)),
        (2, &allowed(&terms, 4)),
        (3, &intends(&terms, 5)),
        (4, &issued(&terms, now, now + 60_000)),
    ])
    .expect("its leaves");
    let beyond = refolded.clone().apply(state.size, &renewed(end + 1), rights);
    assert_eq!(beyond.expect_err("beyond it").code, "delegation_outlived");
    refolded.apply(state.size, &renewed(end), rights).expect("within it");
}

#[test]
fn a_scope_that_was_changed_since_is_covered_no_longer() {
    let mut state = world();
    taken(&mut state, &Event::Delegated(Delegated { to: agent(AGENTS[0]), ..first(0) }));
    let mut scope = export();
    scope.title = "Export everything".into();
    let template = state.authority.learn(std::sync::Arc::new(scope)).expect("a digest");
    let Event::PolicyLoaded(mut loaded) = crate::world::load_policy("root", 1, 2) else {
        panic!("a policy")
    };
    loaded.scopes.insert(export().name, template);
    taken(&mut state, &Event::PolicyLoaded(loaded));
    let terms = Terms { template, ..under("d-1", &["planner"], 3) };
    refused(&state, &asks(&terms, 3), "delegation_wider");
}

#[test]
fn an_end_ends_what_was_passed_on_and_asks_that_were_not_minted() {
    let ends: [(&str, Event); 5] = [
        ("its own end", ended("d-2", AGENTS[0], 6)),
        ("its parent's end", ended("d-1", "planner", 6)),
        ("the delegator's end", {
            let (by, agent) = (human("root"), agent("planner"));
            Event::AgentRevoked(AgentRevoked { at: at(6), by, agent })
        }),
        ("the end of one in between", {
            let (by, agent) = (human("root"), agent("router"));
            Event::AgentRevoked(AgentRevoked { at: at(6), by, agent })
        }),
        ("the end of the sidecar it was made through", {
            let (by, instance, reason) = ("broker".into(), instance("i-2"), "copied".into());
            Event::InstanceRevoked(InstanceRevoked { at: at(6), by, instance, reason })
        }),
    ];
    for (why, end) in ends {
        let mut state = world();
        taken(&mut state, &Event::Delegated(first(1)));
        taken(&mut state, &Event::Delegated(second()));
        let terms = under("d-2", &["planner", "router"], 3);
        taken(&mut state, &asks(&terms, 3));
        taken(&mut state, &allowed(&terms, 4));
        taken(&mut state.clone(), &intends(&terms, 7));
        taken(&mut state, &end);
        assert!(!live(&state, "d-2", 7), "{why}");
        refused(&state, &intends(&terms, 7), "delegation_ended");
        let again = Terms { request_id: request("r-2"), ..terms };
        refused(&state, &asks(&again, 7), "delegation_ended");
    }
}

#[test]
fn an_end_is_said_once_by_who_may() {
    let mut state = world();
    taken(&mut state, &Event::Delegated(first(0)));
    let by = |agent: Option<&str>, person: Option<&str>| {
        Event::DelegationEnded(DelegationEnded {
            at: at(3),
            delegation_id: delegation("d-1"),
            agent: agent.map(crate::world::agent),
            human: person.map(human),
        })
    };
    for (agent, person) in [
        (Some("worker"), None),
        (None, None),
        (Some("planner"), Some("bob")),
        (None, Some("carol")),
        (None, Some("nobody")),
    ] {
        refused(&state, &by(agent, person), "delegation_foreign");
    }
    for (agent, person) in [
        (Some("planner"), None),
        (Some("router"), None),
        (None, Some("bob")),
        (None, Some("frank")),
        (None, Some("root")),
    ] {
        taken(&mut state.clone(), &by(agent, person));
    }
    taken(&mut state, &by(Some("router"), None));
    refused(&state, &by(Some("router"), None), "delegation_unknown");
    refused(&state, &ended("d-9", "planner", 3), "delegation_unknown");
}

#[test]
fn an_agent_hands_on_no_more_than_its_bound_at_a_time() {
    let mut state = world();
    for n in 0..grantwright_domain::delegation::MAX_LIVE {
        let one = Delegated { delegation_id: delegation(&format!("d-{n}")), ..first(0) };
        taken(&mut state, &Event::Delegated(one));
    }
    let next = Delegated { delegation_id: delegation("d-next"), ..first(0) };
    refused(&state, &Event::Delegated(next.clone()), "delegation_bound");
    taken(&mut state, &ended("d-0", "planner", 2));
    taken(&mut state, &Event::Delegated(Delegated { at: at(2), ..next }));
    // What is over for a day is forgotten.
    let later = Delegated { delegation_id: delegation("d-later"), ..first(0) };
    let later = Delegated { at: at(3 * DAY_MS), expires_at: at(3 * DAY_MS + 1), ..later };
    taken(&mut state, &Event::Delegated(later));
    assert_eq!(state.authority.delegations.len(), 1);
}

#[test]
fn invariant_28_what_an_agent_hands_on_and_ends_within_a_day_is_bounded() {
    let mut state = world();
    for n in 0..grantwright_domain::delegation::MAX_KEPT {
        let one = Delegated { delegation_id: delegation(&format!("d-{n}")), ..first(0) };
        taken(&mut state, &Event::Delegated(one));
        taken(&mut state, &ended(&format!("d-{n}"), "planner", 2));
    }
    let next = Delegated { delegation_id: delegation("d-next"), ..first(0) };
    refused(&state, &Event::Delegated(Delegated { at: at(3), ..next.clone() }), "delegation_bound");
    let later = Delegated { at: at(2 * DAY_MS), expires_at: at(2 * DAY_MS + 1), ..next };
    taken(&mut state, &Event::Delegated(later));
}
