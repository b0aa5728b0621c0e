"""`grantwright report`: what an auditor gets, and how each line of it is proven with only the bundle."""

import csv
import io
import json
import subprocess
import unittest

from harness import ROOT, Demo, scratch
from peers import node

demo = doors = None
KINDS = (["soc2"], ["fedramp"], ["access-review"], ["agent", "demo-agent"], ["reviewer", "bob"])


def setUpModule():
    global demo, doors
    demo = Demo()
    doors = demo.doors
    for _ in range(6):
        doors.ask("demo.read", {"dataset": doors.fresh()})
    for _ in range(3):
        request = doors.pending()
        demo.bob.approve(request)
        doors.get(request)
    both = doors.pending("demo.escalate")
    demo.bob.approve(both)
    demo.carol.approve(both)
    doors.get(both)
    demo.carol.deny(doors.pending())
    doors.ask("demo.drop-tables", {}, reason="the words of an agent")


def tearDownModule():
    demo.__exit__()


def report(*arguments):
    code, out, err = demo.cli("report", *arguments, "--format", "json")
    assert code in (0, 1), out + err
    return code, json.loads(out)


class Reports(unittest.TestCase):
    def test_populations_are_what_the_log_holds(self):
        code, soc2 = report("soc2")
        self.assertEqual((code, soc2["verification"]["ok"]), (0, True), soc2["verification"])
        leaves = demo.leaves()
        issued = sum(1 for leaf in leaves if leaf["kind"] == "issued")
        asked = {leaf["request_id"] for leaf in leaves
                 if leaf["kind"] == "decided" and leaf["verdict"]["verdict"] == "ask"}
        people = sum(1 for leaf in leaves if leaf["kind"] == "issued" and leaf["request_id"] in asked)
        controls = {c["control"]: c for c in soc2["controls"]}
        self.assertEqual(controls["CC6.1"]["population"], issued)
        self.assertEqual(controls["CC6.3"]["population"], people)
        self.assertEqual(sum(c["exceptions"] for c in soc2["controls"]), 0)

    def test_the_auditors_walk_from_a_line_to_its_proof_with_only_the_bundle(self):
        folder = scratch("auditor")
        folder.mkdir()
        bundle = folder / "bundle.tar.gz"
        code, out, err = demo.cli("audit", "bundle", "--to", bundle)
        self.assertEqual(code, 0, out + err)
        vkey = demo.env["GRANTWRIGHT_LOG_VKEY"]
        nothing = {"GRANTWRIGHT_STORE": "", "GRANTWRIGHT_CHECKPOINT": "", "GRANTWRIGHT_LOG_VKEY": ""}
        code, out, err = demo.cli("audit", "verify", "--bundle", bundle, "--vkey", vkey, env=nothing)
        self.assertEqual(code, 0, out + err)
        again = [demo.cli("report", "soc2", "--bundle", bundle, "--vkey", vkey, "--from", "2020-01-01",
                          "--to", "2030-01-01", "--seed", "walk", "--format", "json", env=nothing)[1]
                 for _ in range(2)]
        self.assertEqual(again[0], again[1])
        proven = 0
        for control in json.loads(again[0])["controls"]:
            for line in control["sample"][:2]:
                file = folder / f"{control['control']}-{line['leaf']}.receipt".replace("/", "_")
                file.write_text(json.dumps(line["receipt"]))
                code, out, err = demo.cli("audit", "receipt", file, "--vkey", vkey, "--json", env=nothing)
                self.assertEqual(code, 0, out + err)
                proven += 1
        self.assertGreater(proven, 6)

    def test_an_edited_log_is_reported_as_such(self):
        import sqlite3

        from harness import copy_store, leaf_columns
        copy = copy_store(demo.store, scratch("edited"))
        db = sqlite3.connect(copy)
        index, body = leaf_columns(db)
        at, leaf = next((i, b) for i, b in db.execute(f"SELECT {index}, {body} FROM leaves")
                        if b'"issued"' in bytes(b))
        db.execute(f"UPDATE leaves SET {body}=? WHERE {index}=?",
                   (bytes(leaf).replace(b'"revocable":false', b'"revocable":true'), at))
        db.commit()
        db.close()
        code, out, err = demo.cli("report", "soc2", "--store", f"sqlite://{copy}", "--format", "json")
        self.assertIn(code, (1, 2), err)
        if code == 1:
            self.assertFalse(json.loads(out)["verification"]["ok"])

    def test_csv_is_read_by_others(self):
        code, out, err = demo.cli("report", "fedramp", "--format", "csv")
        self.assertEqual(code, 0, err)
        rows = list(csv.reader(io.StringIO(out)))
        self.assertEqual(rows[0][:4], ["control", "list", "population", "leaf"])
        self.assertTrue(all(len(row) == len(rows[0]) for row in rows))
        self.assertIn("AC-3(2)", {row[0] for row in rows})

    def test_no_words_of_an_agent_are_in_a_report(self):
        for kind in KINDS:
            self.assertNotIn("the words of an agent", demo.cli("report", *kind)[1])

    def test_pages_in_chromium(self):
        missing = node.prepare(ROOT, print)
        if missing:
            self.skipTest(missing)
        folder = scratch("pages")
        folder.mkdir()
        files = []
        for kind in KINDS:
            file = folder / f"{kind[0]}.html"
            code, out, err = demo.cli("report", *kind, "--from", "2h", "--out", file)
            self.assertEqual(code, 0, out + err)
            files.append(str(file))
        done = subprocess.run(["node", ROOT / "tests/peers/report_screens.mjs", ROOT / "target/peers/node",
                               folder, *files], capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(done.stdout.count("ok  "), len(KINDS), done.stdout)
