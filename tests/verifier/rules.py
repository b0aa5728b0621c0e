"""The rules of a Grantwright log, folded leaf by leaf: who may decide, and what may follow what. All but
the replay of policy, for which a Cedar engine is needed."""

import base64
import hashlib
import json
import re
from calendar import timegm
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from log import Wrong

DAY, HALF_DAY, CLOCK_MS, ORDER_MS = 24 * 3600_000, 12 * 3600_000, 30_000, 300_000
COLLECT_MS, NONCE_MS, MAX_QUESTIONS, MAX_PASSKEYS, MAX_DEPTH = 600_000, 300_000, 5, 10, 32
TOKEN, NAME, AGENT, HEX = (re.compile(p) for p in (
    r"[A-Za-z0-9._-]{2,64}", r"[a-z0-9][a-z0-9._-]{0,63}", r"[a-z0-9-]{2,64}", r"[0-9a-f]{64}"))
TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{3}))?Z")

# Fields of each kind beside `kind` and `at`; those after the bar may be absent. docs/log-format.md.
OF_REQUEST = "digest request_id"
KINDS = {kind: tuple(set(part.split()) for part in fields.split("|")) for kind, fields in {
    "requested": f"{OF_REQUEST} terms | renews",
    "decided": f"{OF_REQUEST} verdict attributes context | excluded again unusual past",
    "questioned": f"{OF_REQUEST} human channel text |",
    "answered": f"{OF_REQUEST} text |",
    "narrowed": f"{OF_REQUEST} old_digest human channel terms |",
    "voted": f"{OF_REQUEST} human decision channel groups policies policy_set"
             " | seen reason_code reason confirmed proof",
    "withdrawn": f"{OF_REQUEST} human channel |",
    "intended": f"{OF_REQUEST} minter approvers |",
    "issued": f"{OF_REQUEST} lease_id expires_at revocable facts |",
    "failed": f"{OF_REQUEST} code detail |",
    "unknown": f"{OF_REQUEST} detail |",
    "cancelled": f"{OF_REQUEST} by |",
    "expired": f"{OF_REQUEST} | lease_id",
    "renewed": f"{OF_REQUEST} lease_id expires_at |",
    "revoked": f"{OF_REQUEST} lease_id by effect | still_valid",
    "account_linked": "human account |", "account_unlinked": "by account |",
    "agent_revoked": "by agent |", "agent_set": "by agent owner attributes |",
    "group_set": "by group members |", "groups_claimed": "human issuer subject groups until |",
    "human_set": "by human active operator |", "identity_set": "by issuer subject | human",
    "instance_enrolled": "join_id agent instance serial key seal_key not_after |",
    "instance_renewed": "instance old_serial serial key not_after |",
    "instance_revoked": "by instance reason |",
    "join_created": "by join_id agent token_hash expires_at |",
    "link_created": "by link_id human code_hash purpose expires_at |", "link_spent": "link_id |",
    "model_set": "by model model_version | until",
    "opened": "version origin vkey trust_domain |",
    "passkey_enrolled": "human link_id credential_id public_key rp_id aaguid backup_eligible |",
    "passkey_revoked": "by credential_id |", "policy_loaded": "by policy_set scopes |",
    "token_issued": "by token_id human token_hash expires_at |", "token_revoked": "by token_id |",
}.items()}
TERMS = {"version", "origin", "request_id", "agent", "instance", "workload", "delegation", "scope",
         "template", "params", "ttl_s", "reason", "decide_by"}
VERDICT = {"verdict", "reason", "policies", "policy_set", "quorum", "strength", "channels", "approvers",
           "max_ttl_s"}
SETS = ("members", "groups", "policies", "approvers", "channels", "excluded")


def need(ok, rule, detail):
    if not ok:
        raise Wrong(rule, detail)


def millis(text):
    found = TIME.fullmatch(text)
    need(found and found[2] != "000", "canonical", f"{text!r} is not a time as leaves write it")
    return timegm(datetime.fromisoformat(found[1]).timetuple()) * 1000 + int(found[2] or 0)


