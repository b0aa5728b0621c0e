//! A passkey in software, for tests: it answers like a browser with an authenticator, and does wrong
//! on request. It shares no code with what verifies it.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

/// The key inside.
enum Key {
    EdDsa(Ed25519KeyPair),
    Es256(EcdsaKeyPair),
}

/// One passkey. Its fields are what it says with each answer.
pub struct Authenticator {
    key: Key,
    /// The credential's id.
    pub id: Vec<u8>,
    /// The relying party it says that it answers to.
    pub rp_id: String,
    /// The page it says that it is used on.
    pub origin: String,
    /// Flags, without that of a new credential: present and verified are `0x05`.
    pub flags: u8,
    /// More members of the client data, for example `,"crossOrigin":true`.
    pub more: String,
}

/// What a browser gives a page; bytes in base64url.
#[derive(Debug, Clone)]
pub struct Assertion {
    /// The credential.
    pub id: String,
    /// `authenticatorData`.
    pub authenticator_data: String,
    /// `clientDataJSON`.
    pub client_data: String,
    /// `signature`.
    pub signature: String,
}

impl Assertion {
    /// As the console's page sends it.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "id": self.id,
            "response": {
                "authenticatorData": self.authenticator_data,
                "clientDataJSON": self.client_data,
                "signature": self.signature,
            },
        })
    }
}

impl Authenticator {
    /// A new passkey with an ES256 key, or an EdDSA key.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a fixture that cannot be made ends the test")]
    pub fn new(rp_id: &str, origin: &str, eddsa: bool) -> Self {
        let rng = SystemRandom::new();
        let mut id = vec![0; 20];
        aws_lc_rs::rand::fill(&mut id).expect("random bytes");
        let key = if eddsa {
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&rng).expect("a key");
            Key::EdDsa(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key"))
        } else {
            let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &rng).expect("a key");
            Key::Es256(EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).expect("a key"))
        };
        let (rp_id, origin) = (rp_id.to_owned(), origin.to_owned());
        Self { key, id, rp_id, origin, flags: 0x05, more: ",\"crossOrigin\":false".into() }
    }

    /// The credential's id in base64url.
    #[must_use]
    pub fn id(&self) -> String {
        URL_SAFE_NO_PAD.encode(&self.id)
    }

    /// The key as leaves hold it: hexadecimal.
    #[must_use]
    pub fn key(&self) -> String {
        let bytes = match &self.key {
            Key::EdDsa(key) => key.public_key().as_ref().to_vec(),
            Key::Es256(key) => key.public_key().as_ref().to_vec(),
        };
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// `clientDataJSON` of this kind for this challenge.
    #[must_use]
    pub fn client_data(&self, kind: &str, challenge: &str) -> Vec<u8> {
        format!(
            "{{\"type\":\"{kind}\",\"challenge\":\"{challenge}\",\"origin\":\"{}\"{}}}",
            self.origin, self.more
        )
        .into_bytes()
    }

    fn data(&self, flags: u8) -> Vec<u8> {
        let mut out = Sha256::digest(&self.rp_id).to_vec();
        out.push(flags);
        out.extend_from_slice(&[0; 4]);
        out
    }

    /// Answers `navigator.credentials.create`: client data and attestation object.
    #[must_use]
    pub fn create(&self, challenge: &str) -> (Vec<u8>, Vec<u8>) {
        let mut data = self.data(self.flags | 0x40);
        data.extend_from_slice(&[0; 16]);
        data.extend_from_slice(&u16::try_from(self.id.len()).unwrap_or(0).to_be_bytes());
        data.extend_from_slice(&self.id);
        match &self.key {
            Key::EdDsa(key) => {
                // {1: 1, 3: -8, -1: 6, -2: x}
                data.extend_from_slice(&[0xa4, 1, 1, 3, 0x27, 0x20, 6, 0x21, 0x58, 32]);
                data.extend_from_slice(key.public_key().as_ref());
            }
            Key::Es256(key) => {
                // {1: 2, 3: -7, -1: 1, -2: x, -3: y}
                let point = key.public_key().as_ref();
                data.extend_from_slice(&[0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21, 0x58, 32]);
                data.extend(point.iter().skip(1).take(32));
                data.extend_from_slice(&[0x22, 0x58, 32]);
                data.extend(point.iter().skip(33));
            }
        }
        // {"fmt": "none", "attStmt": {}, "authData": …}
        let mut object = vec![0xa3];
        for (name, rest) in [("fmt", &b"\x64none"[..]), ("attStmt", &[0xa0]), ("authData", &[])] {
            object.push(0x60 | u8::try_from(name.len()).unwrap_or(0));
            object.extend_from_slice(name.as_bytes());
            object.extend_from_slice(rest);
        }
        object.push(0x59);
        object.extend_from_slice(&u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
        object.extend_from_slice(&data);
        (self.client_data("webauthn.create", challenge), object)
    }

    /// As the console's page sends it.
    #[must_use]
    pub fn create_json(&self, challenge: &str) -> serde_json::Value {
        let (client, object) = self.create(challenge);
        serde_json::json!({
            "id": self.id(),
            "response": {
                "clientDataJSON": URL_SAFE_NO_PAD.encode(client),
                "attestationObject": URL_SAFE_NO_PAD.encode(object),
            },
        })
    }

    /// Answers `navigator.credentials.get`.
    #[must_use]
    pub fn get(&self, challenge: &str) -> Assertion {
        self.sign(self.data(self.flags), self.client_data("webauthn.get", challenge))
    }

    /// Signs these very bytes.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a fixture that cannot sign ends the test")]
    pub fn sign(&self, data: Vec<u8>, client: Vec<u8>) -> Assertion {
        let mut signed = data.clone();
        signed.extend_from_slice(&Sha256::digest(&client));
        let signature = match &self.key {
            Key::EdDsa(key) => key.sign(&signed).as_ref().to_vec(),
            Key::Es256(key) => {
                key.sign(&SystemRandom::new(), &signed).expect("a signature").as_ref().to_vec()
            }
        };
        Assertion {
            id: self.id(),
            authenticator_data: URL_SAFE_NO_PAD.encode(data),
            client_data: URL_SAFE_NO_PAD.encode(client),
            signature: URL_SAFE_NO_PAD.encode(signature),
        }
    }
}
