"""The fake clouds judged by the vendors' own clients: Kubernetes, GitHub, Google, Azure."""

import re
import subprocess
import unittest
from pathlib import Path

from peers import node

ROOT = Path(__file__).resolve().parent.parent.parent


class Clouds(unittest.TestCase):
    def test_the_vendors_own_clients_speak_to_the_fakes(self):
        reason = node.prepare(ROOT, print)
        if reason:
            self.skipTest(reason)
        done = subprocess.run(
            ["cargo", "test", "--locked", "--release", "--workspace", "--test", "clouds",
             "--", "--ignored"], cwd=ROOT, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.returncode, 0, done.stdout[-3000:])
        self.assertRegex(done.stdout, re.compile(r"^test result: ok\. [1-9]", re.M))
