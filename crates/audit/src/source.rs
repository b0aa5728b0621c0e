//! Where a log is read from.

use grantwright_domain::{Digest, RequestId};
use grantwright_proof::Hash;

use crate::CannotVerify;

/// A log at rest, or one moment of a live one.
///
/// All calls must see the same moment: on a live store, hold one read transaction. Nothing that is
/// returned is trusted, so an implementation checks and repairs nothing; what it cannot read is
/// [`CannotVerify::Unreadable`]. Nothing is written, ever.
pub trait Source {
    /// The leaves whose index is at least `from`, in order of their index, at most `most` of them
    /// (never 0). Empty: there are no more.
    ///
    /// # Errors
    /// [`CannotVerify::Unreadable`].
    fn leaves(&mut self, from: u64, most: usize) -> Result<Vec<(u64, Vec<u8>)>, CannotVerify>;

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
