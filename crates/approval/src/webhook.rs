//! Standard Webhooks 1.0: what an endpoint of ours signs, and how a receiver verifies it
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).
//!
//! A message's id is the same over all its attempts, so that receivers can tell a repetition; its
//! timestamp is the attempt's own. While a secret is rotated a message carries a signature by each.

mod channel;

pub use channel::{NAME, Webhook};

use aws_lc_rs::{constant_time, hmac, signature};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use grantwright_domain::Timestamp;

/// How far a message's timestamp may lie from now, either way.
pub const TOLERANCE_S: i64 = 300;
/// Most secrets of one endpoint: the one in use, and those it is rotated from or to.
pub const MOST_SECRETS: usize = 4;
/// Largest body of a message, in bytes: the specification's recommendation.
pub const MOST_BODY: usize = 20 << 10;

const SYMMETRIC: &str = "whsec_";
const PRIVATE: &str = "whsk_";
const PUBLIC: &str = "whpk_";

/// A message or a secret was not as Standard Webhooks wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// A secret does not parse.
    #[error(
        "a webhook secret is `whsec_` and the base64 of 24 to 64 bytes, or `whsk_` and that of 32 or 64"
    )]
    Secret,
    /// There is no secret, or there are too many: an endpoint without one would believe anybody.
    #[error("an endpoint has 1 to 4 webhook secrets")]
    Count,
    /// An id or a timestamp that could run into what follows it.
    #[error("the message's id is not 1 to 64 letters, digits, `_` or `-`")]
    Id,
    /// The timestamp is not a number, or too far from now.
    #[error("the message's timestamp is more than five minutes away, or no number")]
    Stale,
    /// No signature matched.
    #[error("no signature of the message matches")]
    Forged,
}

/// One secret of an endpoint.
pub struct WebhookKey(Key);

enum Key {
    Symmetric(Box<hmac::Key>),
    Private(signature::Ed25519KeyPair),
    Public(Vec<u8>),
}

impl std::fmt::Debug for WebhookKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Key::Symmetric(_) => "WebhookKey(whsec_…)",
            Key::Private(_) => "WebhookKey(whsk_…)",
            Key::Public(_) => "WebhookKey(whpk_…)",
        })
    }
}

impl WebhookKey {
    /// Reads `whsec_…` (symmetric), `whsk_…` (an Ed25519 seed, or seed and public key: it signs) or
    /// `whpk_…` (an Ed25519 public key: it only verifies). The key is the decoded bytes.
    ///
    /// # Errors
    /// [`WebhookError::Secret`], which says nothing of the text.
    pub fn parse(text: &str) -> Result<Self, WebhookError> {
        let bytes = |rest: &str| STANDARD.decode(rest).map_err(|_| WebhookError::Secret);
        if let Some(rest) = text.strip_prefix(SYMMETRIC) {
            let key = bytes(rest)?;
            if !(24..=64).contains(&key.len()) {
                return Err(WebhookError::Secret);
            }
            return Ok(Self(Key::Symmetric(Box::new(hmac::Key::new(hmac::HMAC_SHA256, &key)))));
        }
        if let Some(rest) = text.strip_prefix(PRIVATE) {
            let key = bytes(rest)?;
            let made = match (key.len(), key.split_at_checked(32)) {
                (32, _) => signature::Ed25519KeyPair::from_seed_unchecked(&key),
                (64, Some((seed, public))) => {
                    signature::Ed25519KeyPair::from_seed_and_public_key(seed, public)
                }
                _ => return Err(WebhookError::Secret),
            };
            return made.map(|k| Self(Key::Private(k))).map_err(|_| WebhookError::Secret);
        }
        let rest = text.strip_prefix(PUBLIC).ok_or(WebhookError::Secret)?;
        let key = bytes(rest)?;
        if key.len() != 32 {
            return Err(WebhookError::Secret);
        }
        Ok(Self(Key::Public(key)))
    }

