//! Every transition is one event, and every event one leaf of the log: the canonical JSON of an
//! object with at least `kind` and `at`, and `request_id` and `digest` where there is a request.
//! Formats are frozen by vectors: add a kind or an optional field, never change one.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::canonical::{self, CanonicalError};
use crate::delegation::Bounds;
use crate::digest::Digest;
use crate::id::{
    AgentId, DelegationId, GroupName, HumanId, InstanceId, LeaseId, RequestId, ScopeName,
};
use crate::passkey::PublicKey;
use crate::request::Terms;
use crate::time::Timestamp;
use crate::verdict::Verdict;

/// Approve or deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// For.
    Approve,
    /// Against; ends the request.
    Deny,
}

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

/// See [`Event::Requested`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requested {
    /// When.
    pub at: Timestamp,
    /// D of the terms.
    pub digest: Digest,
    /// The lease this ask replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renews: Option<LeaseId>,
    /// The request.
    pub request_id: RequestId,
    /// What is asked.
    pub terms: Terms,
}

/// See [`Event::Decided`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decided {
    /// True when decided again at collection.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
    /// When.
    pub at: Timestamp,
    /// The agent's registered attributes at that moment.
    pub attributes: Map<String, Value>,
    /// The registered attributes, at that moment, of the agents that passed the right on, in the order
    /// of the terms: policy is asked about each of them too, and the strictest answer holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<Map<String, Value>>,
    /// The context at that moment: time, peer, delegation.
    pub context: Map<String, Value>,
    /// D that was decided.
    pub digest: Digest,
    /// Approvers whom policy lets approve no longer; their votes do not count under this verdict.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub excluded: BTreeSet<HumanId>,
    /// Size of the log of which `unusual` was computed; absent: it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub past: Option<u64>,
    /// The request.
    pub request_id: RequestId,
    /// Facts that differ from this agent's past, at most three.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unusual: Vec<String>,
    /// What policy said.
    pub verdict: Verdict,
}

/// See [`Event::Questioned`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Questioned {
    /// When.
    pub at: Timestamp,
    /// D in question.
    pub digest: Digest,
    /// The request.
    pub request_id: RequestId,
    /// Who asks.
    pub human: HumanId,
    /// Through what.
    pub channel: String,
    /// Commitment to the text.
    pub text: Digest,
}

/// See [`Event::Answered`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answered {
    /// When.
    pub at: Timestamp,
    /// D in question.
    pub digest: Digest,
    /// The request.
    pub request_id: RequestId,
    /// Commitment to the text.
    pub text: Digest,
}

/// See [`Event::Narrowed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Narrowed {
    /// When.
    pub at: Timestamp,
    /// D of the new terms.
    pub digest: Digest,
    /// D that they replace.
    pub old_digest: Digest,
    /// The request.
    pub request_id: RequestId,
    /// Who narrowed.
    pub human: HumanId,
    /// Through what.
    pub channel: String,
    /// The new terms.
    pub terms: Terms,
    /// Commitment to why, in the person's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Digest>,
}

/// See [`Event::Voted`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Voted {
    /// When.
    pub at: Timestamp,
    /// D that was voted on.
    pub digest: Digest,
    /// The request.
    pub request_id: RequestId,
    /// Who.
    pub human: HumanId,
    /// For or against.
    pub decision: Decision,
    /// Through what.
    pub channel: String,
    /// Ordinal within the request (from 0) of the last question, answer or narrowing leaf the voter
    /// had seen; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<u64>,
    /// The voter's groups at that moment.
    pub groups: BTreeSet<GroupName>,
    /// Determining policies of the `approve` action.
    pub policies: BTreeSet<String>,
    /// The policy set that answered.
    pub policy_set: Digest,
    /// One-tap reason of a deny, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason_code: String,
    /// Commitment to free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Digest>,
    /// The fact of the request that the voter confirmed, as the scope's `confirm` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<String>,
    /// What proves the vote; absent: the broker's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Map<String, Value>>,
}

