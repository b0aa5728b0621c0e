//! The Adaptive Card of Teams: what the agent says is in its frame or between backticks, and no text
//! is markup.

use grantwright_approval::Sheet;
use grantwright_approval::channel::{Channel, Flood, Notice, Quote};
use grantwright_approval::teams::card::{
    MOST_BYTES, adaptive_card, group_card, preview_card, set_refresh,
};
use grantwright_approval::teams::{Expected, Teams};
use grantwright_domain::event::Decision;
use grantwright_domain::text::is_deceptive;
use grantwright_domain::{Digest, ParamValue, Strength};
use serde_json::Value;

use crate::fixture::{Ask, asked_and_answered, examples, golden, now, of_one_task};
use crate::pretenders::PRETENDERS;

fn ask() -> Ask {
    let mut ask = Ask::new();
    ask.verdict.channels.insert("teams".into());
    ask
}

fn card(ask: &Ask) -> Value {
    adaptive_card(&ask.sheet("teams"), Some(now()))
}

/// Every object of a JSON value.
fn objects<'a>(value: &'a Value, each: &mut impl FnMut(&'a serde_json::Map<String, Value>)) {
    match value {
        Value::Object(map) => {
            each(map);
            map.values().for_each(|v| objects(v, each));
        }
        Value::Array(items) => items.iter().for_each(|v| objects(v, each)),
        _ => {}
    }
}

/// What the card says outside its frames and outside code, and in how many blocks.
fn brokers_words(card: &Value) -> (String, usize) {
    let blocks: Vec<&Value> =
        card["body"].as_array().unwrap().iter().filter(|b| b["type"] != "Container").collect();
    let mut said = String::new();
    for block in &blocks {
        match block["type"].as_str().unwrap() {
            "TextBlock" => said += block["text"].as_str().unwrap(),
            _ => block["inlines"].as_array().unwrap().iter().for_each(|run| {
                let text = run["text"].as_str().unwrap();
                if run["fontType"] == "monospace" {
                    assert!(text.starts_with('`') && text.ends_with('`'), "{text}");
                    assert_eq!(text.matches('`').count(), 2, "{text}");
                } else {
                    assert!(!text.contains('`'), "{text}");
                    said += text;
                }
            }),
        }
        said.push('\n');
    }
    (said, blocks.len())
}

/// Nothing in the card is markup, deceptive, or a function of the client's.
fn assert_clean(card: &Value) {
    objects(card, &mut |map| {
        let kind = map.get("type").and_then(Value::as_str).unwrap_or_default();
        let text = map.get("text").and_then(Value::as_str).unwrap_or_default();
        assert!(
            matches!(
                kind,
                "" | "AdaptiveCard"
                    | "ActionSet"
                    | "RichTextBlock"
                    | "TextRun"
                    | "TextBlock"
                    | "Container"
                    | "Input.Text"
                    | "Input.Number"
                    | "Input.ChoiceSet"
                    | "Action.Execute"
                    | "Action.OpenUrl"
                    | "Action.ShowCard"
            ),
            "{kind}"
        );
        match kind {
            "TextBlock" => {
                let rest =
                    text.trim_start_matches(|c: char| c.is_ascii_alphabetic() || " ,".contains(c));
                assert!(rest.starts_with("{{TIME(2026-"), "a TextBlock holds moments only: {text}");
            }
            _ => assert!(!text.contains("{{"), "{text}"),
        }
        for (key, value) in map {
            let shown = value.as_str().unwrap_or_default();
            if key != "id" && key != "handle" && !key.starts_with("narrow_") {
                assert!(!shown.chars().any(is_deceptive), "{key}: {shown:?}");
                assert!(
                    !shown.chars().any(|c| matches!(c as u32, 0x2500..=0x259F | 0x2800)),
                    "{shown:?}"
                );
            }
        }
    });
}

/// The same card without what stands in frames and in code.
fn unsaid(value: &Value) -> Value {
    match value {
        Value::Object(map)
            if map.get("style") == Some(&"emphasis".into())
                || map.get("fontType") == Some(&"monospace".into()) =>
        {
            Value::Null
        }
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), unsaid(v))).collect(),
        Value::Array(items) => items.iter().map(unsaid).collect(),
        other => other.clone(),
    }
}

