"""The fake Slack judged by Slack's own client: Web API, Socket Mode, signatures; our messages drawn."""

import re
import subprocess
import tempfile
import unittest
from pathlib import Path

from peers import built, node, venv

ROOT = Path(__file__).resolve().parent.parent.parent


class Slack(unittest.TestCase):
    def test_slacks_own_client_speaks_to_the_fake_and_agrees_on_signatures(self):
        reason = venv.prepare(ROOT, print)
        if reason:
            self.skipTest(reason)
        code, said = built.ignored(ROOT, "slack_sdk")
        self.assertEqual(code, 0, said[-3000:])
        self.assertRegex(said, re.compile(r"^test result: ok\. [1-9]", re.M))

    def test_the_messages_are_drawn_and_hold_no_markup(self):
        reason = node.prepare_drawers(ROOT, print)
        if reason:
            self.skipTest(reason)
        with tempfile.TemporaryDirectory() as out:
            done = subprocess.run(
                ["node", str(ROOT / "tests/peers/slack_screens.mjs"), str(node.folder(ROOT)),
                 str(node.drawers(ROOT)), out],
                text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            self.assertEqual(done.returncode, 0, done.stdout[-3000:])
            self.assertEqual(len(list(Path(out).glob("slack-*.png"))), 11)
