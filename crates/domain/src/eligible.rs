//! Who may decide a request. One function for every door; Cedar's own answer to `approve` is asked
//! beside it, by the broker at the vote and at the mint, and by the verifier.

use crate::authority::Authority;
use crate::id::HumanId;
use crate::request::RequestState;
use crate::time::Timestamp;
use crate::verdict::VerdictKind;

/// Why a person may not decide this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Ineligible {
    /// Not a registered, active person.
    #[error("not an active person here")]
    NotActive,
    /// Owns the agent, or owned it at some time since the request was made.
    #[error("owns the agent that asks, and nobody approves for their own agent")]
    SelfApproval,
    /// The task runs on this person's behalf.
    #[error("the task runs on their behalf")]
    OnBehalfOf,
    /// Owns an agent in the delegation chain, or owned it at some time since the right was handed on.
    #[error("owns an agent that passed the right on")]
    Delegate,
    /// The agent's owner made the link by which a passkey of this person was enrolled.
    #[error("the agent's owner made the link by which their passkey was enrolled")]
    OwnersPasskey,
    /// The agent's owner made a token or a link for this person or linked their account, and could
    /// vote as them.
    #[error(
        "their token, link or linked account was made by the agent's owner, who could vote with it"
    )]
    OwnersToken,
    /// Who made this person's token, link, passkey or account is whom the task runs for, or owns an
    /// agent in the delegation chain, and could vote as them.
    #[error(
        "their token, link, passkey or linked account was made by somebody whom the task runs for \
         or whose agent passed the right on, and who could vote with it"
    )]
    StoodIn,
    /// Not in every group the verdict names.
    #[error("not in the group that policy names")]
    NotInGroup,
    /// Was in the group by the identity provider's word, which is stale.
    #[error("the identity provider's word on their groups is stale; signing in renews it")]
    StaleMembership,
    /// Changed the agent, its owner or the group in the last 24 hours.
    #[error("changed the agent, its owner or the group in the last 24 hours")]
    RecentChange,
    /// Votes through this channel do not count for this verdict.
    #[error("policy does not let votes come through this channel")]
    Channel,
    /// Nothing is asked of people.
    #[error("no vote is asked for")]
    NotAsked,
}

impl Ineligible {
    /// The word programs act on.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NotActive => "not_active",
            Self::SelfApproval => "self_approval",
            Self::OnBehalfOf => "on_behalf_of",
            Self::Delegate => "delegate_approval",
            Self::OwnersPasskey => "owners_passkey",
            Self::OwnersToken => "owners_token",
            Self::StoodIn => "stood_in",
            Self::NotInGroup => "not_in_group",
            Self::StaleMembership => "stale_membership",
            Self::RecentChange => "recent_change",
            Self::Channel => "channel_not_allowed",
            Self::NotAsked => "not_asked",
        }
    }
}

/// Checks whether `human` may decide `request` through `channel` at `now`.
///
/// Who could act as `human` must not own the agent, be whom the task runs for or own a delegate either.
/// That they changed the agent, its owner or a group lately does not count here: on the day on which an
/// operator sets everything up, nobody could decide anything. The audit's report names such votes.
///
/// # Errors
/// The first reason why not.
pub fn check(
    request: &RequestState,
    authority: &Authority,
    human: &HumanId,
    channel: &str,
    now: Timestamp,
) -> Result<(), Ineligible> {
    if !authority.humans.get(human).is_some_and(|h| h.active) {
        return Err(Ineligible::NotActive);
    }
    let Some(agent) = authority.agents.get(&request.terms.agent) else {
        return Err(Ineligible::NotActive);
    };
    if agent.owned_since(human, request.requested_at) {
        return Err(Ineligible::SelfApproval);
    }
    if request.terms.on_behalf_of.as_ref() == Some(human) {
        return Err(Ineligible::OnBehalfOf);
    }
    let owns = |by: &HumanId| agent.owned_since(by, request.requested_at);
    let enrolled_by = authority.passkeys_of(human).filter_map(|(_, p)| p.made_by.as_ref());
    if enrolled_by.filter(|by| *by != human).any(owns) {
        return Err(Ineligible::OwnersPasskey);
    }
    if authority.stand_ins(human, now).any(owns) {
        return Err(Ineligible::OwnersToken);
    }
    // Handing the right on was their agent's act: who owned it then is not absolved by giving it away.
    let since = authority
        .handed_since(&request.terms)
        .map_or(request.requested_at, |made| made.min(request.requested_at));
    let delegated = |by: &HumanId| {
        let mut delegates = request.terms.delegation.iter().map(|d| authority.agents.get(d));
        delegates.any(|a| a.is_none_or(|a| a.owned_since(by, since)))
    };
    if delegated(human) {
        return Err(Ineligible::Delegate);
    }
    let principal = |by: &HumanId| request.terms.on_behalf_of.as_ref() == Some(by);
    if authority.stand_ins(human, now).any(|by| principal(by) || delegated(by)) {
        return Err(Ineligible::StoodIn);
    }
    let Some(verdict) = &request.verdict else { return Err(Ineligible::NotAsked) };
    if verdict.kind != VerdictKind::Ask {
        return Err(Ineligible::NotAsked);
    }
    if verdict.approvers.is_empty()
        || !verdict.approvers.iter().all(|g| authority.in_group(human, g, now))
    {
        let was = |g| authority.claimed.get(human).is_some_and(|c| c.groups.contains(g));
        let only_stale = !verdict.approvers.is_empty()
            && verdict.approvers.iter().all(|g| was(g) || authority.in_group(human, g, now));
        return Err(if only_stale { Ineligible::StaleMembership } else { Ineligible::NotInGroup });
    }
    let mut agents = std::iter::once(&request.terms.agent).chain(&request.terms.delegation);
    if agents.any(|agent| authority.changed_recently(human, agent, &verdict.approvers, now)) {
        return Err(Ineligible::RecentChange);
    }
    if !verdict.channels.contains(channel) {
        return Err(Ineligible::Channel);
    }
    Ok(())
}
