#!/usr/bin/env python3
"""The second verifier: `verify.py PLACE [--vkey KEY] [--checkpoint FILE]… [--json]`.

PLACE is a folder of tiles, an evidence bundle or the address of a log. Exit code 0 proven, 1
findings, the first bad leaf first, 2 could not be verified. It checks everything but the replay of
policy: docs/log-format.md. Python 3, its standard library and `cryptography`.
"""

import argparse
import json
import sys
import time

from leaf import Row, digest, read_leaf
from life import Request
from log import (CannotVerify, Checkpoint, Key, Tree, Wrong, need, opened, sha256, split_notes,
                 unbase64)
from rules import Authority

MOST, ORDER_MS = 20, 300_000


class Verifier:
    """Reads a source (log.Tiles, or one like it) once, from its first leaf to its last."""
    def __init__(self, source, vkey, kept, now, witnesses, quorum, recovery):
        self.source, self.key, self.kept, self.now = source, vkey, kept, now
        self.witnesses, self.quorum, self.recovery = witnesses, quorum, recovery
        self.authority, self.tree, self.hashes, self.findings = Authority(), Tree(), [], []
        self.requests, self.leases, self.broken, self.texts, self.last = {}, set(), set(), {}, None
    def find(self, leaf, rule, detail=""):
        self.findings.append({"leaf": max(leaf, 0), "rule": rule, "detail": str(detail)})
    def points(self, notes):
        """The checkpoints that the key signed; and the other notes, each with what is wrong."""
        good, other = [], []
        for note in notes:
            try:
                good.append(Checkpoint(note, self.key))
            except ValueError as e:
                other.append((note, e))
        return good, other
    def run(self):
        leaves = self.source.leaves()
        body = next(leaves, None)
        given, unknown = self.key, CannotVerify("no key was given, and the first leaf names none")
        try:
            # A recovery key vouches for the key that an epoch names.
            self.key = given if given and not self.recovery else Key(read_leaf(body).vkey)
        except (Wrong, AttributeError):
            raise unknown from None
        points, wrong = self.points(self.source.notes)
        kept, older = self.points(self.kept)
        if not points:
            raise CannotVerify("no checkpoint of this log is signed by the key")
        for _, fault in wrong:
            self.find(0, "signature", fault)
        witnessed = self.witnessed((*kept, *points))
        roots = {point.size: sha256() for point in (*kept, *points)}
        while body is not None and len(self.findings) < MOST:
            self.hashes.append(sha256(b"\0", body))
            self.tree.add(self.hashes[-1])
            if self.tree.size in roots:
                roots[self.tree.size] = self.tree.root()
            self.leaf(self.tree.size - 1, body)
            body = next(leaves, None)
        self.end(points, roots, given)
        before = len(self.findings)
        self.promised(kept, roots, "rollback", "fork")
        self.older(older)
        found = "found" if len(self.findings) > before else "none" if self.kept else "not checked"
        findings = sorted(self.findings, key=lambda found: found["leaf"])[:MOST]
        return {"ok": not findings, "leaves": self.tree.size, "requests": len(self.requests),
                "rollback": found, "findings": findings, "witnessed": witnessed,
                "not_checked": ["that the recorded verdicts are what the policies give"]}
    def promised(self, points, roots, shorter, other):
        """Whether the leaves are those that checkpoints promise."""
        for point in points:
            if point.size > self.tree.size:
                self.find(self.tree.size, shorter, f"a checkpoint covers {point.size} leaves")
            elif point.root != roots[point.size]:
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
        if self.witnesses and not found:
            self.find(0, "witness", f"no checkpoint is cosigned by {self.quorum} of the witnesses")
        return max(found, default=None)
    def leaf(self, index, body):
        try:
            self.fold(index, read_leaf(body))
        except Wrong as e:
            self.find(index, e.rule, e)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
            self.find(index, "canonical", f"not of the form of its kind: {type(e).__name__} {e}")
    def fold(self, index, e):
        a, id_, terms = self.authority, e.request_id, e.terms or Row()
        late = self.last is not None and self.last - e.ms > ORDER_MS
        if late or self.now and e.ms - self.now > ORDER_MS:
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
        need((e.kind == "requested") == (id_ not in self.requests), "request-known")
        need(e.kind != "issued" or e.lease_id not in self.leases, "lease-once")
        if e.kind == "requested":
            self.requests[id_] = Request(e, a)
        else:
            self.requests[id_].apply(e, a)
        self.leases.update([e.lease_id] if e.kind == "issued" else [])
        self.broken.discard(id_)
    def learn(self, e):
        """Policies and scopes lie beside the log, and prove themselves by their digests."""
        named = [("policy-set", e.policy_set), *(("scope", scope) for scope in e.scopes.values())]
        for label, wanted in named:
            blob = self.source.blob(wanted)
            need(blob and digest(label, blob) == wanted, "blob", f"{wanted} is not beside the log")
            if label == "scope":
                self.authority.catalog[wanted] = json.loads(blob, object_hook=Row)
    def end(self, points, roots, given):
        if self.authority.log and self.authority.log.vkey != self.key.text:
            self.find(0, "key", "the first leaf names another key than the log is verified with")
        if len(self.findings) >= MOST:
            return
        epochs, size = self.authority.epochs, self.tree.size
        if epochs and not self.findings:
            carried, named = Tree(self.hashes[1:1 + epochs[0].carried]), epochs[0].carried_root
            if (carried.size, carried.root()) != (epochs[0].carried, unbase64(named)):
                self.find(0, "epoch-carried", "the leaves carried over are not those it names")
        signers = self.authority.recovery
        if given and given.text != self.key.text:
            signers = [key for key, e in zip(signers, epochs) if e.old_vkey == given.text]
        if self.recovery and self.recovery.text not in signers:
            self.find(0, "recovery-key", "the log does not rest on the recovery key that was given")
        self.promised(points, roots, "truncated", "root")
        newest = max(point.size for point in points)
        if newest < size:
            self.find(newest, "uncovered", f"the newest checkpoint covers {newest} leaves")
        for first, below, mine, served in self.source.tiles(self.hashes):
            wrong = [i for i, hash_ in enumerate(mine) if served[32 * i:32 * i + 32] != hash_]
            if wrong:
                self.find(first + wrong[0] * below, "tile", "a hash tile is not that of the leaves")
        try:
            for text in self.source.texts():
                said = digest("commitment", bytes.fromhex(text["salt"]) + text["text"].encode())
                if said not in self.texts.get(text["request_id"], {said}):
                    self.find(size, "commitment", f"the text `{text['name']}` is not committed to")
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as e:
            raise CannotVerify(f"the texts beside the log are not of their form: {e}") from None
    def older(self, notes):
        """Kept checkpoints of logs before this epoch: nothing that they show is undeclared."""
        epochs = list(enumerate(self.authority.epochs))
        for note, why in notes:
            for leaf, epoch in epochs:
                try:
                    key = Key(epoch.old_vkey)
                    point, named = Checkpoint(note, key), Checkpoint(epoch.old_checkpoint, key)
                    restored = (epoch.restored, unbase64(epoch.restored_root))
                    break
                except ValueError:
                    continue
            else:
                raise CannotVerify(f"a kept checkpoint cannot be used: {why}")
            told = [root for n, root in ((named.size, named.root), restored) if n == point.size]
            if point.size > named.size:
                self.find(leaf, "rollback", f"a kept checkpoint covers {point.size} leaves")
            elif told and point.root not in told or point.origin != epoch.old_origin:
                self.find(leaf, "fork", "a kept checkpoint of the log before promises other leaves")


