//! What strangers may do to the HTTP doors, over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::listen::{Bounds, serve};
use super::router;
use crate::issue::rig::Rig;

const BOUNDS: Bounds = Bounds {
    connections: 256,
    head: Duration::from_secs(10),
    call: Duration::from_secs(60),
    strangers_leave: false,
};

async fn doors(rig: &Rig, bounds: Bounds) -> SocketAddr {
    let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = first.local_addr().unwrap();
    tokio::spawn(serve(first, Some(second), router(Arc::clone(&rig.broker)), bounds));
    address
}

/// Sends bytes, then reads until the other end closes.
async fn talk(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The other end may have heard enough.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    read.expect("it ends in time").expect("no reset before the answer");
    String::from_utf8(answer).unwrap()
}

async fn call(address: SocketAddr, head: &str, body: &[u8]) -> String {
    let mut bytes = format!("{head}\r\nConnection: close\r\n\r\n").into_bytes();
    bytes.extend_from_slice(body);
    talk(address, &bytes).await
}

fn assert_problem(answer: &str, status: &str, code: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
    assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{answer}");
}

#[tokio::test]
async fn half_sent_heads_leave_room_and_end() {
    let rig = Rig::new().await;
    let address = doors(&rig, Bounds { head: Duration::from_secs(1), ..BOUNDS }).await;
    let mut half = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await.unwrap();
        half.push(stream);
    }
    let began = Instant::now();
    let answer = call(address, "GET /healthz HTTP/1.1\r\nHost: localhost", b"").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for mut stream in half {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        let _ = tokio::time::timeout(Duration::from_secs(5), ended).await.expect("it is closed");
    }
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_a_place_comes_back() {
    let rig = Rig::new().await;
    let address = doors(&rig, Bounds { connections: 2, ..BOUNDS }).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Kept alive: two calls on one connection.
        for _ in 0..2 {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            let mut answer = [0; 512];
            let read = stream.read(&mut answer).await.unwrap();
            assert!(answer[..read].starts_with(b"HTTP/1.1 200 "));
        }
        kept.push(stream);
    }
    let mut third = TcpStream::connect(address).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(5), third.read(&mut [0; 16])).await;
    assert!(matches!(closed.expect("at once"), Ok(0) | Err(_)));
    kept.pop();
    for round in 0.. {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        if matches!(stream.read(&mut [0; 16]).await, Ok(1..)) {
            break;
        }
        assert!(round < 100, "no place came back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn invariant_28_one_address_leaves_room_to_others() {
    let rig = Rig::new().await;
    let address = doors(&rig, Bounds { connections: 16, ..BOUNDS }).await;
    let from = |source: &'static str| async move {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(source.parse().unwrap()).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let served = matches!(stream.read(&mut [0; 512]).await, Ok(1..));
        (stream, served)
    };
    let mut kept = Vec::new();
    for n in 0..14 {
        let (stream, served) = from("127.0.0.1:0").await;
        assert!(served, "{n}");
        kept.push(stream);
    }
    assert!(!from("127.0.0.1:0").await.1, "beyond its share");
    assert!(from("127.0.0.2:0").await.1, "another address");
    kept.pop();
}

/// Where they leave, a crowd that says nothing, or is only refused, keeps nobody out; who was answered stays.
#[tokio::test]
async fn invariant_28_strangers_leave_for_a_newcomer() {
    let rig = Rig::new().await;
    let bounds = Bounds { connections: 9, head: BOUNDS.call, strangers_leave: true, ..BOUNDS };
    let address = doors(&rig, bounds).await;
    let served = async |stream: &mut TcpStream, path: &str| -> String {
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = [0; 2048];
        let read = stream.read(&mut answer).await.unwrap_or(0);
        String::from_utf8_lossy(&answer[..read]).into_owned()
    };
    let mut known = TcpStream::connect(address).await.unwrap();
    assert!(served(&mut known, "/healthz").await.starts_with("HTTP/1.1 200 "));
    let mut crowd = Vec::new();
    for n in 0..40 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if n % 2 == 0 {
            assert!(served(&mut stream, "/nowhere").await.starts_with("HTTP/1.1 404 "), "{n}");
        }
        crowd.push(stream);
    }
    for n in 0..8 {
        let mut newcomer = TcpStream::connect(address).await.unwrap();
        let answer = served(&mut newcomer, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{n}: {answer}");
    }
    assert!(served(&mut known, "/healthz").await.starts_with("HTTP/1.1 200 "), "it stayed");
    assert_eq!(crowd[0].read(&mut [0; 16]).await.unwrap_or(0), 0, "the longest there has left");
}

