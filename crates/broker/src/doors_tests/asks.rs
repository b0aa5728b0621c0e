//! Asks on a stream: each has an answer and a right of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use grantwright_domain::event::AgentRevoked;
use grantwright_domain::{AgentId, Event};
use grantwright_store::Transition;
use grantwright_wire::v1::broker_client::BrokerClient;
use grantwright_wire::v1::numbered_answer::Answer;
use grantwright_wire::v1::outcome::State;
use grantwright_wire::v1::{AskRequest, NumberedAnswer, NumberedAsk};
use tonic::transport::Channel;

use super::Served;
use crate::issue::rig::human;

/// A stream of asks under this identity: what is sent up, and the code of the next answer.
struct Line {
    up: tokio::sync::mpsc::UnboundedSender<NumberedAsk>,
    down: tonic::Streaming<NumberedAnswer>,
}

impl Line {
    async fn open(channel: Channel) -> Self {
        let (up, asks) = tokio::sync::mpsc::unbounded_channel();
        let asks = tokio_stream::wrappers::UnboundedReceiverStream::new(asks);
        let down = BrokerClient::new(channel).asks(asks).await.expect("opens").into_inner();
        Self { up, down }
    }

    async fn answer(&mut self) -> Option<(u64, String)> {
        let answer = self.down.message().await.expect("an answer")?;
        let code = match answer.answer.expect("it says something") {
            Answer::Outcome(outcome) => match outcome.state.expect("a state") {
                State::Granted(_) => "granted".to_owned(),
                State::Pending(_) => "pending".to_owned(),
                State::Ended(ended) => ended.state,
            },
            Answer::Problem(problem) => problem.code,
        };
        Some((answer.number, code))
    }
}

#[tokio::test]
async fn each_ask_of_a_stream_has_its_own_answer() {
    let served = Served::new().await;
    let identity = served.enrolled("etl", "t-1").await;
    let mut line = Line::open(served.channel(Some(&identity))).await;
    let unknown = AskRequest { scope: "nothing".into(), ..served.ask() };
    let export = served.rig.ask("export", r#"{"dataset":"customers","rows":1}"#, "");
    let asks = [Some(served.ask()), Some(unknown), Some(export), None];
    for (number, ask) in (7..).zip(asks) {
        line.up.send(NumberedAsk { number, ask }).unwrap();
    }
    let mut answers = BTreeMap::new();
    for _ in 0..4 {
        answers.extend(line.answer().await);
    }
    let codes: Vec<_> = answers.into_iter().collect();
    let want = [(7, "granted"), (8, "unknown_scope"), (9, "pending"), (10, "malformed")];
    assert_eq!(codes, want.map(|(n, code)| (n, code.to_owned())));
    assert_eq!(served.rig.broker.counts.refused.load(Ordering::Relaxed), 2);
    // What was asked is answered although nothing more will be.
    line.up.send(NumberedAsk { number: 11, ask: Some(served.ask()) }).unwrap();
    let Line { up, mut down } = line;
    drop(up);
    assert_eq!(down.message().await.unwrap().expect("its answer").number, 11);
    assert!(down.message().await.unwrap().is_none());
}

#[tokio::test]
async fn invariant_24_a_right_that_ends_ends_on_an_open_stream_of_asks_too() {
    let served = Served::new().await;
    let identity = served.enrolled("etl", "t-1").await;
    let mut line = Line::open(served.channel(Some(&identity))).await;
    let ask = |number| NumberedAsk { number, ask: Some(served.ask()) };
    line.up.send(ask(1)).unwrap();
    assert_eq!(line.answer().await, Some((1, "granted".into())));
    let revoked = AgentRevoked {
        at: served.rig.broker.now(),
        by: human("olivia"),
        agent: AgentId::parse("etl").unwrap(),
    };
    let events = vec![Event::AgentRevoked(revoked)];
    served.rig.broker.store.commit(Transition::authority(events)).await.unwrap();
    line.up.send(ask(2)).unwrap();
    assert_eq!(line.answer().await, Some((2, "revoked".into())));
}

#[tokio::test]
async fn a_stream_outlives_its_certificate_and_the_right_to_ask_does_not() {
    let served = Served::new().await;
    let identity = served.enrolled("etl", "t-1").await;
    let mut line = Line::open(served.channel(Some(&identity))).await;
    served.rig.clock.advance(2 * 3_600_000);
    line.up.send(NumberedAsk { number: 1, ask: Some(served.ask()) }).unwrap();
    assert_eq!(line.answer().await, Some((1, "certificate_expired".into())));
}

#[tokio::test]
async fn more_asks_than_are_worked_on_at_a_time_are_all_answered() {
    let served = Served::new().await;
    let identity = served.enrolled("etl", "t-1").await;
    let line = Line::open(served.channel(Some(&identity))).await;
    for number in 0..2000 {
        line.up.send(NumberedAsk { number, ask: None }).unwrap();
    }
    let Line { up, down: mut answers } = line;
    drop(up);
    let mut numbers = BTreeSet::new();
    while let Some(answer) = answers.message().await.unwrap() {
        assert!(numbers.insert(answer.number));
    }
    assert_eq!(numbers.len(), 2000);
}
