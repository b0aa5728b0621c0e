//! Every backend that is reached over HTTP, behind a line that misbehaves: late, never, half, twice, a
//! gigabyte, storms of 429 and 5xx. One row per backend, one column per case, kept in `hostile.txt`
//! (`GRANTWRIGHT_BLESS=1` writes it anew); a backend without a row fails. What is wider than asked, for
//! another principal or expired is each backend's own matter, and tested beside it. PostgreSQL speaks no
//! HTTP: `tests/postgres.rs`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use grantwright_domain::{LeaseId, Params, Scope};
use grantwright_mint::conformance::danger_grant;
use grantwright_mint::{BACKENDS, MintError, Minted, Minter};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::fixtures::{now, patient};

/// Makes the minter for a backend at an address.
pub type Make = Box<dyn Fn(&str) -> Box<dyn Minter>>;

/// A backend that answers well, and how it is asked.
pub struct Row {
    pub name: &'static str,
    /// Where it listens.
    pub url: String,
    pub make: Make,
    pub asked: (Scope, Params),
    pub ttl_s: u32,
    /// In the first line of the call that makes the credential.
    pub makes: &'static str,
    /// It lives while the backend does.
    pub _alive: Box<dyn std::any::Any>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Well,
    /// Nothing comes back in time.
    Late,
    /// It reaches the backend, and the answer nobody.
    Never,
    Half,
    Twice,
    Gigabyte,
    /// The making call is answered so.
    Status(u16),
    /// Every call is.
    Storm(u16),
}

const CASES: [(&str, Line); 9] = [
    ("late", Line::Late),
    ("never", Line::Never),
    ("half", Line::Half),
    ("twice", Line::Twice),
    ("a gigabyte", Line::Gigabyte),
    ("429", Line::Status(429)),
    ("500", Line::Status(500)),
    ("storm of 429", Line::Storm(429)),
    ("storm of 503", Line::Storm(503)),
];

/// A line to a backend; each connection carries one call.
struct Front {
    url: String,
    calls: Arc<AtomicUsize>,
    made: Arc<AtomicUsize>,
}

impl Front {
    async fn start(to: &str, makes: &'static str, line: Line) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (calls, made) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let to = to.trim_start_matches("http://").to_owned();
        let counted = (Arc::clone(&calls), Arc::clone(&made));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (to, (calls, made)) = (to.clone(), counted.clone());
                tokio::spawn(async move {
                    pass(stream, &to, makes, line, &calls, &made).await;
                });
            }
        });
        Self { url, calls, made }
    }
}

async fn pass(
    mut client: TcpStream,
    to: &str,
    makes: &str,
    line: Line,
    calls: &AtomicUsize,
    made: &AtomicUsize,
) -> Option<()> {
    let call = message(&mut client).await?;
    calls.fetch_add(1, Ordering::SeqCst);
    let first = String::from_utf8_lossy(&call).lines().next().unwrap_or_default().to_owned();
    let is_making = first.contains(makes);
    made.fetch_add(usize::from(is_making), Ordering::SeqCst);
    let says = |status: u16| {
        format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}")
    };
    if let Line::Storm(status) = line {
        client.write_all(says(status).as_bytes()).await.ok()?;
        return client.shutdown().await.ok();
    }
    let mut server = TcpStream::connect(to).await.ok()?;
    server.write_all(&call).await.ok()?;
    let kept = message(&mut server).await?;
    let answer = closing(&kept);
    let line = if is_making { line } else { Line::Well };
    match line {
        Line::Late => tokio::time::sleep(Duration::from_secs(60)).await,
        Line::Never => {}
        Line::Half => client.write_all(&answer[..answer.len() - 20]).await.ok()?,
        Line::Twice => {
            // The connection stays: whoever asks on it again finds the second copy waiting.
            client.write_all(&kept).await.ok()?;
            client.write_all(&kept).await.ok()?;
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        Line::Gigabyte => {
            let head = b"HTTP/1.1 200 X\r\ncontent-length: 1073741824\r\n\r\n";
            client.write_all(head).await.ok()?;
            while client.write_all(&[b' '; 65536]).await.is_ok() {}
        }
        Line::Status(status) => client.write_all(says(status).as_bytes()).await.ok()?,
        Line::Well | Line::Storm(_) => client.write_all(&answer).await.ok()?,
    }
    client.shutdown().await.ok()
}

