//! The sockets, and the connections on them. Both are bounded: in number, in the size of a head, in
//! the time it may take.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::guard::Peer;
use crate::{Config, Sidecar, SidecarError, doors, files};

/// Connections at the same time, on each socket: strangers on TCP cannot crowd out the unix socket.
const MOST_CONNECTIONS: usize = 512;
/// Largest head of a call.
const MOST_HEAD: usize = 16 * 1024;
/// So much of what a client sends after its answer is read and thrown away.
const MOST_UNREAD: usize = 1 << 20;
/// In this time a head must have arrived; a connection may idle as long.
const HEAD_TIME: Duration = Duration::from_secs(60);
/// Calls that run when the sidecar ends have this long.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// The bound sockets.
pub(crate) struct Listeners {
    tcp: Option<(TcpListener, SocketAddr)>,
    unix: Option<(UnixListener, PathBuf)>,
    ready_file: Option<PathBuf>,
}

impl Listeners {
    pub(crate) async fn bind(config: &Config) -> Result<Self, SidecarError> {
        let fail = |at: String| move |source| SidecarError::Listen { at, source };
        let tcp = match config.listen {
            None => None,
            Some(at) => {
                let listener = TcpListener::bind(at).await.map_err(fail(at.to_string()))?;
                let at = listener.local_addr().map_err(fail(at.to_string()))?;
                Some((listener, at))
            }
        };
        let unix = match &config.socket {
            None => None,
            Some(path) => {
                let shown = || path.display().to_string();
                Some((bind_unix(path).map_err(fail(shown()))?, path.clone()))
            }
        };
        Ok(Self { tcp, unix, ready_file: config.ready_file.clone() })
    }

    /// Tells where we listen, for whoever let the system choose the port.
    pub(crate) fn announce(&self) -> Result<(), SidecarError> {
        let tcp = self.tcp.as_ref().map(|it| it.1.to_string());
        let socket = self.unix.as_ref().map(|it| it.1.display().to_string());
        tracing::info!(tcp, socket, "listening");
        let Some(path) = &self.ready_file else { return Ok(()) };
        let told = json!({"tcp": tcp, "socket": socket, "pid": std::process::id()});
        files::write_private(path, told.to_string().as_bytes())
    }

    /// Serves until `end` completes, then lets running calls finish for a moment.
    pub(crate) async fn serve(self, sidecar: &Arc<Sidecar>, end: impl Future<Output = ()>) {
        let (closing, closed) = watch::channel(false);
        let tcp = async {
            match &self.tcp {
                Some((listener, _)) => accept_tcp(listener, sidecar, &closed).await,
                None => std::future::pending().await,
            }
        };
        let unix = async {
            match &self.unix {
                Some((listener, _)) => accept_unix(listener, sidecar, &closed).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tcp => {}
            () = unix => {}
            () = end => {}
        }
        if let Some(path) = &self.ready_file {
            let _ = std::fs::remove_file(path);
        }
        if let Some((_, path)) = &self.unix {
            let _ = std::fs::remove_file(path);
        }
        let _ = closing.send(true);
        drop(closed);
        // Every connection holds a receiver.
        let _ = tokio::time::timeout(LAST_CALLS, closing.closed()).await;
    }
}

async fn accept_tcp(
    listener: &TcpListener,
    sidecar: &Arc<Sidecar>,
    closed: &watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                let serving = connection(stream, Peer::Tcp, Arc::clone(sidecar), closed.clone());
                tokio::spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn accept_unix(
    listener: &UnixListener,
    sidecar: &Arc<Sidecar>,
    closed: &watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let own = rustix::process::geteuid().as_raw();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let peer = match stream.peer_cred() {
                    Ok(cred) if cred.uid() == own => Peer::SameUser,
                    _ => Peer::OtherUser,
                };
                let serving = connection(stream, peer, Arc::clone(sidecar), closed.clone());
                tokio::spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Err(error) => pause(&error).await,
        }
    }
}

/// No descriptors left, or the peer is gone already: neither ends the listener.
async fn pause(error: &std::io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    sidecar: Arc<Sidecar>,
    mut closed: watch::Receiver<bool>,
) {
    let service = service_fn(|call| {
        let sidecar = &sidecar;
        async move { Ok::<_, Infallible>(doors::answer(sidecar, peer, call).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(MOST_HEAD);
    let mut serving = pin!(http.serve_connection(TokioIo::new(Lingering(Some(stream))), service));
    tokio::select! {
        served = serving.as_mut() => {
            if let Err(error) = served {
                tracing::debug!(%error, "a connection ended badly");
            }
            return;
        }
        _ = closed.wait_for(|it| *it) => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(LAST_CALLS, serving).await;
}

/// A stream that, when hyper is done with it, is read a little longer: closing it with bytes unread
/// makes the system drop the answer (a 413 or 431) before the client has seen it.
struct Lingering<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(Option<S>);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Drop for Lingering<S> {
    fn drop(&mut self) {
        let (Some(mut stream), Ok(runtime)) = (self.0.take(), Handle::try_current()) else {
            return;
        };
        runtime.spawn(tokio::time::timeout(LAST_CALLS, async move {
            let _ = stream.shutdown().await;
            let mut unread = [0; 2048];
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
    fn stream(&mut self) -> std::io::Result<Pin<&mut S>> {
        self.0.as_mut().map(Pin::new).ok_or_else(|| ErrorKind::NotConnected.into())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.stream()?.poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncWrite for Lingering<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
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
        self.stream()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}

/// Replaces a socket that nobody listens on any more; for this user only.
fn bind_unix(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(std::io::Error::new(ErrorKind::AddrInUse, "another one listens"));
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => return Err(std::io::Error::new(ErrorKind::AlreadyExists, "it is no socket")),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
