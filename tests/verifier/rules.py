"""The rules of conduct: what is kept of the leaves, what each kind of leaf changes, and (RULES) when it may come."""

import base64
import json
import re

from leaf import FORMAT, MOST, Row, canonical, digest_of, fits, millis, narrower, typed
from log import CannotVerify, Key, Wrong, need, sha256, unbase64, verifies

FOLLOW, REGISTERS, FOREVER = FORMAT.phases, FORMAT.registers, float("inf")
# What is kept beside a leaf in its register.
BESIDE = {
    "agent_set": lambda a, e: {"ended": a.agents.get(e.agent, e).ended},
    "identity_set": lambda a, e: {"ended": None if e.human else e},
    "account_linked": lambda a, e: {"makers": a.stand_ins(e.human, e.ms)},
    "instance_renewed": lambda a, e: {**a.instances[e.instance], "serial": e.serial},
    "passkey_enrolled": lambda a, e: {"by": a.links[e.link_id].by},
    "delegated": lambda a, e: {
        "chain": a.chain(e), "since": a.parent(e).since or e.ms, "passes": e.passes or 0, "over_ms": e.expires_ms,
        "rests_on": {*a.parent(e).rests_on, ("agent", e["from"]), ("agent", e.to), ("instance", e.instance),
                     ("delegation_id", e.delegation_id)}}}

