//! `grantwright policy`: checks scopes and policies offline, shows and replaces those in force.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use grantwright_domain::{Scope, ScopeName};
use grantwright_policy::{Fault, PolicySet, Sources, Tried};
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
    /// The Cedar schema of a folder's scopes: what its policies can see.
    Schema {
        #[command(flatten)]
        from: From,
    },
    /// Try a folder's cases, offline: who asks for what, and what is to become of it.
    Test {
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
    /// A folder with `scopes/*.toml` and `policy/*.cedar`; its cases are `tests/*.toml`.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Time zone of rules about hours and days, for example Europe/Berlin.
    #[arg(long)]
    zone: Option<String>,
}

/// Runs the command; `check`, `schema` and `test` need no broker.
///
/// # Errors
/// The broker's refusal, or files that cannot be read.
pub async fn run(out: &Out, settings: &Settings, command: Command) -> Outcome {
    match command {
        Command::Check { from } => check(out, &from),
        Command::Schema { from } => schema(out, &from),
        Command::Test { from } => test(out, &from),
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

/// The folder's set; else its faults are printed.
fn load(out: &Out, from: &From) -> Result<Option<PolicySet>, Failure> {
    let sources = read_sources(&from.dir, from.zone.as_deref())?;
    match PolicySet::load(&sources, &template_faults) {
        Ok(set) => Ok(Some(set)),
        Err(faults) => {
            print_or_say(out, &faults);
            Ok(None)
        }
    }
}

fn print_or_say(out: &Out, faults: &[Fault]) {
    let faults: Vec<Value> = faults.iter().map(fault_json).collect();
    let said = json!({"ok": false, "faults": faults});
    out.either(&said, |out| print_faults(out, &faults));
}

fn check(out: &Out, from: &From) -> Outcome {
    let Some(set) = load(out, from)? else { return Ok(Exit::Refused) };
    let scopes: Vec<&str> = set.scopes().keys().map(ScopeName::as_str).collect();
    let said = json!({"ok": true, "policy_set": set.digest(), "scopes": scopes, "faults": []});
    Ok(out.either(&said, |out| {
        let good = out.paint(Look::Good, "✓");
        out.line(format!(
            "{good} {} scopes, no faults · policy set {}",
            scopes.len(),
            set.digest()
        ));
    }))
}

fn schema(out: &Out, from: &From) -> Outcome {
    let Some(set) = load(out, from)? else { return Ok(Exit::Refused) };
    let schema = set.schema_text();
    let said = json!({"ok": true, "policy_set": set.digest(), "schema": schema});
    Ok(out.either(&said, |out| out.line(schema.trim_end())))
}

fn test(out: &Out, from: &From) -> Outcome {
    let Some(set) = load(out, from)? else { return Ok(Exit::Refused) };
    let mut tried = Vec::new();
    let mut faults = Vec::new();
    for (file, text) in files::read_folder(&from.dir.join("tests"), "toml")? {
        match set.try_cases(&format!("tests/{file}"), &text) {
            Ok(cases) => tried.extend(cases),
            Err(fault) => faults.push(fault),
        }
    }
    if !faults.is_empty() {
        print_or_say(out, &faults);
        return Ok(Exit::Refused);
    }
    if tried.is_empty() {
        return Err(Failure::unable("there is no `[[case]]` in `tests`"));
    }
    let ok = tried.iter().all(|case| case.differences.is_empty());
    let cases: Vec<Value> = tried.iter().map(case_json).collect();
    let said = json!({"ok": ok, "policy_set": set.digest(), "cases": cases});
    out.either(&said, |out| print_cases(out, &tried));
    Ok(if ok { Exit::Done } else { Exit::Refused })
}

fn case_json(case: &Tried) -> Value {
    json!({
        "file": case.file, "line": case.line, "name": case.name,
        "ok": case.differences.is_empty(), "differences": case.differences,
    })
}

fn print_cases(out: &Out, tried: &[Tried]) {
    let otherwise: Vec<&Tried> = tried.iter().filter(|it| !it.differences.is_empty()).collect();
    for case in &otherwise {
        let place = out.paint(Look::Bold, &format!("{}:{}:", clean(&case.file), case.line));
        out.line(format!("{place} {}", clean(&case.name)));
        for difference in &case.differences {
            out.line(format!("    → {}", clean(difference)));
        }
    }
    match (otherwise.len(), tried.len()) {
        (0, all) => out.line(format!("{} {all} cases, all as wanted", out.paint(Look::Good, "✓"))),
        (some, all) => {
            out.line(out.paint(Look::Bad, &format!("{some} of {all} cases are not as wanted")))
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
