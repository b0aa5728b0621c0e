//! WebAuthn (Level 3, §7.1 and §7.2), as far as a relying party needs it that asks for no attestation:
//! reading what an authenticator says, and verifying it against a challenge that the caller computes.
//! Strict: what a passkey on the console never sends is refused.

mod cbor;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, ParsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use grantwright_domain::authority::Passkey;
use grantwright_domain::event::Voted;
use grantwright_domain::passkey::{Algorithm, PasskeyProof, PublicKey, Statement};
use grantwright_domain::{Digest, canonical};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::Verified;
use cbor::Cbor;

/// Largest `clientDataJSON`, `authenticatorData` and attestation object, in bytes.
const MAX_BYTES: usize = 16 << 10;
/// Shortest and longest credential id, in bytes.
const CREDENTIAL_ID: std::ops::RangeInclusive<usize> = 16..=1023;

const USER_PRESENT: u8 = 1;
const USER_VERIFIED: u8 = 1 << 2;
const BACKUP_ELIGIBLE: u8 = 1 << 3;
const BACKED_UP: u8 = 1 << 4;
const CREDENTIAL: u8 = 1 << 6;
const EXTENSIONS: u8 = 1 << 7;

/// Why a passkey's answer was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasskeyError {
    /// The key is of an algorithm that is not offered, or is none.
    #[error("the passkey's key is not ES256 or EdDSA")]
    Algorithm,
    /// Backup flags contradict each other, or the enrolment.
    #[error("the passkey says something else about its copies than when it was enrolled")]
    Backup,
    /// Signed over another challenge.
    #[error("the passkey signed something else")]
    Challenge,
    /// From a page of another origin, or inside a frame of one.
    #[error("the passkey was used on another page")]
    Origin,
    /// For another relying party.
    #[error("the passkey answered to another site")]
    RelyingParty,
    /// Not the form of its kind; names the part.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// The signature does not verify under the key.
    #[error("the passkey's signature does not verify")]
    Signature,
    /// The person was not verified: no fingerprint, face or PIN.
    #[error("the passkey did not verify the person")]
    Unverified,
    /// Made where a passkey should be used, or the reverse.
    #[error("the passkey did another thing than it was asked to")]
    WrongCeremony,
}

/// What an answer must be for.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The challenge that was given out.
    pub challenge: &'a [u8],
    /// The relying party: the host of the console.
    pub rp_id: &'a str,
    /// The console's origin; none: any that is `https`, or `localhost`, and whose host is the
    /// relying party. For who verifies later and does not know the port.
    pub origin: Option<&'a str>,
}

/// An answer to `navigator.credentials.get`.
#[derive(Debug, Clone, Copy)]
pub struct Assertion<'a> {
    /// `authenticatorData`.
    pub authenticator_data: &'a [u8],
    /// `clientDataJSON`, byte for byte.
    pub client_data: &'a [u8],
    /// `signature`.
    pub signature: &'a [u8],
}

/// What a verified assertion says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asserted {
    /// May be copied to other devices.
    pub backup_eligible: bool,
    /// Counts uses; 0 where the authenticator does not.
    pub sign_count: u32,
}

/// A new passkey, as an answer to `navigator.credentials.create` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// The credential's id, base64url without padding.
    pub credential_id: String,
    /// Its key.
    pub public_key: PublicKey,
    /// Model of the authenticator, 32 hexadecimal digits.
    pub aaguid: String,
    /// May be copied to other devices.
    pub backup_eligible: bool,
}

/// Verifies an assertion by `key`.
///
/// # Errors
/// The first reason to refuse it.
pub fn verify_assertion(
    expected: &Expected<'_>,
    key: &PublicKey,
    assertion: &Assertion<'_>,
) -> Result<Verified<Asserted>, PasskeyError> {
    client_data(expected, "webauthn.get", assertion.client_data)?;
    let (head, rest) = head(expected.rp_id, assertion.authenticator_data)?;
    if head.flags & CREDENTIAL != 0 || !extensions(head.flags, rest) {
        return Err(PasskeyError::Malformed("authenticator data"));
    }
    let mut signed = assertion.authenticator_data.to_vec();
    signed.extend_from_slice(&Sha256::digest(assertion.client_data));
    let parsed = parse_key(key).ok_or(PasskeyError::Algorithm)?;
    parsed.verify_sig(&signed, assertion.signature).map_err(|_| PasskeyError::Signature)?;
    let backup_eligible = head.flags & BACKUP_ELIGIBLE != 0;
    Ok(Verified::new(Asserted { backup_eligible, sign_count: head.sign_count }))
}

