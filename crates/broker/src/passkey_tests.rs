//! Invariant 14 at the doors: enrolling, signing in and deciding with a passkey in software, and all
//! the ways in which a signature is used for something else.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use grantwright_domain::{Event, Phase, RequestId};
use grantwright_testkit::authenticator::Authenticator;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::http;
use crate::http::peer::Peer;
use crate::http::session::{self, CSRF_HEADER, How};
use crate::issue::rig::{Rig, human};
use crate::session_tests::link;

const ORIGIN: &str = "http://localhost:1";

struct Answered {
    status: u16,
    cookie: Option<String>,
    json: Value,
}

async fn post(rig: &Rig, path: &str, headers: &[(&str, &str)], body: &Value) -> Answered {
    let mut request = Request::builder()
        .method("POST")
        .uri(path)
        .header(header::HOST, "localhost:1")
        .header(header::ORIGIN, ORIGIN);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body.to_string())).unwrap();
    let response = http::router(Arc::clone(&rig.broker)).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let cookie = response.headers().get(header::SET_COOKIE);
    let cookie = cookie.map(|c| c.to_str().unwrap().split(';').next().unwrap().to_owned());
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    Answered { status, cookie, json: serde_json::from_slice(&bytes).unwrap_or_default() }
}

/// A person's session, as their browser holds it.
struct Browser {
    cookie: String,
    csrf: String,
}

impl Browser {
    async fn of(rig: &Rig, cookie: &str) -> Self {
        let headers = HeaderMap::from_iter([(header::COOKIE, cookie.parse().unwrap())]);
        let session = session::find(&rig.broker, &headers, &Peer::default())
            .await
            .unwrap()
            .expect("a session");
        Self { cookie: cookie.to_owned(), csrf: session.csrf }
    }

    async fn new(rig: &Rig, person: &str) -> Self {
        let cookie =
            session::begin(&rig.broker, &human(person), How::Link, &Peer::default()).await.unwrap();
        Self::of(rig, cookie.to_str().unwrap().split(';').next().unwrap()).await
    }

    async fn post(&self, rig: &Rig, path: &str, body: &Value) -> Answered {
        post(rig, path, &[("cookie", &self.cookie), (CSRF_HEADER, &self.csrf)], body).await
    }

    /// Asks for a challenge to approve this request.
    async fn options(&self, rig: &Rig, id: &RequestId) -> Answered {
        let digest = state(rig, id).await.digest;
        let body = json!({ "decision": "approve", "digest": digest });
        self.post(rig, &format!("/requests/{id}/passkey/options"), &body).await
    }

    async fn challenge(&self, rig: &Rig, id: &RequestId) -> String {
        let options = self.options(rig, id).await;
        assert_eq!(options.status, 200, "{}", options.json);
        let wanted = &options.json["publicKey"];
        assert_eq!(wanted["userVerification"], "required");
        assert_eq!(wanted["rpId"], "localhost");
        wanted["challenge"].as_str().unwrap().to_owned()
    }

    async fn send(&self, rig: &Rig, id: &RequestId, assertion: &Value) -> Answered {
        let digest = state(rig, id).await.digest;
        let body = json!({ "decision": "approve", "digest": digest, "assertion": assertion });
        self.post(rig, &format!("/requests/{id}/passkey"), &body).await
    }

    async fn approve(&self, rig: &Rig, id: &RequestId, passkey: &Authenticator) -> Answered {
        let challenge = self.challenge(rig, id).await;
        self.send(rig, id, &passkey.get(&challenge).json()).await
    }
}

fn passkey(eddsa: bool) -> Authenticator {
    Authenticator::new("localhost", ORIGIN, eddsa)
}

/// Enrols by a link of olivia's; the session that comes of it.
async fn enrol(rig: &Rig, person: &str, passkey: &Authenticator) -> Browser {
    let code = link(rig, person, "enrol").await;
    let options = post(rig, &format!("/enrol/{code}/options"), &[], &json!({})).await;
    let challenge = options.json["publicKey"]["challenge"].as_str().unwrap();
    let body = json!({
        "ticket": options.json["ticket"], "credential": passkey.create_json(challenge),
    });
    let done = post(rig, &format!("/enrol/{code}"), &[], &body).await;
    assert_eq!(done.status, 200, "{}", done.json);
    Browser::of(rig, &done.cookie.unwrap()).await
}

async fn state(rig: &Rig, id: &RequestId) -> grantwright_domain::RequestState {
    rig.broker.store.load(id).await.unwrap().unwrap().state
}

