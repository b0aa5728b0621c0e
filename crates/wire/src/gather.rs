//! Answers that are ready together leave together. HTTP/2 hands each answer over by itself, and each
//! would be a TLS record, a system call and a wake of the other end of its own.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroize as _;

/// What is held at most: what a TLS record holds.
const ROOM: usize = 16 * 1024;

/// Counts the calls of a connection that are at work.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calls(Arc<AtomicUsize>);

/// One call at work; it ends when this is dropped.
#[derive(Debug)]
pub struct Call(Calls);

impl Calls {
    pub(crate) fn begin(&self) -> Call {
        self.0.fetch_add(1, Ordering::Relaxed);
        Call(self.clone())
    }

    fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream whose writes wait, while calls are at work, for the next turn of the task that writes: then
/// whatever else was ready has been written too. Without calls nothing waits, nor is anything copied.
///
/// Rule: whoever polls it reads in every turn, as HTTP/2 does unless it waits to write; a turn is asked for
/// whenever something is held. What is held are answers in the clear: it is never shown, wiped once it is
/// written, and its place never moves.
pub(crate) struct Gather<S> {
    inner: S,
    calls: Calls,
    held: Vec<u8>,
    /// Bytes of `held` that were written already.
    written: usize,
    /// A flush was said to be done and is not: what is held, or what the stream beneath still has.
    owed: bool,
}

impl<S> fmt::Debug for Gather<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gather").field("held", &self.held.len()).finish_non_exhaustive()
    }
}

impl<S> Gather<S> {
    pub(crate) fn new(inner: S, calls: Calls) -> Self {
        Self { inner, calls, held: Vec::new(), written: 0, owed: false }
    }

    /// Whether a write goes straight on: nobody else is at work and nothing is before it.
    fn is_straight(&self) -> bool {
        self.held.is_empty() && !self.calls.any()
    }
}

