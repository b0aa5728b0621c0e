//! The same pretenders on the console's page: an agent's words stay inside their quote, parameters
//! inside their code, and no character of markup comes from either.

use grantwright_approval::Card;
use grantwright_approval::console::assets;
use grantwright_approval::console::inbox::{Alarm, Block, Ended, Inbox, Row, inbox};
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
        place: (now(), 1),
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
        mine: vec![Block { rows: cards.iter().map(row).collect(), more: 0 }],
        others: Vec::new(),
        waits: cards.len(),
        uncounted: false,
        open: cards.len(),
        later: None,
        follows: false,
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

#[test]
fn the_first_page_with_all_it_loads_stays_below_100_kb_whatever_waits() {
    // Of everything the most, in characters that take the most.
    let long = "\u{202e}\"&\u{1d400}".repeat(400);
    let column: String = long.chars().take(100).collect();
    let mut ask = Ask::new()
        .with("dataset", ParamValue::Text(long.clone()))
        .with("columns", ParamValue::Set((0..90).map(|n| format!("{n}{column}")).collect()));
    ask.task = Some(long.clone());
    ask.reason = long.clone();
    let card = ask.card();
    let row = |n: u64| Row {
        id: format!("{n:0>40}"),
        place: (now(), n),
        card: card.clone(),
        asked_at: now(),
        approved: true,
        first: vec!["somebody-with-a-long-name".into(); 9],
        everybody: false,
        seen: 0,
        version: 2,
        approve_here: true,
    };
    let block = |n: u64| Block { rows: (n * 9..n * 9 + 3).map(row).collect(), more: 9_999 };
    let told = |n: u64| Ended {
        id: format!("{n:0>40}"),
        agent: "a".repeat(64),
        scope: "s".repeat(64),
        what: card.headline.clone(),
        phase: "denied".into(),
        how: card.state.sentence.repeat(4),
        asked_at: now(),
    };
    let words = "\"".repeat(300);
    let alarm = |n| Alarm { row: told(n), by: "bob".into(), at: now(), words: words.clone() };
    let mut matter = Inbox {
        mine: (0..50).map(block).collect(),
        others: (50..70).map(block).collect(),
        waits: 10_000,
        uncounted: true,
        open: 10_000,
        later: None,
        follows: false,
        alarms: (0..8).map(alarm).collect(),
        owned: (0..8).map(told).collect(),
        ended: (8..16).map(told).collect(),
        reader: "bob",
        csrf: "c",
        now: now(),
    };
    let viewer = Viewer { human: "bob", csrf: "c" };
    let of = |m: &Inbox<'_>| page(&Frame::new("Inbox", Here::Inbox, viewer), &inbox(m));
    let loads = [assets::stylesheet(), assets::script(), assets::passkey_script(), assets::icon()];
    let loads: usize = loads.iter().map(|path| assets::find(path).unwrap().body.len()).sum();
    let html = of(&matter);
    assert!(html.len() + loads <= 100_000, "{} and {loads}", html.len());
    // What does not fit is one link away, and begins with the first that is not there.
    let shown = (0..50).take_while(|n| html.contains(&format!("/requests/{:0>40}", n * 9))).count();
    let next = format!("href=\"/?from={}-{}\"", now().millis(), shown * 9);
    assert!((1..50).contains(&shown) && html.contains(&next), "{shown}: {html}");
    assert!(html.contains(&format!("/?of={:0>40}", 0)), "the rest of the first task");
    // Ordinary requests fit by the dozen.
    let ordinary = Ask::new().card();
    for block in matter.mine.iter_mut().flat_map(|b| &mut b.rows) {
        block.card = ordinary.clone();
        block.first = vec!["bob".into()];
    }
    matter.mine.iter_mut().for_each(|b| {
        b.rows.truncate(1);
        b.more = 0;
    });
    let html = of(&matter);
    let rows = html.matches("/requests/").count();
    assert!(rows >= 30 && html.len() + loads <= 100_000, "{rows} rows, {} bytes", html.len());
}
