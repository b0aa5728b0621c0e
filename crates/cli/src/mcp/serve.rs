//! The loop: a line in, a line out. Tools run beside it, so that a cancellation and other calls are
//! heard while one waits.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::dispatch::{Call, Dispatched, dispatch};
use super::rpc::{Incoming, Line, Lines, MOST_LINE, RpcError, answer, parse};
use crate::door::Door;

/// Calls under way at the same time; more are refused.
pub(super) const MOST_CALLS: usize = 64;
/// Once the client has closed its end, calls have this long to answer.
const GRACE: Duration = Duration::from_millis(1500);

/// Serves one client until it closes its end, or its other end is gone.
///
/// # Errors
/// When the input cannot be read.
pub(super) async fn serve(
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin + Send + 'static,
    door: Door,
    step: Duration,
) -> std::io::Result<()> {
    let (out, lines_out) = mpsc::channel(MOST_CALLS);
    let writer = tokio::spawn(write(output, lines_out));
    let mut lines = Lines::new(BufReader::new(input));
    let mut client =
        Client { out, door, step, greeted: false, calls: HashMap::new(), running: JoinSet::new() };
    let read = loop {
        tokio::select! {
            line = lines.next() => match line {
                Ok(Some(line)) => client.hear(line).await,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            },
            Some(_) = client.running.join_next() => client.forget_finished(),
            () = client.out.closed() => break Ok(()),
        }
    };
    let Client { out, mut running, .. } = client;
    let _ =
        tokio::time::timeout(GRACE, async { while running.join_next().await.is_some() {} }).await;
    running.shutdown().await;
    drop(out);
    let _ = tokio::time::timeout(GRACE, writer).await;
    read
}

/// Writes each message on a line of its own; ends when nobody reads.
async fn write(mut output: impl AsyncWrite + Unpin, mut messages: mpsc::Receiver<Value>) {
    while let Some(message) = messages.recv().await {
        let mut line = message.to_string();
        line.push('\n');
        if output.write_all(line.as_bytes()).await.is_err() || output.flush().await.is_err() {
            tracing::warn!("the client does not read any more");
            return;
        }
    }
}

/// The client at the other end, and what it has under way.
struct Client {
    out: mpsc::Sender<Value>,
    door: Door,
    step: Duration,
    /// Whether `initialize` was answered.
    greeted: bool,
    /// By the id of the request as JSON text.
    calls: HashMap<String, AbortHandle>,
    running: JoinSet<()>,
}

impl Client {
    async fn hear(&mut self, line: Line) {
        let line = match line {
            Line::Text(line) if line.trim_ascii().is_empty() => return,
            Line::Text(line) => line,
            Line::TooLong => {
                let why = format!("a line has at most {MOST_LINE} bytes");
                return self.say(answer(Value::Null, Err(RpcError::parse(why)))).await;
            }
        };
        match parse(&line) {
            Ok(Incoming::Request { id, method, params }) => {
                if let Some(result) = self.request(&id, &method, params) {
                    self.say(answer(id, result)).await;
                }
            }
            Ok(Incoming::Notification { method, params }) => {
                if method == "notifications/cancelled" {
                    self.cancel(params.get("requestId"));
                }
            }
            Ok(Incoming::Response) => {}
            Err(answer) => self.say(answer).await,
        }
    }

    /// The answer to a request; none where it comes later.
    fn request(
        &mut self,
        id: &Value,
        method: &str,
        params: Map<String, Value>,
    ) -> Option<Result<Value, RpcError>> {
        let call = match dispatch(method, params, self.greeted) {
            Dispatched::Now(result) => {
                self.greeted |= method == "initialize" && result.is_ok();
                return Some(result);
            }
            Dispatched::Call(call) => call,
        };
        self.begin(id, call).err().map(Err)
    }

    /// Begins a tool call.
    fn begin(&mut self, id: &Value, call: Call) -> Result<(), RpcError> {
        let key = id.to_string();
        self.forget_finished();
        if self.calls.contains_key(&key) {
            return Err(RpcError::invalid_request("a call with this `id` is under way"));
        }
        if self.calls.len() >= MOST_CALLS {
            return Err(RpcError::new(-32000, "too many calls at once: wait for one to end"));
        }
        let (out, door, step, id) = (self.out.clone(), self.door.clone(), self.step, id.clone());
        let call = self.running.spawn(async move {
            let result = call.run(&door, step, &out).await;
            let _ = out.send(answer(id, Ok(result))).await;
        });
        self.calls.insert(key, call);
        Ok(())
    }

    /// Ends the client's wait, unanswered. What the sidecar has begun goes on.
    fn cancel(&mut self, id: Option<&Value>) {
        if let Some(call) = id.and_then(|id| self.calls.remove(&id.to_string())) {
            call.abort();
            tracing::info!("a call was cancelled");
        }
    }

    fn forget_finished(&mut self) {
        self.calls.retain(|_, call| !call.is_finished());
    }

    async fn say(&self, message: Value) {
        // An error: the client has gone, which the loop learns by itself.
        let _ = self.out.send(message).await;
    }
}
