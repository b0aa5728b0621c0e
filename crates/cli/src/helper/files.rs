//! `grantwright helper files`: a credential in files, kept fresh for programs that know only files. Each
//! is replaced whole, so that no reader meets half of one; a reload command runs after each change; at
//! the end, and when a credential expires unrenewed, they are gone.

use std::convert::Infallible;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use super::pg::Server;
use crate::config::Settings;
use crate::door::Door;
use crate::exec::ask::{Asked, Granted, Wanted, renew_again};
use crate::exec::child::end_signal;
use crate::exec::hand::Place;
use crate::exec::part;
use crate::exit::{Exit, Failure};
use crate::files::write_private;
use crate::output::{Out, clean};

/// A reload command has this long.
const RELOAD: Duration = Duration::from_secs(60);

/// `grantwright helper files`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Files are made with mode 0600. They are renewed after two thirds of the \
                  credential's life, removed at SIGTERM and SIGINT, when the credential is released, and \
                  when it expires unrenewed. Example:\n\n  grantwright helper files --scope vault.db-read \
                  --param database=sales \\\n    --service-file ~/.pg_service.conf --host db --dbname \
                  sales -- systemctl --user reload app")]
pub struct Args {
    #[command(flatten)]
    wanted: Wanted,
    /// One part of the credential into a file of its own, without a line end.
    #[arg(long = "part", value_name = "PART=FILE")]
    parts: Vec<String>,
    /// Lines VARIABLE=value, as systemd, docker and shells read them.
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Put one part into this variable of --env-file, instead of the usual ones.
    #[arg(long = "env", value_name = "VARIABLE=PART", requires = "env_file")]
    environment: Vec<String>,
    /// All parts and the expiry as JSON.
    #[arg(long, value_name = "FILE")]
    json_file: Option<PathBuf>,
    /// An AWS shared credentials file with the profile `default`.
    #[arg(long, value_name = "FILE")]
    aws_file: Option<PathBuf>,
    /// A password file of libpq (PGPASSFILE).
    #[arg(long, value_name = "FILE")]
    passfile: Option<PathBuf>,
    /// A connection service file of libpq (PGSERVICEFILE).
    #[arg(long, value_name = "FILE")]
    service_file: Option<PathBuf>,
    #[command(flatten)]
    server: Server,
    /// Write once, leave the files, and end.
    #[arg(long)]
    once: bool,
    /// Run after each change: the command and its arguments.
    #[arg(last = true, value_name = "COMMAND")]
    reload: Vec<OsString>,
}

/// Runs it.
///
/// # Errors
/// When there was no credential at first, or a file cannot be written.
pub async fn run(out: &Out, settings: &Settings, args: Args) -> Result<Exit, Failure> {
    let targets = Targets::of(&args)?;
    let door = Door::open(settings)?;
    let mut asked = args.wanted.ask(&door)?;
    let mut signal = Box::pin(end_signal());
    asked.fresh()?;
    let mut granted = tokio::select! {
        granted = asked.granted(out, None) => granted?,
        signal = &mut signal => {
            asked.cancel().await;
            return Ok(Exit::Child(128 + signal?));
        }
    };
    asked.done();
    if let Err(failure) = targets.write(&granted) {
        targets.clear();
        granted.release(&door).await;
        return Err(failure);
    }
    reload(out, &args.reload).await;
    if args.once {
        return Ok(Exit::Done);
    }
    let told = tokio::select! {
        told = &mut signal => told,
        never = keep(out, &mut asked, &mut granted, &targets, &args.reload) => match never {},
    };
    asked.cancel().await;
    targets.clear();
    granted.release(&door).await;
    told.map(|_| Exit::Done)
}

async fn keep(
    out: &Out,
    asked: &mut Asked,
    granted: &mut Granted,
    targets: &Targets,
    command: &[OsString],
) -> Infallible {
    loop {
        tokio::time::sleep(granted.until_renewal()).await;
        let fresh = loop {
            let renewed = match asked.fresh() {
                // While people decide, the old one ends in its time.
                Ok(()) => tokio::select! {
                    renewed = asked.granted(out, None) => renewed,
                    never = cleared(granted, targets) => match never {},
                },
                Err(failure) => Err(failure),
            };
            match renewed {
                Ok(fresh) => break fresh,
                Err(failure) => {
                    out.note(format!("not renewed: {}", clean(&failure.to_string())));
                    tokio::select! {
                        () = tokio::time::sleep(renew_again(&failure, granted.until_end())) => {}
                        never = cleared(granted, targets) => match never {},
                    }
                }
            }
        };
        asked.done();
        if let Err(failure) = targets.write(&fresh) {
            out.note(clean(&failure.to_string()));
        }
        // Programs may have read the old one just now: it ends by itself, soon.
        *granted = fresh;
        reload(out, command).await;
    }
}

/// Removes the files once what is in them has expired.
async fn cleared(granted: &Granted, targets: &Targets) -> Infallible {
    tokio::time::sleep(granted.until_end()).await;
    targets.clear();
    std::future::pending().await
}

