//! `grantwright agent`: agents, who answers for them, and how a sidecar joins.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use grantwright_domain::{AgentId, HumanId};
use serde_json::{Value, json};

use crate::api::Api;
use crate::config::{Settings, now};
use crate::exit::{Failure, Outcome};
use crate::output::{Out, clean, list, text};
use crate::{files, times};

/// `grantwright agent …`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Register an agent, or change what is registered of it.
    Create {
        /// 2 to 64 of a-z 0-9 -.
        name: String,
        /// The person who answers for it, and never approves for it.
        #[arg(long)]
        owner: String,
        #[command(flatten)]
        attributes: Attributes,
    },
    /// Every registered agent.
    List,
    /// Make a one-time token with which one sidecar of the agent enrols.
    Join {
        /// The agent.
        name: String,
        /// Life of the token, at most 24h.
        #[arg(long, value_name = "LIFETIME")]
        ttl: Option<String>,
        /// Write the token here (mode 0600) instead of printing it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// End the agent's right: open requests end, leases end where they can.
    Revoke {
        /// The agent.
        name: String,
    },
    /// Give the agent another owner.
    Transfer {
        /// The agent.
        name: String,
        /// The new owner.
        #[arg(long)]
        to: String,
    },
}

/// What an operator registers of an agent.
#[derive(Debug, clap::Args)]
pub struct Attributes {
    /// For example Sales.
    #[arg(long)]
    team: Option<String>,
    /// For example production.
    #[arg(long)]
    environment: Option<String>,
    /// The model it runs.
    #[arg(long)]
    model: Option<String>,
    /// The model's version.
    #[arg(long)]
    model_version: Option<String>,
}

/// Runs the command as the person of `GRANTWRIGHT_HUMAN_TOKEN_FILE`.
///
/// # Errors
/// The broker's refusal, or why it could not be asked.
pub async fn run(out: &Out, settings: &Settings, command: Command) -> Outcome {
    let api = Api::of_person(settings)?;
    match command {
        Command::Create { name, owner, attributes } => {
            let name = AgentId::parse(&name).map_err(Failure::unable)?;
            let owner = HumanId::parse(&owner).map_err(Failure::unable)?;
            let mut body = json!({"name": name, "owner": owner});
            for (key, value) in [
                ("team", attributes.team),
                ("environment", attributes.environment),
                ("model", attributes.model),
                ("model_version", attributes.model_version),
            ] {
                if let Some(value) = value {
                    put(&mut body, key, value);
                }
            }
            let agent = api.post("/api/v1/agents", &body).await?;
            Ok(out.either(&agent, |out| {
                out.line(format!("agent {name} is registered; {owner} answers for it"));
            }))
        }
        Command::List => show(out, &api.get("/api/v1/agents").await?),
        Command::Join { name, ttl, out: file } => join(out, &api, &name, ttl, file).await,
        Command::Revoke { name } => {
            let name = AgentId::parse(&name).map_err(Failure::unable)?;
            let ended = revoke(out, &api, &name).await?;
            Ok(out.either(&ended, |out| {
                let requests = list(&ended, "ended_requests").len();
                out.line(format!(
                    "agent {name} has no right any more; {requests} open requests ended"
                ));
                let rows: Vec<Vec<String>> = list(&ended, "leases")
                    .iter()
                    .map(|lease| {
                        vec![
                            text(lease, "effect").to_owned(),
                            times::when(text(lease, "expires_at"), now()),
                            text(lease, "lease_id").to_owned(),
                        ]
                    })
                    .collect();
                if !rows.is_empty() {
                    out.table(&["EFFECT", "ENDS BY ITSELF", "LEASE"], &rows);
                }
            }))
        }
        Command::Transfer { name, to } => transfer(out, &api, &name, &to).await,
    }
}

/// Ends the agent's right, and tells how many of its credentials are still to be ended while that lasts.
async fn revoke(out: &Out, api: &Api, name: &AgentId) -> Result<Value, Failure> {
    let (path, body) = (format!("/api/v1/agents/{name}/revoke"), json!({}));
    let tell = async || {
        tokio::time::sleep(TELL_EVERY).await;
        let left = left(api, name).await?;
        out.note(format!("{left} live credentials of {name} are still to be ended"));
        Ok::<usize, Failure>(left)
    };
    let mut call = std::pin::pin!(api.post(&path, &body));
    let ended = loop {
        tokio::select! {
            ended = &mut call => break ended?,
            // Only told: what ends does not wait for it.
            _ = tell() => {}
        }
    };
    if ended.get("going_on").and_then(Value::as_bool) == Some(true) {
        let (mut before, mut same) = (usize::MAX, 0);
        loop {
            let left = tell().await?;
            same = if left == before { same + 1 } else { 0 };
            before = left;
            if left == 0 {
                break;
            }
            if same > STILL {
                return Err(Failure::unable(format!(
                    "{left} live credentials of {name} do not end: look at the broker's log"
                )));
            }
        }
    }
    Ok(ended)
}