def canonical(value, depth=0):
    """RFC 8785 over strings, integers, booleans, arrays and objects."""
    if isinstance(value, dict):
        need(depth < MAX_DEPTH, "canonical", "nested too deep")
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{canonical(k)}:{canonical(value[k], depth + 1)}" for k in keys) + "}"
    if isinstance(value, list):
        need(depth < MAX_DEPTH, "canonical", "nested too deep")
        return "[" + ",".join(canonical(item, depth + 1) for item in value) + "]"
    if isinstance(value, int) and not isinstance(value, bool):
        need(abs(value) < 1 << 53, "canonical", "an integer beyond 2^53-1")
    need(isinstance(value, (str, int)), "canonical", f"{value!r} has no canonical form")
    return json.dumps(value, ensure_ascii=False)


def digest(label, data):
    return hashlib.sha256(f"grantwright/{label}/v1\0".encode() + data).hexdigest()


def digest_of(label, value):
    return digest(label, canonical(value).encode())


def read_leaf(body):
    """The event of a leaf, of a known kind and shape, or a finding."""
    def no_twice(pairs):
        need(len(dict(pairs)) == len(pairs), "canonical", "a key is there twice")
        return dict(pairs)

    def refuse(text):
        raise Wrong("canonical", f"{text} is no integer")
    try:
        e = json.loads(body.decode(), object_pairs_hook=no_twice, parse_float=refuse,
                       parse_constant=refuse)
        need(canonical(e).encode() == body, "canonical", "not in canonical form")
    except (ValueError, RecursionError) as fault:
        raise Wrong("canonical", f"not JSON: {fault}") from None
    need(isinstance(e, dict) and e.get("kind") in KINDS, "canonical", "not of a known kind")
    least, more = KINDS[e["kind"]]
    given = set(e) - {"kind", "at"}
    need(least <= given <= least | more and "at" in e, "canonical", "other fields than its kind has")
    for part, fields in (("terms", TERMS), ("verdict", VERDICT)):
        if part in e:
            extra = {"on_behalf_of", "sealed_params", "task", "code"}
            need(fields <= set(e[part]) <= fields | extra, "canonical", f"`{part}` has other fields")
    for place in (e, e.get("verdict", {})):
        for name in SETS:
            need(place.get(name, []) == sorted(set(place.get(name, [])), key=str.encode),
                 "canonical", f"`{name}` is not a sorted set")
    for name in ("request_id", "lease_id", "instance"):
        need(TOKEN.fullmatch(e.get(name, "ok")), "canonical", f"`{name}` is not of its form")
    for name in ("digest", "old_digest", "policy_set", "text", "reason", "token_hash", "code_hash"):
        wanted = name != "reason" or e["kind"] == "voted"
        need(not wanted or HEX.fullmatch(e.get(name, "0" * 64)), "canonical", f"`{name}` is no digest")
    for name in ("human", "group", "owner"):
        need(NAME.fullmatch(e.get(name, "ok")), "canonical", f"`{name}` is not of its form")
    need(AGENT.fullmatch(e.get("agent", "ok")), "canonical", "`agent` is not of its form")
    for name in ("expires_at", "until", "not_after"):
        if name in e:
            e[name + "_ms"] = millis(e[name])
    e["ms"] = millis(e["at"])
    return e


