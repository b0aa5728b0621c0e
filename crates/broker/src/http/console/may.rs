//! Whether a person may decide a request, for showing it: what they do is judged anew when they do it.

use grantwright_domain::{Decision, HumanId, Phase, Scope};
use grantwright_store::Loaded;

use super::matter::At;
use crate::issue::decide;

/// The channel of all that comes from the console's pages.
pub const CHANNEL: &str = "console";

/// Whether `human` may decide it at the console.
///
/// # Errors
/// Why not, in words.
pub fn decide(at: At<'_>, human: &HumanId, loaded: &Loaded, scope: &Scope) -> Result<(), String> {
    let (state, terms) = (&loaded.state, &loaded.state.terms);
    grantwright_domain::eligible::check(state, at.authority, human, CHANNEL, at.now)
        .map_err(|e| format!("You cannot decide this: {human} {e}."))?;
    let policy = decide::in_force(at.broker, at.authority).map_err(|r| r.detail)?;
    let decided = decide::last(loaded.leaves.iter().map(|(_, event)| event));
    let ballot = decide::Ballot { human, channel: CHANNEL, terms, scope, decided, at: at.now };
    decide::may_approve(&policy, at.authority, &ballot)
        .map(drop)
        .map_err(|e| format!("You cannot decide this: policy does not let you: {e}."))
}

/// Whether their approval stands.
#[must_use]
pub fn has_approved(loaded: &Loaded, human: &HumanId) -> bool {
    loaded
        .state
        .votes
        .iter()
        .any(|v| v.live && v.decision == Decision::Approve && &v.human == human)
}

/// Whether it waits for this very person.
#[must_use]
pub fn waits_for(at: At<'_>, human: &HumanId, loaded: &Loaded, scope: &Scope) -> bool {
    let state = &loaded.state;
    state.phase == Phase::Pending
        && state.open_question().is_none()
        && !has_approved(loaded, human)
        && decide(at, human, loaded, scope).is_ok()
}
