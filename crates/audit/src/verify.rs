//! The verification of a log, from the key to the report.

use grantwright_domain::{Timestamp, text};
use grantwright_proof::epoch::MAX_EPOCHS;
use grantwright_proof::{Checkpoint, Vkey, WitnessKey};

use crate::conduct::Conduct;
use crate::epoch::Epochs;
use crate::grown::Grown;
use crate::known::Known;
use crate::pipeline::{self, Catalog, PAGE};
use crate::report::{Findings, MOST_FINDINGS, Rollback};
use crate::roots::{Promise, Roots};
use crate::witnesses::Search;
use crate::{CannotVerify, Report, Sets, Source, signatures};

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
    /// Witnesses that vouch for the log, and how many of them must.
    pub witnesses: &'a [WitnessKey],
    /// See `witnesses`; at least 1 where there are any.
    pub quorum: usize,
    /// Only that nobody changed the leaves; not what they say. The report tells so.
    pub hashes_only: bool,
    /// The recovery key that was written down, or that sidecars pinned: the log must rest on it, and
    /// where `vkey` is of a log before this epoch, it vouches for the key of this one.
    pub recovery: Option<&'a Vkey>,
    /// Policy sets that were compiled for other logs.
    pub sets: Option<&'a Sets>,
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
    Ok(run(source, options, None, false, progress)?.0)
}

/// As [`verify_with`], going on from what an earlier verification found, if there is any; and what a
/// later one can go on from, if nothing was found to be wrong. Where the log is not the one that was
/// verified, or something is wrong with what came since, all of it is verified anew, with the earlier
/// checkpoint as one that was kept.
///
/// # Errors
/// As [`verify_with`]; [`CannotVerify::Known`] when the earlier verification was of another log, with
/// another key, or looked at less.
pub fn verify_from(
    source: &mut dyn Source,
    options: &Options<'_>,
    known: Option<&Known>,
    progress: &mut dyn FnMut(u64),
) -> Result<(Report, Option<Known>), CannotVerify> {
    let Some(known) = known else { return run(source, options, None, true, progress) };
    if options.vkey.is_some_and(|key| key.to_string() != known.vkey) {
        return Err(CannotVerify::Known("it is of a log with another key"));
    }
    if options.hashes_only != known.hashes_only {
        return Err(CannotVerify::Known("only one of the two looks at what the leaves say"));
    }
    let (report, next) = run(source, options, Some(known), true, progress)?;
    if report.ok {
        return Ok((report, next));
    }
    let mut kept = options.kept.to_vec();
    kept.push(known.checkpoint().to_owned());
    run(source, &Options { kept: &kept, ..*options }, None, true, progress)
}

