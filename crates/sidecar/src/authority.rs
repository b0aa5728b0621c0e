//! What clients made with gRPC's C core (Python, Ruby, PHP, C++) say on a unix socket: as authority they send
//! the socket's path, percent-encoded, which the HTTP/2 library refuses before anybody is asked. Such an
//! authority names no host at all: it is read as this one. Only the unix socket is read so, where no name
//! service and no browser leads.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// In place of a path. It is no longer than any path that is replaced, so that the tables of both ends
/// (RFC 7541 §4.4) forget in the order in which the client believes they do.
const HERE: &[u8] = b"[::1]";
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;
/// The largest frame that was allowed: a longer one is the library's to refuse.
const MOST_FRAME: usize = 16 * 1024;

/// A connection that is read so.
pub(crate) struct Named<S> {
    stream: S,
    /// Else it is only passed on.
    is_unix: bool,
    /// Of a frame that is not complete: its head, or a whole head and part of its block.
    held: Vec<u8>,
    /// What is ready to be read, and how much of it was.
    ready: Vec<u8>,
    given: usize,
    /// Bytes that are passed on as they are.
    pass: usize,
}

impl<S> Named<S> {
    pub(crate) fn new(stream: S, is_unix: bool) -> Self {
        Self { stream, is_unix, held: Vec::new(), ready: Vec::new(), given: 0, pass: PREFACE }
    }

    /// Takes what came, and makes ready what is complete.
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.pass > 0 {
                let (now, rest) = bytes.split_at(self.pass.min(bytes.len()));
                self.ready.extend_from_slice(now);
                self.pass -= now.len();
                bytes = rest;
                continue;
            }
            let wanted = match frame(&self.held) {
                None => FRAME_HEAD,
                Some((length, ..)) => FRAME_HEAD + length,
            };
            let (now, rest) = bytes.split_at((wanted - self.held.len()).min(bytes.len()));
            self.held.extend_from_slice(now);
            bytes = rest;
            let Some((length, kind, flags)) = frame(&self.held) else { continue };
            if kind != HEADERS || flags & PADDED != 0 || length > MOST_FRAME {
                self.ready.append(&mut self.held);
                self.pass = length;
            } else if self.held.len() == FRAME_HEAD + length {
                self.named(flags);
            }
        }
    }

    /// A whole frame of headers is made ready.
    fn named(&mut self, flags: u8) {
        let from = FRAME_HEAD + if flags & PRIORITY == 0 { 0 } else { 5 };
        if let Some((start, end)) = self.held.get(from..).and_then(path_in) {
            self.held.splice(from + start..from + end, HERE.iter().copied());
            // Its length is one byte, in the string and, below, three in the frame.
            let length = u32::try_from(self.held.len() - FRAME_HEAD).unwrap_or(u32::MAX);
            let [_, length @ ..] = length.to_be_bytes();
            if let Some(told) = self.held.get_mut(..3) {
                told.copy_from_slice(&length);
            }
            if let Some(told) = self.held.get_mut(from + start - 1) {
                *told = u8::try_from(HERE.len()).unwrap_or(u8::MAX);
            }
        }
        self.ready.append(&mut self.held);
    }
}

/// Length, kind and flags, once the head is complete.
fn frame(held: &[u8]) -> Option<(usize, u8, u8)> {
    let [a, b, c, kind, flags, ..] = *held.first_chunk::<FRAME_HEAD>()?;
    let length = u32::from_be_bytes([0, a, b, c]);
    Some((usize::try_from(length).ok()?, kind, flags))
}

/// Where in a block of headers (RFC 7541 §6) an authority is told that is an encoded path: plain, and with a
/// length of one byte.
fn path_in(block: &[u8]) -> Option<(usize, usize)> {
    let mut at = 0;
    loop {
        let first = *block.get(at)?;
        let bits = match first {
            0x80.. => 7,
            0x40..=0x7f => 6,
            0x20..=0x3f => 5,
            _ => 4,
        };
        let (index, after) = integer(block, at, bits)?;
        at = after;
        if matches!(bits, 7 | 5) {
            continue;
        }
        let mut is_authority = index == 1;
        if index == 0 {
            let (plain, from, to) = string(block, at)?;
            is_authority = plain && block.get(from..to)? == b":authority";
            at = to;
        }
        let (plain, from, to) = string(block, at)?;
        let short = from == at + 1 && to - from >= HERE.len();
        if is_authority && plain && short && block.get(from..to)?.contains(&b'%') {
            return Some((from, to));
        }
        at = to;
    }
}

