//! The two generations of the protocol: which one a request speaks, and how its result is dressed.

use serde_json::{Map, Value, json};

use super::rpc::RpcError;

/// Revisions served, newest first.
pub(super) const VERSIONS: [&str; 5] =
    ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// Where a request of the newer generation says its version.
pub(super) const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const SERVER: &str = "io.modelcontextprotocol/serverInfo";

/// How long a client may keep what never changes while the server runs.
const KEEP_MS: u64 = 3_600_000;

/// What the server says of itself.
const INSTRUCTIONS: &str = "Short-lived, narrow credentials for this agent. Call list_scopes to see \
     what can be asked for, then request_credential with the true reason: people read it. A pending \
     request waits for people; call wait_for_request until it is granted or ends. Answer a reviewer's \
     question with answer_question. Call release_credential when you are done. Never print, log or \
     store a credential.";

/// A generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Era {
    /// 2024-11-05 to 2025-11-25: a session that began with `initialize`.
    Handshake,
    /// 2026-07-28: each request says its version and the client's capabilities.
    Stateless,
}

impl Era {
    /// The generation of a request; `greeted` says whether `initialize` was answered.
    ///
    /// # Errors
    /// -32022 for a revision that is not served; -32602 when none is named where it must be.
    pub fn of(params: &Map<String, Value>, greeted: bool) -> Result<Self, RpcError> {
        let meta = params.get("_meta");
        let version = meta.and_then(|meta| meta.get(VERSION));
        let Some(version) = version else {
            return if greeted {
                Ok(Self::Handshake)
            } else {
                Err(RpcError::invalid_params(format!(
                    "no protocol version: call `initialize` first, or name it in `_meta` as `{VERSION}`"
                )))
            };
        };
        let Some(version) = version.as_str() else {
            return Err(RpcError::invalid_params(format!("`{VERSION}` wants a string")));
        };
        match VERSIONS.iter().position(|it| *it == version) {
            Some(0) if !meta.and_then(|it| it.get(CAPABILITIES)).is_some_and(Value::is_object) => {
                Err(RpcError::invalid_params(format!("`_meta` wants `{CAPABILITIES}`, an object")))
            }
            Some(0) => Ok(Self::Stateless),
            Some(_) => Ok(Self::Handshake),
            None => Err(RpcError {
                data: Some(json!({"supported": VERSIONS, "requested": version})),
                ..RpcError::new(-32022, "that protocol version is not served")
            }),
        }
    }

    /// A result as this generation wants it.
    pub fn dress(self, mut result: Value) -> Value {
        if let (Self::Stateless, Some(result)) = (self, result.as_object_mut()) {
            result.insert("resultType".into(), "complete".into());
            result.insert("_meta".into(), json!({SERVER: server_info()}));
        }
        result
    }

    /// The same for what a client may keep: nothing in it depends on who asks.
    pub fn dress_lasting(self, mut result: Value) -> Value {
        if let (Self::Stateless, Some(result)) = (self, result.as_object_mut()) {
            result.insert("ttlMs".into(), KEEP_MS.into());
            result.insert("cacheScope".into(), "public".into());
        }
        self.dress(result)
    }
}

/// `initialize`: the client's revision if it is served, else the newest that has this call.
///
/// # Errors
/// -32602 without `protocolVersion`.
pub(super) fn initialize(params: &Map<String, Value>) -> Result<Value, RpcError> {
    let Some(asked) = params.get("protocolVersion").and_then(Value::as_str) else {
        return Err(RpcError::invalid_params("`initialize` wants `protocolVersion`"));
    };
    let [_, newest, ..] = VERSIONS;
    let greets = |version: &&&str| **version == asked && **version != VERSIONS[0];
    let version = VERSIONS.iter().find(greets).copied().unwrap_or(newest);
    Ok(json!({
        "protocolVersion": version,
        "capabilities": {"tools": {}},
        "serverInfo": server_info(),
        "instructions": INSTRUCTIONS,
    }))
}

/// `server/discover`.
pub(super) fn discover() -> Value {
    json!({
        "supportedVersions": VERSIONS,
        "capabilities": {"tools": {}},
        "instructions": INSTRUCTIONS,
    })
}

fn server_info() -> Value {
    json!({"name": "grantwright", "title": "Grantwright", "version": env!("CARGO_PKG_VERSION")})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(meta: &Value, greeted: bool) -> Result<Era, i32> {
        let params = json!({"_meta": meta});
        Era::of(params.as_object().unwrap(), greeted).map_err(|e| e.code)
    }

    #[test]
    fn a_request_says_its_era_or_the_session_does() {
        let full = json!({VERSION: "2026-07-28", CAPABILITIES: {}});
        for greeted in [false, true] {
            assert_eq!(of(&full, greeted), Ok(Era::Stateless));
            assert_eq!(of(&json!({VERSION: "2025-11-25"}), greeted), Ok(Era::Handshake));
            assert_eq!(of(&json!({VERSION: "2026-07-28"}), greeted), Err(-32602));
            assert_eq!(of(&json!({VERSION: 7, CAPABILITIES: {}}), greeted), Err(-32602));
            assert_eq!(of(&json!({VERSION: "2031-01-01", CAPABILITIES: {}}), greeted), Err(-32022));
        }
        assert_eq!(of(&json!({"progressToken": 1}), true), Ok(Era::Handshake));
        assert_eq!(of(&json!({"progressToken": 1}), false), Err(-32602));
    }

    #[test]
    fn initialize_agrees_on_a_revision_that_has_it() {
        for (asked, given) in [
            ("2024-11-05", "2024-11-05"),
            ("2025-03-26", "2025-03-26"),
            ("2025-06-18", "2025-06-18"),
            ("2025-11-25", "2025-11-25"),
            ("2026-07-28", "2025-11-25"),
            ("1999-01-01", "2025-11-25"),
        ] {
            let params = json!({"protocolVersion": asked, "capabilities": {}});
            let said = initialize(params.as_object().unwrap()).unwrap();
            assert_eq!(said["protocolVersion"], given);
        }
        assert_eq!(initialize(&Map::new()).unwrap_err().code, -32602);
    }
}
