use std::fmt;

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};

use crate::{Credential, CredentialError, Secret};

type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type EncappedKey = <X25519HkdfSha256 as Kem>::EncappedKey;

/// Length in bytes of secret, public and encapsulated X25519 keys.
pub const SEAL_KEY_LEN: usize = 32;

/// The key pair of one instance, made at enrolment, kept over restarts and certificate rotation.
pub struct SealKeyPair {
    secret: PrivateKey,
    public: PublicKey,
}

impl SealKeyPair {
    /// A fresh pair from the system's randomness.
    ///
    /// # Panics
    /// If the system has no randomness to give.
    pub fn generate() -> Self {
        let (secret, public) = X25519HkdfSha256::gen_keypair();
        Self { secret, public }
    }

    /// The pair of a kept secret key (RFC 9180 §7.1.2: clamped here).
    ///
    /// # Errors
    /// [`CredentialError::Key`] if it is no X25519 key.
    pub fn from_secret_bytes(bytes: &Secret<[u8; SEAL_KEY_LEN]>) -> Result<Self, CredentialError> {
        let secret =
            PrivateKey::from_bytes(bytes.expose_secret()).map_err(|_| CredentialError::Key)?;
        let public = X25519HkdfSha256::sk_to_pk(&secret);
        Ok(Self { secret, public })
    }

    /// Lets the secret key out, to be kept in a file of mode 0600.
    pub fn expose_secret_bytes(&self) -> Secret<[u8; SEAL_KEY_LEN]> {
        let mut bytes = [0; SEAL_KEY_LEN];
        self.secret.write_exact(&mut bytes);
        Secret::new(bytes)
    }

    /// The half that the broker seals to.
    pub fn public(&self) -> SealPublicKey {
        SealPublicKey(self.public.clone())
    }
}

impl fmt::Debug for SealKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKeyPair(redacted)")
    }
}

/// The public half of a [`SealKeyPair`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealPublicKey(PublicKey);

impl SealPublicKey {
    /// Reads 32 bytes.
    ///
    /// # Errors
    /// [`CredentialError::Key`] if they are not 32.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CredentialError> {
        PublicKey::from_bytes(bytes).map(Self).map_err(|_| CredentialError::Key)
    }

    /// Its 32 bytes.
    pub fn to_bytes(&self) -> [u8; SEAL_KEY_LEN] {
        let mut bytes = [0; SEAL_KEY_LEN];
        self.0.write_exact(&mut bytes);
        bytes
    }

    /// Whether sealing to it works at all. To be called at enrolment: a key of small order is
    /// otherwise noticed only when there is a minted credential that nobody can receive.
    ///
    /// # Errors
    /// [`CredentialError::Key`] if no secret can be agreed with it.
    pub fn check(&self) -> Result<(), CredentialError> {
        seal_bytes(self, &[], &[]).map(drop).map_err(|_| CredentialError::Key)
    }
}

/// A credential that only one instance can read: encapsulated key (32 bytes), then ciphertext.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(Vec<u8>);

