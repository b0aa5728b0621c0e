//! `grantwright witness`: a witness of transparency logs (C2SP tlog-witness). It stores one checkpoint per
//! log and cosigns a newer one only if it extends that. It calls nobody.

mod doors;
mod memory;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use grantwright_proof::{Cosigner, Vkey};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::output::Out;
use doors::Doors;
use memory::Memory;

/// `grantwright witness`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Begin with `--init NAME`, which makes its key; then name the logs in \
                        DIR/logs.txt, one `log <verifier key>` a line.")]
pub struct Args {
    /// Its folder: key, logs and the checkpoints that it cosigned last.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Make the folder and a key under this name, print the key, and end.
    #[arg(long, value_name = "NAME")]
    init: Option<String>,
    /// Where it listens; port 0 lets the system choose.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8447")]
    listen: String,
    /// Written once it listens: `{"http": address}`.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

/// Runs it until SIGTERM.
///
/// # Errors
/// Why it did not start.
pub async fn run(out: &Out, args: Args) -> Outcome {
    if let Some(name) = &args.init {
        let key = init(&args.dir, name)?;
        out.either(&serde_json::json!({ "vkey": key }), |out| out.line(key.as_str()));
        return Ok(Exit::Done);
    }
    crate::broker::trace(out.json);
    let cosigner = key(&args.dir)?;
    let logs = logs(&args.dir.join("logs.txt"))?;
    let listener = TcpListener::bind(&args.listen).await.map_err(|e| {
        Failure::unable(format!("cannot listen on {}: {e}; choose another port", args.listen))
    })?;
    let at = listener.local_addr().map_err(Failure::unable)?;
    let doors = Doors::new(cosigner, logs, Memory::open(&args.dir)?);
    if let Some(ready) = &args.ready_file {
        let said = serde_json::json!({"http": at.to_string(), "pid": std::process::id()});
        files::write_private(ready, &said.to_string())?;
    }
    tracing::info!(http = %at, "the witness is up");
    let bounds = grantwright_broker::Bounds::of_this_process();
    let served = grantwright_broker::serve_http(listener, None, Arc::new(doors).router(), bounds);
    let on = |kind| signal(kind).map_err(|e| Failure::unable(format!("no signals: {e}")));
    let (mut term, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    tokio::select! {
        never = served => match never {},
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(Exit::Done)
}

/// Makes a witness's folder and key; the key that verifies.
///
/// # Errors
/// When it has a key already, or the name is none.
pub fn init(dir: &Path, name: &str) -> Result<String, Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    let place = dir.join("witness.seed");
    if place.exists() {
        return Err(Failure::unable(format!("`{}` is there already", place.display())));
    }
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(dir).map_err(|e| Failure::file(dir, &e))?;
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed)
        .map_err(|e| Failure::unable(format!("the system gives no randomness: {e}")))?;
    let cosigner = Cosigner::from_seed(name, &seed).map_err(Failure::unable)?;
    files::write_private(&dir.join("witness.name"), &format!("{name}\n"))?;
    files::write_private(&dir.join("witness.vkey"), &format!("{}\n", cosigner.key()))?;
    files::write_private(&place, &format!("{}\n", hex::encode(seed)))?;
    Ok(cosigner.key().to_string())
}

fn key(dir: &Path) -> Result<Cosigner, Failure> {
    let place = dir.join("witness.seed");
    if !place.exists() {
        return Err(Failure::unable(format!(
            "`{}` holds no key: make one with `grantwright witness --dir DIR --init NAME`",
            dir.display()
        )));
    }
    let seed = files::read_secret(&place)?;
    let seed = hex::decode(seed).ok().and_then(|s| <[u8; 32]>::try_from(s).ok());
    let seed = seed.ok_or_else(|| {
        Failure::unable(format!("`{}` is not 64 hexadecimal digits", place.display()))
    })?;
    let name = files::read_secret(&dir.join("witness.name"))?;
    Cosigner::from_seed(&name, &seed).map_err(Failure::unable)
}

/// The logs it knows: lines `log <verifier key>`, as in a C2SP tlog-policy; `#` begins a comment.
fn logs(place: &Path) -> Result<Vec<Vkey>, Failure> {
    let text = files::read(place)?;
    let mut out = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let mut words = line.split_whitespace();
        let (Some("log"), Some(key)) = (words.next(), words.next()) else {
            return Err(Failure::unable(format!(
                "`{}`: want `log <verifier key>` on each line",
                place.display()
            )));
        };
        let key =
            Vkey::parse(key).map_err(|e| Failure::unable(format!("`{}`: {e}", place.display())))?;
        out.push(key);
    }
    if out.is_empty() {
        return Err(Failure::unable(format!("`{}` names no log", place.display())));
    }
    Ok(out)
}
