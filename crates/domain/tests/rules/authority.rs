//! Who may decide, and who may change who may decide.

use grantwright_domain::authority::{Bearer, TOKEN_LIFE_MS};
use grantwright_domain::event::{
    Account, AccountLinked, AccountUnlinked, AgentRevoked, InstanceRenewed, InstanceRevoked,
    LinkCreated, LinkSpent, ModelSet, Opened, TokenIssued, TokenRevoked,
};
use grantwright_domain::{Digest, Event, State};

use crate::world::{
    AGENTS, DAY_MS, agent, at, enrol, furnished, group, human, instance, join, load_policy, opened,
    people, set_agent, set_group, set_human,
};

fn refused(state: &mut State, event: &Event, rule: &str) {
    let violation = state.apply(event).expect_err(rule);
    assert_eq!(violation.rule, rule, "{event:?}: {violation}");
}

fn taken(state: &mut State, event: &Event) {
    state.apply(event).unwrap_or_else(|v| panic!("{event:?}: {v}"));
}

fn renew(id: &str, old: &str, new: &str, ms: i64) -> Event {
    Event::InstanceRenewed(InstanceRenewed {
        at: at(ms),
        instance: instance(id),
        old_serial: old.into(),
        serial: new.into(),
        key: Digest([8; 32]),
        not_after: at(ms + 3_600_000),
    })
}

fn link(id: &str, hash: u8, of: &str, ms: i64) -> Event {
    Event::LinkCreated(LinkCreated {
        at: at(ms),
        by: human("root"),
        link_id: id.into(),
        human: human(of),
        code_hash: Digest([hash; 32]),
        purpose: "login".into(),
        expires_at: at(ms + 60_000),
    })
}

fn spend(id: &str, ms: i64) -> Event {
    Event::LinkSpent(LinkSpent { at: at(ms), link_id: id.into() })
}

fn token(by: &str, of: &str, hash: u8, ms: i64, life_ms: i64) -> Event {
    Event::TokenIssued(TokenIssued {
        at: at(ms),
        by: human(by),
        token_id: format!("t-{hash}"),
        human: human(of),
        token_hash: Digest([hash; 32]),
        expires_at: at(ms + life_ms),
    })
}

#[test]
fn a_log_opens_once_and_first() {
    let mut state = State::default();
    refused(&mut state, &set_human("root", "root", true, true, 0), "opened-first");
    let mut state = State::default();
    taken(&mut state, &opened());
    refused(&mut state, &opened(), "opened-first");
    let Event::Opened(good) = opened() else { panic!("opened") };
    for bad in
        [Opened { version: 2, ..good.clone() }, Opened { origin: String::new(), ..good.clone() }]
    {
        refused(&mut State::default(), &Event::Opened(bad), "opened-first");
    }
}

#[test]
fn the_first_operator_makes_himself_and_nobody_else_does() {
    for (by, id, active, operator) in [
        ("root", "alice", true, true),
        ("root", "root", true, false),
        ("root", "root", false, true),
    ] {
        let mut state = State::default();
        taken(&mut state, &opened());
        refused(&mut state, &set_human(by, id, active, operator, 0), "operator");
    }
    let mut state = furnished();
    refused(&mut state, &set_human("mallory", "mallory", true, true, 1), "operator");
    refused(&mut state, &set_human("bob", "bob", true, true, 1), "operator");
}

#[test]
fn only_operators_change_what_decisions_rest_on() {
    let until = Some(at(DAY_MS));
    for by in ["bob", "mallory"] {
        let by_id = human(by);
        let events = [
            set_human(by, "bob", true, true, 1),
            set_group(by, "reviewers", people(&["bob"]), 1),
            set_agent(by, AGENTS[0], "bob", 1),
            load_policy(by, 1, 1),
            Event::AgentRevoked(AgentRevoked {
                at: at(1),
                by: by_id.clone(),
                agent: agent(AGENTS[0]),
            }),
            Event::ModelSet(ModelSet {
                at: at(1),
                by: by_id.clone(),
                model: "m".into(),
                model_version: "1".into(),
                until,
            }),
            token(by, "carol", 9, 1, 1000),
        ];
        for event in events {
            refused(&mut furnished(), &event, "operator");
        }
        let Event::JoinCreated(mut e) = join("j-2", 2, AGENTS[0], 1, 1000) else { panic!("join") };
        e.by = by_id.clone();
        refused(&mut furnished(), &Event::JoinCreated(e), "operator");
        let Event::LinkCreated(mut e) = link("k-1", 3, "bob", 1) else { panic!("link") };
        e.by = by_id;
        refused(&mut furnished(), &Event::LinkCreated(e), "operator");
    }
    // An operator who is no longer active, or no longer one.
    for event in
        [set_human("root", "erin", false, true, 1), set_human("root", "erin", true, false, 1)]
    {
        let mut state = furnished();
        taken(&mut state, &event);
        refused(&mut state, &load_policy("erin", 1, 2), "operator");
    }
}

