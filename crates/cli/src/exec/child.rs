//! The command: started with its variables, told the signals that we are told, and waited for.

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal as _};
use std::os::unix::process::ExitStatusExt as _;
use std::task::Poll;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use crate::exit::{Exit, Failure};

use super::hand::Variables;

/// What would come before the credential in a child that speaks to AWS.
const AWS_ELSEWHERE: [&str; 5] = [
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

/// A running command.
pub struct Child {
    process: tokio::process::Child,
    signals: Vec<(Stream, Signal)>,
}

impl Child {
    /// Starts it. Standard input, output and error are ours.
    ///
    /// # Errors
    /// When signals cannot be caught.
    pub fn start(
        program: &OsString,
        arguments: &[OsString],
        variables: Variables,
    ) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        command.args(arguments);
        if variables.iter().any(|(name, _)| name.starts_with("AWS_")) {
            for name in AWS_ELSEWHERE {
                command.env_remove(name);
            }
        }
        if variables.iter().any(|(name, _)| name == "AWS_SHARED_CREDENTIALS_FILE") {
            for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
                command.env_remove(name);
            }
        }
        command.envs(variables);
        // Caught before it starts, so that none is lost between.
        let signals = signals()?;
        let process = command.spawn().map_err(|error| cannot_run(program, &error))?;
        Ok(Self { process, signals })
    }

    /// Waits for its end, passing on what we are told meanwhile.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn ended(&mut self) -> std::io::Result<Exit> {
        loop {
            let signals = &mut self.signals;
            let told = std::future::poll_fn(|cx| {
                for (stream, signal) in signals.iter_mut() {
                    if stream.poll_recv(cx).is_ready() {
                        return Poll::Ready(*signal);
                    }
                }
                Poll::Pending
            });
            tokio::select! {
                status = self.process.wait() => {
                    let status = status?;
                    let signalled = status.signal().map(|signal| 128 + signal);
                    let code = status.code().or(signalled).unwrap_or(255);
                    return Ok(Exit::Child(u8::try_from(code).unwrap_or(255)));
                }
                signal = told => self.tell(signal),
            }
        }
    }

    fn tell(&self, signal: Signal) {
        // A terminal has told the command already: it is of the same group.
        let by_terminal = matches!(signal, Signal::INT | Signal::QUIT);
        if by_terminal && std::io::stdin().is_terminal() {
            return;
        }
        let id = self.process.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            // Not waited for yet, so the number is still its own.
            let _ = kill_process(pid, signal);
        }
    }
}

fn signals() -> Result<Vec<(Stream, Signal)>, Failure> {
    [
        (SignalKind::hangup(), Signal::HUP),
        (SignalKind::interrupt(), Signal::INT),
        (SignalKind::quit(), Signal::QUIT),
        (SignalKind::terminate(), Signal::TERM),
        (SignalKind::user_defined1(), Signal::USR1),
        (SignalKind::user_defined2(), Signal::USR2),
        (SignalKind::window_change(), Signal::WINCH),
    ]
    .into_iter()
    .map(|(kind, told)| {
        let stream = signal(kind).map_err(|e| Failure::unable(format!("no signals: {e}")))?;
        Ok((stream, told))
    })
    .collect()
}

/// The number of the signal that ends us while there is no command yet.
///
/// # Errors
/// When signals cannot be caught.
pub async fn end_signal() -> Result<u8, Failure> {
    let failed = |e: std::io::Error| Failure::unable(format!("no signals: {e}"));
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hup = signal(SignalKind::hangup()).map_err(failed)?;
    Ok(tokio::select! {
        _ = term.recv() => 15,
        _ = int.recv() => 2,
        _ = hup.recv() => 1,
    })
}

/// As shells say it: 127 where there is none, 126 where it cannot be run.
fn cannot_run(program: &OsString, error: &std::io::Error) -> Failure {
    let code = if error.kind() == ErrorKind::NotFound { 127 } else { 126 };
    Failure::Command { code, words: format!("`{}`: {error}", program.display()) }
}
