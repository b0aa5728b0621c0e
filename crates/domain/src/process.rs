//! The process that asks at a sidecar's unix socket, as that sidecar saw it.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Longest path of an executable and of a cgroup, in bytes. A longer one is left out, never cut: a
/// part of a path is another path.
pub const MAX_LOCAL_PATH: usize = 512;

/// What the kernel told the sidecar of the process at the other end of a connection. It is the
/// sidecar's statement: the broker was not there. What could not be read for certain is absent.
// In canonical order, as `Terms`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalProcess {
    /// Its control group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The container that its control group names: 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Path of its executable, as that process sees it: a container has paths of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// SHA-256 of the executable's bytes, without a label: what `sha256sum` prints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe_digest: Option<Digest>,
    /// Its effective group when it connected.
    pub gid: u32,
    /// Its number when it connected. Another run of the same program has another one, so that it is
    /// no part of what makes asks identical, and policies do not see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its effective user when it connected.
    pub uid: u32,
}

impl LocalProcess {
    /// What makes two of them the same workload: everything but the number.
    #[must_use]
    pub fn identity(&self) -> Self {
        Self { pid: None, ..self.clone() }
    }

    /// What is wrong with it, if anything is.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        let long = |text: &Option<String>| {
            text.as_ref().is_some_and(|t| t.is_empty() || t.len() > MAX_LOCAL_PATH)
        };
        let is_id = |id: &String| {
            id.len() == 64 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        if long(&self.exe) || long(&self.cgroup) {
            Some("a path of the local process is empty or too long")
        } else if !self.container.as_ref().is_none_or(is_id) {
            Some("the local process's container is not 64 hexadecimal digits")
        } else {
            None
        }
    }
}
