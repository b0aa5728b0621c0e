//! One connection. One that begins with HTTP/2's preface is gRPC's ([`http2`](crate::http2)); of any other
//! the calls go through hyper one by one; a call that only repeats the one before it,
//! byte for byte, is answered here ([`repeat`](crate::repeat)). Between calls a connection holds no
//! buffers. Bounded are the size of a head, the time it may take, and the time between calls.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use grantwright_wire::Refusal;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use crate::linger::Lingering;
use crate::places::Place;
use crate::process::Caller;
use crate::repeat::{Exchange, Repeats, Step};
use crate::{Sidecar, doors, http2};

/// Largest head of a call.
pub(crate) const MOST_HEAD: usize = 16 * 1024;
/// In this time a head must have arrived; a connection may idle as long, and at most twice as long.
pub(crate) const HEAD_TIME: Duration = Duration::from_secs(60);
/// Calls that run when the sidecar ends have this long.
pub(crate) const LAST_CALLS: Duration = Duration::from_secs(1);

/// Serves until the client leaves, `closed` says so, or its place is another's.
pub(crate) async fn connection<S>(
    stream: S,
    caller: Caller,
    place: Place,
    sidecar: Arc<Sidecar>,
    closed: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let place = Arc::new(place);
    let mut stream = Lingering::new(stream, place.seat());
    let turned_out = {
        let mut serving = pin!(serve(&mut stream, caller, &place, &sidecar, closed));
        let mut out = pin!(place.turned_out());
        poll_fn(|cx| match serving.as_mut().poll(cx) {
            Poll::Pending if !place.is_known() => out.as_mut().poll(cx).map(|()| true),
            polled => polled.map(|()| false),
        })
        .await
    };
    if turned_out {
        stream.refuse(no_room().as_bytes());
    }
}

/// What a stranger is told that gives way before it had an answer.
fn no_room() -> String {
    let body = Refusal::new(503, "no_room", "The sidecar has no room for this connection.")
        .detail("too many connections, and this one had not shown a token")
        .next("Try again shortly; send the token with the first call.")
        .to_problem_json()
        .to_string();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         cache-control: no-store\r\nretry-after: 1\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn serve<S>(
    stream: &mut Lingering<S>,
    caller: Caller,
    place: &Arc<Place>,
    sidecar: &Arc<Sidecar>,
    mut closed: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut repeats = Repeats::default();
    let mut is_new = true;
    loop {
        let step = {
            let calls = repeats.calls();
            let mut idle = pin!(async {
                let mut before = calls.count();
                loop {
                    tokio::time::sleep(HEAD_TIME).await;
                    let now = calls.count();
                    if now == before {
                        return;
                    }
                    before = now;
                }
            });
            let mut end = pin!(closed.wait_for(|it| *it));
            poll_fn(|cx| match repeats.poll(&mut *stream, sidecar, cx) {
                Poll::Ready(step) => Poll::Ready(step),
                Poll::Pending if idle.as_mut().poll(cx).is_ready() => Poll::Ready(Step::End),
                Poll::Pending => end.as_mut().poll(cx).map(|_| Step::End),
            })
            .await
        };
        if step == Step::End {
            return;
        }
        let mut begun = repeats.take();
        if std::mem::take(&mut is_new) && http2::is_meant(stream, &mut begun, &mut closed).await {
            stream.unread(begun);
            return Box::pin(http2::serve(stream, caller, place, sidecar, &mut closed)).await;
        }
        let exchange = Exchange::begin(begun);
        let calls = through_hyper(stream, &exchange, (&caller, place), sidecar, &mut closed);
        if !Box::pin(calls).await {
            return;
        }
        repeats.learn(exchange);
    }
}

/// Lets hyper read and answer a call. True when exactly one was, whole, and the connection is to be
/// had back; hyper serves any other connection to its end.
async fn through_hyper<S>(
    stream: &mut Lingering<S>,
    exchange: &Exchange,
    (caller, place): (&Caller, &Place),
    sidecar: &Arc<Sidecar>,
    closed: &mut watch::Receiver<bool>,
) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|call| async move {
        exchange.called(&call);
        let reply = doors::answer(sidecar, caller, place, call).await;
        exchange.answered(&reply);
        Ok::<_, Infallible>(reply)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(MOST_HEAD);
    let mut serving =
        pin!(http.serve_connection(TokioIo::new(Overheard { stream, exchange }), service));
    let served = poll_fn(|cx| {
        // Hyper wants to be polled again for a body. At once, rather than after all others: so few
        // connections hold its buffers at the same time.
        for _ in 0..3 {
            match serving.as_mut().poll(cx) {
                Poll::Ready(served) => return Poll::Ready(Some(served)),
                Poll::Pending if exchange.is_over() => return Poll::Ready(None),
                Poll::Pending if exchange.is_answered() => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        Poll::Pending
    });
    tokio::select! {
        served = served => {
            if let Some(Err(error)) = &served {
                tracing::debug!(%error, "a connection ended badly");
            }
            return served.is_none();
        }
        _ = closed.wait_for(|it| *it) => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(LAST_CALLS, serving).await;
    false
}

/// The stream as hyper has it: what passes is noted, and after one whole exchange nothing more does.
struct Overheard<'a, S: AsyncRead + AsyncWrite + Unpin + Send + 'static> {
    stream: &'a mut Lingering<S>,
    exchange: &'a Exchange,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncRead for Overheard<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.exchange.give_begun(buf) {
            return Poll::Ready(Ok(()));
        }
        if self.exchange.is_over() {
            // `through_hyper` looks right after this, so that nobody need be woken.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut *self.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = &read {
            self.exchange.read(buf.filled().get(before..).unwrap_or_default());
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncWrite for Overheard<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut *self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = written {
            self.exchange.wrote(buf, count);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut *self.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(count)) = written {
            // Empty ones may come before the head.
            let first = bufs.iter().find(|buf| !buf.is_empty());
            self.exchange.wrote(first.map_or(&[], |buf| &**buf), count);
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
