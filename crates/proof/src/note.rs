//! C2SP signed notes with Ed25519 keys, and the key formats of Go's `sumdb/note`.

use std::fmt;

use aws_lc_rs::{
    encoding::AsBigEndian as _,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::NoteError;

/// Signatures a verifier is willing to look at; C2SP asks for at least 16.
pub const MAX_SIGNATURES: usize = 64;

/// The signature type of Ed25519.
const ED25519_TYPE: u8 = 1;
const SKEY_PREFIX: &str = "PRIVATE+KEY+";

/// A verifier key: `<name>+<8 hex digits of key id>+<base64 of type and public key>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vkey {
    name: String,
    id: [u8; 4],
    public: [u8; 32],
}

impl Vkey {
    /// The Ed25519 key `public` under `name`.
    ///
    /// # Errors
    /// [`NoteError::BadName`].
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self, NoteError> {
        if !is_name(name) {
            return Err(NoteError::BadName(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), id: key_id(name, ED25519_TYPE, &public), public })
    }

    /// Reads the text form. The key id must be that of the name and key.
    ///
    /// # Errors
    /// [`NoteError::BadName`], [`NoteError::BadKey`] or [`NoteError::UnsupportedKeyType`].
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let key = KeyText::parse(text, ED25519_TYPE)?;
        let vkey = Self::new(key.name, *key.bytes)?;
        key.check_id(vkey.id)?;
        Ok(vkey)
    }

    /// The name, usually the origin of the log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key id: a hint for finding the key, not a fingerprint to trust.
    pub fn id(&self) -> [u8; 4] {
        self.id
    }

    /// The Ed25519 public key.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    fn verifies(&self, text: &str, signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.public).verify(text.as_bytes(), signature).is_ok()
    }
}

impl fmt::Display for Vkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![ED25519_TYPE];
        key.extend_from_slice(&self.public);
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id), STANDARD.encode(key))
    }
}

/// An Ed25519 key that signs notes under a name.
pub struct NoteSigner {
    vkey: Vkey,
    pair: Ed25519KeyPair,
}

impl NoteSigner {
    /// The key whose RFC 8032 seed is these 32 bytes.
    ///
    /// # Errors
    /// [`NoteError::BadName`] or [`NoteError::Crypto`].
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| NoteError::Crypto)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| NoteError::Crypto)?;
        Ok(Self { vkey: Vkey::new(name, public)?, pair })
    }

    /// Reads `PRIVATE+KEY+<name>+<8 hex digits of key id>+<base64 of type and seed>`.
    ///
    /// # Errors
    /// [`NoteError::BadName`], [`NoteError::BadKey`] or [`NoteError::UnsupportedKeyType`].
    pub fn from_skey(text: &str) -> Result<Self, NoteError> {
        let rest = text
            .strip_prefix(SKEY_PREFIX)
            .ok_or(NoteError::BadKey { what: "not a private key" })?;
        let key = KeyText::parse(rest, ED25519_TYPE)?;
        let signer = Self::from_seed(key.name, &key.bytes)?;
        key.check_id(signer.vkey.id)?;
        Ok(signer)
    }

    /// The private key as text, for a key file. Whoever holds it can sign as this log.
    ///
    /// # Errors
    /// [`NoteError::Crypto`].
    pub fn expose_skey(&self) -> Result<Zeroizing<String>, NoteError> {
        let seed = self.pair.seed().map_err(|_| NoteError::Crypto)?;
        let seed = seed.as_be_bytes().map_err(|_| NoteError::Crypto)?;
        let mut key = Zeroizing::new(Vec::with_capacity(33));
        key.push(ED25519_TYPE);
        key.extend_from_slice(seed.as_ref());
        let base64 = Zeroizing::new(STANDARD.encode(&*key));
        let id = hex::encode(self.vkey.id);
        Ok(Zeroizing::new(format!("{SKEY_PREFIX}{}+{id}+{}", self.vkey.name, *base64)))
    }

    /// The key that verifies what this one signs.
    pub fn vkey(&self) -> &Vkey {
        &self.vkey
    }

    /// The note that says `text`, which must end in a newline and hold no other control
    /// characters.
    ///
    /// # Errors
    /// [`NoteError::Malformed`].
    pub fn sign(&self, text: &str) -> Result<String, NoteError> {
        check_characters(text)?;
        if !text.ends_with('\n') {
            return Err(NoteError::Malformed { what: "the text must end in a newline" });
        }
        Ok(self.sign_checked(text))
    }

    pub(crate) fn sign_checked(&self, text: &str) -> String {
        let mut blob = self.vkey.id.to_vec();
        blob.extend_from_slice(self.pair.sign(text.as_bytes()).as_ref());
        format!("{text}\n— {} {}\n", self.vkey.name, STANDARD.encode(blob))
    }
}

impl fmt::Debug for NoteSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoteSigner").field("vkey", &self.vkey).finish_non_exhaustive()
    }
}

/// The text of a note that at least one known key signed, and which keys did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedNote {
    text: String,
    signers: Vec<Vkey>,
}

impl VerifiedNote {
    /// The signed text, with its final newline.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The known keys that signed, each once, in the order of their signatures.
    pub fn signers(&self) -> &[Vkey] {
        &self.signers
    }
}

