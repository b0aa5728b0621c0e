//! `grantwright broker`: runs the broker until SIGTERM.

use std::io::IsTerminal;
use std::path::PathBuf;

use grantwright_broker::LogFormat;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::Out;

/// `grantwright broker`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration that `grantwright init` made.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs it.
///
/// # Errors
/// Why it did not start.
pub fn run(out: &Out, args: &Args) -> Outcome {
    // A file with faults is told of by the start itself.
    let config = grantwright_broker::Config::load(&args.config);
    trace(out.json || config.is_ok_and(|it| it.log_format == LogFormat::Json));
    grantwright_broker::run(&args.config).map_err(Failure::unable)?;
    Ok(Exit::Done)
}

/// Sends traces to standard error: lines for people, or JSON.
pub fn trace(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour);
    let lines = lines.with_writer(std::io::stderr);
    // A second subscriber would be a mistake of ours; the first one stays.
    let _ = if json { lines.json().flatten_event(true).try_init() } else { lines.try_init() };
}
