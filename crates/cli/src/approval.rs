//! `grantwright approval`: what waits for people, and their decisions, as the person of
//! `GRANTWRIGHT_HUMAN_TOKEN_FILE`.

mod card;
mod inbox;

use clap::{Subcommand, ValueEnum};
use grantwright_domain::{Digest, RequestId};
use serde_json::{Map, Value};

use crate::agent::put;
use crate::api::Api;
use crate::config::{Settings, now};
use crate::exit::{Failure, Outcome};
use crate::output::{Look, Out, clean, text};

/// `grantwright approval …`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What waits for people.
    List {
        /// Also what was decided already.
        #[arg(long)]
        all: bool,
        /// Of this agent only.
        #[arg(long)]
        agent: Option<String>,
        /// At most so many, newest first.
        #[arg(long)]
        limit: Option<u32>,
    },
    /// One request as a reviewer should see it.
    Show {
        /// The request.
        id: String,
    },
    /// Approve it, for exactly what is shown.
    Approve {
        #[command(flatten)]
        on: On,
        /// Why; kept beside the log.
        #[arg(long)]
        reason: Option<String>,
        /// The fact that the scope makes you confirm, typed from the request.
        #[arg(long, value_name = "VALUE")]
        confirm: Option<String>,
    },
    /// Deny it; this ends the request.
    Deny {
        #[command(flatten)]
        on: On,
        /// Why; the agent is told.
        #[arg(long)]
        reason: Option<String>,
        /// Why, in one word. `looks_wrong` also alerts security.
        #[arg(long, value_enum)]
        because: Option<Because>,
    },
    /// Ask the agent something; the clock pauses until it answers.
    Ask {
        #[command(flatten)]
        on: On,
        /// The question.
        text: String,
    },
    /// Approve less than was asked.
    Narrow {
        #[command(flatten)]
        on: On,
        /// A shorter life of the credential, for example 5m.
        #[arg(long, value_name = "LIFETIME")]
        ttl: Option<String>,
        /// A narrower parameter, for example rows=100. May be given several times.
        #[arg(long = "param", value_name = "NAME=VALUE")]
        params: Vec<String>,
        /// The fact that the scope makes you confirm, as it is once narrowed.
        #[arg(long, value_name = "VALUE")]
        confirm: Option<String>,
        /// Why, for the agent.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Take an approval back, while the credential is not made yet.
    Withdraw {
        #[command(flatten)]
        on: On,
    },
    /// Print requests as they come and change, until interrupted.
    Watch,
}

/// Which request, and which version of it.
#[derive(Debug, clap::Args)]
pub struct On {
    /// The request.
    id: String,
    /// The digest you looked at; without it, the one that is shown now.
    #[arg(long)]
    digest: Option<String>,
}

/// One-word reasons of a deny.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Because {
    /// Ask again later.
    NotNow,
    /// Ask for less.
    TooMuch,
    /// Ask someone else.
    WrongPerson,
    /// This should not have been asked at all.
    LooksWrong,
}

/// Runs the command.
///
/// # Errors
/// The broker's refusal with its code, or why it could not be asked.
pub async fn run(out: &Out, settings: &Settings, command: Command) -> Outcome {
    let api = Api::of_person(settings)?;
    match command {
        Command::List { all, agent, limit } => inbox::show(out, &api, all, agent, limit).await,
        Command::Show { id } => {
            let request = fetch(&api, &parse(&id)?).await?;
            Ok(out.either(&request, |out| card::print(out, &request, now())))
        }
        Command::Approve { on, reason, confirm } => {
            let more = fields([("reason", reason), ("confirm", confirm)]);
            decide(out, &api, on, "approve", more).await
        }
        Command::Deny { on, reason, because } => {
            let code = because.and_then(|b| b.to_possible_value());
            let code = code.map(|v| v.get_name().to_owned());
            decide(out, &api, on, "deny", fields([("reason", reason), ("reason_code", code)])).await
        }
        Command::Ask { on, text } => {
            decide(out, &api, on, "ask", fields([("text", Some(text))])).await
        }
        Command::Narrow { on, ttl, params, confirm, reason } => {
            let more = fields([("ttl", ttl), ("confirm", confirm), ("reason", reason)]);
            narrow(out, &api, on, &params, more).await
        }
        Command::Withdraw { on } => decide(out, &api, on, "withdraw", Map::new()).await,
        Command::Watch => inbox::watch(out, &api).await,
    }
}

fn parse(id: &str) -> Result<RequestId, Failure> {
    RequestId::parse(id).map_err(Failure::unable)
}

async fn fetch(api: &Api, id: &RequestId) -> Result<Value, Failure> {
    api.get(&format!("/api/v1/requests/{id}")).await
}

