use thiserror::Error;

/// Why a connection, a configuration or an identity was refused. For operators: callers of the
/// broker are told through [`crate::status::Refusal`] only.
#[derive(Debug, Error)]
pub enum WireError {
    /// Not an address like `https://127.0.0.1:8443`, or no address at all.
    #[error("broker address `{0}` is not of the form https://host:port")]
    Address(String),
    /// The peer did not agree on HTTP/2.
    #[error("peer does not speak HTTP/2 (ALPN `h2`)")]
    Alpn,
    /// The certificate cannot be read as X.509.
    #[error("certificate cannot be read")]
    Certificate,
    /// The certificate is not that of an agent's instance: what is wrong with it.
    #[error("certificate is not an agent's: {0}")]
    Identity(&'static str),
    /// The TCP connection failed.
    #[error("cannot connect")]
    Io(#[from] std::io::Error),
    /// A list of trusted roots is empty or holds something that is no certificate.
    #[error("trust bundle is empty or holds something that is no CA certificate")]
    Roots,
    /// Not a SPIFFE ID: what is wrong with it.
    #[error("not a SPIFFE ID: {0}")]
    SpiffeId(&'static str),
    /// Connecting or the handshake took too long.
    #[error("timed out")]
    Timeout,
    /// rustls refused a certificate, a key or a configuration.
    #[error("TLS refused: {0}")]
    Tls(#[from] rustls::Error),
}
