//! `grantwright audit`: proves a log offline, and tells one request's story from it. Read-only: it
//! works on a copy and while the broker runs, and creates nothing beside the store.

pub mod backup;
mod bundle;
pub mod events;
mod export;
mod files;
mod log;
mod receipt;
pub mod reconcile;
pub mod report;
pub mod restore;
pub mod search;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Subcommand;
use grantwright_audit::{CannotVerify, Finding, Known, Options, Report, Rollback, Sets, Source};
use grantwright_domain::{Event, RequestId, Timestamp};
use grantwright_proof::{Checkpoint, Vkey, WitnessKey};
use serde_json::{Value, json};

use crate::config::{Settings, now};
use crate::exit::{Exit, Failure, Outcome};
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
        #[command(flatten)]
        key: Key,
        /// The key of a witness that must vouch for the log; may be given several times.
        #[arg(long = "witness", value_name = "KEY")]
        witnesses: Vec<String>,
        /// How many of the witnesses must [default: all that are given].
        #[arg(long, value_name = "N", requires = "witnesses")]
        witness_quorum: Option<usize>,
        /// Only that nobody changed the log: not what its leaves say.
        #[arg(long)]
        hashes_only: bool,
        /// Go on from what the verification before found, and keep what this one finds, in this file.
        /// Whoever can write it can make the next verification believe anything of the past.
        #[arg(long, value_name = "FILE")]
        resume: Option<PathBuf>,
        /// The log before this epoch, as far as it is left: a store, an address, or a folder of tiles.
        /// It is proven too, and that this one goes on from it.
        #[arg(long, value_name = "URL")]
        before: Option<String>,
        /// File with the verifier key of the recovery key, as it was written down: the log must rest on
        /// it, and --vkey may then be of a log before this epoch.
        #[arg(long, value_name = "FILE")]
        recovery_key: Option<PathBuf>,
    },
    /// Write the log as plain files (C2SP tlog-tiles) that any static server can serve.
    Tiles {
        #[command(flatten)]
        what: What,
        #[command(flatten)]
        key: Key,
        /// The folder; one that holds an earlier export is brought up to date.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Write one archive that an auditor can verify offline.
    Bundle {
        #[command(flatten)]
        what: What,
        #[command(flatten)]
        key: Key,
        /// The archive.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Include what people and agents wrote (reasons, answers, sensitive parameters).
        #[arg(long)]
        texts: bool,
    },
    /// Write the log's events for another system: OCSF, CloudEvents, JSON lines or syslog.
    Export(events::Args),
    /// Verify offline that a credential was logged when it was issued.
    #[command(
        after_help = "Exit codes: 0 it holds, 1 it does not, 2 there is no receipt or no key."
    )]
    Receipt {
        /// The receipt, or the sidecar's whole answer.
        file: PathBuf,
        /// The log's verifier key [default: $GRANTWRIGHT_LOG_VKEY].
        #[arg(long, value_name = "KEY")]
        vkey: Option<String>,
    },
    /// Find requests by agent, person, scope, resource, time, outcome and words.
    Search(search::Args),
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
    /// A store (`sqlite:///…`, `postgres://…`), or the address of a log (`https://…/log`)
    /// [default: $GRANTWRIGHT_STORE].
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// A folder of tiles, as `grantwright audit tiles` writes them.
    #[arg(long, value_name = "TILES")]
    dir: Option<PathBuf>,
    /// An evidence bundle, as `grantwright audit bundle` writes it.
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
}

/// What it is verified with.
#[derive(Debug, clap::Args)]
pub struct Key {
    /// The log's verifier key [default: $GRANTWRIGHT_LOG_VKEY].
    #[arg(long, value_name = "KEY")]
    vkey: Option<String>,
    /// A checkpoint kept outside the log, a sidecar's or a witness's; may be given several times, and
    /// a file may hold several [default: $GRANTWRIGHT_CHECKPOINT].
    #[arg(long = "checkpoint", value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
}

