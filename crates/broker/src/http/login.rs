//! One-time links that sign a person in at the console.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use grantwright_domain::authority::Bearer;
use grantwright_domain::event::LinkSpent;
use grantwright_domain::{Authority, Digest, Event, HumanId, Timestamp};
use grantwright_store::{StoreError, Transition};
use grantwright_wire::Refusal;

use super::console::respond::{self, reads_pages};
use super::peer::Peer;
use super::session::{self, How};
use super::{Shared, problem};
use crate::core::Broker;
use crate::error::{of_store, refuse};

/// Programs that look at links in messages before people do; they get nothing and spend nothing.
const PREVIEWS: [&str; 12] = [
    "bot",
    "crawler",
    "discord",
    "facebook",
    "google-read",
    "linkpreview",
    "mattermost",
    "preview",
    "signal",
    "slack",
    "telegram",
    "whatsapp",
];

/// Signs the link's person in, once, and leads to the inbox.
pub async fn login(
    State(broker): Shared,
    Path(code): Path<String>,
    method: Method,
    peer: Peer,
    headers: HeaderMap,
) -> Response {
    match redeem(&broker, &code, &method, &headers, &peer).await {
        Ok(response) => response,
        Err(refusal) if reads_pages(&headers) => respond::problem(&refusal),
        Err(refusal) => problem(refusal),
    }
}

async fn redeem(
    broker: &Broker,
    code: &str,
    method: &Method,
    headers: &HeaderMap,
    peer: &Peer,
) -> Result<Response, Refusal> {
    if *method != Method::GET || is_preview(headers) {
        return Ok((StatusCode::OK, "A link to sign in at Grantwright.\n").into_response());
    }
    let now = broker.now();
    let authority = broker.authority();
    let link = usable(&authority, code, "login", now)?;
    let spent = Event::LinkSpent(LinkSpent { at: now, link_id: link.id.clone() });
    broker.consistent()?;
    match broker.commit(Transition::authority(vec![spent])).await {
        Ok(_) => {}
        Err(StoreError::Violation(_)) => return Err(used()),
        Err(e) => return Err(of_store(e)),
    }
    let cookie = session::begin(broker, &link.subject, How::Link, peer).await?;
    let headers = [
        (header::SET_COOKIE, cookie),
        (header::LOCATION, axum::http::HeaderValue::from_static("/")),
        (header::REFERRER_POLICY, axum::http::HeaderValue::from_static("no-referrer")),
    ];
    Ok((StatusCode::SEE_OTHER, headers).into_response())
}

/// The link of this code, if it still works for `purpose`.
///
/// # Errors
/// 410 `link_used`, 404 `link_refused`.
pub fn usable<'a>(
    authority: &'a Authority,
    code: &str,
    purpose: &str,
    now: Timestamp,
) -> Result<&'a Bearer<HumanId>, Refusal> {
    let link = authority.links.get(&Digest::of("one-time-link", code.as_bytes()));
    match link.filter(|l| l.purpose == purpose) {
        Some(link) if link.spent => Err(used()),
        Some(link) if link.expires_at > now => Ok(link),
        _ => Err(refuse(
            404,
            "link_refused",
            "this link is unknown, or its time is over",
            "ask an operator for a new one",
        )),
    }
}

fn used() -> Refusal {
    refuse(
        410,
        "link_used",
        "this link was used already; each works once",
        "if it was not you who used it, tell an operator; ask for a new one",
    )
}

/// Whether a program looks ahead: what people did not open must not spend their link.
fn is_preview(headers: &HeaderMap) -> bool {
    let text = |name: &str| {
        let value = headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        value.to_ascii_lowercase()
    };
    let ahead = ["sec-purpose", "purpose", "x-moz", "x-purpose"].iter().any(|h| {
        let value = text(h);
        value.contains("prefetch") || value.contains("prerender") || value.contains("preview")
    });
    // What a page's image, frame or script loads is no visit either. Programs that are no browser send
    // no destination.
    let (into, agent) = (text("sec-fetch-dest"), text("user-agent"));
    ahead || (!into.is_empty() && into != "document") || PREVIEWS.iter().any(|p| agent.contains(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn previews_are_told_from_people() {
        let is = |name: &'static str, value: &'static str| {
            is_preview(&HeaderMap::from_iter([(
                header::HeaderName::from_static(name),
                header::HeaderValue::from_static(value),
            )]))
        };
        assert!(is("sec-purpose", "prefetch;prerender"));
        assert!(is("user-agent", "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)"));
        assert!(is("user-agent", "Mozilla/5.0 (Windows NT 6.1) SkypeUriPreview Preview/0.5"));
        assert!(is("sec-fetch-dest", "image") && is("sec-fetch-dest", "empty"));
        assert!(!is("sec-fetch-dest", "document") && !is("sec-fetch-mode", "cors"));
        assert!(!is("user-agent", "Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0 Safari/537.36"));
        assert!(!is("user-agent", "curl/8.15.0"));
    }
}
