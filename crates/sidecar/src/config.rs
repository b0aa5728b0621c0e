//! The configuration: TOML, unknown keys refused, every fault reported at once. Secrets are named
//! by path, never inline.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::SidecarError;

/// Most agents of one sidecar.
const MOST_AGENTS: usize = 64;
/// Keys that all agents of one sidecar share; every other one belongs to one agent.
const SHARED: [&str; 6] =
    ["brokers", "console", "log", "log_format", "trust_bundle", "trust_domain"];

/// What `deploy/config/sidecar.toml` says, key by key, of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from, to be read again at SIGHUP.
    pub source: Option<PathBuf>,
    /// Which `[[agent]]` of its file this is; none where the file is of one agent only.
    pub name: Option<String>,
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
    /// Mode of the unix socket: 0600 unless given, never for all.
    pub socket_mode: u32,
    /// The user whose processes are answered on the unix socket, and to whom it and the token files
    /// are given; this process's own unless given.
    pub user: Option<u32>,
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
    /// One JSON object a line, instead of lines for people.
    pub log_json: bool,
}

impl Config {
    /// Reads the file of one agent. Relative paths in it start at its own folder.
    ///
    /// # Errors
    /// [`SidecarError::File`] or [`SidecarError::Config`] with every fault, or that it is of several.
    pub fn load(path: &Path) -> Result<Self, SidecarError> {
        let faults = vec![SEVERAL.to_owned()];
        Self::only(Self::load_all(path)?)
            .ok_or_else(|| SidecarError::Config { path: path.into(), faults })
    }

