//! Timestamped Ed25519 cosignatures of checkpoints (C2SP tlog-cosignature, type 4): a witness says that
//! at some time it saw a log, and that this checkpoint extends every one that it cosigned before.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::NoteError;
use crate::note::{self, KeyText};

/// The signature type of timestamped Ed25519 cosignatures.
pub(crate) const TYPE: u8 = 4;

/// The key of a witness: `<name>+<8 hex digits of key id>+<base64 of type 4 and public key>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WitnessKey {
    name: String,
    id: [u8; 4],
    public: [u8; 32],
}

impl WitnessKey {
    fn new(name: &str, public: [u8; 32]) -> Result<Self, NoteError> {
        if !note::is_name(name) {
            return Err(NoteError::BadName(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), id: note::key_id(name, TYPE, &public), public })
    }

    /// Reads the text form. The key id must be that of the name and key.
    ///
    /// # Errors
    /// [`NoteError::BadName`], [`NoteError::BadKey`] or [`NoteError::UnsupportedKeyType`].
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let text = KeyText::parse(text, TYPE)?;
        let key = Self::new(text.name, *text.bytes)?;
        text.check_id(key.id)?;
        Ok(key)
    }

    /// The witness's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![TYPE];
        key.extend_from_slice(&self.public);
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id), STANDARD.encode(key))
    }
}

/// An Ed25519 key with which a witness cosigns.
pub struct Cosigner {
    key: WitnessKey,
    pair: Ed25519KeyPair,
}

impl Cosigner {
    /// The key whose RFC 8032 seed is these 32 bytes.
    ///
    /// # Errors
    /// [`NoteError::BadName`] or [`NoteError::Crypto`].
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| NoteError::Crypto)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| NoteError::Crypto)?;
        Ok(Self { key: WitnessKey::new(name, public)?, pair })
    }

    /// The key that verifies.
    pub fn key(&self) -> &WitnessKey {
        &self.key
    }

    /// The signature line over a checkpoint's text at a time (seconds since the epoch), with its
    /// newline.
    pub fn cosign(&self, checkpoint: &str, time: u64) -> String {
        let mut blob = self.key.id.to_vec();
        blob.extend_from_slice(&time.to_be_bytes());
        blob.extend_from_slice(self.pair.sign(message(checkpoint, time).as_bytes()).as_ref());
        format!("— {} {}\n", self.key.name, STANDARD.encode(blob))
    }
}

impl fmt::Debug for Cosigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cosigner").field("key", &self.key).finish_non_exhaustive()
    }
}

/// That a witness cosigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cosigned {
    /// The witness.
    pub witness: WitnessKey,
    /// When, by its own clock: seconds since the epoch.
    pub time: u64,
}

/// The cosignatures of a note by known witnesses, each once. That a log signed it is for
/// [`crate::Checkpoint::open`] to say.
///
/// # Errors
/// [`NoteError::Malformed`], [`NoteError::TooManySignatures`], or [`NoteError::BadSignature`] when a
/// known witness's does not verify.
pub fn cosignatures(note: &str, known: &[WitnessKey]) -> Result<Vec<Cosigned>, NoteError> {
    let (text, lines) = note::read(note)?;
    let mut out: Vec<Cosigned> = Vec::new();
    for line in lines {
        let (name, id, blob) = note::parse_signature(line)?;
        for key in known.iter().filter(|key| key.name == name && key.id == id) {
            let bad = || NoteError::BadSignature(name.to_owned());
            let (time, signature) = blob.split_first_chunk::<8>().ok_or_else(bad)?;
            let time = u64::from_be_bytes(*time);
            let verified = UnparsedPublicKey::new(&ED25519, &key.public)
                .verify(message(text, time).as_bytes(), signature);
            verified.map_err(|_| bad())?;
            if !out.iter().any(|c| c.witness == *key) {
                out.push(Cosigned { witness: key.clone(), time });
            }
        }
    }
    Ok(out)
}

fn message(checkpoint: &str, time: u64) -> String {
    format!("cosignature/v1\ntime {time}\n{checkpoint}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checkpoint, NoteSigner, leaf_hash};

    #[test]
    fn a_cosignature_is_over_its_time_and_this_text_by_this_key() {
        let log = NoteSigner::from_seed("broker.example/log", &[1; 32]).unwrap();
        let witness = Cosigner::from_seed("witness.example/w1", &[2; 32]).unwrap();
        let other = Cosigner::from_seed("witness.example/w1", &[3; 32]).unwrap();
        let note = Checkpoint::new("broker.example/log", 1, leaf_hash(b"x")).unwrap().sign(&log);
        let text = note.split_once("\n\n").unwrap().0.to_owned() + "\n";
        let cosigned = note.clone() + &witness.cosign(&text, 1_700_000_000);
        let known = [witness.key().clone()];
        let found = cosignatures(&cosigned, &known).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].time, 1_700_000_000);
        assert!(Checkpoint::open(&cosigned, log.vkey(), "broker.example/log").is_ok());
        assert_eq!(cosignatures(&note, &known), Ok(Vec::new()));
        assert_eq!(cosignatures(&cosigned, &[other.key().clone()]), Ok(Vec::new()));
        // Another time, another text.
        let later = note.clone() + &witness.cosign("other\n", 1_700_000_000);
        assert!(cosignatures(&later, &known).is_err());
        let line = witness.cosign(&text, 5);
        let blob = line.split(' ').nth(2).unwrap().trim();
        let mut raw = STANDARD.decode(blob).unwrap();
        raw[11] ^= 1;
        let forged = format!("{note}— witness.example/w1 {}\n", STANDARD.encode(raw));
        assert!(cosignatures(&forged, &known).is_err());
    }

    #[test]
    fn a_witness_key_reads_back_and_is_no_log_key() {
        let witness = Cosigner::from_seed("w", &[2; 32]).unwrap();
        let text = witness.key().to_string();
        assert_eq!(WitnessKey::parse(&text).as_ref(), Ok(witness.key()));
        assert!(crate::Vkey::parse(&text).is_err());
        let log = NoteSigner::from_seed("w", &[2; 32]).unwrap();
        assert!(WitnessKey::parse(&log.vkey().to_string()).is_err());
        assert!(WitnessKey::parse(&text.replace("w+", "v+")).is_err());
    }
}
