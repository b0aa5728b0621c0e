//! Who the peer is: the SPIFFE ID, the serial and the expiry of the certificate that this
//! connection verified, and nothing that a caller says.

use std::fmt;
use std::sync::Arc;

use tonic::Status;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::accept::PeerInfo;
use crate::error::WireError;
use crate::status::Refusal;

/// Longest SPIFFE ID in bytes (SPIFFE-ID §2.3).
const MAX_ID: usize = 2048;
/// Longest trust domain in bytes (SPIFFE-ID §2.1).
const MAX_TRUST_DOMAIN: usize = 255;

/// A trust domain's name: 1–255 of `[a-z0-9.-_]`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Reads a name, without `spiffe://`.
    ///
    /// # Errors
    /// [`WireError::SpiffeId`] if it has other characters or another length.
    pub fn parse(name: &str) -> Result<Self, WireError> {
        if name.is_empty() {
            return Err(WireError::SpiffeId("trust domain is empty"));
        }
        if name.len() > MAX_TRUST_DOMAIN {
            return Err(WireError::SpiffeId("trust domain is longer than 255 bytes"));
        }
        if !name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')) {
            return Err(WireError::SpiffeId("trust domain has a character outside [a-z0-9.-_]"));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The broker's own ID, `spiffe://<trust-domain>/broker`.
    pub fn broker(&self) -> SpiffeId {
        self.id("/broker")
    }

    /// An agent's ID, `spiffe://<trust-domain>/agent/<name>`.
    ///
    /// # Errors
    /// [`WireError::Identity`] unless the name is 2–64 of `[a-z0-9-]`.
    pub fn agent(&self, name: &str) -> Result<SpiffeId, WireError> {
        if !is_agent_name(name) {
            return Err(WireError::Identity("agent name is not 2 to 64 of [a-z0-9-]"));
        }
        Ok(self.id(&format!("/agent/{name}")))
    }

    fn id(&self, path: &str) -> SpiffeId {
        SpiffeId { text: format!("{SCHEME}{}{path}", self.0), path_at: SCHEME.len() + self.0.len() }
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const SCHEME: &str = "spiffe://";

/// A SPIFFE ID with a path, compared as bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    text: String,
    path_at: usize,
}

impl SpiffeId {
    /// Reads `spiffe://trust-domain/path` (SPIFFE-ID §2). Nothing is normalised: an upper-case
    /// letter in scheme or trust domain, a port, a user, a query, a fragment, a percent-encoding,
    /// an empty segment, `.`, `..` and a slash at the end are refused, and so is an empty path,
    /// which names a trust domain and no workload.
    ///
    /// # Errors
    /// [`WireError::SpiffeId`] with what is wrong.
    pub fn parse(text: &str) -> Result<Self, WireError> {
        if text.len() > MAX_ID {
            return Err(WireError::SpiffeId("longer than 2048 bytes"));
        }
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or(WireError::SpiffeId("does not begin with spiffe://"))?;
        let (domain, path) = rest.split_once('/').ok_or(WireError::SpiffeId("has no path"))?;
        let domain = TrustDomain::parse(domain)?;
        for segment in path.split('/') {
            if segment.is_empty() {
                return Err(WireError::SpiffeId("has an empty path segment"));
            }
            if segment == "." || segment == ".." {
                return Err(WireError::SpiffeId("has a relative path segment"));
            }
            if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)) {
                return Err(WireError::SpiffeId("path has a character outside [A-Za-z0-9.-_]"));
            }
        }
        Ok(Self { text: text.to_owned(), path_at: SCHEME.len() + domain.as_str().len() })
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        self.text.get(SCHEME.len()..self.path_at).unwrap_or_default()
    }

    /// The path, with its first slash.
    pub fn path(&self) -> &str {
        self.text.get(self.path_at..).unwrap_or_default()
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One instance of an agent, as its verified certificate names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// `spiffe://<trust-domain>/agent/<name>`.
    pub spiffe_id: String,
    /// The agent's name, 2–64 of `[a-z0-9-]`.
    pub agent: String,
    /// The certificate's serial number, lower-case hexadecimal of its bytes without leading zeros.
    pub serial: String,
    /// The certificate's end, milliseconds since the Unix epoch. TLS checks it once; a connection
    /// may live longer, so whoever serves a call compares it with the time of the call.
    pub not_after_ms: i64,
}

