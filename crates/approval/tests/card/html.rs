//! The same pretenders on the console's page: an agent's words stay inside their quote, parameters
//! inside their code, and no character of markup comes from either.

use grantwright_approval::Card;
use grantwright_approval::console::inbox::{Block, Inbox, Row, inbox};
use grantwright_approval::console::request::{May, Page, Routing, request};
use grantwright_approval::console::{Frame, Here, Viewer, page};
use grantwright_domain::ParamValue;
use grantwright_domain::text::is_deceptive;

use crate::fixture::{Ask, now};
use crate::pretenders::PRETENDERS;

fn rendered(card: &Card) -> String {
    let may = May { decide: Ok(()), approve: Ok(()), withdraw: false, narrow: true };
    let matter = Page {
        id: "r-1",
        csrf: "c",
        reader: "bob",
        routing: Routing::default(),
        card,
        may,
        seen: 0,
        version: 2,
        whole: Vec::new(),
        suggested: &[],
        policies: Vec::new(),
        before: Vec::new(),
        steps: Vec::new(),
        asked_at: now(),
        scope: "demo.export",
        now: now(),
    };
    let viewer = Viewer { human: "bob", csrf: "c" };
    page(&Frame::new(&card.headline, Here::Inbox, viewer), &request(&matter))
}

/// The page without what stands in these elements, each of which must hold text only.
fn without(html: &str, elements: &[(&str, &str)]) -> String {
    let mut out = html.to_owned();
    for (open, close) in elements {
        let mut left = String::new();
        let mut rest = out.as_str();
        while let Some((before, after)) = rest.split_once(open) {
            let (inside, after) = after.split_once(close).unwrap();
            assert!(!inside.contains(['<', '>']), "markup inside {open}: {inside}");
            left.push_str(before);
            left.push_str(open);
            rest = after;
        }
        left.push_str(rest);
        out = left;
    }
    out
}

fn assert_clean(html: &str) {
    assert!(!html.chars().any(|c| c != '\n' && is_deceptive(c)), "{html}");
}

#[test]
fn invariant_09_words_change_nothing_of_the_page_but_their_quote() {
    let mut plain = Ask::new();
    plain.task = Some("t".into());
    let words = [("<bdi>", "</bdi>")];
    let honest = without(&rendered(&plain.card()), &words);
    assert!(honest.contains("said by the agent, not checked"));
    for said in PRETENDERS {
        let mut ask = plain.clone();
        ask.reason = said.into();
        ask.task = Some(said.into());
        let html = rendered(&ask.card());
        assert_clean(&html);
        assert_eq!(without(&html, &words), honest, "{said:?}");
    }
}

#[test]
fn invariant_09_parameters_stay_in_code_and_differ_on_the_page() {
    let places = [("<code>", "</code>"), ("<title>", "</title>"), ("<pre>", "</pre>")];
    let with = |value: &str| Ask::new().with("dataset", ParamValue::Text(value.into()));
    let page_of = |ask: &Ask| {
        let html = rendered(&ask.card());
        let hex = ask.digest().hex();
        html.replace(&hex, "D")
    };
    let plain = with("customers");
    let honest = without(&page_of(&plain), &places);
    let mut seen = std::collections::BTreeSet::from([page_of(&plain)]);
    for said in PRETENDERS {
        let ask = with(said);
        let html = page_of(&ask);
        assert_clean(&html);
        // A value too long for the list has its own part, which is the broker's.
        if ask.card().full_view.is_empty() {
            assert_eq!(without(&html, &places), honest, "{said:?}");
        }
        assert!(seen.insert(html), "two values, one page: {said:?}");
    }
}

/// The inbox with these requests as one block.
fn listed(cards: &[Card]) -> String {
    let row = |card: &Card| Row {
        id: "r-1".into(),
        card: card.clone(),
        asked_at: now(),
        approved: false,
        first: vec!["bob".into(), "carol".into()],
        everybody: false,
        seen: 0,
        version: 2,
        approve_here: true,
    };
    let matter = Inbox {
        mine: vec![Block { rows: cards.iter().map(row).collect() }],
        others: Vec::new(),
        more: 0,
        alarms: Vec::new(),
        owned: Vec::new(),
        ended: Vec::new(),
        reader: "bob",
        csrf: "c",
        now: now(),
    };
    let viewer = Viewer { human: "bob", csrf: "c" };
    page(&Frame::new("Inbox", Here::Inbox, viewer), &inbox(&matter))
}

#[test]
fn invariant_09_words_change_nothing_of_a_block_of_one_task_but_their_quotes() {
    let mut plain = Ask::new();
    plain.task = Some("t".into());
    let words = [("<bdi>", "</bdi>")];
    let honest = without(&listed(&[plain.card(), plain.card()]), &words);
    for said in PRETENDERS {
        let mut ask = plain.clone();
        ask.reason = said.into();
        ask.task = Some(said.into());
        let html = listed(&[ask.card(), ask.card()]);
        assert_clean(&html);
        assert_eq!(without(&html, &words), honest, "{said:?}");
    }
}

#[test]
fn a_block_of_one_task_has_a_decision_for_each_digest_and_says_the_task_once() {
    let with = |rows| Ask::new().with("rows", ParamValue::Integer(rows));
    let mut asks = [with(10), with(20), with(30)];
    for ask in &mut asks {
        ask.task = Some("the-quarter".into());
    }
    let html = listed(&asks.each_ref().map(Ask::card));
    assert_eq!(html.matches("the-quarter").count(), 1);
    assert!(html.contains("3 requests of <code>sales-etl</code>, owned by alice, for one task"));
    for ask in &asks {
        let field = format!(r#"name="digest" value="{}""#, ask.digest().hex());
        assert_eq!(html.matches(&field).count(), 1, "{html}");
    }
    assert_eq!(html.matches("asked first: you, carol").count(), 3);
    // One alone is a row, and is decided on its page.
    let alone = listed(&[asks[0].card()]);
    assert!(
        !alone.contains("the-quarter")
            && !alone.contains("<form method=\"post\" action=\"/requests")
    );
}
