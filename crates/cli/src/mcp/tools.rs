//! The tools: what each takes, and the call at the sidecar that it is.

use std::time::Duration;

use grantwright_domain::RequestId;
use grantwright_wire::Refusal;
use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::arguments::{Argument, Kind, check, schema, text, whole};
use super::words;
use crate::door::{Door, Reply};

/// Longest wait of one call, in seconds.
const MOST_WAIT: u64 = 600;
/// The wait of a call that says none, in seconds: less than the minute after which many clients give
/// a tool up.
const USUAL_WAIT: u64 = 45;

/// One tool.
pub(super) struct Tool {
    pub name: &'static str,
    title: &'static str,
    about: &'static str,
    arguments: &'static [Argument],
    action: Action,
    /// Hints for clients: reads only, ends something, may be repeated at no cost.
    hints: [bool; 3],
}

#[derive(Clone, Copy)]
enum Action {
    List,
    Request,
    Wait,
    Answer,
    Release,
}

const REQUEST_ID: Argument = Argument {
    name: "request_id",
    kind: Kind::Text(64),
    required: true,
    about: "The request, as request_credential named it.",
};

/// All of them, in the order in which they are listed.
pub(super) const TOOLS: [Tool; 5] = [
    Tool {
        name: "list_scopes",
        title: "List scopes",
        about: "What this agent can ask for: each scope with the JSON Schema of its parameters, its \
                longest lifetime, whether people decide and which, and how long they took of late \
                (expected_wait_s).",
        arguments: &[],
        action: Action::List,
        hints: [true, false, true],
    },
    Tool {
        name: "request_credential",
        title: "Request a credential",
        about: "Asks for a credential that is good for one scope, these parameters and a short time. \
                It is granted at once, refused, or pending until people decide; then call \
                wait_for_request. Ask for no more than the task needs: people see every word.",
        arguments: &[
            Argument {
                name: "scope",
                kind: Kind::Text(64),
                required: true,
                about: "The scope's name, from list_scopes.",
            },
            Argument {
                name: "params",
                kind: Kind::Object,
                required: true,
                about: "The scope's parameters by name, from list_scopes; {} where it has none.",
            },
            Argument {
                name: "ttl",
                kind: Kind::Text(16),
                required: false,
                about: "Lifetime, a whole number with s, m or h, for example 15m. Absent: the scope's.",
            },
            Argument {
                name: "reason",
                kind: Kind::Text(2000),
                required: true,
                about: "Why it is needed, for the people who decide.",
            },
            Argument {
                name: "task",
                kind: Kind::Text(200),
                required: false,
                about: "The task or ticket that this belongs to.",
            },
            Argument {
                name: "delegation",
                kind: Kind::Text(64),
                required: false,
                about: "The delegation under which to ask, as the agent that handed its right on \
                        named it. Absent: this agent's own right.",
            },
            Argument {
                name: "idempotency_key",
                kind: Kind::Text(64),
                required: false,
                about: "A name for this ask, of letters, digits, '.', '_' and '-'. The same key and \
                        body give the same request; a new key is a new ask.",
            },
        ],
        action: Action::Request,
        hints: [false, false, false],
    },
    Tool {
        name: "wait_for_request",
        title: "Wait for a request",
        about: "Waits until people decide on a pending request, ask a question, or the time is up. \
                Collects the credential once it is approved.",
        arguments: &[
            REQUEST_ID,
            Argument {
                name: "seconds",
                kind: Kind::UpTo(MOST_WAIT),
                required: false,
                about: "How long to wait at most; 0 looks once. Absent: 45.",
            },
        ],
        action: Action::Wait,
        hints: [false, false, true],
    },
    Tool {
        name: "answer_question",
        title: "Answer a reviewer",
        about: "Answers the question that a reviewer asked about a pending request.",
        arguments: &[
            REQUEST_ID,
            Argument {
                name: "text",
                kind: Kind::Text(2000),
                required: true,
                about: "The answer, true and to the point.",
            },
        ],
        action: Action::Answer,
        hints: [false, false, false],
    },
    Tool {
        name: "release_credential",
        title: "Release a credential",
        about: "Ends a credential that is no longer needed; a request that is still pending is \
                cancelled.",
        arguments: &[REQUEST_ID],
        action: Action::Release,
        hints: [false, true, true],
    },
];

/// The tool of that name.
pub(super) fn find(name: &str) -> Option<&'static Tool> {
    TOOLS.iter().find(|tool| tool.name == name)
}

/// The result of `tools/list`.
pub(super) fn list() -> Value {
    let tools: Vec<Value> = TOOLS
        .iter()
        .map(|tool| {
            let [reads, ends, repeats] = tool.hints;
            json!({
                "name": tool.name,
                "title": tool.title,
                "description": tool.about,
                "inputSchema": schema(tool.arguments),
                "annotations": {
                    "readOnlyHint": reads, "destructiveHint": ends, "idempotentHint": repeats,
                },
            })
        })
        .collect();
    json!({"tools": tools})
}

