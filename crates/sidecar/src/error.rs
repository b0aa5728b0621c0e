use std::path::PathBuf;

use thiserror::Error;

/// Why the sidecar could not start or go on. What an agent is told is a
/// [`Refusal`](crate::problem::Refusal) instead.
#[derive(Debug, Error)]
pub enum SidecarError {
    /// The configuration file is not usable; every fault is listed.
    #[error("{path}: {}", faults.join("; "))]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, one sentence each.
        faults: Vec<String>,
    },
    /// The broker answered, and refused to enrol or renew this sidecar.
    #[error("the broker refused: {detail}; {next}")]
    EnrolRefused {
        /// Why.
        detail: String,
        /// What to do.
        next: &'static str,
    },
    /// The broker gave no answer.
    #[error("no broker answers: {0}")]
    BrokerAway(String),
    /// A file or socket could not be used.
    #[error("cannot {what} `{path}`: {source}")]
    File {
        /// The verb.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An address could not be listened on.
    #[error("cannot listen on {at}: {source}")]
    Listen {
        /// The address.
        at: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// What lies in the state directory is not usable.
    #[error("`{path}` is not usable: {why}")]
    State {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The system has no randomness, or a key could not be made.
    #[error("cannot make a key: {0}")]
    Key(String),
    /// The TLS configuration or address is not usable.
    #[error("cannot speak to the broker: {0}")]
    Transport(String),
}
