//! Who may come in by which door, and to what.

use std::time::{Duration, Instant};

use crate::broker::Scripted;
use crate::client::Running;

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
