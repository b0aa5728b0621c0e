//! The forms: modals to deny, ask, narrow, and to confirm a fact; and what their fields mean.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::blocks::{bold, cut, headline, issues, plain, section, text_object};
use super::read::{Fields, Form, Submitted};
use crate::Sheet;
use crate::channel::Wish;
use crate::sheet::ShrinkBy;

/// Reasons to deny with one tap, and their codes.
const REASONS: [(&str, &str); 4] = [
    ("Not now", "not_now"),
    ("Too much", "too_much"),
    ("Wrong person", "wrong_person"),
    ("Looks wrong: tell security", "looks_wrong"),
];

/// The view that a button opens; `channel` is the conversation of the card.
#[must_use]
pub fn form(form: Form, sheet: &Sheet, channel: &str) -> Value {
    let (title, submit, mut blocks) = match form {
        Form::Approve => {
            ("Approve", "Approve", vec![section(headline(&sheet.card)), issues(&sheet.card)])
        }
        Form::Ask => ("Ask the agent", "Ask", ask(sheet)),
        Form::Deny => ("Deny", "Deny", deny(sheet)),
        Form::Narrow => ("Approve less", "Approve this", narrow(sheet)),
    };
    if matches!(form, Form::Approve | Form::Narrow)
        && let Some(fact) = &sheet.card.state.confirm
    {
        let label = format!("Type the request's {fact}, so that it was read");
        blocks.push(input("confirm", &label, text_input(false, 1024), false));
    }
    json!({
        "type": "modal", "callback_id": form.id(),
        "private_metadata": format!("{} {}", sheet.handle.encode(), cut(channel, 200)),
        "title": text_object(title, 24), "submit": text_object(submit, 24),
        "close": text_object("Cancel", 24), "blocks": blocks,
    })
}

fn deny(sheet: &Sheet) -> Vec<Value> {
    let options: Vec<Value> = REASONS.iter().map(|(words, code)| option(words, code)).collect();
    let reasons = json!({ "type": "radio_buttons", "action_id": "v", "options": options });
    vec![
        section(headline(&sheet.card)),
        input("code", "Reason", reasons, true),
        input("text", "In words; the agent is told", text_input(true, 2000), true),
    ]
}

fn ask(sheet: &Sheet) -> Vec<Value> {
    let options: Vec<Value> = sheet
        .questions
        .iter()
        .enumerate()
        .map(|(n, question)| option(question, &n.to_string()))
        .collect();
    let offered = json!({ "type": "radio_buttons", "action_id": "v", "options": options });
    vec![
        section(headline(&sheet.card)),
        input("offered", "A question that fits", offered, true),
        input("text", "Or in your words", text_input(true, 2000), true),
    ]
}

fn narrow(sheet: &Sheet) -> Vec<Value> {
    let mut blocks = vec![
        section(headline(&sheet.card)),
        section(vec![
            bold("Now: "),
            plain(&format!("{}. What you leave as it is stays.", sheet.card.issues.ttl)),
        ]),
    ];
    if !sheet.lifetimes.is_empty() {
        let options: Vec<Value> =
            sheet.lifetimes.iter().map(|(s, words)| option(words, &s.to_string())).collect();
        let select = json!({
            "type": "static_select", "action_id": "v", "options": options,
            "placeholder": text_object("as asked", 150),
        });
        blocks.push(input("ttl", "For a shorter time", select, true));
    }
    for shrink in &sheet.shrinks {
        let (label, element) = match &shrink.how {
            ShrinkBy::Number { least, now } => (
                format!("{}, at most", shrink.label),
                json!({
                    "type": "number_input", "action_id": "v", "is_decimal_allowed": false,
                    "min_value": least.to_string(), "max_value": now.to_string(),
                }),
            ),
            ShrinkBy::Prefix { now } => {
                let mut input = text_input(false, 1024);
                if let Value::Object(map) = &mut input
                    && now.chars().count() <= 1024
                {
                    map.insert("initial_value".into(), now.as_str().into());
                }
                (format!("{}, longer than this", shrink.label), input)
            }
            ShrinkBy::Members(members) => {
                let options: Vec<Value> = members
                    .iter()
                    .enumerate()
                    .map(|(n, (_, shown))| option(shown, &n.to_string()))
                    .collect();
                (
                    format!("{}, only these", shrink.label),
                    json!({ "type": "multi_static_select", "action_id": "v", "options": options }),
                )
            }
        };
        blocks.push(input(&format!("p_{}", shrink.name), &label, element, true));
    }
    blocks
}

