//! `grantwright audit tiles` and `grantwright audit bundle`: a log as plain files that any server can
//! serve and any verifier can read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use grantwright_audit::tiles::{TEXTS_TO_A_FILE, numbered, text_line};
use grantwright_audit::{Source, Text};
use grantwright_domain::{Digest, Event};
use grantwright_proof::tile::{FULL_WIDTH, encode_entries};
use grantwright_proof::{
    Checkpoint, Edge, Hash, Tile, TileKind, Vkey, leaf_hash, note, verify_note,
};

use super::bundle::{FORMAT, Pack, Sink};
use crate::exit::Failure;
use crate::files;

const WIDTH: usize = FULL_WIDTH as usize;

/// What an export holds.
#[derive(Debug)]
pub struct Exported {
    /// Leaves.
    pub leaves: u64,
    /// Policy sets and scope declarations.
    pub blobs: u64,
    /// Texts beside the leaves.
    pub texts: u64,
    /// The newest checkpoint.
    pub checkpoint: String,
}

/// A folder to export to. A file that is there already with the same bytes is left alone, so that an
/// export over an earlier one writes only what is new.
pub struct Folder(pub PathBuf);

impl Sink for Folder {
    fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), Failure> {
        let place = self.0.join(path);
        if std::fs::read(&place).is_ok_and(|now| now == bytes) {
            return Ok(());
        }
        let parent = place.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).map_err(|e| Failure::file(parent, &e))?;
        let name = place.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let beside = place.with_file_name(format!(".{name}.new"));
        std::fs::write(&beside, bytes).map_err(|e| Failure::file(&place, &e))?;
        std::fs::rename(&beside, &place).map_err(|e| Failure::file(&place, &e))
    }
}

/// Exports the log as files; the checkpoint comes last, so that whoever serves the folder never
/// promises what is not there yet.
///
/// # Errors
/// When it cannot be read or written, or its newest checkpoint is not over these leaves.
pub fn tiles(source: &mut dyn Source, vkey: &Vkey, to: &mut dyn Sink) -> Result<Exported, Failure> {
    let (checkpoint, text) = newest(source, vkey)?;
    let mut export = Export { to, leaves: Vec::new(), rows: Vec::new(), blobs: BTreeSet::new() };
    let mut edge = Edge::new();
    let size = checkpoint.size();
    while edge.size() < size {
        let from = edge.size();
        let page = source.leaves(from, 1024).map_err(Failure::unable)?;
        if page.is_empty() {
            return Err(not_whole(format!("leaf {from} is missing")));
        }
        for (index, body) in page {
            if index != edge.size() {
                return Err(not_whole(format!("leaf {} is missing", edge.size())));
            }
            if index == size {
                break;
            }
            export.leaf(&mut edge, body)?;
        }
    }
    if edge.root() != checkpoint.root() {
        return Err(not_whole(format!("the checkpoint of {size} leaves is over other leaves")));
    }
    export.finish()?;
    let wanted = std::mem::take(&mut export.blobs);
    let mut blobs = 0;
    for digest in wanted {
        let bytes = source.blob(&digest).map_err(Failure::unable)?;
        let bytes =
            bytes.ok_or_else(|| not_whole(format!("policy or scope {digest} is missing")))?;
        to.put(&format!("blob/{digest}"), &bytes)?;
        blobs += 1;
    }
    to.put("checkpoint", text.as_bytes())?;
    Ok(Exported { leaves: size, blobs, texts: 0, checkpoint: text })
}

/// Exports everything that an auditor needs, as one archive.
///
/// # Errors
/// As [`tiles`]; and when a kept checkpoint is not of this log.
pub fn bundle(
    source: &mut dyn Source,
    vkey: &Vkey,
    kept: &[String],
    with_texts: bool,
    to: &Path,
) -> Result<Exported, Failure> {
    let mut pack = Pack::begin(to)?;
    pack.put("format", FORMAT.as_bytes())?;
    pack.put("README.txt", README.as_bytes())?;
    pack.put("keys.txt", format!("log {vkey}\n").as_bytes())?;
    let mut done = tiles(source, vkey, &mut pack)?;
    let mut number = 0;
    let mut seen = BTreeSet::from([done.checkpoint.clone()]);
    // What witnesses cosigned is evidence as a kept one is.
    let witnessed = source.witnessed().map_err(Failure::unable)?;
    for text in kept.iter().chain(&witnessed) {
        verify_note(text, std::slice::from_ref(vkey))
            .map_err(|e| Failure::unable(format!("a kept or cosigned checkpoint: {e}")))?;
        if seen.insert(text.clone()) {
            pack.put(&numbered("checkpoints", number), text.as_bytes())?;
            number += 1;
        }
    }
    if with_texts {
        done.texts = texts(source, &mut pack)?;
    }
    pack.end()?;
    Ok(done)
}

