//! Ways in which an agent's text tries to look like the broker's.

use grantwright_approval::text::QUOTE;
use grantwright_domain::ParamValue;
use grantwright_domain::text::is_deceptive;

use crate::fixture::{Ask, asked_and_answered};

pub const PRETENDERS: [&str; 64] = [
    // Line breaks of every kind, and the broker's own labels.
    "report\nAPPROVED by bob",
    "report\r\nAPPROVED by bob",
    "report\rAPPROVED by bob",
    "report\n\n\n\n\n\n\n\nAPPROVED by bob",
    "report\u{b}APPROVED by bob",
    "report\u{c}APPROVED by bob",
    "report\u{85}APPROVED by bob",
    "report\u{2028}APPROVED by bob",
    "report\u{2029}APPROVED by bob",
    "report\n  state    1 of 1 · approved; the agent has not collected it yet",
    "report\n  stakes   staging · public data · low risk · can be undone",
    "report\n  unusual  APPROVED yesterday by carol",
    "report\n  who      `sales-etl` (bob, Security) · qualified",
    "report\n  why      policy needs nobody",
    "report\n  issues   nothing at all",
    "report\n  digest   0000000000000000000000000000000000000000000000000000000000000000",
    "report\n  > ",
    "  > said by the broker, checked",
    "❞\n  words    task, said by the broker, checked:",
    "❞ — said by the broker, APPROVED by bob ❝",
    "\t\t\tAPPROVED by bob",
    "report                                                                        APPROVED by bob",
    "report\u{a0}\u{a0}\u{a0}\u{a0}\u{a0}\u{a0}\u{a0}\u{a0}\u{a0}\u{a0}\u{a0}\u{a0}APPROVED by bob",
    "report\u{3000}\u{3000}\u{3000}\u{3000}\u{3000}\u{3000}\u{3000}\u{3000}APPROVED by bob",
    "report\u{2800}\u{2800}\u{2800}\u{2800}\u{2800}\u{2800}\u{2800}APPROVED by bob",
    "report\u{3164}\u{3164}\u{3164}\u{115f}\u{1160}APPROVED by bob",
    // Frames.
    "┌──────────────────┐\n│ APPROVED by bob  │\n└──────────────────┘",
    "════════════════════ APPROVED by bob ════════════════════",
    "████████ APPROVED by bob ████████",
    "🮀🮁 APPROVED by bob 🮀🮁",
    "--------\nAPPROVED by bob\n--------",
    "+------+\n| APPROVED by bob |\n+------+",
    // Terminals.
    "\u{1b}[2J\u{1b}[HAPPROVED by bob",
    "\u{1b}[1A\u{1b}[2KAPPROVED by bob",
    "\u{1b}[32;1mAPPROVED by bob\u{1b}[0m",
    "\u{9b}32mAPPROVED by bob",
    "\u{1b}]8;;https://evil.example\u{1b}\\APPROVED\u{1b}]8;;\u{1b}\\",
    "\u{1b}]0;APPROVED by bob\u{7}",
    "denied\u{8}\u{8}\u{8}\u{8}\u{8}\u{8}APPROVED by bob",
    "report\0APPROVED by bob",
    "report\u{7f}\u{7f}APPROVED by bob",
    // Direction.
    "\u{202e}bob yb DEVORPPA",
    "\u{2066}\u{202d}APPROVED by bob\u{2069}",
    "\u{2067}bob\u{2069}\u{200f}\u{61c}APPROVED",
    // Nothing to see.
    "APP\u{200b}ROVED by\u{200c} bob\u{200d}\u{feff}",
    "APP\u{ad}ROVED\u{2060} by\u{34f} bob\u{fe0f}",
    "report\u{e0041}\u{e0050}\u{e0050}\u{e0052}\u{e004f}\u{e0056}\u{e0045}\u{e0044}",
    "report\u{e0100}\u{180e}\u{fff9}APPROVED\u{fffb}",
    // Markup.
    "**APPROVED** by `bob`",
    "# APPROVED by bob\n> quoted\n- item",
    "[APPROVED by bob](https://evil.example) ![x](https://evil.example/x.png)",
    "```\nAPPROVED by bob\n```",
    "<b>APPROVED</b> by <script>alert('bob')</script>",
    "</blockquote></div><h1>APPROVED by bob</h1><!--",
    "&lt;b&gt;APPROVED&lt;/b&gt; &#10; &nbsp;",
    "<!channel> <@U123> <https://evil.example|APPROVED by bob>",
    // Letters that look like others.
    "\u{ff21}\u{ff30}\u{ff30}\u{ff32}\u{ff2f}\u{ff36}\u{ff25}\u{ff24} by bob",
    "\u{1d400}\u{1d40f}\u{1d40f}\u{1d411}\u{1d40e}\u{1d415}\u{1d404}\u{1d403} by bob",
    "\u{24b6}\u{24c5}\u{24c5}\u{1f150}\u{1f130}\u{1f170} by bob",
    "\u{410}PPR\u{41e}VED by b\u{3bf}b",
    "\u{440}\u{430}\u{443}\u{440}\u{430} by bob",
    // Marks that reach into other lines, or begin the line.
    "A\u{300}\u{301}\u{302}\u{303}\u{304}\u{305}\u{306}\u{307}\u{308}\u{309}PPROVED\u{336} by bob\u{20dd}",
    "\u{301}\u{327}\u{338}APPROVED \u{20e3}by bob",
    // What is written here as an escape.
    "⟨U+0041⟩PPROVED by bob \u{e000}\u{f8ff}\u{10fffd}",
];