/// Reads a new passkey. Attestation is not asked for and not looked at: whose key it is says the link
/// by which it was enrolled.
///
/// # Errors
/// The first reason to refuse it.
pub fn verify_registration(
    expected: &Expected<'_>,
    client_data_json: &[u8],
    attestation_object: &[u8],
) -> Result<Verified<Registered>, PasskeyError> {
    let malformed = PasskeyError::Malformed("attestation object");
    client_data(expected, "webauthn.create", client_data_json)?;
    if attestation_object.len() > MAX_BYTES {
        return Err(malformed);
    }
    let (object, after) = Cbor::read(attestation_object).ok_or(malformed)?;
    let data = object.get(&Cbor::Text("authData")).and_then(Cbor::bytes).ok_or(malformed)?;
    if !after.is_empty() || object.get(&Cbor::Text("fmt")).is_none() {
        return Err(malformed);
    }
    let (head, rest) = head(expected.rp_id, data)?;
    let malformed = PasskeyError::Malformed("authenticator data");
    if head.flags & CREDENTIAL == 0 {
        return Err(malformed);
    }
    let (aaguid, rest) = rest.split_at_checked(16).ok_or(malformed)?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or(malformed)?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (id, rest) = rest.split_at_checked(length).ok_or(malformed)?;
    if !CREDENTIAL_ID.contains(&length) {
        return Err(malformed);
    }
    let (key, rest) = Cbor::read(rest).ok_or(malformed)?;
    if !extensions(head.flags, rest) {
        return Err(malformed);
    }
    let public_key = cose(&key).ok_or(PasskeyError::Algorithm)?;
    parse_key(&public_key).ok_or(PasskeyError::Algorithm)?;
    Ok(Verified::new(Registered {
        credential_id: URL_SAFE_NO_PAD.encode(id),
        public_key,
        aaguid: hex::encode(aaguid),
        backup_eligible: head.flags & BACKUP_ELIGIBLE != 0,
    }))
}

/// Verifies the signature of a vote by the passkey that it names: over this very vote, in the log of
/// this origin. `console` is as [`Expected::origin`].
///
/// # Errors
/// The first reason to refuse it.
pub fn verify_vote(
    vote: &Voted,
    passkey: &Passkey,
    log_origin: &str,
    console: Option<&str>,
) -> Result<Verified<PasskeyProof>, PasskeyError> {
    let malformed = PasskeyError::Malformed("proof");
    let map = vote.proof.as_ref().ok_or(malformed)?;
    let proof = PasskeyProof::read(map).map_err(|_| malformed)?;
    let statement = Statement {
        digest: vote.digest,
        decision: vote.decision,
        human: &vote.human,
        nonce: &proof.nonce,
        expires_at: proof.expires_at,
        origin: log_origin,
    };
    let Digest(challenge) = statement.challenge().map_err(|_| malformed)?;
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| malformed);
    let (data, client) = (bytes(&proof.authenticator_data)?, bytes(&proof.client_data)?);
    let assertion = Assertion {
        authenticator_data: &data,
        client_data: &client,
        signature: &bytes(&proof.signature)?,
    };
    let expected = Expected { challenge: &challenge, rp_id: &passkey.rp_id, origin: console };
    let asserted = verify_assertion(&expected, &passkey.public_key, &assertion)?;
    if asserted.backup_eligible != passkey.backup_eligible {
        return Err(PasskeyError::Backup);
    }
    Ok(Verified::new(proof))
}

struct Head {
    flags: u8,
    sign_count: u32,
}

