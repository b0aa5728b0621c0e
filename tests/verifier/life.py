"""The life of one request, folded leaf by leaf."""

import base64
import json
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from leaf import Row, check_params, digest_of, millis, narrower
from log import Wrong, need, sha256

COLLECT_MS, NONCE_MS, MAX_QUESTIONS = 600_000, 300_000, 5
OPEN, WAITING = ("recorded", "pending", "approved"), ("pending", "approved")
BY_PEOPLE = ("questioned", "narrowed", "voted")
IN_TIME = (*BY_PEOPLE, "decided", "answered", "withdrawn", "intended")
# Each kind: the phases that it may follow, and the one that it leads to where that is always one. A
# lease's `expired` stands as `ended`.
STEPS = {
    "decided": (OPEN, None), "questioned": (WAITING, None), "answered": (OPEN, None),
    "narrowed": (WAITING, "recorded"), "voted": (WAITING, None), "withdrawn": (OPEN, None),
    "intended": (["approved"], "intended"), "issued": (["intended"], "granted"),
    "failed": (["intended"], "failed"), "unknown": (["intended"], "unknown"),
    "cancelled": (OPEN, "cancelled"), "expired": (OPEN, "expired"),
    "ended": (["granted"], None), "renewed": (["granted"], None), "revoked": (["granted"], None)}


def possible(verdict):
    """An ask that nobody can answer is a deny."""
    v = verdict
    asks = v.verdict != "ask" or v.quorum and v.channels and v.approvers
    return v if asks else Row(v, verdict="deny", max_ttl_s=0)


def stricter(one, two):
    """Two verdicts together."""
    kinds = ("allow", "ask", "deny")
    one, two = sorted((possible(one), possible(two)), key=lambda v: kinds.index(v.verdict))
    both = Row(two, max_ttl_s=min(one.max_ttl_s, two.max_ttl_s))
    if one.verdict == "ask" == two.verdict:
        both.quorum, both.strength = max(one.quorum, two.quorum), max(one.strength, two.strength)
        both.channels = sorted(set(one.channels) & set(two.channels))
        both.approvers = sorted(set(one.approvers) | set(two.approvers))
    return possible(both)


