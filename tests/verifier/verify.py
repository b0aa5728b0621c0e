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
from log import CannotVerify, Checkpoint, Tree, Vkey, Wrong, leaf_hash, need, unbase64
from rules import Authority, digest, read_leaf

MOST, ORDER_MS = 20, 300_000


class Verifier:
    def __init__(self, source, vkey, kept, now=None, witnesses=(), quorum=0):
        self.witnesses, self.quorum = witnesses, quorum
        self.source, self.vkey, self.kept_notes, self.now, self.findings = source, vkey, kept, now, []
        self.requests, self.leases, self.broken, self.texts = {}, set(), set(), {}
        self.authority, self.tree, self.good, self.last, self.hashes = Authority(), Tree(), 0, None, []
    def find(self, leaf, rule, detail):
        self.findings.append({"leaf": leaf, "rule": rule, "detail": detail})
    def points(self, notes):
        """Stored checkpoints that the key signed, by size; the others are findings, unless all are."""
        out, bad = {}, []
        for row, note in notes:
            try:
                point = Checkpoint(note, self.vkey)
                need(row in (None, point.size), "checkpoint", f"of {point.size} leaves, stored as {row}")
                out.setdefault(point.size, []).append(point)
            except (Wrong, ValueError) as e:
                bad.append((max((row or 1) - 1, 0), "signature", str(e)))
        if notes and not out:
            raise CannotVerify("no checkpoint of this log is signed by the key")
        for finding in bad:
            self.find(*finding)
        return out
    def run(self):
        notes, leaves = self.source.checkpoints(), self.source.leaves()
        first = next(leaves, None)
        if first is None and not notes:
            raise CannotVerify("there is nothing to verify")
        try:
            self.vkey = self.vkey or Vkey(read_leaf(first[1])["vkey"])
        except (Wrong, KeyError, TypeError):
            raise CannotVerify("no key was given, and the first leaf names none") from None
        points = self.points(notes)
        kept, older = [], []
        for note in self.kept_notes:
            try:
                kept.append(Checkpoint(note, self.vkey))
            except ValueError as e:
                older.append((note, e))
        roots = {point.size: None for point in kept}
        witnessed = self.witnessed([*kept, *(point for same in points.values() for point in same)])
        whole = first is None or self.leaf(*first, points, roots)
        while whole and len(self.findings) < MOST and (following := next(leaves, None)):
            whole = self.leaf(*following, points, roots)
        self.end(points, whole and len(self.findings) < MOST)
        rollback = self.rollback(kept, roots, points)
        rollback = "found" if self.older(older) else rollback
        self.findings = sorted(self.findings, key=lambda found: found["leaf"])[:MOST]
        return {"ok": not self.findings, "leaves": self.tree.size, "rollback": rollback,
                "findings": self.findings, "witnessed": witnessed, "requests": len(self.requests),
                "not_checked": ["that the recorded verdicts are what the policies give"]}
    def witnessed(self, points):
        """The size of the largest checkpoint that enough of the given witnesses cosigned."""
        found = None
        for point in points if self.witnesses else ():
            try:
                if sum(key.cosigned(point) for key in self.witnesses) >= self.quorum:
                    found = max(found or 0, point.size)
            except Wrong as e:
                self.find(max(point.size - 1, 0), e.rule, str(e))
        if self.witnesses and found is None:
            self.find(0, "witness", f"no checkpoint is cosigned by {self.quorum} of the witnesses")
        return found
    def leaf(self, index, body, points, roots):
        size = self.tree.size
        if index != size:
            self.find(min(index, size), "index", f"leaf {size} is missing, or there twice")
            return False
        self.hashes.append(leaf_hash(body))
        self.tree.add(self.hashes[-1])
        for point in points.get(size + 1, []):
            self.compare(size + 1, point)
        roots.update({size + 1: self.tree.root()} if size + 1 in roots else {})
        try:
            self.fold(size, read_leaf(body))
        except Wrong as e:
            self.find(size, e.rule, str(e))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
            self.find(size, "canonical", f"not of the form of its kind: {type(e).__name__} {e}")
        return True
    def compare(self, size, point):
        """Where the root differs, stored leaf hashes are believed if they lead to the promised one."""
        if point.root != self.tree.root():
            stored = [self.source.leaf_hash_at(i) for i in range(self.good, size)]
            proven, named = Tree(), []
            for hash_ in self.hashes[:self.good] + stored:
                proven.add(hash_)
            if proven.root() == point.root:
                named = [i for i, hash_ in enumerate(stored, self.good) if hash_ != self.hashes[i]]
                self.tree, self.hashes[self.good:] = proven, stored
            for leaf in named or [min(self.good, size - 1)]:
                self.find(leaf, "root", f"not what the checkpoint of {size} leaves covers")
        self.good = size
    def fold(self, index, e):
        late = self.last is not None and self.last - e["ms"] > ORDER_MS
        if late or self.now and e["ms"] - self.now > ORDER_MS:
            self.find(index, "time", f"{e['at']} is out of order, or after now")
        id_, a, kind = e.get("request_id"), self.authority, e["kind"]
        self.last, a.index = self.last if kind == "epoch_started" else e["ms"], index
        if id_ is None:
            a.apply(index, e)
            for label, wanted in self.blobs(e) if kind == "policy_loaded" else ():
                blob = self.source.blob(wanted)
                need(blob and digest(label, blob) == wanted, "blob", f"{wanted} is not beside the log")
                a.catalog.update({wanted: json.loads(blob)} if label == "scope" else {})
            return
        held, terms = self.texts.setdefault(id_, set()), e.get("terms", {})
        held |= {e.get("text"), e.get("reason"), terms.get("reason"), terms.get("task")}
        held |= set(terms.get("sealed_params", {}).values())
        if id_ in self.broken:
            return
        self.broken.add(id_)
        need(a.origin, "opened-first", "the first leaf of a log opens it")
        need((kind == "requested") == (id_ not in self.requests), "request-known", "unknown, or there already")
        if kind == "requested":
            self.requests[id_] = Request(e, a)
        else:
            need(kind != "issued" or e["lease_id"] not in self.leases, "lease-once")
            self.requests[id_].apply(e, a)
        self.leases |= {e["lease_id"]} if kind == "issued" else set()
        self.broken.discard(id_)
    def blobs(self, e):
        return [("policy-set", e["policy_set"]), *(("scope", wanted) for wanted in e["scopes"].values())]
    def end(self, points, whole):
        size, newest = self.tree.size, max(points, default=0)
        for point in (p for same in points.values() for p in same if p.origin != self.authority.origin):
            self.find(0, "origin", f"a checkpoint is of the log `{point.origin}`")
        if self.authority.vkey != self.vkey.text:
            self.find(0, "key", "the first leaf names another key than the log is verified with")
        if not whole:
            return
        carried = self.authority.epochs and not self.findings and self.authority.carried()
        if carried:
            tree = Tree()
            for hash_ in self.hashes[1:1 + carried]:
                tree.add(hash_)
            if tree.size != carried or tree.root() != unbase64(self.authority.epochs[0]["carried_root"]):
                self.find(0, "epoch-carried", "the leaves carried over are not those it names")
        if newest != size:
            rule = "truncated" if newest > size else "uncovered"
            self.find(min(size, newest), rule, f"the newest checkpoint covers {newest} leaves of {size}")
        for first, below, mine, served in self.source.tiles(self.hashes):
            wrong = [i for i, hash_ in enumerate(mine) if served[32 * i:32 * i + 32] != hash_]
            if wrong:
                self.find(first + wrong[0] * below, "tile", "a hash tile is not that of the leaves")
        for id_, name, salt, text in self.source.texts():
            if id_ in self.texts and digest("commitment", salt + text.encode()) not in self.texts[id_]:
                self.find(size, "commitment", f"the text `{name}` of `{id_}` is not what a leaf commits to")
    def rollback(self, kept, roots, points):
        count = len(self.findings)
        for point in kept:
            own = {p.root for p in points.get(point.size, [])} | {roots[point.size]}
            if point.size > self.tree.size:
                self.find(self.tree.size, "rollback", f"a kept checkpoint covers {point.size} leaves")
            elif point.size and (point.root not in own or point.origin != self.authority.origin):
                self.find(point.size - 1, "fork", "a kept checkpoint promises other leaves than these")
        return "found" if len(self.findings) > count else "none" if kept else "not checked"
    def older(self, notes):
        """Kept checkpoints of logs before this epoch: nothing that they show was lost undeclared."""
        count = len(self.findings)
        for note, why in notes:
            for leaf, epoch in enumerate(self.authority.epochs):
                try:
                    key = Vkey(epoch["old_vkey"])
                    point, named = Checkpoint(note, key), Checkpoint(epoch["old_checkpoint"], key)
                except ValueError:
                    continue
                told = {(named.size, named.root), (epoch["restored"], unbase64(epoch["restored_root"]))}
                if point.size > named.size:
                    self.find(leaf, "rollback", f"a kept checkpoint of the log before covers {point.size} leaves")
                elif point.size in dict(told) and (point.size, point.root) not in told:
                    self.find(leaf, "fork", "a kept checkpoint of the log before promises other leaves")
                break
            else:
                raise CannotVerify(f"a kept checkpoint cannot be used: {why}")
        return len(self.findings) > count


