//! Asking the sidecar, and waiting for people in the open: what waits, where it is decided, what they
//! ask back.

use std::time::Duration;

use grantwright_domain::Timestamp;
use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::door::{Door, Reply};
use crate::exit::{Failure, Refusal};
use crate::output::{Out, clean};

/// How long one look at a request waits for a change.
const WAIT: Duration = Duration::from_secs(30);
/// Between two tries where nobody answered.
const AGAIN: Duration = Duration::from_secs(2);
/// Between two tries to renew, at least.
const RENEW_AGAIN: Duration = Duration::from_secs(5);
/// The same, after a renewal came to its end without a credential.
const RENEW_RARELY: Duration = Duration::from_secs(15 * 60);

/// What is asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct Wanted {
    /// The scope.
    #[arg(long)]
    scope: String,
    /// One of its parameters. A value that is a JSON number, list or boolean is taken as such.
    #[arg(long = "param", value_name = "NAME=VALUE")]
    params: Vec<String>,
    /// How long it is wanted for, for example 15m; the scope's own time unless given.
    #[arg(long)]
    ttl: Option<String>,
    /// Why: the people who decide read it.
    #[arg(long)]
    reason: Option<String>,
    /// What it is part of, for example a ticket.
    #[arg(long)]
    task: Option<String>,
    /// The delegation under which it is asked for; this agent's own right unless given.
    #[arg(long, value_name = "ID")]
    delegation: Option<String>,
    /// Parameters that are not on the command line.
    #[arg(skip)]
    more: Vec<(String, Value)>,
}

impl Wanted {
    /// Gives one parameter more, as it is.
    pub fn add_param(&mut self, name: &str, value: Value) {
        self.more.push((name.to_owned(), value));
    }

    /// As an ask at this door.
    ///
    /// # Errors
    /// When a parameter is not of the form `NAME=VALUE`, or there twice.
    pub fn ask(&self, door: &Door) -> Result<Asked, Failure> {
        let mut params: Map<String, Value> = self.more.iter().cloned().collect();
        for given in &self.params {
            let (name, value) = given
                .split_once('=')
                .filter(|(name, _)| !name.is_empty())
                .ok_or_else(|| Failure::unable(format!("--param `{given}`: want NAME=VALUE")))?;
            // Numbers and the like are JSON; everything else is the text that it is.
            let value = match serde_json::from_str(value) {
                Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Array(_))) => value,
                _ => Value::from(value),
            };
            if params.insert(name.to_owned(), value).is_some() {
                return Err(Failure::unable(format!("--param `{name}` is there twice")));
            }
        }
        let reason = self.reason.clone().unwrap_or_else(|| format!("to use {}", self.scope));
        let mut body = json!({"scope": self.scope, "params": params, "reason": reason});
        for (name, value) in
            [("ttl", &self.ttl), ("task", &self.task), ("delegation", &self.delegation)]
        {
            if let (Some(body), Some(value)) = (body.as_object_mut(), value) {
                body.insert(name.into(), value.as_str().into());
            }
        }
        Ok(Asked::new(door, body))
    }
}

/// An ask, and how far it has come.
pub struct Asked {
    door: Door,
    body: Value,
    pending: Option<String>,
    told: String,
}

/// A credential. It has no `Debug`.
pub struct Granted {
    request_id: String,
    /// Its parts.
    pub credential: Map<String, Value>,
    /// When it ends.
    pub expires_at: Timestamp,
    life: Duration,
}

impl Asked {
    /// The ask that this body makes, with all that it needs.
    pub fn new(door: &Door, body: Value) -> Self {
        Self { door: door.clone(), body, pending: None, told: String::new() }
    }

    /// A credential of its own, which may be ended without anyone else losing his: under a new key,
    /// until that is [`done`](Asked::done).
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn fresh(&mut self) -> Result<(), Failure> {
        let Some(body) = self.body.as_object_mut() else { return Ok(()) };
        if body.contains_key("idempotency_key") {
            return Ok(());
        }
        let mut key = [0; 16];
        getrandom::fill(&mut key).map_err(|e| Failure::unable(format!("no randomness: {e}")))?;
        let key = format!("exec-{:032x}", u128::from_be_bytes(key));
        body.insert("idempotency_key".into(), key.into());
        Ok(())
    }

