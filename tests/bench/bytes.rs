//! A bare hyper server: what one core can answer at all. `bench-bytes FILE` serves the file's bytes,
//! as JSON, on a loopback port of the system's choice, and prints that port.

use std::convert::Infallible;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

// One thread, as the sidecar has.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let file = std::env::args().nth(1).context("usage: bench-bytes FILE")?;
    let body = Bytes::from(std::fs::read(&file).with_context(|| file.clone())?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let body = body.clone();
        tokio::spawn(async move {
            let serve = service_fn(move |_: Request<hyper::body::Incoming>| {
                let body = body.clone();
                async move {
                    let mut response = Response::new(Full::new(body));
                    let json = header::HeaderValue::from_static("application/json");
                    response.headers_mut().insert(header::CONTENT_TYPE, json);
                    Ok::<_, Infallible>(response)
                }
            });
            // A client that goes away is no fault of ours.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), serve)
                .await;
        });
    }
}

#[expect(clippy::print_stdout, reason = "the port is what the caller waits for")]
fn announce(port: u16) {
    println!("{port}");
}
