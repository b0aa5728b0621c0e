//! Accounts at identity providers, and groups by their word.

use std::collections::BTreeSet;

use grantwright_domain::event::{Decided, GroupsClaimed, IdentitySet, Intended, Requested, Voted};
use grantwright_domain::{
    Decision, Digest, Event, Rights, State, Strength, Verdict, VerdictKind, eligible,
};

use crate::world::{at, furnished, group, human, people, policy, request, set_group, terms};

const ISSUER: &str = "https://id.example.org";
const HOUR_MS: i64 = 3_600_000;

fn link(by: &str, subject: &str, whose: Option<&str>, ms: i64) -> Event {
    Event::IdentitySet(IdentitySet {
        at: at(ms),
        by: human(by),
        issuer: ISSUER.into(),
        subject: subject.into(),
        human: whose.map(human),
    })
}

fn claim(who: &str, subject: &str, groups: &[&str], ms: i64, life_ms: i64) -> Event {
    Event::GroupsClaimed(GroupsClaimed {
        at: at(ms),
        human: human(who),
        issuer: ISSUER.into(),
        subject: subject.into(),
        groups: groups.iter().map(|g| group(g)).collect(),
        until: at(ms + life_ms),
    })
}

fn refused(state: &mut State, event: &Event, rule: &str) {
    assert_eq!(state.apply(event).expect_err(rule).rule, rule, "{event:?}");
}

fn asked(id: &str, ms: i64) -> [Event; 2] {
    let terms = terms(id, at(ms), 900);
    let digest = terms.digest().expect("a digest");
    let verdict = Verdict {
        kind: VerdictKind::Ask,
        code: String::new(),
        reason: "exports".into(),
        policies: BTreeSet::new(),
        policy_set: policy(0),
        quorum: 1,
        strength: Strength::Chat,
        channels: BTreeSet::from(["api".to_owned()]),
        approvers: BTreeSet::from([group("reviewers")]),
        max_ttl_s: 900,
    };
    let decided = Decided {
        at: at(ms),
        digest,
        request_id: request(id),
        verdict,
        attributes: serde_json::Map::new(),
        context: serde_json::Map::new(),
        chain: Vec::new(),
        excluded: BTreeSet::new(),
        again: false,
        unusual: Vec::new(),
        past: None,
    };
    let requested = Requested { at: at(ms), digest, request_id: request(id), renews: None, terms };
    [Event::Requested(requested), Event::Decided(decided)]
}

fn vote(state: &State, id: &str, who: &str, ms: i64) -> Event {
    let request = &state.requests[&request(id)];
    Event::Voted(Voted {
        at: at(ms),
        digest: request.digest,
        request_id: request.terms.request_id.clone(),
        human: human(who),
        decision: Decision::Approve,
        channel: "api".into(),
        seen: None,
        groups: state.authority.groups_of(&human(who), at(ms)),
        policies: BTreeSet::new(),
        policy_set: policy(0),
        reason_code: String::new(),
        reason: None,
        confirmed: None,
        proof: None,
    })
}

/// Bob belongs to `reviewers` by the word of the identity provider only.
fn bob_by_claim() -> State {
    let mut state = furnished();
    state.apply(&set_group("root", "reviewers", people(&["alice"]), 0)).expect("a group");
    state.apply(&link("root", "u-bob", Some("bob"), 0)).expect("a link");
    state.apply(&claim("bob", "u-bob", &["reviewers"], 1, HOUR_MS)).expect("a claim");
    state
}

#[test]
fn invariant_10_an_account_is_one_persons_and_only_an_operator_says_whose() {
    let mut state = furnished();
    refused(&mut state, &link("bob", "u1", Some("bob"), 1), "operator");
    refused(&mut state, &link("root", "u1", Some("mallory"), 1), "human-known");
    for odd in ["", "a b", "a\u{200b}", &"x".repeat(256)] {
        refused(&mut state, &link("root", odd, Some("bob"), 1), "identity");
    }
    state.apply(&link("root", "u1", Some("bob"), 1)).expect("linked");
    refused(&mut state, &link("root", "u1", Some("carol"), 2), "identity-once");
    assert_eq!(state.authority.identified(ISSUER, "u1"), Some(&human("bob")));
    assert_eq!(state.authority.identified(ISSUER, "U1"), None, "compared as bytes");
    assert_eq!(state.authority.identified("https://id.example.org/", "u1"), None);
    refused(&mut state, &claim("carol", "u1", &["reviewers"], 2, 1), "identity-known");
    state.apply(&claim("bob", "u1", &["admins"], 2, HOUR_MS)).expect("claimed");
    assert!(state.authority.in_group(&human("bob"), &group("admins"), at(3)));
    state.apply(&link("root", "u1", None, 4)).expect("unlinked");
    assert!(
        !state.authority.in_group(&human("bob"), &group("admins"), at(5)),
        "the claim ends too"
    );
    refused(&mut state, &link("root", "u1", None, 6), "identity-known");
    refused(&mut state, &claim("bob", "u1", &["admins"], 7, 1), "identity-known");
}

