//! Where a store lies.

use std::path::{Path, PathBuf};

use crate::StoreError;

/// A parsed store URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Url {
    /// `sqlite:///absolute/path`
    Sqlite(PathBuf),
    /// `postgres://…` or `postgresql://…`
    Postgres(String),
}

impl Url {
    pub(crate) fn parse(url: &str) -> Result<Self, StoreError> {
        if let Some(path) = url.strip_prefix("sqlite://") {
            if Path::new(path).is_absolute() {
                return Ok(Self::Sqlite(PathBuf::from(path)));
            }
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres(url.to_owned()));
        }
        Err(StoreError::Url(without_password(url)))
    }
}

/// Never shows what may stand between scheme and host.
fn without_password(url: &str) -> String {
    let scheme = url.split("://").next().unwrap_or_default();
    match url.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://…@{host}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_both_kinds_and_hides_passwords() {
        assert_eq!(Url::parse("sqlite:///a/b"), Ok(Url::Sqlite("/a/b".into())));
        assert!(Url::parse("sqlite://a/b").is_err());
        assert!(matches!(Url::parse("postgres://u:p@h/d"), Ok(Url::Postgres(_))));
        let shown = Url::parse("mysql://u:secret@h/d").unwrap_err().to_string();
        assert!(!shown.contains("secret"), "{shown}");
    }
}
