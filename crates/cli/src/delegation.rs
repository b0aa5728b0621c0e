//! `grantwright delegation`: rights that agents handed on, and ending them.

use clap::{Subcommand, ValueEnum};
use grantwright_domain::DelegationId;
use grantwright_domain::time::ttl_words;
use serde_json::{Value, json};

use crate::api::Api;
use crate::config::{Settings, now};
use crate::exit::{Failure, Outcome};
use crate::output::{Out, clean, list, text};
use crate::times;

/// `grantwright delegation …`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What agents handed on that is in force, or all of the last day.
    List {
        /// Which.
        #[arg(long, value_enum, default_value = "live")]
        state: Which,
    },
    /// One, with its scopes and who may end it.
    Show {
        /// From `grantwright delegation list`.
        delegation: String,
    },
    /// End one, with what was passed on from it, asked under it and issued: as the owner of one of its
    /// agents, or as an operator.
    End {
        /// From `grantwright delegation list`.
        delegation: String,
    },
}

/// Which delegations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// In force.
    Live,
    /// Also those that ended within a day.
    All,
}

/// Lists, shows or ends delegations.
///
/// # Errors
/// The broker's refusal (no such delegation, not your agent), or why it could not be asked.
pub async fn run(out: &Out, settings: &Settings, command: Command) -> Outcome {
    let api = Api::of_person(settings)?;
    let path = |id: &str| -> Result<String, Failure> {
        let id = DelegationId::parse(id).map_err(Failure::unable)?;
        Ok(format!("/api/v1/delegations/{id}"))
    };
    match command {
        Command::List { state } => {
            let word = if state == Which::Live { "live" } else { "all" };
            let found = api.get(&format!("/api/v1/delegations?state={word}")).await?;
            Ok(out.either(&found, |out| {
                let rows: Vec<Vec<String>> = list(&found, "delegations").iter().map(row).collect();
                if rows.is_empty() {
                    let none =
                        if state == Which::Live { "no live delegations" } else { "no delegations" };
                    return out.line(none);
                }
                out.table(&["FROM → TO", "SCOPES", "STATE", "ENDS", "DELEGATION"], &rows);
            }))
        }
        Command::Show { delegation } => {
            let found = api.get(&path(&delegation)?).await?;
            Ok(out.either(&found, |out| show(out, &found)))
        }
        Command::End { delegation } => {
            let ended = api.post(&format!("{}/end", path(&delegation)?), &json!({})).await?;
            Ok(out.either(&ended, |out| {
                out.line(format!(
                    "{}: {}, with what was passed on from it, asked under it and issued",
                    clean(&delegation),
                    clean(text(&ended, "state"))
                ));
            }))
        }
    }
}

/// `router → planner → worker`.
fn way(delegation: &Value) -> String {
    let chain = list(delegation, "chain").iter().filter_map(Value::as_str);
    let agents: Vec<String> = chain.chain([text(delegation, "to")]).map(clean).collect();
    agents.join(" → ")
}

fn ends(delegation: &Value) -> String {
    let end = match text(delegation, "ended_at") {
        "" => text(delegation, "expires_at"),
        ended => ended,
    };
    times::when(end, now())
}

fn row(delegation: &Value) -> Vec<String> {
    let scopes = delegation.get("scopes").and_then(Value::as_object);
    let mut scopes: Vec<&str> =
        scopes.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    scopes.sort_unstable();
    vec![
        way(delegation),
        clean(&scopes.join(", ")),
        text(delegation, "state").to_owned(),
        ends(delegation),
        text(delegation, "delegation_id").to_owned(),
    ]
}

fn show(out: &Out, delegation: &Value) {
    out.line(format!("{}: {}", clean(text(delegation, "delegation_id")), way(delegation)));
    out.line(format!("{}, ends {}", clean(text(delegation, "state")), ends(delegation)));
    let scopes = delegation.get("scopes").and_then(Value::as_object);
    let mut scopes: Vec<_> = scopes.into_iter().flatten().collect();
    scopes.sort_by_key(|(name, _)| name.as_str());
    for (name, within) in scopes {
        let ttl_s = within.get("ttl_s").and_then(Value::as_u64).unwrap_or(0);
        let params = within.get("params").and_then(Value::as_object);
        let mut bounds: Vec<String> = params
            .into_iter()
            .flatten()
            .map(|(param, bound)| match bound {
                Value::String(text) => format!(", {param} {text}"),
                other => format!(", {param} {other}"),
            })
            .collect();
        bounds.sort_unstable();
        let ttl = ttl_words(u32::try_from(ttl_s).unwrap_or(u32::MAX));
        out.line(clean(&format!("  {name}: at most {ttl}{}", bounds.concat())));
    }
    let passes = delegation.get("passes").and_then(Value::as_u64).unwrap_or(0);
    if passes > 0 {
        out.line(format!("  may be passed on {passes} more times"));
    }
    let owners = delegation.get("owners").and_then(Value::as_object);
    let mut owners: Vec<String> = owners
        .into_iter()
        .flatten()
        .map(|(agent, owner)| format!("{} ({agent}'s)", owner.as_str().unwrap_or("nobody")))
        .collect();
    owners.sort_unstable();
    out.line(clean(&format!("ended by {} or an operator", owners.join(", "))));
}
