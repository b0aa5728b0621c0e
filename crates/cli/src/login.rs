//! `grantwright login`: a one-time link becomes a token file. The link works once.

use std::path::PathBuf;

use serde_json::json;

use crate::api::Api;
use crate::config::{Settings, now};
use crate::exit::{Failure, Outcome};
use crate::output::{Out, clean, text};
use crate::{files, times};

/// `grantwright login`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The one-time link, or its code alone.
    link: String,
    /// Where to write the token (mode 0600).
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The broker, when it is neither in the link nor in GRANTWRIGHT_CONSOLE.
    #[arg(long, value_name = "URL")]
    console: Option<String>,
}

/// Redeems the link.
///
/// # Errors
/// The broker's refusal, or a file that cannot be written.
pub async fn run(out: &Out, settings: &Settings, args: &Args) -> Outcome {
    let (base, code) = split(&args.link);
    let base = match args.console.clone().or(base) {
        Some(base) => base,
        None => settings.console()?.to_owned(),
    };
    let session = Api::open(&base)?.post("/api/v1/login", &json!({"code": code})).await?;
    let token = text(&session, "token");
    if token.is_empty() {
        return Err(Failure::unable("the broker's answer holds no token; is it of this release?"));
    }
    files::write_private(&args.out, token)?;
    let (human, expires_at) = (text(&session, "human"), text(&session, "expires_at"));
    let said = json!({"ok": true, "human": human, "expires_at": expires_at, "file": args.out});
    Ok(out.either(&said, |out| {
        out.line(format!("signed in as {} until {}", clean(human), times::when(expires_at, now())));
        out.line(format!("export GRANTWRIGHT_CONSOLE={base}"));
        out.line(format!("export GRANTWRIGHT_HUMAN_TOKEN_FILE={}", args.out.display()));
    }))
}

/// The broker and the code of a link: the code is its fragment, its `code` parameter, or its last segment.
pub fn split(link: &str) -> (Option<String>, String) {
    let Some((scheme, rest)) = link.split_once("://") else { return (None, link.to_owned()) };
    let (host, path) = rest.split_once(['/', '?', '#']).unwrap_or((rest, ""));
    let code = path
        .split_once("code=")
        .map(|(_, code)| code.split(['&', '#']).next().unwrap_or(code))
        .or_else(|| path.rsplit_once('#').map(|(_, fragment)| fragment))
        .unwrap_or_else(|| path.rsplit('/').next().unwrap_or(path));
    (Some(format!("{scheme}://{host}")), code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_or_its_code() {
        let base = Some("http://localhost:1".to_owned());
        for link in [
            "http://localhost:1/login/abc",
            "http://localhost:1/login#abc",
            "http://localhost:1/login?code=abc",
            "http://localhost:1/login#code=abc",
        ] {
            assert_eq!(split(link), (base.clone(), "abc".to_owned()), "{link}");
        }
        assert_eq!(split("abc"), (None, "abc".to_owned()));
    }
}
