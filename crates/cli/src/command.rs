//! The table of commands: help, completions and the man page all come from here.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::Settings;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::Out;

/// Credentials for AI agents: narrow, short-lived, approved by people where it matters, and provable.
#[derive(Debug, Parser)]
#[command(name = "grantwright", version, propagate_version = true)]
#[command(after_help = "Exit codes: 0 done, 1 refused or findings, 2 could not be tried.")]
pub struct Line {
    /// Print one JSON object instead of words.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One row per noun.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// See the whole story in seconds: a broker, a sidecar, an agent and four people.
    Demo(crate::demo::Args),
    /// Make a broker's folder: keys, configuration, an empty log, the first operator.
    Init(crate::init::Args),
    /// Run the broker.
    Broker(crate::broker::Args),
    /// Roll the broker's certificate authority over.
    #[command(subcommand)]
    Authority(crate::authority::Command),
    /// Prepare an AWS account for the broker.
    #[command(subcommand)]
    Aws(crate::aws::Command),
    /// Run a sidecar.
    Sidecar(crate::sidecar::Args),
    /// Turn a one-time link into a token file.
    Login(crate::login::Args),
    /// Decide what agents ask for.
    #[command(subcommand)]
    Approval(crate::approval::Command),
    /// Rights that agents handed on.
    #[command(subcommand)]
    Delegation(crate::delegation::Command),
    /// Credentials that are alive.
    #[command(subcommand)]
    Lease(crate::lease::Command),
    /// End a credential early.
    Revoke(crate::revoke::Args),
    /// Run a witness: it cosigns the checkpoints of logs that only grow.
    Witness(crate::witness::Args),
    /// Prove what happened, offline.
    #[command(subcommand)]
    Audit(crate::audit::Command),
    /// Evidence for auditors: SOC 2, FedRAMP, access reviews, one agent, one reviewer.
    #[command(subcommand)]
    Report(crate::audit::report::Command),
    /// Copy the store, while the broker works, and prove the copy.
    Backup(crate::audit::backup::Args),
    /// Begin a new epoch from a backup, with the offline recovery key.
    Restore(crate::audit::restore::Args),
    /// Erase what was said beside a request that is over; the log still verifies.
    Erase(crate::audit::search::Erase),
    /// Compare what was issued with what a backend says was used.
    #[command(subcommand)]
    Reconcile(crate::audit::reconcile::Command),
    /// Agents, their owners and their join tokens.
    #[command(subcommand)]
    Agent(crate::agent::Command),
    /// People who decide or operate.
    #[command(subcommand)]
    Person(crate::person::Command),
    /// Groups of people that policy names.
    #[command(subcommand)]
    Group(crate::group::Command),
    /// The register of qualified models.
    #[command(subcommand)]
    Model(crate::model::Command),
    /// What can be asked for.
    #[command(subcommand)]
    Scope(crate::scope::Command),
    /// Who may have it, and who must agree.
    #[command(subcommand)]
    Policy(crate::policy::Command),
    /// Run a command with a credential, which ends when the command does.
    Exec(crate::exec::Args),
    /// Give credentials to the tools that ask for them in their own words.
    #[command(subcommand)]
    Helper(crate::helper::Command),
    /// Serve the Model Context Protocol to an agent, over stdin and stdout.
    Mcp(crate::mcp::Args),
    /// Print completions for a shell.
    Completions(crate::generate::Completions),
    /// Print the man page.
    Man,
}

/// The arguments, where tools run this program under another name: docker as
/// `docker-credential-grantwright`, git as `git-credential-grantwright`.
pub fn by_name(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    let name = arguments.first().map(PathBuf::from);
    let helper = match name.as_deref().and_then(|it| it.file_name()?.to_str()) {
        Some("docker-credential-grantwright") => "docker",
        Some("git-credential-grantwright") => "git-credential",
        _ => return arguments,
    };
    arguments.splice(..1, ["grantwright", "helper", helper].map(OsString::from));
    arguments
}

impl Command {
    /// Runs it.
    ///
    /// # Errors
    /// Why it was refused or could not be tried.
    pub fn run(self, out: &Out, settings: &Settings) -> Outcome {
        match self {
            // These have their own runtime, or need none.
            Self::Broker(args) => crate::broker::run(out, &args),
            Self::Sidecar(args) => crate::sidecar::run(out, settings, &args),
            Self::Init(args) => crate::init::run(out, &args),
            Self::Authority(command) => crate::authority::run(out, &command),
            Self::Witness(args) => wait(crate::witness::run(out, args)),
            Self::Aws(command) => crate::aws::run(out, &command),
            Self::Audit(command) => crate::audit::run(out, settings, &command),
            Self::Report(command) => crate::audit::report::run(out, settings, &command),
            Self::Backup(args) => crate::audit::backup::run(out, settings, &args),
            Self::Restore(args) => crate::audit::restore::run(out, &args),
            Self::Erase(args) => wait(crate::audit::search::erase(out, settings, &args)),
            Self::Reconcile(command) => crate::audit::reconcile::run(out, settings, &command),
            Self::Mcp(args) => crate::mcp::run(settings, &args),
            Self::Completions(args) => crate::generate::completions(out, &args),
            Self::Man => crate::generate::man(out),
            Self::Demo(args) => wait(crate::demo::run(out, &args)),
            Self::Exec(args) => wait(crate::exec::run(out, settings, args)),
            Self::Helper(command) => wait(crate::helper::run(out, settings, command)),
            Self::Login(args) => wait(crate::login::run(out, settings, &args)),
            Self::Approval(command) => wait(crate::approval::run(out, settings, command)),
            Self::Delegation(command) => wait(crate::delegation::run(out, settings, command)),
            Self::Lease(command) => wait(crate::lease::run(out, settings, command)),
            Self::Revoke(args) => wait(crate::revoke::run(out, settings, &args)),
            Self::Agent(command) => wait(crate::agent::run(out, settings, command)),
            Self::Person(command) => wait(crate::person::run(out, settings, command)),
            Self::Group(command) => wait(crate::group::run(out, settings, command)),
            Self::Model(command) => wait(crate::model::run(out, settings, command)),
            Self::Scope(command) => wait(crate::scope::run(out, settings, command)),
            Self::Policy(command) => wait(crate::policy::run(out, settings, command)),
        }
    }
}

/// Runs a command that waits for the network, on this thread.
pub fn wait(command: impl Future<Output = Result<Exit, Failure>>) -> Outcome {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::unable(format!("cannot start: {e}")))?
        .block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_table_is_sound() {
        Line::command().debug_assert();
    }

    #[test]
    fn helpers_are_known_by_name() {
        let by = |words: &[&str]| by_name(words.iter().map(OsString::from));
        assert_eq!(
            by(&["/usr/bin/docker-credential-grantwright", "get"]),
            ["grantwright", "helper", "docker", "get"]
        );
        assert_eq!(
            by(&["git-credential-grantwright", "get"]),
            ["grantwright", "helper", "git-credential", "get"]
        );
        assert_eq!(by(&["grantwright", "demo"]), ["grantwright", "demo"]);
    }

    #[test]
    fn json_may_stand_anywhere() {
        for words in [["grantwright", "--json", "demo"], ["grantwright", "demo", "--json"]] {
            assert!(Line::try_parse_from(words).unwrap().json);
        }
    }
}
