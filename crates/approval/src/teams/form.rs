//! The card's buttons and their inputs: what is sent out, and what is read back. Both stand here so
//! that no field is written under one name and read under another.

use grantwright_domain::time::parse_ttl;
use serde_json::{Map, Value, json};

use crate::channel::Wish;
use crate::sheet::{Approve, Sheet, Shrink, ShrinkBy};
use crate::show::code;

/// The key under which each action carries its [`crate::channel::Handle`].
pub const HANDLE: &str = "handle";
/// The verb of the client's own refresh; it decides nothing.
pub const REFRESH: &str = "refresh";
/// Most members of a set that are offered; more are narrowed in the console.
const MOST_MEMBERS: usize = 20;
/// Longest text that is taken, in characters.
const MOST_TEXT: usize = 2000;

const ASK_PICK: &str = "ask_pick";
const ASK_TEXT: &str = "ask_text";
const CONFIRM: &str = "confirm";
const DENY_CODE: &str = "deny_code";
const DENY_TEXT: &str = "deny_text";
const TTL: &str = "narrow_ttl";
const NUMBER: &str = "narrow_number_";
const PREFIX: &str = "narrow_prefix_";
const MEMBERS: &str = "narrow_members_";

/// One-tap reasons of a deny, and their words.
const DENIES: [(&str, &str); 4] = [
    ("not_now", "not now"),
    ("too_much", "too much"),
    ("wrong_person", "wrong person"),
    ("looks_wrong", "looks wrong: alert security"),
];

/// Buttons of an open request, always in the same places: Approve, Deny, Ask, Narrow, console.
pub(crate) fn actions(sheet: &Sheet) -> Vec<Value> {
    if !sheet.open {
        return vec![link("Open in the console", &sheet.link)];
    }
    let handle = sheet.handle.encode();
    let mut out = vec![match sheet.approve {
        Approve::Here => match &sheet.card.state.confirm {
            Some(fact) => show("Approve", confirmed(fact, &handle)),
            None => execute("Approve", "approve", &handle, Map::new()),
        },
        Approve::Console(_) => link("Approve in the console", &sheet.link),
    }];
    if sheet.votes_count {
        out.push(show("Deny", deny(&handle)));
        out.push(show("Ask", ask(sheet, &handle)));
        if let Some(form) = narrow(sheet, &handle) {
            out.push(show("Narrow", form));
        }
        if sheet.card.state.have > 0 {
            out.push(execute("Withdraw my approval", "withdraw", &handle, Map::new()));
        }
    }
    out.push(link("Open in the console", &sheet.link));
    out
}

/// Buttons of one request among several in a card. What wants a form is on the request's own card,
/// which the second button shows to who presses: inputs of several requests would share their names.
pub(crate) fn grouped_actions(sheet: &Sheet) -> Vec<Value> {
    let handle = sheet.handle.encode();
    let mut out = Vec::new();
    match sheet.approve {
        Approve::Here if sheet.card.state.confirm.is_none() => {
            out.push(execute("Approve", "approve", &handle, Map::new()));
        }
        Approve::Here => {}
        Approve::Console(_) => out.push(link("Approve in the console", &sheet.link)),
    }
    out.push(execute("Deny, ask or narrow", REFRESH, &handle, Map::new()));
    out.push(link("Open in the console", &sheet.link));
    out
}

/// Buttons below a preview of narrower terms: they carry the very terms that were shown.
pub(crate) fn preview_actions(
    handle: &str,
    ttl_s: Option<u32>,
    params: Option<&Value>,
    confirm: Option<&str>,
) -> Vec<Value> {
    let mut data = Map::new();
    if let Some(ttl) = ttl_s {
        data.insert(TTL.into(), format!("{ttl}s").into());
    }
    for (name, value) in params.iter().filter_map(|v| v.as_object()).flatten() {
        let (prefix, value) = match value {
            Value::Number(_) => (NUMBER, value.clone()),
            Value::Array(members) => {
                let members: Vec<&str> = members.iter().filter_map(Value::as_str).collect();
                (MEMBERS, members.join(",").into())
            }
            _ => (PREFIX, value.clone()),
        };
        data.insert(format!("{prefix}{name}"), value);
    }
    let narrow = execute("Narrow and approve", "narrow", handle, data);
    vec![
        match confirm {
            Some(fact) => show("Narrow and approve", form(vec![typed(fact)], narrow)),
            None => narrow,
        },
        execute("Back", REFRESH, handle, Map::new()),
    ]
}

