//! `grantwright backup`: a consistent copy of a store while the broker works, verified before it counts.

use std::path::PathBuf;

use serde_json::json;

use super::{Check, sentence, verify};
use crate::config::Settings;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Look, Out};

/// `grantwright backup …`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The copy holds the log, its tables and what lies beside the log; never a key. Keep \
    mac.key and log.skey elsewhere.\nA broker that is started on it refuses to issue as soon as a sidecar \
    or witness shows a checkpoint that it does not extend.\n\
    Exit codes: 0 copied and proven, 1 copied and not proven, 2 not copied."
)]
pub struct Args {
    /// The file to write, which must not exist.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// The store [default: $GRANTWRIGHT_STORE].
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// The log's verifier key [default: $GRANTWRIGHT_LOG_VKEY].
    #[arg(long, value_name = "KEY")]
    vkey: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// When the store cannot be read, or the copy not be written.
pub fn run(out: &Out, settings: &Settings, args: &Args) -> Outcome {
    let store = match &args.store {
        Some(store) => store.clone(),
        None => settings.store()?.to_owned(),
    };
    grantwright_store::readonly::backup(&store, &args.to).map_err(Failure::unable)?;
    let path = std::fs::canonicalize(&args.to).map_err(|e| Failure::file(&args.to, &e))?;
    let report = verify(&Check {
        store: format!("sqlite://{}", path.display()),
        vkey: args.vkey.clone().or_else(|| settings.vkey.clone()),
        checkpoints: Vec::new(),
    })?;
    let size = std::fs::metadata(&path).map_err(|e| Failure::file(&path, &e))?.len();
    let value = json!({ "ok": report.ok, "file": path, "bytes": size, "leaves": report.leaves,
        "root": report.root, "findings": report.findings });
    out.either(&value, |out| {
        out.line(format!("{} leaves, {size} bytes in {}", report.leaves, path.display()));
        match sentence(&report) {
            Ok(proven) => out.line(format!("{} {proven}", out.paint(Look::Good, "✓"))),
            Err(found) => out.line(format!("{} {found}", out.paint(Look::Bad, "✗"))),
        }
    });
    Ok(if report.ok { Exit::Done } else { Exit::Refused })
}
