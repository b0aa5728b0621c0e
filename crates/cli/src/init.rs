//! `grantwright init`: a broker's folder, and the one-time link with which its first operator begins.

use std::path::{Path, PathBuf};

use grantwright_broker::{Config, InitOptions, Recovery, fresh_link};
use grantwright_domain::HumanId;
use serde_json::json;

use crate::exit::{Failure, Outcome};
use crate::output::{Look, Out};

/// `grantwright init`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder to make.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Canonical id of the first operator.
    #[arg(long, value_name = "NAME", default_value = "operator")]
    operator: String,
    /// SPIFFE trust domain of the agents.
    #[arg(long, value_name = "TD", default_value = "grantwright.local")]
    trust_domain: String,
    /// Name of the log, a URL without its scheme [default: TRUST_DOMAIN/log].
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<String>,
    /// Verifier key of an offline recovery key that was made elsewhere (`grantwright restore
    /// --make-key`) [default: one is made, and its private part written to --recovery-out].
    #[arg(long, value_name = "KEY")]
    recovery_key: Option<String>,
    /// Where the private part of a new recovery key is written, once [default: DIR/recovery.key].
    #[arg(long, value_name = "FILE", conflicts_with = "recovery_key")]
    recovery_out: Option<PathBuf>,
    /// The folder holds a stopped broker: make a new one-time link for its operator, nothing else.
    #[arg(long)]
    new_link: bool,
}

/// Makes it.
///
/// # Errors
/// When the folder holds a broker already, or something cannot be written.
pub fn run(out: &Out, args: &Args) -> Outcome {
    let operator = HumanId::parse(&args.operator).map_err(Failure::unable)?;
    if args.new_link {
        let config = args.dir.join("broker.toml");
        let code = fresh_link(&config, &operator).map_err(Failure::unable)?;
        let link = link(&config, &code)?;
        let said = json!({"ok": true, "link": link, "code": code});
        return Ok(out.either(&said, |out| {
            out.line(&link);
            out.note(format!(
                "signs {operator} in once, within 24 h: grantwright login LINK --out FILE"
            ));
        }));
    }
    let origin = args.origin.clone().unwrap_or_else(|| format!("{}/log", args.trust_domain));
    let written = args.recovery_out.clone().unwrap_or_else(|| args.dir.join("recovery.key"));
    let recovery = match &args.recovery_key {
        Some(key) => Recovery::Public(key.clone()),
        None => Recovery::Written(written.clone()),
    };
    let made = grantwright_broker::init(&InitOptions {
        dir: args.dir.clone(),
        trust_domain: args.trust_domain.clone(),
        origin: origin.clone(),
        operator: operator.clone(),
        config: None,
        recovery,
    })
    .map_err(Failure::unable)?;
    let link = link(&made.config, &made.code)?;
    let said = json!({
        "ok": true, "config": made.config, "vkey": made.vkey, "trust_bundle": made.trust_bundle,
        "operator": operator, "origin": origin, "link": link, "code": made.code,
        "recovery_key": made.recovery_key,
    });
    Ok(out.either(&said, |out| {
        let row = |title: &str, words: &str| {
            out.line(format!("{}{words}", out.paint(Look::Dim, &format!("{title:<14}"))));
        };
        let config = made.config.display().to_string();
        row("configuration", &config);
        row("trust bundle", &made.trust_bundle.display().to_string());
        row("log key", &made.vkey);
        row("operator", operator.as_str());
        if args.recovery_key.is_none() {
            row("recovery key", &written.display().to_string());
            out.line(out.paint(
                Look::Bold,
                "Take the recovery key away now: offline, and not beside the backups. After a restore \
                 it alone makes sidecars go on.",
            ));
        }
        out.line("");
        out.line(format!("1. grantwright broker --config {config}"));
        out.line(format!("2. grantwright login '{link}' --out {operator}.token"));
        out.line(out.paint(Look::Dim, "The link works once, within 24 h."));
    }))
}

/// The one-time link: its code behind the `#`, so that no server ever logs it.
fn link(config: &Path, code: &str) -> Result<String, Failure> {
    let config = Config::load(config).map_err(Failure::unable)?;
    let port = config.listen.http.rsplit(':').next().unwrap_or_default();
    let base = match config.public_url.as_str() {
        "auto" => format!("http://localhost:{port}"),
        url => url.trim_end_matches('/').to_owned(),
    };
    Ok(format!("{base}/#{code}"))
}
