//! Offline proofs that an entry is in a log (C2SP tlog-proof), and receipts, which carry the entry
//! too.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Checkpoint, Hash, ProofError, Verified, Vkey, decimal, leaf_hash, verify_inclusion};

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";

/// No tree is higher, so no inclusion proof is longer.
const MAX_HASHES: usize = 63;

/// A proof as text: not yet checked against anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlogProof {
    /// Opaque data, not authenticated by anything.
    pub extra: Option<Vec<u8>>,
    /// The number of the leaf, from 0.
    pub index: u64,
    /// The inclusion proof, the leaf's sibling first.
    pub hashes: Vec<Hash>,
    /// The signed checkpoint note, verbatim.
    pub checkpoint: String,
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{}", hash.to_base64())?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for TlogProof {
    type Err = ProofError;

    fn from_str(text: &str) -> Result<Self, ProofError> {
        let malformed = |what| ProofError::Malformed { what };
        let (head, checkpoint) =
            text.split_once("\n\n").ok_or(malformed("proof without a checkpoint"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(FIRST_LINE) {
            return Err(malformed("first line of the proof"));
        }
        let extra = match lines.peek().and_then(|line| line.strip_prefix("extra ")) {
            None => None,
            Some(base64) => {
                let extra =
                    STANDARD.decode(base64).map_err(|_| malformed("extra line of the proof"))?;
                lines.next();
                Some(extra)
            }
        };
        let index = lines
            .next()
            .and_then(|line| line.strip_prefix("index "))
            .ok_or(malformed("index line of the proof"))?;
        let index = decimal::parse(index, "index line of the proof")?;
        let mut hashes = Vec::new();
        for line in lines {
            if hashes.len() == MAX_HASHES {
                return Err(ProofError::WrongLength);
            }
            hashes.push(Hash::from_base64(line)?);
        }
        Ok(Self { extra, index, hashes, checkpoint: checkpoint.to_owned() })
    }
}

impl Serialize for TlogProof {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TlogProof {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// What a caller keeps as evidence: the log entry and the proof that it was logged. As JSON:
/// `{"leaf": base64, "proof": tlog-proof text}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The bytes of the entry.
    #[serde(with = "base64_bytes")]
    pub leaf: Vec<u8>,
    /// The proof, not yet checked.
    pub proof: TlogProof,
}

impl Receipt {
    /// Reads the JSON form.
    ///
    /// # Errors
    /// [`ProofError::Malformed`].
    pub fn from_json(text: &str) -> Result<Self, ProofError> {
        serde_json::from_str(text).map_err(|_| ProofError::Malformed { what: "receipt" })
    }

    /// Writes the JSON form.
    pub fn to_json(&self) -> String {
        let leaf = STANDARD.encode(&self.leaf);
        serde_json::json!({ "leaf": leaf, "proof": self.proof.to_string() }).to_string()
    }
}

/// What a receipt proves: these bytes are leaf `index` of the log at `checkpoint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptFacts {
    /// The bytes of the entry.
    pub leaf: Vec<u8>,
    /// Its number in the log.
    pub index: u64,
    /// The log's promise that holds it.
    pub checkpoint: Checkpoint,
}

/// Checks a receipt offline: the checkpoint is signed by `vkey` for the log `origin`, and the leaf
/// is in it. That the leaf speaks of the caller's request is for the caller to check.
///
/// # Errors
/// Those of [`Checkpoint::open`] and [`verify_inclusion`].
pub fn verify_receipt(
    receipt: &Receipt,
    vkey: &Vkey,
    origin: &str,
) -> Result<Verified<ReceiptFacts>, ProofError> {
    let checkpoint = Checkpoint::open(&receipt.proof.checkpoint, vkey, origin)?.into_inner();
    let leaf = leaf_hash(&receipt.leaf);
    let TlogProof { index, hashes, .. } = &receipt.proof;
    verify_inclusion(leaf, *index, checkpoint.size(), hashes, checkpoint.root())?;
    Ok(Verified::new(ReceiptFacts { leaf: receipt.leaf.clone(), index: *index, checkpoint }))
}

mod base64_bytes {
    use base64::Engine as _;

    use super::{Deserialize, Deserializer, STANDARD, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(de::Error::custom)
    }
}
