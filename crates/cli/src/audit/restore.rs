//! `grantwright restore`: the ceremony that begins a new epoch of the log from a backup.

use std::path::PathBuf;

use grantwright_broker::{RestoreOptions, make_key, restore};
use serde_json::json;

use crate::exit::{Failure, Outcome};
use crate::output::{Look, Out};

/// `grantwright restore …`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The broker does not run meanwhile. Its old store is moved away first and kept: it is \
    evidence. What decisions rest on and credentials that may live are carried over; requests that were \
    open, and approvals that were not spent, are void. What the old log recorded after the backup is not \
    known any more: repeat revocations and other changes that were made since.\n\
    Give every checkpoint that sidecars (GET /v1/checkpoints, or their checkpoint files) and witnesses kept; \
    --no-checkpoint says that nobody kept one.\n\
    Exit codes: 0 begun, 2 not begun."
)]
pub struct Args {
    /// The broker's configuration; the store that it names must not exist yet, or be an empty database.
    #[arg(long, value_name = "FILE", required_unless_present = "make_key")]
    config: Option<PathBuf>,
    /// What `grantwright backup` wrote, or the URL of a PostgreSQL database that was restored.
    #[arg(long, value_name = "FILE", required_unless_present = "make_key")]
    backup: Option<String>,
    /// File with the private recovery key.
    #[arg(long, value_name = "FILE", required_unless_present = "make_key")]
    recovery_key: Option<PathBuf>,
    /// File with checkpoints of the old log that somebody kept; may be repeated.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["make_key", "no_checkpoint"])]
    checkpoint: Vec<PathBuf>,
    /// Nobody kept a checkpoint: a forged backup, and how much is lost, cannot be seen then.
    #[arg(long, conflicts_with = "checkpoint")]
    no_checkpoint: bool,
    /// Verifier key of the recovery key for the epoch after this one [default: the same].
    #[arg(long, value_name = "KEY")]
    next_recovery_key: Option<String>,
    /// Name of the new log [default: the old one's with /epoch-N].
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<String>,
    /// Make a recovery key and nothing else: the private part goes to this new file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "backup", "recovery_key"])]
    make_key: Option<PathBuf>,
    /// The trust domain that names a new recovery key.
    #[arg(long, value_name = "TD", default_value = "grantwright.local", requires = "make_key")]
    trust_domain: String,
}

/// Runs the command.
///
/// # Errors
/// Whatever does not fit, in words that say what to do.
pub fn run(out: &Out, args: &Args) -> Outcome {
    if let Some(path) = &args.make_key {
        let key = make_key(path, &args.trust_domain).map_err(Failure::unable)?;
        let said = json!({ "ok": true, "recovery_key": key, "file": path });
        return Ok(out.either(&said, |out| {
            out.line(&key);
            out.note(format!("the private part is in {}: take it away", path.display()));
        }));
    }
    let missing = || Failure::unable("want --config, --backup and --recovery-key");
    let checkpoints = super::export::kept(&args.checkpoint)?;
    let done = restore(&RestoreOptions {
        config: args.config.clone().ok_or_else(missing)?,
        backup: args.backup.clone().ok_or_else(missing)?,
        recovery_key: args.recovery_key.clone().ok_or_else(missing)?,
        next_recovery_key: args.next_recovery_key.clone(),
        checkpoints,
        origin: args.origin.clone(),
    })
    .map_err(Failure::unable)?;
    let lost = done.known.saturating_sub(done.restored);
    let said = json!({
        "ok": true, "old_origin": done.old_origin, "old_vkey": done.old_vkey, "origin": done.origin,
        "vkey": done.vkey, "restored": done.restored, "known": done.known, "lost": lost,
        "carried": done.carried, "requests": done.requests,
    });
    Ok(out.either(&said, |out| {
        let row = |title: &str, words: &str| {
            out.line(format!("{}{words}", out.paint(Look::Dim, &format!("{title:<14}"))));
        };
        row("old log", &done.old_origin);
        row("new log", &done.origin);
        row("new log key", &done.vkey);
        row("carried over", &format!("{} leaves, {} requests", done.carried, done.requests));
        if lost > 0 {
            out.line(out.paint(
                Look::Bold,
                &format!(
                    "{lost} leaves that the old log had are lost: credentials that they issued live to \
                     their own end, and revocations among them must be repeated."
                ),
            ));
        }
        out.note(
            "start the broker; sidecars go on by themselves, those whose certificate was renewed since \
             the backup after they enrol again with a new join token; give witnesses and auditors the \
             new log key",
        );
    }))
}
