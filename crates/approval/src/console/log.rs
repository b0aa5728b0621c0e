//! Searching the log.

use grantwright_domain::Timestamp;
use maud::{Markup, html};

use super::inbox::{Ended, ended};
use super::words::{ident, time};

/// What was searched for, as it was typed.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// An agent.
    pub agent: String,
    /// A person who decided, asked or narrowed.
    pub human: String,
    /// A scope.
    pub scope: String,
    /// An outcome.
    pub outcome: String,
    /// From this day or moment on.
    pub from: String,
    /// Until this day or moment.
    pub until: String,
    /// Words of the agent's or of reviewers.
    pub text: String,
    /// A parameter's text.
    pub resource: String,
}

impl Terms {
    /// More than words and an outcome.
    fn is_narrowed(&self) -> bool {
        [&self.agent, &self.human, &self.scope, &self.resource, &self.from, &self.until]
            .iter()
            .any(|t| !t.is_empty())
    }
}

/// The page.
#[derive(Debug)]
pub struct Log<'a> {
    /// What was searched for.
    pub terms: Terms,
    /// Agents to choose from.
    pub agents: Vec<String>,
    /// Scopes to choose from.
    pub scopes: Vec<String>,
    /// What was found, newest first.
    pub rows: Vec<Ended>,
    /// Where to go on, and what the search has seen so far.
    pub next: Option<(String, Timestamp)>,
    /// Leaves in the log.
    pub leaves: u64,
    /// The newest checkpoint.
    pub checkpoint: &'a str,
    /// The time now.
    pub now: Timestamp,
}

const OUTCOMES: [&str; 10] = [
    "",
    "pending",
    "approved",
    "granted",
    "denied",
    "expired",
    "cancelled",
    "failed",
    "unknown",
    "intended",
];

/// The page.
#[must_use]
pub fn log(m: &Log<'_>) -> Markup {
    let t = &m.terms;
    html! {
        div.head { h1 { "Log" } p { (grantwright_domain::scope::grouped(i64::try_from(m.leaves).unwrap_or(i64::MAX))) " leaves" } }
        form.search role="search" method="get" action="/log" {
            div.first {
                label { "Words" input name="text" type="search" value=(t.text) maxlength="100" placeholder="of the agent or of a reviewer"; }
                label { "Outcome" select name="outcome" {
                    @for word in OUTCOMES {
                        option value=(word) selected[t.outcome == word] { @if word.is_empty() { "any" } @else { (word) } }
                    }
                } }
                button type="submit" { "Search" }
            }
            details open[t.is_narrowed()] {
                summary { "By agent, person, scope, resource or day" }
                div.second {
                    label { "Agent" input name="agent" value=(t.agent) list="agents" autocapitalize="off" spellcheck="false"; }
                    label { "Person" input name="human" value=(t.human) autocapitalize="off" spellcheck="false"; }
                    label { "Scope" input name="scope" value=(t.scope) list="scopes" autocapitalize="off" spellcheck="false"; }
                    label { "Resource" input name="resource" value=(t.resource) maxlength="100" autocapitalize="off" spellcheck="false"; }
                    label { "From" input name="from" type="date" value=(t.from); }
                    label { "Until" input name="until" type="date" value=(t.until); }
                }
            }
            datalist #agents { @for a in &m.agents { option value=(a) {} } }
            datalist #scopes { @for s in &m.scopes { option value=(s) {} } }
        }
        section {
            @if m.rows.is_empty() { p.empty { "Nothing found" @if m.next.is_some() { " so far" } "." } }
            @else { (ended(&m.rows, m.now)) }
            @if let Some((next, seen)) = &m.next {
                div.pages { a.button href=(next) { "Go on" } span.muted.small { "searched back to " (time(*seen, m.now)) } }
            }
        }
        section {
            h2 { "Its checkpoint" }
            pre { (m.checkpoint) }
            p.small.muted { "Anyone may keep it: a log that shrank or forked contradicts it. "
                "Verify all of it with " (ident("grantwright audit verify")) "." }
        }
    }
}
