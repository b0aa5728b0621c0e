//! Signing in at the company's identity provider.
//!
//! Nothing is kept for a sign-in that has only begun: its id lies in the browser's cookie, sealed with
//! where to go afterwards; state, nonce and PKCE verifier follow from the id under the broker's key. So
//! a callback counts in the browser that began it only, for ten minutes, and once.

use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use grantwright_domain::event::GroupsClaimed;
use grantwright_domain::text::{shorten, visible};
use grantwright_domain::{Digest, Event, HumanId, Timestamp};
use grantwright_store::Transition;
use grantwright_wire::Refusal;
use serde::{Deserialize, Serialize};

use super::console::respond::{self, reads_pages};
use super::peer::Peer;
use super::session::{self, How};
use super::{Shared, problem};
use crate::config::oidc::FirstLogin;
use crate::core::Broker;
use crate::error::{of_store, refuse};
use crate::oidc::{OidcError, Provider, SignIn, Verified};

/// The cookie of a sign-in that has begun.
const COOKIE: &str = "__Host-grantwright-oidc";
/// How long a sign-in may take.
const BEGUN_MS: i64 = 600_000;
/// How long an account waits to be linked.
const PENDING_MS: i64 = 7 * 24 * 3_600_000;
/// Most accounts that wait.
pub const MOST_PENDING: u32 = 500;
/// A provider's word that says the same is written down again after so long only.
const SAME_MS: i64 = 300_000;
/// Kinds of rows: sealed cookies are of the first, though no row is.
const BEGUN: &str = "oidc-begun";
const SPENT: &str = "oidc-spent";
/// Accounts that wait to be linked.
pub const PENDING: &str = "oidc-pending";

/// A sign-in that has begun, as the browser keeps it.
#[derive(Serialize, Deserialize)]
struct Begun {
    id: String,
    next: String,
    until: Timestamp,
}

/// An account that nobody linked yet.
#[derive(Serialize, Deserialize)]
pub struct Waiting {
    /// The issuer.
    pub issuer: String,
    /// The account.
    pub subject: String,
    /// What it calls itself; anybody may call themselves anything.
    pub name: String,
    /// When it tried to sign in.
    pub at: Timestamp,
}

/// `?next=/where`.
#[derive(Deserialize)]
pub struct Start {
    next: Option<String>,
}

/// What the provider sends the browser back with; what else it adds is not ours.
#[derive(Deserialize)]
pub struct Callback {
    code: Option<String>,
    state: Option<String>,
    iss: Option<String>,
    error: Option<String>,
}

fn provider(broker: &Broker) -> Result<&Provider, Refusal> {
    broker.oidc.as_ref().ok_or_else(|| {
        refuse(
            404,
            "no_oidc",
            "this broker knows no identity provider",
            "sign in with a passkey or a link; an operator configures [oidc]",
        )
    })
}

fn shown(result: Result<Response, Refusal>, headers: &HeaderMap) -> Response {
    match result {
        Ok(response) => response,
        Err(refusal) if reads_pages(headers) => respond::problem(&refusal),
        Err(refusal) => problem(refusal),
    }
}

/// Sends the browser to the provider.
pub async fn start(
    State(broker): Shared,
    Query(query): Query<Start>,
    headers: HeaderMap,
) -> Response {
    shown(begin(&broker, query.next.as_deref()).await, &headers)
}

async fn begin(broker: &Broker, next: Option<&str>) -> Result<Response, Refusal> {
    let provider = provider(broker)?;
    let now = broker.now();
    let begun = Begun {
        id: broker.random.secret(),
        next: own_path(next.unwrap_or("/")).to_owned(),
        until: now.plus_millis(BEGUN_MS),
    };
    let to = provider.authorize(&sign_in(broker, &begun.id), now).await.map_err(|e| of_oidc(&e))?;
    let sealed = broker.vouch.seal(BEGUN, "cookie", &begun).map_err(of_store)?;
    let cookie = format!(
        "{COOKIE}={}; Path=/; Max-Age={}; Secure; HttpOnly; SameSite=Lax",
        URL_SAFE_NO_PAD.encode(sealed),
        BEGUN_MS / 1000
    );
    Ok((StatusCode::SEE_OTHER, [(header::SET_COOKIE, cookie), (header::LOCATION, to)])
        .into_response())
}

/// A path of this console, never another site's address.
fn own_path(next: &str) -> &str {
    let plain = next.len() <= 512 && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if plain && next.starts_with('/') && !next.starts_with("//") { next } else { "/" }
}

fn sign_in(broker: &Broker, id: &str) -> SignIn {
    let of = |purpose| broker.vouch.derive(purpose, id);
    SignIn { state: of("oidc-state"), nonce: of("oidc-nonce"), verifier: of("oidc-verifier") }
}

/// The browser comes back from the provider.
pub async fn callback(
    State(broker): Shared,
    Query(query): Query<Callback>,
    peer: Peer,
    headers: HeaderMap,
) -> Response {
    shown(finish(&broker, query, &headers, &peer).await, &headers)
}

