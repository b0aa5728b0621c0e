//! The decision card as an Adaptive Card 1.5, the newest that Teams shows everywhere
//! (<https://learn.microsoft.com/microsoftteams/platform/task-modules-and-cards/cards/cards-format>).
//!
//! The agent's words stand in one framed container; its parameters between backticks in
//! fixed-width letters; everything else is the broker's.

use grantwright_domain::event::Decision;
use grantwright_domain::{Strength, Timestamp};
use serde_json::{Map, Value, json};

use crate::card::{Card, Progress, Who};
use crate::channel::{Flood, Notice};
use crate::sheet::{Approve, Sheet};
use crate::teams::form;
use crate::teams::run::{Line, moment, when};
use crate::text;

/// Largest card, in bytes: Teams takes messages of about 28 KB, and addresses come on top. A larger
/// one is shown in the console.
pub const MOST_BYTES: usize = 20 << 10;
/// Most people whose clients are asked to fetch their own view (Teams' limit).
pub const MOST_REFRESH: usize = 60;

/// The card. With a `now`, moments are told from now as well: for a view that is fetched when it is
/// looked at; what is posted stays true for longer than that.
#[must_use]
pub fn adaptive_card(sheet: &Sheet, now: Option<Timestamp>) -> Value {
    let whole = frame(sheet, body_of(sheet, now), form::actions(sheet));
    if whole.to_string().len() <= MOST_BYTES {
        return whole;
    }
    let mut short = sheet.clone();
    short.approve = Approve::Console("this card is too long to be shown here");
    short.shrinks.clear();
    frame(&short, shortened(&short.card), form::actions(&short))
}

/// Most requests of one card.
pub const MOST_GROUPED: usize = 5;

/// Several requests of one task: each in its own container with its own digest and buttons. Where
/// that is too long, each is told in short and shown whole, to who presses, by its button.
#[must_use]
pub fn group_card(sheets: &[Sheet]) -> Value {
    let whole = grouped(sheets, |sheet| {
        let mut items = body_of(sheet, None);
        items.push(json!({ "type": "ActionSet", "actions": form::grouped_actions(sheet) }));
        items
    });
    if whole.to_string().len() <= MOST_BYTES {
        return whole;
    }
    grouped(sheets, |sheet| {
        let card = &sheet.card;
        let mut items = vec![
            Line::headline(&card.headline),
            Line::strong(&card.stakes.join(" · ")),
            Line::labelled("state", &card.state.sentence),
            Line::small(&format!("digest {}", card.digest.hex())),
        ];
        let handle = sheet.handle.encode();
        let mut actions = vec![form::link("Open in the console", &sheet.link)];
        if sheet.open {
            actions.insert(0, form::execute("Show it", form::REFRESH, &handle, Map::new()));
        }
        items.push(json!({ "type": "ActionSet", "actions": actions }));
        items
    })
}

fn grouped(sheets: &[Sheet], mut each: impl FnMut(&Sheet) -> Vec<Value>) -> Value {
    let agent = sheets.first().map(|s| s.card.who.agent.as_str()).unwrap_or_default();
    let open = sheets.iter().filter(|s| s.open).count();
    let n = sheets.len();
    let mut body = vec![
        Line::headline(&format!("{n} requests of `{agent}` that came together, {open} open")),
        Line::small("Each is decided by itself."),
    ];
    for sheet in sheets.iter().take(MOST_GROUPED) {
        let items = if sheet.open {
            each(sheet)
        } else {
            vec![
                Line::strong(&sheet.card.headline),
                Line::labelled("state", &sheet.card.state.sentence),
                Line::small(&format!("digest {}", sheet.card.digest.hex())),
            ]
        };
        body.push(json!({
            "type": "Container", "separator": true, "spacing": "large", "items": items,
        }));
    }
    let mut card = plain_card(body, Vec::new());
    if let Value::Object(map) = &mut card {
        map.insert("msteams".into(), json!({ "width": "Full" }));
    }
    card
}

/// All parts but the buttons, and why approving is not possible here.
fn body_of(sheet: &Sheet, now: Option<Timestamp>) -> Vec<Value> {
    let mut out = body(&sheet.card, now);
    if !sheet.asked.is_empty() && sheet.open {
        out.push(Line::labelled("asked first", &sheet.asked.join(", ")));
    }
    if let Approve::Console(why) = sheet.approve
        && sheet.open
    {
        out.push(Line::labelled("approve", &format!("in the console: {why}")));
    }
    out
}

