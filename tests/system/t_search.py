"""Searching with proof, erasing what lies beside a request, and backups: the log verifies through all of them."""

import json
import os
import sqlite3
import threading
import unittest

from harness import Demo, scratch

demo = doors = None
denied = approved = None
WORDS = "marmalade for the quarterly report"


def setUpModule():
    global demo, doors, denied, approved
    demo = Demo()
    doors = demo.doors
    approved = doors.pending("demo.export", params={"dataset": "orchard", "rows": 7}, reason=WORDS)
    demo.bob.approve(approved)
    doors.get(approved)
    denied = doors.pending("demo.export", params={"dataset": "cellar", "rows": 8}, reason="other words")
    demo.carol.deny(denied)


def tearDownModule():
    demo.__exit__()


def operator(*arguments):
    """As the demo's operator: the fifth person."""
    file = demo.dir / "operator.token"
    return demo.cli_json(*arguments, env={"GRANTWRIGHT_HUMAN_TOKEN_FILE": str(file)})


def found(**terms):
    arguments = [a for name, value in terms.items() for a in (f"--{name}", str(value))]
    code, told = demo.cli_json("audit", "search", *arguments, person=demo.dave)
    assert code == 0, told
    return [row["request_id"] for row in told["requests"]]


class Search(unittest.TestCase):
    def test_by_each_thing_that_is_known(self):
        self.assertEqual(found(resource="orchard"), [approved])
        self.assertEqual(found(text="MARMALADE"), [approved])
        self.assertIn(approved, found(human="bob"))
        self.assertNotIn(approved, found(human="carol"))
        self.assertEqual(found(outcome="denied", resource="cellar"), [denied])
        self.assertIn(denied, found(scope="demo.export", agent="demo-agent"))
        self.assertEqual(found(scope="demo.export", resource="nothing"), [])
        self.assertEqual(found(until="2020-01-01"), [])
        self.assertEqual(len(found(limit=1)), 1)

    def test_every_answer_can_print_its_proof(self):
        code, told = demo.cli_json("audit", "search", "--resource", "orchard", "--proof", person=demo.dave)
        self.assertEqual(code, 0, told)
        receipts = told["requests"][0]["receipts"]
        self.assertEqual(len(receipts), len(demo.events(approved)))
        for n, receipt in enumerate(receipts):
            file = scratch("receipt")
            file.write_text(json.dumps(receipt))
            code, proven = demo.cli_json("audit", "receipt", file)
            self.assertEqual((code, proven["leaf"]["request_id"]), (0, approved), proven)

    def test_it_is_for_those_who_watch(self):
        code, told = demo.cli_json("audit", "search", person=demo.bob)
        self.assertEqual((code, told["code"]), (1, "not_security"), told)
        reply = demo.dave.call("GET", "/api/v1/search?colour=red")
        self.assertEqual((reply.status, reply.code), (400, "malformed"), reply)


class Erase(unittest.TestCase):
    def test_what_was_said_is_gone_the_erasure_is_a_leaf_and_the_log_verifies(self):
        waiting = doors.pending(reason="still open")
        code, told = operator("erase", waiting)
        self.assertEqual((code, told["code"]), (1, "not_over"), told)
        doors.cancel(waiting)
        reply = demo.bob.call("POST", f"/api/v1/requests/{denied}/erase", {})
        self.assertEqual(reply.status, 403, reply)
        code, told = operator("erase", denied)
        self.assertEqual((code, "reason" in told["erased"]), (0, True), told)
        leaf = [e for e in demo.leaves() if e["kind"] == "erased"][-1]
        self.assertEqual((leaf["of"], leaf["texts"]), (denied, told["erased"]))
        rows = sqlite3.connect(f"file:{demo.store}?mode=ro", uri=True).execute(
            "SELECT count(*) FROM texts WHERE request_id = ?", (denied,)).fetchone()
        self.assertEqual(rows, (0,))
        self.assertEqual(found(text="other words"), [])
        code, report = demo.cli_json("audit", "verify")
        self.assertEqual((code, report["findings"]), (0, []), report)
        code, again = operator("erase", denied)
        self.assertEqual((code, again["erased"]), (0, []), again)
        code, story = demo.cli_json("audit", "show", denied)
        self.assertNotIn("other words", json.dumps(story))


class Backup(unittest.TestCase):
    def test_a_copy_of_a_working_store_is_whole_private_and_proven(self):
        file = scratch("backup")
        code, told = demo.cli_json("backup", "--to", file)
        self.assertEqual((code, told["ok"], told["findings"]), (0, True, []), told)
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)
        self.assertEqual(sorted(p.name for p in file.parent.iterdir()), [file.name])
        self.assertGreaterEqual(told["leaves"], len(demo.events(approved)))
        code, report = demo.cli_json("audit", "verify", "--store", f"sqlite://{file}",
                                     env={"GRANTWRIGHT_CHECKPOINT": ""})
        self.assertEqual((code, report["leaves"]), (0, told["leaves"]), report)
        code, out, err = demo.cli("backup", "--to", file)
        self.assertEqual(code, 2, out + err)

    def test_what_is_written_meanwhile_spoils_no_copy(self):
        over, asked = threading.Event(), []

        def write():
            while not over.wait(0.01):
                asked.append(doors.ask("demo.read", {"dataset": doors.fresh()}).status)
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(3):
                before, file = len(demo.leaves()), scratch("backup")
                code, told = demo.cli_json("backup", "--to", file)
                self.assertEqual((code, told["ok"], told["findings"]), (0, True, []), told)
                self.assertGreaterEqual(told["leaves"], before)
        finally:
            over.set()
            writer.join()
        self.assertEqual(set(asked), {200})

    def test_a_backup_holds_no_key(self):
        file = scratch("backup")
        self.assertEqual(demo.cli_json("backup", "--to", file)[0], 0)
        held = file.read_bytes()
        for key in demo.dir.rglob("*.key"):
            text = key.read_bytes().strip()
            self.assertNotIn(text, held, key)
        self.assertGreater(os.path.getsize(file), 4096)