class Authority:
    """Who may decide."""

    def __init__(self):
        self.origin, self.vkey, self.latest, self.policy_set = "", "", 0, None
        self.humans, self.groups, self.agents, self.instances = {}, {}, {}, {}
        self.joins, self.links, self.tokens, self.passkeys = {}, {}, {}, {}
        self.serials, self.accounts, self.identities, self.claimed = set(), {}, {}, {}
        self.models, self.scopes, self.catalog, self.changes = {}, {}, {}, []

    def active(self, human):
        return self.humans.get(human, {}).get("active", False)

    def operator(self, human):
        need(self.active(human) and self.humans[human]["operator"], "operator",
             f"`{human}` is not an operator")

    def person(self, human):
        need(self.active(human), "human-known", f"no active person `{human}`")

    def live_agent(self, agent):
        known = self.agents.get(agent)
        need(known and not known["revoked"], "agent-known", f"no live agent `{agent}`")

    def groups_of(self, human, at):
        claim = self.claimed.get(human)
        fresh = claim["groups"] if claim and claim["ms"] <= at < claim["until_ms"] else []
        return sorted({g for g, m in self.groups.items() if human in m} | set(fresh))

    def owned_since(self, agent, human, since):
        return any(o == human and (until is None or until >= since)
                   for o, until in self.agents[agent]["owners"])

    def not_before(self, at):
        need(self.latest - at <= CLOCK_MS, "time", "its time lies before the log's")

    def stand_ins(self, human, at):
        """Who could act as this person."""
        live = [t["by"] for t in self.tokens.values()
                if t["human"] == human and not t["spent"] and t["expires_at_ms"] > at]
        for link in self.links.values():
            if link["purpose"] == "login" and link["human"] == human:
                spent = link.get("spent_ms")
                if (at - spent < HALF_DAY if spent is not None
                        else not link["spent"] and link["expires_at_ms"] > at):
                    live.append(link["by"])
        live += [i["by"] for i in self.identities.values() if i["human"] == human]
        return {by for by in live if by != human}

    def changed(self, e, agent=None, group=None):
        self.changes = [c for c in self.changes if e["ms"] - c[0] < DAY]
        self.changes.append((e["ms"], e["by"], agent, group))

    def changed_recently(self, human, agent, groups, at):
        return any(by == human and at - ms < DAY and (a == agent or g in groups)
                   for ms, by, a, g in self.changes)

    def attributes(self, agent, at):
        known = self.agents.get(agent)
        if not known or known["revoked"]:
            return {}
        owner, a = known["owners"][-1][0], known["attributes"]
        until = self.models.get((a["model"], a["model_version"]))
        return {"owner": owner, "owner_groups": self.groups_of(owner, at), **a,
                "qualified": until is not None and until > at}

    def apply(self, index, e):
        kind = e["kind"]
        self.not_before(e["ms"])
        need((kind == "opened") == (index == 0) == (not self.origin), "opened-first",
             "a log opens once, in its first leaf")
        if "by" in e and kind not in ("human_set", "account_unlinked", "instance_revoked",
                                      "passkey_revoked", "token_revoked"):
            self.operator(e["by"])
        getattr(self, "_" + kind)(e)
        self.latest = max(self.latest, e["ms"])

    def _opened(self, e):
        need(e["version"] == 1 and e["origin"], "opened-first", "a log has an origin and version 1")
        self.origin, self.vkey = e["origin"], e["vkey"]

    def _human_set(self, e):
        if self.humans or e["by"] != e["human"] or not (e["operator"] and e["active"]):
            self.operator(e["by"])
        others = (h for name, h in self.humans.items() if name != e["human"])
        need(e["active"] and e["operator"] or any(h["active"] and h["operator"] for h in others),
             "last-operator", "a log without an operator could never change again")
        self.humans[e["human"]] = {"active": e["active"], "operator": e["operator"]}
        if not e["active"]:
            for bearer in (*self.tokens.values(), *self.links.values()):
                bearer["spent"] = bearer["spent"] or bearer["human"] == e["human"]
            for key in self.passkeys.values():
                key["revoked"] = key["revoked"] or key["human"] == e["human"]
            self.accounts = {a: h for a, h in self.accounts.items() if h != e["human"]}

    def _group_set(self, e):
        need(set(e["members"]) <= set(self.humans), "group-member", "a member is not registered")
        self.groups[e["group"]] = set(e["members"])
        self.changed(e, group=e["group"])

    def _agent_set(self, e):
        need(self.active(e["owner"]), "agent-owner", "the owner is not an active person")
        agent = self.agents.setdefault(e["agent"], {"owners": [], "revoked": False})
        agent["attributes"] = e["attributes"]
        if not agent["owners"] or agent["owners"][-1][0] != e["owner"]:
            if agent["owners"]:
                agent["owners"][-1] = (agent["owners"][-1][0], e["ms"])
            agent["owners"].append((e["owner"], None))
        self.changed(e, agent=e["agent"])

    def _agent_revoked(self, e):
        need(e["agent"] in self.agents, "agent-known", "no such agent")
        self.agents[e["agent"]]["revoked"] = True
        self.changed(e, agent=e["agent"])

    def _model_set(self, e):
        key = (e["model"], e["model_version"])
        self.models.pop(key, None)
        if "until" in e:
            self.models[key] = e["until_ms"]

    def _policy_loaded(self, e):
        self.policy_set, self.scopes = e["policy_set"], e["scopes"]

    def _join_created(self, e):
        self.live_agent(e["agent"])
        self.joins = {k: j for k, j in self.joins.items() if j["expires_at_ms"] + DAY > e["ms"]}
        hashes = {j["token_hash"] for j in self.joins.values()}
        need(e["join_id"] not in self.joins and e["token_hash"] not in hashes, "join-once", "it exists")
        self.joins[e["join_id"]] = {**e, "spent": False}

    def _instance_enrolled(self, e):
        join = self.joins.get(e["join_id"])
        need(join and not join["spent"] and join["expires_at_ms"] > e["ms"]
             and join["agent"] == e["agent"], "join-single-use", "spent, expired, or another agent's")
        need(e["instance"] not in self.instances and e["serial"] not in self.serials, "instance-new",
             "the instance or its serial exists")
        self.live_agent(e["agent"])
        join["spent"] = True
        self.serials.add(e["serial"])
        self.instances[e["instance"]] = {"agent": e["agent"], "serials": [e["serial"]], "revoked": False}

    def _instance_renewed(self, e):
        need(e["serial"] not in self.serials, "instance-new", "the serial exists")
        known = self.instances.get(e["instance"])
        need(known, "instance-known", "no such instance")
        need(not known["revoked"] and known["serials"][-1] == e["old_serial"], "renew-once",
             "the serial was renewed already, or is revoked")
        self.live_agent(known["agent"])
        known["serials"].append(e["serial"])
        if len(known["serials"]) > 16:
            self.serials.discard(known["serials"].pop(0))
        self.serials.add(e["serial"])

    def _instance_revoked(self, e):
        need(e["instance"] in self.instances, "instance-known", "no such instance")
        self.instances[e["instance"]]["revoked"] = True

    def _link_created(self, e):
        self.person(e["human"])
        self.links = {k: v for k, v in self.links.items() if v["expires_at_ms"] + DAY > e["ms"]}
        hashes = {v["code_hash"] for v in self.links.values()}
        need(e["link_id"] not in self.links and e["code_hash"] not in hashes, "link-once", "it exists")
        self.links[e["link_id"]] = {**e, "spent": False}

    def _link_spent(self, e):
        link = self.links.get(e["link_id"])
        need(link and not link["spent"] and link["expires_at_ms"] > e["ms"], "link-single-use",
             "the link is spent, expired or unknown")
        link.update(spent=True, spent_ms=e["ms"])

    def _token_issued(self, e):
        self.person(e["human"])
        need(e["expires_at_ms"] - e["ms"] <= HALF_DAY, "token-life", "a token lives 12 hours at most")
        self.tokens = {k: t for k, t in self.tokens.items()
                       if not t["spent"] and t["expires_at_ms"] > e["ms"]}
        self.tokens[e["token_hash"]] = {**e, "spent": False}

    def _token_revoked(self, e):
        for token in self.tokens.values():
            token["spent"] = token["spent"] or token["token_id"] == e["token_id"]

    def _passkey_enrolled(self, e):
        size = {"ES256": 130, "EdDSA": 64}[e["public_key"]["algorithm"]]
        need(re.fullmatch(f"[0-9a-f]{{{size}}}", e["public_key"]["key"]) and e["rp_id"],
             "passkey-enrolment", "the passkey is not of its form")
        self.person(e["human"])
        need(e["credential_id"] not in self.passkeys, "passkey-enrolment", "enrolled already")
        mine = [p for p in self.passkeys.values() if p["human"] == e["human"] and not p["revoked"]]
        need(len(mine) < MAX_PASSKEYS, "passkey-bound", "too many passkeys")
        link = self.links.get(e["link_id"])
        need(link and link["purpose"] == "enrol" and link["human"] == e["human"]
             and not link["spent"] and link["expires_at_ms"] > e["ms"], "link-single-use", "no such link")
        link.update(spent=True, spent_ms=e["ms"])
        self.passkeys[e["credential_id"]] = {**e, "made_by": link["by"], "revoked": False}

    def _passkey_revoked(self, e):
        key = self.passkeys.get(e["credential_id"])
        if not key or key["human"] != e["by"]:
            self.operator(e["by"])
        need(key and not key["revoked"], "passkey-known", "no such live passkey")
        key["revoked"] = True

    def _account_linked(self, e):
        self.person(e["human"])
        a = e["account"]
        account = (a["channel"], a["tenant"], a["account"])
        need(account not in self.accounts, "account-once", "the account is somebody's already")
        need(not any(h == e["human"] and k[:2] == account[:2] for k, h in self.accounts.items()),
             "account-once", "the person has an account there already")
        self.accounts[account] = e["human"]

    def _account_unlinked(self, e):
        account = tuple(e["account"][part] for part in ("channel", "tenant", "account"))
        need(account in self.accounts, "account-known", "the account is nobody's")
        if self.accounts[account] != e["by"]:
            self.operator(e["by"])
        del self.accounts[account]

    def _identity_set(self, e):
        account = (e["issuer"], e["subject"])
        known = self.identities.get(account)
        if "human" in e:
            self.person(e["human"])
            need(not known or known["human"] == e["human"], "identity-once", "it is another person's")
            self.identities[account] = e
        else:
            need(known, "identity-known", "no such account is linked")
            del self.identities[account]
            claim = self.claimed.get(known["human"])
            if claim and (claim["issuer"], claim["subject"]) == account:
                del self.claimed[known["human"]]

    def _groups_claimed(self, e):
        known = self.identities.get((e["issuer"], e["subject"]))
        need(known and known["human"] == e["human"], "identity-known", "the account is not linked")
        need(0 < e["until_ms"] - e["ms"] <= DAY and len(e["groups"]) <= 64, "claim-life", "a day at most")
        self.claimed[e["human"]] = e


