//! The sidecar from outside, against a scripted broker over real TLS and a real log.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::large_enum_variant,
    reason = "tests"
)]

#[path = "scripted/broker.rs"]
mod broker;
#[path = "scripted/client.rs"]
mod client;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use broker::Scripted;
use client::Running;
use grantwright_wire::v1::AttendDown;

macro_rules! begin {
    ($broker:ident, $sidecar:ident, $dir:ident) => {
        let $dir = tempfile::tempdir().unwrap();
        #[allow(unused_mut)]
        let mut $broker = Scripted::start();
        let $sidecar = Running::start(&$broker, $dir.path()).await;
    };
}

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

async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
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

#[tokio::test]
async fn aws_sdks_get_their_shape_from_memory_and_quick_errors() {
    begin!(broker, sidecar, _dir);
    let path = "/aws/aws.s3-read?bucket=demo&prefix=public/";
    let first = sidecar.aws(path).await;
    assert_eq!(first.status, 200, "{}", first.text);
    let mut keys: Vec<_> = first.body.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["AccessKeyId", "Expiration", "SecretAccessKey", "Token"]);
    assert_eq!(first.body["SecretAccessKey"], "secret-r-1");
    let expiration = first.body["Expiration"].as_str().unwrap();
    assert!(expiration.len() == 20 && expiration.ends_with('Z'), "{expiration}");
    assert!(first.head.contains("cache-control: no-store"));
    // The last fifteen minutes: asked at every call, the same credential, nothing upstream.
    for _ in 0..20 {
        assert_eq!(sidecar.aws(path).await.text, first.text);
    }
    assert_eq!(broker.script().asks.len(), 1);
    assert_eq!(broker.script().asks[0].reason, "AWS SDK on test");
    assert_eq!(broker.script().asks[0].params_jcs, br#"{"bucket":"demo","prefix":"public/"}"#);

    sidecar.aws("/aws/aws.count?rows=5").await;
    assert_eq!(broker.script().asks[1].params_jcs, br#"{"rows":5}"#);

    let began = Instant::now();
    let pending = sidecar.aws("/aws/aws.s3-export?bucket=demo").await;
    assert_eq!((pending.status, &pending.body["code"]), (403, &"ApprovalPending".into()));
    let message = pending.body["message"].as_str().unwrap();
    assert!(message.contains("r-3") && message.contains("http://localhost:1/requests/r-3"));
    broker.script().delay = Duration::from_millis(1500);
    let slow = sidecar.aws("/aws/aws.s3-read?bucket=slow").await;
    assert!(began.elapsed() < Duration::from_millis(1900));
    assert_eq!(slow.status, 503);
    // What was under way went on, and is found in memory by the next try.
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(sidecar.aws("/aws/aws.s3-read?bucket=slow").await.status, 200);
    broker.script().delay = Duration::ZERO;

    for (path, status) in [
        ("/aws/aws.deny", 403),
        ("/aws/UPPER", 404),
        ("/aws/a/b", 404),
        ("/aws/aws.s3-read?bucket=a&bucket=b", 400),
        ("/aws/aws.s3-read?bucket=%zz", 400),
        ("/aws/demo.read", 404),
    ] {
        let refused = sidecar.aws(path).await;
        assert_eq!(refused.status, status, "{path}");
        let members: Vec<_> = refused.body.as_object().unwrap().keys().collect();
        assert_eq!(members, ["code", "message"], "{path}");
    }
    assert_eq!(sidecar.call("POST", path, "", "").await.status, 405);
}

/// The token of AWS SDKs opens AWS credentials only: it mints nothing else, asks no people for
/// anything else, and keeps nothing else renewed.
#[tokio::test]
async fn the_aws_token_moves_nothing_but_aws_credentials() {
    begin!(broker, sidecar, _dir);
    let refused = |path: String, code: &'static str| {
        let sidecar = &sidecar;
        async move {
            let answer = sidecar.aws(&path).await;
            assert_eq!((answer.status, &answer.body["code"]), (404, &code.into()), "{path}");
            answer.body["message"].as_str().unwrap().to_owned()
        }
    };
    // By what the broker says of the scope, never by its name; silence is a no.
    for scope in ["demo.read", "demo.export", "demo.bare"] {
        for query in ["", "?dataset=a"] {
            let said = refused(format!("/aws/{scope}{query}"), "NotAnAwsScope").await;
            assert!(said.contains(scope) && said.contains("POST /v1/credentials"), "{said}");
        }
    }
    refused("/aws/aws.nothing".into(), "UnknownScope").await;
    assert_eq!(broker.script().asks.len(), 0);
    // What the agent's token got is not given, either; nor counted as used, which would renew it.
    assert_eq!(sidecar.ask("demo.read").await.status, 200);
    refused("/aws/demo.read".into(), "NotAnAwsScope").await;
    assert_eq!(broker.script().asks.len(), 1);
    // A scope that gives something else now is known within a second, a new one as well.
    broker.script().scopes[2]["credential"] = "userpass".into();
    broker.script().scopes.push(serde_json::json!({
        "name": "aws.new", "params": {}, "credential": "sts"
    }));
    broker.clock.advance(1);
    refused("/aws/aws.s3-read".into(), "NotAnAwsScope").await;
    assert_eq!(sidecar.aws("/aws/aws.new").await.status, 200);
    assert_eq!(broker.asks_for("aws.s3-read"), 0);
}

