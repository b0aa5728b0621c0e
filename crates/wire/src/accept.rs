//! The broker's front door: accepts, shakes hands, and gives tonic connections that already know
//! who is at the other end. Whatever a peer or the system does, accepting goes on.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::error::WireError;
use crate::gather::{Call, Calls, Gather};
use crate::identity::{PeerIdentity, TrustDomain};
use crate::tls::{H2, TlsServer};

/// How long the loop rests when the system has no more files to give.
const REST: Duration = Duration::from_millis(50);

/// Bounds of a listener. At a bound of `handshakes` or `connections` it stops accepting until
/// there is room (the system's backlog holds the next ones); beyond `without_certificate` such a
/// connection is closed.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Handshakes at the same time.
    pub handshakes: usize,
    /// Connections at the same time, handshakes included.
    pub connections: usize,
    /// Connections at the same time that showed no certificate: they can only enrol.
    pub without_certificate: usize,
    /// How long a handshake may take.
    pub handshake_time: Duration,
    /// How long a connection without a certificate may last: time to enrol, no more.
    pub without_certificate_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 512,
            connections: 20_000,
            without_certificate: 256,
            handshake_time: Duration::from_secs(10),
            without_certificate_time: Duration::from_secs(60),
        }
    }
}

/// Who is at the other end; in the extensions of each request of the connection.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// The TCP peer.
    pub addr: SocketAddr,
    /// From the certificate this connection verified; absent if none was shown.
    pub identity: Option<Arc<PeerIdentity>>,
    calls: Calls,
}

impl PeerInfo {
    /// Says that a call of this connection is at work, until what is given back is dropped: while there
    /// are such calls, answers of the connection leave together.
    #[must_use]
    pub fn at_work(&self) -> Call {
        self.calls.begin()
    }
}

/// Connections as they finish their handshake, for `serve_with_incoming`. It never ends and never
/// yields an error; dropping it closes the listener and drops unfinished handshakes.
#[derive(Debug)]
pub struct Incoming {
    ready: mpsc::Receiver<Connection>,
}

impl Incoming {
    /// Begins to accept, on the current runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(
        listener: TcpListener,
        tls: TlsServer,
        trust_domain: TrustDomain,
        limits: Limits,
    ) -> Self {
        let (done, ready) = mpsc::channel(limits.handshakes.clamp(1, Semaphore::MAX_PERMITS));
        let door = Arc::new(Door { tls, trust_domain, limits, done });
        tokio::spawn(accept(listener, door));
        Self { ready }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|next| next.map(Ok))
    }
}

struct Door {
    tls: TlsServer,
    trust_domain: TrustDomain,
    limits: Limits,
    done: mpsc::Sender<Connection>,
}

async fn accept(listener: TcpListener, door: Arc<Door>) {
    let bound = |n: usize| Arc::new(Semaphore::new(n.clamp(1, Semaphore::MAX_PERMITS)));
    let handshakes = bound(door.limits.handshakes);
    let connections = bound(door.limits.connections);
    let strangers = bound(door.limits.without_certificate);
    let mut failing = false;
    loop {
        let next = async {
            // Neither semaphore is ever closed.
            let connection = Arc::clone(&connections).acquire_owned().await.ok()?;
            let handshake = Arc::clone(&handshakes).acquire_owned().await.ok()?;
            Some((listener.accept().await, connection, handshake))
        };
        let (accepted, connection, handshake) = tokio::select! {
            () = door.done.closed() => return,
            next = next => match next {
                Some(next) => next,
                None => return,
            },
        };
        let (tcp, addr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_the_peers(&error) => continue,
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "cannot accept connections; trying on");
                }
                failing = true;
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        if failing {
            failing = false;
            tracing::warn!("accepting connections again");
        }
        let (door, strangers) = (Arc::clone(&door), Arc::clone(&strangers));
        tokio::spawn(async move {
            let greeted = tokio::select! {
                () = door.done.closed() => return,
                greeted = greet(&door, tcp, addr) => greeted,
            };
            drop(handshake);
            let (tls, info) = match greeted {
                Ok(greeted) => greeted,
                Err(error @ (WireError::Identity(_) | WireError::SpiffeId(_))) => {
                    tracing::warn!(peer = %addr, %error, "connection refused");
                    return;
                }
                Err(error) => {
                    tracing::debug!(peer = %addr, %error, "handshake failed");
                    return;
                }
            };
            let stranger = if info.identity.is_some() {
                None
            } else if let Ok(permit) = strangers.try_acquire_owned() {
                let end = tokio::time::sleep(door.limits.without_certificate_time);
                Some(Stranger { end: Box::pin(end), _permit: permit })
            } else {
                tracing::warn!(peer = %addr, "too many connections without a certificate");
                return;
            };
            // Fails only if nobody serves any more.
            let _ = door.done.send(Connection { tls, info, stranger, _permit: connection }).await;
        });
    }
}

/// Errors of one connection that was in the backlog, not of the listener (accept(2)).
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

async fn greet(
    door: &Door,
    tcp: TcpStream,
    addr: SocketAddr,
) -> Result<(Gather<TlsStream<TcpStream>>, PeerInfo), WireError> {
    tcp.set_nodelay(true)?;
    let handshake = TlsAcceptor::from(door.tls.current()).accept(tcp);
    let tls = tokio::time::timeout(door.limits.handshake_time, handshake)
        .await
        .map_err(|_| WireError::Timeout)??;
    let (_, session) = tls.get_ref();
    // A client that offers no protocol at all passes rustls.
    if session.alpn_protocol() != Some(H2) {
        return Err(WireError::Alpn);
    }
    let identity = match session.peer_certificates() {
        None => None,
        Some([leaf, ..]) => Some(Arc::new(PeerIdentity::from_leaf(leaf, &door.trust_domain)?)),
        Some([]) => return Err(WireError::Certificate),
    };
    let calls = Calls::default();
    Ok((Gather::new(tls, calls.clone()), PeerInfo { addr, identity, calls }))
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Connection {
    tls: Gather<TlsStream<TcpStream>>,
    info: PeerInfo,
    stranger: Option<Stranger>,
    _permit: OwnedSemaphorePermit,
}

/// A connection that showed no certificate holds one of few places, and not for long.
#[derive(Debug)]
struct Stranger {
    end: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(stranger) = &mut self.stranger
            && stranger.end.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
