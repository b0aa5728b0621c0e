"""What a leaf looks like: its fields, its canonical form, the digests in it, typed parameters."""

import hashlib
import json
import re
from calendar import timegm
from datetime import datetime

from log import Wrong, need

MAX_DEPTH, MAX_TEXT = 32, 1024
HEX, AGENT, NAME = "[0-9a-f]{64}", "[a-z0-9-]{2,64}", "[a-z0-9][a-z0-9._-]{0,63}"
BASE64URL, TIME = "[A-Za-z0-9_-]+", r"([0-9-]{10}T[0-9:]{8})(?:\.([0-9]{3}))?Z"
# Fields of each kind of leaf beside `kind` and `at`, and of each object within one. `?`: it may be absent, and is
# never empty. After a colon: it holds what the field of that name does.
SHAPES = {
    "requested": "OF terms renews?", "questioned": "OF human channel text", "answered": "OF text",
    "decided": "OF verdict attributes context chain? excluded? again? unusual? past?",
    "narrowed": "OF old_digest human channel terms reason?:digest", "withdrawn": "OF human channel",
    "voted": "OF human decision channel groups policies policy_set seen? proof? confirmed? reason_code?"
             " reason?:digest",
    "intended": "OF minter approvers", "issued": "OF lease_id expires_at revocable facts",
    "failed": "OF code detail", "unknown": "OF detail", "cancelled": "OF by:code", "expired": "OF lease_id?",
    "renewed": "OF lease_id expires_at", "revoked": "OF lease_id by:code effect still_valid?",
    "account_linked": "human account", "account_unlinked": "by account", "agent_revoked": "by agent",
    "agent_set": "by agent owner attributes:registered", "delegation_ended": "delegation_id agent? human?",
    "delegated": "delegation_id from instance to scopes:handed expires_at parent? passes?", "erased": "by of texts",
    "epoch_started": "version origin vkey trust_domain recovery_key old_origin old_vkey old_checkpoint restored"
                     " restored_root carried carried_root signature?",
    "group_set": "by group members", "groups_claimed": "human issuer subject groups until",
    "human_set": "by human active operator", "identity_set": "by issuer subject human?",
    "instance_enrolled": "join_id agent instance serial key seal_key not_after",
    "instance_renewed": "instance old_serial serial key not_after", "instance_revoked": "by:code instance reason",
    "join_created": "by join_id agent token_hash expires_at", "link_spent": "link_id",
    "link_created": "by link_id human code_hash purpose expires_at", "model_set": "by model model_version until?",
    "opened": "version origin vkey trust_domain recovery_key?", "passkey_revoked": "by credential_id",
    "passkey_enrolled": "human link_id credential_id public_key rp_id aaguid backup_eligible",
    "policy_loaded": "by policy_set scopes", "token_issued": "by token_id human token_hash expires_at",
    "token_revoked": "by token_id",
    "TERMS": "version origin request_id agent instance workload process? delegation delegation_id? on_behalf_of?"
             " scope template params sealed_params? ttl_s task? reason:digest decide_by",
    "PROCESS": "uid gid pid? exe? exe_digest? cgroup? container?:digest", "PUBLIC_KEY": "algorithm key:code",
    "VERDICT": "verdict:code code? reason policies policy_set quorum strength channels approvers max_ttl_s",
    "REGISTERED": "team environment model model_version", "BOUNDS": "template params? ttl_s",
    "ACCOUNT": "channel:part tenant:part account:part",
    "PROOF": "kind credential_id authenticator_data client_data signature:client_data nonce expires_at"}

class Row(dict):
    """An object of a leaf, and what is kept of it; a field that is absent is None."""
    __getattr__, __setattr__ = dict.get, dict.__setitem__

# What fields hold: a pattern, a type, [these], {these in order, each once}, or "" to these by name; else a text.
FIELDS = {name: form for names, form in (
    ("request_id lease_id instance delegation_id parent renews of", "[A-Za-z0-9._-]{2,64}"),
    ("agent from to", AGENT), ("by human group owner scope on_behalf_of", NAME),
    ("digest old_digest text policy_set token_hash code_hash key template task nonce exe_digest", HEX),
    ("expires_at until not_after decide_by", TIME), ("aaguid", "[0-9a-f]{32}"),
    ("issuer subject", "[!-~]{1,255}"), ("part", "[!-~]{1,128}"),
    ("credential_id authenticator_data client_data", BASE64URL),
    ("active operator again revocable still_valid backup_eligible", bool),
    ("version restored carried seen past passes ttl_s max_ttl_s quorum uid gid pid", int),
    ("members groups approvers excluded", frozenset([NAME])), ("policies channels texts", frozenset([str])),
    ("unusual", [str]), ("delegation", [AGENT]), ("chain", [Row]), ("attributes context params", Row),
    ("facts", {"": str}), ("scopes sealed_params", {"": HEX}), ("handed", {"": "BOUNDS"}),
    *((shape.lower(), shape) for shape in SHAPES if shape.isupper())) for name in names.split()}

def holds(form, value):
    if isinstance(form, type):
        return type(value) is form and (form is not int or value >= 0)
    if isinstance(form, dict):
        return isinstance(value, dict) and all(holds(form[""], item) for item in value.values())
    if isinstance(form, (list, frozenset)):
        right = isinstance(value, list) and all(holds(*form, item) for item in value)
        return right and (isinstance(form, list) or value == sorted(set(value), key=str.encode))
    if form in SHAPES:
        return check(value, form)
    return isinstance(value, str) and re.fullmatch(form, value) is not None