def verify(place, vkey=None, kept=(), now=None, witnesses=(), quorum=None):
    """The report, or CannotVerify."""
    keys = {key.name: key for key in map(log.WitnessKey, witnesses)}.values()
    quorum = len(keys) if quorum is None else quorum
    if keys and not 1 <= quorum <= len(keys):
        raise CannotVerify(f"a quorum of {quorum} is none of {len(keys)} witnesses")
    vkey = Vkey(vkey) if vkey else None
    return Verifier(log.opened(place), vkey, list(kept), now, list(keys), quorum).run()


def main():
    parse = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parse.add_argument("place")
    parse.add_argument("--vkey")
    parse.add_argument("--checkpoint", action="append", default=[])
    parse.add_argument("--witness", action="append", default=[])
    parse.add_argument("--witness-quorum", type=int)
    parse.add_argument("--json", action="store_true")
    options = parse.parse_args()
    try:
        kept = [note for file in options.checkpoint for note in log.split_notes(open(file, encoding="utf-8").read())]
        report = verify(options.place, options.vkey, kept, int(time.time() * 1000), options.witness,
                        options.witness_quorum)
    except (CannotVerify, OSError, UnicodeError) as e:
        print(json.dumps({"ok": False, "code": "unable", "detail": str(e)}) if options.json else e)
        return 2
    if options.json:
        print(json.dumps(report))
        return 0 if report["ok"] else 1
    print(f"{'proven' if report['ok'] else 'NOT as it should be'}: {report['leaves']} leaves, "
          f"{report['requests']} requests, rollback {report['rollback']}")
    for found in report["findings"]:
        print(f"  leaf {found['leaf']}  {found['rule']}: {found['detail']}")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
