//! Calls that repeat. A client that keeps its connection open mostly says the same again; where every
//! byte of a call is that of the one before it on the same connection, there is nothing to parse:
//! guard, token, keys and body are what they were. What time changes is looked at every time: the
//! life of the credential, its end, whether the cache still holds it, and the log.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use grantwright_domain::Timestamp;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Request, Version};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Sidecar;
use crate::cache::Raw;
use crate::doors::Reply;

/// Longest call, head and body, that is remembered for being repeated.
const LONGEST_CALL: usize = 2048;
/// Length of an HTTP date (RFC 9110 §5.6.7).
const DATE: usize = 29;

/// What a connection does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A call began that is no repetition.
    Call,
    /// The client left, or is to be left.
    End,
}

/// Calls so far, for whoever watches that there are any.
#[derive(Clone, Default)]
pub(crate) struct Calls(Arc<AtomicU32>);

impl Calls {
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection between two calls.
#[derive(Default)]
pub(crate) struct Repeats {
    last: Option<Said>,
    /// The beginning of a call.
    begun: Vec<u8>,
    /// An answer, and how much of its head and body is sent.
    answer: Option<(Bytes, usize)>,
    calls: Calls,
}

/// The last call that was answered from memory.
struct Said {
    call: Vec<u8>,
    raw: Weak<Raw>,
    /// The head of its answer, with the date at `date`, as of `second`.
    head: Vec<u8>,
    date: usize,
    second: i64,
}

impl Repeats {
    /// See [`Calls`].
    pub(crate) fn calls(&self) -> Calls {
        self.calls.clone()
    }

    /// Answers repetitions until something else comes.
    pub(crate) fn poll(
        &mut self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        sidecar: &Sidecar,
        cx: &mut Context<'_>,
    ) -> Poll<Step> {
        loop {
            if ready!(self.poll_send(&mut stream, cx)).is_err() {
                return Poll::Ready(Step::End);
            }
            let mut room = [MaybeUninit::uninit(); LONGEST_CALL];
            let mut read = ReadBuf::uninit(&mut room);
            match ready!(Pin::new(&mut stream).poll_read(cx, &mut read)) {
                Ok(()) if !read.filled().is_empty() => {}
                _ => return Poll::Ready(Step::End),
            }
            let Some(last) = &mut self.last else {
                self.begun.extend_from_slice(read.filled());
                return Poll::Ready(Step::Call);
            };
            // A head and its body often come one after the other.
            let call: &[u8] = if self.begun.is_empty() {
                read.filled()
            } else {
                self.begun.extend_from_slice(read.filled());
                &self.begun
            };
            if call == last.call
                && let Some(body) = last.answer(sidecar)
            {
                self.answer = Some((body, 0));
                self.begun.clear();
                self.calls.0.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let may_become = call.len() < last.call.len() && last.call.starts_with(call);
            if self.begun.is_empty() {
                self.begun.extend_from_slice(read.filled());
            }
            if !may_become {
                return Poll::Ready(Step::Call);
            }
        }
    }

    /// Sends what is left of an answer.
    fn poll_send(
        &mut self,
        mut stream: impl AsyncWrite + Unpin,
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        while let (Some((body, sent)), Some(last)) = (&mut self.answer, &self.last) {
            let head = last.head.get(*sent..).unwrap_or_default();
            let rest = body.get(sent.saturating_sub(last.head.len())..).unwrap_or_default();
            if rest.is_empty() {
                self.answer = None;
                break;
            }
            let parts = [IoSlice::new(head), IoSlice::new(rest)];
            let count = ready!(Pin::new(&mut stream).poll_write_vectored(cx, &parts))?;
            if count == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            *sent += count;
        }
        Poll::Ready(Ok(()))
    }

    /// The beginning of the call that is no repetition.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.begun)
    }

    /// What the next call may repeat.
    pub(crate) fn learn(&mut self, exchange: Exchange) {
        let noted = exchange.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.calls.0.fetch_add(1, Ordering::Relaxed);
        let Some(raw) = noted.raw else { return };
        let name = b"\r\ndate: ";
        let Some(date) = find(&noted.head, name).map(|at| at + name.len()) else { return };
        self.last = Some(Said { call: noted.call, raw, head: noted.head, date, second: 0 });
    }
}

impl Said {
    fn answer(&mut self, sidecar: &Sidecar) -> Option<Bytes> {
        let now = sidecar.now();
        let body = sidecar.repeat(&*self.raw.upgrade()?, now)?;
        self.set_date(now);
        Some(body)
    }

