//! What a caller asks the writer to do, and what it gets back.

use std::sync::Arc;

use grantwright_domain::draft::Folded;
use grantwright_domain::{
    AgentId, Digest, Draft, Event, IdempotencyKey, InstanceId, RequestId, RequestState, Timestamp,
};
use grantwright_proof::{Hash, leaf_hash, tile::MAX_ENTRY};

use crate::StoreError;

/// Most events in one transition.
pub const MAX_EVENTS: usize = 64;
/// Most bytes beside the log in one transition (16 MiB).
const MAX_SIDE: usize = 16 << 20;

/// On what a transition builds.
#[derive(Debug, Clone)]
pub enum Base {
    /// A new request; the first event is `requested`.
    New,
    /// A request as it was read. Its version and last leaf are compared with the present ones.
    At {
        /// The state as read.
        state: Box<RequestState>,
    },
    /// What decisions rest on: events without a request.
    Authority,
    /// A draft, which holds the events and their fold; the transition's own events stay empty.
    Draft(Box<Draft>),
}

/// One step: all of it is written, or nothing.
#[derive(Debug, Clone)]
pub struct Transition {
    /// On what it builds.
    pub base: Base,
    /// Its events, in order, all of one request or all of none. Empty only to claim a key for an
    /// existing request.
    pub events: Vec<Event>,
    /// An idempotency key to claim with it.
    pub key: Option<KeyClaim>,
    /// What lies beside the log.
    pub side: Side,
    /// Size of the log that the caller knows; evidence is consistent with it. 0: none.
    pub known_size: u64,
    /// Wants [`Evidence`] of the last event.
    pub want_evidence: bool,
}

impl Transition {
    /// Events of a new request and nothing beside them.
    #[must_use]
    pub fn new(events: Vec<Event>) -> Self {
        Self::on(Base::New, events)
    }
    /// The next events of a request.
    #[must_use]
    pub fn at(state: impl Into<Box<RequestState>>, events: Vec<Event>) -> Self {
        Self::on(Base::At { state: state.into() }, events)
    }
    /// A request's next events, folded already.
    #[must_use]
    pub fn draft(draft: Draft) -> Self {
        Self::on(Base::Draft(Box::new(draft)), Vec::new())
    }
    /// Events without a request.
    #[must_use]
    pub fn authority(events: Vec<Event>) -> Self {
        Self::on(Base::Authority, events)
    }

    /// All that it appends, wherever it holds them.
    #[must_use]
    pub fn appends(&self) -> &[Event] {
        match &self.base {
            Base::Draft(draft) => draft.events(),
            Base::New | Base::At { .. } | Base::Authority => &self.events,
        }
    }

    fn on(base: Base, events: Vec<Event>) -> Self {
        let side = Side::default();
        Self { base, events, key: None, side, known_size: 0, want_evidence: false }
    }
}

/// A claim of a key; unique per agent, for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyClaim {
    /// Whose key.
    pub agent: AgentId,
    /// The key.
    pub key: IdempotencyKey,
    /// Through which sidecar.
    pub instance: InstanceId,
    /// Digest of the ask's body.
    pub body: Digest,
}

/// What lies beside the log; the fold never reads it.
#[derive(Debug, Clone, Default)]
pub struct Side {
    /// Erasable texts of the transition's request; names are unique in it.
    pub texts: Vec<Text>,
    /// Policy texts and scope declarations, by digest.
    pub blobs: Vec<(Digest, Vec<u8>)>,
    /// The sealed credential, until it is acknowledged.
    pub sealed: Option<Sealed>,
    /// Deletes the request's sealed credential.
    pub delete_sealed: bool,
}

/// Erasable text with the salt of its commitment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// `reason`, `task`, `question:<n>`, `answer:<n>`, `vote:<n>`, `narrowed:<n>` or `param:<x>`.
    pub name: String,
    /// 16 random bytes.
    pub salt: [u8; 16],
    /// The text.
    pub text: String,
}

/// A credential sealed to one instance: the store cannot read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// To whom.
    pub instance: InstanceId,
    /// The sealed bytes.
    pub bytes: Vec<u8>,
    /// When the copy is deleted at the latest.
    pub until: Timestamp,
}

/// A durable transition.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The request's state after it; none for [`Base::Authority`].
    pub state: Option<Box<RequestState>>,
    /// Index of its first leaf. For a claim without events: the size of the log.
    pub first_index: u64,
    /// Size of the log after its batch.
    pub size: u64,
    /// The signed checkpoint of that size.
    pub checkpoint: Arc<str>,
    /// If it was wanted and there was an event.
    pub evidence: Option<Evidence>,
}

