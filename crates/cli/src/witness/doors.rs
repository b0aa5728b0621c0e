//! The witness's doors: `POST /add-checkpoint`, and `GET /<sha256 of a log's origin>/checkpoint`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use grantwright_proof::witness::{AddCheckpoint, MAX_REQUEST, Refused, SIZE_TYPE};
use grantwright_proof::{Cosigner, Vkey};

use super::memory::{Last, Memory, name_of};
use crate::config::now;
use crate::exit::Failure;

/// Everything the doors share.
pub struct Doors {
    cosigner: Cosigner,
    logs: HashMap<String, Vkey>,
    /// Held from the look at what was cosigned last until the new one is durable.
    memory: Mutex<Memory>,
}

impl Doors {
    /// The doors of a witness that knows these logs.
    pub fn new(cosigner: Cosigner, logs: Vec<Vkey>, memory: Memory) -> Self {
        let logs = logs.into_iter().map(|log| (log.name().to_owned(), log)).collect();
        Self { cosigner, logs, memory: Mutex::new(memory) }
    }

    /// The routes.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/add-checkpoint", post(add))
            .route("/{log}/checkpoint", get(checkpoint))
            .layer(DefaultBodyLimit::max(MAX_REQUEST))
            .with_state(self)
    }

    fn add(&self, body: &[u8]) -> Result<String, Refused> {
        let body = str::from_utf8(body).map_err(|_| Refused::Malformed("request"))?;
        let asked = AddCheckpoint::parse(body)?;
        let origin = asked.origin()?;
        let log = self.logs.get(origin).ok_or(Refused::UnknownLog)?;
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = |e: Failure| {
            tracing::error!(error = %e, "what was cosigned is not readable or not kept; nothing is cosigned");
            Refused::Malformed("memory of this witness")
        };
        let last = memory.last(log).map_err(broken)?.map(|last| (last.size, last.root));
        let (new, text) = asked.judge(log, origin, last).inspect_err(|why| {
            tracing::warn!(log = origin, %why, "a checkpoint is not cosigned");
        })?;
        let time = u64::try_from(now().seconds()).unwrap_or(0);
        let line = self.cosigner.cosign(text, time);
        // Only the log's own signature is kept beside ours: what others wrote is not vouched for.
        let own = log_line(&asked.note, log);
        let note = format!("{text}\n{own}{line}");
        memory.keep(origin, Last { size: new.size(), root: new.root(), note }).map_err(broken)?;
        Ok(line)
    }
}

/// The log's own signature lines of a note.
fn log_line(note: &str, log: &Vkey) -> String {
    let prefix = format!("— {} ", log.name());
    let lines = note.lines().filter(|line| line.starts_with(&prefix));
    lines.take(4).map(|line| format!("{line}\n")).collect()
}

async fn add(State(doors): State<Arc<Doors>>, body: Bytes) -> Response {
    // Checking takes microseconds, keeping an fsync: off the threads that answer.
    let done = tokio::task::spawn_blocking(move || doors.add(&body)).await;
    match done {
        Ok(Ok(line)) => text(StatusCode::OK, "text/plain; charset=utf-8", line),
        Ok(Err(Refused::OtherSize(size))) => {
            text(StatusCode::CONFLICT, SIZE_TYPE, format!("{size}\n"))
        }
        Ok(Err(Refused::Malformed("memory of this witness"))) | Err(_) => {
            let why = "this witness cannot cosign at the moment\n".to_owned();
            text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", why)
        }
        Ok(Err(why)) => {
            let status = StatusCode::from_u16(why.status()).unwrap_or(StatusCode::BAD_REQUEST);
            text(status, "text/plain; charset=utf-8", format!("{why}\n"))
        }
    }
}

async fn checkpoint(State(doors): State<Arc<Doors>>, Path(name): Path<String>) -> Response {
    let known = doors.logs.values().find(|log| name_of(log.name()) == name);
    let found = known.and_then(|log| {
        let mut memory = doors.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.last(log).ok().flatten().map(|last| last.note.clone())
    });
    match found {
        Some(note) => text(StatusCode::OK, "text/plain; charset=utf-8", note),
        None => text(
            StatusCode::NOT_FOUND,
            "text/plain; charset=utf-8",
            "no checkpoint of such a log was cosigned here\n".to_owned(),
        ),
    }
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    (status, headers, body).into_response()
}