    fn sign(&self, content: &[u8]) -> Option<String> {
        match &self.0 {
            Key::Symmetric(key) => {
                Some(format!("v1,{}", STANDARD.encode(hmac::sign(key, content))))
            }
            Key::Private(key) => Some(format!("v1a,{}", STANDARD.encode(key.sign(content)))),
            Key::Public(_) => None,
        }
    }

    fn verifies(&self, version: &str, given: &[u8], content: &[u8]) -> bool {
        let ed25519 = |public: &[u8]| {
            signature::UnparsedPublicKey::new(&signature::ED25519, public)
                .verify(content, given)
                .is_ok()
        };
        match (&self.0, version) {
            (Key::Symmetric(key), "v1") => {
                let wanted = hmac::sign(key, content);
                constant_time::verify_slices_are_equal(wanted.as_ref(), given).is_ok()
            }
            (Key::Public(public), "v1a") => ed25519(public),
            (Key::Private(key), "v1a") => ed25519(signature::KeyPair::public_key(key).as_ref()),
            _ => false,
        }
    }
}

/// The headers of one attempt to deliver a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers {
    /// `webhook-id`: the same over all attempts.
    pub id: String,
    /// `webhook-timestamp`: seconds since 1970 of this attempt.
    pub timestamp: String,
    /// `webhook-signature`: one signature by each secret, separated by spaces.
    pub signature: String,
}

/// The secrets of one endpoint; never empty.
#[derive(Debug)]
pub struct Endpoint(Vec<WebhookKey>);

impl Endpoint {
    /// Its secrets, the one in use first.
    ///
    /// # Errors
    /// [`WebhookError::Count`] for none or more than [`MOST_SECRETS`], [`WebhookError::Secret`].
    pub fn parse<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Result<Self, WebhookError> {
        let keys = secrets.into_iter().map(WebhookKey::parse).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() || keys.len() > MOST_SECRETS {
            return Err(WebhookError::Count);
        }
        Ok(Self(keys))
    }

    /// Signs this attempt.
    ///
    /// # Errors
    /// [`WebhookError::Id`]; [`WebhookError::Count`] when no secret can sign.
    pub fn sign(&self, id: &str, at: Timestamp, body: &[u8]) -> Result<Headers, WebhookError> {
        if !is_id(id) {
            return Err(WebhookError::Id);
        }
        let timestamp = (at.millis() / 1000).to_string();
        let content = content(id, &timestamp, body);
        let signatures: Vec<String> = self.0.iter().filter_map(|k| k.sign(&content)).collect();
        if signatures.is_empty() {
            return Err(WebhookError::Count);
        }
        Ok(Headers { id: id.to_owned(), timestamp, signature: signatures.join(" ") })
    }

    /// Verifies a message as a receiver does: any listed signature by any secret.
    ///
    /// # Errors
    /// See [`WebhookError`].
    pub fn verify(&self, h: &Headers, body: &[u8], now: Timestamp) -> Result<(), WebhookError> {
        if !is_id(&h.id) {
            return Err(WebhookError::Id);
        }
        let at: i64 = h.timestamp.parse().map_err(|_| WebhookError::Stale)?;
        if (now.millis() / 1000).saturating_sub(at).saturating_abs() > TOLERANCE_S {
            return Err(WebhookError::Stale);
        }
        let content = content(&h.id, &h.timestamp, body);
        let genuine = h.signature.split(' ').take(2 * MOST_SECRETS).any(|one| {
            one.split_once(',')
                .and_then(|(version, given)| Some((version, STANDARD.decode(given).ok()?)))
                .is_some_and(|(v, given)| self.0.iter().any(|k| k.verifies(v, &given, &content)))
        });
        if genuine { Ok(()) } else { Err(WebhookError::Forged) }
    }
}

/// An id can hold no `.`, which separates it from what follows.
fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

fn content(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(id.len() + timestamp.len() + body.len() + 2);
    out.extend_from_slice(id.as_bytes());
    out.push(b'.');
    out.extend_from_slice(timestamp.as_bytes());
    out.push(b'.');
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests;
