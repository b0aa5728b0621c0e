//! A log as plain files (C2SP tlog-tiles): a folder, an address that serves one, or an unpacked bundle.
//!
//! | path | holds |
//! |---|---|
//! | `checkpoint` | the newest signed checkpoint |
//! | `tile/entries/…`, `tile/<level>/…` | entry bundles and hash tiles |
//! | `blob/<digest>` | policy sets and scope declarations, by digest |
//! | `witnessed` | the newest checkpoint that enough witnesses cosigned |
//! | `checkpoints/<number>` | other checkpoints, from 000 on: earlier ones, cosigned ones |
//! | `texts/<number>` | texts beside the leaves, JSON lines, if they were exported |

use grantwright_domain::{Digest, RequestId};
use grantwright_proof::tile::{FULL_WIDTH, MAX_ENTRY};
use grantwright_proof::{Hash, Tile, TileKind};
use serde::{Deserialize, Serialize};

use crate::{CannotVerify, Source, Text};

/// The longest file that is read, in bytes: an entry bundle of 256 entries, each of the greatest length.
pub const MAX_FILE: usize = FULL_WIDTH as usize * (MAX_ENTRY + 2);
/// The longest checkpoint that is read, in bytes.
pub const MAX_NOTE: usize = 65_536;
/// Texts to a file.
pub const TEXTS_TO_A_FILE: usize = 256;
/// Numbered files of checkpoints that are read.
const MOST_CHECKPOINTS: usize = 10_000;
/// Most texts that one leaf commits to: a reason, a task, sensitive parameters.
const MOST_TEXTS: u64 = 64;
/// Absent bundles in a row after which the log is taken to end.
const MOST_ABSENT: u64 = 64;
/// Bundles that are asked for at once.
const AT_ONCE: u64 = 16;

/// Where the files are. Nothing that is returned is trusted.
pub trait Files: Send {
    /// The bytes of each file, in order; none for one that is not there. A file longer than
    /// [`MAX_FILE`] counts as one that is not there.
    ///
    /// # Errors
    /// [`CannotVerify::Unreadable`].
    fn read(&mut self, paths: &[String]) -> Result<Vec<Option<Vec<u8>>>, CannotVerify>;
}

/// A line of a file of texts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TextLine {
    name: String,
    request_id: String,
    /// Hexadecimal.
    salt: String,
    text: String,
}

/// The line that tells of a text, with its newline.
///
/// # Errors
/// [`CannotVerify::Unreadable`], never for texts as they are stored.
pub fn text_line(text: &Text) -> Result<String, CannotVerify> {
    let line = TextLine {
        name: text.name.clone(),
        request_id: text.request.to_string(),
        salt: text.salt.iter().map(|b| format!("{b:02x}")).collect(),
        text: text.text.clone(),
    };
    let line = serde_json::to_string(&line).map_err(|e| CannotVerify::Unreadable(e.to_string()))?;
    Ok(line + "\n")
}

/// Where a numbered file lies: `<folder>/x001/000`, as tiles are numbered.
#[must_use]
pub fn numbered(folder: &str, number: u64) -> String {
    let mut path = format!("{:03}", number % 1000);
    let mut rest = number / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    format!("{folder}/{path}")
}

/// The log that files hold.
pub struct Tiles<F> {
    files: F,
    size: u64,
    notes: Vec<(u64, String)>,
    witnessed: Option<String>,
    /// Bundles that were read ahead: number of the first, and the entries of each.
    ahead: (u64, Vec<Option<Vec<Vec<u8>>>>),
}