class Request:
    def __init__(self, e, a):
        terms = self.terms = e.terms
        need(digest_of("request", terms) == e.digest, "digest", "it is not that of the terms")
        need(terms.version == 1 and terms.request_id == e.request_id, "digest", "other terms")
        need(a.may_name(terms.origin), "origin", "the terms name another log")
        need(a.lives(terms.agent, terms.instance), "agent-live", "agent or instance is revoked")
        a.not_before(e.ms)
        need(a.scopes.get(terms.scope) == terms.template, "scope-pinned")
        a.covers(terms, e.ms)
        self.deadline, self.scope = millis(terms.decide_by), a.catalog.get(terms.template)
        need(terms.ttl_s > 0 and self.deadline > e.ms, "terms", "no lifetime or no time to decide")
        if self.scope:
            check_params(self.scope.params, terms)
        self.digest, self.since, self.last, self.version = e.digest, e.ms, e.ms, 1
        self.phase, self.verdict, self.under, self.excluded = "recorded", None, None, ()
        self.votes, self.questions, self.seen, self.asked, self.lease = [], 0, None, None, None
        self.pause, self.approved_at, self.floor = self.deadline - e.ms, None, None
    def ends(self):
        if self.approved_at is not None:
            return self.approved_at + COLLECT_MS
        return self.deadline + (self.pause if self.asked else 0)
    def ineligible(self, a, human, channel, at):
        """Why this person may not decide; None when they may."""
        v, terms, agents = self.verdict, self.terms, (self.terms.agent, *self.terms.delegation)
        handed = min(self.since, a.handed_since(terms.delegation_id, self.since))
        if not a.active(human) or self.terms.agent not in a.agents:
            return "is not an active person"
        for who in (human, *a.stand_ins(human, at)):
            if a.owned_since(terms.agent, who, self.since) or any(
                    a.owned_since(agent, who, handed) for agent in terms.delegation):
                return f"or `{who}`, who could act as them, owned an agent that asks"
            if who == self.terms.on_behalf_of:
                return f"or `{who}`, who could act as them, is whom the task is for"
        if not v or v.verdict != "ask" or channel not in v.channels:
            return "is not asked, or not through this channel"
        if not v.approvers or not set(v.approvers) <= set(a.groups_of(human, at)):
            return "is not in the groups that the verdict names"
        recently = a.changed_recently(human, agents, v.approvers, at)
        return "changed an agent or a group within a day" if recently else None
    def standing(self, a, at):
        """Whose approvals count; `a` None: by the leaves alone, whatever became of rights."""
        counted = []
        for vote in self.votes if self.verdict else ():
            signed = vote.proof and (not a or not a.passkeys[vote.proof.credential_id].ended_ms)
            counts = vote.digest == self.digest and vote.human not in self.excluded
            if counts and (signed or self.verdict.strength == "chat") and (not a or not (
                    self.ineligible(a, vote.human, vote.channel, at)
                    or a.same_hand(vote.human, counted, at))):
                counted.append(vote.human)
        return sorted(set(counted))
    def met(self, a, at):
        v = self.verdict
        if not v or v.verdict == "deny" or self.terms.ttl_s > v.max_ttl_s:
            return False
        return v.verdict == "allow" or not self.asked and 0 < v.quorum <= len(self.standing(a, at))
    def refresh(self, a, at):
        self.approved_at = (self.approved_at or at) if self.met(None, at) else None
        self.phase = "approved" if self.met(a, at) else "pending"
    def resume(self, at, void=False):
        """Ends an open question's pause; what changed the request voids all approvals."""
        if self.asked:
            used = min(max(at - self.asked.ms, 0), self.pause)
            self.deadline, self.pause, self.asked = self.deadline + used, self.pause - used, None
        if void:
            self.seen, self.votes = self.version, []
    def apply(self, e, a):
        kind = "ended" if e.kind == "expired" and e.lease_id else e.kind
        after, then = STEPS[kind]
        need(e.ms >= self.last, "time", "time runs backwards within the request")
        a.not_before(e.ms)
        need(a.may_name(self.terms.origin) or self.phase not in OPEN and kind != "issued", "epoch",
             "it was asked in another log, and ended with it")
        need(self.phase in after, "phase", f"`{kind}` cannot follow: the request is {self.phase}")
        need((e.old_digest or e.digest) == self.digest, "digest", "it is not the present one")
        need(kind not in IN_TIME or e.ms < self.ends(), "deadline", "the request ended before")
        set_ = e.policy_set if kind == "voted" else e.verdict and e.verdict.policy_set
        need(not set_ or set_ == a.policy_set, "policy-set", "it is not in force")
        why = self.ineligible(a, e.human, e.channel, e.ms) if kind in BY_PEOPLE else None
        need(not why, "eligible", f"`{e.human}` {why}")
        others = self.asked and self.asked.human != e.human and e.decision != "deny"
        need(not others or kind not in ("narrowed", "voted"), "question-open", "only its asker may")
        getattr(self, kind, lambda *_: None)(e, a, e.ms)
        self.phase, self.version, self.last = then or self.phase, self.version + 1, e.ms
    def decided(self, e, a, at):
        need(e.again or not self.verdict, "decided-once")
        agents = (self.terms.agent, *self.terms.delegation)
        need([e.attributes, *(e.chain or ())] == [a.attributes(agent, at) for agent in agents],
             "attributes", "they are not as registered")
        self.verdict = stricter(e.verdict, self.floor) if self.floor else e.verdict
        self.under, self.excluded = e.verdict.policy_set, e.excluded or ()
        self.refresh(a, at)
        if self.verdict.verdict == "deny" or self.terms.ttl_s > self.verdict.max_ttl_s:
            self.phase = "denied"
    def questioned(self, e, a, at):
        need(not self.asked, "question-open")
        need(self.questions < MAX_QUESTIONS, "question-bound")
        self.resume(at, void=True)
        self.asked, self.questions = e, self.questions + 1
        self.refresh(a, at)
    def answered(self, _, a, at):
        need(self.asked, "answer", "no question is open")
        self.resume(at, void=True)
        self.refresh(a, at)
    def narrowed(self, e, _, at):
        old, new, scope = self.terms, e.terms, self.scope
        need(digest_of("request", new) == e.digest, "digest", "it is not that of the terms")
        need(scope, "scope-known", "the scope's declaration is missing")
        need({**new, "params": old.params, "ttl_s": old.ttl_s} == old != new
             and 0 < new.ttl_s <= old.ttl_s and new.params.keys() == old.params.keys() and all(
                 narrower(scope.params[name], was, new.params[name])
                 for name, was in old.params.items()), "narrower")
        check_params(scope.params, new)
        self.resume(at, void=True)
        self.terms, self.digest, self.floor, self.verdict = new, e.digest, self.verdict, None
        self.approved_at = None
    def voted(self, e, a, at):
        need(e.groups == a.groups_of(e.human, at), "group-evidence", "not the voter's groups")
        need(e.decision in ("approve", "deny"), "canonical", "a vote is for or against")
        if e.proof:
            self.signed(e, a)
        if e.decision == "deny":
            self.phase = "denied"
            return
        need(e.proof or self.verdict.strength != "passkey", "passkey", "it needs a passkey")
        need(not self.scope or not self.scope.confirm or e.confirmed == self.scope.confirm,
             "confirmation")
        need(e.seen == self.seen, "seen", "the vote has not seen the last change")
        need(e.human not in [vote.human for vote in self.votes], "vote-once")
        need(self.verdict.quorum < 2 or not a.same_hand(e.human, self.standing(a, at), at),
             "eligible", "their vote and another's count as one")
        self.resume(at)
        self.votes.append(e)
        self.refresh(a, at)
    def signed(self, e, a):
        proof, key = e.proof, a.passkeys.get(e.proof.credential_id)
        need(proof.kind == "passkey" and 0 < millis(proof.expires_at) - e.ms <= NONCE_MS, "passkey",
             "the signature is not of this time")
        need(key and key.human == e.human and not key.ended_ms, "passkey", "unknown or ended")
        check_signature(e, key, self.terms.origin)
        need(proof.nonce not in a.nonces, "passkey-nonce", "the nonce was spent before")
        a.nonces.add(proof.nonce)
    def withdrawn(self, e, a, at):
        left = [vote for vote in self.votes if vote.human != e.human]
        need(left != self.votes, "withdraw", "no standing approval")
        self.votes = left
        self.refresh(a, at)
    def intended(self, e, a, at):
        need(self.met(a, at), "quorum", "the verdict is not met")
        need(self.under == a.policy_set, "policy-set", "one that is no longer in force")
        need(e.approvers == self.standing(a, at), "approvers", "not those whose votes stand")
        need(self.scope and self.scope.minter == e.minter, "minter", "not the scope's minter")
        need(a.lives(self.terms.agent, self.terms.instance), "agent-live", "it is revoked")
        a.covers(self.terms, at)
    def issued(self, e, a, at):
        latest = at + self.terms.ttl_s * 1000
        need(at < e.expires_ms <= latest, "lifetime")
        a.outlasts(self.terms.delegation_id, e)
        self.lease = Row(id=e.lease_id, latest=latest, until=e.expires_ms, state="live")
    def expired(self, _, __, at):
        need(at >= self.ends(), "deadline", "it ends later")
    def alive(self, e, *states):
        known = self.lease.id == e.lease_id and self.lease.state in states
        need(known, "lease", "no live lease of that id")
    def ended(self, e, _, at):
        self.alive(e, "live", "withdrawn")
        need(at >= self.lease.until, "deadline", "it ends later")
        self.lease.state = "expired"
    def renewed(self, e, a, at):
        self.alive(e, "live")
        a.outlasts(self.terms.delegation_id, e)
        need(at < self.lease.until and at < e.expires_ms <= self.lease.latest, "lifetime")
        self.lease.until = e.expires_ms
    def revoked(self, e, *_):
        self.alive(e, "live", "withdrawn")
        self.lease.state = "withdrawn" if e.still_valid else "revoked"