#[tokio::test]
async fn a_call_that_never_ends_ends_its_connection() {
    let rig = Rig::new().await;
    let bounds = Bounds { call: Duration::from_millis(300), ..BOUNDS };
    let address = doors(&rig, bounds).await;
    let began = Instant::now();
    // A body that never comes.
    let answer = talk(
        address,
        b"POST /api/v1/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
    )
    .await;
    assert_eq!(answer, "");
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn large_bodies_are_refused_everywhere_but_for_policy() {
    let rig = Rig::new().await;
    let address = doors(&rig, BOUNDS).await;
    let body = vec![b' '; (64 << 10) + 1];
    let sized = |path: &str, n: usize| {
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {n}")
    };
    for path in ["/api/v1/login", "/api/v1/people", "/api/v1/nowhere", "/healthz"] {
        let answer = call(address, &sized(path, body.len()), &body).await;
        assert_problem(&answer, "413", "too_large");
    }
    let answer = call(address, &sized("/api/v1/policy", body.len()), &body).await;
    assert_problem(&answer, "401", "not_signed_in");
    let huge = vec![b' '; (4 << 20) + 1];
    let answer = call(address, &sized("/api/v1/policy", huge.len()), &huge).await;
    assert_problem(&answer, "413", "too_large");
    // Of unsaid length.
    let mut chunked = format!("{:x}\r\n", body.len()).into_bytes();
    chunked.extend_from_slice(&body);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let head = "POST /api/v1/login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked";
    assert_problem(&call(address, head, &chunked).await, "413", "too_large");
    let fits = call(address, &sized("/api/v1/login", 64 << 10), &body[1..]).await;
    assert_problem(&fits, "400", "malformed");
}

#[tokio::test]
async fn foreign_names_and_origins_get_nothing() {
    let rig = Rig::new().await;
    let address = doors(&rig, BOUNDS).await;
    let get = async |path: &str, headers: &str| {
        call(address, &format!("GET {path} HTTP/1.1\r\n{headers}"), b"").await
    };
    for path in ["/jwks", "/metrics", "/log/checkpoint", "/api/v1/requests", "/nowhere"] {
        for headers in [
            "Host: evil.example",
            "Host: evil.example\r\nOrigin: http://evil.example",
            "Host: localhost\r\nHost: evil.example",
            "X-No-Host: at-all",
        ] {
            assert_problem(&get(path, headers).await, "403", "foreign_host");
        }
        for origin in ["http://evil.example", "null", "http://localhost:1", "ftp://localhost"] {
            let answer = get(path, &format!("Host: localhost\r\nOrigin: {origin}")).await;
            assert_problem(&answer, "403", "foreign_origin");
        }
    }
    for path in ["/healthz", "/readyz"] {
        let answer = get(path, "Host: 10.1.2.3:8080").await;
        assert!(!answer.starts_with("HTTP/1.1 403 "), "{answer}");
        let answer = get(path, "Host: evil.example\r\nOrigin: http://other.example").await;
        assert_problem(&answer, "403", "foreign_origin");
    }
    for headers in [
        format!("Host: {address}"),
        format!("Host: {address}\r\nOrigin: http://{address}"),
        "Host: [::1]:7".into(),
        "Host: localhost:7\r\nOrigin: https://localhost:7".into(),
    ] {
        let answer = get("/jwks", &headers).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{headers}: {answer}");
        assert!(answer.contains("nosniff") && answer.contains("no-store"), "{answer}");
    }
}

#[tokio::test]
async fn long_and_many_headers_are_431() {
    let rig = Rig::new().await;
    let address = doors(&rig, BOUNDS).await;
    let long = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(40 << 10));
    let many = format!("GET /healthz HTTP/1.1\r\nHost: localhost{}", "\r\nX: x".repeat(200));
    for head in [long, many] {
        let answer = call(address, &head, b"").await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
}