fn fields<const N: usize>(pairs: [(&str, Option<String>); N]) -> Map<String, Value> {
    pairs.into_iter().filter_map(|(k, v)| Some((k.to_owned(), Value::String(v?)))).collect()
}

/// Shows the request as it is, then sends the decision on the digest that was shown (or given).
async fn decide(out: &Out, api: &Api, on: On, verb: &str, mut more: Map<String, Value>) -> Outcome {
    let id = parse(&on.id)?;
    let digest = match on.digest {
        Some(digest) => Digest::parse(&digest).map_err(Failure::unable)?.hex(),
        None => {
            let shown = fetch(api, &id).await?;
            if !out.json {
                card::print(out, &shown, now());
                out.line("");
            }
            // An approval names the last question, answer or change that was on this screen.
            if let (true, Some(seen)) = (verb == "approve", shown.get("seen")) {
                more.insert("seen".into(), seen.clone());
            }
            text(&shown, "digest").to_owned()
        }
    };
    send(out, api, &id, digest, verb, more).await
}

async fn send(
    out: &Out,
    api: &Api,
    id: &RequestId,
    digest: String,
    verb: &str,
    more: Map<String, Value>,
) -> Outcome {
    let mut body = Value::Object(more);
    put(&mut body, "digest", digest);
    let request = api.post(&format!("/api/v1/requests/{id}/{verb}"), &body).await?;
    Ok(out.either(&request, |out| {
        let have = request.pointer("/needs/have").and_then(Value::as_u64).unwrap_or(0);
        let votes = request.pointer("/needs/votes").and_then(Value::as_u64).unwrap_or(0);
        let done = match verb {
            "approve" => "approved",
            "deny" => "denied",
            "ask" => "asked; the clock pauses until the agent answers",
            "narrow" => "narrowed, and approved as it now is",
            _ => "approval withdrawn",
        };
        let done = out.paint(Look::Bold, done);
        let state = clean(text(&request, "state"));
        out.line(format!("{done} · {id} is {state} · {have} of {votes} approvals"));
    }))
}

async fn narrow(
    out: &Out,
    api: &Api,
    on: On,
    changes: &[String],
    mut more: Map<String, Value>,
) -> Outcome {
    if !more.contains_key("ttl") && changes.is_empty() {
        return Err(Failure::unable("say what is narrower: --ttl 5m, or --param rows=100"));
    }
    let id = parse(&on.id)?;
    let shown = fetch(api, &id).await?;
    let mut params = shown.get("params").and_then(Value::as_object).cloned().unwrap_or_default();
    for change in changes {
        let (name, value) = change
            .split_once('=')
            .ok_or_else(|| Failure::unable(format!("`{change}`: want NAME=VALUE")))?;
        let value = typed(params.get(name), value).map_err(|want| {
            Failure::unable(format!("parameter `{name}` wants {want}, not `{value}`"))
        })?;
        params.insert(name.to_owned(), value);
    }
    if !changes.is_empty() {
        more.insert("params".into(), Value::Object(params));
    }
    let digest = match on.digest {
        Some(digest) => Digest::parse(&digest).map_err(Failure::unable)?.hex(),
        None => text(&shown, "digest").to_owned(),
    };
    send(out, api, &id, digest, "narrow", more).await
}

/// The value in the type that the parameter has now; the broker checks it against the scope.
fn typed(now: Option<&Value>, value: &str) -> Result<Value, &'static str> {
    match now {
        Some(Value::Number(_)) => value.parse::<i64>().map(Value::from).map_err(|_| "an integer"),
        Some(Value::Bool(_)) => value.parse::<bool>().map(Value::from).map_err(|_| "true or false"),
        Some(Value::Array(_)) => Ok(value.split(',').map(Value::from).collect()),
        Some(_) => Ok(Value::from(value)),
        None => Err("to be one that the request has"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn narrower_values_keep_their_type() {
        assert_eq!(typed(Some(&json!(10)), "5"), Ok(json!(5)));
        assert_eq!(typed(Some(&json!("x/")), "x/y/"), Ok(json!("x/y/")));
        assert_eq!(typed(Some(&json!(["a", "b"])), "a"), Ok(json!(["a"])));
        assert!(typed(Some(&json!(10)), "many").is_err());
        assert!(typed(None, "1").is_err());
    }

    #[test]
    fn reasons_are_the_words_of_the_api() {
        let words: Vec<String> = Because::value_variants()
            .iter()
            .filter_map(|b| Some(b.to_possible_value()?.get_name().to_owned()))
            .collect();
        assert_eq!(words, ["not_now", "too_much", "wrong_person", "looks_wrong"]);
    }
}
