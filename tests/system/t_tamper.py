"""The tamper campaign: thousands of changes of a real log, by class. Each detectable class is detected by
both verifiers, each undetectable one is asserted undetected. TAMPER=N sets how many changes (10,000)."""

import copy
import json
import os
import random
import unittest
from pathlib import Path

import evidence
from evidence import Log, canonical, digest_of
from harness import Demo, scratch

HOW_MANY = int(os.environ.get("TAMPER", "10000"))
demo = log = first = chance = None
ask = {}
early = None


def setUpModule():
    global demo, log, first, chance, early
    if not evidence.second():
        raise unittest.SkipTest("the second verifier needs `cryptography`")
    demo = Demo()
    vkey, skey = demo.env["GRANTWRIGHT_LOG_VKEY"], (Path(demo.dir) / "keys/log.skey").read_text()
    ask.update(evidence.rich_past(demo))
    place = scratch("log")
    code, out, err = demo.cli("audit", "tiles", "--to", place)
    assert code == 0, out + err
    log = Log.of_folder(place, vkey, skey)
    assert log.size < 250, log.size
    first, chance = evidence.First(), random.Random(20261121)


def tearDownModule():
    if demo:
        first.end()
        demo.__exit__()


class Campaign(evidence.Judged, unittest.TestCase):
    """Shares are of HOW_MANY; counts are printed, and every verdict is asserted."""

    def campaign(self, name, share, change, ours=(1, 2), theirs=(1, 2), kept=()):
        super().campaign(first, name, max(5, HOW_MANY * share // 100), change, ours, theirs, kept)

    # Without the log's key: everything is detected.

    def test_01_bits_of_leaves(self):
        def change(_):
            leaves = log.leaves()
            at = chance.randrange(len(leaves))
            body = bytearray(leaves[at])
            body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
            leaves[at] = bytes(body)
            return self.unsigned(leaves, tiles=chance.random() < .5)
        self.campaign("a bit of a leaf", 25, change)

    def unsigned(self, leaves, tiles=False):
        """With the tiles as they were, or written anew to fit."""
        out = log.tiles_of(leaves)
        if not tiles:
            out.files.update({p: b for p, b in log.files.items() if p.startswith("tile/0")})
        return out

    def test_02_swapped_leaves(self):
        def change(_):
            leaves = log.leaves()
            a, b = chance.sample(range(len(leaves)), 2)
            leaves[a], leaves[b] = leaves[b], leaves[a]
            return self.unsigned(leaves)
        self.campaign("two leaves swapped", 10, change)

    def test_03_deleted_inserted_or_repeated_leaves(self):
        def change(number):
            leaves = log.leaves()
            at = chance.randrange(len(leaves))
            leaves[at:at + 1] = ([], [leaves[at], leaves[at]],
                                 [leaves[at], chance.choice(leaves)])[number % 3]
            return self.unsigned(leaves)
        self.campaign("a leaf deleted, repeated or inserted", 10, change)

    def test_04_bits_of_tiles_and_checkpoints(self):
        paths = sorted(p for p in log.files if p.startswith("tile/0") or p == "checkpoint")

        def change(number):
            spoilt = log.copy()
            path = paths[number % len(paths)]
            body = bytearray(spoilt.files[path])
            body[chance.randrange(len(body))] ^= 1 << chance.randrange(7)
            spoilt.files[path] = bytes(body)
            return spoilt
        self.campaign("a bit of a hash tile or checkpoint", 10, change)

    def test_05_bits_of_policies_and_scopes(self):
        paths = sorted(p for p in log.files if p.startswith("blob/"))

        def change(_):
            spoilt, path = log.copy(), chance.choice(paths)
            body = bytearray(spoilt.files[path])
            body[chance.randrange(len(body))] ^= 1 << chance.randrange(7)
            spoilt.files[path] = bytes(body)
            return spoilt
        self.campaign("a bit of a policy or scope", 5, change)

    def test_06_truncated_files(self):
        paths = sorted(p for p in log.files if p.startswith(("tile/", "blob/")) or p == "checkpoint")

        def change(_):
            spoilt, path = log.copy(), chance.choice(paths)
            spoilt.files[path] = spoilt.files[path][:chance.randrange(len(spoilt.files[path]))]
            return spoilt
        self.campaign("a file cut short", 5, change)

    def test_07_signed_by_another_key(self):
        name = log.vkey.split("+")[0]

        def change(_):
            return log.signed(log.leaves()[:chance.randrange(2, log.size)], evidence.new_skey(name)[0])
        self.campaign("signed anew by another key", 3, change)

    def test_08_mixed_with_another_log(self):
        with Demo() as other:
            place = scratch("other")
            self.assertEqual(other.cli("audit", "tiles", "--to", place)[0], 0)
            foreign = Log.of_folder(place, other.env["GRANTWRIGHT_LOG_VKEY"])

        def change(_):
            spoilt = log.copy()
            for path in chance.sample(sorted(foreign.files), chance.randrange(1, len(foreign.files))):
                spoilt.files[path] = foreign.files[path]
            # Files of the same name and bytes would be no change.
            spoilt.files["checkpoint"] = foreign.files["checkpoint"]
            return spoilt
        self.campaign("mixed with another log", 3, change)

    # With the log's key: what the rules forbid, and what kept checkpoints contradict, is detected.

    def edit(self, wanted, change):
        """Changes one event of a kind, signs the log anew."""
        leaves = log.leaves()
        places = [i for i, leaf in enumerate(leaves) if wanted(json.loads(leaf))]
        at = chance.choice(places)
        event = json.loads(leaves[at])
        made = change(event, leaves, at)
        if made is None:
            del leaves[at]
        else:
            leaves[at] = canonical(made)
        return log.signed(leaves)

    def test_10_rules_broken_by_the_holder_of_the_key(self):
        def of(kind):
            return lambda e: e["kind"] == kind

        def field(**fields):
            return lambda e, *_: {**e, **fields}

        def terms(**fields):
            def change(e, *_):
                new = {**e["terms"], **fields}
                return {**e, "terms": new, "digest": digest_of("request", new)}
            return change

        def approvals(e):
            return e["kind"] == "voted" and e["decision"] == "approve"
        classes = [
            ("an approval removed", approvals, lambda *_: None),
            ("an approval by the agent's owner", approvals, field(human="alice")),
            ("an approval by somebody of no group", approvals, field(human="dave")),
            ("an approval by nobody known", approvals, field(human="mallory")),
            ("an approval of another digest", approvals, field(digest="0" * 64)),
            ("a vote turned into a deny", approvals, field(decision="deny")),
            ("the intent removed", of("intended"), lambda *_: None),
            # One that policy repeated at the collection could be left out unseen.
            ("the verdict removed", lambda e: e["kind"] == "decided" and not e.get("again"),
             lambda *_: None),
            ("the ask removed", of("requested"), lambda *_: None),
            ("another's approval in the intent", of("intended"), field(approvers=["alice", "bob"])),
            ("another minter", of("intended"), field(minter="aws")),
            ("a longer credential", of("issued"), field(expires_at="2091-01-01T00:00:00Z")),
            ("another lease ended", of("revoked"), field(lease_id="l-other")),
            ("terms that D does not cover", of("requested"),
             lambda e, *_: {**e, "terms": {**e["terms"], "ttl_s": 60}}),
            ("a whole other ask", of("requested"), terms(workload="root")),
            ("another log's terms", of("requested"), terms(origin="other.example/log")),
            ("a group enlarged", of("group_set"),
             lambda e, *_: {**e, "members": sorted([*e["members"], "mallory"])}),
            ("an operator who is none", of("policy_loaded"), field(by="bob")),
            ("a policy that is not there", of("policy_loaded"), field(policy_set="0" * 64)),
            ("an unknown kind", of("issued"), field(kind="granted")),
            ("an unknown field", of("issued"), field(approved=True)),
            ("attributes that nobody registered", of("decided"),
             lambda e, *_: {**e, "attributes": {**e["attributes"], "team": "root"}}),
        ]

        def change(number):
            _, wanted, how = classes[number % len(classes)]
            return self.edit(wanted, how)
        self.campaign(f"{len(classes)} kinds of forbidden transitions", 10, change, (1,), (1,))

    def test_11_votes_that_a_passkey_should_have_signed(self):
        def signed(e):
            return e["kind"] == "voted" and "proof" in e

        def change(number):
            def how(e, *_):
                proof = dict(e["proof"])
                if number % 4 == 0:
                    return {key: value for key, value in e.items() if key != "proof"}
                if number % 4 == 1:
                    return {**e, "human": "carol"}
                part = ("signature", "nonce", "client_data", "authenticator_data")[number // 4 % 4]
                at = chance.randrange(len(proof[part]) - 2)
                letter = chance.choice([c for c in "0123456789abcdef" if c != proof[part][at]])
                proof[part] = proof[part][:at] + letter + proof[part][at + 1:]
                return {**e, "proof": proof}
            return self.edit(signed, how)
        self.campaign("a passkey's vote forged with the log's key", 5, change, (1,), (1,))

    def test_12_forks_and_rollbacks_that_a_kept_checkpoint_contradicts(self):
        kept = log.files["checkpoint"].decode()

        def change(number):
            leaves = log.leaves()
            if number % 2:
                return log.signed(leaves[:chance.randrange(1, len(leaves))])
            at = chance.randrange(1, len(leaves))
            event = json.loads(leaves[at])
            leaves[at] = canonical({**event, "at": "2026-11-21T00:00:00.001Z"})
            return log.signed(leaves)
        self.campaign("a fork or rollback, with a kept checkpoint", 6, change, kept=[kept])

    def test_13_verdicts_that_policy_does_not_give(self):
        """The first verifier replays policy; the second says that it does not."""
        def asked(e):
            return e["kind"] == "decided" and e["verdict"]["verdict"] == "ask"

        def change(_):
            def how(e, *_):
                policies = e["verdict"]["policies"] + [f"zz{chance.randrange(99)}"]
                return {**e, "verdict": {**e["verdict"], "policies": policies}}
            return self.edit(asked, how)
        self.campaign("a verdict that policy does not give", 2, change, (1,), (0,))

    # Undetectable, and therefore asserted undetected: this is what witnesses and passkeys are for.

    def test_20_a_chat_vote_forged_with_the_logs_key(self):
        """Whoever holds the log's key can write that carol, not bob, approved."""
        def change(_):
            leaves = log.leaves()
            events = log.events()
            at = next(i for i, e in enumerate(events)
                      if e["kind"] == "voted" and e.get("request_id") == ask["one"])
            leaves[at] = canonical({**events[at], "human": "carol"})
            for i, e in enumerate(events):
                if e["kind"] == "intended" and e["request_id"] == ask["one"]:
                    leaves[i] = canonical({**e, "approvers": ["carol"]})
            return log.signed(leaves)
        self.campaign("UNDETECTABLE: a chat vote forged with the log's key", 2, change, (0,), (0,))

    def test_21_a_rollback_that_no_kept_checkpoint_contradicts(self):
        def change(_):
            leaves = log.leaves()
            return log.signed(leaves[:chance.randrange(20, len(leaves))])
        self.campaign("UNDETECTABLE: a rollback, nothing kept", 2, change, (0,), (0,))

    def test_22_another_history_after_the_last_kept_checkpoint(self):
        """A request that never was, dropped from the end, where only later checkpoints would show it."""
        leaves = log.leaves()
        half = log.signed(leaves[:len(leaves) // 2]).files["checkpoint"].decode()

        def change(_):
            return log.signed(leaves[:chance.randrange(len(leaves) // 2, len(leaves))])
        self.campaign("UNDETECTABLE: a rollback to after the last kept checkpoint", 2, change, (0,), (0,),
                      kept=[half])

    def test_23_what_a_backend_minted(self):
        """The facts of a credential are as the broker recorded them."""
        def change(_):
            leaves, events = log.leaves(), log.events()
            at = chance.choice([i for i, e in enumerate(events) if e["kind"] == "issued"])
            event = copy.deepcopy(events[at])
            event["facts"]["jti"] = f"other-{chance.randrange(999)}"
            leaves[at] = canonical(event)
            return log.signed(leaves)
        self.campaign("UNDETECTABLE: other facts of a credential, with the log's key", 2, change, (0,), (0,))
