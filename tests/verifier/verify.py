#!/usr/bin/env python3
"""The second verifier: `verify.py PLACE [--vkey KEY] [--checkpoint FILE]… [--json]`.

PLACE is a folder of tiles, an evidence bundle or the address of a log. Exit code 0 proven, 1 findings, the first bad
leaf first, 2 could not be verified. It checks everything but the replay of policy: docs/log-format.md. Python 3, its
standard library and `cryptography`. To read it whole: log.py, leaf.py, rules.py, this.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from leaf import MALFORMED, MOST, Row, digest, read_leaf
from log import CannotVerify, Key, Tree, Wrong, need, opened, sha256, split_notes, sure
from rules import FOREVER, Authority, Request

MOST_FINDINGS = 20

class Verifier:
    """Reads a source (log.Tiles, or one like it) once, from its first leaf to its last."""
    def __init__(self, source, vkey=None, kept=(), now=None, witnesses=(), quorum=None, recovery=None):
        self.witnesses = {key.name: key for key in (Key(text, witness=True) for text in witnesses)}.values()
        self.quorum, most = len(self.witnesses) if quorum is None else quorum, len(self.witnesses)
        sure(not most or 1 <= self.quorum <= most, f"a quorum of {self.quorum} is none of {most} witnesses")
        self.source, self.kept, self.last, self.now = source, kept, -FOREVER, now or FOREVER
        self.given, self.recovery = vkey and Key(vkey), recovery and Key(recovery)
        self.authority, self.hashes, self.findings = Authority(), [], []
        self.requests, self.broken, self.texts = {}, set(), {}
    def find(self, leaf, rule, detail, unless=False):
        if not unless:
            self.findings.append({"leaf": max(leaf, 0), "rule": rule, "detail": str(detail)})
    def run(self):
        """The report, or CannotVerify."""
        leaves = self.source.leaves()
        body = next(leaves, None)
        try:
            # A recovery key vouches for the key that an epoch names.
            self.key = self.given if self.given and not self.recovery else Key(read_leaf(body).vkey)
        except (Wrong, AttributeError):
            raise CannotVerify("no key was given, and the first leaf names none") from None
        points, kept = ([self.key.checkpoint(note) for note in notes] for notes in (self.source.notes, self.kept))
        self.find(0, "signature", "a note beside the log is no checkpoint of its key", unless=None not in points)
        older = [note for note, point in zip(self.kept, kept) if not point]
        points, kept = [*filter(None, points)], [*filter(None, kept)]
        sure(points, "no checkpoint of this log is signed by the key")
        witnessed, index = self.witnessed((*kept, *points)), 0
        while body is not None and len(self.findings) < MOST_FINDINGS:
            self.hashes.append(sha256(b"\0", body))
            try:
                self.fold(index, read_leaf(body))
            except Wrong as e:
                self.find(index, *e.args)
            except MALFORMED as e:
                self.find(index, "canonical", f"not of the form of its kind: {type(e).__name__} {e}")
            body, index = next(leaves, None), index + 1
        self.tree = Tree(self.hashes)
        self.end(points)
        before = len(self.findings)
        self.promised(kept, "rollback", "fork")
        self.older(older)
        found = "found" if len(self.findings) > before else "none" if self.kept else "not checked"
        return {"ok": not self.findings, "leaves": index, "requests": len(self.requests), "rollback": found,
                "witnessed": witnessed, "findings": sorted(self.findings, key=lambda one: one["leaf"])[:MOST_FINDINGS],
                "not_checked": ["that the recorded verdicts are what the policies give"]}
    def fold(self, index, e):
        a, id_, terms = self.authority, e.request_id, e.terms or Row()
        if max(self.last - e.ms, e.ms - self.now) > MOST.out_of_order_ms:
            self.find(index, "time", f"{e.at} is out of order, or after now")
        a.index, self.last = index, self.last if e.kind == "epoch_started" else e.ms
        if id_ is None:
            a.apply(e)
            return self.learn(e) if e.kind == "policy_loaded" else None
        self.texts.setdefault(id_, set()).update((terms.sealed_params or {}).values(), (
            e.text, e.reason, terms.reason, terms.task))
        if id_ in self.broken:
            return None
        # Nothing more is said of a request that broke a rule.
        self.broken.add(id_)
        need(a.log, "opened-first", "the first leaf of a log opens it")
        known = self.requests.get(id_)
        need((e.kind == "requested") == (known is None), "request-known", "it breaks the rule `request-known`")
        self.requests[id_] = known.apply(e, a) if known else Request(e, a)
        self.broken.discard(id_)
    def learn(self, e):
        """Policies and scopes lie beside the log, and prove themselves by their digests."""
        for label, wanted in [("policy-set", e.policy_set), *(("scope", scope) for scope in e.scopes.values())]:
            blob = self.source.blob(wanted)
            need(blob and digest(label, blob) == wanted, "blob", f"{wanted} is not beside the log")
            if label == "scope":
                self.authority.catalog[wanted] = json.loads(blob, object_hook=Row)
    def promised(self, points, shorter, other):
        """Whether the leaves are those that checkpoints promise."""
        for point in points:
            if point.size > len(self.hashes):
                self.find(len(self.hashes), shorter, f"a checkpoint covers {point.size} leaves")
            elif point.root != self.tree.root(point.size):
                self.find(point.size - 1, other, f"the first {point.size} leaves are not its")
            elif point.origin != (self.authority.log or point).origin:
                self.find(0, "origin", f"a checkpoint is of the log `{point.origin}`")
    def witnessed(self, points):
        """The size of the largest checkpoint that enough of the given witnesses cosigned."""
        found = []
        for point in points if self.witnesses else ():
            try:
                cosigned = sum(bool(key.signed(point.note)) for key in self.witnesses)
                found += [point.size] if cosigned >= self.quorum else []
            except ValueError as e:
                self.find(point.size - 1, "witness", e)
        self.find(0, "witness", f"no checkpoint is cosigned by {self.quorum}", unless=found or not self.witnesses)
        return max(found, default=None)
    def end(self, points):
        """What is seen once all leaves are read."""
        a, epochs, hashes = self.authority, self.authority.epochs, self.hashes
        self.find(0, "key", "the first leaf names another key", unless=not a.log or a.log.vkey == self.key.text)
        if len(self.findings) >= MOST_FINDINGS:
            return
        if epochs and not self.findings and (
                len(hashes) <= a.carried or Tree(hashes[1:1 + a.carried]).root(a.carried) != a.log.carried_root):
            self.find(0, "epoch-carried", "the leaves carried over are not those it names")
        given, signers = (self.given or self.key).text, zip(a.recovery[len(epochs) > 0:], [*epochs, Row()])
        signers = [key for key, e in signers if given in (self.key.text, e.old_vkey)]
        if self.recovery and self.recovery.text not in signers:
            self.find(0, "recovery-key", "the log does not rest on the recovery key that was given")
        self.promised(points, "truncated", "root")
        newest = max(point.size for point in points)
        self.find(newest, "uncovered", f"the newest checkpoint covers {newest} leaves", unless=newest >= len(hashes))
        for leaf in self.source.tiles(self.tree.levels):
            self.find(leaf, "tile", "a hash tile is not that of the leaves")
        try:
            for text in self.source.texts():
                said = digest("commitment", bytes.fromhex(text["salt"]) + text["text"].encode())
                if said not in self.texts.get(text["request_id"], {said}):
                    self.find(len(hashes), "commitment", f"the text `{text['name']}` is not committed to")
        except MALFORMED as e:
            raise CannotVerify(f"the texts beside the log are not of their form: {e}") from None
    def older(self, notes):
        """Kept checkpoints of logs before this epoch: nothing that they show is undeclared."""
        epochs = [(leaf, e, Key(e.old_vkey)) for leaf, e in enumerate(self.authority.epochs if notes else ())]
        for note in notes:
            shown = [(leaf, e, key.checkpoint(note), key.checkpoint(e.old_checkpoint)) for leaf, e, key in epochs]
            leaf, e, point, last = next((row for row in shown if all(row[2:])), (None,) * 4)
            sure(point, "a kept checkpoint is of no log that the key, or an epoch, vouches for")
            roots = {last.size: last.root, e.restored: e.restored_root}
            if point.size > last.size:
                self.find(leaf, "rollback", f"a kept checkpoint covers {point.size} leaves")
            elif roots.get(point.size, point.root) != point.root or point.origin != e.old_origin:
                self.find(leaf, "fork", "a kept checkpoint of the log before promises other leaves")

def main(open_place=opened):
    parse, many = argparse.ArgumentParser(description=__doc__.split("\n")[0]), {"action": "append", "default": []}
    for option, more in {"place": {}, "--vkey": {}, "--recovery-key": {}, "--checkpoint": many, "--witness": many,
                         "--witness-quorum": {"type": int}, "--json": {"action": "store_true"}}.items():
        parse.add_argument(option, **more)
    options = parse.parse_args()
    try:
        kept = [note for file in options.checkpoint for note in split_notes(Path(file).read_text("utf-8")) or [""]]
        recovery = options.recovery_key and Path(options.recovery_key).read_text("utf-8")
        report = Verifier(open_place(options.place), options.vkey, kept, int(time.time() * 1000), options.witness,
                          options.witness_quorum, recovery).run()
    except (CannotVerify, OSError, UnicodeError) as e:
        report = {"ok": False, "code": "unable", "detail": str(e)}
    print(json.dumps(report, indent=None if options.json else 1))
    return 2 if "code" in report else 0 if report["ok"] else 1

if __name__ == "__main__":
    sys.exit(main())
