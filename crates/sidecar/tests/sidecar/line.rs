//! Asks that come together share a stream to the broker; a lone one does not.

use std::time::Duration;

use crate::ask::futures_join;
use crate::broker::Scripted;
use crate::client::{Answer, Running};

/// Asks for so many scopes of this name at the same time.
async fn ask_together(sidecar: &Running, name: &str, count: usize) -> Vec<Answer> {
    let scopes: Vec<String> = (0..count).map(|n| format!("demo.{name}{n}")).collect();
    futures_join(scopes.iter().map(|scope| sidecar.ask(scope))).await
}

/// Waves of asks, until one went by a stream.
async fn until_on_a_stream(broker: &Scripted, sidecar: &Running, name: &str) {
    let before = broker.script().on_streams;
    for wave in 0..50 {
        let answers = ask_together(sidecar, &format!("{name}-{wave}-"), 8).await;
        assert!(answers.iter().all(|answer| answer.status == 200));
        if broker.script().on_streams > before {
            return;
        }
    }
    panic!("no ask went by a stream");
}

#[tokio::test]
async fn asks_that_come_together_share_a_stream_and_each_gets_its_own_answer() {
    begin!(broker, sidecar, _dir);
    for n in 0..5 {
        assert_eq!(sidecar.ask(&format!("demo.alone{n}")).await.status, 200);
    }
    assert_eq!(broker.script().ask_streams, 0, "a lone ask is a call of its own");
    until_on_a_stream(&broker, &sidecar, "first").await;
    let before = broker.script().on_streams;
    let scopes: Vec<String> = (0..64).map(|n| format!("demo.one{n}")).collect();
    let asks = scopes.iter().map(String::as_str).chain(["demo.deny", "demo.nothing"]);
    let answers = futures_join(asks.map(|scope| sidecar.ask(scope))).await;
    assert_eq!(broker.script().on_streams - before, 66);
    assert_eq!(broker.script().ask_streams, 1);
    let (granted, refused) = answers.split_at(64);
    for (scope, answer) in scopes.iter().zip(granted) {
        let id = answer.body["request_id"].as_str().unwrap();
        assert_eq!(broker.script().scope_of(id), *scope);
        assert_eq!(answer.body["credential"]["token"], format!("token-{id}"));
    }
    let codes: Vec<_> = refused.iter().map(|it| (it.status, it.body["code"].clone())).collect();
    assert_eq!(codes, [(403, "denied".into()), (404, "unknown_scope".into())]);
}

#[tokio::test]
async fn an_older_broker_is_asked_by_calls() {
    begin!(broker, sidecar, _dir);
    broker.script().without_asks = true;
    broker.script().delay = Duration::from_millis(5);
    for wave in 0..4 {
        let answers = ask_together(&sidecar, &format!("w{wave}-"), 16).await;
        assert!(answers.iter().all(|answer| answer.status == 200));
    }
    assert_eq!(broker.script().on_streams, 0);
    assert_eq!(broker.script().refused_streams, 1, "and not asked for a stream with each of them");
}

/// Eight asks by the open stream, all of which are lost to what happens while they are under way.
async fn lose(broker: &mut Scripted, sidecar: &Running, happens: impl FnOnce(&mut Scripted)) {
    let on_streams = broker.script().on_streams;
    let asks = ask_together(sidecar, "lost", 8);
    let loss = async {
        while broker.script().on_streams < on_streams + 8 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        happens(broker);
    };
    let (answers, ()) = tokio::join!(asks, loss);
    for answer in answers {
        assert_eq!((answer.status, answer.body["code"].as_str()), (503, Some("broker_away")));
    }
}

#[tokio::test]
async fn a_stream_that_ends_fails_what_was_under_way_and_nothing_is_sent_twice() {
    begin!(broker, sidecar, _dir);
    until_on_a_stream(&broker, &sidecar, "first").await;
    broker.script().delay = Duration::from_millis(200);
    lose(&mut broker, &sidecar, |broker| broker.script().answering.clear()).await;
    let once = || async { (0..8).all(|n| broker.asks_for(&format!("demo.lost{n}")) == 1) };
    sidecar.until("each arrived", once).await;
    // The breaker lets one through after a while.
    broker.script().delay = Duration::ZERO;
    let served = || async { sidecar.ask("demo.back").await.status == 200 };
    sidecar.until("served again", served).await;
    until_on_a_stream(&broker, &sidecar, "again").await;
    assert_eq!(broker.script().ask_streams, 2);
    assert!(once().await);
}

#[tokio::test]
async fn a_broker_that_ends_fails_what_was_under_way_on_a_stream() {
    begin!(broker, sidecar, _dir);
    until_on_a_stream(&broker, &sidecar, "first").await;
    broker.script().delay = Duration::from_secs(60);
    lose(&mut broker, &sidecar, Scripted::kill).await;
    broker.script().delay = Duration::ZERO;
    broker.resume();
    let served = || async { sidecar.ask("demo.back").await.status == 200 };
    sidecar.until("served again", served).await;
    until_on_a_stream(&broker, &sidecar, "again").await;
}

#[tokio::test]
async fn after_a_rotation_asks_share_a_stream_under_the_new_certificate() {
    begin!(broker, sidecar, _dir);
    until_on_a_stream(&broker, &sidecar, "old").await;
    broker.clock.advance(2200);
    sidecar.until("renewed", || async { broker.script().renewals == 1 }).await;
    let moved = || async {
        broker.clock.advance(900);
        ask_together(&sidecar, "new", 8).await;
        broker.script().ask_streams == 2
    };
    sidecar.until("moved", moved).await;
    until_on_a_stream(&broker, &sidecar, "later").await;
    assert_eq!(broker.script().seen_serials.last().unwrap(), "07d1");
}
