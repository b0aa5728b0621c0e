//! A log that goes on where another one ended.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Leaf;
use crate::canonical::{self, CanonicalError};
use crate::time::Timestamp;

/// See [`super::Event::EpochStarted`]. The `carried` leaves after it are leaves of the old log, as they stood
/// there and in their order, beginning with its first: all that decisions rest on, and every request
/// whose credential may still live or whose outcome was not recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochStarted {
    /// When.
    pub at: Timestamp,
    /// Version of the leaf format: 1.
    pub version: u32,
    /// Origin of this log.
    pub origin: String,
    /// Verifier key of this log.
    pub vkey: String,
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// The recovery key of this log: what signs the next epoch.
    pub recovery_key: String,
    /// Origin of the log that ended.
    pub old_origin: String,
    /// Its verifier key.
    pub old_vkey: String,
    /// Its last known checkpoint, a note signed by `old_vkey`.
    pub old_checkpoint: String,
    /// How many of its leaves the backup held.
    pub restored: u64,
    /// Root over those, base64.
    pub restored_root: String,
    /// How many leaves after this one are the old log's.
    pub carried: u64,
    /// Root (RFC 6962) over those, base64.
    pub carried_root: String,
    /// Signature lines of the note over [`EpochStarted::signed_text`] by the old log's recovery key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub signature: String,
}

impl EpochStarted {
    /// What the recovery key signs: the canonical leaf without `signature`, as one line.
    ///
    /// # Errors
    /// When a number cannot be written canonically.
    pub fn signed_text(&self) -> Result<String, CanonicalError> {
        let leaf = Self { signature: String::new(), ..self.clone() }.to_leaf()?;
        let mut text = String::from_utf8(leaf).map_err(|e| CanonicalError(e.to_string()))?;
        text.push('\n');
        Ok(text)
    }

    /// The leaf, as [`super::Event::to_leaf`] gives it: here without the code of all other kinds.
    ///
    /// # Errors
    /// As [`EpochStarted::signed_text`].
    pub fn to_leaf(&self) -> Result<Leaf, CanonicalError> {
        let said = |e: serde_json::Error| CanonicalError(e.to_string());
        let mut value = serde_json::to_value(self).map_err(said)?;
        if let Value::Object(fields) = &mut value {
            fields.insert("kind".into(), "epoch_started".into());
        }
        canonical::to_bytes(&value)
    }

    /// Reads a leaf of this kind.
    ///
    /// # Errors
    /// Another kind, or what [`super::Event::from_leaf`] refuses.
    pub fn from_leaf(leaf: &[u8]) -> Result<Self, CanonicalError> {
        let refuse = |what: &str| CanonicalError(what.to_owned());
        let Value::Object(mut fields) = canonical::parse(leaf)? else {
            return Err(refuse("not an object"));
        };
        if fields.remove("kind") != Some("epoch_started".into()) {
            return Err(refuse("not an `epoch_started` leaf"));
        }
        let event: Self = serde_json::from_value(Value::Object(fields))
            .map_err(|e| CanonicalError(e.to_string()))?;
        if event.to_leaf()? == leaf { Ok(event) } else { Err(refuse("not in canonical form")) }
    }
}
