//! Who may decide: people, groups, agents and their owners, instances, tokens, scopes and policy,
//! as the fold of the log's leaves.

mod steps;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::delegation::Delegation;
use crate::digest::Digest;
use crate::event::{Account, Attributes, EpochStarted};
use crate::id::{AgentId, DelegationId, GroupName, HumanId, InstanceId, ScopeName};
use crate::passkey::PublicKey;
use crate::scope::Scope;
use crate::state::Violation;
use crate::time::{CLOCK_BOUND_MS, Timestamp};

/// An operator who changed an agent, its owner or a group may not approve for this long (24 h).
pub const SEPARATION_MS: i64 = 24 * 3_600_000;
/// Longest life of a session at the console (12 h).
pub const SESSION_LIFE_MS: i64 = 12 * 3_600_000;
/// Longest life of a person's API token (12 h).
pub const TOKEN_LIFE_MS: i64 = 12 * 3_600_000;

/// Longest time for which an identity provider's word on groups counts (24 h).
pub const CLAIM_LIFE_MS: i64 = 24 * 3_600_000;
/// Most groups that one word of an identity provider names.
pub const MOST_CLAIMED: usize = 64;
/// How long a join token or link that ended is remembered (24 h): to say that it was used.
pub(crate) const FORGET_MS: i64 = 24 * 3_600_000;
/// Serials that are remembered of an instance; a call with an older one is refused as unknown.
const SERIALS_KEPT: usize = 16;

/// A person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Human {
    /// May act.
    pub active: bool,
    /// May change what decisions rest on.
    pub operator: bool,
}

/// A span of ownership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    /// Who owned it.
    pub human: HumanId,
    /// Until when; none: still.
    pub until: Option<Timestamp>,
}

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Owners, oldest first; the last is the present one.
    pub owners: Vec<Ownership>,
    /// Registered attributes.
    pub attributes: Attributes,
    /// Its right ended.
    pub revoked: bool,
}

impl Agent {
    /// The present owner.
    #[must_use]
    pub fn owner(&self) -> Option<&HumanId> {
        self.owners.last().map(|o| &o.human)
    }

    /// True when `human` owned the agent at any time since `since`.
    #[must_use]
    pub fn owned_since(&self, human: &HumanId, since: Timestamp) -> bool {
        self.owners.iter().any(|o| &o.human == human && o.until.is_none_or(|until| until >= since))
    }
}

/// One enrolled sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its agent.
    pub agent: AgentId,
    /// Serials that were renewed already, and the present one, last.
    pub serials: Vec<String>,
    /// The join token that it spent.
    pub join_id: String,
    /// Digest of the public key of its present certificate.
    pub key: Digest,
    /// End of its present certificate.
    pub not_after: Timestamp,
    /// X25519 key to which credentials are sealed, hexadecimal.
    pub seal_key: String,
    /// Its lineage ended.
    pub revoked: bool,
}

/// A join token, a one-time link or a person's API token: known by its digest only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer<S> {
    /// Its name.
    pub id: String,
    /// Whom it stands for.
    pub subject: S,
    /// Its end.
    pub expires_at: Timestamp,
    /// Used up or revoked.
    pub spent: bool,
    /// What it is for; empty where there is one purpose only.
    pub purpose: String,
    /// Who had it made; none for join tokens, which only operators make.
    pub made_by: Option<HumanId>,
    /// When it was used.
    pub spent_at: Option<Timestamp>,
}

/// A person's passkey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passkey {
    /// Whose.
    pub human: HumanId,
    /// Its public key.
    pub public_key: PublicKey,
    /// The relying party it answers to.
    pub rp_id: String,
    /// Model of the authenticator; zeros: not told.
    pub aaguid: String,
    /// Whether it may be copied to the person's other devices.
    pub backup_eligible: bool,
    /// When it was enrolled.
    pub enrolled_at: Timestamp,
    /// Who made the link by which it was enrolled.
    pub made_by: Option<HumanId>,
    /// It ended.
    pub revoked: bool,
    /// When it ended: a session that it began may go on.
    pub ended_at: Option<Timestamp>,
}

/// Whose an account at an identity provider is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The person.
    pub human: HumanId,
    /// The operator who linked it: who could have linked an account of their own.
    pub by: HumanId,
}

/// Who linked an account at an identity provider that is no longer linked so: a session that it began
/// may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlinked {
    /// As it was.
    pub identity: Identity,
    /// Until when.
    pub at: Timestamp,
}

/// What an identity provider said of a person's groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The provider and the account there.
    pub account: (String, String),
    /// The groups.
    pub groups: BTreeSet<GroupName>,
    /// When it was read.
    pub at: Timestamp,
    /// From when on it is stale.
    pub until: Timestamp,
}

/// What an operator changed, for the separation of duties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: Timestamp,
    /// The operator.
    pub by: HumanId,
    /// The agent, when it was an agent.
    pub agent: Option<AgentId>,
    /// The group, when it was a group.
    pub group: Option<GroupName>,
}