    fn set_date(&mut self, now: Timestamp) {
        if now.seconds() == self.second {
            return;
        }
        self.second = now.seconds();
        let since = Duration::from_millis(u64::try_from(now.millis()).unwrap_or(0));
        let date = httpdate::fmt_http_date(UNIX_EPOCH + since);
        if let Some(room) = self.head.get_mut(self.date..self.date + DATE)
            && date.len() == DATE
        {
            room.copy_from_slice(date.as_bytes());
        }
    }
}

/// A call and its answer, as they pass through hyper.
pub(crate) struct Exchange(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    /// What came in, and how much of it hyper has.
    call: Vec<u8>,
    given: usize,
    /// Length of the body by the head; set when the head was read.
    body: Option<usize>,
    raw: Option<Weak<Raw>>,
    /// Length of the answer's body; set when there is an answer.
    answer: Option<usize>,
    /// The head of the answer, as it was first written.
    head: Vec<u8>,
    written: usize,
    /// More, or other, than one plain call: hyper keeps the connection.
    other: bool,
}

impl Exchange {
    /// With the bytes that came already.
    pub(crate) fn begin(begun: Vec<u8>) -> Self {
        Self(Mutex::new(Noted { call: begun, ..Noted::default() }))
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives hyper what came before it was asked. True if there was something.
    pub(crate) fn give_begun(&self, buf: &mut ReadBuf<'_>) -> bool {
        let mut noted = self.noted();
        if noted.given == noted.call.len() {
            return false;
        }
        let rest = noted.call.get(noted.given..).unwrap_or_default();
        let part = rest.get(..rest.len().min(buf.remaining())).unwrap_or_default();
        buf.put_slice(part);
        noted.given += part.len();
        true
    }

    /// Hyper was given this.
    pub(crate) fn read(&self, bytes: &[u8]) {
        let mut noted = self.noted();
        if noted.call.len() + bytes.len() > LONGEST_CALL {
            noted.other = true;
        }
        if !noted.other {
            noted.call.extend_from_slice(bytes);
            noted.given = noted.call.len();
        }
    }

    /// Hyper read this head.
    pub(crate) fn called<B>(&self, call: &Request<B>) {
        let mut noted = self.noted();
        let length = plain(call);
        noted.other |= length.is_none() || noted.body.is_some();
        noted.body = length;
    }

    /// It will be answered so.
    pub(crate) fn answered(&self, reply: &Reply) {
        let mut noted = self.noted();
        noted.raw = reply.extensions().get().cloned();
        let length = reply.body().size_hint().exact();
        noted.answer = length.and_then(|it| usize::try_from(it).ok());
        noted.other |= noted.answer.is_none();
    }

    /// The answer is known.
    pub(crate) fn is_answered(&self) -> bool {
        self.noted().answer.is_some()
    }

    /// Hyper wrote `count` bytes, of which these came first.
    pub(crate) fn wrote(&self, first: &[u8], count: usize) {
        let mut noted = self.noted();
        if noted.head.is_empty() {
            match find(first, b"\r\n\r\n") {
                Some(end) if noted.answer.is_some() && first.starts_with(b"HTTP/1.1 ") => {
                    noted.head.extend_from_slice(first.get(..end + 4).unwrap_or_default());
                }
                _ => noted.other = true,
            }
        }
        noted.written += count;
    }

    /// One whole call was read, its whole answer written, and nothing else.
    pub(crate) fn is_over(&self) -> bool {
        let noted = self.noted();
        let (Some(body), Some(answer)) = (noted.body, noted.answer) else { return false };
        let read = find(&noted.call, b"\r\n\r\n").map(|end| end + 4 + body);
        !noted.other
            && noted.written == noted.head.len() + answer
            && noted.written > 0
            && read == Some(noted.call.len())
            && noted.given == noted.call.len()
    }
}

/// The length of its body, if the call is of the plain kind: after it the connection stays as it is.
fn plain<B>(call: &Request<B>) -> Option<usize> {
    let head = call.headers();
    let odd = [EXPECT, TRANSFER_ENCODING, UPGRADE].iter().any(|name| head.contains_key(name));
    let stays = head
        .get_all(CONNECTION)
        .iter()
        .all(|value| value.as_bytes().eq_ignore_ascii_case(b"keep-alive"));
    let fits = call.version() == Version::HTTP_11
        && matches!(*call.method(), Method::GET | Method::POST | Method::DELETE);
    if odd || !stays || !fits {
        return None;
    }
    match head.get(CONTENT_LENGTH) {
        None => Some(0),
        Some(length) => length.to_str().ok()?.parse().ok(),
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|it| it == what)
}