/// After so many looks without progress there is none.
const STILL: u32 = 60;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(2);

async fn left(api: &Api, name: &AgentId) -> Result<usize, Failure> {
    let base = format!("/api/v1/leases?state=live&agent={name}");
    let (mut path, mut left) = (base.clone(), 0);
    loop {
        let page = api.get(&path).await?;
        left += list(&page, "leases").iter().filter(|l| text(l, "state") == "live").count();
        match page.get("next").and_then(Value::as_u64) {
            Some(before) => path = format!("{base}&before={before}"),
            None => return Ok(left),
        }
    }
}

fn show(out: &Out, agents: &Value) -> Outcome {
    Ok(out.either(agents, |out| {
        let rows: Vec<Vec<String>> = list(agents, "agents")
            .iter()
            .map(|agent| {
                let qualified = agent.get("qualified").and_then(Value::as_bool).unwrap_or(false);
                let revoked = agent.get("revoked").and_then(Value::as_bool).unwrap_or(false);
                let model = format!("{} {}", text(agent, "model"), text(agent, "model_version"));
                let instances = agent.get("instances").map(count).unwrap_or_default();
                vec![
                    text(agent, "name").to_owned(),
                    text(agent, "owner").to_owned(),
                    text(agent, "team").to_owned(),
                    text(agent, "environment").to_owned(),
                    match (model.trim(), qualified) {
                        ("", _) => String::new(),
                        (model, true) => format!("{model}, qualified"),
                        (model, false) => format!("{model}, not qualified"),
                    },
                    instances,
                    if revoked { "revoked" } else { "active" }.to_owned(),
                ]
            })
            .collect();
        out.table(&["AGENT", "OWNER", "TEAM", "ENVIRONMENT", "MODEL", "SIDECARS", "STATE"], &rows);
    }))
}

fn count(value: &Value) -> String {
    match value {
        Value::Array(items) => items.len().to_string(),
        other => other.to_string(),
    }
}

async fn join(
    out: &Out,
    api: &Api,
    name: &str,
    ttl: Option<String>,
    file: Option<PathBuf>,
) -> Outcome {
    let name = AgentId::parse(name).map_err(Failure::unable)?;
    let mut body = json!({});
    if let Some(ttl) = ttl {
        put(&mut body, "ttl", ttl);
    }
    let mut joined = api.post(&format!("/api/v1/agents/{name}/join"), &body).await?;
    if let Some(file) = &file {
        files::write_private(file, text(&joined, "join_token"))?;
        if let Some(object) = joined.as_object_mut() {
            object.remove("join_token");
        }
        put(&mut joined, "file", file.display().to_string());
    }
    Ok(out.either(&joined, |out| {
        let until = times::when(text(&joined, "expires_at"), now());
        match &file {
            Some(file) => {
                out.line(format!("join token for {name} in {}, until {until}", file.display()))
            }
            None => {
                out.line(clean(text(&joined, "join_token")));
                out.note(format!("lets one sidecar of {name} enrol, until {until}; shown once"));
            }
        }
    }))
}

async fn transfer(out: &Out, api: &Api, name: &str, to: &str) -> Outcome {
    let name = AgentId::parse(name).map_err(Failure::unable)?;
    let to = HumanId::parse(to).map_err(Failure::unable)?;
    let agents = api.get("/api/v1/agents").await?;
    let known = list(&agents, "agents").iter().find(|a| text(a, "name") == name.as_str());
    let known = known.ok_or_else(|| Failure::unable(format!("there is no agent `{name}`")))?;
    let mut body = json!({"name": name, "owner": to});
    for key in ["team", "environment", "model", "model_version"] {
        if !text(known, key).is_empty() {
            put(&mut body, key, text(known, key).to_owned());
        }
    }
    let agent = api.post("/api/v1/agents", &body).await?;
    let before = text(known, "owner").to_owned();
    Ok(out.either(&agent, |out| {
        out.line(format!(
            "{to} now answers for {name}; {} still cannot approve its open requests",
            clean(&before)
        ));
    }))
}

/// Sets a text field of an object.
pub fn put(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        map.insert(key.to_owned(), value.into());
    }
}
