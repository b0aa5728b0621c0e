//! The protocol of docker's credential helpers: one word on the command line, the registry on standard
//! input, and the answer, also why there is none, on standard output.

use serde_json::{Map, Value, json};

use super::table::{Entry, Table};
use crate::config::Settings;
use crate::door::Door;
use crate::exec::ask::Asked;
use crate::exit::{Exit, Failure};
use crate::output::{Out, clean};

/// What docker takes for "another helper's, or none".
const NOT_FOUND: &str = "credentials not found in native keychain";
/// Longest address that is read.
const MOST: usize = 4096;

/// `grantwright helper docker`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What docker wants: `get`, `list`, `store` or `erase`.
    operation: String,
}

/// Runs it.
///
/// # Errors
/// None that docker would read on standard error: they are said on standard output.
pub async fn run(out: &Out, settings: &Settings, args: &Args) -> Result<Exit, Failure> {
    let answer = match args.operation.as_str() {
        "get" => get(out, settings).await,
        "list" => list(settings),
        // What it gave is not its to forget; it ends by itself.
        "erase" => return Ok(Exit::Done),
        "store" => {
            Err(Failure::unable("nothing is stored here: the credential is asked for when used"))
        }
        _ => Err(Failure::unable("want get, list, store or erase")),
    };
    match answer {
        Ok(answer) => {
            out.object(&answer);
            Ok(Exit::Done)
        }
        Err(failure) => {
            out.line(clean(&failure.to_string()));
            Ok(Exit::Refused)
        }
    }
}

async fn get(out: &Out, settings: &Settings) -> Result<Value, Failure> {
    let asked = super::read_stdin("docker")?;
    let server = asked.trim();
    if server.is_empty() || server.len() > MOST {
        return Err(Failure::unable("want a registry on standard input"));
    }
    let table = Table::read(settings)?;
    let entry = find(table.docker(), server).ok_or_else(|| Failure::unable(NOT_FOUND))?;
    let asked = Asked::new(&Door::open(settings)?, entry.body());
    let granted = super::now(out, asked, 0).await?;
    let [username, secret] = super::login(&granted, entry.username("grantwright"))?;
    Ok(json!({"ServerURL": server, "Username": username, "Secret": secret}))
}

fn list(settings: &Settings) -> Result<Value, Failure> {
    let table = Table::read(settings)?;
    let entries = table.docker().iter();
    let listed: Map<String, Value> =
        entries.map(|it| (it.host.clone(), it.username("grantwright").into())).collect();
    Ok(listed.into())
}

/// The entry whose host is that of the address, compared as text, not by its beginning.
fn find<'a>(entries: &'a [Entry], server: &str) -> Option<&'a Entry> {
    entries.iter().find(|entry| host(&entry.host) == host(server))
}

/// `https://index.docker.io/v1/` and `index.docker.io` are one registry.
fn host(address: &str) -> &str {
    let rest = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://"));
    let rest = rest.unwrap_or(address);
    rest.split('/').next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn a_registry_is_its_host_and_port() {
        for (address, want) in [
            ("https://index.docker.io/v1/", "index.docker.io"),
            ("ghcr.io", "ghcr.io"),
            ("http://127.0.0.1:5000", "127.0.0.1:5000"),
            ("ghcr.io.evil.example/ghcr.io", "ghcr.io.evil.example"),
            ("https://ghcr.io@evil.example/", "ghcr.io@evil.example"),
        ] {
            assert_eq!(host(address), want);
        }
    }
}
