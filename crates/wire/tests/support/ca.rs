//! A certificate authority for one test.

use std::sync::Arc;

use grantwright_wire::tls::{client_config, server_config};
use grantwright_wire::{TlsClient, TlsServer, TrustDomain};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub const BROKER: &str = "spiffe://td/broker";
pub const AGENT: &str = "spiffe://td/agent/demo-agent";

pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

pub fn td() -> TrustDomain {
    TrustDomain::parse("td").unwrap()
}

pub struct Ca {
    root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { root, issuer: Issuer::new(params, key) }
    }

    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        vec![self.root.clone()]
    }

    pub fn leaf(&self, spiffe_id: &str) -> Identity {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::URI(spiffe_id.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(vec![0x2a].into());
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        (vec![cert.der().clone()], key)
    }

    pub fn server(&self, spiffe_id: &str) -> Arc<ServerConfig> {
        let (chain, key) = self.leaf(spiffe_id);
        server_config(chain, key, self.roots()).unwrap()
    }

    pub fn client(&self, identity: Option<Identity>) -> Arc<ClientConfig> {
        client_config(self.roots(), &td(), identity).unwrap()
    }

    pub fn tls_server(&self) -> TlsServer {
        TlsServer::new(self.server(BROKER))
    }

    pub fn tls_client(&self, identity: Option<Identity>) -> TlsClient {
        TlsClient::new(self.client(identity))
    }
}
