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
use tonic::{Status, Streaming};

use super::access;
use crate::core::{Broker, Place};
use crate::error::refuse;
use crate::issue;

/// Asks of one stream that are at work or whose answers are not taken yet; the next one is not read before.
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
/// is in the log, and the same ask finds it.
pub(super) fn serve(
    broker: Arc<Broker>,
    peer: Option<PeerInfo>,
    mut asks: Streaming<NumberedAsk>,
    place: Place,
) -> Answers {
    // An idle stream holds places for pointers, not for answers.
    let (answers, ready) = mpsc::channel::<Box<NumberedAnswer>>(MAX_AT_WORK);
    tokio::spawn(async move {
        let _place = place;
        while let Ok(permit) = answers.clone().reserve_owned().await {
            let next = tokio::select! {
                next = asks.message() => next,
                () = answers.closed() => return,
            };
            let Ok(Some(NumberedAsk { number, ask: asked })) = next else { return };
            let promised = Promised { number, permit: Some(permit) };
            let (broker, peer) = (Arc::clone(&broker), peer.clone());
            tokio::spawn(async move {
                let _at_work = peer.as_ref().map(PeerInfo::at_work);
                let answer = match asked {
                    Some(asked) => ask(&broker, peer.as_ref(), asked).await,
                    None => Err(refuse(400, "malformed", "nothing is asked", "update the sidecar")),
                };
                promised.keep(answer.map_or_else(|r| Answer::Problem(r.into()), Answer::Outcome));
            });
        }
    });
    Box::pin(ReceiverStream::new(ready).map(|answer| Ok(*answer)))
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
