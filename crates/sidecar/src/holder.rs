//! Keys of this sidecar's own, for credentials that are bound to whoever holds a key: certificates and
//! tokens with `cnf`. A caller that brings no public key gets one from here, with its private half beside
//! the credential; the broker and its backends see the public half only.
//!
//! A key is a function of the seal key, the instance, the scope and the format: the same after a restart,
//! so that an ask that repeats is identical, and nothing more to keep.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use grantwright_credential::{Credential, SealKeyPair, Secret};
use grantwright_domain::param::KeyFormat;
use grantwright_domain::{Digest, ScopeName};
use grantwright_wire::Refusal;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Map, Value};

use crate::ask::Ask;
use crate::identity::Identity;
use crate::{Sidecar, SidecarError, files};

/// What the keys are for; another use of the seal key has another salt.
const SALT: &[u8] = b"grantwright/holder-key/v1";
/// Most keys in memory; they are made again from the seal key.
const MOST: usize = 256;
/// A scalar is out of range once in 2^32 times; then the next one is taken.
const ROUNDS: u8 = 8;

/// A key pair of this sidecar's own.
pub(crate) struct Holder {
    /// As the parameter wants it.
    public: String,
    /// What any public form of this key contains: its point.
    point: Vec<u8>,
    /// PEM: OpenSSH's own form for SSH, PKCS#8 otherwise.
    private: Secret<String>,
}

/// Instance, scope and format.
type Of = (String, String, &'static str);

/// Keys that were derived already.
#[derive(Default)]
pub(crate) struct Holders(Mutex<HashMap<Of, Arc<Holder>>>);

impl Holder {
    /// `folder` keeps the request for a certificate: its signature is another one each time it is made.
    pub(crate) fn derive(
        seal: &SealKeyPair,
        instance: &str,
        scope: &str,
        format: KeyFormat,
        folder: &Path,
    ) -> Result<Self, SidecarError> {
        let seed = |round: u8| {
            let mut info = Vec::new();
            for part in [instance, scope, format.word()] {
                info.extend((part.len() as u64).to_be_bytes());
                info.extend(part.as_bytes());
            }
            info.push(round);
            let mut out = [0; 32];
            let prk =
                Salt::new(HKDF_SHA256, SALT).extract(seal.expose_secret_bytes().expose_secret());
            let filled = prk.expand(&[&info], HKDF_SHA256).and_then(|it| it.fill(&mut out));
            filled.map(|()| Secret::new(out)).map_err(|_| unusable("HKDF"))
        };
        if format == KeyFormat::Ssh {
            return ssh(&seed(0)?);
        }
        let (scalar, point) = (0..ROUNDS)
            .find_map(|round| {
                let scalar = seed(round).ok()?;
                let key = PrivateKey::from_private_key(&ECDH_P256, scalar.expose_secret()).ok()?;
                let point = key.compute_public_key().ok()?.as_ref().to_vec();
                Some((scalar, point))
            })
            .ok_or_else(|| unusable("P-256"))?;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            scalar.expose_secret(),
            &point,
        )
        .and_then(|pair| Ok(pair.to_pkcs8v1()?))
        .map_err(|_| unusable("P-256"))?;
        let pair =
            KeyPair::try_from(pair.as_ref()).map_err(|e| SidecarError::Key(e.to_string()))?;
        let private = Secret::new(pair.serialize_pem());
        let public = match format {
            KeyFormat::Csr => request(&pair, scope, &point, folder)?,
            _ => thumbprint(&point),
        };
        Ok(Self { public, point, private })
    }

    /// Whether a parameter's value is this key's public half. A request that was signed at another time
    /// is.
    fn is(&self, value: &str, format: KeyFormat) -> bool {
        value == self.public
            || format == KeyFormat::Csr
                && STANDARD.decode(value).is_ok_and(|der| contains(&der, &self.point))
    }
}

impl Sidecar {
    /// The ask with this sidecar's public key where the scope, as last declared, wants one and the caller
    /// left it out.
    ///
    /// # Errors
    /// 503 when the key cannot be made.
    pub(crate) fn held(&self, ask: Ask) -> Result<Ask, Box<Refusal>> {
        let wanted = self.holders_of(ask.scope.as_str()).unwrap_or_default();
        if wanted.is_empty() {
            return Ok(ask);
        }
        let mut params = ask.params();
        let missing: Vec<_> =
            wanted.into_iter().filter(|(name, _)| !params.contains_key(name)).collect();
        if missing.is_empty() {
            return Ok(ask);
        }
        for (name, format) in missing {
            let holder = self.holder(ask.scope.as_str(), format).map_err(|error| {
                tracing::error!(%error, scope = ask.scope.as_str(), "no key of our own");
                Refusal::new(503, "no_key", "The sidecar could not make a key of its own.")
                    .detail(format!("parameter `{name}` was left out"))
                    .next("Bring a public key, or look at the sidecar's log.")
            })?;
            params.insert(name, holder.public.clone().into());
        }
        ask.with_params(&params, &self.workload)
    }

    /// The credential, with the private half of the key that it is bound to where that is one of ours.
    pub(crate) fn with_holder(
        &self,
        credential: Credential,
        scope: Option<&str>,
        params: Option<&Value>,
    ) -> Credential {
        let Some(Value::Object(params)) = params else { return credential };
        let Some(listed) = self.known_scopes() else { return credential };
        // Of a request from before a restart the scope is not known: its key tells.
        let named = |it: &&Map<String, Value>| scope.is_none_or(|scope| name_of(it) == Some(scope));
        for declared in listed.iter().filter(named) {
            let Some(scope) = name_of(declared) else { continue };
            for (name, format) in holders(declared) {
                let Some(value) = params.get(&name).and_then(Value::as_str) else { continue };
                if let Ok(holder) = self.holder(scope, format)
                    && holder.is(value, format)
                {
                    return credential.with_private_key(holder.private.expose_secret());
                }
            }
        }
        credential
    }

