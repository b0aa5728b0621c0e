//! What a reply means and what to do next, in words for a model. The credential is never in them:
//! words are what clients log and models repeat.

use grantwright_domain::text::{shorten, visible};
use serde_json::Value;

use crate::door::Reply;

/// Longest piece of somebody else's text that is repeated, in characters.
const MOST: usize = 600;

/// The reply in words.
pub(super) fn of(reply: &Reply) -> String {
    if reply.is_refusal() {
        return refused(reply);
    }
    if let Some(scopes) = reply.body.get("scopes") {
        return format!("{scopes}\nAsk for one with request_credential.");
    }
    let id = said(reply.text("request_id"));
    match reply.text("state") {
        "granted" => format!(
            "Granted: request {id}, until {}.{} The credential is in `structuredContent.credential`. Use \
             it for this task only, never print or store it, and call release_credential with {id} \
             when you are done.",
            said(reply.text("expires_at")),
            narrowed(reply)
        ),
        "pending" => pending(reply, &id),
        "released" => {
            let effect = said(reply.text("effect"));
            format!("Released: request {id}. Do not use its credential any more. {effect}")
                .trim_end()
                .to_owned()
        }
        state => {
            let reason = said(reply.text("reason"));
            let next = match state {
                "denied" => "Do not ask again as it is.",
                "expired" => "Ask again if it still matters.",
                "cancelled" => "Ask anew if you still need it.",
                "unknown" => "A credential may exist; people resolve it.",
                _ => "See structuredContent.",
            };
            let because = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
            format!("Request {id} is {}{because}. {next}", said(state))
        }
    }
}

/// What people narrowed, so that nobody plans with what was asked.
fn narrowed(reply: &Reply) -> String {
    match (reply.text("narrowed"), reply.body.get("params")) {
        ("", _) => String::new(),
        (what, params) => format!(
            " People narrowed it ({}): it is good for {} only.",
            said(what),
            said(&params.map(ToString::to_string).unwrap_or_default())
        ),
    }
}

fn refused(reply: &Reply) -> String {
    let detail = match reply.text("detail") {
        "" => reply.text("title"),
        detail => detail,
    };
    let mut text = format!("Refused (`{}`): {}", said(reply.text("code")), said(detail));
    if !text.ends_with('.') {
        text.push('.');
    }
    let next = said(reply.text("next"));
    if !next.is_empty() {
        text.push_str(" Next: ");
        text.push_str(&next);
    }
    if let Some(seconds) = reply.retry_after {
        text.push_str(&format!(" Not before {seconds} s from now."));
    }
    text
}

fn pending(reply: &Reply, id: &str) -> String {
    if let Some(question) = reply.body.get("question") {
        let part = |key| said(question.get(key).and_then(Value::as_str).unwrap_or_default());
        return format!(
            "Pending: `{}` asks about request {id}: \"{}\" Answer with answer_question, then call \
             wait_for_request.",
            part("by"),
            part("text")
        );
    }
    if reply.body.get("approved") == Some(&Value::Bool(true)) {
        return format!("Approved: call wait_for_request with {id} to collect the credential.");
    }
    let needs = |key: &str| reply.body.get("needs").and_then(|needs| needs.get(key));
    let count = |key| needs(key).and_then(Value::as_u64);
    let votes = match (count("have"), count("votes")) {
        (Some(have), Some(votes)) => format!(" ({have} of {votes} approvals)"),
        _ => String::new(),
    };
    let link = match reply.text("link") {
        "" => String::new(),
        link => format!(" People decide at {}.", said(link)),
    };
    format!(
        "Pending: request {id} waits for people{votes} until {}. Nothing is wrong: call \
         wait_for_request with {id}.{link}",
        said(reply.text("expires_at"))
    )
}

/// Text from elsewhere on one line: nothing in it acts, and it is not long.
fn said(text: &str) -> String {
    shorten(&visible(text), MOST)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words(status: u16, body: Value) -> String {
        let Value::Object(body) = body else { panic!("an object") };
        of(&Reply { status, body, retry_after: (status == 429).then_some(3) })
    }

    #[test]
    fn a_credential_is_never_in_the_words() {
        let text = words(
            200,
            json!({"state": "granted", "request_id": "r1", "credential": {"token": "hush"},
                   "expires_at": "2026-01-01T00:00:00Z", "lease_id": "l1"}),
        );
        assert!(text.starts_with("Granted: request r1, until 2026-01-01T00:00:00Z."), "{text}");
        assert!(!text.contains("hush"));
    }

    #[test]
    fn narrowing_is_said() {
        let text = words(
            200,
            json!({"state": "granted", "request_id": "r1", "credential": {"token": "hush"},
                   "expires_at": "2026-01-01T00:00:00Z", "narrowed": "rows 10 to 5",
                   "params": {"rows": 5}}),
        );
        assert!(
            text.contains("narrowed it (rows 10 to 5): it is good for {\"rows\":5} only."),
            "{text}"
        );
    }

    #[test]
    fn pending_says_what_to_do() {
        let needs = json!({"votes": 2, "have": 1});
        let text = words(202, json!({"state": "pending", "request_id": "r1", "needs": needs}));
        assert!(text.contains("(1 of 2 approvals)") && text.contains("wait_for_request"), "{text}");
        let text = words(202, json!({"state": "pending", "request_id": "r1", "approved": true}));
        assert!(text.starts_with("Approved"), "{text}");
        let asked = json!({"by": "bob", "text": "why\u{202e}?"});
        let text = words(202, json!({"state": "pending", "request_id": "r1", "question": asked}));
        assert!(text.contains("`bob` asks") && text.contains("answer_question"), "{text}");
        assert!(!text.contains('\u{202e}'));
    }

    #[test]
    fn refusals_name_code_and_next_step() {
        let problem =
            json!({"code": "too_many", "title": "Too many.", "detail": "", "next": "Wait."});
        assert_eq!(
            words(429, problem),
            "Refused (`too_many`): Too many. Next: Wait. Not before 3 s from now."
        );
        let denied = json!({"state": "denied", "request_id": "r1", "reason": "not now"});
        assert_eq!(
            words(200, denied),
            "Request r1 is denied (not now). Do not ask again as it is."
        );
    }
}
