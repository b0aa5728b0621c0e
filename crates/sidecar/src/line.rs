//! Asks that come together share one stream to the broker, which spares both ends most of what a call of its
//! own costs. A lone ask is a call: the stream is opened beside the second one that is under way, and closed
//! when nobody has asked for a while. A broker that has no such stream is asked by calls.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use grantwright_wire::Refusal;
use grantwright_wire::v1::broker_client::BrokerClient;
use grantwright_wire::v1::numbered_answer::Answer;
use grantwright_wire::v1::{AskRequest, NumberedAnswer, NumberedAsk, Outcome};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Opening may take this long.
const OPENING: Duration = Duration::from_secs(10);
/// A line without an ask for this long is closed.
const IDLE: Duration = Duration::from_secs(30);
/// For this long a broker that did not open one is asked by calls.
const REFUSED: Duration = Duration::from_secs(10);
/// Asks that are not sent yet.
const UNSENT: usize = 64;

/// The line, if there is one.
#[derive(Default)]
pub(crate) struct Lines {
    now: Mutex<Now>,
    under_way: AtomicUsize,
}

#[derive(Default)]
struct Now {
    state: State,
    /// Counts connections: what was opened on an older one is not used.
    connection: u64,
}

#[derive(Default)]
enum State {
    #[default]
    Closed,
    Opening,
    Open(Line),
    Refused(Instant),
}

/// An ask under way, until this is dropped.
pub(crate) struct UnderWay<'l>(&'l Lines);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lines {
    /// Begins an ask, and says which line it goes by; none: it is a call of its own.
    pub(crate) fn begin(
        self: &Arc<Self>,
        client: impl FnOnce() -> BrokerClient<Channel>,
    ) -> (UnderWay<'_>, Option<Line>) {
        let alone = self.under_way.fetch_add(1, Ordering::Relaxed) == 0;
        let under_way = UnderWay(self);
        let mut now = self.lock();
        match &now.state {
            State::Open(line) => return (under_way, Some(line.clone())),
            State::Opening => {}
            State::Refused(until) if Instant::now() < *until => {}
            State::Closed | State::Refused(_) if alone => {}
            State::Closed | State::Refused(_) => {
                now.state = State::Opening;
                tokio::spawn(Arc::clone(self).carry(now.connection, client()));
            }
        }
        (under_way, None)
    }

    /// Later asks go by another connection; those that are under way end where they are.
    pub(crate) fn renew(&self) {
        let mut now = self.lock();
        now.connection += 1;
        now.state = State::Closed;
    }

    async fn carry(self: Arc<Self>, connection: u64, mut client: BrokerClient<Channel>) {
        let (up, asks) = mpsc::channel(UNSENT);
        let opening = timeout(OPENING, client.asks(ReceiverStream::new(asks)));
        let Ok(Ok(reply)) = opening.await else {
            return self.set(connection, State::Refused(Instant::now() + REFUSED));
        };
        let mut down = reply.into_inner();
        let waiting = Arc::new(Waiting::default());
        self.set(connection, State::Open(Line { up, waiting: Arc::clone(&waiting) }));
        loop {
            match timeout(IDLE, down.message()).await {
                Ok(Ok(Some(answer))) => waiting.tell(answer),
                Ok(_) => break,
                Err(_) if waiting.rest() => break,
                Err(_) => {}
            }
        }
        self.set(connection, State::Closed);
        waiting.close();
    }

    fn set(&self, connection: u64, state: State) {
        let mut now = self.lock();
        if now.connection == connection {
            now.state = state;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open stream.
#[derive(Clone)]
pub(crate) struct Line {
    up: mpsc::Sender<NumberedAsk>,
    waiting: Arc<Waiting>,
}

impl Line {
    /// The broker's answer, or 503 `broker_away` where it was lost: an ask is never sent twice.
    ///
    /// # Errors
    /// The ask itself, if it was not sent.
    pub(crate) async fn ask(
        &self,
        ask: AskRequest,
    ) -> Result<Result<Outcome, Box<Refusal>>, Box<AskRequest>> {
        let Some((place, told)) = self.waiting.join() else { return Err(Box::new(ask)) };
        let numbered = NumberedAsk { number: place.number, ask: Some(ask) };
        if let Err(unsent) = self.up.send(numbered).await {
            return Err(Box::new(unsent.0.ask.unwrap_or_default()));
        }
        Ok(match told.await.ok().and_then(|it| it.answer) {
            Some(Answer::Outcome(outcome)) => Ok(outcome),
            Some(Answer::Problem(problem)) => Err(Box::new(problem.into())),
            None => Err(Box::new(Refusal::broker_away())),
        })
    }
}

/// Those who wait for an answer, by the number of their ask.
#[derive(Default)]
struct Waiting(Mutex<Waiters>);

#[derive(Default)]
struct Waiters {
    closed: bool,
    last: u64,
    by_number: HashMap<u64, oneshot::Sender<NumberedAnswer>>,
}

/// A place among them, until this is dropped.
struct Place<'w> {
    waiting: &'w Waiting,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.lock().by_number.remove(&self.number);
    }
}

impl Waiting {
    /// None: the line is closed.
    fn join(&self) -> Option<(Place<'_>, oneshot::Receiver<NumberedAnswer>)> {
        let mut waiters = self.lock();
        if waiters.closed {
            return None;
        }
        let (tell, told) = oneshot::channel();
        waiters.last += 1;
        let number = waiters.last;
        waiters.by_number.insert(number, tell);
        Some((Place { waiting: self, number }, told))
    }

    /// An answer that nobody waits for any more is dropped.
    fn tell(&self, answer: NumberedAnswer) {
        let waiter = self.lock().by_number.remove(&answer.number);
        if let Some(waiter) = waiter {
            let _ = waiter.send(answer);
        }
    }

    /// Closes if nobody waits; whether it is closed.
    fn rest(&self) -> bool {
        let mut waiters = self.lock();
        waiters.closed |= waiters.by_number.is_empty();
        waiters.closed
    }

    /// Nobody waits in vain.
    fn close(&self) {
        let mut waiters = self.lock();
        waiters.closed = true;
        waiters.by_number.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_rests_only_while_nobody_waits_and_then_takes_nobody() {
        let waiting = Waiting::default();
        let (place, _told) = waiting.join().expect("open");
        assert!(!waiting.rest());
        drop(place);
        assert!(waiting.lock().by_number.is_empty(), "who gives up leaves nothing");
        assert!(waiting.rest());
        assert!(waiting.join().is_none());
    }

    #[tokio::test]
    async fn an_answer_is_for_its_number_and_a_closed_line_for_nobody() {
        let waiting = Waiting::default();
        let (first, told_first) = waiting.join().expect("open");
        let (second, told_second) = waiting.join().expect("open");
        assert_ne!(first.number, second.number);
        waiting.tell(NumberedAnswer { number: second.number, answer: None });
        waiting.tell(NumberedAnswer { number: 77, answer: None });
        assert_eq!(told_second.await.expect("told").number, second.number);
        waiting.close();
        assert!(told_first.await.is_err());
    }

    #[test]
    fn what_was_opened_before_a_renewal_is_not_used() {
        let lines = Lines::default();
        let connection = lines.lock().connection;
        lines.renew();
        let (up, _asks) = mpsc::channel(1);
        lines.set(connection, State::Open(Line { up, waiting: Arc::default() }));
        assert!(matches!(lines.lock().state, State::Closed));
    }
}
