//! C2SP tlog-tiles: how a log's hashes and entries are cut into files.

use std::{fmt, str::FromStr};

use crate::{Hash, HashReader, MAX_SIZE, ProofError, decimal, prove::fold_level};

/// Hashes in a full tile, entries in a full bundle.
pub const FULL_WIDTH: u16 = 256;

/// Binary tree levels in one level of tiles.
const HEIGHT: u32 = 8;

/// The longest entry an entry bundle can hold, in bytes.
pub const MAX_ENTRY: usize = u16::MAX as usize;

/// What a tile holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TileKind {
    /// An entry bundle.
    Entries,
    /// Hashes of the complete subtrees of 256^level leaves; the level is at most 63.
    Hashes { level: u8 },
}

/// The name of one tile or entry bundle. Displayed as, and parsed from, its path
/// (`tile/0/x001/067.p/12`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tile {
    kind: TileKind,
    index: u64,
    width: u16,
}

impl Tile {
    /// Tile number `index` of its kind, holding its first `width` items (1–256, 256 is full).
    ///
    /// # Errors
    /// [`ProofError::Malformed`] if level, index or width are out of range.
    pub fn new(kind: TileKind, index: u64, width: u16) -> Result<Self, ProofError> {
        let level_fits = !matches!(kind, TileKind::Hashes { level } if level > 63);
        let index_fits = index <= MAX_SIZE / u64::from(FULL_WIDTH);
        if !level_fits || !index_fits || !(1..=FULL_WIDTH).contains(&width) {
            return Err(ProofError::Malformed { what: "tile name" });
        }
        Ok(Self { kind, index, width })
    }

    /// The widest tile number `index` of this kind in a tree of `size` leaves; `None` if it would
    /// be empty.
    pub fn at_size(kind: TileKind, index: u64, size: u64) -> Option<Self> {
        let left = items_at(kind, size).checked_sub(index.checked_mul(FULL_WIDTH.into())?)?;
        let width = u16::try_from(left).map_or(FULL_WIDTH, |left| left.min(FULL_WIDTH));
        Self::new(kind, index, width).ok()
    }

    /// What the tile holds.
    pub fn kind(&self) -> TileKind {
        self.kind
    }

    /// Its number among the tiles of its kind.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// How many items it holds, 1–256.
    pub fn width(&self) -> u16 {
        self.width
    }

    /// The number of its first item: of a subtree of its level, or of an entry.
    pub fn first(&self) -> u64 {
        self.index * u64::from(FULL_WIDTH)
    }

    /// Whether a tree of `size` leaves fills this tile, so that it may be served.
    pub fn is_within(&self, size: u64) -> bool {
        self.first() + u64::from(self.width) <= items_at(self.kind, size)
    }

    /// The bytes of a hash tile: 32 for each hash.
    ///
    /// # Errors
    /// Those of the reader; [`ProofError::Malformed`] for an entry bundle or a level above 7,
    /// which no tree reaches.
    pub fn hash_bytes(&self, hashes: &impl HashReader) -> Result<Vec<u8>, ProofError> {
        let level = match self.kind {
            TileKind::Hashes { level } if level <= 7 => u32::from(level) * HEIGHT,
            _ => return Err(ProofError::Malformed { what: "hash tile" }),
        };
        let mut bytes = Vec::with_capacity(Hash::LEN * usize::from(self.width));
        for index in (self.first()..).take(self.width.into()) {
            bytes.extend_from_slice(hashes.complete(level, index)?.as_bytes());
        }
        Ok(bytes)
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Entries => f.write_str("tile/entries")?,
            TileKind::Hashes { level } => write!(f, "tile/{level}")?,
        }
        let mut divisor = 1;
        while self.index / divisor >= 1000 {
            divisor *= 1000;
        }
        while divisor > 1 {
            write!(f, "/x{:03}", self.index / divisor % 1000)?;
            divisor /= 1000;
        }
        write!(f, "/{:03}", self.index % 1000)?;
        if self.width < FULL_WIDTH { write!(f, ".p/{}", self.width) } else { Ok(()) }
    }
}

impl FromStr for Tile {
    type Err = ProofError;

