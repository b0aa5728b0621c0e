//! The decision card on a terminal: the parts in the order every channel has, the agent's words
//! marked as such, ids last. What the broker shortened is shown in full below.

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
    let none = Value::Null;
    let card = request.get("card").unwrap_or(&none);
    out.line(out.paint(Look::Bold, &headline(request)));
    let stakes = at(card, "stakes");
    if !stakes.is_empty() {
        out.line(stakes);
    }
    out.line("");
    let row = |title: &str, words: &str| {
        if !words.is_empty() {
            out.line(format!("{}{words}", out.paint(Look::Dim, &format!("{title:<12}"))));
        }
    };
    row("unusual", &at(card, "unusual"));
    row("who", &who(request, card));
    row("why you", &at(card.get("why").unwrap_or(&none), "reason"));
    for words in said(request, card) {
        row("agent says", &words);
    }
    issues(card.get("issues").unwrap_or(&none), request, &row, now);
    row("parameters", &request.get("params").map(params).unwrap_or_default());
    row("state", &state(request, card, now));
    for vote in list(request, "votes") {
        row("vote", &self::vote(vote, now));
    }
    for question in list(request, "questions") {
        row("question", &format!("{} asks: {}", at(question, "by"), at(question, "text")));
        match question.get("answer") {
            Some(answer) if !answer.is_null() => row("answer", &marked(&phrase(answer))),
            _ => row("answer", "none yet"),
        }
    }
    for part in list(card, "full_view") {
        let name = at(part, "name");
        row("in full", &format!("{name}: {}", full(request, &name)));
    }
    out.line("");
    for (title, key) in [("request", "request_id"), ("digest", "digest"), ("link", "link")] {
        let value = clean(text(request, key));
        if !value.is_empty() {
            out.line(out.paint(Look::Dim, &format!("{title:<12}{value}")));
        }
    }
}

fn at(value: &Value, key: &str) -> String {
    value.get(key).map(phrase).unwrap_or_default()
}

