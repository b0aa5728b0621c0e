//! A stream that, when it is done with, is read a little longer: closing it with bytes unread makes
//! the system drop the answer (a 413 or 431) before the client has seen it.

use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::runtime::Handle;

use crate::connection::LAST_CALLS;
use crate::places::Seat;

/// So much of what a client sends after its answer is read and thrown away.
const MOST_UNREAD: usize = 1 << 20;

/// See the module.
pub(crate) struct Lingering<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> {
    stream: Option<S>,
    seat: Seat,
    /// What was read before and is to be read again.
    unread: Vec<u8>,
    /// Something was written.
    wrote: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Drop for Lingering<S> {
    fn drop(&mut self) {
        let (Some(mut stream), Ok(runtime)) = (self.stream.take(), Handle::try_current()) else {
            return;
        };
        // Its place is another's already, and so is its descriptor.
        if self.seat.is_lost() {
            return;
        }
        runtime.spawn(tokio::time::timeout(LAST_CALLS, async move {
            let _ = stream.shutdown().await;
            let mut unread = [0; 512];
            let mut left = MOST_UNREAD;
            while let Ok(read @ 1..) = stream.read(&mut unread).await {
                left = left.saturating_sub(read);
                if left == 0 {
                    return;
                }
            }
        }));
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Lingering<S> {
    pub(crate) fn new(stream: S, seat: Seat) -> Self {
        Self { stream: Some(stream), seat, unread: Vec::new(), wrote: false }
    }

    /// Puts back what was read.
    pub(crate) fn unread(&mut self, bytes: Vec<u8>) {
        self.unread = bytes;
    }

    /// Writes the refusal, as far as that goes at once, unless something was written before.
    pub(crate) fn refuse(&mut self, refusal: &[u8]) {
        if !self.wrote {
            let mut cx = Context::from_waker(Waker::noop());
            let _ = Pin::new(self).poll_write(&mut cx, refusal);
        }
    }

    fn stream(&mut self) -> std::io::Result<Pin<&mut S>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| ErrorKind::NotConnected.into())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if !self.unread.is_empty() {
            let count = self.unread.len().min(buf.remaining());
            let rest = self.unread.split_off(count);
            buf.put_slice(&std::mem::replace(&mut self.unread, rest));
            return Poll::Ready(Ok(()));
        }
        self.stream()?.poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncWrite for Lingering<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.wrote = true;
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        self.wrote = true;
        self.stream()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}
