//! Text that others chose, made safe to stand beside the broker's own: what deceives the eye is
//! shown by code point as `⟨U+0430⟩`, and long text is shortened in the middle, so that no end is
//! hidden. The rules follow UTS 39 (Unicode Security Mechanisms).

use grantwright_domain::text::is_deceptive;
use unicode_normalization::char::is_combining_mark;
use unicode_security::mixed_script::AugmentedScriptSet;
use unicode_security::{GeneralSecurityProfile, skeleton};

/// Most combining marks on one letter that are drawn; more would reach into other lines.
const MOST_MARKS: usize = 2;

/// A text as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Safe to show, on one line.
    pub text: String,
    /// Length of the original, in characters.
    pub chars: usize,
    /// Nothing was left out in the middle.
    pub full: bool,
}

/// Whose text it is, and so what may stay as it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// A value between backticks. Distinct values are shown distinctly.
    Code,
    /// A sentence in any language. White space is one space.
    Prose,
}

/// A value for code style, in at most `most` columns; never holds a backtick. Two values that are
/// shown in full and alike are the same value.
#[must_use]
pub fn code(text: &str, most: usize) -> Shown {
    fit(text, units(text, Style::Code), most)
}

/// An agent's or a person's sentence, in at most `most` columns. Runs of white space and line
/// breaks become one space.
#[must_use]
pub fn prose(text: &str, most: usize) -> Shown {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    fit(text, units(&line, Style::Prose), most)
}

/// An operator's words, whole, on one line; backticks become `'`, since they mark code.
#[must_use]
pub fn plain(text: &str) -> String {
    let line: String =
        text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect::<String>();
    units(&line, Style::Prose).concat().replace('`', "'")
}

/// Columns a text takes, at most: East Asian and other high characters count two.
#[must_use]
pub fn columns(text: &str) -> usize {
    text.chars().map(|c| if (c as u32) < 0x1100 { 1 } else { 2 }).sum()
}

/// Each character, or its code point.
fn units(text: &str, style: Style) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut hidden: Vec<bool> = chars.iter().map(|c| is_odd(*c, style)).collect();
    if style == Style::Code {
        hide_spaces(&chars, &mut hidden);
    }
    if !text.is_ascii() {
        hide_foreign_letters(&chars, &mut hidden, style);
        hide_loose_marks(&chars, &mut hidden);
    }
    chars
        .iter()
        .zip(hidden)
        .map(|(c, hide)| if hide { format!("⟨U+{:04X}⟩", *c as u32) } else { c.to_string() })
        .collect()
}

/// True for a character that is never shown as itself.
fn is_odd(c: char, style: Style) -> bool {
    let u = c as u32;
    let always = is_deceptive(c)
        // These are how code points and quotes are written here.
        || matches!(c, '⟨' | '⟩' | '❝' | '❞')
        // Private use, noncharacters, the blank Braille pattern.
        || matches!(u, 0xE000..=0xF8FF | 0xF0000.. | 0xFDD0..=0xFDEF | 0x2800)
        || u & 0xFFFE == 0xFFFE
        // Box drawing and blocks; marks that overlay or enclose.
        || matches!(u, 0x2500..=0x259F | 0x1FB00..=0x1FBFF)
        || matches!(u, 0x0334..=0x0338 | 0x0488..=0x0489 | 0x20D0..=0x20F0)
        // Full-width, mathematical, enclosed and other letters that imitate letters.
        || (!c.is_ascii() && c.is_alphanumeric() && !c.identifier_allowed());
    always
        || (style == Style::Code
            && (c == '`'
                || (!c.is_ascii() && (!c.is_alphabetic() || is_combining_mark(c)))
                || is_right_to_left(u)))
}

/// Right-to-left letters reorder what stands beside them.
fn is_right_to_left(u: u32) -> bool {
    matches!(u, 0x0590..=0x08FF | 0xFB1D..=0xFDFF | 0xFE70..=0xFEFF | 0x10800..=0x10FFF | 0x1E800..=0x1EFFF)
}

/// A space at an end or after a space could be overlooked, or push text aside.
fn hide_spaces(chars: &[char], hidden: &mut [bool]) {
    let mut before = ' ';
    let last = chars.len().saturating_sub(1);
    for (i, (c, hide)) in chars.iter().zip(hidden).enumerate() {
        *hide |= *c == ' ' && (before == ' ' || i == last);
        before = *c;
    }
}

/// Hides, word by word, letters of another script than the word's, and words of another script that
/// look like Latin ones: always in code, in prose where Latin is written too.
fn hide_foreign_letters(chars: &[char], hidden: &mut [bool], style: Style) {
    let latin = chars.iter().any(char::is_ascii_alphabetic);
    let is_word = |c: &char| c.is_alphanumeric() || is_combining_mark(*c);
    let mut at = 0;
    for word in chars.chunk_by(|a, b| is_word(a) == is_word(b)) {
        let span = at..at + word.len();
        at = span.end;
        let Some(hidden) = hidden.get_mut(span) else { return };
        let text: String = word.iter().collect();
        if text.is_ascii() || !word.first().is_some_and(is_word) {
            continue;
        }
        let home = home(word);
        let imitates = (style == Style::Code || latin) && skeleton(&text).all(|c| c.is_ascii());
        for (c, hide) in word.iter().zip(hidden) {
            let set = AugmentedScriptSet::for_char(*c);
            let is_latin = meets(set, latin_set());
            // A Latin letter such as `ɑ` or `ı` imitates another by itself.
            let imitates = match is_latin {
                true => style == Style::Code && imitates_ascii(*c),
                false => imitates,
            };
            *hide |= imitates || !meets(set, home);
        }
    }
}

