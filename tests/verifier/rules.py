"""What a leaf looks like, and who may decide: the fold of all leaves that belong to no request."""

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

from log import CannotVerify, Checkpoint, Vkey, Wrong, need

DAY, HALF_DAY, CLOCK_MS, MAX_DEPTH = 24 * 3600_000, 12 * 3600_000, 30_000, 32
TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{3}))?Z")
TOKEN, NAME, HEX = "[A-Za-z0-9._-]{2,64}", "[a-z0-9][a-z0-9._-]{0,63}", "[0-9a-f]{64}"
FORMS = {"request_id": TOKEN, "lease_id": TOKEN, "instance": TOKEN, "human": NAME, "group": NAME,
         "owner": NAME, "agent": "[a-z0-9-]{2,64}", "digest": HEX, "old_digest": HEX, "policy_set": HEX,
         "text": HEX, "token_hash": HEX, "code_hash": HEX}
SETS = ("members", "groups", "policies", "approvers", "channels", "excluded")
# Fields of each kind beside `kind` and `at`; those after the bar may be absent.
OF_REQUEST = "digest request_id"
KINDS = {kind: tuple(set(part.split()) for part in fields.split("|")) for kind, fields in {
    "requested": f"{OF_REQUEST} terms | renews",
    "decided": f"{OF_REQUEST} verdict attributes context | excluded again unusual past chain",
    "questioned": f"{OF_REQUEST} human channel text |", "answered": f"{OF_REQUEST} text |",
    "narrowed": f"{OF_REQUEST} old_digest human channel terms | reason",
    "voted": f"{OF_REQUEST} human decision channel groups policies policy_set"
             " | seen reason_code reason confirmed proof",
    "withdrawn": f"{OF_REQUEST} human channel |", "intended": f"{OF_REQUEST} minter approvers |",
    "issued": f"{OF_REQUEST} lease_id expires_at revocable facts |", "failed": f"{OF_REQUEST} code detail |",
    "unknown": f"{OF_REQUEST} detail |", "cancelled": f"{OF_REQUEST} by |",
    "expired": f"{OF_REQUEST} | lease_id", "renewed": f"{OF_REQUEST} lease_id expires_at |",
    "revoked": f"{OF_REQUEST} lease_id by effect | still_valid",
    "account_linked": "human account |", "account_unlinked": "by account |",
    "agent_revoked": "by agent |", "agent_set": "by agent owner attributes |",
    "delegated": "delegation_id from instance to scopes expires_at | parent passes",
    "delegation_ended": "delegation_id | agent human",
    "erased": "by of texts |", "group_set": "by group members |", "groups_claimed": "human issuer subject groups until |",
    "human_set": "by human active operator |", "identity_set": "by issuer subject | human",
    "instance_enrolled": "join_id agent instance serial key seal_key not_after |",
    "instance_renewed": "instance old_serial serial key not_after |",
    "instance_revoked": "by instance reason |", "join_created": "by join_id agent token_hash expires_at |",
    "link_created": "by link_id human code_hash purpose expires_at |", "link_spent": "link_id |",
    "model_set": "by model model_version | until", "opened": "version origin vkey trust_domain | recovery_key",
    "epoch_started": "version origin vkey trust_domain recovery_key old_origin old_vkey old_checkpoint restored"
                     " restored_root carried carried_root | signature",
    "passkey_enrolled": "human link_id credential_id public_key rp_id aaguid backup_eligible |",
    "passkey_revoked": "by credential_id |", "policy_loaded": "by policy_set scopes |",
    "token_issued": "by token_id human token_hash expires_at |", "token_revoked": "by token_id |",}.items()}
TERMS = (set("version origin request_id agent instance workload delegation scope template params ttl_s reason"
             " decide_by".split()), {"delegation_id", "on_behalf_of", "process", "sealed_params", "task"})
VERDICT = (set("verdict reason policies policy_set quorum strength channels approvers max_ttl_s".split()), {"code"})


def millis(text):
    found = TIME.fullmatch(text)
    need(found and found[2] != "000", "canonical", f"{text!r} is not a time as leaves write it")
    return timegm(datetime.fromisoformat(found[1]).timetuple()) * 1000 + int(found[2] or 0)


