//! The gRPC door: the HTTP door's calls in other words, by its own generated client; and what a hostile
//! client of HTTP/2 may send.

use bytes::Bytes;
use grantwright_wire::agent;
use grantwright_wire::agent::v1::agent_client::AgentClient;
use grantwright_wire::agent::v1::standing::Detail;
use grantwright_wire::agent::v1::{
    AnswerRequest, AskRequest, CancelRequest, Granted, Problem, ReleaseRequest, ScopesRequest,
    Standing, WaitRequest, WatchRequest,
};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::broker::Scripted;
use crate::client::Running;

macro_rules! begin {
    ($broker:ident, $sidecar:ident, $agent:ident) => {
        let dir = tempfile::tempdir().unwrap();
        #[allow(unused_mut)]
        let mut $broker = Scripted::start();
        let $sidecar = Running::start(&$broker, dir.path()).await;
        #[allow(unused_mut)]
        let mut $agent = Agent::of(&$sidecar);
    };
}

/// The generated client, with the agent's token.
struct Agent {
    client: AgentClient<Channel>,
    token: String,
}

impl Agent {
    fn of(sidecar: &Running) -> Self {
        let to = Endpoint::from_shared(format!("http://{}", sidecar.tcp)).unwrap().connect_lazy();
        Self { client: AgentClient::new(to), token: sidecar.token("agent.token") }
    }

    fn call<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let token = format!("Bearer {}", self.token).parse().unwrap();
        request.metadata_mut().insert("authorization", token);
        request
    }

    async fn ask(&mut self, ask: AskRequest) -> Result<Standing, Status> {
        let request = self.call(ask);
        Ok(self.client.ask(request).await?.into_inner())
    }

    async fn wait(&mut self, id: &str, wait_ms: u32) -> Result<Standing, Status> {
        let request = self.call(WaitRequest { request_id: id.into(), wait_ms });
        Ok(self.client.wait(request).await?.into_inner())
    }

    async fn cancel(&mut self, id: &str) -> Result<Standing, Status> {
        let request = self.call(CancelRequest { request_id: id.into() });
        Ok(self.client.cancel(request).await?.into_inner())
    }

    async fn release(&mut self, id: &str) -> Result<Standing, Status> {
        let request = self.call(ReleaseRequest { request_id: id.into() });
        Ok(self.client.release(request).await?.into_inner())
    }

    async fn answer(&mut self, id: &str, text: &str) -> Result<Standing, Status> {
        let request = self.call(AnswerRequest { request_id: id.into(), text: text.into() });
        Ok(self.client.answer(request).await?.into_inner())
    }
}

fn of(scope: &str) -> AskRequest {
    AskRequest { scope: scope.into(), reason: "test".into(), ..AskRequest::default() }
}

fn granted(standing: &Standing) -> &Granted {
    let Some(Detail::Granted(granted)) = &standing.detail else { panic!("{standing:?}") };
    assert_eq!(standing.state, "granted");
    granted
}

/// The problem of a refusal; its message holds what the problem says.
fn problem<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, Problem) {
    let status = answer.unwrap_err();
    let problem = agent::problem(&status).unwrap_or_else(|| panic!("{status:?}"));
    assert!(status.message().starts_with(&problem.title), "{status:?}");
    assert!(status.message().ends_with(&problem.next), "{status:?}");
    (status.code(), problem)
}

#[tokio::test]
async fn both_doors_give_the_same_credential_from_the_same_memory() {
    begin!(broker, sidecar, agent);
    let standing = agent.ask(of("demo.read")).await.unwrap();
    let body = sidecar.ask("demo.read").await.body;
    assert_eq!(broker.asks_for("demo.read"), 1);
    let granted = granted(&standing);
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(json(&granted.credential_json), body["credential"]);
    assert_eq!(json(&granted.receipt_json), body["receipt"]);
    assert_eq!(json(&granted.params_json), body["params"]);
    assert_eq!(standing.request_id, body["request_id"]);
    assert_eq!(granted.lease_id, body["lease_id"]);
    assert_eq!(granted.revocable, body["revocable"]);
    assert!(granted.expires_at_ms > 0);
    for _ in 0..20 {
        assert_eq!(agent.ask(of("demo.read")).await.unwrap(), standing);
    }
    assert_eq!(agent.wait("r-1", 0).await.unwrap(), standing);
    assert_eq!(broker.script().asks.len(), 1);
}

