//! Domain-separated SHA-256: `SHA-256("grantwright/<label>/v1" ‖ 0x00 ‖ bytes)`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// 32 bytes of SHA-256; written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes` under `label`.
    #[must_use]
    pub fn of(label: &str, bytes: &[u8]) -> Self {
        let mut h = Sha256::new();
        h.update(b"grantwright/");
        h.update(label.as_bytes());
        h.update(b"/v1\0");
        h.update(bytes);
        Self(h.finalize().into())
    }

    /// Commitment to erasable text: the salt is 16 random bytes kept beside the text.
    #[must_use]
    pub fn commitment(salt: &[u8; 16], text: &str) -> Self {
        let mut bytes = Vec::with_capacity(16 + text.len());
        bytes.extend_from_slice(salt);
        bytes.extend_from_slice(text.as_bytes());
        Self::of("commitment", &bytes)
    }

    /// Parses 64 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// When the text has another length or other characters.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut out = [0u8; 32];
        let wrong = || "want 64 lower-case hexadecimal digits".to_owned();
        if text.len() != 64 {
            return Err(wrong());
        }
        for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let mut value = 0;
            for c in pair {
                let digit = match c {
                    b'0'..=b'9' => c - b'0',
                    b'a'..=b'f' => c - b'a' + 10,
                    _ => return Err(wrong()),
                };
                value = value << 4 | digit;
            }
            *byte = value;
        }
        Ok(Self(out))
    }

    /// The hexadecimal form.
    #[must_use]
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut out = String::with_capacity(64);
        for b in self.0 {
            for nibble in [b >> 4, b & 15] {
                out.push(char::from(DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0')));
            }
        }
        out
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.hex())
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.hex())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}
