//! What a leaf means to a tool outside: `{"type","timestamp","data"}`, with the card as it is now.
//! No free text of a request but the card's own quotes, no sensitive parameter, no secret.

use grantwright_approval::Channel;
use grantwright_approval::webhook::{MOST_BODY, NAME, Webhook};
use grantwright_domain::{Decision, Digest, Event, HumanId, Timestamp, VerdictKind};
use grantwright_store::Loaded;
use serde_json::{Map, Value, json};

use crate::channels::sheet::sheet;
use crate::core::Broker;
use crate::guards::remind::{Stage, said};
use crate::guards::{group, route};

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
            Decision::Deny if e.reason_code == "looks_wrong" => {
                vec!["request.voted", "request.ended", "request.looks_wrong"]
            }
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
    let origin = origin(webhook);
    let made = types(event).into_iter().enumerate().filter_map(|(n, kind)| {
        let mut data = data(broker, webhook, loaded);
        data.extend(details(event, loaded));
        data.insert("leaf".into(), index.into());
        message(format!("msg_{origin}_{index}_{n}"), kind, event.at(), data)
    });
    made.collect()
}

/// What time alone makes worth telling: that people are reminded, or that everybody is asked now;
/// none at another stage. It is told once of each request.
pub(super) fn reminder(
    broker: &Broker,
    webhook: &Webhook,
    loaded: &Loaded,
    stage: Stage,
    now: Timestamp,
) -> Option<Message> {
    let state = &loaded.state;
    let may = || route::eligible_people(&broker.authority(), state, now).into_iter().collect();
    let (word, people): (_, Vec<HumanId>) = match stage {
        Stage::Reminded => ("reminded", route::known(broker, state).unwrap_or_default()),
        Stage::Escalated => ("escalated", may()),
        Stage::None | Stage::Quiet => return None,
    };
    let mut data = data(broker, webhook, loaded);
    data.insert("people".into(), json!(people));
    data.insert("said".into(), said(stage, state.expires_at(), now).into());
    let also = broker.config.guards.escalate_to.as_ref().filter(|_| stage == Stage::Escalated);
    if let Some(group) = also {
        data.insert("group".into(), json!(group));
    }
    let id = format!("msg_{}_{}_{word}", origin(webhook), state.terms.request_id);
    message(id, &format!("request.{word}"), now, data)
}

fn origin(webhook: &Webhook) -> String {
    Digest::of("webhook-origin", webhook.origin().as_bytes()).hex().chars().take(8).collect()
}

/// The message, without its card where it is too long with it; none where it is too long even so.
fn message(id: String, kind: &str, at: Timestamp, mut data: Map<String, Value>) -> Option<Message> {
    let mut body = body(kind, at, &data);
    if body.len() > MOST_BODY {
        // Where it is whole is told instead.
        data.remove("card");
        data.insert("card_omitted".into(), true.into());
        body = self::body(kind, at, &data);
    }
    (body.len() <= MOST_BODY).then_some(Message { id, body })
}

fn body(kind: &str, at: Timestamp, data: &Map<String, Value>) -> Vec<u8> {
    json!({ "type": kind, "timestamp": at.to_string(), "data": data }).to_string().into_bytes()
}

fn data(broker: &Broker, webhook: &Webhook, loaded: &Loaded) -> Map<String, Value> {
    let (state, terms) = (&loaded.state, &loaded.state.terms);
    let mut out = Map::new();
    out.insert("from".into(), webhook.origin().into());
    out.insert("request_id".into(), json!(terms.request_id));
    out.insert("agent".into(), json!(terms.agent));
    out.insert("scope".into(), json!(terms.scope));
    out.insert("ttl_s".into(), terms.ttl_s.into());
    out.insert("state".into(), state.phase.word().into());
    // What carries the same came for one task of one agent and belongs together.
    if let Some(together) = group::key(loaded) {
        let together: String = together.hex().chars().take(16).collect();
        out.insert("together".into(), together.into());
    }
    if let Some(question) = state.open_question() {
        // Until the agent answers, only who asked may approve.
        out.insert("approval_held_by".into(), json!(question.human));
    }
    if let Some(sheet) = sheet(broker, loaded, NAME)
        && let Value::Object(shown) = webhook.card(&sheet).body
    {
        out.extend(shown);
    }
    out
}

/// What only this event says.
fn details(event: &Event, loaded: &Loaded) -> Map<String, Value> {
    let state = &loaded.state;
    let mut out = Map::new();
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
    out
}
