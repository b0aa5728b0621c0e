//! Where a log is read from.

use std::ops::Range;

use grantwright_domain::{Digest, RequestId};
use grantwright_proof::Hash;

use crate::CannotVerify;

/// A log at rest, or one moment of a live one.
///
/// All calls must see the same moment: on a live store, hold one read transaction. Nothing that is
/// returned is trusted, so an implementation checks and repairs nothing; what it cannot read is
/// [`CannotVerify::Unreadable`]. Nothing is written, ever. Threads use it in turns.
pub trait Source: Send {
    /// The leaves whose index is at least `from`, in order of their index, at most `most` of them
    /// (never 0). Empty: there are no more.
    ///
    /// # Errors
    /// [`CannotVerify::Unreadable`].
    fn leaves(&mut self, from: u64, most: usize) -> Result<Vec<(u64, Vec<u8>)>, CannotVerify>;

    /// Adds the same leaves to a page.
    ///
    /// # Errors
    /// [`CannotVerify::Unreadable`].
    fn page(&mut self, from: u64, most: usize, page: &mut Page) -> Result<(), CannotVerify> {
        for (index, leaf) in self.leaves(from, most)? {
            page.push(index, &leaf);
        }
        Ok(())
    }

    /// How many leaves are stored, counted without looking at their indexes; none when the source
    /// cannot say.
    ///
    /// # Errors
    /// [`CannotVerify::Unreadable`].
    fn count(&mut self) -> Result<Option<u64>, CannotVerify> {
        Ok(None)
    }

    /// Every stored checkpoint: the size under which it is stored, and the signed note. In any
    /// order.
    ///
    /// # Errors
    /// [`CannotVerify::Unreadable`].
    fn checkpoints(&mut self) -> Result<Vec<(u64, String)>, CannotVerify>;

    /// Hands every stored checkpoint of at least `from` leaves to `each`, some at a time: a log has
    /// many. Smaller ones may be among them.
    ///
    /// # Errors
    /// [`CannotVerify::Unreadable`].
    fn each_checkpoints(
        &mut self,
        from: u64,
        each: &mut dyn FnMut(Vec<(u64, String)>),
    ) -> Result<(), CannotVerify> {
        let _ = from;
        each(self.checkpoints()?);
        Ok(())
    }

    /// The newest checkpoint that witnesses cosigned, if it is kept apart from the others.
    ///
    /// # Errors
    /// [`CannotVerify::Unreadable`].
    fn witnessed(&mut self) -> Result<Option<String>, CannotVerify> {
        Ok(None)
    }

    /// Asked when all was read: whether what was read is one moment of the log.
    ///
    /// # Errors
    /// [`CannotVerify::Unreadable`] where the log was written to meanwhile and the source could not
    /// keep to one moment.
    fn settled(&mut self) -> Result<(), CannotVerify> {
        Ok(())
    }

    /// Stored leaf hashes (level 0 of the tiles) from index `from` on, at most `most`. Only used to
    /// name a changed leaf exactly; an empty answer is fine.
    ///
    /// # Errors
    /// [`CannotVerify::Unreadable`].
    fn leaf_hashes(&mut self, from: u64, most: usize) -> Result<Vec<Hash>, CannotVerify> {
        let _ = (from, most);
        Ok(Vec::new())
    }

    /// Whether the log is kept as tiles, all of which are then compared with the leaves.
    fn has_tiles(&self) -> bool {
        false
    }

    /// The bytes of hash tile `index` of `level` at its widest, or wider; none when it is not there.
    ///
    /// # Errors
    /// [`CannotVerify::Unreadable`].
    fn hash_tile(&mut self, level: u8, index: u64) -> Result<Option<Vec<u8>>, CannotVerify> {
        let _ = (level, index);
        Ok(None)
    }

    /// The blob stored under this digest: a policy set, or a scope's declaration.
    ///
    /// # Errors
    /// [`CannotVerify::Unreadable`].
    fn blob(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, CannotVerify>;

    /// Hands every text that lies beside the log to `each`; only those of `request` when it is
    /// given. Erased texts are simply absent.
    ///
    /// # Errors
    /// [`CannotVerify::Unreadable`].
    fn texts(
        &mut self,
        request: Option<&RequestId>,
        each: &mut dyn FnMut(Text),
    ) -> Result<(), CannotVerify>;
}

/// Leaves one behind the other.
#[derive(Debug, Clone, Default)]
pub struct Page {
    bytes: Vec<u8>,
    /// Of each leaf its index, and where its bytes end.
    ends: Vec<(u64, usize)>,
}

impl Page {
    /// Adds a leaf.
    pub fn push(&mut self, index: u64, leaf: &[u8]) {
        self.bytes.extend_from_slice(leaf);
        self.ends.push((index, self.bytes.len()));
    }

    /// Makes it empty; its memory stays.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// The bytes of all leaves.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many leaves.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The index of the last leaf.
    pub(crate) fn last(&self) -> Option<u64> {
        self.ends.last().map(|(index, _)| *index)
    }

    /// Each leaf's index, and where it stands among the bytes.
    pub(crate) fn leaves(&self) -> impl Iterator<Item = (u64, Range<usize>)> + '_ {
        let mut from = 0;
        self.ends.iter().map(move |(index, end)| (*index, std::mem::replace(&mut from, *end)..*end))
    }
}

/// A text that lies beside the log, bound by a salted commitment in a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The request it belongs to.
    pub request: RequestId,
    /// What it is: `reason` and `task` of the ask, `param:<name>` for a sensitive parameter, any
    /// other name for questions, answers and the reasons of votes.
    pub name: String,
    /// The salt of its commitment: 16 bytes.
    pub salt: Vec<u8>,
    /// The text.
    pub text: String,
}

impl Text {
    /// The commitment that the leaf must hold; none when the salt has another length.
    #[must_use]
    pub fn commitment(&self) -> Option<Digest> {
        let salt = <&[u8; 16]>::try_from(self.salt.as_slice()).ok()?;
        Some(Digest::commitment(salt, &self.text))
    }
}