/// The part of authenticator data that is always there, and what follows it.
fn head<'a>(rp_id: &str, data: &'a [u8]) -> Result<(Head, &'a [u8]), PasskeyError> {
    let malformed = PasskeyError::Malformed("authenticator data");
    if data.len() > MAX_BYTES {
        return Err(malformed);
    }
    let (rp, rest) = data.split_first_chunk::<32>().ok_or(malformed)?;
    let (flags, rest) = rest.split_first().ok_or(malformed)?;
    let (count, rest) = rest.split_first_chunk::<4>().ok_or(malformed)?;
    if rp[..] != Sha256::digest(rp_id)[..] {
        return Err(PasskeyError::RelyingParty);
    }
    let both = USER_PRESENT | USER_VERIFIED;
    if flags & both != both {
        return Err(PasskeyError::Unverified);
    }
    if flags & BACKED_UP != 0 && flags & BACKUP_ELIGIBLE == 0 {
        return Err(PasskeyError::Backup);
    }
    Ok((Head { flags: *flags, sign_count: u32::from_be_bytes(*count) }, rest))
}

/// Whether `rest` is one map of extensions where the flags announce it, and nothing where not.
fn extensions(flags: u8, rest: &[u8]) -> bool {
    match flags & EXTENSIONS {
        0 => rest.is_empty(),
        _ => matches!(Cbor::read(rest), Some((Cbor::Map(_), after)) if after.is_empty()),
    }
}

fn client_data(expected: &Expected<'_>, kind: &str, json: &[u8]) -> Result<(), PasskeyError> {
    let malformed = PasskeyError::Malformed("client data");
    if json.len() > MAX_BYTES {
        return Err(malformed);
    }
    let data = canonical::parse(json).map_err(|_| malformed)?;
    let text = |name: &str| data.get(name).and_then(Value::as_str).ok_or(malformed);
    if text("type")? != kind {
        return Err(PasskeyError::WrongCeremony);
    }
    if text("challenge")? != URL_SAFE_NO_PAD.encode(expected.challenge) {
        return Err(PasskeyError::Challenge);
    }
    let origin = text("origin")?;
    let own = match expected.origin {
        Some(own) => origin == own,
        None => host(origin) == Some(expected.rp_id),
    };
    let framed = data.get("crossOrigin").is_some_and(|v| v != &Value::Bool(false))
        || data.get("topOrigin").is_some();
    if own && !framed { Ok(()) } else { Err(PasskeyError::Origin) }
}

/// The host of an origin where passkeys work.
fn host(origin: &str) -> Option<&str> {
    let (scheme, rest) = origin.split_once("://")?;
    let (host, port) = rest.split_once(':').unwrap_or((rest, "1"));
    let fine = (1..=5).contains(&port.len()) && port.bytes().all(|c| c.is_ascii_digit());
    let safe = scheme == "https" || (scheme == "http" && host == "localhost");
    (fine && safe).then_some(host)
}

/// A COSE key (RFC 9053 §7) in the form in which leaves hold it.
fn cose(key: &Cbor<'_>) -> Option<PublicKey> {
    let at = |label: i64| key.get(&Cbor::Int(label));
    let is = |label, want: i64| at(label) == Some(&Cbor::Int(want));
    let coordinate = |label| at(label).and_then(Cbor::bytes).filter(|b| b.len() == 32);
    if is(1, 2) && is(3, -7) && is(-1, 1) {
        let (x, y) = (coordinate(-2)?, coordinate(-3)?);
        let key = format!("04{}{}", hex::encode(x), hex::encode(y));
        return Some(PublicKey { algorithm: Algorithm::Es256, key });
    }
    if is(1, 1) && is(3, -8) && is(-1, 6) {
        return Some(PublicKey { algorithm: Algorithm::EdDsa, key: hex::encode(coordinate(-2)?) });
    }
    None
}

fn parse_key(key: &PublicKey) -> Option<ParsedPublicKey> {
    if !key.is_well_formed() {
        return None;
    }
    let bytes = hex::decode(&key.key).ok()?;
    let algorithm: &'static dyn VerificationAlgorithm = match key.algorithm {
        Algorithm::Es256 => &ECDSA_P256_SHA256_ASN1,
        Algorithm::EdDsa => &ED25519,
    };
    ParsedPublicKey::new(algorithm, bytes).ok()
}
