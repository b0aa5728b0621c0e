//! The events of what decisions rest on: agents, people, groups, keys, policy.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::delegation::Bounds;
use crate::digest::Digest;
use crate::id::{AgentId, DelegationId, GroupName, HumanId, InstanceId, RequestId, ScopeName};
use crate::passkey::PublicKey;
use crate::time::Timestamp;

/// See [`super::Event::AccountLinked`].
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

/// See [`super::Event::AccountUnlinked`].
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

/// See [`super::Event::AgentRevoked`].
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

/// See [`super::Event::AgentSet`].
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

/// See [`super::Event::Delegated`].
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

/// See [`super::Event::DelegationEnded`].
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

/// See [`super::Event::Erased`]. It is no step of the request's own life, which is over.
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

/// See [`super::Event::GroupSet`].
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

/// See [`super::Event::GroupsClaimed`].
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

/// See [`super::Event::HumanSet`].
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

/// See [`super::Event::IdentitySet`].
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

/// See [`super::Event::InstanceEnrolled`].
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

/// See [`super::Event::InstanceRenewed`].
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

/// See [`super::Event::InstanceRevoked`].
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

/// See [`super::Event::JoinCreated`].
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

/// See [`super::Event::LinkCreated`].
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

/// See [`super::Event::LinkSpent`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSpent {
    /// When.
    pub at: Timestamp,
    /// The link.
    pub link_id: String,
}

/// See [`super::Event::ModelSet`].
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

/// See [`super::Event::Opened`].
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

/// See [`super::Event::PasskeyEnrolled`]. It spends its link.
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

/// See [`super::Event::PasskeyRevoked`].
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

/// See [`super::Event::PolicyLoaded`].
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

/// See [`super::Event::TokenIssued`].
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

/// See [`super::Event::TokenRevoked`].
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