/// One HTTP message with a body of a told length.
async fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 16384];
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&chunk[..n]),
            _ => return None,
        }
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length =
            head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
        if bytes.len() >= end + 4 + length.unwrap_or(0) {
            return Some(bytes);
        }
    }
}

/// The same answer, after which the connection ends.
fn closing(answer: &[u8]) -> Vec<u8> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let kept: Vec<&str> =
        head.lines().filter(|l| !l.to_ascii_lowercase().starts_with("connection:")).collect();
    let mut out = kept.join("\r\n").into_bytes();
    out.extend_from_slice(b"\r\nconnection: close");
    out.extend_from_slice(&answer[end..]);
    out
}

async fn mint(row: &Row, minter: &dyn Minter) -> Result<Minted, MintError> {
    let (scope, params) = &row.asked;
    // All are of one lease here: what the one before left is in the way.
    let _ =
        patient(|| (row.make)(&row.url)).undo(&LeaseId::parse("l-1").unwrap(), scope, params).await;
    let grant = danger_grant(scope, params, &["bob"], row.ttl_s, now()).unwrap();
    minter.mint(grant, now()).await
}

/// What came of it, in a word; that it was within the rules is asserted.
async fn outcome(row: &Row, why: &str, line: Line, well: usize) -> &'static str {
    let front = Front::start(&row.url, row.makes, line).await;
    let minter = match line {
        Line::Late => (row.make)(&front.url),
        _ => patient(|| (row.make)(&front.url)),
    };
    let at = format!("{} {why}", row.name);
    if line == Line::Twice {
        // The second copy is nobody's answer.
        for n in 1..=2 {
            mint(row, minter.as_ref()).await.unwrap_or_else(|e| panic!("{at}: {e:?}"));
            assert_eq!(front.made.load(Ordering::SeqCst), n, "{at}: each grant its own call");
        }
        return "minted";
    }
    let error = mint(row, minter.as_ref()).await.map(drop).unwrap_err();
    assert!(front.made.load(Ordering::SeqCst) <= 1, "{at}: invariant 3: one call that makes");
    let definite = matches!(error, MintError::Refused { .. });
    match line {
        Line::Storm(_) => {
            assert!(definite || front.made.load(Ordering::SeqCst) == 1, "{at}: {error:?}");
            for _ in 0..2 {
                mint(row, minter.as_ref()).await.map(drop).unwrap_err();
            }
            // A look may be repeated once: a storm is not answered with one.
            let calls = front.calls.load(Ordering::SeqCst);
            assert!(calls <= 3 * (well + 2), "{at}: {calls} calls for three grants");
        }
        Line::Status(429) => assert!(definite, "{at}: {error:?}"),
        // Unknown, unless what was made is found by the lease and ended.
        _ => assert!(!definite || error.code() == "backend_away", "{at}: {error:?}"),
    }
    error.code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_08_every_backend_in_every_case() {
    let mut rows = crate::clouds::rows().await;
    rows.extend(crate::engines::rows().await);
    rows.extend(crate::authorities::rows().await);
    rows.push(crate::vault::row().await);
    rows.push(crate::vault::careful_row().await);
    rows.push(crate::sts::row().await);
    let mut table = BTreeMap::new();
    for row in &rows {
        let front = Front::start(&row.url, row.makes, Line::Well).await;
        mint(row, patient(|| (row.make)(&front.url)).as_ref())
            .await
            .unwrap_or_else(|e| panic!("{}: {e:?}", row.name));
        assert_eq!(front.made.load(Ordering::SeqCst), 1, "{}: which call makes it", row.name);
        let well = front.calls.load(Ordering::SeqCst);
        let mut cells = Vec::new();
        for (why, line) in CASES {
            cells.push(outcome(row, why, line, well).await);
        }
        table.insert(row.name, cells);
    }
    for backend in BACKENDS {
        let name = backend.declaration.name;
        let elsewhere = ["jwt", "ssh", "x509", "postgres"].contains(&name);
        assert_eq!(table.contains_key(name), !elsewhere, "`{name}`: no row, or one too many");
    }
    let mut text = String::from("backend");
    CASES.iter().for_each(|(why, _)| write!(text, " | {why}").unwrap());
    for (name, cells) in &table {
        write!(text, "\n{name} | {}", cells.join(" | ")).unwrap();
    }
    text.push('\n');
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mint/hostile.txt");
    if std::env::var_os("GRANTWRIGHT_BLESS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(file).unwrap_or_default());
}
