//! The card, notices and the flood message in Block Kit. Everything is `rich_text` with literal
//! elements or `plain_text`: Slack reads no markup, mention or link out of it. The bounds are those of
//! docs.slack.dev's Block Kit reference.

use grantwright_domain::event::Decision;
use grantwright_domain::scope::grouped;
use grantwright_domain::{Phase, Strength, Timestamp};
use serde_json::{Value, json};

use crate::card::{Card, Who};
use crate::channel::{Flood, Message, Notice};
use crate::sheet::{Approve, Sheet};
use crate::text::flatten;

/// Most parameters that a message lists.
const PARAMS: usize = 20;
/// Longest text of one element.
const ELEMENT: usize = 2900;

/// Most requests of one message: it has at most 50 blocks.
pub(super) const MOST_GROUPED: usize = 5;

/// Several requests of one task. What they share stands first; each has its digest and its buttons.
pub(super) fn group(sheets: &[Sheet]) -> Message {
    let open = sheets.iter().filter(|s| s.open).count();
    let agent = sheets.first().map(|s| s.card.who.agent.as_str()).unwrap_or_default();
    let said = format!(
        "{} requests that came together, {open} open. Each is decided by itself: ",
        sheets.len()
    );
    let mut blocks = vec![section(vec![bold(&said), code(agent)])];
    let mut task = None;
    for (n, sheet) in sheets.iter().take(MOST_GROUPED).enumerate() {
        let card = &sheet.card;
        blocks.push(json!({ "type": "divider" }));
        let mut head = vec![bold(&format!("{} of {} · ", n + 1, sheets.len()))];
        head.extend(headline(card));
        if !sheet.open {
            head.push(plain("\n"));
            head.extend(coded(&card.state.sentence, false));
            blocks.push(section(head));
            blocks.push(ids(sheet));
            continue;
        }
        head.push(plain(&format!("\n{}", card.stakes.join(" · "))));
        if !card.unusual.is_empty() {
            head.extend([bold("\nUnusual: "), plain(&card.unusual.join(" · "))]);
        }
        head.push(plain("\n"));
        head.extend(who(&card.who));
        if !card.asked_because.reason.is_empty() {
            head.extend([bold("\nWhy you are asked: "), plain(&card.asked_because.reason)]);
        }
        blocks.push(section(head));
        // The same task is said once.
        let same = n > 0 && task == Some(card.words.task.clone());
        task = Some(card.words.task.clone());
        let mut shown = card.clone();
        if same {
            shown.words.task = None;
        }
        blocks.push(words(&shown));
        blocks.push(issues(card));
        blocks.push(progress(sheet));
        blocks.extend(elsewhere(sheet));
        let mut buttons = buttons(sheet);
        if let Value::Object(map) = &mut buttons {
            map.insert("block_id".into(), format!("gw_decide_{n}").into());
        }
        blocks.push(buttons);
        blocks.push(ids(sheet));
    }
    let what = if open > 0 { "wait for decisions" } else { "have ended" };
    let text = format!("Requests of agent {agent} {what}");
    Message { text: text.clone(), body: json!({ "text": text, "blocks": blocks }) }
}

/// Why approving is not possible here.
fn elsewhere(sheet: &Sheet) -> Option<Value> {
    match sheet.approve {
        Approve::Console(why) if sheet.open => {
            Some(section(vec![plain(&format!("Approve in the console: {why}."))]))
        }
        _ => None,
    }
}

/// Ids and hashes: small, last.
fn ids(sheet: &Sheet) -> Value {
    let last = format!("request {} · digest {}", sheet.handle.request, sheet.card.digest.hex());
    json!({ "type": "context", "elements": [text_object(&last, 2000)] })
}

/// The card.
pub(super) fn card(sheet: &Sheet) -> Message {
    let card = &sheet.card;
    let open = sheet.open;
    let mut blocks = vec![section(headline(card))];
    blocks.push(section(vec![plain(&card.stakes.join(" · "))]));
    if !card.unusual.is_empty() {
        blocks.push(section(vec![bold("Unusual: "), plain(&card.unusual.join(" · "))]));
    }
    blocks.push(section(who(&card.who)));
    if !card.asked_because.reason.is_empty() {
        blocks.push(section(vec![bold("Why you are asked: "), plain(&card.asked_because.reason)]));
    }
    blocks.push(words(card));
    blocks.push(issues(card));
    blocks.push(progress(sheet));
    blocks.extend(elsewhere(sheet));
    if open {
        blocks.push(buttons(sheet));
    }
    blocks.push(ids(sheet));
    let what = if open { "waits for a decision" } else { "has ended" };
    let text = format!("A request of agent {} {what}", card.who.agent);
    Message { text: text.clone(), body: json!({ "text": text, "blocks": blocks }) }
}

