//! Real handshakes over loopback: who is let in, who is not, and what a call sees of its caller.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

#[path = "support/ca.rs"]
mod ca;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ca::{AGENT, BROKER, Ca, td};
use futures_util::StreamExt;
use grantwright_wire::accept::Connection;
use grantwright_wire::tls::{client_config, server_config};
use grantwright_wire::v1::enrolment_client::EnrolmentClient;
use grantwright_wire::v1::enrolment_server::{Enrolment, EnrolmentServer};
use grantwright_wire::v1::{EnrolReply, EnrolRequest};
use grantwright_wire::{Incoming, Limits, Refusal, TlsServer, WireError, channel, peer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

const SOON: Duration = Duration::from_secs(5);
const A_WHILE: Duration = Duration::from_millis(200);

async fn listen(tls: TlsServer, limits: Limits) -> (Incoming, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (Incoming::new(listener, tls, td(), limits), addr)
}

/// In TLS 1.3 a client learns that its certificate was refused only when it reads.
async fn dial(addr: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(addr).await?;
    TlsConnector::from(config).connect(ServerName::from(addr.ip()), tcp).await
}

async fn next(incoming: &mut Incoming) -> Connection {
    timeout(SOON, incoming.next()).await.unwrap().unwrap().unwrap()
}

async fn refused(incoming: &mut Incoming, addr: SocketAddr, config: Arc<ClientConfig>) {
    let client = dial(addr, config).await;
    assert!(timeout(A_WHILE, incoming.next()).await.is_err(), "a connection was let in");
    if let Ok(mut client) = client {
        let read = timeout(SOON, client.read(&mut [0; 1])).await.unwrap();
        assert!(!matches!(read, Ok(n) if n > 0));
    }
}

#[tokio::test]
async fn an_agents_certificate_gives_its_identity() {
    let ca = Ca::new();
    let (mut incoming, addr) = listen(ca.tls_server(), Limits::default()).await;
    let mut client = dial(addr, ca.client(Some(ca.leaf(AGENT)))).await.unwrap();
    let mut connection = next(&mut incoming).await;
    let info = connection.connect_info();
    assert_eq!(info.addr, client.get_ref().0.local_addr().unwrap());
    let identity = info.identity.unwrap();
    assert_eq!((identity.spiffe_id.as_str(), identity.agent.as_str()), (AGENT, "demo-agent"));
    assert_eq!(identity.serial, "2a");
    let (_, session) = client.get_ref();
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
    connection.write_all(b"x").await.unwrap();
    connection.flush().await.unwrap();
    client.read_exact(&mut [0; 1]).await.unwrap();
}

#[tokio::test]
async fn without_a_certificate_there_is_no_identity() {
    let ca = Ca::new();
    let (mut incoming, addr) = listen(ca.tls_server(), Limits::default()).await;
    let _client = dial(addr, ca.client(None)).await.unwrap();
    assert!(next(&mut incoming).await.connect_info().identity.is_none());
}

#[tokio::test]
async fn a_certificate_that_is_not_an_agents_of_this_ca_is_refused() {
    let (ca, other) = (Ca::new(), Ca::new());
    let (mut incoming, addr) = listen(ca.tls_server(), Limits::default()).await;
    for identity in [
        other.leaf(AGENT),
        ca.leaf("spiffe://other/agent/demo-agent"),
        ca.leaf(BROKER),
        ca.leaf("spiffe://td/agent/x"),
    ] {
        refused(&mut incoming, addr, ca.client(Some(identity))).await;
    }
    // And the door stays open.
    let _client = dial(addr, ca.client(Some(ca.leaf(AGENT)))).await.unwrap();
    next(&mut incoming).await;
}

#[tokio::test]
async fn a_client_of_tls_12_or_without_http2_is_refused() {
    let ca = Ca::new();
    let (mut incoming, addr) = listen(ca.tls_server(), Limits::default()).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.roots().remove(0)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut old = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    old.alpn_protocols = vec![b"h2".to_vec()];
    let error = dial(addr, Arc::new(old.clone())).await.unwrap_err();
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let alert = rustls::AlertDescription::ProtocolVersion;
    assert_eq!(error, Some(&rustls::Error::AlertReceived(alert)));
    refused(&mut incoming, addr, Arc::new(old)).await;
    for protocols in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut config = ClientConfig::clone(&ca.client(None));
        config.alpn_protocols = protocols;
        refused(&mut incoming, addr, Arc::new(config)).await;
    }
}

#[tokio::test]
async fn a_client_refuses_whoever_is_not_the_broker() {
    let (ca, other) = (Ca::new(), Ca::new());
    for server in [
        ca.server(AGENT),
        ca.server("spiffe://td/broker/x"),
        ca.server("spiffe://td2/broker"),
        other.server(BROKER),
    ] {
        let (_incoming, addr) = listen(TlsServer::new(server), Limits::default()).await;
        assert!(dial(addr, ca.client(None)).await.is_err());
    }
}

