//! What a verification found to be so, kept in a file from which the next one goes on.
//!
//! The state of a log is the fold of its leaves, so that little needs keeping: the tree's edge, which
//! requests are over, and which leaves still matter (those about authority and about open requests) and
//! are folded again. It is bound to its checkpoint, which the log's key signed, to that key, and to the
//! version of the verifier. Whoever can write the file can make the next verification believe anything
//! about what came before: it is kept like a key.

use std::collections::BTreeMap;

use grantwright_domain::{HumanId, Timestamp};
use grantwright_proof::{Frontier, Hash, leaf_hash};

use crate::grown::Grown;
use crate::roots::Promise;
use crate::settled::{Mark, Settled};

/// Begins a file; with the version of the program it is the version of the verifier.
const MAGIC: &str = concat!("grantwright verified/2 ", env!("CARGO_PKG_VERSION"));

/// See the module.
#[derive(Default)]
pub struct Known {
    pub(crate) vkey: String,
    pub(crate) origin: String,
    /// Only hashes were looked at.
    pub(crate) hashes_only: bool,
    /// The checkpoint over all that is known.
    pub(crate) note: String,
    pub(crate) frontier: Frontier,
    /// What checkpoints promised that were found to be true.
    pub(crate) promises: Vec<Promise>,
    pub(crate) grown: Option<Grown>,
    /// Leaves to fold again, in order.
    pub(crate) again: Vec<(u64, Hash)>,
    pub(crate) settled: Settled,
    pub(crate) last: Option<Timestamp>,
    pub(crate) votes: BTreeMap<String, u64>,
    pub(crate) nonces: Vec<(Mark, u64)>,
    pub(crate) stood_in: BTreeMap<(HumanId, HumanId), (u64, u64)>,
}

impl Known {
    /// How many leaves it is about.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The checkpoint over them.
    #[must_use]
    pub fn checkpoint(&self) -> &str {
        &self.note
    }

    /// The bytes of the file.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut out = Out::default();
        for text in [MAGIC, &self.vkey, &self.origin, &self.note] {
            out.text(text);
        }
        out.number(u64::from(self.hashes_only));
        out.bytes(&self.frontier.encode());
        out.list(self.promises.iter(), |out, promise| {
            out.number(promise.size);
            out.0.extend_from_slice(promise.root.as_bytes());
        });
        out.number(u64::from(self.grown.is_some()));
        if let Some(grown) = &self.grown {
            out.list(grown.levels.iter(), |out, (full, hashes)| {
                out.number(*full);
                out.list(hashes.iter(), |out, hash| out.0.extend_from_slice(hash.as_bytes()));
            });
        }
        out.list(self.again.iter(), |out, (leaf, hash)| {
            out.number(*leaf);
            out.0.extend_from_slice(hash.as_bytes());
        });
        self.settled.write(&mut out);
        out.number(self.last.map_or(0, |last| last.millis().cast_unsigned()));
        out.list(self.votes.iter(), |out, (channel, count)| {
            out.text(channel);
            out.number(*count);
        });
        out.list(self.nonces.iter(), |out, (nonce, leaf)| {
            out.0.extend_from_slice(nonce);
            out.number(*leaf);
        });
        out.list(self.stood_in.iter(), |out, ((human, other), (all, recent))| {
            out.text(human.as_str());
            out.text(other.as_str());
            out.number(*all);
            out.number(*recent);
        });
        let sum = leaf_hash(&out.0);
        out.0.extend_from_slice(sum.as_bytes());
        out.0
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// When they are of another version, cut short or damaged.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let broken = || "it is damaged or cut short: verify without it once".to_owned();
        let (bytes, sum) = bytes.split_last_chunk::<{ Hash::LEN }>().ok_or_else(broken)?;
        let mut from = In(bytes);
        match from.text() {
            Some(magic) if magic == MAGIC => {}
            Some(magic) if magic.starts_with("grantwright verified/") => {
                return Err(
                    "another version of this program wrote it: verify without it once".into()
                );
            }
            _ => return Err("it is no file of an earlier verification".into()),
        }
        if leaf_hash(bytes).as_bytes() != sum {
            return Err(broken());
        }
        Self::fields(&mut from).filter(|_| from.0.is_empty()).ok_or_else(broken)
    }

    fn fields(from: &mut In<'_>) -> Option<Self> {
        let (vkey, origin, note) = (from.text()?, from.text()?, from.text()?);
        let hashes_only = from.number()? == 1;
        let frontier = Frontier::decode(from.bytes()?).ok()?;
        let promises =
            from.list(|from| Some(Promise { size: from.number()?, root: Hash(from.chunk()?) }))?;
        let grown = match from.number()? {
            0 => None,
            _ => Some(Grown::from_levels(from.list(|from| {
                Some((from.number()?, from.list(|from| Some(Hash(from.chunk()?)))?))
            })?)),
        };
        let again = from.list(|from| Some((from.number()?, Hash(from.chunk()?))))?;
        let settled = Settled::read(from)?;
        let last = Some(Timestamp::from_millis(from.number()?.cast_signed()));
        let votes = from.list(|from| Some((from.text()?, from.number()?)))?;
        let nonces = from.list(|from| Some((from.chunk()?, from.number()?)))?;
        let human = |from: &mut In<'_>| HumanId::parse(&from.text()?).ok();
        let stood_in = from.list(|from| {
            let pair = (human(from)?, human(from)?);
            Some((pair, (from.number()?, from.number()?)))
        })?;
        Some(Self {
            vkey,
            origin,
            hashes_only,
            note,
            frontier,
            promises,
            grown,
            again,
            settled,
            last,
            votes: votes.into_iter().collect(),
            nonces,
            stood_in: stood_in.into_iter().collect(),
        })
    }
}

/// Writes numbers as eight bytes, big-endian, and what has a length after it.
#[derive(Default)]
pub(crate) struct Out(pub(crate) Vec<u8>);

impl Out {
    pub(crate) fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(crate) fn list<T>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T),
    ) {
        self.number(items.len() as u64);
        items.for_each(|item| each(self, item));
    }
}

/// Reads what [`Out`] wrote.
pub(crate) struct In<'b>(&'b [u8]);

impl<'b> In<'b> {
    pub(crate) fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (chunk, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*chunk)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        self.chunk().map(u64::from_be_bytes)
    }

    fn bytes(&mut self) -> Option<&'b [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    pub(crate) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let count = self.number()?;
        // No item is empty, so that no file promises more of them than it has bytes.
        (count <= self.0.len() as u64).then_some(())?;
        (0..count).map(|_| item(self)).collect()
    }
}