/// Parts 1 and its parameters.
pub(super) fn headline(card: &Card) -> Vec<Value> {
    let mut out = coded(&card.headline, true);
    for param in card.params.iter().take(PARAMS) {
        out.push(plain("\n"));
        let title = if param.title.is_empty() { &param.name } else { &param.title };
        out.push(plain(&format!("{title}: ")));
        if param.sensitive {
            out.push(italic("sensitive, not shown"));
        }
        for (n, value) in param.values.iter().enumerate() {
            if n > 0 {
                out.push(plain(", "));
            }
            out.push(code(value));
        }
    }
    let more = card.params.len().saturating_sub(PARAMS);
    if more > 0 {
        out.push(bold(&format!("\n{more} more parameters: open the full view")));
    }
    out
}

fn who(who: &Who) -> Vec<Value> {
    let owner = match (who.owner.as_str(), who.team.as_str()) {
        ("", _) => " (not registered)".to_owned(),
        (owner, "") => format!(" ({owner})"),
        (owner, team) => format!(" ({owner}, {team})"),
    };
    let model = format!("{} {}", who.model, who.model_version);
    let qualified = match (who.qualified, who.qualified_until) {
        (true, Some(until)) => format!(", qualified until {}", day(until)),
        (true, None) => ", qualified".into(),
        (false, _) => ", not qualified".into(),
    };
    let model = match model.trim() {
        "" => "model unknown".to_owned(),
        model => format!("{model}{qualified}"),
    };
    let mut out = vec![bold("Who: "), code(&who.agent), plain(&format!("{owner} · {model}"))];
    if who.revoked {
        out.push(bold(" · its right has ended"));
    }
    for (n, via) in who.delegation.iter().enumerate() {
        out.push(plain(if n == 0 { " · via " } else { ", " }));
        out.push(code(via));
    }
    if let Some(human) = &who.on_behalf_of {
        out.push(plain(&format!(" · on behalf of {human}")));
    }
    out.extend([plain(" · sidecar "), code(&who.instance), plain(" · workload ")]);
    out.push(code(&who.workload));
    for fact in &who.process {
        out.push(plain(&format!(" · {} ", fact.name)));
        out.push(code(&fact.value));
    }
    out
}

/// Part 6: quoted, marked, and nothing but literal text.
fn words(card: &Card) -> Value {
    let mut elements = Vec::new();
    let mut say = |what: String, text: Option<&String>| {
        elements.push(part(vec![italic(&format!("{what}, {}:", card.words.note))]));
        let shown = text.map_or_else(|| italic("erased"), |t| plain(t));
        elements.push(json!({ "type": "rich_text_quote", "elements": [shown] }));
    };
    say("Reason".into(), card.words.reason.as_ref());
    if card.words.task.is_some() {
        say("Task".into(), card.words.task.as_ref());
    }
    for answer in &card.words.answers {
        say(format!("Answer to question {}", answer.question), answer.text.as_ref());
    }
    json!({ "type": "rich_text", "elements": elements })
}

/// Part 7.
pub(super) fn issues(card: &Card) -> Value {
    let issues = &card.issues;
    let mut head = vec![bold("What will be issued: ")];
    if issues.issued {
        head = vec![bold("What was issued: ")];
    }
    head.extend(coded(&issues.summary, false));
    head.push(plain(&format!(", for {}; {}", issues.ttl, issues.ends)));
    if let Some(at) = issues.ends_at.filter(|_| issues.issued) {
        head.push(plain(", ends "));
        head.push(date(at));
    }
    if let Some(lease) = &issues.renews {
        head.extend([plain("; replaces lease "), code(lease)]);
    }
    let mut lines = Vec::new();
    flatten("", &issues.what, &mut |path, value| {
        lines.push(format!("{} {}", path.replace('`', ""), value.replace('`', "")));
    });
    let mut elements = vec![part(head)];
    if !lines.is_empty() {
        let shown = cut(&lines.join("\n"), ELEMENT);
        elements.push(json!({
            "type": "rich_text_preformatted",
            "elements": [{ "type": "text", "text": shown }],
        }));
    }
    json!({ "type": "rich_text", "elements": elements })
}