#[tokio::test]
async fn the_guard_stands_before_every_listener() {
    begin!(_broker, sidecar, _dir);
    let host = &sidecar.tcp;
    let (agent, aws) = (sidecar.token("agent.token"), sidecar.token("aws.token"));
    assert_eq!((agent.len(), aws.len()), (64, 64));
    for (head, status) in [
        (format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n"), 200),
        (format!("GET /readyz HTTP/1.1\r\nHost: {host}\r\n"), 200),
        (format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n"), 200),
        ("GET /healthz HTTP/1.1\r\nHost: evil.example\r\n".into(), 403),
        (format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nOrigin: null\r\n"), 403),
        (format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: a\r\n"), 403),
        (format!("GET http://evil.example/healthz HTTP/1.1\r\nHost: {host}\r\n"), 403),
        ("GET /healthz HTTP/1.1\r\n".into(), 403),
        (format!("GET /v1/scopes HTTP/1.1\r\nHost: {host}\r\n"), 401),
        (format!("GET /v1/scopes HTTP/1.1\r\nHost: {host}\r\nAuthorization: {agent}\r\n"), 200),
        (format!("GET /v1/scopes HTTP/1.1\r\nHost: {host}\r\nAuthorization: {aws}\r\n"), 401),
        (
            format!("GET /aws/../v1/scopes HTTP/1.1\r\nHost: {host}\r\nAuthorization: {aws}\r\n"),
            404,
        ),
        (format!("GET /aws/x HTTP/1.1\r\nHost: {host}\r\n"), 401),
    ] {
        let answer = sidecar.raw(&format!("{head}Connection: close\r\n\r\n")).await;
        assert_eq!(answer.status, status, "{head}");
    }
    let unix = "GET /v1/scopes HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    assert_eq!(sidecar.raw_unix(&format!("{unix}\r\n")).await.status, 200);
    assert_eq!(sidecar.raw_unix(&format!("{unix}Origin: a\r\n\r\n")).await.status, 403);
    use std::os::unix::fs::PermissionsExt as _;
    for file in ["sidecar.sock", "agent.token", "aws.token", "state/seal.key", "state/key-1.der"] {
        let mode = std::fs::metadata(sidecar.dir.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

/// DESIGN §5: the cache's key is every input of the verdict. Another program of this very user is
/// asked for anew, and another process of the same program is not.
#[tokio::test]
async fn another_program_is_not_given_what_this_one_was() {
    begin!(broker, sidecar, _dir);
    let body = r#"{"scope":"demo.read","params":{},"reason":"test"}"#;
    let call = format!(
        "POST /v1/credentials HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let own = sidecar.raw_unix(&call).await;
    assert_eq!((own.status, sidecar.raw_unix(&call).await.text == own.text), (200, true));
    assert_eq!(broker.asks_for("demo.read"), 1);
    let seen = broker.script().asks[0].process.clone().unwrap();
    assert_eq!((seen.uid, seen.pid), (rustix_uid(), std::process::id()));
    if seen.exe_sha256.is_empty() {
        // A kernel before 6.5 gives no handle of the process: programs are not told apart.
        return;
    }
    assert_eq!(seen.exe_sha256.len(), 32);
    assert_eq!(Some(seen.exe.as_str()), std::env::current_exe().unwrap().to_str());
    let text = format!(
        "import socket,sys\ns = socket.socket(socket.AF_UNIX)\ns.connect({:?})\n\
         s.sendall({call:?}.encode())\nwhile (b := s.recv(65536)): sys.stdout.buffer.write(b)",
        sidecar.dir.join("sidecar.sock")
    );
    let python = || {
        let text = text.clone();
        tokio::task::spawn_blocking(move || {
            let run = std::process::Command::new("python3").args(["-c", text.as_str()]).output();
            String::from_utf8(run.unwrap().stdout).unwrap()
        })
    };
    let other = python().await.unwrap();
    assert!(other.starts_with("HTTP/1.1 200"), "{other}");
    assert!(!other.contains(own.body["lease_id"].as_str().unwrap()), "{other}");
    assert_eq!(broker.asks_for("demo.read"), 2);
    let seen = broker.script().asks[1].process.clone().unwrap();
    assert!(seen.exe.contains("python"), "{}", seen.exe);
    let (_, given) = other.split_once("\r\n\r\n").unwrap();
    assert!(python().await.unwrap().ends_with(given));
    assert_eq!(broker.asks_for("demo.read"), 2);
    // A token names the workload on TCP: no process, and an ask of its own.
    assert_eq!(sidecar.ask("demo.read").await.status, 200);
    assert_eq!(broker.script().asks[2].process, None);
}

fn rustix_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// SECURITY 25, on one host: neither agent's tokens open the other's door, and neither is answered
/// from the other's cache.
#[tokio::test]
async fn agents_of_one_sidecar_share_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Scripted::start();
    let (a, b) = Running::start_two(&broker, dir.path()).await;
    let first = a.ask("demo.read").await;
    let second = b.ask("demo.read").await;
    assert_eq!((first.status, second.status, broker.asks_for("demo.read")), (200, 200, 2));
    assert_ne!(first.body["lease_id"], second.body["lease_id"]);
    assert_eq!((a.ask("demo.read").await.text, broker.asks_for("demo.read")), (first.text, 2));
    for (door, token) in [
        (&b, a.token("agent.token")),
        (&a, b.token("agent.token")),
        (&b, a.token("aws.token")),
        (&a, b.token("aws.token")),
    ] {
        for path in ["/v1/scopes", "/aws/demo.read"] {
            let call = format!(
                "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: {token}\r\n\
                 Connection: close\r\n\r\n",
                door.tcp
            );
            assert_eq!(door.raw(&call).await.status, 401, "{path}");
        }
    }
    use std::os::unix::fs::PermissionsExt as _;
    for one in [&a, &b] {
        for file in ["sidecar.sock", "agent.token", "aws.token", "state/seal.key"] {
            let mode = std::fs::metadata(one.dir.join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }
    let keys = [&a, &b].map(|it| std::fs::read(it.dir.join("state/seal.key")).unwrap());
    assert_ne!(keys[0], keys[1]);
    a.stop().await;
    assert!(!b.dir.join("sidecar.sock").exists());
}

#[tokio::test]
async fn heads_and_bodies_are_bounded() {
    begin!(_broker, sidecar, _dir);
    let long = format!("X-Long: {}\r\n", "a".repeat(17 * 1024));
    let refused = sidecar.call("GET", "/v1/scopes", &long, "").await;
    assert_eq!(refused.status, 431, "{refused:?}");
    let big = format!(r#"{{"scope":"{}"}}"#, "a".repeat(65 * 1024));
    assert_eq!(sidecar.post(&big).await.status, 413);
    let host = &sidecar.tcp;
    let token = sidecar.token("agent.token");
    let chunk = format!("{:x}\r\n{}\r\n", 16 * 1024, "a".repeat(16 * 1024));
    let chunked = format!(
        "POST /v1/credentials HTTP/1.1\r\nHost: {host}\r\nAuthorization: {token}\r\n\
         Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(5)
    );
    assert_eq!(sidecar.raw(&chunked).await.status, 413);
    assert_eq!(sidecar.post("{").await.status, 400);
    assert_eq!(sidecar.get("/v1/nothing").await.status, 404);
    assert_eq!(sidecar.get("/v1/credentials").await.status, 405);
}

#[tokio::test]
async fn allowed_scopes_in_use_are_renewed_in_the_background() {
    begin!(broker, sidecar, _dir);
    assert_eq!(sidecar.ask("demo.read").await.body["request_id"], "r-1");
    // Not used since long: not renewed.
    broker.clock.advance(601);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(broker.asks_for("demo.read"), 1);
    // Used: renewed once, and the next call finds the new one.
    assert_eq!(sidecar.ask("demo.read").await.body["request_id"], "r-1");
    sidecar.until("renewed", || async { broker.asks_for("demo.read") == 2 }).await;
    assert_eq!(broker.script().asks[1].renews, "lease-r-1");
    let fresh = || async { sidecar.ask("demo.read").await.body["request_id"] == "r-2" };
    sidecar.until("fresh", fresh).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(broker.asks_for("demo.read"), 2);
}

/// Made in steps of 30 s, approved for 75 s: the same credential lives on while it is used, and no longer.
#[tokio::test]
async fn a_credential_made_in_steps_is_extended_in_place_up_to_what_was_approved() {
    for scope in ["demo.read", "demo.export"] {
        begin!(broker, sidecar, _dir);
        (broker.script().life_s, broker.script().extends_s) = (30, 75);
        if sidecar.ask(scope).await.status == 202 {
            broker.approve("r-1");
        }
        let first = sidecar.ask(scope).await;
        assert_eq!((first.status, &first.body["request_id"]), (200, &"r-1".into()));
        let ends = |answer: &client::Answer| answer.body["expires_at"].as_str().unwrap().to_owned();
        assert_ne!(first.body["extends_until"], serde_json::Value::Null);
        // Of a short step the last third is kept: within it a call is answered with the extended one.
        broker.clock.advance(15);
        assert_eq!(ends(&sidecar.ask(scope).await), ends(&first));
        assert!(broker.script().extended.is_empty());
        broker.clock.advance(10);
        let later = || async { ends(&sidecar.ask(scope).await) > ends(&first) };
        sidecar.until("extended, by this call or by itself", later).await;
        let second = sidecar.ask(scope).await;
        assert_eq!(second.body["credential"], first.body["credential"]);
        assert_eq!(second.body["lease_id"], first.body["lease_id"]);
        assert_eq!(broker.script().extended, ["r-1"]);
        broker.clock.advance(25);
        let last = first.body["extends_until"].as_str().unwrap();
        let to_the_end = || async { ends(&sidecar.ask(scope).await) == last };
        sidecar.until("extended to its end", to_the_end).await;
        let third = sidecar.ask(scope).await;
        assert_eq!(third.body["extends_until"], serde_json::Value::Null, "that was the last step");
        assert_eq!(broker.script().extended.len(), 2);
        let asked = if scope == "demo.export" { 2 } else { 1 };
        assert_eq!(broker.asks_for(scope), asked, "nothing was asked for anew");
        // By its key, too, its request is answered with what it is now.
        let same = sidecar.get("/v1/requests/r-1").await;
        assert_eq!(same.text, third.text);
        broker.clock.advance(26);
        assert_ne!(sidecar.ask(scope).await.body["request_id"], "r-1", "its approved end");
        assert_eq!(broker.script().extended.len(), 2);
    }
}

/// Whoever calls with a key, or looks at the request, uses the credential as well.
#[tokio::test]
async fn a_credential_made_in_steps_is_extended_while_its_key_or_its_request_is_called() {
    begin!(broker, sidecar, _dir);
    (broker.script().life_s, broker.script().extends_s) = (30, 300);
    let keyed = r#"{"scope":"demo.read","params":{},"reason":"test","idempotency_key":"k-1"}"#;
    let first = sidecar.post(keyed).await;
    assert_eq!(first.body["request_id"], "r-1");
    let ends = |answer: &client::Answer| answer.body["expires_at"].as_str().unwrap().to_owned();
    broker.clock.advance(25);
    let by_key = || async { ends(&sidecar.post(keyed).await) > ends(&first) };
    sidecar.until("extended by its key", by_key).await;
    let second = sidecar.post(keyed).await;
    assert_eq!(second.body["credential"], first.body["credential"]);
    broker.clock.advance(25);
    let by_request = || async { ends(&sidecar.get("/v1/requests/r-1").await) > ends(&second) };
    sidecar.until("extended by its request", by_request).await;
    assert_eq!(broker.script().extended, ["r-1", "r-1"]);
    assert_eq!(broker.asks_for("demo.read"), 1);
}

#[tokio::test]
async fn a_credential_that_is_not_extended_is_asked_for_anew() {
    begin!(broker, sidecar, _dir);
    (broker.script().life_s, broker.script().extends_s) = (30, 300);
    broker.script().refuses_to_extend = true;
    assert_eq!(sidecar.ask("demo.read").await.body["request_id"], "r-1");
    broker.clock.advance(25);
    assert_eq!(sidecar.ask("demo.read").await.body["request_id"], "r-2");
    assert_eq!(broker.script().extended, ["r-1"]);
    assert_eq!(broker.asks_for("demo.read"), 2);
    // One that ended early is not extended, and given to nobody.
    broker.script().refuses_to_extend = false;
    broker.tell(&AttendDown { ended_leases: vec!["lease-r-2".into()], ..AttendDown::default() });
    let fresh = || async { sidecar.ask("demo.read").await.body["request_id"] != "r-2" };
    sidecar.until("evicted", fresh).await;
    assert_eq!(broker.script().extended, ["r-1"]);
}

#[tokio::test]
async fn scopes_that_need_people_are_asked_again_only_by_a_call_and_once() {
    begin!(broker, sidecar, _dir);
    sidecar.ask("demo.export").await;
    broker.approve("r-1");
    assert_eq!(sidecar.ask("demo.export").await.status, 200);
    let asked = broker.asks_for("demo.export");
    broker.clock.advance(601);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(broker.asks_for("demo.export"), asked, "in the background");
    for _ in 0..10 {
        let old = sidecar.ask("demo.export").await;
        assert_eq!(old.body["request_id"], "r-1");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(broker.asks_for("demo.export"), asked + 1, "once");
    assert_eq!(broker.script().asks.last().unwrap().renews, "lease-r-1");
    // Approved meanwhile: a later call collects it, while the old one still serves.
    broker.approve("r-2");
    broker.clock.advance(11);
    sidecar.ask("demo.export").await;
    let fresh = || async { sidecar.ask("demo.export").await.body["request_id"] == "r-2" };
    sidecar.until("fresh", fresh).await;
    assert_eq!(broker.asks_for("demo.export"), asked + 1);
}

#[tokio::test]
async fn while_the_broker_is_away_valid_credentials_serve_and_new_asks_say_so() {
    begin!(broker, sidecar, _dir);
    let kept = sidecar.ask("demo.read").await;
    sidecar.ask("demo.export").await;
    broker.approve("r-2");
    assert_eq!(sidecar.ask("demo.export").await.status, 200);
    broker.kill();
    let away = || async { sidecar.get("/readyz").await.status == 503 };
    sidecar.until("away", away).await;
    assert_eq!(sidecar.ask("demo.read").await.text, kept.text);
    let new = sidecar.ask("demo.other").await;
    assert_eq!((new.status, new.body["code"].as_str()), (503, Some("broker_away")));
    assert!(new.head.contains("retry-after"));
    // What needed people is not given long without the stream that could revoke it.
    assert_eq!(sidecar.ask("demo.export").await.status, 200);
    broker.clock.advance(61);
    assert_eq!(sidecar.ask("demo.export").await.status, 503);
    assert_eq!(sidecar.get("/v1/requests/r-2").await.status, 503);
    // To its very end, and no further.
    broker.clock.advance(838);
    assert_eq!(sidecar.ask("demo.read").await.text, kept.text);
    broker.clock.advance(2);
    assert_eq!(sidecar.ask("demo.read").await.status, 503);
    broker.resume();
    let back = || async { sidecar.ask("demo.read").await.status == 200 };
    sidecar.until("back", back).await;
}

#[tokio::test]
async fn ended_leases_are_evicted_at_once() {
    begin!(broker, sidecar, _dir);
    assert_eq!(sidecar.ask("demo.read").await.body["request_id"], "r-1");
    let tidings = AttendDown { ended_leases: vec!["lease-r-1".into()], ..AttendDown::default() };
    broker.tell(&tidings);
    let next = || async { sidecar.ask("demo.read").await.body["request_id"] == "r-2" };
    sidecar.until("evicted", next).await;
    broker.tell(&AttendDown { revoked: true, ..AttendDown::default() });
    let next = || async { sidecar.ask("demo.read").await.body["request_id"] == "r-3" };
    sidecar.until("all evicted", next).await;
    assert_eq!(sidecar.get("/readyz").await.status, 503);
}

#[tokio::test]
async fn a_scope_declared_anew_is_asked_anew() {
    begin!(broker, sidecar, _dir);
    assert_eq!(sidecar.ask("demo.read").await.body["request_id"], "r-1");
    broker.script().scopes[1]["title"] = "other".into();
    broker.clock.advance(61);
    assert_eq!(sidecar.get("/v1/scopes").await.body["scopes"][1]["title"], "other");
    assert_eq!(sidecar.ask("demo.read").await.body["request_id"], "r-2");
}

/// SECURITY 19: a log that shrank or forked is refused, also by what is in memory, until the true
/// one is back.
#[tokio::test]
async fn a_log_that_shrank_or_forked_is_refused_until_the_true_one_is_back() {
    begin!(broker, sidecar, dir);
    for scope in ["demo.a", "demo.b", "demo.c"] {
        assert_eq!(sidecar.ask(scope).await.status, 200);
    }
    let checkpoint = dir.path().join("state/checkpoint");
    let saved =
        || async { std::fs::read_to_string(&checkpoint).is_ok_and(|it| it.contains("\n4\n")) };
    sidecar.until("saved", saved).await;
    let kept = std::fs::read(&checkpoint).unwrap();
    let truth = broker.script().log.clone();
    for forked in [false, true] {
        // The broker comes back with last week's store; or with another history of any length.
        broker.kill();
        broker.script().log.0.truncate(2);
        if forked {
            broker.script().log.0.extend((0..9).map(|n| vec![n]));
        }
        broker.resume();
        let latched = || async { sidecar.get("/readyz").await.body["why"] == "log_inconsistent" };
        sidecar.until(if forked { "latched by a fork" } else { "latched by loss" }, latched).await;
        for answer in [
            sidecar.ask("demo.a").await,
            sidecar.ask("demo.new").await,
            sidecar.get("/v1/requests/r-1").await,
        ] {
            let code = answer.body["code"].as_str().map(ToOwned::to_owned);
            assert_eq!((answer.status, code.as_deref()), (503, Some("log_inconsistent")));
        }
        assert_eq!(sidecar.aws("/aws/demo.a").await.body["code"], "LogInconsistent");
        assert_eq!(std::fs::read(&checkpoint).unwrap(), kept);
        broker.kill();
        broker.script().log = truth.clone();
        broker.resume();
        let served = || async { sidecar.ask("demo.a").await.status == 200 };
        sidecar.until("served again", served).await;
    }
    // Without a new connection a reply's own evidence shows it; over a restart of the sidecar, too.
    broker.script().log.0[1] = b"edited".to_vec();
    assert_eq!(sidecar.ask("demo.d").await.body["code"], "log_inconsistent");
    assert!(!broker.script().acknowledged.iter().any(|id| id == "r-5"));
    sidecar.stop().await;
    let sidecar = Running::start_only(&broker, dir.path()).await;
    let latched = || async { sidecar.get("/readyz").await.body["why"] == "log_inconsistent" };
    sidecar.until("latched", latched).await;
    assert_eq!(sidecar.ask("demo.a").await.status, 503);
}

#[tokio::test]
async fn a_restart_keeps_the_identity_and_changes_the_tokens() {
    begin!(broker, sidecar, dir);
    sidecar.ask("aws.s3-read").await;
    let before = [sidecar.token("agent.token"), sidecar.token("aws.token")];
    let seal = std::fs::read(dir.path().join("state/seal.key")).unwrap();
    sidecar.stop().await;
    // No join token is needed any more, nor is the broker there.
    std::fs::remove_file(dir.path().join("join.token")).unwrap();
    broker.kill();
    let sidecar = Running::start_only(&broker, dir.path()).await;
    assert_eq!(sidecar.ask("aws.s3-read").await.status, 503);
    broker.resume();
    let back = || async { sidecar.ask("aws.s3-read").await.status == 200 };
    sidecar.until("back", back).await;
    assert_eq!(broker.script().enrolments, 1);
    assert_eq!(std::fs::read(dir.path().join("state/seal.key")).unwrap(), seal);
    let after = [sidecar.token("agent.token"), sidecar.token("aws.token")];
    assert!(before[0] != after[0] && before[1] != after[1]);
    // The log goes on from the kept checkpoint.
    assert!(broker.script().asks.last().unwrap().known_size >= 2);
    // A second one on the same state is refused: two holders of one key would end its lineage.
    let second = client::config(&broker, dir.path());
    let refused = grantwright_sidecar::serve::serve(second, broker.clock.clone(), async {}).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn the_certificate_rotates_at_half_life_and_enrols_again_when_it_ran_out() {
    begin!(broker, sidecar, dir);
    sidecar.ask("demo.a").await;
    assert_eq!(broker.script().seen_serials, ["03e9"]);
    broker.clock.advance(2200);
    sidecar.until("renewed", || async { broker.script().renewals == 1 }).await;
    let moved = || async {
        sidecar.ask("demo.b").await;
        broker.clock.advance(900);
        broker.script().seen_serials.last().unwrap() == "07d1"
    };
    sidecar.until("moved", moved).await;
    assert!(dir.path().join("state/key-2.der").exists());
    assert!(!dir.path().join("state/key-1.der").exists());
    sidecar.stop().await;
    // Off for longer than the certificate lives: a join token makes it the same agent again.
    broker.clock.advance(7200);
    std::fs::write(dir.path().join("join.token"), "join-1").unwrap();
    let sidecar = Running::start_only(&broker, dir.path()).await;
    sidecar.until("enrolled", || async { broker.script().enrolments == 2 }).await;
    let ready = || async { sidecar.get("/readyz").await.status == 200 };
    sidecar.until("ready", ready).await;
    assert_eq!(sidecar.ask("aws.s3-read").await.status, 200);
}

#[tokio::test]
async fn a_wrong_join_token_ends_the_start_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Scripted::start();
    std::fs::write(dir.path().join("join.token"), "wrong").unwrap();
    let config = client::config(&broker, dir.path());
    let pending = std::future::pending::<()>();
    let error = grantwright_sidecar::serve::serve(config, broker.clock.clone(), pending).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("bad_join_token") && error.contains("join_token_file"), "{error}");
}
