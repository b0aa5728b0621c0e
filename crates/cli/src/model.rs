//! `grantwright model`: which models are qualified, and until when.

use clap::Subcommand;
use grantwright_domain::Timestamp;
use serde_json::{Value, json};

use crate::agent::put;
use crate::api::Api;
use crate::config::{Settings, now};
use crate::exit::{Failure, Outcome};
use crate::output::{Out, clean, text};
use crate::times;

/// `grantwright model …`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Qualify a model's version until a day.
    Qualify {
        /// The model.
        model: String,
        /// Its version.
        #[arg(value_name = "VERSION")]
        model_version: String,
        /// RFC 3339, for example 2027-03-01T00:00:00Z.
        #[arg(long, value_name = "TIME")]
        until: String,
    },
    /// End a qualification.
    Retire {
        /// The model.
        model: String,
        /// Its version.
        #[arg(value_name = "VERSION")]
        model_version: String,
    },
    /// The register.
    List,
}

/// Runs the command as the person of `GRANTWRIGHT_HUMAN_TOKEN_FILE`.
///
/// # Errors
/// The broker's refusal, or why it could not be asked.
pub async fn run(out: &Out, settings: &Settings, command: Command) -> Outcome {
    let api = Api::of_person(settings)?;
    let (model, version, until) = match command {
        Command::List => return show(out, &api.get("/api/v1/models").await?),
        Command::Qualify { model, model_version, until } => {
            (model, model_version, Some(Timestamp::parse(&until).map_err(Failure::unable)?))
        }
        Command::Retire { model, model_version } => (model, model_version, None),
    };
    let mut body = json!({"model": model, "model_version": version});
    if let Some(until) = until {
        put(&mut body, "until", until.to_string());
    }
    let entry = api.post("/api/v1/models", &body).await?;
    Ok(out.either(&entry, |out| {
        let name = clean(&format!("{model} {version}"));
        out.line(match until {
            Some(until) => {
                format!("{name} is qualified until {}", times::when(&until.to_string(), now()))
            }
            None => format!("{name} is not qualified any more"),
        });
    }))
}

fn show(out: &Out, register: &Value) -> Outcome {
    Ok(out.either(register, |out| {
        let entries = register.get("models").unwrap_or(register).as_array();
        let rows: Vec<Vec<String>> = entries
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .map(|entry| {
                let until = match text(entry, "until") {
                    "" => "not qualified".to_owned(),
                    until => times::when(until, now()),
                };
                vec![
                    text(entry, "model").to_owned(),
                    text(entry, "model_version").to_owned(),
                    until,
                ]
            })
            .collect();
        out.table(&["MODEL", "VERSION", "QUALIFIED UNTIL"], &rows);
    }))
}
