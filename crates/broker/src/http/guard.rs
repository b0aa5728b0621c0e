//! One guard in front of every HTTP door: whom the call takes us for (a browser may be turned
//! against us by any page it shows), how much it sends, and how long it may take.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;
use grantwright_wire::Refusal;

use super::listen::Arrived;
use super::peer::Peer;
use super::problem;
use crate::core::Broker;
use crate::error::refuse;

/// Largest body, in bytes.
pub const MOST_BODY: usize = 64 << 10;
/// Largest body of `POST /api/v1/policy`: a policy set with its scopes.
pub const MOST_POLICY: usize = 4 << 20;
/// How long a call may take from its head to the head of its answer.
pub const CALL_TIME: Duration = Duration::from_secs(30);

/// Browsers of other origins get nothing, nobody sends or waits without end, and no answer is
/// sniffed, or cached unless it says so.
pub async fn guard(State(broker): State<Arc<Broker>>, request: Request, next: Next) -> Response {
    let admitted = admit(&broker.public_url, &request).and_then(|()| knock(&broker, &request));
    let mut response = match admitted {
        Ok(()) => within(CALL_TIME, request.method() == Method::POST, next.run(request)).await,
        Err(refusal) => problem(*refusal),
    };
    if response.status() == StatusCode::PAYLOAD_TOO_LARGE {
        response = problem(too_large());
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // What may be kept says so itself: tiles of the log, files that are named by their content.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Where people are not known yet: each call costs a signature or a look at the log, and anybody calls.
const SIGN_IN: [&str; 5] = ["/signin", "/login/", "/enrol/", "/oidc/", "/api/v1/login"];

/// One address signs in so often and no oftener.
fn knock(broker: &Broker, request: &Request) -> Result<(), Box<Refusal>> {
    let path = request.uri().path();
    let address = request.extensions().get::<Peer>().and_then(Peer::address);
    match address.filter(|_| SIGN_IN.iter().any(|door| path.starts_with(door))) {
        Some(address) => {
            broker.doors.take("address", &address.to_string(), broker.now()).map_err(Box::new)
        }
        None => Ok(()),
    }
}

/// The answer, or 503 `too_slow` after `time`. What `changes` something goes on without its caller:
/// neither the time nor a hang-up stops it half-way.
async fn within(
    time: Duration,
    changes: bool,
    work: impl Future<Output = Response> + Send + 'static,
) -> Response {
    let work = async move {
        if !changes {
            return work.await;
        }
        tokio::spawn(work).await.unwrap_or_else(|_| {
            problem(refuse(500, "internal", "this call failed inside", "look at the broker's log"))
        })
    };
    tokio::time::timeout(time, work).await.unwrap_or_else(|_| {
        let mut response = problem(refuse(
            503,
            "too_slow",
            "the call took too long to send or to answer; what it asked for may still happen",
            "look before you repeat it",
        ));
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    })
}

fn too_large() -> Refusal {
    refuse(
        413,
        "too_large",
        format!(
            "a body has at most {} KiB here, a policy set {} MiB",
            MOST_BODY >> 10,
            MOST_POLICY >> 20
        ),
        "send less",
    )
}

fn admit(public_url: &str, request: &Request) -> Result<(), Box<Refusal>> {
    let (uri, headers) = (request.uri(), request.headers());
    let arrived = request.extensions().get::<Arrived>().map(|a| a.0);
    // A probe knows an address only, and learns nothing that a page could use.
    let probe = matches!(uri.path(), "/healthz" | "/readyz");
    let host = one(headers, &header::HOST);
    if !probe && !host.is_some_and(|host| own_host(public_url, arrived, uri, host)) {
        return Err(Box::new(refuse(
            403,
            "foreign_host",
            "the call's `Host` is not a name of this broker",
            "call it as localhost, by its address, or by the host of its `public_url`",
        )));
    }
    if headers.contains_key(header::ORIGIN) {
        let origin = one(headers, &header::ORIGIN)
            .and_then(|o| o.strip_prefix("http://").or_else(|| o.strip_prefix("https://")));
        if origin.is_none() || origin != host {
            return Err(Box::new(refuse(
                403,
                "foreign_origin",
                "the console takes its own origin only",
                "open the console itself",
            )));
        }
    }
    let most = match (request.method(), uri.path()) {
        (&Method::POST, "/api/v1/policy") => MOST_POLICY,
        (&Method::POST, "/slack/interactivity") => super::slack::MOST_DELIVERY,
        _ => MOST_BODY,
    };
    let told = one(headers, &header::CONTENT_LENGTH).and_then(|n| n.parse::<u64>().ok());
    if told.is_some_and(|n| usize::try_from(n).map_or(true, |n| n > most)) {
        return Err(Box::new(too_large()));
    }
    Ok(())
}

/// The only value of a header, as text.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// Whether a `Host` is ours: else a page of a name that its owner points at us could read us.
fn own_host(public_url: &str, arrived: Option<IpAddr>, uri: &Uri, host: &str) -> bool {
    // RFC 9112 §3.2.2: an absolute target goes before `Host`; ours agree.
    if uri.authority().is_some_and(|a| a.as_str() != host) {
        return false;
    }
    let Some(name) = name_of(host) else { return false };
    let public = public_url
        .split_once("://")
        .map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|own| name.eq_ignore_ascii_case(own))
        || public.and_then(name_of).is_some_and(|own| name.eq_ignore_ascii_case(own))
        || (address.is_some() && address == arrived)
}

/// The host of `host[:port]`; an IPv6 address keeps its brackets.
fn name_of(authority: &str) -> Option<&str> {
    let port = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.1,
        None => authority.find(':').map_or("", |at| authority.get(at..).unwrap_or_default()),
    };
    let digits = port.strip_prefix(':');
    let fine = port.is_empty()
        || digits
            .is_some_and(|d| (1..=5).contains(&d.len()) && d.bytes().all(|b| b.is_ascii_digit()));
    let name = authority.strip_suffix(port)?;
    (fine && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ours_and_of_others() {
        let here = Some("10.0.0.5".parse().unwrap());
        let own = |host: &str| own_host("https://gw.example.org/x", here, &Uri::default(), host);
        for host in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1",
            "127.0.0.1:65535",
            "[::1]",
            "[::1]:80",
            "gw.example.org",
            "GW.example.org:443",
            "10.0.0.5",
            "10.0.0.5:8080",
        ] {
            assert!(own(host), "{host}");
        }
        for host in [
            "",
            ":",
            ":80",
            "evil.example",
            "localhost.",
            "localhost:",
            "localhost:x",
            "localhost:+1",
            "localhost:1:2",
            "localhost:123456",
            "localhost.evil.example",
            "localhost@evil.example",
            "evil.example#localhost",
            "127.0.0.1.evil.example",
            "127.1",
            "0.0.0.0",
            "10.0.0.6",
            "::1",
            "[::1",
            "[::1]x",
            "[::1].evil.example",
            "[10.0.0.5",
            "gw.example.org.evil.example",
            "notgw.example.org",
        ] {
            assert!(!own(host), "{host}");
        }
        let target = Uri::from_static("http://evil.example/jwks");
        assert!(!own_host("http://localhost:1", None, &target, "localhost"));
    }

    #[tokio::test]
    async fn what_takes_too_long_is_answered_and_what_changes_things_goes_on() {
        let short = Duration::from_millis(20);
        let slow = within(short, false, std::future::pending()).await;
        assert_eq!(slow.status(), 503);
        let (done, mut finished) = tokio::sync::mpsc::channel(1);
        let work = async move {
            tokio::time::sleep(3 * short).await;
            done.send(()).await.unwrap();
            Response::default()
        };
        assert_eq!(within(short, true, work).await.status(), 503);
        finished.recv().await.expect("it went on");
    }
}
