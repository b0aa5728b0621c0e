//! Token status lists (draft-ietf-oauth-status-list): one bit for each token, set when it ended early.
//!
//! A token's place is drawn when it is first signed and kept among its facts. Lists are of one process:
//! their names begin with its tag, so that no place is ever drawn twice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use grantwright_domain::{LeaseId, Timestamp};
use serde_json::{Value, json};

use crate::EndedLease;

/// The fact that keeps a token's place.
pub(super) const STATUS: &str = "status";
/// Tokens on one list.
const ON_LIST: u64 = 1 << 17;
/// How long a list counts, in seconds.
const LIST_S: i64 = 300;
/// How often readers should fetch it anew, in seconds.
const FRESH_S: i64 = 10;

/// Where the lists of an issuer are, and the next free place.
pub(super) struct Lists {
    /// Lists are at `<url>/status/<name>`.
    url: String,
    tag: String,
    next: AtomicU64,
}

/// A token's place: `<list>/<index>` among its facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place(String);

impl Lists {
    pub(super) fn new(url: String, tag: &str) -> Self {
        let tag = tag.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
        Self { url, tag, next: AtomicU64::new(0) }
    }

    /// A place that no other token has.
    pub(super) fn draw(&self) -> Place {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        Place(format!("{}-{:x}/{}", self.tag, n / ON_LIST, n % ON_LIST))
    }

    /// The claim `status` of a place.
    pub(super) fn claim(&self, place: &Place) -> Option<Value> {
        let (list, index) = place.0.split_once('/')?;
        let index: u64 = index.parse().ok()?;
        Some(json!({ "status_list": { "idx": index, "uri": self.uri(list) } }))
    }

    pub(super) fn uri(&self, list: &str) -> String {
        format!("{}/status/{list}", self.url)
    }

    /// The claims of a list's token. `None`: no list has such a name.
    pub(super) fn claims(
        &self,
        issuer: &str,
        list: &str,
        ended: &BTreeMap<LeaseId, EndedLease>,
        now: Timestamp,
    ) -> Option<Value> {
        let (tag, number) = list.split_once('-')?;
        let named = (1..=32).contains(&tag.len())
            && tag.bytes().all(|b| b.is_ascii_alphanumeric())
            && u32::from_str_radix(number, 16).is_ok_and(|n| format!("{n:x}") == number);
        if !named {
            return None;
        }
        let mut bits = vec![0u8; usize::try_from(ON_LIST / 8).ok()?];
        for lease in ended.values() {
            let place = lease.facts.get(STATUS).and_then(|p| p.split_once('/'));
            let index = match place {
                Some((of, index)) if of == list => index.parse::<usize>().ok(),
                _ => None,
            };
            if let Some(index) = index
                && let Some(byte) = bits.get_mut(index / 8)
            {
                *byte |= 1 << (index % 8);
            }
        }
        let packed = miniz_oxide::deflate::compress_to_vec_zlib(&bits, 9);
        let iat = now.seconds();
        Some(json!({
            "iss": issuer,
            "sub": self.uri(list),
            "iat": iat,
            "exp": iat + LIST_S,
            "ttl": FRESH_S,
            "status_list": { "bits": 1, "lst": URL_SAFE_NO_PAD.encode(packed) },
        }))
    }
}

impl Place {
    /// As it was drawn when the token was signed first.
    pub(super) fn kept(facts: &BTreeMap<String, String>) -> Option<Self> {
        facts.get(STATUS).cloned().map(Self)
    }

    pub(super) fn into_fact(self) -> String {
        self.0
    }
}
