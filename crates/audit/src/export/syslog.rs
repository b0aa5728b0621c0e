//! RFC 5424: one message a leaf, its text the leaf itself.

use grantwright_domain::event::Decision;
use grantwright_domain::{Event, VerdictKind};

use super::Entry;

/// Facility `log audit`.
const AUDIT: u8 = 13;
/// Longest message id and host name that the RFC allows.
const MOST_ID: usize = 32;
const MOST_HOST: usize = 255;

/// One message, without framing and without an end of line.
pub(super) fn message(e: &Entry<'_>) -> Vec<u8> {
    let kind = e.event.kind();
    let id = kind.get(..MOST_ID).unwrap_or(kind);
    let mut data = format!(
        "[grantwright@{} origin=\"{}\" index=\"{}\" leafHash=\"{}\"",
        e.origin.enterprise,
        escaped(&e.origin.log),
        e.index,
        e.hash
    );
    if let Some(request) = e.event.request_id() {
        data.push_str(&format!(" request=\"{}\"", escaped(request.as_str())));
    }
    data.push(']');
    let head = format!(
        "<{}>1 {} {} grantwright - {id} {data} ",
        u16::from(AUDIT) * 8 + u16::from(severity(e.event)),
        e.event.at(),
        host(&e.origin.host),
    );
    // The mark says that the text is UTF-8.
    [head.as_bytes(), b"\xef\xbb\xbf", e.leaf.as_bytes()].concat()
}

/// A message as it goes over a stream (RFC 5425): its length in bytes, a space, the message.
#[must_use]
pub fn framed(message: &[u8]) -> Vec<u8> {
    [message.len().to_string().as_bytes(), b" ", message].concat()
}

/// Syslog's severities: 4 warning, 5 notice, 6 informational.
fn severity(event: &Event) -> u8 {
    match event {
        Event::Unknown(_) | Event::InstanceRevoked(_) => 4,
        Event::Decided(e) if e.verdict.kind == VerdictKind::Deny => 5,
        Event::Voted(e) if e.reason_code == "looks_wrong" => 4,
        Event::Voted(e) if e.decision == Decision::Deny => 5,
        Event::Failed(_) | Event::Revoked(_) | Event::AgentRevoked(_) => 5,
        e if e.request_id().is_none() => 5,
        _ => 6,
    }
}

fn host(name: &str) -> String {
    let graphic: String = name.chars().filter(char::is_ascii_graphic).take(MOST_HOST).collect();
    if graphic.is_empty() { "-".into() } else { graphic }
}

/// A parameter's value: quote, backslash and bracket are escaped; control characters do not occur.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars().filter(|c| !c.is_control()) {
        if matches!(c, '"' | '\\' | ']') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
