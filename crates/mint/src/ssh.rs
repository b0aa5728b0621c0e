//! The built-in issuer of OpenSSH user certificates (OpenSSH's PROTOCOL.certkeys). No I/O.
//!
//! ```toml
//! [params]
//! public_key = { type = "public-key", format = "ssh" }
//! account = { type = "choice", values = ["deploy", "backup"] }
//!
//! [template]
//! public_key = "public_key"                    # the parameter that holds it
//! principals = ["${account}"]
//! force_command = "/usr/local/bin/rotate-logs" # optional
//! source_address = ["10.0.0.0/8"]              # optional, CIDR
//! extensions = ["permit-pty"]                  # optional; absent: none
//! ```
//!
//! The private key never reaches the broker: who asks gives the public one. The serial number is a
//! function of the lease. What ended early is in the key revocation list (PROTOCOL.krl).

mod certificate;
mod krl;
mod packet;
mod template;

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use grantwright_credential::{Credential, Kind};
use grantwright_domain::request::Lease;
use grantwright_domain::{Grant, LeaseId, Timestamp};

use crate::signing::lease_bytes;
use crate::{
    Backend, BoxFuture, Declaration, Document, Ended, EndedLease, MintError, Minted, Minter,
    Publisher, SetupError, SignInput, Signer,
};
pub(crate) use certificate::Certificate;
use packet::Packet;
pub use packet::SshPublicKey;
pub(crate) use template::{Asked, faults_of};

/// Certificates begin this much earlier, for servers whose clocks run behind.
const BACKDATE_S: i64 = 60;

/// What the built-in issuer can do.
pub const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "ssh",
        credential: Kind::Ssh,
        ttl_floor_s: 1,
        ttl_ceiling_s: 43_200,
        revocable: Some(
            "its serial number enters the key revocation list; a server that reads the list \
             refuses it from its next read on",
        ),
        measured: "yes: the broker itself signs the list, from the log; that a server has read it is not seen",
        renewable: false,
        narrowing: "principals, one forced command and source addresses, with typed parameters in \
                    their slots; no extension that the template does not name",
        stamps: &["the key id: agent, request, approvers, which `sshd` logs"],
    },
    faults: template::faults,
    preview: |scope, params| Ok(Asked::compile(scope, params)?.preview()),
};

/// The issuer: its key, and where its documents are.
pub struct SshIssuer {
    key: Ed25519KeyPair,
    public: SshPublicKey,
    /// Where `ca.pub` and `krl` are served.
    url: String,
}

impl SshIssuer {
    /// `key` is an Ed25519 private key in PKCS#8 (DER); `url` is where the broker serves this issuer's
    /// documents, without a last `/`.
    ///
    /// # Errors
    /// The key is of another kind.
    pub fn new(key: &[u8], url: impl Into<String>) -> Result<Self, SetupError> {
        let key = Ed25519KeyPair::from_pkcs8(key)
            .map_err(|_| SetupError("ssh: the key is not Ed25519 in PKCS#8"))?;
        let public = SshPublicKey::ed25519(key.public_key().as_ref());
        Ok(Self { key, public, url: url.into() })
    }

    /// The line for `TrustedUserCAKeys`.
    #[must_use]
    pub fn ca_line(&self) -> String {
        format!("{} {}\n", self.public.algorithm(), STANDARD.encode(self.public.blob()))
    }

    fn certificate(&self, input: &SignInput<'_>, asked: &Asked) -> Option<Vec<u8>> {
        let serial = serial(input.lease);
        let mut body = Packet::default();
        body.text(asked.key.certificate_algorithm());
        body.string(&lease_bytes("ssh-nonce", input.lease));
        body.raw(asked.key.fields());
        body.u64(serial);
        body.u32(1); // SSH_CERT_TYPE_USER
        body.text(&key_id(input));
        let mut principals = Packet::default();
        asked.principals.iter().for_each(|p| principals.text(p));
        body.string(principals.bytes());
        let second = |at: Timestamp| at.seconds().max(0).unsigned_abs();
        body.u64(second(input.issued_at.plus_seconds(-BACKDATE_S)));
        body.u64(second(input.ends()));
        // Options stand in the order of their names, each once.
        let mut critical = Packet::default();
        if let Some(command) = &asked.force_command {
            critical.option("force-command", command);
        }
        if !asked.source_address.is_empty() {
            critical.option("source-address", &asked.source_address.join(","));
        }
        body.string(critical.bytes());
        let mut extensions = Packet::default();
        for name in &asked.extensions {
            extensions.text(name);
            extensions.string(&[]);
        }
        body.string(extensions.bytes());
        body.string(&[]);
        body.string(self.public.blob());
        let signature = self.key.try_sign(body.bytes()).ok()?;
        let mut signed = Packet::default();
        signed.text("ssh-ed25519");
        signed.string(signature.as_ref());
        body.string(signed.bytes());
        Some(body.into_bytes())
    }
}

/// What `sshd` logs of who came in: the agent, the request, and who approved.
pub(crate) fn key_id(input: &SignInput<'_>) -> String {
    let mut id = format!("agent={} request={}", input.agent, input.request);
    if !input.approvers.is_empty() {
        id.push_str(&format!(" approvers={}", input.approvers.join(",")));
    }
    id
}

/// The serial number of a lease's certificate; 0 means none to OpenSSH.
fn serial(lease: &str) -> u64 {
    let bytes = lease_bytes("ssh-serial", lease);
    bytes.iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b)).max(1)
}

/// `SHA256:…` of a key, as `ssh-keygen -l` shows it.
pub(crate) fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(digest(&SHA256, blob)))
}

impl Signer for SshIssuer {
    fn sign(&self, input: &SignInput<'_>) -> Result<Minted, MintError> {
        BACKEND.declaration.admits_ttl(input.ttl_s)?;
        let asked = Asked::compile(input.scope, input.params)?;
        let certificate = self.certificate(input, &asked).ok_or_else(|| {
            MintError::refused(
                "not_signed",
                "the certificate could not be signed",
                "the key failed",
            )
        })?;
        let line =
            format!("{} {}", asked.key.certificate_algorithm(), STANDARD.encode(&certificate));
        let facts = input.facts_with([
            ("ca", fingerprint(self.public.blob())),
            ("key", fingerprint(asked.key.blob())),
            ("serial", serial(input.lease).to_string()),
        ]);
        let credential = Credential::ssh(&line);
        Ok(Minted { credential, expires_at: input.ends(), revocable: true, facts })
    }
}

impl Publisher for SshIssuer {
    fn document(
        &self,
        name: &str,
        ended: &BTreeMap<LeaseId, EndedLease>,
        now: Timestamp,
    ) -> Result<Option<Document>, MintError> {
        Ok(match name {
            "ca.pub" => {
                Some(Document { content_type: "text/plain", bytes: self.ca_line().into_bytes() })
            }
            "krl" => Some(Document {
                content_type: "application/octet-stream",
                bytes: krl::list(self.public.blob(), ended.keys().map(|l| serial(l.as_str())), now),
            }),
            _ => None,
        })
    }
}

impl Minter for SshIssuer {
    fn backend(&self) -> Backend {
        BACKEND
    }

    fn mint(&self, grant: Grant, now: Timestamp) -> BoxFuture<'_, Result<Minted, MintError>> {
        Box::pin(std::future::ready(self.sign(&SignInput::granted(&grant, now))))
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Ended> {
        let effect = format!(
            "serial number {} is in the key revocation list at {}/krl: a server that reads it refuses \
             the certificate; open sessions last",
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