fn texts(source: &mut dyn Source, to: &mut dyn Sink) -> Result<u64, Failure> {
    let (mut page, mut lines, mut number, mut total) = (String::new(), 0, 0, 0);
    let mut fault = None;
    source
        .texts(None, &mut |text: Text| {
            let mut add = || -> Result<(), Failure> {
                page.push_str(&text_line(&text).map_err(Failure::unable)?);
                lines += 1;
                total += 1;
                if lines == TEXTS_TO_A_FILE {
                    to.put(&numbered("texts", number), page.as_bytes())?;
                    (page, lines, number) = (String::new(), 0, number + 1);
                }
                Ok(())
            };
            if fault.is_none() {
                fault = add().err();
            }
        })
        .map_err(Failure::unable)?;
    if let Some(fault) = fault {
        return Err(fault);
    }
    if !page.is_empty() {
        to.put(&numbered("texts", number), page.as_bytes())?;
    }
    Ok(total)
}

/// The newest checkpoint that the key signed.
fn newest(source: &mut dyn Source, vkey: &Vkey) -> Result<(Checkpoint, String), Failure> {
    let notes = source.checkpoints().map_err(Failure::unable)?;
    let newest = notes.into_iter().max_by_key(|(size, _)| *size);
    let (_, text) = newest.ok_or_else(|| not_whole("there is no checkpoint".into()))?;
    let opened = verify_note(&text, std::slice::from_ref(vkey))
        .map_err(|e| not_whole(format!("the newest checkpoint: {e}")))?;
    let checkpoint = Checkpoint::parse(opened.text()).map_err(|e| not_whole(e.to_string()))?;
    Ok((checkpoint, text))
}

fn not_whole(why: String) -> Failure {
    Failure::unable(format!("{why}; `grantwright audit verify` says more"))
}

struct Export<'a> {
    to: &'a mut dyn Sink,
    /// Entries of the growing bundle.
    leaves: Vec<Vec<u8>>,
    /// Hashes of the growing tile of each level, and how many tiles are full.
    rows: Vec<(u64, Vec<Hash>)>,
    blobs: BTreeSet<Digest>,
}

impl Export<'_> {
    fn leaf(&mut self, edge: &mut Edge, body: Vec<u8>) -> Result<(), Failure> {
        let mut done = Vec::new();
        edge.append_with(leaf_hash(&body), &mut |level, _, hash| {
            if level.is_multiple_of(8) {
                done.push(((level / 8) as usize, hash));
            }
        });
        if let Ok(Event::PolicyLoaded(e)) = Event::from_leaf(&body) {
            self.blobs.insert(e.policy_set);
            self.blobs.extend(e.scopes.values());
        }
        self.leaves.push(body);
        if self.leaves.len() == WIDTH {
            self.bundle(edge.size() / WIDTH as u64 - 1)?;
        }
        for (level, hash) in done {
            while self.rows.len() <= level {
                self.rows.push((0, Vec::with_capacity(WIDTH)));
            }
            let Some((index, row)) = self.rows.get_mut(level) else { continue };
            row.push(hash);
            if row.len() == WIDTH {
                let (at, full) = (*index, std::mem::take(row));
                *index += 1;
                self.tile(level, at, &full)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        if !self.leaves.is_empty() {
            let full = self.rows.first().map_or(0, |(index, _)| *index);
            self.bundle(full)?;
        }
        for (level, (index, row)) in std::mem::take(&mut self.rows).into_iter().enumerate() {
            if !row.is_empty() {
                self.tile(level, index, &row)?;
            }
        }
        Ok(())
    }

    fn bundle(&mut self, index: u64) -> Result<(), Failure> {
        let entries = std::mem::take(&mut self.leaves);
        let bytes = encode_entries(&entries).map_err(Failure::unable)?;
        self.put(TileKind::Entries, index, entries.len(), &bytes)
    }

    fn tile(&mut self, level: usize, index: u64, row: &[Hash]) -> Result<(), Failure> {
        let bytes: Vec<u8> = row.iter().flat_map(|h| h.as_bytes()).copied().collect();
        let level = u8::try_from(level).map_err(Failure::unable)?;
        self.put(TileKind::Hashes { level }, index, row.len(), &bytes)
    }

    fn put(
        &mut self,
        kind: TileKind,
        index: u64,
        width: usize,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        let width = u16::try_from(width).map_err(Failure::unable)?;
        let tile = Tile::new(kind, index, width).map_err(Failure::unable)?;
        self.to.put(&tile.to_string(), bytes)
    }
}

/// Largest file of checkpoints.
const MOST_KEPT: u64 = 16 << 20;

/// Checkpoints in files; one file may hold several, one after the other.
///
/// # Errors
/// When a file cannot be read, or holds none.
pub fn kept(paths: &[PathBuf]) -> Result<Vec<String>, Failure> {
    let mut out = Vec::new();
    for path in paths {
        let text = files::read_most(path, MOST_KEPT)?;
        let notes = note::split(&text);
        // Evidence that is not there must not look like evidence that agrees.
        if notes.is_empty() {
            return Err(Failure::unable(format!("`{}` holds no checkpoint", path.display())));
        }
        out.extend(notes.into_iter().map(str::to_owned));
    }
    Ok(out)
}

const README: &str = include_str!("bundle.txt");
