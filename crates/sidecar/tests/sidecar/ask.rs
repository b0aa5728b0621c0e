//! An ask, its answers, and what is answered from memory.

use std::collections::HashSet;
use std::time::Duration;

use crate::broker::Scripted;
use crate::client::Running;

#[tokio::test]
async fn a_grant_carries_credential_receipt_and_lease_and_is_acknowledged() {
    begin!(broker, sidecar, _dir);
    let answer = sidecar.ask("demo.read").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.body["state"], "granted");
    assert_eq!(answer.body["request_id"], "r-1");
    assert_eq!(answer.body["lease_id"], "lease-r-1");
    assert_eq!(answer.body["credential"], serde_json::json!({"token": "token-r-1"}));
    assert!(answer.body["expires_at"].as_str().unwrap().ends_with('Z'));
    let proof = answer.body["receipt"]["proof"].as_str().unwrap();
    assert!(proof.starts_with("c2sp.org/tlog-proof@v1\nindex 1\n"), "{proof}");
    assert!(answer.head.contains("cache-control: no-store"));
    sidecar.until("acknowledged", || async { broker.script().acknowledged == ["r-1"] }).await;
    // Also what is delivered just before the sidecar ends.
    let last = sidecar.ask("demo.last").await;
    assert_eq!(last.status, 200);
    let sent = broker.script().asks[0].clone();
    assert_eq!((sent.workload.as_str(), sent.reason.as_str()), ("test", "test"));
    assert_eq!(sent.known_size, 1);
    sidecar.stop().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(broker.script().acknowledged, ["r-1", "r-2"]);
}

#[tokio::test]
async fn a_hundred_identical_asks_at_once_are_one_call() {
    begin!(broker, sidecar, _dir);
    broker.script().delay = Duration::from_millis(100);
    let asks = (0..100).map(|_| sidecar.ask("demo.read"));
    let mut answers = HashSet::new();
    for answer in futures_join(asks).await {
        assert_eq!(answer.status, 200);
        answers.insert(answer.text);
    }
    assert_eq!((answers.len(), broker.asks_for("demo.read")), (1, 1));
}

