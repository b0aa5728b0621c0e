//! The sidecar's way to the broker: one lazily connected HTTP/2 channel over our own TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::error::WireError;
use crate::tls::{H2, TlsClient};

/// Pings while the connection is open, and the time in which one must be answered.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Within this time a connection whose other end is gone without a word is given up.
const HALF_OPEN: Duration = Duration::from_secs(30);
const _: () = assert!(2 * KEEP_ALIVE.as_secs() <= HALF_OPEN.as_secs(), "found out too late");
/// TCP and TLS to one address.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// A channel to the broker at any of `addresses`, each like `https://127.0.0.1:8443`.
///
/// It connects at the first call and again after a loss; addresses are tried in turn, beginning with
/// the one that last worked. Each connection uses what `tls` holds at that moment: to be seen with a
/// renewed certificate, make a new channel and drop the old one. Who answers is decided by the
/// certificate alone, never by the address.
///
/// # Errors
/// [`WireError::Address`] if there is none, or one has another form.
pub fn channel<A: AsRef<str>>(addresses: &[A], tls: TlsClient) -> Result<Channel, WireError> {
    let targets =
        addresses.iter().map(|it| Target::parse(it.as_ref())).collect::<Result<Vec<_>, _>>()?;
    let origin = targets.first().ok_or_else(|| WireError::Address(String::new()))?.uri.clone();
    let endpoint = Endpoint::from(origin)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let route = Arc::new(Route { targets, tls, last: AtomicUsize::new(0) });
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let route = Arc::clone(&route);
        async move { route.connect().await.map(TokioIo::new) }
    })))
}

struct Route {
    targets: Vec<Target>,
    tls: TlsClient,
    last: AtomicUsize,
}

impl Route {
    async fn connect(&self) -> Result<TlsStream<TcpStream>, WireError> {
        let first = self.last.load(Ordering::Relaxed);
        let mut failure = WireError::Timeout;
        let in_turn = self.targets.iter().enumerate().cycle().skip(first);
        for (n, target) in in_turn.take(self.targets.len()) {
            match tokio::time::timeout(CONNECT_TIME, target.connect(&self.tls)).await {
                Ok(Ok(stream)) => {
                    self.last.store(n, Ordering::Relaxed);
                    return Ok(stream);
                }
                Ok(Err(error)) => failure = error,
                Err(_) => failure = WireError::Timeout,
            }
            tracing::debug!(broker = %target.uri, error = %failure, "cannot connect");
        }
        Err(failure)
    }
}

struct Target {
    uri: Uri,
    host: String,
    port: u16,
    /// Wanted by rustls, not sent and not looked at.
    name: ServerName<'static>,
}

impl Target {
    fn parse(address: &str) -> Result<Self, WireError> {
        let wrong = || WireError::Address(address.to_owned());
        let uri: Uri = address.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let plain = uri.scheme_str() == Some("https")
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none()
            && !authority.as_str().contains('@');
        if !plain {
            return Err(wrong());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().ok_or_else(wrong)?;
        let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
        Ok(Self { host, port, name, uri })
    }

    async fn connect(&self, tls: &TlsClient) -> Result<TlsStream<TcpStream>, WireError> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        tcp.set_nodelay(true)?;
        let stream = TlsConnector::from(tls.current()).connect(self.name.clone(), tcp).await?;
        if stream.get_ref().1.alpn_protocol() != Some(H2) {
            return Err(WireError::Alpn);
        }
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_https_host_and_port() {
        for good in ["https://127.0.0.1:1", "https://[::1]:1/", "https://broker.example:65535"] {
            assert!(Target::parse(good).is_ok(), "{good}");
        }
        assert_eq!(Target::parse("https://[::1]:1").unwrap().host, "::1");
        for bad in [
            "",
            "127.0.0.1:1",
            "http://127.0.0.1:1",
            "https://127.0.0.1",
            "https://127.0.0.1:99999",
            "https://u@127.0.0.1:1",
            "https://127.0.0.1:1/path",
            "https://127.0.0.1:1?q",
            "unix:/x",
        ] {
            assert!(matches!(Target::parse(bad), Err(WireError::Address(_))), "{bad}");
        }
    }
}
