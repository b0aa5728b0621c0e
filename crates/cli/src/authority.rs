//! `grantwright authority`: rolls the certificate authority over without losing a sidecar.

use std::path::PathBuf;

use clap::Subcommand;
use grantwright_broker::CaStep;
use serde_json::json;

use crate::exit::{Failure, Outcome};
use crate::output::Out;

/// `grantwright authority …`: three steps; wait an hour between them, the life of a sidecar's
/// certificate, and send the broker SIGHUP after each.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a next authority; it is trusted and does not sign yet.
    Prepare(Args),
    /// Let the next authority sign; the former stays trusted.
    Switch(Args),
    /// Trust only the authority that signs.
    Retire(Args),
}

/// Which broker.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The broker's configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Takes the step in the broker's key folder.
///
/// # Errors
/// When the step does not follow from the last one, or the keys cannot be written.
pub fn run(out: &Out, command: &Command) -> Outcome {
    let (args, step, done, next) = match command {
        Command::Prepare(args) => (
            args,
            CaStep::Prepare,
            "a next authority is made and trusted",
            "send the broker SIGHUP, wait an hour until every sidecar has renewed, then `switch`",
        ),
        Command::Switch(args) => (
            args,
            CaStep::Switch,
            "the next authority signs; the former is still trusted",
            "send the broker SIGHUP, wait an hour until every sidecar has renewed, then `retire`",
        ),
        Command::Retire(args) => (
            args,
            CaStep::Retire,
            "only the authority that signs is trusted",
            "send the broker SIGHUP",
        ),
    };
    grantwright_broker::ca_step(&args.config, step).map_err(Failure::unable)?;
    Ok(out.either(&json!({ "ok": true, "done": done, "next": next }), |out| {
        out.line(done);
        out.note(next);
    }))
}