fn imitates_ascii(c: char) -> bool {
    !c.is_ascii() && skeleton(c.encode_utf8(&mut [0; 4])).all(|c| c.is_ascii())
}

fn latin_set() -> AugmentedScriptSet {
    AugmentedScriptSet::for_char('a')
}

/// The scripts a word is at home in: Latin where it holds a Latin letter, else its first letter's.
fn home(word: &[char]) -> AugmentedScriptSet {
    let sets = || word.iter().map(|c| AugmentedScriptSet::for_char(*c)).filter(|s| !s.is_all());
    if sets().any(|s| meets(s, latin_set())) {
        return latin_set();
    }
    sets().fold(AugmentedScriptSet::default(), |mut home, set| {
        if meets(home, set) {
            home.intersect_with(set);
        }
        home
    })
}

fn meets(mut a: AugmentedScriptSet, b: AugmentedScriptSet) -> bool {
    a.intersect_with(b);
    !a.is_empty()
}

/// Hides marks that have no letter of the same text to sit on, and marks beyond [`MOST_MARKS`].
fn hide_loose_marks(chars: &[char], hidden: &mut [bool]) {
    let mut room = 0;
    for (c, hide) in chars.iter().zip(hidden) {
        if !is_combining_mark(*c) {
            room = if *hide || c.is_whitespace() { 0 } else { MOST_MARKS };
        } else if room == 0 {
            *hide = true;
        } else {
            room -= 1;
        }
    }
}

/// Joins the units, leaving out the middle where they take more than `most` columns.
fn fit(original: &str, units: Vec<String>, most: usize) -> Shown {
    let chars = original.chars().count();
    if units.iter().map(|u| columns(u)).sum::<usize>() <= most {
        return Shown { text: units.concat(), chars, full: true };
    }
    let room = most.saturating_sub(2);
    let head = taken(units.iter(), room.div_ceil(2));
    let tail = taken(units.iter().rev(), room / 2);
    let mut text: String = units.iter().take(head).map(String::as_str).collect();
    text.push('…');
    text.extend(units.iter().skip(units.len().saturating_sub(tail)).map(String::as_str));
    Shown { text, chars, full: false }
}

/// How many units fit into `room` columns.
fn taken<'a>(units: impl Iterator<Item = &'a String>, room: usize) -> usize {
    units
        .scan(0, |used, unit| {
            *used += columns(unit);
            (*used <= room).then_some(())
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_letters_show_their_code_point() {
        for (given, shown) in [
            ("p\u{430}ypal", "p⟨U+0430⟩ypal"),
            ("\u{430}dmin-prod", "⟨U+0430⟩dmin-prod"),
            ("\u{440}\u{430}\u{443}\u{440}\u{430}l", "⟨U+0440⟩⟨U+0430⟩⟨U+0443⟩⟨U+0440⟩⟨U+0430⟩l"),
            ("\u{441}\u{43e}\u{440}", "⟨U+0441⟩⟨U+043E⟩⟨U+0440⟩"),
            ("\u{3bf}k", "⟨U+03BF⟩k"),
            ("größe", "größe"),
            ("отчёт", "отчёт"),
            ("e\u{301}", "e⟨U+0301⟩"),
            ("a  b ", "a ⟨U+0020⟩b⟨U+0020⟩"),
            ("a`b", "a⟨U+0060⟩b"),
            ("a\u{2215}b", "a⟨U+2215⟩b"),
            ("\u{5d0}b", "⟨U+05D0⟩b"),
            ("売上レポート", "売上レポート"),
        ] {
            assert_eq!(code(given, 200).text, shown);
        }
    }

    #[test]
    fn prose_of_any_language_stays_readable() {
        for same in [
            "nightly report for the sales team",
            "ночной отчёт для отдела продаж, а с ним сор",
            "Größe prüfen — naïve café 🙂",
            "毎晩の売上レポート",
            "báo cáo hằng đêm",
            "매출 보고서",
            "تقرير المبيعات",
        ] {
            assert_eq!(prose(same, 200).text, same);
        }
        assert_eq!(
            prose("open \u{440}\u{430}\u{443}\u{440}\u{430}", 200).text.matches("⟨U+").count(),
            5
        );
        assert_eq!(prose("a\n\n b\u{a0}\u{2028}c", 200).text, "a b c");
        assert_eq!(
            prose("x\u{301}\u{302}\u{303}\u{304}", 200).text,
            "x\u{301}\u{302}⟨U+0303⟩⟨U+0304⟩"
        );
    }

    #[test]
    fn shortening_keeps_both_ends_and_whole_code_points() {
        let shown = code(&format!("{}{}", "\u{430}".repeat(50), "end"), 40);
        assert!(!shown.full && shown.chars == 53);
        assert!(
            shown.text.starts_with("⟨U+0430⟩") && shown.text.ends_with("end"),
            "{}",
            shown.text
        );
        assert!(columns(&shown.text) <= 40);
        assert_eq!(shown.text.matches('⟨').count(), shown.text.matches('⟩').count());
    }
}