/// The fold of everything decisions rest on.
#[derive(Debug, Clone, Default)]
pub struct Authority {
    /// Origin of the log; empty before the first leaf.
    pub origin: String,
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Verifier key of the log.
    pub vkey: String,
    /// Verifier key of the offline key that signs the next epoch; empty: there is none.
    pub recovery_key: String,
    /// The epochs since the first log, oldest first: the last one began this log. None: it is the first.
    pub epochs: Vec<EpochStarted>,
    /// The recovery key that the first log named, where this log carries its first leaf.
    pub first_recovery_key: String,
    /// People.
    pub humans: BTreeMap<HumanId, Human>,
    /// Groups and the members that operators set; who belongs to one is told by
    /// [`Authority::in_group`].
    pub groups: BTreeMap<GroupName, BTreeSet<HumanId>>,
    /// Accounts at identity providers, by issuer and subject.
    pub identities: BTreeMap<(String, String), Identity>,
    /// Links to accounts at identity providers that ended within [`SESSION_LIFE_MS`].
    pub unlinked: Vec<Unlinked>,
    /// The identity provider's last word on each person's groups.
    pub claimed: BTreeMap<HumanId, Claimed>,
    /// Agents.
    pub agents: BTreeMap<AgentId, Agent>,
    /// Rights that agents handed on, ended ones for a day.
    pub delegations: BTreeMap<DelegationId, Delegation>,
    /// Instances.
    pub instances: BTreeMap<InstanceId, Instance>,
    /// Instance by certificate serial.
    pub serials: HashMap<String, InstanceId>,
    /// Join tokens by digest.
    pub joins: HashMap<Digest, Bearer<AgentId>>,
    /// One-time links by digest.
    pub links: HashMap<Digest, Bearer<HumanId>>,
    /// People's API tokens by digest.
    pub tokens: HashMap<Digest, Bearer<HumanId>>,
    /// Passkeys by credential id, ended ones too.
    pub passkeys: BTreeMap<String, Passkey>,
    /// Accounts of chat services, and whose each is. A person has at most one in each tenant of a
    /// channel.
    pub accounts: BTreeMap<Account, HumanId>,
    /// Who could act as its person when an account of a chat service was linked: who so links an
    /// account of their own presses as that person for as long as it is linked.
    pub account_makers: BTreeMap<Account, BTreeSet<HumanId>>,
    /// Qualified models: (model, version) to the end of qualification.
    pub models: BTreeMap<(String, String), Timestamp>,
    /// The policy set in force.
    pub policy_set: Option<Digest>,
    /// The scopes in force.
    pub scopes: BTreeMap<ScopeName, Digest>,
    /// Recent changes by operators.
    pub changes: Vec<Change>,
    /// Declarations by digest; filled from blobs, which prove themselves by their digest.
    pub catalog: HashMap<Digest, Arc<Scope>>,
    /// Index of the last authority leaf folded in.
    pub last_leaf: u64,
    /// The latest time of an authority leaf.
    pub latest_at: Timestamp,
}

impl Authority {
    /// Adds a declaration, found under its own digest.
    ///
    /// # Errors
    /// When the declaration cannot be written canonically.
    pub fn learn(&mut self, scope: Arc<Scope>) -> Result<Digest, crate::CanonicalError> {
        let digest = scope.digest()?;
        self.catalog.insert(digest, scope);
        Ok(digest)
    }

    /// The scope in force under this name.
    #[must_use]
    pub fn scope(&self, name: &ScopeName) -> Option<(&Arc<Scope>, Digest)> {
        let digest = *self.scopes.get(name)?;
        Some((self.catalog.get(&digest)?, digest))
    }

    /// The groups a person belongs to at `now`: those operators put them in, and those the identity
    /// provider named, while its word is fresh.
    #[must_use]
    pub fn groups_of(&self, human: &HumanId, now: Timestamp) -> BTreeSet<GroupName> {
        let set = self.groups.iter().filter(|(_, m)| m.contains(human)).map(|(g, _)| g);
        set.chain(self.claims_of(human, now)).cloned().collect()
    }

    /// True when a person belongs to the group at `now`, as [`Authority::groups_of`].
    #[must_use]
    pub fn in_group(&self, human: &HumanId, group: &GroupName, now: Timestamp) -> bool {
        self.groups.get(group).is_some_and(|m| m.contains(human))
            || self.claims_of(human, now).any(|g| g == group)
    }

    /// Everyone who belongs to the group at `now`.
    #[must_use]
    pub fn members_of(&self, group: &GroupName, now: Timestamp) -> BTreeSet<HumanId> {
        let set = self.groups.get(group).into_iter().flatten().cloned();
        let claimed = self.claimed.keys().filter(|h| self.in_group(h, group, now)).cloned();
        set.chain(claimed).collect()
    }

    /// The person whose account this is; both are compared as bytes.
    #[must_use]
    pub fn identified(&self, issuer: &str, subject: &str) -> Option<&HumanId> {
        self.identities.get(&(issuer.to_owned(), subject.to_owned())).map(|i| &i.human)
    }

