//! `grantwright helper …`: credentials for tools that ask in their own words. Each asks the sidecar,
//! waits for nobody longer than the tool does, and says on standard error what waits and where.

mod docker;
mod files;
mod pg;
mod ssh_agent;
mod table;

use std::io::Read as _;
use std::time::Duration;

use clap::Subcommand;
use grantwright_domain::Timestamp;
use serde_json::{Value, json};

use crate::config::Settings;
use crate::door::Door;
use crate::exec::ask::{Asked, Granted, Wanted, waits_for};
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
    /// For `credsStore` or `credHelpers` of docker, which runs it as `docker-credential-grantwright`:
    /// what to ask for stands in the helpers' file.
    Docker(docker::Args),
    /// Keep files fresh, for programs that know only files: renewed in time, replaced whole, removed at
    /// the end.
    Files(Box<files::Args>),
    /// For `credential.helper = grantwright` of git, which runs it as `git-credential-grantwright`: what
    /// to ask for stands in the helpers' file.
    #[command(name = "git-credential")]
    GitCredential {
        /// What git wants: `get`, `store` or `erase`.
        operation: String,
    },
    /// Serve an ssh agent whose one key has a short-lived certificate.
    SshAgent(ssh_agent::Args),
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
            if operation != "get" || !read_git()?.is_for(&host) {
                return Ok(Exit::Done);
            }
            answer_git(out, &given.granted(out, settings).await?, &username)?;
        }
        Command::Docker(args) => return docker::run(out, settings, &args).await,
        Command::Files(args) => return files::run(out, settings, *args).await,
        Command::GitCredential { operation } => {
            if operation != "get" {
                return Ok(Exit::Done);
            }
            let asked = read_git()?;
            let table = table::Table::read(settings)?;
            let Some(entry) = table.git(|host| asked.is_for(host)) else {
                return Ok(Exit::Done);
            };
            let asked = Asked::new(&Door::open(settings)?, entry.body());
            answer_git(out, &now(out, asked, 0).await?, entry.username("x-access-token"))?;
        }
        Command::SshAgent(args) => return ssh_agent::run(out, settings, args).await,
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
        now(out, self.wanted.ask(&Door::open(settings)?)?, wait).await
    }
}

/// The credential, waiting at most so many seconds for people.
///
/// # Errors
/// The refusal, or what waits and where.
async fn now(out: &Out, mut asked: Asked, wait_s: u32) -> Result<Granted, Failure> {
    let end = tokio::time::Instant::now() + Duration::from_secs(wait_s.into());
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

fn answer_git(out: &Out, granted: &Granted, username: &str) -> Result<(), Failure> {
    let [user, password] = login(granted, username)?;
    for (name, value) in [("username", &user), ("password", &password)] {
        if value.contains(['\n', '\0']) {
            return Err(Failure::unable(format!("the {name} does not fit git's protocol")));
        }
    }
    let ends = granted.expires_at.seconds();
    out.line(format!("username={user}\npassword={password}\npassword_expiry_utc={ends}\nquit=1"));
    Ok(())
}

/// User and password; of a token alone, the token under this name.
fn login(granted: &Granted, username: &str) -> Result<[String; 2], Failure> {
    granted.texts(["username", "password"]).or_else(|_| {
        let [token] = granted.texts(["token"])?;
        Ok([username.to_owned(), token])
    })
}

/// What git asks for.
struct GitAsk {
    protocol: String,
    host: String,
}

impl GitAsk {
    /// Whether it is for `host`, over HTTPS or on this host. Anything else is none of ours, and another
    /// helper's turn.
    fn is_for(&self, host: &str) -> bool {
        let local = ["localhost", "127.0.0.1", "[::1]"].iter().any(|it| {
            host.strip_prefix(it).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        });
        let safe = match self.protocol.as_str() {
            "https" => true,
            "http" => local,
            _ => false,
        };
        safe && self.host == host
    }
}

/// Git's lines `name=value` on standard input.
fn read_git() -> Result<GitAsk, Failure> {
    let text = read_stdin("git")?;
    let value =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let of = |name: &str| value(name).unwrap_or_default().to_owned();
    Ok(GitAsk { protocol: of("protocol"), host: of("host") })
}

fn read_stdin(of: &str) -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .take(64 * 1024)
        .read_to_string(&mut text)
        .map_err(|e| Failure::unable(format!("cannot read what {of} asks: {e}")))?;
    Ok(text)
}

/// `client.authentication.k8s.io/v1`, as kubectl reads it.
fn exec_credential(token: &str, expires_at: Timestamp) -> Value {
    json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": token, "expirationTimestamp": expires_at.whole_second()},
    })
}
