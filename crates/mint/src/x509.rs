//! The built-in issuer of X.509 certificates (RFC 5280). No I/O.
//!
//! ```toml
//! [params]
//! csr = { type = "public-key", format = "csr" }
//! service = { type = "string", pattern = "[a-z][a-z0-9-]{0,31}" }
//!
//! [template]
//! request = "csr"                              # the parameter that holds the request
//! dns = ["${service}.internal.example"]        # optional
//! uri = ["spiffe://example.org/svc/${service}"] # optional
//! usage = ["client"]                           # optional; client, server
//! ```
//!
//! Of the request (PKCS#10) its public key is taken and its signature checked, and nothing else: names
//! come from typed parameters alone. The private key never reaches the broker. The serial number is a
//! function of the lease. What ended early is in the revocation list.

mod template;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use grantwright_credential::{Credential, Kind};
use grantwright_domain::request::Lease;
use grantwright_domain::{Grant, LeaseId, Params, Scope, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};
use serde_json::Value;
use time::OffsetDateTime;

use crate::signing::lease_bytes;
use crate::{
    Backend, BoxFuture, Declaration, Document, Ended, EndedLease, MintError, Minted, Minter,
    Publisher, SetupError, SignInput, Signer,
};
use template::{Asked, Good};
pub(crate) use template::{Names, Usage, faults_of, key_id, requested};

/// Certificates begin this much earlier, for servers whose clocks run behind.
const BACKDATE_S: i64 = 60;
/// Life of an authority that is made here.
const AUTHORITY_S: i64 = 10 * 365 * 86_400;
/// How long a revocation list counts: who cannot get a newer one trusts nobody after.
const LIST_S: i64 = 3600;

/// What the built-in issuer can do.
pub const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "x509",
        credential: Kind::X509,
        ttl_floor_s: 1,
        ttl_ceiling_s: 43_200,
        revocable: Some(
            "its serial number enters the certificate revocation list; a server that reads the \
             list refuses it from its next read on",
        ),
        measured: "yes: the broker itself signs the list, from the log; that a server has read it is not seen",
        renewable: false,
        narrowing: "names (DNS, URI) with typed parameters in their slots; client or server use",
        stamps: &["subject: `CN` the agent, `serialNumber` the request"],
    },
    faults: template::faults,
    preview: |scope, params| Ok(Asked::compile(scope, params)?.preview()),
};

/// The issuer: its key and certificate, and where its documents are.
pub struct X509Issuer {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    /// Where `ca.pem` and `crl` are served.
    url: String,
    good: Good,
}

impl X509Issuer {
    /// A new authority: its private key and its certificate, both PEM. P-256, ten years, signs leaves
    /// only.
    ///
    /// # Errors
    /// The system has no randomness, or the name cannot be encoded.
    pub fn authority(name: &str, now: Timestamp) -> Result<(String, String), SetupError> {
        let failed = |_| SetupError("x509: the authority could not be made");
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = moment(now.plus_seconds(-BACKDATE_S));
        params.not_after = moment(now.plus_seconds(AUTHORITY_S));
        let cert = params.self_signed(&key).map_err(failed)?;
        Ok((key.serialize_pem(), cert.pem()))
    }

    /// `key` and `ca` are PEM; `url` is where the broker serves this issuer's documents, without a last
    /// `/`.
    ///
    /// # Errors
    /// They do not parse, or are not of each other.
    pub fn new(key: &str, ca: &str, url: impl Into<String>) -> Result<Self, SetupError> {
        let key = KeyPair::from_pem(key).map_err(|_| SetupError("x509: the key does not parse"))?;
        let own = rcgen::PublicKeyData::subject_public_key_info(&key);
        let wrong = SetupError("x509: the certificate does not parse, or is not of the key");
        let (_, pem) =
            x509_parser::pem::parse_x509_pem(ca.as_bytes()).map_err(|_| wrong.clone())?;
        let cert = pem.parse_x509().map_err(|_| wrong.clone())?;
        if cert.public_key().raw != own {
            return Err(wrong);
        }
        let issuer = Issuer::from_ca_cert_pem(ca, key).map_err(|_| wrong)?;
        Ok(Self { issuer, ca_pem: ca.to_owned(), url: url.into(), good: Good::default() })
    }

