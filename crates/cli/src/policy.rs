//! `grantwright policy`: checks scopes and policies offline, shows and replaces those in force.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use grantwright_domain::{Scope, ScopeName};
use grantwright_policy::{Fault, PolicySet, Sources};
use serde_json::{Value, json};

use crate::agent::put;
use crate::api::Api;
use crate::config::Settings;
use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::output::{Look, Out, clean, list, text};

/// `grantwright policy …`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a folder's scopes and policies, offline; shows every fault at once.
    Check {
        #[command(flatten)]
        from: From,
    },
    /// Put a folder's scopes and policies in force, as one.
    Apply {
        #[command(flatten)]
        from: From,
        /// Let the broker check them too, and change nothing.
        #[arg(long)]
        check: bool,
    },
    /// The scopes and policies in force.
    Show,
}

/// Where scopes and policies lie.
#[derive(Debug, clap::Args)]
pub struct From {
    /// A folder with `scopes/*.toml` and `policy/*.cedar`.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Time zone of rules about hours and days, for example Europe/Berlin.
    #[arg(long)]
    zone: Option<String>,
}

/// Runs the command; `check` needs no broker.
///
/// # Errors
/// The broker's refusal, or files that cannot be read.
pub async fn run(out: &Out, settings: &Settings, command: Command) -> Outcome {
    match command {
        Command::Check { from } => check(out, &from),
        Command::Apply { from, check } => apply(out, settings, &from, check).await,
        Command::Show => show(out, &Api::of_person(settings)?.get("/api/v1/policy").await?),
    }
}

/// The files of a folder, as the API takes them.
///
/// # Errors
/// When `scopes` or `policy` cannot be read.
pub fn read_sources(dir: &Path, zone: Option<&str>) -> Result<Sources, Failure> {
    Ok(Sources {
        scopes: files::read_folder(&dir.join("scopes"), "toml")?,
        policies: files::read_folder(&dir.join("policy"), "cedar")?,
        zone: zone.unwrap_or("UTC").to_owned(),
    })
}

/// The body of `POST /api/v1/policy`.
pub fn body(policies: &BTreeMap<String, String>, scopes: &BTreeMap<String, String>) -> Value {
    json!({"policies": policies, "scopes": scopes})
}

/// What a scope's backend finds wrong with its template. Offline, the backend is the one of the
/// minter's name (`aws` is `sts`); under any other name the broker alone can tell.
pub fn template_faults(scope: &Scope) -> Vec<String> {
    let name = if scope.minter == "aws" { "sts" } else { scope.minter.as_str() };
    let backend = grantwright_mint::BACKENDS.iter().find(|b| b.declaration.name == name);
    backend.map(|b| (b.faults)(scope)).unwrap_or_default()
}

fn check(out: &Out, from: &From) -> Outcome {
    let sources = read_sources(&from.dir, from.zone.as_deref())?;
    match PolicySet::load(&sources, &template_faults) {
        Ok(set) => {
            let scopes: Vec<&str> = set.scopes().keys().map(ScopeName::as_str).collect();
            let said =
                json!({"ok": true, "policy_set": set.digest(), "scopes": scopes, "faults": []});
            Ok(out.either(&said, |out| {
                let good = out.paint(Look::Good, "✓");
                out.line(format!(
                    "{good} {} scopes, no faults · policy set {}",
                    scopes.len(),
                    set.digest()
                ));
            }))
        }
        Err(faults) => {
            let faults: Vec<Value> = faults.iter().map(fault_json).collect();
            let said = json!({"ok": false, "faults": faults});
            out.either(&said, |out| print_faults(out, &faults));
            Ok(Exit::Refused)
        }
    }
}

fn fault_json(fault: &Fault) -> Value {
    let mut value = json!({"file": fault.file, "line": fault.line, "message": fault.message});
    if let Some(suggestion) = &fault.suggestion {
        put(&mut value, "suggestion", suggestion.clone());
    }
    value
}

fn print_faults(out: &Out, faults: &[Value]) {
    for fault in faults {
        let line = fault.get("line").and_then(Value::as_u64).unwrap_or(0);
        let place = match line {
            0 => clean(text(fault, "file")),
            line => format!("{}:{line}", clean(text(fault, "file"))),
        };
        let message = clean(text(fault, "message"));
        out.line(format!("{} {message}", out.paint(Look::Bold, &format!("{place}:"))));
        let suggestion = clean(text(fault, "suggestion"));
        if !suggestion.is_empty() {
            out.line(format!("    → {suggestion}"));
        }
    }
    let s = if faults.len() == 1 { "" } else { "s" };
    out.line(out.paint(Look::Bad, &format!("{} fault{s}", faults.len())));
}

async fn apply(out: &Out, settings: &Settings, from: &From, check: bool) -> Outcome {
    let sources = read_sources(&from.dir, from.zone.as_deref())?;
    let mut body = body(&sources.policies, &sources.scopes);
    if let Some(zone) = &from.zone {
        put(&mut body, "zone", zone.clone());
    }
    if check {
        put(&mut body, "check", true);
    }
    match Api::of_person(settings)?.post("/api/v1/policy", &body).await {
        Ok(applied) => Ok(out.either(&applied, |out| {
            let done = if check { "would be in force" } else { "in force" };
            let scopes = list(&applied, "scopes").len();
            let set = clean(text(&applied, "policy_set"));
            out.line(format!(
                "{} {done}: {scopes} scopes, policy set {set}",
                out.paint(Look::Good, "✓")
            ));
        })),
        Err(Failure::Refused(refusal)) => {
            let faults = refusal.problem.get("faults").and_then(Value::as_array);
            if let (false, Some(faults)) = (out.json, faults) {
                print_faults(out, faults);
            }
            Err(Failure::Refused(refusal))
        }
        Err(other) => Err(other),
    }
}

fn show(out: &Out, policy: &Value) -> Outcome {
    Ok(out.either(policy, |out| {
        for key in ["scopes", "policies"] {
            for (file, source) in policy.get(key).and_then(Value::as_object).into_iter().flatten() {
                out.line(out.paint(Look::Bold, &format!("── {}", clean(file))));
                let shown = match source {
                    Value::String(text) => text.clone(),
                    other => serde_json::to_string_pretty(other).unwrap_or_default(),
                };
                for line in shown.lines() {
                    out.line(clean(line));
                }
                out.line("");
            }
        }
        let (set, zone) = (clean(text(policy, "policy_set")), clean(text(policy, "zone")));
        out.line(out.paint(Look::Dim, &format!("policy set {set} · times in {zone}")));
    }))
}
