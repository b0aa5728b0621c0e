//! What a scope's template lets a certificate say, and what a grant fills in.

use std::collections::BTreeSet;

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
use serde_json::{Value, json};

use crate::MintError;
use crate::signing::holder;
use crate::template::{
    Wildcards, bad_template, fill, holder_faults, slots, text_faults, unknown_keys,
};

const KEYS: [&str; 4] = ["request", "dns", "uri", "usage"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    request: String,
    #[serde(default)]
    dns: Vec<String>,
    #[serde(default)]
    uri: Vec<String>,
    #[serde(default = "client")]
    usage: BTreeSet<Usage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
enum Usage {
    Client,
    Server,
}

fn client() -> BTreeSet<Usage> {
    BTreeSet::from([Usage::Client])
}

/// What a grant asks for.
pub(super) struct Asked {
    pub(super) key: PublicKey,
    dns: Vec<String>,
    uri: Vec<String>,
    usage: BTreeSet<Usage>,
}

fn read(scope: &Scope) -> Result<Template, String> {
    serde_json::from_value(Value::Object(scope.template.clone())).map_err(|e| e.to_string())
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

impl Asked {
    pub(super) fn compile(scope: &Scope, params: &Params) -> Result<Self, MintError> {
        let template = read(scope).map_err(bad_template)?;
        let key = key_of(holder(scope, params, "request")?).ok_or_else(|| {
            MintError::refused(
                "bad_parameter",
                "the certificate request does not parse, its signature is wrong, or its key is not \
                 P-256, P-384 or Ed25519",
                "the request does not parse",
            )
        })?;
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
        Ok(Self { key, dns, uri, usage: template.usage })
    }

    pub(super) fn names(&self) -> Result<Vec<SanType>, rcgen::Error> {
        let dns = self.dns.iter().map(|n| Ok(SanType::DnsName(n.as_str().try_into()?)));
        let uri = self.uri.iter().map(|n| Ok(SanType::URI(n.as_str().try_into()?)));
        dns.chain(uri).collect()
    }

    pub(super) fn usages(&self) -> Vec<ExtendedKeyUsagePurpose> {
        let purpose = |usage: &Usage| match usage {
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        };
        self.usage.iter().map(purpose).collect()
    }

    /// `SHA256:…` of the public key (DER SubjectPublicKeyInfo).
    pub(super) fn key_id(&self) -> String {
        let spki = self.key.subject_public_key_info();
        format!("SHA256:{}", STANDARD_NO_PAD.encode(digest(&SHA256, &spki)))
    }

    pub(super) fn preview(&self) -> Value {
        json!({ "dns": self.dns, "uri": self.uri, "usage": self.usage, "key": self.key_id() })
    }
}

pub(super) fn faults(scope: &Scope) -> Vec<String> {
    let mut out = unknown_keys("template", scope.template.keys(), &KEYS);
    let template = match read(scope) {
        Ok(template) => template,
        Err(e) => {
            out.push(format!("template: {e}"));
            return out;
        }
    };
    out.extend(holder_faults(scope, "request", KeyFormat::Csr));
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
        let bound = *name == template.request
            || (template.dns.iter().all(binds) && template.uri.iter().all(binds));
        if !spec.sensitive && !bound {
            out.push(format!(
                "parameter `{name}` does not narrow it: not every name has `${{{name}}}`"
            ));
        }
    }
    out.extend(super::BACKEND.declaration.ttl_faults(scope));
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
