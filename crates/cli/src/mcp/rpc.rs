//! JSON-RPC 2.0, one message a line: reading with a bound, and the shapes of what is said.

use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// Longest line that is read, in bytes, without its end.
pub(super) const MOST_LINE: usize = 1 << 20;

/// A message that came.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    /// Wants an answer under its id, a string or an integer.
    Request { id: Value, method: String, params: Map<String, Value> },
    /// Wants none.
    Notification { method: String, params: Map<String, Value> },
    /// Answers a request of ours; there are none.
    Response,
}

/// Why a request is not answered with a result.
#[derive(Debug, PartialEq)]
pub(super) struct RpcError {
    pub code: i32,
    pub message: String,
    pub data: Option<Value>,
}

impl RpcError {
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    pub fn parse(message: impl Into<String>) -> Self {
        Self::new(-32700, message)
    }

    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(-32600, message)
    }

    pub fn unknown_method() -> Self {
        Self::new(-32601, "there is no such method")
    }

    pub fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(-32602, message)
    }
}

/// Reads one line.
///
/// # Errors
/// The answer to what is no message, under its id where that can be told.
pub(super) fn parse(line: &[u8]) -> Result<Incoming, Value> {
    let value: Value = serde_json::from_slice(line).map_err(|_| {
        answer(Value::Null, Err(RpcError::parse("the line is not one JSON text in UTF-8")))
    })?;
    let Value::Object(mut message) = value else {
        let why = RpcError::invalid_request("a message is one JSON object; batches are not taken");
        return Err(answer(Value::Null, Err(why)));
    };
    let id = message.remove("id");
    let known = id.clone().filter(is_id).unwrap_or_default();
    let wrong = |why: &str| answer(known.clone(), Err(RpcError::invalid_request(why)));
    if message.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(wrong("`jsonrpc` wants \"2.0\""));
    }
    let method = match message.remove("method") {
        Some(Value::String(method)) => method,
        None if message.contains_key("result") || message.contains_key("error") => {
            return Ok(Incoming::Response);
        }
        _ => return Err(wrong("`method` wants a string")),
    };
    let params = match message.remove("params") {
        None => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => {
            let why = RpcError::invalid_params("`params` wants an object");
            return Err(answer(known, Err(why)));
        }
    };
    match id {
        None => Ok(Incoming::Notification { method, params }),
        Some(id) if is_id(&id) => Ok(Incoming::Request { id, method, params }),
        Some(_) => Err(wrong("`id` wants a string or an integer")),
    }
}

fn is_id(id: &Value) -> bool {
    id.is_string() || id.is_i64() || id.is_u64()
}

/// The answer to a request.
pub(super) fn answer(id: Value, result: Result<Value, RpcError>) -> Value {
    match result {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(RpcError { code, message, data }) => {
            let mut error = json!({"code": code, "message": message});
            if let (Some(error), Some(data)) = (error.as_object_mut(), data) {
                error.insert("data".into(), data);
            }
            json!({"jsonrpc": "2.0", "id": id, "error": error})
        }
    }
}

/// One line of the input.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    Text(Vec<u8>),
    /// Longer than [`MOST_LINE`]; it was read to its end and is gone.
    TooLong,
}

/// The lines of a stream. `next` may be called off at any time and loses nothing.
pub(super) struct Lines<R> {
    input: R,
    line: Vec<u8>,
    too_long: bool,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub fn new(input: R) -> Self {
        Self { input, line: Vec::new(), too_long: false }
    }

    /// The next line without its end; none at the end of the stream. A last line may lack its end.
    pub async fn next(&mut self) -> std::io::Result<Option<Line>> {
        loop {
            let bytes = self.input.fill_buf().await?;
            if bytes.is_empty() {
                let some = self.too_long || !self.line.is_empty();
                return Ok(some.then(|| self.take()));
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (part, taken) = match end {
                Some(end) => (bytes.get(..end).unwrap_or_default(), end + 1),
                None => (bytes, bytes.len()),
            };
            if self.too_long || self.line.len() + part.len() > MOST_LINE {
                self.too_long = true;
                self.line.clear();
            } else {
                self.line.extend_from_slice(part);
            }
            self.input.consume(taken);
            if end.is_some() {
                return Ok(Some(self.take()));
            }
        }
    }

    fn take(&mut self) -> Line {
        let line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.too_long) { Line::TooLong } else { Line::Text(line) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(line: &str) -> (Value, i32) {
        let said = parse(line.as_bytes()).expect_err(line);
        (said["id"].clone(), i32::try_from(said["error"]["code"].as_i64().unwrap()).unwrap())
    }

    #[test]
    fn messages() {
        let read = |line: &str| parse(line.as_bytes()).unwrap();
        assert_eq!(
            read(r#"{"jsonrpc":"2.0","id":"a","method":"m","params":{"x":1}}"#),
            Incoming::Request {
                id: "a".into(),
                method: "m".into(),
                params: [("x".to_owned(), 1.into())].into_iter().collect(),
            }
        );
        let note = Incoming::Notification { method: "m".into(), params: Map::new() };
        assert_eq!(read(r#"{"jsonrpc":"2.0","method":"m"}"#), note);
        assert_eq!(read(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#), Incoming::Response);
    }

    #[test]
    fn what_is_no_message_is_refused_under_its_id() {
        assert_eq!(code("{"), (Value::Null, -32700));
        assert_eq!(code("[]"), (Value::Null, -32600));
        assert_eq!(code(r#"{"id":7,"method":"m"}"#), (7.into(), -32600));
        assert_eq!(code(r#"{"jsonrpc":"2.0","id":7}"#), (7.into(), -32600));
        assert_eq!(code(r#"{"jsonrpc":"2.0","id":7,"method":1}"#), (7.into(), -32600));
        assert_eq!(code(r#"{"jsonrpc":"2.0","id":null,"method":"m"}"#), (Value::Null, -32600));
        assert_eq!(code(r#"{"jsonrpc":"2.0","id":1.5,"method":"m"}"#), (Value::Null, -32600));
        assert_eq!(
            code(r#"{"jsonrpc":"2.0","id":7,"method":"m","params":[]}"#),
            (7.into(), -32602)
        );
        assert!(parse(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}").is_err());
    }

    #[tokio::test]
    async fn lines_are_bounded_and_the_next_one_is_whole() {
        let mut input = b"a\n".to_vec();
        input.extend(std::iter::repeat_n(b'x', MOST_LINE));
        input.push(b'\n');
        input.extend(std::iter::repeat_n(b'x', MOST_LINE + 1));
        input.extend_from_slice(b"\nlast");
        let mut lines = Lines::new(tokio::io::BufReader::with_capacity(1000, input.as_slice()));
        assert_eq!(lines.next().await.unwrap(), Some(Line::Text(b"a".to_vec())));
        assert!(matches!(lines.next().await.unwrap(), Some(Line::Text(x)) if x.len() == MOST_LINE));
        assert_eq!(lines.next().await.unwrap(), Some(Line::TooLong));
        assert_eq!(lines.next().await.unwrap(), Some(Line::Text(b"last".to_vec())));
        assert_eq!(lines.next().await.unwrap(), None);
    }
}
