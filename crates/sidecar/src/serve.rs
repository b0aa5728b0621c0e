//! The sidecar's story, top to bottom.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use grantwright_domain::Clock;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::guard::Tokens;
use crate::identity::StateDir;
use crate::listen::Listeners;
use crate::{Config, Sidecar, SidecarError, enrol};

/// Serves each agent with a sidecar of its own, beside the others: they share this process and
/// nothing else. One that cannot start does not keep the others from serving.
///
/// # Errors
/// What kept the first one that could not start from it, once all have ended.
pub async fn serve_all(
    agents: Vec<Config>,
    clock: Arc<dyn Clock>,
    end: impl Future<Output = ()>,
) -> Result<(), SidecarError> {
    let (ending, ended) = watch::channel(false);
    let mut serving = JoinSet::new();
    for config in agents {
        let (name, mut ended) = (config.name.clone(), ended.clone());
        let end = async move {
            let _ = ended.wait_for(|it| *it).await;
        };
        let one = Box::pin(serve(config, Arc::clone(&clock), end));
        serving.spawn(async move { (name, one.await) });
    }
    let mut end = pin!(end);
    let mut first = Ok(());
    loop {
        let done = tokio::select! {
            done = serving.join_next() => done,
            () = end.as_mut(), if !*ending.borrow() => {
                let _ = ending.send(true);
                continue;
            }
        };
        match done {
            None => return first,
            Some(Ok((name, Err(error)))) => {
                if let Some(agent) = name {
                    tracing::error!(agent, %error, "this agent is not served");
                }
                first = first.and(Err(error));
            }
            Some(_) => {}
        }
    }
}

/// Serves until `end` completes.
///
/// # Errors
/// Whatever keeps it from starting; once it listens, only `end` ends it.
pub async fn serve(
    config: Config,
    clock: Arc<dyn Clock>,
    end: impl Future<Output = ()>,
) -> Result<(), SidecarError> {
    let mut end = pin!(end);

    // Who we are comes before any socket: the kept identity, else a join token becomes one.
    let state = StateDir::open(&config.state_dir)?;
    let identity = tokio::select! {
        identity = enrol::identity(&config, &state, &*clock) => identity?,
        () = end.as_mut() => return Ok(()),
    };

    // Local callers show a token of this start, or are known by the unix socket.
    let tokens = Tokens::fresh(&config)?;
    let listeners = Listeners::bind(&config).await?;
    let sidecar = Arc::new(Sidecar::new(config, clock, tokens, state, identity)?);

    let mut background = JoinSet::new();
    // The stream: proof of the log on every connection, acknowledgements up, evictions down.
    background.spawn(Arc::clone(&sidecar).attend());
    // A log that shrank or forked is asked for its proof again until it has one.
    background.spawn(Arc::clone(&sidecar).keep_proven());
    // The checkpoint is on disk soon after it is verified.
    let remembering = Arc::clone(&sidecar);
    background.spawn(async move { remembering.remember.keep_saved().await });
    // The certificate is replaced at half its life, credentials in use at two thirds of theirs.
    background.spawn(Arc::clone(&sidecar).keep_certified());
    background.spawn(Arc::clone(&sidecar).keep_renewed());
    // SIGHUP reads the configuration again.
    background.spawn(Arc::clone(&sidecar).keep_reloaded());

    // Every call: guard, memory, broker (`doors.rs`).
    listeners.announce()?;
    listeners.serve(&sidecar, end).await;

    sidecar.attendance.settle().await;
    background.shutdown().await;
    sidecar.remember.save().await;
    tracing::info!("ended");
    Ok(())
}
