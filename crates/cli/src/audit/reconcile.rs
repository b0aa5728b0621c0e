//! `grantwright reconcile`: what was issued, compared with what a backend's own audit log says was used.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use flate2::read::MultiGzDecoder;
use grantwright_audit::reconcile::{Backend, Known, LeaseView, Leases, Place, cloudtrail, vault};
use grantwright_domain::{Digest, Timestamp};
use serde_json::json;

use super::What;
use crate::config::{Settings, now};
use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::output::{Look, Out, clean};
use crate::times;

/// Largest document that is read as a whole, unpacked.
const MOST_DOCUMENT: u64 = 512 << 20;
/// Longest line.
const MOST_LINE: u64 = 4 << 20;
/// A file is known again by so many of its first bytes.
const HEAD: u64 = 4096;
/// The backend's clock and this one differ by less (5 min).
const CLOCK_MS: i64 = 300_000;
/// Findings and leases that are printed; `--json` has all.
const SHOWN: usize = 25;

/// `grantwright reconcile …`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// AWS CloudTrail: files as they are delivered (`.json`, `.json.gz`), or one record a line.
    Cloudtrail(Args),
    /// Vault's or OpenBao's audit log: one entry a line, also gzipped.
    Vault(Args),
}

/// What both take.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 everything agrees, 1 something does not, 2 could not be compared."
)]
pub struct Args {
    /// The backend's files, the oldest first.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    what: What,
    /// A file that remembers what was read and found, so that the next run goes on from there.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// When the log or a file cannot be read.
pub fn run(out: &Out, settings: &Settings, command: &Command) -> Outcome {
    let (backend, args) = match command {
        Command::Cloudtrail(args) => (Backend::CloudTrail, args),
        Command::Vault(args) => (Backend::Vault, args),
    };
    let mut log = args.what.open(settings, super::Reader::Exports)?;
    let leases = Leases::of(log.source.as_mut()).map_err(Failure::unable)?;
    if leases.origin().is_empty() {
        return Err(Failure::unable("the log holds no leaf: there is nothing to compare with"));
    }
    let mut known = remembered(args.state.as_deref(), leases.origin())?;
    for path in &args.files {
        read(path, backend, &leases, &mut known)?;
    }
    // Nothing compared is nothing that agrees.
    if known.events == 0 {
        return Err(Failure::unable(format!(
            "the files hold no event of the backend ({} entries are none): nothing was compared",
            known.malformed
        )));
    }
    if let Some(path) = &args.state {
        let text = serde_json::to_string(&known).map_err(Failure::unable)?;
        files::write_private(path, &text)?;
    }
    let views = known.leases(&leases, backend);
    // It would make leases look unused whose use is yet to come.
    let after_now = known.span.map(|(_, last)| last).filter(|last| last.since(now()) > CLOCK_MS);
    let good = known.findings.is_empty() && known.malformed == 0 && after_now.is_none();
    let value = json!({
        "ok": good, "events": known.events, "matched": known.matched,
        "unrelated": known.unrelated, "malformed": known.malformed, "span": known.span, "after_now": after_now,
        "leases": views, "counts": known.counts, "findings": known.findings,
    });
    out.either(&value, |out| words(out, &known, &views, after_now));
    Ok(if good { Exit::Done } else { Exit::Refused })
}

fn remembered(state: Option<&Path>, origin: &str) -> Result<Known, Failure> {
    let Some(path) = state.filter(|path| path.exists()) else { return Ok(Known::new(origin)) };
    let text = files::read(path)?;
    let known: Known = serde_json::from_str(&text).map_err(|e| {
        Failure::unable(format!("`{}` is no state of this command: {e}", path.display()))
    })?;
    if known.origin != origin {
        return Err(Failure::unable(format!(
            "`{}` is about the log `{}`, not `{}`: name another file",
            path.display(),
            clean(&known.origin),
            clean(origin)
        )));
    }
    Ok(known)
}

/// Reads what is new of a file.
fn read(path: &Path, backend: Backend, leases: &Leases, known: &mut Known) -> Result<(), Failure> {
    let fault = |e: &std::io::Error| Failure::file(path, e);
    let name = std::fs::canonicalize(path).map_err(|e| fault(&e))?.display().to_string();
    let mut file = File::open(path).map_err(|e| fault(&e))?;
    let size = file.metadata().map_err(|e| fault(&e))?.len();
    let mut from = 0;
    if let Some(place) = known.files.get(&name)
        && place.offset <= size
        && head(&mut file, place.head_len).map_err(|e| fault(&e))? == place.head
    {
        from = place.offset;
    }
    if from == size && size > 0 {
        return Ok(());
    }
    let mut magic = [0; 2];
    file.seek(SeekFrom::Start(0)).map_err(|e| fault(&e))?;
    let packed = file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
    file.seek(SeekFrom::Start(if packed { 0 } else { from })).map_err(|e| fault(&e))?;
    let told = |e: String| Failure::unable(format!("`{}`: {e}", path.display()));
    let mut each = |line: &str| match backend {
        Backend::CloudTrail => cloudtrail::read(line, leases, known),
        Backend::Vault | Backend::Other => {
            vault::read(line, leases, known);
            Ok(())
        }
    };
    let offset = if packed {
        // Packed files do not grow: they are read as a whole, once.
        entries(&mut BufReader::new(MultiGzDecoder::new(file)), 0, &mut each).map_err(told)?;
        size
    } else {
        entries(&mut BufReader::with_capacity(1 << 20, file), from, &mut each).map_err(told)?
    };
    let mut file = File::open(path).map_err(|e| fault(&e))?;
    let head_len = offset.min(HEAD);
    let head = head(&mut file, head_len).map_err(|e| fault(&e))?;
    known.files.insert(name, Place { offset, head, head_len });
    Ok(())
}

/// Gives a document, or each whole line from where the reader stands; where the next begins.
fn entries(
    reader: &mut impl BufRead,
    from: u64,
    each: &mut dyn FnMut(&str) -> Result<(), String>,
) -> Result<u64, String> {
    let (mut at, mut line) = (from, Vec::new());
    loop {
        line.clear();
        let read = reader.by_ref().take(MOST_LINE).read_until(b'\n', &mut line);
        let read = read.map_err(|e| e.to_string())? as u64;
        let ended = line.last() == Some(&b'\n');
        let first = from == 0 && at == 0;
        // A delivered document may be one long line, or be laid out over many.
        if first && is_document(&line) {
            let most = MOST_DOCUMENT.saturating_sub(read);
            let more =
                reader.by_ref().take(most).read_to_end(&mut line).map_err(|e| e.to_string())?;
            if more as u64 >= most {
                return Err("is larger than 512 MiB as one document; split it".into());
            }
            let text = str::from_utf8(&line).map_err(|_| "is not UTF-8".to_owned())?;
            each(text)?;
            return Ok(line.len() as u64);
        }
        if read == 0 {
            return Ok(at);
        }
        if !ended && read >= MOST_LINE {
            return Err(format!("holds a line longer than 4 MiB at byte {at}"));
        }
        if !ended {
            // Still being written; a whole last line without an end is taken.
            if serde_json::from_slice::<serde::de::IgnoredAny>(&line).is_err() {
                return Ok(at);
            }
        }
        at = at.saturating_add(read);
        let text = str::from_utf8(&line).map_err(|_| format!("is not UTF-8 at byte {at}"))?;
        if !text.trim().is_empty() {
            each(text)?;
        }
    }
}

/// `{"Records":[…` as CloudTrail delivers it.
fn is_document(start: &[u8]) -> bool {
    let text = String::from_utf8_lossy(start.get(..200).unwrap_or(start)).into_owned();
    let text: String = text.split_whitespace().collect();
    text.starts_with("{\"Records\"") || text == "{"
}

/// Names a file by its first bytes.
fn head(file: &mut File, len: u64) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.by_ref().take(len).read_to_end(&mut bytes)?;
    Ok(Digest::of("reconcile-head", &bytes).hex())
}

