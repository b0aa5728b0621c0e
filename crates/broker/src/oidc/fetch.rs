//! Calls to the identity provider: bounded in time and size, no redirect, no proxy, and https unless
//! the provider is on this very machine.

use std::pin::Pin;
use std::time::Duration;

use openidconnect::url::{Host, Url};
use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};

/// Longest call.
const CALL: Duration = Duration::from_secs(5);
/// Largest answer, in bytes.
const MOST: usize = 256 << 10;

/// Why a call gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The address may not be called.
    #[error("the address is neither https nor on this machine")]
    Address,
    /// No answer, or none in time.
    #[error("no answer in time")]
    Away,
    /// The answer has no end in sight.
    #[error("the answer is too large")]
    TooLarge,
}

/// See the module.
pub struct Fetch {
    http: reqwest::Client,
    local: bool,
}

impl Fetch {
    /// Calls for the provider at `issuer`.
    ///
    /// # Errors
    /// When the address does not parse, may not be called, or TLS cannot be set up.
    pub fn new(issuer: &str) -> Result<Self, String> {
        let url = Url::parse(issuer).map_err(|e| e.to_string())?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CALL)
            .timeout(CALL)
            .build()
            .map_err(|e| format!("no HTTP client: {e}"))?;
        let fetch = Self { http, local: url.scheme() == "http" && is_local(&url) };
        fetch.may_open(&url).map_err(|e| e.to_string())?;
        Ok(fetch)
    }

    /// Whether an address that the provider named may be called, or opened in a browser.
    ///
    /// # Errors
    /// [`FetchError::Address`].
    pub fn may_open(&self, url: &Url) -> Result<(), FetchError> {
        match url.scheme() {
            "https" => Ok(()),
            "http" if self.local && is_local(url) => Ok(()),
            _ => Err(FetchError::Address),
        }
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, FetchError> {
        let (head, body) = request.into_parts();
        let url = Url::parse(&head.uri.to_string()).map_err(|_| FetchError::Address)?;
        self.may_open(&url)?;
        let call = self.http.request(head.method, url).headers(head.headers).body(body);
        let mut answer = call.send().await.map_err(|_| FetchError::Away)?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|_| FetchError::Away)? {
            if body.len() + chunk.len() > MOST {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        let mut response = HttpResponse::new(body);
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        Ok(response)
    }
}

impl<'c> AsyncHttpClient<'c> for Fetch {
    type Error = FetchError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, FetchError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.send(request))
    }
}

pub(crate) fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_this_machine() {
        let far = Fetch::new("https://id.example.org").unwrap();
        let near = Fetch::new("http://127.0.0.1:4000").unwrap();
        for (url, far_may, near_may) in [
            ("https://keys.example.org/jwks", true, true),
            ("http://127.0.0.1:4000/jwks", false, true),
            ("http://localhost/jwks", false, true),
            ("http://[::1]/jwks", false, true),
            ("http://169.254.169.254/latest", false, false),
            ("http://id.example.org/jwks", false, false),
            ("http://localhost.evil.example/", false, false),
            ("file:///etc/passwd", false, false),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(far.may_open(&url).is_ok(), far_may, "{url}");
            assert_eq!(near.may_open(&url).is_ok(), near_may, "{url}");
        }
        assert!(Fetch::new("http://id.example.org").is_err());
        assert!(Fetch::new("id.example.org").is_err());
    }
}