class Authority:
    """Who may decide, by the leaves that belong to no request."""
    def __init__(self):
        self.index, self.latest, self.carried, self.log, self.loaded = 0, 0, 0, None, Row(scopes={})
        self.epochs, self.recovery, self.changes, self.catalog, self.used = [], [], [], {}, set()
        vars(self).update({keeps["in"]: {} for keeps in REGISTERS.keeps.values()})
    def same(self, register, e, *fields):
        """What a register holds that has not ended, and has the same fields."""
        return [own for own in getattr(self, register).values()
                if not own.ended and all(own[field] == e[field] for field in fields)]
    def active(self, human):
        return human in self.humans and self.humans[human].active
    def operators(self):
        return {human for human, own in self.humans.items() if own.active and own.operator}
    def lives(self, agent, instance=None):
        """Whether an agent, and its sidecar if one is named, are known and not revoked."""
        door = self.instances.get(instance, Row(agent=agent, ended=instance))
        return agent in self.agents and not self.agents[agent].ended and not door.ended and door.agent == agent
    def groups_of(self, human, at):
        claim = self.claims.get(human)
        fresh = claim.groups if claim and not claim.ended and claim.ms <= at < claim.until_ms else []
        return sorted({group for group, set_ in self.groups.items() if human in set_.members}.union(fresh))
    def owned_since(self, agent, human, since):
        sets = [c for c in self.changes if c.kind == "agent_set" and c.agent == agent]
        ends = [*(e.ms for e in sets[1:]), FOREVER]
        return not sets or any(e.owner == human and end >= since for e, end in zip(sets, ends))
    def stand_ins(self, human, at):
        """Who could act as a person: by a token, link, passkey, session or account they made."""
        def works(own):
            lasting, end = not own.expires_at, own.ended
            used = lasting or end and own.purpose != "api" and end.kind in ("link_spent", "passkey_enrolled")
            return used and at - end.ms < MOST.stand_in_ms if end else lasting or own.expires_ms > at
        bearers = (*self.tokens.values(), *self.links.values(), *self.passkeys.values(), *self.identities.values())
        makers = [account.makers for account in self.same("accounts", Row(human=human), "human")]
        return {own.by for own in bearers if own.human == human and works(own)}.union(*makers) - {human}
    def tied(self, human, others, at):
        """Whether one of these could act as this person, or this person as one of them."""
        return any(o in self.stand_ins(human, at) or human in self.stand_ins(o, at) for o in others)
    def attributes(self, agent, at):
        if not self.lives(agent):
            return {}
        owner, own = self.agents[agent].owner, self.agents[agent].attributes
        qualified = any(known.until_ms > at for known in self.same("models", own, "model", "model_version"))
        return {**own, "owner": owner, "owner_groups": self.groups_of(owner, at), "qualified": qualified}
    def may_name(self, origin):
        """The log that terms name: this one, or among what was carried over an older one."""
        past = 0 < self.index <= self.carried
        return origin in [e.old_origin for e in self.epochs] if past else origin == self.log.origin
    def in_force(self, id_, agent, at):
        known = self.delegations.get(id_)
        return known and agent in (None, known.to) and at < known.over_ms and known
    def parent(self, e):
        """What a delegation is passed on from; without one it is an agent's own right, for a time."""
        own = Row(chain=(), rests_on=(), passes=FOREVER, expires_ms=e.ms + MOST.delegation_ms, scopes=e.scopes)
        return self.delegations[e.parent] if e.parent else own
    def chain(self, e):
        return [*self.parent(e).chain, e["from"]]
    def within(self, bounds, asked):
        """Whether what is asked, or handed on, keeps to a template, and within a lifetime and parameters."""
        specs, params = self.catalog[asked.template].params, asked.params or {}
        return bounds.template == asked.template and 0 < asked.ttl_s <= bounds.ttl_s and all(
            name in params and narrower(specs[name], was, params[name]) for name, was in (bounds.params or {}).items())
    def bounded(self, e, name, bounds):
        """Whether a scope can be handed on so."""
        scope, above = self.catalog[bounds.template], self.parent(e).scopes.get(name, Row())
        specs = {name: spec for name, spec in scope.params.items() if not spec.sensitive}
        fit = all(name in specs and fits(specs[name], value) for name, value in (bounds.params or {}).items())
        return fit and 0 < bounds.ttl_s <= scope.ttl.max_s and self.within(above, bounds)
    def covers(self, terms, at):
        """Whether what is asked lies within the delegation that it names, and ends no later."""
        known = self.in_force(terms.delegation_id, terms.agent, at)
        return not terms.delegation_id and not terms.delegation or known and known.chain == terms.delegation and (
            at + terms.ttl_s * 1000 <= known.expires_ms and self.within(known.scopes.get(terms.scope, Row()), terms))
    def handed(self, agent, at):
        """How many delegations by an agent end after that."""
        return sum(d.over_ms > at for d in self.delegations.values() if d["from"] == agent)
    def ender(self, e):
        """Whether who ends a delegation may."""
        agents = (self.delegations[e.delegation_id].to, *self.delegations[e.delegation_id].chain)
        owner = self.active(e.human) and e.human in [self.agents[agent].owner for agent in agents]
        return (e.agent in agents or owner or e.human in self.operators()) and not (e.agent and e.human)
    def ended(self, e):
        """What a leaf ends."""
        rows = [row for row in REGISTERS.ends.get(e.kind, ()) if not e.get(row.unless)]
        return [own for row in rows for own in self.same(row["in"], e, *row.same)]
    def apply(self, e):
        judge(e.kind, self, None, e)
        if e.kind in FORMAT.groups.begin:
            self.log, self.carried = self.log or e, self.carried or e.carried or 0
            self.epochs += [e] if e.kind == "epoch_started" else []
            self.recovery, self.latest = [*self.recovery, e.recovery_key], 0 if self.epochs else e.ms
            return
        keeps, beside = REGISTERS.keeps.get(e.kind), BESIDE.get(e.kind, lambda *_: {})(self, e)
        for own in self.ended(e):
            own.ended = e
        field = REGISTERS.ends_rights.get(e.kind)
        for d in self.delegations.values() if field else ():
            d.over_ms = min(d.over_ms, e.ms) if (field, e[field]) in d.rests_on else d.over_ms
        if keeps:
            getattr(self, keeps["in"])[e.get(keeps.by, self.index)] = Row(e, **beside)
        self.loaded = e if e.kind == "policy_loaded" else self.loaded
        self.changes += [e] if e.kind in FORMAT.groups.separate else []
        self.latest = max(self.latest, e.ms)

def possible(v):
    """A verdict: an ask that nobody can answer is a deny."""
    return v if v.verdict != "ask" or v.quorum and v.channels and v.approvers else Row(v, verdict="deny", max_ttl_s=0)

def stricter(one, two):
    """Two verdicts together."""
    one, two = sorted((possible(one), possible(two)), key=lambda v: ("allow", "ask", "deny").index(v.verdict))
    both = Row(two, max_ttl_s=min(one.max_ttl_s, two.max_ttl_s))
    if one.verdict == "ask" == two.verdict:
        both.update(quorum=max(one.quorum, two.quorum), strength=max(one.strength, two.strength),
                    channels={*one.channels} & {*two.channels}, approvers={*one.approvers, *two.approvers})
    return possible(both)

