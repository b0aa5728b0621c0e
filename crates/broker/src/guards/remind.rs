//! When people are told again that a request waits: one rule for every channel and page.

use grantwright_domain::time::ttl_words;
use grantwright_domain::{Phase, RequestState, Timestamp};

use super::config::GuardsSection;

/// How far reminding of a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing is due: it is early, it is over, or the agent is to answer.
    None,
    /// Quiet hours: nobody is told anything until they end.
    Quiet,
    /// Who is asked first is told again.
    Reminded,
    /// Everybody who may decide is told that its time runs out.
    Escalated,
}

impl GuardsSection {
    /// How far reminding of a request of this risk has come that people were asked at `begun`, and
    /// when to look again: the end of quiet hours or the next step; none: nothing more comes by
    /// itself.
    #[must_use]
    pub fn stage(
        &self,
        state: &RequestState,
        risk: &str,
        begun: Timestamp,
        now: Timestamp,
    ) -> (Stage, Option<Timestamp>) {
        if state.phase != Phase::Pending || state.open_question().is_some() {
            return (Stage::None, None);
        }
        if let Some(until) = self.quiet_until(risk, now) {
            return (Stage::Quiet, Some(until));
        }
        let end = state.expires_at();
        let again = self.remind_after_ms().map(|ms| begun.plus_millis(ms));
        let all = self.escalate_before_ms().map(|ms| end.plus_millis(-ms));
        let come = |at: Option<Timestamp>| at.is_some_and(|at| now >= at);
        // With little time from the start there is no reminder before everybody is told.
        if come(all) {
            (Stage::Escalated, None)
        } else if come(again) {
            (Stage::Reminded, all)
        } else {
            (Stage::None, again.into_iter().chain(all).min())
        }
    }

    /// When people were asked who are shown a request of this risk from `at` on.
    #[must_use]
    pub fn begun(&self, risk: &str, at: Timestamp) -> Timestamp {
        self.quiet_until(risk, at).unwrap_or(at)
    }
}

/// What people are told at this stage; empty: nothing.
#[must_use]
pub fn said(stage: Stage, end: Timestamp, now: Timestamp) -> String {
    let left = ttl_words(u32::try_from(end.since(now) / 1000).unwrap_or(0));
    match stage {
        Stage::None | Stage::Quiet => String::new(),
        Stage::Reminded => format!("This still waits for people; it ends in {left}."),
        Stage::Escalated => format!("This ends undecided in {left}; nothing is issued then."),
    }
}