    fn holder(&self, scope: &str, format: KeyFormat) -> Result<Arc<Holder>, SidecarError> {
        let identity: Arc<Identity> = self.identity();
        let key = (identity.instance.clone(), scope.to_owned(), format.word());
        let known = |held: &Holders| {
            held.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).map(Arc::clone)
        };
        if let Some(holder) = known(&self.holders) {
            return Ok(holder);
        }
        let made = Arc::new(Holder::derive(
            &identity.seal,
            &identity.instance,
            scope,
            format,
            self.state.path(),
        )?);
        let mut held = self.holders.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= MOST {
            held.clear();
        }
        Ok(Arc::clone(held.entry(key).or_insert(made)))
    }

    /// Whether the scope stands in the list as last declared: what does not may be new.
    pub(crate) fn knows(&self, scope: &ScopeName) -> bool {
        self.holders_of(scope.as_str()).is_some()
    }

    /// The parameters of a scope that take a holder's key; `None`: no such scope is known.
    fn holders_of(&self, scope: &str) -> Option<Vec<(String, KeyFormat)>> {
        let listed = self.known_scopes()?;
        listed.iter().find(|it| name_of(it) == Some(scope)).map(holders)
    }
}

fn name_of(declared: &Map<String, Value>) -> Option<&str> {
    declared.get("name").and_then(Value::as_str)
}

/// Name and form of each parameter that takes a public key and has to be there.
fn holders(declared: &Map<String, Value>) -> Vec<(String, KeyFormat)> {
    let Some(Value::Object(params)) = declared.get("params") else { return Vec::new() };
    let wanted = params.iter().filter_map(|(name, spec)| {
        let of = |key: &str| spec.get(key);
        let optional = of("optional").and_then(Value::as_bool).unwrap_or(false);
        let is_key = of("type").and_then(Value::as_str) == Some("public-key") && !optional;
        let format = serde_json::from_value(of("format")?.clone()).ok()?;
        is_key.then(|| (name.clone(), format))
    });
    wanted.collect()
}

/// RFC 7638, of a P-256 key.
fn thumbprint(point: &[u8]) -> String {
    let (x, y) = point.get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, part(x), part(y));
    URL_SAFE_NO_PAD.encode(digest(&SHA256, jwk.as_bytes()))
}

/// The kept request for this key, else a new one. Its subject is empty: the scope names whom it certifies.
fn request(
    pair: &KeyPair,
    scope: &str,
    point: &[u8],
    folder: &Path,
) -> Result<String, SidecarError> {
    let name = Digest::of("holder-csr", scope.as_bytes()).hex();
    let path = folder.join(format!("csr-{}.der", name.get(..32).unwrap_or(&name)));
    if let Some(kept) = files::read_if_there(&path)?.filter(|der| contains(der, point)) {
        return Ok(STANDARD.encode(kept));
    }
    let made = |e: rcgen::Error| SidecarError::Key(e.to_string());
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let der = params.serialize_request(pair).map_err(made)?.der().to_vec();
    files::write_private(&path, &der)?;
    Ok(STANDARD.encode(der))
}

/// A key of Ed25519 in OpenSSH's own form (PROTOCOL.key), which all its versions read.
fn ssh(seed: &Secret<[u8; 32]>) -> Result<Holder, SidecarError> {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose_secret())
        .map_err(|_| unusable("Ed25519"))?;
    let point = pair.public_key().as_ref().to_vec();
    let blob = [string(b"ssh-ed25519"), string(&point)].concat();
    // Room for all at once, so that growing leaves no copy behind.
    let mut text = Vec::with_capacity(256);
    // Two equal numbers show that it was decrypted well; nothing is encrypted here.
    for _ in 0..2 {
        text.extend_from_slice(point.get(..4).unwrap_or_default());
    }
    text.extend_from_slice(&blob);
    text.extend_from_slice(&64u32.to_be_bytes());
    text.extend_from_slice(seed.expose_secret());
    text.extend_from_slice(&point);
    text.extend_from_slice(&string(b"grantwright"));
    for n in 1u8.. {
        if text.len().is_multiple_of(8) {
            break;
        }
        text.push(n);
    }
    let inner = Secret::new(text);
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"openssh-key-v1\0");
    for part in [&b"none"[..], b"none", b""] {
        out.extend_from_slice(&string(part));
    }
    out.extend_from_slice(&1u32.to_be_bytes());
    out.extend_from_slice(&string(&blob));
    out.extend_from_slice(&u32::try_from(inner.expose_secret().len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(inner.expose_secret());
    let whole = Secret::new(out);
    let body = Secret::new(STANDARD.encode(whole.expose_secret()));
    let mut pem = String::with_capacity(1024);
    pem.push_str("-----BEGIN OPENSSH PRIVATE KEY-----\n");
    for line in body.expose_secret().as_bytes().chunks(70) {
        pem.push_str(std::str::from_utf8(line).unwrap_or_default());
        pem.push('\n');
    }
    pem.push_str("-----END OPENSSH PRIVATE KEY-----\n");
    let public = format!("ssh-ed25519 {}", STANDARD.encode(&blob));
    Ok(Holder { public, point, private: Secret::new(pem) })
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes()[..], bytes].concat()
}

fn contains(der: &[u8], point: &[u8]) -> bool {
    !point.is_empty() && der.windows(point.len()).any(|it| it == point)
}

fn unusable(what: &str) -> SidecarError {
    SidecarError::Key(format!("no {what} key comes of the seal key"))
}

#[cfg(test)]
#[path = "holder_tests.rs"]
mod tests;
