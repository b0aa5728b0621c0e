"""What a leaf looks like: its fields, by docs/log-format.json; its canonical form, digests and typed parameters."""

import hashlib
import json
import re
from calendar import timegm
from datetime import datetime
from pathlib import Path

from log import Wrong, need

class Row(dict):
    """An object of a leaf, and what is kept of it; a field that is absent is None."""
    __getattr__, __setattr__ = dict.get, dict.__setitem__

SCHEMA = Path(__file__).resolve().parents[2] / "docs/log-format.json"
FORMAT = json.loads(SCHEMA.read_text(encoding="utf-8"), object_hook=Row)
SHAPES, KINDS, MOST = FORMAT["$defs"], {ref["$ref"].rpartition("/")[2] for ref in FORMAT.oneOf}, FORMAT.limits
TYPES = {"string": str, "boolean": bool, "integer": int, "array": list, "object": Row}
# Characters that change how others are shown, or show as nothing.
DECEPTIVE = re.compile("[%s]" % "".join(
    f"{chr(int(first, 16))}-{chr(int(last, 16))}" for first, last in FORMAT.parameters.deceptive))

def holds(form, value):
    """Whether a value is of a form: JSON Schema, as far as log-format.json uses it. Wrong where an object is not."""
    shape = form.get("$ref")
    form = SHAPES[shape.removeprefix("#/$defs/")] if shape else form
    if "properties" in form:
        fields, required = form["properties"], form["required"]
        known = isinstance(value, dict) and value.keys() <= fields.keys()
        need(known, "canonical", f"other fields than `{shape.rpartition('/')[2]}` has")
        for name, inner in fields.items():
            ok = holds(inner, value[name]) if name in value else name not in required
            need(ok, "canonical", f"`{name}` is not of its form")
        return True
    if "const" in form:
        return (type(value), value) == (type(form["const"]), form["const"])
    kind, pattern = form["type"], form.get("pattern")
    if kind in ("boolean", "integer") or type(value) is not TYPES[kind]:
        return type(value) is TYPES[kind] and (kind == "boolean" or value >= form["minimum"])
    if kind == "string":
        return len(value) >= form.get("minLength", 0) and (not pattern or re.fullmatch(pattern, value) is not None)
    parts, inner = (value, form["items"]) if kind == "array" else (value.values(), form.get("additionalProperties"))
    return (len(value) >= form.get("minItems", form.get("minProperties", 0))
            and (not inner or all(holds(inner, part) for part in parts))
            and ("uniqueItems" not in form or value == sorted(set(value), key=str.encode)))

def millis(value):
    seconds, _, parts = value.removesuffix("Z").partition(".")
    need(parts != "000", "canonical", f"{value!r} is not a time as leaves write it")
    return timegm(datetime.fromisoformat(seconds).timetuple()) * 1000 + int(parts or 0)

plain = json.JSONEncoder(ensure_ascii=False).encode

def canonical(value, depth=0):
    """RFC 8785 over strings, integers, booleans, arrays and objects."""
    if isinstance(value, (str, bool)):
        return plain(value)
    if type(value) is int and abs(value) < 1 << 53:
        return str(value)
    need(isinstance(value, (dict, list)) and depth <= MOST.depth, "canonical", "what no leaf holds, or too deep")
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
        need(e["kind"] in KINDS, "canonical", "not of a known kind")
        holds({"$ref": f"#/$defs/{e['kind']}"}, e)
        expires, until = (millis(e[name]) if name in e else 0 for name in ("expires_at", "until"))
        return Row(e, ms=millis(e["at"]), expires_ms=expires, until_ms=until)
    except (KeyError, ValueError, TypeError, RecursionError) as fault:
        raise Wrong("canonical", f"no leaf: {fault}") from None

def fits(spec, value):
    """Whether a value is of the type that a parameter of a scope declares."""
    kind = spec["type"]
    if kind == "integer":
        return type(value) is int and spec["min"] <= value <= spec["max"]
    if kind in ("boolean", "choice"):
        return value in spec["values"] if kind == "choice" else isinstance(value, bool)
    items, given = value if kind == "set" else [value], spec.get("pattern")
    patterns = [given] if given else FORMAT.parameters.formats.get(spec.get("format", kind), [None])
    return isinstance(items, list) and 0 < len(items) <= spec.get("most", 1) and all(
        isinstance(item, str) and len(item.encode()) <= MOST.text_bytes
        and all(re.fullmatch(pattern, item, re.ASCII) for pattern in patterns) and not DECEPTIVE.search(item)
        for item in items) and items == sorted(set(items), key=str.encode)

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
