//! TLS between sidecar and broker: version 1.3 only, HTTP/2 only, no resumption on either side (a
//! resumed session skips the look at certificates), and a provider that is named rather than found.
//! No DNS name is used: both sides are known by the SPIFFE ID in their certificate.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, PeerIncompatible,
    RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::error::WireError;
use crate::identity::{Leaf, SpiffeId, TrustDomain};

/// ALPN name of HTTP/2.
pub(crate) const H2: &[u8] = b"h2";

/// The broker's side. A client certificate may be absent, since enrolment has none to show; one that
/// is shown must chain to `roots`.
///
/// # Errors
/// [`WireError::Roots`] if `roots` is empty or unusable; [`WireError::Tls`] if key and chain do not
/// fit.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Vec<CertificateDer<'static>>,
) -> Result<Arc<ServerConfig>, WireError> {
    let provider = provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(store(roots)?, provider.clone())
        .allow_unauthenticated()
        .clear_root_hint_subjects()
        .build()
        .map_err(|_| WireError::Roots)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![H2.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// The sidecar's side: the server's chain must lead to `roots`, and its one URI name must be
/// `spiffe://<trust-domain>/broker`. Without `identity` it can only enrol.
///
/// # Errors
/// [`WireError::Roots`] if `roots` is empty or unusable; [`WireError::Tls`] if key and chain do not
/// fit.
pub fn client_config(
    roots: Vec<CertificateDer<'static>>,
    trust_domain: &TrustDomain,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<Arc<ClientConfig>, WireError> {
    let mut provider = CryptoProvider::clone(&provider());
    // Messages are small here, so that any suite is fast; this one's code is a tenth of the others',
    // whose AES is unrolled for every processor, and code is most of a sidecar's memory.
    let small = CipherSuite::TLS13_CHACHA20_POLY1305_SHA256;
    provider.cipher_suites.sort_by_key(|it| it.suite() != small);
    let provider = Arc::new(provider);
    let verifier =
        IsBroker { roots: store(roots)?, id: trust_domain.broker(), provider: provider.clone() };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![H2.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// The configuration of a listener, replaced while it runs: when the broker's certificate rotates,
/// or the bundle of client CAs changes. Clones share it. Connections that stand keep what they
/// verified.
#[derive(Clone)]
pub struct TlsServer(Shared<ServerConfig>);

/// The configuration of a client, replaced while it runs: when its certificate is renewed, or the
/// trust bundle changes. Clones share it. Connections that stand keep what they showed.
#[derive(Clone)]
pub struct TlsClient(Shared<ClientConfig>);

impl TlsServer {
    /// Begins with this configuration, from [`server_config`].
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self(Shared::new(config))
    }

    /// What the next connection is met with.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.0.current()
    }

    /// Meets every later connection with `config`.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        self.0.replace(config);
    }
}

impl TlsClient {
    /// Begins with this configuration, from [`client_config`].
    pub fn new(config: Arc<ClientConfig>) -> Self {
        Self(Shared::new(config))
    }

    /// What the next connection is made with.
    pub fn current(&self) -> Arc<ClientConfig> {
        self.0.current()
    }

    /// Makes every later connection with `config`.
    pub fn replace(&self, config: Arc<ClientConfig>) {
        self.0.replace(config);
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsServer")
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsClient")
    }
}

struct Shared<T>(Arc<RwLock<Arc<T>>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

// A poisoned lock holds a whole `Arc` all the same: nothing can panic halfway through its move.
impl<T> Shared<T> {
    fn new(value: Arc<T>) -> Self {
        Self(Arc::new(RwLock::new(value)))
    }

    fn current(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, value: Arc<T>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// An empty list is refused here rather than by whatever reads it later (it never means "any").
fn store(roots: Vec<CertificateDer<'static>>) -> Result<Arc<RootCertStore>, WireError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root).map_err(|_| WireError::Roots)?;
    }
    if store.is_empty() { Err(WireError::Roots) } else { Ok(Arc::new(store)) }
}

/// Accepts the broker of one trust domain, by whatever address it was reached.
struct IsBroker {
    roots: Arc<RootCertStore>,
    id: SpiffeId,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for IsBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IsBroker({})", self.id)
    }
}

impl ServerCertVerifier for IsBroker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        let leaf =
            Leaf::read(end_entity).map_err(|_| CertificateError::ApplicationVerificationFailure)?;
        if leaf.id != self.id {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