/// See [`Event::Withdrawn`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Withdrawn {
    /// When.
    pub at: Timestamp,
    /// D whose approval is taken back.
    pub digest: Digest,
    /// The request.
    pub request_id: RequestId,
    /// Who.
    pub human: HumanId,
    /// Through what.
    pub channel: String,
}

/// See [`Event::Intended`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intended {
    /// Whose approvals stand.
    pub approvers: BTreeSet<HumanId>,
    /// When.
    pub at: Timestamp,
    /// D that will be minted.
    pub digest: Digest,
    /// The minter that will be called.
    pub minter: String,
    /// The request.
    pub request_id: RequestId,
}

/// See [`Event::Issued`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issued {
    /// When.
    pub at: Timestamp,
    /// D that was minted.
    pub digest: Digest,
    /// When the credential ends by itself.
    pub expires_at: Timestamp,
    /// What identifies the credential at its backend; never a secret.
    pub facts: BTreeMap<String, String>,
    /// The lease that begins.
    pub lease_id: LeaseId,
    /// The request.
    pub request_id: RequestId,
    /// Whether it can be ended early.
    pub revocable: bool,
}

/// See [`Event::Failed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failed {
    /// When.
    pub at: Timestamp,
    /// D that was refused.
    pub digest: Digest,
    /// The request.
    pub request_id: RequestId,
    /// Machine word.
    pub code: String,
    /// Chosen words, never the backend's own.
    pub detail: String,
}

/// See [`Event::Unknown`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unknown {
    /// When.
    pub at: Timestamp,
    /// D whose outcome is unknown.
    pub digest: Digest,
    /// The request.
    pub request_id: RequestId,
    /// Chosen words.
    pub detail: String,
}

/// See [`Event::Cancelled`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cancelled {
    /// When.
    pub at: Timestamp,
    /// D.
    pub digest: Digest,
    /// The request.
    pub request_id: RequestId,
    /// `agent`, `delegation` or `revocation`.
    pub by: String,
}

/// See [`Event::Expired`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expired {
    /// When.
    pub at: Timestamp,
    /// D.
    pub digest: Digest,
    /// The request.
    pub request_id: RequestId,
    /// The lease, when it is the credential that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<LeaseId>,
}

/// See [`Event::Renewed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renewed {
    /// When.
    pub at: Timestamp,
    /// D.
    pub digest: Digest,
    /// The request.
    pub request_id: RequestId,
    /// The lease.
    pub lease_id: LeaseId,
    /// Its new end.
    pub expires_at: Timestamp,
}

/// See [`Event::Revoked`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    /// When.
    pub at: Timestamp,
    /// D.
    pub digest: Digest,
    /// The request.
    pub request_id: RequestId,
    /// The lease.
    pub lease_id: LeaseId,
    /// A person's id, `agent`, or `broker`.
    pub by: String,
    /// What ending it did at the backend, as seen.
    pub effect: String,
    /// True when the backend could not end it: it is no longer served, and valid until its own end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub still_valid: bool,
}

/// See [`Event::AccountLinked`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountLinked {
    /// When.
    pub at: Timestamp,
    /// The person, who confirmed it while signed in to the console.
    pub human: HumanId,
    /// The account.
    pub account: Account,
}

/// See [`Event::AccountUnlinked`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountUnlinked {
    /// When.
    pub at: Timestamp,
    /// The person, or an operator.
    pub by: HumanId,
    /// The account.
    pub account: Account,
}

/// An account of a chat service, by the ids that the service never gives to another: never a name
/// or an e-mail address, which people can change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The channel's word in votes: `slack`, `teams`, …
    pub channel: String,
    /// The workspace or tenant.
    pub tenant: String,
    /// The account within it.
    pub account: String,
}

impl Account {
    /// True when each part is 1 to 128 printable ASCII characters without spaces.
    #[must_use]
    pub fn is_wellformed(&self) -> bool {
        [&self.channel, &self.tenant, &self.account].iter().all(|part| {
            (1..=128).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_graphic())
        })
    }
}

