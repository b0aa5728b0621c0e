//! The load again, straight on HTTP/2 and on one thread: a generator that takes little of the processors
//! that it shares with the server, as `wrk` is for other servers. The callers of a connection share one
//! stream of asks, as a sidecar's do (crates/sidecar/src/line.rs).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use grantwright_wire::v1::numbered_answer::Answer;
use grantwright_wire::v1::outcome::State;
use grantwright_wire::v1::{AskRequest, AttendUp, NumberedAnswer, NumberedAsk, Outcome};
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use prost::Message;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
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
        let mut lines = Vec::new();
        for client in &clients {
            lines.push(Line::open(client.clone()).await?);
        }
        let each = lines.iter().cycle().take(callers);
        let callers: Vec<_> =
            each.map(|line| spawn_local(caller(Rc::clone(line), Rc::clone(&run)))).collect();
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

/// The asks of one connection, on one stream, as a sidecar has them.
struct Line {
    up: RefCell<SendStream<Bytes>>,
    waiting: RefCell<HashMap<u64, oneshot::Sender<NumberedAnswer>>>,
}

impl Line {
    async fn open(client: SendRequest<Bytes>) -> anyhow::Result<Rc<Self>> {
        let mut client = client.ready().await?;
        let (reply, up) = client.send_request(call("Asks")?, false)?;
        let line = Rc::new(Self { up: RefCell::new(up), waiting: RefCell::default() });
        let read = Rc::clone(&line);
        spawn_local(async move {
            let end = read.read(reply).await;
            // Nobody waits for what does not come any more.
            read.waiting.borrow_mut().clear();
            end
        });
        Ok(line)
    }

    async fn read(&self, reply: ResponseFuture) -> anyhow::Result<()> {
        let mut body = reply.await?.into_body();
        let mut got = BytesMut::new();
        while let Some(part) = body.data().await {
            let part = part?;
            body.flow_control().release_capacity(part.len())?;
            got.extend_from_slice(&part);
            while let Some(head) = got.first_chunk::<5>() {
                let [_, length @ ..] = *head;
                let length = usize::try_from(u32::from_be_bytes(length))?;
                if got.len() < 5 + length {
                    break;
                }
                got.advance(5);
                let answer = NumberedAnswer::decode(got.split_to(length))?;
                let waiter = self.waiting.borrow_mut().remove(&answer.number);
                let _ = waiter.context("an answer to nothing")?.send(answer);
            }
        }
        Ok(())
    }

    async fn ask(&self, number: u64, ask: AskRequest) -> anyhow::Result<Outcome> {
        let (send, answer) = oneshot::channel();
        self.waiting.borrow_mut().insert(number, send);
        let asked = framed(&NumberedAsk { number, ask: Some(ask) })?;
        self.up.borrow_mut().send_data(asked, false)?;
        match answer.await.context("the stream ended")?.answer {
            Some(Answer::Outcome(outcome)) => Ok(outcome),
            other => bail!("refused: {other:?}"),
        }
    }
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

async fn caller(line: Rc<Line>, run: Rc<Run>) -> anyhow::Result<Vec<Duration>> {
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
        let outcome = line.ask(n, ask).await?;
        took.push(sent.elapsed());
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
