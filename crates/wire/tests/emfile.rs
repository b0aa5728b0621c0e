//! Alone in its process, since it spends all of its files: the listener outlives that
//! (RUSTSEC-2024-0376 is what happens otherwise).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

#[path = "support/ca.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod ca;

use std::fs::File;
use std::time::Duration;

use ca::{Ca, td};
use futures_util::StreamExt;
use grantwright_wire::{Incoming, Limits};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

#[tokio::test(flavor = "current_thread")]
async fn accepting_goes_on_after_the_files_ran_out() {
    let ca = Ca::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut incoming = Incoming::new(listener, ca.tls_server(), td(), Limits::default());

    // No await until the files are spent: the connection waits in the backlog meanwhile.
    let tcp = std::net::TcpStream::connect(addr).unwrap();
    tcp.set_nonblocking(true).unwrap();
    let tcp = TcpStream::from_std(tcp).unwrap();
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum }).unwrap();
    let spent: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(File::open("/dev/null").is_err() && !spent.is_empty());
    let handshake =
        tokio::spawn(TlsConnector::from(ca.client(None)).connect(ServerName::from(addr.ip()), tcp));
    sleep(Duration::from_millis(300)).await;
    assert!(!handshake.is_finished());

    drop(spent);
    let next = timeout(Duration::from_secs(5), incoming.next()).await.unwrap();
    assert!(next.unwrap().is_ok());
    handshake.await.unwrap().unwrap();
}
