//! `grantwright group`: the groups that policy names.

use clap::Subcommand;
use grantwright_domain::{GroupName, HumanId};
use serde_json::json;

use crate::api::Api;
use crate::config::Settings;
use crate::exit::{Failure, Outcome};
use crate::output::{Out, list, phrase, text};

/// `grantwright group …`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set all members of a group; who is not named is no longer in it.
    Set {
        /// The group.
        name: String,
        /// Its members.
        members: Vec<String>,
    },
    /// Every group.
    List,
}

/// Runs the command as the person of `GRANTWRIGHT_HUMAN_TOKEN_FILE`.
///
/// # Errors
/// The broker's refusal, or why it could not be asked.
pub async fn run(out: &Out, settings: &Settings, command: Command) -> Outcome {
    let api = Api::of_person(settings)?;
    match command {
        Command::Set { name, members } => {
            let name = GroupName::parse(&name).map_err(Failure::unable)?;
            let members: Vec<HumanId> = members
                .iter()
                .map(|m| HumanId::parse(m))
                .collect::<Result<_, _>>()
                .map_err(Failure::unable)?;
            let group =
                api.post("/api/v1/groups", &json!({"name": name, "members": members})).await?;
            Ok(out.either(&group, |out| {
                let names: Vec<&str> = members.iter().map(HumanId::as_str).collect();
                out.line(format!("{name}: {}", names.join(", ")));
                out.note("who changed it cannot approve for it in the next 24 hours");
            }))
        }
        Command::List => {
            let groups = api.get("/api/v1/groups").await?;
            Ok(out.either(&groups, |out| {
                let rows: Vec<Vec<String>> = list(&groups, "groups")
                    .iter()
                    .map(|g| {
                        let members = g.get("members").map(phrase).unwrap_or_default();
                        vec![text(g, "name").to_owned(), members]
                    })
                    .collect();
                out.table(&["GROUP", "MEMBERS"], &rows);
            }))
        }
    }
}
