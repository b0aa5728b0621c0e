//! `grantwright scope`: what can be asked for.

use clap::Subcommand;
use grantwright_domain::time::ttl_words;
use serde_json::Value;

use crate::api::Api;
use crate::config::Settings;
use crate::exit::Outcome;
use crate::output::{Out, list, text};

/// `grantwright scope …`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Every scope with its parameters.
    List,
}

/// Runs the command as the person of `GRANTWRIGHT_HUMAN_TOKEN_FILE`.
///
/// # Errors
/// The broker's refusal, or why it could not be asked.
pub async fn run(out: &Out, settings: &Settings, command: Command) -> Outcome {
    let Command::List = command;
    let scopes = Api::of_person(settings)?.get("/api/v1/scopes").await?;
    Ok(out.either(&scopes, |out| {
        let rows: Vec<Vec<String>> = list(&scopes, "scopes").iter().map(row).collect();
        out.table(&["SCOPE", "WHAT IT DOES", "PARAMETERS", "AT MOST", "RISK", "MINTER"], &rows);
    }))
}

fn row(scope: &Value) -> Vec<String> {
    let params: Vec<&str> = scope
        .get("params")
        .and_then(Value::as_object)
        .map(|map| map.keys().map(String::as_str).collect())
        .unwrap_or_default();
    let longest = scope.pointer("/ttl/max_s").and_then(Value::as_u64).unwrap_or(0);
    let risk = scope.pointer("/labels/risk").and_then(Value::as_str).unwrap_or_default();
    vec![
        text(scope, "name").to_owned(),
        text(scope, "title").to_owned(),
        params.join(", "),
        ttl_words(u32::try_from(longest).unwrap_or(u32::MAX)),
        risk.to_owned(),
        text(scope, "minter").to_owned(),
    ]
}