# What each kind changes of its request, beside its phase.
CHANGE = {
    "decided": lambda r, e: {"verdict": stricter(e.verdict, r.floor) if r.floor else e.verdict,
                             "under": e.verdict.policy_set, "excluded": e.excluded or []},
    "questioned": lambda r, e: {"asked": e, "questions": r.questions + 1},
    "narrowed": lambda r, e: {"terms": e.terms, "digest": e.digest, "floor": r.verdict, "verdict": None},
    "withdrawn": lambda r, e: {"votes": [vote for vote in r.votes if vote.human != e.human]},
    "issued": lambda r, e: {"lease": Row(e, state="live", latest_ms=e.ms + r.terms.ttl_s * 1000)},
    "renewed": lambda r, e: {"lease": Row(r.lease, expires_ms=e.expires_ms)},
    **dict.fromkeys(("ended", "revoked"), lambda r, e: {
        "lease": Row(r.lease, state="withdrawn" if e.still_valid else "over")})}

class Request(Row):
    """The life of one request, folded leaf by leaf."""
    def __init__(self, e, a):
        end, scope = millis(e.terms.decide_by), a.catalog.get(e.terms.template)
        super().__init__(phase="recorded", terms=e.terms, digest=e.digest, scope=scope, since=e.ms, last=e.ms,
                         version=1, questions=0, votes=[], excluded=[], deadline=end, pause=end - e.ms)
        judge(e.kind, a, self, e)
    def ends(self):
        paused = self.pause if self.asked else 0
        return self.deadline + paused if self.approved_at is None else self.approved_at + MOST.collect_ms
    def eligible(self, a, human, channel, at):
        """Whether this person may decide: no owner, nor in whose interest it is, nor as whom one of those could act."""
        v, terms, selves = self.verdict, self.terms, {human, *a.stand_ins(human, at)}
        handed = min(self.since, a.delegations.get(terms.delegation_id, self).since)
        agents = {terms.agent: self.since, **dict.fromkeys(terms.delegation, handed)}
        lately = [c for c in a.changes if c.by == human and at - c.ms < MOST.changed_ms]
        return (v.verdict == "ask" and channel in v.channels and a.active(human) and terms.on_behalf_of not in selves
                and not any(a.owned_since(agent, who, since) for who in selves for agent, since in agents.items())
                and v.approvers and set(v.approvers) <= set(a.groups_of(human, at))
                and not any(c.agent in agents or c.group in v.approvers for c in lately))
    def standing(self, a, at):
        """Whose approvals count; `a` None: by the leaves alone, whatever became of rights."""
        counted = []
        for vote in self.votes:
            signed = vote.proof and (not a or not a.passkeys[vote.proof.credential_id].ended)
            counts = (signed or self.verdict.strength == "chat") and vote.human not in self.excluded
            may = not a or self.eligible(a, vote.human, vote.channel, at) and not a.tied(vote.human, counted, at)
            counted += [vote.human] if counts and may else []
        return sorted(counted)
    def signed(self, a, vote):
        """Whether a vote's proof is an assertion (WebAuthn) over it, just now, by a live passkey of this person."""
        proof, key = vote.proof, a.passkeys.get(vote.proof.credential_id, Row())
        statement = {"origin": self.terms.origin, "nonce": proof.nonce, "expires_at": proof.expires_at,
                     "digest": vote.digest, "decision": vote.decision, "human": vote.human}
        data, client, signature = map(unpadded, (proof.authenticator_data, proof.client_data, proof.signature))
        said = json.loads(client)
        page = re.fullmatch(r"(?:https://([^:/]+)|http://(localhost))(:[0-9]{1,5})?", said["origin"])
        return (proof.kind == "passkey" and 0 < millis(proof.expires_at) - vote.ms <= MOST.passkey_vote_ms
                and key.human == vote.human and not key.ended and said["type"] == "webauthn.get"
                and unpadded(said["challenge"]).hex() == digest_of("passkey-decision", statement)
                and page and (page[1] or page[2]) == key.rp_id and said.get("crossOrigin", False) is False
                and "topOrigin" not in said and len(data) >= 37 and data[:32] == sha256(key.rp_id.encode())
                and data[32] & 69 == 5 and bool(data[32] & 8) == key.backup_eligible and verifies(
                    key.public_key.algorithm, bytes.fromhex(key.public_key.key), signature, data + sha256(client)))
    def met(self, a, at):
        v = self.verdict
        return v and (v.verdict == "allow" or not self.asked and 0 < v.quorum <= len(self.standing(a, at)))
    def apply(self, e, a):
        e = Row(e, kind="ended") if e.kind == "expired" and e.lease_id else e
        judge(e.kind, a, self, e)
        if e.decision == "approve":
            judge("approved", a, self, e)
        a.used |= {("nonce", e.proof.nonce)} if e.proof else set()
        if e.kind in ("questioned", "answered", "narrowed", "voted"):
            # Ends an open question's pause; what changes the request voids all approvals.
            used = min(max(e.ms - self.asked.ms, 0), self.pause) if self.asked else 0
            self.deadline, self.pause, self.asked = self.deadline + used, self.pause - used, None
            self.seen, self.votes = (self.seen, [*self.votes, e]) if e.kind == "voted" else (self.version, [])
        self.update(CHANGE.get(e.kind, lambda *_: {})(self, e), version=self.version + 1, last=e.ms,
                    phase=FOLLOW[self.phase][e.kind])
        self.approved_at, v = (self.approved_at or e.ms) if self.met(None, e.ms) else None, self.verdict
        if not self.phase:
            never = e.kind == "decided" and (v.verdict == "deny" or self.terms.ttl_s > v.max_ttl_s)
            self.phase = "denied" if never or e.decision == "deny" else "approved" if self.met(a, e.ms) else "pending"
        return self

