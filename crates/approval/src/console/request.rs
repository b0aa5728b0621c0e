//! One request in full: parts 1 to 9 of the card, then what stands behind them.

use grantwright_domain::event::Decision;
use grantwright_domain::scope::CONFIRM_AGENT;
use grantwright_domain::{Digest, Strength, Timestamp};
use maud::{Markup, html};
use serde_json::Value;

use super::inbox::{Ended, ended, left, stakes};
use super::story::{Step, story};
use super::words::{count, ident, phase, quote, sentence, several, time};
use crate::card::{Card, FullView, Issues, Param, Progress, Who};
use crate::parts::Whole;

/// What the reader may do, and why not.
#[derive(Debug, Clone)]
pub struct May {
    /// Decide; or why not, and what to do.
    pub decide: Result<(), String>,
    /// Approve, if they may decide; or why not yet.
    pub approve: Result<(), String>,
    /// Their approval stands: it can be withdrawn.
    pub withdraw: bool,
    /// Something can be narrowed.
    pub narrow: bool,
}

/// A policy that decided.
#[derive(Debug, Clone)]
pub struct PolicyText {
    /// Its id.
    pub id: String,
    /// `file:line`, or why there is no text.
    pub place: String,
    /// Its text.
    pub text: String,
}

/// Who is told when that it waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routing {
    /// Who is asked first; empty: everybody who may decide.
    pub first: Vec<String>,
    /// Quiet hours: nobody is told before.
    pub quiet_until: Option<Timestamp>,
    /// When those who were told first are told again.
    pub again: Option<Timestamp>,
    /// When everybody who may decide is told.
    pub everybody: Option<Timestamp>,
}

/// All that the page shows.
#[derive(Debug)]
pub struct Page<'a> {
    /// The request.
    pub id: &'a str,
    /// Goes into each form.
    pub csrf: &'a str,
    /// The card.
    pub card: &'a Card,
    /// Who reads it.
    pub reader: &'a str,
    /// What the reader may do.
    pub may: May,
    /// Who is told when.
    pub routing: Routing,
    /// Ordinal of the last question, answer or change that is shown here.
    pub seen: u64,
    /// Number of leaves that are shown here.
    pub version: u64,
    /// The long values; empty unless they were opened.
    pub whole: Vec<Whole>,
    /// Questions that fit the scope.
    pub suggested: &'a [String],
    /// The policies that decided.
    pub policies: Vec<PolicyText>,
    /// What this agent did before.
    pub before: Vec<Ended>,
    /// The leaves.
    pub steps: Vec<Step>,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// The scope's name.
    pub scope: &'a str,
    /// The time now.
    pub now: Timestamp,
}

impl Page<'_> {
    fn is_opened(&self) -> bool {
        self.card.full_view.is_empty() || !self.whole.is_empty()
    }

    fn is_open(&self) -> bool {
        self.card.state.phase.is_open()
    }

    fn action(&self, verb: &str) -> String {
        format!("/requests/{}/{verb}", self.id)
    }
}

/// The page.
#[must_use]
pub fn request(m: &Page<'_>) -> Markup {
    let card = m.card;
    html! {
        article.request data-live="request" data-request=(m.id) data-version=(m.version)
            data-digest=(card.digest.hex()) {
            div.lead {
                h1 { (sentence(&card.headline)) }
                p { (stakes(&card.stakes)) }
                @if m.is_open() { (glance(m)) }
                @if !card.unusual.is_empty() {
                    p.odd { b { "Unusual: " } (card.unusual.join(" · ")) }
                }
            }
            div.body { (facts(m)) }
            aside.decide aria-label="Decision" { (decide(m)) }
        }
        (thread(m))
        section {
            h2 { "What " code { (card.who.agent) } " did before" }
            @if m.before.is_empty() { p.empty { "Nothing: this is the first request of this agent." } }
            @else {
                (ended(&m.before, m.now))
                p.small.gap-small { a href={ "/log?agent=" (card.who.agent) } { "All its requests" } }
            }
        }
        (story(m.id, &m.steps, m.now))
        p.muted.small { "Request " (ident(m.id)) " · scope " (ident(m.scope)) " · asked " (time(m.asked_at, m.now)) }
        p.muted.small { "Digest " (ident(&card.digest.hex())) ": a vote is for this one only." }
    }
}

