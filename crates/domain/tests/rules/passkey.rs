//! Invariant 14, as far as the rules go: whose passkey, of which time, and once.

use grantwright_domain::authority::SESSION_LIFE_MS;
use grantwright_domain::event::{
    Decided, Decision, LinkCreated, LinkSpent, PasskeyEnrolled, PasskeyRevoked, Requested, Voted,
    Withdrawn,
};
use grantwright_domain::passkey::{
    Algorithm, MAX_PASSKEYS, NONCE_LIFE_MS, PROOF_KIND, PasskeyProof, PublicKey, Statement,
};
use grantwright_domain::request::{Phase, Rights};
use grantwright_domain::{Digest, Event, State, Strength, Verdict, VerdictKind};
use serde_json::Map;

use crate::world::{at, furnished, group, human, policy, request, terms};

fn link(id: &str, of: &str, by: &str, purpose: &str, ms: i64) -> Event {
    Event::LinkCreated(LinkCreated {
        at: at(ms),
        by: human(by),
        link_id: id.into(),
        human: human(of),
        code_hash: Digest::of("test", id.as_bytes()),
        purpose: purpose.into(),
        expires_at: at(ms + 3_600_000),
    })
}

fn enrolled(credential: &str, of: &str, link: &str, ms: i64) -> PasskeyEnrolled {
    PasskeyEnrolled {
        at: at(ms),
        human: human(of),
        link_id: link.into(),
        credential_id: credential.into(),
        public_key: PublicKey { algorithm: Algorithm::EdDsa, key: "ab".repeat(32) },
        rp_id: "localhost".into(),
        aaguid: "00".repeat(16),
        backup_eligible: false,
    }
}

fn takes(state: &mut State, event: Event) {
    state.apply(&event).unwrap_or_else(|v| panic!("{}: {v}", event.kind()));
}

fn refuses(state: &State, event: Event) -> &'static str {
    state.clone().apply(&event).expect_err("it must be refused").code
}

/// bob has passkey `bobs`, carol `carols`, made by root's links.
fn keyed() -> State {
    let mut state = furnished();
    for (who, credential) in [("bob", "bobs"), ("carol", "carols")] {
        takes(&mut state, link(&format!("k-{who}"), who, "root", "enrol", 0));
        takes(
            &mut state,
            Event::PasskeyEnrolled(enrolled(credential, who, &format!("k-{who}"), 0)),
        );
    }
    state
}

fn asked(state: &mut State, id: &str, quorum: u32) -> Digest {
    let terms = terms(id, at(10), 900);
    let digest = terms.digest().expect("a digest");
    let request_id = request(id);
    takes(
        state,
        Event::Requested(Requested {
            at: at(10),
            digest,
            request_id: request_id.clone(),
            renews: None,
            terms,
        }),
    );
    let mut verdict = Verdict::deny(policy(0), "", "asks", ["ask".to_owned()].into());
    verdict.kind = VerdictKind::Ask;
    verdict.quorum = quorum;
    verdict.strength = Strength::Passkey;
    verdict.channels = ["console".to_owned()].into();
    verdict.approvers = [group("reviewers")].into();
    verdict.max_ttl_s = 900;
    takes(
        state,
        Event::Decided(Decided {
            at: at(10),
            digest,
            request_id,
            verdict,
            attributes: Map::new(),
            context: Map::new(),
            chain: Vec::new(),
            excluded: Default::default(),
            again: false,
            unusual: Vec::new(),
            past: None,
        }),
    );
    digest
}

fn proof(credential: &str, nonce: char, expires_ms: i64) -> PasskeyProof {
    PasskeyProof {
        kind: PROOF_KIND.into(),
        credential_id: credential.into(),
        authenticator_data: "AAAA".into(),
        client_data: "AAAA".into(),
        signature: "AAAA".into(),
        nonce: nonce.to_string().repeat(64),
        expires_at: at(expires_ms),
    }
}

