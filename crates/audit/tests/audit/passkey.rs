//! Invariant 14, offline: decisions signed with passkeys verify from the log alone, and whoever holds
//! the log's own key still cannot make one up.

use grantwright_domain::event::*;
use grantwright_domain::passkey::{
    Algorithm, NONCE_LIFE_MS, PROOF_KIND, PasskeyProof, PublicKey, Statement,
};
use grantwright_domain::{Digest, Event};
use grantwright_testkit::authenticator::Authenticator;
use serde_json::json;

use crate::fixture::{Writer, human, request};
use crate::source::{Memory, Rules};

const ORIGIN: &str = "http://localhost:8080";

/// A log in which bob and carol have passkeys, and a rotation waits.
struct Signed {
    w: Writer,
    bob: Authenticator,
    carol: Authenticator,
}

fn enrolled(who: &str, passkey: &Authenticator, w: &Writer) -> PasskeyEnrolled {
    PasskeyEnrolled {
        at: w.now,
        human: human(who),
        link_id: format!("enrol-{who}"),
        credential_id: passkey.id(),
        public_key: PublicKey { algorithm: Algorithm::Es256, key: passkey.key() },
        rp_id: "localhost".into(),
        aaguid: "0".repeat(32),
        backup_eligible: false,
    }
}

fn link(who: &str, w: &Writer) -> Event {
    Event::LinkCreated(LinkCreated {
        at: w.now,
        by: operator(w),
        link_id: format!("enrol-{who}"),
        human: human(who),
        code_hash: Digest::of("test", who.as_bytes()),
        purpose: "enrol".into(),
        expires_at: w.now.plus_millis(3_600_000),
    })
}

fn operator(w: &Writer) -> grantwright_domain::HumanId {
    let operators = w.state.authority.humans.iter().filter(|(_, h)| h.operator);
    operators.map(|(id, _)| id.clone()).next().unwrap()
}

impl Signed {
    fn new() -> Self {
        let mut w = Writer::new();
        let passkey = || Authenticator::new("localhost", ORIGIN, false);
        let (bob, carol) = (passkey(), passkey());
        for (who, passkey) in [("bob", &bob), ("carol", &carol)] {
            w.push(link(who, &w));
            w.push(Event::PasskeyEnrolled(enrolled(who, passkey, &w)));
        }
        w.ask("r-p", "demo.rotate-root", json!({}));
        w.decide("r-p");
        Self { w, bob, carol }
    }

    /// A vote of `who` on the request, signed by `passkey` over what `change` makes of the statement.
    fn vote(
        &self,
        id: &str,
        who: &str,
        passkey: &Authenticator,
        nonce: u8,
        change: &dyn Fn(&mut Statement<'_>),
    ) -> Voted {
        let mut vote = self.w.ballot(id, who, "console", Decision::Approve);
        let (voter, nonce) = (human(who), format!("{nonce:02x}").repeat(32));
        let expires_at = self.w.now.plus_millis(NONCE_LIFE_MS);
        let origin = self.w.state.authority.origin.clone();
        let mut statement = Statement {
            digest: vote.digest,
            decision: Decision::Approve,
            human: &voter,
            nonce: &nonce,
            expires_at,
            origin: &origin,
        };
        change(&mut statement);
        let challenge = statement.challenge().unwrap();
        let said = passkey.get(&base64url(&challenge.0));
        let proof = PasskeyProof {
            kind: PROOF_KIND.into(),
            credential_id: said.id,
            authenticator_data: said.authenticator_data,
            client_data: said.client_data,
            signature: said.signature,
            nonce: nonce.clone(),
            expires_at,
        };
        vote.proof = Some(proof.to_map());
        vote
    }

    fn granted(mut self, vote: Voted) -> Memory {
        self.w.push(Event::Voted(vote));
        self.w.intend("r-p");
        self.w.issue("r-p", 60);
        Memory::of(&self.w.events, &self.w.beside)
    }
}

fn base64url(bytes: &[u8]) -> String {
    // Twelve lines instead of a dependency.
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = 0u32;
        for i in 0..3 {
            group = group << 8 | u32::from(*chunk.get(i).unwrap_or(&0));
        }
        for i in 0..=chunk.len() {
            out.push(char::from(DIGITS[(group >> (18 - 6 * i)) as usize & 63]));
        }
    }
    out
}

