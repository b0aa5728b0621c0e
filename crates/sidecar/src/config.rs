//! The configuration: TOML, unknown keys refused, every fault reported at once. Secrets are named
//! by path, never inline.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::SidecarError;

/// What `deploy/config/sidecar.toml` says, key by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from, to be read again at SIGHUP.
    pub source: Option<PathBuf>,
    /// Addresses of brokers, `https://host:port`, in order of preference; at least one.
    pub brokers: Vec<String>,
    /// PEM file with the CA certificates that sign the broker's own, for the first contact.
    pub trust_bundle: PathBuf,
    /// The broker must be `spiffe://<trust_domain>/broker`.
    pub trust_domain: String,
    /// File with a one-time join token; needed while there is no identity in `state_dir`.
    pub join_token_file: Option<PathBuf>,
    /// Keys, certificates and the last checkpoint lie here, 0600.
    pub state_dir: PathBuf,
    /// The last verified checkpoint; `state_dir/checkpoint` unless given.
    pub checkpoint_file: PathBuf,
    /// Loopback TCP address; port 0 lets the system choose.
    pub listen: Option<SocketAddr>,
    /// Path of the unix socket.
    pub socket: Option<PathBuf>,
    /// Where the agent's bearer token is written at each start. Required with `listen`.
    pub token_file: Option<PathBuf>,
    /// Where the AWS SDKs' token is written at each start. Absent: no such token.
    pub aws_token_file: Option<PathBuf>,
    /// Base URL of the console, for links when the broker sends none.
    pub console: Option<String>,
    /// The local workload's name; `uid:<number>` of this process unless given.
    pub workload: Option<String>,
    /// Written when listening: JSON `{"tcp","socket","pid"}`.
    pub ready_file: Option<PathBuf>,
    /// Least severity that is logged.
    pub log: tracing::Level,
}

impl Config {
    /// Reads the file. Relative paths in it start at its own folder.
    ///
    /// # Errors
    /// [`SidecarError::File`] or [`SidecarError::Config`] with every fault.
    pub fn load(path: &Path) -> Result<Self, SidecarError> {
        let text = std::fs::read_to_string(path).map_err(|source| SidecarError::File {
            what: "read",
            path: path.into(),
            source,
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder)
            .map(|config| Self { source: Some(path.into()), ..config })
            .map_err(|faults| SidecarError::Config { path: path.into(), faults })
    }

    /// Reads the text of a configuration file that lies in `folder`.
    ///
    /// # Errors
    /// Every fault, one sentence each.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, Vec<String>> {
        let table: Table = match text.parse() {
            Ok(table) => table,
            Err(e) => return Err(vec![format!("not TOML: {e}")]),
        };
        let mut keys = Keys { table, folder, faults: Vec::new() };
        let config = keys.read();
        let mut faults = keys.faults;
        faults.extend(keys.table.keys().map(|key| format!("unknown key `{key}`")));
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }
}

/// Keys not read yet, and the faults so far.
struct Keys<'a> {
    table: Table,
    folder: &'a Path,
    faults: Vec<String>,
}

