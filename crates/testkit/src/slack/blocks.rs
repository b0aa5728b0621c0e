//! Block Kit's bounds, as docs.slack.dev states them: what breaks one is refused as Slack refuses it.

use serde_json::Value;

/// The first fault of a message's or view's blocks; `most` of them are allowed.
#[must_use]
pub fn fault(blocks: &Value, most: usize) -> Option<String> {
    let Some(list) = blocks.as_array() else { return Some("blocks is no list".into()) };
    if list.is_empty() || list.len() > most {
        return Some(format!("{} blocks", list.len()));
    }
    list.iter().find_map(block)
}

/// The first fault of a modal.
#[must_use]
pub fn view_fault(view: &Value) -> Option<String> {
    if view["type"] != "modal" {
        return Some("the view is no modal".into());
    }
    for key in ["title", "submit", "close"] {
        if let Some(why) = plain(&view[key], 24) {
            return Some(format!("{key}: {why}"));
        }
    }
    let meta = view["private_metadata"].as_str().unwrap_or_default();
    if meta.chars().count() > 3000 || view["callback_id"].as_str().is_none_or(|c| c.len() > 255) {
        return Some("metadata or callback id".into());
    }
    fault(&view["blocks"], 100)
}

fn block(block: &Value) -> Option<String> {
    if block["block_id"].as_str().is_some_and(|id| id.is_empty() || id.len() > 255) {
        return Some("block_id".into());
    }
    let elements = || block["elements"].as_array().cloned().unwrap_or_default();
    match block["type"].as_str() {
        Some("rich_text") => {
            let parts = elements();
            if parts.is_empty() {
                return Some("an empty rich_text".into());
            }
            parts.iter().find_map(rich)
        }
        Some("actions") => {
            let elements = elements();
            if elements.is_empty() || elements.len() > 25 {
                return Some(format!("{} elements in actions", elements.len()));
            }
            elements.iter().find_map(element)
        }
        Some("context") => {
            let elements = elements();
            if elements.is_empty() || elements.len() > 10 {
                return Some("context".into());
            }
            elements.iter().find_map(|e| plain(e, 3000))
        }
        Some("input") => plain(&block["label"], 2000).or_else(|| element(&block["element"])),
        Some("divider") => None,
        Some("header") => plain(&block["text"], 150),
        other => Some(format!("a block of type {other:?}")),
    }
}

fn rich(part: &Value) -> Option<String> {
    let known =
        ["rich_text_section", "rich_text_preformatted", "rich_text_quote", "rich_text_list"];
    if !part["type"].as_str().is_some_and(|t| known.contains(&t)) {
        return Some(format!("rich text part {}", part["type"]));
    }
    let Some(elements) = part["elements"].as_array() else { return Some("no elements".into()) };
    elements.iter().find_map(|e| match e["type"].as_str() {
        Some("text") => match e["text"].as_str() {
            None | Some("") => Some("an empty text".into()),
            Some(text) if text.chars().count() > 3000 => Some("a text over 3000".into()),
            _ => None,
        },
        Some("date") => {
            (!e["timestamp"].is_i64() || !e["format"].is_string()).then(|| "date".into())
        }
        Some("link") => e["url"].as_str().is_none_or(|u| u.len() > 3000).then(|| "link".into()),
        other => Some(format!("rich text element {other:?}")),
    })
}

fn element(e: &Value) -> Option<String> {
    if e["action_id"].as_str().is_none_or(|id| id.is_empty() || id.len() > 255) {
        return Some("action_id".into());
    }
    let options = |most: usize| {
        let Some(list) = e["options"].as_array() else { return Some("no options".to_owned()) };
        if list.is_empty() || list.len() > most {
            return Some(format!("{} options", list.len()));
        }
        list.iter().find_map(|o| {
            let long = o["value"].as_str().is_none_or(|v| v.len() > 150);
            plain(&o["text"], 75).or_else(|| long.then(|| "option value".into()))
        })
    };
    match e["type"].as_str() {
        Some("button") => {
            let value = e["value"].as_str().is_some_and(|v| v.chars().count() > 2000);
            let url = e["url"].as_str().is_some_and(|u| u.len() > 3000);
            plain(&e["text"], 75).or_else(|| (value || url).then(|| "button value or url".into()))
        }
        Some("static_select" | "multi_static_select") => options(100),
        Some("radio_buttons" | "checkboxes") => options(10),
        Some("plain_text_input") => {
            (e["max_length"].as_u64().is_some_and(|m| m > 3000)).then(|| "max_length".into())
        }
        Some("number_input") => {
            e["is_decimal_allowed"].is_null().then(|| "is_decimal_allowed".into())
        }
        other => Some(format!("an element of type {other:?}")),
    }
}

fn plain(text: &Value, most: usize) -> Option<String> {
    if text["type"] != "plain_text" {
        return Some(format!("text of type {}", text["type"]));
    }
    match text["text"].as_str() {
        None | Some("") => Some("an empty text".into()),
        Some(t) if t.chars().count() > most => Some(format!("a text over {most}")),
        _ => None,
    }
}
