//! The sockets of the HTTP doors, and the connections on them. Both are bounded, in number, in the
//! size of a head and in time: strangers may fill these doors, never the process.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tower_service::Service as _;

use super::peer::Peer;

/// Largest head of a call, in bytes; more is 431.
const MOST_HEAD: usize = 16 << 10;
/// So much of what a client sends after its last answer is read and thrown away.
const MOST_UNREAD: usize = 8 << 20;
/// For so long.
const LINGER: Duration = Duration::from_secs(1);
/// How long a newcomer waits for somebody to leave, how often before another is told to, and how often at
/// most.
const ROOM_MADE: Duration = Duration::from_millis(1);
const PATIENCE: u32 = 20;
const MOST_WAITED: u32 = 200;
/// How long the loop rests when the system gives no connection, for want of descriptors.
const REST: Duration = Duration::from_millis(50);

/// Bounds of the doors; a connection beyond them is closed.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at the same time, over all listeners.
    pub connections: usize,
    /// How long a head may take to arrive; a connection may idle as long.
    pub head: Duration,
    /// How long a connection may last from a call's head to the next call's head.
    pub call: Duration,
    /// Where all is taken, the longest there of those that were answered nothing but refusals leaves for
    /// the newcomer. For doors whose calls are quick: a first call that waits for people would leave, too.
    pub strangers_leave: bool,
}

impl Bounds {
    /// What this process can afford: a quarter of its descriptors at most, for the other listener
    /// and the store live on the rest.
    #[must_use]
    pub fn of_this_process() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self::of(usize::try_from(descriptors).unwrap_or(usize::MAX))
    }

    /// The same, of a process with so many descriptors.
    #[must_use]
    pub fn of(descriptors: usize) -> Self {
        Self {
            connections: (descriptors / 4).clamp(16, 1024),
            head: Duration::from_secs(10),
            call: 2 * super::guard::CALL_TIME,
            strangers_leave: false,
        }
    }
}

impl Bounds {
    /// Connections of one address at the same time: whoever fills his share leaves an eighth to
    /// others. It is large, for a proxy in front of us is one address too.
    fn of_one_address(self) -> usize {
        (self.connections - self.connections / 8).max(8)
    }
}

/// Connections by peer.
type Peers = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// Connections that were answered nothing but refusals so far, the longest there first.
type Strangers = Arc<Mutex<BTreeMap<u64, (IpAddr, Arc<Notify>)>>>;

/// The places of all listeners.
struct Places {
    free: Arc<Semaphore>,
    peers: Peers,
    strangers: Strangers,
    next: AtomicU64,
    bounds: Bounds,
}

impl Places {
    fn new(bounds: Bounds) -> Self {
        let (peers, strangers) = Default::default();
        let free = Arc::new(Semaphore::new(bounds.connections));
        Self { free, peers, strangers, next: AtomicU64::new(0), bounds }
    }

    /// A place for a newcomer, if there is one, or somebody leaves for it.
    async fn admit(&self, peer: IpAddr) -> Option<Guest> {
        for waited in 0..MOST_WAITED {
            let share = Share::take(&self.peers, peer, self.bounds.of_one_address());
            let free = Arc::clone(&self.free).try_acquire_owned();
            match (share, free) {
                (Some(share), Ok(place)) => return Some(self.guest(share, place)),
                (share, _) if waited % PATIENCE == 0 => {
                    let told = self.turn_out(share.is_none().then_some(peer));
                    if !told && waited == 0 {
                        return None;
                    }
                }
                _ => {}
            }
            tokio::time::sleep(ROOM_MADE).await;
        }
        None
    }

    fn guest(&self, share: Share, place: OwnedSemaphorePermit) -> Guest {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let told = Arc::new(Notify::new());
        if self.bounds.strangers_leave {
            lock(&self.strangers).insert(number, (share.peer, Arc::clone(&told)));
        }
        Guest { strangers: Arc::clone(&self.strangers), number, told, _held: (share, place) }
    }