async fn finish(
    broker: &Broker,
    query: Callback,
    headers: &HeaderMap,
    peer: &Peer,
) -> Result<Response, Refusal> {
    let provider = provider(broker)?;
    broker.consistent()?;
    let now = broker.now();
    let begun = begun(broker, headers).filter(|b| b.until > now).ok_or_else(not_begun)?;
    let own = sign_in(broker, &begun.id);
    if !query.state.as_deref().is_some_and(|s| crate::vouch::same(s, &own.state)) {
        return Err(not_begun());
    }
    // RFC 9207: another provider's answer is not mixed up with ours.
    if query.iss.as_deref().is_some_and(|iss| iss != provider.issuer()) {
        return Err(of_oidc(&OidcError::NotForUs));
    }
    if let Some(error) = &query.error {
        return Err(refuse(
            403,
            "oidc_refused",
            format!("the identity provider refused: {}", shorten(&visible(error), 64)),
            "sign in again, or ask who runs the provider",
        ));
    }
    let code = query.code.filter(|c| (1..=4096).contains(&c.len())).ok_or_else(not_begun)?;
    let verified = provider.redeem(code, &own, now).await.map_err(|e| of_oidc(&e))?;
    let spent = Digest::of("oidc-sign-in", begun.id.as_bytes()).hex();
    let until = Some(begun.until);
    let first = broker.store.side_put_if_absent(SPENT, &spent, Vec::new(), until, now).await;
    if !first.map_err(of_store)? {
        return Err(not_begun());
    }
    let human = linked(broker, provider, &verified, now).await?;
    record_groups(broker, provider, &human, &verified, now).await?;
    let mut response = (StatusCode::SEE_OTHER, [(header::LOCATION, begun.next)]).into_response();
    let cookies = response.headers_mut();
    cookies.append(header::SET_COOKIE, session::begin(broker, &human, How::Oidc, peer).await?);
    let gone = "__Host-grantwright-oidc=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax";
    cookies.append(header::SET_COOKIE, HeaderValue::from_static(gone));
    Ok(response)
}

/// What this browser began; none when its cookie is missing, doubled or not ours.
fn begun(broker: &Broker, headers: &HeaderMap) -> Option<Begun> {
    let mut found = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'))
        .filter_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='));
    let (Some(value), None) = (found.next(), found.next()) else { return None };
    let sealed = URL_SAFE_NO_PAD.decode(value).ok()?;
    broker.vouch.open_value(BEGUN, "cookie", &sealed)
}

fn not_begun() -> Refusal {
    refuse(
        403,
        "oidc_not_begun",
        "this sign-in was not begun in this browser, took too long, or was used already",
        "sign in again from the console's own page",
    )
}

/// What the provider's or its token's fault means to who came.
pub(crate) fn of_oidc(e: &OidcError) -> Refusal {
    match e {
        OidcError::Unreachable => {
            refuse(503, "oidc_unreachable", e.to_string(), "try again in a minute")
                .retry_after_ms(5000)
        }
        _ => refuse(403, "oidc_refused", e.to_string(), "sign in again"),
    }
}

/// The active person whose account this is.
async fn linked(
    broker: &Broker,
    provider: &Provider,
    verified: &Verified,
    now: Timestamp,
) -> Result<HumanId, Refusal> {
    let authority = broker.authority();
    if let Some(human) = authority.identified(provider.issuer(), verified.subject()) {
        return match authority.humans.get(human) {
            Some(h) if h.active => Ok(human.clone()),
            _ => Err(refuse(403, "not_active", "this person may not act here", "ask an operator")),
        };
    }
    if provider.section().first_login == FirstLogin::Refuse {
        return Err(refuse(
            403,
            "not_linked",
            "this account is not linked to a person here",
            "an operator links it: `grantwright person link-account`",
        ));
    }
    let waiting = Waiting {
        issuer: provider.issuer().to_owned(),
        subject: verified.subject().to_owned(),
        name: verified.name().to_owned(),
        at: now,
    };
    let key = pending_key(&waiting.issuer, &waiting.subject);
    let all = broker.store.side_list(PENDING, "", None, MOST_PENDING, now).await;
    let all = all.map_err(of_store)?;
    if all.len() < MOST_PENDING as usize || all.iter().any(|row| row.key == key) {
        let value = broker.vouch.seal(PENDING, &key, &waiting).map_err(of_store)?;
        let until = Some(now.plus_millis(PENDING_MS));
        broker.store.side_put(PENDING, &key, value, until).await.map_err(of_store)?;
    }
    Err(refuse(
        403,
        "not_linked",
        "this account is not linked to a person here yet; operators see that it waits",
        "ask an operator to link it, then sign in again",
    ))
}

/// The key under which an account waits.
#[must_use]
pub fn pending_key(issuer: &str, subject: &str) -> String {
    Digest::of("oidc-account", format!("{issuer}\n{subject}").as_bytes()).hex()
}

/// Writes down what the provider says of the person's groups, where that is news.
async fn record_groups(
    broker: &Broker,
    provider: &Provider,
    human: &HumanId,
    verified: &Verified,
    now: Timestamp,
) -> Result<(), Refusal> {
    let Some(groups) = verified.groups() else { return Ok(()) };
    let authority = broker.authority();
    let known = authority.claimed.get(human);
    let same = match known {
        Some(c) => {
            c.groups == *groups
                && c.account.0 == provider.issuer()
                && c.account.1 == verified.subject()
                && now.since(c.at) < SAME_MS
        }
        None => groups.is_empty(),
    };
    if same {
        return Ok(());
    }
    let event = Event::GroupsClaimed(GroupsClaimed {
        at: now,
        human: human.clone(),
        issuer: provider.issuer().to_owned(),
        subject: verified.subject().to_owned(),
        groups: groups.clone(),
        until: now.plus_millis(provider.section().staleness_ms()),
    });
    broker.commit(Transition::authority(vec![event])).await.map_err(of_store)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_sign_in_a_browser_stays_at_the_console() {
        for (next, want) in [
            ("/", "/"),
            ("/requests/r1?a=b#c", "/requests/r1?a=b#c"),
            ("", "/"),
            ("requests", "/"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("https://evil.example", "/"),
            ("/a\r\nSet-Cookie: x", "/"),
            ("/ü", "/"),
            ("/a b", "/"),
        ] {
            assert_eq!(own_path(next), want, "{next:?}");
        }
        assert_eq!(own_path(&format!("/{}", "a".repeat(600))), "/");
    }
}