fn vote(state: &State, id: &str, who: &str, ms: i64, proof: Option<&PasskeyProof>) -> Event {
    Event::Voted(Voted {
        at: at(ms),
        digest: state.requests[&request(id)].digest,
        request_id: request(id),
        human: human(who),
        decision: Decision::Approve,
        channel: "console".into(),
        seen: None,
        groups: state.authority.groups_of(&human(who), at(ms)),
        policies: ["reviewers".to_owned()].into(),
        policy_set: policy(0),
        reason_code: String::new(),
        reason: None,
        confirmed: None,
        proof: proof.map(PasskeyProof::to_map),
    })
}

#[test]
fn invariant_14_an_approval_carries_a_proof_of_the_voters_own_live_passkey() {
    let mut state = keyed();
    asked(&mut state, "r-1", 2);
    let good = proof("bobs", '1', 20 + NONCE_LIFE_MS);
    let try_with = |change: &dyn Fn(&mut PasskeyProof)| {
        let mut proof = good.clone();
        change(&mut proof);
        refuses(&state, vote(&state, "r-1", "bob", 20, Some(&proof)))
    };
    assert_eq!(refuses(&state, vote(&state, "r-1", "bob", 20, None)), "passkey_required");
    assert_eq!(try_with(&|p| p.credential_id = "carols".into()), "passkey_unknown");
    assert_eq!(try_with(&|p| p.credential_id = "nobodys".into()), "passkey_unknown");
    assert_eq!(try_with(&|p| p.expires_at = at(20)), "passkey_expired");
    assert_eq!(try_with(&|p| p.expires_at = at(21 + NONCE_LIFE_MS)), "passkey_expired");
    for change in [
        (&|p: &mut PasskeyProof| p.kind = "passkee".into()) as &dyn Fn(&mut PasskeyProof),
        &|p| p.nonce = "1".repeat(63),
        &|p| p.nonce = "A".repeat(64),
        &|p| p.signature = String::new(),
        &|p| p.signature = "A".repeat(257),
        &|p| p.client_data = "A=".into(),
        &|p| p.authenticator_data = "AAAAA".into(),
    ] {
        assert_eq!(try_with(change), "passkey_malformed");
    }
    let mut unknown = good.to_map();
    unknown.insert("more".into(), 1.into());
    let Event::Voted(mut voted) = vote(&state, "r-1", "bob", 20, None) else { panic!() };
    voted.proof = Some(unknown);
    assert_eq!(refuses(&state, Event::Voted(voted)), "passkey_malformed");
    let mine = vote(&state, "r-1", "bob", 20, Some(&good));
    takes(&mut state, mine);
    // The same answer, again: by the same person after a withdrawal, and by another.
    let back = Withdrawn {
        at: at(21),
        digest: state.requests[&request("r-1")].digest,
        request_id: request("r-1"),
        human: human("bob"),
        channel: "console".into(),
    };
    takes(&mut state, Event::Withdrawn(back));
    assert_eq!(refuses(&state, vote(&state, "r-1", "bob", 22, Some(&good))), "passkey_spent");
    let fresh = vote(&state, "r-1", "bob", 22, Some(&proof("bobs", '2', 23)));
    takes(&mut state, fresh);
    assert_eq!(state.requests[&request("r-1")].phase, Phase::Pending);
    let carols = vote(&state, "r-1", "carol", 23, Some(&proof("carols", '3', 24)));
    takes(&mut state, carols);
    assert_eq!(state.requests[&request("r-1")].phase, Phase::Approved);
    // A passkey that ends takes its vote along, at the intent too.
    let end = PasskeyRevoked { at: at(24), by: human("bob"), credential_id: "bobs".into() };
    takes(&mut state, Event::PasskeyRevoked(end));
    let request = &state.requests[&request("r-1")];
    assert!(!request.is_met(Rights::Now(&state.authority), at(25)));
    assert_eq!(request.standing(Rights::Now(&state.authority), at(25)), [human("carol")].into());
}

