//! SHA-256 hashes of leaves and nodes (RFC 6962 §2.1).

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

use crate::ProofError;

/// A SHA-256 hash: of a leaf, of a node, or the root of a tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

/// The root of the tree without leaves: SHA-256 of nothing.
pub const EMPTY_ROOT: Hash = Hash([
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
]);

/// The hash of a log entry: `SHA-256(0x00 ‖ entry)`.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Hash(Sha256::new().chain_update([0x00]).chain_update(entry).finalize().into())
}

/// The hash of an inner node: `SHA-256(0x01 ‖ left ‖ right)`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Hash(
        Sha256::new()
            .chain_update([0x01])
            .chain_update(left.0)
            .chain_update(right.0)
            .finalize()
            .into(),
    )
}

impl Hash {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads a hash from exactly 32 bytes.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] for any other length.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, ProofError> {
        bytes.try_into().map(Self).map_err(|_| ProofError::Malformed { what: "hash" })
    }

    /// Standard base64 with padding, 44 characters, as checkpoints and proofs write it.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// Reads canonical, padded, standard base64.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] for another alphabet, missing padding, stray bits or length.
    pub fn from_base64(text: &str) -> Result<Self, ProofError> {
        // A 32-byte hash is 44 characters; the check bounds the work on hostile input.
        if text.len() != 44 {
            return Err(ProofError::Malformed { what: "base64 hash" });
        }
        let bytes =
            STANDARD.decode(text).map_err(|_| ProofError::Malformed { what: "base64 hash" })?;
        Self::from_slice(&bytes)
    }

    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] for anything else.
    pub fn from_hex(text: &str) -> Result<Self, ProofError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| ProofError::Malformed { what: "hexadecimal hash" })?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_are_strict() {
        let hash = leaf_hash(b"x");
        assert_eq!(Hash::from_hex(&hash.to_string()), Ok(hash));
        let text = hash.to_base64();
        assert_eq!(Hash::from_base64(&text), Ok(hash));
        assert!(Hash::from_base64(text.trim_end_matches('=')).is_err());
        assert!(Hash::from_base64(&format!("{text}\n")).is_err());
        // The last character carries two bits that must be zero.
        let ones = Hash([0xff; 32]).to_base64();
        assert!(ones.ends_with("8="));
        assert!(Hash::from_base64(&ones.replace("8=", "9=")).is_err());
    }

    #[test]
    fn the_empty_root_is_the_hash_of_nothing() {
        assert_eq!(EMPTY_ROOT, Hash(Sha256::digest([]).into()));
    }
}
