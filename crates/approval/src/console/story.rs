//! What happened, leaf by leaf, in the broker's words.

use grantwright_domain::event::Decision;
use grantwright_domain::time::ttl_words;
use grantwright_domain::{Event, Timestamp, VerdictKind};
use maud::{Markup, html};

use super::words::{quote, sentence, time};
use crate::show::{plain, prose};

/// One leaf of a request.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its index in the log.
    pub index: u64,
    /// Its kind.
    pub kind: &'static str,
    /// When.
    pub at: Timestamp,
    /// What happened; values in backticks.
    pub told: String,
    /// A reviewer's own words with it, and whose they are.
    pub words: Option<(String, String)>,
}

/// Longest words of a reviewer in the story, in columns.
const WORDS: usize = 600;

/// The step that a leaf tells; `words` are those that a person gave with a vote or a narrowing.
#[must_use]
pub fn step(index: u64, event: &Event, words: Option<&str>) -> Step {
    let whose = match event {
        Event::Narrowed(e) => Some(&e.human),
        Event::Voted(e) => Some(&e.human),
        _ => None,
    };
    let words = whose.zip(words).map(|(h, w)| (prose(w, WORDS).text, h.to_string()));
    Step { index, kind: event.kind(), at: event.at(), told: told(event), words }
}

fn told(event: &Event) -> String {
    match event {
        Event::Requested(e) => {
            let ttl = ttl_words(e.terms.ttl_s);
            format!("`{}` asked for `{}`, for {ttl}", e.terms.agent, e.terms.scope)
        }
        Event::Decided(e) => {
            let said = match e.verdict.kind {
                VerdictKind::Allow => "policy allowed it",
                VerdictKind::Ask => "policy asks people",
                VerdictKind::Deny => "policy refused it",
            };
            let again = if e.again { ", when it was decided again" } else { "" };
            format!("{said}{again}: {}", plain(&e.verdict.reason))
        }
        Event::Questioned(e) => {
            format!("{} asked the agent, through {}", e.human, plain(&e.channel))
        }
        Event::Answered(_) => "the agent answered".into(),
        Event::Narrowed(e) => format!("{} narrowed it, through {}", e.human, plain(&e.channel)),
        Event::Voted(e) => {
            let did = match e.decision {
                Decision::Approve => "approved it",
                Decision::Deny => "denied it",
            };
            let signed = if e.proof.is_some() { ", signed with a passkey" } else { "" };
            let why = match e.reason_code.as_str() {
                "" => String::new(),
                code => format!(": {}", plain(code).replace('_', " ")),
            };
            format!("{} {did} through {}{signed}{why}", e.human, plain(&e.channel))
        }
        Event::Withdrawn(e) => format!("{} took the approval back", e.human),
        Event::Intended(e) => format!("the grant was spent, at `{}`", plain(&e.minter)),
        Event::Issued(e) => format!("issued as lease `{}`, until {}", e.lease_id, e.expires_at),
        Event::Failed(e) => {
            format!("the backend refused (`{}`): {}", plain(&e.code), plain(&e.detail))
        }
        Event::Unknown(e) => format!("the outcome is unknown: {}", plain(&e.detail)),
        Event::Cancelled(e) => format!("cancelled by {}", plain(&e.by)),
        Event::Expired(e) => match &e.lease_id {
            Some(lease) => format!("lease `{lease}` ended by itself"),
            None => "time ran out".into(),
        },
        Event::Renewed(e) => format!("lease `{}` extended until {}", e.lease_id, e.expires_at),
        Event::Revoked(e) => {
            format!("lease `{}` ended by {}: {}", e.lease_id, plain(&e.by), plain(&e.effect))
        }
        other => other.kind().replace('_', " "),
    }
}

/// The story with its leaves, and how to prove that they are in the log.
#[must_use]
pub fn story(id: &str, steps: &[Step], now: Timestamp) -> Markup {
    html! {
        section data-live="story" data-proof-of=(id) {
            h2 { "What happened" }
            ol.story {
                @for step in steps {
                    li data-leaf=(step.index) {
                        p { (sentence(&step.told)) }
                        @if let Some((text, whose)) = &step.words { (quote(text, whose)) }
                        p.small.muted {
                            (time(step.at, now)) " · " (step.kind) " · leaf " (step.index)
                            " " span.proof {}
                        }
                    }
                }
            }
        }
        section {
            h2 { "Proof" }
            p.muted.small {
                "Each leaf above is in the log, whose checkpoint is signed. Your browser can check that "
                "itself, or a command can, from the whole log:"
            }
            div.row.gap-small {
                button.small type="button" data-verify=(id) hidden { "Verify here" }
                span.proof role="status" data-verdict {}
            }
            div.copy.gap-small {
                pre #proof-command tabindex="0" role="region" aria-label="Commands that prove it" {
                    "grantwright audit show " (id) "\ngrantwright audit verify"
                }
                button.small type="button" data-copy="proof-command" hidden { "Copy" }
            }
        }
    }
}