def stricter(one, two):
    """Two verdicts together: see docs/log-format.md, "Verdicts"."""
    rank = ["allow", "ask", "deny"]

    def possible(v):
        if v["verdict"] == "ask" and not (v["quorum"] and v["channels"] and v["approvers"]):
            return {**v, "verdict": "deny", "quorum": 0, "max_ttl_s": 0}
        return v
    one, two = possible(one), possible(two)
    out = dict(two if rank.index(two["verdict"]) > rank.index(one["verdict"]) else one)
    if one["verdict"] == two["verdict"] == "ask":
        out.update(quorum=max(one["quorum"], two["quorum"]),
                   strength="passkey" if "passkey" in (one["strength"], two["strength"]) else "chat",
                   channels=sorted(set(one["channels"]) & set(two["channels"])),
                   approvers=sorted(set(one["approvers"]) | set(two["approvers"])))
    if out["verdict"] != "deny":
        out["max_ttl_s"] = min(one["max_ttl_s"], two["max_ttl_s"])
    return possible(out)


def unpadded(text):
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    need(base64.urlsafe_b64encode(raw).decode().rstrip("=") == text, "passkey", "not base64url")
    return raw


def check_signature(vote, key, origin):
    """The WebAuthn assertion in a vote, over H(D, decision, human, nonce, expiry, origin)."""
    proof = vote["proof"]
    statement = {"digest": vote["digest"], "decision": vote["decision"], "human": vote["human"],
                 "nonce": proof["nonce"], "expires_at": proof["expires_at"], "origin": origin}
    data, client = unpadded(proof["authenticator_data"]), unpadded(proof["client_data"])
    said = json.loads(client)
    challenge = bytes.fromhex(digest_of("passkey-decision", statement))
    need(said["type"] == "webauthn.get" and unpadded(said["challenge"]) == challenge, "passkey",
         "the passkey signed something else")
    host = re.fullmatch(r"(https)://([^:/]+)(:\d{1,5})?|(http)://(localhost)(:\d{1,5})?", said["origin"])
    need(host and (host[2] or host[5]) == key["rp_id"] and said.get("crossOrigin", False) is False
         and "topOrigin" not in said, "passkey", "the passkey was used on another page")
    need(data[:32] == hashlib.sha256(key["rp_id"].encode()).digest() and len(data) >= 37
         and data[32] & 5 == 5 and not data[32] & 64, "passkey", "not an answer of this kind")
    need(bool(data[32] & 8) == key["backup_eligible"], "passkey", "its copies changed")
    signed, signature = data + hashlib.sha256(client).digest(), unpadded(proof["signature"])
    raw = bytes.fromhex(key["public_key"]["key"])
    try:
        if key["public_key"]["algorithm"] == "EdDSA":
            Ed25519PublicKey.from_public_bytes(raw).verify(signature, signed)
        else:
            public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw)
            public.verify(signature, signed, ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise Wrong("passkey", "the passkey's signature does not verify") from None
