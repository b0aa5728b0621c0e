//! The story, in order: what is routine, what waits, who may not approve, who may, who says no, and
//! the proof afterwards.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::agent::Agent;
use crate::api::Api;
use crate::exit::{Exit, Failure};
use crate::output::{Look, Out, clean, text};

/// Tells steps as they happen, and remembers whether all went as they should.
pub struct Teller<'a> {
    out: &'a Out,
    ok: bool,
}

impl<'a> Teller<'a> {
    /// Tells to `out`.
    pub fn new(out: &'a Out) -> Self {
        Self { out, ok: true }
    }

    /// One step: how it went, in a sentence that names the people.
    pub fn tell(&mut self, step: &str, begin: Instant, told: Result<String, String>) {
        let ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (ok, detail) = match told {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        self.ok &= ok;
        if self.out.json {
            self.out.object(&json!({"step": step, "ok": ok, "ms": ms, "detail": detail}));
            return;
        }
        let (look, mark) = if ok { (Look::Good, "✓") } else { (Look::Bad, "✗") };
        let time = self.out.paint(Look::Dim, &format!("{ms:>5} ms"));
        self.out.line(format!(
            "  {} {:<14}{time}  {}",
            self.out.paint(look, mark),
            step,
            clean(&detail)
        ));
    }

    /// A sentence between steps, for people only.
    pub fn aside(&self, words: &str) {
        if !self.out.json {
            self.out.line(words);
        }
    }

    /// 0 when every step went as it should.
    pub fn exit(&self) -> Exit {
        if self.ok { Exit::Done } else { Exit::Refused }
    }
}

/// Who takes part.
pub struct Cast {
    /// The agent.
    pub agent: Agent,
    /// Its owner.
    pub alice: Api,
    /// A reviewer.
    pub bob: Api,
    /// Another.
    pub carol: Api,
}

/// Tells the whole story but the proof.
pub async fn tell(teller: &mut Teller<'_>, cast: &Cast) {
    let begin = Instant::now();
    teller.tell("routine", begin, routine(&cast.agent).await);

    let begin = Instant::now();
    match ask_export(&cast.agent, "customers", 10_000).await {
        Ok(request) => {
            let detail = "demo-agent asked to export 10,000 rows of customers; it waits for one of \
                          reviewers: alice, bob, carol";
            teller.tell("pending", begin, Ok(detail.into()));
            decided(teller, cast, text(&request, "request_id").to_owned()).await;
        }
        Err(why) => {
            teller.tell("pending", begin, Err(why));
            for step in ["self-approval", "approval"] {
                teller.tell(step, Instant::now(), Err("there is no pending request".into()));
            }
        }
    }
    let begin = Instant::now();
    teller.tell("denial", begin, denial(&cast.agent, &cast.carol).await);
}

/// Alice may not, bob may; the agent waits from now on, and collects the moment it may.
async fn decided(teller: &mut Teller<'_>, cast: &Cast, id: String) {
    let agent = cast.agent.clone();
    let waiting_for = id.clone();
    let waiter = tokio::spawn(async move {
        let answer = agent.wait(&waiting_for, 30).await;
        (answer, Instant::now())
    });
    let begin = Instant::now();
    teller.tell("self-approval", begin, self_approval(&cast.alice, &id).await);
    let begin = Instant::now();
    teller.tell("approval", begin, approval(&cast.bob, &id, waiter).await);
}

/// A credential that nobody needs to approve.
pub async fn routine(agent: &Agent) -> Result<String, String> {
    let begin = Instant::now();
    let params = json!({"dataset": "weather"});
    let answer = agent.ask("demo.read", params, "morning forecast").await.map_err(words)?;
    if text(&answer, "state") != "granted" || answer.pointer("/credential/token").is_none() {
        return Err(format!(
            "demo.read should have been granted, it is {}",
            text(&answer, "state")
        ));
    }
    Ok(format!(
        "demo-agent, which alice answers for, got a token to read weather for 15 min in {} ms; \
         nobody was asked",
        begin.elapsed().as_millis()
    ))
}

async fn ask_export(agent: &Agent, dataset: &str, rows: u32) -> Result<Value, String> {
    let params = json!({"dataset": dataset, "rows": rows});
    let reason = "nightly report for the sales team";
    let answer = agent.ask("demo.export", params, reason).await.map_err(words)?;
    match text(&answer, "state") {
        "pending" => Ok(answer),
        other => Err(format!("demo.export should wait for a person, it is {other}")),
    }
}

async fn vote(person: &Api, id: &str, verb: &str, more: Value) -> Result<Value, Failure> {
    let path = format!("/api/v1/requests/{id}");
    let request = person.get(&path).await?;
    let mut body = more;
    crate::agent::put(&mut body, "digest", text(&request, "digest"));
    person.post(&format!("{path}/{verb}"), &body).await
}

async fn self_approval(alice: &Api, id: &str) -> Result<String, String> {
    match vote(alice, id, "approve", json!({})).await {
        Err(refused) if refused.code() == Some("self_approval") => {
            Ok("alice tried to approve it and was refused (self_approval): she is a reviewer, but \
             demo-agent is hers"
                .into())
        }
        Err(other) => Err(format!("alice was refused for another reason: {other}")),
        Ok(_) => Err("alice approved for her own agent".into()),
    }
}

type Waiter = tokio::task::JoinHandle<(Result<Value, Failure>, Instant)>;

async fn approval(bob: &Api, id: &str, waiter: Waiter) -> Result<String, String> {
    let path = format!("/api/v1/requests/{id}");
    let request = bob.get(&path).await.map_err(words)?;
    let body = json!({"digest": text(&request, "digest"), "reason": "the report is due"});
    let sent = Instant::now();
    bob.post(&format!("{path}/approve"), &body).await.map_err(words)?;
    let waited = tokio::time::timeout(Duration::from_secs(35), waiter).await;
    let (answer, arrived) = waited
        .map_err(|_| "demo-agent still waits, although bob approved")?
        .map_err(|e| format!("the waiting agent failed: {e}"))?;
    let answer = answer.map_err(words)?;
    if text(&answer, "state") != "granted" || answer.pointer("/credential/token").is_none() {
        return Err(format!("bob approved, but the request is {}", text(&answer, "state")));
    }
    Ok(format!(
        "bob approved exactly what he was shown; demo-agent, waiting, had its token {} ms after \
         his click",
        arrived.saturating_duration_since(sent).as_millis()
    ))
}

async fn denial(agent: &Agent, carol: &Api) -> Result<String, String> {
    let asked = ask_export(agent, "payroll", 500_000).await?;
    let id = text(&asked, "request_id").to_owned();
    let why = json!({"reason": "payroll is closed until Monday", "reason_code": "not_now"});
    vote(carol, &id, "deny", why).await.map_err(words)?;
    let answer = agent.wait(&id, 10).await;
    let told = match answer {
        Ok(answer) if text(&answer, "state") == "denied" => text(&answer, "reason").to_owned(),
        Ok(answer) => return Err(format!("carol denied, but it is {}", text(&answer, "state"))),
        Err(refused) if refused.code() == Some("denied") => refused.to_string(),
        Err(other) => return Err(words(other)),
    };
    let told = if told.is_empty() { String::new() } else { format!(": \"{}\"", clean(&told)) };
    Ok(format!("carol denied an export of 500,000 rows of payroll, and demo-agent was told{told}"))
}

/// The log proven from its first leaf to its last, in a thread of its own.
pub async fn verify(check: crate::audit::Check) -> Result<String, String> {
    let report = tokio::task::spawn_blocking(move || crate::audit::verify(&check)).await;
    let report = report.map_err(|e| e.to_string())?.map_err(words)?;
    crate::audit::sentence(&report)
}

#[expect(clippy::needless_pass_by_value, reason = "used as a `map_err` function")]
fn words(failure: Failure) -> String {
    failure.to_string()
}
