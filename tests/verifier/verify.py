#!/usr/bin/env python3
"""The second verifier: `verify.py PLACE [--vkey KEY] [--checkpoint FILE]… [--json]`.

PLACE is a folder of tiles, an evidence bundle, the address of a log, or sqlite:///path of a store. Exit
code 0 proven, 1 findings (the first bad leaf is named), 2 could not be verified. It checks everything but
the replay of policy: docs/log-format.md. Python 3, its standard library and `cryptography`.
"""

import argparse
import json
import sys
import time

import log
from life import Request
from log import CannotVerify, Checkpoint, Tree, Vkey, Wrong, leaf_hash
from rules import ORDER_MS, Authority, digest, need, read_leaf

MOST = 20


class Verifier:
    def __init__(self, source, vkey, kept, now_ms=None):
        self.source, self.findings, self.now = source, [], now_ms
        self.requests, self.leases, self.broken, self.texts = {}, set(), set(), {}
        self.authority = Authority()
        self.authority.nonces = set()
        self.tree, self.good, self.last, self.hashes = Tree(), 0, None, []
        self.vkey, self.kept, self.kept_notes = vkey, [], kept

    def find(self, leaf, rule, detail):
        self.findings.append({"leaf": leaf, "rule": rule, "detail": detail})

    def open(self, notes):
        """Stored checkpoints that the key signed, by size; the others are findings, unless all are."""
        out, bad = {}, []
        for row, note in notes:
            try:
                point = Checkpoint(note, self.vkey)
                need(row in (None, point.size), "checkpoint", f"of {point.size} leaves, stored as {row}")
                out.setdefault(point.size, []).append(point)
            except (Wrong, ValueError) as e:
                bad.append((max((row or 1) - 1, 0), str(e)))
        if notes and not out:
            raise CannotVerify("no checkpoint of this log is signed by the key")
        for leaf, why in bad:
            self.find(leaf, "signature", why)
        return out

    def run(self):
        notes, leaves = self.source.checkpoints(), self.source.leaves()
        first = next(leaves, None)
        if first is None and not notes:
            raise CannotVerify("there is nothing to verify")
        if self.vkey is None:
            try:
                self.vkey = Vkey(read_leaf(first[1])["vkey"])
            except (Wrong, KeyError, TypeError):
                raise CannotVerify("no key was given, and the first leaf names none") from None
        points = self.open(notes)
        try:
            self.kept = [Checkpoint(note, self.vkey) for note in self.kept_notes]
        except ValueError as e:
            raise CannotVerify(f"a kept checkpoint cannot be used: {e}") from None
        sizes = {p.size: None for p in self.kept}
        gap = False
        for index, body in ([first] if first else []) + [*()] or []:
            gap = not self.leaf(index, body, points, sizes)
        for index, body in leaves:
            if gap or len(self.findings) >= MOST:
                break
            gap = not self.leaf(index, body, points, sizes)
        self.end(points, gap or len(self.findings) >= MOST)
        rollback = self.rollback(sizes, points)
        self.findings = sorted(self.findings, key=lambda f: f["leaf"])[:MOST + 1]
        return {"ok": not self.findings, "leaves": self.tree.size, "rollback": rollback,
                "findings": self.findings, "requests": len(self.requests),
                "not_checked": ["that the recorded verdicts are what the policy gives"]}

    def leaf(self, index, body, points, sizes):
        size = self.tree.size
        if index != size:
            self.find(min(index, size), "index", f"leaf {size} is missing, or there twice")
            return False
        self.hashes.append(leaf_hash(body))
        self.tree.add(self.hashes[-1])
        for point in points.get(size + 1, []):
            if point.root == self.tree.root():
                self.good = size + 1
            else:
                self.blame(size + 1, point)
        if size + 1 in sizes:
            sizes[size + 1] = self.tree.root()
        try:
            self.fold(size, read_leaf(body))
        except Wrong as e:
            self.find(size, e.rule, str(e))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
            self.find(size, "canonical", f"not of the form of its kind: {type(e).__name__} {e}")
        return True

    def blame(self, size, point):
        """Stored leaf hashes are believed where they lead to the promised root."""
        stored = [self.source.leaf_hash_at(i) for i in range(self.good, size)]
        proven, named = Tree(), []
        for hash_ in self.hashes[:self.good] + stored:
            proven.add(hash_)
        if proven.root() == point.root:
            named = [i for i, h in enumerate(stored, self.good) if h != self.hashes[i]]
            self.tree, self.good = proven, size
            self.hashes[-len(stored):] = stored
        for leaf in named or [min(self.good, size - 1)]:
            self.find(leaf, "root", f"not the leaf that the checkpoint of {size} leaves covers")

    def fold(self, index, e):
        if self.last is not None and self.last - e["ms"] > ORDER_MS or (
                self.now and e["ms"] - self.now > ORDER_MS):
            self.find(index, "time", f"{e['at']} is out of order, or after now")
        self.last = e["ms"]
        id_, a, kind = e.get("request_id"), self.authority, e["kind"]
        if id_ is None:
            a.apply(index, e)
            if kind == "policy_loaded":
                self.load(e)
            return
        self.commitments(id_, e)
        if id_ in self.broken:
            return
        try:
            need(a.origin, "opened-first", "the first leaf of a log opens it")
            if kind == "requested":
                need(id_ not in self.requests, "request-once", "the request exists")
                self.requests[id_] = Request(e, a)
                return
            need(id_ in self.requests, "request-known", "no such request")
            need(kind != "issued" or e["lease_id"] not in self.leases, "lease-once", "the lease exists")
            self.requests[id_].apply(e, a)
            if kind == "issued":
                self.leases.add(e["lease_id"])
        except Exception:
            self.requests.pop(id_, None)
            self.broken.add(id_)
            raise

    def load(self, e):
        for label, wanted in [("policy-set", e["policy_set"]), *(("scope", d) for d in e["scopes"].values())]:
            blob = self.source.blob(wanted)
            need(blob and digest(label, blob) == wanted, "blob", f"{wanted} is not beside the log")
            if label == "scope":
                self.authority.catalog[wanted] = json.loads(blob)

    def commitments(self, id_, e):
        held = self.texts.setdefault(id_, set())
        if e["kind"] == "requested":
            t = e["terms"]
            held.update({t["reason"], t.get("task"), *t.get("sealed_params", {}).values()})
        held.update({e.get("text"), e.get("reason")} if e["kind"] != "requested" else ())

    def end(self, points, cut):
        size, newest = self.tree.size, max(points, default=0)
        for point in (p for same in points.values() for p in same):
            if point.origin != self.authority.origin:
                self.find(0, "origin", f"a checkpoint is of the log `{point.origin}`")
        if self.authority.vkey != self.vkey.text:
            self.find(0, "key", "the first leaf names another key than the log is verified with")
        if cut:
            return
        if newest > size:
            self.find(size, "truncated", f"the newest checkpoint covers {newest} leaves, there are {size}")
        elif newest < size:
            self.find(newest, "uncovered", f"no checkpoint covers the leaves after the first {newest}")
        for first, below, mine, served in self.source.tiles(self.hashes):
            wrong = [i for i, h in enumerate(mine) if (served or b"")[32 * i:32 * i + 32] != h]
            if wrong:
                self.find(first + wrong[0] * below, "tile", "a hash tile is not that of the leaves")
        for id_, name, salt, text in self.source.texts():
            if id_ in self.texts and digest("commitment", salt + text.encode()) not in self.texts[id_]:
                self.find(size, "commitment", f"the text `{name}` of `{id_}` is not what a leaf commits to")

    def rollback(self, sizes, points):
        found = False
        for point in self.kept:
            own = {p.root for p in points.get(point.size, [])} | {sizes.get(point.size)}
            if point.size > self.tree.size:
                found = True
                self.find(self.tree.size, "rollback", f"a kept checkpoint covers {point.size} leaves")
            elif point.size and (point.root not in own or point.origin != self.authority.origin):
                found = True
                self.find(point.size - 1, "fork", "a kept checkpoint promises other leaves than these")
        return "found" if found else "none" if self.kept else "not checked"


def verify(place, vkey=None, kept=(), now=None):
    """The report, or CannotVerify."""
    return Verifier(log.opened(place), Vkey(vkey) if vkey else None, list(kept), now).run()


def main():
    parse = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parse.add_argument("place")
    parse.add_argument("--vkey")
    parse.add_argument("--checkpoint", action="append", default=[])
    parse.add_argument("--json", action="store_true")
    options = parse.parse_args()
    try:
        kept = [note for file in options.checkpoint
                for note in log.split_notes(open(file, encoding="utf-8").read())]
        report = verify(options.place, options.vkey, kept, int(time.time() * 1000))
    except (CannotVerify, OSError, UnicodeError) as e:
        print(json.dumps({"ok": False, "code": "unable", "detail": str(e)}) if options.json else e)
        return 2
    if options.json:
        print(json.dumps(report))
    else:
        print(f"{'proven' if report['ok'] else 'NOT as it should be'}: {report['leaves']} leaves, "
              f"{report['requests']} requests, rollback {report['rollback']}")
        for found in report["findings"]:
            print(f"  leaf {found['leaf']}  {found['rule']}: {found['detail']}")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
