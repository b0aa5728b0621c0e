//! `grantwright person`: people, their tokens and their one-time links.

use std::path::PathBuf;

use clap::Subcommand;
use grantwright_domain::HumanId;
use serde_json::{Value, json};

use crate::agent::put;
use crate::api::Api;
use crate::config::{Settings, now};
use crate::exit::{Failure, Outcome};
use crate::output::{Out, clean, list, phrase, text};
use crate::{files, times};

/// `grantwright person …`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Register a person, or change what they may do.
    Set {
        /// Their canonical id.
        id: String,
        /// May change agents, owners, groups, scopes and policy.
        #[arg(long)]
        operator: bool,
        /// May no longer act.
        #[arg(long)]
        inactive: bool,
        /// Also link this account at the broker's identity provider to them.
        #[arg(long, value_name = "SUBJECT", conflicts_with = "inactive")]
        oidc_subject: Option<String>,
    },
    /// Everyone who is registered.
    List,
    /// Make an API token for a person, 12h at most.
    Token {
        /// Whose.
        id: String,
        /// Its life.
        #[arg(long, value_name = "LIFETIME")]
        ttl: Option<String>,
        /// Write it here (mode 0600) instead of printing it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Say whose an account at the company's identity provider is.
    LinkAccount {
        /// The person.
        id: String,
        /// The account there, as its tokens name it.
        #[arg(long, value_name = "SUBJECT")]
        oidc_subject: String,
        /// The provider; the broker's own unless given.
        #[arg(long, value_name = "ISSUER")]
        oidc_issuer: Option<String>,
        /// It is theirs no longer.
        #[arg(long)]
        unlink: bool,
    },
    /// Make a one-time link for a person.
    Link {
        /// Whose.
        id: String,
        /// What it does.
        #[arg(long, value_enum, default_value = "login")]
        purpose: Purpose,
        /// Its life.
        #[arg(long, value_name = "LIFETIME")]
        ttl: Option<String>,
    },
}

/// What a one-time link does.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Purpose {
    /// Gives an API token, through `grantwright login`.
    Api,
    /// Signs in to the console.
    Login,
    /// Enrols a passkey.
    Enrol,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Login => "login",
            Self::Enrol => "enrol",
        }
    }
}

/// Runs the command as the person of `GRANTWRIGHT_HUMAN_TOKEN_FILE`.
///
/// # Errors
/// The broker's refusal, or why it could not be asked.
pub async fn run(out: &Out, settings: &Settings, command: Command) -> Outcome {
    let api = Api::of_person(settings)?;
    match command {
        Command::Set { id, operator, inactive, oidc_subject } => {
            let id = HumanId::parse(&id).map_err(Failure::unable)?;
            let body = json!({"id": id, "operator": operator, "active": !inactive});
            let mut person = api.post("/api/v1/people", &body).await?;
            if let Some(subject) = oidc_subject {
                let path = format!("/api/v1/people/{id}/account");
                let linked = api.post(&path, &json!({"subject": subject})).await?;
                let accounts = linked.get("accounts").cloned().unwrap_or_default();
                put(&mut person, "accounts", accounts);
            }
            Ok(out.either(&person, |out| {
                out.line(match (inactive, operator) {
                    (true, _) => format!("{id} may no longer act"),
                    (false, true) => format!("{id} is an operator"),
                    (false, false) => format!("{id} is registered"),
                });
            }))
        }
        Command::List => {
            let people = api.get("/api/v1/people").await?;
            Ok(out.either(&people, |out| {
                let rows: Vec<Vec<String>> = list(&people, "people").iter().map(row).collect();
                out.table(&["PERSON", "STATE", "ROLE", "GROUPS"], &rows);
            }))
        }
        Command::Token { id, ttl, out: file } => {
            let id = HumanId::parse(&id).map_err(Failure::unable)?;
            let mut body = json!({});
            if let Some(ttl) = ttl {
                put(&mut body, "ttl", ttl);
            }
            let mut made = api.post(&format!("/api/v1/people/{id}/token"), &body).await?;
            if let Some(file) = &file {
                files::write_private(file, text(&made, "token"))?;
                if let Some(object) = made.as_object_mut() {
                    object.remove("token");
                }
                put(&mut made, "file", file.display().to_string());
            }
            Ok(out.either(&made, |out| {
                let until = times::when(text(&made, "expires_at"), now());
                match &file {
                    Some(file) => {
                        out.line(format!("token of {id} in {}, until {until}", file.display()));
                    }
                    None => {
                        out.line(clean(text(&made, "token")));
                        out.note(format!("acts as {id} until {until}; shown once"));
                    }
                }
            }))
        }
        Command::LinkAccount { id, oidc_subject, oidc_issuer, unlink } => {
            let id = HumanId::parse(&id).map_err(Failure::unable)?;
            let mut body = json!({"subject": oidc_subject, "unlink": unlink});
            if let Some(issuer) = oidc_issuer {
                put(&mut body, "issuer", issuer);
            }
            let person = api.post(&format!("/api/v1/people/{id}/account"), &body).await?;
            Ok(out.either(&person, |out| {
                let whose = if unlink { "no longer that of" } else { "that of" };
                out.line(format!("account {} is {whose} {id}", clean(&oidc_subject)));
            }))
        }
        Command::Link { id, purpose, ttl } => {
            let id = HumanId::parse(&id).map_err(Failure::unable)?;
            let mut body = json!({"purpose": purpose.word()});
            if let Some(ttl) = ttl {
                put(&mut body, "ttl", ttl);
            }
            let link = api.post(&format!("/api/v1/people/{id}/link"), &body).await?;
            Ok(out.either(&link, |out| {
                out.line(clean(text(&link, "url")));
                let until = times::when(text(&link, "expires_at"), now());
                out.note(format!("for {id} only; works once, until {until}"));
            }))
        }
    }
}

fn row(person: &Value) -> Vec<String> {
    let is = |key: &str| person.get(key).and_then(Value::as_bool).unwrap_or(false);
    vec![
        text(person, "id").to_owned(),
        if is("active") { "active" } else { "inactive" }.to_owned(),
        if is("operator") { "operator" } else { "" }.to_owned(),
        person.get("groups").map(phrase).unwrap_or_default(),
    ]
}
