"""A bad life: load on cached scopes while the broker is killed and comes back, the sidecar's certificate is
renewed, and its configuration changes and is read again, over and over. Not one call fails. E2E_SOAK seconds,
one minute unless said (`tests/run --soak`: ten)."""

import http.client
import os
import random
import re
import signal
import threading
import time
import unittest
from pathlib import Path
from urllib.parse import urlsplit

from harness import Demo, Process, Unix, alive, call, clean_env, until

SECONDS = float(os.environ.get("E2E_SOAK", "60"))
CALLERS = 8
# Renewed at half of it: at least once in a minute, and the other half is time for a broker that is away.
CERTIFICATE = 90


class Soak(unittest.TestCase):
    def setUp(self):
        self.demo = Demo(GRANTWRIGHT_DEMO_CERTIFICATE_LIFE=f"{CERTIFICATE}s")
        self.file = self.demo.dir / "sidecar.toml"
        self.configured = self.file.read_text()
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
            self.demo.hold_ports()

    def start_broker(self):
        self.again = Process(self.command, env=clean_env(), cwd=self.cwd)

    def attended_again(self):
        """Waits for it, or for the end of the broker; either fault has the last words of both."""
        until("attended to again, or the broker's end", 60,
              lambda: self.metric("attended") == 1 or self.again.code() is not None, 0.2)
        self.assertIsNone(self.again.code(), "the broker ended at its start")

    def reload(self, n):
        """Another console, and a second broker that nobody is, come and go; now and then the file is faulty."""
        text = re.sub(r"(?m)^console = .*", f'console = "http://localhost:{10_000 + n}"', self.configured)
        if n % 2:
            text = re.sub(r'(?m)^brokers = \[(.*)\]', r'brokers = [\1, "https://127.0.0.1:9"]', text)
        if n % 5 == 4:
            text += "nonsense = 1\n"
        part = self.file.with_suffix(".part")
        part.write_text(text)
        part.rename(self.file)
        os.kill(self.demo.sidecar_pid, signal.SIGHUP)

    def metric(self, name):
        text = call(self.demo.doors.tcp, "GET", "/metrics").body.decode()
        return int(re.search(rf"(?m)^grantwright_sidecar_{name} (-?\d+)$", text)[1])

    def test_cached_scopes_never_fail(self):
        doors = self.demo.doors
        token, at = doors.token, urlsplit(doors.tcp)
        bodies = []
        for _ in range(16):
            body = ('{"scope":"demo.read","params":{"dataset":"%s"},"reason":"a soak","ttl":"15m"}' % doors.fresh())
            reply = doors.call("POST", "/v1/credentials", raw=body.encode())
            self.assertEqual(reply.status, 200, reply)
            # On the socket this process is a workload of its own, with credentials of its own.
            connection = Unix(doors.socket)
            connection.request("POST", "/v1/credentials", body, {"Authorization": f"Bearer {token}"})
            self.assertEqual(connection.getresponse().status, 200)
            connection.close()
            bodies.append(body)
        over, calm, failed, counts = threading.Event(), threading.Event(), [], [0] * CALLERS

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
                # With all might while something happens, and in between no more than watching takes.
                if calm.is_set():
                    over.wait(0.02)
        threads = [threading.Thread(target=load, args=(n,)) for n in range(CALLERS)]
        for thread in threads:
            thread.start()
        kills = rotations = 0
        left = self.metric("certificate_seconds")
        begun = time.monotonic()
        try:
            # A slow machine has until the first renewal is due, and as long again.
            while (gone := time.monotonic() - begun) < SECONDS or rotations == 0 and gone < 2 * CERTIFICATE:
                before, left = left, self.metric("certificate_seconds")
                rotations += left > before
                self.kill_broker()
                self.reload(kills)
                kills += 1
                time.sleep(2)
                self.start_broker()
                try:
                    self.attended_again()
                except AssertionError as fault:
                    raise AssertionError(f"{fault}\nthe broker said:\n{self.again.said(8)}\nthe sidecar:\n"
                                         f"{self.demo.said('sidecar', 8)}") from None
                # What is not in memory is asked for again, too.
                until("a fresh credential", 30,
                      lambda: doors.ask("demo.read", {"dataset": doors.fresh()}).status == 200, 0.2)
                calm.set()
                time.sleep(min(5.0, SECONDS / 10))
                calm.clear()
        finally:
            over.set()
            for thread in threads:
                thread.join()
        print(f"       {sum(counts):,} calls, {kills} deaths of the broker, {rotations} renewals of "
              f"the certificate, {self.metric('reloaded_total')} reloads, {time.monotonic() - begun:.0f} s", flush=True)
        self.assertEqual(failed[:5], [])
        self.assertGreater(min(counts), 100)
        self.assertGreater(rotations, 0, "the certificate was never renewed")
        self.assertGreater(self.metric("reloaded_total"), 0)
        code, report = self.demo.cli_json("audit", "verify")
        self.assertEqual(code, 0, report)


if __name__ == "__main__":
    unittest.main()
