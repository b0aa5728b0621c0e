//! The decision card on a terminal: the parts in the order every channel has, the agent's words
//! marked as such, ids last.

use grantwright_domain::Timestamp;
use grantwright_domain::time::ttl_words;
use serde_json::Value;

use crate::output::{Look, Out, clean, list, params, phrase, text};
use crate::times;

/// Part 1: the broker's sentence; from scope and parameters where there is no card.
pub fn headline(request: &Value) -> String {
    match request.pointer("/card/headline").and_then(Value::as_str) {
        Some(headline) if !headline.is_empty() => clean(headline),
        _ => {
            let shown = request.get("params").map(params).unwrap_or_default();
            format!("{} {shown}", clean(text(request, "scope"))).trim_end().to_owned()
        }
    }
}

/// Prints the card of a request.
pub fn print(out: &Out, request: &Value, now: Timestamp) {
    out.line(out.paint(Look::Bold, &headline(request)));
    let part =
        |name: &str| request.pointer(&format!("/card/{name}")).map(phrase).unwrap_or_default();
    let stakes = part("stakes");
    if !stakes.is_empty() {
        out.line(stakes);
    }
    out.line("");
    let row = |title: &str, words: &str| {
        if !words.is_empty() {
            out.line(format!("{}{words}", out.paint(Look::Dim, &format!("{title:<12}"))));
        }
    };
    row("unusual", &part("unusual"));
    row("who", &who(request, part("who")));
    row("why you", &part("why"));
    row("agent says", &quoted(request));
    let ttl = request.get("ttl_s").and_then(Value::as_u64).unwrap_or(0);
    let ttl = ttl_words(u32::try_from(ttl).unwrap_or(u32::MAX));
    match part("issues") {
        issues if issues.is_empty() => row("issues", &format!("for {ttl}")),
        issues => row("issues", &issues),
    }
    row("parameters", &request.get("params").map(params).unwrap_or_default());
    row("state", &state(request, part("state"), now));
    for vote in list(request, "votes") {
        let withdrawn = vote.get("standing").and_then(Value::as_bool) == Some(false);
        let note = if withdrawn { " (no longer counts)" } else { "" };
        row(
            "vote",
            &format!(
                "{} {} through {}{note}, {}",
                clean(text(vote, "human")),
                clean(text(vote, "decision")),
                clean(text(vote, "channel")),
                times::when(text(vote, "at"), now)
            ),
        );
    }
    for question in list(request, "questions") {
        row(
            "question",
            &format!("{}: {}", clean(text(question, "by")), phrase_of(question, "text")),
        );
        match question.get("answer") {
            Some(answer) if !answer.is_null() => row("answer", &said(&phrase(answer))),
            _ => row("answer", "none yet"),
        }
    }
    out.line("");
    for (title, key) in [("request", "request_id"), ("digest", "digest"), ("link", "link")] {
        let value = clean(text(request, key));
        if !value.is_empty() {
            out.line(out.paint(Look::Dim, &format!("{title:<12}{value}")));
        }
    }
}

fn phrase_of(value: &Value, key: &str) -> String {
    value.get(key).map(phrase).unwrap_or_default()
}

fn who(request: &Value, who: String) -> String {
    if !who.is_empty() {
        return who;
    }
    format!("{} ({})", clean(text(request, "agent")), clean(text(request, "owner")))
}

/// Part 6: only here does anything appear that the agent wrote, and it is marked.
fn quoted(request: &Value) -> String {
    let words = match request.pointer("/card/words") {
        Some(Value::Object(words)) => {
            let own = |key: &str| words.get(key).map(phrase).unwrap_or_default();
            [own("reason"), own("task")].into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>()
        }
        Some(other) => vec![phrase(other)],
        None => vec![phrase_of(request, "reason"), phrase_of(request, "task")],
    };
    let words: Vec<String> = words.into_iter().filter(|w| !w.is_empty()).collect();
    if words.is_empty() { String::new() } else { said(&words.join(" · ")) }
}

fn said(words: &str) -> String {
    let bare = words.trim_matches(['❝', '❞', ' ']);
    if bare.contains("said by the agent") {
        return words.to_owned();
    }
    format!("❝ {bare} ❞ — said by the agent, not checked")
}

fn state(request: &Value, state: String, now: Timestamp) -> String {
    let have = request.pointer("/needs/have").and_then(Value::as_u64).unwrap_or(0);
    let votes = request.pointer("/needs/votes").and_then(Value::as_u64).unwrap_or(0);
    let word = clean(text(request, "state"));
    if word == "pending" || word == "approved" {
        let until = times::when(text(request, "expires_at"), now);
        return format!("{word} · {have} of {votes} approvals · ends {until}");
    }
    if state.is_empty() || state == word { word } else { format!("{word} · {state}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_agents_words_are_marked_and_cannot_steer_the_terminal() {
        let request = json!({"card": {"words": "fine\u{1b}[2J\u{202e}"}});
        assert_eq!(
            quoted(&request),
            "❝ fine⟨U+001B⟩[2J⟨U+202E⟩ ❞ — said by the agent, not checked"
        );
        assert_eq!(quoted(&json!({"card": {}})), "");
    }

    #[test]
    fn a_headline_without_a_card_names_scope_and_parameters() {
        let request = json!({"scope": "demo.export", "params": {"rows": 10, "dataset": "x"}});
        assert_eq!(headline(&request), "demo.export dataset=x rows=10");
    }
}
