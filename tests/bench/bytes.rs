//! A bare hyper server, and a keep-alive load: what one core can answer at all.
//!
//! `bench-bytes serve FILE [SOCKET]` answers every call with the file's bytes, as JSON, on a loopback
//! port of the system's choice, which it prints, and on the unix socket;
//! `bench-bytes load TO CONNECTIONS SECONDS REQUEST` sends the bytes of the file REQUEST to `host:port`
//! or a unix socket, again as soon as it was answered, and prints one JSON line.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

// One thread, as the sidecar has.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", file] => serve(file, None).await,
        ["serve", file, socket] => serve(file, Some(socket)).await,
        ["load", to, connections, seconds, request] => {
            load(to, connections.parse()?, seconds.parse()?, request).await
        }
        _ => bail!("usage: bench-bytes serve|load …, see the first lines of the source"),
    }
}

#[expect(clippy::print_stdout, reason = "one line is what the harness reads")]
fn say(value: impl std::fmt::Display) {
    println!("{value}");
}

// ---- the bare server -----------------------------------------------------------------------------

async fn serve(file: &str, socket: Option<&str>) -> anyhow::Result<()> {
    let body = Bytes::from(std::fs::read(file).with_context(|| file.to_owned())?);
    if let Some(path) = socket {
        let (listener, body) = (UnixListener::bind(path)?, body.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, body.clone()));
            }
        });
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say(listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(answer(stream, body.clone()));
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, body: Bytes) {
    let service = service_fn(move |_: Request<hyper::body::Incoming>| {
        let mut response = Response::new(Full::new(body.clone()));
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    // A client that goes away is no fault of ours.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

// ---- the load ------------------------------------------------------------------------------------

async fn load(to: &str, connections: usize, seconds: f64, request: &str) -> anyhow::Result<()> {
    let request = Bytes::from(std::fs::read(request).with_context(|| request.to_owned())?);
    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(seconds);
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let request = request.clone();
        if to.contains('/') {
            tasks.spawn(repeat(UnixStream::connect(to).await?, request, end));
        } else {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            tasks.spawn(repeat(stream, request, end));
        }
    }
    let mut took = Vec::new();
    while let Some(done) = tasks.join_next().await {
        took.append(&mut done??);
    }
    let elapsed = begun.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |percent: usize| took.get(took.len() * percent / 100).map_or(0, Duration::as_micros);
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = took.len() as f64 / elapsed;
    say(json!({"n": took.len(), "per_s": rate, "p50_us": at(50), "p99_us": at(99)}));
    Ok(())
}

/// Asks on one connection until the time is over; how long each answer took.
async fn repeat(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Bytes,
    end: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let (mut took, mut buffer) = (Vec::new(), Vec::with_capacity(16 * 1024));
    loop {
        let sent = Instant::now();
        if sent >= end {
            return Ok(took);
        }
        stream.write_all(&request).await?;
        buffer.clear();
        let mut whole = usize::MAX;
        while buffer.len() < whole {
            ensure!(stream.read_buf(&mut buffer).await? > 0, "the server closed the connection");
            if whole == usize::MAX {
                whole = length(&buffer)?.unwrap_or(usize::MAX);
            }
        }
        took.push(sent.elapsed());
    }
}

/// Bytes of the answer that begins here, once its head is complete. Anything but a 200 is a fault.
fn length(answer: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(head) = answer.windows(4).position(|end| end == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(answer.get(..head).unwrap_or_default())?;
    ensure!(text.starts_with("HTTP/1.1 200 "), "not granted: {text}");
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let (_, value) = found.context("an answer without its length")?;
    Ok(Some(head + 4 + value.trim().parse::<usize>()?))
}