impl PeerIdentity {
    /// Reads the identity from a leaf certificate. It verifies no signature: give it only the leaf
    /// of a connection whose chain TLS has verified, or a certificate of one's own making.
    ///
    /// # Errors
    /// [`WireError::Certificate`], [`WireError::SpiffeId`] or [`WireError::Identity`] unless it is
    /// a X.509-SVID (SPIFFE X509-SVID §2–4) of this trust domain with the path `/agent/<name>`.
    pub fn from_leaf(der: &[u8], trust_domain: &TrustDomain) -> Result<Self, WireError> {
        let leaf = Leaf::read(der)?;
        if leaf.id.trust_domain() != trust_domain.as_str() {
            return Err(WireError::Identity("it is of another trust domain"));
        }
        let agent = leaf
            .id
            .path()
            .strip_prefix("/agent/")
            .filter(|name| is_agent_name(name))
            .ok_or(WireError::Identity("its path is not /agent/<name>"))?
            .to_owned();
        Ok(Self {
            spiffe_id: leaf.id.text,
            agent,
            serial: leaf.serial,
            not_after_ms: leaf.not_after_ms,
        })
    }
}

/// The caller of an RPC: the identity of the connection that it came by.
///
/// # Errors
/// A 401 `no_certificate` if the connection has none.
pub fn peer<T>(request: &tonic::Request<T>) -> Result<Arc<PeerIdentity>, Status> {
    request.extensions().get::<PeerInfo>().and_then(|info| info.identity.clone()).ok_or_else(|| {
        Refusal::new(401, "no_certificate", "This call needs a client certificate.")
            .next("Enrol this sidecar with a join token first.")
            .into()
    })
}

/// What a leaf says of itself, once its shape is that of an X.509-SVID.
pub(crate) struct Leaf {
    pub(crate) id: SpiffeId,
    serial: String,
    not_after_ms: i64,
}

impl Leaf {
    pub(crate) fn read(der: &[u8]) -> Result<Self, WireError> {
        let (rest, leaf) = X509Certificate::from_der(der).map_err(|_| WireError::Certificate)?;
        if !rest.is_empty() {
            return Err(WireError::Certificate);
        }
        // Each of these also fails where the extension is there twice.
        let constraints = leaf.basic_constraints().map_err(|_| WireError::Certificate)?;
        if constraints.is_some_and(|it| it.value.ca) {
            return Err(WireError::Identity("it is a CA"));
        }
        let usage = leaf.key_usage().map_err(|_| WireError::Certificate)?;
        let usage = usage.ok_or(WireError::Identity("it has no key usage"))?.value;
        if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
            return Err(WireError::Identity("its key usage is not that of a leaf"));
        }
        let names = leaf.subject_alternative_name().map_err(|_| WireError::Certificate)?;
        let mut uris =
            names.iter().flat_map(|it| &it.value.general_names).filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            });
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err(WireError::Identity("it has not exactly one URI name"));
        };
        Ok(Self {
            id: SpiffeId::parse(uri)?,
            serial: hex_without_leading_zeros(leaf.raw_serial()),
            not_after_ms: leaf.validity().not_after.timestamp().saturating_mul(1000),
        })
    }
}

fn is_agent_name(name: &str) -> bool {
    (2..=64).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn hex_without_leading_zeros(bytes: &[u8]) -> String {
    bytes.iter().skip_while(|byte| **byte == 0).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