    /// Reads the file: one configuration for each agent in it, at least one.
    ///
    /// # Errors
    /// [`SidecarError::File`] or [`SidecarError::Config`] with every fault.
    pub fn load_all(path: &Path) -> Result<Vec<Self>, SidecarError> {
        let text = std::fs::read_to_string(path).map_err(|source| SidecarError::File {
            what: "read",
            path: path.into(),
            source,
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let agents = Self::parse_all(&text, folder)
            .map_err(|faults| SidecarError::Config { path: path.into(), faults })?;
        Ok(agents.into_iter().map(|it| Self { source: Some(path.into()), ..it }).collect())
    }

    /// Reads the text of a configuration file of one agent that lies in `folder`.
    ///
    /// # Errors
    /// Every fault, one sentence each.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, Vec<String>> {
        Self::only(Self::parse_all(text, folder)?).ok_or_else(|| vec![SEVERAL.to_owned()])
    }

    fn only(agents: Vec<Self>) -> Option<Self> {
        let mut agents = agents.into_iter();
        agents.next().filter(|_| agents.next().is_none())
    }

    /// Reads the text of a configuration file that lies in `folder`.
    ///
    /// # Errors
    /// Every fault, one sentence each.
    pub fn parse_all(text: &str, folder: &Path) -> Result<Vec<Self>, Vec<String>> {
        let mut table: Table = match text.parse() {
            Ok(table) => table,
            Err(e) => return Err(vec![format!("not TOML: {e}")]),
        };
        let agents = match table.remove("agent") {
            None => return Self::read(table, folder).map(|config| vec![config]),
            Some(Value::Array(agents)) if (1..=MOST_AGENTS).contains(&agents.len()) => agents,
            Some(_) => return Err(vec![format!("`[[agent]]` wants 1 to {MOST_AGENTS} tables")]),
        };
        let mut faults: Vec<String> = table
            .keys()
            .filter(|key| !SHARED.contains(&key.as_str()))
            .map(|key| format!("`{key}` belongs into each [[agent]]"))
            .collect();
        let mut read: Vec<Self> = Vec::new();
        for (at, agent) in agents.into_iter().enumerate() {
            let (name, agent) = match named(agent, at, &table) {
                Ok(named) => named,
                Err(fault) => {
                    faults.push(fault);
                    continue;
                }
            };
            match Self::read(agent, folder) {
                Ok(config) => read.push(Self { name: Some(name), ..config }),
                Err(more) => faults.extend(more.iter().map(|it| format!("agent `{name}`: {it}"))),
            }
        }
        faults.extend(shared(&read));
        if faults.is_empty() { Ok(read) } else { Err(faults) }
    }

    fn read(table: Table, folder: &Path) -> Result<Self, Vec<String>> {
        let mut keys = Keys { table, folder, faults: Vec::new() };
        let config = keys.read();
        let mut faults = keys.faults;
        faults.extend(keys.table.keys().map(|key| format!("unknown key `{key}`")));
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }
}

/// Said where one agent is wanted.
const SEVERAL: &str = "it has several `[[agent]]` tables, and one agent is wanted here";

/// An agent's own keys beside those of all.
fn named(agent: Value, at: usize, all: &Table) -> Result<(String, Table), String> {
    let at = at + 1;
    let Value::Table(mut agent) = agent else {
        return Err(format!("`agent` {at} is no table: want [[agent]]"));
    };
    let name = match agent.remove("name") {
        Some(Value::String(name)) if is_name(&name) => name,
        _ => return Err(format!("[[agent]] {at} wants a `name`: 2 to 64 of a-z 0-9 -")),
    };
    for key in SHARED {
        if agent.contains_key(key) {
            return Err(format!("agent `{name}`: `{key}` is for all agents: it stands above them"));
        }
        if let Some(value) = all.get(key) {
            agent.insert(key.into(), value.clone());
        }
    }
    Ok((name, agent))
}

/// Nothing that belongs to one agent may be another's, too: what lies there could be read through
/// the other's door.
fn shared(agents: &[Config]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut taken: BTreeMap<String, &str> = BTreeMap::new();
    for agent in agents {
        let name = agent.name.as_deref().unwrap_or_default();
        let paths = [
            Some(&agent.state_dir),
            Some(&agent.checkpoint_file),
            agent.join_token_file.as_ref(),
            agent.socket.as_ref(),
            agent.token_file.as_ref(),
            agent.aws_token_file.as_ref(),
            agent.ready_file.as_ref(),
        ];
        let mut own: Vec<String> =
            paths.into_iter().flatten().map(|path| path.display().to_string()).collect();
        own.push(format!("name {name}"));
        own.extend(agent.listen.filter(|at| at.port() != 0).map(|at| format!("listen {at}")));
        for what in own {
            if let Some(other) = taken.insert(what.clone(), name) {
                faults.push(format!("agents `{other}` and `{name}` share `{what}`"));
            }
        }
    }
    faults
}

fn is_name(name: &str) -> bool {
    (2..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
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
            name: None,
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
            socket_mode: self.mode(),
            user: self.user(),
            token_file: self.path("token_file"),
            aws_token_file: self.path("aws_token_file"),
            console: self.text("console"),
            workload: self.text("workload"),
            ready_file: self.path("ready_file"),
            log: self.level(),
            log_json: self.format(),
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

    fn mode(&mut self) -> u32 {
        const OWN: u32 = 0o600;
        let Some(text) = self.text("socket_mode") else { return OWN };
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode & !0o770 == 0 && mode & OWN == OWN => mode,
            _ => {
                self.fault("`socket_mode` wants \"0600\" or \"0660\": it is never for all");
                OWN
            }
        }
    }

    fn user(&mut self) -> Option<u32> {
        let value = self.table.remove("user")?;
        // The last one means nobody to the system's calls.
        let id = value.as_integer().and_then(|id| u32::try_from(id).ok());
        if id.is_none_or(|id| id == u32::MAX) {
            self.fault("`user` wants a user's number, as `id -u` prints it");
        }
        id
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

    fn format(&mut self) -> bool {
        match self.text("log_format").as_deref() {
            None | Some("text") => false,
            Some("json") => true,
            Some(_) => {
                self.fault("`log_format` is neither text nor json");
                false
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
            "socket_mode",
            "user",
            "name",
            "token_file",
            "aws_token_file",
            "console",
            "workload",
            "ready_file",
            "log",
            "log_format",
        ] {
            let named = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} ="));
            assert!(REFERENCE.lines().any(named), "{key}");
        }
    }

    const ALL: &str = "brokers = [\"https://a:1\"]\ntrust_bundle = \"ca\"\ntrust_domain = \"t\"\n";

    fn agent(name: &str, more: &str) -> String {
        format!(
            "[[agent]]\nname = \"{name}\"\nstate_dir = \"{name}\"\nsocket = \"{name}.sock\"\n{more}\n"
        )
    }

    #[test]
    fn several_agents_share_what_is_above_them_and_nothing_else() {
        let text = format!("{ALL}{}{}", agent("ab", "user = 7"), agent("cd", ""));
        let agents = Config::parse_all(&text, Path::new("/d")).unwrap();
        let [a, b] = agents.as_slice() else { panic!("{agents:?}") };
        assert_eq!((a.name.as_deref(), a.user), (Some("ab"), Some(7)));
        assert_eq!((b.name.as_deref(), b.user, b.socket_mode), (Some("cd"), None, 0o600));
        assert_eq!((&a.brokers, &a.trust_bundle), (&b.brokers, &b.trust_bundle));
        assert_eq!(b.checkpoint_file, Path::new("/d/cd/checkpoint"));
        assert!(Config::parse(&text, Path::new("/d")).is_err());
    }

    #[test]
    fn what_agents_must_not_share_is_told() {
        for (text, said) in [
            (agent("ab", "") + &agent("ab", ""), "share `name ab`"),
            (agent("ab", "") + &agent("cd", "token_file = \"ab.sock\""), "share `/d/ab.sock`"),
            (agent("ab", "log = \"warn\""), "`log` is for all agents"),
            (agent("ab", "") + &agent("Cd", ""), "[[agent]] 2 wants a `name`"),
            (agent("ab", "user = -1"), "agent `ab`: `user` wants"),
            (agent("ab", "socket_mode = \"0666\""), "agent `ab`: `socket_mode` wants"),
            (agent("ab", "soket = \"x\""), "agent `ab`: unknown key `soket`"),
            ("socket = \"x\"\n".to_owned() + &agent("ab", ""), "`socket` belongs into each"),
            ("agent = []\n".into(), "1 to 64"),
        ] {
            let faults = Config::parse_all(&format!("{ALL}{text}"), Path::new("/d")).unwrap_err();
            assert!(faults.join("\n").contains(said), "{said}: {faults:?}");
        }
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let faults = Config::parse(
            "brokers = [\"http://a:1\"]\nlisten = \"0.0.0.0:1\"\nlog = \"loud\"\nlog_format = \"xml\"\n\
             token = \"x\"\n",
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
            "`log` is none",
            "neither text nor json",
            "unknown key `token`",
            "neither",
        ] {
            assert!(faults.contains(part), "{part} in {faults}");
        }
    }
}
