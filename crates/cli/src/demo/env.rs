//! `DIR/env`: lines to source. It is written last, by rename: when it exists, all is ready.

use std::path::Path;

use crate::exit::Failure;
use crate::files;

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// `export NAME='value'`.
    Export(&'static str, String),
    /// `unset NAME`.
    Unset(&'static str),
}

/// What the AWS SDKs would take before the container door.
pub const AWS_UNSET: [&str; 7] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
];

/// The file's text.
pub fn render(lines: &[Line]) -> String {
    let mut out = String::new();
    for line in lines {
        match line {
            Line::Export(name, value) => {
                out.push_str(&format!("export {name}={}\n", quoted(value)));
            }
            Line::Unset(name) => out.push_str(&format!("unset {name}\n")),
        }
    }
    out
}

/// In single quotes, in which a shell expands nothing.
pub fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// Writes the file in one step.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(path: &Path, lines: &[Line]) -> Result<(), Failure> {
    files::write_private(path, &render(lines))
}

/// Removes the file, if it is there.
pub fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_written() {
        let values =
            ["plain", "http://x/?a=b&c=d/", "it's", "$(touch x)`y`\\", "two\nlines", "''", ""];
        for value in values {
            let file = render(&[Line::Unset("NAME"), Line::Export("NAME", value.to_owned())]);
            let script = format!("{file}printf %s \"$NAME\"");
            let out = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), value);
        }
    }
}
