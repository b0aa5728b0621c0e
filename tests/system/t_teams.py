"""Teams and the webhook judged by the vendors' own packages; the cards as Microsoft's renderer
draws them in Chromium (`docs/screens` are made this way)."""

import re
import subprocess
import tempfile
import unittest
from pathlib import Path

from peers import built, node

ROOT = Path(__file__).resolve().parent.parent.parent


class Teams(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        reason = node.prepare(ROOT, print)
        if reason:
            raise unittest.SkipTest(reason)

    def judged(self, suite):
        code, said = built.ignored(ROOT, suite)
        self.assertEqual(code, 0, said[-3000:])
        self.assertRegex(said, re.compile(r"^test result: ok\. [1-9]", re.M))

    def test_microsofts_sdk_judges_tokens_as_we_do_and_speaks_to_the_fake(self):
        self.judged("teams")

    def test_the_reference_library_of_standard_webhooks_agrees(self):
        self.judged("webhook")

    def test_the_cards_are_drawn_and_hold_no_markup(self):
        reason = node.prepare_browser(print)
        if reason:
            self.skipTest(reason)
        with tempfile.TemporaryDirectory() as out:
            done = subprocess.run(
                ["node", str(ROOT / "tests/peers/teams_screens.mjs"), str(node.folder(ROOT)), out],
                text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            self.assertEqual(done.returncode, 0, done.stdout[-3000:])
            self.assertGreaterEqual(len(list(Path(out).glob("teams-*.png"))), 10)
