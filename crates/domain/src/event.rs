//! Every transition is one event, and every event one leaf of the log: the canonical JSON of an
//! object with at least `kind` and `at`, and `request_id` and `digest` where there is a request.
//! Formats are frozen by vectors: add a kind or an optional field, never change one.

mod epoch;
mod life;
mod rest;

use serde::{Deserialize, Serialize};

use crate::canonical::{self, CanonicalError};
use crate::id::RequestId;
use crate::time::Timestamp;
pub use epoch::EpochStarted;
pub use life::{
    Answered, Cancelled, Decided, Expired, Failed, Intended, Issued, Narrowed, Questioned, Renewed,
    Requested, Revoked, Unknown, Voted, Withdrawn,
};
pub use rest::{
    Account, AccountLinked, AccountUnlinked, AgentRevoked, AgentSet, Attributes, Delegated,
    DelegationEnded, Erased, GroupSet, GroupsClaimed, HumanSet, IdentitySet, InstanceEnrolled,
    InstanceRenewed, InstanceRevoked, JoinCreated, LinkCreated, LinkSpent, ModelSet, Opened,
    PasskeyEnrolled, PasskeyRevoked, PolicyLoaded, TokenIssued, TokenRevoked,
};

/// Approve or deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// For.
    Approve,
    /// Against; ends the request.
    Deny,
}

/// How a leaf's own entry about its kind begins.
const KIND: &[u8] = b"\"kind\":\"";

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    // The life of a request, in order.
    /// An agent asked.
    Requested(Requested),
    /// Policy answered.
    Decided(Decided),
    /// A person asked back; the clock pauses.
    Questioned(Questioned),
    /// The agent answered; the clock goes on.
    Answered(Answered),
    /// A reviewer replaced the terms by narrower ones.
    Narrowed(Narrowed),
    /// A person approved or denied.
    Voted(Voted),
    /// A person took an approval back.
    Withdrawn(Withdrawn),
    /// The grant is spent; a backend may now be called.
    Intended(Intended),
    /// The credential exists and may be delivered.
    Issued(Issued),
    /// The backend refused.
    Failed(Failed),
    /// The backend's answer was lost.
    Unknown(Unknown),
    /// The agent, or a revocation, ended the request before its intent.
    Cancelled(Cancelled),
    /// Time ended the request or its lease.
    Expired(Expired),
    /// The lease was extended in place.
    Renewed(Renewed),
    /// Someone ended the lease.
    Revoked(Revoked),
    // What decisions rest on, alphabetical.
    /// A person took an account of a chat service as theirs.
    AccountLinked(AccountLinked),
    /// An account of a chat service is nobody's any more.
    AccountUnlinked(AccountUnlinked),
    /// An agent's right ended.
    AgentRevoked(AgentRevoked),
    /// An agent was registered or changed.
    AgentSet(AgentSet),
    /// An agent handed another agent a narrower right.
    Delegated(Delegated),
    /// A right that was handed on ended, and those that were handed on from it.
    DelegationEnded(DelegationEnded),
    /// The first leaf of a log that goes on from another one's backup.
    EpochStarted(EpochStarted),
    /// What lies beside a request's leaves was erased.
    Erased(Erased),
    /// A group's members were set.
    GroupSet(GroupSet),
    /// An identity provider's word on a person's groups was read.
    GroupsClaimed(GroupsClaimed),
    /// A person was registered or changed.
    HumanSet(HumanSet),
    /// An account at an identity provider was linked to a person, or no longer is.
    IdentitySet(IdentitySet),
    /// A sidecar enrolled.
    InstanceEnrolled(InstanceEnrolled),
    /// A sidecar's certificate was renewed.
    InstanceRenewed(InstanceRenewed),
    /// A sidecar's lineage ended.
    InstanceRevoked(InstanceRevoked),
    /// A join token was made.
    JoinCreated(JoinCreated),
    /// A one-time link was made.
    LinkCreated(LinkCreated),
    /// A one-time link was used.
    LinkSpent(LinkSpent),
    /// A model was approved, or no longer is.
    ModelSet(ModelSet),
    /// The first leaf of a log.
    Opened(Opened),
    /// A person enrolled a passkey.
    PasskeyEnrolled(PasskeyEnrolled),
    /// A passkey ended.
    PasskeyRevoked(PasskeyRevoked),
    /// Scopes and policies were replaced as one.
    PolicyLoaded(PolicyLoaded),
    /// A person's API token was made.
    TokenIssued(TokenIssued),
    /// A person's API token ended.
    TokenRevoked(TokenRevoked),
}

