//! The inbox: what waits for me, most urgent first, then the rest. Each row is parts 1, 2, 3 and 8 of
//! the card.

use grantwright_domain::Timestamp;
use maud::{Markup, html};

use super::words::{count, phase_word, quote, sentence, several, time};
use crate::Card;

/// One request that can still be decided.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its id.
    pub id: String,
    /// What is asked.
    pub card: Card,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// I approved it already.
    pub approved: bool,
}

/// One request in a table.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its id.
    pub id: String,
    /// Who asked.
    pub agent: String,
    /// For what.
    pub scope: String,
    /// What was asked, in the broker's sentence; empty where a list is too long to say it.
    pub what: String,
    /// Where it stands.
    pub phase: String,
    /// How it ended and by whom, in the broker's sentence; may be empty.
    pub how: String,
    /// When it was asked.
    pub asked_at: Timestamp,
}

/// A deny of somebody who says that the request looks wrong, for those who look after security.
#[derive(Debug, Clone)]
pub struct Alarm {
    /// The request.
    pub row: Ended,
    /// Who denied it.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// In whose words; empty: none.
    pub words: String,
}

/// The whole page.
#[derive(Debug)]
pub struct Inbox {
    /// What waits for me.
    pub mine: Vec<Row>,
    /// What waits for others.
    pub others: Vec<Row>,
    /// Open requests that are not listed.
    pub more: usize,
    /// What reviewers say looks wrong; for members of `security` only.
    pub alarms: Vec<Alarm>,
    /// How requests of the reader's own agents ended lately.
    pub owned: Vec<Ended>,
    /// What else ended lately.
    pub ended: Vec<Ended>,
    /// The time now.
    pub now: Timestamp,
}

/// The page.
#[must_use]
pub fn inbox(m: &Inbox) -> Markup {
    html! {
        div.head {
            h1 { "Inbox" }
            p { (headline(m.mine.len())) }
        }
        section data-live="inbox" {
            @if !m.alarms.is_empty() { (alarms(&m.alarms, m.now)) }
            h2.small { "Waits for you" }
            @if m.mine.is_empty() {
                p.empty { "Nothing waits for you. This page changes by itself when something does." }
            } @else {
                ul.requests data-keys {
                    @for row in &m.mine { (open_row(row, m.now)) }
                }
            }
            @if !m.owned.is_empty() {
                h2.small.gap { "Your agents: how it ended" }
                (ended(&m.owned, m.now))
            }
            @if !m.others.is_empty() {
                h2.small.gap { "Waits for others" }
                ul.requests data-keys {
                    @for row in &m.others { (open_row(row, m.now)) }
                }
            }
            @if m.more > 0 {
                p.muted.gap { (several(m.more, "more request waits", "more requests wait"))
                    "; those above end first. " a href="/log?outcome=pending" { "All of them" } }
            }
            @if !m.ended.is_empty() {
                h2.small.gap { "Lately" }
                (ended(&m.ended, m.now))
            }
        }
    }
}

/// Above everything else: somebody saw something that should not be.
fn alarms(alarms: &[Alarm], now: Timestamp) -> Markup {
    html! {
        div.notice.refused role="alert" {
            h2 { "Looks wrong" }
            ul.plain {
                @for alarm in alarms {
                    li {
                        strong { (alarm.by) } " denied "
                        a href={ "/requests/" (alarm.row.id) } { (sentence(name(&alarm.row))) }
                        " of " a href={ "/agents/" (alarm.row.agent) } { (alarm.row.agent) }
                        ", " (time(alarm.at, now))
                        @if !alarm.words.is_empty() { (quote(&alarm.words, &alarm.by)) }
                    }
                }
            }
        }
    }
}

fn name(row: &Ended) -> &str {
    if row.what.is_empty() { &row.scope } else { &row.what }
}

fn headline(mine: usize) -> String {
    match mine {
        0 => String::new(),
        1 => "one request waits for you".into(),
        n => format!("{} requests wait for you", count(n)),
    }
}

fn open_row(row: &Row, now: Timestamp) -> Markup {
    let card = &row.card;
    let state = &card.state;
    html! {
        li {
            a.open href={ "/requests/" (row.id) } {
                span.what { (sentence(&card.headline)) }
                span.about { (stakes(&card.stakes)) }
                @if !card.unusual.is_empty() {
                    span.odd { b { "Unusual: " } (card.unusual.join(" · ")) }
                }
                span.about { code { (card.who.agent) } @if !card.who.owner.is_empty() { " of " (card.who.owner) } }
                span.where {
                    @if let Some(at) = state.expires_at {
                        strong data-left=(at.to_string()) { (left(at, now)) }
                        span.dot { " · " }
                    }
                    (state.have) " of " (state.needed) ", "
                    @if row.approved { "you approved; " }
                    (sentence(&state.sentence))
                }
            }
        }
    }
}

/// Time left, in words.
#[must_use]
pub fn left(at: Timestamp, now: Timestamp) -> String {
    let s = (at.since(now) / 1000).max(0);
    match s {
        0..60 => format!("{s} s left"),
        60..7200 => format!("{} min left", s / 60),
        _ => format!("{} h left", s / 3600),
    }
}

/// Part 2; what is grave is bold as well as coloured.
#[must_use]
pub fn stakes(stakes: &[String]) -> Markup {
    html! {
        span.stakes {
            @for (n, stake) in stakes.iter().enumerate() {
                @if n > 0 { " · " }
                @if is_grave(stake) { span.grave { (stake) } } @else { (stake) }
            }
        }
    }
}

fn is_grave(stake: &str) -> bool {
    stake.starts_with("high") || stake.starts_with("critical") || stake == "production"
}

/// Requests in a table.
#[must_use]
pub fn ended(rows: &[Ended], now: Timestamp) -> Markup {
    html! {
        div.scroll {
            table.cards.told {
                thead { tr {
                    th scope="col" { "What" } th scope="col" { "Agent" } th scope="col" { "Outcome" }
                    th.when scope="col" { "Asked" }
                } }
                tbody {
                    @for row in rows {
                        tr {
                            td.what { a href={ "/requests/" (row.id) } {
                                @if row.what.is_empty() { code { (row.scope) } } @else { (sentence(&row.what)) }
                            } }
                            td { a href={ "/agents/" (row.agent) } { (row.agent) } }
                            td { (phase_word(&row.phase))
                                @if !row.how.is_empty() { " " span.small.muted { (sentence(&row.how)) } } }
                            td.when { (time(row.asked_at, now)) }
                        }
                    }
                }
            }
        }
    }
}
