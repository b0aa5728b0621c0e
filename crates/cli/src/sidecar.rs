//! `grantwright sidecar`: runs a sidecar until SIGTERM. The small binary `grantwright-sidecar` does
//! the same with less around it.

use std::path::PathBuf;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::Out;

/// `grantwright sidecar`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs it.
///
/// # Errors
/// Why it did not start.
pub fn run(_: &Out, args: &Args) -> Outcome {
    grantwright_sidecar::run(&args.config).map_err(|e| Failure::unable(format!("{e:#}")))?;
    Ok(Exit::Done)
}
