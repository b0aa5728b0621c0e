//! People's own doors in the suite: the API, with a person's token, and the console, with their
//! session. Nobody stands behind them: what a service's signature is elsewhere is here the token, or
//! the session's cookie with its CSRF token and origin.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use grantwright_approval::channel::{Channel, Delivery, Wish};
use grantwright_domain::event::TokenIssued;
use grantwright_domain::{Digest, Event, Timestamp};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{Hand, PEOPLE, Work};
use crate::http::console::respond::Code;
use crate::http::peer::Peer;
use crate::http::session::{self, How};
use crate::issue::rig::{Rig, human};

/// The API.
pub struct Api;

/// The console; sessions by person.
#[derive(Default)]
pub struct Console(Mutex<BTreeMap<String, (String, String)>>);

/// A call: where to, with what.
const PATH: &str = ":path";

fn token(who: &str) -> String {
    Digest::of("test-token", who.as_bytes()).hex()
}

fn issued(who: &str, at: Timestamp) -> Event {
    Event::TokenIssued(TokenIssued {
        at,
        by: human("olivia"),
        token_id: format!("t-{who}"),
        human: human(who),
        token_hash: Digest::of("person-token", token(who).as_bytes()),
        expires_at: at.plus_seconds(43_200),
    })
}

/// The parts of a handle's line, and what is behind it: then it is none.
fn parts(value: &str) -> [&str; 3] {
    let mut all = value.split(':').skip(1);
    let [id, digest, seen] = [all.next(), all.next(), all.next()].map(Option::unwrap_or_default);
    [id, digest, if all.next().is_some() { "odd" } else { seen }]
}

fn word(wish: &Wish) -> &'static str {
    match wish {
        Wish::Approve { .. } => "approve",
        Wish::Ask { .. } => "ask",
        Wish::Deny { .. } => "deny",
        Wish::Narrow { .. } => "narrow",
        Wish::Withdraw => "withdraw",
    }
}

fn path(id: &str, wish: &Wish) -> (String, String) {
    let id = if id.is_empty() { "none" } else { id };
    (PATH.to_owned(), format!("/requests/{id}/{}", word(wish)))
}

/// Transport keeps the body whole; what can be told is another digest than the one that is there.
fn another_digest(mut delivery: Delivery) -> Delivery {
    let text = String::from_utf8(delivery.body).unwrap();
    let at = text.find("\"digest\":\"").unwrap() + 10;
    let other = if text.as_bytes()[at] == b'0' { "1" } else { "0" };
    delivery.body = format!("{}{other}{}", &text[..at], &text[at + 1..]).into_bytes();
    delivery
}

/// Calls the door; the word for what came of it.
async fn called(rig: &Rig, delivery: &Delivery, kind: &str) -> String {
    let mut request = Request::post(&delivery.headers[PATH]).header("content-type", kind);
    for (name, value) in delivery.headers.iter().filter(|(name, _)| *name != PATH) {
        request = request.header(name, value);
    }
    let request = request.body(Body::from(delivery.body.clone())).unwrap();
    let answer = crate::http::router(Arc::clone(&rig.broker)).oneshot(request).await.unwrap();
    if answer.status().is_success() || answer.status().is_redirection() {
        return "done".into();
    }
    if let Some(Code(code)) = answer.extensions().get::<Code>() {
        return code.clone();
    }
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert!(problem["detail"].is_string() && problem["next"].is_string());
    problem["code"].as_str().unwrap().to_owned()
}

impl Hand for Api {
    fn name(&self) -> &'static str {
        "api"
    }
    fn channel(&self) -> Option<&dyn Channel> {
        None
    }
    fn tenant(&self) -> &str {
        "localhost"
    }
    fn account(&self, who: &str) -> String {
        token(who)
    }
    fn introduce(&self, who: &str, at: Timestamp) -> Event {
        issued(who, at)
    }
    fn stale_after(&self) -> i64 {
        43_200_000
    }
    fn wants(&self, case: &str) -> Option<&'static str> {
        Some(match case {
            "duplicate" => "done",
            "late" | "forged" | "unknown account" => "not_signed_in",
            "early" => "carries no time",
            "replayed" => "done, then not_signed_in",
            "edited" => "digest_mismatch",
            "wrong workspace" => "foreign_host",
            "100 kB of words" => "too_large",
            "markdown" | "HTML" | "ANSI" | "bidirectional" | "zero-width" | "tag characters" => {
                "done, as data"
            }
            _ => return None,
        })
    }
    fn press(
        &self,
        tenant: &str,
        account: &str,
        value: &str,
        wish: &Wish,
        _: &str,
        _: Timestamp,
    ) -> Delivery {
        let [id, digest, seen] = parts(value);
        let seen = seen.parse::<u64>().map_or(Value::from(seen), Value::from);
        let (key, path) = path(id, wish);
        let headers = BTreeMap::from([
            (key, format!("/api/v1{path}")),
            ("host".to_owned(), tenant.to_owned()),
            ("authorization".to_owned(), format!("Bearer {account}")),
        ]);
        let body = match wish {
            Wish::Ask { text } => json!({ "digest": digest, "text": text }),
            Wish::Narrow { params, .. } => json!({ "digest": digest, "params": params }),
            _ => json!({ "digest": digest, "seen": seen }),
        };
        Delivery { headers, body: body.to_string().into_bytes() }
    }
    fn garble(&self, mut delivery: Delivery) -> Delivery {
        delivery.body = b"{\"digest\":".to_vec();
        delivery
    }
    /// It hands out data; who shows it makes it safe to show.
    fn shows<'a>(&'a self, _: &'a Rig, _: &'a grantwright_store::Loaded) -> Work<'a, Vec<String>> {
        Box::pin(std::future::ready(Vec::new()))
    }
    fn forge(&self, mut delivery: Delivery) -> Delivery {
        delivery.headers.insert("authorization".into(), format!("Bearer {}", "0".repeat(64)));
        delivery
    }
    fn edit(&self, delivery: Delivery) -> Delivery {
        another_digest(delivery)
    }
    fn give<'a>(&'a self, rig: &'a Rig, delivery: &'a Delivery) -> Work<'a, String> {
        Box::pin(called(rig, delivery, "application/json"))
    }
}