impl<S> Drop for Gather<S> {
    fn drop(&mut self) {
        self.held.as_mut_slice().zeroize();
    }
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    fn write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.held.get(self.written..).filter(|rest| !rest.is_empty()) {
            let n = ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        self.held.as_mut_slice().zeroize();
        self.held.clear();
        self.written = 0;
        if !self.calls.any() {
            // A connection that rests keeps no room.
            self.held = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    fn pay(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_out(cx))?;
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.owed = false;
        Poll::Ready(Ok(()))
    }

    /// Makes room for so many bytes; false: they are too many to be held at all.
    fn make_room(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<io::Result<bool>> {
        if self.held.len() + length > ROOM {
            ready!(self.write_out(cx))?;
        }
        if length > ROOM {
            return Poll::Ready(Ok(false));
        }
        if self.held.capacity() < ROOM {
            self.held.reserve_exact(ROOM);
        }
        Poll::Ready(Ok(true))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Where writing must wait, this task is woken for it, and comes here again.
        if self.owed
            && let Poll::Ready(paid) = self.pay(cx)
        {
            paid?;
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_straight() || !ready!(self.make_room(cx, buf.len()))? {
            return Pin::new(&mut self.inner).poll_write(cx, buf);
        }
        self.held.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|b| b.len()).sum();
        if self.is_straight() || !ready!(self.make_room(cx, length))? {
            return Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        }
        for buf in bufs {
            self.held.extend_from_slice(buf);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() && self.calls.any() {
            if !self.owed {
                self.owed = true;
                cx.waker().wake_by_ref();
            }
            return Poll::Ready(Ok(()));
        }
        self.pay(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_out(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::{Wake, Waker};

    use proptest::prelude::*;

    use super::*;

    /// A far end that takes so many bytes of a write, and none while it is shut.
    #[derive(Default)]
    struct Far {
        got: Vec<u8>,
        writes: usize,
        flushed: usize,
        most: usize,
        shut: bool,
    }

    impl AsyncRead for Far {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Far {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.shut {
                return Poll::Pending;
            }
            let n = buf.len().min(self.most);
            self.got.extend_from_slice(&buf[..n]);
            self.writes += 1;
            Poll::Ready(Ok(n))
        }
        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.shut {
                return Poll::Pending;
            }
            self.flushed = self.got.len();
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.poll_flush(cx)
        }
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    struct Rig {
        stream: Gather<Far>,
        calls: Calls,
        woken: Arc<Woken>,
        sent: Vec<u8>,
    }

    impl Rig {
        fn new(most: usize) -> Self {
            let calls = Calls::default();
            let stream = Gather::new(Far { most, ..Far::default() }, calls.clone());
            Self { stream, calls, woken: Arc::default(), sent: Vec::new() }
        }

        fn poll<T>(&mut self, ask: impl FnOnce(Pin<&mut Gather<Far>>, &mut Context<'_>) -> T) -> T {
            let waker = Waker::from(Arc::clone(&self.woken));
            ask(Pin::new(&mut self.stream), &mut Context::from_waker(&waker))
        }

        fn write(&mut self, length: usize) -> bool {
            let bytes: Vec<u8> =
                (self.sent.len()..).map(|n| u8::try_from(n % 251).unwrap()).take(length).collect();
            let Poll::Ready(n) = self.poll(|s, cx| s.poll_write(cx, &bytes)) else { return false };
            self.sent.extend_from_slice(&bytes[..n.unwrap()]);
            true
        }

        fn write_two(&mut self, length: usize) {
            let bytes: Vec<u8> =
                (self.sent.len()..).map(|n| u8::try_from(n % 251).unwrap()).take(length).collect();
            let (a, b) = bytes.split_at(length / 3);
            let parts = [IoSlice::new(a), IoSlice::new(b)];
            if let Poll::Ready(n) = self.poll(|s, cx| s.poll_write_vectored(cx, &parts)) {
                self.sent.extend_from_slice(&bytes[..n.unwrap()]);
            }
        }

        fn flush(&mut self) -> bool {
            self.poll(|s, cx| s.poll_flush(cx)).is_ready()
        }

        /// A turn of the task, as HTTP/2 takes it when there is nothing to read.
        fn turn(&mut self) {
            self.woken.0.store(false, Ordering::Relaxed);
            let read = self.poll(|s, cx| s.poll_read(cx, &mut ReadBuf::new(&mut [0; 8])));
            assert!(read.is_pending());
        }

        fn woken(&self) -> bool {
            self.woken.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn alone_an_answer_leaves_at_once() {
        let mut rig = Rig::new(usize::MAX);
        assert!(rig.write(100) && rig.flush());
        assert_eq!((rig.stream.inner.writes, rig.stream.inner.flushed), (1, 100));
        assert!(!rig.woken());
    }

    #[test]
    fn beside_calls_at_work_answers_leave_together_at_the_next_turn() {
        let mut rig = Rig::new(usize::MAX);
        let call = rig.calls.begin();
        for _ in 0..3 {
            assert!(rig.write(100) && rig.flush());
        }
        assert_eq!(rig.stream.inner.writes, 0);
        assert!(rig.woken(), "a turn is asked for");
        assert_eq!(format!("{:?}", rig.stream), "Gather { held: 300, .. }");
        let place = rig.stream.held.as_ptr();
        rig.turn();
        assert_eq!((rig.stream.inner.writes, rig.stream.inner.flushed), (1, 300));
        // It stays where it is as long as calls are at work.
        assert!(rig.write(ROOM));
        assert_eq!((rig.stream.held.as_ptr(), rig.stream.held.capacity()), (place, ROOM));
        rig.turn();
        // The last of them waits for nobody, whatever is held.
        assert!(rig.write(1) && rig.flush());
        drop(call);
        assert!(rig.write(1) && rig.flush());
        assert_eq!(rig.stream.inner.flushed, rig.sent.len());
        assert_eq!(rig.stream.held.capacity(), 0, "at rest");
    }

    #[test]
    fn what_must_wait_to_be_written_is_written_and_flushed_later() {
        let mut rig = Rig::new(usize::MAX);
        let _call = rig.calls.begin();
        assert!(rig.write(100) && rig.flush());
        rig.stream.inner.shut = true;
        rig.turn();
        // More is held only as far as there is room.
        assert!(rig.write(ROOM - 100));
        assert!(!rig.write(1));
        rig.stream.inner.shut = false;
        rig.turn();
        assert_eq!(rig.stream.inner.flushed, ROOM);
        assert_eq!(rig.stream.inner.got, rig.sent);
    }

    proptest! {
        /// Whatever is written, when, and however little the far end takes: it gets these bytes in this
        /// order, and once it takes them and a turn has passed, all of them.
        #[test]
        fn nothing_is_lost_or_moved(
            most in prop_oneof![Just(1usize), Just(700), Just(usize::MAX)],
            steps in prop::collection::vec((0..7u8, 1..40_000usize), 1..60),
        ) {
            let mut rig = Rig::new(most);
            let mut calls = Vec::new();
            for (step, length) in steps {
                match step {
                    0 => { rig.write(length); }
                    1 => { rig.write(length % 3000 + 1); }
                    2 => rig.write_two(length % 20_000 + 3),
                    3 => {
                        rig.flush();
                        prop_assert!(!rig.stream.owed || rig.woken() || rig.stream.inner.shut);
                    }
                    4 => rig.turn(),
                    5 => calls.push(rig.calls.begin()),
                    _ => {
                        calls.pop();
                        rig.stream.inner.shut = length % 2 == 0;
                        // As the system wakes a task that waits to write.
                        rig.woken.0.fetch_or(!rig.stream.inner.shut, Ordering::Relaxed);
                    }
                }
                prop_assert!(rig.sent.starts_with(&rig.stream.inner.got));
                prop_assert!(rig.stream.held.len() <= ROOM);
            }
            rig.stream.inner.shut = false;
            rig.flush();
            rig.turn();
            prop_assert_eq!(rig.stream.inner.flushed, rig.sent.len());
            prop_assert_eq!(&rig.stream.inner.got, &rig.sent);
        }
    }
}
