//! Small pieces that many pages share.

use grantwright_domain::scope::grouped;
use grantwright_domain::{Phase, Timestamp};
use maud::{Markup, html};

use crate::text::when;

/// A moment, absolute and relative; the script shows it in the reader's zone.
#[must_use]
pub fn time(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(at.to_string()) { (when(at, now)) } }
}

/// The broker's sentence, whose values stand between backticks.
#[must_use]
pub fn sentence(text: &str) -> Markup {
    html! {
        @for (n, part) in text.split('`').enumerate() {
            @if n % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// An identifier, small and copyable.
#[must_use]
pub fn ident(text: &str) -> Markup {
    html! { code.id { (text) } }
}

/// Somebody's own words, and whose they are.
#[must_use]
pub fn quote(text: &str, whose: &str) -> Markup {
    html! {
        figure.words {
            blockquote { "❝ " bdi { (text) } " ❞" }
            figcaption { (whose) }
        }
    }
}

/// Where a request stands, in one word.
#[must_use]
pub fn phase(phase: Phase) -> Markup {
    phase_word(phase.word())
}

/// The same from its word.
#[must_use]
pub fn phase_word(word: &str) -> Markup {
    html! { span.phase data-phase=(word) { (word) } }
}

/// A count with its digits grouped.
#[must_use]
pub fn count(n: usize) -> String {
    grouped(i64::try_from(n).unwrap_or(i64::MAX))
}

/// `1 vote`, `2 votes`.
#[must_use]
pub fn several(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}
