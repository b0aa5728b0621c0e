//! `GET /v1/requests/{id}/events`: how a request goes on, as server-sent events, until it is granted or
//! has ended. Each event's data is the body that a GET would have answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use grantwright_domain::RequestId;
use grantwright_wire::Refusal;
use http::StatusCode;
use http::header::HeaderValue;
use tokio::sync::mpsc;

use super::reply::{Body, Reply, ended_body, pending_body, problem, problem_body, with_body};
use crate::Sidecar;
use crate::fetch::{Answer, Fetched};

/// How long one look waits; after each, a comment shows that the connection lives.
const LOOK_MS: u32 = 15_000;
/// Between two looks while no broker answers.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn follow(sidecar: &Arc<Sidecar>, id: RequestId) -> Reply {
    let first = sidecar.collect(&id, 0).await;
    if let Err(refusal) = &first {
        return problem(sidecar, refusal);
    }
    let (tell, told) = mpsc::channel(4);
    tokio::spawn(Teller { sidecar: Arc::clone(sidecar), tell, last: None }.run(id, first));
    let kind = HeaderValue::from_static("text/event-stream");
    with_body(StatusCode::OK, kind, Body::Events(told))
}

struct Teller {
    sidecar: Arc<Sidecar>,
    tell: mpsc::Sender<Bytes>,
    /// The last pending body, so that only changes are told.
    last: Option<String>,
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
        match fetched {
            Ok(Answer::Granted(lease)) => {
                // Its body is wiped where it lies, so it is not copied into the event.
                self.say("granted", lease.body.clone()).await;
                false
            }
            Ok(Answer::Pending(it)) => {
                let body = pending_body(&self.sidecar, &it.0, &it.1).to_string();
                if self.last.as_ref() == Some(&body) {
                    return self.tell.send(Bytes::from_static(b":\n\n")).await.is_ok();
                }
                self.last = Some(body.clone());
                self.say("pending", body.into()).await
            }
            Ok(Answer::Ended(it)) => {
                self.say("ended", ended_body(&it).to_string().into()).await;
                false
            }
            Err(refusal) if is_passing(&refusal) => {
                tokio::time::sleep(AGAIN).await;
                self.tell.send(Bytes::from_static(b":\n\n")).await.is_ok()
            }
            Err(refusal) => {
                self.say("problem", problem_body(&refusal).to_string().into()).await;
                false
            }
        }
    }

    async fn say(&self, event: &str, data: Bytes) -> bool {
        let head = Bytes::from(format!("event: {event}\ndata: "));
        // A line end ends the data; in JSON it is white space only, which no issuer sends.
        if data.contains(&b'\n') {
            return false;
        }
        let end = Bytes::from_static(b"\n\n");
        for part in [head, data, end] {
            if self.tell.send(part).await.is_err() {
                return false;
            }
        }
        true
    }
}

fn is_passing(refusal: &Refusal) -> bool {
    matches!(refusal.code.as_str(), "broker_away" | "busy" | "being_issued")
}