    /// It was answered: the next ask is another one.
    pub fn done(&mut self) {
        self.pending = None;
        if let Some(body) = self.body.as_object_mut() {
            body.remove("idempotency_key");
        }
    }

    /// One look: the credential, or the reply that says what is still missing.
    ///
    /// # Errors
    /// The refusal.
    pub async fn look(&mut self, wait: Duration) -> Result<Result<Granted, Reply>, Failure> {
        let reply = match &self.pending {
            None => self.door.call(Method::POST, "/v1/credentials", Some(&self.body), WAIT).await,
            Some(id) => {
                // Whole seconds, rounded up: a wait of none would be asked again at once.
                let seconds = wait.as_millis().div_ceil(1000);
                let path = format!("/v1/requests/{id}?wait={seconds}s");
                self.door.call(Method::GET, &path, None, wait).await
            }
        };
        if reply.is_refusal() {
            let failure = refused(reply);
            if !is_away(&failure) {
                self.done();
            }
            return Err(failure);
        }
        match reply.text("state") {
            "granted" => Ok(Ok(Granted::read(reply)?)),
            "pending" => {
                self.pending = Some(reply.text("request_id").to_owned());
                Ok(Err(reply))
            }
            _ => {
                self.done();
                Err(refused(reply))
            }
        }
    }

    /// Waits until it is granted, saying what it waits for whenever that changes.
    ///
    /// # Errors
    /// The refusal; or the time is over, and the request cancelled.
    pub async fn granted(
        &mut self,
        out: &Out,
        timeout: Option<Duration>,
    ) -> Result<Granted, Failure> {
        let end = timeout.map(|it| Instant::now() + it);
        loop {
            let left = end.map_or(WAIT, |end| end.saturating_duration_since(Instant::now()));
            match self.look(left.min(WAIT)).await {
                Ok(Ok(granted)) => return Ok(granted),
                Ok(Err(reply)) => {
                    let what = waits_for(&reply);
                    if what != self.told {
                        out.note(&what);
                        self.told = what;
                    }
                }
                // What is open stays open while nobody can be reached.
                Err(failure) if self.pending.is_some() && is_away(&failure) => {
                    tokio::time::sleep(AGAIN).await;
                }
                Err(failure) => return Err(failure),
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                self.cancel().await;
                return Err(Failure::unable("nobody decided in time: the request is cancelled"));
            }
        }
    }

    /// Nobody wants it any more.
    pub async fn cancel(&mut self) {
        if let Some(id) = self.pending.take() {
            let path = format!("/v1/requests/{id}");
            self.door.call(Method::DELETE, &path, None, Duration::ZERO).await;
        }
    }
}

impl Granted {
    /// These parts, all of them texts.
    ///
    /// # Errors
    /// When one is missing: the scope gives another kind of credential.
    pub fn texts<const N: usize>(&self, names: [&str; N]) -> Result<[String; N], Failure> {
        let texts = names.map(|name| self.credential.get(name).and_then(Value::as_str));
        if texts.iter().any(Option::is_none) {
            let wants = names.join(", ");
            return Err(Failure::unable(format!("that scope's credential has no {wants}")));
        }
        Ok(texts.map(|text| text.unwrap_or_default().to_owned()))
    }

    /// An AWS shared credentials file with the profile `default`.
    ///
    /// # Errors
    /// When it is no AWS credential.
    pub fn aws_profile(&self) -> Result<String, Failure> {
        let [id, secret, token] = self.texts(["AccessKeyId", "SecretAccessKey", "SessionToken"])?;
        Ok(format!(
            "[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n\
             aws_session_token = {token}\n"
        ))
    }