#[test]
fn several_in_one_card_are_as_safe_and_each_keeps_its_digest_and_its_buttons() {
    let asks = |said: &str, n: u32| -> Vec<Ask> {
        let one = |n| {
            let mut ask = ask();
            (ask.terms.ttl_s, ask.reason, ask.task) = (100 * n, said.into(), Some(said.into()));
            ask
        };
        (1..=n).map(one).collect()
    };
    let card = |said: &str, n| {
        let sheets: Vec<Sheet> = asks(said, n).iter().map(|ask| ask.sheet("teams")).collect();
        group_card(&sheets)
    };
    for n in [2, 5] {
        let honest = unsaid(&card("nightly", n));
        for said in PRETENDERS {
            let got = card(said, n);
            assert_clean(&got);
            assert_eq!(unsaid(&got), honest, "{said:?}");
            assert!(got.to_string().len() <= MOST_BYTES);
        }
        let whole = card("nightly", n);
        let mut names = Vec::new();
        objects(&whole, &mut |map| {
            names.extend(map.get("id").filter(|_| map.contains_key("label")).cloned());
        });
        assert!(names.is_empty(), "inputs of several requests would share their names");
        for ask in asks("nightly", n) {
            let handle = ask.sheet("teams").handle.encode();
            assert!(whole.to_string().contains(&handle));
            assert!(whole.to_string().contains(&ask.digest().hex()));
        }
    }
    // What would be too long is told in short, and shown whole by a button.
    let long = card(&"report ".repeat(80), 5);
    assert!(long.to_string().len() <= MOST_BYTES);
    assert!(!long.to_string().contains("\"approve\""), "nothing is approved unseen");
    assert_eq!(long.to_string().matches("Show it").count(), 5);
}

#[test]
fn the_agents_words_stay_in_their_frame() {
    let honest = asked_and_answered("teams");
    let want = card(&honest);
    assert_clean(&want);
    let functions = [
        "{{DATE(2017-02-14T06:08:39Z)}} APPROVED by bob",
        "{{TIME(",
        "${approved}",
        "<at>bob</at>",
    ];
    for said in PRETENDERS.into_iter().chain(functions) {
        let mut ask = honest.clone();
        ask.reason = said.into();
        ask.task = Some(said.into());
        ask.texts.insert(3, said.into());
        let got = card(&ask);
        assert_clean(&got);
        assert_eq!(brokers_words(&got), brokers_words(&want), "{said:?}");
        // Beside the frame nothing at all has changed: not an action, not an input.
        let without = |card: &Value| {
            let mut card = card.clone();
            card["body"].as_array_mut().unwrap().retain(|b| b["type"] != "Container");
            card
        };
        assert_eq!(without(&got), without(&want), "{said:?}");
        // The frame ends with the broker's note.
        let frame =
            got["body"].as_array().unwrap().iter().find(|b| b["type"] == "Container").unwrap();
        let last = frame["items"].as_array().unwrap().last().unwrap();
        assert_eq!(last["inlines"][0]["text"], "said by the agent, not checked");
    }
}

#[test]
fn parameters_stay_within_backticks() {
    let with = |said: &str| {
        ask()
            .with("dataset", ParamValue::Text(said.into()))
            .with("columns", ParamValue::Set([said.to_owned()].into()))
    };
    let plain = |ask: &Ask| brokers_words(&card(ask)).0.replace(&ask.digest().hex(), "D");
    let want = plain(&with("c"));
    for said in PRETENDERS.into_iter().chain(["{{DATE(2017-02-14T06:08:39Z)}}", "{{{{TIME("]) {
        let mut ask = with(said);
        ask.terms.workload = said.into();
        let shown = card(&ask);
        assert_clean(&shown);
        let got = plain(&ask);
        let got = got.split("\nopen").next().unwrap_or_default();
        let want = want.split("\ndigest").next().unwrap_or_default();
        assert!(got.starts_with(want), "{said:?}\n{got}\n{want}");
    }
}

#[test]
fn what_is_posted_does_not_change_with_the_time() {
    let mut ask = ask();
    let early = adaptive_card(&ask.sheet("teams"), None);
    ask.seen_at = now().plus_seconds(61);
    assert_eq!(adaptive_card(&ask.sheet("teams"), None), early);
    assert!(!early.to_string().contains("(in "), "{early}");
}

#[test]
fn invariant_09_different_digests_render_differently() {
    let a = ask();
    let mut seen = std::collections::BTreeSet::from([card(&a).to_string()]);
    let mut edits: Vec<Ask> = vec![
        ask().with("dataset", ParamValue::Text("customer".into())),
        ask().with("rows", ParamValue::Integer(10_001)),
        ask().with("dataset", ParamValue::Text(format!("{}1{}", "x".repeat(300), "y".repeat(300)))),
        ask().with("dataset", ParamValue::Text(format!("{}2{}", "x".repeat(300), "y".repeat(300)))),
    ];
    let mut other = ask();
    other.terms.reason = Digest::commitment(&[9; 16], "nightly report");
    edits.push(other);
    let mut other = ask();
    other.terms.ttl_s = 899;
    edits.push(other);
    for edit in edits {
        let shown = card(&edit);
        assert!(shown["body"].to_string().contains(&edit.digest().hex()));
        assert!(seen.insert(shown["body"].to_string()));
    }
}

