//! Agents: who they are, who answers for them, what they hold.

use grantwright_domain::Timestamp;
use maud::{Markup, html};

use super::inbox::{Ended, ended};
use super::leases::{Lease, table};
use super::words::{count, phase_word, several, time};

/// One agent in the list.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// Who answers for it.
    pub owner: String,
    /// Its team, or empty.
    pub team: String,
    /// Its environment, or empty.
    pub environment: String,
    /// Model and version, or empty.
    pub model: String,
    /// The model is qualified, and until when.
    pub qualified_until: Option<Timestamp>,
    /// Its right ended.
    pub revoked: bool,
    /// Enrolled sidecars that are not revoked.
    pub sidecars: usize,
    /// Its requests that can still be decided.
    pub open: u64,
}

/// One sidecar.
#[derive(Debug, Clone)]
pub struct Sidecar {
    /// Its name.
    pub name: String,
    /// End of its certificate.
    pub not_after: Timestamp,
    /// Its lineage ended.
    pub revoked: bool,
}

/// All agents.
#[must_use]
pub fn agents(rows: &[Agent], more: usize, now: Timestamp) -> Markup {
    html! {
        div.head { h1 { "Agents" } p { (several(rows.len() + more, "agent", "agents")) ". " a href="/delegations" { "Delegations" } } }
        @if rows.is_empty() { p.empty { "No agent is registered. An operator registers one with " code { "grantwright agent set" } "." } }
        @else { div.scroll {
            table.cards {
                thead { tr { th scope="col" { "Agent" } th scope="col" { "Owner" } th scope="col" { "Team" } th scope="col" { "Environment" } th scope="col" { "Model" } th.num scope="col" { "Sidecars" } th.num scope="col" { "Open" } } }
                tbody {
                    @for a in rows {
                        tr {
                            td { a href={ "/agents/" (a.name) } { strong { (a.name) } } @if a.revoked { " " (phase_word("revoked")) } }
                            td data-name="owner" { (a.owner) }
                            td data-name="team" { (a.team) }
                            td data-name="environment" { (a.environment) }
                            td data-name="model" { (a.model) @if !a.model.is_empty() { span.small.muted { " " (qualified(a, now)) } } }
                            td.num data-name="sidecars" { (count(a.sidecars)) }
                            td.num data-name="open requests" { (a.open) }
                        }
                    }
                }
            }
        } }
        @if more > 0 { p.muted { (several(more, "more agent is", "more agents are")) " registered." } }
    }
}

fn qualified(agent: &Agent, now: Timestamp) -> Markup {
    html! {
        @match agent.qualified_until {
            Some(until) => { "qualified until " (time(until, now)) },
            None => "not qualified",
        }
    }
}

/// One agent.
#[derive(Debug)]
pub struct One<'a> {
    /// It.
    pub agent: &'a Agent,
    /// Its owners, oldest first, each with the end of the ownership.
    pub owners: Vec<(String, Option<Timestamp>)>,
    /// Its sidecars.
    pub sidecars: Vec<Sidecar>,
    /// Its live leases.
    pub leases: Vec<Lease>,
    /// What it asked lately.
    pub requests: Vec<Ended>,
    /// For the forms.
    pub csrf: &'a str,
    /// The time now.
    pub now: Timestamp,
}

/// The page of one agent.
#[must_use]
pub fn agent(m: &One<'_>) -> Markup {
    let a = m.agent;
    html! {
        div.head { h1 { (a.name) } @if a.revoked { (phase_word("revoked")) } }
        section {
            dl.facts {
                dt { "Owner" }
                dd {
                    p { (a.owner) }
                    @for (who, until) in &m.owners {
                        @if let Some(until) = until { p.small.muted { (who) ", until " (time(*until, m.now)) } }
                    }
                }
                dt { "Team" } dd { (or_none(&a.team)) }
                dt { "Environment" } dd { (or_none(&a.environment)) }
                dt { "Model" } dd { (or_none(&a.model)) @if !a.model.is_empty() { ", " (qualified(a, m.now)) } }
                dt { "Sidecars" }
                dd {
                    @if m.sidecars.is_empty() { "none enrolled" }
                    @for s in &m.sidecars {
                        p { code { (s.name) } span.small.muted {
                            @if s.revoked { " revoked" } @else { " certificate until " (time(s.not_after, m.now)) } } }
                    }
                }
            }
        }
        section {
            h2 { "Holds now" }
            @if m.leases.is_empty() { p.empty { "No live lease." } } @else { (table(&m.leases, m.csrf, m.now)) }
        }
        section {
            h2 { "Asked lately" }
            @if m.requests.is_empty() { p.empty { "Nothing yet." } } @else { (ended(&m.requests, m.now)) }
            p.small { a href={ "/log?agent=" (a.name) } { "All its requests" } }
        }
    }
}

fn or_none(text: &str) -> Markup {
    html! { @if text.is_empty() { span.muted { "none given" } } @else { (text) } }
}
