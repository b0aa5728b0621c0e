//! The inbox: what waits for me, most urgent first, then the rest. Each row is parts 1, 2, 3 and 8 of
//! the card. What one agent asks for one task is one block, with parts 6 and 7 and a decision for each
//! of its digests.
//!
//! Each part of the page has a bound in bytes, so that the page stays small whatever waits. What does
//! not fit is reached from it: a block's rest on the page of its task, what ends later on the next page.

use grantwright_domain::{Digest, Timestamp};
use maud::{Markup, html};
use serde_json::Value;

use super::words::{count, ident, phase_word, quote, sentence, several, time};
use crate::Card;

/// Most bytes of each part of the page. With frame, stylesheet and scripts (40 kB) they stay below
/// 100 kB.
const OF_ALARMS: usize = 10_000;
const OF_MINE: usize = 26_000;
const OF_OWNED: usize = 6_000;
const OF_OTHERS: usize = 8_000;
const OF_ENDED: usize = 6_000;
/// Most bytes of one block of several, but for its first request.
const OF_BLOCK: usize = 9_000;
/// Longest permission that a block shows in full, in bytes; a longer one is read, and decided, on its
/// request's page.
const EXACT: usize = 1_500;

/// Where an open request stands among all that end: when it ends, and the index of its first leaf.
pub type Place = (Timestamp, u64);

/// One request that can still be decided.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub place: Place,
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
    /// Most urgent first.
    pub rows: Vec<Row>,
    /// More of the same task that wait.
    pub more: usize,
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
    /// What waits for the reader in all, as far as it was counted.
    pub waits: usize,
    /// More may wait for the reader than was counted.
    pub uncounted: bool,
    /// Open requests of all agents, for anybody.
    pub open: usize,
    /// Where the page that follows begins, if one does.
    pub later: Option<Place>,
    /// This page is one that follows.
    pub follows: bool,
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
    let (mine, cut) = list(&m.mine, m.reader, m.csrf, m.now, OF_MINE);
    let (others, unlisted) = list(&m.others, m.reader, m.csrf, m.now, OF_OTHERS);
    let later = sooner(m.later, cut);
    let further = later.or(unlisted).is_some() || m.open > shown(&m.mine) + shown(&m.others);
    let blocks = m.mine.iter().filter(|b| b.rows.len() + b.more > 1);
    html! {
        div.head {
            h1 { "Inbox" }
            p { (headline(m.waits, m.uncounted)) }
        }
        section data-live="inbox" data-version=(version(blocks.flat_map(|b| &b.rows))) {
            @if !m.alarms.is_empty() { (alarms(&m.alarms, m.now)) }
            h2.small { @if m.follows { "Waits for you, and ends later" } @else { "Waits for you" } }
            @if !m.mine.is_empty() {
                (mine)
            } @else if m.follows {
                p.empty { "Nothing here waits for you. " a href="/" { "What ends first" } }
            } @else {
                p.empty { "Nothing waits for you. This page changes by itself when something does." }
            }
            @if !m.owned.is_empty() {
                h2.small.gap { "Your agents: how it ended" }
                (ended_within(&m.owned, m.now, OF_OWNED))
            }
            @if !m.others.is_empty() {
                h2.small.gap { "Waits for others" }
                (others)
            }
            @if further {
                nav.pages aria-label="Further requests" {
                    @if let Some(place) = later {
                        a.button rel="next" href={ "/?from=" (written(place)) } { "What ends later" }
                    }
                    span.muted.small {
                        (several(m.open, "request waits", "requests wait")) " in all. "
                        a href="/log?outcome=pending" { "All of them" }
                    }
                }
            }
            @if !m.ended.is_empty() {
                h2.small.gap { "Lately" }
                (ended_within(&m.ended, m.now, OF_ENDED))
            }
        }
    }
}

/// What waits of one task, on a page of its own.
#[derive(Debug)]
pub struct Task<'a> {
    /// A request of it, waiting or not.
    pub of: &'a str,
    /// What waits of it.
    pub block: Block,
    /// Where the page that follows begins, if one does.
    pub later: Option<Place>,
    /// Who reads it.
    pub reader: &'a str,
    /// Goes into every form.
    pub csrf: &'a str,
    /// The time now.
    pub now: Timestamp,
}