def canonical(value, depth=0):
    """RFC 8785 over strings, integers, booleans, arrays and objects."""
    need(depth <= MAX_DEPTH or not isinstance(value, (dict, list)), "canonical", "nested too deep")
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{canonical(k)}:{canonical(value[k], depth + 1)}" for k in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(canonical(item, depth + 1) for item in value) + "]"
    need(isinstance(value, (str, bool)) or type(value) is int and abs(value) < 1 << 53, "canonical")
    return json.dumps(value, ensure_ascii=False)


def digest(label, data):
    return hashlib.sha256(f"grantwright/{label}/v1\0".encode() + data).hexdigest()


def digest_of(label, value):
    return digest(label, canonical(value).encode())


def read_leaf(body):
    """The event of a leaf of a known kind and shape, with its times in milliseconds; or a finding."""
    def no_twice(pairs):
        need(len(dict(pairs)) == len(pairs), "canonical", "a key is there twice")
        return dict(pairs)
    try:
        e = json.loads(body.decode(), object_pairs_hook=no_twice)
        need(canonical(e, 1).encode() == body, "canonical", "not in canonical form")
    except (ValueError, RecursionError) as fault:
        raise Wrong("canonical", f"not JSON: {fault}") from None
    need(isinstance(e, dict) and e.get("kind") in KINDS, "canonical", "not of a known kind")
    for part, (least, more) in ((e, KINDS[e["kind"]]), (e.get("terms"), TERMS), (e.get("verdict"), VERDICT)):
        given = set(part or least) - {"kind", "at"}
        need(part is None or least <= given <= least | more, "canonical", "other fields than its kind has")
    for place in (e, e.get("verdict", {})):
        for name in SETS:
            value = place.get(name, [])
            need(value == sorted(set(value), key=str.encode), "canonical", f"`{name}` is not a sorted set")
    for name, form in FORMS.items():
        need(re.fullmatch(form, e.get(name, "0" * 64)), "canonical", f"`{name}` is not of its form")
    e.update({name + "_ms": millis(e[name]) for name in ("expires_at", "until", "not_after") if name in e})
    return {**e, "ms": millis(e["at"])}


PUBLIC_KEYS = {
    "csr": r"[A-Za-z0-9+/]+={0,2}", "jkt": r"[A-Za-z0-9_-]{43}",
    "ssh": r"ssh-ed25519 (?=.{68}$)[A-Za-z0-9+/]+={0,2}|ecdsa-sha2-nistp256 (?=.{140}$)[A-Za-z0-9+/]+={0,2}"}


def fits(spec, value):
    kind, text = spec["type"], value if isinstance(value, str) else ""
    if kind == "set":
        return (isinstance(value, list) and 0 < len(value) == len(set(value)) <= spec["most"]
                and all(re.fullmatch(spec["pattern"], v) for v in value))
    return {"boolean": lambda: isinstance(value, bool), "choice": lambda: value in spec["values"],
            "integer": lambda: type(value) is int and spec["min"] <= value <= spec["max"],
            "string": lambda: text and len(text.encode()) <= 1024 and re.fullmatch(spec["pattern"], text),
            "public-key": lambda: len(text) <= 1024 and re.fullmatch(PUBLIC_KEYS[spec["format"]], text)
            and (spec["format"] != "csr" or len(text) >= 100 and len(text) % 4 == 0),
            "s3-bucket": lambda: re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", text),
            "s3-prefix": lambda: len(text) <= 200 and re.fullmatch(r"([A-Za-z0-9._-]+/)+", text)
            and not {".", ".."} & set(text.split("/"))}[kind]()


def narrower(spec, was, now):
    order = spec.get("order", "equal")
    return now == was or fits(spec, now) and (
        order == "max" and now <= was or order == "prefix" and now.startswith(was)
        or order == "subset" and set(now) <= set(was))