/// Verifies the leaves that are not `known`; with `keep`, what is known then. A known part that is not
/// that of this log is a finding.
fn run(
    source: &mut dyn Source,
    options: &Options<'_>,
    known: Option<&Known>,
    keep: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<(Report, Option<Known>), CannotVerify> {
    let Options { vkey, kept, now, hashes_only, witnesses, quorum, recovery, sets } = *options;
    if !witnesses.is_empty() && !(1..=witnesses.len()).contains(&quorum) {
        return Err(CannotVerify::Quorum { quorum, witnesses: witnesses.len() });
    }
    let mut findings = Findings::default();
    let leading = source.leaves(0, MAX_EPOCHS + 1)?;
    let mut epochs = Epochs::read(&leading, recovery);
    let named = epochs.first.clone();
    let empty = leading.is_empty();
    let from_log = named.as_ref().and_then(|e| Vkey::parse(&e.vkey).ok());
    let led = vkey.and_then(|old| epochs.leads_on(old));
    let Some(key) = led.as_ref().or(vkey).or(from_log.as_ref()) else {
        let notes = source.checkpoints()?;
        return match (empty, notes.is_empty()) {
            (true, false) => Ok((emptied(&notes), None)),
            (true, true) if kept.is_empty() => Err(CannotVerify::NothingToVerify),
            _ => Err(CannotVerify::NoKey),
        };
    };
    let origin = named.as_ref().map_or(key.name(), |e| e.origin.as_str()).to_owned();
    let mut search = Search::new(witnesses, quorum);
    let (stored, newest) =
        stored(source, key, &origin, known.map_or(0, Known::size), &mut search, &mut findings)?;
    let none_stored = stored.is_empty() && findings.count() == 0;
    let kept = opened(kept, key, &mut epochs, &mut search, &mut findings)?;
    let witnessed = search.end(&mut findings);
    if empty && none_stored && kept.iter().all(|c| c.size() == 0) {
        return Err(CannotVerify::NothingToVerify);
    }
    if let Some(e) = named
        && e.vkey != key.to_string()
    {
        findings.add(0, "key", "the first leaf names another key than the log is verified with");
    }

    let mut roots = Roots::new(stored, kept, known.map(|k| (&k.frontier, &*k.promises)));
    let catalog = Catalog::default();
    let sets = sets.cloned().unwrap_or_default();
    let resumed = match known {
        Some(known) => Conduct::resume(now, sets.clone(), known, source, &catalog)?,
        None => None,
    };
    let same = |k: &Known| k.origin == origin && k.vkey == key.to_string();
    if known.is_some_and(|k| !same(k) || resumed.is_none() || !roots.still_holds()) {
        findings.add(0, "fork", "this is not the log that was verified before");
    }
    let mut conduct = resumed.unwrap_or_else(|| Conduct::new(now, keep, sets));
    let mut grown = match known {
        Some(known) => known.grown.clone(),
        None => source.has_tiles().then(Grown::default),
    };
    let begin = roots.size();
    pipeline::walk(source, begin, hashes_only, &catalog, &mut |leaf, source| {
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
        epochs.add(leaf.index, leaf.hash);
        if let Some(grown) = &mut grown {
            grown.add(leaf.hash, source, &mut findings)?;
        }
        conduct.fold(leaf, source, &catalog, &mut findings)?;
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
    let mut rollback = roots.rollback(&origin, whole, leaves, &mut findings);
    if epochs.rolled_back(&mut findings) {
        rollback = Rollback::Found;
    }
    epochs.check(whole, begin, &mut findings);
    // Leaves that were not reached commit to texts that are there.
    let erased =
        if whole && !hashes_only { conduct.texts.check(source, &mut findings)? } else { 0 };
    source.settled()?;

    let mut undetectable = match hashes_only {
        true => vec!["what the leaves say was not looked at, only that nobody changed them".into()],
        false => conduct.undetectable(),
    };
    if vkey.is_none() && !epochs.vouched() {
        undetectable.push(
            "no verifier key was given: the key is the one that the log itself names, so a log \
             written anew under another key looks like this one"
                .into(),
        );
    }
    undetectable.extend(epochs.undetectable());
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
    if let Some(witnessed) = witnessed.as_ref().filter(|w| w.size < leaves) {
        undetectable.push(format!(
            "no witness vouches yet for the leaves after the first {}",
            witnessed.size
        ));
    }
    if erased > 0 {
        undetectable.push(format!(
            "{erased} texts are not beside the log (erased, or never stored): what they said cannot \
             be shown"
        ));
    }
    if begin > 0 {
        undetectable.push(format!(
            "the first {begin} leaves and the texts beside them were verified earlier and not read \
             again: what was changed of them since cannot be seen"
        ));
    }
    let findings = findings.into_sorted();
    let report = Report {
        ok: findings.is_empty(),
        conduct: !hashes_only,
        leaves,
        rollback,
        findings,
        undetectable,
        open_intents: conduct.open_intents(),
        origin,
        checkpoints: roots.verified(),
        root: roots.newest().map(|newest| newest.root.to_base64()).unwrap_or_default(),
        requests: conduct.requests(),
        witnessed,
        resumed_from: known.map(Known::size),
    };
    let next = (keep && report.ok).then(|| {
        let (frontier, promises) = roots.known();
        let told = known.map(|k| k.promises.as_slice()).unwrap_or_default();
        let mut next = Known {
            vkey: key.to_string(),
            origin: report.origin.clone(),
            hashes_only,
            note: newest,
            promises: told
                .iter()
                .filter(|p| p.size < begin)
                .copied()
                .chain(promises.into_iter().filter(|p| p.size >= begin))
                .collect(),
            frontier,
            grown,
            ..Known::default()
        };
        conduct.keep(&mut next);
        next
    });
    Ok((report, next))
}

/// What the stored checkpoints of at least `from` leaves promise that the key signed, and the newest of
/// them. The others are findings, unless all are.
fn stored(
    source: &mut dyn Source,
    key: &Vkey,
    origin: &str,
    from: u64,
    search: &mut Search<'_>,
    findings: &mut Findings,
) -> Result<(Vec<Promise>, String), CannotVerify> {
    let mut out: Vec<Promise> = Vec::new();
    let mut newest = (0, String::new());
    let mut refused: Vec<(u64, String)> = Vec::new();
    let mut signed = 0u64;
    source.each_checkpoints(from, &mut |notes| {
        for ((row, note), result) in notes.iter().zip(signatures::open_all(&notes, key)) {
            let checkpoint = match result {
                Ok(checkpoint) => checkpoint,
                Err(why) => {
                    if refused.len() < MOST_FINDINGS {
                        refused.push((*row, why));
                    }
                    continue;
                }
            };
            signed += 1;
            search.note(note, &checkpoint, findings);
            let (size, root) = (checkpoint.size(), checkpoint.root());
            if size == *row {
                out.push(Promise { size, root });
                if size >= newest.0 {
                    newest = (size, note.clone());
                }
            } else {
                let detail = format!("a checkpoint of {size} leaves is stored as one of {row}");
                findings.add(row.saturating_sub(1), "checkpoint", detail);
            }
            if checkpoint.origin() != origin {
                let other = text::visible(checkpoint.origin());
                let detail = format!(
                    "a checkpoint is of the log `{other}`, the first leaf opens `{origin}`"
                );
                findings.add(0, "origin", detail);
            }
        }
    })?;
    if let Some(note) = source.witnessed()?
        && let Some(checkpoint) = search.closed(&note, key, findings)
    {
        let promise = Promise { size: checkpoint.size(), root: checkpoint.root() };
        if !out.contains(&promise) {
            out.push(promise);
        }
    }
    if signed == 0 && !refused.is_empty() {
        return Err(CannotVerify::WrongKey(key.to_string()));
    }
    for (row, why) in refused {
        let detail = format!("the checkpoint stored for {row} leaves: {why}");
        findings.add(row.saturating_sub(1), "signature", detail);
    }
    Ok((out, newest.1))
}

/// The kept checkpoints of this log; those of the logs before it are for `epochs` to compare.
fn opened(
    kept: &[String],
    key: &Vkey,
    epochs: &mut Epochs,
    search: &mut Search<'_>,
    findings: &mut Findings,
) -> Result<Vec<Checkpoint>, CannotVerify> {
    let mut out = Vec::with_capacity(kept.len());
    for (note, number) in kept.iter().zip(1..) {
        match signatures::open(note, key) {
            Ok(checkpoint) => {
                search.note(note, &checkpoint, findings);
                out.push(checkpoint);
            }
            Err(_) if epochs.keep(note) => {}
            Err(why) => return Err(CannotVerify::KeptCheckpoint { number, why }),
        }
    }
    Ok(out)
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
        witnessed: None,
        resumed_from: None,
    }
}
