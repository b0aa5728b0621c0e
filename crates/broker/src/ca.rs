//! The broker's certificate authority: signs sidecars' certificates and its own.
//!
//! The file `ca.pem` holds the authority in force first and, while one overlaps another, older ones
//! after it: all are trusted, the first signs.

use grantwright_domain::authority::Instance;
use grantwright_domain::{AgentId, Digest, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};

use crate::error::StartError;
use crate::keys::{KeyDir, replace};

/// Life of an agent's certificate unless configured: one hour.
pub const CERTIFICATE_S: i64 = 3600;
/// Certificates begin this much earlier, for clocks that run behind.
const BACKDATE_S: i64 = 60;
const AUTHORITY_S: i64 = 10 * 365 * 86_400;
const SERVER_S: i64 = 30 * 86_400;

/// The authority in force and those still trusted.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    roots: Vec<CertificateDer<'static>>,
    trust_domain: String,
    signing_pem: String,
    life_s: i64,
}

/// A certificate signed for a sidecar.
pub struct Signed {
    /// The chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// Digest of the public key (DER SPKI).
    pub key: Digest,
    /// End.
    pub not_after: Timestamp,
}

/// The certificate request was refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CsrError(String);

impl Ca {
    /// Makes a new authority's files, `ca.key` and `ca.pem`.
    ///
    /// # Errors
    /// When they exist or cannot be written.
    pub fn create(keys: &KeyDir, trust_domain: &str, now: Timestamp) -> Result<(), StartError> {
        let (pem, key) = authority(trust_domain, now)?;
        keys.create("ca.key", &key)?;
        keys.create("ca.pem", &pem)
    }

    /// First step of a rollover: a next authority is made and trusted, and does not sign yet. Sidecars
    /// learn of it with their next renewal, an hour at most.
    ///
    /// # Errors
    /// When one is prepared already, or the files cannot be read or written.
    pub fn prepare(keys: &KeyDir, trust_domain: &str, now: Timestamp) -> Result<(), StartError> {
        let old = keys.read("ca.pem")?;
        let (pem, key) = authority(trust_domain, now)?;
        // The key first: a crash between the two leaves a key that no certificate names.
        keys.create("ca-next.key", &key)?;
        replace(&keys.path("ca.pem"), &format!("{}{pem}", old.expose_secret()))
    }

    /// Second step, once every sidecar trusts the next authority: it signs from now on. The former
    /// stays trusted, for what it signed.
    ///
    /// # Errors
    /// When none is prepared, or the files cannot be read or written.
    pub fn switch(keys: &KeyDir) -> Result<(), StartError> {
        keys.read("ca-next.key")?;
        std::fs::rename(keys.path("ca-next.key"), keys.path("ca.key")).map_err(|e| {
            StartError::new(format!("the next authority's key cannot be put in place: {e}"))
        })
    }

    /// Last step, once everything the former authority signed has expired: only the one that signs is
    /// trusted.
    ///
    /// # Errors
    /// When a next one is prepared but does not sign yet, or the files cannot be read or written.
    pub fn retire(keys: &KeyDir, trust_domain: &str) -> Result<(), StartError> {
        if keys.path("ca-next.key").exists() {
            return Err(StartError::new(
                "a next authority is prepared and does not sign yet; switch to it first",
            ));
        }
        let ca = Self::load(keys, trust_domain)?;
        replace(&keys.path("ca.pem"), &ca.signing_pem)
    }

    /// Loads the authority.
    ///
    /// # Errors
    /// When a file is missing, readable by others, or key and certificate do not match.
    pub fn load(keys: &KeyDir, trust_domain: &str) -> Result<Self, StartError> {
        let key = keys.read("ca.key")?;
        let pem = keys.read("ca.pem")?;
        let wrong = |e: String| {
            StartError::new(format!(
                "the certificate authority does not load: {e}; restore ca.key and ca.pem together"
            ))
        };
        let key = KeyPair::from_pem(key.expose_secret()).map_err(|e| wrong(e.to_string()))?;
        let mut roots = Vec::new();
        for cert in CertificateDer::pem_slice_iter(pem.expose_secret().as_bytes()) {
            roots.push(cert.map_err(|e| wrong(e.to_string()))?);
        }
        let own = rcgen::PublicKeyData::subject_public_key_info(&key);
        let signing = roots
            .iter()
            .find(|cert| spki_of(cert).is_some_and(|spki| spki == own))
            .cloned()
            .ok_or_else(|| wrong("no certificate is for the key".into()))?;
        let signing_pem = pem_of(pem.expose_secret(), &signing)
            .ok_or_else(|| wrong("its certificate has no text".into()))?;
        let issuer = Issuer::from_ca_cert_der(&signing, key).map_err(|e| wrong(e.to_string()))?;
        let trust_domain = trust_domain.to_owned();
        Ok(Self { issuer, roots, trust_domain, signing_pem, life_s: CERTIFICATE_S })
    }

    /// Life of the certificates that it signs for sidecars, in seconds.
    #[must_use]
    pub fn life_s(&self) -> i64 {
        self.life_s
    }

    /// The same, whose certificates live so many seconds.
    #[must_use]
    pub fn with_life(self, life_s: i64) -> Self {
        Self { life_s, ..self }
    }

    /// Every authority that is trusted.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Signs a sidecar's request. Only its public key is taken from it: subject, names and lifetime
    /// are the broker's.
    ///
    /// # Errors
    /// When the request does not parse, its signature fails, or its key is of a weak kind.
    pub fn sign_agent(
        &self,
        csr: &[u8],
        agent: &AgentId,
        serial: [u8; 16],
        now: Timestamp,
    ) -> Result<Signed, CsrError> {
        // Positive and free of leading zeros, so that its text has one form.
        let mut serial = serial;
        if let Some(first) = serial.first_mut() {
            *first = (*first & 0x7f) | 0x40;
        }
        self.sign(csr, agent, serial, now, now.plus_seconds(self.life_s).whole_second())
    }