#[test]
fn invariant_11_a_stale_word_of_the_provider_counts_as_no_group() {
    let state = bob_by_claim();
    let groups = |ms| state.authority.groups_of(&human("bob"), at(ms));
    assert!(!groups(0).contains(&group("reviewers")), "not before it was read");
    assert!(groups(1).contains(&group("reviewers")));
    assert!(groups(HOUR_MS).contains(&group("reviewers")));
    assert!(!groups(HOUR_MS + 1).contains(&group("reviewers")), "the bound itself is stale");
    assert!(groups(HOUR_MS + 1).contains(&group("security")), "what operators set stays");
    let mut state = state;
    refused(&mut state, &claim("bob", "u-bob", &[], 5, 24 * HOUR_MS + 1), "claim-life");
    refused(&mut state, &claim("bob", "u-bob", &[], 5, 0), "claim-life");
    state.apply(&claim("bob", "u-bob", &["other"], 5, HOUR_MS)).expect("a newer word");
    assert!(!state.authority.in_group(&human("bob"), &group("reviewers"), at(6)), "it replaces");
}

#[test]
fn invariant_11_membership_by_claim_holds_at_the_vote_and_at_the_mint() {
    let late = HOUR_MS - 60_000;
    let mut state = bob_by_claim();
    for event in asked("r-1", late) {
        state.apply(&event).expect("asked");
    }
    state.apply(&vote(&state, "r-1", "bob", late + 1)).expect("fresh at the vote");
    let intent = |ms: i64, approvers| {
        Event::Intended(Intended {
            at: at(ms),
            digest: state.requests[&request("r-1")].digest,
            request_id: request("r-1"),
            minter: "jwt".into(),
            approvers,
        })
    };
    let mut stale = state.clone();
    let bob = people(&["bob"]);
    refused(&mut stale, &intent(HOUR_MS + 1, bob.clone()), "quorum");
    state.apply(&intent(HOUR_MS, bob)).expect("fresh at the mint");

    let mut state = bob_by_claim();
    for event in asked("r-2", HOUR_MS) {
        state.apply(&event).expect("asked");
    }
    let ballot = vote(&state, "r-2", "bob", HOUR_MS + 1);
    let violation = state.apply(&ballot).expect_err("stale at the vote");
    assert_eq!((violation.rule, violation.code), ("eligible", "stale_membership"));
}

#[test]
fn invariant_10_who_linked_an_account_could_act_as_its_person() {
    // Alice owns the agent; were she an operator, she could link an account of her own to bob.
    let mut state = furnished();
    let operator = crate::world::set_human("root", "alice", true, true, 0);
    state.apply(&operator).expect("an operator");
    for event in asked("r-1", 1) {
        state.apply(&event).expect("asked");
    }
    let may = |state: &State| {
        let request = &state.requests[&request("r-1")];
        eligible::check(request, &state.authority, &human("bob"), "api", at(2))
            .map_err(|e| e.code())
    };
    assert_eq!(may(&state), Ok(()));
    state.apply(&link("alice", "u-1", Some("bob"), 1)).expect("a link");
    assert_eq!(may(&state), Err("owners_token"));
    // Linked by another or unlinked: the session that alice began may go on.
    let session = grantwright_domain::authority::SESSION_LIFE_MS;
    for to in [Some("bob"), None] {
        let mut state = state.clone();
        state.apply(&link("root", "u-1", to, 2)).expect("no longer alice's word");
        assert_eq!(may(&state), Err("owners_token"), "{to:?}");
        let alice =
            |ms| state.authority.stand_ins(&human("bob"), at(ms)).any(|h| *h == human("alice"));
        assert!(alice(1 + session) && !alice(2 + session), "{to:?}");
    }
}

fn token(by: &str, of: &str, ms: i64) -> Event {
    Event::TokenIssued(grantwright_domain::event::TokenIssued {
        at: at(ms),
        by: human(by),
        token_id: format!("t-{by}-{of}"),
        human: human(of),
        token_hash: grantwright_domain::Digest::of("test", format!("{by} {of}").as_bytes()),
        expires_at: at(ms + HOUR_MS),
    })
}

#[test]
fn invariant_10_who_could_act_as_a_voter_is_neither_the_tasks_person_nor_a_delegate() {
    for (by, delegated) in [("carol", false), ("frank", true)] {
        let mut state = furnished();
        for event in [crate::world::set_human("root", by, true, true, 0), token(by, "bob", 0)] {
            state.apply(&event).expect("an operator and a token");
        }
        let [requested, decided] = asked("r-1", 1);
        let Event::Requested(mut asks) = requested else { panic!("a request") };
        // frank owns the router; the task runs for carol.
        match delegated {
            true => {
                for event in crate::world::handing(1) {
                    state.apply(&event).expect("the router hands on");
                }
                asks.terms.delegation = vec![crate::world::agent(crate::world::AGENTS[2])];
                asks.terms.delegation_id = Some(crate::world::delegation("d-2"));
            }
            false => asks.terms.on_behalf_of = Some(human(by)),
        }
        asks.digest = asks.terms.digest().expect("a digest");
        let Event::Decided(mut verdict) = decided else { panic!("a verdict") };
        verdict.digest = asks.digest;
        state.apply(&Event::Requested(asks)).expect("asked");
        state.apply(&Event::Decided(verdict)).expect("decided");
        let ballot = vote(&state, "r-1", "bob", 2);
        let violation = state.clone().apply(&ballot).expect_err("they could be bob");
        assert_eq!((violation.rule, violation.code), ("eligible", "stood_in"));
        let revoked = grantwright_domain::event::TokenRevoked {
            at: at(2),
            by: human("root"),
            token_id: format!("t-{by}-bob"),
        };
        state.apply(&Event::TokenRevoked(revoked)).expect("revoked");
        state.apply(&ballot).expect("nobody else could be bob");
    }
}

