//! What a scope's template lets a certificate say, and what a grant fills in.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use grantwright_domain::param::KeyFormat;
use grantwright_domain::{Params, Scope};
use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, PublicKey, PublicKeyData, SanType,
};
use rustls_pki_types::CertificateSigningRequestDer;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::MintError;
use crate::signing::holder;
use crate::template::{
    Wildcards, bad_template, fill, holder_faults, slots, text_faults, unknown_keys,
};

const KEYS: [&str; 4] = ["request", "dns", "uri", "usage"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    #[serde(default)]
    request: Option<String>,
    #[serde(default)]
    dns: Vec<String>,
    #[serde(default)]
    uri: Vec<String>,
    #[serde(default = "client")]
    usage: BTreeSet<Usage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Usage {
    Client,
    Server,
}

fn client() -> BTreeSet<Usage> {
    BTreeSet::from([Usage::Client])
}

/// What a grant asks for.
pub(super) struct Asked {
    pub(super) key: PublicKey,
    names: Names,
}

/// Whom a certificate may name, and what it may be used for.
pub(crate) struct Names {
    pub(crate) dns: Vec<String>,
    pub(crate) uri: Vec<String>,
    pub(crate) usage: BTreeSet<Usage>,
}

fn read(template: &Map<String, Value>) -> Result<Template, String> {
    serde_json::from_value(Value::Object(template.clone())).map_err(|e| e.to_string())
}

/// The public key of a request whose signature is good: P-256, P-384 or Ed25519.
fn key_of(text: &str) -> Option<PublicKey> {
    let der = STANDARD.decode(text).ok()?;
    let der = CertificateSigningRequestDer::from(der);
    let key = CertificateSigningRequestParams::from_der(&der).ok()?.public_key;
    // The kind is read off the signature: a key of another length is of another kind.
    let fits = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, 65),
        (&rcgen::PKCS_ECDSA_P384_SHA384, 97),
        (&rcgen::PKCS_ED25519, 32),
    ];
    let length = key.der_bytes().len();
    fits.into_iter().any(|(kind, want)| key.algorithm() == kind && length == want).then_some(key)
}

/// The public key of the request that the parameters hold.
pub(crate) fn requested(scope: &Scope, params: &Params) -> Result<PublicKey, MintError> {
    key_of(holder(scope, params, "request")?).ok_or_else(|| {
        MintError::refused(
            "bad_parameter",
            "the certificate request does not parse, its signature is wrong, or its key is not \
             P-256, P-384 or Ed25519",
            "the request does not parse",
        )
    })
}

/// `SHA256:…` of a public key (DER SubjectPublicKeyInfo).
pub(crate) fn key_id(spki: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(digest(&SHA256, spki)))
}

impl Names {
    /// By this part of the scope's template.
    pub(crate) fn of(
        template: &Map<String, Value>,
        scope: &Scope,
        params: &Params,
    ) -> Result<Self, MintError> {
        let template = read(template).map_err(bad_template)?;
        let names = |texts: &[String], fits: fn(&str) -> bool| {
            let one = |text: &String| {
                let name = fill(text, scope, params)?;
                if fits(&name) {
                    return Ok(name);
                }
                Err(MintError::refused(
                    "bad_parameter",
                    "these parameters make no name that a certificate could hold",
                    format!("name `{name}`"),
                ))
            };
            texts.iter().map(one).collect::<Result<Vec<_>, _>>()
        };
        let (dns, uri) = (names(&template.dns, is_host)?, names(&template.uri, is_uri)?);
        if dns.is_empty() && uri.is_empty() || template.usage.is_empty() {
            return Err(bad_template("no name, or no usage"));
        }
        Ok(Self { dns, uri, usage: template.usage })
    }

    pub(crate) fn preview(&self) -> Value {
        json!({ "dns": self.dns, "uri": self.uri, "usage": self.usage })
    }
}

/// Keys of requests that were found good, by the request's text: one key asks for many certificates, and
/// its signature is checked once. Of what is forgotten it is checked again.
#[derive(Default)]
pub(super) struct Good(Mutex<HashMap<String, PublicKey>>);

impl Good {
    /// Most that are kept; before there are more, all are forgotten.
    const MOST: usize = 4096;

    /// As [`Asked::compile`].
    pub(super) fn compile(&self, scope: &Scope, params: &Params) -> Result<Asked, MintError> {
        let text = holder(scope, params, "request")?;
        let kept = self.lock().get(text).cloned();
        let key = match kept {
            Some(key) => key,
            None => self.keep(text, requested(scope, params)?),
        };
        Ok(Asked { key, names: Names::of(&scope.template, scope, params)? })
    }

