"""Who may decide: the fold of all leaves that belong to no request."""

import re

from leaf import HEX, Row, canonical, fits, narrower
from log import CannotVerify, Checkpoint, Key, Wrong, need, unbase64

DAY, HALF_DAY, CLOCK_MS, FOREVER = 24 * 3600_000, 12 * 3600_000, 30_000, float("inf")
MAX_EPOCHS, MOST_GROUPS, MOST_PASSKEYS = 64, 64, 10
MAX_DEPTH, MOST_SCOPES, MOST_LIVE, MOST_KEPT = 4, 64, 100, 1000
# Kinds whose `by` is an active operator, whose `human` an active person; what separates duties.
BY_OPERATORS = ("agent_revoked", "agent_set", "erased", "group_set", "identity_set", "join_created",
                "link_created", "model_set", "policy_loaded", "token_issued")
OF_PEOPLE = ("account_linked", "identity_set", "link_created", "passkey_enrolled", "token_issued")
CHANGES = ("agent_revoked", "agent_set", "group_set", "join_created")


class Authority:
    def __init__(self):
        self.index, self.latest, self.log, self.epochs, self.changes = 0, 0, None, [], []
        self.policy_set, self.scopes, self.catalog, self.models = None, {}, {}, {}
        self.humans, self.groups, self.claims, self.agents, self.owners = {}, {}, {}, {}, {}
        self.joins, self.instances, self.delegations = {}, {}, {}
        self.serials, self.nonces, self.recovery = set(), set(), []
        self.links, self.tokens, self.passkeys, self.accounts, self.identities = {}, {}, {}, {}, []
    def active(self, human):
        return human in self.humans and self.humans[human].active
    def operator(self, human):
        return self.active(human) and self.humans[human].operator
    def lives(self, agent, instance=None):
        """Whether an agent, and its sidecar if one is named, are known and not revoked."""
        door = self.instances.get(instance, Row(agent=agent, revoked=instance))
        known = self.agents.get(agent, Row(revoked=True))
        return not known.revoked and not door.revoked and door.agent == agent
    def groups_of(self, human, at):
        claim = self.claims.get(human)
        fresh = claim.groups if claim and claim.ms <= at < claim.until_ms else []
        return sorted({g for g, members in self.groups.items() if human in members}.union(fresh))
    def owned_since(self, agent, human, since):
        spans = self.owners.get(agent)
        return not spans or any(owner == human and until >= since for owner, until in spans)
    def bearers(self, human):
        tables = (self.tokens, self.links, self.passkeys)
        return [own for table in tables for own in table.values() if own.human == human]
    def stand_ins(self, human, at):
        """Who could act as a person: by a token, link, passkey, session or account they made."""
        def works(b):
            if b.kind in ("identity_set", "passkey_enrolled"):
                return at - (b.ended_ms or at) < HALF_DAY
            used = b.spent_ms and at - b.spent_ms < HALF_DAY and b.purpose != "api"
            return used or not b.ended_ms and b.expires_ms > at
        bearers = (*self.bearers(human), *(i for i in self.identities if i.human == human))
        makers = [a.makers for a in self.accounts.values() if a.human == human]
        return {b.by for b in bearers if works(b)}.union(*makers) - {human}
    def same_hand(self, human, others, at):
        """Whether one of these could act as this person, or this person as one of them."""
        return any(o in self.stand_ins(human, at) or human in self.stand_ins(o, at) for o in others)
    def changed_recently(self, human, agents, groups, at):
        return any(c.by == human and at - c.ms < DAY and (c.agent in agents or c.group in groups)
                   for c in self.changes)
    def attributes(self, agent, at):
        if not self.lives(agent):
            return {}
        owner, own = self.agents[agent].owner, self.agents[agent].attributes
        qualified = self.models.get((own.model, own.model_version), at) > at
        groups = self.groups_of(owner, at)
        return {**own, "owner": owner, "owner_groups": groups, "qualified": qualified}
    @property
    def carried(self):
        return self.epochs[0].carried if self.epochs else 0
    def may_name(self, origin):
        """The log that terms name: this one, or among what was carried over an older one."""
        past = 0 < self.index <= self.carried
        return origin in [e.old_origin for e in self.epochs] if past else origin == self.log.origin
    def not_before(self, at):
        began = self.epochs[0].ms if self.epochs and self.index > self.carried else 0
        need(max(self.latest, began) - at <= CLOCK_MS, "time", "its time lies before the log's")
    def apply(self, e):
        if e.kind in ("opened", "epoch_started"):
            return self.begin(e)
        self.not_before(e.ms)
        need(self.log, "opened-first")
        need(not len(self.epochs) == self.index <= self.carried, "epoch", "no first leaf")
        need(e.kind not in BY_OPERATORS or self.operator(e.by), "operator", f"`{e.by}` is none")
        need(e.kind not in OF_PEOPLE or not e.human or self.active(e.human), "human-known")
        getattr(self, e.kind)(e)
        self.changes += [e] if e.kind in CHANGES else []
        self.latest = max(self.latest, e.ms)
    def begin(self, e):
        """The first leaf of this log or, carried over, of an older one, which vouches for it."""
        need(e.version == 1 and e.origin and e.carried != 0, "opened-first")
        if self.index == 0:
            self.log, self.latest = e, e.ms if e.kind == "opened" else 0
            self.recovery = [e.recovery_key] if e.kind == "opened" else []
        else:
            need(self.index == len(self.epochs) <= self.carried, "opened-first")
            newer, domain = self.epochs[-1], self.log.trust_domain
            need((newer.old_origin, newer.old_vkey, domain) == (e.origin, e.vkey, e.trust_domain),
                 "epoch", "it begins another log")
            vouched(newer, e.recovery_key or "")
            self.recovery.append(e.recovery_key)
        need(len(self.epochs) < MAX_EPOCHS, "epoch", "too many epochs")
        self.epochs += [e] if e.kind == "epoch_started" else []
    def human_set(self, e):
        rules = e.active and e.operator
        first = not self.humans and rules and e.by == e.human
        need(first or self.operator(e.by), "operator", f"`{e.by}` is none")
        need(rules or any(self.operator(h) for h in self.humans if h != e.human), "last-operator")
        self.humans[e.human] = e
        if not e.active:
            for own in self.bearers(e.human):
                own.ended_ms = own.ended_ms or e.ms
            self.accounts = {k: a for k, a in self.accounts.items() if a.human != e.human}
    def group_set(self, e):
        need(set(e.members) <= set(self.humans), "group-member")
        self.groups[e.group] = e.members
    def agent_set(self, e):
        need(self.active(e.owner), "agent-owner")
        self.agents[e.agent] = Row(e, revoked=self.agents.get(e.agent, e).revoked)
        spans = self.owners.setdefault(e.agent, [])
        spans[-1:] = [*((owner, e.ms) for owner, _ in spans[-1:]), (e.owner, FOREVER)]
    def agent_revoked(self, e):
        need(e.agent in self.agents, "agent-known")
        self.agents[e.agent].revoked = True
        self.end_delegations(e.ms, lambda d: e.agent in (d.to, *d.chain))
    def model_set(self, e):
        self.models[e.model, e.model_version] = e.until_ms
    def policy_loaded(self, e):
        self.policy_set, self.scopes = e.policy_set, e.scopes
    def erased(self, e):
        """Texts beside the log are gone: nothing that is decided rests on them."""
    def join_created(self, e):
        need(self.lives(e.agent), "agent-known")
        hashes = {join.token_hash for join in self.joins.values()}
        need(e.join_id not in self.joins and e.token_hash not in hashes, "join-once")
        self.joins[e.join_id] = Row(e)
    def link_created(self, e):
        hashes = {link.code_hash for link in self.links.values()}
        need(e.link_id not in self.links and e.code_hash not in hashes, "link-once")
        self.links[e.link_id] = Row(e)
    def spend(self, bearer, at, rule, **of):
        """Uses a join token or a link up, which is live and of these."""
        need(bearer and not bearer.ended_ms and bearer.expires_ms > at
             and all(bearer[name] == value for name, value in of.items()), rule)
        bearer.spent_ms = bearer.ended_ms = at
    def link_spent(self, e):
        self.spend(self.links.get(e.link_id), e.ms, "link-single-use")
    def instance_enrolled(self, e):
        need(e.instance not in self.instances and e.serial not in self.serials, "instance-new")
        need(self.lives(e.agent), "agent-known")
        self.spend(self.joins.get(e.join_id), e.ms, "join-single-use", agent=e.agent)
        self.serials.add(e.serial)
        self.instances[e.instance] = Row(e)
    def instance_renewed(self, e):
        known = self.instances.get(e.instance)
        need(known and e.serial not in self.serials, "instance-known")
        need(not known.revoked and known.serial == e.old_serial, "renew-once")
        need(self.lives(known.agent), "agent-known")
        known.serial = e.serial
        self.serials.add(e.serial)
    def instance_revoked(self, e):
        need(e.instance in self.instances, "instance-known")
        self.instances[e.instance].revoked = True
        self.end_delegations(e.ms, lambda d: d.instance == e.instance)
    def token_issued(self, e):
        need(e.expires_ms - e.ms <= HALF_DAY, "token-life")
        self.tokens[e.token_hash] = Row(e)
    def token_revoked(self, e):
        for token in (token for token in self.tokens.values() if token.token_id == e.token_id):
            token.ended_ms = token.ended_ms or e.ms
    def passkey_enrolled(self, e):
        form, link = {"ES256": "04[0-9a-f]{128}", "EdDSA": HEX}, self.links.get(e.link_id)
        need(re.fullmatch(form[e.public_key.algorithm], e.public_key.key) and e.rp_id
             and e.credential_id not in self.passkeys, "passkey-enrolment")
        mine = [p for p in self.passkeys.values() if p.human == e.human and not p.ended_ms]
        need(len(mine) < MOST_PASSKEYS, "passkey-bound")
        self.spend(link, e.ms, "link-single-use", purpose="enrol", human=e.human)
        self.passkeys[e.credential_id] = Row(e, by=link.by)
    def passkey_revoked(self, e):
        known = self.passkeys.get(e.credential_id)
        need(known and not known.ended_ms, "passkey-known")
        need(e.by == known.human or self.operator(e.by), "operator")
        known.ended_ms = e.ms
    def account_linked(self, e):
        account = (e.account.channel, e.account.tenant, e.account.account)
        there = any(k[:2] == account[:2] and a.human == e.human for k, a in self.accounts.items())
        need(account not in self.accounts and not there, "account-once")
        self.accounts[account] = Row(human=e.human, makers=self.stand_ins(e.human, e.ms))
    def account_unlinked(self, e):
        known = self.accounts.pop((e.account.channel, e.account.tenant, e.account.account), None)
        need(known, "account-known")
        need(known.human == e.by or self.operator(e.by), "operator")
    def identity(self, of):
        """Whose the account at an identity provider is."""
        return next((known for known in self.identities if not known.ended_ms and
                     (known.issuer, known.subject) == (of.issuer, of.subject)), None)
    def identity_set(self, e):
        known = self.identity(e)
        need(known or e.human, "identity-known")
        need(not known or e.human in (None, known.human), "identity-once")
        self.identities += [Row(e)] if e.human else []
        if known:
            known.ended_ms = e.ms
            self.claims = {h: claim for h, claim in self.claims.items() if self.identity(claim)}
    def groups_claimed(self, e):
        known = self.identity(e)
        need(known and known.human == e.human, "identity-known")
        need(0 < e.until_ms - e.ms <= DAY and len(e.groups) <= MOST_GROUPS, "claim-life")
        self.claims[e.human] = e
    def delegation(self, id_, agent, at):
        known = self.delegations.get(id_)
        need(known and known.to == agent and at < known.over_ms, "delegation", "it is not in force")
        return known
    def within(self, had, scope, template, ttl_s, params):
        bounds, specs = had.scopes.get(scope, Row()), self.catalog[template]["params"]
        need(bounds.template == template and 0 < ttl_s <= bounds.ttl_s and all(
            name in params and narrower(specs[name], was, params[name])
            for name, was in (bounds.params or {}).items()), "delegation", "wider than handed on")
    def covers(self, terms, at):
        """What is asked lies within the delegation that it names, and ends no later."""
        need(bool(terms.delegation_id) == bool(terms.delegation), "delegation", "a chain of none")
        if terms.delegation_id:
            known = self.delegation(terms.delegation_id, terms.agent, at)
            need(known.chain == terms.delegation and at + terms.ttl_s * 1000 <= known.expires_ms,
                 "delegation", "it is of another chain, or ends before")
            self.within(known, terms.scope, terms.template, terms.ttl_s, terms.params)
    def handed_since(self, id_, at):
        """When the first who handed on the right of this delegation did; `at` where there is none."""
        while known := self.delegations.get(id_):
            id_, at = known.parent, known.ms
        return at
    def outlasts(self, id_, e):
        known = self.delegations.get(id_)
        need(not id_ or known and e.expires_ms <= known.expires_ms, "delegation",
             "the credential ends after its delegation")
    def delegated(self, e):
        had = self.delegation(e.parent, e["from"], e.ms) if e.parent else None
        chain, passes = [*(had.chain if had else ()), e["from"]], e.passes or 0
        need(self.lives(e["from"], e.instance) and self.lives(e.to), "agent-live")
        need(e.delegation_id not in self.delegations and e.to not in chain, "delegation", "a cycle")
        need(len(chain) + passes <= MAX_DEPTH and (not had or passes < had.passes), "delegation",
             "it is passed on too often")
        need(e.ms < e.expires_ms <= (had.expires_ms if had else e.ms + DAY), "delegation")
        need(0 < len(e.scopes) <= MOST_SCOPES, "delegation", "of no scope, or too many")
        for name, bounds in e.scopes.items():
            template, params = bounds.template, bounds.params or {}
            need(self.scopes.get(name) == template in self.catalog, "scope-pinned")
            specs = {p: s for p, s in self.catalog[template].params.items() if not s.sensitive}
            need(0 < bounds.ttl_s <= self.catalog[template].ttl.max_s and all(
                p in specs and fits(specs[p], value) for p, value in params.items()), "delegation",
                f"`{name}` cannot be bounded so")
            if had:
                self.within(had, name, template, bounds.ttl_s, params)
        mine = [d.over_ms for d in self.delegations.values() if d["from"] == e["from"]]
        need(sum(over > e.ms for over in mine) < MOST_LIVE
             and sum(over + DAY > e.ms for over in mine) < MOST_KEPT, "delegation", "too many")
        self.delegations[e.delegation_id] = Row(e, chain=chain, passes=passes, over_ms=e.expires_ms)
    def delegation_ended(self, e):
        known = self.delegations.get(e.delegation_id)
        need(known and e.ms < known.over_ms, "delegation", "it is not in force")
        agents = (known.to, *known.chain)
        owners = [self.agents[agent].owner for agent in agents]
        owner = self.active(e.human) and e.human in owners
        need((e.agent in agents or owner or self.operator(e.human)) and not (e.agent and e.human),
             "delegation", "it is ended by somebody who may not")
        self.end_delegations(e.ms, lambda d: d is known)
    def end_delegations(self, at, which):
        """Those, and what was passed on from them: parents come before their children."""
        over = set()
        for id_, d in self.delegations.items():
            if which(d) or d.parent in over:
                d.over_ms = min(d.over_ms, at)
                over.add(id_)


def vouched(epoch, recovery):
    """That this recovery key signed the first leaf of an epoch, and that it is sound in itself."""
    own = {k: v for k, v in epoch.items() if k != "signature" and not k.endswith("ms")}
    text = canonical(own) + "\n"
    try:
        new, old, _ = (Key(epoch[name]) for name in ("vkey", "old_vkey", "recovery_key"))
        last = Checkpoint(epoch.old_checkpoint, old)
        root, _ = unbase64(epoch.restored_root), unbase64(epoch.carried_root)
        signed = Key(recovery).signed(f"{text}\n{epoch.signature}") == text
    except (CannotVerify, ValueError) as fault:
        raise Wrong("epoch-signature", str(fault)) from None
    named = (new.name, old.name, last.origin) == (epoch.origin, epoch.old_origin, old.name)
    need(signed and named and new.name != old.name and new.raw != old.raw, "epoch-signature")
    need(last.size > epoch.restored or (last.size, last.root) == (epoch.restored, root),
         "epoch-signature", "its last checkpoint is not the backup's")
