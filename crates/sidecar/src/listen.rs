//! The sockets. Connections on them are bounded in number.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::connection::{LAST_CALLS, connection};
use crate::places::Places;
use crate::process::{Caller, identify};
use crate::{Config, Sidecar, SidecarError, files};

/// Connections at the same time, on each socket: strangers on TCP cannot crowd out the unix socket.
const MOST_CONNECTIONS: usize = 1024;
/// Strangers that give way at once where descriptors are short.
const MOST_TURNED_OUT: usize = 16;
/// How long the loop rests when no connection can be accepted: some were turned out, or none could be.
const ROOM_MADE: Duration = Duration::from_millis(1);
const NO_ROOM: Duration = Duration::from_millis(50);
/// How often that is logged.
const SAID_EVERY: Duration = Duration::from_secs(1);

/// The bound sockets.
pub(crate) struct Listeners {
    tcp: Option<(TcpListener, SocketAddr)>,
    unix: Option<(UnixListener, PathBuf)>,
    ready_file: Option<PathBuf>,
    agent: Option<String>,
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
                Some((bind_unix(path, config).map_err(fail(shown()))?, path.clone()))
            }
        };
        let (ready_file, agent) = (config.ready_file.clone(), config.name.clone());
        Ok(Self { tcp, unix, ready_file, agent })
    }

    /// Tells where we listen, for whoever let the system choose the port.
    pub(crate) fn announce(&self) -> Result<(), SidecarError> {
        let tcp = self.tcp.as_ref().map(|it| it.1.to_string());
        let socket = self.unix.as_ref().map(|it| it.1.display().to_string());
        tracing::info!(agent = self.agent, tcp, socket, "listening");
        let Some(path) = &self.ready_file else { return Ok(()) };
        let told = json!({"tcp": tcp, "socket": socket, "pid": std::process::id()});
        files::write_private(path, told.to_string().as_bytes())
    }

    /// Serves until `end` completes, then lets running calls finish for a moment.
    pub(crate) async fn serve(self, sidecar: &Arc<Sidecar>, end: impl Future<Output = ()>) {
        let (closing, closed) = watch::channel(false);
        let places = [Places::new(MOST_CONNECTIONS), Places::new(MOST_CONNECTIONS)];
        let tcp = async {
            match &self.tcp {
                Some((listener, _)) => accept_tcp(listener, sidecar, &places, &closed).await,
                None => std::future::pending().await,
            }
        };
        let unix = async {
            match &self.unix {
                Some((listener, _)) => accept_unix(listener, sidecar, &places, &closed).await,
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
    places: &[Arc<Places>; 2],
    closed: &watch::Receiver<bool>,
) {
    let [own, _] = places;
    let mut said = None;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                let place = own.admit().await;
                let (sidecar, closed) = (Arc::clone(sidecar), closed.clone());
                tokio::spawn(connection(stream, Caller::tcp(), place, sidecar, closed));
            }
            Err(error) => pause(&error, places, &mut said).await,
        }
    }
}

async fn accept_unix(
    listener: &UnixListener,
    sidecar: &Arc<Sidecar>,
    places: &[Arc<Places>; 2],
    closed: &watch::Receiver<bool>,
) {
    let [_, own] = places;
    let user = sidecar.config.user.unwrap_or_else(|| rustix::process::geteuid().as_raw());
    let mut said = None;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let place = own.admit().await;
                let (sidecar, closed) = (Arc::clone(sidecar), closed.clone());
                tokio::spawn(async move {
                    let caller = Box::pin(identify(&stream, user, &sidecar.programs)).await;
                    connection(stream, caller, place, sidecar, closed).await;
                });
            }
            Err(error) => pause(&error, places, &mut said).await,
        }
    }
}

/// No descriptors left, or the peer is gone already: neither ends the listener. Where descriptors are
/// short, strangers give way, on the socket that has more of them.
async fn pause(error: &std::io::Error, places: &[Arc<Places>; 2], said: &mut Option<Instant>) {
    let crowd = places.iter().max_by_key(|it| it.strangers());
    let made = crowd.map_or(0, |it| it.make_room(MOST_TURNED_OUT));
    if said.is_none_or(|at| at.elapsed() >= SAID_EVERY) {
        *said = Some(Instant::now());
        tracing::warn!(%error, turned_out = made, "cannot accept connections; trying on");
    }
    // Those who were turned out close their descriptors meanwhile.
    tokio::time::sleep(if made > 0 { ROOM_MADE } else { NO_ROOM }).await;
}

/// Replaces a socket that nobody listens on any more. It is for one user only, whom each connection is
/// asked for as well.
fn bind_unix(path: &Path, config: &Config) -> std::io::Result<UnixListener> {
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
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(config.socket_mode))?;
    if config.user.is_some() {
        chown(path, config.user, None)?;
    }
    Ok(listener)
}
