//! The load again, straight on HTTP/2 and on one thread: a generator that takes little of the processors
//! that it shares with the server, as `wrk` is for other servers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use grantwright_wire::v1::outcome::State;
use grantwright_wire::v1::{AskRequest, AttendUp, Outcome};
use h2::RecvStream;
use h2::client::SendRequest;
use http::Request;
use prost::Message;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsConnector;

use super::Identity;

/// What may be in flight to this end: never what holds the server up.
const WINDOW: u32 = 16 << 20;

/// What the callers share.
struct Run {
    known: Cell<u64>,
    serial: Cell<u64>,
    granted: RefCell<Vec<String>>,
    end: Instant,
    scope: String,
    params: String,
}

/// Asks for a while; gives back how long each ask took.
pub(super) fn load(
    identity: &Identity,
    callers: usize,
    connections: usize,
    seconds: f64,
    (scope, params): (&str, &str),
) -> anyhow::Result<(Vec<Duration>, f64)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut clients = Vec::new();
        for _ in 0..connections.max(1) {
            clients.push(connect(identity).await?);
        }
        let begun = Instant::now();
        let run = Rc::new(Run {
            known: Cell::new(0),
            serial: Cell::new(0),
            granted: RefCell::default(),
            end: begun + Duration::from_secs_f64(seconds),
            scope: scope.to_owned(),
            params: params.to_owned(),
        });
        let attending = clients.first().context("no connection")?.clone();
        spawn_local(attend(attending, Rc::clone(&run)));
        let each = clients.iter().cycle().take(callers).cloned();
        let callers: Vec<_> =
            each.map(|client| spawn_local(caller(client, Rc::clone(&run)))).collect();
        let mut took = Vec::new();
        for caller in callers {
            took.append(&mut caller.await??);
        }
        Ok((took, begun.elapsed().as_secs_f64()))
    })
}

async fn connect(identity: &Identity) -> anyhow::Result<SendRequest<Bytes>> {
    let address = identity.address.strip_prefix("https://").context("an address with https")?;
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let connector = TlsConnector::from(identity.tls()?);
    let stream = connector.connect(ServerName::try_from("localhost")?, tcp).await?;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let (client, connection) = builder.handshake(stream).await?;
    spawn_local(connection);
    Ok(client)
}

fn call(method: &str) -> anyhow::Result<Request<()>> {
    let uri = format!("https://localhost/grantwright.v1.Broker/{method}");
    let head = Request::post(uri).header("content-type", "application/grpc");
    Ok(head.header("te", "trailers").body(())?)
}

/// A message as gRPC sends it: not compressed, its length before it.
fn framed(message: &impl Message) -> anyhow::Result<Bytes> {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(5 + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length)?);
    message.encode(&mut out)?;
    Ok(out.freeze())
}

async fn caller(client: SendRequest<Bytes>, run: Rc<Run>) -> anyhow::Result<Vec<Duration>> {
    let mut client = client.ready().await?;
    let process = std::process::id();
    let mut took = Vec::new();
    while Instant::now() < run.end {
        let n = run.serial.replace(run.serial.get() + 1);
        let ask = AskRequest {
            scope: run.scope.clone(),
            params_jcs: run.params.replace('#', &format!("{process}-{n}")).into_bytes(),
            reason: "a measurement".into(),
            // Asks with the same parameters are still asks of their own.
            workload: format!("uid:{n}"),
            body_digest: vec![7; 32],
            known_size: run.known.get(),
            ..AskRequest::default()
        };
        let sent = Instant::now();
        client = client.ready().await?;
        let (reply, mut body) = client.send_request(call("Ask")?, false)?;
        body.send_data(framed(&ask)?, true)?;
        let answer = whole(reply.await?.into_body()).await?;
        took.push(sent.elapsed());
        let outcome = Outcome::decode(answer.get(5..).context("no message")?)?;
        let Some(State::Granted(grant)) = outcome.state else {
            bail!("not granted: {outcome:?}");
        };
        if let Some(evidence) = grant.evidence {
            // The second line of a checkpoint is its size.
            let size = evidence.checkpoint.lines().nth(1);
            let size = size.and_then(|s| s.parse().ok()).unwrap_or(0);
            run.known.set(run.known.get().max(size));
        }
        run.granted.borrow_mut().push(outcome.request_id);
    }
    Ok(took)
}

/// The one message of an answer, with its head.
async fn whole(mut body: RecvStream) -> anyhow::Result<BytesMut> {
    let mut out = BytesMut::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        out.extend_from_slice(&part);
    }
    let end = body.trailers().await?.context("an answer without an end")?;
    let status = end.get("grpc-status").context("an answer without its status")?;
    ensure!(status.as_bytes() == b"0", "refused: {end:?}");
    Ok(out)
}

/// As a sidecar does: acknowledgements, batched, on one open stream.
async fn attend(client: SendRequest<Bytes>, run: Rc<Run>) -> anyhow::Result<()> {
    let (reply, mut up) = client.ready().await?.send_request(call("Attend")?, false)?;
    spawn_local(async move {
        let mut down = reply.await?.into_body();
        while let Some(part) = down.data().await {
            let length = part?.len();
            down.flow_control().release_capacity(length)?;
        }
        anyhow::Ok(())
    });
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let acknowledged = run.granted.take();
        if !acknowledged.is_empty() {
            up.send_data(framed(&AttendUp { acknowledged })?, false)?;
        }
    }
}