class Authority:
    def __init__(self):
        self.origin, self.vkey, self.latest, self.policy_set, self.nonces = "", "", 0, None, set()
        self.humans, self.groups, self.agents, self.instances, self.serials = {}, {}, {}, {}, set()
        self.joins, self.links, self.tokens, self.passkeys, self.accounts = {}, {}, {}, {}, {}
        self.identities, self.claimed, self.models, self.scopes, self.catalog = {}, {}, {}, {}, {}
        self.changes, self.makers, self.unlinked, self.epochs, self.index = [], {}, [], [], 0
        self.delegations = {}
    def active(self, human):
        return self.humans.get(human, {}).get("active", False)
    def operator(self, human):
        need(self.active(human) and self.humans[human]["operator"], "operator", f"`{human}` is no operator")
    def live_agent(self, agent):
        need(not self.agents.get(agent, {"revoked": True})["revoked"], "agent-known")
    def groups_of(self, human, at):
        claim = self.claimed.get(human)
        fresh = claim["groups"] if claim and claim["ms"] <= at < claim["until_ms"] else []
        return sorted({g for g, m in self.groups.items() if human in m} | set(fresh))
    def owned_since(self, agent, human, since):
        return any(o == human and (until is None or until >= since) for o, until in self.agents[agent]["owners"])
    def not_before(self, at):
        began = self.epochs[0]["ms"] if self.epochs and self.index > self.carried() else 0
        need(max(self.latest, began) - at <= CLOCK_MS, "time", "its time lies before the log's")
    def stand_ins(self, human, at):
        """Who could act as this person: by a token, link, passkey or session they made, or an account."""
        bearers = [t for t in self.tokens.values() if not t["spent"] and t["expires_at_ms"] > at]
        for link in self.links.values():
            spent, live = link.get("spent_ms"), not link["spent"] and link["expires_at_ms"] > at
            if live if spent is None else link["purpose"] != "api" and at - spent < HALF_DAY:
                bearers.append(link)
        bearers += [{"by": k["made_by"], "human": k["human"]} for k in self.passkeys.values()
                    if at - k.get("ended_ms", at) < HALF_DAY]
        bearers += [*self.identities.values(), *(i for i, ms in self.unlinked if at - ms < HALF_DAY)]
        linked = [by for account, h in self.accounts.items() if h == human for by in self.makers[account]]
        return {*(b["by"] for b in bearers if b["human"] == human), *linked} - {human}
    def same_hand(self, human, others, at):
        """Whether one of these could act as this person, or this person as one of them."""
        return any(o in self.stand_ins(human, at) or human in self.stand_ins(o, at) for o in others)
    def change(self, e, agent=None, group=None):
        self.changes = [c for c in self.changes if e["ms"] - c[0] < DAY]
        self.changes.append((e["ms"], e["by"], agent, group))
    def changed_recently(self, human, agent, groups, at):
        return any(by == human and at - ms < DAY and (a == agent or g in groups) for ms, by, a, g in self.changes)
    def attributes(self, agent, at):
        known = self.agents.get(agent, {"revoked": True})
        if known["revoked"]:
            return {}
        owner, a = known["owners"][-1][0], known["attributes"]
        return {"owner": owner, "owner_groups": self.groups_of(owner, at), **a,
                "qualified": self.models.get((a["model"], a["model_version"]), at) > at}
    def apply(self, index, e):
        kind, at, human = e["kind"], e["ms"], e.get("human")
        self.not_before(at)
        if kind in ("opened", "epoch_started"):
            return self.begin(index, e)
        need(self.origin, "opened-first")
        need(not len(self.epochs) == index <= self.carried(), "epoch", "no first leaf is carried over")
        if "by" in e and kind not in ("human_set", "account_unlinked", "instance_revoked", "passkey_revoked",
                                      "token_revoked"):
            self.operator(e["by"])
        if kind in ("account_linked", "link_created", "passkey_enrolled", "token_issued") or (
                kind == "identity_set" and human):
            need(self.active(human), "human-known", f"no active person `{human}`")
        getattr(self, "_" + kind)(e, at)
        self.latest = max(self.latest, at)
    def carried(self):
        return self.epochs[0]["carried"] if self.epochs else 0
    def may_name(self, origin):
        """The log that terms name: this one, or among what was carried over an older one."""
        past = 0 < self.index <= self.carried()
        return any(e["old_origin"] == origin for e in self.epochs) if past else origin == self.origin
    def begin(self, index, e):
        """The first leaf of this log or, carried over, of an older one, which vouches for the newer one's."""
        need(e["version"] == 1 and e["origin"] and e.get("carried") != 0, "opened-first")
        if self.epochs and index:
            newer = self.epochs[-1]
            need(index == len(self.epochs) <= self.carried(), "opened-first")
            need((newer["old_origin"], newer["old_vkey"]) == (e["origin"], e["vkey"]), "epoch", "of another log")
            text = canonical({k: v for k, v in newer.items() if k not in ("signature", "ms")}) + "\n"
            try:
                Checkpoint.signed(text + "\n" + newer.get("signature", ""), Vkey(e.get("recovery_key", "")))
            except (CannotVerify, ValueError) as fault:
                raise Wrong("epoch-signature", str(fault)) from None
        else:
            need(index == 0 and not self.origin, "opened-first")
            self.origin, self.vkey = e["origin"], e["vkey"]
        if e["kind"] == "epoch_started":
            self.epochs.append(e)
        elif not index:
            self.latest = max(self.latest, e["ms"])
    def _human_set(self, e, _):
        rules = e["active"] and e["operator"]
        if self.humans or e["by"] != e["human"] or not rules:
            self.operator(e["by"])
        others = (h for name, h in self.humans.items() if name != e["human"])
        need(rules or any(h["active"] and h["operator"] for h in others), "last-operator")
        self.humans[e["human"]] = e
        for own in () if e["active"] else (*self.tokens.values(), *self.links.values(), *self.passkeys.values()):
            if own["human"] == e["human"]:
                own.update(spent=True, revoked=True, ended_ms=own.get("ended_ms", e["ms"]))
        self.accounts = {a: h for a, h in self.accounts.items() if h != e["human"] or e["active"]}
    def _group_set(self, e, _):
        need(set(e["members"]) <= set(self.humans), "group-member")
        self.groups[e["group"]] = set(e["members"])
        self.change(e, group=e["group"])
    def _agent_set(self, e, at):
        need(self.active(e["owner"]), "agent-owner")
        agent = self.agents.setdefault(e["agent"], {"owners": [], "revoked": False})
        agent["attributes"], owners = e["attributes"], agent["owners"]
        if not owners or owners[-1][0] != e["owner"]:
            owners[-1:] = [(o, at) for o, _ in owners[-1:]]
            owners.append((e["owner"], None))
        self.change(e, agent=e["agent"])
    def _agent_revoked(self, e, _):
        need(e["agent"] in self.agents, "agent-known")
        self.agents[e["agent"]]["revoked"] = True
        self.end_delegations(lambda d: e["agent"] in (d["to"], *d["chain"]))
        self.change(e, agent=e["agent"])
    def _model_set(self, e, _):
        self.models.pop((e["model"], e["model_version"]), None)
        self.models.update({(e["model"], e["model_version"]): e["until_ms"]} if "until" in e else {})
    def _policy_loaded(self, e, _):
        self.policy_set, self.scopes = e["policy_set"], e["scopes"]
    def _join_created(self, e, at):
        self.live_agent(e["agent"])
        self.joins = {k: j for k, j in self.joins.items() if j["expires_at_ms"] + DAY > at}
        taken = {j["token_hash"] for j in self.joins.values()} | set(self.joins)
        need(not {e["join_id"], e["token_hash"]} & taken, "join-once")
        self.joins[e["join_id"]] = {**e, "spent": False}
        self.change(e, agent=e["agent"])
    def _instance_enrolled(self, e, at):
        join = self.joins.get(e["join_id"])
        need(join and not join["spent"] and join["expires_at_ms"] > at and join["agent"] == e["agent"],
             "join-single-use")
        need(e["instance"] not in self.instances and e["serial"] not in self.serials, "instance-new")
        self.live_agent(e["agent"])
        join["spent"] = True
        self.serials.add(e["serial"])
        self.instances[e["instance"]] = {"agent": e["agent"], "serials": [e["serial"]], "revoked": False}
    def _instance_renewed(self, e, _):
        need(e["serial"] not in self.serials, "instance-new")
        need(e["instance"] in self.instances, "instance-known")
        known = self.instances[e["instance"]]
        need(not known["revoked"] and known["serials"][-1] == e["old_serial"], "renew-once")
        self.live_agent(known["agent"])
        known["serials"].append(e["serial"])
        self.serials.add(e["serial"])
        if len(known["serials"]) > 16:
            self.serials.discard(known["serials"].pop(0))
    def _instance_revoked(self, e, _):
        need(e["instance"] in self.instances, "instance-known")
        self.instances[e["instance"]]["revoked"] = True
        self.end_delegations(lambda d: d["instance"] == e["instance"])
    def delegation(self, name, agent, at):
        known = self.delegations.get(name, {"to": None})
        need(known["to"] == agent and known["live"] and at < known["expires_at_ms"], "delegation", "not in force")
        return known
    def within(self, had, scope, template, ttl_s, params):
        bounds, specs = had["scopes"].get(scope, {"template": None}), self.catalog[template]["params"]
        need(bounds["template"] == template and 0 < ttl_s <= bounds["ttl_s"] and all(
            p in params and narrower(specs[p], was, params[p]) for p, was in bounds.get("params", {}).items()),
            "delegation", "wider than what was handed on")
    def covers(self, terms, at):
        """What is asked lies within the delegation that it names, and ends no later."""
        need(("delegation_id" in terms) == bool(terms["delegation"]), "delegation", "a chain of no delegation")
        if terms["delegation"]:
            known = self.delegation(terms["delegation_id"], terms["agent"], at)
            fits_in = at + terms["ttl_s"] * 1000 <= known["expires_at_ms"]
            need(fits_in and known["chain"] == terms["delegation"], "delegation", "another chain, or it ends before")
            self.within(known, terms["scope"], terms["template"], terms["ttl_s"], terms["params"])
    def _delegated(self, e, at):
        had = self.delegation(e["parent"], e["from"], at) if "parent" in e else None
        chain, passes = [*(had["chain"] if had else ()), e["from"]], e.get("passes", 0)
        latest, further = (had["expires_at_ms"], had["passes"] - 1) if had else (at + DAY, 3)
        door = self.instances.get(e["instance"], {"agent": None})
        need(door["agent"] == e["from"] and not door["revoked"], "agent-live")
        self.live_agent(e["from"])
        self.live_agent(e["to"])
        need(e["delegation_id"] not in self.delegations and e["to"] not in chain and e["scopes"]
             and passes <= min(further, 4 - len(chain)) and at < e["expires_at_ms"] <= latest, "delegation")
        for name, bounds in e["scopes"].items():
            need(bounds["template"] in self.catalog and self.scopes.get(name) == bounds["template"], "scope-pinned")
            if had:
                self.within(had, name, bounds["template"], bounds["ttl_s"], bounds.get("params", {}))
        self.delegations[e["delegation_id"]] = {**e, "chain": chain, "passes": passes, "live": True}
    def _delegation_ended(self, e, at):
        known = self.delegations.get(e["delegation_id"], {"live": False})
        need(known["live"] and at < known["expires_at_ms"], "delegation", "not in force")
        known["live"] = False
        self.end_delegations(lambda _: False)
    def end_delegations(self, which):
        """Those, and what was passed on from them; parents come before their children."""
        for d in self.delegations.values():
            d["live"] = d["live"] and not which(d) and ("parent" not in d or self.delegations[d["parent"]]["live"])
    def _link_created(self, e, at):
        self.links = {k: v for k, v in self.links.items() if v["expires_at_ms"] + DAY > at}
        taken = {v["code_hash"] for v in self.links.values()} | set(self.links)
        need(not {e["link_id"], e["code_hash"]} & taken, "link-once")
        self.links[e["link_id"]] = {**e, "spent": False}
    def _link_spent(self, e, at):
        link = self.links.get(e["link_id"])
        need(link and not link["spent"] and link["expires_at_ms"] > at, "link-single-use")
        link.update(spent=True, spent_ms=at)
    def _token_issued(self, e, at):
        need(e["expires_at_ms"] - at <= HALF_DAY, "token-life")
        live = {k: t for k, t in self.tokens.items() if not t["spent"] and t["expires_at_ms"] > at}
        self.tokens = {**live, e["token_hash"]: {**e, "spent": False}}

    def _erased(self, e, _):
        """Texts beside the log are gone: nothing that is decided rests on them."""

    def _token_revoked(self, e, _):
        for token in (t for t in self.tokens.values() if t["token_id"] == e["token_id"]):
            token["spent"] = True
    def _passkey_enrolled(self, e, at):
        size = {"ES256": 130, "EdDSA": 64}[e["public_key"]["algorithm"]]
        need(re.fullmatch(f"[0-9a-f]{{{size}}}", e["public_key"]["key"]) and e["rp_id"]
             and e["credential_id"] not in self.passkeys, "passkey-enrolment")
        mine = [p for p in self.passkeys.values() if p["human"] == e["human"] and not p["revoked"]]
        need(len(mine) < 10, "passkey-bound")
        link = self.links.get(e["link_id"], {"purpose": None})
        need(link["purpose"] == "enrol" and link["human"] == e["human"], "link-single-use")
        self._link_spent(e, at)
        self.passkeys[e["credential_id"]] = {**e, "made_by": link["by"], "revoked": False}
    def _passkey_revoked(self, e, _):
        key = self.passkeys.get(e["credential_id"])
        if not key or key["human"] != e["by"]:
            self.operator(e["by"])
        need(key and not key["revoked"], "passkey-known")
        key.update(revoked=True, ended_ms=e["ms"])
    def _account_linked(self, e, _):
        account = tuple(e["account"][part] for part in ("channel", "tenant", "account"))
        need(account not in self.accounts, "account-once")
        need(not any(h == e["human"] and k[:2] == account[:2] for k, h in self.accounts.items()), "account-once")
        self.makers[account] = self.stand_ins(e["human"], e["ms"])
        self.accounts[account] = e["human"]
    def _account_unlinked(self, e, _):
        account = tuple(e["account"][part] for part in ("channel", "tenant", "account"))
        need(account in self.accounts, "account-known")
        if self.accounts.pop(account) != e["by"]:
            self.operator(e["by"])
    def _identity_set(self, e, _):
        account = (e["issuer"], e["subject"])
        known = self.identities.pop(account, None)
        if "human" in e:
            need(not known or known["human"] == e["human"], "identity-once")
            self.identities[account] = e
        else:
            need(known, "identity-known")
            claim = self.claimed.get(known["human"])
            if claim and (claim["issuer"], claim["subject"]) == account:
                del self.claimed[known["human"]]
        self.unlinked += [(known, e["ms"])] if known else []
    def _groups_claimed(self, e, at):
        known = self.identities.get((e["issuer"], e["subject"]))
        need(known and known["human"] == e["human"], "identity-known")
        need(0 < e["until_ms"] - at <= DAY and len(e["groups"]) <= 64, "claim-life")
        self.claimed[e["human"]] = e


