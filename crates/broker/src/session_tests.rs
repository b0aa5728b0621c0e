//! Sessions and one-time links: when they begin and end, and what they refuse.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, header};
use grantwright_domain::event::{HumanSet, LinkCreated};
use grantwright_domain::{Digest, Event, HumanId};
use grantwright_store::Transition;
use tower::ServiceExt as _;

use crate::http;
use crate::http::peer::Peer;
use crate::http::session::{self, CSRF_HEADER, How, IDLE_MS, LIFE_MS, MOST};
use crate::issue::rig::{Rig, human};

async fn call(rig: &Rig, method: &str, path: &str, headers: &[(&str, &str)]) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let router = http::router(Arc::clone(&rig.broker));
    router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

async fn sign_in(rig: &Rig, person: &str) -> String {
    let cookie =
        session::begin(&rig.broker, &human(person), How::Link, &Peer::default()).await.unwrap();
    cookie.to_str().unwrap().split(';').next().unwrap().to_owned()
}

async fn who(rig: &Rig, cookie: &str) -> Option<HumanId> {
    let headers = HeaderMap::from_iter([(header::COOKIE, cookie.parse().unwrap())]);
    session::find(&rig.broker, &headers, &Peer::default()).await.unwrap().map(|s| s.human)
}

/// A link of this purpose for a person, by olivia; its code.
pub async fn link(rig: &Rig, person: &str, purpose: &str) -> String {
    let (at, code) = (rig.broker.now(), rig.broker.random.secret());
    let made = Event::LinkCreated(LinkCreated {
        at,
        by: human("olivia"),
        link_id: rig.broker.random.name("k-"),
        human: human(person),
        code_hash: Digest::of("one-time-link", code.as_bytes()),
        purpose: purpose.into(),
        expires_at: at.plus_millis(3_600_000),
    });
    rig.broker.commit(Transition::authority(vec![made])).await.unwrap();
    code
}

#[tokio::test]
async fn a_session_ends_when_idle_when_old_and_with_the_person() {
    let rig = Rig::new().await;
    let idle = sign_in(&rig, "bob").await;
    assert_eq!(who(&rig, &idle).await, Some(human("bob")));
    rig.clock.advance(IDLE_MS);
    assert_eq!(who(&rig, &idle).await, None, "idle");
    let used = sign_in(&rig, "bob").await;
    for _ in 0..LIFE_MS / (IDLE_MS / 2) - 1 {
        rig.clock.advance(IDLE_MS / 2);
        assert_eq!(who(&rig, &used).await, Some(human("bob")));
    }
    rig.clock.advance(IDLE_MS / 2);
    assert_eq!(who(&rig, &used).await, None, "old, however much it was used");
    let cut = sign_in(&rig, "bob").await;
    let set = |active| {
        let (at, by) = (rig.broker.now(), human("olivia"));
        let set = HumanSet { at, by, human: human("bob"), active, operator: false };
        rig.broker.commit(Transition::authority(vec![Event::HumanSet(set)]))
    };
    set(false).await.unwrap();
    assert_eq!(who(&rig, &cut).await, None, "no longer active");
}

#[tokio::test]
async fn invariant_28_the_oldest_session_goes_when_there_are_too_many() {
    let rig = Rig::new().await;
    let first = sign_in(&rig, "bob").await;
    let other = sign_in(&rig, "carol").await;
    for _ in 0..MOST {
        rig.clock.advance(1);
        assert!(who(&rig, &first).await.is_some());
        sign_in(&rig, "bob").await;
    }
    assert_eq!(who(&rig, &first).await, None);
    assert_eq!(who(&rig, &other).await, Some(human("carol")));
}