/// Reads what a button says: the wish, and whether it is only to be shown.
///
/// # Errors
/// What is wrong with it, for the log.
pub(crate) fn wish(verb: &str, data: &Map<String, Value>) -> Result<(Wish, bool), &'static str> {
    let text = |key: &str| {
        let text = data.get(key).and_then(Value::as_str).map(str::trim).unwrap_or_default();
        if text.chars().count() > MOST_TEXT {
            return Err("a text is longer than 2000 characters");
        }
        Ok(text.to_owned())
    };
    let confirm = || Ok::<_, &str>(Some(text(CONFIRM)?).filter(|c| !c.is_empty()));
    let wish = match verb {
        "approve" => Wish::Approve { confirm: confirm()? },
        "ask" => {
            let free = text(ASK_TEXT)?;
            Wish::Ask { text: if free.is_empty() { text(ASK_PICK)? } else { free } }
        }
        "deny" => Wish::Deny {
            reason_code: text(DENY_CODE)?,
            reason: Some(text(DENY_TEXT)?).filter(|r| !r.is_empty()),
        },
        "narrow" | "preview" => narrower(data, confirm()?)?,
        "withdraw" => Wish::Withdraw,
        _ => return Err("the action has another verb than this bot's"),
    };
    Ok((wish, verb == "preview"))
}

fn narrower(data: &Map<String, Value>, confirm: Option<String>) -> Result<Wish, &'static str> {
    let filled = |v: &&Value| match v {
        Value::String(text) => !text.trim().is_empty(),
        Value::Null => false,
        _ => true,
    };
    let ttl_s = match data.get(TTL).filter(filled).map(|v| v.as_str().map(parse_ttl)) {
        Some(Some(Ok(s))) => Some(s),
        Some(_) => return Err("the lifetime is not one like 5m"),
        None => None,
    };
    let mut params = Map::new();
    for (key, value) in data.iter().filter(|(_, v)| filled(v)) {
        if let Some(name) = key.strip_prefix(NUMBER) {
            let number = match value {
                Value::Number(n) => n.as_i64(),
                Value::String(text) => text.trim().parse().ok(),
                _ => None,
            };
            params.insert(name.into(), number.ok_or("a number is not a whole one")?.into());
        } else if let Some(name) = key.strip_prefix(PREFIX) {
            let text = value.as_str().ok_or("a prefix is not a text")?;
            params.insert(name.into(), text.trim().into());
        } else if let Some(name) = key.strip_prefix(MEMBERS) {
            // The client joins what was chosen with commas, which no offered member holds.
            let chosen = value.as_str().ok_or("a choice is not a text")?;
            params.insert(name.into(), chosen.split(',').map(Value::from).collect());
        }
    }
    let params = (!params.is_empty()).then_some(Value::Object(params));
    Ok(Wish::Narrow { ttl_s, params, confirm })
}

/// Approve, where the reviewer must type a fact from the card first.
fn confirmed(fact: &str, handle: &str) -> Value {
    form(vec![typed(fact)], execute("Approve", "approve", handle, Map::new()))
}

fn typed(fact: &str) -> Value {
    let label = format!("Type the value of {} as it stands above", unmarked(fact));
    json!({ "type": "Input.Text", "id": CONFIRM, "label": label, "maxLength": 400 })
}

fn deny(handle: &str) -> Value {
    let choices: Vec<Value> =
        DENIES.iter().map(|(value, title)| json!({ "title": title, "value": value })).collect();
    let inputs = vec![
        json!({
            "type": "Input.ChoiceSet", "id": DENY_CODE, "label": "Why", "style": "expanded",
            "choices": choices, "value": "not_now",
        }),
        words(DENY_TEXT, "In your words (told to the agent's owner; may stay empty)"),
    ];
    form(inputs, execute("Deny", "deny", handle, Map::new()))
}

fn ask(sheet: &Sheet, handle: &str) -> Value {
    let choices: Vec<Value> =
        sheet.questions.iter().map(|q| json!({ "title": unmarked(q), "value": q })).collect();
    let inputs = vec![
        json!({
            "type": "Input.ChoiceSet", "id": ASK_PICK, "label": "Ask", "style": "compact",
            "choices": choices, "value": sheet.questions.first().cloned().unwrap_or_default(),
        }),
        words(ASK_TEXT, "Or in your words"),
    ];
    form(inputs, execute("Ask the agent", "ask", handle, Map::new()))
}

