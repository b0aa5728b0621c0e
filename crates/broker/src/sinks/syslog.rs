//! RFC 5424 messages over TLS, framed by octet counts (RFC 5425).
//!
//! Syslog acknowledges nothing. So each batch has a connection of its own, which we end first: a receiver
//! that then ends its side has read everything that came before.

use std::sync::Arc;

use grantwright_audit::export::framed;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Line;
use super::config::SyslogTarget;
use crate::keys::read_secret;

/// See the module.
pub(super) struct SyslogSink {
    address: String,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl SyslogSink {
    pub(super) fn new(t: &SyslogTarget) -> Result<Self, String> {
        let host = t.address.rsplit_once(':').map_or("", |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = t.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name).map_err(|e| format!("syslog.server_name: {e}"))?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in certificates(&t.ca_file)? {
            roots.add(certificate).map_err(|e| format!("syslog.ca_file: {e}"))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("syslog: {e}"))?
            .with_root_certificates(roots);
        let config = match (&t.certificate_file, &t.key_file) {
            (Some(certificate), Some(key)) => {
                let pem = read_secret(key).map_err(|e| e.to_string())?;
                let key = PrivateKeyDer::from_pem_slice(pem.expose_secret().as_bytes());
                let key = key.map_err(|e| format!("syslog.key_file: {e}"))?;
                let chain = certificates(certificate)?;
                let made = builder.with_client_auth_cert(chain, key);
                made.map_err(|e| format!("syslog.certificate_file: {e}"))?
            }
            _ => builder.with_no_client_auth(),
        };
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Self { address: t.address.clone(), name, tls })
    }

    /// Sends the lines; done when the receiver has read them all.
    pub(super) async fn deliver(&self, lines: &[Line]) -> Result<(), String> {
        let fault = |what: &str| {
            let words = format!("{}: {what}: ", self.address);
            move |e: std::io::Error| format!("{words}{e}")
        };
        let tcp = TcpStream::connect(&self.address).await.map_err(fault("cannot connect"))?;
        let connected = self.tls.connect(self.name.clone(), tcp).await;
        let mut tls = connected.map_err(fault("no TLS"))?;
        for line in lines {
            tls.write_all(&framed(&line.bytes)).await.map_err(fault("broke off"))?;
        }
        tls.flush().await.map_err(fault("broke off"))?;
        tls.shutdown().await.map_err(fault("broke off"))?;
        let mut nothing = [0; 64];
        loop {
            match tls.read(&mut nothing).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // Receivers end the connection without TLS's own good-bye.
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(e) => return Err(fault("broke off before it had read all")(e)),
            }
        }
    }
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let fault = |e: &dyn std::fmt::Display| format!("`{}`: {e}", path.display());
    let pem = std::fs::read(path).map_err(|e| fault(&e))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|e| fault(&e))?;
    if found.is_empty() {
        return Err(fault(&"holds no certificate"));
    }
    Ok(found)
}
