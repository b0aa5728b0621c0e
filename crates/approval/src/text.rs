//! The card as plain text, for terminals and logs: no colours, about 80 columns.
//!
//! Words of people stand on lines of their own that begin with [`QUOTE`], and nothing else does. A
//! parameter stands between backticks, which it cannot hold; one too long for a line goes on in
//! backticks on the next.

use grantwright_domain::event::Decision;
use grantwright_domain::scope::grouped;
use grantwright_domain::{Strength, Timestamp};
use serde_json::Value;

use crate::card::{Card, Param, Progress, Who, Words};
use lines::Lines;

mod lines;

/// How a line of somebody's own words begins.
pub const QUOTE: &str = "  > ";

/// Renders the card as it is at `now`; the whole digest is the last line.
#[must_use]
pub fn render_text(card: &Card, now: Timestamp) -> String {
    let mut out = Lines::default();
    out.headline(&card.headline);
    for param in &card.params {
        out.item("with", &param_words(param));
    }
    out.item("stakes", &card.stakes.join(" · "));
    for fact in &card.unusual {
        out.item("unusual", fact);
    }
    who(&mut out, &card.who, now);
    if !card.asked_because.reason.is_empty() {
        let policies = ticks(&card.asked_because.policies);
        out.item("why", &format!("{} (policy {policies})", card.asked_because.reason));
    }
    words(&mut out, &card.words);
    let issues = &card.issues;
    out.item("issues", &format!("{}, for {}", issues.summary, issues.ttl));
    flatten("", &issues.what, &mut |path, value| out.item("", &format!("{path} {value}")));
    match issues.ends_at.map(|at| when(at, now)) {
        Some(at) if issues.issued => out.item("", &format!("{}; ends {at}", issues.ends)),
        Some(at) => out.item("", &format!("{}; if issued now, ends {at}", issues.ends)),
        None => {}
    }
    if let Some(lease) = &issues.renews {
        out.item("", &format!("replaces lease `{lease}`"));
    }
    progress(&mut out, &card.state, &short(card), now);
    for view in &card.full_view {
        let digest = view.digest.map(|d| format!(", {}", d.hex())).unwrap_or_default();
        let length = grouped(i64::try_from(view.length).unwrap_or(i64::MAX));
        out.item("open", &format!("{}: {length} characters{digest}", view.name));
    }
    if !card.full_view.is_empty() {
        out.item("", "the middle is left out above: open the full view before approving");
    }
    out.item("digest", &card.digest.hex());
    out.into_text()
}

/// The first twelve digits of D.
fn short(card: &Card) -> String {
    card.digest.hex().chars().take(12).collect()
}

pub(crate) fn param_words(param: &Param) -> String {
    let value =
        if param.sensitive { "(sensitive, not shown)".to_owned() } else { ticks(&param.values) };
    let title = if param.title.is_empty() { String::new() } else { format!(" ({})", param.title) };
    format!("{}{title} = {value}", param.name)
}

fn who(out: &mut Lines, who: &Who, now: Timestamp) {
    let mut label = "who";
    for line in who_words(who, |at| when(at, now)) {
        out.item(label, &line);
        label = "";
    }
}

/// Part 4 in two lines, and a third where the sidecar saw the process that asks.
pub(crate) fn who_words(who: &Who, when: impl Fn(Timestamp) -> String) -> Vec<String> {
    let owner = match (who.owner.as_str(), who.team.as_str()) {
        ("", _) => "not registered".to_owned(),
        (owner, "") => owner.to_owned(),
        (owner, team) => format!("{owner}, {team}"),
    };
    let mut parts = vec![format!("`{}` ({owner})", who.agent)];
    if who.revoked {
        parts.push("its right has ended".into());
    }
    let model = format!("{} {}", who.model, who.model_version);
    parts.push(match (model.trim(), who.qualified_until) {
        ("", _) => "model unknown".into(),
        (model, Some(until)) => format!("{model}, qualified until {}", when(until)),
        (model, None) => format!("{model}, not qualified"),
    });
    if !who.delegation.is_empty() {
        parts.push(format!("via {}", ticks(&who.delegation)));
    }
    if let Some(human) = &who.on_behalf_of {
        parts.push(format!("on behalf of {human}"));
    }
    let through = format!("sidecar `{}` · workload `{}`", who.instance, who.workload);
    let mut lines = vec![parts.join(" · "), through];
    if !who.process.is_empty() {
        let facts: Vec<String> =
            who.process.iter().map(|it| format!("{} `{}`", it.name, it.value)).collect();
        lines.push(facts.join(" · "));
    }
    lines
}

fn words(out: &mut Lines, words: &Words) {
    let mut say = |what: String, text: Option<&String>| match text {
        Some(text) => {
            out.item("words", &format!("{what}, {}:", words.note));
            out.quote(text);
        }
        None => out.item("words", &format!("{what}: erased")),
    };
    say("reason".into(), words.reason.as_ref());
    if words.task.is_some() {
        say("task".into(), words.task.as_ref());
    }
    for answer in &words.answers {
        say(format!("answer to question {}", answer.question), answer.text.as_ref());
    }
}