async fn reload(out: &Out, command: &[OsString]) {
    let Some((program, arguments)) = command.split_first() else { return };
    let mut child = Command::new(program);
    child.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let shown = program.display();
    match tokio::time::timeout(RELOAD, child.status()).await {
        Ok(Ok(status)) if status.success() => {}
        Ok(Ok(status)) => out.note(format!("`{shown}`: {status}")),
        Ok(Err(error)) => out.note(format!("`{shown}`: {error}")),
        Err(_) => out.note(format!("`{shown}` was ended: it took more than a minute")),
    }
}

/// Which files, in which form.
struct Targets {
    parts: Vec<(String, PathBuf)>,
    env: Option<(PathBuf, Place)>,
    json: Option<PathBuf>,
    aws: Option<PathBuf>,
    passfile: Option<PathBuf>,
    service_file: Option<PathBuf>,
    server: Server,
}

impl Targets {
    fn of(args: &Args) -> Result<Self, Failure> {
        let parts = args.parts.iter().map(|given| match given.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                Ok((name.to_owned(), PathBuf::from(path)))
            }
            _ => Err(Failure::unable(format!("--part `{given}`: want PART=FILE"))),
        });
        let env = match &args.env_file {
            Some(path) => Some((path.clone(), Place::parse(&args.environment, false)?)),
            None => None,
        };
        let targets = Self {
            parts: parts.collect::<Result<_, _>>()?,
            env,
            json: args.json_file.clone(),
            aws: args.aws_file.clone(),
            passfile: args.passfile.clone(),
            service_file: args.service_file.clone(),
            server: args.server.clone(),
        };
        let mut paths = targets.paths();
        if paths.is_empty() {
            return Err(Failure::unable("no file is named: see --help for the kinds"));
        }
        paths.sort_unstable();
        if let Some([path, _]) = paths.array_windows().find(|[a, b]| a == b) {
            return Err(Failure::unable(format!("`{}` is named twice", path.display())));
        }
        Ok(targets)
    }

    fn paths(&self) -> Vec<&Path> {
        let single = [&self.json, &self.aws, &self.passfile, &self.service_file];
        let mut paths: Vec<&Path> = self.parts.iter().map(|(_, path)| path.as_path()).collect();
        paths.extend(self.env.iter().map(|(path, _)| path.as_path()));
        paths.extend(single.into_iter().flatten().map(PathBuf::as_path));
        paths
    }

    /// Everything is made before anything is written, so that a credential of another kind leaves the
    /// files as they were.
    fn write(&self, granted: &Granted) -> Result<(), Failure> {
        let mut texts: Vec<(&Path, String)> = Vec::new();
        for (name, path) in &self.parts {
            let value = granted.credential.get(name).ok_or_else(|| {
                let names: Vec<_> = granted.credential.keys().map(String::as_str).collect();
                let names = names.join(", ");
                Failure::unable(format!("the credential has no part `{name}`: it has {names}"))
            })?;
            texts.push((path, part(value)));
        }
        if let Some((path, place)) = &self.env {
            let lines = place.variables(granted)?;
            texts.push((
                path,
                lines.iter().map(|(name, value)| line(name, value)).collect::<Result<_, _>>()?,
            ));
        }
        if let Some(path) = &self.json {
            let whole: Value =
                json!({"credential": granted.credential, "expires_at": granted.expires_at});
            texts.push((path, whole.to_string()));
        }
        if let Some(path) = &self.aws {
            texts.push((path, granted.aws_profile()?));
        }
        if self.passfile.is_some() || self.service_file.is_some() {
            let [user, password] = granted.texts(["username", "password"])?;
            if let Some(path) = &self.passfile {
                texts.push((path, self.server.passfile(&user, &password)?));
            }
            if let Some(path) = &self.service_file {
                texts.push((path, self.server.service_file(&user, &password)?));
            }
        }
        texts.iter().try_for_each(|(path, text)| write_private(path, text))
    }

    fn clear(&self) {
        for path in self.paths() {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A line that systemd, docker and shells read alike: plain values bare, others in single quotes, which
/// docker would take as a part of the value.
fn line(name: &str, value: &str) -> Result<String, Failure> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./+=:@%,".contains(&b);
    if value.contains(['\n', '\r', '\'']) {
        return Err(Failure::unable(format!(
            "the value of {name} does not fit an environment file"
        )));
    }
    if value.bytes().all(plain) {
        return Ok(format!("{name}={value}\n"));
    }
    Ok(format!("{name}='{value}'\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_an_environment_file() {
        assert_eq!(line("A", "x.y-z=").unwrap(), "A=x.y-z=\n");
        assert_eq!(line("A", "two words $HOME").unwrap(), "A='two words $HOME'\n");
        for bad in ["a\nB=evil", "it's"] {
            assert!(line("A", bad).is_err(), "{bad}");
        }
    }
}
