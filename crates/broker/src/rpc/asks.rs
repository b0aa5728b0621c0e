//! Asks: one as a call of its own, or those of many callers on one stream. The right to ask is looked at for
//! each of them; a stream only spares what each call costs.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{Stream, StreamExt as _};
use grantwright_wire::v1::numbered_answer::Answer;
use grantwright_wire::v1::{AskRequest, NumberedAnswer, NumberedAsk, Outcome};
use grantwright_wire::{PeerInfo, Refusal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::access;
use crate::core::{Broker, Place};
use crate::error::refuse;
use crate::issue;

/// Asks of one stream that are at work or whose answers are not taken yet; the next one is not read before. As
/// many as a sidecar has under way.
const MAX_AT_WORK: usize = 512;

pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<NumberedAnswer, Status>> + Send>>;

/// One ask, of whoever is at the other end of the connection.
///
/// # Errors
/// As [`access::caller`] and [`issue::issue`].
pub(super) async fn ask(
    broker: &Arc<Broker>,
    peer: Option<&PeerInfo>,
    ask: AskRequest,
) -> Result<Outcome, Refusal> {
    let caller = access::of_peer(broker, access::ASK, peer)?;
    issue::issue(broker, &caller, ask).await.inspect_err(|_| {
        broker.counts.refused.fetch_add(1, Ordering::Relaxed);
    })
}

/// Answers what the stream asks, until either end of it is gone. What was begun then goes on: its outcome
/// is in the log, and the same key finds it. The place is held as long as anything of the stream is left.
pub(super) fn serve(
    broker: Arc<Broker>,
    peer: Option<PeerInfo>,
    mut asks: impl Stream<Item = Result<NumberedAsk, Status>> + Send + Unpin + 'static,
    place: Place,
) -> Answers {
    // An idle stream holds places for pointers, not for answers.
    let (answers, ready) = mpsc::channel::<Box<NumberedAnswer>>(MAX_AT_WORK);
    let place = Arc::new(place);
    let held = Arc::clone(&place);
    tokio::spawn(async move {
        while let Ok(permit) = answers.clone().reserve_owned().await {
            let next = tokio::select! {
                next = asks.next() => next,
                () = answers.closed() => return,
            };
            let Some(Ok(NumberedAsk { number, ask: asked })) = next else { return };
            let promised = Promised { number, permit: Some(permit) };
            let (broker, peer, place) = (Arc::clone(&broker), peer.clone(), Arc::clone(&place));
            tokio::spawn(async move {
                let _place = place;
                let at_work = peer.as_ref().map(PeerInfo::at_work);
                let answer = ask(&broker, peer.as_ref(), asked.unwrap_or_default()).await;
                // Before its answer can leave: the last of them waits for no other.
                drop(at_work);
                promised.keep(answer.map_or_else(|r| Answer::Problem(r.into()), Answer::Outcome));
            });
        }
    });
    Box::pin(ReceiverStream::new(ready).map(move |answer| {
        let _held = &held;
        Ok(*answer)
    }))
}

/// The answer that an ask is owed: given even where the work on it fails within.
struct Promised {
    number: u64,
    permit: Option<mpsc::OwnedPermit<Box<NumberedAnswer>>>,
}

impl Promised {
    fn keep(mut self, answer: Answer) {
        self.give(answer);
    }

    fn give(&mut self, answer: Answer) {
        if let Some(permit) = self.permit.take() {
            permit.send(Box::new(NumberedAnswer { number: self.number, answer: Some(answer) }));
        }
    }
}

impl Drop for Promised {
    fn drop(&mut self) {
        if self.permit.is_some() {
            let why = "the broker failed within";
            let failed = refuse(503, "internal", why, "ask again with the same key");
            self.give(Answer::Problem(failed.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::issue::rig::Rig;

    /// The rig's place among its streams, and asks that want nothing, counted as they are read.
    fn silent(rig: &Rig, count: usize) -> (Answers, Arc<AtomicUsize>) {
        let read = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&read);
        let asks = futures_util::stream::iter((1..).take(count)).map(move |number| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(NumberedAsk { number, ask: None })
        });
        let place = rig.broker.stream(&rig.caller.instance).expect("a place");
        (serve(Arc::clone(&rig.broker), None, asks, place), read)
    }

    async fn turns() {
        for _ in 0..4 * MAX_AT_WORK {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn invariant_28_asks_wait_unread_while_answers_are_not_taken() {
        let rig = Rig::new().await;
        let (mut answers, read) = silent(&rig, 10 * MAX_AT_WORK);
        turns().await;
        assert_eq!(read.load(Ordering::Relaxed), MAX_AT_WORK);
        answers.next().await.expect("an answer").expect("answered");
        turns().await;
        assert_eq!(read.load(Ordering::Relaxed), MAX_AT_WORK + 1);
    }

    #[tokio::test]
    async fn invariant_28_a_stream_has_its_place_as_long_as_its_answers_are_not_taken() {
        let rig = Rig::new().await;
        let open: Vec<_> = (0..8).map(|_| silent(&rig, 3)).collect();
        turns().await;
        let refused = rig.broker.stream(&rig.caller.instance).err().expect("one too many");
        assert_eq!(refused.code, "too_many_streams");
        drop(open);
        turns().await;
        rig.broker.stream(&rig.caller.instance).map(drop).expect("there is room again");
    }

    #[tokio::test]
    async fn an_ask_whose_work_fails_within_is_answered() {
        let (answers, mut ready) = mpsc::channel(1);
        let permit = answers.reserve_owned().await.expect("room");
        drop(Promised { number: 7, permit: Some(permit) });
        let answer = ready.recv().await.expect("an answer");
        let Some(Answer::Problem(problem)) = answer.answer else { panic!("no refusal") };
        assert_eq!((answer.number, problem.status, problem.code.as_str()), (7, 503, "internal"));
    }
}