    /// Groups by the identity provider's word, none once it is stale.
    fn claims_of(&self, human: &HumanId, now: Timestamp) -> impl Iterator<Item = &GroupName> {
        let fresh = self.claimed.get(human).filter(|c| c.at <= now && now < c.until);
        fresh.into_iter().flat_map(|c| &c.groups)
    }

    /// True when the model is qualified at `now`.
    #[must_use]
    pub fn qualified(&self, attributes: &Attributes, now: Timestamp) -> bool {
        self.models
            .get(&(attributes.model.clone(), attributes.model_version.clone()))
            .is_some_and(|until| *until > now)
    }

    /// True when `human` is an active operator.
    #[must_use]
    pub fn is_operator(&self, human: &HumanId) -> bool {
        self.humans.get(human).is_some_and(|h| h.active && h.operator)
    }

    /// True when `human` changed the agent or one of the groups within [`SEPARATION_MS`].
    #[must_use]
    pub fn changed_recently(
        &self,
        human: &HumanId,
        agent: &AgentId,
        groups: &BTreeSet<GroupName>,
        now: Timestamp,
    ) -> bool {
        self.changes.iter().any(|c| {
            &c.by == human
                && now.since(c.at) < SEPARATION_MS
                && (c.agent.as_ref() == Some(agent)
                    || c.group.as_ref().is_some_and(|g| groups.contains(g)))
        })
    }

    /// People who could act as `human` at `now`: who made a token, a link or a passkey for them that
    /// still works, or whose session may go on; who said which account is theirs; and who could act as
    /// them when an account of a chat service was linked.
    pub fn stand_ins<'a>(
        &'a self,
        human: &'a HumanId,
        now: Timestamp,
    ) -> impl Iterator<Item = &'a HumanId> {
        let session = move |at: Timestamp| now.since(at) < SESSION_LIFE_MS;
        // Links to sign in and to enrol begin a session. A link for the API gives a token, which counts
        // by itself.
        let links = self.links.values().filter(move |l| {
            l.spent_at
                .map_or(!l.spent && l.expires_at > now, |at| l.purpose != "api" && session(at))
        });
        let passkeys = self.passkeys.values().filter(move |p| p.ended_at.is_none_or(session));
        let unlinked = self.unlinked.iter().filter(move |u| session(u.at)).map(|u| &u.identity);
        let accounts =
            self.account_makers.iter().filter(|(a, _)| self.accounts.get(a) == Some(human));
        self.tokens
            .values()
            .filter(move |t| !t.spent && t.expires_at > now)
            .chain(links)
            .filter(move |t| t.subject == *human)
            .filter_map(|t| t.made_by.as_ref())
            .chain(passkeys.filter(move |p| p.human == *human).filter_map(|p| p.made_by.as_ref()))
            .chain(
                self.identities
                    .values()
                    .chain(unlinked)
                    .filter(move |i| i.human == *human)
                    .map(|i| &i.by),
            )
            .chain(accounts.flat_map(|(_, makers)| makers))
            .filter(move |by| *by != human)
    }

    /// The live passkeys of a person.
    pub fn passkeys_of<'a>(
        &'a self,
        human: &'a HumanId,
    ) -> impl Iterator<Item = (&'a String, &'a Passkey)> {
        self.passkeys.iter().filter(move |(_, p)| p.human == *human && !p.revoked)
    }

    /// The account by which a person is known in a tenant of a channel.
    #[must_use]
    pub fn account_of(&self, human: &HumanId, channel: &str, tenant: &str) -> Option<&Account> {
        self.accounts
            .iter()
            .find(|(a, h)| *h == human && a.channel == channel && a.tenant == tenant)
            .map(|(a, _)| a)
    }

    /// How many leaves after the first are an older log's.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.epochs.last().map_or(0, |e| e.carried)
    }

    /// Whether terms of the leaf at `index` may name the log `origin`: this one's, and among what was
    /// carried over an older one's.
    #[must_use]
    pub fn may_name(&self, index: u64, origin: &str) -> bool {
        match index <= self.carried() {
            true if index > 0 => self.epochs.iter().any(|e| e.old_origin == origin),
            _ => origin == self.origin,
        }
    }

    /// Refuses a time that lies before what the log has seen by more than the clock bound: a leaf that
    /// is dated back would be judged by rights of another day. What was carried over is older than the
    /// leaf before it that carries it.
    ///
    /// # Errors
    /// The rule `time`.
    pub fn not_before(&self, index: u64, at: Timestamp) -> Result<(), Violation> {
        let latest = match self.epochs.last() {
            Some(epoch) if index > epoch.carried => self.latest_at.max(epoch.at),
            _ => self.latest_at,
        };
        let behind = latest.since(at);
        if behind <= CLOCK_BOUND_MS {
            return Ok(());
        }
        let detail = format!("its time lies {} s before the log's", behind / 1000);
        Err(Violation::rule("time", detail))
    }
}