/// Part 8 in one line, where the sheet that says it is further down the page than a phone shows.
fn glance(m: &Page<'_>) -> Markup {
    let state = &m.card.state;
    html! {
        p.glance {
            @if let Some(at) = state.expires_at { strong data-left=(at.to_string()) { (left(at, m.now)) } " · " }
            (state.have) " of " (state.needed) ", " (sentence(&state.sentence))
        }
    }
}

fn facts(m: &Page<'_>) -> Markup {
    let card = m.card;
    html! {
        dl.facts {
            dt { "Who" }
            dd { (who(&card.who, m.now)) }
            dt { "Why you are asked" }
            dd { (why(m)) }
            dt { "In its words" }
            dd { (words(m)) }
            @if !card.params.is_empty() {
                dt { "With" }
                dd { (params(&card.params)) }
            }
            dt { (if card.issues.issued { "Was issued" } else { "Will be issued" }) }
            dd { (issues(&card.issues, m.now)) }
            @if !card.full_view.is_empty() {
                dt { "In full" }
                dd #full { (full_view(m)) }
            }
        }
    }
}

fn who(who: &Who, now: Timestamp) -> Markup {
    let model = format!("{} {}", who.model, who.model_version);
    html! {
        p {
            a href={ "/agents/" (who.agent) } { (who.agent) }
            @if who.owner.is_empty() { ", not registered" } @else { ", owned by " (who.owner) }
            @if !who.team.is_empty() { ", " (who.team) }
            @if who.revoked { strong.grave { " · its right has ended" } }
        }
        p.small.muted {
            @if model.trim().is_empty() { "model unknown" } @else { (model.trim()) }
            @match who.qualified_until {
                Some(until) => { ", qualified until " (time(until, now)) },
                None => @if !model.trim().is_empty() { ", not qualified" },
            }
            " · sidecar " code { (who.instance) } " · workload " code { (who.workload) }
        }
        @if !who.process.is_empty() {
            p.small.muted {
                @for (n, fact) in who.process.iter().enumerate() {
                    @if n > 0 { " · " } (fact.name) " " code { (fact.value) }
                }
            }
        }
        @if !who.delegation.is_empty() {
            p { "via " @for (n, agent) in who.delegation.iter().enumerate() {
                @if n > 0 { " → " } code { (agent) }
            } }
        }
        @if let Some(human) = &who.on_behalf_of { p { "on behalf of " strong { (human) } } }
    }
}

fn why(m: &Page<'_>) -> Markup {
    let because = &m.card.asked_because;
    html! {
        @if because.reason.is_empty() { p.muted { "not decided yet" } } @else { p { (because.reason) } }
        @if !m.policies.is_empty() {
            details {
                summary { (several(m.policies.len(), "policy", "policies")) ": "
                    (m.policies.iter().map(|p| p.id.as_str()).collect::<Vec<_>>().join(", ")) }
                @for policy in &m.policies {
                    p.small.muted { code { (policy.id) } " · " (policy.place) }
                    @if !policy.text.is_empty() { pre { (policy.text) } }
                }
            }
        }
    }
}

fn words(m: &Page<'_>) -> Markup {
    let words = &m.card.words;
    let note = |what: &str| format!("{what}, {}", words.note);
    html! {
        @match &words.reason {
            Some(text) => (quote(text, &note("reason"))),
            None => p.muted { "its reason was erased" },
        }
        @if let Some(task) = &words.task { (quote(task, &note("task"))) }
    }
}

fn params(params: &[Param]) -> Markup {
    html! {
        @for param in params {
            p {
                span.muted {
                    (param.name)
                    @if !param.title.is_empty() && !param.title.eq_ignore_ascii_case(&param.name) {
                        " (" (param.title) ")"
                    }
                    " = "
                }
                @if param.sensitive { "a sensitive value, not shown" }
                @for (n, value) in param.values.iter().enumerate() {
                    @if n > 0 { ", " } code { (value) }
                }
            }
        }
    }
}

/// Part 7: the actual permission.
#[must_use]
pub fn issues(issues: &Issues, now: Timestamp) -> Markup {
    html! {
        p { (sentence(&issues.summary)) ", for " strong { (issues.ttl) } }
        p.small.muted {
            (issues.ends)
            @if let Some(at) = issues.ends_at {
                @if issues.issued { "; ends " } @else { "; if issued now, ends " } (time(at, now))
            }
        }
        @if let Some(lease) = &issues.renews { p.small { "replaces lease " code { (lease) } } }
        @if issues.what != Value::Null {
            pre { (serde_json::to_string_pretty(&issues.what).unwrap_or_default()) }
        }
    }
}