    fn keep(&self, text: &str, key: PublicKey) -> PublicKey {
        let mut kept = self.lock();
        if kept.len() >= Self::MOST {
            kept.clear();
        }
        kept.insert(text.to_owned(), key.clone());
        key
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, PublicKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked {
    pub(super) fn compile(scope: &Scope, params: &Params) -> Result<Self, MintError> {
        let key = requested(scope, params)?;
        Ok(Self { key, names: Names::of(&scope.template, scope, params)? })
    }

    pub(super) fn names(&self) -> Result<Vec<SanType>, rcgen::Error> {
        let dns = self.names.dns.iter().map(|n| Ok(SanType::DnsName(n.as_str().try_into()?)));
        let uri = self.names.uri.iter().map(|n| Ok(SanType::URI(n.as_str().try_into()?)));
        dns.chain(uri).collect()
    }

    pub(super) fn usages(&self) -> Vec<ExtendedKeyUsagePurpose> {
        let purpose = |usage: &Usage| match usage {
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        };
        self.names.usage.iter().map(purpose).collect()
    }

    /// `SHA256:…` of the public key (DER SubjectPublicKeyInfo).
    pub(super) fn key_id(&self) -> String {
        key_id(&self.key.subject_public_key_info())
    }

    pub(super) fn preview(&self) -> Value {
        let Names { dns, uri, usage } = &self.names;
        json!({ "dns": dns, "uri": uri, "usage": usage, "key": self.key_id() })
    }
}

pub(super) fn faults(scope: &Scope) -> Vec<String> {
    let mut out = faults_of(&scope.template, scope);
    out.extend(holder_faults(scope, "request", KeyFormat::Csr));
    out.extend(super::BACKEND.declaration.ttl_faults(scope));
    out
}

/// What is wrong with this part of the scope's template; whose key it is for is looked at elsewhere.
pub(crate) fn faults_of(template: &Map<String, Value>, scope: &Scope) -> Vec<String> {
    let mut out = unknown_keys("template", template.keys(), &KEYS);
    let template = match read(template) {
        Ok(template) => template,
        Err(e) => {
            out.push(format!("template: {e}"));
            return out;
        }
    };
    let count = template.dns.len() + template.uri.len();
    if !(1..=16).contains(&count) {
        out.push("template: want 1 to 16 names in dns and uri together".into());
    }
    if template.usage.is_empty() {
        out.push("template.usage: want client, server or both".into());
    }
    for (key, texts) in [("dns", &template.dns), ("uri", &template.uri)] {
        for text in texts {
            let faults = text_faults(text, scope, Wildcards::Faults);
            out.extend(faults.into_iter().map(|f| format!("template.{key}: {f}")));
        }
    }
    for text in &template.uri {
        // The part before a slot decides whose name it is.
        let authority = text.split_once("://").map(|(_, rest)| rest.split_once('/'));
        if !matches!(authority, Some(Some((host, _))) if !host.is_empty() && !host.contains('$')) {
            out.push(format!(
                "template.uri: `{text}`: want scheme://host/path, without a slot before the path"
            ));
        }
    }
    for text in &template.dns {
        let domain = text.rsplit('}').next().unwrap_or_default();
        if text.contains('$') && !domain.strip_prefix('.').is_some_and(is_host) {
            out.push(format!(
                "template.dns: `{text}`: want a literal domain after the last slot, such as \
                 ${{service}}.example.com"
            ));
        }
    }
    for (name, spec) in &scope.params {
        let binds = |text: &String| slots(text).contains(&name.as_str());
        let bound = template.request.as_ref() == Some(name)
            || (template.dns.iter().all(binds) && template.uri.iter().all(binds));
        if !spec.sensitive && !bound {
            out.push(format!(
                "parameter `{name}` does not narrow it: not every name has `${{{name}}}`"
            ));
        }
    }
    out
}

/// A host name (RFC 1123): lower case, labels of at most 63, 253 in all.
fn is_host(name: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn is_uri(name: &str) -> bool {
    (1..=512).contains(&name.len())
        && name.split_once("://").is_some_and(|(scheme, rest)| {
            scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
                && !rest.is_empty()
                && !rest.contains("..")
        })
        && name.bytes().all(|b| b.is_ascii_graphic() && !b"\"\\<>^`{}*?#@".contains(&b))
}
