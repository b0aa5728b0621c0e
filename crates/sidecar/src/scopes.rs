//! The scopes this agent may ask for, as the broker last declared them.

use std::sync::{Arc, Mutex, PoisonError};

use grantwright_credential::Kind;
use grantwright_domain::{ScopeName, Timestamp, canonical};
use grantwright_wire::Refusal;
use serde_json::{Map, Value};

use crate::Sidecar;
use crate::ask::unknown_scope;

/// How long a list is good for, to read by.
const GOOD_FOR_MS: i64 = 60_000;
/// How long it is good for where it decides whether the broker is asked for a credential.
const CERTAIN_FOR_MS: i64 = 1_000;

/// See the module.
#[derive(Default)]
pub(crate) struct Scopes(Mutex<Option<Listed>>);

#[derive(Clone)]
struct Listed {
    at: Timestamp,
    scopes: Arc<Vec<Map<String, Value>>>,
}

impl Sidecar {
    /// The scopes, at most a minute old; older ones while no broker answers.
    ///
    /// # Errors
    /// The broker's refusal when none were ever listed.
    pub(crate) async fn scopes(&self) -> Result<Arc<Vec<Map<String, Value>>>, Box<Refusal>> {
        self.scopes_within(GOOD_FOR_MS).await
    }

    async fn scopes_within(
        &self,
        age_ms: i64,
    ) -> Result<Arc<Vec<Map<String, Value>>>, Box<Refusal>> {
        let listed = self.listed();
        match &listed {
            Some(listed) if self.now().since(listed.at) < age_ms => {
                return Ok(Arc::clone(&listed.scopes));
            }
            _ => {}
        }
        match self.refresh_scopes().await {
            Ok(scopes) => Ok(scopes),
            Err(refusal) => listed.map(|it| it.scopes).ok_or(refusal),
        }
    }

    /// Asks for the list. Credentials of scopes that are declared otherwise than before are not
    /// given for new asks.
    pub(crate) async fn refresh_scopes(
        &self,
    ) -> Result<Arc<Vec<Map<String, Value>>>, Box<Refusal>> {
        let reply = self.upstream.scopes().await?;
        let read = |bytes: &Vec<u8>| match canonical::parse(bytes) {
            Ok(Value::Object(scope)) => Some(scope),
            _ => None,
        };
        let scopes: Arc<Vec<_>> = Arc::new(reply.scopes_json.iter().filter_map(read).collect());
        let at = self.now();
        let before = self
            .scopes
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(Listed { at, scopes: Arc::clone(&scopes) });
        for old in before.iter().flat_map(|it| it.scopes.iter()) {
            if !scopes.iter().any(|new| is_declared_alike(new, old))
                && let Some(name) = old.get("name").and_then(Value::as_str)
            {
                self.cache().supersede_scope(name);
            }
        }
        Ok(scopes)
    }

    /// Whether the scope gives AWS credentials. `certain`: by a list that is hardly a second old.
    ///
    /// # Errors
    /// 404 `unknown_scope` or `NotAnAwsScope`; the broker's refusal when none were ever listed.
    pub(crate) async fn gives_aws(
        &self,
        scope: &ScopeName,
        certain: bool,
    ) -> Result<(), Box<Refusal>> {
        let scopes = if certain { self.certain_scopes().await } else { self.scopes().await }?;
        let named = named(&scopes, scope.as_str()).ok_or_else(|| unknown_scope(scope.as_str()))?;
        match named.get("credential").and_then(Value::as_str) {
            Some(kind) if kind == Kind::Sts.as_str() => Ok(()),
            // Also where the broker says nothing: it cannot mint for that scope.
            _ => Err(Box::new(not_an_aws_scope(scope.as_str()))),
        }
    }

    /// The scopes by a list that is hardly a second old.
    ///
    /// # Errors
    /// The broker's refusal when none were ever listed.
    pub(crate) async fn certain_scopes(
        &self,
    ) -> Result<Arc<Vec<Map<String, Value>>>, Box<Refusal>> {
        self.scopes_within(CERTAIN_FOR_MS).await
    }

    /// The scopes as last declared, however long ago; `None`: never.
    pub(crate) fn known_scopes(&self) -> Option<Arc<Vec<Map<String, Value>>>> {
        self.listed().map(|it| it.scopes)
    }

    fn listed(&self) -> Option<Listed> {
        self.scopes.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the parameters of an address the types that the scope declares. What it does not
    /// declare stays text: the broker says what is wrong with it.
    pub(crate) async fn typed(
        &self,
        scope: &str,
        params: Vec<(String, String)>,
    ) -> Map<String, Value> {
        let scopes = if params.is_empty() { None } else { self.scopes().await.ok() };
        let declared =
            scopes.as_ref().and_then(|scopes| named(scopes, scope)?.get("params")?.as_object());
        params
            .into_iter()
            .map(|(name, text)| {
                let kind = declared.and_then(|it| it.get(&name)?.get("type")?.as_str());
                let value = typed(kind, text);
                (name, value)
            })
            .collect()
    }
}

/// The same but for what is no part of the declaration: how long people took of late.
fn is_declared_alike(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    let (mut a, mut b) = (a.clone(), b.clone());
    a.remove("expected_wait_s");
    b.remove("expected_wait_s");
    a == b
}

fn named<'a>(scopes: &'a [Map<String, Value>], name: &str) -> Option<&'a Map<String, Value>> {
    scopes.iter().find(|it| it.get("name").and_then(Value::as_str) == Some(name))
}

/// 404 `NotAnAwsScope`: said of a scope, so that the token of AWS SDKs moves nothing else.
pub(crate) fn not_an_aws_scope(scope: &str) -> Refusal {
    Refusal::new(404, "NotAnAwsScope", "This scope gives no AWS credentials.")
        .detail(format!("`{scope}` gives another kind, and this address nothing else"))
        .next("Ask for it with POST /v1/credentials.")
}

fn typed(kind: Option<&str>, text: String) -> Value {
    match kind {
        Some("integer") => match text.parse::<i64>() {
            // Only the one way of writing a number: `+5` and `05` stay text and are refused.
            Ok(number) if number.to_string() == text => number.into(),
            _ => text.into(),
        },
        Some("boolean") if text == "true" => true.into(),
        Some("boolean") if text == "false" => false.into(),
        Some("set") => text.split(',').collect::<Vec<_>>().into(),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_numbers_become_numbers() {
        assert_eq!(typed(Some("integer"), "50".into()), 50);
        for text in ["+5", "05", "-0", "1.0", "", "99999999999999999999"] {
            assert_eq!(typed(Some("integer"), text.into()), text);
        }
        assert_eq!(typed(None, "50".into()), "50");
        assert_eq!(typed(Some("boolean"), "true".into()), true);
        assert_eq!(typed(Some("string"), "true".into()), "true");
    }
}
