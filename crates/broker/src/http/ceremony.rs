//! What a passkey's ceremonies share: the relying party, the options that a page hands to its browser
//! for a decision (for enrolment and sign-in: [`super::webauthn`]), and challenges. A challenge of
//! enrolment or sign-in is a token that this broker recognises and takes once, so that strangers who
//! ask for thousands fill nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use grantwright_domain::passkey::NONCE_LIFE_MS;
use grantwright_domain::{HumanId, Timestamp};
use grantwright_proof::PasskeyError;
use grantwright_proof::passkey::Expected;
use grantwright_wire::Refusal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::webauthn::{self, Site};
use crate::core::Broker;
use crate::error::{of_store, refuse};

/// Rows of challenges that were used.
const SPENT: &str = "ceremony-spent";

/// Who passkeys of this console answer to.
#[derive(Debug, Clone)]
pub struct Party {
    /// The relying party: the host of `public_url`.
    pub id: String,
    /// The origin of the console's pages.
    pub origin: String,
    /// Enrols and signs in.
    pub site: Site,
}

impl Party {
    /// Of this `public_url`.
    ///
    /// # Errors
    /// When its host cannot hold a passkey, with what to do.
    pub fn of(public_url: &str) -> Result<Self, String> {
        let (scheme, rest) = public_url.split_once("://").ok_or("it is not a URL")?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
        let id = host.to_ascii_lowercase();
        // WebAuthn §5.1.3: a relying party is a domain; browsers give an address no passkey.
        let number = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
        if host.starts_with('[')
            || authority.ends_with(']')
            || id.split('.').next_back().is_some_and(number)
        {
            return Err(format!(
                "`{host}` is an IP address, which cannot hold a passkey; use a name, or `localhost`"
            ));
        }
        let plain =
            |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-');
        if id.is_empty() || !id.bytes().all(plain) || !(port.is_empty() || number(port)) {
            return Err(format!("`{authority}` is not a host name with an optional port"));
        }
        let default = matches!((scheme, port), ("https", "443") | ("http", "80"));
        let port = if port.is_empty() || default { String::new() } else { format!(":{port}") };
        let origin = format!("{scheme}://{id}{port}");
        let site = Site::new(&id, &origin)
            .map_err(|_| format!("`{origin}` cannot be the origin of passkeys of `{id}`"))?;
        Ok(Self { id, origin, site })
    }
}

/// What a challenge is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "snake_case", deny_unknown_fields)]
pub enum Purpose {
    /// Enrol a passkey by this link.
    Enrol {
        /// The link's name.
        link: String,
    },
    /// Sign in.
    SignIn,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ticket {
    purpose: Purpose,
    nonce: String,
    until: Timestamp,
}

/// A fresh challenge: the ticket that the page sends back with the answer, and the bytes to sign.
pub fn challenge(broker: &Broker, purpose: Purpose) -> (String, Vec<u8>) {
    let until = broker.now().plus_millis(NONCE_LIFE_MS);
    let ticket = Ticket { purpose, nonce: broker.random.secret(), until };
    let payload = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&ticket).unwrap_or_default());
    let mac = broker.vouch.derive("ceremony", &payload);
    let challenge = hex::decode(&ticket.nonce).unwrap_or_default();
    (format!("{payload}.{mac}"), challenge)
}

/// A challenge that this broker gave, not yet spent.
#[derive(Debug)]
pub struct Given {
    /// What was to be signed.
    pub bytes: Vec<u8>,
    nonce: String,
    until: Timestamp,
}

fn over() -> Refusal {
    refuse(403, "ceremony_over", "this page is too old, or was used already", "load it again")
}

/// The challenge of a ticket that this broker gave for `purpose`. Nothing is written: the answer is
/// verified first, so that strangers fill nothing, and the challenge is then spent by [`spend`].
///
/// # Errors
/// 403 `ceremony_over` when it is made up, for another purpose or too old.
pub fn read(broker: &Broker, ticket: &str, purpose: &Purpose) -> Result<Given, Refusal> {
    let (payload, mac) = ticket.split_once('.').ok_or_else(over)?;
    if !crate::vouch::same(mac, &broker.vouch.derive("ceremony", payload)) {
        return Err(over());
    }
    let json = URL_SAFE_NO_PAD.decode(payload).map_err(|_| over())?;
    let read: Ticket = serde_json::from_slice(&json).map_err(|_| over())?;
    if read.until <= broker.now() || read.purpose != *purpose {
        return Err(over());
    }
    let bytes = hex::decode(&read.nonce).map_err(|_| over())?;
    Ok(Given { bytes, nonce: read.nonce, until: read.until })
}

