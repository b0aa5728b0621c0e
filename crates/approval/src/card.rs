//! The decision card: one model that every channel renders. Its parts stand in the order in which
//! a reviewer reads them.
//!
//! Every text in it is safe to show on one line. What the agent says is in [`Words`] only; elsewhere
//! there are at most its parameters, typed, escaped and shortened, to be shown in code style.

use std::collections::BTreeMap;

use grantwright_domain::event::Decision;
use grantwright_domain::{Authority, Digest, Phase, RequestState, Scope, Strength, Timestamp};
use serde::Serialize;
use serde_json::Value;

use crate::parts;

/// All that a card is made of.
#[derive(Debug)]
pub struct Material<'a> {
    /// The request.
    pub state: &'a RequestState,
    /// The declaration that its terms pin.
    pub scope: &'a Scope,
    /// Rights and registered attributes now.
    pub authority: &'a Authority,
    /// The agent's reason; none: erased.
    pub reason: Option<&'a str>,
    /// The agent's task; none: it gave none, or it was erased.
    pub task: Option<&'a str>,
    /// Texts of questions and answers, by the ordinal of their leaf within the request; absent: erased.
    pub texts: &'a BTreeMap<u64, String>,
    /// What the "decided" leaf records as unlike this agent's past.
    pub unusual: &'a [String],
    /// What the minter says it will issue.
    pub preview: Value,
    /// How the minter can end the credential early; none: it cannot.
    pub revocable: Option<&'a str>,
    /// The time now.
    pub now: Timestamp,
}

/// What a reviewer sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Card {
    /// Part 1: one sentence, verb first; values in backticks.
    pub headline: String,
    /// Part 1, continued: every parameter, also those that the sentence does not name.
    pub params: Vec<Param>,
    /// Part 2: environment, data class, risk, and whether it can be undone.
    pub stakes: Vec<String>,
    /// Part 3: facts unlike this agent's past, at most three.
    pub unusual: Vec<String>,
    /// Part 4.
    pub who: Who,
    /// Part 5: why people are asked.
    #[serde(rename = "why")]
    pub asked_because: Because,
    /// Part 6: what the agent says.
    pub words: Words,
    /// Part 7: what will be issued.
    pub issues: Issues,
    /// Part 8: where the decision stands.
    pub state: Progress,
    /// Values too long to show: they must be opened before approving.
    pub full_view: Vec<FullView>,
    /// D: what a decision is about.
    pub digest: Digest,
}

/// One parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// The operator's words for it, or empty.
    pub title: String,
    /// For code style: one value, or the members of a set; empty when it is sensitive.
    pub values: Vec<String>,
    /// Sensitive: bound by a commitment, not shown.
    pub sensitive: bool,
    /// Shown whole; otherwise it is in [`Card::full_view`].
    pub full: bool,
}

/// Part 4: who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Who {
    /// The agent.
    pub agent: String,
    /// The person who answers for it; empty when it is not registered.
    pub owner: String,
    /// Its team, or empty.
    pub team: String,
    /// The model it runs, or empty.
    pub model: String,
    /// The model's version, or empty.
    pub model_version: String,
    /// The model is qualified now.
    pub qualified: bool,
    /// Until when, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qualified_until: Option<Timestamp>,
    /// The agent's right, or its instance's, ended.
    pub revoked: bool,
    /// Through which sidecar.
    pub instance: String,
    /// Which local workload; for code style.
    pub workload: String,
    /// What the sidecar saw of the process that asks, each for code style; empty where a token names
    /// the workload.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub process: Vec<ProcessFact>,
    /// Agents that passed the right on, first the outermost.
    pub delegation: Vec<String>,
    /// The proven person on whose behalf the task runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
}

/// One fact about the process that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessFact {
    /// `uid`, `gid`, `pid`, `program`, `sha-256`, `cgroup` or `container`.
    pub name: &'static str,
    /// For code style.
    pub value: String,
}

