//! `grantwright authority`: rolls the certificate authority over without losing a sidecar, and the token
//! issuers' keys without losing a token.

use std::path::PathBuf;

use clap::Subcommand;
use grantwright_broker::CaStep;
use serde_json::json;

use crate::exit::{Exit, Failure, Outcome};
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
    /// The keys that sign tokens, instead of the certificate authority.
    #[arg(long)]
    tokens: bool,
}

/// Takes the step in the broker's key folder.
///
/// # Errors
/// When the step does not follow from the last one, or the keys cannot be written.
pub fn run(out: &Out, command: &Command) -> Outcome {
    if let Some((args, step, done, next)) = of_tokens(command) {
        grantwright_broker::token_key_step(&args.config, step).map_err(Failure::unable)?;
        return Ok(said(out, done, next));
    }
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
    Ok(said(out, done, next))
}

fn said(out: &Out, done: &str, next: &str) -> Exit {
    out.either(&json!({ "ok": true, "done": done, "next": next }), |out| {
        out.line(done);
        out.note(next);
    })
}

fn of_tokens(command: &Command) -> Option<(&Args, CaStep, &'static str, &'static str)> {
    let (args, step, done, next) = match command {
        Command::Prepare(args) => (
            args,
            CaStep::Prepare,
            "the next token keys are made and published",
            "send the broker SIGHUP, wait for as long as services keep the key set, then `switch`",
        ),
        Command::Switch(args) => (
            args,
            CaStep::Switch,
            "the next token keys sign; the former are still published",
            "send the broker SIGHUP; `retire` after 12 hours, when nothing they signed lives",
        ),
        Command::Retire(args) => (
            args,
            CaStep::Retire,
            "only the token keys that sign are published",
            "send the broker SIGHUP",
        ),
    };
    args.tokens.then_some((args, step, done, next))
}
