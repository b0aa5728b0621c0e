//! `grantwright audit export`: the log in the words of other systems, once, to standard output or a file.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use grantwright_audit::CannotVerify;
use grantwright_audit::export::{self, DOCUMENTATION_ENTERPRISE, Exporter, Format, Origin, Window};
use grantwright_domain::Timestamp;
use grantwright_domain::time::parse_ttl;
use serde_json::json;

use super::What;
use crate::config::{Settings, now};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::Out;

/// `grantwright audit export …`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 exported, 1 the log is not whole (the leaf is named), 2 could not be read \
    or written.\nIt proves nothing: `grantwright audit verify` does."
)]
pub struct Args {
    #[command(flatten)]
    what: What,
    /// How each leaf is written, one a line: `ocsf` (OCSF 1.5.0), `cloudevents` (1.0, structured),
    /// `jsonl` (index, leaf hash and leaf) or `syslog` (RFC 5424).
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    format: Format,
    /// Only leaves of this moment and later: RFC 3339, or a time before now as in `24h`.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only leaves before this moment.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// Only leaves from this index on.
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    from: u64,
    /// At most so many.
    #[arg(long, value_name = "N")]
    most: Option<u64>,
    /// A file to write, which must not exist [default: standard output].
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Syslog: the host's name.
    #[arg(long, value_name = "NAME", default_value = "-")]
    host: String,
    /// Syslog: your private enterprise number; the default is the one kept for documentation.
    #[arg(long, value_name = "NUMBER", default_value_t = DOCUMENTATION_ENTERPRISE)]
    enterprise: u32,
}

fn format(name: &str) -> Result<Format, String> {
    Format::named(name).ok_or_else(|| {
        let names: Vec<&str> = Format::NAMES.iter().map(|(name, _)| *name).collect();
        format!("want one of {}", names.join(", "))
    })
}

/// A moment: RFC 3339, or so long before now.
///
/// # Errors
/// Says what it wants.
pub fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(seconds) = parse_ttl(text) {
        return Ok(now().plus_seconds(-i64::from(seconds)));
    }
    // A day is the moment at which it begins.
    let day = format!("{text}T00:00:00Z");
    Timestamp::parse(text)
        .or_else(|_| Timestamp::parse(&day))
        .map_err(|_| "want an RFC 3339 time, a date, or a time before now as in 24h".to_owned())
}

/// Runs the command.
///
/// # Errors
/// When the log cannot be read, holds a leaf that is no event, or the output cannot be written.
pub fn run(out: &Out, settings: &Settings, args: &Args) -> Outcome {
    let mut opened = args.what.open(settings, super::Reader::Exports)?;
    let origin =
        Origin { host: args.host.clone(), enterprise: args.enterprise, ..Origin::new("", "") };
    let mut exporter = Exporter::new(args.format, origin);
    let window = Window { since: args.since, until: args.until, from: args.from, most: args.most };
    let (mut to, name): (Box<dyn Write>, _) = match &args.to {
        None => (Box::new(std::io::stdout().lock()), "standard output".to_owned()),
        Some(path) => (Box::new(create(path)?), path.display().to_string()),
    };
    let mut to = BufWriter::with_capacity(1 << 20, &mut to);
    let mut closed = false;
    let mut write = |_: u64, line: &[u8]| {
        let written = to.write_all(line).and_then(|()| to.write_all(b"\n"));
        written.map_err(|e| {
            closed = e.kind() == std::io::ErrorKind::BrokenPipe;
            CannotVerify::Unreadable(format!("{name} cannot be written: {e}"))
        })
    };
    let told = export::export(opened.source.as_mut(), &mut exporter, window, &mut write);
    let told = match told {
        // Whoever reads has seen enough.
        Err(_) if closed => return Ok(Exit::Done),
        Ok(told) => told,
        Err(error) => {
            // Nothing is left that looks like an export of the whole.
            if let Some(path) = &args.to {
                drop(to);
                let _ = std::fs::remove_file(path);
            }
            return Err(not_whole(&error));
        }
    };
    to.flush().map_err(|e| Failure::unable(format!("{name} cannot be written: {e}")))?;
    drop(to);
    if args.to.is_some() {
        let value = json!({ "ok": true, "events": told, "file": name });
        return Ok(out.either(&value, |out| out.line(format!("{told} events in {name}"))));
    }
    Ok(Exit::Done)
}

/// Why nothing more was exported: a fault of the log is exit 1, as in its verification.
fn not_whole(error: &CannotVerify) -> Failure {
    match error {
        CannotVerify::BadLeaf { leaf, .. } | CannotVerify::Missing { leaf, .. } => {
            let problem =
                json!({ "code": "log_not_whole", "leaf": leaf, "detail": error.to_string() });
            crate::api::refusal(409, problem.to_string().as_bytes())
        }
        error => Failure::unable(error),
    }
}

/// A new file for this user alone.
fn create(path: &Path) -> Result<std::fs::File, Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|e| Failure::file(path, &e))
}
