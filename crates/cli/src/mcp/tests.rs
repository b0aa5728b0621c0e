//! The loop over in-memory pipes, against a scripted sidecar on a real socket.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
    DuplexStream, Lines, ReadHalf, WriteHalf,
};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use super::era::VERSIONS;
use super::serve::serve;
use crate::config::Settings;
use crate::door::Door;

const TOKEN: &str = "a-token-of-the-sidecar";

/// One answer of the sidecar: after how long, status, body.
type Answer = (u64, u16, Value);

/// A sidecar that gives prepared answers and keeps what it was asked.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn then(&self, status: u16, body: Value) -> &Self {
        self.after(0, status, body)
    }

    fn after(&self, ms: u64, status: u16, body: Value) -> &Self {
        self.answers.lock().unwrap().push_back((ms, status, body));
        self
    }

    /// Everything asked so far: request line, headers in lower case, and body.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    async fn serve(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut bytes = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = bytes.windows(4).position(|it| it == b"\r\n\r\n") {
                    break at + 4;
                }
                if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                    return;
                }
            };
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length = head
                .to_ascii_lowercase()
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok())
                .unwrap_or(0);
            while bytes.len() < end + length {
                stream.read_buf(&mut bytes).await.unwrap();
            }
            let body = String::from_utf8(bytes[end..end + length].to_vec()).unwrap();
            bytes.drain(..end + length);
            self.asked.lock().unwrap().push(format!("{}{body}", head.replace("\r\n", "\n")));
            let next = self.answers.lock().unwrap().pop_front();
            let (ms, status, body) = next.expect("the script has an answer");
            tokio::time::sleep(Duration::from_millis(ms)).await;
            let body = body.to_string();
            let reply = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            );
            if stream.write_all(reply.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// A client at one end, the server at the other.
struct Client {
    said: Lines<BufReader<ReadHalf<DuplexStream>>>,
    say: Option<WriteHalf<DuplexStream>>,
    server: JoinHandle<std::io::Result<()>>,
    serial: u64,
    stateless: bool,
    _dir: tempfile::TempDir,
}

impl Client {
    /// Over TCP, with a look of one second.
    async fn new(script: &Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let script = script.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(script.clone().serve(stream));
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, TOKEN).unwrap();
        let settings = Settings {
            sidecar: Some(address),
            sidecar_token_file: Some(token),
            ..Settings::default()
        };
        Self::at(&settings, dir)
    }

    fn at(settings: &Settings, dir: tempfile::TempDir) -> Self {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (input, output) = tokio::io::split(theirs);
        let door = Door::open(settings).ok().unwrap();
        let server = tokio::spawn(serve(input, output, door, Duration::from_secs(1)));
        let (read, write) = tokio::io::split(ours);
        let said = BufReader::new(read).lines();
        Self { said, say: Some(write), server, serial: 0, stateless: false, _dir: dir }
    }

    /// One that has greeted in the older way.
    async fn greeted(script: &Script) -> Self {
        let mut client = Self::new(script).await;
        let hello = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo":
            {"name": "test", "version": "1"}});
        client.ask("initialize", hello).await;
        client.line(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        client
    }

    /// One that speaks 2026-07-28.
    async fn stateless(script: &Script) -> Self {
        Self { stateless: true, ..Self::new(script).await }
    }

    async fn line(&mut self, line: &str) {
        let say = self.say.as_mut().unwrap();
        say.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn next(&mut self) -> Value {
        let line = tokio::time::timeout(Duration::from_secs(10), self.said.next_line()).await;
        serde_json::from_str(&line.expect("in time").unwrap().expect("a line")).unwrap()
    }

    /// Sends a request and gives its id.
    async fn send(&mut self, method: &str, mut params: Value) -> u64 {
        self.serial += 1;
        if self.stateless {
            let meta = &mut params["_meta"];
            meta["io.modelcontextprotocol/protocolVersion"] = "2026-07-28".into();
            meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
        }
        let (id, version) = (self.serial, "2.0");
        let message = json!({"jsonrpc": version, "id": id, "method": method, "params": params});
        self.line(&message.to_string()).await;
        id
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params).await;
        let said = self.next().await;
        assert_eq!(said["id"], id, "{said}");
        said
    }

    async fn tool(&mut self, name: &str, arguments: Value) -> Value {
        let said = self.ask("tools/call", json!({"name": name, "arguments": arguments})).await;
        said.get("result").cloned().unwrap_or_else(|| panic!("{said}"))
    }

    async fn end(mut self) {
        drop(self.say.take());
        // The other half keeps the pipe open; the server must not wait for it.
        drop(self.said);
        tokio::time::timeout(Duration::from_secs(5), self.server).await.unwrap().unwrap().unwrap();
    }
}

