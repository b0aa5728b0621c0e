"""The life of one request, folded leaf by leaf."""

import re

from log import need
from rules import check_signature, digest_of, fits, millis, narrower

OPEN = ("recorded", "pending", "approved")
COLLECT_MS, NONCE_MS, MAX_QUESTIONS = 600_000, 300_000, 5


def stricter(one, two):
    """Two verdicts together."""
    def possible(v):
        empty = v["verdict"] == "ask" and not (v["quorum"] and v["channels"] and v["approvers"])
        return {**v, "verdict": "deny", "max_ttl_s": 0} if empty else v
    one, two = sorted((possible(one), possible(two)), key=lambda v: ("allow", "ask", "deny").index(v["verdict"]))
    out = dict(two)
    if one["verdict"] == two["verdict"] == "ask":
        out.update(quorum=max(one["quorum"], two["quorum"]), strength=max(one["strength"], two["strength"]),
                   channels=sorted(set(one["channels"]) & set(two["channels"])),
                   approvers=sorted(set(one["approvers"]) | set(two["approvers"])))
    return possible({**out, "max_ttl_s": min(one["max_ttl_s"], two["max_ttl_s"])})


def check_params(specs, terms):
    params, sealed = terms["params"], terms.get("sealed_params", {})
    for name, spec in specs.items():
        place, other = (sealed, params) if spec.get("sensitive") else (params, sealed)
        need(name not in other and (name in place or spec.get("optional")), "params", f"`{name}`")
        need(name not in params or fits(spec, params[name]), "params", f"`{name}` is not of its type")
    need({*sealed, *params} <= set(specs), "params", "unknown parameters")


