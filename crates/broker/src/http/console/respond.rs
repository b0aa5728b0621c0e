//! How a page leaves: which status, and what its browser may do with it.

use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use grantwright_approval::console::{Frame, page, problem};
use grantwright_wire::Refusal;

use crate::core::Broker;
use crate::http::Refused;
use crate::http::session::SessionPost;

/// Own files only, nothing inline, no frames, forms to ourselves.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// What every page says about itself. `Referrer-Policy` is not `no-referrer`: browsers would then
/// send `Origin: null` with our own forms.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "publickey-credentials-get=(self), publickey-credentials-create=(self), camera=(), \
         geolocation=(), microphone=()",
    ),
];

/// A page with its headers.
pub fn html(status: StatusCode, document: String) -> Response {
    (status, HEADERS, document).into_response()
}

/// The code of the refusal that an answer shows, for whoever handles it on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code(pub String);

/// Why there is no page, as a page.
pub fn problem(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let frame = Frame::open(&refusal.title);
    let content = problem::problem(&refusal.title, &refusal.detail, &refusal.next, &refusal.code);
    let mut response = html(status, page(&frame, &content));
    response.extensions_mut().insert(Code(refusal.code.to_string()));
    response
}

/// Whether a caller reads pages: browsers ask for them by name, programs do not.
pub fn reads_pages(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"))
}

/// What pages' handlers return.
pub type Page = Result<Response, Trouble>;

/// Why there is no page.
pub struct Trouble(Refusal);

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        problem(&self.0)
    }
}

/// A form that a person of a session sent; who sent it otherwise sees a page that says why not.
pub struct Posted(pub SessionPost);

impl FromRequest<Arc<Broker>> for Posted {
    type Rejection = Trouble;
    async fn from_request(request: Request, broker: &Arc<Broker>) -> Result<Self, Trouble> {
        match SessionPost::from_request(request, broker).await {
            Ok(call) => Ok(Self(call)),
            Err(Refused(refusal)) => Err(Trouble(refusal)),
        }
    }
}