    fn read(reply: Reply) -> Result<Self, Failure> {
        let strange = || Failure::unable("what answered is not a sidecar");
        let expires_at = Timestamp::parse(reply.text("expires_at")).map_err(|_| strange())?;
        let request_id = reply.text("request_id").to_owned();
        let mut body = reply.body;
        let Some(Value::Object(credential)) = body.remove("credential") else {
            return Err(strange());
        };
        let mut granted = Self { request_id, credential, expires_at, life: Duration::ZERO };
        granted.life = granted.until_end();
        Ok(granted)
    }

    /// What is left of its life.
    pub fn until_end(&self) -> Duration {
        let left = self.expires_at.since(crate::config::now());
        Duration::from_millis(u64::try_from(left).unwrap_or(0))
    }

    /// Until two thirds of the life it had when it came.
    pub fn until_renewal(&self) -> Duration {
        self.until_end().saturating_sub(self.life / 3)
    }

    /// Ends it, as far as its kind allows.
    pub async fn release(&self, door: &Door) {
        let path = format!("/v1/requests/{}/release", self.request_id);
        door.call(Method::POST, &path, None, Duration::ZERO).await;
    }
}

/// What an open request waits for, in a line for people.
pub fn waits_for(reply: &Reply) -> String {
    let id = clean(reply.text("request_id"));
    let link = match reply.text("link") {
        "" => String::new(),
        link => format!(": {}", clean(link)),
    };
    if let Some(Value::Object(question)) = reply.body.get("question") {
        let of = |name: &str| clean(question.get(name).and_then(Value::as_str).unwrap_or_default());
        return format!("{} asks about request {id}: {}{link}", of("by"), of("text"));
    }
    let needs = reply.body.get("needs");
    let number = |name: &str| needs.and_then(|it| it.get(name)?.as_u64()).unwrap_or(0);
    match number("votes").saturating_sub(number("have")) {
        0 => format!("request {id} waits for a decision{link}"),
        1 => format!("request {id} waits for 1 approval{link}"),
        more => format!("request {id} waits for {more} approvals{link}"),
    }
}

/// How long a renewal that failed waits until it is tried again, where so much is `left` of the old
/// credential. What people did not grant, they are not asked for again while the old one lives, and
/// seldom after it: nobody is to be worn out.
pub fn renew_again(failure: &Failure, left: Duration) -> Duration {
    match failure.code() {
        Some("denied" | "expired" | "cancelled") => RENEW_RARELY.max(left),
        _ => RENEW_AGAIN.max(left / 4),
    }
}

fn is_away(failure: &Failure) -> bool {
    matches!(failure.code(), Some("sidecar_away" | "sidecar_slow" | "broker_away" | "busy"))
}

/// The problem; of a request that ended, its state and the reason.
fn refused(reply: Reply) -> Failure {
    let state = reply.text("state").to_owned();
    let first = |names: [&str; 3]| {
        let mut found = names.iter().map(|name| reply.text(name)).filter(|it| !it.is_empty());
        found.next().unwrap_or("refused").to_owned()
    };
    let detail = match (first(["detail", "reason", "title"]), reply.text("request_id")) {
        (detail, "") => detail,
        (detail, id) => format!("{detail} (request {id})"),
    };
    let code = if state.is_empty() { first(["code", "state", "title"]) } else { state };
    let next = reply.text("next").to_owned();
    Failure::Refused(Box::new(Refusal { code, detail, next, problem: reply.body }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_not_asked_again_at_once_for_what_they_did_not_grant() {
        let refused = |code: &str| {
            let (detail, next) = (String::new(), String::new());
            let problem = Map::new();
            Failure::Refused(Box::new(Refusal { code: code.into(), detail, next, problem }))
        };
        let [minute, hour] = [60, 3600].map(Duration::from_secs);
        for code in ["denied", "expired", "cancelled"] {
            assert_eq!(renew_again(&refused(code), hour), hour, "{code}");
            assert_eq!(renew_again(&refused(code), Duration::ZERO), 15 * minute, "{code}");
        }
        for failure in [refused("broker_away"), refused("mint_failed"), Failure::unable("x")] {
            assert_eq!(renew_again(&failure, minute), minute / 4);
            assert_eq!(renew_again(&failure, Duration::ZERO), Duration::from_secs(5));
        }
    }
}
