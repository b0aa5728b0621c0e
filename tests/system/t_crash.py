"""The broker killed with SIGKILL at random moments while agents ask and people decide.

Whatever the moment: every request has at most one intent and one mint; what an agent received is in
the log; the same key gives the same outcome; the log verifies and extends the sidecar's checkpoint.
E2E_KILLS sets how many kills (200), E2E_SEED makes the moments repeatable.
"""

import collections
import json
import os
import random
import re
import subprocess
import threading
import time
import unittest
from pathlib import Path

from harness import (GRANTWRIGHT, SIDECAR, Demo, Doors, Person, Process, call, clean_env, cli,
                     leaves, scratch, until)
from peers.ports import free_port

KILLS = int(os.environ.get("E2E_KILLS", "200"))
SEED = int(os.environ.get("E2E_SEED", str(time.time_ns() % 100_000)))


class Stage:
    """Broker and sidecar of a told demo, started by hand on ports that stay."""

    def __init__(self):
        self.dir = scratch("crash")
        done = subprocess.run([str(GRANTWRIGHT), "demo", "--json", "--dir", str(self.dir)],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                              env=clean_env(GRANTWRIGHT_DEMO_ASKS_PER_SECOND="100000",
                                            GRANTWRIGHT_DEMO_PENDING_TTL="1h"))
        assert done.returncode == 0, done.stdout + done.stderr
        self.grpc, self.http = free_port(), free_port()
        broker = (self.dir / "broker.toml").read_text()
        broker = re.sub(r'(?m)^grpc = .*$', f'grpc = "127.0.0.1:{self.grpc}"', broker)
        broker = re.sub(r'(?m)^http = .*$', f'http = "127.0.0.1:{self.http}"', broker)
        broker = re.sub(r'(?m)^open_requests_per_agent = .*$', 'open_requests_per_agent = 2000', broker)
        self.broker_toml = self.dir / "crash-broker.toml"
        self.broker_toml.write_text(broker)
        sidecar = (self.dir / "sidecar.toml").read_text()
        sidecar = re.sub(r'(?m)^brokers = .*$', f'brokers = ["https://127.0.0.1:{self.grpc}"]', sidecar)
        sidecar = re.sub(r'(?m)^listen = .*$', 'listen = "127.0.0.1:0"', sidecar)
        sidecar = re.sub(r'(?m)^socket = .*$', f'socket = "{self.dir}/crash.sock"', sidecar)
        self.sidecar_toml = self.dir / "crash-sidecar.toml"
        self.sidecar_toml.write_text(sidecar)

        def path(key):
            found = re.search(rf'(?m)^{key} = "(.*)"$', sidecar)[1]
            return self.dir / found
        self.ready_broker = self.dir / re.search(r'(?m)^ready_file = "(.*)"$', broker)[1]
        self.ready_sidecar = path("ready_file")
        state = path("state_dir")
        kept = re.search(r'(?m)^checkpoint_file = "(.*)"$', sidecar)
        self.store = Path(re.search(r'(?m)^url = "sqlite://(.*)"$', broker)[1])
        self.env = {
            "GRANTWRIGHT_CONSOLE": f"http://localhost:{self.http}",
            "GRANTWRIGHT_HUMANS": str(self.dir / "humans"),
            "GRANTWRIGHT_TOKEN_FILE": str(path("token_file")),
            "GRANTWRIGHT_STORE": f"sqlite://{self.store}",
            "GRANTWRIGHT_CHECKPOINT": str(self.dir / kept[1] if kept else state / "checkpoint"),
        }
        self.doors, self.bob = Doors(self), Person(self, "bob")
        self.broker = None
        self.start_broker()
        self.ready_sidecar.unlink(missing_ok=True)
        self.sidecar = Process([SIDECAR, "--config", self.sidecar_toml])
        ready = until("the sidecar", 20, lambda: self.read(self.ready_sidecar))
        self.env["GRANTWRIGHT_SIDECAR"] = f"http://{ready['tcp']}"

    @staticmethod
    def read(path):
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError):
            return None

    def start_broker(self):
        self.ready_broker.unlink(missing_ok=True)
        begun = time.monotonic()
        self.broker = Process([GRANTWRIGHT, "broker", "--config", self.broker_toml],
                              log=self.dir / "crash-broker.log")

        def ready():
            if self.broker.code() is not None:
                raise AssertionError(f"the broker did not start again:\n{self.broker.said()}")
            return self.read(self.ready_broker)
        until("the broker", 20, ready, 0.004)
        return time.monotonic() - begun