/// The page of one task.
#[must_use]
pub fn task(m: &Task<'_>) -> Markup {
    let (members, cut) = members(&m.block.rows, m.reader, m.csrf, m.now, Some(m.of), OF_MINE);
    html! {
        div.head { h1 { "One task" } p { a href="/" { "Back to the inbox" } } }
        section data-live="task" data-version=(version(m.block.rows.iter())) {
            @if let Some(first) = m.block.rows.first() {
                ul.requests data-keys { li.group {
                    (of_task(&first.card, None))
                    (members)
                } }
            } @else {
                p.empty { "Nothing " @if m.later.is_some() { "here " } "waits of this task." }
            }
            @if let Some(place) = sooner(m.later, cut) {
                nav.pages aria-label="Further requests" {
                    a.button rel="next" href={ "/?of=" (m.of) "&from=" (written(place)) } { "What ends later" }
                }
            }
        }
    }
}

fn sooner(a: Option<Place>, b: Option<Place>) -> Option<Place> {
    a.into_iter().chain(b).min()
}

/// A place as an address says it.
#[must_use]
pub fn written((at, index): Place) -> String {
    format!("{}-{index}", at.millis())
}

/// A place from an address; none where the address says none.
#[must_use]
pub fn place(text: &str) -> Option<Place> {
    let (at, index) = text.split_once('-')?;
    Some((Timestamp::from_millis(at.parse().ok().filter(|ms| *ms >= 0)?), index.parse().ok()?))
}

fn shown(blocks: &[Block]) -> usize {
    blocks.iter().map(|block| block.rows.len() + block.more).sum()
}

/// As many as fit, in their order, and always the first.
fn fit(parts: impl Iterator<Item = Markup>, most: usize) -> Vec<Markup> {
    let mut bytes = 0;
    parts
        .enumerate()
        .take_while(|(n, part)| {
            bytes += part.0.len();
            *n == 0 || bytes <= most
        })
        .map(|(_, part)| part)
        .collect()
}

/// Above everything else: somebody saw something that should not be.
fn alarms(alarms: &[Alarm], now: Timestamp) -> Markup {
    let alarm = |alarm: &Alarm| {
        html! {
            li {
                strong { (alarm.by) } " denied "
                a href={ "/requests/" (alarm.row.id) } { (sentence(name(&alarm.row))) }
                " of " a href={ "/agents/" (alarm.row.agent) } { (alarm.row.agent) }
                ", " (time(alarm.at, now))
                @if !alarm.words.is_empty() { (quote(&alarm.words, &alarm.by)) }
            }
        }
    };
    let parts = fit(alarms.iter().map(alarm), OF_ALARMS);
    html! {
        div.notice.refused role="alert" {
            h2 { "Looks wrong" }
            ul.plain { @for part in &parts { (part) } }
        }
    }
}

fn name(row: &Ended) -> &str {
    if row.what.is_empty() { &row.scope } else { &row.what }
}

fn headline(mine: usize, uncounted: bool) -> String {
    match (mine, uncounted) {
        (0, _) => String::new(),
        (1, false) => "one request waits for you".into(),
        (n, false) => format!("{} requests wait for you", count(n)),
        (n, true) => format!("{} or more requests wait for you", count(n)),
    }
}

/// What the buttons on the page stand for: no button may change under a finger.
fn version<'a>(rows: impl Iterator<Item = &'a Row>) -> String {
    let shown: Vec<String> = rows.map(|row| format!("{}:{}", row.id, row.version)).collect();
    Digest::of("inbox", shown.join(" ").as_bytes()).hex().chars().take(16).collect()
}

/// As many blocks as fit, and where the first stands that does not.
fn list(
    blocks: &[Block],
    reader: &str,
    csrf: &str,
    now: Timestamp,
    most: usize,
) -> (Markup, Option<Place>) {
    let block = |block: &Block| match &block.rows[..] {
        [row] if block.more == 0 => html! { li { (open_row(row, true, reader, now)) } },
        _ => together(block, reader, csrf, now),
    };
    let parts = fit(blocks.iter().map(block), most);
    let cut = blocks.iter().skip(parts.len()).flat_map(|b| &b.rows).map(|row| row.place).min();
    (html! { ul.requests data-keys { @for part in &parts { (part) } } }, cut)
}

