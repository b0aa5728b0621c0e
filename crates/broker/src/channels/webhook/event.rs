//! What a leaf means to a tool outside: `{"type","timestamp","data"}`, with the card as it is now.
//! No free text of a request but the card's own quotes, no sensitive parameter, no secret.

use grantwright_approval::Channel;
use grantwright_approval::webhook::{MOST_BODY, NAME, Webhook};
use grantwright_domain::{Decision, Digest, Event, VerdictKind};
use grantwright_store::Loaded;
use serde_json::{Map, Value, json};

use crate::channels::sheet::sheet;
use crate::core::Broker;

/// A message to the tool.
pub(super) struct Message {
    /// The same over all attempts and brokers: it is made of the leaf.
    pub id: String,
    /// At most [`MOST_BODY`] bytes.
    pub body: Vec<u8>,
}

/// True for a leaf that is told.
pub(super) fn is_told(leaf: &[u8]) -> bool {
    Event::from_leaf(leaf).is_ok_and(|e| !types(&e).is_empty())
}

/// The types of a leaf's messages.
fn types(event: &Event) -> Vec<&'static str> {
    match event {
        Event::Requested(_) => vec!["request.requested"],
        Event::Decided(e) => match e.verdict.kind {
            // Decided again at the collection, it waits for people only if that was stricter, and
            // its state says so.
            VerdictKind::Ask if e.again => vec!["request.decided"],
            VerdictKind::Ask => vec!["request.decided", "request.pending"],
            VerdictKind::Deny => vec!["request.decided", "request.ended"],
            VerdictKind::Allow => vec!["request.decided"],
        },
        Event::Voted(e) => match e.decision {
            Decision::Approve => vec!["request.voted"],
            Decision::Deny => vec!["request.voted", "request.ended"],
        },
        Event::Withdrawn(_) => vec!["request.withdrawn"],
        Event::Questioned(_) => vec!["request.questioned"],
        Event::Answered(_) => vec!["request.answered"],
        Event::Narrowed(_) => vec!["request.narrowed"],
        Event::Issued(_) => vec!["request.issued"],
        Event::Cancelled(_)
        | Event::Expired(_)
        | Event::Failed(_)
        | Event::Revoked(_)
        | Event::Unknown(_) => vec!["request.ended"],
        _ => Vec::new(),
    }
}

/// A leaf's messages, in order.
pub(super) fn messages(
    broker: &Broker,
    webhook: &Webhook,
    index: u64,
    event: &Event,
    loaded: &Loaded,
) -> Vec<Message> {
    let origin = Digest::of("webhook-origin", webhook.origin().as_bytes()).hex();
    let origin: String = origin.chars().take(8).collect();
    let made = types(event).into_iter().enumerate().map(|(n, kind)| {
        let mut data = data(broker, webhook, event, loaded);
        data.insert("leaf".into(), index.into());
        let whole = body(kind, event, &data);
        let body = if whole.len() <= MOST_BODY {
            whole
        } else {
            // Too long for a message: where it is whole is told instead.
            data.remove("card");
            data.insert("card_omitted".into(), true.into());
            body(kind, event, &data)
        };
        Message { id: format!("msg_{origin}_{index}_{n}"), body }
    });
    made.filter(|m| m.body.len() <= MOST_BODY).collect()
}

fn body(kind: &str, event: &Event, data: &Map<String, Value>) -> Vec<u8> {
    let at = event.at().to_string();
    json!({ "type": kind, "timestamp": at, "data": data }).to_string().into_bytes()
}

fn data(broker: &Broker, webhook: &Webhook, event: &Event, loaded: &Loaded) -> Map<String, Value> {
    let (state, terms) = (&loaded.state, &loaded.state.terms);
    let mut out = Map::new();
    out.insert("from".into(), webhook.origin().into());
    out.insert("request_id".into(), json!(terms.request_id));
    out.insert("agent".into(), json!(terms.agent));
    out.insert("scope".into(), json!(terms.scope));
    out.insert("ttl_s".into(), terms.ttl_s.into());
    out.insert("state".into(), state.phase.word().into());
    match event {
        Event::Decided(e) => {
            out.insert("verdict".into(), json!(e.verdict.kind));
        }
        Event::Voted(e) => {
            out.insert("human".into(), json!(e.human));
            out.insert("decision".into(), json!(e.decision));
            out.insert("channel".into(), json!(e.channel));
            out.insert("reason_code".into(), json!(e.reason_code));
        }
        Event::Withdrawn(e) => {
            out.insert("human".into(), json!(e.human));
        }
        Event::Questioned(e) => {
            out.insert("human".into(), json!(e.human));
        }
        Event::Narrowed(e) => {
            out.insert("human".into(), json!(e.human));
            out.insert("old_digest".into(), json!(e.old_digest));
        }
        Event::Issued(_) => {
            let lease = state.lease.as_ref();
            out.insert("lease_id".into(), json!(lease.map(|l| &l.id)));
            out.insert("expires_at".into(), json!(lease.map(|l| l.expires_at)));
        }
        _ => {}
    }
    if let Some(sheet) = sheet(broker, loaded, NAME)
        && let Value::Object(shown) = webhook.card(&sheet).body
    {
        out.extend(shown);
    }
    out
}