#[test]
fn a_join_token_enrols_once() {
    let mut state = furnished();
    refused(&mut state, &enrol("j-1", AGENTS[0], "i-2", "02", 1), "join-single-use");
    refused(&mut state, &enrol("j-9", AGENTS[0], "i-2", "02", 1), "join-single-use");
    taken(&mut state, &join("j-2", 2, AGENTS[0], 1, 1000));
    refused(&mut state, &enrol("j-2", AGENTS[1], "i-2", "02", 2), "join-single-use");
    refused(&mut state, &enrol("j-2", AGENTS[0], "i-1", "02", 2), "instance-new");
    refused(&mut state, &enrol("j-2", AGENTS[0], "i-2", "01", 2), "instance-new");
    refused(&mut state, &enrol("j-2", AGENTS[0], "i-2", "02", 1001), "join-single-use");
    taken(&mut state, &enrol("j-2", AGENTS[0], "i-2", "02", 1000));
    refused(&mut state, &enrol("j-2", AGENTS[0], "i-3", "03", 1000), "join-single-use");
    // Made again, a spent token would live again.
    refused(&mut state, &join("j-2", 4, AGENTS[0], 1000, 1000), "join-once");
    refused(&mut state, &join("j-4", 2, AGENTS[0], 1000, 1000), "join-once");
}

#[test]
fn a_certificate_is_renewed_once() {
    let mut state = furnished();
    taken(&mut state, &renew("i-1", "01", "02", 1));
    refused(&mut state, &renew("i-1", "01", "03", 2), "renew-once");
    refused(&mut state, &renew("i-1", "02", "01", 2), "instance-new");
    refused(&mut state, &renew("i-1", "02", "02", 2), "instance-new");
    refused(&mut state, &renew("i-9", "02", "03", 2), "instance-known");
    taken(&mut state, &renew("i-1", "02", "03", 2));
    let revoked = Event::InstanceRevoked(InstanceRevoked {
        at: at(3),
        by: "broker".into(),
        instance: instance("i-1"),
        reason: "renewed twice".into(),
    });
    taken(&mut state, &revoked);
    refused(&mut state, &renew("i-1", "03", "04", 4), "renew-once");
}

#[test]
fn invariant_24_a_revoked_agent_neither_joins_nor_renews() {
    let mut state = furnished();
    taken(&mut state, &join("j-2", 2, AGENTS[0], 1, 1000));
    let revoked = AgentRevoked { at: at(2), by: human("root"), agent: agent(AGENTS[0]) };
    taken(&mut state, &Event::AgentRevoked(revoked));
    refused(&mut state, &renew("i-1", "01", "02", 3), "agent-known");
    refused(&mut state, &enrol("j-2", AGENTS[0], "i-2", "02", 3), "agent-known");
    refused(&mut state, &join("j-3", 3, AGENTS[0], 3, 1000), "agent-known");
    taken(&mut state, &set_agent("root", AGENTS[0], "bob", 3));
    refused(&mut state, &join("j-3", 3, AGENTS[0], 3, 1000), "agent-known");
}

#[test]
fn a_link_signs_in_once_and_only_the_active() {
    let mut state = furnished();
    taken(&mut state, &link("k-1", 1, "bob", 1));
    refused(&mut state, &link("k-1", 2, "bob", 1), "link-once");
    refused(&mut state, &link("k-2", 1, "bob", 1), "link-once");
    refused(&mut state, &spend("k-9", 2), "link-single-use");
    refused(&mut state, &spend("k-1", 60_001), "link-single-use");
    taken(&mut state, &spend("k-1", 2));
    refused(&mut state, &spend("k-1", 2), "link-single-use");
    taken(&mut state, &link("k-2", 2, "bob", 3));
    taken(&mut state, &set_human("root", "bob", false, false, 4));
    refused(&mut state, &spend("k-2", 5), "link-single-use");
    refused(&mut state, &link("k-3", 3, "bob", 5), "human-known");
    taken(&mut state, &set_human("root", "bob", true, false, 6));
    refused(&mut state, &spend("k-2", 7), "link-single-use");
}