#[test]
fn a_passkey_is_enrolled_by_its_persons_own_link_and_ends_for_good() {
    let mut state = furnished();
    takes(&mut state, link("k-1", "bob", "root", "enrol", 0));
    takes(&mut state, link("k-login", "bob", "root", "login", 0));
    let good = enrolled("bobs", "bob", "k-1", 5);
    let try_with = |change: &dyn Fn(&mut PasskeyEnrolled)| {
        let mut event = good.clone();
        change(&mut event);
        refuses(&state, Event::PasskeyEnrolled(event))
    };
    assert_eq!(try_with(&|e| e.human = human("carol")), "link-single-use");
    assert_eq!(try_with(&|e| e.link_id = "k-login".into()), "link-single-use");
    assert_eq!(try_with(&|e| e.link_id = "k-2".into()), "link-single-use");
    assert_eq!(try_with(&|e| e.at = at(3_600_000)), "link-single-use");
    for change in [
        (&|e: &mut PasskeyEnrolled| e.rp_id.clear()) as &dyn Fn(&mut PasskeyEnrolled),
        &|e| e.credential_id = "not base64".into(),
        &|e| e.aaguid = "0".repeat(31),
        &|e| e.public_key.key = "AB".repeat(32),
        &|e| e.public_key.algorithm = Algorithm::Es256,
    ] {
        assert_eq!(try_with(change), "passkey-enrolment");
    }
    takes(&mut state, Event::PasskeyEnrolled(good.clone()));
    assert_eq!(refuses(&state, Event::PasskeyEnrolled(good)), "passkey-enrolment");
    takes(&mut state, link("k-3", "carol", "root", "enrol", 6));
    let again = enrolled("bobs", "carol", "k-3", 7);
    assert_eq!(refuses(&state, Event::PasskeyEnrolled(again)), "passkey-enrolment");
    let spent = enrolled("bobs22", "bob", "k-1", 7);
    assert_eq!(refuses(&state, Event::PasskeyEnrolled(spent)), "link-single-use");
    let end = |by: &str| {
        let (by, credential_id) = (human(by), "bobs".to_owned());
        Event::PasskeyRevoked(PasskeyRevoked { at: at(8), by, credential_id })
    };
    assert_eq!(refuses(&state, end("carol")), "operator");
    takes(&mut state.clone(), end("root"));
    takes(&mut state, end("bob"));
    assert_eq!(refuses(&state, end("bob")), "passkey-known");
    for n in 0..=MAX_PASSKEYS {
        let id = format!("k-b{n}");
        takes(&mut state, link(&id, "bob", "root", "enrol", 9));
        let more = Event::PasskeyEnrolled(enrolled(&format!("more{n:02}AA"), "bob", &id, 9));
        match n {
            MAX_PASSKEYS => assert_eq!(refuses(&state, more), "passkey-bound"),
            _ => takes(&mut state, more),
        }
    }
    takes(&mut state, crate::world::set_human("root", "bob", false, false, 10));
    assert_eq!(state.authority.passkeys_of(&human("bob")).count(), 0);
}

#[test]
fn invariant_10_who_owns_the_agent_gains_nothing_from_links_made_for_a_reviewer() {
    // frank becomes an operator, and makes links for bob; alice hands the agent to frank.
    let mut state = keyed();
    takes(&mut state, crate::world::set_human("root", "frank", true, true, 1));
    takes(&mut state, crate::world::set_agent("root", "demo-agent", "frank", 1));
    takes(&mut state, link("k-f", "dave", "frank", "enrol", 2));
    takes(&mut state, Event::PasskeyEnrolled(enrolled("franksX", "dave", "k-f", 3)));
    asked(&mut state, "r-1", 1);
    let by_dave = vote(&state, "r-1", "dave", 20, Some(&proof("franksX", '1', 30)));
    assert_eq!(refuses(&state, by_dave), "owners_passkey");
    // A link to sign in: while it works, and while the session that it began may go on.
    takes(&mut state, link("k-l", "bob", "frank", "login", 21));
    let by_bob =
        |state: &State, ms| vote(state, "r-1", "bob", ms, Some(&proof("bobs", '2', ms + 1)));
    assert_eq!(refuses(&state, by_bob(&state, 22)), "owners_token");
    let spent = LinkSpent { at: at(23), link_id: "k-l".into() };
    takes(&mut state, Event::LinkSpent(spent));
    assert_eq!(refuses(&state, by_bob(&state, 24)), "owners_token");
    assert!(stands_in(&state, "frank", "bob", 22 + SESSION_LIFE_MS));
    assert!(!stands_in(&state, "frank", "bob", 23 + SESSION_LIFE_MS));
}

fn stands_in(state: &State, who: &str, of: &str, ms: i64) -> bool {
    state.authority.stand_ins(&human(of), at(ms)).any(|h| *h == human(who))
}

