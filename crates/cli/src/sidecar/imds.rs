//! `grantwright sidecar --imds`: the instance metadata service, version 2 only, for software that knows
//! no other source of AWS credentials. It has no secret by which to know its callers, so it asks the
//! kernel: only processes of this user are answered. Everything else is the sidecar's own `/aws/` door.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, put};
use grantwright_broker::{Bounds, serve_http};
use grantwright_sidecar::guard;
use reqwest::Method;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::door::Door;
use crate::exit::Failure;

const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const TOKEN_LIFE: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
/// Longest life of a token, in seconds, as EC2 has it.
const MOST_LIFE: u64 = 21_600;
/// Tokens that are remembered; the oldest is forgotten, and its client asks for another.
const MOST_TOKENS: usize = 1024;
/// Connections at the same time. The sidecar's own doors are of the same process: strangers take no
/// descriptor of theirs.
const MOST_CONNECTIONS: usize = 128;
/// How long a head may take to arrive; a connection may idle as long.
const HEAD: Duration = Duration::from_secs(10);
/// How long one call may take, beyond all that is waited for behind it.
const CALL: Duration = Duration::from_secs(90);
/// What `/aws/` may take before it says that something is under way.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the sidecar's own doors are waited for at the start.
const START: Duration = Duration::from_secs(10);
/// How often they are tried meanwhile.
const TRY: Duration = Duration::from_millis(10);
/// What stands before an IPv4 address in the kernel's table of IPv6 sockets: `::ffff:`, in words of the
/// machine's order.
const MAPPED: &str = if cfg!(target_endian = "little") {
    "0000000000000000FFFF0000"
} else {
    "00000000000000000000FFFF"
};

/// What is served.
pub struct Imds {
    door: Door,
    at: SocketAddr,
    /// The role's name: the scope's.
    role: String,
    /// `/aws/SCOPE?…`
    path: String,
    tokens: Mutex<VecDeque<(String, Instant)>>,
}

impl Imds {
    /// For what stands behind `/aws/` in the sidecar's addresses: `SCOPE?param=value&…`.
    ///
    /// # Errors
    /// When the address is not on loopback, or names no scope.
    pub fn new(door: Door, at: SocketAddr, what: &str) -> Result<Self, Failure> {
        if !matches!(at.ip(), IpAddr::V4(ip) if ip.is_loopback()) {
            return Err(Failure::unable(format!("--imds {at}: want an address of 127.0.0.0/8")));
        }
        let role = what.split('?').next().unwrap_or_default().to_owned();
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'#' | b'"' | b'\\');
        if role.is_empty() || role.contains('/') || !what.bytes().all(plain) {
            return Err(Failure::unable(format!("--imds-scope `{what}`: want SCOPE?name=value&…")));
        }
        Ok(Self { door, at, role, path: format!("/aws/{what}"), tokens: Mutex::default() })
    }

    /// Serves for ever.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn serve(mut self) -> Result<(), Failure> {
        let failed = |e: std::io::Error| Failure::unable(format!("--imds: {e}"));
        let listener = TcpListener::bind(self.at).await.map_err(failed)?;
        self.at = listener.local_addr().map_err(failed)?;
        // They open at about this moment. Who calls meanwhile waits in the listener's queue, and is not told
        // that there is no sidecar.
        let begun = Instant::now();
        while begun.elapsed() < START && !self.door.is_there().await {
            tokio::time::sleep(TRY).await;
        }
        tracing::info!(at = %self.at, role = self.role, "serving instance metadata (IMDSv2)");
        let credentials = "/latest/meta-data/iam/security-credentials";
        let routes = Router::new()
            .route("/latest/api/token", put(token))
            .route(&format!("{credentials}/"), get(role))
            .route(credentials, get(role))
            .route(&format!("{credentials}/{{role}}"), get(keys))
            .with_state(Arc::new(self));
        let bounds =
            Bounds { connections: MOST_CONNECTIONS, head: HEAD, call: CALL, strangers_leave: true };
        match serve_http(listener, None, routes, bounds).await {}
    }

    fn tokens(&self) -> MutexGuard<'_, VecDeque<(String, Instant)>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a local program of this user in.
    fn admit(&self, peer: SocketAddr, head: &Parts) -> Result<(), Box<Response>> {
        let refused = |status: StatusCode, words: &'static str| Err(Box::new(said(status, words)));
        if let Some(what) = guard::foreign(guard::Peer::Tcp, head) {
            return refused(StatusCode::FORBIDDEN, what);
        }
        if uid_of(peer, self.at) != Some(rustix::process::geteuid().as_raw()) {
            return refused(StatusCode::FORBIDDEN, "the call comes from another user");
        }
        Ok(())
    }

    /// The same, with a token.
    fn admit_with_token(&self, peer: SocketAddr, head: &Parts) -> Result<(), Box<Response>> {
        self.admit(peer, head)?;
        let shown = head.headers.get(&TOKEN).and_then(|it| it.to_str().ok()).unwrap_or_default();
        let now = Instant::now();
        let mut tokens = self.tokens();
        tokens.retain(|(_, until)| *until > now);
        if tokens.iter().any(|(token, _)| token == shown) {
            return Ok(());
        }
        Err(Box::new(said(StatusCode::UNAUTHORIZED, "PUT /latest/api/token gives a token")))
    }
}