    /// Signs the certificate of this serial again: its answer was lost.
    ///
    /// # Errors
    /// As [`Ca::sign_agent`].
    pub fn sign_again(
        &self,
        csr: &[u8],
        agent: &AgentId,
        instance: &Instance,
        now: Timestamp,
    ) -> Result<Signed, CsrError> {
        let serial = instance.serials.last().and_then(|s| hex::decode(s).ok());
        let serial = serial.and_then(|s| <[u8; 16]>::try_from(s).ok());
        let serial =
            serial.ok_or_else(|| CsrError("the serial is not one of this authority".into()))?;
        self.sign(csr, agent, serial, now, instance.not_after)
    }

    fn sign(
        &self,
        csr: &[u8],
        agent: &AgentId,
        serial: [u8; 16],
        now: Timestamp,
        not_after: Timestamp,
    ) -> Result<Signed, CsrError> {
        let refuse = |what: &str| CsrError(what.to_owned());
        if csr.len() > 8192 {
            return Err(refuse("the certificate request is too large"));
        }
        let csr =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
                .map_err(|_| {
                    refuse("the certificate request does not parse, or its signature is wrong")
                })?;
        let spki = rcgen::PublicKeyData::subject_public_key_info(&csr.public_key);
        let uri = format!("spiffe://{}/agent/{agent}", self.trust_domain);
        let life_s = not_after.seconds().saturating_sub(now.seconds());
        let mut params =
            leaf_params(&uri, agent.as_str(), now, life_s).map_err(|e| CsrError(e.to_string()))?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let cert =
            params.signed_by(&csr.public_key, &self.issuer).map_err(|e| CsrError(e.to_string()))?;
        Ok(Signed {
            chain: vec![cert.der().clone()],
            serial: hex::encode(serial),
            key: Digest::of("spki", &spki),
            not_after,
        })
    }

    /// A fresh key and certificate for the broker's own listener.
    ///
    /// # Errors
    /// When signing fails.
    pub fn server(
        &self,
        now: Timestamp,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), StartError> {
        let wrong =
            |e: rcgen::Error| StartError::new(format!("cannot sign the broker's certificate: {e}"));
        let key = KeyPair::generate().map_err(wrong)?;
        let uri = format!("spiffe://{}/broker", self.trust_domain);
        let mut params = leaf_params(&uri, "broker", now, SERVER_S).map_err(wrong)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let cert = params.signed_by(&key, &self.issuer).map_err(wrong)?;
        let key = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|e| StartError::new(e.to_owned()))?;
        Ok((vec![cert.der().clone()], key))
    }
}

/// The text of one certificate of a bundle.
fn pem_of(bundle: &str, wanted: &CertificateDer<'_>) -> Option<String> {
    const END: &str = "-----END CERTIFICATE-----";
    bundle.split_inclusive(END).find_map(|part| {
        let der = CertificateDer::from_pem_slice(part.as_bytes()).ok()?;
        (der == *wanted).then(|| format!("{}\n", part.trim_start()))
    })
}

/// The trust domain that the authority's certificates name.
///
/// # Errors
/// When the bundle is missing or names none.
pub fn trust_domain_of(keys: &KeyDir) -> Result<String, StartError> {
    use x509_parser::prelude::{FromDer, GeneralName};
    let pem = keys.read("ca.pem")?;
    let unnamed = || StartError::new("`ca.pem` names no trust domain; restore it from its backup");
    let der =
        CertificateDer::from_pem_slice(pem.expose_secret().as_bytes()).map_err(|_| unnamed())?;
    let (_, cert) =
        x509_parser::certificate::X509Certificate::from_der(&der).map_err(|_| unnamed())?;
    let names = cert.subject_alternative_name().ok().flatten().ok_or_else(unnamed)?;
    names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix("spiffe://").map(str::to_owned),
            _ => None,
        })
        .ok_or_else(unnamed)
}

fn spki_of(cert: &CertificateDer<'_>) -> Option<Vec<u8>> {
    use x509_parser::prelude::FromDer;
    let (_, cert) = x509_parser::certificate::X509Certificate::from_der(cert).ok()?;
    Some(cert.public_key().raw.to_vec())
}

fn authority(trust_domain: &str, now: Timestamp) -> Result<(String, String), StartError> {
    let wrong =
        |e: rcgen::Error| StartError::new(format!("cannot make the certificate authority: {e}"));
    let key = KeyPair::generate().map_err(wrong)?;
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    // Two authorities never share a name, so that a verifier picks the right one.
    let tag = Digest::of("ca", &rcgen::PublicKeyData::subject_public_key_info(&key)).hex();
    name.push(
        DnType::CommonName,
        format!("Grantwright {trust_domain} {}", tag.get(..16).unwrap_or_default()),
    );
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    span(&mut params, now, AUTHORITY_S);
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}")).map_err(wrong)?];
    let cert = params.self_signed(&key).map_err(wrong)?;
    Ok((cert.pem(), key.serialize_pem()))
}

fn uri(text: &str) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(text.try_into()?))
}

fn leaf_params(
    id: &str,
    name: &str,
    now: Timestamp,
    life_s: i64,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.subject_alt_names = vec![uri(id)?];
    span(&mut params, now, life_s);
    Ok(params)
}

fn span(params: &mut CertificateParams, now: Timestamp, life_s: i64) {
    let at = |s: i64| {
        time::OffsetDateTime::from_unix_timestamp(s).unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
    };
    params.not_before = at(now.seconds() - BACKDATE_S);
    params.not_after = at(now.seconds() + life_s);
}