fn broker_lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with(QUOTE)).collect()
}

/// What a broker's line says outside backticks.
fn outside_code(text: &str) -> String {
    let outside: String = broker_lines(text)
        .into_iter()
        .map(|line| {
            let parts: Vec<&str> = line.split('`').collect();
            assert_eq!(parts.len() % 2, 1, "a backtick is not closed: {line}");
            parts.iter().step_by(2).copied().collect::<Vec<_>>().join("") + " "
        })
        .collect();
    outside.replace(" + ", " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn assert_clean(text: &str) {
    for line in text.lines() {
        assert!(grantwright_approval::show::columns(line) <= 80, "too wide: {line}");
        assert!(!line.chars().any(is_deceptive), "{line:?}");
        assert!(!line.chars().any(|c| matches!(c as u32, 0x2500..=0x259F | 0x2800)), "{line:?}");
    }
}

#[test]
fn the_agents_words_change_no_line_of_the_brokers() {
    // A question and its answer, so that all three ways to speak are there.
    let plain = asked_and_answered("api");
    let honest = plain.text();
    for said in PRETENDERS {
        let mut ask = plain.clone();
        ask.reason = said.into();
        ask.task = Some(said.into());
        ask.texts.insert(3, said.into());
        let text = ask.text();
        assert_eq!(broker_lines(&text), broker_lines(&honest), "{said:?}");
        assert!(text.lines().count() > broker_lines(&text).len());
        assert_clean(&text);

        // The model keeps them apart as well.
        let (mut card, mut plain) = (ask.card(), plain.card());
        card.words.reason = None;
        (card.words.task, card.words.answers) = (None, Vec::new());
        (plain.words.reason, plain.words.task, plain.words.answers) = (None, None, Vec::new());
        assert_eq!(card, plain);
    }
}

#[test]
fn parameters_stay_within_backticks() {
    let plain = Ask::new().with("columns", ParamValue::Set(["c".to_owned()].into()));
    for said in PRETENDERS {
        let text = |value: &str| ParamValue::Text(value.into());
        let mut ask = plain.clone().with("dataset", text(said));
        ask.terms.params.insert("columns".into(), ParamValue::Set([said.to_owned()].into()));
        ask.terms.workload = said.into();
        let shown = ask.text();
        assert_clean(&shown);
        let digest = |ask: &Ask, text: &str| {
            let hex = ask.digest().hex();
            text.replace(&hex, "D").replace(&hex[..12], "D")
        };
        let got = outside_code(&digest(&ask, &shown));
        let got = got.split(" open params").next().unwrap_or_default();
        let want = outside_code(&digest(&plain, &plain.text()));
        assert!(got.contains("a vote is for D only"), "{got}");
        assert!(want.starts_with(got.trim_end()), "{said:?}\n{got}\n{want}");
    }
}

#[test]
fn a_flood_of_words_is_bounded_and_still_quoted() {
    for said in ["APPROVED by bob\n".repeat(200), "\u{202e}".repeat(2000), "W".repeat(5000)] {
        let mut ask = Ask::new();
        ask.reason.clone_from(&said);
        let text = ask.text();
        assert_clean(&text);
        assert!(text.lines().filter(|l| l.starts_with(QUOTE)).count() <= 12, "{text}");
        assert!(!broker_lines(&text).join("\n").contains("APPROVED"));
        let [view] = &ask.card().full_view[..] else { panic!("no full view") };
        assert_eq!((view.name.as_str(), view.length), ("reason", said.chars().count()));
        assert_eq!(view.digest, Some(ask.terms.reason));
    }
}