fn pending(more: Value) -> Value {
    let mut body = json!({"state": "pending", "request_id": "req-1",
        "needs": {"votes": 1, "have": 0}, "expires_at": "2026-01-01T00:00:00Z"});
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    body
}

fn granted() -> Value {
    json!({"state": "granted", "request_id": "req-1", "credential": {"token": "hush"},
        "expires_at": "2026-01-01T00:00:00Z", "lease_id": "l-1", "receipt": {"leaf": "x"}})
}

#[tokio::test]
async fn a_session_of_the_older_generation() {
    let script = Script::default();
    let mut client = Client::new(&script).await;
    assert_eq!(client.ask("tools/list", json!({})).await["error"]["code"], -32602);
    assert_eq!(client.ask("ping", json!({})).await["result"], json!({}));
    let hello = client.ask("initialize", json!({"protocolVersion": "2025-11-25"})).await;
    assert_eq!(hello["result"]["protocolVersion"], "2025-11-25");
    assert_eq!(hello["result"]["capabilities"], json!({"tools": {}}));
    assert_eq!(hello["result"]["serverInfo"]["name"], "grantwright");
    let tools = client.ask("tools/list", json!({})).await["result"].take();
    assert_eq!(tools.as_object().unwrap().len(), 1, "nothing of the younger generation: {tools}");
    let names: Vec<&str> =
        tools["tools"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "list_scopes",
            "request_credential",
            "wait_for_request",
            "answer_question",
            "release_credential"
        ]
    );
    for tool in tools["tools"].as_array().unwrap() {
        assert_eq!(tool["inputSchema"]["additionalProperties"], false);
        assert_eq!(tool["inputSchema"]["type"], "object");
    }
    assert_eq!(client.ask("resources/list", json!({})).await["error"]["code"], -32601);
    client.end().await;
}

#[tokio::test]
async fn the_younger_generation_needs_no_greeting() {
    let script = Script::default();
    script.then(200, json!({"scopes": [{"name": "demo.read"}]}));
    let mut client = Client::stateless(&script).await;
    let found = client.ask("server/discover", json!({})).await["result"].take();
    assert_eq!(found["supportedVersions"], json!(VERSIONS));
    for result in [&found, &client.ask("tools/list", json!({})).await["result"]] {
        assert_eq!(result["resultType"], "complete");
        assert!(result["ttlMs"].is_u64());
        assert_eq!(result["cacheScope"], "public");
        assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "grantwright");
    }
    let scopes = client.tool("list_scopes", json!({})).await;
    assert_eq!(scopes["resultType"], "complete");
    assert_eq!(scopes["structuredContent"]["scopes"][0]["name"], "demo.read");
    assert!(scopes["content"][0]["text"].as_str().unwrap().contains("demo.read"));
    client.stateless = false;
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2031-01-01",
        "io.modelcontextprotocol/clientCapabilities": {}});
    let refused = client.ask("tools/list", json!({"_meta": meta})).await["error"].take();
    assert_eq!(refused["code"], -32022);
    assert_eq!(refused["data"], json!({"supported": VERSIONS, "requested": "2031-01-01"}));
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    let refused = client.ask("tools/list", json!({"_meta": meta})).await;
    assert_eq!(refused["error"]["code"], -32602);
    client.end().await;
}

