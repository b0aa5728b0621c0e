//! Leases: what lives now, and how to end it.

use grantwright_domain::Timestamp;
use maud::{Markup, html};

use super::words::{phase_word, time};

/// One lease.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Its id.
    pub id: String,
    /// Its request.
    pub request: String,
    /// Whose.
    pub agent: String,
    /// For what.
    pub scope: String,
    /// `live`, `withdrawn`, `revoked`, `expired`.
    pub state: &'static str,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// Its backend can end it.
    pub revocable: bool,
}

/// The page.
#[derive(Debug)]
pub struct Leases<'a> {
    /// The rows.
    pub rows: Vec<Lease>,
    /// Only live ones are shown.
    pub live: bool,
    /// Where the next page begins.
    pub next: Option<String>,
    /// For the forms.
    pub csrf: &'a str,
    /// The time now.
    pub now: Timestamp,
}

/// The page.
#[must_use]
pub fn leases(m: &Leases<'_>) -> Markup {
    html! {
        div.head {
            h1 { "Leases" }
            p {
                @if m.live { "Live credentials, those that end first. " a href="/leases?state=all" { "All of them" } }
                @else { "All leases, newest first. " a href="/leases" { "Live ones" } }
            }
        }
        section data-live="leases" {
            @if m.rows.is_empty() { p.empty { "No lease" @if m.live { " is live" } "." } }
            @else { (table(&m.rows, m.csrf, m.now)) }
        }
        @if let Some(next) = &m.next { div.pages { a.button href=(next) { "Older" } } }
    }
}

/// Leases in a table, with a button to end each that lives.
#[must_use]
pub fn table(rows: &[Lease], csrf: &str, now: Timestamp) -> Markup {
    html! {
        div.scroll {
            table.cards.held {
                thead { tr { th scope="col" { "Scope" } th scope="col" { "Agent" } th scope="col" { "State" } th scope="col" { "Ends" } th scope="col" { "Lease" } th scope="col" { "End it" } } }
                tbody {
                    @for lease in rows {
                        tr {
                            td { a href={ "/requests/" (lease.request) } { strong { (lease.scope) } } }
                            td { a href={ "/agents/" (lease.agent) } { (lease.agent) } }
                            td { (phase_word(lease.state)) }
                            td { (time(lease.expires_at, now)) }
                            td.ids { code.id { (lease.id) } }
                            td {
                                @if lease.state == "live" {
                                    form method="post" action={ "/leases/" (lease.id) "/revoke" } {
                                        input type="hidden" name="csrf" value=(csrf);
                                        button.small type="submit" aria-label={ @if lease.revocable { "End now: lease " } @else { "Stop serving: lease " } (lease.id) } { @if lease.revocable { "End now" } @else { "Stop serving" } }
                                    }
                                    @if !lease.revocable { " " span.small.muted { "its backend cannot recall it" } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