#[test]
fn invariant_10_who_made_a_link_to_enrol_could_act_as_its_person_as_long_as_the_passkey_lives() {
    let mut state = furnished();
    takes(&mut state, crate::world::set_human("root", "frank", true, true, 0));
    let hour = 3_600_000;
    takes(&mut state, link("k-f", "bob", "frank", "enrol", 0));
    assert!(stands_in(&state, "frank", "bob", 1), "the link works");
    assert!(!stands_in(&state, "frank", "bob", hour), "its time is over");
    takes(&mut state, Event::PasskeyEnrolled(enrolled("franksX", "bob", "k-f", 1)));
    assert!(stands_in(&state, "frank", "bob", 9 * SESSION_LIFE_MS), "it signs in at any time");
    let later = 5 * SESSION_LIFE_MS;
    for end in [
        Event::PasskeyRevoked(PasskeyRevoked {
            at: at(later),
            by: human("bob"),
            credential_id: "franksX".into(),
        }),
        crate::world::set_human("root", "bob", false, false, later),
    ] {
        let mut state = state.clone();
        takes(&mut state, end);
        assert!(stands_in(&state, "frank", "bob", later + SESSION_LIFE_MS - 1), "its last session");
        assert!(!stands_in(&state, "frank", "bob", later + SESSION_LIFE_MS));
    }
    // An unused link for the API becomes a token; a used one is that token.
    takes(&mut state, link("k-a", "carol", "frank", "api", later));
    assert!(stands_in(&state, "frank", "carol", later));
    takes(&mut state, Event::LinkSpent(LinkSpent { at: at(later), link_id: "k-a".into() }));
    assert!(!stands_in(&state, "frank", "carol", later));
}

#[test]
fn invariant_11_a_passkeys_maker_does_not_own_the_agent_at_the_mint_either() {
    let mut state = keyed();
    takes(&mut state, crate::world::set_human("root", "frank", true, true, 1));
    takes(&mut state, link("k-f", "dave", "frank", "enrol", 2));
    takes(&mut state, Event::PasskeyEnrolled(enrolled("franksX", "dave", "k-f", 3)));
    asked(&mut state, "r-1", 1);
    let by_dave = vote(&state, "r-1", "dave", 20, Some(&proof("franksX", '1', 30)));
    takes(&mut state, by_dave);
    let met = |state: &State, ms| {
        state.requests[&request("r-1")].is_met(Rights::Now(&state.authority), at(ms))
    };
    assert!(met(&state, 21));
    takes(&mut state, crate::world::set_agent("root", "demo-agent", "frank", 22));
    assert!(!met(&state, 23), "frank, who owns the agent now, could have signed");
}

#[test]
fn the_challenge_differs_with_every_part_of_the_statement() {
    let (bob, carol) = (human("bob"), human("carol"));
    let (nonce, other) = ("1".repeat(64), "2".repeat(64));
    let statement = Statement {
        digest: Digest([1; 32]),
        decision: Decision::Approve,
        human: &bob,
        nonce: &nonce,
        expires_at: at(0),
        origin: "log.example.org/grantwright",
    };
    let mut seen = std::collections::BTreeSet::new();
    for s in [
        statement.clone(),
        Statement { digest: Digest([2; 32]), ..statement.clone() },
        Statement { decision: Decision::Deny, ..statement.clone() },
        Statement { human: &carol, ..statement.clone() },
        Statement { nonce: &other, ..statement.clone() },
        Statement { expires_at: at(1), ..statement.clone() },
        Statement { origin: "other", ..statement.clone() },
    ] {
        assert!(seen.insert(s.challenge().expect("a digest")));
    }
    // Frozen: a second implementation must reach the same.
    let json = format!(
        "{{\"decision\":\"approve\",\"digest\":\"{}\",\"expires_at\":\"{}\",\"human\":\"bob\",\
         \"nonce\":\"{nonce}\",\"origin\":\"log.example.org/grantwright\"}}",
        "01".repeat(32),
        at(0)
    );
    let challenge = statement.challenge().expect("a digest");
    assert_eq!(challenge, Digest::of("passkey-decision", json.as_bytes()));
}
