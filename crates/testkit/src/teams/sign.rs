//! Tokens as the Bot Service signs them, and every other way.

use std::io;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

fn failed<E: std::fmt::Debug>(what: &'static str) -> impl Fn(E) -> io::Error {
    move |e| io::Error::other(format!("{what}: {e:?}"))
}

/// What a token says; `None`: the claim is left out.
#[derive(Debug, Clone)]
pub struct Claims {
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// `serviceurl`.
    pub service_url: Option<String>,
    /// `nbf`.
    pub not_before: Option<i64>,
    /// `exp`.
    pub expires: Option<i64>,
}

/// A signing key of the Bot Service.
pub struct Key {
    pair: KeyPair,
    kid: String,
    endorsements: Vec<String>,
}

impl Key {
    pub(super) fn generate(kid: &str, endorsements: &[&str]) -> io::Result<Self> {
        Ok(Self {
            pair: KeyPair::generate(KeySize::Rsa2048).map_err(failed("no RSA key"))?,
            kid: kid.to_owned(),
            endorsements: endorsements.iter().map(|e| (*e).to_owned()).collect(),
        })
    }

    pub(super) fn jwk(&self) -> Value {
        let (n, e) = modulus_and_exponent(self.pair.public_key().as_ref()).unwrap_or_default();
        json!({
            "kty": "RSA", "use": "sig", "kid": self.kid, "x5t": self.kid, "alg": "RS256",
            "n": URL_SAFE_NO_PAD.encode(n), "e": URL_SAFE_NO_PAD.encode(e),
            "endorsements": self.endorsements,
        })
    }

    /// `Bearer …`, signed RS256.
    ///
    /// # Errors
    /// When signing fails.
    pub fn bearer(&self, claims: &Claims) -> io::Result<String> {
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": self.kid, "x5t": self.kid });
        self.bearer_of(&header, &payload(claims))
    }

    /// `Bearer …` of any header and payload, signed RS256 whatever the header says.
    ///
    /// # Errors
    /// When signing fails.
    pub fn bearer_of(&self, header: &Value, payload: &Value) -> io::Result<String> {
        let part = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let message = format!("{}.{}", part(header), part(payload));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .map_err(failed("not signed"))?;
        Ok(format!("Bearer {message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The public key, DER: what a confused verifier would take for a shared secret.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn public_der(&self) -> io::Result<Vec<u8>> {
        let der = self.pair.public_key().as_der().map_err(failed("no DER"))?;
        Ok(der.as_ref().to_vec())
    }

    /// Its id.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }
}

/// Of an `RSAPublicKey` (RFC 8017): a sequence of two integers.
fn modulus_and_exponent(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (sequence, _) = element(0x30, der)?;
    let (n, rest) = element(0x02, sequence)?;
    let (e, _) = element(0x02, rest)?;
    Some((n.strip_prefix(&[0]).unwrap_or(n), e))
}

/// The content of a DER element with this tag, and what follows it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..0x80 => (usize::from(*length), rest),
        long => {
            let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            (bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b)), rest)
        }
    };
    (*first == tag).then(|| rest.split_at_checked(length))?
}

/// The payload of a token.
#[must_use]
pub fn payload(claims: &Claims) -> Value {
    let mut out = Map::new();
    out.insert("iss".into(), claims.issuer.as_str().into());
    out.insert("aud".into(), claims.audience.as_str().into());
    if let Some(url) = &claims.service_url {
        out.insert("serviceurl".into(), url.as_str().into());
    }
    if let Some(at) = claims.not_before {
        out.insert("nbf".into(), at.into());
    }
    if let Some(at) = claims.expires {
        out.insert("exp".into(), at.into());
    }
    Value::Object(out)
}