/// Several requests of one task.
fn together(block: &Block, reader: &str, csrf: &str, now: Timestamp) -> Markup {
    let Some(first) = block.rows.first() else { return html! {} };
    let (members, cut) = members(&block.rows, reader, csrf, now, None, OF_BLOCK);
    let left_out = cut.map_or(0, |place| block.rows.iter().filter(|r| r.place >= place).count());
    let more = block.more + left_out;
    html! {
        li.group {
            (of_task(&first.card, Some(block.rows.len() + block.more)))
            (members)
            @if more > 0 {
                p.rest { a.open href={ "/?of=" (first.id) } { "and " (count(more)) " more of this task" } }
            }
        }
    }
}

/// Whose task it is, and in whose words.
fn of_task(first: &Card, n: Option<usize>) -> Markup {
    let n = n.map(|n| several(n, "request", "requests"));
    html! {
        div.task {
            h3 {
                (n.as_deref().unwrap_or("Requests")) " of " code { (first.who.agent) }
                @if !first.who.owner.is_empty() { ", owned by " (first.who.owner) }
                @if first.words.task.is_some() { ", for one task" } @else { ", all alike" }
            }
            @if let Some(task) = &first.words.task {
                (quote(task, &format!("task, {}", first.words.note)))
            }
            p.small.muted { "They came together; each is decided by itself." }
        }
    }
}

/// As many of a block as fit, and where the first stands that does not.
fn members(
    rows: &[Row],
    reader: &str,
    csrf: &str,
    now: Timestamp,
    of: Option<&str>,
    most: usize,
) -> (Markup, Option<Place>) {
    let one = |row: &Row| {
        html! { li { (open_row(row, false, reader, now)) (member(row, csrf, of)) } }
    };
    let parts = fit(rows.iter().map(one), most);
    let cut = rows.iter().skip(parts.len()).map(|row| row.place).min();
    (html! { ol.members { @for part in &parts { (part) } } }, cut)
}

/// Parts 6 and 7 of one of them, and its decision; `of` names the page of one task, which a decision
/// leads back to.
fn member(row: &Row, csrf: &str, of: Option<&str>) -> Markup {
    let card = &row.card;
    let issues = &card.issues;
    let page = format!("/requests/{}", row.id);
    let named = |what: &str| format!("{what}: {}", card.headline.replace('`', ""));
    let digest = card.digest.hex();
    let exact = match &issues.what {
        Value::Null => String::new(),
        what => serde_json::to_string_pretty(what).unwrap_or_default(),
    };
    let approve_here = row.approve_here && exact.len() <= EXACT;
    html! {
        div.member {
            @if let Some(reason) = &card.words.reason {
                (quote(reason, &format!("reason, {}", card.words.note)))
            }
            p.small { "Will be issued: " (sentence(&issues.summary)) ", for " strong { (issues.ttl) }
                "; " (issues.ends) }
            @if !exact.is_empty() && exact.len() <= EXACT {
                details {
                    summary.small { "Exactly this" }
                    pre { (exact) }
                }
            }
            div.choose {
                @if approve_here {
                    form method="post" action={ (page) "/approve" } {
                        input type="hidden" name="csrf" value=(csrf);
                        input type="hidden" name="digest" value=(digest);
                        input type="hidden" name="seen" value=(row.seen);
                        input type="hidden" name="listed" value=(of.unwrap_or("1"));
                        button type="submit" aria-label=(named("Approve")) { "Approve" }
                    }
                }
                a.button href=(page) aria-label=(named("Open")) {
                    @if approve_here { "Deny, ask or narrow" } @else { "Open" }
                }
                span.small.muted { "digest " (ident(digest.get(..16).unwrap_or_default())) }
            }
        }
    }
}

fn open_row(row: &Row, alone: bool, reader: &str, now: Timestamp) -> Markup {
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
                    strong data-left=(at.to_string()) { (left(at, now)) }
                    span.dot { " · " }
                }
                (state.have) " of " (state.needed) ", "
                @if row.approved { "you approved; " }
                (sentence(&state.sentence))
                (asked(row, reader))
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
    ended_within(rows, now, usize::MAX)
}

/// As many of them as fit.
fn ended_within(rows: &[Ended], now: Timestamp, most: usize) -> Markup {
    let row = |row: &Ended| {
        html! {
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
    };
    let rows = fit(rows.iter().map(row), most);
    html! {
        div.scroll {
            table.cards.told {
                thead { tr {
                    th scope="col" { "What" } th scope="col" { "Agent" } th scope="col" { "Outcome" }
                    th.when scope="col" { "Asked" }
                } }
                tbody { @for row in &rows { (row) } }
            }
        }
    }
}
