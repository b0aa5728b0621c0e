//! How each leaf changes what decisions rest on, and what forbids it.

use std::collections::BTreeSet;

use super::{
    Agent, Authority, Bearer, CLAIM_LIFE_MS, Change, Claimed, FORGET_MS, Human, Identity, Instance,
    MOST_CLAIMED, Ownership, Passkey, SEPARATION_MS, SERIALS_KEPT, SESSION_LIFE_MS, TOKEN_LIFE_MS,
    Unlinked,
};
use crate::event::{EpochStarted, Event, GroupsClaimed, IdentitySet, Opened};
use crate::id::{AgentId, GroupName, HumanId};
use crate::passkey::{MAX_CREDENTIAL_ID, MAX_PASSKEYS, is_aaguid, is_base64url};
use crate::state::Violation;
use crate::time::Timestamp;

impl Authority {
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