# Of each shape its fields: the name, `?` or nothing, what it holds.
READ = {shape: [(name, optional, FIELDS.get(like or name, str)) for name, optional, like in re.findall(
    r"(\w+)(\??):?(\w*)", ("kind at " if shape.islower() else "") + text.replace("OF", "digest request_id"))]
    for shape, text in SHAPES.items()}

def check(value, shape):
    """That an object has the fields of its shape, and what they hold."""
    known = isinstance(value, dict) and set(value) <= {name for name, _, _ in READ[shape]}
    need(known, "canonical", f"other fields than `{shape}` has")
    for name, optional, form in READ[shape]:
        given = value.get(name)
        full = given or not optional or name in ("past", "seen")
        ok = holds(form, given) and full if name in value else optional
        need(ok, "canonical", f"`{name}` is not of its form")
    return True

def millis(value):
    found = re.fullmatch(TIME, value)
    need(found and found[2] != "000", "canonical", f"{value!r} is not a time as leaves write it")
    return timegm(datetime.fromisoformat(found[1]).timetuple()) * 1000 + int(found[2] or 0)

plain = json.JSONEncoder(ensure_ascii=False).encode

def canonical(value, depth=0):
    """RFC 8785 over strings, integers, booleans, arrays and objects."""
    if isinstance(value, (str, bool)):
        return plain(value)
    if type(value) is int and abs(value) < 1 << 53:
        return str(value)
    need(isinstance(value, (dict, list)) and depth <= MAX_DEPTH, "canonical", "what no leaf holds, or too deep")
    if isinstance(value, list):
        return "[" + ",".join(canonical(item, depth + 1) for item in value) + "]"
    pairs = sorted(value.items(), key=lambda pair: pair[0].encode("utf-16-be"))
    return "{" + ",".join(f"{plain(k)}:{canonical(v, depth + 1)}" for k, v in pairs) + "}"

def digest(label, data):
    return hashlib.sha256(f"grantwright/{label}/v1\0".encode() + data).hexdigest()

def digest_of(label, value):
    return digest(label, canonical(value).encode())

def read_leaf(body):
    """The event of a leaf, with its times in milliseconds as `…_ms`; Wrong where it is none."""
    try:
        e = json.loads(body.decode(), object_hook=Row)
        need(canonical(e, 1).encode() == body, "canonical", "not in canonical form")
        need(e["kind"] in SHAPES and e["kind"].islower(), "canonical", "not of a known kind")
        check(e, e["kind"])
        expires, until = (millis(e[name]) if name in e else 0 for name in ("expires_at", "until"))
        return Row(e, ms=millis(e["at"]), expires_ms=expires, until_ms=until)
    except (KeyError, ValueError, TypeError, RecursionError) as fault:
        raise Wrong("canonical", f"no leaf: {fault}") from None

TEXTS = {
    "s3-bucket": r"(?!xn--|sthree-|amzn-s3-demo-)"
                 r"(?!.*(?:\.\.|\.-|-\.|-s3alias$|--ol-s3$|\.mrap$|--x-s3$|--table-s3$))"
                 r"(?!(?:0*(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.|$)){4}$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
    "s3-prefix": r"(?=.{1,200}$)(?:(?!\.\.?/)[A-Za-z0-9._-]+/)+", "jkt": "[A-Za-z0-9_-]{43}",
    "csr": "(?=.{100,1024}$)(?=(?:....)+$)[A-Za-z0-9+/]+={0,2}",
    "ssh": "(?:ssh-ed25519 (?=.{68}$)|ecdsa-sha2-nistp256 (?=.{140}$))[A-Za-z0-9+/]+={0,2}"}
# Characters that change how others are shown, or show as nothing.
DECEPTIVE = re.compile(
    "[\0-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]")

def fits(spec, value):
    """Whether a value is of the type that a parameter of a scope declares."""
    kind, pattern = spec["type"], spec.get("pattern") or TEXTS.get(spec.get("format", spec["type"]))
    if kind == "integer":
        return type(value) is int and spec["min"] <= value <= spec["max"]
    if kind in ("boolean", "choice"):
        return value in spec["values"] if kind == "choice" else isinstance(value, bool)
    items = value if kind == "set" else [value]
    return isinstance(items, list) and 0 < len(items) <= spec.get("most", 1) and all(
        isinstance(item, str) and len(item.encode()) <= MAX_TEXT and re.fullmatch(pattern, item, re.ASCII)
        and not DECEPTIVE.search(item) for item in items) and items == sorted(set(items), key=str.encode)

def narrower(spec, was, now):
    """Whether `now` is `was`, or within it by the order that the parameter declares."""
    order = spec.get("order", "equal")
    return now == was or fits(spec, now) and (
        order == "max" and now <= was or order == "prefix" and now.startswith(was)
        or order == "subset" and set(now) <= set(was))

def check_params(specs, terms):
    """Every parameter is there, of its type, and sealed where it is sensitive."""
    params, sealed = terms["params"], terms.get("sealed_params", {})
    for name, spec in specs.items():
        place, other = (sealed, params) if spec.get("sensitive") else (params, sealed)
        need(name not in other and (name in place or spec.get("optional")), "params", f"`{name}`")
        need(name not in params or fits(spec, params[name]), "params", f"`{name}` is no such value")
    need({*sealed, *params} <= set(specs), "params", "unknown parameters")
    return True
