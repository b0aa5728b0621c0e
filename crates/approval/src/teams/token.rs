//! The token that the Bot Service sends with each activity.
//!
//! It does not cover the body: what it proves of an activity is that the Bot Service sent it to this
//! app, for this channel, from this address. Replay within the token's hour is for who calls to stop,
//! by the activity's id.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use grantwright_domain::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::teams::keys::KeySet;

/// How far clocks may differ, in seconds.
pub const SKEW_S: i64 = 300;
/// Longest `Authorization` header, in bytes.
pub const MOST_HEADER: usize = 8 << 10;
/// Longest life of a token, in seconds; the Bot Service gives one hour.
pub const MOST_LIFE_S: i64 = 24 * 3600;

/// What a token must say.
#[derive(Debug, Clone)]
pub struct Expected {
    /// `iss`.
    pub issuer: String,
    /// `aud`: our Microsoft app id.
    pub app_id: String,
}

/// Why an activity is not believed. Callers get one and the same answer; the log gets this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forged {
    /// No header, or none of the form `Bearer …`.
    #[error("no bearer token came with the activity")]
    Missing,
    /// Not three parts of base64url JSON, or a header that must not be ignored.
    #[error("the token does not parse")]
    Malformed,
    /// Another algorithm than RS256.
    #[error("the token is not signed with RS256")]
    Algorithm,
    /// The key is not in the set: it may be new.
    #[error("the token is signed with a key that is not known")]
    UnknownKey(String),
    /// The key did not make this signature.
    #[error("the token's signature does not verify")]
    Signature,
    /// The key does not speak for the activity's channel.
    #[error("the signing key is not endorsed for the activity's channel")]
    Endorsement,
    /// Another issuer.
    #[error("the token comes from another issuer")]
    Issuer,
    /// For another app.
    #[error("the token is for another app")]
    Audience,
    /// Expired, not valid yet, or without an end.
    #[error("the token is not valid now")]
    Time,
    /// The token is for another `serviceUrl` than the activity names.
    #[error("the token names another serviceUrl than the activity")]
    ServiceUrl,
    /// The activity itself is malformed.
    #[error("the activity does not parse: {0}")]
    Activity(String),
    /// The activity comes from another tenant.
    #[error("the activity comes from another tenant")]
    Tenant,
}

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) service_url: String,
    pub(crate) expires_at: Timestamp,
    pub(crate) kid: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Payload {
    iss: String,
    aud: String,
    exp: i64,
    nbf: Option<i64>,
    #[serde(default)]
    serviceurl: String,
}

/// Verifies a token by the keys and the time given.
pub(crate) fn verify(
    authorization: Option<&str>,
    keys: &KeySet,
    expected: &Expected,
    channel: &str,
    now: Timestamp,
) -> Result<Claims, Forged> {
    let header = authorization.filter(|h| h.len() <= MOST_HEADER).ok_or(Forged::Missing)?;
    let token = header.strip_prefix("Bearer ").ok_or(Forged::Missing)?;
    let (message, signature) = token.rsplit_once('.').ok_or(Forged::Malformed)?;
    let (head, body) = message.split_once('.').ok_or(Forged::Malformed)?;
    let head: Header = part(head)?;
    if head.crit.is_some() {
        return Err(Forged::Malformed);
    }
    if head.alg != "RS256" {
        return Err(Forged::Algorithm);
    }
    let key = keys
        .key(&head.kid)
        .ok_or_else(|| Forged::UnknownKey(grantwright_domain::text::shorten(&head.kid, 100)))?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Forged::Malformed)?;
    if !key.signed(message.as_bytes(), &signature) {
        return Err(Forged::Signature);
    }
    // From here on the text is the key holder's.
    let said: Payload = part(body)?;
    if expected.issuer.is_empty() || said.iss != expected.issuer {
        return Err(Forged::Issuer);
    }
    if expected.app_id.is_empty() || said.aud != expected.app_id {
        return Err(Forged::Audience);
    }
    let now_s = now.millis().div_euclid(1000);
    let begins = said.nbf.unwrap_or(now_s);
    let in_time = said.exp.saturating_add(SKEW_S) > now_s
        && begins.saturating_sub(SKEW_S) <= now_s
        && said.exp.saturating_sub(now_s) <= MOST_LIFE_S + SKEW_S;
    if !in_time {
        return Err(Forged::Time);
    }
    if !key.endorses(channel) {
        return Err(Forged::Endorsement);
    }
    let expires_at = Timestamp::from_millis(said.exp.saturating_mul(1000));
    Ok(Claims { service_url: said.serviceurl, expires_at, kid: head.kid })
}

fn part<T: DeserializeOwned>(text: &str) -> Result<T, Forged> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Forged::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Forged::Malformed)
}
