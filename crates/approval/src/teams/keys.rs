//! The Bot Service's signing keys, as its OpenID metadata names them
//! (<https://learn.microsoft.com/azure/bot-service/rest-api/bot-framework-rest-connector-authentication>).

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use serde::Deserialize;

/// Largest metadata document or key set, in bytes.
pub const MOST_BYTES: usize = 512 << 10;
/// Most keys of a set; the Bot Service has about ten.
pub const MOST_KEYS: usize = 100;

/// A document of the login service was not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeysError(pub(crate) String);

fn wrong(text: impl Into<String>) -> KeysError {
    KeysError(text.into())
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
    id_token_signing_alg_values_supported: Vec<String>,
}

/// Reads OpenID metadata; gives the address of the keys.
///
/// # Errors
/// When it is no such document, names another issuer, or does not sign with RS256.
pub fn keys_address(document: &[u8], issuer: &str) -> Result<String, KeysError> {
    if document.len() > MOST_BYTES {
        return Err(wrong("the OpenID metadata is too long"));
    }
    let read: Document = serde_json::from_slice(document)
        .map_err(|e| wrong(format!("the OpenID metadata does not parse: {e}")))?;
    if read.issuer != issuer {
        return Err(wrong("the OpenID metadata names another issuer than the configured one"));
    }
    if !read.id_token_signing_alg_values_supported.iter().any(|a| a == "RS256") {
        return Err(wrong("the OpenID metadata does not name RS256"));
    }
    Ok(read.jwks_uri)
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    #[serde(default)]
    kty: String,
    #[serde(default)]
    kid: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    endorsements: Vec<String>,
}

/// The signing keys at one moment.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    keys: Vec<SigningKey>,
}

/// One RSA key.
#[derive(Debug, Clone)]
pub(crate) struct SigningKey {
    kid: String,
    n: Vec<u8>,
    e: Vec<u8>,
    endorsements: Vec<String>,
}

impl KeySet {
    /// Reads a JWK set. Keys of other kinds than RSA, without an id, or with an id that two have,
    /// are left out.
    ///
    /// # Errors
    /// When it is no key set, too long, or holds no usable key.
    pub fn parse(document: &[u8]) -> Result<Self, KeysError> {
        if document.len() > MOST_BYTES {
            return Err(wrong("the key set is too long"));
        }
        let read: Jwks = serde_json::from_slice(document)
            .map_err(|e| wrong(format!("the key set does not parse: {e}")))?;
        if read.keys.len() > MOST_KEYS {
            return Err(wrong(format!("the key set holds more than {MOST_KEYS} keys")));
        }
        let kids: Vec<&str> = read.keys.iter().map(|k| k.kid.as_str()).collect();
        let alone = |kid: &str| kids.iter().filter(|other| **other == kid).count() == 1;
        let keys: Vec<SigningKey> =
            read.keys.iter().filter(|k| alone(&k.kid)).filter_map(usable).collect();
        if keys.is_empty() {
            return Err(wrong("the key set holds no RSA key with an id"));
        }
        Ok(Self { keys })
    }

    /// The key of this id.
    pub(crate) fn key(&self, kid: &str) -> Option<&SigningKey> {
        self.keys.iter().find(|k| k.kid == kid)
    }

    /// Whether a key of this id is there; where not, the set may be out of date.
    #[must_use]
    pub fn knows(&self, kid: &str) -> bool {
        self.key(kid).is_some()
    }
}

fn usable(jwk: &Jwk) -> Option<SigningKey> {
    // Some issuers pad, against RFC 7518.
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok();
    let fine = jwk.kty == "RSA" && !jwk.kid.is_empty() && jwk.kid.len() <= 200;
    let (n, e) = (bytes(&jwk.n)?, bytes(&jwk.e)?);
    (fine && !n.is_empty() && !e.is_empty()).then(|| SigningKey {
        kid: jwk.kid.clone(),
        n,
        e,
        endorsements: jwk.endorsements.clone(),
    })
}

impl SigningKey {
    /// True where this key made the signature, RS256, with 2048 to 8192 bits.
    pub(crate) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        RsaPublicKeyComponents { n: &self.n, e: &self.e }
            .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            .is_ok()
    }

    /// True where the key may speak for this channel. A key without endorsements speaks for none.
    pub(crate) fn endorses(&self, channel: &str) -> bool {
        !channel.is_empty() && self.endorsements.iter().any(|e| e == channel)
    }
}