def verify(source, vkey=None, kept=(), now=None, witnesses=(), quorum=None, recovery=None):
    """The report, or CannotVerify."""
    keys = list({key.name: key for key in (Key(text, witness=True) for text in witnesses)}.values())
    quorum = len(keys) if quorum is None else quorum
    if keys and not 1 <= quorum <= len(keys):
        raise CannotVerify(f"a quorum of {quorum} is none of {len(keys)} witnesses")
    vkey, recovery = vkey and Key(vkey), recovery and Key(recovery)
    return Verifier(source, vkey, kept, now, keys, quorum, recovery).run()


def main(open_place=opened):
    parse = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parse.add_argument("place")
    for option in ("--vkey", "--recovery-key"):
        parse.add_argument(option)
    for option in ("--checkpoint", "--witness"):
        parse.add_argument(option, action="append", default=[])
    parse.add_argument("--witness-quorum", type=int)
    parse.add_argument("--json", action="store_true")
    options, kept = parse.parse_args(), []
    try:
        for file in options.checkpoint:
            kept += split_notes(open(file, encoding="utf-8").read()) or [""]
        recovery = options.recovery_key and open(options.recovery_key, encoding="utf-8").read()
        report = verify(open_place(options.place), options.vkey, kept, int(time.time() * 1000),
                        options.witness, options.witness_quorum, recovery)
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