    /// Accepts exactly what [`fmt::Display`] writes.
    fn from_str(path: &str) -> Result<Self, ProofError> {
        let malformed = || ProofError::Malformed { what: "tile path" };
        let rest = path.strip_prefix("tile/").ok_or_else(malformed)?;
        let (kind, rest) = rest.split_once('/').ok_or_else(malformed)?;
        let kind = match kind {
            "entries" => TileKind::Entries,
            level => {
                let level = decimal::parse(level, "tile path")?;
                TileKind::Hashes { level: u8::try_from(level).map_err(|_| malformed())? }
            }
        };
        let (number, width) = match rest.split_once(".p/") {
            None => (rest, FULL_WIDTH),
            Some((number, width)) => {
                let width = decimal::parse(width, "tile path")?;
                (number, u16::try_from(width).map_err(|_| malformed())?)
            }
        };
        let mut index = 0u64;
        for group in number.split('/') {
            let digits = group.strip_prefix('x').unwrap_or(group);
            if digits.len() != 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(malformed());
            }
            let group = digits.parse::<u64>().map_err(|_| malformed())?;
            index = index
                .checked_mul(1000)
                .and_then(|index| index.checked_add(group))
                .ok_or_else(malformed)?;
        }
        let tile = Self::new(kind, index, width)?;
        // Catches leading `x000`, a misplaced `x`, and a full width written as partial.
        if tile.to_string() == path { Ok(tile) } else { Err(malformed()) }
    }
}

/// The bytes of an entry bundle: each entry after its length as two big-endian bytes.
///
/// # Errors
/// [`ProofError::EntryTooLong`] above [`MAX_ENTRY`] bytes.
pub fn encode_entries<E: AsRef<[u8]>>(
    entries: impl IntoIterator<Item = E>,
) -> Result<Vec<u8>, ProofError> {
    let mut bytes = Vec::new();
    for entry in entries {
        let entry = entry.as_ref();
        let len = u16::try_from(entry.len())
            .map_err(|_| ProofError::EntryTooLong { len: entry.len() })?;
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(entry);
    }
    Ok(bytes)
}

/// Reads an entry bundle that must hold exactly `width` entries.
///
/// # Errors
/// [`ProofError::Malformed`] if it holds fewer, more, or a part of one.
pub fn decode_entries(bytes: &[u8], width: u16) -> Result<Vec<&[u8]>, ProofError> {
    let malformed = ProofError::Malformed { what: "entry bundle" };
    let mut rest = bytes;
    let mut entries = Vec::new();
    while let Some((len, after)) = rest.split_first_chunk::<2>() {
        let Some((entry, after)) = after.split_at_checked(u16::from_be_bytes(*len).into()) else {
            return Err(malformed);
        };
        entries.push(entry);
        rest = after;
        if entries.len() > usize::from(width) {
            return Err(malformed);
        }
    }
    if rest.is_empty() && entries.len() == usize::from(width) {
        Ok(entries)
    } else {
        Err(malformed)
    }
}

/// Reads hashes out of the tiles of a tree of `size` leaves. It fetches one tile a hash and keeps
/// none: give it a `fetch` that caches.
#[derive(Debug, Clone)]
pub struct TileReader<F> {
    size: u64,
    fetch: F,
}

impl<F: Fn(&Tile) -> Result<Vec<u8>, ProofError>> TileReader<F> {
    /// `fetch` gives the bytes of a hash tile at its widest for a tree of `size` leaves.
    pub fn new(size: u64, fetch: F) -> Self {
        Self { size, fetch }
    }
}

impl<F: Fn(&Tile) -> Result<Vec<u8>, ProofError>> HashReader for TileReader<F> {
    fn complete(&self, level: u32, index: u64) -> Result<Hash, ProofError> {
        let missing = ProofError::MissingHash { level, index };
        // A subtree is one hash of a tile, or the fold of up to 128 beside each other in one.
        let (Ok(tile_level), span) = (u8::try_from(level / HEIGHT), 1u64 << (level % HEIGHT))
        else {
            return Err(missing);
        };
        let kind = TileKind::Hashes { level: tile_level };
        let Some(start) = index.checked_mul(span) else { return Err(missing) };
        let Some(tile) = Tile::at_size(kind, start / u64::from(FULL_WIDTH), self.size) else {
            return Err(missing);
        };
        if start - tile.first() + span > tile.width.into() {
            return Err(missing);
        }
        let bytes = (self.fetch)(&tile)?;
        if bytes.len() != Hash::LEN * usize::from(tile.width) {
            return Err(ProofError::Malformed { what: "tile length" });
        }
        let nodes = bytes
            .chunks(Hash::LEN)
            .skip(usize::try_from(start - tile.first()).unwrap_or(usize::MAX))
            .take(usize::try_from(span).unwrap_or(0))
            .map(Hash::from_slice)
            .collect::<Result<_, _>>()?;
        fold_level(nodes).ok_or(missing)
    }
}

/// How many items of this kind a tree of `size` leaves has.
fn items_at(kind: TileKind, size: u64) -> u64 {
    match kind {
        TileKind::Entries => size,
        TileKind::Hashes { level } => {
            size.checked_shr(u32::from(level).saturating_mul(HEIGHT)).unwrap_or(0)
        }
    }
}