fn is(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// Part 4: `sales-etl` (alice, Sales) · model-x 4.1, qualified · via `planner`.
fn who(request: &Value, card: &Value) -> String {
    let Some(who) = card.get("who") else {
        return format!("{} ({})", at(request, "agent"), at(request, "owner"));
    };
    let people: Vec<String> =
        [at(who, "owner"), at(who, "team")].into_iter().filter(|p| !p.is_empty()).collect();
    let mut parts = vec![format!("{} ({})", at(who, "agent"), people.join(", "))];
    let model = format!("{} {}", at(who, "model"), at(who, "model_version"));
    if !model.trim().is_empty() {
        let until = match text(who, "qualified_until") {
            "" => String::new(),
            until => format!(" until {}", until.split('T').next().unwrap_or(until)),
        };
        let qualified = if is(who, "qualified") { "qualified" } else { "not qualified" };
        parts.push(format!("{}, {qualified}{until}", model.trim()));
    }
    if is(who, "revoked") {
        parts.push("its right has ended".into());
    }
    let via: Vec<String> = list(who, "delegation").iter().map(phrase).collect();
    if !via.is_empty() {
        parts.push(format!("via {}", via.join(" → ")));
    }
    for (words, key) in [("for", "on_behalf_of"), ("sidecar", "instance"), ("workload", "workload")]
    {
        let value = at(who, key);
        if !value.is_empty() {
            parts.push(format!("{words} {value}"));
        }
    }
    for fact in list(who, "process") {
        parts.push(format!("{} {}", at(fact, "name"), at(fact, "value")));
    }
    parts.join(" · ")
}

/// Part 6: only here does anything appear that the agent wrote, and it is marked.
fn said(request: &Value, card: &Value) -> Vec<String> {
    let words = card.get("words").filter(|w| w.is_object()).unwrap_or(request);
    [("", "reason"), ("task: ", "task")]
        .into_iter()
        .map(|(prefix, key)| (prefix, at(words, key)))
        .filter(|(_, words)| !words.is_empty())
        .map(|(prefix, words)| format!("{prefix}{}", marked(&words)))
        .collect()
}

fn marked(words: &str) -> String {
    format!("❝ {words} ❞ — said by the agent, not checked")
}

/// Part 7.
fn issues(issues: &Value, request: &Value, row: &dyn Fn(&str, &str), now: Timestamp) {
    let ttl = match at(issues, "ttl") {
        ttl if ttl.is_empty() => {
            let seconds = request.get("ttl_s").and_then(Value::as_u64).unwrap_or(0);
            ttl_words(u32::try_from(seconds).unwrap_or(u32::MAX))
        }
        ttl => ttl,
    };
    let mut parts = vec![at(issues, "summary"), ttl, at(issues, "ends")];
    if !text(issues, "ends_at").is_empty() {
        parts.push(format!("ends {}", times::when(text(issues, "ends_at"), now)));
    }
    parts.retain(|part| !part.is_empty());
    row("issues", &parts.join(" · "));
    row("", &at(issues, "what"));
}

/// Part 8.
fn state(request: &Value, card: &Value, now: Timestamp) -> String {
    let word = at(request, "state");
    let count =
        |key: &str| request.pointer(&format!("/needs/{key}")).and_then(Value::as_u64).unwrap_or(0);
    let mut parts = vec![word.clone()];
    if word == "pending" || word == "approved" {
        parts.push(format!("{} of {} approvals", count("have"), count("votes")));
        if request.pointer("/needs/strength").and_then(Value::as_str) == Some("passkey") {
            parts.push("each with a passkey".into());
        }
        parts.push(format!("expires {}", times::when(text(request, "expires_at"), now)));
    } else if let Some(sentence) = card.pointer("/state/sentence") {
        parts.push(phrase(sentence));
    }
    if let Some(narrowed) = card.pointer("/state/narrowed").map(phrase).filter(|n| !n.is_empty()) {
        parts.push(format!("narrowed: {narrowed}"));
    }
    parts.join(" · ")
}

fn vote(vote: &Value, now: Timestamp) -> String {
    let done = if text(vote, "decision") == "deny" { "denied" } else { "approved" };
    let standing = match vote.get("standing").and_then(Value::as_bool) {
        Some(false) if done == "approved" => ", no longer counts",
        _ => "",
    };
    let (human, channel) = (at(vote, "human"), at(vote, "channel"));
    format!("{human} {done} through {channel}{standing}, {}", times::when(text(vote, "at"), now))
}

/// The whole of what was too long for the card.
fn full(request: &Value, name: &str) -> String {
    match name.strip_prefix("params.") {
        Some(param) => request.get("params").map(|p| at(p, param)).unwrap_or_default(),
        None if matches!(name, "reason" | "task") => marked(&at(request, name)),
        None => "see the answers".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_agents_words_are_marked_and_cannot_steer_the_terminal() {
        let card = json!({"words": {"reason": "fine\u{1b}[2J\u{202e}", "task": null}});
        assert_eq!(
            said(&Value::Null, &card),
            ["❝ fine⟨U+001B⟩[2J⟨U+202E⟩ ❞ — said by the agent, not checked"]
        );
        assert!(said(&Value::Null, &json!({})).is_empty());
    }

    #[test]
    fn a_headline_without_a_card_names_scope_and_parameters() {
        let request = json!({"scope": "demo.export", "params": {"rows": 10, "dataset": "x"}});
        assert_eq!(headline(&request), "demo.export dataset=x rows=10");
    }

    #[test]
    fn who_asks_in_one_line() {
        let card = json!({"who": {
            "agent": "etl", "owner": "alice", "team": "Sales", "model": "m", "model_version": "4",
            "qualified": true, "qualified_until": "2027-03-01T00:00:00Z", "delegation": ["planner"],
        }});
        assert_eq!(
            who(&Value::Null, &card),
            "etl (alice, Sales) · m 4, qualified until 2027-03-01 · via planner"
        );
    }

    #[test]
    fn what_was_shortened_is_shown_whole() {
        let request = json!({"params": {"prefix": "a/b/"}, "reason": "long"});
        assert_eq!(full(&request, "params.prefix"), "a/b/");
        assert!(full(&request, "reason").contains("❝ long ❞"));
    }
}
