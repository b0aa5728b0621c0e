//! A leaf in the words of other systems: OCSF events, CloudEvents, RFC 5424 syslog messages, JSON lines.
//!
//! Every form carries the leaf's index, the log's origin and the leaf's own bytes, so that whoever holds an
//! exported event can ask the log for its proof. What lies beside the log (free text, sensitive parameters)
//! is never exported: it can be erased, an export cannot.

mod ocsf;
mod recent;
mod syslog;
mod whole;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use grantwright_domain::{Event, RequestId};
use grantwright_proof::leaf_hash;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use ocsf::SCHEMA as OCSF_SCHEMA;
pub use recent::{Asked, Recent};
pub use syslog::framed;
pub use whole::{Each, Window, export};

/// Prefix of a CloudEvent's type; the leaf's kind follows.
pub const EVENT_TYPE: &str = "org.grantwright.";
/// The private enterprise number of syslog's structured data unless another is configured: the one that
/// RFC 5612 keeps for documentation.
pub const DOCUMENTATION_ENTERPRISE: u32 = 32473;

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// CloudEvents 1.0, structured mode, JSON.
    CloudEvents,
    /// One JSON object a leaf: `index`, `origin`, `leaf_hash`, `event`.
    Jsonl,
    /// OCSF, schema [`OCSF_SCHEMA`].
    Ocsf,
    /// RFC 5424 messages with the leaf as their text.
    Syslog,
}

impl Format {
    /// All of them, by name.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("ocsf", Self::Ocsf),
        ("cloudevents", Self::CloudEvents),
        ("jsonl", Self::Jsonl),
        ("syslog", Self::Syslog),
    ];

    /// The format of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }

    /// The media type of one event.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::CloudEvents => "application/cloudevents+json",
            Self::Jsonl | Self::Ocsf => "application/json",
            Self::Syslog => "text/plain; charset=utf-8",
        }
    }
}

/// What an export says of its source beside the leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Origin of the log; learned from the first leaf where that is read.
    pub log: String,
    /// SPIFFE trust domain; learned likewise.
    pub trust_domain: String,
    /// The host's name in syslog; `-` unless known.
    pub host: String,
    /// Private enterprise number of syslog's structured data.
    pub enterprise: u32,
}

impl Origin {
    /// Of a log with this origin and trust domain.
    #[must_use]
    pub fn new(log: &str, trust_domain: &str) -> Self {
        Self {
            log: log.into(),
            trust_domain: trust_domain.into(),
            host: "-".into(),
            enterprise: DOCUMENTATION_ENTERPRISE,
        }
    }
}

/// Writes leaves, in their order, in one format.
#[derive(Debug)]
pub struct Exporter {
    format: Format,
    origin: Origin,
    recent: Recent,
}

/// A leaf with what every format says of it.
pub(crate) struct Entry<'a> {
    pub(crate) index: u64,
    pub(crate) leaf: &'a str,
    pub(crate) hash: String,
    pub(crate) event: &'a Event,
    /// The ask of the event's request, where it is known.
    pub(crate) asked: Option<&'a Asked>,
    pub(crate) origin: &'a Origin,
}

impl Exporter {
    /// Of the log of this origin.
    #[must_use]
    pub fn new(format: Format, origin: Origin) -> Self {
        Self { format, origin, recent: Recent::default() }
    }

    /// The request whose ask this event needs and whose ask has not been learned: read its leaves and
    /// [`Exporter::learn`] them first. An event whose ask stays unknown is exported with its request's id
    /// only.
    #[must_use]
    pub fn wants<'e>(&self, event: &'e Event) -> Option<&'e RequestId> {
        let id = event.request_id()?;
        let known = matches!(event, Event::Requested(_)) || self.recent.get(id).is_some();
        (!known && matches!(self.format, Format::Ocsf)).then_some(id)
    }

    /// Remembers what later events of the same request need. Every event that is exported, or passed
    /// over, goes through here first.
    pub fn learn(&mut self, event: &Event) {
        // The first leaf says it; later ones of this kind are of logs that went before.
        if self.origin.log.is_empty()
            && let Some((origin, _, trust_domain)) = event.begins()
        {
            origin.clone_into(&mut self.origin.log);
            trust_domain.clone_into(&mut self.origin.trust_domain);
        }
        self.recent.learn(event);
    }

    /// What is known now of the ask of this event's request.
    #[must_use]
    pub fn asked(&self, event: &Event) -> Option<Arc<Asked>> {
        self.recent.get(event.request_id()?).map(Arc::clone)
    }

    /// The event without an end of line; it never holds one. None for a leaf that is not UTF-8, which no
    /// event is.
    #[must_use]
    pub fn write(
        &self,
        index: u64,
        leaf: &[u8],
        event: &Event,
        asked: Option<&Asked>,
    ) -> Option<Vec<u8>> {
        let hash = STANDARD.encode(leaf_hash(leaf).as_bytes());
        let leaf = str::from_utf8(leaf).ok()?;
        let entry = Entry { index, leaf, hash, event, asked, origin: &self.origin };
        match self.format {
            Format::CloudEvents => cloud_event(&entry),
            Format::Jsonl => json_line(&entry),
            Format::Ocsf => serde_json::to_vec(&ocsf::event(&entry)).ok(),
            Format::Syslog => Some(syslog::message(&entry)),
        }
    }
}

/// One object a line. The leaf stands in it byte for byte.
fn json_line(e: &Entry<'_>) -> Option<Vec<u8>> {
    let origin = serde_json::to_string(&e.origin.log).ok()?;
    let (index, hash, leaf) = (e.index, &e.hash, e.leaf);
    let line = format!(
        "{{\"index\":{index},\"origin\":{origin},\"leaf_hash\":\"{hash}\",\"event\":{leaf}}}"
    );
    Some(line.into_bytes())
}

/// CloudEvents 1.0: `source` and `id` name the leaf for ever; attribute names are lower case letters.
fn cloud_event(e: &Entry<'_>) -> Option<Vec<u8>> {
    let mut out = Map::new();
    let kind = e.event.kind();
    let mut put = |name: &str, value: Value| out.insert(name.to_owned(), value);
    put("specversion", json!("1.0"));
    put("id", json!(e.index.to_string()));
    put("source", json!(e.origin.log));
    put("type", json!(format!("{EVENT_TYPE}{kind}")));
    put("time", json!(e.event.at()));
    if let Some(request) = e.event.request_id() {
        put("subject", json!(request));
    }
    put("datacontenttype", json!("application/json"));
    put("leafhash", json!(e.hash));
    put("data", serde_json::from_str(e.leaf).ok()?);
    serde_json::to_vec(&out).ok()
}
