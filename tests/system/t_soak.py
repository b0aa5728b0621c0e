"""A bad life: load on cached scopes while the broker is killed and comes back, and the configuration is read
again, over and over. Not one call fails. E2E_SOAK seconds, one minute unless said (`tests/run --soak`: ten)."""

import http.client
import os
import random
import signal
import threading
import time
import unittest
from pathlib import Path
from urllib.parse import urlsplit

from harness import Demo, Process, Unix, alive, call, clean_env, until

SECONDS = float(os.environ.get("E2E_SOAK", "60"))
CALLERS = 8


class Soak(unittest.TestCase):
    def setUp(self):
        self.demo = Demo()
        self.addCleanup(self.demo.__exit__)
        self.broker_pid, self.again = self.demo.broker_pid, None
        words = Path(f"/proc/{self.broker_pid}/cmdline").read_bytes().split(b"\0")
        self.command = [word.decode() for word in words if word]
        self.cwd = os.readlink(f"/proc/{self.broker_pid}/cwd")
        self.addCleanup(lambda: self.again and self.again.kill())

    def kill_broker(self):
        if self.again:
            self.again.kill()
        else:
            os.kill(self.broker_pid, signal.SIGKILL)
            until("the broker is gone", 10, lambda: not alive(self.broker_pid))

    def start_broker(self):
        self.again = Process(self.command, env=clean_env(), cwd=self.cwd)

    def attended(self):
        return b"grantwright_sidecar_attended 1" in call(self.demo.doors.tcp, "GET", "/metrics").body

    def test_cached_scopes_never_fail(self):
        doors = self.demo.doors
        token, at = doors.token, urlsplit(doors.tcp)
        bodies = []
        for _ in range(16):
            body = ('{"scope":"demo.read","params":{"dataset":"%s"},"reason":"a soak","ttl":"15m"}' % doors.fresh())
            reply = doors.call("POST", "/v1/credentials", raw=body.encode())
            self.assertEqual(reply.status, 200, reply)
            bodies.append(body)
        over, failed, counts = threading.Event(), [], [0] * CALLERS

        def load(n):
            chance = random.Random(n)
            connection = (Unix(doors.socket) if n % 2 else
                          http.client.HTTPConnection(at.hostname, at.port, timeout=30))
            while not over.is_set():
                try:
                    connection.request("POST", "/v1/credentials", chance.choice(bodies),
                                       {"Authorization": f"Bearer {token}"})
                    reply = connection.getresponse()
                    text = reply.read()
                    if reply.status != 200:
                        failed.append((reply.status, text[:300]))
                except (OSError, http.client.HTTPException) as fault:
                    failed.append(repr(fault))
                    connection.close()
                counts[n] += 1
        threads = [threading.Thread(target=load, args=(n,)) for n in range(CALLERS)]
        for thread in threads:
            thread.start()
        kills = 0
        begun = time.monotonic()
        try:
            while time.monotonic() - begun < SECONDS:
                self.kill_broker()
                kills += 1
                os.kill(self.demo.sidecar_pid, signal.SIGHUP)
                time.sleep(2)
                self.start_broker()
                until("the sidecar is attended to again", 60, self.attended, 0.2)
                # What is not in memory is asked for again, too.
                until("a fresh credential", 30,
                      lambda: doors.ask("demo.read", {"dataset": doors.fresh()}).status == 200, 0.2)
                time.sleep(min(5.0, SECONDS / 10))
        finally:
            over.set()
            for thread in threads:
                thread.join()
        print(f"       {sum(counts):,} calls, {kills} deaths of the broker, {time.monotonic() - begun:.0f} s", flush=True)
        self.assertEqual(failed[:5], [])
        self.assertGreater(min(counts), 100)
        code, report = self.demo.cli_json("audit", "verify")
        self.assertEqual(code, 0, report)


if __name__ == "__main__":
    unittest.main()
