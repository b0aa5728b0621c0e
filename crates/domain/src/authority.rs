//! Who may decide: people, groups, agents and their owners, instances, tokens, scopes and policy,
//! as the fold of the log's leaves.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::delegation::Delegation;
use crate::digest::Digest;
use crate::event::{Account, Attributes, EpochStarted, Event, GroupsClaimed, IdentitySet, Opened};
use crate::id::{AgentId, DelegationId, GroupName, HumanId, InstanceId, ScopeName};
use crate::passkey::{MAX_CREDENTIAL_ID, MAX_PASSKEYS, PublicKey, is_aaguid, is_base64url};
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

    fn operator(&self, by: &HumanId) -> Result<(), Violation> {
        if self.is_operator(by) {
            Ok(())
        } else {
            Err(Violation::rule("operator", format!("`{by}` is not an operator")))
        }
    }

    fn record(
        &mut self,
        at: Timestamp,
        by: &HumanId,
        agent: Option<&AgentId>,
        group: Option<&GroupName>,
    ) {
        self.changes.retain(|c| at.since(c.at) < SEPARATION_MS);
        self.changes.push(Change {
            at,
            by: by.clone(),
            agent: agent.cloned(),
            group: group.cloned(),
        });
    }

    /// The first leaf of the first log: of this one, or carried over after the epochs since.
    fn open(&mut self, index: u64, e: &Opened) -> Result<(), Violation> {
        let refuse = |detail: &str| Err(Violation::rule("opened-first", detail.to_owned()));
        if e.version != 1 || e.origin.is_empty() {
            return refuse("a log has an origin and version 1");
        }
        let key = e.recovery_key.clone().unwrap_or_default();
        if index == 0 && self.origin.is_empty() {
            self.origin.clone_from(&e.origin);
            self.trust_domain.clone_from(&e.trust_domain);
            self.vkey.clone_from(&e.vkey);
            self.recovery_key = key;
            self.latest_at = self.latest_at.max(e.at);
        } else {
            self.follows(index, &e.origin, &e.vkey, &e.trust_domain)?;
            self.first_recovery_key = key;
        }
        self.last_leaf = index;
        Ok(())
    }

    /// The first leaf of a later log. Its signature is for whoever holds the recovery key to check.
    fn start_epoch(&mut self, index: u64, e: &EpochStarted) -> Result<(), Violation> {
        let refuse = |detail: &str| Err(Violation::rule("epoch", detail.to_owned()));
        if e.version != 1 || e.origin.is_empty() || e.carried == 0 {
            return refuse("a log has an origin, version 1, and carries an older one's leaves");
        }
        if e.origin == e.old_origin || e.vkey == e.old_vkey {
            return refuse("a new epoch has another origin and key than the log before it");
        }
        if index == 0 && self.origin.is_empty() {
            self.origin.clone_from(&e.origin);
            self.trust_domain.clone_from(&e.trust_domain);
            self.vkey.clone_from(&e.vkey);
            self.recovery_key.clone_from(&e.recovery_key);
        } else {
            self.follows(index, &e.origin, &e.vkey, &e.trust_domain)?;
        }
        // Each older log's first leaf stands behind the newer one's.
        self.epochs.insert(0, e.clone());
        self.last_leaf = index;
        Ok(())
    }

    /// What is carried over begins with the old log's own first leaf.
    fn follows(
        &self,
        index: u64,
        origin: &str,
        vkey: &str,
        trust_domain: &str,
    ) -> Result<(), Violation> {
        let before = self
            .epochs
            .first()
            .filter(|_| index == self.epochs.len() as u64 && index <= self.carried());
        match before {
            Some(e) if e.old_origin == origin && e.old_vkey == vkey => {}
            Some(e) => {
                let detail = format!("it opens another log than `{}`", e.old_origin);
                return Err(Violation::rule("epoch", detail));
            }
            None => {
                let detail = "a log opens once, in its first leaf".to_owned();
                return Err(Violation::rule("opened-first", detail));
            }
        }
        if trust_domain == self.trust_domain {
            Ok(())
        } else {
            Err(Violation::rule("epoch", "it is of another trust domain".into()))
        }
    }

    fn set_identity(&mut self, e: &IdentitySet) -> Result<(), Violation> {
        self.operator(&e.by)?;
        let fine =
            |t: &str| (1..=255).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_graphic());
        if !fine(&e.issuer) || !fine(&e.subject) {
            return Err(Violation::rule(
                "identity",
                "issuer and subject are 1 to 255 visible ASCII characters".into(),
            ));
        }
        let account = (e.issuer.clone(), e.subject.clone());
        let was = self.identities.get(&account).cloned();
        match (&e.human, was.as_ref().map(|i| i.human.clone())) {
            (Some(human), known) => {
                if !self.humans.get(human).is_some_and(|h| h.active) {
                    return Err(Violation::rule(
                        "human-known",
                        format!("no active person `{human}`"),
                    ));
                }
                if known.as_ref().is_some_and(|k| k != human) {
                    return Err(Violation::rule(
                        "identity-once",
                        "the account is another person's; unlink it first".into(),
                    ));
                }
                let identity = Identity { human: human.clone(), by: e.by.clone() };
                self.identities.insert(account, identity);
            }
            (None, Some(human)) => {
                self.identities.remove(&account);
                if self.claimed.get(&human).is_some_and(|c| c.account == account) {
                    self.claimed.remove(&human);
                }
            }
            (None, None) => {
                return Err(Violation::rule("identity-known", "no such account is linked".into()));
            }
        }
        self.unlinked.retain(|u| e.at.since(u.at) < SESSION_LIFE_MS);
        self.unlinked.extend(was.map(|identity| Unlinked { identity, at: e.at }));
        Ok(())
    }

    fn claim_groups(&mut self, e: &GroupsClaimed) -> Result<(), Violation> {
        if self.identified(&e.issuer, &e.subject) != Some(&e.human) {
            return Err(Violation::rule(
                "identity-known",
                format!("the account is not linked to `{}`", e.human),
            ));
        }
        if e.until <= e.at || e.until.since(e.at) > CLAIM_LIFE_MS || e.groups.len() > MOST_CLAIMED {
            return Err(Violation::rule(
                "claim-life",
                format!("a provider's word holds a day at most, for {MOST_CLAIMED} groups"),
            ));
        }
        self.claimed.insert(
            e.human.clone(),
            Claimed {
                account: (e.issuer.clone(), e.subject.clone()),
                groups: e.groups.clone(),
                at: e.at,
                until: e.until,
            },
        );
        Ok(())
    }

    /// Folds one leaf in. Events of requests are not for this fold and change nothing.
    ///
    /// # Errors
    /// When the rules forbid the event; the state is then unchanged.
    pub fn apply(&mut self, index: u64, event: &Event) -> Result<(), Violation> {
        let refuse = |rule: &'static str, detail: String| Err(Violation::rule(rule, detail));
        if event.request_id().is_some() {
            return Ok(());
        }
        match event {
            // These begin a log, this one or one that this one goes on from.
            Event::Opened(e) => return self.open(index, e),
            Event::EpochStarted(e) => return self.start_epoch(index, e),
            _ => self.not_before(index, event.at())?,
        }
        match event {
            _ if self.origin.is_empty() => {
                return refuse("opened-first", "the first leaf of a log opens it".into());
            }
            // The old log's first leaf comes at once.
            _ if index == self.epochs.len() as u64 && index <= self.carried() => {
                return refuse("epoch", "what is carried over begins with a first leaf".into());
            }
            Event::AccountLinked(e) => {
                if !e.account.is_wellformed() {
                    return refuse("account", "its parts are 1 to 128 printable characters".into());
                }
                if !self.humans.get(&e.human).is_some_and(|h| h.active) {
                    return refuse("human-known", format!("no active person `{}`", e.human));
                }
                if let Some(other) = self.accounts.get(&e.account) {
                    return refuse("account-once", format!("the account is `{other}`'s already"));
                }
                if let Some(other) =
                    self.account_of(&e.human, &e.account.channel, &e.account.tenant)
                {
                    let other = &other.account;
                    return refuse(
                        "account-once",
                        format!("`{}` has the account `{other}` there already", e.human),
                    );
                }
                let makers: BTreeSet<_> = self.stand_ins(&e.human, e.at).cloned().collect();
                self.account_makers.insert(e.account.clone(), makers);
                self.accounts.insert(e.account.clone(), e.human.clone());
            }
            Event::AccountUnlinked(e) => match self.accounts.get(&e.account) {
                None => return refuse("account-known", "the account is nobody's".into()),
                Some(human) => {
                    if *human != e.by {
                        self.operator(&e.by)?;
                    }
                    self.accounts.remove(&e.account);
                    self.account_makers.remove(&e.account);
                }
            },
            Event::HumanSet(e) => {
                let first = self.humans.is_empty() && e.by == e.human && e.operator && e.active;
                if !first {
                    self.operator(&e.by)?;
                }
                let others = |h: &(&HumanId, &Human)| *h.0 != e.human && h.1.active && h.1.operator;
                let remains = e.active && e.operator;
                if !remains && !self.humans.iter().any(|h| others(&h)) {
                    return refuse(
                        "last-operator",
                        "a log without an operator could never change again".into(),
                    );
                }
                let human = Human { active: e.active, operator: e.operator };
                self.humans.insert(e.human.clone(), human);
                if !e.active {
                    self.tokens
                        .values_mut()
                        .chain(self.links.values_mut())
                        .filter(|t| t.subject == e.human)
                        .for_each(|t| t.spent = true);
                    self.passkeys
                        .values_mut()
                        .filter(|p| p.human == e.human && !p.revoked)
                        .for_each(|p| (p.revoked, p.ended_at) = (true, Some(e.at)));
                    self.accounts.retain(|_, human| *human != e.human);
                    self.account_makers.retain(|account, _| self.accounts.contains_key(account));
                }
            }
            Event::GroupSet(e) => {
                self.operator(&e.by)?;
                if let Some(stranger) = e.members.iter().find(|m| !self.humans.contains_key(*m)) {
                    return refuse(
                        "group-member",
                        format!("`{stranger}` is not a registered person"),
                    );
                }
                self.groups.insert(e.group.clone(), e.members.clone());
                self.record(e.at, &e.by, None, Some(&e.group));
            }
            Event::IdentitySet(e) => self.set_identity(e)?,
            Event::GroupsClaimed(e) => self.claim_groups(e)?,
            Event::AgentSet(e) => {
                self.operator(&e.by)?;
                if !self.humans.get(&e.owner).is_some_and(|h| h.active) {
                    return refuse(
                        "agent-owner",
                        format!("the owner `{}` is not an active person", e.owner),
                    );
                }
                let agent = self.agents.entry(e.agent.clone()).or_insert_with(|| Agent {
                    owners: Vec::new(),
                    attributes: e.attributes.clone(),
                    revoked: false,
                });
                agent.attributes = e.attributes.clone();
                if agent.owner() != Some(&e.owner) {
                    if let Some(last) = agent.owners.last_mut() {
                        last.until = Some(e.at);
                    }
                    agent.owners.push(Ownership { human: e.owner.clone(), until: None });
                }
                self.record(e.at, &e.by, Some(&e.agent), None);
            }
            Event::AgentRevoked(e) => {
                self.operator(&e.by)?;
                match self.agents.get_mut(&e.agent) {
                    Some(agent) => agent.revoked = true,
                    None => return refuse("agent-known", format!("no agent `{}`", e.agent)),
                }
                self.end_delegations(e.at, |d| d.agents().any(|a| *a == e.agent));
                self.record(e.at, &e.by, Some(&e.agent), None);
            }
            Event::Delegated(e) => self.delegate(e)?,
            Event::DelegationEnded(e) => self.end_delegation(e)?,
            Event::Erased(e) => self.operator(&e.by)?,
            Event::ModelSet(e) => {
                self.operator(&e.by)?;
                let key = (e.model.clone(), e.model_version.clone());
                match e.until {
                    Some(until) => self.models.insert(key, until),
                    None => self.models.remove(&key),
                };
            }
            Event::PolicyLoaded(e) => {
                self.operator(&e.by)?;
                self.policy_set = Some(e.policy_set);
                self.scopes.clone_from(&e.scopes);
            }
            Event::JoinCreated(e) => {
                self.operator(&e.by)?;
                if self.agents.get(&e.agent).is_none_or(|a| a.revoked) {
                    return refuse("agent-known", format!("no live agent `{}`", e.agent));
                }
                self.joins.retain(|_, j| j.expires_at.plus_millis(FORGET_MS) > e.at);
                if self.joins.iter().any(|(h, j)| *h == e.token_hash || j.id == e.join_id) {
                    return refuse("join-once", format!("join token `{}` exists", e.join_id));
                }
                self.joins.insert(
                    e.token_hash,
                    Bearer {
                        id: e.join_id.clone(),
                        subject: e.agent.clone(),
                        expires_at: e.expires_at,
                        spent: false,
                        purpose: String::new(),
                        made_by: None,
                        spent_at: None,
                    },
                );
                // Who has it enrols a sidecar of their own, and asks as the agent.
                self.record(e.at, &e.by, Some(&e.agent), None);
            }
            Event::InstanceEnrolled(e) => {
                let Some(join) = self.joins.values_mut().find(|j| j.id == e.join_id) else {
                    return refuse("join-single-use", format!("no join token `{}`", e.join_id));
                };
                if join.spent || join.expires_at <= e.at || join.subject != e.agent {
                    return refuse(
                        "join-single-use",
                        format!("join token `{}` is spent, expired or another agent's", e.join_id),
                    );
                }
                if self.instances.contains_key(&e.instance) || self.serials.contains_key(&e.serial)
                {
                    return refuse(
                        "instance-new",
                        format!("instance `{}` or its serial exists", e.instance),
                    );
                }
                if self.agents.get(&e.agent).is_none_or(|a| a.revoked) {
                    return refuse("agent-known", format!("no live agent `{}`", e.agent));
                }
                join.spent = true;
                self.serials.insert(e.serial.clone(), e.instance.clone());
                self.instances.insert(
                    e.instance.clone(),
                    Instance {
                        agent: e.agent.clone(),
                        serials: vec![e.serial.clone()],
                        join_id: e.join_id.clone(),
                        key: e.key,
                        not_after: e.not_after,
                        seal_key: e.seal_key.clone(),
                        revoked: false,
                    },
                );
            }
            Event::InstanceRenewed(e) => {
                if self.serials.contains_key(&e.serial) {
                    return refuse("instance-new", "the serial exists".into());
                }
                let Some(instance) = self.instances.get_mut(&e.instance) else {
                    return refuse("instance-known", format!("no instance `{}`", e.instance));
                };
                if instance.revoked || instance.serials.last() != Some(&e.old_serial) {
                    return refuse(
                        "renew-once",
                        format!("serial `{}` was renewed already or is revoked", e.old_serial),
                    );
                }
                if self.agents.get(&instance.agent).is_none_or(|a| a.revoked) {
                    return refuse("agent-known", format!("no live agent `{}`", instance.agent));
                }
                instance.serials.push(e.serial.clone());
                // Certificates live an hour and are renewed at half: older ones ended long ago.
                if instance.serials.len() > SERIALS_KEPT {
                    let old = instance.serials.remove(0);
                    self.serials.remove(&old);
                }
                instance.key = e.key;
                instance.not_after = e.not_after;
                self.serials.insert(e.serial.clone(), e.instance.clone());
            }
            Event::InstanceRevoked(e) => match self.instances.get_mut(&e.instance) {
                Some(instance) => {
                    instance.revoked = true;
                    // Whoever had its key may have handed its right on.
                    self.end_delegations(e.at, |d| d.instance == e.instance);
                }
                None => return refuse("instance-known", format!("no instance `{}`", e.instance)),
            },
            Event::LinkCreated(e) => {
                self.operator(&e.by)?;
                if !self.humans.get(&e.human).is_some_and(|h| h.active) {
                    return refuse("human-known", format!("no active person `{}`", e.human));
                }
                self.links.retain(|_, l| l.expires_at.plus_millis(FORGET_MS) > e.at);
                if self.links.iter().any(|(h, l)| *h == e.code_hash || l.id == e.link_id) {
                    return refuse("link-once", format!("link `{}` exists", e.link_id));
                }
                self.links.insert(
                    e.code_hash,
                    Bearer {
                        id: e.link_id.clone(),
                        subject: e.human.clone(),
                        expires_at: e.expires_at,
                        spent: false,
                        purpose: e.purpose.clone(),
                        made_by: Some(e.by.clone()),
                        spent_at: None,
                    },
                );
            }
            Event::LinkSpent(e) => match self.links.values_mut().find(|l| l.id == e.link_id) {
                Some(link) if !link.spent && link.expires_at > e.at => {
                    link.spent = true;
                    link.spent_at = Some(e.at);
                }
                _ => {
                    return refuse(
                        "link-single-use",
                        format!("link `{}` is spent, expired or unknown", e.link_id),
                    );
                }
            },
            Event::PasskeyEnrolled(e) => {
                let rule = "passkey-enrolment";
                if !e.public_key.is_well_formed()
                    || !is_base64url(&e.credential_id, MAX_CREDENTIAL_ID)
                    || !is_aaguid(&e.aaguid)
                    || e.rp_id.is_empty()
                {
                    return refuse(rule, "the passkey is not of its form".into());
                }
                if !self.humans.get(&e.human).is_some_and(|h| h.active) {
                    return refuse("human-known", format!("no active person `{}`", e.human));
                }
                if self.passkeys.contains_key(&e.credential_id) {
                    return refuse(rule, "the passkey is enrolled already".into());
                }
                if self.passkeys_of(&e.human).count() >= MAX_PASSKEYS {
                    let detail = format!("`{}` has {MAX_PASSKEYS} passkeys already", e.human);
                    return refuse("passkey-bound", detail);
                }
                let link = self.links.values_mut().find(|l| {
                    l.id == e.link_id
                        && l.purpose == "enrol"
                        && l.subject == e.human
                        && !l.spent
                        && l.expires_at > e.at
                });
                let Some(link) = link else {
                    return refuse(
                        "link-single-use",
                        format!("link `{}` is spent, expired or not for this", e.link_id),
                    );
                };
                link.spent = true;
                link.spent_at = Some(e.at);
                let passkey = Passkey {
                    human: e.human.clone(),
                    public_key: e.public_key.clone(),
                    rp_id: e.rp_id.clone(),
                    aaguid: e.aaguid.clone(),
                    backup_eligible: e.backup_eligible,
                    enrolled_at: e.at,
                    made_by: link.made_by.clone(),
                    revoked: false,
                    ended_at: None,
                };
                self.passkeys.insert(e.credential_id.clone(), passkey);
            }
            Event::PasskeyRevoked(e) => {
                let owner = self.passkeys.get(&e.credential_id).map(|p| p.human.clone());
                if owner.as_ref() != Some(&e.by) {
                    self.operator(&e.by)?;
                }
                match self.passkeys.get_mut(&e.credential_id) {
                    Some(passkey) if !passkey.revoked => {
                        (passkey.revoked, passkey.ended_at) = (true, Some(e.at));
                    }
                    _ => return refuse("passkey-known", "no such live passkey".into()),
                }
            }
            Event::TokenIssued(e) => {
                self.operator(&e.by)?;
                if !self.humans.get(&e.human).is_some_and(|h| h.active) {
                    return refuse("human-known", format!("no active person `{}`", e.human));
                }
                if e.expires_at.since(e.at) > TOKEN_LIFE_MS {
                    return refuse("token-life", "a person's token lives 12 hours at most".into());
                }
                self.tokens.retain(|_, t| !t.spent && t.expires_at > e.at);
                self.tokens.insert(
                    e.token_hash,
                    Bearer {
                        id: e.token_id.clone(),
                        subject: e.human.clone(),
                        expires_at: e.expires_at,
                        spent: false,
                        purpose: String::new(),
                        made_by: Some(e.by.clone()),
                        spent_at: None,
                    },
                );
            }
            Event::TokenRevoked(e) => {
                if let Some(token) = self.tokens.values_mut().find(|t| t.id == e.token_id) {
                    token.spent = true;
                }
            }
            _ => return Ok(()),
        }
        self.latest_at = self.latest_at.max(event.at());
        self.last_leaf = index;
        Ok(())
    }
}