#[test]
fn invariant_10_two_votes_that_one_person_could_have_cast_count_once() {
    let two = |state: &mut State| {
        let [requested, decided] = asked("r-1", 1);
        let Event::Decided(mut decided) = decided else { panic!("a verdict") };
        decided.verdict.quorum = 2;
        state.apply(&requested).expect("asked");
        state.apply(&Event::Decided(decided)).expect("decided");
    };
    let intent = |state: &State, approvers| {
        Event::Intended(Intended {
            at: at(9),
            digest: state.requests[&request("r-1")].digest,
            request_id: request("r-1"),
            minter: "jwt".into(),
            approvers,
        })
    };
    // erin is an operator and a reviewer; bob's token is hers.
    for (first, second) in [("erin", "bob"), ("bob", "erin")] {
        let mut state = furnished();
        state.apply(&token("erin", "bob", 0)).expect("a token");
        two(&mut state);
        state.apply(&vote(&state, "r-1", first, 2)).expect("the first");
        let violation = state.clone().apply(&vote(&state, "r-1", second, 3)).expect_err("one hand");
        assert_eq!(violation.code, "same_hand", "{first}, {second}");
        state.apply(&vote(&state, "r-1", "carol", 4)).expect("another");
        state.apply(&intent(&state, people(&[first, "carol"]))).expect("two people");
    }
    // Made after the votes: asked again at the intent.
    let mut state = furnished();
    two(&mut state);
    for (who, ms) in [("erin", 2), ("bob", 3)] {
        state.apply(&vote(&state, "r-1", who, ms)).expect("a vote");
    }
    let both = intent(&state, people(&["bob", "erin"]));
    state.clone().apply(&both).expect("two people");
    state.apply(&token("erin", "bob", 4)).expect("a token");
    refused(&mut state, &both, "quorum");
    // A third person's tokens, as of any new installation.
    let mut state = furnished();
    for who in ["bob", "carol"] {
        state.apply(&token("root", who, 0)).expect("a token");
    }
    two(&mut state);
    for (who, ms) in [("bob", 2), ("carol", 3)] {
        state.apply(&vote(&state, "r-1", who, ms)).expect("a vote");
    }
    state.apply(&intent(&state, people(&["bob", "carol"]))).expect("root decides nothing");
}

#[test]
fn invariant_12_a_scope_of_two_steps_counts_no_approval_without_its_fact() {
    let mut state = furnished();
    for event in asked("r-1", 1) {
        state.apply(&event).expect("asked");
    }
    let template = state.requests[&request("r-1")].terms.template;
    let mut guarded = crate::world::export();
    guarded.confirm = Some("rows".into());
    assert!(guarded.faults().is_empty());
    // The declaration is found by its digest; the rule reads it from there.
    state.authority.catalog.insert(template, std::sync::Arc::new(guarded));
    let plain = vote(&state, "r-1", "bob", 2);
    refused(&mut state, &plain, "confirmation");
    let Event::Voted(mut ballot) = plain else { panic!("a vote") };
    ballot.confirmed = Some("dataset".into());
    refused(&mut state, &Event::Voted(ballot.clone()), "confirmation");
    let mut deny = ballot.clone();
    (deny.decision, deny.confirmed) = (Decision::Deny, None);
    state.clone().apply(&Event::Voted(deny)).expect("a deny takes one step");
    ballot.confirmed = Some("rows".into());
    state.apply(&Event::Voted(ballot)).expect("confirmed");
    let standing = state.requests[&request("r-1")].standing(Rights::Now(&state.authority), at(3));
    assert_eq!(standing, people(&["bob"]));
}

#[test]
fn a_scope_names_a_fact_that_can_be_confirmed() {
    let with = |fact: &str| {
        let mut scope = crate::world::export();
        scope.confirm = Some(fact.into());
        scope
    };
    for (fact, fine) in [("rows", true), ("@agent", true), ("bucket", false), ("", false)] {
        assert_eq!(with(fact).faults().is_empty(), fine, "{fact}");
    }
    let mut sealed = with("dataset");
    sealed.params.get_mut("dataset").expect("dataset").sensitive = true;
    assert!(!sealed.faults().is_empty(), "a sensitive value is not typed again");
    let digest = |s: &grantwright_domain::Scope| -> Digest { s.digest().expect("a digest") };
    assert_ne!(digest(&with("rows")), digest(&crate::world::export()), "the guard is pinned");
}