#[test]
fn the_parts_keep_the_order_of_the_page() {
    let text = card(&ask())["body"].to_string();
    let marks = [
        "Export up to 10,000 rows of ",
        "\"with\"",
        "production · personal data",
        "\"unusual\"",
        "\"who\"",
        "\"why\"",
        "❝ ",
        "said by the agent",
        "\"issues\"",
        "\"state\"",
        "digest ",
    ];
    let at: Vec<usize> = marks.map(|m| text.find(m).unwrap_or_else(|| panic!("{m}"))).into();
    assert!(at.is_sorted(), "{at:?}");
    let titles = |card: &Value| -> Vec<String> {
        let actions = card["actions"].as_array().unwrap();
        actions.iter().map(|a| a["title"].as_str().unwrap().to_owned()).collect()
    };
    let open = card(&ask());
    assert_eq!(titles(&open), ["Approve", "Deny", "Ask", "Narrow", "Open in the console"]);
    // No button is put forward.
    objects(&open["actions"], &mut |map| {
        assert!(map.get("style").is_none_or(|s| s != "positive" && s != "destructive"));
    });
    // After the end there is nothing to decide.
    let mut denied = ask();
    denied.later = vec![denied.voted("bob", Decision::Deny)];
    let shown = card(&denied);
    assert_eq!(titles(&shown), ["Open in the console"]);
    assert!(shown.to_string().contains("denied by bob; nothing was issued"));
    assert!(shown.get("refresh").is_none() && !shown.to_string().contains("Action.Execute"));
}

/// The cards that a golden file holds, which are also drawn for the documentation.
fn drawn() -> Vec<(&'static str, Value)> {
    let asks = examples("teams");
    let typed = &asks[0].1;
    let narrower = typed.clone().with("rows", ParamValue::Integer(500)).card();
    let params = serde_json::json!({ "rows": 500, "columns": ["email"] });
    let preview = preview_card(&typed.sheet("teams"), &narrower, Some(300), Some(&params), now());
    let mut cards: Vec<(&str, Value)> = asks.iter().map(|(name, ask)| (*name, card(ask))).collect();
    cards.extend([("preview", preview), ("grouped", group_card(&of_one_task("teams")))]);
    cards
}

#[test]
fn the_cards_are_those_of_the_golden_file() {
    golden("teams.json", drawn());
}

#[test]
fn what_chat_may_not_decide_opens_the_console() {
    let approve = |ask: &Ask| card(ask)["actions"][0].clone();
    assert_eq!(approve(&ask())["type"], "Action.Execute");
    let mut passkey = ask();
    passkey.verdict.strength = Strength::Passkey;
    let long = ask().with("dataset", ParamValue::Text("x".repeat(900)));
    for ask in [passkey, long, Ask::new()] {
        let button = approve(&ask);
        assert_eq!(button["type"], "Action.OpenUrl", "{button}");
        assert_eq!(button["url"], "https://broker.example/requests/r-1");
    }
}

#[test]
fn a_card_fits_into_a_message_whatever_was_asked() {
    let many: std::collections::BTreeSet<String> =
        (0..100).map(|i| format!("{i:03}{}", "\u{430}".repeat(60))).collect();
    let mut ask = ask().with("columns", ParamValue::Set(many));
    for i in 0..200 {
        ask = ask.with(&format!("p{i}"), ParamValue::Text("W".repeat(150)));
    }
    ask.reason = "W".repeat(100_000);
    let shown = card(&ask);
    assert!(shown.to_string().len() <= MOST_BYTES, "{}", shown.to_string().len());
    assert!(shown.to_string().contains(&ask.digest().hex()));
    assert_eq!(shown["actions"][0]["type"], "Action.OpenUrl", "not approved unseen");
}

#[test]
fn at_most_sixty_people_fetch_their_own_view() {
    let people: Vec<String> = (0..100).map(|i| format!("29:{i}")).collect();
    let mut shown = card(&ask());
    assert_eq!(shown["refresh"]["action"]["verb"], "refresh");
    set_refresh(&mut shown, &[]);
    assert!(shown["refresh"].get("userIds").is_none());
    set_refresh(&mut shown, &people);
    assert_eq!(shown["refresh"]["userIds"].as_array().unwrap().len(), 60);
}

#[test]
fn notices_and_floods_are_the_brokers() {
    let teams = Teams::new(Expected { issuer: "i".into(), app_id: "a".into() }, "t");
    let notice = Notice {
        text: "the agent answered `r-1`".into(),
        quote: Some(Quote {
            text: "**APPROVED** {{DATE(x)}}".into(),
            by: "said by the agent".into(),
        }),
        link: Some("https://broker.example/requests/r-1".into()),
    };
    let shown = teams.notice(&notice).body;
    assert_clean(&shown);
    assert!(!brokers_words(&shown).0.contains("APPROVED"));
    let flood =
        Flood { waiting: 7, agents: vec![("etl".into(), 7)], link: "https://b.example/".into() };
    let shown = teams.flood(&flood);
    assert_clean(&shown.body);
    assert!(shown.text.contains('7') && shown.body.to_string().contains("`etl`"));
    let sheet: Sheet = ask().sheet("teams");
    assert_eq!(teams.card(&sheet), teams.card(&sheet));
}
