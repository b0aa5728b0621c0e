//! What policy says of a request. Deny beats ask beats allow; of several the strictest wins.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::GroupName;

/// The three answers, laxest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictKind {
    /// May be minted at once.
    Allow,
    /// May be minted once people approved.
    Ask,
    /// May not be minted.
    Deny,
}

/// How strongly a person must decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strength {
    /// A verified click, or a person's token.
    Chat,
    /// A signature over H(D, decision, human, nonce, expiry).
    Passkey,
}

/// A verdict; always names the policy set and the policies that decided.
// In canonical order, as `Terms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// An approver belongs to every one of these.
    pub approvers: BTreeSet<GroupName>,
    /// Channels on which votes count.
    pub channels: BTreeSet<String>,
    /// Machine word for a deny: `denied`, `ttl_too_long`, `policy_error`; empty otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// Longest lifetime in seconds.
    pub max_ttl_s: u32,
    /// Ids of the determining policies, sorted.
    pub policies: BTreeSet<String>,
    /// The policy set.
    pub policy_set: Digest,
    /// Distinct people needed; 0 for allow and deny.
    pub quorum: u32,
    /// In plain words, why.
    pub reason: String,
    /// How each must decide.
    pub strength: Strength,
    /// Allow, ask or deny.
    #[serde(rename = "verdict")]
    pub kind: VerdictKind,
}

impl Verdict {
    /// A deny.
    #[must_use]
    pub fn deny(
        policy_set: Digest,
        code: &str,
        reason: impl Into<String>,
        policies: BTreeSet<String>,
    ) -> Self {
        Self {
            kind: VerdictKind::Deny,
            code: code.into(),
            reason: reason.into(),
            policies,
            policy_set,
            quorum: 0,
            strength: Strength::Chat,
            channels: BTreeSet::new(),
            approvers: BTreeSet::new(),
            max_ttl_s: 0,
        }
    }

    /// The stricter of the two in every respect: the stricter kind, largest quorum, `passkey` over
    /// `chat`, smallest lifetime, intersected channels, everyone's groups. An ask that nobody can
    /// answer (no channel, no group, no quorum) is a deny.
    #[must_use]
    pub fn stricter(self, other: &Self) -> Self {
        // Each alone first: two asks that nobody can answer must not complete each other.
        let (this, other) = (self.refuse_the_impossible(), other.clone().refuse_the_impossible());
        let mut out = if other.kind > this.kind {
            Self { policies: &this.policies | &other.policies, ..other.clone() }
        } else {
            Self { policies: &this.policies | &other.policies, ..this.clone() }
        };
        if this.kind == VerdictKind::Ask && other.kind == VerdictKind::Ask {
            out.quorum = this.quorum.max(other.quorum);
            out.strength = this.strength.max(other.strength);
            out.channels = &this.channels & &other.channels;
            out.approvers = &this.approvers | &other.approvers;
        }
        if out.kind != VerdictKind::Deny {
            out.max_ttl_s = this.max_ttl_s.min(other.max_ttl_s);
        }
        out.refuse_the_impossible()
    }

    /// An ask without channel, group or quorum becomes a deny: an empty set never means anyone.
    #[must_use]
    pub fn refuse_the_impossible(self) -> Self {
        let impossible = self.kind == VerdictKind::Ask
            && (self.quorum == 0 || self.channels.is_empty() || self.approvers.is_empty());
        if !impossible {
            return self;
        }
        Self::deny(
            self.policy_set,
            "denied",
            "policy asks for people, but names no channel or group through which anyone could approve",
            self.policies,
        )
    }

    /// True when this lets `ttl_s` seconds be minted, given people where it asks for them.
    #[must_use]
    pub fn admits_ttl(&self, ttl_s: u32) -> bool {
        self.kind != VerdictKind::Deny && ttl_s <= self.max_ttl_s
    }
}