class Request:
    def __init__(self, e, a):
        terms = self.terms = e["terms"]
        need(digest_of("request", terms) == e["digest"], "digest", "the digest is not that of the terms")
        need(terms["version"] == 1 and terms["request_id"] == e["request_id"], "digest", "other terms")
        need(a.may_name(terms["origin"]), "origin", "the terms name another log")
        self.agent_lives(a)
        a.not_before(e["ms"])
        need(a.scopes.get(terms["scope"]) == terms["template"], "scope-pinned")
        a.covers(terms, e["ms"])
        self.deadline, self.scope = millis(terms["decide_by"]), a.catalog.get(terms["template"])
        need(terms["ttl_s"] > 0 and self.deadline > e["ms"], "terms", "no lifetime or no time to decide")
        if self.scope:
            check_params(self.scope["params"], terms)
        self.digest, self.since, self.last, self.version = e["digest"], e["ms"], e["ms"], 1
        self.phase, self.verdict, self.under, self.excluded, self.floor = "recorded", None, None, (), None
        self.votes, self.questions, self.seen, self.asked, self.lease = [], 0, None, None, None
        self.pause, self.approved_at = self.deadline - e["ms"], None
    def agent_lives(self, a):
        agent, instance = a.agents.get(self.terms["agent"]), a.instances.get(self.terms["instance"])
        need(agent and not agent["revoked"] and instance and not instance["revoked"]
             and instance["agent"] == self.terms["agent"], "agent-live", "agent or instance is revoked")
    def ends(self):
        if self.approved_at is not None and self.phase in OPEN:
            return self.approved_at + COLLECT_MS
        return self.deadline + (self.pause if self.asked else 0)
    def ineligible(self, a, human, channel, at):
        """Why this person may not decide; None when they may."""
        agent, v = self.terms["agent"], self.verdict
        behalf, chain, others = self.terms.get("on_behalf_of"), self.terms["delegation"], a.stand_ins(human, at)
        def owned(by):
            return any(d not in a.agents or a.owned_since(d, by, self.since) for d in chain)
        for wrong, why in ((lambda: not a.active(human) or agent not in a.agents, "not an active person"),
                (lambda: a.owned_since(agent, human, self.since), "owns the agent"),
                (lambda: behalf == human, "it is on their behalf"),
                (lambda: any(a.owned_since(agent, by, self.since) for by in others),
                 "the agent's owner could act as them"),
                (lambda: owned(human), "owns an agent that passed the right on"),
                (lambda: behalf in others or any(map(owned, others)), "the task's person could act as them"),
                (lambda: not v or v["verdict"] != "ask", "no vote is asked for"),
                (lambda: not v["approvers"] or not set(v["approvers"]) <= set(a.groups_of(human, at)),
                 "not in the group that the verdict names"),
                (lambda: any(a.changed_recently(human, d, v["approvers"], at) for d in (agent, *chain)),
                 "changed it within a day"),
                (lambda: channel not in v["channels"], "votes do not count through this channel")):
            if wrong():
                return why
        return None
    def standing(self, a, at):
        """Whose approvals count; `a` None: by the leaves alone, whatever happened to rights since."""
        def counts(v):
            signed = v["passkey"] and (not a or not a.passkeys[v["passkey"]]["revoked"])
            return (v["live"] and v["digest"] == self.digest and v["human"] not in self.excluded
                    and (signed or self.verdict["strength"] == "chat")
                    and (not a or not self.ineligible(a, v["human"], v["channel"], at)))
        counted = []
        for v in self.votes if self.verdict else ():
            if counts(v) and not (a and a.same_hand(v["human"], counted, at)):
                counted.append(v["human"])
        return sorted(set(counted))
    def met(self, a, at):
        v = self.verdict
        if not v or v["verdict"] == "deny" or self.terms["ttl_s"] > v["max_ttl_s"]:
            return False
        return v["verdict"] == "allow" or (not self.asked and 0 < v["quorum"] <= len(self.standing(a, at)))
    def refresh(self, a, at):
        self.approved_at = (self.approved_at or at) if self.met(None, at) else None
        now = "approved" if self.met(a, at) else "pending"
        self.phase = now if now == "approved" or self.phase in ("approved", "recorded") else self.phase
    def resume(self, at):
        if self.asked:
            used = min(max(at - self.asked[1], 0), self.pause)
            self.deadline, self.pause, self.asked = self.deadline + used, self.pause - used, None
    def void(self):
        self.seen = self.version
        for vote in self.votes:
            vote["live"] = False
    def apply(self, e, a):
        kind, at, by_people = e["kind"], e["ms"], e["kind"] in ("questioned", "narrowed", "voted")
        need(at >= self.last, "time", "time runs backwards within the request")
        a.not_before(at)
        need(a.may_name(self.terms["origin"]) or self.phase not in OPEN and kind != "issued", "epoch",
             "it was asked in another log, and ended with it")
        given = e["old_digest"] if kind == "narrowed" else e["digest"]
        if by_people or kind in ("decided", "answered", "withdrawn", "intended"):
            need(self.phase in OPEN, "terminal", f"the request is {self.phase} already")
            need(at < self.ends() or given != self.digest, "deadline", "the request ended before")
        need(given == self.digest, "digest", "not the request's present digest")
        if kind == "cancelled" or (kind == "expired" and "lease_id" not in e):
            need(self.phase in OPEN, "terminal", f"the request is {self.phase} already")
        need(not by_people or self.phase != "recorded", "order", "not decided yet")
        if kind in ("decided", "voted"):
            need(e.get("verdict", e)["policy_set"] == a.policy_set, "policy-set", "not in force")
        why = self.ineligible(a, e["human"], e["channel"], at) if by_people else None
        need(not why, "eligible", f"`{e.get('human')}`: {why}")
        need(hasattr(self, "_" + kind), "kind", f"`{kind}` cannot follow here")
        getattr(self, "_" + kind)(e, a, at)
        self.version, self.last = self.version + 1, at
    def _decided(self, e, a, at):
        need(e.get("again") or not self.verdict, "decided-once")
        theirs = [a.attributes(agent, at) for agent in (self.terms["agent"], *self.terms["delegation"])]
        need([e["attributes"], *e.get("chain", ())] == theirs, "attributes", "not as registered")
        self.verdict = stricter(e["verdict"], self.floor) if self.floor else e["verdict"]
        self.under, self.excluded = e["verdict"]["policy_set"], e.get("excluded", ())
        if self.verdict["verdict"] == "deny" or self.terms["ttl_s"] > self.verdict["max_ttl_s"]:
            self.phase = "denied"
        else:
            self.refresh(a, at)
    def _questioned(self, e, a, at):
        need(not self.asked, "question-open")
        need(self.questions < MAX_QUESTIONS, "question-bound")
        self.asked, self.questions = (e["human"], at), self.questions + 1
        self.void()
        self.refresh(a, at)
    def _answered(self, _, a, at):
        need(self.asked, "answer", "no question is open")
        self.resume(at)
        self.void()
        self.refresh(a, at)
    def _narrowed(self, e, _, at):
        need(not self.asked or self.asked[0] == e["human"], "question-open", "only the asker may narrow")
        need(digest_of("request", e["terms"]) == e["digest"], "digest", "not that of the terms")
        need(self.scope, "scope-known", "the scope's declaration is missing")
        old, new = self.terms, e["terms"]
        need({**new, "params": old["params"], "ttl_s": old["ttl_s"]} == old and new != old and
             0 < new["ttl_s"] <= old["ttl_s"] and new["params"].keys() == old["params"].keys(), "narrower")
        check_params(self.scope["params"], new)
        for name, was in old["params"].items():
            need(narrower(self.scope["params"][name], was, new["params"][name]), "narrower", f"`{name}` is wider")
        self.resume(at)
        self.terms, self.digest, self.floor, self.verdict = new, e["digest"], self.verdict, None
        self.phase, self.approved_at = "recorded", None
        self.void()
    def _voted(self, e, a, at):
        need(e["groups"] == a.groups_of(e["human"], at), "group-evidence", "not the voter's groups")
        need(e["decision"] in ("approve", "deny"), "canonical", "a vote is for or against")
        passkey = self.signed(e, a, at) if "proof" in e else None
        if e["decision"] == "deny":
            self.phase = "denied"
            return
        need(passkey or self.verdict["strength"] != "passkey", "passkey", "it needs a passkey")
        wanted = self.scope and self.scope.get("confirm")
        need(not wanted or e.get("confirmed") == wanted, "confirmation")
        need(e.get("seen") == self.seen, "seen", "the vote has not seen the last change")
        need(not self.asked or self.asked[0] == e["human"], "question-open", "only the asker may approve")
        need(not any(v["live"] and v["human"] == e["human"] for v in self.votes), "vote-once")
        need(self.verdict["quorum"] < 2 or not a.same_hand(e["human"], self.standing(a, at), at),
             "eligible", "their vote and another's count as one")
        self.resume(at)
        self.votes.append({**e, "live": True, "passkey": passkey})
        self.refresh(a, at)
    def signed(self, e, a, at):
        proof = e["proof"]
        need(proof["kind"] == "passkey" and re.fullmatch("[0-9a-f]{64}", proof["nonce"]), "passkey", "form")
        need(0 < millis(proof["expires_at"]) - at <= NONCE_MS, "passkey", "the signature is not of this time")
        key = a.passkeys.get(proof["credential_id"])
        need(key and key["human"] == e["human"] and not key["revoked"], "passkey", "unknown or ended")
        check_signature(e, key, self.terms["origin"])
        need(proof["nonce"] not in a.nonces, "passkey-nonce", "the nonce was spent before")
        a.nonces.add(proof["nonce"])
        return proof["credential_id"]
    def _withdrawn(self, e, a, at):
        mine = [v for v in self.votes if v["live"] and v["human"] == e["human"]]
        need(mine, "withdraw", "no standing approval")
        mine[0]["live"] = False
        self.refresh(a, at)
    def _intended(self, e, a, at):
        need(self.phase == "approved" and self.met(a, at), "quorum", "the verdict is not met")
        need(self.under == a.policy_set, "policy-set", "a policy set that is no longer in force")
        need(e["approvers"] == self.standing(a, at), "approvers", "not those whose votes stand")
        need(self.scope and self.scope["minter"] == e["minter"], "minter", "not the scope's minter")
        self.agent_lives(a)
        a.covers(self.terms, at)
        self.phase = "intended"
    def _issued(self, e, _, at):
        need(self.phase == "intended", "intent", f"issued while {self.phase}")
        need(at < e["expires_at_ms"] <= at + self.terms["ttl_s"] * 1000, "lifetime")
        self.phase = "granted"
        self.lease = {"id": e["lease_id"], "since": at, "until": e["expires_at_ms"], "state": "live"}
    def _failed(self, e, *_):
        need(self.phase == "intended", "intent", f"{e['kind']} while {self.phase}")
        self.phase = e["kind"]
    _unknown = _failed
    def _cancelled(self, *_):
        self.phase = "cancelled"
    def _expired(self, e, _, at):
        need(at >= (self.alive(e)["until"] if "lease_id" in e else self.ends()), "deadline", "it ends later")
        if "lease_id" in e:
            self.lease["state"] = "expired"
        else:
            self.phase = "expired"
    def alive(self, e):
        known = self.lease and self.lease["id"] == e["lease_id"]
        need(known and self.lease["state"] in ("live", "withdrawn"), "lease", "no live lease of that id")
        return self.lease
    def _renewed(self, e, _, at):
        lease = self.alive(e)
        need(lease["state"] == "live", "lease", "a withdrawn lease is not extended")
        latest = lease["since"] + self.terms["ttl_s"] * 1000
        need(at < lease["until"] and at < e["expires_at_ms"] <= latest, "lifetime")
        lease["until"] = e["expires_at_ms"]
    def _revoked(self, e, *_):
        self.alive(e)["state"] = "withdrawn" if e.get("still_valid") else "revoked"
