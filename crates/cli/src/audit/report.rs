//! `grantwright report`: evidence for auditors, from the log alone.

use std::path::PathBuf;

use clap::Subcommand;
use grantwright_audit::reports::{self, Evidence, Kind, Wanted};
use grantwright_domain::{AgentId, HumanId, Timestamp};
use serde_json::json;

use super::events::moment;
use super::{Key, What, export, parse};
use crate::config::{Settings, now};
use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::output::Out;

/// A report covers so many days unless `--from` says otherwise.
const DAYS: i64 = 90;

/// `grantwright report …`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Who may what, who decides, what was alive for how long.
    AccessReview(Args),
    /// What one agent asked for and got.
    Agent {
        /// The agent.
        name: String,
        #[command(flatten)]
        args: Args,
    },
    /// NIST SP 800-53 r5 controls, as FedRAMP baselines select them.
    Fedramp(Args),
    /// What one person decided.
    Reviewer {
        /// The person.
        name: String,
        #[command(flatten)]
        args: Args,
    },
    /// SOC 2 trust services criteria.
    Soc2(Args),
}

/// What every report takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 no exceptions in a proven log, 1 exceptions or findings, \
    2 could not be made.")]
pub struct Args {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    key: Key,
    /// From this moment on: RFC 3339, a date, or a time before now as in 720h [default: 90 days
    /// before --to].
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<Timestamp>,
    /// Until before this moment [default: now].
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<Timestamp>,
    /// How it is written.
    #[arg(long, value_name = "FORMAT", default_value = "html", value_parser = ["html", "csv", "json"])]
    format: String,
    /// What the samples are drawn with: the same seed draws the same.
    #[arg(long, value_name = "TEXT", default_value = "grantwright")]
    seed: String,
    /// Lines in each sample.
    #[arg(long, value_name = "N", default_value_t = 25)]
    sample: usize,
    /// The file to write [default: standard output].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// When the log cannot be read or the file not be written.
pub fn run(out: &Out, settings: &Settings, command: &Command) -> Outcome {
    let (kind, args) = match command {
        Command::AccessReview(args) => (Kind::AccessReview, args),
        Command::Agent { name, args } => {
            (Kind::Agent(AgentId::parse(name).map_err(Failure::unable)?), args)
        }
        Command::Fedramp(args) => (Kind::FedRamp, args),
        Command::Reviewer { name, args } => {
            (Kind::Reviewer(HumanId::parse(name).map_err(Failure::unable)?), args)
        }
        Command::Soc2(args) => (Kind::Soc2, args),
    };
    let until = args.to.unwrap_or_else(now);
    let from = args.from.unwrap_or_else(|| until.plus_seconds(-DAYS * 86_400));
    if from >= until {
        return Err(Failure::unable("--from is not before --to: there is nothing to report on"));
    }
    let (seed, sample, now) = (args.seed.clone(), args.sample, Some(now()));
    let wanted = Wanted { kind, from, until, seed, sample, now };
    let vkey = parse(args.key.vkey(settings).as_deref())?;
    let kept = export::kept(&args.key.checkpoints(settings))?;
    let mut log = args.what.open(settings, super::Reader::Exports)?;
    let report = reports::report(log.source.as_mut(), vkey.as_ref(), &kept, &wanted)
        .map_err(Failure::unable)?;
    let text = match args.format.as_str() {
        _ if out.json && args.out.is_none() => json_text(&report)?,
        "csv" => report.to_csv(),
        "json" => json_text(&report)?,
        _ => report.to_html(),
    };
    let exceptions: u64 = report.controls.iter().map(|c| c.exceptions).sum();
    match &args.out {
        None => out.line(text.trim_end()),
        Some(path) => {
            files::write_private(path, &text)?;
            let value = json!({ "ok": report.verification.ok && exceptions == 0, "file": path,
                "proven": report.verification.ok, "exceptions": exceptions });
            out.either(&value, |out| {
                let proven = if report.verification.ok { "proven" } else { "NOT proven" };
                out.line(format!(
                    "{} in {}: the log is {proven}, {exceptions} exceptions in {} controls",
                    report.title,
                    path.display(),
                    report.controls.len()
                ));
            });
        }
    }
    let good = report.verification.ok && exceptions == 0;
    Ok(if good { Exit::Done } else { Exit::Refused })
}

fn json_text(report: &Evidence) -> Result<String, Failure> {
    serde_json::to_string(report).map_err(Failure::unable)
}