/// The canonical bytes of an event.
pub type Leaf = Vec<u8>;

impl Event {
    /// The leaf: canonical JSON.
    ///
    /// # Errors
    /// When a map inside holds null or a float.
    pub fn to_leaf(&self) -> Result<Leaf, CanonicalError> {
        canonical::to_bytes(self)
    }

    /// Reads a leaf; bytes that are not in canonical form are refused.
    ///
    /// # Errors
    /// Not strict JSON, unknown kind or field, not canonical.
    pub fn from_leaf(leaf: &[u8]) -> Result<Self, CanonicalError> {
        // What is written again as the very same bytes, and is no deeper than allowed, is canonical:
        // the strict reader, which builds a tree first, could only agree. It tells what is wrong.
        if let Some(event) = Self::quickly(leaf)
            && canonical::depth(leaf) <= canonical::MAX_DEPTH
            && event.to_leaf().is_ok_and(|written| written == leaf)
        {
            return Ok(event);
        }
        let event: Self = canonical::parse_as(leaf)?;
        if event.to_leaf()? != leaf {
            return Err(CanonicalError("not in canonical form".into()));
        }
        Ok(event)
    }

    /// The event of bytes that may be canonical: whoever calls this writes it again and compares. A tag
    /// within an object makes serde build a tree first; the kinds that fill a log go without.
    fn quickly(leaf: &[u8]) -> Option<Self> {
        let (kind, rest) = canonical::take_text(leaf, KIND)?;
        fn read<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Option<T> {
            serde_json::from_slice(bytes).ok()
        }
        match kind {
            b"requested" => read(&rest).map(Self::Requested),
            b"decided" => read(&rest).map(Self::Decided),
            b"voted" => read(&rest).map(Self::Voted),
            b"intended" => read(&rest).map(Self::Intended),
            b"issued" => read(&rest).map(Self::Issued),
            b"expired" => read(&rest).map(Self::Expired),
            _ => read(leaf),
        }
    }

    /// The `kind` of a leaf that is canonical, without reading the rest; of other bytes it says nothing.
    #[must_use]
    pub fn kind_of(leaf: &[u8]) -> Option<&str> {
        let (_, kind) = canonical::find_text(leaf, KIND)?;
        std::str::from_utf8(kind).ok()
    }