/// Names the people (`29:…`) whose clients fetch their own view of a card when they see it, the
/// first [`MOST_REFRESH`]; nobody: whoever Teams thinks fit.
pub fn set_refresh(card: &mut Value, people: &[String]) {
    if let Some(Value::Object(refresh)) = card.get_mut("refresh")
        && !people.is_empty()
    {
        let people: Vec<&String> = people.iter().take(MOST_REFRESH).collect();
        refresh.insert("userIds".into(), json!(people));
    }
}

/// The card with part 7 as narrower terms would make it, before anything is decided. The buttons
/// refer to what the reviewer was shown: `sheet`'s own terms.
#[must_use]
pub fn preview_card(
    sheet: &Sheet,
    narrower: &Card,
    ttl_s: Option<u32>,
    params: Option<&Value>,
    now: Timestamp,
) -> Value {
    let now = Some(now);
    let mut blocks = vec![Line::strong("Preview: nothing is decided yet")];
    blocks.extend(part_1(narrower));
    blocks.extend(part_7(narrower, now));
    blocks.extend(narrower.state.narrowed.iter().map(|c| Line::labelled("narrower", c)));
    blocks.push(Line::labelled("state", &narrower.state.sentence));
    blocks.push(Line::small(&format!("digest {}", narrower.digest.hex())));
    let confirm = narrower.state.confirm.as_deref();
    let actions = form::preview_actions(&sheet.handle.encode(), ttl_s, params, confirm);
    frame(sheet, blocks, actions)
}

/// A short message of the broker's own.
#[must_use]
pub fn notice_card(notice: &Notice) -> Value {
    let mut body = vec![Line::labelled("", &notice.text)];
    if let Some(quote) = &notice.quote {
        body.push(framed(vec![Line::quote(&quote.text), Line::small(&quote.by)]));
    }
    let actions: Vec<Value> =
        notice.link.iter().map(|l| form::link("Open in the console", l)).collect();
    plain_card(body, actions)
}

/// What stands for more requests than are shown one by one.
#[must_use]
pub fn flood_card(flood: &Flood) -> Value {
    let mut body = vec![Line::headline(&format!("{} more requests wait for you", flood.waiting))];
    body.extend(
        flood
            .agents
            .iter()
            .take(10)
            .map(|(agent, n)| Line::labelled("agent", &format!("`{agent}`: {n}"))),
    );
    plain_card(body, vec![form::link("Open the inbox", &flood.link)])
}

fn plain_card(body: Vec<Value>, actions: Vec<Value>) -> Value {
    json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard", "version": "1.5", "body": body, "actions": actions,
    })
}

fn frame(sheet: &Sheet, body: Vec<Value>, actions: Vec<Value>) -> Value {
    let mut card = plain_card(body, actions);
    if let Value::Object(map) = &mut card {
        map.insert("msteams".into(), json!({ "width": "Full" }));
        if sheet.open {
            let handle = sheet.handle.encode();
            let again = form::execute("Refresh", form::REFRESH, &handle, Map::new());
            map.insert("refresh".into(), json!({ "action": again }));
        }
    }
    card
}

/// What stands in place of a card that is too long: its stakes, and where it is whole.
fn shortened(card: &Card) -> Vec<Value> {
    vec![
        Line::headline(&card.headline),
        Line::strong(&card.stakes.join(" · ")),
        Line::labelled("state", &card.state.sentence),
        Line::labelled("", "this card is too long to be shown here: open it in the console"),
        Line::small(&format!("digest {}", card.digest.hex())),
    ]
}

fn body(card: &Card, now: Option<Timestamp>) -> Vec<Value> {
    let mut out = part_1(card);
    if !card.stakes.is_empty() {
        out.push(Line::strong(&card.stakes.join(" · ")));
    }
    out.extend(card.unusual.iter().map(|fact| Line::labelled("unusual", &format!("⚠ {fact}"))));
    out.extend(part_4(&card.who, now));
    let because = &card.asked_because;
    if !because.reason.is_empty() {
        let policies = text::ticks(&because.policies);
        out.push(Line::labelled("why", &format!("{} (policy {policies})", because.reason)));
    }
    out.push(part_6(card));
    out.extend(part_7(card, now));
    out.extend(part_8(&card.state, now));
    for view in &card.full_view {
        let digest = view.digest.map(|d| format!(", `{}`", d.hex())).unwrap_or_default();
        out.push(Line::labelled(
            "open",
            &format!("`{}`: {} characters{digest}", view.name, view.length),
        ));
    }
    if !card.full_view.is_empty() {
        out.push(Line::strong(
            "The middle is left out above: open the full view before approving.",
        ));
    }
    out.push(Line::small(&format!("digest {}", card.digest.hex())));
    out
}

