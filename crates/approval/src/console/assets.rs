//! What pages load: one stylesheet, two scripts, one icon, each at a path that names its content, so
//! that a browser may keep it for ever and never holds an old one.

use std::sync::LazyLock;

use grantwright_domain::Digest;

/// A file that is part of the binary.
#[derive(Debug)]
pub struct Asset {
    /// `/assets/<name>-<digest>.<ending>`.
    pub path: String,
    /// Its media type.
    pub media_type: &'static str,
    /// Its bytes.
    pub body: &'static str,
}

static ASSETS: LazyLock<[Asset; 4]> = LazyLock::new(|| {
    [
        asset("console", "css", "text/css; charset=utf-8", include_str!("console.css")),
        asset("console", "js", "text/javascript; charset=utf-8", include_str!("console.js")),
        asset("passkey", "js", "text/javascript; charset=utf-8", include_str!("passkey.js")),
        asset("icon", "svg", "image/svg+xml", include_str!("icon.svg")),
    ]
});

fn asset(name: &str, ending: &str, media_type: &'static str, body: &'static str) -> Asset {
    let digest: String = Digest::of("asset", body.as_bytes()).hex().chars().take(16).collect();
    Asset { path: format!("/assets/{name}-{digest}.{ending}"), media_type, body }
}

/// The file at this path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|a| a.path == path)
}

fn of_type(ending: &str) -> &'static str {
    ASSETS.iter().find(|a| a.path.ends_with(ending)).map_or("", |a| &a.path)
}

/// Path of the stylesheet.
#[must_use]
pub fn stylesheet() -> &'static str {
    of_type(".css")
}

/// Path of the script.
#[must_use]
pub fn script() -> &'static str {
    of_type(".js")
}

/// Path of the script of passkeys.
#[must_use]
pub fn passkey_script() -> &'static str {
    ASSETS.iter().find(|a| a.path.starts_with("/assets/passkey-")).map_or("", |a| &a.path)
}

/// Path of the icon.
#[must_use]
pub fn icon() -> &'static str {
    of_type(".svg")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_found_at_its_own_path_only() {
        for path in [stylesheet(), script(), passkey_script(), icon()] {
            assert!(find(path).is_some_and(|a| a.path == path), "{path}");
        }
        assert!(find("/assets/console.css").is_none() && find("").is_none());
    }
}