#[test]
fn invariant_14_a_signed_decision_verifies_from_the_log_alone() {
    let signed = Signed::new();
    let vote = signed.vote("r-p", "bob", &signed.bob, 1, &|_| {});
    let mut log = signed.granted(vote);
    let report = log.verify(&[log.newest()]);
    assert!(report.ok, "{:#?}", report.findings);
    assert!(!report.undetectable.iter().any(|u| u.starts_with("votes that no passkey signed")));
    assert!(report.undetectable.iter().any(|u| u.starts_with("a passkey's signature shows")));
}

#[test]
fn invariant_14_the_holder_of_the_logs_key_cannot_make_a_signature_up() {
    type Change = fn(&mut Statement<'_>);
    let statements: [Change; 4] = [
        |s| s.digest = Digest([9; 32]),
        |s| s.decision = Decision::Deny,
        |s| s.expires_at = s.expires_at.plus_millis(1),
        |s| s.origin = "another.example/log",
    ];
    for (n, change) in statements.into_iter().enumerate() {
        let signed = Signed::new();
        let vote = signed.vote("r-p", "bob", &signed.bob, 1, &change);
        found(signed.granted(vote), "passkey", &format!("statement {n}"));
    }
    // carol's signature under bob's name and credential; bob's key replaced; no signature at all.
    let signed = Signed::new();
    let mut vote = signed.vote("r-p", "bob", &signed.carol, 1, &|_| {});
    vote.proof.as_mut().unwrap().insert("credential_id".into(), signed.bob.id().into());
    found(signed.granted(vote), "passkey", "another's signature");
    let signed = Signed::new();
    let mut vote = signed.vote("r-p", "bob", &signed.bob, 1, &|_| {});
    vote.proof.as_mut().unwrap().insert("signature".into(), "AAAA".into());
    found(signed.granted(vote), "passkey", "no signature");
    // Signed for another site, on another page, or without the person's finger.
    type Twist = fn(&mut Authenticator);
    let twists: [Twist; 4] = [
        |p| p.rp_id = "evil.example".into(),
        |p| p.origin = "https://evil.example".into(),
        |p| p.flags = 0x01,
        |p| p.flags = 0x0d,
    ];
    for (n, twist) in twists.into_iter().enumerate() {
        let mut signed = Signed::new();
        twist(&mut signed.bob);
        let vote = signed.vote("r-p", "bob", &signed.bob, 1, &|_| {});
        found(signed.granted(vote), "passkey", &format!("twist {n}"));
    }
}

#[test]
fn invariant_14_a_nonce_is_spent_once_in_the_whole_log() {
    let mut signed = Signed::new();
    let first = signed.vote("r-p", "bob", &signed.bob, 1, &|_| {});
    signed.w.push(Event::Voted(first));
    signed.w.ask("r-q", "demo.rotate-root", json!({}));
    signed.w.decide("r-q");
    let again = signed.vote("r-q", "bob", &signed.bob, 1, &|_| {});
    signed.w.push(Event::Voted(again));
    let log = Memory::of(&signed.w.events, &signed.w.beside);
    found(log, "passkey-nonce", "the same nonce");
}

#[test]
fn invariant_14_a_key_that_was_enrolled_after_the_vote_is_a_finding() {
    let signed = Signed::new();
    let vote = signed.vote("r-p", "bob", &signed.bob, 1, &|_| {});
    let Signed { mut w, bob, .. } = signed;
    w.push(Event::Voted(vote));
    // The enrolment leaf moves behind the vote.
    let at = w
        .events
        .iter()
        .position(|e| matches!(e, Event::PasskeyEnrolled(e) if e.credential_id == bob.id()));
    let mut enrolment = w.events.remove(at.unwrap());
    if let Event::PasskeyEnrolled(e) = &mut enrolment {
        e.at = w.now;
    }
    w.events.push(enrolment);
    let leaf = w.events.iter().position(|e| e.kind() == "voted").unwrap();
    let mut log = Memory::of(&w.events, &w.beside);
    let report = log.verify(&[log.newest()]);
    assert!(report.names(leaf as u64, "passkey"), "{:#?}", report.findings);
    assert_eq!(w.state.requests[&request("r-p")].votes.len(), 1);
}

fn found(mut log: Memory, rule: &str, what: &str) {
    let report = log.verify(&[log.newest()]);
    assert!(!report.ok, "{what}");
    let first = report.findings.first().unwrap();
    assert_eq!(first.rule, rule, "{what}: {:#?}", report.findings);
}
