//! RFC 5424 messages over TLS, framed by octet counts (RFC 5425).
//!
//! Syslog acknowledges nothing. So each batch has a connection of its own, which we end first: a receiver
//! that then ends its side has read everything that came before. One that ends it earlier has not. One
//! that ends it without TLS's good-bye may have been cut off: what it got last goes to it once more if
//! the delivery after it fails.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use grantwright_audit::export::framed;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
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
    clean_close: bool,
    last: Mutex<Last>,
}

/// The batch that was delivered last, if the receiver did not say good-bye.
#[derive(Default)]
struct Last {
    lines: Vec<Line>,
    /// A delivery after it failed, or was given up: it goes out again, before the next one.
    again: bool,
}

/// How a receiver ended its side.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// With TLS's good-bye: nobody but the receiver can have said it.
    Said,
    /// Without: so do many receivers, and so does whoever cuts a connection.
    Silent,
}

/// An end that was on its way while the last lines were written shows itself in this time.
const SETTLE: Duration = Duration::from_millis(100);

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
        let (address, clean_close) = (t.address.clone(), t.clean_close);
        Ok(Self { address, name, tls, clean_close, last: Mutex::default() })
    }

    /// Sends the lines; done when the receiver has read them all.
    pub(super) async fn deliver(&self, lines: &[Line]) -> Result<(), String> {
        let before = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let before = if last.again { last.lines.clone() } else { Vec::new() };
            // Until this one is known to have arrived; whoever gives it up changes nothing here.
            last.again = true;
            before
        };
        let end = self.send(before.iter().chain(lines)).await?;
        if end == End::Silent && self.clean_close {
            return Err(format!(
                "{}: it ended the connection without TLS's close_notify, which `clean_close` demands",
                self.address
            ));
        }
        let lines = if end == End::Said { Vec::new() } else { lines.to_vec() };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Last { lines, again: false };
        Ok(())
    }

    async fn send(&self, lines: impl Iterator<Item = &Line>) -> Result<End, String> {
        let fault = |what: &str| {
            let words = format!("{}: {what}: ", self.address);
            move |e: std::io::Error| format!("{words}{e}")
        };
        let tcp = TcpStream::connect(&self.address).await.map_err(fault("cannot connect"))?;
        let connected = self.tls.connect(self.name.clone(), tcp).await;
        let tls = connected.map_err(fault("no TLS"))?;
        let (from, mut to) = tokio::io::split(tls);
        let mut ended = pin!(end_of(from));
        let early = |_| Err(format!("{}: it ended the connection before it had all", self.address));
        let writing = async {
            for line in lines {
                to.write_all(&framed(&line.bytes)).await?;
            }
            to.flush().await
        };
        tokio::select! {
            biased;
            end = &mut ended => return early(end),
            written = writing => written.map_err(fault("broke off"))?,
        }
        if let Ok(end) = tokio::time::timeout(SETTLE, &mut ended).await {
            return early(end);
        }
        to.shutdown().await.map_err(fault("broke off"))?;
        ended.await.map_err(fault("broke off before it had read all"))
    }
}

/// Reads until the receiver ends its side; whatever it says before is of no interest.
async fn end_of(mut from: impl AsyncRead + Unpin) -> std::io::Result<End> {
    let mut nothing = [0; 64];
    loop {
        match from.read(&mut nothing).await {
            Ok(0) => return Ok(End::Said),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(End::Silent),
            Err(e) => return Err(e),
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
