//! Slack's rendering: nothing that an agent says reaches markup, or any place but the quotes.

use grantwright_approval::Sheet;
use grantwright_approval::channel::{Channel, Handle};
use grantwright_approval::sheet::Approve;
use grantwright_approval::slack::{Form, Slack, form};
use grantwright_domain::ParamValue;
use grantwright_domain::text::is_deceptive;
use serde_json::Value;

use crate::fixture::{Ask, examples, golden, of_one_task};
use crate::pretenders::PRETENDERS;

fn sheet(ask: &Ask) -> Sheet {
    let card = ask.card();
    Sheet {
        handle: Handle { request: ask.terms.request_id.clone(), digest: card.digest, seen: 0 },
        link: "http://localhost/requests/r-1".into(),
        approve: Approve::Here,
        votes_count: true,
        open: true,
        questions: vec!["Which ticket?".into()],
        lifetimes: vec![(300, "5 min".into())],
        shrinks: Vec::new(),
        asked: Vec::new(),
        card,
    }
}

fn rendered(ask: &Ask) -> Value {
    Slack::new("T1", None, None).card(&sheet(ask)).body
}

/// Walks every node.
fn walk(value: &Value, each: &mut impl FnMut(&Value)) {
    each(value);
    match value {
        Value::Array(items) => items.iter().for_each(|v| walk(v, each)),
        Value::Object(map) => map.values().for_each(|v| walk(v, each)),
        _ => {}
    }
}

/// The same message with the texts of quotes taken out.
fn without_quotes(value: &Value) -> Value {
    match value {
        Value::Object(map) if map.get("type") == Some(&"rich_text_quote".into()) => Value::Null,
        Value::Object(map) => {
            Value::Object(map.iter().map(|(k, v)| (k.clone(), without_quotes(v))).collect())
        }
        Value::Array(items) => items.iter().map(without_quotes).collect(),
        other => other.clone(),
    }
}

/// The same message with the texts in code style taken out.
fn without_code(value: &Value) -> Value {
    match value {
        Value::Object(map) if map.get("style").is_some_and(|s| s.get("code").is_some()) => {
            Value::Null
        }
        Value::Object(map) if map.get("type") == Some(&"rich_text_preformatted".into()) => {
            Value::Null
        }
        Value::Object(map) => {
            Value::Object(map.iter().map(|(k, v)| (k.clone(), without_code(v))).collect())
        }
        Value::Array(items) => items.iter().map(without_code).collect(),
        other => other.clone(),
    }
}

fn assert_literal(body: &Value) {
    walk(body, &mut |node| {
        assert_ne!(node.get("type"), Some(&"mrkdwn".into()), "no markup anywhere");
        for key in ["text", "fallback"] {
            if let Some(text) = node.get(key).and_then(Value::as_str) {
                assert!(!text.chars().any(|c| c != '\n' && is_deceptive(c)), "{text:?}");
            }
        }
    });
}

#[test]
fn the_agents_words_stay_within_quotes() {
    let mut plain = Ask::new();
    plain.task = Some("t".into());
    let honest = without_quotes(&rendered(&plain));
    for said in PRETENDERS {
        let mut ask = plain.clone();
        ask.reason = said.into();
        ask.task = Some(said.into());
        let body = rendered(&ask);
        assert_literal(&body);
        assert_eq!(without_quotes(&body), honest, "{said:?}");
    }
}

#[test]
fn several_in_one_message_are_as_safe_and_each_keeps_its_digest_and_its_buttons() {
    let asks = |said: &str| {
        [100, 200, 300, 400, 500].map(|ttl_s| {
            let mut ask = Ask::new();
            (ask.terms.ttl_s, ask.reason, ask.task) = (ttl_s, said.into(), Some(said.into()));
            ask
        })
    };
    let message = |said: &str| {
        let sheets = asks(said).map(|ask| sheet(&ask));
        Slack::new("T1", None, None).group(&sheets).body
    };
    let honest = without_quotes(&message("nightly"));
    for said in PRETENDERS {
        let body = message(said);
        assert_literal(&body);
        assert_eq!(without_quotes(&body), honest, "{said:?}");
        let blocks = body["blocks"].as_array().unwrap();
        assert!(blocks.len() <= 50, "{} blocks", blocks.len());
        assert_eq!(
            grantwright_testkit::slack::fault(&body["blocks"], 50),
            None,
            "Block Kit's bounds"
        );
    }
    let body = message("nightly");
    let mut handles = std::collections::BTreeSet::new();
    walk(&body, &mut |node| {
        if node.get("action_id") == Some(&"gw_approve".into()) {
            handles.insert(node["value"].as_str().unwrap().to_owned());
        }
    });
    let own = asks("nightly").map(|ask| sheet(&ask).handle.encode());
    assert_eq!(handles, own.into());
    for ask in asks("nightly") {
        assert!(body.to_string().contains(&ask.digest().hex()));
    }
}