impl Key {
    fn checkpoints(&self, settings: &Settings) -> Vec<PathBuf> {
        match self.checkpoints.is_empty() {
            true => settings.checkpoint.iter().cloned().collect(),
            false => self.checkpoints.clone(),
        }
    }

    fn vkey(&self, settings: &Settings) -> Option<String> {
        self.vkey.clone().or_else(|| settings.vkey.clone())
    }

    /// The key, for commands that cannot do without.
    fn known(&self, settings: &Settings) -> Result<Vkey, Failure> {
        parse(self.vkey(settings).as_deref())?.ok_or_else(|| {
            Failure::unable("give the log's verifier key with --vkey or GRANTWRIGHT_LOG_VKEY")
        })
    }
}

fn parse(vkey: Option<&str>) -> Result<Option<Vkey>, Failure> {
    let vkey = vkey.map(str::trim).map(Vkey::parse).transpose();
    vkey.map_err(|e| Failure::unable(format!("the verifier key: {e}")))
}

/// A recovery key's public part, from its file.
fn pinned(file: &Path) -> Result<Vkey, Failure> {
    let bytes = std::fs::read(file).map_err(|e| Failure::file(file, &e))?;
    let text = str::from_utf8(&bytes).unwrap_or_default().trim();
    if text.starts_with("PRIVATE+KEY+") {
        return Err(Failure::unable(format!(
            "`{}` is the private recovery key, which belongs offline: give a file with its verifier key, \
             which `grantwright init` and `restore` print",
            file.display()
        )));
    }
    let wrong = |e| Failure::unable(format!("`{}` is no verifier key: {e}", file.display()));
    Vkey::parse(text).map_err(wrong)
}

/// A log, wherever it is.
struct Opened {
    source: Box<dyn Source>,
    /// Where a bundle was unpacked; removed with it.
    _folder: Option<tempfile::TempDir>,
}

impl What {
    /// Opens the log for `reader`, which asks whether it is settled if it reads all of it in place.
    fn open(&self, settings: &Settings, reader: Reader) -> Result<Opened, Failure> {
        if let Some(bundle) = &self.bundle {
            let folder = bundle::unpack(bundle)?;
            let source = tiles(folder.path())?;
            return Ok(Opened { source, _folder: Some(folder) });
        }
        if let Some(dir) = &self.dir {
            if !dir.is_dir() {
                return Err(Failure::unable(format!("`{}` is not a folder", dir.display())));
            }
            return Ok(Opened { source: tiles(dir)?, _folder: None });
        }
        let store = match &self.store {
            Some(store) => store,
            None => settings.store()?,
        };
        let source = open(store, settings.token_file.as_deref(), reader)?;
        Ok(Opened { source, _folder: None })
    }
}

/// A log in a folder.
fn tiles(dir: &Path) -> Result<Box<dyn Source>, Failure> {
    let files = files::Folder(dir.to_owned());
    Ok(Box::new(grantwright_audit::Tiles::open(files).map_err(Failure::unable)?))
}

/// What a log is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Exports,
    Verifies,
}

