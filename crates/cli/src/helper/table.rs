//! The helpers' file: what to ask for when a tool names only a host. Docker and git run helpers by name
//! and pass no arguments, so it stands here.
//!
//! ```toml
//! [[git]]
//! host = "git.example.org"
//! scope = "git.push"
//! params = { repository = "acme/app" }
//!
//! [[docker]]
//! host = "registry.example.org:5000"
//! scope = "registry.pull"
//! username = "agent"                  # where the credential is a token alone
//! ```

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::Settings;
use crate::exit::Failure;
use crate::files;

/// See the module.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    #[serde(default)]
    git: Vec<Entry>,
    #[serde(default)]
    docker: Vec<Entry>,
}

/// What is asked for, for one host.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Host, with its port where it is not the usual one.
    pub host: String,
    scope: String,
    #[serde(default)]
    params: Map<String, Value>,
    reason: Option<String>,
    task: Option<String>,
    ttl: Option<String>,
    delegation: Option<String>,
    username: Option<String>,
}

impl Table {
    /// Reads the file that the settings name.
    ///
    /// # Errors
    /// When it cannot be read, or is not of that form.
    pub fn read(settings: &Settings) -> Result<Self, Failure> {
        let path = settings.helpers.as_deref().ok_or_else(|| {
            Failure::unable(
                "no helpers' file: GRANTWRIGHT_HELPERS names it, else it is \
                 grantwright/helpers.toml in XDG_CONFIG_HOME or ~/.config",
            )
        })?;
        let text = files::read(path)?;
        toml::from_str(&text)
            .map_err(|e| Failure::unable(format!("`{}`: {}", path.display(), e.message())))
    }

    /// The first entry for git whose host is asked for.
    pub fn git(&self, is_asked: impl Fn(&str) -> bool) -> Option<&Entry> {
        self.git.iter().find(|entry| is_asked(&entry.host))
    }

    /// All entries for docker.
    pub fn docker(&self) -> &[Entry] {
        &self.docker
    }
}

impl Entry {
    /// The body of `POST /v1/credentials`.
    pub fn body(&self) -> Value {
        let reason = self.reason.clone().unwrap_or_else(|| format!("to use {}", self.host));
        let mut body = json!({"scope": self.scope, "params": self.params, "reason": reason});
        for (name, value) in
            [("ttl", &self.ttl), ("task", &self.task), ("delegation", &self.delegation)]
        {
            if let (Some(body), Some(value)) = (body.as_object_mut(), value) {
                body.insert(name.into(), value.as_str().into());
            }
        }
        body
    }

    /// The user's name for a token, or the tool's usual one.
    pub fn username<'a>(&'a self, usual: &'a str) -> &'a str {
        self.username.as_deref().unwrap_or(usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_is_no_entry() {
        let read = |text: &str| toml::from_str::<Table>(text);
        let table = read("[[git]]\nhost = \"h\"\nscope = \"s\"\nparams = { n = 5 }\n").unwrap();
        let body = table.git(|host| host == "h").unwrap().body();
        assert_eq!(body, json!({"scope": "s", "params": {"n": 5}, "reason": "to use h"}));
        assert!(table.git(|host| host == "H").is_none());
        assert!(read("[[git]]\nhost = \"h\"\nscope = \"s\"\nparam = {}\n").is_err());
        assert!(read("[[gti]]\nhost = \"h\"\nscope = \"s\"\n").is_err());
    }
}
