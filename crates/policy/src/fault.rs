//! What is wrong with the sources, where, and what was probably meant.

use std::fmt;

/// One fault of the sources. Loading reports all of them at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub struct Fault {
    /// The file's name as given in the sources.
    pub file: String,
    /// The line, counted from 1; 0 where the fault belongs to no line.
    pub line: usize,
    /// What is wrong, in plain words.
    pub message: String,
    /// What to write instead.
    pub suggestion: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: {}", self.file, self.line, self.message)?;
        } else {
            write!(f, "{}: {}", self.file, self.message)?;
        }
        match &self.suggestion {
            Some(s) => write!(f, " ({s})"),
            None => Ok(()),
        }
    }
}

/// Faults found so far.
#[derive(Debug, Default)]
pub(crate) struct Faults(pub(crate) Vec<Fault>);

/// A place in the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: String,
    pub(crate) line: usize,
}

impl Faults {
    pub(crate) fn add(&mut self, at: &Place, message: impl Into<String>) {
        self.suggest(at, message, None);
    }

    pub(crate) fn suggest(
        &mut self,
        at: &Place,
        message: impl Into<String>,
        suggestion: Option<String>,
    ) {
        let fault =
            Fault { file: at.file.clone(), line: at.line, message: message.into(), suggestion };
        if !self.0.contains(&fault) {
            self.0.push(fault);
        }
    }

    /// All of them in reading order; `Ok` when there are none.
    pub(crate) fn into_result(mut self) -> Result<(), Vec<Fault>> {
        if self.0.is_empty() {
            return Ok(());
        }
        self.0.sort();
        Err(self.0)
    }
}

/// The line, counted from 1, of a byte offset.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

/// Where the lines of a text begin, so that a long file is counted once.
#[derive(Debug)]
pub(crate) struct LineIndex(Vec<usize>);

impl LineIndex {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    /// The line, counted from 1, of a byte offset.
    pub(crate) fn line(&self, offset: usize) -> usize {
        self.0.partition_point(|newline| *newline < offset) + 1
    }
}

/// `did you mean …` for the nearest of the known words, when one is near.
pub(crate) fn did_you_mean<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let bound = if word.chars().count() <= 4 { 1 } else { 3 };
    known
        .into_iter()
        .map(|k| (distance(word, k), k))
        .filter(|(d, _)| *d <= bound)
        .min()
        .map(|(_, k)| format!("did you mean `{k}`?"))
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut next = Vec::with_capacity(row.len());
        next.push(left);
        for (cb, (diagonal, above)) in b.chars().zip(row.iter().zip(row.iter().skip(1))) {
            left = (diagonal + usize::from(ca != cb)).min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(
            did_you_mean("quorom", ["quorum", "reason"]).as_deref(),
            Some("did you mean `quorum`?")
        );
        assert_eq!(did_you_mean("colour", ["quorum", "id"]), None);
    }
}