def unpadded(value):
    raw = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    need(base64.urlsafe_b64encode(raw).decode().rstrip("=") == value, "passkey", "not base64url")
    return raw

def vouched(epoch, recovery):
    """Whether this recovery key signed the first leaf of an epoch, and it is sound in itself."""
    text = canonical({k: v for k, v in epoch.items() if k != "signature" and not k.endswith("ms")}) + "\n"
    try:
        new, old, _ = (Key(epoch[name]) for name in ("vkey", "old_vkey", "recovery_key"))
        _ = unbase64(epoch.restored_root), unbase64(epoch.carried_root)
        signed = Key(recovery).signed(f"{text}\n{epoch.signature}") == text
    except (CannotVerify, ValueError) as fault:
        raise Wrong("epoch-signature", str(fault)) from None
    last = old.checkpoint(epoch.old_checkpoint)
    named = last and (new.name, old.name, last.origin) == (epoch.origin, epoch.old_origin, old.name)
    return signed and named and new.name != old.name and new.raw != old.raw and (
        last.size > epoch.restored or (last.size, last.root) == (epoch.restored, epoch.restored_root))

# When a leaf may come: kinds, or groups; the rule; what must hold of it (`e`), its request (`r`) and all else (`a`).
RULES = [
    ("begin", "opened-first", lambda a, r, e: e.version == 1 and e.origin and e.carried != 0),
    ("begin", "opened-first", lambda a, r, e: a.index in (0, len(a.epochs)) and a.index <= a.carried),
    ("begin", "epoch", lambda a, r, e: len(a.epochs) < MOST.epochs and (not a.index or (
        e.origin, e.vkey, e.trust_domain) == (a.epochs[-1].old_origin, a.epochs[-1].old_vkey, a.log.trust_domain))),
    ("begin", "epoch-signature", lambda a, r, e: not a.index or vouched(a.epochs[-1], e.recovery_key or "")),
    ("authority requested later", "time", lambda a, r, e: max(
        a.latest, a.epochs[0].ms if a.epochs and a.index > a.carried else 0) - e.ms <= MOST.behind_ms),
    ("authority", "opened-first", lambda a, r, e: a.log),
    ("authority", "epoch", lambda a, r, e: not len(a.epochs) == a.index <= a.carried),
    ("by_operators", "operator", lambda a, r, e: e.by in a.operators() or (
        not a.humans and e.active and e.operator and e.by == e.human)),
    ("active_people", "human-known", lambda a, r, e: not e.human or a.active(e.human)),
    ("human_set", "last-operator", lambda a, r, e: e.active and e.operator or a.operators() - {e.human}),
    ("group_set", "group-member", lambda a, r, e: set(e.members) <= set(a.humans)),
    ("agent_set", "agent-owner", lambda a, r, e: a.active(e.owner)),
    ("agent_revoked", "agent-known", lambda a, r, e: e.agent in a.agents),
    ("instance_renewed instance_revoked", "instance-known", lambda a, r, e: e.instance in a.instances),
    ("instance_renewed", "renew-once", lambda a, r, e: any(
        own.serial == e.old_serial for own in a.same("instances", e, "instance"))),
    ("instance_renewed", "agent-known", lambda a, r, e: a.lives(a.instances[e.instance].agent)),
    ("join_created instance_enrolled", "agent-known", lambda a, r, e: a.lives(e.agent)),
    ("instance_enrolled", "join-single-use", lambda a, r, e: any(own.expires_ms > e.ms for own in a.ended(e))),
    ("link_spent passkey_enrolled", "link-single-use", lambda a, r, e: any(
        own.expires_ms > e.ms and (e.kind == "link_spent" or own.purpose == "enrol") for own in a.ended(e))),
    ("token_issued", "token-life", lambda a, r, e: e.expires_ms - e.ms <= MOST.token_ms),
    ("passkey_enrolled", "passkey-enrolment", lambda a, r, e: e.rp_id and re.fullmatch(
        {"ES256": "04[0-9a-f]{128}", "EdDSA": "[0-9a-f]{64}"}[e.public_key.algorithm], e.public_key.key)),
    ("passkey_enrolled", "passkey-bound", lambda a, r, e: len(a.same("passkeys", e, "human")) < MOST.passkeys),
    ("passkey_revoked", "passkey-known", lambda a, r, e: a.ended(e)),
    ("account_unlinked", "account-known", lambda a, r, e: a.ended(e)),
    ("passkey_revoked account_unlinked", "operator", lambda a, r, e: e.by in {a.ended(e)[0].human, *a.operators()}),
    ("account_linked", "account-once", lambda a, r, e: not a.same("accounts", e, "account") and all(
        {**e.account, "account": own.account.account} != own.account for own in a.same("accounts", e, "human"))),
    ("identity_set", "identity-known", lambda a, r, e: e.human or a.ended(e)),
    ("identity_set", "identity-once", lambda a, r, e: not e.human or all(own.human == e.human for own in a.ended(e))),
    ("groups_claimed", "identity-known", lambda a, r, e: a.same("identities", e, "issuer", "subject", "human")),
    ("groups_claimed", "claim-life", lambda a, r, e: 0 < e.until_ms - e.ms <= MOST.claim_ms),
    ("groups_claimed", "claim-life", lambda a, r, e: len(e.groups) <= MOST.claim_groups),
    ("delegated", "delegation", lambda a, r, e: not e.parent or a.in_force(e.parent, e["from"], e.ms)),
    ("delegated", "agent-live", lambda a, r, e: a.lives(e["from"], e.instance) and a.lives(e.to)),
    ("delegated", "delegation", lambda a, r, e: e.to not in a.chain(e) and 0 < len(e.scopes) <= MOST.delegation_scopes),
    ("delegated", "delegation", lambda a, r, e: len(a.chain(e)) + (e.passes or 0) <= MOST.delegation_agents
        and (e.passes or 0) < a.parent(e).passes and e.ms < e.expires_ms <= a.parent(e).expires_ms),
    ("delegated", "scope-pinned", lambda a, r, e: all(
        a.loaded.scopes.get(name) == bounds.template in a.catalog for name, bounds in e.scopes.items())),
    ("delegated", "delegation", lambda a, r, e: all(a.bounded(e, *scope) for scope in e.scopes.items())),
    ("delegated", "delegation", lambda a, r, e: a.handed(e["from"], e.ms) < MOST.live_delegations),
    ("delegated", "delegation", lambda a, r, e: a.handed(e["from"], e.ms - MOST.delegation_ms) < MOST.day_delegations),
    ("delegation_ended", "delegation", lambda a, r, e: a.in_force(e.delegation_id, None, e.ms) and a.ender(e)),
    # What belongs to a request: what it asks for, its order and time, then each kind.
    ("requested narrowed", "digest", lambda a, r, e: digest_of("request", e.terms) == e.digest),
    ("requested", "digest", lambda a, r, e: r.terms.version == 1 and r.terms.request_id == e.request_id),
    ("requested", "origin", lambda a, r, e: a.may_name(r.terms.origin)),
    ("later", "time", lambda a, r, e: e.ms >= r.last),
    ("open intended issued", "epoch", lambda a, r, e: a.may_name(r.terms.origin)),
    ("later", "phase", lambda a, r, e: e.kind in FOLLOW.get(r.phase, ())),
    ("later", "digest", lambda a, r, e: (e.old_digest or e.digest) == r.digest),
    ("in_time expired", "deadline", lambda a, r, e: (e.ms < r.ends()) == (e.kind != "expired")),
    ("decided voted", "policy-set", lambda a, r, e: (e.verdict or e).policy_set == a.loaded.policy_set),
    ("by_deciders", "eligible", lambda a, r, e: r.eligible(a, e.human, e.channel, e.ms)),
    ("questioned", "question-open", lambda a, r, e: not r.asked),
    ("narrowed approved", "question-open", lambda a, r, e: not r.asked or r.asked.human == e.human),
    ("decided", "decided-once", lambda a, r, e: e.again or not r.verdict),
    ("decided", "attributes", lambda a, r, e: [e.attributes, *(e.chain or ())] == [
        a.attributes(agent, e.ms) for agent in (r.terms.agent, *r.terms.delegation)]),
    ("questioned", "question-bound", lambda a, r, e: r.questions < MOST.questions),
    ("answered", "answer", lambda a, r, e: r.asked),
    ("narrowed", "scope-known", lambda a, r, e: r.scope),
    ("narrowed", "narrower", lambda a, r, e: e.terms != r.terms == {**e.terms, "ttl_s": r.terms.ttl_s, "params": {
        **e.terms.params, **r.terms.params}} and a.within(r.terms, e.terms)),
    ("voted", "group-evidence", lambda a, r, e: e.groups == a.groups_of(e.human, e.ms)),
    ("voted", "canonical", lambda a, r, e: e.decision in ("approve", "deny")),
    ("voted", "passkey", lambda a, r, e: not e.proof or r.signed(a, e)),
    ("voted", "passkey-nonce", lambda a, r, e: not e.proof or ("nonce", e.proof.nonce) not in a.used),
    ("approved", "passkey", lambda a, r, e: e.proof or r.verdict.strength != "passkey"),
    ("approved", "confirmation", lambda a, r, e: not r.scope or r.scope.confirm in (None, "", e.confirmed)),
    ("approved", "seen", lambda a, r, e: e.seen == r.seen),
    ("approved", "vote-once", lambda a, r, e: e.human not in [vote.human for vote in r.votes]),
    ("approved", "eligible", lambda a, r, e: r.verdict.quorum < 2 or not a.tied(e.human, r.standing(a, e.ms), e.ms)),
    ("withdrawn", "withdraw", lambda a, r, e: e.human in [vote.human for vote in r.votes]),
    ("intended", "quorum", lambda a, r, e: r.met(a, e.ms)),
    ("intended", "policy-set", lambda a, r, e: r.under == a.loaded.policy_set),
    ("intended", "approvers", lambda a, r, e: e.approvers == r.standing(a, e.ms)),
    ("intended", "minter", lambda a, r, e: r.scope and r.scope.minter == e.minter),
    ("requested intended", "agent-live", lambda a, r, e: a.lives(r.terms.agent, r.terms.instance)),
    ("requested", "scope-pinned", lambda a, r, e: a.loaded.scopes.get(r.terms.scope) == r.terms.template),
    ("requested intended", "delegation", lambda a, r, e: a.covers(r.terms, e.ms)),
    ("requested", "terms", lambda a, r, e: r.terms.ttl_s > 0 and r.deadline > e.ms),
    ("requested narrowed", "params", lambda a, r, e: not r.scope or typed(r.scope.params, e.terms)),
    ("ended renewed revoked", "lease", lambda a, r, e: r.lease.lease_id == e.lease_id and r.lease.state != "over"),
    ("renewed", "lease", lambda a, r, e: r.lease.state == "live"),
    ("ended", "deadline", lambda a, r, e: e.ms >= r.lease.expires_ms),
    ("renewed", "lifetime", lambda a, r, e: e.ms < r.lease.expires_ms and e.ms < e.expires_ms <= r.lease.latest_ms),
    ("issued", "lifetime", lambda a, r, e: e.ms < e.expires_ms <= e.ms + r.terms.ttl_s * 1000),
    ("issued renewed", "delegation", lambda a, r, e: (
        not r.terms.delegation_id or e.expires_ms <= a.delegations[r.terms.delegation_id].expires_ms)),
]
RULES_OF = {kind: [row for row in RULES if any(kind in FORMAT.groups.get(name, [name]) for name in row[0].split())]
            for kind in (*FORMAT["$defs"], "approved", "ended")}

def judge(kind, a, r, e):
    """Checks every rule of a kind of leaf, and that what has to be new in it is."""
    new = REGISTERS.new.get(kind, Row(fields=()))
    named = {(field, e[field]) for field in new.fields}
    need(not named & a.used, new.rule, "a leaf before names the same")
    for _, rule, holds in RULES_OF[kind]:
        if not holds(a, r, e):
            raise Wrong(rule, f"`{kind}` breaks `{rule}` (rules.py, line {holds.__code__.co_firstlineno})")
    a.used |= named
