//! The verification of a log, from the key to the report.

use grantwright_domain::{Event, Timestamp, text};
use grantwright_proof::{Checkpoint, Vkey};

use crate::conduct::Conduct;
use crate::grown::Grown;
use crate::pipeline::{self, PAGE};
use crate::report::{Findings, Rollback};
use crate::roots::Roots;
use crate::{CannotVerify, Report, Source, signatures};

/// What a log is verified with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// The key that signs the log; without it the key that the log itself names is used, and the
    /// report says so.
    pub vkey: Option<&'a Vkey>,
    /// Checkpoints (signed notes) that were kept outside the log.
    pub kept: &'a [String],
    /// The time now, if leaves that claim a later one are to be found.
    pub now: Option<Timestamp>,
    /// Only that nobody changed the leaves; not what they say. The report tells so.
    pub hashes_only: bool,
}

/// Verifies a whole log; see [`verify_with`].
///
/// # Errors
/// As [`verify_with`].
pub fn verify(
    source: &mut dyn Source,
    vkey: Option<&Vkey>,
    kept: &[String],
    progress: &mut dyn FnMut(u64),
) -> Result<Report, CannotVerify> {
    verify_with(source, &Options { vkey, kept, ..Options::default() }, progress)
}

/// Verifies a whole log. `progress` is told now and then how many leaves are done.
///
/// # Errors
/// [`CannotVerify`] when nothing can be said about the log: exit code 2. Faults of the log are
/// findings of the report: exit code 1.
pub fn verify_with(
    source: &mut dyn Source,
    options: &Options<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<Report, CannotVerify> {
    let Options { vkey, kept, now, hashes_only } = *options;
    let mut findings = Findings::default();
    let notes = source.checkpoints()?;
    let first = source.leaves(0, 1)?;
    let named = first.first().and_then(|(_, body)| match Event::from_leaf(body) {
        Ok(Event::Opened(e)) => Some(e),
        _ => None,
    });
    let empty = first.is_empty();
    if empty && notes.is_empty() && kept.is_empty() {
        return Err(CannotVerify::NothingToVerify);
    }
    let from_log = named.as_ref().and_then(|e| Vkey::parse(&e.vkey).ok());
    let Some(key) = vkey.or(from_log.as_ref()) else {
        if empty && !notes.is_empty() {
            return Ok(emptied(&notes));
        }
        return Err(CannotVerify::NoKey);
    };
    let stored = stored(&notes, key, &mut findings)?;
    let kept = opened(kept, key)?;
    if empty && notes.is_empty() && kept.iter().all(|c| c.size() == 0) {
        return Err(CannotVerify::NothingToVerify);
    }
    let origin = named.as_ref().map_or(key.name(), |e| e.origin.as_str()).to_owned();
    for checkpoint in stored.iter().filter(|c| c.origin() != origin) {
        let other = text::visible(checkpoint.origin());
        let detail =
            format!("a checkpoint is of the log `{other}`, the first leaf opens `{origin}`");
        findings.add(0, "origin", detail);
    }
    if let Some(e) = &named
        && e.vkey != key.to_string()
    {
        findings.add(0, "key", "the first leaf names another key than the log is verified with");
    }

    let mut roots = Roots::new(stored, kept);
    let mut conduct = Conduct::default();
    conduct.now = now;
    let mut grown = source.has_tiles().then(Grown::default);
    pipeline::walk(source, hashes_only, &mut |leaf, source| {
        if leaf.index != roots.size() {
            let (at, index) = (roots.size(), leaf.index);
            let detail = match index > at {
                true => format!("leaf {at} is missing: the next one is {index}"),
                false => format!("leaf {index} is there twice"),
            };
            findings.add(at.min(index), "index", detail);
            return Ok(false);
        }
        roots.add(leaf.hash, source, &mut findings)?;
        if let Some(grown) = &mut grown {
            grown.add(leaf.hash, source, &mut findings)?;
        }
        match leaf.event {
            Ok(Some(event)) => conduct.fold(&event, source, &mut findings)?,
            Ok(None) => {}
            Err(why) => conduct.unreadable(leaf.index, &why, &mut findings),
        }
        if roots.size().is_multiple_of(PAGE as u64) {
            progress(roots.size());
        }
        Ok(!findings.is_full())
    })?;
    progress(roots.size());
    let walked = roots.size();
    let leaves = source.count()?.unwrap_or(walked);
    // A walk that ended early says nothing about the end of the log.
    let gap = findings.has("index");
    let whole = !findings.is_full() && !gap;
    if whole && leaves != walked {
        let detail = format!("{leaves} leaves are stored, {walked} of them in order");
        findings.add(walked.min(leaves), "index", detail);
    }
    if whole {
        roots.finish(source, &mut findings)?;
        if let Some(grown) = &mut grown {
            grown.finish(source, &mut findings)?;
        }
    }
    let rollback = roots.rollback(&origin, whole, leaves, &mut findings);
    // Leaves that were not reached commit to texts that are there.
    let erased =
        if whole && !hashes_only { conduct.texts.check(source, &mut findings)? } else { 0 };

    let mut undetectable = match hashes_only {
        true => vec!["what the leaves say was not looked at, only that nobody changed them".into()],
        false => conduct.undetectable(),
    };
    if vkey.is_none() {
        undetectable.push(
            "no verifier key was given: the key is the one that the log itself names, so a log \
             written anew under another key looks like this one"
                .into(),
        );
    }
    undetectable.push(match (rollback, roots.largest_kept()) {
        (Rollback::NotChecked, _) | (_, None) => {
            "no checkpoint was kept outside the log: a rollback to an earlier state, or another \
             history under the same key, cannot be seen"
                .into()
        }
        (_, Some(size)) => format!(
            "a rollback to any state of at least {size} leaves (the largest kept checkpoint), or \
             another history after them under the same key, cannot be seen"
        ),
    });
    if erased > 0 {
        undetectable.push(format!(
            "{erased} texts are not beside the log (erased, or never stored): what they said cannot \
             be shown"
        ));
    }
    let findings = findings.into_sorted();
    Ok(Report {
        ok: findings.is_empty(),
        conduct: !hashes_only,
        leaves,
        rollback,
        findings,
        undetectable,
        open_intents: conduct.open_intents(),
        origin,
        checkpoints: roots.verified(),
        root: roots.newest().map(|c| c.root().to_base64()).unwrap_or_default(),
        requests: conduct.requests(),
    })
}

/// The stored checkpoints that the key signed. The others are findings, unless all are.
fn stored(
    notes: &[(u64, String)],
    key: &Vkey,
    findings: &mut Findings,
) -> Result<Vec<Checkpoint>, CannotVerify> {
    let opened = signatures::open_all(notes, key);
    if !notes.is_empty() && opened.iter().all(Result::is_err) {
        return Err(CannotVerify::WrongKey(key.to_string()));
    }
    let mut out = Vec::with_capacity(notes.len());
    for ((row, _), result) in notes.iter().zip(opened) {
        match result {
            Ok(checkpoint) if checkpoint.size() == *row => out.push(checkpoint),
            Ok(checkpoint) => {
                let size = checkpoint.size();
                let detail = format!("a checkpoint of {size} leaves is stored as one of {row}");
                findings.add(row.saturating_sub(1), "checkpoint", detail);
            }
            Err(why) => {
                let detail = format!("the checkpoint stored for {row} leaves: {why}");
                findings.add(row.saturating_sub(1), "signature", detail);
            }
        }
    }
    Ok(out)
}

fn opened(kept: &[String], key: &Vkey) -> Result<Vec<Checkpoint>, CannotVerify> {
    kept.iter()
        .zip(1..)
        .map(|(note, number)| {
            signatures::open(note, key).map_err(|why| CannotVerify::KeptCheckpoint { number, why })
        })
        .collect()
}

/// Checkpoints without a leaf, and no key to verify them with.
fn emptied(notes: &[(u64, String)]) -> Report {
    let mut findings = Findings::default();
    let size = notes.iter().map(|(size, _)| *size).max().unwrap_or(0);
    findings.add(0, "truncated", format!("a checkpoint covers {size} leaves, the log holds none"));
    Report {
        ok: false,
        conduct: false,
        leaves: 0,
        rollback: Rollback::NotChecked,
        findings: findings.into_sorted(),
        undetectable: Vec::new(),
        open_intents: Vec::new(),
        origin: String::new(),
        checkpoints: 0,
        root: String::new(),
        requests: 0,
    }
}