#[tokio::test]
async fn a_made_up_or_twisted_cookie_is_nobody() {
    let rig = Rig::new().await;
    let mine = sign_in(&rig, "bob").await;
    let id = mine.split_once(':').unwrap().1;
    for cookie in [
        format!("{}=carol:{id}", session::COOKIE),
        format!("{}={id}", session::COOKIE),
        format!("{mine}0"),
        format!("{mine}; {mine}"),
        format!("grantwright=bob:{id}"),
        format!("{}=bob:{}", session::COOKIE, "0".repeat(64)),
    ] {
        assert_eq!(who(&rig, &cookie).await, None, "{cookie}");
    }
    assert_eq!(who(&rig, &format!("a=b; {mine}")).await, Some(human("bob")));
    // A database writer moves bob's row to carol, and another's value below bob's name.
    let store = &rig.broker.store;
    let now = rig.broker.now();
    let rows = store.side_list("session", "bob:", None, 9, now).await.unwrap();
    let row = rows.first().unwrap().clone();
    assert!(!row.key.contains(id), "the id itself is not stored");
    let moved = row.key.replace("bob:", "carol:");
    store.side_put("session", &moved, row.value.clone(), row.expires_at).await.unwrap();
    assert_eq!(who(&rig, &mine.replace("bob:", "carol:")).await, None, "moved");
    let mut edited = row.value.clone();
    let at = edited.len() - 3;
    edited[at] ^= 1;
    store.side_put("session", &row.key, edited, row.expires_at).await.unwrap();
    assert_eq!(who(&rig, &mine).await, None, "edited");
}

#[tokio::test]
async fn what_changes_something_wants_the_token_and_the_own_origin() {
    let rig = Rig::new().await;
    let cookie = sign_in(&rig, "bob").await;
    let headers = HeaderMap::from_iter([(header::COOKIE, cookie.parse().unwrap())]);
    let csrf = session::find(&rig.broker, &headers, &Peer::default()).await.unwrap().unwrap().csrf;
    let other = sign_in(&rig, "bob").await;
    let headers = HeaderMap::from_iter([(header::COOKIE, other.parse().unwrap())]);
    let others =
        session::find(&rig.broker, &headers, &Peer::default()).await.unwrap().unwrap().csrf;
    assert_ne!(csrf, others);
    let origin = ("origin", "http://localhost");
    let cookie_header = ("cookie", cookie.as_str());
    for (why, status, headers) in [
        ("no cookie", 401, vec![origin, (CSRF_HEADER, csrf.as_str())]),
        ("no origin", 403, vec![cookie_header, (CSRF_HEADER, &csrf)]),
        ("foreign", 403, vec![cookie_header, (CSRF_HEADER, &csrf), ("origin", "http://evil")]),
        ("null", 403, vec![cookie_header, (CSRF_HEADER, &csrf), ("origin", "null")]),
        (
            "said to be cross-site",
            403,
            vec![cookie_header, origin, (CSRF_HEADER, &csrf), ("sec-fetch-site", "cross-site")],
        ),
        ("no token", 403, vec![cookie_header, origin]),
        ("another session's token", 403, vec![cookie_header, origin, (CSRF_HEADER, &others)]),
    ] {
        let response = call(&rig, "POST", "/signout", &headers).await;
        assert_eq!(response.status().as_u16(), status, "{why}");
        assert!(who(&rig, &cookie).await.is_some(), "{why}");
    }
    let good = [cookie_header, origin, (CSRF_HEADER, csrf.as_str())];
    let response = call(&rig, "POST", "/signout", &good).await;
    assert_eq!(response.status().as_u16(), 303);
    let gone = response.headers()[header::SET_COOKIE].to_str().unwrap();
    assert!(gone.contains("Max-Age=0"), "{gone}");
    assert_eq!(who(&rig, &cookie).await, None);
    assert!(who(&rig, &other).await.is_some(), "another session goes on");
}