fn full_view(m: &Page<'_>) -> Markup {
    html! {
        @for view in &m.card.full_view {
            p { (view.name) ": " (several(view.length, "character", "characters"))
                @if let Some(digest) = view.digest { " · " (ident(&short(digest))) } }
            @if let Some(whole) = m.whole.iter().find(|w| w.name == view.name) {
                pre.full { (whole.text) }
            }
        }
        @if m.whole.is_empty() {
            p { a.button href={ "/requests/" (m.id) "?full=1#full" } { "Open in full" } }
        }
    }
}

fn short(digest: Digest) -> String {
    digest.hex().chars().take(16).collect()
}

fn decide(m: &Page<'_>) -> Markup {
    let state = &m.card.state;
    html! {
        div.sheet { (progress(state, m.now)) (routing(m)) }
        @if m.is_open() { (actions(m)) }
    }
}

fn progress(state: &Progress, now: Timestamp) -> Markup {
    html! {
        p {
            (phase(state.phase)) " "
            @if let Some(at) = state.expires_at {
                span.left data-left=(at.to_string()) { (left(at, now)) }
            }
        }
        p { (sentence(&state.sentence)) }
        @if state.needed > 0 {
            div.meter role="img" aria-label={ (state.have) " of " (state.needed) " approvals" } {
                @for n in 0..state.needed { i.on[(n as usize) < state.have] {} }
            }
            p.small.muted {
                (state.have) " of " (state.needed)
                @if !state.groups.is_empty() { ", by " (state.groups.join(" and ")) }
                @if state.strength == Some(Strength::Passkey) { ", signed with a passkey" }
            }
        }
        @if !state.votes.is_empty() {
            ul.votes {
                @for vote in &state.votes {
                    li.void[!vote.standing] {
                        strong { (vote.human) }
                        @match vote.decision {
                            Decision::Approve => " approved",
                            Decision::Deny => " denied",
                        }
                        span.small.muted { " · " (vote.channel) " · " (time(vote.at, now))
                            @if !vote.standing { " · does not count" } }
                    }
                }
            }
        }
        @for change in &state.narrowed { p.small { "narrowed, " (sentence(change)) } }
    }
}

/// Who is asked first, who was told again, and from when on everybody is.
fn routing(m: &Page<'_>) -> Markup {
    let Routing { first, quiet_until, again, everybody } = &m.routing;
    let names: Vec<&str> =
        first.iter().map(|who| if who == m.reader { "you" } else { who.as_str() }).collect();
    html! {
        @if !names.is_empty() { p.small { "Asked first: " strong { (names.join(", ")) } } }
        @if let Some(until) = quiet_until {
            p.small.muted { "Quiet hours: nobody is told before " (time(*until, m.now)) }
        }
        @if let Some(at) = again {
            p.small.muted {
                @if *at <= m.now { "Reminded " } @else { "Reminder " } (time(*at, m.now))
            }
        }
        @if let Some(at) = everybody {
            p.small.muted {
                @if *at <= m.now { "Everybody who may decide is asked since " }
                @else { "Everybody who may decide is asked " }
                (time(*at, m.now))
            }
        }
    }
}

fn hidden(m: &Page<'_>) -> Markup {
    html! {
        input type="hidden" name="csrf" value=(m.csrf);
        input type="hidden" name="digest" value=(m.card.digest.hex());
    }
}

