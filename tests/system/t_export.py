"""`grantwright audit export`: the log in the words of other systems, judged by others."""

import hashlib
import base64
import json
import re
import unittest

from harness import Demo, scratch
from peers import ocsf

demo = doors = None
approved = denied = None


def setUpModule():
    global demo, doors, approved, denied
    demo = Demo()
    doors = demo.doors
    doors.ask("demo.read", {"dataset": doors.fresh()}, reason="the words of an agent")
    approved = doors.pending("demo.escalate")
    demo.bob.approve(approved)
    demo.carol.approve(approved)
    doors.get(approved)
    denied = doors.pending()
    demo.bob.deny(denied)
    doors.ask("demo.drop-tables", {})


def tearDownModule():
    demo.__exit__()


def export(form, *arguments):
    code, out, err = demo.cli("audit", "export", "--format", form, *arguments)
    assert code == 0, err
    return out.splitlines()


class Ocsf(unittest.TestCase):
    def test_every_event_is_as_the_schema_wants_it(self):
        events = [json.loads(line) for line in export("ocsf")]
        self.assertEqual(len(events), len(demo.leaves()))
        for event in events:
            self.assertEqual(ocsf.faults(event), [], json.dumps(event, indent=1))
        self.assertEqual({3002, 3003, 3004, 6003}, {e["class_uid"] for e in events})

    def test_py_ocsf_models_takes_every_event(self):
        try:
            import py_ocsf_models  # noqa: F401
        except ImportError:
            self.skipTest("py-ocsf-models is not in this Python")
        judged = sum(ocsf.judged(json.loads(line)) for line in export("ocsf"))
        self.assertGreater(judged, 3 * len(demo.leaves()))

    def test_a_story_is_found_by_its_request(self):
        events = [json.loads(line) for line in export("ocsf")]
        story = [e for e in events if e["metadata"].get("correlation_uid") == approved]
        issued = [e for e in story if e["metadata"]["event_code"] == "issued"][0]
        self.assertEqual((issued["disposition"], issued["user"]["name"]), ("Approved", "demo-agent"))
        self.assertEqual([e["value"] for e in issued["enrichments"]], ["bob", "carol"])
        refused = [e for e in events if e["metadata"].get("correlation_uid") == denied][-1]
        self.assertEqual((refused["status"], refused["disposition"]), ("Failure", "Rejected"))
        self.assertEqual(refused["actor"]["user"]["name"], "bob")

    def test_the_leaf_in_an_event_is_the_one_in_the_log(self):
        leaves = demo.leaves()
        for line in export("ocsf", "--from", "3", "--most", "5"):
            event = json.loads(line)
            index = event["unmapped"]["leaf_index"]
            self.assertEqual(json.loads(event["raw_data"]), leaves[index])
            hashed = hashlib.sha256(b"\0" + event["raw_data"].encode()).digest()
            self.assertEqual(base64.b64decode(event["unmapped"]["leaf_hash"]), hashed)


class Others(unittest.TestCase):
    def test_cloud_events(self):
        lines = export("cloudevents")
        self.assertEqual(len(lines), len(demo.leaves()))
        for index, line in enumerate(lines):
            event = json.loads(line)
            self.assertEqual((event["specversion"], event["id"]), ("1.0", str(index)))
            self.assertTrue(event["source"] and event["type"].startswith("org.grantwright."))
            self.assertTrue(all(re.fullmatch("[a-z0-9]{1,20}", name) for name in event))

    def test_syslog_lines(self):
        for line in export("syslog", "--host", "broker-1", "--enterprise", "64512"):
            found = re.fullmatch(
                r"<(\d{1,3})>1 (\S+Z) broker-1 grantwright - ([a-z_]{1,32}) "
                r"(\[grantwright@64512( [A-Za-z]+=\"(?:[^\"\\\]]|\\[\"\\\]])*\")+\]) \ufeff(\{.*\})", line)
            self.assertTrue(found, line)
            self.assertEqual(json.loads(found[6])["kind"], found[3])

    def test_no_words_of_an_agent_leave_with_an_export(self):
        for form in ("ocsf", "cloudevents", "jsonl", "syslog"):
            self.assertNotIn("the words of an agent", "".join(export(form)))

    def test_a_file_is_new_and_private(self):
        file = scratch("export")
        code, told = demo.cli_json("audit", "export", "--format", "jsonl", "--to", file)
        self.assertEqual((code, told["events"]), (0, len(file.read_text().splitlines())))
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)
        code, _, err = demo.cli("audit", "export", "--format", "jsonl", "--to", file)
        self.assertEqual(code, 2, err)

    def test_a_folder_of_tiles_gives_the_same_lines(self):
        folder = scratch("tiles")
        code, out, err = demo.cli("audit", "tiles", "--to", folder)
        self.assertEqual(code, 0, out + err)
        size = int(demo.checkpoint().split(b"\n")[1])
        once, again = export("ocsf", "--dir", folder), export("ocsf", "--most", str(size))
        self.assertEqual(once, again[:len(once)])

    def test_windows(self):
        self.assertEqual(export("jsonl", "--until", "2020-01-01"), [])
        self.assertEqual(len(export("jsonl", "--since", "1h")), len(demo.leaves()))
        code, _, err = demo.cli("audit", "export", "--format", "jsonl", "--since", "yesterday")
        self.assertEqual(code, 2, err)