#[tokio::test]
async fn a_login_link_signs_in_once_and_previews_spend_nothing() {
    let rig = Rig::new().await;
    let code = link(&rig, "bob", "login").await;
    let path = format!("/login/{code}");
    assert_eq!(call(&rig, "HEAD", &path, &[]).await.status(), 200);
    for ahead in [("sec-purpose", "prefetch"), ("user-agent", "Slackbot 1.0")] {
        let response = call(&rig, "GET", &path, &[ahead]).await;
        assert!(response.headers().get(header::SET_COOKIE).is_none(), "{ahead:?}");
    }
    let response = call(&rig, "GET", &path, &[]).await;
    assert_eq!(response.status(), 303);
    assert_eq!(response.headers()[header::LOCATION], "/");
    let cookie = response.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    for part in ["__Host-", "; Secure", "; HttpOnly", "; SameSite=Lax", "; Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Domain"));
    assert_eq!(who(&rig, cookie.split(';').next().unwrap()).await, Some(human("bob")));
    let again = call(&rig, "GET", &path, &[]).await;
    assert_eq!(again.status(), 410);
    assert!(again.headers().get(header::SET_COOKIE).is_none());
    for (purpose, status) in [("enrol", 404), ("api", 404)] {
        let code = link(&rig, "bob", purpose).await;
        let response = call(&rig, "GET", &format!("/login/{code}"), &[]).await;
        assert_eq!(response.status().as_u16(), status, "a link of purpose {purpose}");
    }
    let late = link(&rig, "bob", "login").await;
    rig.clock.advance(3_600_000);
    assert_eq!(call(&rig, "GET", &format!("/login/{late}"), &[]).await.status(), 404);
}

/// A browser shows the cookie to every server on this host: to another user it opens nothing.
#[tokio::test]
async fn a_session_of_this_host_is_its_users() {
    let rig = Rig::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = listener.local_addr().unwrap();
    let (one, other) =
        (std::net::TcpStream::connect(ours).unwrap(), std::net::TcpStream::connect(ours).unwrap());
    let mine = |stream: &std::net::TcpStream| Peer::new(stream.local_addr().unwrap(), ours);
    let begun = session::begin(&rig.broker, &human("bob"), How::Link, &mine(&one)).await.unwrap();
    let cookie = begun.to_str().unwrap().split(';').next().unwrap().to_owned();
    let headers = HeaderMap::from_iter([(header::COOKIE, cookie.parse().unwrap())]);
    let found = async |peer: Peer| session::find(&rig.broker, &headers, &peer).await.unwrap();
    assert!(found(mine(&one)).await.is_some());
    assert!(found(mine(&other)).await.is_some(), "another connection of the same user");
    let far = Peer::new("192.0.2.1:5".parse().unwrap(), ours);
    assert!(found(far).await.is_none(), "from another host");
    assert!(found(Peer::default()).await.is_none(), "from nobody known");
    drop(other);
}

#[tokio::test]
async fn invariant_28_one_address_knocks_so_often_and_its_neighbour_is_not_kept_out() {
    let rig = Rig::new().await;
    let knock = async |from: &str, path: &str| {
        let mut request = Request::builder().uri(path).header(header::HOST, "localhost");
        let theirs = std::net::SocketAddr::new(from.parse().unwrap(), 7);
        let peer = Peer::new(theirs, "192.0.2.9:443".parse().unwrap());
        request.extensions_mut().unwrap().insert(peer);
        let router = http::router(Arc::clone(&rig.broker));
        let answer = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        (answer.status().as_u16(), answer.headers().contains_key(header::RETRY_AFTER))
    };
    let most = 2 * rig.broker.config.limits.sign_ins_per_second;
    for n in 0..most {
        let path = ["/signin", "/login/guess", "/enrol/guess", "/oidc/start"][n as usize % 4];
        assert_ne!(knock("192.0.2.1", path).await.0, 429, "{n}: {path}");
    }
    for path in ["/signin", "/login/guess", "/enrol/guess", "/oidc/callback", "/api/v1/login"] {
        assert_eq!(knock("192.0.2.1", path).await, (429, true), "{path}");
    }
    assert_eq!(knock("192.0.2.2", "/signin").await.0, 200, "another address");
    assert_eq!(knock("192.0.2.1", "/healthz").await.0, 200, "another door");
    rig.clock.advance(1000);
    assert_eq!(knock("192.0.2.1", "/signin").await.0, 200, "a second later");
}

#[tokio::test]
async fn a_page_without_a_session_leads_to_signing_in_and_back() {
    let rig = Rig::new().await;
    let page = call(&rig, "GET", "/session?a=b&c", &[("accept", "text/html,*/*")]).await;
    assert_eq!(page.status(), 303);
    assert_eq!(page.headers()[header::LOCATION], "/signin?next=%2Fsession%3Fa%3Db%26c");
    assert_eq!(call(&rig, "GET", "/session", &[]).await.status(), 401);
}