#[test]
fn a_token_lives_twelve_hours_at_most_and_dies_with_its_person() {
    let mut state = furnished();
    refused(&mut state, &token("root", "bob", 1, 1, TOKEN_LIFE_MS + 1), "token-life");
    refused(&mut state, &token("bob", "carol", 1, 1, 1000), "operator");
    refused(&mut state, &token("bob", "bob", 1, 1, 1000), "operator");
    refused(&mut state, &token("root", "mallory", 1, 1, 1000), "human-known");
    taken(&mut state, &token("root", "bob", 1, 1, TOKEN_LIFE_MS));
    taken(&mut state, &token("root", "carol", 2, 1, 1000));
    let spent = |state: &State, hash: u8| {
        state.authority.tokens.get(&Digest([hash; 32])).is_none_or(|t: &Bearer<_>| t.spent)
    };
    assert!(!spent(&state, 1) && !spent(&state, 2));
    let revoked = TokenRevoked { at: at(2), by: human("carol"), token_id: "t-2".into() };
    taken(&mut state, &Event::TokenRevoked(revoked));
    assert!(!spent(&state, 1) && spent(&state, 2));
    taken(&mut state, &set_human("root", "bob", false, false, 3));
    assert!(spent(&state, 1));
    taken(&mut state, &set_human("root", "bob", true, false, 4));
    assert!(spent(&state, 1), "a token does not come back with its person");
}

#[test]
fn an_account_is_one_persons_and_ends_with_them() {
    let account = |tenant: &str, account: &str| Account {
        channel: "slack".into(),
        tenant: tenant.into(),
        account: account.into(),
    };
    let link = |who: &str, account: Account, ms: i64| {
        Event::AccountLinked(AccountLinked { at: at(ms), human: human(who), account })
    };
    let unlink = |by: &str, account: Account, ms: i64| {
        Event::AccountUnlinked(AccountUnlinked { at: at(ms), by: human(by), account })
    };
    let mut state = furnished();
    let whose = |state: &State, key: Account| state.authority.accounts.get(&key).cloned();
    taken(&mut state, &link("bob", account("T1", "U1"), 1));
    refused(&mut state, &link("bob", account("T1", "U1"), 2), "account-once");
    refused(&mut state, &link("carol", account("T1", "U1"), 2), "account-once");
    refused(&mut state, &link("bob", account("T1", "U2"), 2), "account-once");
    refused(&mut state, &link("mallory", account("T1", "U3"), 2), "human-known");
    for odd in ["", "U 1", "U\n1", "Ü1", &"U".repeat(129)] {
        refused(&mut state, &link("carol", account("T1", odd), 2), "account");
    }
    // The same id in another workspace is another account.
    taken(&mut state, &link("carol", account("T2", "U1"), 3));
    assert_eq!(whose(&state, account("T1", "U1")), Some(human("bob")));
    refused(&mut state, &unlink("carol", account("T1", "U1"), 4), "operator");
    refused(&mut state, &unlink("bob", account("T9", "U1"), 4), "account-known");
    taken(&mut state, &unlink("bob", account("T1", "U1"), 5));
    taken(&mut state, &link("bob", account("T1", "U2"), 6));
    taken(&mut state, &unlink("root", account("T1", "U2"), 7));
    taken(&mut state, &set_human("root", "carol", false, false, 8));
    taken(&mut state, &set_human("root", "carol", true, false, 9));
    assert_eq!(whose(&state, account("T2", "U1")), None, "it does not come back with its person");
}

#[test]
fn invariant_10_who_could_have_linked_a_chat_account_may_act_by_it() {
    let account = Account { channel: "slack".into(), tenant: "T1".into(), account: "U1".into() };
    let linked = |who: &str, ms: i64| {
        Event::AccountLinked(AccountLinked {
            at: at(ms),
            human: human(who),
            account: account.clone(),
        })
    };
    let stands_in = |state: &State, ms: i64| {
        state.authority.stand_ins(&human("bob"), at(ms)).any(|h| *h == human("erin"))
    };
    let Event::LinkCreated(mut made) = link("k-1", 1, "bob", 1) else { panic!("link") };
    made.by = human("erin");
    let later = 3 * DAY_MS;
    let mut state = furnished();
    taken(&mut state, &Event::LinkCreated(made));
    taken(&mut state, &spend("k-1", 2));
    let mut own = state.clone();
    taken(&mut own, &linked("bob", later));
    assert!(!stands_in(&own, later), "erin's session was over: only bob could link it");
    taken(&mut state, &linked("bob", 3));
    assert!(stands_in(&state, later), "it may be erin's account");
    let ends = Event::AccountUnlinked(AccountUnlinked { at: at(4), by: human("bob"), account });
    taken(&mut state, &ends);
    assert!(!stands_in(&state, later));
}

