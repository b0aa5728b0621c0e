//! A small client of the broker's HTTP API (docs/api.md).

use std::time::Duration;

use serde_json::{Map, Value};

use crate::config::Settings;
use crate::exit::{Failure, Refusal};
use crate::files;
use crate::output::list;

/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 32 << 20;
/// How often at most a call that came too early is made again, and after how long.
const PATIENCE: u32 = 600;
const PAUSE: Duration = Duration::from_millis(200);

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

    /// `POST path` with a body, `GET path` without. Many at once are more calls than a person has in a
    /// second: those wait, and none is left out.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn patiently(&self, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let mut tries = 0;
        loop {
            tries += 1;
            let answer = match body {
                Some(body) => self.post(path, body).await,
                None => self.get(path).await,
            };
            match answer {
                Err(failure) if failure.code() == Some("too_many_calls") && tries < PATIENCE => {
                    tokio::time::sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    /// The whole of a list that comes in pages: `path` with a query, `key` where each page has it.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn all(&self, path: &str, key: &str) -> Result<Vec<Value>, Failure> {
        let (mut out, mut page_at) = (Vec::new(), path.to_owned());
        loop {
            let page = self.patiently(&page_at, None).await?;
            out.extend_from_slice(list(&page, key));
            match page.get("next").and_then(Value::as_u64) {
                Some(before) => page_at = format!("{path}&before={before}"),
                None => return Ok(out),
            }
        }
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
    use std::io::{Read as _, Write as _};
    use std::thread::{JoinHandle, spawn};

    use super::*;

    /// A broker that gives these answers, one for each call; what it was asked, in the end.
    fn scripted(answers: Vec<(u16, &'static str)>) -> (String, JoinHandle<Vec<String>>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let serve = move || {
            let mut asked = Vec::new();
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
                while !bytes.windows(4).any(|it| it == b"\r\n\r\n") {
                    let read = stream.read(&mut chunk).unwrap();
                    assert!(read > 0, "it hung up");
                    bytes.extend_from_slice(&chunk[..read]);
                }
                let head = String::from_utf8(bytes).unwrap();
                asked.push(head.lines().next().unwrap().to_owned());
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
                );
                stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            }
            asked
        };
        (base, spawn(serve))
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_last_page_also_when_that_is_too_many_calls() {
        let (base, asked) = scripted(vec![
            (200, r#"{"leases":[{"lease_id":"l-3"},{"lease_id":"l-2"}],"next":7}"#),
            (429, r#"{"code":"too_many_calls","detail":"slower"}"#),
            (200, r#"{"leases":[{"lease_id":"l-1"}]}"#),
        ]);
        let path = "/api/v1/leases?state=live";
        let got = Api::open(&base).unwrap().all(path, "leases").await.unwrap();
        let ids: Vec<&str> = got.iter().map(|l| l["lease_id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["l-3", "l-2", "l-1"]);
        let first = format!("GET {path} HTTP/1.1");
        let next = format!("GET {path}&before=7 HTTP/1.1");
        assert_eq!(asked.join().unwrap(), [first, next.clone(), next]);
    }

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
