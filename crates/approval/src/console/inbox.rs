//! The inbox: what waits for me, most urgent first, then the rest. Each row is parts 1, 2, 3 and 8 of
//! the card. What one agent asks for one task is one block, with parts 6 and 7 and a decision for each
//! of its digests.

use grantwright_domain::{Digest, Timestamp};
use maud::{Markup, html};
use serde_json::Value;

use super::words::{count, ident, phase_word, quote, sentence, several, time};
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
    /// Who is asked first; empty: everybody who may decide.
    pub first: Vec<String>,
    /// So little time is left that everybody is asked.
    pub everybody: bool,
    /// The last change that the row shows.
    pub seen: u64,
    /// How many leaves it has.
    pub version: u64,
    /// I may approve it within its block: everything that I must see is there, and a press is enough.
    pub approve_here: bool,
}

/// What came for one task; mostly one request alone.
#[derive(Debug, Clone)]
pub struct Block {
    /// By age.
    pub rows: Vec<Row>,
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
pub struct Inbox<'a> {
    /// What waits for me.
    pub mine: Vec<Block>,
    /// What waits for others.
    pub others: Vec<Block>,
    /// Open requests that are not listed.
    pub more: usize,
    /// What reviewers say looks wrong; for members of `security` only.
    pub alarms: Vec<Alarm>,
    /// How requests of the reader's own agents ended lately.
    pub owned: Vec<Ended>,
    /// What else ended lately.
    pub ended: Vec<Ended>,
    /// Who reads it.
    pub reader: &'a str,
    /// Goes into every form.
    pub csrf: &'a str,
    /// The time now.
    pub now: Timestamp,
}

/// The page.
#[must_use]
pub fn inbox(m: &Inbox<'_>) -> Markup {
    html! {
        div.head {
            h1 { "Inbox" }
            p { (headline(m.mine.iter().map(|block| block.rows.len()).sum())) }
        }
        section data-live="inbox" data-version=(version(&m.mine)) {
            @if !m.alarms.is_empty() { (alarms(&m.alarms, m.now)) }
            h2.small { "Waits for you" }
            @if m.mine.is_empty() {
                p.empty { "Nothing waits for you. This page changes by itself when something does." }
            } @else {
                (list(&m.mine, m))
            }
            @if !m.owned.is_empty() {
                h2.small.gap { "Your agents: how it ended" }
                (ended(&m.owned, m.now))
            }
            @if !m.others.is_empty() {
                h2.small.gap { "Waits for others" }
                (list(&m.others, m))
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

/// What the buttons on the page stand for: no button may change under a finger.
fn version(blocks: &[Block]) -> String {
    let rows = blocks.iter().filter(|b| b.rows.len() > 1).flat_map(|b| &b.rows);
    let shown: Vec<String> = rows.map(|row| format!("{}:{}", row.id, row.version)).collect();
    Digest::of("inbox", shown.join(" ").as_bytes()).hex().chars().take(16).collect()
}

fn list(blocks: &[Block], m: &Inbox<'_>) -> Markup {
    html! {
        ul.requests data-keys {
            @for block in blocks {
                @match &block.rows[..] {
                    [row] => li { (open_row(row, true, m)) },
                    rows => (together(rows, m)),
                }
            }
        }
    }
}

/// Several requests of one task.
fn together(rows: &[Row], m: &Inbox<'_>) -> Markup {
    let Some(first) = rows.first().map(|row| &row.card) else { return html! {} };
    let n = several(rows.len(), "request", "requests");
    html! {
        li.group {
            div.task {
                h3 {
                    (n) " of " code { (first.who.agent) }
                    @if !first.who.owner.is_empty() { ", owned by " (first.who.owner) }
                    @if first.words.task.is_some() { ", for one task" } @else { ", all alike" }
                }
                @if let Some(task) = &first.words.task {
                    (quote(task, &format!("task, {}", first.words.note)))
                }
                p.small.muted { "They came together; each is decided by itself." }
            }
            ol.members {
                @for row in rows { li { (open_row(row, false, m)) (member(row, m)) } }
            }
        }
    }
}

/// Parts 6 and 7 of one of them, and its decision.
fn member(row: &Row, m: &Inbox<'_>) -> Markup {
    let card = &row.card;
    let issues = &card.issues;
    let page = format!("/requests/{}", row.id);
    let named = |what: &str| format!("{what}: {}", card.headline.replace('`', ""));
    let digest = card.digest.hex();
    html! {
        div.member {
            @if let Some(reason) = &card.words.reason {
                (quote(reason, &format!("reason, {}", card.words.note)))
            }
            p.small { "Will be issued: " (sentence(&issues.summary)) ", for " strong { (issues.ttl) }
                "; " (issues.ends) }
            @if issues.what != Value::Null {
                details {
                    summary.small { "Exactly this" }
                    pre { (serde_json::to_string_pretty(&issues.what).unwrap_or_default()) }
                }
            }
            div.choose {
                @if row.approve_here {
                    form method="post" action={ (page) "/approve" } {
                        input type="hidden" name="csrf" value=(m.csrf);
                        input type="hidden" name="digest" value=(digest);
                        input type="hidden" name="seen" value=(row.seen);
                        input type="hidden" name="listed" value="1";
                        button type="submit" aria-label=(named("Approve")) { "Approve" }
                    }
                }
                a.button href=(page) aria-label=(named("Open")) {
                    @if row.approve_here { "Deny, ask or narrow" } @else { "Open" }
                }
                span.small.muted { "digest " (ident(digest.get(..16).unwrap_or_default())) }
            }
        }
    }
}

fn open_row(row: &Row, alone: bool, m: &Inbox<'_>) -> Markup {
    let card = &row.card;
    let state = &card.state;
    html! {
        a.open href={ "/requests/" (row.id) } {
            span.what { (sentence(&card.headline)) }
            span.about { (stakes(&card.stakes)) }
            @if !card.unusual.is_empty() {
                span.odd { b { "Unusual: " } (card.unusual.join(" · ")) }
            }
            @if alone {
                span.about { code { (card.who.agent) } @if !card.who.owner.is_empty() { " of " (card.who.owner) } }
            }
            span.where {
                @if let Some(at) = state.expires_at {
                    strong data-left=(at.to_string()) { (left(at, m.now)) }
                    span.dot { " · " }
                }
                (state.have) " of " (state.needed) ", "
                @if row.approved { "you approved; " }
                (sentence(&state.sentence))
                (asked(row, m.reader))
            }
        }
    }
}

/// Who is asked.
fn asked(row: &Row, reader: &str) -> Markup {
    let first = row.first.iter().map(|who| if who == reader { "you" } else { who.as_str() });
    html! {
        @if row.everybody { "; everybody is asked now" }
        @else if !row.first.is_empty() {
            "; asked first: " (first.collect::<Vec<_>>().join(", "))
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
