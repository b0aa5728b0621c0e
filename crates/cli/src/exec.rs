//! `grantwright exec --scope SCOPE [--param NAME=VALUE]… -- COMMAND…`: a credential for one command.
//! It is asked for anew, waits for people where it must, reaches the command by its environment or by
//! files, and ends with it. It is never on a command line, nor in this process's own environment.

pub mod ask;
pub mod child;
pub mod hand;

use std::convert::Infallible;
use std::ffi::OsString;
use std::time::Duration;

use serde_json::Value;

use crate::config::Settings;
use crate::door::Door;
use crate::exit::{Exit, Failure};
use crate::output::{Out, clean};

use ask::{Granted, Wanted, renew_again};
use child::Child;
use hand::{Files, Place};

/// `grantwright exec`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The command finds in its environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or one \
CREDENTIAL_… variable for each part (CREDENTIAL_TOKEN; CREDENTIAL_USERNAME, CREDENTIAL_PASSWORD), or those that \
--env names. With --files, CREDENTIAL_DIR names a folder with one file for each part, replaced before it expires.

Exit codes: the command's own, 128 and the signal that ended it, 126 or 127 if it cannot be run; 1 refused, \
2 could not be tried. Environment: GRANTWRIGHT_SIDECAR with GRANTWRIGHT_TOKEN_FILE, or \
GRANTWRIGHT_SIDECAR_SOCKET.")]
pub struct Args {
    #[command(flatten)]
    wanted: Wanted,
    /// Put one part of the credential into a variable of the command, instead of the usual ones.
    #[arg(long = "env", value_name = "VARIABLE=PART", conflicts_with = "files")]
    environment: Vec<String>,
    /// Hand the credential over in files, which are renewed in place, instead of the environment.
    #[arg(long)]
    files: bool,
    /// Give up if people have not decided in this time, for example 10m. Without: as long as it is open.
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Runs it.
///
/// # Errors
/// When there was no credential, or the command could not be run.
pub async fn run(out: &Out, settings: &Settings, args: Args) -> Result<Exit, Failure> {
    let place = Place::parse(&args.environment, args.files)?;
    let (program, arguments) =
        args.command.split_first().ok_or_else(|| Failure::unable("no command is named"))?;
    let timeout = args.timeout.as_deref().map(grantwright_domain::time::parse_ttl).transpose();
    let timeout = timeout.map_err(|e| Failure::unable(format!("--timeout: {e}")))?;
    let door = Door::open(settings)?;
    let mut asked = args.wanted.ask(&door)?;
    asked.fresh()?;
    let mut granted = tokio::select! {
        granted = asked.granted(out, timeout.map(|s| Duration::from_secs(s.into()))) => granted?,
        signal = child::end_signal() => {
            asked.cancel().await;
            return Ok(Exit::Child(128 + signal?));
        }
    };
    // A renewal is an ask of its own: under the old key it would be this very credential again.
    asked.done();
    let files = match place {
        Place::Files => match Files::make(settings, &granted) {
            Ok(files) => Some(files),
            Err(failure) => {
                granted.release(&door).await;
                return Err(failure);
            }
        },
        Place::Environment(_) => None,
    };
    let variables = match &files {
        Some(files) => Ok(files.variables()),
        None => place.variables(&granted),
    };
    let started = variables.and_then(|it| Child::start(program, arguments, it));
    let ended = match started {
        Ok(mut child) => {
            let ended = tokio::select! {
                ended = child.ended() => ended,
                never = keep(out, &mut asked, &mut granted, files.as_ref()) => match never {},
            };
            ended.map_err(|e| Failure::unable(format!("cannot wait for the command: {e}")))
        }
        Err(failure) => Err(failure),
    };
    // Before anything is said of the command: nobody uses the credential any more, nor waits for
    // another.
    drop(files);
    asked.cancel().await;
    granted.release(&door).await;
    ended
}

/// Renews what lies in files; says when what is in an environment ends.
async fn keep(
    out: &Out,
    asked: &mut ask::Asked,
    granted: &mut Granted,
    files: Option<&Files>,
) -> Infallible {
    loop {
        tokio::time::sleep(granted.until_renewal()).await;
        let Some(files) = files else {
            tokio::time::sleep(granted.until_end()).await;
            out.note("the credential in the command's environment has expired (--files renews it)");
            return std::future::pending().await;
        };
        let fresh = loop {
            // The same ask until it is answered: what is open is one request.
            let renewed = match asked.fresh() {
                // While people decide, the old one ends in its time.
                Ok(()) => tokio::select! {
                    renewed = asked.granted(out, None) => renewed,
                    never = cleared(granted, files) => match never {},
                },
                Err(failure) => Err(failure),
            };
            match renewed {
                Ok(fresh) => break fresh,
                Err(failure) => {
                    out.note(format!("not renewed: {}", clean(&failure.to_string())));
                    tokio::select! {
                        () = tokio::time::sleep(renew_again(&failure, granted.until_end())) => {}
                        never = cleared(granted, files) => match never {},
                    }
                }
            }
        };
        if let Err(failure) = files.write(&fresh) {
            out.note(clean(&failure.to_string()));
        }
        // The command may have read the old one just now: it ends by itself, soon.
        *granted = fresh;
        asked.done();
    }
}

/// Removes the files once what is in them has expired.
async fn cleared(granted: &Granted, files: &Files) -> Infallible {
    tokio::time::sleep(granted.until_end()).await;
    files.clear();
    std::future::pending().await
}

/// The text of a part of the credential.
pub fn part(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