#[test]
fn parameters_stay_within_code() {
    let render = |value: &str| {
        let mut ask = Ask::new().with("dataset", ParamValue::Text(value.into()));
        ask.terms.workload = value.into();
        let hex = ask.digest().hex();
        (rendered(&ask), hex)
    };
    let masked = |(body, hex): (Value, String)| {
        assert_literal(&body);
        without_code(&body).to_string().replace(&hex, "D")
    };
    let honest = masked(render("customers"));
    for said in PRETENDERS {
        let got = masked(render(said));
        // A value that is too long to show says so, in one more line of the broker's.
        let long = Ask::new().with("dataset", ParamValue::Text(said.into()));
        if long.card().full_view.is_empty() {
            assert_eq!(got, honest, "{said:?}");
        }
    }
}

#[test]
fn invariant_09_different_digests_render_differently() {
    let one = Ask::new();
    let mut other = Ask::new();
    other.terms.ttl_s = 600;
    assert_ne!(rendered(&one).to_string(), rendered(&other).to_string());
    let mut hidden = Ask::new();
    hidden.terms.params.insert(
        "dataset".into(),
        ParamValue::Text(format!("{}a{}", "x".repeat(300), "y".repeat(300))),
    );
    let mut twin = Ask::new();
    twin.terms.params.insert(
        "dataset".into(),
        ParamValue::Text(format!("{}b{}", "x".repeat(300), "y".repeat(300))),
    );
    assert_ne!(rendered(&hidden).to_string(), rendered(&twin).to_string());
}

#[test]
fn two_hundred_parameters_and_long_words_stay_within_the_bounds() {
    let mut ask = Ask::new();
    for n in 0..200 {
        ask = ask.with(&format!("p{n}"), ParamValue::Text("v".repeat(1000)));
    }
    ask.reason = "W".repeat(100_000);
    let body = rendered(&ask);
    assert_eq!(grantwright_testkit::slack::fault(&body["blocks"], 50), None);
    assert!(body.to_string().len() < 100_000, "{}", body.to_string().len());
    for kind in [Form::Approve, Form::Ask, Form::Deny, Form::Narrow] {
        let view = form(kind, &sheet(&ask), "C1");
        assert_eq!(grantwright_testkit::slack::fault(&view["blocks"], 100), None);
        assert_literal(&view);
    }
}

#[test]
fn buttons_are_in_the_same_places_and_have_no_colour() {
    let body = rendered(&Ask::new());
    let blocks = body["blocks"].as_array().unwrap();
    let actions = blocks.iter().find(|b| b["type"] == "actions").unwrap();
    let words: Vec<&Value> =
        actions["elements"].as_array().unwrap().iter().map(|e| &e["text"]["text"]).collect();
    assert_eq!(words, ["Approve", "Deny", "Ask", "Narrow"]);
    walk(&body, &mut |node| {
        if node["type"] == "button" {
            assert!(node["style"].is_null(), "no button is green");
            assert!(node["value"].as_str().unwrap().len() <= 2000);
        }
    });
}

#[test]
fn the_messages_are_those_of_the_golden_file() {
    let slack = Slack::new("T1", None, None);
    let asks = examples("slack");
    let mut cards: Vec<(&str, Value)> =
        asks.iter().map(|(name, ask)| (*name, slack.card(&ask.sheet("slack")).body)).collect();
    let open = asks[0].1.sheet("slack");
    for (name, what) in [("ask", Form::Ask), ("deny", Form::Deny), ("narrow", Form::Narrow)] {
        cards.push((name, form(what, &open, "C1")));
    }
    cards.push(("grouped", slack.group(&of_one_task("slack")).body));
    golden("slack.json", cards);
}
