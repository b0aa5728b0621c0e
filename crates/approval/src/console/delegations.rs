//! Delegations: which agent handed what to which, for how long, and how to end it.

use grantwright_domain::Timestamp;
use grantwright_domain::time::ttl_words;
use maud::{Markup, html};

use super::words::{phase_word, several, time};

/// A right that agents handed on.
#[derive(Debug, Clone)]
pub struct Delegation {
    /// Its id.
    pub id: String,
    /// `live`, `ended`, `expired`.
    pub state: &'static str,
    /// The agents that passed it on, first the outermost.
    pub chain: Vec<String>,
    /// Who may ask under it.
    pub to: String,
    /// What may be asked for.
    pub scopes: Vec<Handed>,
    /// How often it may be passed on further.
    pub passes: u32,
    /// When it ends by itself, or ended.
    pub until: Timestamp,
    /// The person who looks may end it.
    pub may_end: bool,
}

/// How much of a scope is handed on.
#[derive(Debug, Clone)]
pub struct Handed {
    /// The scope.
    pub scope: String,
    /// Bounds of parameters, by name; the others are free.
    pub bounds: Vec<(String, String)>,
    /// Longest lifetime in seconds.
    pub ttl_s: u32,
}

/// The page.
#[derive(Debug)]
pub struct Delegations<'a> {
    /// The rows.
    pub rows: Vec<Delegation>,
    /// How many more there are.
    pub more: usize,
    /// Only live ones are shown.
    pub live: bool,
    /// For the forms.
    pub csrf: &'a str,
    /// The time now.
    pub now: Timestamp,
}

/// The page.
#[must_use]
pub fn delegations(m: &Delegations<'_>) -> Markup {
    html! {
        div.head {
            h1 { "Delegations" }
            p {
                @if m.live { "Rights that agents handed on, those that end first. " a href="/delegations?state=all" { "All of the last day" } }
                @else { "Rights that agents handed on in the last day, newest first. " a href="/delegations" { "Live ones" } }
            }
        }
        section {
            @if m.rows.is_empty() { p.empty { "No delegation" @if m.live { " is live" } "." } }
            @else { (table(m)) }
            @if m.more > 0 { p.muted { (several(m.more, "more is", "more are")) " not shown; " code { "grantwright delegation list" } " shows all." } }
        }
        p.small.muted { "A delegation gives no right that policy does not give. Ending one ends what was passed on from it, asked under it and issued." }
    }
}

fn table(m: &Delegations<'_>) -> Markup {
    html! {
        div.scroll {
            table.cards.held {
                thead { tr { th scope="col" { "From → to" } th scope="col" { "What" } th scope="col" { "State" } th scope="col" { "Ends" } th scope="col" { "Delegation" } th scope="col" { "End it" } } }
                tbody {
                    @for d in &m.rows {
                        tr {
                            td {
                                @for agent in &d.chain { a href={ "/agents/" (agent) } { (agent) } " → " }
                                a href={ "/agents/" (d.to) } { strong { (d.to) } }
                                @if d.passes > 0 { br; span.small.muted { "may be passed on " (several(d.passes as usize, "time", "times")) } }
                            }
                            td {
                                @for (n, handed) in d.scopes.iter().enumerate() {
                                    @if n > 0 { br; }
                                    strong { (handed.scope) } " "
                                    @for (name, bound) in &handed.bounds { span.small { (name) " " code { (bound) } " " } }
                                    span.small.muted { "≤ " (ttl_words(handed.ttl_s)) }
                                }
                            }
                            td { (phase_word(d.state)) }
                            td { (time(d.until, m.now)) }
                            td.ids { code.id { (d.id) } }
                            td {
                                @if d.state == "live" {
                                    @if d.may_end {
                                        form method="post" action={ "/delegations/" (d.id) "/end" } {
                                            input type="hidden" name="csrf" value=(m.csrf);
                                            button.small type="submit" aria-label={ "End now: delegation " (d.id) } { "End now" }
                                        }
                                    } @else { span.small.muted { "its agents' owners and operators can" } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(may_end: bool) -> Delegation {
        Delegation {
            id: "d-1".into(),
            state: "live",
            chain: vec!["router".into(), "planner".into()],
            to: "worker".into(),
            scopes: vec![Handed {
                scope: "demo.export".into(),
                bounds: vec![("dataset".into(), "<orders>".into())],
                ttl_s: 300,
            }],
            passes: 1,
            until: Timestamp::from_millis(60_000),
            may_end,
        }
    }

    fn shown(rows: Vec<Delegation>) -> String {
        let now = Timestamp::from_millis(0);
        let page = Delegations { rows, more: 0, live: true, csrf: "c-1", now };
        delegations(&page).into_string()
    }

    #[test]
    fn it_shows_the_chain_the_bounds_and_the_end() {
        let out = shown(vec![one(true)]);
        let chain = ["router", "planner", "worker"].map(|a| out.find(&format!("/agents/{a}")));
        assert!(chain.is_sorted() && chain.iter().all(Option::is_some), "{out}");
        for part in ["demo.export", "&lt;orders&gt;", "5 min", "/delegations/d-1/end"] {
            assert!(out.contains(part), "{part}: {out}");
        }
        assert!(out.contains("passed on 1 time"), "{out}");
    }

    #[test]
    fn only_who_may_end_it_is_offered_to() {
        assert!(!shown(vec![one(false)]).contains("<form"));
        let over = Delegation { state: "ended", ..one(true) };
        assert!(!shown(vec![over]).contains("<form"));
    }
}