    /// The `kind` as it stands in the leaf.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Requested(_) => "requested",
            Self::Decided(_) => "decided",
            Self::Questioned(_) => "questioned",
            Self::Answered(_) => "answered",
            Self::Narrowed(_) => "narrowed",
            Self::Voted(_) => "voted",
            Self::Withdrawn(_) => "withdrawn",
            Self::Intended(_) => "intended",
            Self::Issued(_) => "issued",
            Self::Failed(_) => "failed",
            Self::Unknown(_) => "unknown",
            Self::Cancelled(_) => "cancelled",
            Self::Expired(_) => "expired",
            Self::Renewed(_) => "renewed",
            Self::Revoked(_) => "revoked",
            Self::AccountLinked(_) => "account_linked",
            Self::AccountUnlinked(_) => "account_unlinked",
            Self::AgentRevoked(_) => "agent_revoked",
            Self::AgentSet(_) => "agent_set",
            Self::Delegated(_) => "delegated",
            Self::DelegationEnded(_) => "delegation_ended",
            Self::EpochStarted(_) => "epoch_started",
            Self::Erased(_) => "erased",
            Self::GroupSet(_) => "group_set",
            Self::GroupsClaimed(_) => "groups_claimed",
            Self::HumanSet(_) => "human_set",
            Self::IdentitySet(_) => "identity_set",
            Self::InstanceEnrolled(_) => "instance_enrolled",
            Self::InstanceRenewed(_) => "instance_renewed",
            Self::InstanceRevoked(_) => "instance_revoked",
            Self::JoinCreated(_) => "join_created",
            Self::LinkCreated(_) => "link_created",
            Self::LinkSpent(_) => "link_spent",
            Self::ModelSet(_) => "model_set",
            Self::Opened(_) => "opened",
            Self::PasskeyEnrolled(_) => "passkey_enrolled",
            Self::PasskeyRevoked(_) => "passkey_revoked",
            Self::PolicyLoaded(_) => "policy_loaded",
            Self::TokenIssued(_) => "token_issued",
            Self::TokenRevoked(_) => "token_revoked",
        }
    }

    /// The request this event belongs to; none for what decisions rest on.
    #[must_use]
    pub fn request_id(&self) -> Option<&RequestId> {
        match self {
            Self::Requested(e) => Some(&e.request_id),
            Self::Decided(e) => Some(&e.request_id),
            Self::Questioned(e) => Some(&e.request_id),
            Self::Answered(e) => Some(&e.request_id),
            Self::Narrowed(e) => Some(&e.request_id),
            Self::Voted(e) => Some(&e.request_id),
            Self::Withdrawn(e) => Some(&e.request_id),
            Self::Intended(e) => Some(&e.request_id),
            Self::Issued(e) => Some(&e.request_id),
            Self::Failed(e) => Some(&e.request_id),
            Self::Unknown(e) => Some(&e.request_id),
            Self::Cancelled(e) => Some(&e.request_id),
            Self::Expired(e) => Some(&e.request_id),
            Self::Renewed(e) => Some(&e.request_id),
            Self::Revoked(e) => Some(&e.request_id),
            _ => None,
        }
    }

    /// Origin, verifier key and trust domain of the log that this leaf begins; none: it begins none.
    #[must_use]
    pub fn begins(&self) -> Option<(&str, &str, &str)> {
        match self {
            Self::EpochStarted(e) => Some((&e.origin, &e.vkey, &e.trust_domain)),
            Self::Opened(e) => Some((&e.origin, &e.vkey, &e.trust_domain)),
            _ => None,
        }
    }

    /// When it happened.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Requested(e) => e.at,
            Self::Decided(e) => e.at,
            Self::Questioned(e) => e.at,
            Self::Answered(e) => e.at,
            Self::Narrowed(e) => e.at,
            Self::Voted(e) => e.at,
            Self::Withdrawn(e) => e.at,
            Self::Intended(e) => e.at,
            Self::Issued(e) => e.at,
            Self::Failed(e) => e.at,
            Self::Unknown(e) => e.at,
            Self::Cancelled(e) => e.at,
            Self::Expired(e) => e.at,
            Self::Renewed(e) => e.at,
            Self::Revoked(e) => e.at,
            Self::AccountLinked(e) => e.at,
            Self::AccountUnlinked(e) => e.at,
            Self::AgentRevoked(e) => e.at,
            Self::AgentSet(e) => e.at,
            Self::Delegated(e) => e.at,
            Self::DelegationEnded(e) => e.at,
            Self::EpochStarted(e) => e.at,
            Self::Erased(e) => e.at,
            Self::GroupSet(e) => e.at,
            Self::GroupsClaimed(e) => e.at,
            Self::HumanSet(e) => e.at,
            Self::IdentitySet(e) => e.at,
            Self::InstanceEnrolled(e) => e.at,
            Self::InstanceRenewed(e) => e.at,
            Self::InstanceRevoked(e) => e.at,
            Self::JoinCreated(e) => e.at,
            Self::LinkCreated(e) => e.at,
            Self::LinkSpent(e) => e.at,
            Self::ModelSet(e) => e.at,
            Self::Opened(e) => e.at,
            Self::PasskeyEnrolled(e) => e.at,
            Self::PasskeyRevoked(e) => e.at,
            Self::PolicyLoaded(e) => e.at,
            Self::TokenIssued(e) => e.at,
            Self::TokenRevoked(e) => e.at,
        }
    }
}
