//! Approving less than was asked: what can shrink, what it becomes, and the vote for that.

use maud::{Markup, html};

use super::request::issues;
use super::words::{sentence, several};
use crate::card::Card;
use crate::parts::Whole;
use grantwright_domain::Timestamp;

/// One thing that can shrink.
#[derive(Debug, Clone)]
pub struct Field {
    /// The parameter; `ttl` for the lifetime.
    pub name: String,
    /// The operator's words for it, or empty.
    pub title: String,
    /// How it shrinks.
    pub kind: Kind,
}

/// How a value may shrink.
#[derive(Debug, Clone)]
pub enum Kind {
    /// One of these; value, words, chosen.
    Choice(Vec<(String, String, bool)>),
    /// A whole number, both ends included.
    Number {
        /// Least.
        min: i64,
        /// What was asked.
        max: i64,
        /// Chosen.
        value: i64,
    },
    /// Words that begin with what was asked.
    Prefix {
        /// What was asked.
        base: String,
        /// Chosen.
        value: String,
    },
    /// Some of these; shown, kept.
    Subset(Vec<(String, bool)>),
}

/// What it becomes.
#[derive(Debug)]
pub enum Becomes {
    /// Nothing chosen yet.
    Same,
    /// These choices are not narrower, and why.
    Not(String),
    /// Narrower: the card of it, and what the form must carry.
    Narrower {
        /// As it would be.
        card: Box<Card>,
        /// The lifetime, as `90s`.
        ttl: String,
        /// The parameters, as JSON.
        params: String,
        /// Its long values in full: a vote for it is a vote for these.
        whole: Vec<Whole>,
    },
}

/// The page.
#[derive(Debug)]
pub struct Narrow<'a> {
    /// The request.
    pub id: &'a str,
    /// Goes into the form.
    pub csrf: &'a str,
    /// The card as it stands.
    pub card: &'a Card,
    /// What can shrink.
    pub fields: Vec<Field>,
    /// What it becomes.
    pub becomes: Becomes,
    /// A passkey decides: narrowing is a proposal then.
    pub passkey: bool,
    /// The time now.
    pub now: Timestamp,
}

/// The page.
#[must_use]
pub fn narrow(m: &Narrow<'_>) -> Markup {
    let path = format!("/requests/{}/narrow", m.id);
    html! {
        div.head {
            h1 { "Narrow: " (sentence(&m.card.headline)) }
            p { a href={ "/requests/" (m.id) } { "Back without narrowing" } }
        }
        div.request.narrowing data-live="narrow" {
            div.body {
                form.sheet.stack method="get" action=(path) data-preview {
                    @for field in &m.fields { (one(field)) }
                    div.row { button type="submit" { "Show what it becomes" } }
                }
            }
            aside.decide aria-label="What it becomes" {
                div.sheet aria-live="polite" { (becomes(m, &path)) }
            }
        }
    }
}

fn becomes(m: &Narrow<'_>, path: &str) -> Markup {
    html! {
        @match &m.becomes {
            Becomes::Same => p.muted { "Choose less than was asked; then this shows what would be issued." },
            Becomes::Not(why) => p { "That is not narrower: " (why) },
            Becomes::Narrower { card, ttl, params, whole } => {
                h2 { (sentence(&card.headline)) }
                @for change in &card.state.narrowed { p { (sentence(change)) } }
                (issues(&card.issues, m.now))
                @for long in whole {
                    p { (long.name) }
                    pre.full { (long.text) }
                }
                form.stack method="post" action=(path) {
                    input type="hidden" name="csrf" value=(m.csrf);
                    input type="hidden" name="digest" value=(m.card.digest.hex());
                    input type="hidden" name="ttl" value=(ttl);
                    input type="hidden" name="params" value=(params);
                    input type="hidden" name="opened" value="1";
                    @if let Some(fact) = &m.card.state.confirm {
                        label { "To approve, type the narrowed value of " code { (fact) }
                            input name="confirm" required autocomplete="off"; }
                    }
                    label { "Why, for the agent (if you like)"
                        textarea name="why" maxlength="2000" rows="2" {} }
                    button type="submit" {
                        @if m.passkey { "Narrow, then sign" } @else { "Narrow and approve" }
                    }
                }
                p.small.muted { "Earlier votes were for the wider request and no longer count." }
            }
        }
    }
}

fn one(field: &Field) -> Markup {
    let name = if field.title.is_empty() { &field.name } else { &field.title };
    html! {
        @match &field.kind {
            Kind::Choice(choices) => label {
                (name)
                select name=(field.name) {
                    @for (value, words, chosen) in choices {
                        option value=(value) selected[*chosen] { (words) }
                    }
                }
            },
            Kind::Number { min, max, value } => label {
                (name) ", at most " (grantwright_domain::scope::grouped(*max))
                input type="number" name={ "p." (field.name) } min=(min) max=(max) value=(value) inputmode="numeric";
            },
            Kind::Prefix { base, value } => label {
                (name) ", under " code { (base) }
                input name={ "p." (field.name) } value=(value) maxlength="200" autocapitalize="off" spellcheck="false";
            },
            Kind::Subset(members) => fieldset {
                legend { (name) ": " (several(members.len(), "member", "members")) ", keep some" }
                @for (n, (member, kept)) in members.iter().enumerate() {
                    label.choice {
                        input type="checkbox" name={ "s." (field.name) "." (n) } checked[*kept];
                        code { (member) }
                    }
                }
            },
        }
    }
}