fn progress(out: &mut Lines, state: &Progress, digest: &str, now: Timestamp) {
    let mut parts = vec![state.sentence.clone()];
    if state.needed > 0 {
        parts.insert(0, format!("{} of {}", state.have, state.needed));
    }
    if let Some(at) = state.expires_at {
        parts.push(format!("expires {}", when(at, now)));
    }
    out.item("state", &parts.join(" · "));
    if let Some(strength) = state.strength {
        let people = if state.needed == 1 { "one person" } else { "different people, each" };
        let signed = match strength {
            Strength::Chat => "",
            Strength::Passkey => ", signed with a passkey",
        };
        let (groups, channels) = (state.groups.join(" and "), state.channels.join(" or "));
        out.item("", &format!("by {people} of {groups}, through {channels}{signed}"));
    }
    for vote in &state.votes {
        let did = match vote.decision {
            Decision::Approve => "approved",
            Decision::Deny => "denied",
        };
        let counts = if vote.standing { "" } else { "; does not count" };
        let at = when(vote.at, now);
        out.item("", &format!("{} {did} through {} {at}{counts}", vote.human, vote.channel));
    }
    for change in &state.narrowed {
        out.item("", &format!("narrowed, {change}"));
    }
    for question in &state.questions {
        let answered = match question.answered_at {
            Some(at) => format!("answered {}", when(at, now)),
            None if question.open => "not answered yet".into(),
            None => "closed without an answer".into(),
        };
        let (by, at) = (&question.by, when(question.at, now));
        out.item("", &format!("question {} by {by} {at}, {answered}:", question.id));
        out.quote(question.text.as_deref().unwrap_or("(erased)"));
    }
    out.item("", &format!("a vote is for {digest} only"));
}

pub(crate) fn ticks(values: &[String]) -> String {
    values.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", ")
}

/// Each leaf of the JSON with its path.
pub(crate) fn flatten(path: &str, value: &Value, each: &mut impl FnMut(&str, &str)) {
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Null => {}
        Value::Object(map) => map.iter().for_each(|(k, v)| flatten(&join(k), v, each)),
        Value::Array(items) if items.iter().any(|v| v.is_object() || v.is_array()) => {
            items.iter().zip(1..).for_each(|(v, n)| flatten(&join(&n.to_string()), v, each));
        }
        Value::Array(items) => {
            let list: Vec<String> = items.iter().map(leaf).collect();
            each(&format!("`{path}`"), &list.join(", "));
        }
        leaf_value => each(&format!("`{path}`"), &leaf(leaf_value)),
    }
}

fn leaf(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{text}`"),
        Value::Number(n) => n.as_i64().map_or_else(|| n.to_string(), grouped),
        other => other.to_string(),
    }
}

/// A moment, absolute and relative: `14:20:00 UTC (in 42 min)`, with its date when it is another day.
#[must_use]
pub fn when(at: Timestamp, now: Timestamp) -> String {
    let (text, today) = (at.whole_second().to_string(), now.to_string());
    let (date, clock) = text.split_once('T').unwrap_or((&text, ""));
    let clock = clock.trim_end_matches('Z');
    let date = if today.starts_with(date) { String::new() } else { format!("{date} ") };
    format!("{date}{clock} UTC ({})", relative(at.since(now)))
}

pub(crate) fn relative(ms: i64) -> String {
    let s = (ms / 1000).unsigned_abs();
    let words = match s {
        0 => return "now".into(),
        1..60 => format!("{s} s"),
        60..3600 => format!("{} min", s / 60),
        3600..86_400 if (s / 60).is_multiple_of(60) => format!("{} h", s / 3600),
        3600..86_400 => format!("{} h {} min", s / 3600, s / 60 % 60),
        86_400..172_800 => "1 day".into(),
        _ => format!("{} days", grouped(i64::try_from(s / 86_400).unwrap_or(i64::MAX))),
    };
    if ms < 0 { format!("{words} ago") } else { format!("in {words}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_and_relative() {
        let now = Timestamp::parse("2026-11-21T13:38:00.250Z").unwrap();
        for (at, shown) in [
            ("2026-11-21T14:20:00.250Z", "14:20:00 UTC (in 42 min)"),
            ("2026-11-21T13:37:50Z", "13:37:50 UTC (10 s ago)"),
            ("2026-11-21T13:38:00Z", "13:38:00 UTC (now)"),
            ("2026-11-21T23:59:00.250Z", "23:59:00 UTC (in 10 h 21 min)"),
            ("2026-11-22T13:38:01Z", "2026-11-22 13:38:01 UTC (in 1 day)"),
            ("2027-03-01T00:00:00Z", "2027-03-01 00:00:00 UTC (in 99 days)"),
        ] {
            assert_eq!(when(Timestamp::parse(at).unwrap(), now), shown);
        }
    }
}