/// See [`Event::AgentRevoked`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRevoked {
    /// When.
    pub at: Timestamp,
    /// The operator.
    pub by: HumanId,
    /// The agent.
    pub agent: AgentId,
}

/// See [`Event::AgentSet`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSet {
    /// When.
    pub at: Timestamp,
    /// The operator.
    pub by: HumanId,
    /// The agent.
    pub agent: AgentId,
    /// The human who answers for it.
    pub owner: HumanId,
    /// Registered attributes.
    pub attributes: Attributes,
}

/// What an operator registers of an agent; a request cannot set it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attributes {
    /// For example `Sales`.
    #[serde(default)]
    pub team: String,
    /// For example `production`.
    #[serde(default)]
    pub environment: String,
    /// The model it runs.
    #[serde(default)]
    pub model: String,
    /// The model's version.
    #[serde(default)]
    pub model_version: String,
}

/// See [`Event::Delegated`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegated {
    /// When.
    pub at: Timestamp,
    /// Its name.
    pub delegation_id: DelegationId,
    /// Whose right it is, by the certificate of its sidecar.
    pub from: AgentId,
    /// That sidecar: with it ends what it handed on.
    pub instance: InstanceId,
    /// Who may ask under it.
    pub to: AgentId,
    /// What was handed to `from` and is passed on; absent: `from`'s own right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<DelegationId>,
    /// What may be asked for, and within which bounds.
    pub scopes: BTreeMap<ScopeName, Bounds>,
    /// How many times it may be passed on further.
    #[serde(default, skip_serializing_if = "none_at_all")]
    pub passes: u32,
    /// Its end.
    pub expires_at: Timestamp,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn none_at_all(n: &u32) -> bool {
    *n == 0
}

/// See [`Event::DelegationEnded`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DelegationEnded {
    /// When.
    pub at: Timestamp,
    /// Which.
    pub delegation_id: DelegationId,
    /// The agent that ended it, which is one of its chain; absent: a person did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// The person who ended it: an operator, or the owner of one of its agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub human: Option<HumanId>,
}

/// See [`Event::EpochStarted`]. The `carried` leaves after it are leaves of the old log, as they stood
/// there and in their order, beginning with its first: all that decisions rest on, and every request
/// whose credential may still live or whose outcome was not recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochStarted {
    /// When.
    pub at: Timestamp,
    /// Version of the leaf format: 1.
    pub version: u32,
    /// Origin of this log.
    pub origin: String,
    /// Verifier key of this log.
    pub vkey: String,
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// The recovery key of this log: what signs the next epoch.
    pub recovery_key: String,
    /// Origin of the log that ended.
    pub old_origin: String,
    /// Its verifier key.
    pub old_vkey: String,
    /// Its last known checkpoint, a note signed by `old_vkey`.
    pub old_checkpoint: String,
    /// How many of its leaves the backup held.
    pub restored: u64,
    /// Root over those, base64.
    pub restored_root: String,
    /// How many leaves after this one are the old log's.
    pub carried: u64,
    /// Root (RFC 6962) over those, base64.
    pub carried_root: String,
    /// Signature lines of the note over [`EpochStarted::signed_text`] by the old log's recovery key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub signature: String,
}

impl EpochStarted {
    /// What the recovery key signs: the canonical leaf without `signature`, as one line.
    ///
    /// # Errors
    /// When a number cannot be written canonically.
    pub fn signed_text(&self) -> Result<String, CanonicalError> {
        let leaf = Self { signature: String::new(), ..self.clone() }.to_leaf()?;
        let mut text = String::from_utf8(leaf).map_err(|e| CanonicalError(e.to_string()))?;
        text.push('\n');
        Ok(text)
    }

