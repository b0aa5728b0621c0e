"""The life of one request, folded leaf by leaf."""

import re

from rules import (COLLECT_MS, MAX_QUESTIONS, NONCE_MS, check_signature, digest_of, millis, need, stricter)

OPEN = ("recorded", "pending", "approved")


class Request:
    def __init__(self, e, a):
        terms = self.terms = e["terms"]
        need(digest_of("request", terms) == e["digest"], "digest", "the digest is not that of the terms")
        need(terms["version"] == 1 and terms["request_id"] == e["request_id"], "digest", "other terms")
        need(terms["origin"] == a.origin, "origin", "the terms name another log")
        self.agent_lives(a)
        a.not_before(e["ms"])
        need(a.scopes.get(terms["scope"]) == terms["template"], "scope-pinned", "scope not in force")
        need(terms["ttl_s"] > 0 and millis(terms["decide_by"]) > e["ms"], "terms", "no time")
        self.scope = a.catalog.get(terms["template"])
        if self.scope:
            check_params(self.scope["params"], terms)
        self.digest, self.since, self.last, self.version = e["digest"], e["ms"], e["ms"], 1
        self.phase, self.verdict, self.under, self.excluded, self.floor = "recorded", None, None, (), None
        self.votes, self.questions, self.seen, self.asked = [], 0, None, None
        self.deadline = millis(terms["decide_by"])
        self.pause, self.approved_at, self.lease = self.deadline - e["ms"], None, None

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
        terms, v = self.terms, self.verdict
        if not a.active(human) or terms["agent"] not in a.agents:
            return "not an active person"
        if a.owned_since(terms["agent"], human, self.since):
            return "owns the agent"
        if terms.get("on_behalf_of") == human:
            return "it is on their behalf"
        if any(a.owned_since(terms["agent"], by, self.since) for by in a.stand_ins(human, at)):
            return "the owner could act as them"
        if any(d not in a.agents or a.owned_since(d, human, self.since) for d in terms["delegation"]):
            return "owns a delegate"
        if not v or v["verdict"] != "ask":
            return "no vote is asked for"
        if not v["approvers"] or not set(v["approvers"]) <= set(a.groups_of(human, at)):
            return "not in the group"
        if a.changed_recently(human, terms["agent"], v["approvers"], at):
            return "a recent change"
        return None if channel in v["channels"] else "not through this channel"

    def standing(self, a, at):
        """Whose approvals count; `a` None: by the leaves alone, whatever happened to rights since."""
        def counts(v):
            strong = self.verdict["strength"] == "chat" or (
                v["passkey"] and (not a or not a.passkeys[v["passkey"]]["revoked"]))
            return (v["live"] and v["decision"] == "approve" and v["digest"] == self.digest and strong
                    and v["human"] not in self.excluded
                    and (not a or not self.ineligible(a, v["human"], v["channel"], at)))
        return sorted({v["human"] for v in self.votes if self.verdict and counts(v)})

    def met(self, a, at):
        v = self.verdict
        if not v or v["verdict"] == "deny" or self.terms["ttl_s"] > v["max_ttl_s"]:
            return False
        enough = not self.asked and 0 < v["quorum"] <= len(self.standing(a, at))
        return v["verdict"] == "allow" or enough

    def refresh(self, a, at):
        self.approved_at = (self.approved_at or at) if self.met(None, at) else None
        if self.met(a, at):
            self.phase = "approved"
        elif self.phase in ("approved", "recorded"):
            self.phase = "pending"

    def resume(self, at):
        if self.asked:
            used = min(max(at - self.asked[1], 0), self.pause)
            self.deadline, self.pause, self.asked = self.deadline + used, self.pause - used, None

    def void(self):
        for vote in self.votes:
            vote["live"] = vote["live"] and vote["decision"] != "approve"

    def apply(self, e, a):
        kind, at = e["kind"], e["ms"]
        need(at >= self.last, "time", "time runs backwards within the request")
        a.not_before(at)
        ends_it = kind == "cancelled" or (kind == "expired" and "lease_id" not in e)
        if kind in ("decided", "questioned", "answered", "narrowed", "voted", "withdrawn", "intended"):
            need(self.phase in OPEN, "terminal", f"the request is {self.phase} already")
            given = e["old_digest"] if kind == "narrowed" else e["digest"]
            need(given == self.digest, "digest", "not the request's present digest")
            need(at < self.ends(), "deadline", "the request ended before")
        else:
            need(e["digest"] == self.digest, "digest", "not the request's present digest")
            need(not ends_it or self.phase in OPEN, "terminal", f"the request is {self.phase} already")
        if kind in ("questioned", "narrowed", "voted"):
            need(self.phase != "recorded", "order", "not decided yet")
        if kind in ("decided", "voted"):
            used = e["verdict"]["policy_set"] if kind == "decided" else e["policy_set"]
            need(used == a.policy_set, "policy-set", "a policy set that is not in force")
        if kind in ("questioned", "narrowed", "voted"):
            why = self.ineligible(a, e["human"], e["channel"], at)
            need(not why, "eligible", f"`{e['human']}`: {why}")
        need(hasattr(self, "_" + kind), "kind", f"`{kind}` cannot follow here")
        getattr(self, "_" + kind)(e, a)
        self.version, self.last = self.version + 1, at

    def _decided(self, e, a):
        need(e.get("again") or not self.verdict, "decided-once", "decided already")
        need(e["attributes"] == a.attributes(self.terms["agent"], e["ms"]), "attributes", "not as registered")
        self.verdict = stricter(e["verdict"], self.floor) if self.floor else e["verdict"]
        self.under, self.excluded = e["verdict"]["policy_set"], e.get("excluded", ())
        if self.verdict["verdict"] == "deny" or self.terms["ttl_s"] > self.verdict["max_ttl_s"]:
            self.phase = "denied"
        else:
            self.refresh(a, e["ms"])

    def _questioned(self, e, a):
        need(not self.asked, "question-open", "a question is open already")
        need(self.questions < MAX_QUESTIONS, "question-bound", "no more questions")
        self.asked, self.questions = (e["human"], e["ms"]), self.questions + 1
        self.seen = self.version
        self.void()
        self.refresh(a, e["ms"])

    def _answered(self, e, a):
        need(self.asked, "answer", "no question is open")
        self.resume(e["ms"])
        self.seen = self.version
        self.void()
        self.refresh(a, e["ms"])

    def _narrowed(self, e, a):
        need(not self.asked or self.asked[0] == e["human"], "question-open", "only the asker may narrow")
        need(digest_of("request", e["terms"]) == e["digest"], "digest", "not that of the terms")
        need(self.scope, "scope-known", "the scope's declaration is missing")
        self.narrower(e["terms"])
        self.resume(e["ms"])
        self.terms, self.digest, self.floor, self.verdict = e["terms"], e["digest"], self.verdict, None
        self.seen, self.phase, self.approved_at = self.version, "recorded", None
        self.void()

    def narrower(self, new):
        old, free = self.terms, ("params", "ttl_s")
        need({**new, **{f: old[f] for f in free}} == old, "narrower", "more than narrowed")
        need(0 < new["ttl_s"] <= old["ttl_s"] and new["params"].keys() == old["params"].keys() and new != old,
             "narrower", "not narrower")
        check_params(self.scope["params"], new)
        for name, was in old["params"].items():
            now, order = new["params"][name], self.scope["params"][name].get("order", "equal")
            need(now == was or (order == "max" and now <= was)
                 or (order == "prefix" and now.startswith(was))
                 or (order == "subset" and set(now) <= set(was)), "narrower", f"{name} is wider")

    def _voted(self, e, a):
        need(e["groups"] == a.groups_of(e["human"], e["ms"]), "group-evidence", "not the voter's groups")
        passkey = self.signed(e, a) if "proof" in e else None
        if e["decision"] == "deny":
            self.phase = "denied"
            return
        need(e["decision"] == "approve", "canonical", "a vote is for or against")
        need(passkey or self.verdict["strength"] != "passkey", "passkey", "it needs a passkey")
        wanted = self.scope and self.scope.get("confirm")
        need(not wanted or e.get("confirmed") == wanted, "confirmation", "a fact was to be confirmed")
        need(e.get("seen") == self.seen, "seen", "the vote has not seen the last change")
        need(not self.asked or self.asked[0] == e["human"], "question-open", "only the asker may approve")
        need(not any(v["live"] and v["human"] == e["human"] for v in self.votes), "vote-once", "twice")
        self.resume(e["ms"])
        self.votes.append({**e, "live": True, "passkey": passkey})
        self.refresh(a, e["ms"])

    def signed(self, e, a):
        proof = e["proof"]
        need(proof["kind"] == "passkey" and re.fullmatch("[0-9a-f]{64}", proof["nonce"]), "passkey", "form")
        need(0 < millis(proof["expires_at"]) - e["ms"] <= NONCE_MS, "passkey", "not of this time")
        key = a.passkeys.get(proof["credential_id"])
        need(key and key["human"] == e["human"] and not key["revoked"], "passkey", "unknown or ended")
        by, agent = key["made_by"], self.terms["agent"]
        need(by == e["human"] or not a.owned_since(agent, by, self.since), "passkey", "the owner's link")
        check_signature(e, key, a.origin)
        need(proof["nonce"] not in a.nonces, "passkey-nonce", "the nonce was spent before")
        a.nonces.add(proof["nonce"])
        return proof["credential_id"]

    def _withdrawn(self, e, a):
        mine = [v for v in self.votes if v["live"] and v["human"] == e["human"]]
        need(mine, "withdraw", "no standing approval")
        mine[0]["live"] = False
        self.refresh(a, e["ms"])

    def _intended(self, e, a):
        need(self.phase == "approved" and self.met(a, e["ms"]), "quorum", "the verdict is not met")
        need(self.under == a.policy_set, "policy-set", "a policy set that is no longer in force")
        need(e["approvers"] == self.standing(a, e["ms"]), "approvers", "not those whose votes stand")
        need(self.scope and self.scope["minter"] == e["minter"], "minter", "not the scope's minter")
        self.agent_lives(a)
        self.phase = "intended"

    def _issued(self, e, _a):
        need(self.phase == "intended", "intent", f"issued while {self.phase}")
        need(e["ms"] < e["expires_at_ms"] <= e["ms"] + self.terms["ttl_s"] * 1000, "lifetime", "too long")
        self.phase = "granted"
        self.lease = {"id": e["lease_id"], "since": e["ms"], "until": e["expires_at_ms"], "state": "live"}

    def _failed(self, e, _a):
        need(self.phase == "intended", "intent", f"{e['kind']} while {self.phase}")
        self.phase = e["kind"]

    _unknown = _failed

    def _cancelled(self, e, _a):
        self.phase = "cancelled"

    def _expired(self, e, _a):
        if "lease_id" in e:
            need(e["ms"] >= self.alive(e)["until"], "lease", "the lease ends later")
            self.lease["state"] = "expired"
        else:
            need(e["ms"] >= self.ends(), "deadline", "the request ends later")
            self.phase = "expired"

    def alive(self, e):
        known = self.lease and self.lease["id"] == e["lease_id"]
        need(known and self.lease["state"] in ("live", "withdrawn"), "lease", "no live lease of that id")
        return self.lease

    def _renewed(self, e, _a):
        lease = self.alive(e)
        need(lease["state"] == "live", "lease", "a withdrawn lease is not extended")
        need(e["ms"] < lease["until"] and e["ms"] < e["expires_at_ms"]
             and e["expires_at_ms"] <= lease["since"] + self.terms["ttl_s"] * 1000, "lifetime", "too long")
        lease["until"] = e["expires_at_ms"]

    def _revoked(self, e, _a):
        self.alive(e)["state"] = "withdrawn" if e.get("still_valid") else "revoked"


