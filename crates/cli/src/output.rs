//! What commands print: one JSON object with `--json`, else words and aligned tables. Everything
//! that comes from outside passes through [`clean`], so that no text can steer the terminal.

use std::io::{IsTerminal, Write};

use grantwright_domain::text::{shorten, visible};
use serde_json::Value;

use crate::exit::{Exit, Failure};

/// Where a command prints.
#[derive(Debug, Clone, Copy)]
pub struct Out {
    /// One JSON object instead of words.
    pub json: bool,
    colour: bool,
}

/// How a piece of text looks on a terminal; never what it means.
#[derive(Debug, Clone, Copy)]
pub enum Look {
    /// Headlines.
    Bold,
    /// Ids, times, what one reads last.
    Dim,
    /// Went as it should.
    Good,
    /// Did not.
    Bad,
}

impl Out {
    /// Prints JSON, or words, in colour on a terminal unless `plain`.
    pub fn new(json: bool, plain: bool) -> Self {
        Self { json, colour: !json && !plain && std::io::stdout().is_terminal() }
    }

    /// One line on standard output. A closed pipe is not an error of ours.
    pub fn line(&self, text: impl AsRef<str>) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{}", text.as_ref());
        let _ = out.flush();
    }

    /// One line on standard error.
    pub fn note(&self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
    }

    /// The one JSON object of `--json`.
    pub fn object(&self, value: &Value) {
        self.line(value.to_string());
    }

    /// `text` in a look, where the terminal has looks.
    pub fn paint(&self, look: Look, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match look {
            Look::Bold => "1",
            Look::Dim => "2",
            Look::Good => "32",
            Look::Bad => "31",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// The object with `--json`, else what `words` prints.
    pub fn either(&self, value: &Value, words: impl FnOnce(&Self)) -> Exit {
        if self.json {
            self.object(value);
        } else {
            words(self);
        }
        Exit::Done
    }

    /// Says why a command failed and gives its exit code.
    pub fn fail(&self, failure: &Failure) -> Exit {
        if self.json {
            self.object(&failure.to_json());
        }
        self.note(clean(&failure.to_string()));
        if let Failure::Refused(refusal) = failure
            && !refusal.next.is_empty()
        {
            self.note(format!("next: {}", clean(&refusal.next)));
        }
        failure.exit()
    }

    /// Rows under dim titles, each column as wide as its widest cell.
    pub fn table(&self, titles: &[&str], rows: &[Vec<String>]) {
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|c| clean(c)).collect()).collect();
        let widths: Vec<usize> = titles
            .iter()
            .enumerate()
            .map(|(i, title)| {
                let cells = rows.iter().filter_map(|row| row.get(i));
                cells.map(|c| c.chars().count()).max().unwrap_or(0).max(title.chars().count())
            })
            .collect();
        let titles: Vec<String> = titles.iter().map(|t| (*t).to_owned()).collect();
        self.line(self.paint(Look::Dim, &aligned(&titles, &widths)));
        for row in &rows {
            self.line(aligned(row, &widths));
        }
    }
}

fn aligned(cells: &[String], widths: &[usize]) -> String {
    let mut out = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        out.push_str(cell);
        let gap = width.saturating_sub(cell.chars().count()) + 2;
        out.extend(std::iter::repeat_n(' ', gap));
    }
    out.trim_end().to_owned()
}

/// Text from outside as it may be shown: no control, bidirectional or zero-width character acts.
pub fn clean(text: &str) -> String {
    visible(text)
}

/// The text at `key`, or empty.
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The list at `key`, or empty.
pub fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Any value as one line for people: lists joined by ` · `, objects as `key: value`.
pub fn phrase(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => clean(s),
        Value::Array(items) => {
            let parts: Vec<String> = items.iter().map(phrase).filter(|p| !p.is_empty()).collect();
            parts.join(" · ")
        }
        Value::Object(map) => {
            let parts: Vec<String> = map
                .iter()
                .map(|(key, value)| (clean(key), phrase(value)))
                .filter(|(_, value)| !value.is_empty())
                .map(|(key, value)| format!("{key}: {value}"))
                .collect();
            parts.join(" · ")
        }
        other => other.to_string(),
    }
}

/// Parameters as `name=value`, each value shortened in its middle.
pub fn params(value: &Value) -> String {
    let Some(map) = value.as_object() else { return String::new() };
    let mut parts: Vec<String> = map
        .iter()
        .map(|(name, value)| format!("{}={}", clean(name), shorten(&phrase(value), 60)))
        .collect();
    parts.sort_unstable();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = ["a".to_owned(), "b".to_owned()];
        assert_eq!(aligned(&row, &[3, 1]), "a    b");
    }

    #[test]
    fn phrases_are_one_line_and_cannot_steer_the_terminal() {
        let value = serde_json::json!(["production", "a\u{1b}[2Jb", {"votes": 1, "none": null}]);
        assert_eq!(phrase(&value), "production · a⟨U+001B⟩[2Jb · votes: 1");
    }
}