    /// The leaf, as [`Event::to_leaf`] gives it: here without the code of all other kinds.
    ///
    /// # Errors
    /// As [`EpochStarted::signed_text`].
    pub fn to_leaf(&self) -> Result<Leaf, CanonicalError> {
        let said = |e: serde_json::Error| CanonicalError(e.to_string());
        let mut value = serde_json::to_value(self).map_err(said)?;
        if let Value::Object(fields) = &mut value {
            fields.insert("kind".into(), "epoch_started".into());
        }
        canonical::to_bytes(&value)
    }

    /// Reads a leaf of this kind.
    ///
    /// # Errors
    /// Another kind, or what [`Event::from_leaf`] refuses.
    pub fn from_leaf(leaf: &[u8]) -> Result<Self, CanonicalError> {
        let refuse = |what: &str| CanonicalError(what.to_owned());
        let Value::Object(mut fields) = canonical::parse(leaf)? else {
            return Err(refuse("not an object"));
        };
        if fields.remove("kind") != Some("epoch_started".into()) {
            return Err(refuse("not an `epoch_started` leaf"));
        }
        let event: Self = serde_json::from_value(Value::Object(fields))
            .map_err(|e| CanonicalError(e.to_string()))?;
        if event.to_leaf()? == leaf { Ok(event) } else { Err(refuse("not in canonical form")) }
    }
}

/// See [`Event::Erased`]. It is no step of the request's own life, which is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erased {
    /// When.
    pub at: Timestamp,
    /// The operator.
    pub by: HumanId,
    /// The request whose texts they were.
    pub of: RequestId,
    /// Their names, as in [`crate::Terms`]'s commitments: `reason`, `param:<x>`, `answer:<n>`, …
    pub texts: BTreeSet<String>,
}

/// See [`Event::GroupSet`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSet {
    /// When.
    pub at: Timestamp,
    /// The operator.
    pub by: HumanId,
    /// The group.
    pub group: GroupName,
    /// All its members from now on.
    pub members: BTreeSet<HumanId>,
}

/// See [`Event::GroupsClaimed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupsClaimed {
    /// When the provider's signed word was read.
    pub at: Timestamp,
    /// The person.
    pub human: HumanId,
    /// The provider.
    pub issuer: String,
    /// The account there.
    pub subject: String,
    /// All the groups it maps to, from now on.
    pub groups: BTreeSet<GroupName>,
    /// From when on the word is stale, and counts as no group; a day after `at` at most.
    pub until: Timestamp,
}

/// See [`Event::HumanSet`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HumanSet {
    /// When.
    pub at: Timestamp,
    /// The operator; the person's own id for the first.
    pub by: HumanId,
    /// The person.
    pub human: HumanId,
    /// May act.
    pub active: bool,
    /// May change agents, owners, groups, scopes and policy.
    pub operator: bool,
}

/// See [`Event::IdentitySet`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentitySet {
    /// When.
    pub at: Timestamp,
    /// The operator.
    pub by: HumanId,
    /// The provider's `iss`, compared as bytes.
    pub issuer: String,
    /// The account's `sub` there, compared as bytes; never an e-mail address.
    pub subject: String,
    /// Whose account it is; absent: nobody's any longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub human: Option<HumanId>,
}

/// See [`Event::InstanceEnrolled`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceEnrolled {
    /// When.
    pub at: Timestamp,
    /// The join token that was spent.
    pub join_id: String,
    /// The agent.
    pub agent: AgentId,
    /// The new instance.
    pub instance: InstanceId,
    /// Serial number of its certificate, hexadecimal.
    pub serial: String,
    /// Digest of its public key (DER SPKI).
    pub key: Digest,
    /// X25519 key to which credentials are sealed, hexadecimal.
    pub seal_key: String,
    /// End of its certificate.
    pub not_after: Timestamp,
}

/// See [`Event::InstanceRenewed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceRenewed {
    /// When.
    pub at: Timestamp,
    /// The instance.
    pub instance: InstanceId,
    /// The serial that was renewed; it can be renewed once.
    pub old_serial: String,
    /// The new serial.
    pub serial: String,
    /// Digest of the new public key.
    pub key: Digest,
    /// End of the new certificate.
    pub not_after: Timestamp,
}