impl Hand for Console {
    fn name(&self) -> &'static str {
        "console"
    }
    fn channel(&self) -> Option<&dyn Channel> {
        None
    }
    fn tenant(&self) -> &str {
        "localhost"
    }
    fn account(&self, who: &str) -> String {
        who.to_owned()
    }
    fn introduce(&self, who: &str, at: Timestamp) -> Event {
        issued(who, at)
    }
    fn ready<'a>(&'a self, rig: &'a Rig) -> Work<'a, ()> {
        Box::pin(async move {
            for who in PEOPLE {
                let cookie = session::begin(&rig.broker, &human(who), How::Link, &Peer::default())
                    .await
                    .unwrap();
                let cookie = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
                let headers =
                    HeaderMap::from_iter([(axum::http::header::COOKIE, cookie.parse().unwrap())]);
                let found =
                    session::find(&rig.broker, &headers, &Peer::default()).await.unwrap().unwrap();
                self.0.lock().unwrap().insert(who.to_owned(), (cookie, found.csrf));
            }
        })
    }
    fn stale_after(&self) -> i64 {
        session::IDLE_MS
    }
    fn wants(&self, case: &str) -> Option<&'static str> {
        Some(match case {
            "duplicate" => "done",
            "late" | "unknown account" => "not_signed_in",
            "early" => "carries no time",
            "replayed" => "done, then not_signed_in",
            "forged" => "csrf",
            "edited" => "digest_mismatch",
            "wrong workspace" => "foreign_origin",
            "100 kB of words" => "too_large",
            _ => return None,
        })
    }
    fn press(
        &self,
        tenant: &str,
        account: &str,
        value: &str,
        wish: &Wish,
        _: &str,
        _: Timestamp,
    ) -> Delivery {
        let [id, digest, seen] = parts(value);
        let known = self.0.lock().unwrap().get(account).cloned();
        let (cookie, csrf) = known.unwrap_or_default();
        let (key, path) = path(id, wish);
        let headers = BTreeMap::from([
            (key, path),
            ("host".to_owned(), "localhost".to_owned()),
            ("origin".to_owned(), format!("http://{tenant}")),
            ("cookie".to_owned(), cookie),
            ("accept".to_owned(), "text/html".to_owned()),
        ]);
        let mut body = format!("csrf={csrf}&seen={seen}");
        let encoded =
            |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        match wish {
            Wish::Ask { text } => body.push_str(&format!("&text={}", encoded(text))),
            Wish::Narrow { params: Some(params), .. } => {
                body.push_str(&format!("&ttl=60s&params={}", encoded(&params.to_string())));
            }
            _ => {}
        }
        body.push_str(&format!("&digest={digest}"));
        Delivery { headers, body: body.into_bytes() }
    }
    /// Forms hold no JSON: one without its fields.
    fn garble(&self, mut delivery: Delivery) -> Delivery {
        let text = String::from_utf8(delivery.body).unwrap();
        delivery.body = text.split('&').next().unwrap().as_bytes().to_vec();
        delivery
    }
    fn shows<'a>(
        &'a self,
        rig: &'a Rig,
        loaded: &'a grantwright_store::Loaded,
    ) -> Work<'a, Vec<String>> {
        Box::pin(async move {
            let (cookie, _) = self.0.lock().unwrap()["bob"].clone();
            let page = Request::get(format!("/requests/{}", loaded.state.terms.request_id))
                .header("host", "localhost")
                .header("accept", "text/html")
                .header("cookie", cookie)
                .body(Body::empty())
                .unwrap();
            let page = crate::http::router(Arc::clone(&rig.broker)).oneshot(page).await.unwrap();
            assert_eq!(page.status(), 200);
            let page = axum::body::to_bytes(page.into_body(), 1 << 20).await.unwrap();
            vec![String::from_utf8(page.to_vec()).unwrap()]
        })
    }
    fn forge(&self, mut delivery: Delivery) -> Delivery {
        let text = String::from_utf8(delivery.body).unwrap();
        let at = text.find('&').unwrap();
        delivery.body = format!("csrf={}{}", "0".repeat(64), &text[at..]).into_bytes();
        delivery
    }
    fn edit(&self, mut delivery: Delivery) -> Delivery {
        let text = String::from_utf8(delivery.body).unwrap();
        let (before, digest) = text.split_once("&digest=").unwrap();
        let other = if digest.starts_with('0') { "1" } else { "0" };
        delivery.body = format!("{before}&digest={other}{}", &digest[1..]).into_bytes();
        delivery
    }
    fn give<'a>(&'a self, rig: &'a Rig, delivery: &'a Delivery) -> Work<'a, String> {
        Box::pin(called(rig, delivery, "application/x-www-form-urlencoded"))
    }
}