#[test]
fn owners_since() {
    let mut state = furnished();
    taken(&mut state, &set_agent("root", AGENTS[0], "bob", 1000));
    taken(&mut state, &set_agent("root", AGENTS[0], "bob", 1500));
    taken(&mut state, &set_agent("root", AGENTS[0], "alice", 2000));
    let owned = |id: &str, since: i64| {
        state.authority.agents[&agent(AGENTS[0])].owned_since(&human(id), at(since))
    };
    assert!(owned("alice", 0) && owned("alice", 1500) && owned("alice", 9000));
    assert!(owned("bob", 0) && owned("bob", 1999) && owned("bob", 2000));
    assert!(!owned("bob", 2001) && !owned("carol", 0));
    assert_eq!(state.authority.agents[&agent(AGENTS[0])].owners.len(), 3);
    let inactive = set_human("root", "carol", false, false, 3000);
    taken(&mut state, &inactive);
    refused(&mut state, &set_agent("root", AGENTS[0], "carol", 3001), "agent-owner");
    refused(&mut state, &set_agent("root", AGENTS[0], "mallory", 3001), "agent-owner");
}

#[test]
fn who_changed_agent_or_group_waits_a_day() {
    let mut state = furnished();
    let reviewers = std::collections::BTreeSet::from([group("reviewers")]);
    let none = std::collections::BTreeSet::new();
    taken(&mut state, &set_group("erin", "reviewers", people(&["bob", "erin"]), 1000));
    let changed = |state: &State, groups, ms: i64| {
        state.authority.changed_recently(&human("erin"), &agent(AGENTS[0]), groups, at(ms))
    };
    assert!(changed(&state, &reviewers, 1000) && changed(&state, &reviewers, 1000 + DAY_MS - 1));
    assert!(!changed(&state, &none, 1000) && !changed(&state, &reviewers, 1000 + DAY_MS));
    // Others' later changes do not make it forgotten too early.
    taken(&mut state, &set_agent("root", AGENTS[1], "bob", DAY_MS));
    assert!(changed(&state, &reviewers, DAY_MS));
    taken(&mut state, &set_agent("erin", AGENTS[0], "bob", 2 * DAY_MS));
    assert!(changed(&state, &none, 2 * DAY_MS));
    // With a join token one enrols a sidecar of one's own, and asks as the agent.
    let ms = 4 * DAY_MS;
    let Event::JoinCreated(mut e) = join("j-erin", 7, AGENTS[0], ms, 1000) else { panic!("join") };
    e.by = human("erin");
    assert!(!changed(&state, &none, ms));
    taken(&mut state, &Event::JoinCreated(e));
    assert!(changed(&state, &none, ms));
    let nobody = set_group("root", "reviewers", people(&["nobody"]), ms);
    refused(&mut state, &nobody, "group-member");
}

#[test]
fn invariant_26_a_change_is_not_dated_back_beyond_the_clock_bound() {
    let mut state = furnished();
    let set = |ms| set_group("root", "reviewers", people(&["bob"]), ms);
    taken(&mut state, &set(DAY_MS));
    taken(&mut state, &set(DAY_MS - 30_000));
    refused(&mut state, &set(DAY_MS - 30_001), "time");
    taken(&mut state, &set(DAY_MS + 1));
}

#[test]
fn invariant_28_an_instance_remembers_so_many_serials() {
    let mut state = furnished();
    taken(&mut state, &join("j-long", 99, AGENTS[0], 100, 1000));
    taken(&mut state, &enrol("j-long", AGENTS[0], "i-long", "s-0", 100));
    for n in 0..40 {
        let (old, new) = (format!("s-{n}"), format!("s-{}", n + 1));
        taken(&mut state, &renew("i-long", &old, &new, 101));
    }
    let known = |s: &str| state.authority.serials.contains_key(s);
    assert!(known("s-40") && known("s-25") && !known("s-24") && !known("s-0"));
    assert_eq!(state.authority.instances[&instance("i-long")].serials.len(), 16);
    refused(&mut state, &renew("i-long", "s-39", "s-41", 102), "renew-once");
}
