//! What went wrong, as a page.

use maud::{Markup, html};

/// Why there is no page, and what to do next.
#[must_use]
pub fn problem(title: &str, detail: &str, next: &str, code: &str) -> Markup {
    html! {
        div.sheet.narrow-page {
            h1 { (title) }
            p { (detail) }
            @if !next.is_empty() { p.muted { (next) } }
            p.muted.small { code { (code) } " · " a href="/" { "Inbox" } }
        }
    }
}
