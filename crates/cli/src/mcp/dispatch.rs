//! What a request is: answered at once, or a tool call that may take its time. The same for every
//! transport.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::era::{Era, discover, initialize};
use super::rpc::RpcError;
use super::tools::{Progress, Tool, find, list};
use crate::door::Door;

/// What becomes of a request.
pub(super) enum Dispatched {
    /// Its answer.
    Now(Result<Value, RpcError>),
    /// A call, to be run.
    Call(Call),
}

/// A tool call that is well formed.
pub(super) struct Call {
    tool: &'static Tool,
    given: Map<String, Value>,
    /// Where the client wants to hear of progress.
    token: Option<Value>,
    era: Era,
}

/// Reads a request. `greeted` says whether this client's `initialize` was answered, or need not be.
pub(super) fn dispatch(method: &str, params: Map<String, Value>, greeted: bool) -> Dispatched {
    match answer(method, params, greeted) {
        Ok(Some(call)) => Dispatched::Call(call),
        Ok(None) => Dispatched::Now(Err(RpcError::unknown_method())),
        Err(answer) => Dispatched::Now(*answer),
    }
}

/// A call; none where there is no such method; anything else is an answer.
fn answer(
    method: &str,
    params: Map<String, Value>,
    greeted: bool,
) -> Result<Option<Call>, Box<Result<Value, RpcError>>> {
    match method {
        // These two belong to the older generation, whatever else the request says.
        "initialize" => return Err(Box::new(initialize(&params))),
        "ping" => return Err(Box::new(Ok(json!({})))),
        _ => {}
    }
    let era = Era::of(&params, greeted).map_err(|e| Box::new(Err(e)))?;
    match method {
        "server/discover" => Err(Box::new(Ok(era.dress_lasting(discover())))),
        "tools/list" => Err(Box::new(match params.get("cursor") {
            None | Some(Value::Null) => Ok(era.dress_lasting(list())),
            Some(_) => Err(RpcError::invalid_params("there is one page: no `cursor` is known")),
        })),
        "tools/call" => Call::read(era, params).map(Some).map_err(|e| Box::new(Err(e))),
        _ => Ok(None),
    }
}

impl Call {
    fn read(era: Era, mut params: Map<String, Value>) -> Result<Self, RpcError> {
        let name = params.get("name").and_then(Value::as_str);
        let name = name.ok_or_else(|| RpcError::invalid_params("`tools/call` wants `name`"))?;
        let tool = find(name).ok_or_else(|| RpcError::invalid_params("there is no such tool"))?;
        let given = match params.remove("arguments") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(given)) => given,
            Some(_) => return Err(RpcError::invalid_params("`arguments` wants an object")),
        };
        let token = params.get("_meta").and_then(|meta| meta.get("progressToken"));
        let token = token.filter(|it| it.is_string() || it.is_i64() || it.is_u64()).cloned();
        Ok(Self { tool, given, token, era })
    }

    /// Runs it: progress goes to `out` while it waits; its result is returned.
    pub(super) async fn run(self, door: &Door, step: Duration, out: &mpsc::Sender<Value>) -> Value {
        let progress = Teller { out: out.clone(), token: self.token };
        self.era.dress(self.tool.call(door, &self.given, step, &progress).await)
    }
}

/// Tells the client how a wait goes on, where it gave a token for that.
struct Teller {
    out: mpsc::Sender<Value>,
    token: Option<Value>,
}

impl Progress for Teller {
    async fn tell(&self, gone: f64, all: u64, words: String) {
        let Some(token) = &self.token else { return };
        let said = json!({
            "jsonrpc": "2.0",
            "method": "notifications/progress",
            "params": {"progressToken": token, "progress": gone, "total": all, "message": words},
        });
        let _ = self.out.send(said).await;
    }
}
