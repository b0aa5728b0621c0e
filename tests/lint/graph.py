#!/usr/bin/env python3
"""Which crate uses which, as a matter of record: the workspace's edges equal the golden file and obey
the table below; what the sidecar and the secret-free crates link; licences and sources (.deny.toml).

`tests/lint/graph.py --write` writes the golden file anew: a change of it is a change of the design.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "crates.txt"

# Exhaustive: what each crate may use of the workspace, in what is shipped.
ALL = ["domain", "proof", "credential", "policy", "audit", "approval", "mint", "store", "wire"]
MAY_USE = {
    "domain": [],
    "proof": ["domain"],
    "credential": ["domain"],
    "policy": ["domain"],
    "audit": ["domain", "policy", "proof"],
    "approval": ["domain", "proof"],
    "mint": ["domain", "credential"],
    "store": ["domain", "proof"],
    "wire": ["domain", "credential", "proof"],
    "broker": ALL,
    "sidecar": ["domain", "credential", "proof", "wire"],
    "cli": [*ALL, "broker", "sidecar"],
    "testkit": [*ALL, "broker", "sidecar"],
    "e2e": [*ALL, "broker", "sidecar", "testkit"],
}

# What must not be linked into a crate, directly or through others, and what that proves.
NEVER = {
    "sidecar": (["cedar-policy", "rusqlite", "tokio-postgres", "aws-sdk-sts", "axum", "reqwest"],
                "the sidecar stays tiny"),
    "policy": (["grantwright-credential"], "policy cannot name a minted secret"),
    "audit": (["grantwright-credential"], "audit cannot name a minted secret"),
    "approval": (["grantwright-credential"], "approval cannot name a minted secret"),
    "store": (["grantwright-credential"], "the store cannot hold a minted secret in the clear"),
    "mint": (["grantwright-policy", "grantwright-store"], "a minter sees a grant and nothing else"),
    "domain": (["tokio", "rustls", "getrandom"], "the rules have no I/O, no async, no randomness"),
    "proof": (["tokio", "hyper", "tonic"], "verification is pure"),
}


def metadata():
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True,
                          env=dict(os.environ, CARGO_TERM_COLOR="never"))
    if done.returncode != 0:
        print(done.stderr)
        raise SystemExit("0 passed, 1 failed")
    return json.loads(done.stdout)


class Graph:
    def __init__(self, data):
        self.packages = {p["id"]: p for p in data["packages"]}
        self.members = {self.short(i): i for i in data["workspace_members"]}
        self.nodes = {n["id"]: n for n in data["resolve"]["nodes"]}

    def short(self, package):
        folder = Path(self.packages[package]["manifest_path"]).parent
        return "e2e" if folder == ROOT / "tests" else folder.name

    def uses(self, package, kinds=(None,)):
        return [d["pkg"] for d in self.nodes[package]["deps"]
                if any(k["kind"] in kinds for k in d["dep_kinds"])]

    def closure(self, *members, kinds="normal"):
        """Names of all that building these members links: cargo's own answer, features resolved
        for them alone and not for the workspace."""
        command = ["cargo", "tree", "--locked", "--prefix", "none", "--edges", kinds]
        for member in members:
            command += ["--package", self.packages[self.members[member]]["name"]]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return {line.split()[0] for line in done.stdout.splitlines() if line.strip()}

    def edges(self, kinds=(None,)):
        local = {i: s for s, i in self.members.items()}
        return {s: sorted(local[d] for d in self.uses(i, kinds) if d in local)
                for s, i in self.members.items()}


def render(edges):
    return "".join(f"{name}: {' '.join(edges[name]) or '-'}\n" for name in MAY_USE if name in edges)


def allowed(expression, licences):
    """SPDX expressions with AND, OR, WITH and parentheses; `/` is an old way to write OR."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))

    def one():
        token = tokens.pop(0)
        if token == "(":
            value = either()
            tokens.pop(0)
            return value
        if len(tokens) > 1 and tokens[0] == "WITH":
            tokens.pop(0)
            token += " WITH " + tokens.pop(0)
        return token in licences

    def both():
        value = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            value = one() and value
        return value

    def either():
        value = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            value = both() or value
        return value

    return either()


