//! Side rows that the database can lose but not make up: each value carries a MAC over its kind, key
//! and bytes, under a key that is not in the database. The end of a row belongs into its bytes, since
//! the table's own column is anybody's to change.

use aws_lc_rs::hmac;
use grantwright_domain::Digest;
use grantwright_store::{SideRow, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Length of the MAC in front of each value.
const MAC: usize = 32;

/// Vouches for side rows, and makes secrets that follow from others.
pub struct Vouch(hmac::Key);

impl std::fmt::Debug for Vouch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vouch(…)")
    }
}

impl Vouch {
    /// With a key that follows from the broker's own.
    #[must_use]
    pub fn new(mac_key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &Digest::of("side-key", mac_key).0))
    }

    /// The value to store.
    ///
    /// # Errors
    /// When the type cannot be written as JSON.
    pub fn seal(
        &self,
        kind: &'static str,
        key: &str,
        value: &impl Serialize,
    ) -> Result<Vec<u8>, StoreError> {
        let json = serde_json::to_vec(value).map_err(|e| StoreError::Invalid(e.to_string()))?;
        let mac = hmac::sign(&self.0, &framed(kind, key, &json));
        Ok([mac.as_ref(), &json].concat())
    }

    /// What was stored under this kind and key; none when the database made it up or changed it.
    #[must_use]
    pub fn open<T: DeserializeOwned>(&self, kind: &'static str, row: &SideRow) -> Option<T> {
        self.open_value(kind, &row.key, &row.value)
    }

    /// As [`Vouch::open`], of a value that was taken.
    #[must_use]
    pub fn open_value<T: DeserializeOwned>(
        &self,
        kind: &'static str,
        key: &str,
        value: &[u8],
    ) -> Option<T> {
        let (mac, json) = value.split_at_checked(MAC)?;
        if hmac::verify(&self.0, &framed(kind, key, json), mac).is_err() {
            tracing::error!(kind, "a side row was made or changed behind the broker's back");
            return None;
        }
        serde_json::from_slice(json).ok()
    }

    /// A secret that follows from another, for `purpose`: 64 hexadecimal digits.
    #[must_use]
    pub fn derive(&self, purpose: &'static str, secret: &str) -> String {
        hex::encode(hmac::sign(&self.0, &framed("derived", purpose, secret.as_bytes())))
    }
}

/// Neither a kind nor a key holds a NUL, so that no two rows are framed alike.
fn framed(kind: &str, key: &str, value: &[u8]) -> Vec<u8> {
    [kind.as_bytes(), &[0], key.as_bytes(), &[0], value].concat()
}

/// Whether two texts are equal, in time that does not tell where they differ.
#[must_use]
pub fn same(a: &str, b: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_opens_where_it_was_sealed_and_nowhere_else() {
        let vouch = Vouch::new(&[1; 32]);
        let value = vouch.seal("kind", "key", &"hello").unwrap();
        assert_eq!(vouch.open_value::<String>("kind", "key", &value).as_deref(), Some("hello"));
        assert_eq!(vouch.open_value::<String>("kine", "key", &value), None);
        assert_eq!(vouch.open_value::<String>("kind", "kez", &value), None);
        assert_eq!(Vouch::new(&[2; 32]).open_value::<String>("kind", "key", &value), None);
        for bit in 0..value.len() * 8 {
            let mut edited = value.clone();
            edited[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(vouch.open_value::<String>("kind", "key", &edited), None, "bit {bit}");
        }
        for cut in 0..value.len() {
            assert_eq!(vouch.open_value::<String>("kind", "key", &value[..cut]), None);
        }
    }
}
