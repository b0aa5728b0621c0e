//! Passkeys: what a person signs when a verdict asks for strength `passkey`, and the form in which a
//! vote carries the proof. Whether a signature is right is for `grantwright-proof` to say; here is
//! what it must be over, whose key it must be, and that it counts once.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::canonical::{self, CanonicalError};
use crate::digest::Digest;
use crate::event::Decision;
use crate::id::HumanId;
use crate::time::Timestamp;

/// A nonce and what was signed with it live so long at most (5 min).
pub const NONCE_LIFE_MS: i64 = 300_000;
/// Most live passkeys of one person.
pub const MAX_PASSKEYS: usize = 10;
/// Longest credential id in base64url: 1023 bytes (WebAuthn §4).
pub const MAX_CREDENTIAL_ID: usize = 1364;

/// What a passkey signs: this very decision of this very person, once, in this log.
#[derive(Debug, Clone, Serialize)]
pub struct Statement<'a> {
    /// D.
    pub digest: Digest,
    /// For or against.
    pub decision: Decision,
    /// Who decides.
    pub human: &'a HumanId,
    /// 64 hexadecimal digits, drawn by the broker.
    pub nonce: &'a str,
    /// When the statement is worth nothing any more.
    pub expires_at: Timestamp,
    /// Origin of the log.
    pub origin: &'a str,
}

impl Statement<'_> {
    /// The WebAuthn challenge: the domain-separated SHA-256 of the canonical statement.
    ///
    /// # Errors
    /// Never: it holds no floats and no nulls.
    pub fn challenge(&self) -> Result<Digest, CanonicalError> {
        canonical::digest("passkey-decision", self)
    }
}

/// The algorithm of a passkey's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256; the key is the 65 bytes of the uncompressed point.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519; the key is its 32 bytes.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// The public key of a passkey, in the form in which leaves hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicKey {
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// Its bytes, in lower-case hexadecimal.
    pub key: String,
}

impl PublicKey {
    /// True when the text has the length and the characters of such a key.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        match self.algorithm {
            Algorithm::Es256 => is_hex(&self.key, 130) && self.key.starts_with("04"),
            Algorithm::EdDsa => is_hex(&self.key, 64),
        }
    }
}

/// The proof in a vote: one WebAuthn assertion, as the browser gave it, and the parts of the
/// statement that the vote does not say itself. Bytes are base64url without padding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasskeyProof {
    /// Always `passkey`.
    pub kind: String,
    /// Which passkey.
    pub credential_id: String,
    /// `authenticatorData`.
    pub authenticator_data: String,
    /// `clientDataJSON`.
    pub client_data: String,
    /// The signature.
    pub signature: String,
    /// See [`Statement::nonce`].
    pub nonce: String,
    /// See [`Statement::expires_at`].
    pub expires_at: Timestamp,
}

/// [`PasskeyProof::kind`].
pub const PROOF_KIND: &str = "passkey";

impl PasskeyProof {
    /// Reads a vote's proof.
    ///
    /// # Errors
    /// Says which part is not of its form.
    pub fn read(proof: &Map<String, Value>) -> Result<Self, String> {
        let read: Self = serde_json::from_value(Value::Object(proof.clone()))
            .map_err(|e| format!("the proof: {e}"))?;
        let parts = [
            ("credential_id", &read.credential_id, MAX_CREDENTIAL_ID),
            ("authenticator_data", &read.authenticator_data, 2048),
            ("client_data", &read.client_data, 4096),
            ("signature", &read.signature, 256),
        ];
        if read.kind != PROOF_KIND {
            return Err("the proof is of an unknown kind".into());
        }
        for (name, text, most) in parts {
            if !is_base64url(text, most) {
                return Err(format!("the proof's {name} is not base64url of at most {most}"));
            }
        }
        if !is_hex(&read.nonce, 64) {
            return Err("the proof's nonce is not 64 hexadecimal digits".into());
        }
        Ok(read)
    }

    /// As a vote carries it.
    #[must_use]
    pub fn to_map(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        }
    }
}

/// True for 1 to `most` characters of unpadded base64url.
#[must_use]
pub fn is_base64url(text: &str, most: usize) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    (1..=most).contains(&text.len()) && text.len() % 4 != 1 && text.bytes().all(plain)
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

/// True for 32 lower-case hexadecimal digits.
pub(crate) fn is_aaguid(text: &str) -> bool {
    is_hex(text, 32)
}
