//! What lasts: renewal, outage, ends that the broker tells, a log that went back, restart and rotation.

use std::time::Duration;

use grantwright_wire::v1::AttendDown;

use crate::broker::Scripted;
use crate::client::{Answer, Running, config};

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
        let ends = |answer: &Answer| answer.body["expires_at"].as_str().unwrap().to_owned();
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
    let ends = |answer: &Answer| answer.body["expires_at"].as_str().unwrap().to_owned();
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
    let second = config(&broker, dir.path());
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
    let config = config(&broker, dir.path());
    let pending = std::future::pending::<()>();
    let error = grantwright_sidecar::serve::serve(config, broker.clock.clone(), pending).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("bad_join_token") && error.contains("join_token_file"), "{error}");
}
