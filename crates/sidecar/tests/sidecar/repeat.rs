//! Calls that repeat on an open connection: answered as hyper answers them, and no longer than they
//! would be.

use grantwright_wire::v1::AttendDown;

use crate::broker::Scripted;
use crate::client::Running;

const BODY: &str = r#"{"scope":"demo.read","params":{},"reason":"r"}"#;

async fn from_memory(sidecar: &Running) -> u64 {
    let metrics = sidecar.get("/metrics").await.text;
    let name = "grantwright_sidecar_from_memory_total ";
    metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
}

#[tokio::test]
async fn repetitions_are_answered_as_the_first_call_was() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Scripted::start();
    let sidecar = Running::start(&broker, dir.path()).await;
    let call = sidecar.post_bytes("", BODY);
    let mut tcp = sidecar.keep().await;
    let first = tcp.call(&call).await;
    assert_eq!(first.0, 200);
    for _ in 0..20 {
        assert_eq!(tcp.call(&call).await, first);
    }
    assert_eq!((broker.asks_for("demo.read"), from_memory(&sidecar).await), (1, 20));
    // In pieces, as head and body often come; with another call between.
    let other = call.replace("\"r\"", "\"q\"");
    for (at, _) in call.char_indices().skip(1) {
        tcp.send(&call[..at]).await;
        tokio::task::yield_now().await;
        tcp.send(&call[at..]).await;
        assert_eq!(tcp.answer().await.unwrap(), first, "{at}");
        if at % 16 == 0 {
            assert_eq!(tcp.call(&other).await, first);
        }
    }
    // Several at once are several answers.
    let (four, mut pipelined) = (call.repeat(4), sidecar.keep().await);
    for _ in 0..3 {
        pipelined.call(&call).await;
    }
    pipelined.send(&four).await;
    for _ in 0..4 {
        assert_eq!(pipelined.answer().await.unwrap(), first);
    }
    assert_eq!(pipelined.call(&call).await, first);
    assert_eq!(broker.asks_for("demo.read"), 1);
    // On the unix socket, where no token is looked at: the process there is another workload than
    // the token's, on each of its connections the same one.
    let bare = call.replace("Bearer", "Basic");
    let own = sidecar.keep_unix().await.call(&bare).await;
    assert_eq!((own.0, own.2 == first.2), (200, false));
    let mut unix = sidecar.keep_unix().await;
    for _ in 0..4 {
        assert_eq!(unix.call(&bare).await, own);
    }
    assert_eq!(broker.asks_for("demo.read"), 2);
}

/// SECURITY: what was right for one call opens nothing for a call that differs in a byte.
#[tokio::test]
async fn a_byte_that_differs_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Scripted::start();
    let sidecar = Running::start(&broker, dir.path()).await;
    let call = sidecar.post_bytes("X-Pad: pad\r\n", BODY);
    let token = sidecar.token("agent.token");
    let wrong = format!("{}{}", &token[..63], if token.ends_with('0') { '1' } else { '0' });
    for (differs, status) in [
        (call.replace(&token, &wrong), 401),
        (call.replace("X-Pad: pad", "Origin: pad"), 403),
        (call.replace("X-Pad: pad", "Forwarded: p"), 403),
        (call.replace("Host: 127", "Host: 128"), 403),
        (call.replace("demo.read", "demo.deny"), 403),
        (call.replace("/v1/credentials", "/v1/credentialz"), 404),
        (call.replace("{\"scope\"", "[\"scope\""), 400),
    ] {
        let mut kept = sidecar.keep().await;
        for _ in 0..3 {
            assert_eq!(kept.call(&call).await.0, 200);
        }
        assert_eq!(kept.call(&differs).await.0, status, "{differs}");
        // A refusal that left the body unread may close the connection; never more than that.
        kept.send(&call).await;
        assert!(kept.answer().await.is_none_or(|it| it.0 == 200));
    }
    // Another connection's calls are not this one's: without a token nothing repeats.
    let bare = call.replace(&format!("Authorization: Bearer {token}\r\n"), "");
    let mut kept = sidecar.keep().await;
    for _ in 0..3 {
        assert_eq!(kept.call(&bare).await.0, 401);
    }
    // Who wants the connection closed, or speaks HTTP/1.0, is left.
    for last in
        [call.replace("X-Pad: pad", "Connection: close"), call.replace("HTTP/1.1", "HTTP/1.0")]
    {
        let mut kept = sidecar.keep().await;
        assert_eq!(kept.call(&call).await.0, 200);
        assert_eq!(kept.call(&last).await.0, 200);
        assert!(kept.answer().await.is_none());
    }
}

/// SECURITY 26: a repetition ends with the credential: by its end, its expiry, or an unproven log.
#[tokio::test]
async fn a_repetition_is_worth_what_a_first_call_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Scripted::start();
    let sidecar = Running::start(&broker, dir.path()).await;
    let call = sidecar.post_bytes("Connection: keep-alive\r\n", BODY);
    let mut kept = sidecar.keep().await;
    let id = |answer: (u16, String, String)| {
        let body: serde_json::Value = serde_json::from_str(&answer.2).unwrap();
        (answer.0, body["request_id"].as_str().unwrap_or_default().to_owned())
    };
    for _ in 0..3 {
        assert_eq!(id(kept.call(&call).await), (200, "r-1".to_owned()));
    }
    let tidings = AttendDown { ended_leases: vec!["lease-r-1".into()], ..AttendDown::default() };
    broker.tell(&tidings);
    sidecar
        .until("evicted", || async {
            sidecar.get("/metrics").await.text.contains("evicted_total 1")
        })
        .await;
    for _ in 0..3 {
        assert_eq!(id(kept.call(&call).await), (200, "r-2".to_owned()));
    }
    // In its last minute a new ask is a new one.
    broker.clock.advance(841);
    for _ in 0..3 {
        assert_eq!(id(kept.call(&call).await), (200, "r-3".to_owned()));
    }
    broker.clock.advance(901);
    broker.kill();
    assert_eq!(kept.call(&call).await.0, 503);
}
