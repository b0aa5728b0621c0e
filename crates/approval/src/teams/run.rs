//! Lines of an Adaptive Card. Every text goes into a `TextRun`, which knows no markdown; the only
//! `TextBlock`s are the broker's own moments, which the client shows in the reader's zone.

use grantwright_domain::Timestamp;
use serde_json::{Value, json};

use crate::text::relative;

/// Clients replace `{{DATE(…)}}` and `{{TIME(…)}}` in any text, also in a run: no text of ours but
/// a moment holds two braces beside each other.
pub(crate) fn inert(text: &str) -> String {
    text.replace("{{", "{⟨U+007B⟩")
}

/// One block of runs.
#[derive(Debug, Default)]
pub(crate) struct Line {
    runs: Vec<Value>,
    large: bool,
    strong: bool,
    faint: bool,
}

impl Line {
    /// The card's first line.
    pub(crate) fn headline(text: &str) -> Value {
        Self { large: true, strong: true, ..Self::default() }.marked(text).block()
    }

    /// A label, and what it says; values in backticks become code.
    pub(crate) fn labelled(label: &str, text: &str) -> Value {
        Self::default().faint(label).say("  ").marked(text).block()
    }

    /// Something that must not be overlooked.
    pub(crate) fn strong(text: &str) -> Value {
        Self { strong: true, ..Self::default() }.marked(text).block()
    }

    /// Ids and hashes: small, copyable, last.
    pub(crate) fn small(text: &str) -> Value {
        Self { faint: true, ..Self::default() }.marked(text).block()
    }

    /// Somebody's own words between quotes that they cannot write.
    pub(crate) fn quote(words: &str) -> Value {
        let mut line = Self::default().say("❝ ");
        line.runs.push(json!({ "type": "TextRun", "text": inert(words), "italic": true }));
        line.say(" ❞").block()
    }

    fn say(mut self, text: &str) -> Self {
        self.push(text, false);
        self
    }

    fn faint(mut self, text: &str) -> Self {
        let run =
            json!({ "type": "TextRun", "text": inert(text), "isSubtle": true, "weight": "bolder" });
        self.runs.push(run);
        self
    }

    /// The broker's text, with values between backticks; the backticks stay, for those who cannot
    /// see or hear a change of letters.
    fn marked(mut self, text: &str) -> Self {
        for (i, part) in text.split('`').enumerate() {
            if i % 2 == 1 {
                self.push(&format!("`{part}`"), true);
            } else {
                self.push(part, false);
            }
        }
        self
    }

    fn push(&mut self, text: &str, code: bool) {
        if text.is_empty() {
            return;
        }
        let mut run = json!({ "type": "TextRun", "text": inert(text) });
        if let Value::Object(map) = &mut run {
            if code {
                map.insert("fontType".into(), "monospace".into());
            }
            if self.large {
                map.insert("size".into(), "large".into());
            }
            if self.strong {
                map.insert("weight".into(), "bolder".into());
            }
            if self.faint {
                map.insert("isSubtle".into(), true.into());
                map.insert("size".into(), "small".into());
            }
        }
        self.runs.push(run);
    }

    fn block(self) -> Value {
        json!({ "type": "RichTextBlock", "inlines": self.runs })
    }
}

/// A moment in the reader's own zone, and how far from now where that is known; broker's words only.
pub(crate) fn moment(before: &str, at: Timestamp, now: Option<Timestamp>) -> Value {
    let from_now = now.map(|now| format!(" ({})", relative(at.since(now)))).unwrap_or_default();
    let at = at.whole_second().to_string();
    json!({
        "type": "TextBlock", "wrap": true, "spacing": "none",
        "text": format!("{before} {{{{TIME({at})}}}} {{{{DATE({at}, SHORT)}}}}{from_now}"),
    })
}

/// A moment within a line, where clients do not convert it.
pub(crate) fn when(at: Timestamp, now: Option<Timestamp>) -> String {
    match now {
        Some(now) => crate::text::when(at, now),
        None => at.whole_second().to_string().replace('T', " ").replace('Z', " UTC"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_a_function_of_the_clients() {
        for (given, shown) in [
            ("{{DATE(2017-02-14T06:08:39Z)}}", "{⟨U+007B⟩DATE(2017-02-14T06:08:39Z)}}"),
            ("{{{TIME(x)}}}", "{⟨U+007B⟩{TIME(x)}}}"),
            ("{a}", "{a}"),
        ] {
            assert_eq!(inert(given), shown);
            assert!(!inert(given).contains("{{"));
        }
        let block = Line::labelled("with", "a = `{{TIME(x)}}`, {{y}}");
        assert!(!block.to_string().contains("{{"), "{block}");
        assert_eq!(block["inlines"][3]["fontType"], "monospace");
    }
}
