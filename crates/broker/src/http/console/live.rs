//! Live updates: a bounded number of streams of server-sent events that say what changed, never what
//! it became; a page that hears of a change loads itself again.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use grantwright_domain::RequestId;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

use super::desk;
use super::respond::Page;
use crate::error::refuse;
use crate::http::Shared;
use crate::http::session::Session;

/// A stream ends after so long, and the browser opens the next: sessions end, connections are
/// bounded, and a page that missed something looks again.
const LIFE: Duration = Duration::from_secs(50);

/// `?request=…`: only this one; else all that lists show.
#[derive(Debug, Deserialize)]
pub struct Which {
    request: Option<String>,
}

/// The stream.
pub async fn stream(State(broker): Shared, _session: Session, Query(which): Query<Which>) -> Page {
    let only = which.request.and_then(|id| RequestId::parse(&id).ok());
    let place = desk::place(&broker).ok_or_else(|| {
        refuse(503, "busy", "too many pages are open", "the page looks again by itself")
    })?;
    let changes = broker.desk.hear();
    let until = tokio::time::Instant::now() + LIFE;
    // The first line makes the browser open it, and look again after a second when it ends.
    let begun = Some("retry: 1000\nevent: open\ndata: 1\n\n".to_owned());
    let events =
        futures_util::stream::unfold((begun, changes, place), move |(first, mut rx, place)| {
            let only = only.clone();
            async move {
                let said = match first {
                    Some(first) => first,
                    None => loop {
                        match tokio::time::timeout_at(until, rx.recv()).await {
                            Ok(Ok(change)) => {
                                let wanted = match &only {
                                    Some(id) => *id == change.request,
                                    None => change.listed,
                                };
                                if wanted {
                                    break format!("event: change\ndata: {}\n\n", change.request);
                                }
                            }
                            Ok(Err(RecvError::Lagged(_))) => {
                                break "event: change\ndata: *\n\n".into();
                            }
                            Ok(Err(RecvError::Closed)) | Err(_) => return None,
                        }
                    },
                };
                Some((Ok::<_, Infallible>(Bytes::from(said)), (None, rx, place)))
            }
        });
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    let response: Response = (StatusCode::OK, headers, Body::from_stream(events)).into_response();
    Ok(response)
}