fn narrow(sheet: &Sheet, handle: &str) -> Option<Value> {
    let mut inputs: Vec<Value> = Vec::new();
    if !sheet.lifetimes.is_empty() {
        let choices: Vec<Value> = sheet
            .lifetimes
            .iter()
            .map(|(s, words)| json!({ "title": words, "value": format!("{s}s") }))
            .collect();
        inputs.push(json!({
            "type": "Input.ChoiceSet", "id": TTL, "style": "compact", "choices": choices,
            "label": format!("For how long (asked: {})", sheet.card.issues.ttl),
            "placeholder": "as asked",
        }));
    }
    inputs.extend(sheet.shrinks.iter().filter_map(shrink));
    let preview = || execute("Show what would be issued", "preview", handle, Map::new());
    (!inputs.is_empty()).then(|| form(inputs, preview()))
}

/// The input for one parameter; none where its value could not be shown as it is.
fn shrink(shrink: &Shrink) -> Option<Value> {
    let label = unmarked(&shrink.label);
    match &shrink.how {
        ShrinkBy::Number { least, now } => Some(json!({
            "type": "Input.Number", "id": format!("{NUMBER}{}", shrink.name),
            "label": format!("{label} (asked: {now})"), "min": least, "max": now,
            "placeholder": "as asked",
        })),
        ShrinkBy::Prefix { now } => is_itself(now).then(|| {
            json!({
                "type": "Input.Text", "id": format!("{PREFIX}{}", shrink.name), "maxLength": 400,
                "label": format!("{label}: begins with what was asked"), "value": now,
            })
        }),
        ShrinkBy::Members(members) => {
            let fine = members.len() <= MOST_MEMBERS && members.iter().all(|(m, _)| is_bare(m));
            let choices: Vec<Value> =
                members.iter().map(|(m, _)| json!({ "title": m, "value": m })).collect();
            let all: Vec<&str> = members.iter().map(|(m, _)| m.as_str()).collect();
            fine.then(|| {
                json!({
                    "type": "Input.ChoiceSet", "id": format!("{MEMBERS}{}", shrink.name),
                    "label": label, "isMultiSelect": true, "style": "expanded",
                    "choices": choices, "value": all.join(","),
                })
            })
        }
    }
}

/// True for a value that is shown as it is: an input cannot show it otherwise.
fn is_itself(value: &str) -> bool {
    let shown = code(value, 400);
    shown.full && shown.text == value && !value.contains("{{")
}

/// True for a value that no client reads as markup, and that no comma splits: choices may be
/// rendered as markdown.
fn is_bare(value: &str) -> bool {
    let bytes = value.as_bytes();
    let word =
        |i: Option<usize>| i.and_then(|i| bytes.get(i)).is_some_and(u8::is_ascii_alphanumeric);
    word(Some(0))
        && bytes.iter().enumerate().all(|(i, b)| match b {
            b'_' => word(i.checked_sub(1)) && word(i.checked_add(1)),
            b'.' | b'-' | b'/' | b':' => true,
            b => b.is_ascii_alphanumeric(),
        })
}

/// An operator's words where a client may render markdown: without what begins markup.
fn unmarked(text: &str) -> String {
    let plain: String = text
        .chars()
        .filter(|c| !matches!(c, '*' | '_' | '[' | ']' | '<' | '>' | '\\' | '#'))
        .collect();
    super::run::inert(&plain)
}

fn words(id: &str, label: &str) -> Value {
    json!({ "type": "Input.Text", "id": id, "label": label, "isMultiline": true, "maxLength": MOST_TEXT })
}

fn form(body: Vec<Value>, action: Value) -> Value {
    json!({ "type": "AdaptiveCard", "body": body, "actions": [action] })
}

fn show(title: &str, card: Value) -> Value {
    json!({ "type": "Action.ShowCard", "title": title, "card": card })
}

pub(crate) fn link(title: &str, url: &str) -> Value {
    json!({ "type": "Action.OpenUrl", "title": title, "url": url })
}

/// A button. None has a style: no choice is put forward.
pub(crate) fn execute(
    title: &str,
    verb: &str,
    handle: &str,
    mut data: Map<String, Value>,
) -> Value {
    data.insert(HANDLE.into(), handle.into());
    json!({ "type": "Action.Execute", "title": title, "verb": verb, "data": data })
}