/// See [`Event::InstanceRevoked`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceRevoked {
    /// When.
    pub at: Timestamp,
    /// A person's id, or `broker`.
    pub by: String,
    /// The instance.
    pub instance: InstanceId,
    /// Chosen words, for example `a renewed certificate was renewed again`.
    pub reason: String,
}

/// See [`Event::JoinCreated`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinCreated {
    /// When.
    pub at: Timestamp,
    /// The operator.
    pub by: HumanId,
    /// Names the token without revealing it.
    pub join_id: String,
    /// The agent it enrols.
    pub agent: AgentId,
    /// Digest of the token (256 random bits).
    pub token_hash: Digest,
    /// Its end.
    pub expires_at: Timestamp,
}

/// See [`Event::LinkCreated`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkCreated {
    /// When.
    pub at: Timestamp,
    /// The operator.
    pub by: HumanId,
    /// Names the link without revealing it.
    pub link_id: String,
    /// Whom it signs in.
    pub human: HumanId,
    /// Digest of its code (256 random bits).
    pub code_hash: Digest,
    /// `api`, `login` or `enrol`.
    pub purpose: String,
    /// Its end.
    pub expires_at: Timestamp,
}

/// See [`Event::LinkSpent`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSpent {
    /// When.
    pub at: Timestamp,
    /// The link.
    pub link_id: String,
}

/// See [`Event::ModelSet`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSet {
    /// When.
    pub at: Timestamp,
    /// The operator.
    pub by: HumanId,
    /// The model.
    pub model: String,
    /// Its version.
    pub model_version: String,
    /// Qualified until; absent: no longer qualified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// See [`Event::Opened`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opened {
    /// When.
    pub at: Timestamp,
    /// Version of the leaf format: 1.
    pub version: u32,
    /// Origin of the log.
    pub origin: String,
    /// Verifier key of the log.
    pub vkey: String,
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Verifier key of the offline key that alone can begin a new epoch; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_key: Option<String>,
}

/// See [`Event::PasskeyEnrolled`]. It spends its link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasskeyEnrolled {
    /// When.
    pub at: Timestamp,
    /// Whose it is.
    pub human: HumanId,
    /// The link of purpose `enrol` that was spent.
    pub link_id: String,
    /// The credential's id, base64url without padding.
    pub credential_id: String,
    /// Its public key.
    pub public_key: PublicKey,
    /// The relying party it answers to: the host of the console.
    pub rp_id: String,
    /// Model of the authenticator, 32 hexadecimal digits; zeros: not told.
    pub aaguid: String,
    /// Whether it may be copied to the person's other devices.
    pub backup_eligible: bool,
}

/// See [`Event::PasskeyRevoked`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasskeyRevoked {
    /// When.
    pub at: Timestamp,
    /// The person, or an operator.
    pub by: HumanId,
    /// Which passkey.
    pub credential_id: String,
}

/// See [`Event::PolicyLoaded`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyLoaded {
    /// When.
    pub at: Timestamp,
    /// The operator.
    pub by: HumanId,
    /// Digest of the policy texts; the blob lies beside the log.
    pub policy_set: Digest,
    /// Digests of the scope declarations; the blobs lie beside the log.
    pub scopes: BTreeMap<ScopeName, Digest>,
}

/// See [`Event::TokenIssued`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenIssued {
    /// When.
    pub at: Timestamp,
    /// The operator who made it, or who made the link that was redeemed for it.
    pub by: HumanId,
    /// Names the token without revealing it.
    pub token_id: String,
    /// Whose it is.
    pub human: HumanId,
    /// Digest of the token (256 random bits).
    pub token_hash: Digest,
    /// Its end; 12 hours at most.
    pub expires_at: Timestamp,
}

/// See [`Event::TokenRevoked`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRevoked {
    /// When.
    pub at: Timestamp,
    /// The operator, or the person.
    pub by: HumanId,
    /// The token.
    pub token_id: String,
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
        let (kind, rest) = canonical::take_text(leaf, b"\"kind\":\"")?;
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