#[tokio::test]
async fn every_tool_is_one_call_and_its_body_is_the_result() {
    let script = Script::default();
    script
        .then(200, json!({"scopes": []}))
        .then(200, granted())
        .then(202, pending(json!({})))
        .then(202, pending(json!({})))
        .then(200, json!({"state": "released", "request_id": "req-1", "effect": "revoked"}));
    let mut client = Client::greeted(&script).await;
    let listed = client.tool("list_scopes", json!({})).await;
    assert_eq!(listed["structuredContent"], json!({"scopes": []}));
    let ask = json!({"scope": "demo.read", "params": {"dataset": "d"}, "reason": "r",
        "ttl": "5m", "task": "t", "delegation": "d1", "idempotency_key": "k"});
    let got = client.tool("request_credential", ask.clone()).await;
    assert_eq!(got["structuredContent"], granted());
    assert_eq!(got["isError"], false);
    assert!(!got["content"].to_string().contains("hush"), "the words hold no credential");
    let ids = json!({"request_id": "req-1", "seconds": 0});
    let waited = client.tool("wait_for_request", ids).await;
    assert_eq!(waited["structuredContent"], pending(json!({})));
    assert_eq!(waited["isError"], false);
    let said = json!({"request_id": "req-1", "text": "because"});
    client.tool("answer_question", said).await;
    let done = client.tool("release_credential", json!({"request_id": "req-1"})).await;
    assert_eq!(done["structuredContent"]["effect"], "revoked");
    let asked = script.asked();
    for (asked, (line, body)) in asked.iter().zip([
        ("GET /v1/scopes HTTP/1.1", String::new()),
        ("POST /v1/credentials HTTP/1.1", ask.to_string()),
        ("GET /v1/requests/req-1?wait=0s HTTP/1.1", String::new()),
        ("POST /v1/requests/req-1/answer HTTP/1.1", r#"{"text":"because"}"#.into()),
        ("POST /v1/requests/req-1/release HTTP/1.1", String::new()),
    ]) {
        assert!(asked.starts_with(&format!("{line}\n")), "{asked}");
        assert!(asked.contains(&format!("\nauthorization: Bearer {TOKEN}\n")), "{asked}");
        assert!(asked.ends_with(&format!("\n\n{body}")), "{asked}");
    }
    assert_eq!(asked.len(), 5);
    client.end().await;
}

#[tokio::test]
async fn a_refusal_is_an_error_with_the_problem() {
    let script = Script::default();
    let problem = json!({"type": "urn:x", "title": "T", "status": 403, "code": "denied",
        "detail": "policy says no", "next": "Do not ask again."});
    script.then(403, problem.clone()).then(502, json!(["no sidecar"]));
    let mut client = Client::stateless(&script).await;
    let ask = json!({"scope": "demo.drop-tables", "params": {}, "reason": "r"});
    let said = client.tool("request_credential", ask.clone()).await;
    assert_eq!((&said["isError"], &said["structuredContent"]), (&json!(true), &problem));
    let words = said["content"][0]["text"].as_str().unwrap();
    assert!(words.contains("`denied`") && words.contains("policy says no"), "{words}");
    let said = client.tool("request_credential", ask).await;
    assert_eq!(said["structuredContent"]["code"], "bad_answer");
    client.end().await;
}

#[tokio::test]
async fn wrong_calls_never_reach_the_sidecar() {
    let script = Script::default();
    let mut client = Client::greeted(&script).await;
    for (tool, arguments, why) in [
        ("list_scopes", json!({"x": 1}), "unknown argument `x`"),
        ("request_credential", json!({"scope": "a", "params": {}}), "wants `reason`"),
        (
            "request_credential",
            json!({"scope": "a", "params": {}, "reason": "r", "on_behalf_of": "x"}),
            "unknown argument `on_behalf_of`",
        ),
        ("wait_for_request", json!({"request_id": "r1", "seconds": 601}), "0 to 600"),
        ("answer_question", json!({"request_id": "../x", "text": "t"}), "`request_id`"),
        ("release_credential", json!({"request_id": ".."}), "`request_id`"),
    ] {
        let said = client.tool(tool, arguments).await;
        assert_eq!(said["isError"], true);
        let detail = said["structuredContent"]["detail"].as_str().unwrap();
        assert!(detail.contains(why), "{detail}");
    }
    for params in [
        json!({}),
        json!({"name": "approve"}),
        json!({"name": 1}),
        json!({"name": "list_scopes", "arguments": []}),
    ] {
        assert_eq!(client.ask("tools/call", params).await["error"]["code"], -32602);
    }
    assert!(script.asked().is_empty());
    client.end().await;
}

#[tokio::test]
async fn a_wait_tells_its_progress_and_ends_with_the_grant() {
    let script = Script::default();
    script
        .then(202, pending(json!({})))
        .after(1000, 202, pending(json!({})))
        .after(10, 503, json!({"code": "being_issued"}))
        .after(10, 200, granted());
    let mut client = Client::stateless(&script).await;
    let call = json!({"name": "wait_for_request", "arguments": {"request_id": "req-1",
        "seconds": 30}, "_meta": {"progressToken": "tok"}});
    let id = client.send("tools/call", call).await;
    let mut before = 0.0;
    loop {
        let said = client.next().await;
        if said.get("id").is_some() {
            assert_eq!(said["id"], id);
            assert_eq!(said["result"]["structuredContent"], granted());
            break;
        }
        assert_eq!(said["method"], "notifications/progress");
        assert_eq!(said["params"]["progressToken"], "tok");
        let progress = said["params"]["progress"].as_f64().unwrap();
        assert!(progress > before && progress < 30.0, "{said}");
        before = progress;
    }
    assert!(before > 0.0, "nothing was told");
    assert!(script.asked()[1].starts_with("GET /v1/requests/req-1?wait=1s "));
    client.end().await;
}

#[tokio::test]
async fn a_wait_ends_at_a_question_and_when_its_time_is_up() {
    let script = Script::default();
    let question = pending(json!({"question": {"by": "bob", "text": "why?"}}));
    script
        .then(202, pending(json!({})))
        .after(50, 202, question.clone())
        .then(202, pending(json!({})))
        .after(1000, 202, pending(json!({})));
    let mut client = Client::greeted(&script).await;
    let ids = json!({"request_id": "req-1", "seconds": 30});
    let said = client.tool("wait_for_request", ids).await;
    assert_eq!(said["structuredContent"], question);
    assert!(said["content"][0]["text"].as_str().unwrap().contains("answer_question"));
    let begun = std::time::Instant::now();
    let said = client.tool("wait_for_request", json!({"request_id": "req-1", "seconds": 1})).await;
    assert_eq!(said["structuredContent"]["state"], "pending");
    assert!(begun.elapsed() < Duration::from_secs(3));
    client.end().await;
}

#[tokio::test]
async fn cancelling_ends_a_wait_unanswered_while_other_calls_go_on() {
    let script = Script::default();
    script.after(60_000, 202, pending(json!({}))).then(200, json!({"scopes": []}));
    let mut client = Client::greeted(&script).await;
    let call = json!({"name": "wait_for_request", "arguments": {"request_id": "req-1"}});
    let id = client.send("tools/call", call).await;
    while script.asked().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let again = format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"list_scopes"}}}}"#
    );
    client.line(&again).await;
    assert_eq!(client.next().await["error"]["code"], -32600, "the id is in use");
    assert_eq!(client.tool("list_scopes", json!({})).await["isError"], false);
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
        "params": {"requestId": id, "reason": "no longer wanted"}});
    client.line(&cancel.to_string()).await;
    assert_eq!(client.ask("ping", json!({})).await["result"], json!({}));
    let begun = std::time::Instant::now();
    client.end().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "nothing was left to wait for");
}

