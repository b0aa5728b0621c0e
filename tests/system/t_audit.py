"""`grantwright audit`: what is proven, what is found, what cannot be verified."""

import base64
import hashlib
import json
import sqlite3
import unittest

from harness import Demo, copy_store, leaf_columns, leaves, scratch

demo = doors = None
granted = approved = None
early = None


def setUpModule():
    """A demo with some history, and a backup of its store from the middle of it."""
    global demo, doors, granted, approved, early
    demo = Demo()
    doors = demo.doors
    granted = doors.ask("demo.read", {"dataset": doors.fresh()}).json["request_id"]
    early = copy_store(demo.store, scratch("early"))
    approved = doors.pending("demo.escalate")
    demo.bob.approve(approved)
    demo.carol.approve(approved)
    doors.get(approved)
    denied = doors.pending()
    demo.bob.deny(denied)
    doors.ask("demo.read", {"dataset": doors.fresh()})
    demo.keeps(len(leaves(early)) + 1)


def tearDownModule():
    demo.__exit__()


def verify(*arguments, **env):
    return demo.cli_json("audit", "verify", *arguments, env=env)


def store_args(path):
    return ["--store", f"sqlite://{path}"]


class Proven(unittest.TestCase):
    def test_a_living_store_is_proven(self):
        code, report = verify()
        self.assertEqual(code, 0, report)
        self.assertEqual((report["ok"], report["findings"]), (True, []))
        self.assertEqual(report["leaves"], len(demo.leaves()))
        self.assertNotEqual(report["rollback"], "not checked")

    def test_words_for_people(self):
        code, out, err = demo.cli("audit", "verify")
        self.assertEqual(code, 0, out + err)
        self.assertTrue(out.strip())

    def test_without_a_checkpoint_it_says_what_it_did_not_check(self):
        code, report = verify(GRANTWRIGHT_CHECKPOINT="")
        self.assertEqual((code, report["rollback"]), (0, "not checked"), report)

    def test_it_creates_and_changes_nothing_beside_the_store(self):
        copy = copy_store(demo.store, scratch("still"))
        before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in copy.parent.iterdir()}
        code, report = verify(*store_args(copy))
        self.assertEqual(code, 0, report)
        after = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in copy.parent.iterdir()}
        self.assertEqual(sorted(before), sorted(after))
        self.assertEqual(before, after)

    def test_it_may_run_many_times_while_the_broker_works(self):
        for _ in range(5):
            doors.ask("demo.read", {"dataset": doors.fresh()})
            code, report = verify()
            self.assertEqual(code, 0, report)


class Show(unittest.TestCase):
    def test_the_story_of_a_request(self):
        code, story = demo.cli_json("audit", "show", approved)
        self.assertEqual((code, story["request_id"]), (0, approved))
        kinds = [e["kind"] for e in story["events"]]
        self.assertEqual(kinds.count("voted"), 2)
        for kind in ("requested", "decided", "intended", "issued"):
            self.assertIn(kind, kinds)
        leaves = demo.leaves()
        for event in story["events"]:
            self.assertEqual(leaves[event["index"]]["kind"], event["kind"])
            self.assertTrue(event["at"])

    def test_an_unknown_request(self):
        code, out, err = demo.cli("audit", "show", "no-such-request")
        self.assertNotEqual(code, 0, out)


class Unverifiable(unittest.TestCase):
    def test_an_absent_store_is_2_and_stays_absent(self):
        path = scratch("absent").parent / "none.db"
        code, out, err = demo.cli("audit", "verify", *store_args(path), "--json")
        self.assertEqual(code, 2, out + err)
        self.assertEqual(list(path.parent.iterdir()), [])

    def test_an_empty_store_is_2(self):
        path = scratch("empty").parent / "empty.db"
        for content in (b"", b"not a database at all" * 100):
            path.write_bytes(content)
            code, out, err = demo.cli("audit", "verify", *store_args(path), "--json",
                                      env={"GRANTWRIGHT_CHECKPOINT": ""})
            self.assertEqual(code, 2, out + err)

    def test_a_wrong_or_broken_key_is_2(self):
        name, hint, key = demo.env["GRANTWRIGHT_LOG_VKEY"].split("+", 2)
        other = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        raw = b"\1" + hashlib.sha256(b"another").digest()
        hash_ = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4].hex()
        good_form = f"{name}+{hash_}+{base64.b64encode(raw).decode()}"
        for vkey in (good_form, "nonsense", f"{name}+{hint}+{other}"):
            code, out, err = demo.cli("audit", "verify", "--vkey", vkey, "--json")
            self.assertEqual(code, 2, (vkey, out, err))

    def test_an_absent_checkpoint_file_is_2(self):
        code, out, err = demo.cli("audit", "verify", "--checkpoint", "/no/such/file", "--json")
        self.assertEqual(code, 2, out + err)