#[tokio::test]
async fn a_key_that_the_caller_left_out_is_the_sidecars_and_its_private_half_stays_here() {
    begin!(broker, sidecar, dir);
    let body = r#"{"scope":"key.ssh","params":{"job":"a"},"reason":"r","idempotency_key":"k1"}"#;
    let answer = sidecar.post(body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let sent = broker.script().asks[0].clone();
    let params: serde_json::Value = serde_json::from_slice(&sent.params_jcs).unwrap();
    let key = params["key"].as_str().unwrap().to_owned();
    assert!(key.starts_with("ssh-ed25519 "), "{key}");
    let private = answer.body["credential"]["private_key"].as_str().unwrap().to_owned();
    assert!(private.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"));
    assert_eq!(answer.body["params"]["key"], key, "the caller sees for which key");
    assert!(!format!("{sent:?}").contains("PRIVATE KEY"));
    // The client's own words are what its key compares by, and what identical means holds the key.
    assert_eq!(sidecar.post(body).await.text, answer.text);
    let other = body.replace("k1", "k2");
    assert_eq!(sidecar.post(&other).await.body["credential"]["private_key"], private);
    let asks = broker.script().asks.clone();
    assert_eq!((asks.len(), &asks[0].params_jcs), (2, &asks[1].params_jcs));

    // A scope that the sidecar's list does not have yet.
    let declared = serde_json::json!({"name": "key.new", "credential": "ssh", "params": {
        "key": {"type": "public-key", "format": "ssh"}}});
    broker.script().scopes.push(declared);
    let answer = sidecar.post(r#"{"scope":"key.new","params":{},"reason":"r"}"#).await;
    assert!(answer.body["credential"]["private_key"].is_string(), "{}", answer.text);

    // Whoever brings a key keeps it.
    let own = format!("ssh-ed25519 {}", "A".repeat(68));
    let body =
        format!(r#"{{"scope":"key.ssh","params":{{"job":"b","key":"{own}"}},"reason":"r"}}"#);
    let answer = sidecar.post(&body).await;
    assert_eq!(answer.body["credential"], serde_json::json!({"token": "token-r-4"}));
    sidecar.stop().await;

    // After a restart it is the same key, also for what was asked before it.
    let sidecar = Running::start(&broker, dir.path()).await;
    let asked = sidecar.post(r#"{"scope":"key.export","params":{},"reason":"r"}"#).await;
    assert_eq!(asked.status, 202, "{}", asked.text);
    let id = asked.body["request_id"].as_str().unwrap().to_owned();
    sidecar.stop().await;
    broker.approve(&id);
    let sidecar = Running::start(&broker, dir.path()).await;
    let answer = sidecar.get(&format!("/v1/requests/{id}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let private = answer.body["credential"]["private_key"].as_str().unwrap();
    assert!(private.starts_with("-----BEGIN PRIVATE KEY-----"), "{}", answer.text);
    sidecar.stop().await;
}

pub async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        let mut all = true;
        for (future, slot) in futures.iter_mut().zip(&mut done) {
            if slot.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(output) => *slot = Some(output),
                    std::task::Poll::Pending => all = false,
                }
            }
        }
        if all { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn the_cache_is_keyed_by_each_input_of_the_verdict_and_nothing_else() {
    begin!(broker, sidecar, _dir);
    let body = |scope: &str, params: &str, more: &str| {
        format!(r#"{{"scope":"{scope}","params":{{{params}}},"reason":"r"{more}}}"#)
    };
    let base = body("demo.read", r#""dataset":"a""#, "");
    let first = sidecar.post(&base).await.text;
    for same in [
        base.replace("\"r\"", "\"another reason\""),
        body("demo.read", r#""dataset":"a""#, r#","task":"t""#),
        base.replace(':', " : "),
    ] {
        assert_eq!(sidecar.post(&same).await.text, first, "{same}");
    }
    assert_eq!(broker.script().asks.len(), 1);
    let mut seen = HashSet::from([first]);
    for other in [
        body("demo.read", r#""dataset":"b""#, ""),
        body("demo.read", "", ""),
        body("demo.reax", r#""dataset":"a""#, ""),
        body("demo.read", r#""dataset":"a""#, r#","ttl":"15m""#),
        body("demo.read", r#""dataset":"a""#, r#","on_behalf_of":"x""#),
        body("demo.read", r#""dataset":"a""#, r#","idempotency_key":"new""#),
    ] {
        assert!(seen.insert(sidecar.post(&other).await.text), "{other}");
    }
    assert_eq!(broker.script().asks.len(), 7);
}

#[tokio::test]
async fn a_key_repeats_its_answer_and_refuses_another_body() {
    begin!(broker, sidecar, _dir);
    let body = r#"{"idempotency_key":"k-1","scope":"demo.read","params":{},"reason":"r"}"#;
    let first = sidecar.post(body).await;
    assert_eq!(first.status, 200);
    assert_eq!(sidecar.post(body).await.text, first.text);
    // The header says the same, in another spelling of the same JSON.
    let header = r#"{"reason":"r","scope":"demo.read","params":{}}"#;
    let by_header = sidecar.call("POST", "/v1/credentials", "Idempotency-Key: k-1\r\n", header);
    assert_eq!(by_header.await.text, first.text);
    let query = sidecar.call("POST", "/v1/credentials?x=1", "Idempotency-Key: k-1\r\n", header);
    assert_eq!(query.await.status, 400);
    let twice = "Idempotency-Key: k-1\r\nIdempotency-Key: k-1\r\n";
    let twice = sidecar.call("POST", "/v1/credentials", twice, header).await;
    assert_eq!(twice.status, 400);
    assert_eq!(broker.script().asks.len(), 1);
    let other = sidecar.post(&body.replace("\"r\"", "\"q\"")).await;
    assert_eq!((other.status, other.body["code"].as_str()), (409, Some("key_reused")));
    let differ = sidecar.call("POST", "/v1/credentials", "Idempotency-Key: k-2\r\n", body).await;
    assert_eq!((differ.status, differ.body["code"].as_str()), (400, Some("malformed")));
}

#[tokio::test]
async fn nothing_is_served_past_its_expiry_nor_for_a_new_ask_in_its_last_minute() {
    begin!(broker, sidecar, _dir);
    let keyed = r#"{"idempotency_key":"k","scope":"demo.read","params":{},"reason":"r"}"#;
    assert_eq!(sidecar.post(keyed).await.status, 200);
    assert_eq!(sidecar.ask("demo.read").await.body["request_id"], "r-1");
    broker.clock.advance(839);
    assert_eq!(sidecar.ask("demo.read").await.body["request_id"], "r-1");
    broker.clock.advance(2);
    // Another call under the key repeats the answer; a new ask gets a new credential.
    assert_eq!(sidecar.post(keyed).await.body["request_id"], "r-1");
    assert_eq!(sidecar.ask("demo.read").await.body["request_id"], "r-2");
    assert_eq!(sidecar.get("/v1/requests/r-1").await.status, 200);
    broker.clock.advance(60);
    broker.kill();
    assert_eq!(sidecar.post(keyed).await.status, 503);
    assert_eq!(sidecar.get("/v1/requests/r-1").await.status, 503);
}

#[tokio::test]
async fn people_decide_and_all_waiters_get_the_same() {
    begin!(broker, sidecar, _dir);
    let pending = sidecar.ask("demo.export").await;
    assert_eq!(pending.status, 202, "{}", pending.text);
    assert!(pending.head.contains("retry-after: 1"));
    assert_eq!(pending.body["state"], "pending");
    assert_eq!(pending.body["needs"]["votes"], 1);
    assert_eq!(sidecar.ask("demo.export").await.body["request_id"], "r-1");
    assert_eq!(sidecar.get("/v1/requests/r-1").await.status, 202);
    let (a, b, ()) = tokio::join!(
        sidecar.get("/v1/requests/r-1?wait=30s"),
        sidecar.get("/v1/requests/r-1?wait=20s"),
        async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            broker.approve("r-1");
        }
    );
    assert_eq!((a.status, b.status), (200, 200));
    assert_eq!(a.text, b.text);
    assert_eq!(sidecar.ask("demo.export").await.text, a.text);
    for (path, status) in [
        ("/v1/requests/r-1?wait=61s", 400),
        ("/v1/requests/r-1?x=1", 400),
        ("/v1/requests/r-99", 404),
        ("/v1/requests/a%20b", 404),
    ] {
        assert_eq!(sidecar.get(path).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn ended_requests_are_problems_to_an_ask_and_a_state_to_a_look() {
    begin!(broker, sidecar, _dir);
    let denied = sidecar.ask("demo.deny").await;
    assert_eq!((denied.status, denied.body["code"].as_str()), (403, Some("denied")));
    assert!(denied.head.contains("application/problem+json"));
    for member in ["type", "title", "status", "code", "detail", "next"] {
        assert!(denied.body[member] != serde_json::Value::Null, "{member}");
    }
    assert_eq!(sidecar.ask("demo.nothing").await.status, 404);
    sidecar.ask("demo.export").await;
    broker.deny("r-1");
    let seen = sidecar.get("/v1/requests/r-1").await;
    assert_eq!((seen.status, seen.body["state"].as_str()), (200, Some("denied")));
    assert_eq!(seen.body["reason"], "no");
    let cancelled = sidecar.call("DELETE", "/v1/requests/r-1", "", "").await;
    assert_eq!((cancelled.status, cancelled.body["state"].as_str()), (200, Some("cancelled")));
}

#[tokio::test]
async fn questions_are_answered_and_credentials_released() {
    begin!(broker, sidecar, _dir);
    sidecar.ask("demo.export").await;
    let answered = sidecar.call("POST", "/v1/requests/r-1/answer", "", r#"{"text":"why not"}"#);
    assert_eq!(answered.await.status, 202);
    for bad in ["{}", r#"{"text":""}"#, r#"{"text":"a","more":1}"#] {
        let bad = sidecar.call("POST", "/v1/requests/r-1/answer", "", bad).await;
        assert_eq!(bad.status, 400);
    }
    // Pending: releasing cancels.
    let released = sidecar.call("POST", "/v1/requests/r-1/release", "", "").await;
    assert_eq!((released.status, released.body["state"].as_str()), (200, Some("cancelled")));
    sidecar.ask("demo.read").await;
    let released = sidecar.call("POST", "/v1/requests/r-2/release", "", "").await;
    assert_eq!((released.status, released.body["ended"].as_bool()), (200, Some(true)));
    assert_eq!(sidecar.ask("demo.read").await.body["request_id"], "r-3");
}
