//! What the card holds, in which order.

use std::collections::BTreeSet;

use grantwright_domain::event::Decision;
use grantwright_domain::{ParamValue, Strength};

use crate::fixture::{Ask, now};

#[test]
fn the_card_in_full() {
    let ask = Ask::new();
    let want = format!(
        "\
Export up to 10,000 rows of `customers`
  with     dataset = `customers`
           rows = `10,000`
           key = (sensitive, not shown)
  stakes   production · personal data · high risk · cannot be recalled once read
  unusual  first time in production
  who      `sales-etl` (alice, Sales) · model-x 4.1, qualified until 2027-03-01
           00:00:00 UTC (in 99 days) · via `planner`
           sidecar `i-1` · workload `etl`
  why      exports of personal data need one person from Data (policy
           `export-asks`)
  words    reason, said by the agent, not checked:
  > nightly report for the sales team
  issues   one credential for `demo.export`, made by `jwt`, for 15 min
           `audience` `https://data.example`
           `params.dataset` `customers`
           cannot be recalled; if issued now, ends 13:53:00 UTC (in 15 min)
  state    0 of 1 · waits for one person · expires 14:20:00 UTC (in 42 min)
           by one person of data, through api or console
           a vote is for {} only
  digest   {}
",
        &ask.digest().hex()[..12],
        ask.digest().hex()
    );
    assert_eq!(ask.text(), want);
}

#[test]
fn the_parts_keep_the_order_of_the_page() {
    let text = Ask::new().text();
    let labels = ["stakes", "unusual", "who", "why", "words", "issues", "state", "digest"];
    let at: Vec<usize> = labels.map(|l| text.find(&format!("\n  {l} ")).unwrap()).into();
    assert!(at.is_sorted());
    let json = serde_json::to_value(Ask::new().card()).unwrap();
    for part in ["headline", "stakes", "who", "why", "words", "issues", "state", "full_view"] {
        assert!(json.get(part).is_some(), "{part}");
    }
    assert_eq!(json["words"]["note"], "said by the agent, not checked");
}

#[test]
fn a_sensitive_value_is_never_there() {
    let card = serde_json::to_string(&Ask::new().card()).unwrap();
    assert!(!card.contains("hunter2") && !Ask::new().text().contains("hunter2"));
}

#[test]
fn a_value_that_looks_like_a_slot_stays_a_value() {
    let card = Ask::new().with("dataset", ParamValue::Text("{rows}".into())).card();
    assert_eq!(card.headline, "Export up to 10,000 rows of `{rows}`");
}

#[test]
fn another_declaration_is_not_believed() {
    let mut ask = Ask::new();
    ask.scope.title = "Read one harmless row of {dataset}".into();
    ask.scope.labels.risk = "low".into();
    let card = ask.card();
    assert!(card.headline.starts_with("Do not approve"), "{}", card.headline);
    assert!(card.stakes.is_empty());
}

#[test]
fn a_long_value_shows_its_ends_its_length_and_its_digest() {
    let long = |middle: &str| {
        let value = format!("begin-{}{middle}{}-end", "x".repeat(400), "y".repeat(400));
        Ask::new().with("dataset", ParamValue::Text(value))
    };
    let (a, b) = (long("1"), long("2"));
    let card = a.card();
    let [view] = &card.full_view[..] else { panic!("{:?}", card.full_view) };
    assert_eq!((view.name.as_str(), view.length), ("params.dataset", 811));
    assert!(!card.params.iter().find(|p| p.name == "dataset").unwrap().full);
    assert!(card.headline.contains("`begin-") && card.headline.ends_with("-end`"));
    let text = a.text();
    let digest = view.digest.unwrap().hex();
    assert!(text.contains("params.dataset: 811 characters") && text.contains(&digest), "{text}");
    assert!(text.contains("open the full view before approving"));
    assert_ne!(view.digest, b.card().full_view[0].digest);
}

#[test]
fn many_members_of_a_set_show_both_ends() {
    let set: BTreeSet<String> = (100..200).map(|i| format!("c{i}")).collect();
    let card = Ask::new().with("columns", ParamValue::Set(set)).card();
    let columns = card.params.iter().find(|p| p.name == "columns").unwrap();
    assert_eq!(columns.values.len(), 13);
    assert_eq!(columns.values[0], "c100");
    assert_eq!(columns.values[6], "… 88 more …");
    assert_eq!(columns.values[12], "c199");
    assert_eq!(card.full_view[0].name, "params.columns");
}

#[test]
fn a_quorum_in_words() {
    let mut ask = Ask::new();
    ask.verdict.quorum = 2;
    assert!(ask.text().contains("0 of 2 · waits for 2 people · expires"), "{}", ask.text());
    assert!(ask.text().contains("by different people, each of data, through api or console"));
    ask.later = vec![ask.voted("bob", Decision::Approve)];
    let text = ask.text();
    assert!(text.contains("1 of 2 · waits for one person"), "{text}");
    assert!(text.contains("bob approved through api 13:38:00 UTC (now)\n"), "{text}");
    ask.later.push(ask.voted("carol", Decision::Approve));
    assert!(ask.text().contains("2 of 2 · approved; the agent has not collected it yet"));

    // An owner's vote is seen, and does not count.
    ask.later = vec![ask.voted("alice", Decision::Approve)];
    let text = ask.text();
    assert!(text.contains("0 of 2") && text.contains("alice approved"), "{text}");
    assert!(text.contains("does not count"), "{text}");

    ask.later = vec![ask.voted("carol", Decision::Deny)];
    let text = ask.text();
    assert!(text.contains("denied by carol; nothing was issued"), "{text}");
    assert!(!text.contains("expires") && !text.contains("if issued now"), "{text}");
}

#[test]
fn a_passkey_is_asked_for_in_words() {
    let mut ask = Ask::new();
    ask.verdict.strength = Strength::Passkey;
    assert!(ask.text().contains("signed with a passkey"), "{}", ask.text());
    assert_eq!(ask.card().state.expires_at, Some(now().plus_seconds(42 * 60)));
}
