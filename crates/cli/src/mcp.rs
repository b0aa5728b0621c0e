//! `grantwright mcp`: says plainly that it is not here yet, and what works meanwhile.

use crate::exit::{Failure, Outcome};

/// `grantwright mcp`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Refuses.
///
/// # Errors
/// Always: this build has no such server.
pub fn run(_: &Args) -> Outcome {
    Err(Failure::unable(
        "this build does not serve the Model Context Protocol yet; it comes with a later release. \
         Meanwhile an agent asks the sidecar over HTTP: POST $GRANTWRIGHT_SIDECAR/v1/credentials",
    ))
}