fn words(out: &Out, known: &Known, views: &[LeaseView], after_now: Option<Timestamp>) {
    let count = |state: &str| views.iter().filter(|v| v.state == state).count();
    out.line(format!(
        "{} events read, {} by credentials of this log, {} of others, {} unreadable",
        known.events, known.matched, known.unrelated, known.malformed
    ));
    out.line(format!(
        "{} leases: {} used, {} refused, {} never used, {} outside the time that was read",
        views.len(),
        count("used"),
        count("refused"),
        count("never used"),
        count("not covered")
    ));
    let rows: Vec<Vec<String>> = views
        .iter()
        .filter(|v| v.state != "not covered")
        .take(SHOWN)
        .map(|v| {
            let calls: Vec<String> =
                v.used.by_call.iter().map(|(call, n)| format!("{call} × {n}")).collect();
            let by = match v.approvers.is_empty() {
                true => "policy".to_owned(),
                false => v.approvers.join(", "),
            };
            vec![
                v.leaf.to_string(),
                v.agent.clone(),
                v.scope.clone(),
                by,
                v.state.to_owned(),
                calls.join(" · "),
            ]
        })
        .collect();
    if !rows.is_empty() {
        out.table(&["leaf", "agent", "scope", "approved by", "state", "calls"], &rows);
    }
    for found in known.findings.iter().take(SHOWN) {
        let request = found.request.as_ref().map_or(String::new(), |r| format!(" (request {r})"));
        out.line(format!(
            "{} {}  {}{request}",
            out.paint(Look::Bad, &format!("✗ {}", clean(&found.rule))),
            times::when(&found.at.to_string(), now()),
            clean(&found.detail)
        ));
    }
    if known.findings.len() > SHOWN {
        out.line(format!("… and {} more: --json has them all", known.findings.len() - SHOWN));
    }
    if known.malformed > 0 {
        let told = format!("✗ {} entries are no events, and were not compared", known.malformed);
        out.line(out.paint(Look::Bad, &told));
    }
    if let Some(last) = after_now {
        let told =
            format!("✗ an event is of {last}, after now: a clock is wrong, or it was changed");
        out.line(out.paint(Look::Bad, &told));
    }
    if known.findings.is_empty() && known.malformed == 0 && after_now.is_none() {
        out.line(out.paint(Look::Good, "✓ everything agrees"));
    }
}
