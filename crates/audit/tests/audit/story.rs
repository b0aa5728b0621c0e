//! What `audit show` tells.

use grantwright_audit::{CannotVerify, story};
use serde_json::Value;

use crate::fixture::{log, request};

fn told(id: &str) -> Vec<String> {
    let (_, mut log) = log();
    let story = story(&request(id), &mut log).unwrap();
    story.events.into_iter().map(|e| format!("{}: {}", e.kind, e.words)).collect()
}

#[test]
fn a_narrowed_request_in_plain_words() {
    let words = told("r-narrowed");
    assert!(words[0].starts_with(
        "requested: agent `demo-agent` (instance `i-1`, workload `uid 1000`) asked for \
         `demo.export` with dataset=`customers`, rows=`5000` for 15 min; its reason, in its words: \
         “because r-narrowed”; its task: “task of r-narrowed”"
    ));
    assert!(words[1].starts_with(
        "decided: policy asks one person of `reviewers` through `api`, `console`, for at most 15 min"
    ));
    assert!(words[1].contains("policies `export`, set "));
    assert!(words[2].contains("`bob` narrowed the request through `console`"));
    assert!(
        words[4].starts_with("voted: `bob` approved through `api` [policies `reviewers-approve`]")
    );
    assert!(words[5].contains("approved by `bob`; minter `jwt`"));
    assert!(words[6].contains("lease `l-narrowed`, until 20") && words[6].contains("jti=`"));
    assert!(words[8].contains("ended by itself"));
    assert_eq!(words.len(), 9);
}

#[test]
fn invariant_21_sensitive_parameters_are_named_and_not_shown() {
    let words = told("r-routine");
    assert!(words[0].contains("not shown, `ticket`"), "{}", words[0]);
    assert!(!words.concat().contains("OPS-1"));
}

#[test]
fn deceptive_characters_are_shown_by_code_point() {
    let words = told("r-denied");
    assert!(words[2].contains("denied through `console`"), "{}", words[2]);
    assert!(
        words[2].ends_with("because `looks_wrong`, saying “not ⟨U+202E⟩today”"),
        "{}",
        words[2]
    );
}

#[test]
fn a_text_that_is_not_the_committed_one_is_never_shown() {
    let (_, mut log) = log();
    log.texts.iter_mut().for_each(|t| t.text = "forged".into());
    let story = story(&request("r-denied"), &mut log).unwrap();
    let all: String = story.events.iter().map(|e| e.words.as_str()).collect();
    assert!(!all.contains("forged") && all.contains("(erased)"));
}

#[test]
fn as_json_each_event_has_index_kind_and_at() {
    let (_, mut log) = log();
    let story = story(&request("r-quorum"), &mut log).unwrap();
    let json = serde_json::to_value(&story).unwrap();
    assert_eq!(json["request_id"], "r-quorum");
    let events = json["events"].as_array().unwrap();
    assert_eq!(events.len(), 8);
    for event in events {
        assert!(event["index"].is_u64() && event["kind"].is_string() && event["at"].is_string());
        assert_eq!(event["request_id"], "r-quorum");
    }
    assert_eq!(events[2]["human"], "bob");
    assert_eq!(events[2]["decision"], "approve");
    assert_ne!(events[2]["digest"], Value::Null);
}

#[test]
fn an_unknown_request_is_said_to_be_one() {
    let (_, mut log) = log();
    let none = story(&request("r-none"), &mut log);
    assert_eq!(none, Err(CannotVerify::NoRequest("r-none".into())));
}
