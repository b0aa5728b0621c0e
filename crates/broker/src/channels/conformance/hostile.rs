//! What agents and people write to deceive, through every door: it is taken as words, and shown as
//! nothing else.

use grantwright_approval::channel::Wish;
use grantwright_approval::sheet::handle;
use grantwright_domain::text::is_deceptive;
use serde_json::{Value, json};

use super::Bench;

/// In every text, so that what is looked for is there.
const MARK: &str = "zq7";

/// What is written, by case.
const TEXTS: [(&str, &str); 6] = [
    (
        "markdown",
        "*zq7* _zq7_ ~zq7~ `zq7` [zq7](https://evil.example) <!channel> <@U1> <at>zq7</at>\n# zq7",
    ),
    ("HTML", "<script>zq7</script><b onmouseover=x>zq7</b>&lt;img src=x&gt;"),
    ("ANSI", "\u{1b}[31mzq7\u{1b}[0m\u{7}\u{9b}2J"),
    ("bidirectional", "zq7 \u{202e}devorppa\u{202c} \u{2066}zq7\u{2069}"),
    ("zero-width", "zq\u{200b}7 \u{200d}zq7\u{feff}\u{2060}"),
    ("tag characters", "zq7\u{e0041}\u{e0070}\u{e0070}\u{e007f}"),
];

/// The text of a case.
pub fn text(case: &str) -> Option<&'static str> {
    TEXTS.iter().find(|(name, _)| *name == case).map(|(_, text)| *text)
}

/// The agent says it, then a person through this door: both are shown, and neither does anything.
pub async fn shown(bench: &Bench<'_>, text: &str) -> String {
    let loaded = bench.asked_because("export", text).await;
    let id = loaded.state.terms.request_id.to_string();
    let ask = Wish::Ask { text: text.to_owned() };
    let said = bench.give(&bench.made("bob", &handle(&loaded.state).encode(), &ask)).await;
    if said != "done" {
        return said;
    }
    let loaded = bench.load(&id).await;
    assert_eq!(loaded.state.questions.len(), 1);
    let shown = bench.hand.shows(&bench.rig, &loaded).await;
    if bench.hand.name() == "api" {
        return "done, as data".into();
    }
    assert!(shown.iter().any(|text| text.contains("zq")), "{shown:?}");
    for text in &shown {
        let odd = text.chars().find(|c| is_deceptive(*c) && *c != '\n');
        assert_eq!(odd, None, "{text:?}");
        for alive in ["<script>zq7", "<b onmouseover"] {
            assert!(!text.contains(alive) || bench.hand.channel().is_some(), "{text}");
        }
    }
    "done, shown inert".into()
}

/// Every text of a message; of what a service would read markup in, none that holds somebody's words.
pub fn texts(body: &Value) -> Vec<String> {
    let mut out = Vec::new();
    collect(body, &mut out);
    out
}

fn collect(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::String(text) => out.push(text.clone()),
        Value::Array(all) => all.iter().for_each(|one| collect(one, out)),
        Value::Object(map) => {
            let kind = map.get("type").and_then(Value::as_str).unwrap_or_default();
            if matches!(kind, "mrkdwn" | "TextBlock" | "Fact") {
                let text = map.get("text").and_then(Value::as_str).unwrap_or_default();
                assert!(!text.contains(MARK), "{kind} reads markup: {text}");
            }
            map.values().for_each(|one| collect(one, out));
        }
        _ => {}
    }
}

/// Two hundred parameters that nobody asked for.
pub fn two_hundred() -> Wish {
    let params: serde_json::Map<String, Value> =
        (0..200).map(|n| (format!("p{n}"), json!(1))).collect();
    Wish::Narrow { ttl_s: None, params: Some(Value::Object(params)), confirm: None }
}
