//! `grantwright lease`: credentials and how they can end; through the API, or read-only from the store.

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::api::Api;
use crate::config::{Settings, now};
use crate::exit::{Failure, Outcome};
use crate::output::{Out, list, text};
use crate::times;

/// `grantwright lease …`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Credentials that are alive, or all that ever were.
    List {
        /// Which.
        #[arg(long, value_enum, default_value = "live")]
        state: Which,
    },
}

/// Which leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// Not ended yet.
    Live,
    /// Every one.
    All,
}

/// Lists leases: through the API with a token, else from `GRANTWRIGHT_STORE` without touching it.
///
/// # Errors
/// The broker's refusal, or that neither way is open.
pub async fn run(out: &Out, settings: &Settings, command: Command) -> Outcome {
    let Command::List { state } = command;
    let leases = if settings.token_file.is_some() {
        let word = if state == Which::Live { "live" } else { "all" };
        let path = format!("/api/v1/leases?state={word}&hidden=true");
        let all = Api::of_person(settings)?.all(&path, "leases").await?;
        json!({ "leases": all })
    } else if let Some(store) = settings.store.clone() {
        // The reader of stores blocks.
        let read = move || crate::audit::leases(&store, state == Which::All, now());
        tokio::task::spawn_blocking(read).await.map_err(Failure::unable)??
    } else {
        return Err(Failure::unable(
            "set GRANTWRIGHT_CONSOLE and GRANTWRIGHT_HUMAN_TOKEN_FILE to ask the broker, or \
             GRANTWRIGHT_STORE to read its store",
        ));
    };
    Ok(out.either(&leases, |out| {
        let rows: Vec<Vec<String>> = list(&leases, "leases").iter().map(row).collect();
        if rows.is_empty() {
            out.line(if state == Which::Live { "no live credentials" } else { "no credentials" });
        } else {
            let heads = [
                "SCOPE",
                "AGENT",
                "OWNER",
                "STATE",
                "SINCE",
                "ENDS",
                "EARLY END",
                "LEASE",
                "REQUEST",
            ];
            out.table(&heads, &rows);
        }
    }))
}

fn row(lease: &Value) -> Vec<String> {
    let revocable = lease.get("revocable").and_then(Value::as_bool).unwrap_or(false);
    vec![
        text(lease, "scope").to_owned(),
        text(lease, "agent").to_owned(),
        text(lease, "owner").to_owned(),
        text(lease, "state").to_owned(),
        times::when(text(lease, "requested_at"), now()),
        times::when(text(lease, "expires_at"), now()),
        if revocable { "possible" } else { "not possible" }.to_owned(),
        text(lease, "lease_id").to_owned(),
        text(lease, "request_id").to_owned(),
    ]
}
