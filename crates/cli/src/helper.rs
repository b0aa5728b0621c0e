//! `grantwright helper …`: credentials for tools that ask in their own words. Each asks the sidecar,
//! waits for nobody longer than the tool does, and says on standard error what waits and where.

use std::io::Read as _;
use std::time::Duration;

use clap::Subcommand;
use grantwright_domain::Timestamp;
use serde_json::{Value, json};

use crate::config::Settings;
use crate::door::Door;
use crate::exec::ask::{Granted, Wanted, waits_for};
use crate::exit::{Exit, Failure};
use crate::output::Out;

/// `grantwright helper …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// For `credential_process` in an AWS configuration file.
    Aws(Given),
    /// For `credential.helper` of git: `get` answers with the credential, the rest does nothing.
    Git {
        #[command(flatten)]
        given: Given,
        /// The user's name, where the credential is a token alone.
        #[arg(long, default_value = "x-access-token")]
        username: String,
        /// Answer for this host only.
        #[arg(long)]
        host: String,
        /// What git wants: `get`, `store` or `erase`.
        operation: String,
    },
    /// For `users[].user.exec` in a kubeconfig: the credential is a token.
    Kubectl(Given),
}

/// What every helper takes.
#[derive(Debug, clap::Args)]
pub struct Given {
    #[command(flatten)]
    wanted: Wanted,
    /// Wait this long for people before giving up, for example 30s. Without: not at all.
    #[arg(long, value_name = "TIME")]
    wait: Option<String>,
}

/// Runs one.
///
/// # Errors
/// Why there is no credential, or none of the kind that the tool wants.
pub async fn run(out: &Out, settings: &Settings, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Aws(given) => {
            let granted = given.granted(out, settings).await?;
            let [id, secret, token] =
                granted.texts(["AccessKeyId", "SecretAccessKey", "SessionToken"])?;
            out.object(&json!({
                "Version": 1, "AccessKeyId": id, "SecretAccessKey": secret, "SessionToken": token,
                "Expiration": granted.expires_at.whole_second(),
            }));
        }
        Command::Git { given, username, host, operation } => {
            if operation != "get" || !is_asked_for(&host)? {
                return Ok(Exit::Done);
            }
            let granted = given.granted(out, settings).await?;
            let [user, password] = match granted.texts(["username", "password"]) {
                Ok(both) => both,
                Err(_) => {
                    let [token] = granted.texts(["token"])?;
                    [username, token]
                }
            };
            for (name, value) in [("username", &user), ("password", &password)] {
                if value.contains(['\n', '\0']) {
                    return Err(Failure::unable(format!("the {name} does not fit git's protocol")));
                }
            }
            let ends = granted.expires_at.seconds();
            out.line(format!(
                "username={user}\npassword={password}\npassword_expiry_utc={ends}\nquit=1"
            ));
        }
        Command::Kubectl(given) => {
            let granted = given.granted(out, settings).await?;
            let [token] = granted.texts(["token"])?;
            out.object(&exec_credential(&token, granted.expires_at));
        }
    }
    Ok(Exit::Done)
}

impl Given {
    /// The sidecar's credential: the one in its memory, where there is one. An open request stays
    /// open, so that the tool's next try meets it.
    async fn granted(&self, out: &Out, settings: &Settings) -> Result<Granted, Failure> {
        let wait = self.wait.as_deref().map(grantwright_domain::time::parse_ttl).transpose();
        let wait = wait.map_err(|e| Failure::unable(format!("--wait: {e}")))?.unwrap_or(0);
        let mut asked = self.wanted.ask(&Door::open(settings)?)?;
        let end = tokio::time::Instant::now() + Duration::from_secs(wait.into());
        let mut told = String::new();
        loop {
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            let reply = match asked.look(left.min(Duration::from_secs(30))).await? {
                Ok(granted) => return Ok(granted),
                Err(reply) => reply,
            };
            let what = waits_for(&reply);
            if tokio::time::Instant::now() >= end {
                return Err(Failure::unable(format!("{what}; try again once it is decided")));
            }
            if what != told {
                out.note(&what);
                told = what;
            }
        }
    }
}

impl Granted {
    /// These parts, all of them texts.
    fn texts<const N: usize>(&self, names: [&str; N]) -> Result<[String; N], Failure> {
        let texts = names.map(|name| self.credential.get(name).and_then(Value::as_str));
        if texts.iter().any(Option::is_none) {
            let wants = names.join(", ");
            return Err(Failure::unable(format!("that scope's credential has no {wants}")));
        }
        Ok(texts.map(|text| text.unwrap_or_default().to_owned()))
    }
}

/// Whether git asks for `host`, over HTTPS or on this host: its lines `name=value` are on standard
/// input. Anything else is none of ours, and another helper's turn.
fn is_asked_for(host: &str) -> Result<bool, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .take(64 * 1024)
        .read_to_string(&mut text)
        .map_err(|e| Failure::unable(format!("cannot read what git asks: {e}")))?;
    let value =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let local = ["localhost", "127.0.0.1", "[::1]"].iter().any(|it| {
        host.strip_prefix(it).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    });
    let safe = match value("protocol") {
        Some("https") => true,
        Some("http") => local,
        _ => false,
    };
    Ok(safe && value("host") == Some(host))
}

/// `client.authentication.k8s.io/v1`, as kubectl reads it.
fn exec_credential(token: &str, expires_at: Timestamp) -> Value {
    json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": token, "expirationTimestamp": expires_at.whole_second()},
    })
}