/// Whether a string is plain, and where it begins and ends.
fn string(block: &[u8], at: usize) -> Option<(bool, usize, usize)> {
    let plain = block.get(at)? & 0x80 == 0;
    let (length, from) = integer(block, at, 7)?;
    let to = from.checked_add(length)?;
    (to <= block.len()).then_some((plain, from, to))
}

/// An integer whose first byte has so many bits of it (RFC 7541 §5.1), and where the next thing begins.
fn integer(block: &[u8], at: usize, bits: u32) -> Option<(usize, usize)> {
    let most = (1_usize << bits) - 1;
    let first = usize::from(*block.get(at)?) & most;
    if first < most {
        return Some((first, at + 1));
    }
    let (mut value, mut shift) = (most, 0);
    for (n, byte) in block.get(at + 1..)?.iter().enumerate().take(4) {
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, at + n + 2));
        }
        shift += 7;
    }
    None
}

impl<S: AsyncRead + Unpin> AsyncRead for Named<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if !self.is_unix {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        while self.given == self.ready.len() {
            self.ready.clear();
            self.given = 0;
            let mut room = [0; 4096];
            let mut read = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.take(read.filled());
        }
        let rest = self.ready.get(self.given..).unwrap_or_default();
        let part = rest.get(..rest.len().min(buf.remaining())).unwrap_or_default();
        buf.put_slice(part);
        let count = part.len();
        self.given += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Named<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(flags: u8, block: &[u8]) -> Vec<u8> {
        let length = u8::try_from(block.len()).unwrap();
        [&[0, 0, length, HEADERS, flags, 0, 0, 0, 1], block].concat()
    }

    fn read(bytes: &[u8], step: usize) -> Vec<u8> {
        let mut named = Named::new((), true);
        for piece in bytes.chunks(step) {
            named.take(piece);
        }
        assert!(named.held.len() < FRAME_HEAD + MOST_FRAME);
        named.ready
    }

    /// As grpcio writes them: name and value told plainly; and by the static table's index.
    #[test]
    fn a_path_is_read_as_this_host_wherever_it_is_cut() {
        let preface = [b'P'; PREFACE];
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0];
        let data = [0, 0, 3, 0, 1, 0, 0, 0, 1, b'%', b'%', b'%'];
        let (named, indexed) =
            (&b"\x83\x40\x0a:authority\x11tmp%2Fdoor_x.sock\x86"[..], &b"\x41\x05a%2Fb"[..]);
        let (there, here) = (&b"\x83\x40\x0a:authority\x05[::1]\x86"[..], &b"\x41\x05[::1]"[..]);
        let before =
            [&preface[..], &settings, &headers(4, named), &data, &headers(4, indexed)].concat();
        let after =
            [&preface[..], &settings, &headers(4, there), &data, &headers(4, here)].concat();
        for step in 1..before.len() {
            assert_eq!(read(&before, step), after, "{step}");
        }
        let priority = [&[0; 5][..], named].concat();
        let wanted = [&preface[..], &headers(36, &[&[0; 5][..], there].concat())].concat();
        assert_eq!(read(&[&preface[..], &headers(36, &priority)].concat(), 7), wanted);
    }

    #[test]
    fn everything_else_is_passed_on_as_it_is() {
        let preface = [b'P'; PREFACE];
        for block in [
            &b"\x41\x09localhost"[..],
            b"\x41\x04a%2F",
            b"\x44\x05/a%2F",
            b"\x41\x85abcde",
            b"\x40\x01x\x05a%2Fb",
            b"\x41\x7f%%%%",
            b"\x7f\xff\xff\xff\xff\xff",
            b"",
        ] {
            let bytes = [&preface[..], &headers(4, block)].concat();
            assert_eq!(read(&bytes, 5), bytes, "{block:?}");
        }
        let padded = [&preface[..], &headers(12, b"\x00\x41\x05a%2Fb")].concat();
        assert_eq!(read(&padded, 5), padded);
    }
}