/// Checks a note against known keys. Signatures of unknown keys are ignored; one wrong signature
/// of a known key refuses the note.
///
/// # Errors
/// [`NoteError::Malformed`], [`NoteError::TooManySignatures`], [`NoteError::BadSignature`] or
/// [`NoteError::NoKnownSignature`].
pub fn verify_note(note: &str, known: &[Vkey]) -> Result<VerifiedNote, NoteError> {
    let (text, lines) = read(note)?;
    let mut signers: Vec<Vkey> = Vec::new();
    for line in lines {
        let (name, id, signature) = parse_signature(line)?;
        for vkey in known.iter().filter(|vkey| vkey.name == name && vkey.id == id) {
            if !vkey.verifies(text, &signature) {
                return Err(NoteError::BadSignature(name.to_owned()));
            }
            if !signers.contains(vkey) {
                signers.push(vkey.clone());
            }
        }
    }
    if signers.is_empty() {
        return Err(NoteError::NoKnownSignature);
    }
    Ok(VerifiedNote { text: text.to_owned(), signers })
}

/// The text and the signature lines of a note; nothing is verified.
pub(crate) fn read(note: &str) -> Result<(&str, impl Iterator<Item = &str>), NoteError> {
    check_characters(note)?;
    let (text, lines) = split_note(note)?;
    if lines.split('\n').count() > MAX_SIGNATURES {
        return Err(NoteError::TooManySignatures { limit: MAX_SIGNATURES });
    }
    Ok((text, lines.split('\n')))
}

/// Cuts a text that holds several notes, one after the other: each ends with its last signature line.
/// What is no note comes back as it is, for whoever opens it to refuse.
pub fn split(notes: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let (mut start, mut at, mut signed) = (0, 0, false);
    for line in notes.split_inclusive('\n') {
        let signature = line.starts_with("— ");
        if signed && !signature {
            out.extend(notes.get(start..at));
            start = at;
        }
        signed = signature;
        at += line.len();
    }
    out.extend(notes.get(start..).filter(|rest| !rest.is_empty()));
    out
}

/// The key id of a signed note (C2SP signed-note): four bytes of a hash over name, type and key.
pub(crate) fn key_id(name: &str, kind: u8, public: &[u8; 32]) -> [u8; 4] {
    let digest: [u8; 32] = Sha256::new()
        .chain_update(name)
        .chain_update([b'\n', kind])
        .chain_update(public)
        .finalize()
        .into();
    let [a, b, c, d, ..] = digest;
    [a, b, c, d]
}

/// Whether `name` may name a key or a log: not empty, no space, control character or `+`.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c < ' ' || c == '+')
}

fn check_characters(text: &str) -> Result<(), NoteError> {
    if text.bytes().any(|b| b < b' ' && b != b'\n') {
        return Err(NoteError::Malformed { what: "control character" });
    }
    Ok(())
}

/// Splits at the last empty line: the text with its newline, the signature lines without theirs.
fn split_note(note: &str) -> Result<(&str, &str), NoteError> {
    let no_signatures = NoteError::Malformed { what: "no signatures after an empty line" };
    let unended =
        NoteError::Malformed { what: "the last signature line does not end in a newline" };
    // Searching after the final newline is set aside finds the empty line before the signatures.
    let body = note.strip_suffix('\n').ok_or(unended)?;
    let (text, lines) = body.rsplit_once("\n\n").ok_or(no_signatures.clone())?;
    let text = note.get(..text.len() + 1).ok_or(no_signatures.clone())?;
    if lines.is_empty() {
        return Err(no_signatures);
    }
    Ok((text, lines))
}

/// Name, key id and signature of `— <name> <base64>`.
pub(crate) fn parse_signature(line: &str) -> Result<(&str, [u8; 4], Vec<u8>), NoteError> {
    let malformed = || NoteError::Malformed { what: "signature line" };
    let (name, base64) =
        line.strip_prefix("— ").and_then(|rest| rest.split_once(' ')).ok_or_else(malformed)?;
    let blob = STANDARD.decode(base64).map_err(|_| malformed())?;
    match blob.split_first_chunk::<4>() {
        Some((id, signature)) if is_name(name) && !signature.is_empty() => {
            Ok((name, *id, signature.to_vec()))
        }
        _ => Err(malformed()),
    }
}

/// `<name>+<key id>+<base64 of type and 32 bytes>`: the shape that both key texts share.
pub(crate) struct KeyText<'a> {
    pub(crate) name: &'a str,
    id: &'a str,
    pub(crate) bytes: Zeroizing<[u8; 32]>,
}

impl<'a> KeyText<'a> {
    pub(crate) fn parse(text: &'a str, kind: u8) -> Result<Self, NoteError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(base64)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(NoteError::BadKey { what: "needs a name, a key id and a key" });
        };
        let key = STANDARD.decode(base64).map_err(|_| NoteError::BadKey { what: "base64" })?;
        let key = Zeroizing::new(key);
        let bytes = match key.split_first() {
            Some((&given, bytes)) if given == kind => bytes,
            Some((&other, _)) => return Err(NoteError::UnsupportedKeyType(other)),
            None => return Err(NoteError::BadKey { what: "empty" }),
        };
        let bytes = bytes.try_into().map_err(|_| NoteError::BadKey { what: "length" })?;
        Ok(Self { name, id, bytes: Zeroizing::new(bytes) })
    }

    pub(crate) fn check_id(&self, id: [u8; 4]) -> Result<(), NoteError> {
        if hex::encode(id) == self.id {
            Ok(())
        } else {
            Err(NoteError::BadKey { what: "the key id is not that of this name and key" })
        }
    }
}

#[cfg(test)]
mod tests;