#[tokio::test]
async fn what_is_no_message_is_answered_and_the_next_one_is_heard() {
    let script = Script::default();
    let mut client = Client::new(&script).await;
    client.line("{").await;
    assert_eq!(client.next().await["error"]["code"], -32700);
    client.line(&"x".repeat(super::rpc::MOST_LINE + 1)).await;
    assert_eq!(client.next().await["error"]["code"], -32700);
    client.line(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#).await;
    assert_eq!(client.next().await["error"]["code"], -32600);
    client.line(r#"{"jsonrpc":"2.0","method":"no/such/notification"}"#).await;
    client.line("").await;
    assert_eq!(client.ask("ping", json!({})).await["result"], json!({}));
    client.end().await;
}

#[tokio::test]
async fn a_call_that_is_under_way_at_the_end_is_still_answered() {
    let script = Script::default();
    script.after(200, 200, granted());
    let mut client = Client::greeted(&script).await;
    let ask = json!({"scope": "demo.read", "params": {}, "reason": "r"});
    let id =
        client.send("tools/call", json!({"name": "request_credential", "arguments": ask})).await;
    client.say.as_mut().unwrap().shutdown().await.unwrap();
    assert_eq!(client.next().await["id"], id);
    client.end().await;
}

#[tokio::test]
async fn the_unix_socket_wants_no_token() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sidecar.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let script = Script::default();
    script.then(200, json!({"scopes": []}));
    let accepting = script.clone();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        accepting.serve(stream).await;
    });
    let settings = Settings { sidecar_socket: Some(socket), ..Settings::default() };
    let mut client = Client { stateless: true, ..Client::at(&settings, dir) };
    let said = client.tool("list_scopes", json!({})).await;
    assert_eq!(said["structuredContent"], json!({"scopes": []}));
    let asked = script.asked();
    assert!(asked[0].contains("\nhost: localhost\n") && !asked[0].contains("authorization"));
    client.end().await;
}

#[tokio::test]
async fn a_sidecar_that_is_away_is_a_problem_not_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let settings =
        Settings { sidecar_socket: Some(dir.path().join("none.sock")), ..Settings::default() };
    let mut client = Client { stateless: true, ..Client::at(&settings, dir) };
    for _ in 0..2 {
        let said = client.tool("list_scopes", json!({})).await;
        assert_eq!(said["isError"], true);
        assert_eq!(said["structuredContent"]["code"], "sidecar_away");
    }
    client.end().await;
}