/// Hears how a wait goes on: seconds gone by, seconds in all, and where the request stands.
pub(super) trait Progress {
    /// Says so.
    fn tell(&self, gone: f64, all: u64, words: String) -> impl Future<Output = ()> + Send;
}

impl Tool {
    /// Does it, and gives the result of `tools/call`: the sidecar's body, whatever it is, and the
    /// same in words, without the credential. A problem is an error.
    pub async fn call(
        &self,
        door: &Door,
        given: &Map<String, Value>,
        step: Duration,
        progress: &(impl Progress + Sync),
    ) -> Value {
        let reply = match check(self.name, self.arguments, given) {
            Err(refusal) => (*refusal).into(),
            Ok(()) => match self.action {
                Action::List => get(door, "/v1/scopes").await,
                Action::Request => {
                    let body = Value::Object(given.clone());
                    door.call(Method::POST, "/v1/credentials", Some(&body), Duration::ZERO).await
                }
                Action::Wait => wait(door, given, step, progress).await,
                Action::Answer => {
                    let body = json!({"text": text(given, "text")});
                    post(door, given, "answer", Some(&body)).await
                }
                Action::Release => post(door, given, "release", None).await,
            },
        };
        tracing::info!(
            tool = self.name,
            status = reply.status,
            code = reply.text("code"),
            "called"
        );
        json!({
            "content": [{"type": "text", "text": words::of(&reply)}],
            "isError": reply.is_refusal(),
            "structuredContent": reply.body,
        })
    }
}

async fn get(door: &Door, path: &str) -> Reply {
    door.call(Method::GET, path, None, Duration::ZERO).await
}

async fn post(door: &Door, given: &Map<String, Value>, what: &str, body: Option<&Value>) -> Reply {
    match path(given) {
        Ok(path) => door.call(Method::POST, &format!("{path}/{what}"), body, Duration::ZERO).await,
        Err(refusal) => (*refusal).into(),
    }
}

/// Looks again and again until the request is no longer pending, a question is open, or the time is
/// up: one look does not end at a question.
async fn wait(
    door: &Door,
    given: &Map<String, Value>,
    step: Duration,
    progress: &(impl Progress + Sync),
) -> Reply {
    let path = match path(given) {
        Ok(path) => path,
        Err(refusal) => return (*refusal).into(),
    };
    let all = given.get("seconds").and_then(whole).unwrap_or(USUAL_WAIT);
    let begun = Instant::now();
    let end = begun + Duration::from_secs(all);
    // The first look is short, so that one who has something to do learns of it at once.
    let mut look = Duration::ZERO;
    loop {
        let looked = Instant::now();
        let asked = format!("{path}?wait={}s", look.as_secs());
        let reply = door.call(Method::GET, &asked, None, look).await;
        let goes_on = reply.text("state") == "pending" && !reply.body.contains_key("question")
            || reply.text("code") == "being_issued";
        if !goes_on || Instant::now() >= end {
            return reply;
        }
        // A sidecar that answers early is not asked in a hurry.
        let pause = if reply.is_refusal() { Duration::from_secs(1) } else { look };
        tokio::time::sleep_until((looked + pause).min(end)).await;
        let gone = begun.elapsed();
        if look > Duration::ZERO && gone.as_secs() < all {
            progress.tell(gone.as_secs_f64(), all, words::of(&reply)).await;
        }
        let left = end.saturating_duration_since(Instant::now()).as_millis().div_ceil(1000);
        look = step.min(Duration::from_secs(u64::try_from(left).unwrap_or(all)));
    }
}

/// The request's path. An id is text that cannot lead elsewhere.
fn path(given: &Map<String, Value>) -> Result<String, Box<Refusal>> {
    match RequestId::parse(text(given, "request_id")) {
        Ok(id) if id.as_str().bytes().any(|byte| byte != b'.') => Ok(format!("/v1/requests/{id}")),
        _ => Err(Box::new(
            Refusal::new(404, "unknown_request", "There is no such request.")
                .detail("`request_id` is not of the form of one")
                .next("Use the request_id that request_credential returned."),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_lead_nowhere_else() {
        let path = |id: &str| path(json!({"request_id": id}).as_object().unwrap()).ok();
        assert_eq!(path("req_1.a").as_deref(), Some("/v1/requests/req_1.a"));
        for id in ["", "a", "..", "...", "a/b", "../x", "a%2fb", "a?b", "a b", "ä1"] {
            assert_eq!(path(id), None, "{id}");
        }
    }

    #[test]
    fn names_are_unique_and_of_the_protocols_form() {
        for (index, tool) in TOOLS.iter().enumerate() {
            assert!(std::ptr::eq(find(tool.name).unwrap(), find(TOOLS[index].name).unwrap()));
            assert!(tool.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            assert_eq!(TOOLS.iter().filter(|it| it.name == tool.name).count(), 1);
        }
    }
}
