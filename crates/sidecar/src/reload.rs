//! SIGHUP: the configuration is read again. What can change while calls are served does: the brokers and
//! the console. Of everything else it is said that it waits for a restart. A file with a fault changes
//! nothing.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use crate::{Config, Sidecar, SidecarError};

impl Sidecar {
    /// Reads the configuration again whenever it is told to; never returns.
    pub(crate) async fn keep_reloaded(self: Arc<Self>) {
        let Ok(mut told) = signal(SignalKind::hangup()) else { return };
        while told.recv().await.is_some() {
            match self.reload() {
                Ok(later) if later.is_empty() => tracing::info!("the configuration was read again"),
                Ok(later) => tracing::warn!(
                    keys = later.join(", "),
                    "the configuration was read again; these wait for a restart"
                ),
                Err(error) => tracing::error!(%error, "the configuration stays as it was"),
            }
        }
        std::future::pending().await
    }

    fn reload(&self) -> Result<Vec<&'static str>, SidecarError> {
        let Some(source) = &self.config.source else { return Ok(Vec::new()) };
        let mut agents = Config::load_all(source)?.into_iter();
        let fresh = agents.find(|it| it.name == self.config.name).ok_or_else(|| {
            let name = self.config.name.as_deref().unwrap_or("(the only one)");
            let faults = vec![format!("the agent `{name}` is gone from it: restart the sidecar")];
            SidecarError::Config { path: source.clone(), faults }
        })?;
        self.upstream.replace_brokers(&fresh.brokers, &self.identity())?;
        self.identity_changed.notify_one();
        self.set_console(fresh.console.clone());
        self.metrics.reloaded.add(1);
        Ok(waiting(&self.config, &fresh))
    }
}

/// Keys that differ and cannot change now.
fn waiting(old: &Config, new: &Config) -> Vec<&'static str> {
    [
        ("aws_token_file", old.aws_token_file == new.aws_token_file),
        ("checkpoint_file", old.checkpoint_file == new.checkpoint_file),
        ("join_token_file", old.join_token_file == new.join_token_file),
        ("listen", old.listen == new.listen),
        ("log", old.log == new.log),
        ("log_format", old.log_json == new.log_json),
        ("ready_file", old.ready_file == new.ready_file),
        ("socket", old.socket == new.socket),
        ("socket_mode", old.socket_mode == new.socket_mode),
        ("state_dir", old.state_dir == new.state_dir),
        ("token_file", old.token_file == new.token_file),
        ("trust_bundle", old.trust_bundle == new.trust_bundle),
        ("trust_domain", old.trust_domain == new.trust_domain),
        ("user", old.user == new.user),
        ("workload", old.workload == new.workload),
    ]
    .into_iter()
    .filter_map(|(key, same)| (!same).then_some(key))
    .collect()
}