fn part_1(card: &Card) -> Vec<Value> {
    let mut out = vec![Line::headline(&card.headline)];
    out.extend(card.params.iter().map(|p| Line::labelled("with", &text::param_words(p))));
    out
}

fn part_4(who: &Who, now: Option<Timestamp>) -> Vec<Value> {
    text::who_words(who, |at| when(at, now))
        .into_iter()
        .map(|line| Line::labelled("who", &line))
        .collect()
}

/// Everything the agent says, in one frame; the last line says whose words they are.
fn part_6(card: &Card) -> Value {
    let words = &card.words;
    let mut items = Vec::new();
    let mut say = |what: String, said: Option<&String>| match said {
        Some(said) => {
            if what != "reason" {
                items.push(Line::small(&what));
            }
            items.push(Line::quote(said));
        }
        None => items.push(Line::small(&format!("{what}: erased"))),
    };
    say("reason".into(), words.reason.as_ref());
    if words.task.is_some() {
        say("task".into(), words.task.as_ref());
    }
    for answer in &words.answers {
        say(format!("answer to question {}", answer.question), answer.text.as_ref());
    }
    items.push(Line::small(words.note));
    framed(items)
}

fn framed(items: Vec<Value>) -> Value {
    json!({ "type": "Container", "style": "emphasis", "items": items })
}

fn part_7(card: &Card, now: Option<Timestamp>) -> Vec<Value> {
    let issues = &card.issues;
    let mut out =
        vec![Line::labelled("issues", &format!("{}, for {}", issues.summary, issues.ttl))];
    text::flatten("", &issues.what, &mut |path, value| {
        out.push(Line::labelled("", &format!("{path} {value}")));
    });
    if issues.ends_at.is_some() {
        out.push(Line::labelled("ends", &issues.ends));
    }
    match (issues.ends_at, issues.issued, now) {
        (Some(at), true, _) => out.push(moment("Ends", at, now)),
        // What is posted is not issued at any moment that could be named.
        (Some(at), false, Some(_)) => out.push(moment("If issued now, ends", at, now)),
        _ => {}
    }
    if let Some(lease) = &issues.renews {
        out.push(Line::labelled("", &format!("replaces lease `{lease}`")));
    }
    out
}

fn part_8(state: &Progress, now: Option<Timestamp>) -> Vec<Value> {
    let standing = match state.needed {
        0 => state.sentence.clone(),
        needed => format!("{} of {needed} · {}", state.have, state.sentence),
    };
    let mut out = vec![Line::labelled("state", &standing)];
    if let Some(at) = state.expires_at {
        out.push(moment("Expires", at, now));
    }
    if let Some(strength) = state.strength {
        let people = if state.needed == 1 { "one person" } else { "different people, each" };
        let signed = match strength {
            Strength::Chat => "",
            Strength::Passkey => ", signed with a passkey",
        };
        let (groups, channels) = (state.groups.join(" and "), state.channels.join(" or "));
        out.push(Line::labelled(
            "by",
            &format!("{people} of {groups}, through {channels}{signed}"),
        ));
    }
    for vote in &state.votes {
        let did = match vote.decision {
            Decision::Approve => "approved",
            Decision::Deny => "denied",
        };
        let counts = if vote.standing { "" } else { "; does not count" };
        let at = when(vote.at, now);
        out.push(Line::labelled(
            "vote",
            &format!("{} {did} through {} {at}{counts}", vote.human, vote.channel),
        ));
    }
    out.extend(state.narrowed.iter().map(|change| Line::labelled("narrowed", change)));
    for question in &state.questions {
        let answered = match question.answered_at {
            Some(at) => format!("answered {}", when(at, now)),
            None if question.open => "not answered yet".into(),
            None => "closed without an answer".into(),
        };
        let said = question.text.as_deref().unwrap_or("(erased)");
        out.push(framed(vec![
            Line::small(&format!("question {} by {}, {answered}", question.id, question.by)),
            Line::quote(said),
        ]));
    }
    out
}