#[tokio::test]
async fn a_replaced_configuration_meets_new_connections() {
    let (old, new) = (Ca::new(), Ca::new());
    let tls = old.tls_server();
    let (mut incoming, addr) = listen(tls.clone(), Limits::default()).await;
    let mut standing = dial(addr, old.client(Some(old.leaf(AGENT)))).await.unwrap();
    let mut connection = next(&mut incoming).await;
    tls.replace(new.server(BROKER));
    assert!(dial(addr, old.client(None)).await.is_err());
    let _client = dial(addr, new.client(Some(new.leaf(AGENT)))).await.unwrap();
    assert!(next(&mut incoming).await.connect_info().identity.is_some());
    connection.write_all(b"x").await.unwrap();
    connection.flush().await.unwrap();
    standing.read_exact(&mut [0; 1]).await.unwrap();
}

#[tokio::test]
async fn nothing_is_trusted_where_no_root_is_given() {
    let ca = Ca::new();
    let (chain, key) = ca.leaf(BROKER);
    assert!(matches!(server_config(chain, key, vec![]), Err(WireError::Roots)));
    assert!(matches!(client_config(vec![], &td(), None), Err(WireError::Roots)));
    let not_a_certificate = vec![vec![1, 2, 3].into()];
    assert!(matches!(client_config(not_a_certificate, &td(), None), Err(WireError::Roots)));
    let ((chain, _), (_, other_key)) = (ca.leaf(AGENT), ca.leaf(AGENT));
    assert!(client_config(ca.roots(), &td(), Some((chain, other_key))).is_err());
}

#[tokio::test]
async fn silent_peers_are_dropped_and_do_not_keep_others_out() {
    let ca = Ca::new();
    let limits = Limits { handshakes: 2, handshake_time: A_WHILE, ..Limits::default() };
    let (mut incoming, addr) = listen(ca.tls_server(), limits).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(addr).await.unwrap());
    }
    let _client = dial(addr, ca.client(None)).await.unwrap();
    next(&mut incoming).await;
    for mut tcp in silent {
        assert!(matches!(timeout(SOON, tcp.read(&mut [0; 1])).await.unwrap(), Ok(0) | Err(_)));
    }
}

#[tokio::test]
async fn connections_are_bounded_and_room_is_given_back() {
    let ca = Ca::new();
    let limits = Limits { connections: 2, ..Limits::default() };
    let (mut incoming, addr) = listen(ca.tls_server(), limits).await;
    let config = ca.client(Some(ca.leaf(AGENT)));
    let _first = dial(addr, config.clone()).await.unwrap();
    let _second = dial(addr, config.clone()).await.unwrap();
    let (held, _other) = (next(&mut incoming).await, next(&mut incoming).await);
    let waiting = tokio::spawn(dial(addr, config));
    assert!(timeout(A_WHILE, incoming.next()).await.is_err());
    drop(held);
    next(&mut incoming).await;
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn strangers_are_few_and_do_not_stay() {
    let ca = Ca::new();
    let limits =
        Limits { without_certificate: 1, without_certificate_time: A_WHILE, ..Limits::default() };
    let (mut incoming, addr) = listen(ca.tls_server(), limits).await;
    let _stranger = dial(addr, ca.client(None)).await.unwrap();
    let mut held = next(&mut incoming).await;
    refused(&mut incoming, addr, ca.client(None)).await;
    let _agent = dial(addr, ca.client(Some(ca.leaf(AGENT)))).await.unwrap();
    assert!(next(&mut incoming).await.connect_info().identity.is_some());
    let ended = timeout(SOON, held.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    drop(held);
    let _again = dial(addr, ca.client(None)).await.unwrap();
    next(&mut incoming).await;
}

/// Answers with who calls, and refuses who has no identity.
struct WhoAmI;

#[tonic::async_trait]
impl Enrolment for WhoAmI {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolReply>, Status> {
        let caller = peer(&request)?;
        Ok(Response::new(EnrolReply { agent: caller.agent.clone(), ..EnrolReply::default() }))
    }
}

fn serve(incoming: Incoming) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let service = EnrolmentServer::new(WhoAmI);
        tonic::transport::Server::builder().serve_with_incoming(service, incoming).await.unwrap();
    })
}

#[tokio::test]
async fn a_call_sees_its_caller_and_a_refusal_comes_back_whole() {
    let ca = Ca::new();
    let (incoming, addr) = listen(ca.tls_server(), Limits::default()).await;
    let serving = serve(incoming);
    // The first address is dead: the second is tried.
    let addresses = ["https://127.0.0.1:1".to_owned(), format!("https://{addr}")];
    let tls = ca.tls_client(Some(ca.leaf(AGENT)));
    let mut client = EnrolmentClient::new(channel(&addresses, tls).unwrap());
    let reply = client.enrol(EnrolRequest::default()).await.unwrap().into_inner();
    assert_eq!(reply.agent, "demo-agent");

    let unknown = channel(&addresses, ca.tls_client(None)).unwrap();
    let refusal = EnrolmentClient::new(unknown).enrol(EnrolRequest::default()).await.unwrap_err();
    let refusal = Refusal::from(&refusal);
    assert_eq!((refusal.status, refusal.code.as_str()), (401, "no_certificate"));

    serving.abort();
    let _ = serving.await;
    let elsewhere = channel(&["https://127.0.0.1:1"], ca.tls_client(None)).unwrap();
    let lost = EnrolmentClient::new(elsewhere).enrol(EnrolRequest::default()).await.unwrap_err();
    assert_eq!(Refusal::from(&lost).code, "broker_away");
    let none: [&str; 0] = [];
    assert!(matches!(channel(&none, ca.tls_client(None)), Err(WireError::Address(_))));
}