    /// Tells the longest there of the strangers, or of those of one address, to leave.
    fn turn_out(&self, peer: Option<IpAddr>) -> bool {
        let mut strangers = lock(&self.strangers);
        let found = strangers.iter().find(|(_, (of, _))| peer.is_none_or(|peer| peer == *of));
        let Some(number) = found.map(|(number, _)| *number) else { return false };
        strangers.remove(&number).is_some_and(|(_, told)| {
            told.notify_one();
            true
        })
    }
}

/// A connection's place; dropping it gives it back.
struct Guest {
    strangers: Strangers,
    number: u64,
    told: Arc<Notify>,
    _held: (Share, OwnedSemaphorePermit),
}

impl Guest {
    /// It was answered: it stays.
    fn known(&self) {
        lock(&self.strangers).remove(&self.number);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.known();
    }
}

fn lock<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection's place in its peer's share; dropping it gives it back.
struct Share {
    peers: Peers,
    peer: IpAddr,
}

impl Share {
    fn take(peers: &Peers, peer: IpAddr, most: usize) -> Option<Self> {
        let mut held = lock(peers);
        let count = held.entry(peer).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Self { peers: Arc::clone(peers), peer })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = lock(&self.peers);
        match held.get_mut(&self.peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                held.remove(&self.peer);
            }
        }
    }
}

/// The address of ours that a call came to; in the extensions of each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived(pub IpAddr);

/// Serves both listeners. Whatever a peer or the system does, accepting goes on.
pub async fn serve(
    first: TcpListener,
    second: Option<TcpListener>,
    router: Router,
    bounds: Bounds,
) -> Infallible {
    let places = Places::new(bounds);
    let second = async {
        match &second {
            Some(listener) => accept(listener, &router, &places).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        never = accept(&first, &router, &places) => never,
        never = second => never,
    }
}

async fn accept(listener: &TcpListener, router: &Router, places: &Places) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match places.admit(peer.ip().to_canonical()).await {
                Some(guest) => {
                    tokio::spawn(connection(stream, peer, router.clone(), guest, places.bounds));
                }
                None => tracing::debug!(%peer, "too many connections; this one is closed"),
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    guest: Guest,
    bounds: Bounds,
) {
    let _ = stream.set_nodelay(true);
    let Ok(here) = stream.local_addr() else { return };
    let (theirs, peer) = (ConnectInfo(peer), Peer::new(peer, here));
    let arrived = Arrived(here.ip().to_canonical());
    let (begun, latest) = watch::channel(Instant::now());
    let guest = &guest;
    let service = service_fn(move |mut call: Request<Incoming>| {
        begun.send_replace(Instant::now());
        call.extensions_mut().insert(arrived);
        call.extensions_mut().insert(theirs);
        call.extensions_mut().insert(peer.clone());
        let answering = router.clone().call(call);
        // Boxed: the connection is taken apart in the end, so that it is not pinned.
        Box::pin(async move {
            let answer = answering.await;
            if answer.as_ref().is_ok_and(|it| !it.status().is_client_error()) {
                guest.known();
            }
            answer
        })
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(bounds.head).max_buf_size(MOST_HEAD);
    let mut serving = http.serve_connection(TokioIo::new(stream), service);
    loop {
        let end = *latest.borrow() + bounds.call;
        let served = timeout_at(end, poll_fn(|cx| serving.poll_without_shutdown(cx)));
        let ended = tokio::select! {
            ended = served => ended,
            () = guest.told.notified() => return,
        };
        match ended {
            Ok(Ok(())) => break,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a connection ended badly");
                break;
            }
            // Another call began meanwhile.
            Err(_) if *latest.borrow() + bounds.call > Instant::now() => {}
            // It does not take its answer.
            Err(_) => return,
        }
    }
    let _ = timeout(LINGER, linger(serving.into_parts().io.into_inner())).await;
}

/// Closing with bytes unread makes the system drop the answer (a 413 or 431) before the client has
/// seen it.
async fn linger(mut stream: TcpStream) {
    let _ = stream.shutdown().await;
    let (mut unread, mut left) = ([0; 2048], MOST_UNREAD);
    while let Ok(read @ 1..) = stream.read(&mut unread).await {
        left = left.saturating_sub(read);
        if left == 0 {
            return;
        }
    }
}