fn actions(m: &Page<'_>) -> Markup {
    let passkey = m.card.state.strength == Some(Strength::Passkey);
    let off = m.may.decide.is_err();
    let no_approve = off || m.may.approve.is_err();
    html! {
        div.actions {
            @if let Err(why) = m.may.decide.as_ref().and(m.may.approve.as_ref()) {
                p.small #why-not { (why) }
            }
            @if passkey && !off {
                p.small.muted { "Approving is signed with your passkey, over exactly this: "
                    (sentence(&m.card.headline)) "; " (m.card.stakes.join(" · ")) "; "
                    (sentence(&m.card.issues.summary)) ", for " (m.card.issues.ttl) "." }
                noscript { p.small { "A passkey needs a browser that runs this page's script; denying and asking do not." } }
            }
            @if m.may.withdraw {
                form method="post" action=(m.action("withdraw")) {
                    (hidden(m))
                    button type="submit" { "Withdraw approval" }
                }
            } @else if !m.is_opened() && !no_approve {
                a.button href={ "/requests/" (m.id) "?full=1#full" } data-key="a" { "Open in full first" }
            } @else {
                form method="post" action=(m.action("approve")) data-passkey[passkey] {
                    (hidden(m))
                    input type="hidden" name="seen" value=(m.seen);
                    @if !m.whole.is_empty() { input type="hidden" name="opened" value="1"; }
                    @if !no_approve { (confirm(m)) }
                    button type="submit" data-key="a" disabled[no_approve] { "Approve" }
                }
            }
            button type="button" popovertarget="deny" data-key="d" disabled[off] { "Deny" }
            button type="button" popovertarget="ask" data-key="q" disabled[off] { "Ask" }
            @if m.may.narrow && !off {
                a.button href=(m.action("narrow")) data-key="n" { "Narrow" }
            } @else {
                button type="button" disabled { "Narrow" }
            }
        }
        @if !off { (deny(m)) (ask(m)) }
    }
}

/// The two-step guard: a fact of the request is typed, so that it was read.
fn confirm(m: &Page<'_>) -> Markup {
    html! {
        @if let Some(fact) = &m.card.state.confirm {
            label.wide {
                @if fact == CONFIRM_AGENT { "To approve, type the agent's name" }
                @else { "To approve, type the value of " code { (fact) } }
                input name="confirm" required autocomplete="off" autocapitalize="off" spellcheck="false";
            }
        }
    }
}

fn deny(m: &Page<'_>) -> Markup {
    let reasons = [
        ("not_now", "Not now"),
        ("too_much", "Too much"),
        ("wrong_person", "Wrong person"),
        ("looks_wrong", "Looks wrong"),
    ];
    html! {
        div #deny popover {
            h2 { "Deny: why?" }
            form.stack method="post" action=(m.action("deny")) {
                (hidden(m))
                div.row {
                    @for (code, words) in reasons {
                        button type="submit" name="reason_code" value=(code) { (words) }
                    }
                }
                label { "In your words, for the agent and its owner (if you like)"
                    textarea name="reason" maxlength="2000" rows="2" {} }
                p.small.muted { "A deny is final. “Looks wrong” also alerts security." }
            }
        }
    }
}

fn ask(m: &Page<'_>) -> Markup {
    html! {
        div #ask popover {
            h2 { "Ask the agent" }
            form.stack method="post" action=(m.action("ask")) {
                (hidden(m))
                label { "Your question"
                    textarea name="text" maxlength="2000" rows="3" {} }
                div.row { button type="submit" { "Ask" } }
                @if !m.suggested.is_empty() {
                    div.row {
                        @for question in m.suggested {
                            button.small type="submit" name="suggested" value=(question) { (question) }
                        }
                    }
                }
                p.small.muted { "The clock pauses until it answers. Until then only you may approve." }
            }
        }
    }
}

fn thread(m: &Page<'_>) -> Markup {
    let (state, words) = (&m.card.state, &m.card.words);
    html! {
        section data-live="thread" {
            @if !state.questions.is_empty() {
                h2 { "Questions" }
                ol.thread {
                    @for question in &state.questions {
                        li.sheet {
                            p { strong { (question.by) } " asked " span.small { (time(question.at, m.now)) } }
                            p { (question.text.as_deref().unwrap_or("(erased)")) }
                            @for answer in words.answers.iter().filter(|a| a.question == question.id) {
                                (quote(answer.text.as_deref().unwrap_or("(erased)"),
                                    &format!("answer, {}", words.note)))
                            }
                            @if question.open { p.muted { "not answered yet" } }
                        }
                    }
                }
            }
        }
    }
}

/// How many long values wait to be opened, in words; empty: none.
#[must_use]
pub fn unopened(views: &[FullView]) -> String {
    match views.len() {
        0 => String::new(),
        1 => "a value is too long to show: open it in full before approving".into(),
        n => {
            format!("{} values are too long to show: open them in full before approving", count(n))
        }
    }
}