/// That a leaf is in the log, and that the log extends the one the caller knew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The leaf's bytes.
    pub leaf: Vec<u8>,
    /// Its index.
    pub index: u64,
    /// Inclusion proof in the checkpoint's tree.
    pub inclusion: Vec<Hash>,
    /// The size the caller knew.
    pub consistent_from: u64,
    /// Consistency proof from that size to the checkpoint's.
    pub consistency: Vec<Hash>,
    /// The signed checkpoint.
    pub checkpoint: Arc<str>,
}

/// A leaf as it will be written.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub event: Event,
    pub body: Vec<u8>,
    pub hash: Hash,
}

/// On what prepared leaves build: a [`Base`] whose events were taken out.
#[derive(Debug)]
pub(crate) enum Ground {
    At(Box<RequestState>),
    Authority,
    Folded(Box<Folded>),
    New,
}

/// A transition whose leaves are encoded and hashed: done by the caller, to spare the writer.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub base: Ground,
    /// The request; none for [`Base::Authority`].
    pub request: Option<RequestId>,
    pub leaves: Vec<Encoded>,
    pub key: Option<KeyClaim>,
    pub side: Side,
    pub known_size: u64,
    pub want_evidence: bool,
}

impl Transition {
    pub(crate) fn prepare(self) -> Result<Prepared, StoreError> {
        let invalid = |what: &str| Err(StoreError::Invalid(what.to_owned()));
        let (base, events) = match self.base {
            Base::Draft(_) if !self.events.is_empty() => return invalid("events beside a draft"),
            Base::Draft(draft) => {
                let (folded, events) = draft.into_parts();
                (Ground::Folded(folded), events)
            }
            Base::Authority => (Ground::Authority, self.events),
            Base::At { state } => (Ground::At(state), self.events),
            Base::New => (Ground::New, self.events),
        };
        let request = match (&base, events.first()) {
            (Ground::Authority, None) => return invalid("no event"),
            (Ground::Authority, Some(_)) => None,
            (Ground::New, Some(Event::Requested(e))) => Some(e.request_id.clone()),
            (Ground::New, _) => return invalid("a new request begins with `requested`"),
            (Ground::At(state), _) => Some(state.terms.request_id.clone()),
            (Ground::Folded(folded), _) => Some(folded.state().terms.request_id.clone()),
        };
        if events.len() > MAX_EVENTS {
            return invalid("too many events");
        }
        if events.iter().any(|e| e.request_id() != request.as_ref()) {
            return invalid("events of different requests");
        }
        let no_side = self.side.texts.is_empty() && self.side.sealed.is_none();
        if request.is_none() && (self.key.is_some() || !no_side || self.side.delete_sealed) {
            return invalid("a key, text or sealed copy without a request");
        }
        let nothing_beside = no_side && self.side.blobs.is_empty() && !self.side.delete_sealed;
        if events.is_empty() && (self.key.is_none() || !nothing_beside) {
            return invalid("without events only a key can be claimed");
        }
        self.side.check()?;
        let leaves = events.into_iter().map(encode).collect::<Result<_, _>>()?;
        Ok(Prepared {
            base,
            request,
            leaves,
            key: self.key,
            side: self.side,
            known_size: self.known_size,
            want_evidence: self.want_evidence,
        })
    }
}

impl Side {
    fn check(&self) -> Result<(), StoreError> {
        let texts: usize = self.texts.iter().map(|t| t.name.len() + t.text.len()).sum();
        let blobs: usize = self.blobs.iter().map(|(_, b)| b.len()).sum();
        let sealed = self.sealed.as_ref().map_or(0, |s| s.bytes.len());
        if texts + blobs + sealed > MAX_SIDE {
            return Err(StoreError::Invalid("too much beside the log".into()));
        }
        if self.texts.iter().any(|t| t.name.contains('\0') || t.text.contains('\0')) {
            return Err(StoreError::Invalid("a text holds U+0000".into()));
        }
        let mut rest = self.texts.as_slice();
        while let Some((first, others)) = rest.split_first() {
            if others.iter().any(|t| t.name == first.name) {
                return Err(StoreError::Invalid(format!("text `{}` is there twice", first.name)));
            }
            rest = others;
        }
        Ok(())
    }
}

fn encode(event: Event) -> Result<Encoded, StoreError> {
    let body = event.to_leaf().map_err(|e| StoreError::Invalid(e.to_string()))?;
    if body.len() > MAX_ENTRY {
        return Err(StoreError::Invalid(format!("a leaf of {} bytes is too long", body.len())));
    }
    let hash = leaf_hash(&body);
    Ok(Encoded { event, body, hash })
}
