//! Cuts a policy file into its statements, so that each is parsed, named and faulted by itself.

/// One statement of a file, with its `;`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Statement<'a> {
    /// Byte offset of its first word in the file.
    pub(crate) offset: usize,
    /// Its text.
    pub(crate) text: &'a str,
}

/// The statements of a file. A `;` inside a string or a comment ends nothing (Cedar's grammar has
/// no other use for it); text after the last `;` is a statement too, which the parser then refuses.
pub(crate) fn split(file: &str) -> Vec<Statement<'_>> {
    let mut out = Vec::new();
    let mut start = None;
    let mut chars = file.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '/' if chars.peek().is_some_and(|(_, n)| *n == '/') => {
                for (_, c) in chars.by_ref() {
                    if c == '\n' {
                        break;
                    }
                }
                continue;
            }
            '"' => {
                let mut escaped = false;
                for (_, c) in chars.by_ref() {
                    match c {
                        _ if escaped => escaped = false,
                        '\\' => escaped = true,
                        '"' => break,
                        _ => {}
                    }
                }
            }
            _ if c.is_whitespace() => continue,
            _ => {}
        }
        let from = *start.get_or_insert(at);
        if c == ';' {
            out.push(Statement { offset: from, text: file.get(from..=at).unwrap_or_default() });
            start = None;
        }
    }
    if let Some(from) = start {
        out.push(Statement { offset: from, text: file.get(from..).unwrap_or_default() });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_comments_end_nothing() {
        let file = "// one; two\n@reason(\"a; \\\" b\") permit(principal, action, resource);\n\
                    forbid(principal, action, resource) // x;\n when { true };\nrest";
        let cut: Vec<&str> = split(file).iter().map(|s| s.text).collect();
        assert_eq!(cut.len(), 3);
        assert!(cut[0].starts_with("@reason") && cut[0].ends_with(';'));
        assert!(cut[1].ends_with("when { true };"));
        assert_eq!(cut[2], "rest");
        assert_eq!(split("  \n// nothing\n"), vec![]);
    }
}