    fn certificate(&self, input: &SignInput<'_>, asked: &Asked) -> Result<String, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, input.agent);
        // X.520 serialNumber: what the log calls it by.
        let request = DnType::CustomDnType(vec![2, 5, 4, 5]);
        params.distinguished_name.push(request, input.request);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = asked.usages();
        params.subject_alt_names = asked.names()?;
        params.serial_number = Some(serial(input.lease));
        params.use_authority_key_identifier_extension = true;
        let list = CrlDistributionPoint { uris: vec![format!("{}/crl", self.url)] };
        params.crl_distribution_points = vec![list];
        params.not_before = moment(input.issued_at.plus_seconds(-BACKDATE_S));
        params.not_after = moment(input.ends());
        Ok(params.signed_by(&asked.key, &self.issuer)?.pem())
    }

    fn list(
        &self,
        ended: &BTreeMap<LeaseId, EndedLease>,
        now: Timestamp,
    ) -> Result<Vec<u8>, rcgen::Error> {
        let revoked = |(lease, ended): (&LeaseId, &EndedLease)| RevokedCertParams {
            serial_number: serial(lease.as_str()),
            revocation_time: moment(ended.at),
            reason_code: None,
            invalidity_date: None,
        };
        let number = now.millis().max(0).unsigned_abs().to_be_bytes();
        let params = CertificateRevocationListParams {
            this_update: moment(now),
            next_update: moment(now.plus_seconds(LIST_S)),
            // The time: a later list has a higher one.
            crl_number: SerialNumber::from_slice(&number),
            issuing_distribution_point: None,
            revoked_certs: ended.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.der().to_vec())
    }
}

/// Positive, 128 bits, without a leading zero.
fn serial(lease: &str) -> SerialNumber {
    let mut bytes = lease_bytes("x509-serial", lease);
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    SerialNumber::from_slice(bytes.get(..16).unwrap_or_default())
}

fn moment(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.seconds()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn unsigned(e: &rcgen::Error) -> MintError {
    MintError::refused("not_signed", "the certificate could not be signed", e.to_string())
}

impl Signer for X509Issuer {
    fn sign(&self, input: &SignInput<'_>) -> Result<Minted, MintError> {
        BACKEND.declaration.admits_ttl(input.ttl_s)?;
        let asked = self.good.compile(input.scope, input.params)?;
        let certificate = self.certificate(input, &asked).map_err(|e| unsigned(&e))?;
        let facts = input
            .facts_with([("key", asked.key_id()), ("serial", serial(input.lease).to_string())]);
        let credential = Credential::x509(&certificate, &self.ca_pem);
        Ok(Minted { credential, expires_at: input.ends(), revocable: true, facts })
    }
}

impl Publisher for X509Issuer {
    fn document(
        &self,
        name: &str,
        ended: &BTreeMap<LeaseId, EndedLease>,
        now: Timestamp,
    ) -> Result<Option<Document>, MintError> {
        let list = || self.list(ended, now).map_err(|e| unsigned(&e));
        Ok(match name {
            "ca.pem" => Some(Document {
                content_type: "application/pem-certificate-chain",
                bytes: self.ca_pem.clone().into_bytes(),
            }),
            "crl" => Some(Document { content_type: "application/pkix-crl", bytes: list()? }),
            "crl.pem" => {
                let text = STANDARD.encode(list()?);
                let lines: Vec<&str> = text
                    .as_bytes()
                    .chunks(64)
                    .map(|line| std::str::from_utf8(line).unwrap_or_default())
                    .collect();
                let pem = format!(
                    "-----BEGIN X509 CRL-----\n{}\n-----END X509 CRL-----\n",
                    lines.join("\n")
                );
                Some(Document { content_type: "application/x-pem-file", bytes: pem.into_bytes() })
            }
            _ => None,
        })
    }
}

impl Minter for X509Issuer {
    fn backend(&self) -> Backend {
        BACKEND
    }

    fn preview(&self, scope: &Scope, params: &Params) -> Result<Value, MintError> {
        Ok(self.good.compile(scope, params)?.preview())
    }

    fn mint(&self, grant: Grant, now: Timestamp) -> BoxFuture<'_, Result<Minted, MintError>> {
        Box::pin(std::future::ready(self.sign(&SignInput::granted(&grant, now))))
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Ended> {
        let effect = format!(
            "serial number {} is in the revocation list at {}/crl: a server that reads it refuses the \
             certificate; open connections last",
            serial(lease.id.as_str()),
            self.url
        );
        Box::pin(std::future::ready(Ended { ended: true, effect }))
    }

    fn signer(&self) -> Option<&dyn Signer> {
        Some(self)
    }

    fn publisher(&self) -> Option<&dyn Publisher> {
        Some(self)
    }
}
