//! The sidecar: the agent's local door to the broker. It guards that door, gives credentials from
//! memory while they are good, and fetches, renews, verifies and acknowledges them otherwise.
//!
//! It decides nothing about who may have what, stores no credential on disk, and links no policy
//! engine, database or cloud SDK, so it stays small. Of the workspace it may use `domain`,
//! `credential`, `proof` and `wire`. [`serve`](mod@serve) tells its story.

mod ask;
mod attend;
mod authority;
mod backoff;
mod breaker;
mod cache;
mod chance;
mod clock;
mod config;
mod connection;
mod doors;
mod enrol;
mod error;
mod fetch;
mod files;
pub mod guard;
mod holder;
mod http2;
mod identity;
mod lease;
mod line;
mod linger;
mod listen;
mod metrics;
mod params;
mod pinned;
mod places;
mod process;
mod reload;
mod remember;
mod renew;
mod repeat;
mod rotate;
mod scopes;
pub mod serve;
mod sidecar;
mod upstream;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit};
use tokio::signal::unix::{SignalKind, signal};

pub use clock::SteadyClock;
pub use config::Config;
pub use error::SidecarError;
pub(crate) use sidecar::Sidecar;

/// Runs the sidecar of this configuration file until SIGTERM or SIGINT, on a runtime of its own, and
/// logs to standard error.
///
/// # Errors
/// Whatever keeps it from starting.
pub fn run(config_path: &Path) -> anyhow::Result<()> {
    let agents = Config::load_all(config_path)?;
    let log = agents.first().map_or(tracing::Level::INFO, |it| it.log);
    // Whoever runs us as a part may have a subscriber already: then that one is used.
    let lines =
        tracing_subscriber::fmt().with_max_level(log).with_writer(std::io::stderr).with_ansi(false);
    let _ = if agents.first().is_some_and(|it| it.log_json) {
        tracing::subscriber::set_global_default(lines.json().flatten_event(true).finish())
    } else {
        tracing::subscriber::set_global_default(lines.finish())
    };
    // Of the descriptors that the system grants, all: each socket has places for a thousand connections.
    let most = rustix::process::getrlimit(Resource::Nofile).maximum;
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate()).context("cannot listen for signals")?;
        let mut int = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
        let end = async {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        };
        serve::serve_all(agents, Arc::new(SteadyClock::new()), end).await.map_err(Into::into)
    })
}
