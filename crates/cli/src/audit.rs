//! `grantwright audit`: proves a log offline, and tells one request's story from it. Read-only: it
//! works on a copy and while the broker runs, and creates nothing beside the store.

mod log;

use std::path::PathBuf;

use clap::Subcommand;
use grantwright_audit::{CannotVerify, Report, Rollback};
use grantwright_domain::{RequestId, Timestamp};
use grantwright_proof::Vkey;
use serde_json::{Value, json};

use crate::config::{Settings, now};
use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::output::{Look, Out, clean};
use crate::times;

/// `grantwright audit …`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prove that nobody changed the log and that every credential in it was issued by the rules.
    #[command(after_help = "Exit codes: 0 proven, 1 findings, 2 could not be verified.\n\
        --checkpoint is what shows a rollback or a fork; without one it is not checked.")]
    Verify {
        #[command(flatten)]
        what: What,
        /// The log's verifier key [default: $GRANTWRIGHT_LOG_VKEY].
        #[arg(long, value_name = "KEY")]
        vkey: Option<String>,
        /// A checkpoint kept outside the log, a sidecar's or a witness's; may be given several times
        /// [default: $GRANTWRIGHT_CHECKPOINT].
        #[arg(long = "checkpoint", value_name = "FILE")]
        checkpoints: Vec<PathBuf>,
    },
    /// Tell a request's story from its leaves [store: $GRANTWRIGHT_STORE].
    Show {
        /// The request.
        request: String,
    },
}

/// Where the log is.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub struct What {
    /// URL of a store [default: $GRANTWRIGHT_STORE].
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// A folder of tiles (not in this build yet).
    #[arg(long, value_name = "TILES")]
    dir: Option<PathBuf>,
    /// An exported bundle (not in this build yet).
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
}

/// What is verified, and against what.
#[derive(Debug, Clone)]
pub struct Check {
    /// URL of the store.
    pub store: String,
    /// The log's verifier key; the one the log names when absent.
    pub vkey: Option<String>,
    /// Files of checkpoints that were kept outside the log.
    pub checkpoints: Vec<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// When nothing can be said about the log (exit 2).
pub fn run(out: &Out, settings: &Settings, command: &Command) -> Outcome {
    match command {
        Command::Verify { what, vkey, checkpoints } => {
            if what.dir.is_some() || what.bundle.is_some() {
                return Err(Failure::unable(
                    "tiles and bundles cannot be verified by this build: they come with exports; \
                     verify a store with --store",
                ));
            }
            let store = match &what.store {
                Some(store) => store.clone(),
                None => settings.store()?.to_owned(),
            };
            let mut kept = checkpoints.clone();
            if kept.is_empty() {
                kept.extend(settings.checkpoint.clone());
            }
            let vkey = vkey.clone().or_else(|| settings.vkey.clone());
            let report = verify(&Check { store, vkey, checkpoints: kept })?;
            print(out, &report)
        }
        Command::Show { request } => show(out, settings, request),
    }
}

/// Verifies a whole log.
///
/// # Errors
/// When nothing can be said about it.
pub fn verify(check: &Check) -> Result<Report, Failure> {
    let vkey = check.vkey.as_deref().map(str::trim).map(Vkey::parse).transpose();
    let vkey = vkey.map_err(|e| Failure::unable(format!("the verifier key: {e}")))?;
    let mut kept = Vec::new();
    for file in &check.checkpoints {
        kept.push(files::read(file)?);
    }
    let mut log = log::Log::open(&check.store)?;
    grantwright_audit::verify(&mut log, vkey.as_ref(), &kept, &mut |_| {}).map_err(Failure::unable)
}

fn print(out: &Out, report: &Report) -> Outcome {
    let value = serde_json::to_value(report).map_err(Failure::unable)?;
    out.either(&value, |out| words(out, report));
    Ok(if report.ok { Exit::Done } else { Exit::Refused })
}

fn words(out: &Out, report: &Report) {
    match sentence(report) {
        Ok(proven) => out.line(format!("{} {proven}", out.paint(Look::Good, "✓"))),
        Err(found) => out.line(format!("{} {found}", out.paint(Look::Bad, "✗"))),
    }
    for finding in &report.findings {
        let place = out.paint(Look::Bold, &format!("leaf {}", finding.leaf));
        out.line(format!("  {place}  {}: {}", clean(&finding.rule), clean(&finding.detail)));
    }
    for intent in &report.open_intents {
        out.line(format!(
            "  leaf {}  request {} was intended; its outcome is not in the log (yet)",
            intent.leaf, intent.request_id
        ));
    }
    let mut small = vec![format!("log {}", clean(&report.origin))];
    small.push(format!("{} checkpoints, {} requests", report.checkpoints, report.requests));
    if !report.root.is_empty() {
        small.push(format!("root {}", report.root));
    }
    out.line(out.paint(Look::Dim, &format!("  {}", small.join(" · "))));
    for words in &report.undetectable {
        out.line(out.paint(Look::Dim, &format!("  not covered: {}", clean(words))));
    }
}

/// The report in one sentence; an error when there are findings.
///
/// # Errors
/// Names the first bad leaf.
pub fn sentence(report: &Report) -> Result<String, String> {
    if let Some(first) = report.findings.first() {
        let more = match report.findings.len() {
            1 => String::new(),
            n => format!(", and {} more", n - 1),
        };
        return Err(format!(
            "the log is not as it should be: leaf {}: {}: {}{more}",
            first.leaf,
            clean(&first.rule),
            clean(&first.detail)
        ));
    }
    let rollback = match report.rollback {
        Rollback::None => "and it extends what was kept outside it",
        Rollback::Found => return Err("a kept checkpoint contradicts the log".into()),
        Rollback::NotChecked => "rollback was not checked: give a kept checkpoint",
    };
    Ok(format!(
        "all {} leaves proven: nobody changed the log, every credential had its verdict and its \
         people, {rollback}",
        report.leaves
    ))
}

fn show(out: &Out, settings: &Settings, request: &str) -> Outcome {
    let request = RequestId::parse(request).map_err(Failure::unable)?;
    let mut log = log::Log::open(settings.store()?)?;
    let story = match grantwright_audit::story(&request, &mut log) {
        Ok(story) => story,
        Err(error @ CannotVerify::NoRequest(_)) => {
            let problem = json!({"code": "unknown_request", "detail": error.to_string()});
            return Err(crate::api::refusal(404, problem.to_string().as_bytes()));
        }
        Err(error) => return Err(Failure::unable(error)),
    };
    let value = serde_json::to_value(&story).map_err(Failure::unable)?;
    Ok(out.either(&value, |out| {
        for event in &story.events {
            let at = times::when(&event.at.to_string(), now());
            let index = out.paint(Look::Dim, &format!("{:>6}", event.index));
            out.line(format!("{index}  {at}  {}", clean(&event.words)));
        }
    }))
}

/// Leases as the store's leaves tell them: `{"leases":[…]}`, newest first.
///
/// # Errors
/// When the store cannot be read.
pub fn leases(store: &str, all: bool, now: Timestamp) -> Result<Value, Failure> {
    log::leases(store, all, now)
}
