//! Signing keys and the documents that publish their public halves.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair as _, Signature, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::SetupError;

enum Pair {
    Ed25519(Ed25519KeyPair),
    Es256(EcdsaKeyPair),
}

/// A key that signs: Ed25519 (`EdDSA`, RFC 8037) or P-256 (`ES256`, RFC 7518 §3.4).
pub struct SigningKey {
    pair: Pair,
    public: PublicKey,
    header: String,
}

impl SigningKey {
    /// Reads a private key in PKCS#8 (DER), version 1 or 2, of either kind.
    ///
    /// # Errors
    /// The bytes are neither.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, SetupError> {
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8(der) {
            let public = PublicKey::ed25519(pair.public_key().as_ref());
            return Ok(Self::with(Pair::Ed25519(pair), public));
        }
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der)
            .map_err(|_| SetupError("jwt: the key is not Ed25519 or P-256 in PKCS#8"))?;
        let public = PublicKey::p256(pair.public_key().as_ref())
            .ok_or(SetupError("jwt: the P-256 key has no uncompressed public point"))?;
        Ok(Self::with(Pair::Es256(pair), public))
    }

    fn with(pair: Pair, public: PublicKey) -> Self {
        let header = json!({ "alg": public.alg, "kid": public.kid, "typ": "JWT" });
        let header = URL_SAFE_NO_PAD.encode(header.to_string());
        Self { pair, public, header }
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The encoded JOSE header of its tokens.
    pub(super) fn header(&self) -> &str {
        &self.header
    }

    /// The encoded JOSE header of another type of document.
    pub(super) fn header_of(&self, typ: &str) -> String {
        let header = json!({ "alg": self.public.alg, "kid": self.public.kid, "typ": typ });
        URL_SAFE_NO_PAD.encode(header.to_string())
    }

    /// 64 bytes: the Ed25519 signature, or `r ‖ s`.
    pub(super) fn sign(&self, message: &[u8]) -> Option<Signature> {
        match &self.pair {
            Pair::Ed25519(pair) => pair.try_sign(message).ok(),
            Pair::Es256(pair) => pair.sign(&SystemRandom::new(), message).ok(),
        }
    }
}

/// The public half of a [`SigningKey`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    alg: &'static str,
    kid: String,
    /// The required members of its JWK, in the order of RFC 7638 §3.2.
    required: Vec<(&'static str, String)>,
}

impl PublicKey {
    pub(crate) fn ed25519(point: &[u8]) -> Self {
        let x = URL_SAFE_NO_PAD.encode(point);
        Self::new("EdDSA", vec![("crv", "Ed25519".into()), ("kty", "OKP".into()), ("x", x)])
    }

    pub(crate) fn p256(point: &[u8]) -> Option<Self> {
        let (x, y) = point.strip_prefix(&[4]).filter(|p| p.len() == 64)?.split_at_checked(32)?;
        let [x, y] = [x, y].map(|half| URL_SAFE_NO_PAD.encode(half));
        let required = vec![("crv", "P-256".into()), ("kty", "EC".into()), ("x", x), ("y", y)];
        Some(Self::new("ES256", required))
    }

    fn new(alg: &'static str, required: Vec<(&'static str, String)>) -> Self {
        Self { alg, kid: thumbprint(&required), required }
    }

    /// Its id: the RFC 7638 thumbprint, SHA-256, base64url.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The JOSE algorithm: `EdDSA` or `ES256`.
    #[must_use]
    pub fn alg(&self) -> &'static str {
        self.alg
    }

    /// Whether it signed this.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let part = |name: &str| {
            let text = self.required.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
            URL_SAFE_NO_PAD.decode(text.unwrap_or_default()).unwrap_or_default()
        };
        let verified = match self.alg {
            "EdDSA" => UnparsedPublicKey::new(&ED25519, part("x")).verify(message, signature),
            _ => {
                let point = [&[4][..], &part("x"), &part("y")].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
        };
        verified.is_ok()
    }

    fn jwk(&self) -> Value {
        let mut jwk = json!({ "alg": self.alg, "kid": self.kid, "use": "sig" });
        if let Value::Object(members) = &mut jwk {
            members.extend(self.required.iter().map(|(k, v)| ((*k).to_owned(), v.as_str().into())));
        }
        jwk
    }
}

/// A JWK set (RFC 7517 §5) of public keys, each once.
pub fn jwks<'a>(keys: impl IntoIterator<Item = &'a PublicKey>) -> Value {
    let mut out: Vec<&PublicKey> = Vec::new();
    for key in keys {
        if !out.contains(&key) {
            out.push(key);
        }
    }
    json!({ "keys": out.into_iter().map(PublicKey::jwk).collect::<Vec<_>>() })
}

/// Provider metadata (OpenID Connect Discovery 1.0 §3), keys at `<issuer>/jwks`.
pub fn discovery<'a>(issuer: &str, keys: impl IntoIterator<Item = &'a PublicKey>) -> Value {
    let mut algs: Vec<&str> = keys.into_iter().map(PublicKey::alg).collect();
    algs.sort_unstable();
    algs.dedup();
    json!({
        "issuer": issuer,
        "jwks_uri": format!("{issuer}/jwks"),
        "introspection_endpoint": format!("{issuer}/introspect"),
        "introspection_endpoint_auth_methods_supported": ["client_secret_basic"],
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algs,
        "claims_supported": [
            "iss", "sub", "aud", "iat", "nbf", "exp", "jti", "scope", "request_id", "params", "approvers",
            "cnf", "status",
        ],
    })
}

/// RFC 7638 §3: SHA-256 over the required members, sorted, without spaces.
fn thumbprint(required: &[(&'static str, String)]) -> String {
    let members: Vec<String> = required.iter().map(|(k, v)| format!("\"{k}\":\"{v}\"")).collect();
    let json = format!("{{{}}}", members.join(","));
    URL_SAFE_NO_PAD.encode(digest(&SHA256, json.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thumbprint_of_rfc_8037_a_3() {
        let x = URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let key = PublicKey::ed25519(&x);
        assert_eq!(key.kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn thumbprint_of_rfc_7638_3_1() {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6t\
                 Soc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65\
                 YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrd\
                 kt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnq\
                 DKgw";
        let required = [("e", "AQAB".into()), ("kty", "RSA".into()), ("n", n.into())];
        assert_eq!(thumbprint(&required), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn keys_of_other_kinds_are_refused() {
        for bytes in [&b""[..], b"-----BEGIN PRIVATE KEY-----", &[0x30; 48]] {
            assert!(SigningKey::from_pkcs8(bytes).is_err());
        }
    }
}
