//! How attentively people decide: so that pressing without reading is seen.

use maud::{Markup, html};

use super::words::count;

/// What everybody did in a time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    /// Requests that reached people.
    pub asked: u64,
    /// Those that time ended.
    pub undecided: u64,
    /// Approvals.
    pub approvals: u64,
    /// Denials.
    pub denials: u64,
    /// Questions.
    pub questions: u64,
    /// Votes within five seconds.
    pub quick: u64,
    /// Half of the votes came within this, in milliseconds.
    pub median_ms: Option<i64>,
    /// Nine of ten came within this.
    pub slowest_ms: Option<i64>,
}

/// What one person did in a week.
#[derive(Debug, Clone)]
pub struct Person {
    /// Who.
    pub human: String,
    /// Approvals.
    pub approvals: u64,
    /// Denials.
    pub denials: u64,
    /// Questions.
    pub questions: u64,
    /// Votes within five seconds.
    pub quick: u64,
    /// Half of the votes took less, in milliseconds.
    pub looked_ms: i64,
    /// Most votes on one day.
    pub busiest_day: u64,
}

/// The page.
#[derive(Debug)]
pub struct Attention {
    /// The last day.
    pub day: Span,
    /// The last week.
    pub week: Span,
    /// Who decided in the last week: all of them, or the reader alone.
    pub people: Vec<Person>,
    /// The reader sees everybody.
    pub all: bool,
}

/// A person who votes so quickly so often is looked at.
const MANY_QUICK: u64 = 30;

/// The page.
#[must_use]
pub fn attention(m: &Attention) -> Markup {
    html! {
        div.head { h1 { "Attention" }
            p { "How people decided, and whether they had time to read. A vote is " em { "quick" }
                " when it came within five seconds of the request, of its last change, or of the same person's vote before." } }
        section {
            h2 { "Everybody" }
            div.scroll { table.cards {
                thead { tr { th scope="col" { "Time" } th scope="col" { "Asked" } th scope="col" { "Votes" } th scope="col" { "Denied" } th scope="col" { "Questions" }
                    th scope="col" { "Quick" } th scope="col" { "Half within" } th scope="col" { "9 of 10 within" } th scope="col" { "Ended undecided" } } }
                tbody {
                    @for (name, span) in [("24 hours", &m.day), ("7 days", &m.week)] { tr {
                        td { strong { (name) } }
                        td data-name="Asked" { (number(span.asked)) }
                        td data-name="Votes" { (number(span.approvals + span.denials)) }
                        td data-name="Denied" { (share(span.denials, span.approvals + span.denials)) }
                        td data-name="Questions" { (share(span.questions, span.asked)) }
                        td data-name="Quick" { (share(span.quick, span.approvals + span.denials)) }
                        td data-name="Half within" { (span.median_ms.map_or_else(|| "–".to_owned(), time)) }
                        td data-name="9 of 10 within" { (span.slowest_ms.map_or_else(|| "–".to_owned(), time)) }
                        td data-name="Ended undecided" { (number(span.undecided)) }
                    } }
                }
            } }
        }
        section {
            h2 { @if m.all { "Each, in 7 days" } @else { "You, in 7 days" } }
            @if m.people.is_empty() {
                p.empty { @if m.all { "Nobody decided anything." } @else { "You decided nothing." } }
            } @else { div.scroll { table.cards {
                thead { tr { th scope="col" { "Person" } th scope="col" { "Votes" } th scope="col" { "Denied" } th scope="col" { "Questions" } th scope="col" { "Quick" }
                    th scope="col" { "Half within" } th scope="col" { "Busiest day" } } }
                tbody { @for p in &m.people {
                    @let votes = p.approvals + p.denials;
                    tr {
                        td { strong { (p.human) } }
                        td data-name="Votes" { (number(votes)) }
                        td data-name="Denied" { (share(p.denials, votes)) }
                        td data-name="Questions" { (number(p.questions)) }
                        td data-name="Quick" { @if votes >= 5 && p.quick * 100 >= votes * MANY_QUICK {
                            span.grave { (share(p.quick, votes)) " – hardly read" }
                        } @else { (share(p.quick, votes)) } }
                        td data-name="Half within" { @if votes > 0 { (time(p.looked_ms)) } @else { "–" } }
                        td data-name="Busiest day" { (number(p.busiest_day)) }
                    }
                } }
            } } }
            @if !m.all {
                p.small.muted { "Operators and the group " code { "security" } " see everybody's." }
            }
        }
    }
}

fn number(n: u64) -> String {
    count(usize::try_from(n).unwrap_or(usize::MAX))
}

fn share(part: u64, whole: u64) -> String {
    match (part * 100).checked_div(whole) {
        Some(percent) => format!("{} ({percent} %)", number(part)),
        None => number(part),
    }
}

fn time(ms: i64) -> String {
    match ms {
        ..1_000 => "under 1 s".into(),
        1_000..120_000 => format!("{} s", ms / 1000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressing_without_reading_is_seen_and_only_ones_own_row_without_the_right() {
        let person = |human: &str, quick| Person {
            human: human.into(),
            approvals: 10,
            denials: 0,
            questions: 0,
            quick,
            looked_ms: 900,
            busiest_day: 10,
        };
        let mut m = Attention {
            day: Span::default(),
            week: Span { approvals: 20, quick: 9, median_ms: Some(61_000), ..Span::default() },
            people: vec![person("bob", 9), person("carol", 0)],
            all: true,
        };
        let out = attention(&m).into_string();
        assert_eq!(out.matches("hardly read").count(), 1, "{out}");
        assert!(out.contains("9 (45 %)") && out.contains("61 s") && out.contains("under 1 s"));
        m.all = false;
        assert!(attention(&m).into_string().contains("You, in 7 days"));
    }
}
