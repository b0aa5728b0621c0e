//! `grantwright sidecar`: runs a sidecar until SIGTERM. The small binary `grantwright-sidecar` does
//! the same with less around it: instance metadata and the doctor are here only.

mod doctor;
mod imds;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Subcommand;
use grantwright_sidecar::Config;

use crate::config::Settings;
use crate::door::Door;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::Out;

/// `grantwright sidecar`.
#[derive(Debug, clap::Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Its configuration.
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// Also serve EC2 instance metadata (version 2 only) at this loopback address, for software that
    /// knows no other source; only processes of this user are answered.
    #[arg(long, value_name = "ADDRESS", requires = "imds_scope")]
    imds: Option<SocketAddr>,
    /// What instance metadata gives: SCOPE?param=value&…, as behind /aws/.
    #[arg(long, value_name = "SCOPE", requires = "imds")]
    imds_scope: Option<String>,
}

/// What else there is.
#[derive(Debug, Subcommand)]
enum Command {
    /// Look for the usual faults of a sidecar's surroundings, and say how to mend them.
    Doctor {
        /// The sidecar's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// Runs it.
///
/// # Errors
/// Why it did not start.
pub fn run(out: &Out, settings: &Settings, args: &Args) -> Outcome {
    if let Some(Command::Doctor { config }) = &args.command {
        return doctor::run(out, settings, config);
    }
    let Some(config) = &args.config else { return Err(Failure::unable("--config is missing")) };
    if let (Some(at), Some(scope)) = (args.imds, &args.imds_scope) {
        let metadata = imds::Imds::new(own_door(config)?, at, scope)?;
        // Apart from the sidecar's own thread, which answers calls.
        std::thread::Builder::new()
            .name("imds".into())
            .spawn(move || serve(metadata))
            .map_err(|e| Failure::unable(format!("cannot start a thread: {e}")))?;
    }
    grantwright_sidecar::run(config).map_err(|e| Failure::unable(format!("{e:#}")))?;
    Ok(Exit::Done)
}

/// The sidecar's own door, as its configuration has it.
fn own_door(config: &std::path::Path) -> Result<Door, Failure> {
    let config = Config::load(config).map_err(Failure::unable)?;
    let settings = match (config.socket, config.listen, config.token_file) {
        (Some(socket), ..) => Settings { sidecar_socket: Some(socket), ..Settings::default() },
        (None, Some(at), Some(file)) if at.port() != 0 => Settings {
            sidecar: Some(format!("http://{at}")),
            sidecar_token_file: Some(file),
            ..Settings::default()
        },
        _ => return Err(Failure::unable("--imds needs `socket`, or `listen` with a port")),
    };
    Door::open(&settings)
}

/// Without instance metadata the software behind it would fall through to another source: the process
/// ends with it.
fn serve(metadata: imds::Imds) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = match runtime {
        Ok(runtime) => runtime.block_on(metadata.serve()),
        Err(error) => Err(Failure::unable(error)),
    };
    if let Err(failure) = served {
        tracing::error!(error = %failure, "no instance metadata");
        std::process::exit(2);
    }
}