def check_params(specs, terms):
    sealed = terms.get("sealed_params", {})
    for name, spec in specs.items():
        place, other = (sealed, terms["params"]) if spec.get("sensitive") else (terms["params"], sealed)
        need(name not in other and (name in place or spec.get("optional")), "params", f"`{name}`")
        if name in terms["params"]:
            need(fits(spec, terms["params"][name]), "params", f"`{name}` is not of its type")
    need({*sealed, *terms["params"]} <= set(specs), "params", "unknown parameters")


def fits(spec, value):
    kind, text = spec["type"], isinstance(value, str)
    if kind == "integer":
        return type(value) is int and spec["min"] <= value <= spec["max"]
    if kind == "set":
        return (isinstance(value, list) and 0 < len(value) <= spec["most"] and len(set(value)) == len(value)
                and all(re.fullmatch(spec["pattern"], v) for v in value))
    return {"boolean": lambda: isinstance(value, bool),
            "choice": lambda: text and value in spec["values"],
            "string": lambda: text and len(value.encode()) <= 1024 and re.fullmatch(spec["pattern"], value),
            "s3-bucket": lambda: text and re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", value),
            "s3-prefix": lambda: text and len(value) <= 200 and re.fullmatch(r"([A-Za-z0-9._-]+/)+", value)
            and not {".", ".."} & set(value.split("/"))}[kind]()
