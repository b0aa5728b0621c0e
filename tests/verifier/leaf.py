"""What a leaf looks like: its fields, by docs/log-format.json; its canonical form, digests and typed parameters."""

import json
import re
from datetime import datetime
from pathlib import Path

from log import Row, Wrong, need, sha256

FORMAT = json.loads((Path(__file__).resolve().parents[2] / "docs/log-format.json").read_text("utf-8"), object_hook=Row)
SHAPES, MOST = {f"#/$defs/{name}": form for name, form in FORMAT["$defs"].items()}, FORMAT.limits
TYPES = {"string": str, "boolean": bool, "integer": int, "array": list, "object": Row}
# Characters that change how others are shown, or show as nothing.
DECEPTIVE = re.compile("|".join(FORMAT.parameters.deceptive))
MALFORMED = (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError, re.error)

def holds(form, value):
    """Whether a value is of a form: JSON Schema, as far as log-format.json uses it. Wrong where an object is not."""
    form = SHAPES.get(shape := form.get("$ref"), form)
    if "pattern" in form:
        return isinstance(value, str) and re.fullmatch(form["pattern"], value) is not None
    if "properties" in form:
        known = isinstance(value, dict) and set(form["required"]) <= value.keys() <= form["properties"].keys()
        need(known, "canonical", f"other fields than `{shape.rpartition('/')[2]}` has")
        for name, part in value.items():
            need(holds(form["properties"][name], part), "canonical", f"`{name}` is not of its form")
        return True
    if "const" in form:
        return (type(value), value) == (type(form["const"]), form["const"])
    kind, inner = form["type"], form.get("items", form.get("additionalProperties"))
    if kind in ("boolean", "integer") or type(value) is not TYPES[kind]:
        return type(value) is TYPES[kind] and (kind == "boolean" or value >= form["minimum"])
    return (len(value) >= form.get("minLength", form.get("minItems", form.get("minProperties", 0)))
            and (not inner or all(holds(inner, part) for part in (value if kind == "array" else value.values())))
            and ("uniqueItems" not in form or value == sorted(set(value), key=str.encode)))

def millis(value):
    need(not value.endswith(".000Z"), "canonical", f"{value!r} is not a time as leaves write it")
    return round(datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp() * 1000)

plain = json.JSONEncoder(ensure_ascii=False).encode

def canonical(value, depth=0):
    """RFC 8785 over strings, integers, booleans, arrays and objects."""
    if isinstance(value, (str, bool)) or type(value) is int and abs(value) < 1 << 53:
        return plain(value)
    need(isinstance(value, (dict, list)) and depth <= MOST["depth"], "canonical", "what no leaf holds, or too deep")
    if isinstance(value, list):
        return "[" + ",".join(canonical(item, depth + 1) for item in value) + "]"
    pairs = sorted(value.items(), key=lambda pair: pair[0].encode("utf-16-be"))
    return "{" + ",".join(f"{plain(k)}:{canonical(v, depth + 1)}" for k, v in pairs) + "}"

def digest(label, data):
    return sha256(f"grantwright/{label}/v1\0".encode(), data).hex()

def digest_of(label, value):
    return digest(label, canonical(value).encode())

def read_leaf(body):
    """The event of a leaf, with its times in milliseconds as `…_ms`; Wrong where it is none."""
    try:
        e = json.loads(body.decode(), object_hook=Row)
        need(canonical(e, 1).encode() == body, "canonical", "not in canonical form")
        need(holds({"$ref": f"#/$defs/{e['kind']}"}, e), "canonical", "not of a known kind")
        expires, until = (millis(e[name]) if name in e else 0 for name in ("expires_at", "until"))
        return Row(e, ms=millis(e["at"]), expires_ms=expires, until_ms=until)
    except MALFORMED as fault:
        raise Wrong("canonical", f"no leaf of a known kind: {fault}") from None

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

def typed(specs, terms):
    """Whether every parameter of a scope is there, of its type, and sealed where it is sensitive."""
    params, sealed = terms["params"], terms.get("sealed_params", {})
    wanted = {name for name, spec in specs.items() if not spec.get("optional")}
    secret = {name for name, spec in specs.items() if spec.get("sensitive")}
    return (wanted <= {*params, *sealed} <= specs.keys() and sealed.keys() <= secret and secret.isdisjoint(params)
            and all(fits(specs[name], value) for name, value in params.items()))
