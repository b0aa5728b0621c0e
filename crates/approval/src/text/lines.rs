//! Lines of at most [`WIDTH`] columns, where a value in backticks never looks like prose.

use unicode_normalization::char::is_combining_mark;

use super::QUOTE;
use crate::show::columns;

/// Columns of a line.
const WIDTH: usize = 80;
/// Columns of the label and its margin.
const MARGIN: usize = 11;

/// The lines so far.
#[derive(Default)]
pub(super) struct Lines {
    text: String,
    label: String,
}

impl Lines {
    pub(super) fn headline(&mut self, text: &str) {
        for line in wrap(text, WIDTH) {
            self.line("", &line);
        }
    }

    /// A labelled item; a label is not repeated on the next item, nor an empty item shown.
    pub(super) fn item(&mut self, label: &str, text: &str) {
        if text.is_empty() {
            return;
        }
        let mut shown = if label == self.label { "" } else { label };
        for line in wrap(text, WIDTH - MARGIN) {
            self.line(&format!("  {shown:<9}"), &line);
            shown = "";
        }
        if !label.is_empty() {
            label.clone_into(&mut self.label);
        }
    }

    /// Somebody's own words.
    pub(super) fn quote(&mut self, text: &str) {
        for line in wrap_words(text.split(' ').map(ToOwned::to_owned), WIDTH - QUOTE.len()) {
            self.line(QUOTE, &line);
        }
        self.label.clear();
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn line(&mut self, prefix: &str, text: &str) {
        self.text.push_str(prefix);
        self.text.push_str(text);
        self.text.push('\n');
    }
}

/// Breaks the broker's text at spaces, never within backticks; a value wider than a line becomes
/// several in backticks, each but the last followed by `+`.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut in_code = false;
    for c in text.chars() {
        in_code ^= c == '`';
        if c == ' ' && !in_code {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(c);
        }
    }
    let pieces = words.into_iter().flat_map(|word| {
        if columns(&word) <= width { vec![word] } else { break_code(&word, width) }
    });
    wrap_words(pieces, width)
}

/// Breaks a wide word with values in it, so that each piece is in backticks of its own.
fn break_code(word: &str, width: usize) -> Vec<String> {
    let mut out = Vec::new();
    for (i, part) in word.split('`').enumerate() {
        if i % 2 == 0 {
            match out.last_mut() {
                // What follows a value, such as a comma, stays with it.
                Some(last) if !part.is_empty() => String::push_str(last, part),
                None if !part.is_empty() => out.push(part.to_owned()),
                _ => {}
            }
            continue;
        }
        let chunks = chunks(part, width.saturating_sub(6));
        let last = chunks.len().saturating_sub(1);
        out.extend(chunks.into_iter().enumerate().map(|(n, chunk)| {
            if n == last { format!("`{chunk}`") } else { format!("`{chunk}` +") }
        }));
    }
    out
}

/// Fills lines with words; a word wider than a line is cut.
fn wrap_words(words: impl Iterator<Item = String>, width: usize) -> Vec<String> {
    let mut out: Vec<String> = vec![String::new()];
    for word in words.flat_map(|w| if columns(&w) > width { chunks(&w, width) } else { vec![w] }) {
        match out.last_mut() {
            Some(line) if line.is_empty() => line.push_str(&word),
            Some(line) if columns(line) + 1 + columns(&word) <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => out.push(word),
        }
    }
    out
}

/// Cuts text to pieces of at most `width` columns, never between a letter and its marks.
fn chunks(text: &str, width: usize) -> Vec<String> {
    let mut out = vec![String::new()];
    for c in text.chars() {
        if let Some(line) = out.last_mut() {
            let fits = columns(line) + columns(c.encode_utf8(&mut [0; 4])) <= width;
            if fits || is_combining_mark(c) {
                line.push(c);
                continue;
            }
        }
        out.push(c.to_string());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_in_backticks() {
        let text = format!("name = `{}`, `two words here`", "ab cd".repeat(40));
        for line in wrap(&text, 60) {
            assert!(columns(&line) <= 60, "{line}");
            assert_eq!(line.matches('`').count() % 2, 0, "{line}");
        }
        assert_eq!(wrap("a `b c` d", 5), ["a", "`b c`", "d"]);
    }
}
