//! The scopes this agent may ask for, as the broker last declared them.

use std::sync::{Arc, Mutex, PoisonError};

use grantwright_domain::{Timestamp, canonical};
use grantwright_wire::Refusal;
use serde_json::{Map, Value};

use crate::Sidecar;

/// How long a list is good for.
const GOOD_FOR_MS: i64 = 60_000;

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
        let listed = self.listed();
        match &listed {
            Some(listed) if self.now().since(listed.at) < GOOD_FOR_MS => {
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
            if !scopes.contains(old)
                && let Some(name) = old.get("name").and_then(Value::as_str)
            {
                self.cache().supersede_scope(name);
            }
        }
        Ok(scopes)
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
        let declared = scopes.as_ref().and_then(|scopes| {
            let named =
                scopes.iter().find(|it| it.get("name").and_then(Value::as_str) == Some(scope));
            named?.get("params")?.as_object()
        });
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