/// Part 8.
fn progress(sheet: &Sheet) -> Value {
    let (card, state) = (&sheet.card, &sheet.card.state);
    let mut first = Vec::new();
    if state.needed > 0 {
        first.push(bold(&format!("{} of {} · ", state.have, state.needed)));
    }
    first.extend(coded(&state.sentence, false));
    if let Some(at) = state.expires_at {
        first.extend([plain(" · expires "), date(at)]);
    }
    if let (Some(strength), Phase::Pending | Phase::Recorded) = (state.strength, state.phase) {
        let how = if strength == Strength::Passkey { ", signed with a passkey" } else { "" };
        first.push(plain(&format!("\nby people of {}{how}", state.groups.join(" and "))));
        if !sheet.asked.is_empty() {
            first.push(plain(&format!("; asked first: {}", sheet.asked.join(", "))));
        }
    }
    // One section as far as a quote: clients differ in what lies between two of them.
    let (mut elements, mut section) = (Vec::new(), first);
    let line = |section: &[Value], text: String| {
        plain(&if section.is_empty() { text } else { format!("\n{text}") })
    };
    for vote in &state.votes {
        let did = if vote.decision == Decision::Approve { "approved" } else { "denied" };
        let who = format!("{} {did} through {}, ", vote.human, vote.channel);
        let who = line(&section, who);
        section.extend([who, date(vote.at)]);
        section.extend((!vote.standing).then(|| plain("; does not count")));
    }
    for change in &state.narrowed {
        let narrowed = line(&section, "narrowed, ".into());
        section.push(narrowed);
        section.extend(coded(change, false));
    }
    for question in &state.questions {
        let state = match (question.answered_at.is_some(), question.open) {
            (true, _) => "answered",
            (false, true) => "not answered yet",
            (false, false) => "closed without an answer",
        };
        let asks = line(&section, format!("{} asks ({state}):", question.by));
        section.push(asks);
        elements.push(part(std::mem::take(&mut section)));
        let text = question.text.as_deref().unwrap_or("(erased)");
        elements.push(json!({ "type": "rich_text_quote", "elements": [plain(text)] }));
    }
    for view in &card.full_view {
        let digest = view.digest.map(|d| d.hex().chars().take(12).collect::<String>());
        let length = grouped(i64::try_from(view.length).unwrap_or(i64::MAX));
        let digest = digest.unwrap_or_default();
        let gap = if section.is_empty() { "" } else { "\n" };
        section.extend([
            bold(&format!("{gap}Not shown whole: ")),
            code(&view.name),
            plain(&format!(" has {length} characters {digest}")),
        ]);
    }
    if !section.is_empty() {
        elements.push(part(section));
    }
    json!({ "type": "rich_text", "elements": elements })
}

/// Part 9: the same places always, and no colour.
fn buttons(sheet: &Sheet) -> Value {
    let value = sheet.handle.encode();
    let button = |action: &str, words: &str| {
        json!({
            "type": "button", "action_id": action, "value": value,
            "text": { "type": "plain_text", "text": words, "emoji": false },
        })
    };
    let page = |action: &str, words: &str| {
        let mut out = button(action, words);
        if let Value::Object(map) = &mut out {
            map.insert("url".into(), sheet.link.as_str().into());
        }
        out
    };
    let elements = if sheet.votes_count {
        let approve = match sheet.approve {
            Approve::Here if sheet.card.state.confirm.is_some() => button("gw_confirm", "Approve"),
            Approve::Here => button("gw_approve", "Approve"),
            Approve::Console(_) => page("gw_page_approve", "Approve"),
        };
        let mut out = vec![
            approve,
            button("gw_deny", "Deny"),
            button("gw_ask", "Ask"),
            button("gw_narrow", "Narrow"),
        ];
        let standing = |v: &crate::card::Vote| v.standing && v.decision == Decision::Approve;
        if sheet.card.state.votes.iter().any(standing) {
            out.push(button("gw_withdraw", "Take back my approval"));
        }
        out
    } else {
        ["Approve", "Deny", "Ask", "Narrow"]
            .map(|words| page(&format!("gw_page_{}", words.to_lowercase()), words))
            .to_vec()
    };
    json!({ "type": "actions", "block_id": "gw_decide", "elements": elements })
}