impl Keys<'_> {
    fn read(&mut self) -> Config {
        let state_dir = self.required_path("state_dir");
        let config = Config {
            source: None,
            brokers: self.brokers(),
            trust_bundle: self.required_path("trust_bundle"),
            trust_domain: self.required_text("trust_domain"),
            join_token_file: self.path("join_token_file"),
            checkpoint_file: self
                .path("checkpoint_file")
                .unwrap_or_else(|| state_dir.join("checkpoint")),
            state_dir,
            listen: self.listen(),
            socket: self.path("socket"),
            token_file: self.path("token_file"),
            aws_token_file: self.path("aws_token_file"),
            console: self.text("console"),
            workload: self.text("workload"),
            ready_file: self.path("ready_file"),
            log: self.level(),
        };
        if config.listen.is_none() && config.socket.is_none() {
            self.fault("neither `listen` nor `socket` is given: nobody could reach the sidecar");
        }
        if config.listen.is_some() && config.token_file.is_none() {
            self.fault("`listen` needs `token_file`: a TCP port without a token is open to all");
        }
        if config.workload.as_ref().is_some_and(|w| w.chars().count() > 128) {
            self.fault("`workload` is longer than 128 characters");
        }
        config
    }

    fn fault(&mut self, text: impl Into<String>) {
        self.faults.push(text.into());
    }

    fn text(&mut self, key: &str) -> Option<String> {
        match self.table.remove(key)? {
            Value::String(text) if !text.trim().is_empty() => Some(text),
            Value::String(_) => {
                self.fault(format!("`{key}` is empty: leave it out instead"));
                None
            }
            other => {
                self.fault(format!("`{key}` wants a string, not {}", other.type_str()));
                None
            }
        }
    }

    fn required_text(&mut self, key: &str) -> String {
        if !self.table.contains_key(key) {
            self.fault(format!("`{key}` is missing"));
        }
        self.text(key).unwrap_or_default()
    }

    fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.text(key).map(|text| self.folder.join(text))
    }

    fn required_path(&mut self, key: &str) -> PathBuf {
        let text = self.required_text(key);
        self.folder.join(text)
    }

    fn brokers(&mut self) -> Vec<String> {
        let Some(Value::Array(items)) = self.table.remove("brokers") else {
            self.fault("`brokers` is missing or no list: want [\"https://host:port\"]");
            return Vec::new();
        };
        let mut brokers = Vec::new();
        for item in items {
            match item.as_str() {
                Some(address) if is_broker(address) => brokers.push(address.to_owned()),
                _ => self.fault(format!("broker {item} is not of the form https://host:port")),
            }
        }
        if brokers.is_empty() && self.faults.is_empty() {
            self.fault("`brokers` is empty");
        }
        brokers
    }

    fn listen(&mut self) -> Option<SocketAddr> {
        let text = self.text("listen")?;
        match text.parse::<SocketAddr>() {
            Ok(at) if at.ip().is_loopback() => Some(at),
            Ok(_) => {
                self.fault(format!("`listen` {text} is not a loopback address"));
                None
            }
            Err(_) => {
                self.fault(format!("`listen` {text} is not of the form 127.0.0.1:port"));
                None
            }
        }
    }

    fn level(&mut self) -> tracing::Level {
        match self.text("log").as_deref() {
            None | Some("info") => tracing::Level::INFO,
            Some("error") => tracing::Level::ERROR,
            Some("warn") => tracing::Level::WARN,
            Some("debug") => tracing::Level::DEBUG,
            Some(_) => {
                self.fault("`log` is none of error, warn, info, debug");
                tracing::Level::INFO
            }
        }
    }
}

/// `https://host:port`, nothing behind it.
fn is_broker(address: &str) -> bool {
    let Ok(uri) = address.parse::<http::Uri>() else { return false };
    uri.scheme_str() == Some("https")
        && uri.port_u16().is_some()
        && uri.host().is_some_and(|host| !host.is_empty())
        && uri.authority().is_some_and(|a| !a.as_str().contains('@'))
        && uri.query().is_none()
        && matches!(uri.path(), "" | "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: &str = include_str!("../../../deploy/config/sidecar.toml");

    #[test]
    fn the_reference_configuration_loads_and_names_every_key() {
        let config = Config::parse(REFERENCE, Path::new("/etc/grantwright")).unwrap();
        assert_eq!(config.brokers.len(), 2);
        assert_eq!(config.trust_bundle, Path::new("/etc/grantwright/ca.pem"));
        // Optional keys that are absent by default are named in comments.
        for key in [
            "brokers",
            "trust_bundle",
            "trust_domain",
            "join_token_file",
            "state_dir",
            "checkpoint_file",
            "listen",
            "socket",
            "token_file",
            "aws_token_file",
            "console",
            "workload",
            "ready_file",
            "log",
        ] {
            let named = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} ="));
            assert!(REFERENCE.lines().any(named), "{key}");
        }
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let faults = Config::parse(
            "brokers = [\"http://a:1\"]\nlisten = \"0.0.0.0:1\"\nlog = \"loud\"\ntoken = \"x\"\n",
            Path::new(""),
        )
        .unwrap_err()
        .join("\n");
        for part in [
            "state_dir",
            "trust_bundle",
            "trust_domain",
            "https://host:port",
            "loopback",
            "log",
            "unknown key `token`",
            "neither",
        ] {
            assert!(faults.contains(part), "{part} in {faults}");
        }
    }
}