impl Sealed {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its bytes, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

/// What a seal is bound to: this request's credential at this instance, and no other use of the
/// key. Each part is preceded by its length, so that no two pairs give the same bytes.
pub fn seal_info(request_id: &str, instance: &str) -> Vec<u8> {
    let mut info = b"grantwright/seal/v1\0".to_vec();
    for part in [request_id, instance] {
        info.extend((part.len() as u64).to_be_bytes());
        info.extend(part.as_bytes());
    }
    info
}

/// Seals a credential to an instance: HPKE base mode (RFC 9180), DHKEM(X25519, HKDF-SHA256),
/// HKDF-SHA256, ChaCha20Poly1305; `info` from [`seal_info`], no additional data.
///
/// # Errors
/// [`CredentialError::Seal`] if the key is of small order.
pub fn seal(
    to: &SealPublicKey,
    info: &[u8],
    credential: &Credential,
) -> Result<Sealed, CredentialError> {
    seal_bytes(to, info, credential.expose_json())
}

fn seal_bytes(to: &SealPublicKey, info: &[u8], plain: &[u8]) -> Result<Sealed, CredentialError> {
    let (encapped, ciphertext) = hpke::single_shot_seal::<
        ChaCha20Poly1305,
        HkdfSha256,
        X25519HkdfSha256,
    >(&OpModeS::Base, &to.0, info, plain, &[])
    .map_err(|_| CredentialError::Seal)?;
    let mut bytes = vec![0; SEAL_KEY_LEN];
    encapped.write_exact(&mut bytes);
    bytes.extend(ciphertext);
    Ok(Sealed(bytes))
}

/// Opens what [`seal`] made, with the same `info`.
///
/// # Errors
/// [`CredentialError::Open`] for another key, another `info`, or any altered bit;
/// [`CredentialError::Malformed`] if the sealed bytes are no credential.
pub fn open(with: &SealKeyPair, info: &[u8], sealed: &[u8]) -> Result<Credential, CredentialError> {
    let (encapped, ciphertext) =
        sealed.split_at_checked(SEAL_KEY_LEN).ok_or(CredentialError::Open)?;
    let encapped = EncappedKey::from_bytes(encapped).map_err(|_| CredentialError::Open)?;
    let plain = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &with.secret,
        &encapped,
        info,
        ciphertext,
        &[],
    )
    .map_err(|_| CredentialError::Open)?;
    Credential::from_json(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> (SealKeyPair, Vec<u8>, Vec<u8>) {
        let pair = SealKeyPair::generate();
        let info = seal_info("r-1", "i-1");
        let sealed = seal(&pair.public(), &info, &Credential::jwt("hunter2")).unwrap();
        (pair, info, sealed.into_bytes())
    }

    #[test]
    fn opens_for_its_instance_also_after_a_restart() {
        let (pair, info, sealed) = sealed();
        assert_eq!(sealed.len(), SEAL_KEY_LEN + br#"{"token":"hunter2"}"#.len() + 16);
        let kept = SealKeyPair::from_secret_bytes(&pair.expose_secret_bytes()).unwrap();
        assert_eq!(kept.public(), pair.public());
        assert_eq!(open(&kept, &info, &sealed).unwrap(), Credential::jwt("hunter2"));
    }

    #[test]
    fn another_key_or_another_binding_does_not_open() {
        let (pair, info, sealed) = sealed();
        assert_eq!(open(&SealKeyPair::generate(), &info, &sealed), Err(CredentialError::Open));
        for other in [
            seal_info("r-2", "i-1"),
            seal_info("r-1", "i-2"),
            seal_info("r-1i", "-1"),
            seal_info("", "r-1i-1"),
            Vec::new(),
        ] {
            assert_eq!(open(&pair, &other, &sealed), Err(CredentialError::Open));
        }
    }

    #[test]
    fn any_altered_bit_and_any_truncation_is_refused() {
        let (pair, info, sealed) = sealed();
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&pair, &info, &altered), Err(CredentialError::Open), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert_eq!(open(&pair, &info, &sealed[..len]), Err(CredentialError::Open));
        }
    }

    #[test]
    fn sealed_bytes_that_are_no_credential_are_refused() {
        let pair = SealKeyPair::generate();
        let sealed = seal_bytes(&pair.public(), b"", b"{}").unwrap();
        assert_eq!(open(&pair, b"", sealed.as_bytes()), Err(CredentialError::Malformed));
    }

    #[test]
    fn unusable_public_keys_are_refused_at_enrolment() {
        assert_eq!(SealPublicKey::from_bytes(&[9; 31]), Err(CredentialError::Key));
        assert_eq!(SealPublicKey::from_bytes(&[]), Err(CredentialError::Key));
        let zero = SealPublicKey::from_bytes(&[0; 32]).unwrap();
        assert_eq!(zero.check(), Err(CredentialError::Key));
        assert_eq!(SealKeyPair::generate().public().check(), Ok(()));
    }

    #[test]
    fn debug_shows_nothing() {
        let (pair, info, bytes) = sealed();
        assert_eq!(format!("{pair:?}"), "SealKeyPair(redacted)");
        assert_eq!(
            format!("{:?}", Sealed(bytes.clone())),
            format!("Sealed({} bytes)", bytes.len())
        );
        let opened = open(&pair, &info, &bytes).unwrap();
        assert!(!format!("{opened:?}").contains("hunter2"));
    }

    /// Frozen: a sidecar of one version opens what a broker of another has sealed.
    #[test]
    fn info_is_frozen() {
        assert_eq!(
            seal_info("r", "in"),
            b"grantwright/seal/v1\0\0\0\0\0\0\0\0\x01r\0\0\0\0\0\0\0\x02in"
        );
    }
}