/// A log in a store, or one that is served at an address.
fn open(url: &str, token: Option<&Path>, reader: Reader) -> Result<Box<dyn Source>, Failure> {
    if url.starts_with("http://") || url.starts_with("https://") {
        let web = files::Web::open(url, token)?;
        return Ok(Box::new(grantwright_audit::Tiles::open(web).map_err(Failure::unable)?));
    }
    Ok(Box::new(match reader {
        Reader::Exports => log::Log::open(url)?,
        Reader::Verifies => log::Log::open_whole(url)?,
    }))
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
        Command::Verify {
            what,
            key,
            witnesses,
            witness_quorum,
            hashes_only,
            resume,
            before,
            recovery_key,
        } => {
            let recovery = recovery_key.as_deref().map(pinned).transpose()?;
            let vkey = parse(key.vkey(settings).as_deref())?;
            let kept = export::kept(&key.checkpoints(settings))?;
            let witnesses = witnesses.iter().map(|key| WitnessKey::parse(key.trim()));
            let witnesses: Vec<WitnessKey> = witnesses
                .collect::<Result<_, _>>()
                .map_err(|e| Failure::unable(format!("a witness's key: {e}")))?;
            let mut log = what.open(settings, Reader::Verifies)?;
            let told = !out.json && std::io::stderr().is_terminal();
            let (source, sets) = (log.source.as_mut(), Sets::default());
            let options = Options {
                vkey: vkey.as_ref(),
                kept: &kept,
                now: Some(now()),
                witnesses: &witnesses,
                quorum: witness_quorum.unwrap_or(witnesses.len()),
                hashes_only: *hashes_only,
                recovery: recovery.as_ref(),
                sets: Some(&sets),
            };
            let mut report = match resume {
                None => prove(source, &options, told)?,
                Some(file) => go_on(source, &options, file, told)?,
            };
            if let Some(before) = before {
                let found = epochs(before, source, &options)?;
                report.findings.extend(found);
                report.ok = report.findings.is_empty();
            }
            print(out, &report)
        }
        Command::Tiles { what, key, to } => {
            let mut log = what.open(settings, Reader::Exports)?;
            let key = key.known(settings)?;
            let done = export::tiles(log.source.as_mut(), &key, &mut export::Folder(to.clone()))?;
            written(out, &done, to)
        }
        Command::Bundle { what, key, to, texts } => {
            let kept = export::kept(&key.checkpoints(settings))?;
            let mut log = what.open(settings, Reader::Exports)?;
            let key = key.known(settings)?;
            let done = export::bundle(log.source.as_mut(), &key, &kept, *texts, to)?;
            written(out, &done, to)
        }
        Command::Search(args) => crate::command::wait(search::run(out, settings, args)),
        Command::Export(args) => events::run(out, settings, args),
        Command::Receipt { file, vkey } => {
            let key = Key { vkey: vkey.clone(), checkpoints: Vec::new() };
            receipt::run(out, file, &key.known(settings)?)
        }
        Command::Show { request } => show(out, settings, request),
    }
}

/// Verifies a whole log.
///
/// # Errors
/// When nothing can be said about it.
pub fn verify(check: &Check) -> Result<Report, Failure> {
    let vkey = parse(check.vkey.as_deref())?;
    let kept = export::kept(&check.checkpoints)?;
    let mut log = open(&check.store, None, Reader::Verifies)?;
    let options =
        Options { vkey: vkey.as_ref(), kept: &kept, now: Some(now()), ..Options::default() };
    prove(log.as_mut(), &options, false)
}

fn prove(source: &mut dyn Source, options: &Options<'_>, told: bool) -> Result<Report, Failure> {
    telling(told, |progress| grantwright_audit::verify_with(source, options, progress))
}

