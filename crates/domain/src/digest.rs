//! Domain-separated SHA-256: `SHA-256("grantwright/<label>/v1" ‖ 0x00 ‖ bytes)`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// 32 bytes of SHA-256; written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// The value of a lower-case hexadecimal digit; of other bytes one above 15.
fn digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => 16,
    }
}

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
        // Looked at once at the end: a log has many digests, and hardly a wrong one.
        let mut all = 0;
        for (byte, [high, low]) in out.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
            let (high, low) = (digit(*high), digit(*low));
            all |= high | low;
            *byte = high << 4 | low & 15;
        }
        if all > 15 {
            return Err(wrong());
        }
        Ok(Self(out))
    }

    /// The hexadecimal form.
    #[must_use]
    pub fn hex(&self) -> String {
        self.with_hex(str::to_owned)
    }

    /// The hexadecimal form, without a place of its own on the heap.
    fn with_hex<T>(&self, then: impl FnOnce(&str) -> T) -> T {
        let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble };
        let mut out = [b'0'; 64];
        for (pair, b) in out.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[digit(b >> 4), digit(b & 15)]);
        }
        then(str::from_utf8(&out).unwrap_or_default())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_hex(|hex| f.write_str(hex))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.hex())
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.with_hex(|hex| s.serialize_str(hex))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_str(Text)
    }
}

/// Reads it without a place of its own on the heap.
struct Text;

impl serde::de::Visitor<'_> for Text {
    type Value = Digest;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("64 lower-case hexadecimal digits")
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Digest, E> {
        Digest::parse(text).map_err(E::custom)
    }
}