def checks(graph):
    edges = graph.edges()
    text, golden = render(edges), GOLDEN.read_text() if GOLDEN.exists() else ""

    def golden_file():
        new = set(text.splitlines()) - set(golden.splitlines())
        old = set(golden.splitlines()) - set(text.splitlines())
        return [f"now `{line}`" for line in sorted(new)] + [f"golden `{line}`" for line in sorted(old)]

    def may_use():
        out = [f"`{name}` is not in the table" for name in edges if name not in MAY_USE]
        for name, used in edges.items():
            out += [f"`{name}` may not use `{other}`" for other in used
                    if other not in MAY_USE.get(name, [])]
        return out

    def testkit():
        every = graph.edges(("build", None))
        return [f"`{name}` links `testkit` outside its tests" for name, used in every.items()
                if "testkit" in used and name != "e2e"]

    def linked():
        out = []
        for name, (banned, why) in NEVER.items():
            inside = graph.closure(name)
            out += [f"`{name}` links `{crate}`: {why}" for crate in banned if crate in inside]
        return out

    deny = tomllib.loads((ROOT / ".deny.toml").read_text())
    def licences():
        out, needed, common = [], set(), deny["licenses"]["allow"]
        more = {rule["crate"]: rule["allow"] for rule in deny["licenses"].get("exceptions", [])}
        for package in map(graph.packages.get, graph.packages):
            name, licence = package["name"], package["license"]
            if not licence:
                out.append(f"{name} {package['version']} names no licence")
            elif allowed(licence, common):
                continue
            elif not allowed(licence, common + more.get(name, [])):
                out.append(f"{name} {package['version']}: {licence}")
            else:
                needed.add(name)
        return out + [f"an exception for `{name}` that nothing needs" for name in more if name not in needed]

    def banned():
        names = graph.closure("cli", "sidecar", kinds="normal,build")
        return [f"{rule['crate']}: {rule['reason']}" for rule in deny["bans"]["deny"]
                if rule["crate"] in names]

    def sources():
        known = {f"registry+{url}" for url in deny["sources"]["allow-registry"]}
        return [f"{p['name']} {p['version']} comes from {p['source']}"
                for p in graph.packages.values() if p["source"] and p["source"] not in known]

    def lints():
        """A crate outside the workspace's lints would be outside its rules."""
        return [f"`{name}` does not take the workspace's lints" for name, i in graph.members.items()
                if "workspace = true" not in
                Path(graph.packages[i]["manifest_path"]).read_text().partition("[lints]")[2][:40]]

    def examples():
        """rustdoc compiles a crate anew to find its examples: only where there are any, and there always."""
        out = []
        for name, i in graph.members.items():
            manifest = Path(graph.packages[i]["manifest_path"])
            silent = "doctest = false" in manifest.read_text()
            some = False
            for source in manifest.parent.glob("src/**/*.rs"):
                fences = re.findall(r"^\s*//[/!] ```(.*)$", source.read_text(), re.MULTILINE)[::2]
                some = some or any(fence.split(",")[0] not in ("text", "toml") for fence in fences)
            if some and silent:
                out.append(f"`{name}` has examples in its comments that nothing runs: remove `doctest = false`")
            if not some and not silent and (manifest.parent / "src/lib.rs").exists():
                out.append(f"`{name}` has no example in its comments: add `doctest = false` under [lib]")
        return out

    def allow_list():
        broken = []
        for text_, want in [("MIT OR GPL-3.0", True), ("MIT AND GPL-3.0", False),
                            ("(GPL-3.0 OR ISC) AND MIT", True), ("GPL-3.0", False),
                            ("Apache-2.0 WITH LLVM-exception", True), ("MIT/GPL-3.0", True)]:
            if allowed(text_, deny["licenses"]["allow"]) is not want:
                broken.append(text_)
        return broken

    return [
        ("the workspace's edges equal tests/golden/crates.txt", golden_file),
        ("each crate uses only what it may", may_use),
        ("testkit is used in tests only", testkit),
        ("no crate links what it must not", linked),
        ("every crate takes the workspace's lints", lints),
        ("examples in comments run", examples),
        ("the reader of licence expressions tells good from bad", allow_list),
        ("every licence is on the list", licences),
        ("no banned crate is linked", banned),
        ("everything comes from the one registry", sources),
    ]


def main():
    graph = Graph(metadata())
    if "--write" in sys.argv:
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(render(graph.edges()))
        return 0
    passed = failed = 0
    for name, check in checks(graph):
        faults = check()
        passed, failed = passed + (not faults), failed + bool(faults)
        print(f"{'FAIL' if faults else 'ok  '} {name}", flush=True)
        for fault in faults:
            print(f"       {fault}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