impl<F: Files> Tiles<F> {
    /// Reads the checkpoints; they say which files there should be.
    ///
    /// # Errors
    /// [`CannotVerify::NothingToVerify`] where there is no checkpoint; [`CannotVerify::Unreadable`].
    pub fn open(mut files: F) -> Result<Self, CannotVerify> {
        let mut notes = Vec::new();
        // First, so that a log that grows meanwhile is not behind it.
        let witnessed = one(&mut files, "witnessed".into())?.map(note).transpose()?;
        let newest = one(&mut files, "checkpoint".into())?.ok_or(CannotVerify::NothingToVerify)?;
        notes.push(note(newest)?);
        // A site that has a page for every path would be read for ever.
        if notes.iter().all(|(_, note)| !note.contains("\n\n\u{2014} ")) {
            let why = "`checkpoint` is no signed note; is this the address of a log?";
            return Err(CannotVerify::Unreadable(why.into()));
        }
        let size = notes.first().map_or(0, |n| n.0);
        'all: for first in (0..MOST_CHECKPOINTS).step_by(100) {
            let numbers = first as u64..first as u64 + 100;
            let paths: Vec<String> = numbers.map(|n| numbered("checkpoints", n)).collect();
            // One look before a hundred: most logs at rest have none.
            if one(&mut files, numbered("checkpoints", first as u64))?.is_none() {
                break;
            }
            for file in files.read(&paths)? {
                match file {
                    Some(bytes) => notes.push(note(bytes)?),
                    None => break 'all,
                }
            }
        }
        notes.sort();
        notes.dedup();
        let witnessed = witnessed.map(|(_, note)| note);
        Ok(Self { files, size, notes, witnessed, ahead: (0, Vec::new()) })
    }

    /// The size that the newest checkpoint claims; nothing is proven yet.
    pub fn claimed_size(&self) -> u64 {
        self.size
    }

    fn tile_bytes(&mut self, kind: TileKind, index: u64) -> Result<Option<Vec<u8>>, CannotVerify> {
        let Some(tile) = Tile::at_size(kind, index, self.size) else { return Ok(None) };
        if let Some(bytes) = one(&mut self.files, tile.to_string())? {
            return Ok(Some(bytes));
        }
        // A growing tile may have been replaced by the full one.
        match Tile::new(kind, index, FULL_WIDTH) {
            Ok(full) if tile.width() < FULL_WIDTH => one(&mut self.files, full.to_string()),
            _ => Ok(None),
        }
    }

    /// The entries of bundle `number`: none when it is absent or not a bundle to its end.
    fn bundle(&mut self, number: u64) -> Result<Option<&Vec<Vec<u8>>>, CannotVerify> {
        let at = |ahead: &(u64, Vec<_>)| {
            let at = usize::try_from(number.checked_sub(ahead.0)?).ok()?;
            (at < ahead.1.len()).then_some(at)
        };
        if at(&self.ahead).is_none() {
            let tiles: Vec<Tile> = (number..number.saturating_add(AT_ONCE))
                .map_while(|n| Tile::at_size(TileKind::Entries, n, self.size))
                .collect();
            let paths: Vec<String> = tiles.iter().map(ToString::to_string).collect();
            let mut read = Vec::with_capacity(tiles.len());
            for (tile, file) in tiles.iter().zip(self.files.read(&paths)?) {
                let bytes = match file {
                    Some(bytes) => Some(bytes),
                    None if tile.width() < FULL_WIDTH => {
                        self.tile_bytes(TileKind::Entries, tile.index())?
                    }
                    None => None,
                };
                read.push(bytes.map(|bytes| entries(&bytes, tile.width())));
            }
            self.ahead = (number, read);
        }
        Ok(at(&self.ahead).and_then(|at| self.ahead.1.get(at)).and_then(Option::as_ref))
    }
}

/// The entries of a bundle, up to the first that is cut short, and no more than `width`.
fn entries(bytes: &[u8], width: u16) -> Vec<Vec<u8>> {
    let mut rest = bytes;
    let mut out = Vec::with_capacity(usize::from(width));
    while out.len() < usize::from(width) {
        let Some((len, after)) = rest.split_first_chunk::<2>() else { break };
        let Some((entry, after)) = after.split_at_checked(u16::from_be_bytes(*len).into()) else {
            break;
        };
        out.push(entry.to_vec());
        rest = after;
    }
    out
}

fn one(files: &mut impl Files, path: String) -> Result<Option<Vec<u8>>, CannotVerify> {
    Ok(files.read(&[path])?.into_iter().next().flatten())
}