/// Part 5: why people are asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Because {
    /// The policy in plain words; empty before the verdict.
    pub reason: String,
    /// The policies that decided.
    pub policies: Vec<String>,
}

/// Part 6: everything the agent says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Words {
    /// Its reason; none: erased.
    pub reason: Option<String>,
    /// Its task, if it named one.
    pub task: Option<String>,
    /// Its answers.
    pub answers: Vec<Answer>,
    /// Whose words they are.
    pub note: &'static str,
}

/// An answer of the agent's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The question's id.
    pub question: u64,
    /// The agent's words; none: erased.
    pub text: Option<String>,
}

/// Part 7: what will be issued, or was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Issues {
    /// One line.
    pub summary: String,
    /// The actual permission, as the minter states it; texts and keys are for code style.
    pub what: Value,
    /// For how long, in words.
    pub ttl: String,
    /// How it can end before.
    pub ends: String,
    /// When it ends by itself; before the issue: if it were collected now; none when there is, or
    /// will be, no credential that lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Timestamp>,
    /// It was issued.
    pub issued: bool,
    /// The lease it replaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renews: Option<String>,
}

/// Part 8: where the decision stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Where the request stands.
    pub phase: Phase,
    /// The same in words; after the end, what happened.
    pub sentence: String,
    /// Distinct people whose approval stands.
    pub have: usize,
    /// Distinct people needed; 0 where none are asked.
    pub needed: u32,
    /// How each must decide; none before the verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<Strength>,
    /// An approver belongs to every one of these.
    pub groups: Vec<String>,
    /// Where votes count.
    pub channels: Vec<String>,
    /// What an approver types before an approval counts: a parameter's name, or `@agent` for the
    /// agent's; none: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm: Option<String>,
    /// When time ends the request; none once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Every vote, in order.
    pub votes: Vec<Vote>,
    /// Every question, in order; answers are in [`Words`].
    pub questions: Vec<Question>,
    /// What reviewers narrowed, since the ask.
    pub narrowed: Vec<String>,
}

/// A vote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vote {
    /// Who.
    pub human: String,
    /// For or against.
    pub decision: Decision,
    /// When.
    pub at: Timestamp,
    /// Through what.
    pub channel: String,
    /// It counts now.
    pub standing: bool,
}

/// A reviewer's question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Question {
    /// Its id: the ordinal of its leaf.
    pub id: u64,
    /// Who asked.
    pub by: String,
    /// The reviewer's words; none: erased.
    pub text: Option<String>,
    /// When.
    pub at: Timestamp,
    /// When the agent answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered_at: Option<Timestamp>,
    /// It waits for its answer.
    pub open: bool,
}

/// A value too long to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FullView {
    /// `params.…`, `reason`, `task` or `answer …`.
    pub name: String,
    /// Its length in characters.
    pub length: usize,
    /// Its digest: of the parameter's canonical form, or the commitment in the log to a text;
    /// none for an answer, whose commitment lies in its own leaf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// Makes the card. The same material gives the same card.
///
/// A declaration that the terms do not pin is not believed: the headline then says so.
#[must_use]
pub fn card(m: &Material<'_>) -> Card {
    let mut full_view = Vec::new();
    let pinned = m.scope.digest().is_ok_and(|digest| digest == m.state.terms.template);
    Card {
        headline: if pinned { parts::headline(m) } else { parts::unpinned(m) },
        params: parts::params(m, &mut full_view),
        stakes: if pinned { parts::stakes(&m.scope.labels) } else { Vec::new() },
        unusual: m.unusual.iter().take(3).map(|fact| crate::show::plain(fact)).collect(),
        who: parts::who(m),
        asked_because: parts::because(m),
        words: parts::words(m, &mut full_view),
        issues: parts::issues(m),
        state: parts::progress(m),
        full_view,
        digest: m.state.digest,
    }
}