/// A short message of the broker's own.
pub(super) fn notice(notice: &Notice) -> Message {
    let mut blocks = vec![section(coded(&notice.text, false))];
    if let Some(quote) = &notice.quote {
        blocks.push(json!({ "type": "rich_text", "elements": [
            { "type": "rich_text_quote", "elements": [plain(&quote.text)] },
            part(vec![italic(&format!("said by {}", quote.by.trim_start_matches("said by ")))]),
        ] }));
    }
    if let Some(link) = &notice.link {
        blocks.push(link_block(link));
    }
    let text = "News of a request".to_owned();
    Message { text: text.clone(), body: json!({ "text": text, "blocks": blocks }) }
}

/// What stands for a flood.
pub(super) fn flood(flood: &Flood) -> Message {
    let said = match flood.waiting {
        0 => "No further requests wait beside the cards here.".to_owned(),
        1 => "1 further request waits for a decision.".to_owned(),
        n => format!("{n} further requests wait for decisions. They are shown in turn."),
    };
    let mut line = vec![bold(&said)];
    for (agent, count) in &flood.agents {
        line.extend([plain("\n"), code(agent), plain(&format!(": {count}"))]);
    }
    let blocks = vec![section(line), link_block(&flood.link)];
    let text = "Many requests wait for decisions".to_owned();
    Message { text: text.clone(), body: json!({ "text": text, "blocks": blocks }) }
}

fn link_block(link: &str) -> Value {
    let open = json!({ "type": "link", "url": link, "text": "Open the console" });
    json!({ "type": "rich_text", "elements": [part(vec![open])] })
}

/// The broker's words with values in backticks, which become code.
pub(super) fn coded(text: &str, strong: bool) -> Vec<Value> {
    let pieces = text.split('`').enumerate().filter(|(_, piece)| !piece.is_empty());
    pieces
        .map(|(n, piece)| match (n % 2, strong) {
            (1, _) => code(piece),
            (_, true) => bold(piece),
            (_, false) => plain(piece),
        })
        .collect()
}

pub(super) fn section(elements: Vec<Value>) -> Value {
    json!({ "type": "rich_text", "elements": [part(elements)] })
}

fn part(elements: Vec<Value>) -> Value {
    let elements: Vec<Value> =
        elements.into_iter().filter(|e| e.get("text") != Some(&Value::from(""))).collect();
    json!({ "type": "rich_text_section", "elements": elements })
}

pub(super) fn plain(text: &str) -> Value {
    json!({ "type": "text", "text": cut(text, ELEMENT) })
}

pub(super) fn bold(text: &str) -> Value {
    json!({ "type": "text", "text": cut(text, ELEMENT), "style": { "bold": true } })
}

fn italic(text: &str) -> Value {
    json!({ "type": "text", "text": cut(text, ELEMENT), "style": { "italic": true } })
}

fn code(text: &str) -> Value {
    // A code span of nothing is refused.
    let text = if text.is_empty() { "(empty)" } else { text };
    json!({ "type": "text", "text": cut(text, ELEMENT), "style": { "code": true } })
}

/// A moment in the reader's own zone.
fn date(at: Timestamp) -> Value {
    json!({
        "type": "date", "timestamp": at.seconds(), "format": "{date_short_pretty} {time}",
        "fallback": at.whole_second().to_string(),
    })
}

fn day(at: Timestamp) -> String {
    at.to_string().chars().take(10).collect()
}

/// A `plain_text` object of at most `most` characters.
pub(super) fn text_object(text: &str, most: usize) -> Value {
    json!({ "type": "plain_text", "text": cut(text, most), "emoji": false })
}

/// In characters; the middle goes, both ends stay.
pub(super) fn cut(text: &str, most: usize) -> String {
    grantwright_domain::text::shorten(text, most)
}
