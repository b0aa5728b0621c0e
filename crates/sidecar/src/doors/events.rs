//! How a request goes on, told at each change until it is granted or has ended: as server-sent events
//! (`GET /v1/requests/{id}/events`, each event's data is the body that a GET would have answered) or as the
//! messages of a gRPC stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use grantwright_domain::RequestId;
use grantwright_wire::Refusal;
use grantwright_wire::v1::{Ended, Pending};
use http::StatusCode;
use http::header::HeaderValue;
use http_body::Frame;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::reply::{Body, Reply, ended_body, pending_body, problem, problem_body, with_body};
use crate::Sidecar;
use crate::fetch::{Answer, Fetched, busy};
use crate::lease::Lease;

/// How long one look waits; after each, a comment shows that the connection lives.
const LOOK_MS: u32 = 15_000;
/// Between two looks while no broker answers.
const AGAIN: Duration = Duration::from_secs(1);

/// What is to be told.
pub(super) enum News<'a> {
    /// Nothing new.
    Alive,
    /// The credential; the last.
    Granted(&'a Arc<Lease>),
    /// What the request waits for, also as JSON.
    Pending(&'a Arc<(String, Pending)>, &'a str),
    /// How it ended; the last.
    Ended(&'a Arc<(String, Ended)>),
    /// Why no more can be told; the last.
    Refused(&'a Refusal),
}

/// Writes the news in a door's own way; nothing to write is no piece.
pub(super) type Write = fn(&Sidecar, &News<'_>) -> Vec<Frame<Bytes>>;

/// As server-sent events.
pub(super) async fn stream(sidecar: &Arc<Sidecar>, id: RequestId) -> Reply {
    match follow(sidecar, id, event).await {
        Ok(told) => {
            let kind = HeaderValue::from_static("text/event-stream");
            with_body(StatusCode::OK, kind, Body::Events(told))
        }
        Err(refusal) => problem(sidecar, &refusal),
    }
}

/// The pieces as they come, unless the first look is refused.
pub(super) async fn follow(
    sidecar: &Arc<Sidecar>,
    id: RequestId,
    write: Write,
) -> Result<mpsc::Receiver<Frame<Bytes>>, Arc<Refusal>> {
    let Ok(place) = Arc::clone(&sidecar.followers).try_acquire_owned() else {
        return Err(Arc::new(busy()));
    };
    let first = Ok(sidecar.collect(&id, 0).await?);
    let (tell, told) = mpsc::channel(4);
    let sidecar = Arc::clone(sidecar);
    tokio::spawn(Teller { sidecar, tell, write, last: None, _place: place }.run(id, first));
    Ok(told)
}

struct Teller {
    sidecar: Arc<Sidecar>,
    tell: mpsc::Sender<Frame<Bytes>>,
    write: Write,
    /// The last pending body, so that only changes are told.
    last: Option<String>,
    _place: OwnedSemaphorePermit,
}

impl Teller {
    async fn run(mut self, id: RequestId, first: Fetched) {
        let mut fetched = first;
        // Whoever has hung up is told nothing more, and waits for nothing.
        while self.goes_on(fetched).await {
            let sidecar = Arc::clone(&self.sidecar);
            fetched = tokio::select! {
                fetched = sidecar.collect(&id, LOOK_MS) => fetched,
                () = self.tell.closed() => return,
            };
        }
    }

    /// Tells what changed; true while there is more to come.
    async fn goes_on(&mut self, fetched: Fetched) -> bool {
        match &fetched {
            Ok(Answer::Granted(lease)) => {
                self.say(&News::Granted(lease)).await;
                false
            }
            Ok(Answer::Pending(it)) => {
                let body = pending_body(&self.sidecar, &it.0, &it.1).to_string();
                if self.last.as_ref() == Some(&body) {
                    return self.say(&News::Alive).await;
                }
                let said = self.say(&News::Pending(it, &body)).await;
                self.last = Some(body);
                said
            }
            Ok(Answer::Ended(it)) => {
                self.say(&News::Ended(it)).await;
                false
            }
            Err(refusal) if is_passing(refusal) => {
                tokio::time::sleep(AGAIN).await;
                self.say(&News::Alive).await
            }
            Err(refusal) => {
                self.say(&News::Refused(refusal)).await;
                false
            }
        }
    }

    async fn say(&self, news: &News<'_>) -> bool {
        for piece in (self.write)(&self.sidecar, news) {
            if self.tell.send(piece).await.is_err() {
                return false;
            }
        }
        !self.tell.is_closed()
    }
}

fn event(_: &Sidecar, news: &News<'_>) -> Vec<Frame<Bytes>> {
    let (name, data) = match news {
        News::Alive => return vec![Frame::data(Bytes::from_static(b":\n\n"))],
        // Its body is wiped where it lies, so it is not copied into the event.
        News::Granted(lease) => ("granted", lease.body.clone()),
        News::Pending(_, body) => ("pending", Bytes::copy_from_slice(body.as_bytes())),
        News::Ended(it) => ("ended", ended_body(it).to_string().into()),
        News::Refused(refusal) => ("problem", problem_body(refusal).to_string().into()),
    };
    // A line end ends the data; in JSON it is white space only, which no issuer sends.
    if data.contains(&b'\n') {
        return Vec::new();
    }
    let head = Bytes::from(format!("event: {name}\ndata: "));
    [head, data, Bytes::from_static(b"\n\n")].map(Frame::data).into()
}

fn is_passing(refusal: &Refusal) -> bool {
    matches!(refusal.code.as_str(), "broker_away" | "busy" | "being_issued")
}