async fn waits(rig: &Rig, dataset: &str) -> RequestId {
    let ask = rig.ask("signed", &format!(r#"{{"dataset":"{dataset}"}}"#), "");
    let outcome = rig.issue(ask).await.expect("pending");
    RequestId::parse(&outcome.request_id).unwrap()
}

#[tokio::test]
async fn invariant_14_a_passkey_decides_and_nothing_else_does() {
    let rig = Rig::new().await;
    for (n, eddsa) in [false, true].into_iter().enumerate() {
        let key = passkey(eddsa);
        let bob = enrol(&rig, "bob", &key).await;
        let id = waits(&rig, ["one", "two"][n]).await;
        let refused = rig.approve("bob", id.as_str()).await.expect_err("no signature");
        assert_eq!(refused.code, "passkey_required");
        assert!(refused.next.contains(&rig.broker.link(&id)), "{}", refused.next);
        let done = bob.approve(&rig, &id, &key).await;
        assert_eq!(done.status, 200, "{}", done.json);
        assert_eq!(done.json["state"], "approved");
        let loaded = rig.broker.store.load(&id).await.unwrap().unwrap();
        let Some((_, Event::Voted(vote))) = loaded.leaves.last() else { panic!("no vote") };
        let proof = vote.proof.as_ref().unwrap();
        assert_eq!(proof["credential_id"], key.id());
        assert_eq!(vote.channel, "console");
    }
}

#[tokio::test]
async fn invariant_14_a_signature_is_good_for_one_use_only() {
    let rig = Rig::new().await;
    let (key, carols) = (passkey(false), passkey(false));
    let bob = enrol(&rig, "bob", &key).await;
    let carol = enrol(&rig, "carol", &carols).await;
    let (id, other) = (waits(&rig, "one").await, waits(&rig, "two").await);
    // Another request, another session of the same person, another person, another passkey.
    let signed = key.get(&bob.challenge(&rig, &id).await).json();
    assert_eq!(bob.send(&rig, &other, &signed).await.json["code"], "passkey_spent");
    assert_eq!(bob.send(&rig, &id, &signed).await.json["code"], "passkey_spent", "it was taken");
    let second = Browser::new(&rig, "bob").await;
    let signed = key.get(&bob.challenge(&rig, &id).await).json();
    assert_eq!(second.send(&rig, &id, &signed).await.json["code"], "passkey_spent");
    let signed = key.get(&bob.challenge(&rig, &id).await).json();
    assert_eq!(carol.send(&rig, &id, &signed).await.json["code"], "passkey_spent");
    let by_carols = carols.get(&bob.challenge(&rig, &id).await).json();
    assert_eq!(bob.send(&rig, &id, &by_carols).await.json["code"], "passkey_unknown");
    let mut mixed = carols.get(&bob.challenge(&rig, &id).await).json();
    mixed["id"] = key.id().into();
    assert_eq!(bob.send(&rig, &id, &mixed).await.json["code"], "passkey_refused");
    // Too late.
    let signed = key.get(&bob.challenge(&rig, &id).await).json();
    rig.clock.advance(grantwright_domain::passkey::NONCE_LIFE_MS);
    assert_eq!(bob.send(&rig, &id, &signed).await.json["code"], "passkey_spent");
    // A challenge that nobody gave out.
    let made_up = key.get(&"A".repeat(43)).json();
    assert_eq!(bob.send(&rig, &id, &made_up).await.json["code"], "passkey_spent");
    assert_eq!(state(&rig, &id).await.phase, Phase::Pending);
    // Used, withdrawn, used again.
    let signed = key.get(&bob.challenge(&rig, &id).await).json();
    assert_eq!(bob.send(&rig, &id, &signed).await.status, 200);
    rig.act("bob", id.as_str(), crate::people::Intention::Withdraw).await.expect("withdrawn");
    assert_eq!(bob.send(&rig, &id, &signed).await.json["code"], "passkey_spent");
    assert_eq!(state(&rig, &id).await.phase, Phase::Pending);
}

#[tokio::test]
async fn invariant_14_the_wrong_page_site_or_a_person_not_verified_is_refused() {
    let rig = Rig::new().await;
    let mut key = passkey(true);
    let bob = enrol(&rig, "bob", &key).await;
    let id = waits(&rig, "one").await;
    type Change = fn(&mut Authenticator);
    let cases: [Change; 6] = [
        |p| p.origin = "http://localhost:2".into(),
        |p| p.origin = "https://evil.example".into(),
        |p| p.rp_id = "evil.example".into(),
        |p| p.flags = 0x01,
        |p| p.flags = 0x0d,
        |p| p.more = ",\"crossOrigin\":true".into(),
    ];
    for (n, change) in cases.into_iter().enumerate() {
        let before = (key.origin.clone(), key.rp_id.clone(), key.flags, key.more.clone());
        change(&mut key);
        let refused = bob.approve(&rig, &id, &key).await;
        assert_eq!(refused.json["code"], "passkey_refused", "case {n}: {}", refused.json);
        (key.origin, key.rp_id, key.flags, key.more) = before;
    }
    assert_eq!(state(&rig, &id).await.phase, Phase::Pending);
    assert_eq!(bob.approve(&rig, &id, &key).await.status, 200);
}

#[tokio::test]
async fn invariant_10_and_12_a_challenge_is_for_who_may_decide_what_is_there_now() {
    let rig = Rig::new().await;
    let (key, alices) = (passkey(false), passkey(false));
    let bob = enrol(&rig, "bob", &key).await;
    let alice = enrol(&rig, "alice", &alices).await;
    let dave = Browser::new(&rig, "dave").await;
    let carol = Browser::new(&rig, "carol").await;
    let id = waits(&rig, "one").await;
    for (who, code) in [(&alice, "self_approval"), (&dave, "not_in_group"), (&carol, "no_passkey")]
    {
        let refused = who.options(&rig, &id).await;
        assert_eq!((refused.status, &refused.json["code"]), (403, &json!(code)));
    }
    let path = format!("/requests/{id}/passkey/options");
    let wrong = json!({ "decision": "approve", "digest": "00".repeat(32) });
    assert_eq!(bob.post(&rig, &path, &wrong).await.json["code"], "digest_mismatch");
    let digest = state(&rig, &id).await.digest;
    let deny = json!({ "decision": "deny", "digest": digest });
    assert_eq!(bob.post(&rig, &path, &deny).await.status, 400);
    // Somebody else's page, or a stolen token without the page.
    let body = json!({ "decision": "approve", "digest": digest });
    let cookie = ("cookie", bob.cookie.as_str());
    assert_eq!(post(&rig, &path, &[cookie], &body).await.json["code"], "csrf");
    assert_eq!(post(&rig, &path, &[], &body).await.status, 401);
    // Removed from the group between challenge and answer.
    let signed = key.get(&bob.challenge(&rig, &id).await).json();
    let group = grantwright_domain::event::GroupSet {
        at: rig.broker.now(),
        by: human("olivia"),
        group: grantwright_domain::GroupName::parse("reviewers").unwrap(),
        members: [human("alice"), human("carol")].into(),
    };
    let changed = grantwright_store::Transition::authority(vec![Event::GroupSet(group)]);
    rig.broker.commit(changed).await.unwrap();
    assert_eq!(bob.send(&rig, &id, &signed).await.json["code"], "not_in_group");
    assert_eq!(state(&rig, &id).await.phase, Phase::Pending);
}

#[tokio::test]
async fn a_passkey_that_ends_before_the_mint_takes_its_approval_along() {
    let rig = Rig::new().await;
    let key = passkey(false);
    let bob = enrol(&rig, "bob", &key).await;
    let id = waits(&rig, "one").await;
    assert_eq!(bob.approve(&rig, &id, &key).await.json["state"], "approved");
    let path = format!("/account/passkeys/{}/remove", key.id());
    let carol = Browser::new(&rig, "carol").await;
    assert_eq!(carol.post(&rig, &path, &json!({})).await.status, 404, "another's passkey");
    assert_eq!(bob.post(&rig, &path, &json!({})).await.status, 303);
    assert_eq!(bob.post(&rig, &path, &json!({})).await.status, 404, "it is gone");
    let state = state(&rig, &id).await;
    let authority = rig.broker.authority();
    let now = grantwright_domain::Rights::Now(&authority);
    assert!(!state.is_met(now, rig.broker.now()), "nobody's approval stands");
}

/// Challenges that were spent.
async fn spent(rig: &Rig) -> usize {
    let rows = rig.broker.store.side_list("ceremony-spent", "", None, 99, rig.broker.now()).await;
    rows.unwrap().len()
}

#[tokio::test]
async fn invariant_28_an_answer_that_no_passkey_signed_writes_nothing() {
    let rig = Rig::new().await;
    let key = passkey(true);
    enrol(&rig, "bob", &key).await;
    let before = spent(&rig).await;
    let options = post(&rig, "/signin/options", &[], &json!({})).await;
    let challenge = options.json["publicKey"]["challenge"].as_str().unwrap();
    let sign_in = |signed: Value| json!({ "ticket": options.json["ticket"], "assertion": signed });
    // The credential's id is no secret; its signature over this challenge is.
    for _ in 0..3 {
        let forged = sign_in(key.get(&"A".repeat(43)).json());
        assert_eq!(post(&rig, "/signin", &[], &forged).await.json["code"], "passkey_refused");
    }
    assert_eq!(spent(&rig).await, before);
    let good = sign_in(key.get(challenge).json());
    assert_eq!(post(&rig, "/signin", &[], &good).await.status, 200);
    assert_eq!(spent(&rig).await, before + 1);
    assert_eq!(post(&rig, "/signin", &[], &good).await.json["code"], "ceremony_over");
}

async fn lives(rig: &Rig, browser: &Browser) -> bool {
    let headers = HeaderMap::from_iter([(header::COOKIE, browser.cookie.parse().unwrap())]);
    session::find(&rig.broker, &headers, &Peer::default()).await.unwrap().is_some()
}

/// A call of olivia's to the API.
async fn operate(rig: &Rig, path: &str, body: &Value) -> Answered {
    let (olivia, at) = (human("olivia"), rig.broker.now());
    let made = http::sign::new_token(&rig.broker, &olivia, &olivia, at, 60_000);
    let issued = grantwright_store::Transition::authority(vec![Event::TokenIssued(made.event)]);
    rig.broker.commit(issued).await.unwrap();
    post(rig, path, &[("authorization", &format!("Bearer {}", made.token))], body).await
}

#[tokio::test]
async fn invariant_24_what_signs_in_takes_its_sessions_along_when_it_ends() {
    let rig = Rig::new().await;
    let (key, second) = (passkey(false), passkey(false));
    let mine = enrol(&rig, "bob", &key).await;
    let other = enrol(&rig, "bob", &second).await;
    let carol = Browser::new(&rig, "carol").await;
    let path = format!("/account/passkeys/{}/remove", second.id());
    assert_eq!(mine.post(&rig, &path, &json!({})).await.status, 303);
    assert!(lives(&rig, &mine).await, "the session in which it was ended");
    assert!(!lives(&rig, &other).await, "the passkey's own");
    let path = format!("/api/v1/people/bob/passkeys/{}/revoke", key.id());
    let done = operate(&rig, &path, &json!({})).await;
    assert_eq!(done.status, 200, "{}", done.json);
    assert!(!lives(&rig, &mine).await, "an operator ended it");
    // An account at the identity provider: linked, linked again, unlinked.
    for (n, unlink) in [false, false, true].into_iter().enumerate() {
        let bob = Browser::new(&rig, "bob").await;
        let account = json!({ "issuer": "https://id.example", "subject": "u-1", "unlink": unlink });
        let done = operate(&rig, "/api/v1/people/bob/account", &account).await;
        assert_eq!(done.status, 200, "{}", done.json);
        assert_eq!(lives(&rig, &bob).await, n == 0, "{n}");
    }
    assert!(lives(&rig, &carol).await, "another person");
}

#[tokio::test]
async fn invariant_12_who_may_not_approve_by_policy_neither_asks_nor_narrows() {
    use crate::people::Intention;
    let rig = Rig::new().await;
    rig.load_policy(
        "@id(\"no-carol\") forbid (principal == Human::\"carol\", action == Action::\"approve\", \
         resource == Scope::\"signed\");",
    )
    .await;
    let id = waits(&rig, "one").await;
    let ask = || Intention::Ask { text: "which?".into() };
    let narrow = || Intention::Narrow { ttl_s: Some(60), params: None, confirm: None };
    for what in [ask(), narrow()] {
        let refused = rig.act("carol", id.as_str(), what).await.expect_err("policy forbids it");
        assert_eq!(refused.code, "approve_forbidden");
        let refused = rig.act("dave", id.as_str(), ask()).await.expect_err("no reviewer");
        assert_eq!(refused.code, "not_in_group", "the rules' reason comes first");
    }
    rig.act("bob", id.as_str(), ask()).await.expect("bob may ask");
    rig.act("bob", id.as_str(), narrow()).await.expect("and narrow");
}

#[tokio::test]
async fn a_passkey_signs_in_and_an_ended_one_does_not() {
    let rig = Rig::new().await;
    let key = passkey(true);
    let bob = enrol(&rig, "bob", &key).await;
    for body in [json!({}), json!({ "human": "bob" })] {
        let options = post(&rig, "/signin/options", &[], &body).await;
        let signed = key.get(options.json["publicKey"]["challenge"].as_str().unwrap()).json();
        let body =
            json!({ "ticket": options.json["ticket"], "assertion": signed, "next": "//evil" });
        let done = post(&rig, "/signin", &[], &body).await;
        assert_eq!((done.status, &done.json["next"]), (200, &json!("/")), "{}", done.json);
        Browser::of(&rig, &done.cookie.unwrap()).await;
        let again = post(&rig, "/signin", &[], &body).await;
        assert_eq!(again.json["code"], "ceremony_over", "the same answer twice");
    }
    // A ticket for another purpose, and one that was edited.
    let code = link(&rig, "bob", "enrol").await;
    let options = post(&rig, &format!("/enrol/{code}/options"), &[], &json!({})).await;
    let signed = key.get(options.json["publicKey"]["challenge"].as_str().unwrap()).json();
    let body = json!({ "ticket": options.json["ticket"], "assertion": signed });
    assert_eq!(post(&rig, "/signin", &[], &body).await.json["code"], "ceremony_over");
    let options = post(&rig, "/signin/options", &[], &json!({})).await;
    let challenge = options.json["publicKey"]["challenge"].as_str().unwrap();
    let body = json!({ "ticket": "x.y", "assertion": key.get(challenge).json() });
    assert_eq!(post(&rig, "/signin", &[], &body).await.json["code"], "ceremony_over");
    // A stranger learns nothing: somebody without a passkey looks like somebody with one.
    let nobody = post(&rig, "/signin/options", &[], &json!({ "human": "nobody" })).await;
    assert_eq!(nobody.json["publicKey"]["allowCredentials"].as_array().unwrap().len(), 1);
    let remove = format!("/account/passkeys/{}/remove", key.id());
    assert_eq!(bob.post(&rig, &remove, &json!({})).await.status, 303);
    let body = json!({ "ticket": options.json["ticket"], "assertion": key.get(challenge).json() });
    assert_eq!(post(&rig, "/signin", &[], &body).await.json["code"], "passkey_unknown");
}

#[tokio::test]
async fn an_enrolment_link_works_once_and_for_its_own_page() {
    let rig = Rig::new().await;
    let key = passkey(false);
    let code = link(&rig, "bob", "enrol").await;
    let path = format!("/enrol/{code}");
    let page = Request::builder().uri(&path).header(header::HOST, "localhost:1");
    let page = page.body(Body::empty()).unwrap();
    let page = http::router(Arc::clone(&rig.broker)).oneshot(page).await.unwrap();
    assert_eq!(page.status(), 200, "looking spends nothing");
    let options = post(&rig, &format!("{path}/options"), &[], &json!({})).await;
    let challenge = options.json["publicKey"]["challenge"].as_str().unwrap();
    let body = |p: &Authenticator, challenge: &str| json!({ "ticket": options.json["ticket"], "credential": p.create_json(challenge) });
    let wrong = post(&rig, &path, &[], &body(&key, &"A".repeat(43))).await;
    assert_eq!(wrong.json["code"], "passkey_refused");
    assert_eq!(spent(&rig).await, 0, "what was not verified writes nothing");
    assert_eq!(post(&rig, &path, &[], &body(&key, challenge)).await.status, 200);
    assert_eq!(spent(&rig).await, 1);
    assert_eq!(post(&rig, &format!("{path}/options"), &[], &json!({})).await.status, 410);
    let login = link(&rig, "bob", "login").await;
    let foreign = post(&rig, &format!("/enrol/{login}/options"), &[], &json!({})).await;
    assert_eq!(foreign.status, 404);
    // The same passkey for another person.
    let code = link(&rig, "carol", "enrol").await;
    let options = post(&rig, &format!("/enrol/{code}/options"), &[], &json!({})).await;
    let challenge = options.json["publicKey"]["challenge"].as_str().unwrap();
    let body =
        json!({ "ticket": options.json["ticket"], "credential": key.create_json(challenge) });
    assert_eq!(post(&rig, &format!("/enrol/{code}"), &[], &body).await.status, 409);
    let authority = rig.broker.authority();
    assert_eq!(authority.passkeys_of(&human("bob")).count(), 1);
}