def unpadded(text):
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    need(base64.urlsafe_b64encode(raw).decode().rstrip("=") == text, "passkey", "not base64url")
    return raw


def check_signature(vote, key, origin):
    """The WebAuthn assertion in a vote, over H(D, decision, human, nonce, expiry, origin)."""
    proof = vote["proof"]
    statement = {**{name: vote[name] for name in ("digest", "decision", "human")}, "origin": origin,
                 "nonce": proof["nonce"], "expires_at": proof["expires_at"]}
    data, client = unpadded(proof["authenticator_data"]), unpadded(proof["client_data"])
    said, challenge = json.loads(client), bytes.fromhex(digest_of("passkey-decision", statement))
    need(said["type"] == "webauthn.get" and unpadded(said["challenge"]) == challenge, "passkey", "another vote")
    page = re.fullmatch(r"(?:https://([^:/]+)|http://(localhost))(:\d{1,5})?", said["origin"])
    need(page and (page[1] or page[2]) == key["rp_id"] and said.get("crossOrigin", False) is False
         and "topOrigin" not in said, "passkey", "the passkey was used on another page")
    need(data[:32] == hashlib.sha256(key["rp_id"].encode()).digest() and data[32] & 69 == 5, "passkey")
    need(bool(data[32] & 8) == key["backup_eligible"] and len(data) >= 37, "passkey", "its copies changed")
    signed, raw = data + hashlib.sha256(client).digest(), bytes.fromhex(key["public_key"]["key"])
    try:
        if key["public_key"]["algorithm"] == "EdDSA":
            Ed25519PublicKey.from_public_bytes(raw).verify(unpadded(proof["signature"]), signed)
        else:
            public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw)
            public.verify(unpadded(proof["signature"]), signed, ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise Wrong("passkey", "the passkey's signature does not verify") from None
