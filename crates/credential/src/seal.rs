use std::fmt;

use aws_lc_rs::agreement::{PrivateKey, X25519};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_CHACHA20_POLY1305 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey, HpkePublicKey};
use zeroize::Zeroize as _;

use crate::{Credential, CredentialError, Secret};

/// Length in bytes of secret, public and encapsulated X25519 keys.
pub const SEAL_KEY_LEN: usize = 32;

/// The key pair of one instance, made at enrolment, kept over restarts and certificate rotation.
pub struct SealKeyPair {
    secret: Secret<[u8; SEAL_KEY_LEN]>,
    public: SealPublicKey,
}

impl SealKeyPair {
    /// A fresh pair from the system's randomness.
    ///
    /// # Panics
    /// If the system has no randomness to give.
    #[expect(clippy::expect_used, reason = "without randomness nothing is safe")]
    pub fn generate() -> Self {
        let mut bytes = [0; SEAL_KEY_LEN];
        aws_lc_rs::rand::fill(&mut bytes).expect("randomness");
        let secret = Secret::new(bytes);
        bytes.zeroize();
        Self::from_secret_bytes(&secret).expect("every clamped number is a key")
    }

    /// The pair of a kept secret key (RFC 9180 §7.1.2: clamped here).
    ///
    /// # Errors
    /// [`CredentialError::Key`] if it is no X25519 key.
    pub fn from_secret_bytes(bytes: &Secret<[u8; SEAL_KEY_LEN]>) -> Result<Self, CredentialError> {
        // RFC 7748 §5; other keys are derived from the clamped bytes, so it is no matter of taste.
        let mut clamped = *bytes.expose_secret();
        let [first, .., last] = &mut clamped;
        *first &= 0b1111_1000;
        *last = *last & 0b0111_1111 | 0b0100_0000;
        let secret = Secret::new(clamped);
        clamped.zeroize();
        let public = PrivateKey::from_private_key(&X25519, secret.expose_secret())
            .and_then(|key| key.compute_public_key().map_err(Into::into))
            .map_err(|_| CredentialError::Key)?;
        let public = SealPublicKey::from_bytes(public.as_ref())?;
        Ok(Self { secret, public })
    }

    /// Lets the secret key out, to be kept in a file of mode 0600.
    pub fn expose_secret_bytes(&self) -> Secret<[u8; SEAL_KEY_LEN]> {
        Secret::new(*self.secret.expose_secret())
    }

    /// The half that the broker seals to.
    pub fn public(&self) -> SealPublicKey {
        self.public.clone()
    }
}

impl fmt::Debug for SealKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKeyPair(redacted)")
    }
}

/// The public half of a [`SealKeyPair`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealPublicKey([u8; SEAL_KEY_LEN]);

impl SealPublicKey {
    /// Reads 32 bytes.
    ///
    /// # Errors
    /// [`CredentialError::Key`] if they are not 32.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CredentialError> {
        bytes.try_into().map(Self).map_err(|_| CredentialError::Key)
    }

    /// Its 32 bytes.
    pub fn to_bytes(&self) -> [u8; SEAL_KEY_LEN] {
        self.0
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
    let (encapsulated, ciphertext) = SUITE
        .seal(info, &[], plain, &HpkePublicKey(to.0.to_vec()))
        .map_err(|_| CredentialError::Seal)?;
    let mut bytes = encapsulated.0;
    bytes.extend(ciphertext);
    Ok(Sealed(bytes))
}

/// Opens what [`seal`] made, with the same `info`.
///
/// # Errors
/// [`CredentialError::Open`] for another key, another `info`, or any altered bit;
/// [`CredentialError::Malformed`] if the sealed bytes are no credential.
pub fn open(with: &SealKeyPair, info: &[u8], sealed: &[u8]) -> Result<Credential, CredentialError> {
    let (encapsulated, ciphertext) =
        sealed.split_at_checked(SEAL_KEY_LEN).ok_or(CredentialError::Open)?;
    let secret = HpkePrivateKey::from(with.secret.expose_secret().to_vec());
    let encapsulated = EncapsulatedSecret(encapsulated.to_vec());
    let plain = SUITE
        .open(&encapsulated, info, &[], ciphertext, &secret)
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

    /// What an implementation of HPKE other than this one sealed, and a secret key that it clamped.
    #[test]
    fn it_opens_what_another_implementation_sealed() {
        let pair = SealKeyPair::from_secret_bytes(&Secret::new([7; 32])).unwrap();
        let public = "13be4feaeaf204c7fd3358fc9c00721881d174278128227ec674f37f7fe97b6d";
        let sealed = "2343f4cba8e455f529deb82d0095401be8588b8cb286de1295a2420c9addef5449012b8439258b4c\
                      8ceb68050588ac9bcf076b86de197bb7288c2ed39b0bc9cc2326c2";
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(&pair.public().to_bytes()), public);
        let kept = pair.expose_secret_bytes();
        assert_eq!(hex(kept.expose_secret()), format!("00{}47", "07".repeat(30)));
        let bytes: Vec<u8> = (0..sealed.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&sealed[at..at + 2], 16).unwrap())
            .collect();
        let opened = open(&pair, &seal_info("r-1", "i-1"), &bytes).unwrap();
        assert_eq!(opened, Credential::jwt("hunter2"));
    }
}
