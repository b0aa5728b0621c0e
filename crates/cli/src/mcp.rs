//! `grantwright mcp`: the sidecar's door as tools of the Model Context Protocol, over stdin and
//! stdout, one JSON-RPC message a line, or with `--listen` over streamable HTTP. Both generations are spoken: 2024-11-05 to 2025-11-25, which
//! begin with `initialize`, and 2026-07-28, where each request says its version itself.
//!
//! It decides nothing and keeps nothing: every tool is one call, or one wait, at the sidecar.

mod arguments;
mod dispatch;
mod era;
mod http;
mod rpc;
mod serve;
#[cfg(test)]
mod tests;
mod tools;
mod words;

use std::path::Path;
use std::time::Duration;

use tokio::io::{stdin, stdout};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Settings;
use crate::door::Door;
use crate::exit::{Exit, Failure, Outcome};
use crate::files;

/// `grantwright mcp`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Environment: GRANTWRIGHT_SIDECAR with GRANTWRIGHT_TOKEN_FILE, or \
                  GRANTWRIGHT_SIDECAR_SOCKET. The first wins where both are there.")]
pub struct Args {
    /// Serve streamable HTTP at http://ADDRESS/mcp instead; a loopback address, port 0: the system's
    /// choice.
    #[arg(long, value_name = "ADDRESS", requires = "token_file")]
    listen: Option<std::net::SocketAddr>,
    /// Where a new bearer token for that address is written at every start (mode 0600).
    #[arg(long, value_name = "FILE", requires = "listen")]
    token_file: Option<std::path::PathBuf>,
    /// Written when it listens: {"url","pid"}.
    #[arg(long, value_name = "FILE", requires = "listen")]
    ready_file: Option<std::path::PathBuf>,
}

/// How often a waiting client hears of it, and how long a look at the sidecar takes at most.
const STEP: Duration = Duration::from_secs(5);

/// Serves until the client closes its end.
///
/// # Errors
/// Before it serves: no sidecar is named, or not one on this host.
pub fn run(settings: &Settings, args: &Args) -> Outcome {
    let door = Door::open(settings)?;
    say_to_stderr();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::unable(format!("cannot start: {e}")))?;
    if let (Some(at), Some(token_file)) = (args.listen, &args.token_file) {
        return runtime.block_on(listen(door, at, token_file, args.ready_file.as_deref()));
    }
    tracing::info!(sidecar = door.at(), "serving the Model Context Protocol on stdin and stdout");
    let served = runtime.block_on(serve::serve(stdin(), stdout(), door, STEP));
    // A read of stdin cannot be called off: it must not hold the end up.
    runtime.shutdown_background();
    served.map_err(|e| Failure::unable(format!("the client cannot be spoken to: {e}")))?;
    Ok(Exit::Done)
}

/// Serves HTTP until SIGTERM or SIGINT.
async fn listen(
    door: Door,
    at: std::net::SocketAddr,
    token_file: &Path,
    ready_file: Option<&Path>,
) -> Outcome {
    if !at.ip().is_loopback() {
        return Err(Failure::unable(format!("--listen {at}: want a loopback address")));
    }
    let failed = |e: std::io::Error| Failure::unable(format!("{at}: {e}"));
    let listener = tokio::net::TcpListener::bind(at).await.map_err(failed)?;
    let at = listener.local_addr().map_err(failed)?;
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| Failure::unable(format!("no randomness: {e}")))?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    files::write_private(token_file, &token)?;
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let url = format!("http://{at}/mcp");
    tracing::info!(sidecar = door.at(), url, "serving the Model Context Protocol over HTTP");
    if let Some(path) = ready_file {
        let ready = serde_json::json!({"url": url, "pid": std::process::id()});
        files::write_private(path, &ready.to_string())?;
    }
    let end = async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    };
    http::serve(listener, door, STEP, token, end).await.map_err(failed)?;
    Ok(Exit::Done)
}

/// Standard output belongs to the protocol.
fn say_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,grantwright=info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    let _ = lines.with_writer(std::io::stderr).try_init();
}