async fn token(
    State(imds): State<Arc<Imds>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    head: Parts,
) -> Response {
    if let Err(refused) = imds.admit(peer, &head) {
        return *refused;
    }
    let life = head.headers.get(&TOKEN_LIFE).and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
    let Some(life) = life.filter(|it| (1..=MOST_LIFE).contains(it)) else {
        return said(
            StatusCode::BAD_REQUEST,
            "X-aws-ec2-metadata-token-ttl-seconds wants 1 to 21600",
        );
    };
    let mut bytes = [0; 32];
    if getrandom::fill(&mut bytes).is_err() {
        return said(StatusCode::SERVICE_UNAVAILABLE, "no randomness");
    }
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut tokens = imds.tokens();
    if tokens.len() >= MOST_TOKENS {
        tokens.pop_front();
    }
    tokens.push_back((token.clone(), Instant::now() + Duration::from_secs(life)));
    drop(tokens);
    let mut reply = said(StatusCode::OK, &token);
    reply.headers_mut().insert(TOKEN_LIFE, HeaderValue::from(life));
    reply
}

async fn role(
    State(imds): State<Arc<Imds>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    head: Parts,
) -> Response {
    match imds.admit_with_token(peer, &head) {
        Ok(()) => said(StatusCode::OK, &imds.role),
        Err(refused) => *refused,
    }
}

/// The credential; or, in the code and message that SDKs show, why there is none.
async fn keys(
    State(imds): State<Arc<Imds>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(asked): Path<String>,
    head: Parts,
) -> Response {
    if let Err(refused) = imds.admit_with_token(peer, &head) {
        return *refused;
    }
    if asked != imds.role {
        return said(StatusCode::NOT_FOUND, "there is no such role");
    }
    let reply = imds.door.call(Method::GET, &imds.path, None, PATIENCE).await;
    let now = now();
    let body = if reply.is_refusal() {
        let (code, message) = match reply.text("code") {
            "" => ("Failed", "no answer"),
            code => (code, reply.text("message")),
        };
        let message = if message.is_empty() { reply.text("detail") } else { message };
        tracing::warn!(code, message, "no credential for instance metadata");
        json!({"Code": code, "Message": message, "LastUpdated": now})
    } else {
        json!({
            "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": now,
            "AccessKeyId": reply.text("AccessKeyId"),
            "SecretAccessKey": reply.text("SecretAccessKey"),
            "Token": reply.text("Token"), "Expiration": reply.text("Expiration"),
        })
    };
    let mut answer = said(StatusCode::OK, &body.to_string());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn now() -> String {
    crate::config::now().whole_second().to_string()
}

fn said(status: StatusCode, words: &str) -> Response {
    let mut reply = (status, words.to_owned()).into_response();
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// Whose socket the other end of this connection is (proc(5), `/proc/net/tcp`); none where the kernel
/// does not say. A program may reach an IPv4 address from an IPv6 socket, as Java's do.
fn uid_of(peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    [("/proc/net/tcp", ""), ("/proc/net/tcp6", MAPPED)].into_iter().find_map(|(table, before)| {
        uid_in(&std::fs::read_to_string(table).ok()?, before, peer, own)
    })
}

fn uid_in(table: &str, before: &str, peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    let shown = |at: SocketAddr| match at.ip() {
        IpAddr::V4(ip) => {
            Some(format!("{before}{:08X}:{:04X}", u32::from_le_bytes(ip.octets()), at.port()))
        }
        IpAddr::V6(_) => None,
    };
    let (peer, own) = (shown(peer)?, shown(own)?);
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, remote) = (fields.next()?, fields.next()?);
        (local == peer && remote == own).then(|| fields.nth(4)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_whose_the_other_end_is() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     7\n\
             1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000     7\n\
             2: 0100007F:D431 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001\n";
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(uid_in(table, "", at(0xD431), at(0x1F90)), Some(1001));
        assert_eq!(uid_in(table, "", at(0xD432), at(0x1F90)), None);
        let listener = std::net::TcpListener::bind(at(0)).unwrap();
        let own = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(own).unwrap();
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(uid_of(client.local_addr().unwrap(), own), Some(uid));
        // The same from an IPv6 socket, where there is such a thing.
        let mapped = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        if let Ok(client) = std::net::TcpStream::connect((mapped, own.port())) {
            let peer = at(client.local_addr().unwrap().port());
            assert_eq!(uid_of(peer, own), Some(uid));
        }
    }

    /// Instance metadata and the sidecar's doors open on two threads.
    #[tokio::test]
    async fn who_calls_before_the_sidecar_is_there_waits_for_it() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0"));
        let mut free = Vec::new();
        for port in ports {
            free.push(port.await.unwrap().local_addr().unwrap());
        }
        let [at, own] = free[..] else { panic!("two ports") };
        let settings = crate::config::Settings {
            sidecar: Some(format!("http://{own}")),
            sidecar_token_file: Some("token".into()),
            ..Default::default()
        };
        let imds = Imds::new(Door::open(&settings).unwrap(), at, "aws.read").unwrap();
        tokio::spawn(imds.serve());
        let called = tokio::spawn(async move {
            let mut stream = loop {
                match tokio::net::TcpStream::connect(at).await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::time::sleep(TRY).await,
                }
            };
            stream.write_all(b"GET /latest/meta-data/ HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut answer = [0; 8];
            stream.read_exact(&mut answer).await.unwrap();
            answer
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!called.is_finished(), "answered without a sidecar");
        let sidecar = TcpListener::bind(own).await.unwrap();
        let (mut stream, _) = sidecar.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        assert_eq!(&called.await.unwrap(), b"HTTP/1.1");
    }
}
