//! The demo's agent: it knows its sidecar's door and its token, and nothing else.

use std::time::Duration;

use serde_json::{Value, json};

use crate::api;
use crate::exit::Failure;
use crate::files;
use crate::output::text;

/// An agent at its sidecar's TCP door.
#[derive(Clone)]
pub struct Agent {
    base: String,
    token: String,
    http: reqwest::Client,
}

impl Agent {
    /// At `base`, with the token in `file`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn new(base: String, file: &std::path::Path) -> Result<Self, Failure> {
        Ok(Self { base, token: files::read_secret(file)?, http: api::client()? })
    }

    /// Asks for a credential.
    ///
    /// # Errors
    /// The sidecar's problem.
    pub async fn ask(&self, scope: &str, params: Value, reason: &str) -> Result<Value, Failure> {
        let body = json!({"scope": scope, "params": params, "reason": reason});
        self.send(self.http.post(format!("{}/v1/credentials", self.base)).json(&body)).await
    }

    /// Where the request stands; collects it once approved. Waits up to `seconds` for a change.
    ///
    /// # Errors
    /// The sidecar's problem.
    pub async fn wait(&self, request: &str, seconds: u32) -> Result<Value, Failure> {
        self.send(self.http.get(format!("{}/v1/requests/{request}?wait={seconds}s", self.base)))
            .await
    }

    /// Whether the sidecar says that it can serve; gives why not.
    pub async fn is_ready(&self) -> Result<(), String> {
        let answer = self.http.get(format!("{}/readyz", self.base)).send().await;
        let answer = answer.map_err(|_| "the sidecar cannot be reached".to_owned())?;
        if answer.status().is_success() {
            return Ok(());
        }
        let status = answer.status();
        let body = answer.bytes().await.unwrap_or_default();
        let said = String::from_utf8_lossy(&body);
        let said = match serde_json::from_slice::<Value>(&body) {
            Ok(said) => text(&said, "why").to_owned(),
            Err(_) => said.trim().to_owned(),
        };
        Err(format!("the sidecar is not ready ({status}): {said}"))
    }

    /// Waits until the sidecar can serve, for at most `patience`.
    pub async fn ready_within(&self, patience: Duration) -> Result<(), String> {
        let begin = std::time::Instant::now();
        loop {
            match self.is_ready().await {
                Ok(()) => return Ok(()),
                Err(why) if begin.elapsed() > patience || why.contains("log_inconsistent") => {
                    return Err(why);
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Value, Failure> {
        let away = |_| Failure::unable(format!("the sidecar at {} cannot be reached", self.base));
        let answer = request.bearer_auth(&self.token).send().await.map_err(away)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(away)?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|_| Failure::unable("the sidecar did not answer with JSON"));
        }
        Err(api::refusal(status.as_u16(), &body))
    }
}