/// Spends a challenge whose answer was verified.
///
/// # Errors
/// 403 `ceremony_over` when it was used already.
pub async fn spend(broker: &Broker, given: &Given) -> Result<(), Refusal> {
    let (store, end) = (&broker.store, Some(given.until));
    let first = store.side_put_if_absent(SPENT, &given.nonce, Vec::new(), end, broker.now()).await;
    if first.map_err(of_store)? { Ok(()) } else { Err(over()) }
}

/// Hexadecimal digits as base64url of their bytes.
pub fn encode(hexadecimal: &str) -> String {
    URL_SAFE_NO_PAD.encode(hex::decode(hexadecimal).unwrap_or_default())
}

/// Bytes that a page sent in base64url.
///
/// # Errors
/// 400.
pub fn decode(text: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| {
        refuse(400, "malformed", "an answer's bytes are not base64url", "load the page again")
    })
}

/// What an answer must be for.
pub fn expected<'a>(broker: &'a Broker, challenge: &'a [u8]) -> Expected<'a> {
    let Party { id, origin, .. } = &broker.party;
    Expected { challenge, rp_id: id, origin: Some(origin) }
}

/// Why a passkey's answer is refused, to who gave it.
pub fn refused(e: PasskeyError) -> Refusal {
    not_believed(e.to_string())
}

fn not_believed(why: String) -> Refusal {
    refuse(403, "passkey_refused", why, "try again, with the passkey that you enrolled here")
}

/// The same, where the library does not believe it; its words are for operators.
pub fn unlike(e: &webauthn::Fault) -> Refusal {
    tracing::warn!(error = %e, "a passkey's answer was refused");
    not_believed("the passkey's answer does not verify".into())
}

/// The library made no options: never, for what is configured here.
pub fn no_options(e: &webauthn::Fault) -> Refusal {
    tracing::error!(error = %e, "no options for a passkey");
    refuse(500, "internal", "no options for a passkey were made", "look at the broker's log")
}

/// Whose passkey is made: the same handle each time, so that a device replaces its own.
pub fn user<'a>(broker: &Broker, human: &'a HumanId) -> webauthn::User<'a> {
    let derived = hex::decode(broker.vouch.derive("user-handle", human.as_str()));
    let mut handle = [0; 16];
    for (to, from) in handle.iter_mut().zip(derived.unwrap_or_default()) {
        *to = from;
    }
    webauthn::User { handle, name: human.as_str() }
}

/// Credentials, as options name them.
pub fn descriptors<'a>(ids: impl IntoIterator<Item = &'a String>) -> Value {
    ids.into_iter().map(|id| json!({ "type": "public-key", "id": id })).collect()
}

/// Options for `navigator.credentials.get`, to sign a decision; bytes in base64url.
pub fn get_options(broker: &Broker, challenge: &str, allowed: Value) -> Value {
    json!({
        "challenge": challenge, "rpId": broker.party.id, "timeout": webauthn::TIMEOUT.as_secs() * 1000,
        "userVerification": "required", "allowCredentials": allowed,
    })
}

/// What a page sends of an assertion; members that pages may add are read over.
#[derive(Debug, Deserialize)]
pub struct Assertion {
    /// The credential.
    pub id: String,
    /// What it said.
    pub response: AssertionResponse,
}

/// See [`Assertion`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssertionResponse {
    /// `authenticatorData`.
    pub authenticator_data: String,
    /// `clientDataJSON`.
    #[serde(rename = "clientDataJSON")]
    pub client_data: String,
    /// `signature`.
    pub signature: String,
}

/// What a page sends of a new passkey.
#[derive(Debug, Deserialize)]
pub struct Attestation {
    /// What it said.
    pub response: AttestationResponse,
}

/// See [`Attestation`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttestationResponse {
    /// `clientDataJSON`.
    #[serde(rename = "clientDataJSON")]
    pub client_data: String,
    /// `attestationObject`.
    pub attestation_object: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relying_party_is_a_name() {
        for (url, id, origin) in [
            ("http://localhost:8080", "localhost", "http://localhost:8080"),
            ("https://GW.example.org/", "gw.example.org", "https://gw.example.org"),
            ("https://gw.example.org:443/x", "gw.example.org", "https://gw.example.org"),
            ("https://gw.example.org:8443", "gw.example.org", "https://gw.example.org:8443"),
        ] {
            let party = Party::of(url).unwrap();
            assert_eq!((party.id.as_str(), party.origin.as_str()), (id, origin), "{url}");
        }
        for url in [
            "https://127.0.0.1",
            "https://10.0.0.5:8443",
            "https://[::1]:8443",
            "https://[2001:db8::1]",
            "https://127.1",
            "https://",
            "https://a b",
            "https://user@host",
            "localhost",
        ] {
            assert!(Party::of(url).is_err(), "{url}");
        }
    }
}