fn option(words: &str, value: &str) -> Value {
    json!({ "text": text_object(words, 75), "value": value })
}

fn text_input(multiline: bool, most: usize) -> Value {
    json!({ "type": "plain_text_input", "action_id": "v", "multiline": multiline, "max_length": most })
}

fn input(block: &str, label: &str, element: Value, optional: bool) -> Value {
    json!({
        "type": "input", "block_id": block, "optional": optional,
        "label": text_object(label, 2000), "element": element,
    })
}

impl Submitted {
    /// What is wrong with the form by itself, in words by block: nothing was filled in.
    #[must_use]
    pub fn faults(&self) -> BTreeMap<String, String> {
        let missing = match self.form {
            Form::Ask if self.one("offered").is_none() && self.one("text").is_none() => {
                Some(("text", "Choose a question or write one."))
            }
            Form::Deny if self.one("code").is_none() && self.one("text").is_none() => {
                Some(("text", "Choose a reason or write one."))
            }
            _ => None,
        };
        missing.into_iter().map(|(block, words)| (block.to_owned(), words.to_owned())).collect()
    }

    /// What the form asks for, read beside the sheet that it was made from.
    ///
    /// # Errors
    /// In words, what does not fit.
    pub fn wish(&self, sheet: &Sheet) -> Result<Wish, String> {
        let confirm = self.one("confirm");
        match self.form {
            Form::Approve => Ok(Wish::Approve { confirm }),
            Form::Ask => {
                let offered = self.one("offered").and_then(|n| n.parse::<usize>().ok());
                let offered = offered.and_then(|n| sheet.questions.get(n).cloned());
                let text = self.one("text").or(offered).ok_or("no question was written")?;
                Ok(Wish::Ask { text })
            }
            Form::Deny => Ok(Wish::Deny {
                reason_code: self.one("code").unwrap_or_default(),
                reason: self.one("text"),
            }),
            Form::Narrow => {
                let ttl_s = match self.one("ttl") {
                    Some(s) => Some(s.parse().map_err(|_| "the lifetime is not a number")?),
                    None => None,
                };
                let params = params(&self.fields, sheet)?;
                let params = (!params.is_empty()).then_some(Value::Object(params));
                Ok(Wish::Narrow { ttl_s, params, confirm })
            }
        }
    }

    fn one(&self, block: &str) -> Option<String> {
        let value = self.fields.get(block)?.first()?;
        (!value.trim().is_empty()).then(|| value.clone())
    }
}

fn params(fields: &Fields, sheet: &Sheet) -> Result<Map<String, Value>, String> {
    let mut out = Map::new();
    for shrink in &sheet.shrinks {
        let Some(given) = fields.get(&format!("p_{}", shrink.name)).filter(|g| !g.is_empty())
        else {
            continue;
        };
        let first = given.first().map(String::as_str).unwrap_or_default();
        match &shrink.how {
            ShrinkBy::Number { now, .. } => {
                let number: i64 =
                    first.trim().parse().map_err(|_| format!("{} is no number", shrink.label))?;
                if number != *now {
                    out.insert(shrink.name.clone(), number.into());
                }
            }
            ShrinkBy::Prefix { now } => {
                if first != now && !first.is_empty() {
                    out.insert(shrink.name.clone(), first.into());
                }
            }
            ShrinkBy::Members(members) => {
                let chosen: Option<Vec<Value>> = given
                    .iter()
                    .map(|n| Some(members.get(n.parse::<usize>().ok()?)?.0.clone().into()))
                    .collect();
                let chosen = chosen.ok_or_else(|| format!("{}: choose again", shrink.label))?;
                out.insert(shrink.name.clone(), chosen.into());
            }
        }
    }
    Ok(out)
}
