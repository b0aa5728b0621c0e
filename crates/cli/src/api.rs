//! A small client of the broker's HTTP API (docs/api.md).

use std::time::Duration;

use serde_json::{Map, Value};

use crate::config::Settings;
use crate::exit::{Failure, Refusal};
use crate::files;

/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 32 << 20;

/// The API as one person, or as nobody yet.
#[derive(Clone)]
pub struct Api {
    base: String,
    token: Option<String>,
    http: reqwest::Client,
}

impl Api {
    /// The API at `base`, without a person.
    ///
    /// # Errors
    /// When `base` is not an HTTP address.
    pub fn open(base: &str) -> Result<Self, Failure> {
        let base = base.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") && !base.starts_with("https://") {
            return Err(Failure::unable(format!(
                "`{base}` is not the address of a broker: want http:// or https://"
            )));
        }
        Ok(Self { base, token: None, http: client()? })
    }

    /// As the person whose token this is.
    #[must_use]
    pub fn with_token(self, token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..self }
    }

    /// As the person of `GRANTWRIGHT_HUMAN_TOKEN_FILE`.
    ///
    /// # Errors
    /// When that or `GRANTWRIGHT_CONSOLE` is not set, or the file cannot be read.
    pub fn of_person(settings: &Settings) -> Result<Self, Failure> {
        let file = settings.token_file.as_deref().ok_or_else(|| {
            Failure::unable(
                "GRANTWRIGHT_HUMAN_TOKEN_FILE is not set: it names the file of your token; \
                 `grantwright login` writes one",
            )
        })?;
        Ok(Self::open(settings.console()?)?.with_token(files::read_secret(file)?))
    }

    /// `GET path`.
    ///
    /// # Errors
    /// The broker's problem, or that it could not be reached.
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.http.get(format!("{}{path}", self.base))).await
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send(self.http.post(format!("{}{path}", self.base)).json(body)).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Value, Failure> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let answer = request.send().await.map_err(|e| self.unreachable(&e))?;
        let status = answer.status();
        let body = read_all(answer).await.map_err(|e| self.unreachable(&e))?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|_| {
                Failure::unable(format!("{} did not answer with JSON; is it a broker?", self.base))
            });
        }
        Err(refusal(status.as_u16(), &body))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let why = if error.is_timeout() { "did not answer in time" } else { "cannot be reached" };
        Failure::unable(format!("the broker at {} {why}", self.base))
    }
}

/// An HTTP client that follows no redirect and, since it carries tokens, no proxy.
///
/// # Errors
/// When TLS cannot be set up.
pub fn client() -> Result<reqwest::Client, Failure> {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(75))
        .build()
        .map_err(|e| Failure::unable(format!("cannot make an HTTP client: {e}")))
}

async fn read_all(mut answer: reqwest::Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The failure that a problem document means.
pub fn refusal(status: u16, body: &[u8]) -> Failure {
    let mut problem: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    let field = |name: &str| {
        problem.get(name).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned)
    };
    let code = field("code").unwrap_or_else(|| format!("http_{status}"));
    let detail = field("detail")
        .or_else(|| field("title"))
        .unwrap_or_else(|| format!("the broker answered {status} without saying why"));
    let next = field("next").unwrap_or_default();
    problem.insert("code".into(), Value::String(code.clone()));
    problem.insert("detail".into(), Value::String(detail.clone()));
    problem.entry("status").or_insert_with(|| Value::from(status));
    Failure::Refused(Box::new(Refusal { code, detail, next, problem }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_keeps_its_code_and_a_bare_status_gets_one() {
        let body = br#"{"code":"self_approval","detail":"alice owns it","next":"ask bob"}"#;
        let failure = refusal(403, body);
        assert_eq!(failure.code(), Some("self_approval"));
        assert_eq!(failure.to_string(), "self_approval: alice owns it");
        assert_eq!(failure.to_json()["status"], 403);
        assert_eq!(refusal(502, b"<html>").code(), Some("http_502"));
    }

    #[test]
    fn only_http_addresses_are_brokers() {
        assert!(Api::open("localhost:80").is_err());
        assert_eq!(Api::open("http://localhost:80/").unwrap().base, "http://localhost:80");
    }
}