/// SECURITY 6: one key, whichever door it comes by.
#[tokio::test]
async fn a_key_holds_at_both_doors() {
    begin!(broker, sidecar, agent);
    let keyed = |reason: &str| AskRequest {
        scope: "demo.read".into(),
        params_json: r#"{ "dataset": "a" }"#.into(),
        ttl: "15m".into(),
        reason: reason.into(),
        idempotency_key: "k-1".into(),
        ..AskRequest::default()
    };
    let first = agent.ask(keyed("r")).await.unwrap();
    let body = r#"{"idempotency_key":"k-1","ttl":"15m","scope":"demo.read","reason":"r","params":{"dataset":"a"}}"#;
    assert_eq!(sidecar.post(body).await.body["request_id"], first.request_id);
    let (code, told) = problem(agent.ask(keyed("another")).await);
    assert_eq!((code, told.status, told.code.as_str()), (Code::Aborted, 409, "key_reused"));
    // As metadata it is the same key.
    let mut request = agent.call(AskRequest { idempotency_key: String::new(), ..keyed("r") });
    request.metadata_mut().insert("idempotency-key", "k-1".parse().unwrap());
    assert_eq!(agent.client.ask(request).await.unwrap().into_inner(), first);
    assert_eq!(broker.script().asks[0].params_jcs, br#"{"dataset":"a"}"#);
}

#[tokio::test]
async fn people_decide_and_a_watch_is_told() {
    begin!(broker, sidecar, agent);
    let pending = agent.ask(of("demo.export")).await.unwrap();
    let Some(Detail::Pending(told)) = &pending.detail else { panic!("{pending:?}") };
    assert_eq!((pending.state.as_str(), pending.request_id.as_str()), ("pending", "r-1"));
    assert_eq!((told.votes_needed, told.strength.as_str()), (1, "chat"));
    assert_eq!(told.groups, ["reviewers"]);
    assert_eq!(told.link, "http://localhost:1/requests/r-1");
    assert_eq!(agent.ask(of("demo.export")).await.unwrap(), pending);
    assert_eq!(agent.wait("r-1", 0).await.unwrap(), pending);
    let request = agent.call(WatchRequest { request_id: "r-1".into() });
    let mut watch = agent.client.watch(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap(), pending);
    broker.approve("r-1");
    let last = watch.message().await.unwrap().unwrap();
    assert_eq!(granted(&last).lease_id, "lease-r-1");
    assert!(watch.message().await.unwrap().is_none());
    assert_eq!(agent.wait("r-1", 60_000).await.unwrap(), last);
    assert_eq!(sidecar.get("/v1/requests/r-1").await.body["lease_id"], "lease-r-1");
}

#[tokio::test]
async fn how_a_request_ends_is_a_refusal_to_an_ask_and_a_state_to_a_look() {
    begin!(broker, sidecar, agent);
    let (code, told) = problem(agent.ask(of("demo.deny")).await);
    assert_eq!((code, told.status, told.code.as_str()), (Code::PermissionDenied, 403, "denied"));
    let http = sidecar.ask("demo.deny").await.body;
    for (field, said) in [("title", &told.title), ("detail", &told.detail), ("next", &told.next)] {
        assert_eq!(http[field], *said, "{field}");
    }
    agent.ask(of("demo.export")).await.unwrap();
    let request = agent.call(WatchRequest { request_id: "r-1".into() });
    let mut watch = agent.client.watch(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().state, "pending");
    broker.deny("r-1");
    let end = watch.message().await.unwrap().unwrap();
    let Some(Detail::Ended(told)) = &end.detail else { panic!("{end:?}") };
    assert_eq!((end.state.as_str(), told.reason.as_str()), ("denied", "no"));
    assert!(watch.message().await.unwrap().is_none());
    assert_eq!(agent.wait("r-1", 0).await.unwrap(), end);
    assert_eq!(agent.cancel("r-1").await.unwrap().state, "cancelled");
}

#[tokio::test]
async fn questions_are_answered_and_credentials_released() {
    begin!(broker, sidecar, agent);
    agent.ask(of("demo.export")).await.unwrap();
    assert_eq!(agent.answer("r-1", "why not").await.unwrap().state, "pending");
    let (_, told) = problem(agent.answer("r-1", " ").await);
    assert_eq!(told.code, "malformed");
    assert_eq!(agent.release("r-1").await.unwrap().state, "cancelled");
    let second = agent.ask(of("demo.read")).await.unwrap();
    let released = agent.release(&second.request_id).await.unwrap();
    let Some(Detail::Released(told)) = &released.detail else { panic!("{released:?}") };
    assert_eq!((released.state.as_str(), told.ended), ("released", true));
    assert_eq!((told.lease_id.as_str(), told.effect.as_str()), ("lease-r-2", "gone"));
    assert_eq!(agent.ask(of("demo.read")).await.unwrap().request_id, "r-3");
    assert_eq!(broker.asks_for("demo.read"), 2);
}

#[tokio::test]
async fn scopes_are_listed_and_one_is_described() {
    begin!(_broker, sidecar, agent);
    let request = agent.call(ScopesRequest::default());
    let all = agent.client.scopes(request).await.unwrap().into_inner().scopes;
    let listed = sidecar.get("/v1/scopes").await.body;
    let http = listed["scopes"].as_array().unwrap();
    assert_eq!(all.len(), http.len());
    for (told, listed) in all.iter().zip(http) {
        let json: serde_json::Value = serde_json::from_str(&told.scope_json).unwrap();
        assert_eq!((&json, &listed["name"]), (listed, &told.name.as_str().into()));
    }
    let one = agent.call(ScopesRequest { scope: all[0].name.clone() });
    assert_eq!(agent.client.scopes(one).await.unwrap().into_inner().scopes, all[..1]);
    let none = agent.call(ScopesRequest { scope: "no.such".into() });
    let (code, told) = problem(agent.client.scopes(none).await.map(|_| ()));
    assert_eq!((code, told.code.as_str()), (Code::NotFound, "unknown_scope"));
}

#[tokio::test]
async fn anything_unclear_is_refused() {
    begin!(broker, sidecar, agent);
    let ask = |change: fn(&mut AskRequest)| {
        let mut ask = of("demo.read");
        change(&mut ask);
        ask
    };
    for (ask, code) in [
        (ask(|it| it.scope.clear()), "malformed"),
        (ask(|it| it.reason.clear()), "malformed"),
        (ask(|it| it.reason = "é".repeat(2001)), "malformed"),
        (ask(|it| it.task = "t".repeat(201)), "malformed"),
        (ask(|it| it.params_json = "[]".into()), "malformed"),
        (ask(|it| it.params_json = "{".into()), "malformed"),
        (ask(|it| it.params_json = r#"{"a":1,"a":1}"#.into()), "malformed"),
        (ask(|it| it.params_json = r#"{"a":1.5}"#.into()), "malformed"),
        (ask(|it| it.params_json = r#"{} {}"#.into()), "malformed"),
        (ask(|it| it.ttl = "15".into()), "bad_ttl"),
        (ask(|it| it.idempotency_key = "a b".into()), "malformed"),
        (ask(|it| it.scope = "A b".into()), "unknown_scope"),
        (ask(|it| it.delegation = "/".into()), "delegation_unknown"),
    ] {
        let shown = format!("{ask:?}");
        assert_eq!(problem(agent.ask(ask).await).1.code, code, "{shown}");
    }
    assert_eq!(problem(agent.wait("r-1", 60_001).await).1.code, "malformed");
    for id in ["", "r-99", "a b", "../r-1"] {
        assert_eq!(problem(agent.wait(id, 0).await).1.code, "unknown_request", "{id}");
        let request = agent.call(WatchRequest { request_id: id.into() });
        let told = problem(agent.client.watch(request).await.map(|_| ())).1;
        assert_eq!(told.code, "unknown_request", "{id}");
    }
    assert!(broker.script().asks.is_empty());
}

#[tokio::test]
async fn while_the_broker_is_away_valid_credentials_serve_and_new_asks_say_so() {
    begin!(broker, sidecar, agent);
    let first = agent.ask(of("demo.read")).await.unwrap();
    broker.kill();
    assert_eq!(agent.ask(of("demo.read")).await.unwrap(), first);
    let (code, told) = problem(agent.ask(of("demo.other")).await);
    assert_eq!((code, told.code.as_str(), told.status), (Code::Unavailable, "broker_away", 503));
    assert!(told.retry_after_ms > 0);
}

/// A call of HTTP/2, as it is: its status, the status of gRPC, and the code of the problem.
async fn raw(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    uri: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, Option<i32>, String) {
    let io = TokioIo::new(stream);
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let driven = tokio::spawn(connection);
    let mut request = http::Request::post(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = Full::new(Bytes::copy_from_slice(body));
    let answer = match send.send_request(request.body(body).unwrap()).await {
        Ok(answer) => answer,
        Err(error) => return (0, None, error.to_string()),
    };
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_else(|| head.headers.clone());
    let status = Status::from_header_map(&trailers);
    let told = status.as_ref().and_then(agent::problem).map(|it| it.code).unwrap_or_default();
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    driven.abort();
    let code = status.map(|it| it.code().into());
    (head.status.as_u16(), code, if told.is_empty() { text } else { told })
}

#[tokio::test]
async fn the_guard_stands_before_this_door_too() {
    begin!(_broker, sidecar, agent);
    let (here, token) = (format!("http://{}", sidecar.tcp), format!("Bearer {}", agent.token));
    let aws = sidecar.token("aws.token");
    let path = "/grantwright.agent.v1.Agent/Scopes";
    let empty = [0; 5];
    let (auth, grpc) = (("authorization", token.as_str()), ("content-type", "application/grpc"));
    for (at, headers, told) in [
        (here.as_str(), vec![grpc, auth], 0),
        (&here, vec![("content-type", "application/grpc+proto"), auth], 0),
        (&here, vec![grpc, ("authorization", &agent.token)], 0),
        (&here, vec![grpc], 16),
        (&here, vec![grpc, ("authorization", "Bearer x")], 16),
        (&here, vec![grpc, auth, auth], 16),
        (&here, vec![grpc, ("authorization", &aws)], 16),
        (&here, vec![grpc, auth, ("origin", "null")], 7),
        (&here, vec![grpc, auth, ("origin", &here)], 7),
        (&here, vec![grpc, auth, ("x-forwarded-for", "127.0.0.1")], 7),
        (&here, vec![grpc, auth, ("via", "1.1 p")], 7),
        (&here, vec![grpc, auth, ("host", "evil.example")], 7),
        ("http://evil.example", vec![grpc, auth], 7),
        ("http://127.0.0.1.evil.example", vec![grpc, auth], 7),
        ("http://localhost", vec![grpc, auth], 0),
    ] {
        let stream = TcpStream::connect(&sidecar.tcp).await.unwrap();
        let (status, code, said) = raw(stream, &format!("{at}{path}"), &headers, &empty).await;
        assert_eq!((status, code), (200, Some(told)), "{at} {headers:?} {said}");
        let word = match told {
            16 => "unauthorized",
            7 => "guard",
            _ => continue,
        };
        assert_eq!(said, word, "{at} {headers:?}");
    }
    // The unix socket knows who calls.
    let connect = || UnixStream::connect(sidecar.dir.join("sidecar.sock"));
    let local = format!("http://localhost{path}");
    let (_, code, said) = raw(connect().await.unwrap(), &local, &[grpc], &empty).await;
    assert_eq!(code, Some(0), "{said}");
    let foreign = [grpc, ("origin", "null")];
    let (_, code, said) = raw(connect().await.unwrap(), &local, &foreign, &empty).await;
    assert_eq!((code, said.as_str()), (Some(7), "guard"));
}

/// SECURITY 28, and nothing but gRPC by HTTP/2.
#[tokio::test]
async fn what_is_no_call_of_the_service_is_refused() {
    begin!(broker, sidecar, agent);
    let (here, token) = (format!("http://{}", sidecar.tcp), format!("Bearer {}", agent.token));
    let auth = ("authorization", token.as_str());
    let grpc = ("content-type", "application/grpc");
    let ask = "/grantwright.agent.v1.Agent/Ask";
    let large = [&[0, 0, 2, 0, 0][..], &[b'x'; 0x2_0000]].concat();
    let good = agent::frame(&of("demo.read"));
    let two = [&good[..], &good[..]].concat();
    let compressed = [&[1], &good[1..]].concat();
    for (path, headers, body, told, word) in [
        ("/grantwright.agent.v1.Agent/Approve", vec![grpc, auth], &good[..], 12, ""),
        ("/grantwright.agent.v1.Agent/", vec![grpc, auth], &good, 12, ""),
        ("/grantwright.agent.v1.Agent/Ask/x", vec![grpc, auth], &good, 12, ""),
        ("//grantwright.agent.v1.Agent/Ask", vec![grpc, auth], &good, 12, ""),
        ("/grantwright.v1.Broker/Ask", vec![grpc, auth], &good, 12, ""),
        ("/v1/credentials", vec![grpc, auth], &good, 12, ""),
        (ask, vec![grpc, auth], &large, 8, "too_large"),
        (ask, vec![grpc, auth], &two, 3, "malformed"),
        (ask, vec![grpc, auth], &compressed, 3, "malformed"),
        (ask, vec![grpc, auth], &[], 3, "malformed"),
        (ask, vec![grpc, auth], &[0, 0, 0, 0, 9, 1], 3, "malformed"),
        (ask, vec![grpc, auth], &[0, 0, 0, 0, 2, 0xff, 0xff], 3, "malformed"),
        (
            ask,
            vec![grpc, auth, ("idempotency-key", "a"), ("idempotency-key", "a")],
            &good,
            3,
            "malformed",
        ),
    ] {
        let stream = TcpStream::connect(&sidecar.tcp).await.unwrap();
        let (status, code, said) = raw(stream, &format!("{here}{path}"), &headers, body).await;
        assert_eq!((status, code, said.as_str()), (200, Some(told), word), "{path}");
    }
    let json = ("content-type", "application/json");
    let text = ("content-type", "text/plain");
    for (path, headers, wanted, word) in [
        (ask, vec![json, auth], 415, "not_grpc"),
        ("/v1/credentials", vec![json, auth], 415, "not_grpc"),
        ("/healthz", vec![auth], 415, "not_grpc"),
        (ask, vec![grpc, text, auth], 415, "not_grpc"),
        ("/v1/credentials", vec![json], 401, "unauthorized"),
        ("/healthz", vec![auth, ("origin", "null")], 403, "guard"),
    ] {
        let stream = TcpStream::connect(&sidecar.tcp).await.unwrap();
        let (status, code, said) = raw(stream, &format!("{here}{path}"), &headers, &good).await;
        assert_eq!((status, code), (wanted, None), "{path} {said}");
        let body: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(body["code"], word, "{path}");
    }
    // A head beyond its bound is not answered, or with 431; the door goes on.
    let long = "x".repeat(20_000);
    let stream = TcpStream::connect(&sidecar.tcp).await.unwrap();
    let headers = [grpc, auth, ("x-long", long.as_str())];
    let (status, ..) = raw(stream, &format!("{here}{ask}"), &headers, &good).await;
    assert!(matches!(status, 0 | 431), "{status}");
    assert!(broker.script().asks.is_empty());
    agent.ask(of("demo.read")).await.unwrap();
}

/// The preface in pieces is a preface; what only begins like one is not answered as HTTP/2, and HTTP/1 that
/// comes byte by byte is HTTP/1.
#[tokio::test]
async fn which_protocol_it_is_shows_in_the_first_bytes() {
    begin!(_broker, sidecar, agent);
    let mut stream = TcpStream::connect(&sidecar.tcp).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "SETTINGS come first");

    let mut stream = TcpStream::connect(&sidecar.tcp).await.unwrap();
    stream.write_all(b"PRI /v1/scopes HTTP/1.1\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    assert!(!String::from_utf8_lossy(&said).contains("HTTP/1.1 200"));

    let call = format!(
        "POST /v1/credentials HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\nConnection: close\r\n\
         Content-Length: 2\r\n\r\n{{}}",
        sidecar.tcp, agent.token
    );
    let mut stream = TcpStream::connect(&sidecar.tcp).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in call.as_bytes() {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");

    // A client that leaves at any point ends nothing but its own connection.
    for at in 0..24 {
        let mut stream = TcpStream::connect(&sidecar.tcp).await.unwrap();
        stream.write_all(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..at]).await.unwrap();
    }
    agent.ask(of("demo.read")).await.unwrap();
}

/// SECURITY 28: one connection has so many calls at a time, and the next ones wait.
#[tokio::test]
async fn calls_of_one_connection_are_bounded() {
    begin!(broker, sidecar, agent);
    agent.ask(of("demo.export")).await.unwrap();
    let wait = |wait_ms| agent.call(WaitRequest { request_id: "r-1".into(), wait_ms });
    let calls: Vec<_> = (0..100)
        .map(|n| {
            let (mut client, request) = (agent.client.clone(), wait(60_000 - n));
            tokio::spawn(async move { client.wait(request).await })
        })
        .collect();
    sidecar.until("waited", || async { broker.script().collects >= 32 }).await;
    assert_eq!(broker.script().collects, 32);
    broker.approve("r-1");
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().into_inner().state, "granted");
    }
    sidecar.stop().await;
}

/// Whoever hangs up, or watches when the sidecar ends, keeps nothing going.
#[tokio::test]
async fn a_watch_that_is_left_ends() {
    begin!(broker, sidecar, agent);
    agent.ask(of("demo.export")).await.unwrap();
    for _ in 0..600 {
        let request = agent.call(WatchRequest { request_id: "r-1".into() });
        let mut watch = match agent.client.watch(request).await {
            Ok(watch) => watch.into_inner(),
            // Those before are being left.
            Err(status) => {
                assert_eq!(agent::problem(&status).unwrap().code, "busy");
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                continue;
            }
        };
        assert_eq!(watch.message().await.unwrap().unwrap().state, "pending");
    }
    let request = agent.call(WatchRequest { request_id: "r-1".into() });
    let mut watch = agent.client.watch(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().state, "pending");
    sidecar.stop().await;
    assert!(!matches!(watch.message().await, Ok(Some(_))));
    drop(broker);
}