/// Verifies what came since the verification whose findings are in the file, if it is there.
fn go_on(
    source: &mut dyn Source,
    options: &Options<'_>,
    file: &Path,
    told: bool,
) -> Result<Report, Failure> {
    let known = match std::fs::read(file) {
        Ok(bytes) => {
            let known = Known::read(&bytes);
            Some(known.map_err(|e| Failure::unable(format!("`{}`: {e}", file.display())))?)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(Failure::file(file, &e)),
    };
    let verify = |progress: &mut dyn FnMut(u64)| {
        grantwright_audit::verify_from(source, options, known.as_ref(), progress)
    };
    let (report, next) = telling(told, verify)?;
    if let Some(next) = next {
        crate::files::write_private_bytes(file, &next.write())?;
    }
    Ok(report)
}

/// Runs a verification, telling how far it is if so wished.
fn telling<T>(
    told: bool,
    verify: impl FnOnce(&mut dyn FnMut(u64)) -> Result<T, CannotVerify>,
) -> Result<T, Failure> {
    let begun = Instant::now();
    let mut last = (begun, None);
    let mut progress = |leaves: u64| {
        // A verification that goes on from another begins where that one ended.
        let first = *last.1.get_or_insert(leaves);
        if told && last.0.elapsed() >= TELL {
            last.0 = Instant::now();
            let rate = leaves.saturating_sub(first) as f64 / begun.elapsed().as_secs_f64();
            let mut err = std::io::stderr().lock();
            // Over itself, on one line; a closed terminal is not an error of ours.
            let _ = write!(err, "\r  {leaves} leaves, {rate:.0}/s \x1b[K");
            let _ = err.flush();
        }
    };
    let done = verify(&mut progress);
    if told && begun.elapsed() >= TELL {
        let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
    }
    done.map_err(Failure::unable)
}

/// Proves the log before an epoch in itself, as far as it is left and with the checkpoints of it that were
/// kept, and that the epoch goes on from it. Findings of the old log say so.
fn epochs(
    before: &str,
    new: &mut dyn Source,
    options: &Options<'_>,
) -> Result<Vec<Finding>, Failure> {
    let mut old = match Path::new(before) {
        folder if folder.is_dir() => tiles(folder)?,
        _ => open(before, None, Reader::Verifies)?,
    };
    let old = old.as_mut();
    let mut found = grantwright_audit::continues(old, new).map_err(Failure::unable)?;
    // Of a log that is not the one before, nothing more is to be said.
    if !found.is_empty() {
        return Ok(found);
    }
    let first = new.leaves(0, 1).map_err(Failure::unable)?;
    let Some(Ok(Event::EpochStarted(epoch))) = first.first().map(|(_, l)| Event::from_leaf(l))
    else {
        return Ok(found);
    };
    let vkey = Vkey::parse(&epoch.old_vkey).map_err(Failure::unable)?;
    // A checkpoint beyond what is left is of what the ceremony says is lost.
    let count = old.count().map_err(Failure::unable)?.unwrap_or(epoch.restored);
    let reached = |note: &&String| {
        Checkpoint::open(note, &vkey, vkey.name()).is_ok_and(|kept| kept.size() <= count)
    };
    let named = std::iter::once(&epoch.old_checkpoint);
    let kept: Vec<String> = named.chain(options.kept).filter(reached).cloned().collect();
    let options = Options {
        vkey: Some(&vkey),
        kept: &kept,
        now: options.now,
        hashes_only: options.hashes_only,
        sets: options.sets,
        ..Options::default()
    };
    let report = prove(old, &options, false)?;
    found.extend(report.findings.into_iter().map(|finding| Finding {
        detail: format!("of the log before: {}", finding.detail),
        ..finding
    }));
    Ok(found)
}

/// How often progress is told.
const TELL: Duration = Duration::from_millis(500);

fn written(out: &Out, done: &export::Exported, to: &Path) -> Outcome {
    let value = json!({
        "leaves": done.leaves, "blobs": done.blobs, "texts": done.texts,
        "checkpoint": done.checkpoint, "to": to.display().to_string(),
    });
    out.either(&value, |out| {
        out.line(format!(
            "{} leaves, {} policies and scopes in `{}`",
            done.leaves,
            done.blobs,
            to.display()
        ));
        out.line("verify it with `grantwright audit verify`");
    });
    Ok(Exit::Done)
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
    if let Some(witnessed) = &report.witnessed {
        let names: Vec<String> = witnessed.witnesses.iter().map(|name| clean(name)).collect();
        out.line(format!("  {} leaves cosigned by {}", witnessed.size, names.join(", ")));
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
    if !report.conduct {
        return Ok(format!(
            "nobody changed the {} leaves, {rollback}; what they say was not looked at",
            report.leaves
        ));
    }
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
