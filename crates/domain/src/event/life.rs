//! The events of a request's life, in its order.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Decision;
use crate::digest::Digest;
use crate::id::{GroupName, HumanId, LeaseId, RequestId};
use crate::request::Terms;
use crate::time::Timestamp;
use crate::verdict::Verdict;

/// See [`super::Event::Requested`].
// In canonical order, as `Terms`.
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

/// See [`super::Event::Decided`].
// In canonical order, as `Terms`.
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

/// See [`super::Event::Questioned`].
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

/// See [`super::Event::Answered`].
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

/// See [`super::Event::Narrowed`].
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

/// See [`super::Event::Voted`].
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

/// See [`super::Event::Withdrawn`].
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

/// See [`super::Event::Intended`].
// In canonical order, as `Terms`.
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

/// See [`super::Event::Issued`].
// In canonical order, as `Terms`.
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

/// See [`super::Event::Failed`].
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

/// See [`super::Event::Unknown`].
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

/// See [`super::Event::Cancelled`].
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

/// See [`super::Event::Expired`].
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

/// See [`super::Event::Renewed`].
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

/// See [`super::Event::Revoked`].
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
