//! One request, told from its leaves.

use grantwright_domain::{Event, RequestId, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::pipeline::PAGE;
use crate::texts::Said;
use crate::{CannotVerify, Source, words};

/// The leaves of one request, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Story {
    /// The request.
    pub request_id: RequestId,
    /// Its events.
    pub events: Vec<EventView>,
}

/// One leaf of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventView {
    /// Index of the leaf, 0-based.
    pub index: u64,
    /// Its kind.
    pub kind: String,
    /// When it happened.
    pub at: Timestamp,
    /// What happened, in plain words; safe to show.
    pub words: String,
    /// Everything else in the leaf.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl EventView {
    /// A leaf as programs and people see it.
    ///
    /// # Errors
    /// [`CannotVerify::BadLeaf`], never for an event that was read from a leaf.
    pub fn new(index: u64, event: &Event, said: &Said) -> Result<Self, CannotVerify> {
        let bad = |why: String| CannotVerify::BadLeaf { leaf: index, why };
        let value = serde_json::to_value(event).map_err(|e| bad(e.to_string()))?;
        let Value::Object(mut fields) = value else { return Err(bad("not an object".into())) };
        fields.remove("kind");
        fields.remove("at");
        let words = words(event, said);
        Ok(Self { index, kind: event.kind().into(), at: event.at(), words, fields })
    }
}

/// Tells a request's story. It reads every leaf and proves nothing: [`crate::verify`] does.
///
/// # Errors
/// [`CannotVerify::NoRequest`], [`CannotVerify::BadLeaf`] or [`CannotVerify::Unreadable`].
pub fn story(request: &RequestId, source: &mut dyn Source) -> Result<Story, CannotVerify> {
    let said = Said::of(source, request)?;
    let leaves = leaves_of(request, u64::MAX, source)?;
    if leaves.is_empty() {
        return Err(CannotVerify::NoRequest(request.to_string()));
    }
    let views = leaves.into_iter().map(|(leaf, event)| {
        let event = event.map_err(|why| CannotVerify::BadLeaf { leaf, why })?;
        EventView::new(leaf, &event, &said)
    });
    Ok(Story { request_id: request.clone(), events: views.collect::<Result<_, _>>()? })
}

/// Leaves with their indexes; of one that is no event, why.
pub(crate) type Leaves = Vec<(u64, Result<Event, String>)>;

/// The leaves of a request with an index below `before`.
pub(crate) fn leaves_of(
    request: &RequestId,
    before: u64,
    source: &mut dyn Source,
) -> Result<Leaves, CannotVerify> {
    let mut events = Vec::new();
    let mut next = 0u64;
    // Ids need no escapes in JSON, so that leaves of other requests need not be parsed.
    let needle = format!("\"request_id\":\"{request}\"");
    loop {
        let page = source.leaves(next, PAGE)?;
        let Some((last, _)) = page.last() else { break };
        let after = last.checked_add(1).filter(|after| *after > next && *after < before);
        for (index, body) in page.iter().filter(|(index, _)| *index < before) {
            if !contains(body, needle.as_bytes()) {
                continue;
            }
            let event = Event::from_leaf(body).map_err(|e| e.to_string());
            if event.as_ref().map_or(true, |event| event.request_id() == Some(request)) {
                events.push((*index, event));
            }
        }
        match after {
            Some(after) => next = after,
            None => break,
        }
    }
    Ok(events)
}

fn contains(body: &[u8], needle: &[u8]) -> bool {
    body.windows(needle.len()).any(|window| window == needle)
}
