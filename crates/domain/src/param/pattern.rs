//! Patterns of text parameters: compiled once by each thread.

use super::MAX_TEXT;

/// A pattern that was compiled.
struct Pattern {
    whole: regex_lite::Regex,
    /// See [`admits_metacharacters`]: looked for once, since it takes as long as compiling.
    admits: std::cell::OnceCell<bool>,
}

thread_local! {
    // Patterns come from loaded scopes only, so this holds as many as were ever loaded.
    static COMPILED: std::cell::RefCell<std::collections::HashMap<String, Option<Pattern>>> =
        std::cell::RefCell::new(std::collections::HashMap::new());
}

/// Asks a pattern that is compiled at most once by each thread; none: it is no pattern.
fn with_pattern<R>(pattern: &str, ask: impl FnOnce(&Pattern) -> R) -> Option<R> {
    COMPILED.with_borrow_mut(|cache| {
        if let Some(known) = cache.get(pattern) {
            return known.as_ref().map(ask);
        }
        let whole = compile(pattern).ok();
        let known = whole.map(|whole| Pattern { whole, admits: std::cell::OnceCell::new() });
        let answer = known.as_ref().map(ask);
        cache.insert(pattern.to_owned(), known);
        answer
    })
}

pub(super) fn admits_metacharacters(pattern: &str) -> bool {
    // Any pattern that can hold one of these holds it alone, first, last or in the middle of a
    // short run of ordinary characters; what slips through is refused when the slot is filled.
    let admits = |re: &regex_lite::Regex| {
        ['*', '?', '$', '{', '}', '"', '\\', ',', ' ', ':'].iter().any(|m| {
            [format!("{m}"), format!("a{m}"), format!("{m}a"), format!("a{m}a"), format!("aa{m}aa")]
                .iter()
                .any(|s| re.is_match(s))
        })
    };
    with_pattern(pattern, |known| *known.admits.get_or_init(|| admits(&known.whole)))
        .unwrap_or(true)
}

pub(super) fn compile(pattern: &str) -> Result<regex_lite::Regex, regex_lite::Error> {
    // Alone first: `a)|(?:b` is no pattern, but would close the group and escape its anchors.
    regex_lite::RegexBuilder::new(pattern).size_limit(1 << 20).build()?;
    regex_lite::RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(1 << 20).build()
}

/// True when the whole of `text` matches; at most [`MAX_TEXT`] bytes, no control characters.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    text.len() <= MAX_TEXT
        && !text.chars().any(crate::text::is_deceptive)
        && with_pattern(pattern, |known| known.whole.is_match(text)).unwrap_or(false)
}