/// A note with the size that it claims; 0 where it claims none, which no key will have signed.
fn note(bytes: Vec<u8>) -> Result<(u64, String), CannotVerify> {
    if bytes.len() > MAX_NOTE {
        return Err(CannotVerify::Unreadable(format!(
            "a checkpoint of {} bytes; none is longer than {MAX_NOTE}",
            bytes.len()
        )));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| CannotVerify::Unreadable("a checkpoint that is not UTF-8".into()))?;
    let size = text.split('\n').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Ok((size, text))
}

impl<F: Files> Source for Tiles<F> {
    fn leaves(&mut self, from: u64, most: usize) -> Result<Vec<(u64, Vec<u8>)>, CannotVerify> {
        let width = u64::from(FULL_WIDTH);
        let mut out = Vec::new();
        let mut absent = 0;
        let mut number = from / width;
        while out.len() < most && absent < MOST_ABSENT {
            if number.checked_mul(width).is_none_or(|first| first >= self.size) {
                break;
            }
            let before = out.len();
            if let Some(entries) = self.bundle(number)? {
                let first = number * width;
                let skip = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
                let left = most - out.len();
                let these = (first..).zip(entries).skip(skip).take(left);
                out.extend(these.map(|(index, entry)| (index, entry.clone())));
            }
            absent = if out.len() > before { 0 } else { absent + 1 };
            number += 1;
        }
        Ok(out)
    }

    fn checkpoints(&mut self) -> Result<Vec<(u64, String)>, CannotVerify> {
        Ok(self.notes.clone())
    }

    fn witnessed(&mut self) -> Result<Option<String>, CannotVerify> {
        Ok(self.witnessed.clone())
    }

    fn leaf_hashes(&mut self, from: u64, most: usize) -> Result<Vec<Hash>, CannotVerify> {
        let width = u64::from(FULL_WIDTH);
        let mut out = Vec::new();
        let mut skip = usize::try_from(from % width).unwrap_or(usize::MAX);
        for number in from / width.. {
            let Some(bytes) = self.tile_bytes(TileKind::Hashes { level: 0 }, number)? else {
                break;
            };
            let hashes = bytes.chunks_exact(Hash::LEN).filter_map(|h| Hash::from_slice(h).ok());
            out.extend(hashes.take(usize::from(FULL_WIDTH)).skip(skip));
            skip = 0;
            if out.len() >= most || bytes.len() < Hash::LEN * usize::from(FULL_WIDTH) {
                break;
            }
        }
        out.truncate(most);
        Ok(out)
    }

    fn has_tiles(&self) -> bool {
        true
    }

    fn hash_tile(&mut self, level: u8, index: u64) -> Result<Option<Vec<u8>>, CannotVerify> {
        self.tile_bytes(TileKind::Hashes { level }, index)
    }

    fn blob(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, CannotVerify> {
        one(&mut self.files, format!("blob/{digest}"))
    }

    fn texts(
        &mut self,
        request: Option<&RequestId>,
        each: &mut dyn FnMut(Text),
    ) -> Result<(), CannotVerify> {
        for number in 0u64.. {
            // No file of texts is empty, and no leaf commits to many.
            if number > self.size.saturating_mul(MOST_TEXTS) {
                let why = "there are more files of texts than its leaves could commit to";
                return Err(CannotVerify::Unreadable(why.into()));
            }
            let Some(bytes) = one(&mut self.files, numbered("texts", number))? else { break };
            for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                let bad = |why: String| {
                    CannotVerify::Unreadable(format!("`{}`: {why}", numbered("texts", number)))
                };
                let line: TextLine =
                    serde_json::from_slice(line).map_err(|e| bad(e.to_string()))?;
                let id = RequestId::parse(&line.request_id).map_err(|e| bad(e.to_string()))?;
                if request.is_none_or(|wanted| wanted == &id) {
                    let salt = salt(&line.salt).ok_or_else(|| bad("a salt".into()))?;
                    each(Text { request: id, name: line.name, salt, text: line.text });
                }
            }
        }
        Ok(())
    }
}

fn salt(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
}