def unpadded(value):
    raw = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    need(base64.urlsafe_b64encode(raw).decode().rstrip("=") == value, "passkey", "not base64url")
    return raw


def check_signature(vote, key, origin):
    """The WebAuthn assertion in a vote, over H(D, decision, human, nonce, expiry, origin)."""
    proof, algorithm = vote.proof, key.public_key.algorithm
    statement = {"origin": origin, "nonce": proof.nonce, "expires_at": proof.expires_at,
                 "digest": vote.digest, "decision": vote.decision, "human": vote.human}
    data, client, signature = (unpadded(part) for part in (
        proof.authenticator_data, proof.client_data, proof.signature))
    said = json.loads(client)
    challenge = unpadded(said["challenge"]).hex()
    need(said["type"] == "webauthn.get" and challenge == digest_of("passkey-decision", statement),
         "passkey", "it signed another vote")
    page = re.fullmatch(r"(?:https://([^:/]+)|http://(localhost))(:[0-9]{1,5})?", said["origin"])
    need(page and (page[1] or page[2]) == key.rp_id and said.get("crossOrigin", False) is False
         and "topOrigin" not in said, "passkey", "the passkey was used on another page")
    need(len(data) >= 37 and data[:32] == sha256(key.rp_id.encode()) and data[32] & 69 == 5
         and bool(data[32] & 8) == key.backup_eligible, "passkey", "what the authenticator says")
    message, raw = data + sha256(client), bytes.fromhex(key.public_key.key)
    try:
        if algorithm == "EdDSA":
            Ed25519PublicKey.from_public_bytes(raw).verify(signature, message)
        else:
            public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw)
            public.verify(signature, message, ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise Wrong("passkey", "the passkey's signature does not verify") from None
