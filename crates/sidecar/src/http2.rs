//! A connection that began with HTTP/2's preface: it speaks gRPC (`doors/grpc.rs`), on the same port or
//! socket as HTTP/1. Bounded are the calls at the same time, their heads, what is sent and not read, and the
//! time between calls; who does not answer a ping is gone within half a minute.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::authority::Named;
use crate::connection::{HEAD_TIME, LAST_CALLS, MOST_HEAD};
use crate::doors::Reply;
use crate::guard::Peer;
use crate::linger::Lingering;
use crate::places::Place;
use crate::process::Caller;
use crate::{Sidecar, doors};

/// How the preface begins (RFC 9113 §3.4): no method of HTTP/1 does.
const PREFACE: &[u8] = b"PRI ";
/// Calls of one connection at the same time.
const MOST_CALLS: u32 = 32;
/// What one call, and one connection, may send before it was read.
const CALL_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// What waits to be sent to a call that does not read.
const MOST_UNSENT: usize = 64 * 1024;
/// A ping so often, answered within that time.
const PING: Duration = Duration::from_secs(15);
const PONG: Duration = Duration::from_secs(10);
const _: () = assert!(PING.as_secs() + PONG.as_secs() <= 30, "half a minute, as said above");

type Answered = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

/// Whether the connection begins with the preface: reads on while that is not certain.
pub(crate) async fn is_meant<S>(
    stream: &mut Lingering<S>,
    begun: &mut Vec<u8>,
    closed: &mut watch::Receiver<bool>,
) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let read = async {
        while begun.len() < PREFACE.len() && PREFACE.starts_with(begun) {
            if !matches!(stream.read_buf(begun).await, Ok(1..)) {
                return;
            }
        }
    };
    tokio::select! {
        _ = timeout(HEAD_TIME, read) => {}
        () = told(closed) => {}
    }
    begun.starts_with(PREFACE)
}

/// Serves until the client leaves, or `closed` says so.
pub(crate) async fn serve<S>(
    stream: &mut Lingering<S>,
    caller: Caller,
    place: &Arc<Place>,
    sidecar: &Arc<Sidecar>,
    closed: &mut watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let count = Arc::new(AtomicU32::new(0));
    let is_unix = caller.peer != Peer::Tcp;
    let service = {
        // Calls end after their connection does: they must not keep its place.
        let (sidecar, place) = (Arc::clone(sidecar), Arc::downgrade(place));
        let (caller, count) = (Arc::new(caller), Arc::clone(&count));
        service_fn(move |call: Request<Incoming>| -> Answered {
            count.fetch_add(1, Ordering::Relaxed);
            let (sidecar, place, caller) =
                (Arc::clone(&sidecar), place.upgrade(), Arc::clone(&caller));
            Box::pin(async move {
                let reply = doors::grpc::answer(&sidecar, &caller, place, call);
                Ok(reply.await)
            })
        })
    };
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(MOST_CALLS)
        .max_header_list_size(u32::try_from(MOST_HEAD).unwrap_or(u32::MAX))
        .initial_stream_window_size(CALL_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MOST_UNSENT)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    let stream = Named::new(stream, is_unix);
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), service));
    let idle = async {
        let mut before = count.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(HEAD_TIME).await;
            let now = count.load(Ordering::Relaxed);
            if now == before {
                return;
            }
            before = now;
        }
    };
    tokio::select! {
        served = serving.as_mut() => {
            if let Err(error) = served {
                tracing::debug!(%error, "a connection ended badly");
            }
            return;
        }
        () = idle => {
            // Who never came in is not waited for. A client opens another when it has a call again.
            if !place.is_known() {
                return;
            }
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                _ = serving.as_mut() => return,
                () = told(closed) => {}
            }
        }
        () = told(closed) => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = timeout(LAST_CALLS, serving).await;
}

/// Completes when `closed` says so.
async fn told(closed: &mut watch::Receiver<bool>) {
    let _ = closed.wait_for(|it| *it).await;
}