class Found(unittest.TestCase):
    """Each change of a copy is found, and the first bad leaf is named."""

    def setUp(self):
        self.copy = copy_store(demo.store, scratch("tampered"))
        self.db = sqlite3.connect(self.copy)
        self.index, self.body = leaf_columns(self.db)
        self.rows = self.db.execute(
            f'SELECT "{self.index}", "{self.body}" FROM leaves ORDER BY 1').fetchall()

    def tearDown(self):
        self.db.close()

    def leaf(self, kind, request_id):
        for number, value in self.rows:
            leaf = json.loads(value)
            if leaf["kind"] == kind and leaf.get("request_id") == request_id:
                return number, leaf
        raise AssertionError(f"no {kind} of {request_id}")

    def write(self, number, leaf):
        text = json.dumps(leaf, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        self.db.execute(f'UPDATE leaves SET "{self.body}"=? WHERE "{self.index}"=?', (text, number))

    def found(self, first=None, *more):
        self.db.commit()
        code, report = verify(*store_args(self.copy), *more)
        self.assertEqual(code, 1, report)
        self.assertIs(report["ok"], False)
        self.assertTrue(report["findings"], report)
        for finding in report["findings"]:
            self.assertEqual(set(finding) & {"leaf", "rule", "detail"}, {"leaf", "rule", "detail"})
        if first is not None:
            self.assertEqual(report["findings"][0]["leaf"], first, report["findings"][:3])
        return report

    def test_the_untouched_copy_is_proven(self):
        self.db.commit()
        code, report = verify(*store_args(self.copy))
        self.assertEqual(code, 0, report)

    def test_one_edited_byte_in_each_of_many_leaves(self):
        step = max(1, len(self.rows) // 12)
        for number, value in self.rows[::step]:
            with self.subTest(f"leaf {number}"):
                value = bytes(value if isinstance(value, bytes) else value.encode())
                at = value.rindex(b'"') - 1
                changed = value[:at] + bytes([value[at] ^ 1]) + value[at + 1:]
                self.db.execute(f'UPDATE leaves SET "{self.body}"=? WHERE "{self.index}"=?',
                                (changed, number))
                try:
                    self.found(number)
                finally:
                    self.db.execute(f'UPDATE leaves SET "{self.body}"=? WHERE "{self.index}"=?',
                                    (value, number))
                    self.db.commit()

    def test_another_voter(self):
        number, leaf = self.leaf("voted", approved)
        leaf["human"] = "alice"
        self.write(number, leaf)
        self.found(number)

    def test_a_later_time(self):
        number, leaf = self.leaf("issued", granted)
        leaf["at"] = "2031-01-01T00:00:00Z"
        self.write(number, leaf)
        self.found(number)

    def test_a_deleted_leaf(self):
        number, _ = self.leaf("voted", approved)
        self.db.execute(f'DELETE FROM leaves WHERE "{self.index}"=?', (number,))
        self.found(number)

    def test_a_deleted_leaf_with_the_rest_moved_up(self):
        number, _ = self.leaf("voted", approved)
        self.db.execute(f'DELETE FROM leaves WHERE "{self.index}"=?', (number,))
        last = self.rows[-1][0]
        for later in range(number + 1, last + 1):
            self.db.execute(f'UPDATE leaves SET "{self.index}"=? WHERE "{self.index}"=?',
                            (later - 1, later))
        self.found()

    def test_the_last_leaf_deleted(self):
        last = self.rows[-1][0]
        self.db.execute(f'DELETE FROM leaves WHERE "{self.index}"=?', (last,))
        self.found()

    def test_an_inserted_leaf(self):
        last, value = self.rows[-1]
        names = [r[1] for r in self.db.execute("PRAGMA table_info(leaves)")]
        row = dict(zip(names, self.db.execute(
            f'SELECT * FROM leaves WHERE "{self.index}"=?', (last,)).fetchone()))
        row[self.index] = last + 1
        marks = ",".join("?" * len(names))
        self.db.execute(f"INSERT INTO leaves VALUES ({marks})", [row[n] for n in names])
        self.found()

    def test_two_swapped_leaves(self):
        one, two = self.rows[-2], self.rows[-1]
        for (number, _), (_, value) in ((one, two), (two, one)):
            self.db.execute(f'UPDATE leaves SET "{self.body}"=? WHERE "{self.index}"=?',
                            (value, number))
        self.found(one[0])

    def test_a_checkpoint_without_leaves(self):
        self.db.execute("DELETE FROM leaves")
        self.found()

    def test_a_rolled_back_store_by_the_sidecars_checkpoint(self):
        code, report = verify(*store_args(early))
        self.assertEqual(code, 1, report)
        self.assertEqual(report["rollback"], "found", report)
        # The same store without any outside memory proves only itself, and says so.
        code, report = verify(*store_args(early), GRANTWRIGHT_CHECKPOINT="")
        self.assertEqual((code, report["rollback"]), (0, "not checked"), report)

    def test_another_log_is_not_this_one(self):
        with Demo() as other:
            code, out, err = demo.cli("audit", "verify", "--json", *store_args(other.store))
            self.assertIn(code, (1, 2), out + err)
            code, report = other.cli_json("audit", "verify", "--checkpoint",
                                          demo.env["GRANTWRIGHT_CHECKPOINT"])
            self.assertIn(code, (1, 2), report)

    def test_policy_rewritten_after_the_fact(self):
        tables = {r[0] for r in self.db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        self.assertIn("blobs", tables)
        changed = 0
        for digest, body in self.db.execute("SELECT digest, body FROM blobs").fetchall():
            if b'@quorum("2")' in body or b'@quorum(\\"2\\")' in body:
                body = body.replace(b'("2")', b'("1")').replace(b'(\\"2\\")', b'(\\"1\\")')
                self.db.execute("UPDATE blobs SET body=? WHERE digest=?", (body, digest))
                changed += 1
        self.assertTrue(changed, "the policy's text is beside the log")
        self.db.commit()
        code, out, err = demo.cli("audit", "verify", "--json", *store_args(self.copy))
        self.assertIn(code, (1, 2), out + err)
