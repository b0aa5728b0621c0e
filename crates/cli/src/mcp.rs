//! `grantwright mcp`: the sidecar's door as tools of the Model Context Protocol, over stdin and
//! stdout, one JSON-RPC message a line. Both generations are spoken: 2024-11-05 to 2025-11-25, which
//! begin with `initialize`, and 2026-07-28, where each request says its version itself.
//!
//! It decides nothing and keeps nothing: every tool is one call, or one wait, at the sidecar.

mod arguments;
mod era;
mod rpc;
mod serve;
#[cfg(test)]
mod tests;
mod tools;
mod words;

use std::time::Duration;

use tokio::io::{stdin, stdout};

use crate::config::Settings;
use crate::door::Door;
use crate::exit::{Exit, Failure, Outcome};

/// `grantwright mcp`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Environment: GRANTWRIGHT_SIDECAR with GRANTWRIGHT_TOKEN_FILE, or \
                  GRANTWRIGHT_SIDECAR_SOCKET. The first wins where both are there.")]
pub struct Args {}

/// How often a waiting client hears of it, and how long a look at the sidecar takes at most.
const STEP: Duration = Duration::from_secs(5);

/// Serves until the client closes its end.
///
/// # Errors
/// Before it serves: no sidecar is named, or not one on this host.
pub fn run(settings: &Settings, _: &Args) -> Outcome {
    let door = Door::open(settings)?;
    say_to_stderr();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::unable(format!("cannot start: {e}")))?;
    tracing::info!(sidecar = door.at(), "serving the Model Context Protocol on stdin and stdout");
    let served = runtime.block_on(serve::serve(stdin(), stdout(), door, STEP));
    // A read of stdin cannot be called off: it must not hold the end up.
    runtime.shutdown_background();
    served.map_err(|e| Failure::unable(format!("the client cannot be spoken to: {e}")))?;
    Ok(Exit::Done)
}

/// Standard output belongs to the protocol.
fn say_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,grantwright=info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    let _ = lines.with_writer(std::io::stderr).try_init();
}
