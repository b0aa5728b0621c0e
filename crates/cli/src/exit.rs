//! Exit codes as a type, and what a command says when it does not succeed.

use std::process::{ExitCode, Termination};

use serde_json::{Map, Value};

/// How the command ended. Scripts may rely on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done, or proven.
    Done,
    /// 1: refused by the broker, or there are findings.
    Refused,
    /// 2: could not be tried: wrong usage, something absent, nothing to verify.
    Unable,
    /// What the command said that `exec` ran: its own exit code, or 128 and the signal that ended it.
    Child(u8),
}

impl Exit {
    /// The number the shell sees.
    pub fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Refused => 1,
            Self::Unable => 2,
            Self::Child(code) => code,
        }
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.number())
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The broker refused, with a problem (RFC 9457).
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// It could not be tried.
    #[error("{0}")]
    Unable(String),
    /// The command that `exec` was to run cannot be run.
    #[error("{words}")]
    Command {
        /// As shells have it: 127 if there is none, 126 otherwise.
        code: u8,
        /// Why.
        words: String,
    },
}

/// A problem document, taken apart.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// The word programs act on.
    pub code: String,
    /// What is wrong, in words.
    pub detail: String,
    /// What to do now; may be empty.
    pub next: String,
    /// The whole problem as it came.
    pub problem: Map<String, Value>,
}

impl Failure {
    /// Something absent, unreadable or unusable.
    pub fn unable(words: impl std::fmt::Display) -> Self {
        Self::Unable(words.to_string())
    }

    /// A file could not be read or written.
    pub fn file(path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::Unable(format!("`{}`: {error}", path.display()))
    }

    /// The code of a refusal; none when it could not be tried.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => Some(&refusal.code),
            Self::Unable(_) | Self::Command { .. } => None,
        }
    }

    /// The exit code it leads to.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Refused(_) => Exit::Refused,
            Self::Unable(_) => Exit::Unable,
            Self::Command { code, .. } => Exit::Child(*code),
        }
    }

    /// The failure as the one JSON object of `--json`.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Refused(refusal) => {
                let mut object = refusal.problem.clone();
                object.insert("ok".into(), Value::Bool(false));
                Value::Object(object)
            }
            Self::Unable(words) | Self::Command { words, .. } => {
                serde_json::json!({"ok": false, "code": "unable", "detail": words})
            }
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Unable(format!("{error:#}"))
    }
}

/// What a command returns.
pub type Outcome = Result<Exit, Failure>;