class Agents:
    """Asks and votes all the time; remembers what it was given."""

    def __init__(self, stage, seed):
        self.stage, self.random = stage, random.Random(seed)
        self.stop = threading.Event()
        self.granted = collections.defaultdict(set)   # request id -> lease ids
        self.tokens = collections.defaultdict(set)    # request id -> credentials
        self.by_key = collections.defaultdict(set)    # key -> request ids
        self.bodies = {}
        self.lock = threading.Lock()
        self.statuses = collections.Counter()
        self.serial = 0

    def note(self, reply, key=None):
        self.statuses[reply.status] += 1
        if reply.status not in (200, 202):
            return None
        body = reply.json
        with self.lock:
            if key:
                self.by_key[key].add(body["request_id"])
            if body.get("state") == "granted":
                self.granted[body["request_id"]].add(body["lease_id"])
                self.tokens[body["request_id"]].add(json.dumps(body["credential"]))
        return body

    def next(self):
        with self.lock:
            self.serial += 1
            return self.serial

    def work(self):
        doors, bob = self.stage.doors, self.stage.bob
        while not self.stop.is_set():
            n = self.next()
            key = f"k-{SEED}-{n}"
            if n % 4:
                body = {"scope": "demo.read", "params": {"dataset": f"crash-{n}"}}
            else:
                body = {"scope": "demo.export", "params": {"dataset": f"crash-{n}", "rows": n}}
            body |= {"reason": "a test", "idempotency_key": key}
            self.bodies[key] = body
            # Until the broker was heard, under the same key: it is away for much of the time.
            while not self.is_heard(doors, bob, key, body) and not self.stop.wait(0.02):
                pass
            # Some are under way at every moment; a crowd would only make the log long.
            self.stop.wait(0.01)

    def is_heard(self, doors, bob, key, body):
        """Whether an ask met the broker."""
        try:
            reply = doors.call("POST", "/v1/credentials", body, timeout=20)
            got = self.note(reply, key)
            if got and got["state"] == "pending":
                bob.approve(got["request_id"])
                self.note(doors.get(got["request_id"], "1s"))
            return reply.status not in (429, 503, 504)
        except (OSError, AssertionError, KeyError, ValueError) as fault:
            self.statuses[type(fault).__name__] += 1
        except Exception as fault:  # http.client's many ways to say "cut off"
            self.statuses[type(fault).__name__] += 1
        return False


class Killed(unittest.TestCase):
    def test_no_double_mint_and_a_log_that_verifies(self):
        stage = Stage()
        agents = Agents(stage, SEED)
        dice = random.Random(SEED)
        threads = [threading.Thread(target=agents.work, daemon=True) for _ in range(6)]
        for thread in threads:
            thread.start()
        starts, begun = [], time.monotonic()
        try:
            for number in range(KILLS):
                time.sleep(dice.choice((0.0, 0.01, 0.05, 0.15, 0.3)) + dice.random() * 0.1)
                stage.broker.kill()
                starts.append(stage.start_broker())
                if number % 50 == 49:
                    print(f"   {number + 1} kills, {agents.serial} asks, "
                          f"{time.monotonic() - begun:.0f} s", flush=True)
        finally:
            agents.stop.set()
            for thread in threads:
                thread.join(60)
        # Every ask again, under its own key, now in peace: the same outcome, never a second mint.
        until("the sidecar is back", 30, lambda: stage.doors.ask(
            "demo.read", {"dataset": "peace"}).status == 200, 0.2)
        sample = random.Random(SEED).sample(sorted(agents.bodies), min(400, len(agents.bodies)))
        outcomes = collections.Counter()
        for key in sample:
            reply = stage.doors.call("POST", "/v1/credentials", agents.bodies[key])
            agents.note(reply, key)
            outcomes[reply.status if reply.status in (200, 202) else (reply.status, reply.code)] += 1
        seed = f"E2E_SEED={SEED}; {dict(agents.statuses)}; again: {dict(outcomes)}"
        for outcome in outcomes:
            self.assertIn(outcome, (200, 202, (410, "already_issued"), (502, "outcome_unknown")), seed)
        self.assertGreater(agents.statuses[200], KILLS // 2, f"too little went on: {seed}")
        stage.sidecar.term()
        stage.broker.term()

        counts = collections.defaultdict(collections.Counter)
        issued = {}
        for leaf in leaves(stage.store):
            if "request_id" in leaf:
                counts[leaf["request_id"]][leaf["kind"]] += 1
                if leaf["kind"] == "issued":
                    issued[leaf["request_id"]] = leaf
        for request_id, kinds in counts.items():
            self.assertLessEqual(kinds["intended"], 1, (request_id, kinds, seed))
            self.assertLessEqual(kinds["issued"], 1, (request_id, kinds, seed))
        for key, ids in agents.by_key.items():
            self.assertEqual(len(ids), 1, f"{key} met {ids}; {seed}")
        for request_id, leases in agents.granted.items():
            self.assertEqual(len(leases), 1, (request_id, leases, seed))
            self.assertEqual(len(agents.tokens[request_id]), 1, (request_id, seed))
            self.assertIn(request_id, issued, f"delivered but not in the log: {seed}")
        code, out, err = cli("audit", "verify", "--json", env=stage.env, timeout=120)
        self.assertEqual(code, 0, f"{out[:2000]}{err}; {seed}")
        report = json.loads(out)
        self.assertEqual(report["rollback"], "none", report)
        starts.sort()
        print(f"   {KILLS} kills, {len(counts)} requests, {len(issued)} mints, {report['leaves']} leaves; "
              f"the broker is back after {starts[len(starts) // 2] * 1000:.0f} ms (p50), "
              f"{starts[-1] * 1000:.0f} ms (worst)")
