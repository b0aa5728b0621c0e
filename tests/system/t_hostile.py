"""Bad company on the same host: connections that say nothing or never read, no descriptors left, names that
rebind, other agents and other users. Who may come in is served meanwhile; thousands of distinct asks are
answered or refused, all of them."""

import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import unittest
from pathlib import Path
from urllib.parse import urlsplit

from harness import GRANTWRIGHT, ROOT, SIDECAR, Demo, Process, Unix, call, clean_env, is_shut, until
from own import sidecar_of
from peers.ports import free_port

demo = doors = None
ASK = {"scope": "demo.read", "params": {"dataset": "hostile"}, "reason": "a test"}


def setUpModule():
    global demo, doors
    demo = Demo()
    doors = demo.doors
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)


def tearDownModule():
    demo.__exit__()


def prepared(name, owner="alice"):
    return sidecar_of(demo, name, owner)


def another():
    """A second agent with a sidecar of its own at the same broker: its (process, folder)."""
    home = prepared("other-agent")
    process = Process([SIDECAR, "--config", home / "sidecar.toml"], env=clean_env())

    def ready():
        assert process.code() is None, process.said()
        try:
            return call(home / "s.sock", "GET", "/readyz").status == 200
        except OSError:
            return False
    until("the other sidecar", 30, ready, 0.05)
    return process, home


def address():
    parts = urlsplit(doors.tcp)
    return parts.hostname, parts.port


def served():
    """One call as an agent makes it, on a connection of its own."""
    reply = doors.call("POST", "/v1/credentials", ASK, timeout=30)
    assert reply.status == 200, reply


class Silent(unittest.TestCase):
    """More connections than there are places; none of them has shown a token."""

    MANY = 3000

    def setUp(self):
        served()
        self.lines = []
        self.addCleanup(lambda: [line.close() for line in self.lines])

    def crowd(self, said=b"", many=None):
        for _ in range(many or self.MANY):
            line = socket.create_connection(address(), timeout=30)
            if said:
                try:
                    line.sendall(said)
                except OSError:
                    pass
            self.lines.append(line)

    def test_28_half_open_connections_keep_nobody_out(self):
        kept = Unix(doors.socket)
        kept.request("POST", "/v1/credentials", json.dumps(ASK), {"Content-Type": "application/json"})
        self.assertEqual(kept.getresponse().read()[:1], b"{")
        self.crowd()
        # A new one is served, again and again, though they all stay.
        for _ in range(20):
            served()
        # And the one that was there before.
        kept.request("POST", "/v1/credentials", json.dumps(ASK), {"Content-Type": "application/json"})
        self.assertEqual(kept.getresponse().status, 200)
        kept.close()

    def test_28_who_gives_way_is_told_why(self):
        self.crowd(many=1300)
        first = self.lines[0]
        first.settimeout(30)
        with first.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 503 "), head)
        self.assertIn(b"retry-after: 1", head)
        self.assertEqual(json.loads(body)["code"], "no_room")

    def test_28_heads_that_never_end_keep_nobody_out(self):
        self.crowd(b"POST /v1/credentials HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        for _ in range(20):
            served()

    def test_28_open_doors_and_wrong_tokens_win_no_place(self):
        host = urlsplit(doors.tcp).netloc.encode()
        for path, more in ((b"/healthz", b""), (b"/v1/scopes", b"Authorization: Bearer wrong\r\n")):
            self.crowd(b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + more + b"\r\n", 1300)
        for _ in range(20):
            served()

    def test_28_who_shows_the_token_keeps_its_place(self):
        body = json.dumps(ASK).encode()
        said = (f"POST /v1/credentials HTTP/1.1\r\nHost: {urlsplit(doors.tcp).netloc}\r\nAuthorization: Bearer "
                f"{doors.token}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body
        mine = socket.create_connection(address(), timeout=30)
        self.addCleanup(mine.close)

        def again():
            mine.sendall(said)
            got = b""
            while b"\r\n\r\n" not in got or len(got.partition(b"\r\n\r\n")[2]) < int(
                    re.search(rb"(?i)content-length: (\d+)", got)[1]):
                part = mine.recv(65536)
                self.assertTrue(part, "it was turned out")
                got += part
            self.assertTrue(got.startswith(b"HTTP/1.1 200"), got[:200])
        again()
        self.crowd(many=1500)
        again()

    def test_28_slow_readers_keep_nobody_out(self):
        host = urlsplit(doors.tcp).netloc
        said = (f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n" * 200).encode()
        for _ in range(300):
            line = socket.socket()
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.settimeout(30)
            line.connect(address())
            line.setblocking(False)
            try:
                line.send(said)
            except BlockingIOError:
                pass
            self.lines.append(line)
        for _ in range(20):
            served()

    def tearDown(self):
        status = Path(f"/proc/{demo.sidecar_pid}/status").read_text()
        rss = int(re.search(r"VmRSS:\s+(\d+)", status)[1])
        self.assertLess(rss, 200_000, "its memory is not bounded")


class Descriptors(unittest.TestCase):
    """EMFILE: the sidecar may open so few files that a crowd takes them all."""

    def test_28_the_accept_loop_lives_without_descriptors(self):
        served()
        crowd = []
        soft, hard = resource.prlimit(demo.sidecar_pid, resource.RLIMIT_NOFILE)
        open_now = len(os.listdir(f"/proc/{demo.sidecar_pid}/fd"))
        resource.prlimit(demo.sidecar_pid, resource.RLIMIT_NOFILE, (open_now + 20, hard))
        try:
            for _ in range(200):
                crowd.append(socket.create_connection(address(), timeout=30))
            # Strangers give way; both doors answer, with the crowd still there.
            until("a credential over TCP", 30, lambda: self.comes_in(), 0.1)
            until("a credential over the socket", 30, lambda: self.comes_in(doors.socket), 0.1)
        finally:
            resource.prlimit(demo.sidecar_pid, resource.RLIMIT_NOFILE, (soft, hard))
            for line in crowd:
                line.close()
        served()

    @staticmethod
    def comes_in(base=None):
        try:
            reply = call(base or doors.tcp, "POST", "/v1/credentials", ASK, {"Authorization": f"Bearer {doors.token}"})
            return reply.status == 200
        except OSError:
            return False


class Metadata(unittest.TestCase):
    """Instance metadata is served by the sidecar's own process, and knows nobody before a whole call."""

    PLACES = 128

    def setUp(self):
        home, self.port = prepared("metadata-agent"), free_port()
        self.socket, self.lines = home / "s.sock", []
        self.process = Process([GRANTWRIGHT, "sidecar", "--config", home / "sidecar.toml", "--imds",
                                f"127.0.0.1:{self.port}", "--imds-scope", "demo.read?dataset=hostile"],
                               env=clean_env())
        self.addCleanup(self.process.kill)
        self.addCleanup(lambda: [line.close() for line in self.lines])
        until("both doors", 30, lambda: self.metadata() and self.scopes(), 0.05)

    def answers(self, base, method, path, headers=None):
        assert self.process.code() is None, self.process.said()
        try:
            return call(base, method, path, headers=headers).status == 200
        except OSError:
            return False

    def metadata(self):
        return self.answers(f"http://127.0.0.1:{self.port}", "PUT", "/latest/api/token",
                            {"X-aws-ec2-metadata-token-ttl-seconds": "60"})

    def scopes(self):
        return self.answers(self.socket, "GET", "/v1/scopes")

    def test_28_a_crowd_there_takes_no_descriptor_of_the_other_doors(self):
        soft, hard = resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE)
        now = len(os.listdir(f"/proc/{self.process.pid}/fd"))
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (now + self.PLACES + 72, hard))
        for _ in range(400):
            self.lines.append(socket.create_connection(("127.0.0.1", self.port), timeout=30))
        until("the longest there is shut", 30, lambda: is_shut(self.lines[0]), 0.05)
        for _ in range(20):
            self.assertTrue(self.scopes(), "the sidecar's own door")
            self.assertTrue(self.metadata(), "a newcomer there, for whom a stranger leaves")


class Distinct(unittest.TestCase):
    """Ten thousand asks, no two alike."""

    def test_28_all_are_answered_or_told_to_come_again_and_memory_is_bounded(self):
        with Demo() as own:
            params = {"dataset": own.doors.fresh()}
            self.assertEqual(own.doors.ask("demo.read", params).status, 200)
            load = Process([sys.executable, ROOT / "tests/system/distinct.py", own.doors.socket, "many", 10_000, 200],
                           env=clean_env())
            calls = 0
            while load.code() is None:
                # Somebody else's cached credential is served all the while.
                self.assertEqual(own.doors.ask("demo.read", params).status, 200)
                calls += 1
                time.sleep(0.01)
            self.assertEqual(load.code(), 0, load.said())
            answers = json.loads(load.out.read_text())
            self.assertEqual(sum(answers.values()), 10_000)
            self.assertLessEqual(set(answers), {"200", "429", "503"}, answers)
            self.assertGreater(answers.get("200", 0), 0)
            self.assertGreater(calls, 0)
            status = Path(f"/proc/{own.sidecar_pid}/status").read_text()
            self.assertLess(int(re.search(r"VmHWM:\s+(\d+)", status)[1]), 200_000, "its memory is not bounded")


class Identical(unittest.TestCase):
    """A thousand at once, and hundreds more by the other door: on the socket the process that asks is known."""

    def test_of_each_door_one_goes_up_and_one_card_waits(self):
        params = {"dataset": doors.fresh(), "rows": 5}
        body = json.dumps({"scope": "demo.export", "params": params, "reason": "a test"})
        said = (f"POST /v1/credentials HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {doors.token}\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}").encode()
        lines = []
        for n in range(1400):
            if n < 1000:
                line = socket.create_connection(address(), timeout=60)
            else:
                line = socket.socket(socket.AF_UNIX)
                line.settimeout(60)
                line.connect(doors.socket)
            lines.append(line)
        for line in lines:
            line.sendall(said)
        ids = set(), set()
        for n, line in enumerate(lines):
            with line.makefile("rb") as answer:
                ids[n < 1000].add(json.loads(answer.read().partition(b"\r\n\r\n")[2])["request_id"])
            line.close()
        self.assertEqual([len(of_one_door) for of_one_door in ids], [1, 1])
        both = ids[0] | ids[1]
        self.assertEqual({r["request_id"] for r in demo.bob.pending() if r["params"] == params}, both)
        for one in both:
            self.assertEqual(len([e for e in demo.events(one) if e["kind"] == "requested"]), 1)


class Rebinding(unittest.TestCase):
    """A page in the person's browser whose name now means 127.0.0.1: it has no token, and a foreign Host; and
    with the token it would still be refused."""

    def test_a_name_that_rebinds_is_refused_at_every_door(self):
        port = address()[1]
        for host in (f"attacker.example:{port}", "attacker.example", f"127.0.0.1.attacker.example:{port}",
                     f"localhost.attacker.example:{port}", f"[::ffff:7f00:1]:{port}", f"0.0.0.0:{port}",
                     f"127.0.0.1:{port}@attacker.example", "169.254.169.254"):
            for method, path in (("POST", "/v1/credentials"), ("GET", "/aws/aws.s3-read?bucket=demo&prefix=a/"),
                                 ("GET", "/v1/scopes"), ("GET", "/metrics"), ("GET", "/healthz")):
                reply = doors.call(method, path, ASK if method == "POST" else None, {"Host": host})
                self.assertIn(reply.status, (400, 403), (host, path, reply))
                self.assertNotIn("access-control-allow-origin", reply.headers)

    def test_a_page_may_not_even_ask_whether_it_may(self):
        reply = doors.call("OPTIONS", "/v1/credentials", headers={
            "Origin": "http://attacker.example", "Access-Control-Request-Method": "POST"})
        self.assertEqual(reply.status, 403, reply)
        self.assertFalse([name for name in reply.headers if name.startswith("access-control-")])


class Apart(unittest.TestCase):
    """Two agents on one host, each with its own sidecar."""

    @classmethod
    def setUpClass(cls):
        cls.process, cls.home = another()
        cls.socket = cls.home / "s.sock"
        cls.token = (cls.home / "agent.token").read_text()
        ready = json.loads((cls.home / "sidecar.ready").read_text())
        cls.tcp = f"http://{ready['tcp']}"

    @classmethod
    def tearDownClass(cls):
        cls.process.kill()

    def ask(self, method, path, body=None):
        return call(self.tcp, method, path, body, {"Authorization": f"Bearer {self.token}"})

    def test_25_neither_reads_changes_or_collects_what_is_the_others(self):
        request_id = doors.pending()
        self.assertEqual(demo.bob.approve(request_id).status, 200)
        for method, path, body in (("GET", f"/v1/requests/{request_id}", None),
                                   ("DELETE", f"/v1/requests/{request_id}", None),
                                   ("POST", f"/v1/requests/{request_id}/answer", {"text": "x"}),
                                   ("POST", f"/v1/requests/{request_id}/release", {})):
            reply = self.ask(method, path, body)
            self.assertEqual(reply.status, 404, reply)
            none = self.ask(method, path.replace(request_id, request_id[:-4] + "0000"), body)
            self.assertEqual((none.status, none.json["code"]), (404, reply.json["code"]), "existence leaks")
        self.assertEqual(doors.get(request_id).json["state"], "granted")

    def test_25_what_one_has_in_memory_is_not_given_to_the_other(self):
        params = {"dataset": doors.fresh()}
        mine = doors.ask("demo.read", params).json["credential"]["token"]
        reply = self.ask("POST", "/v1/credentials", {"scope": "demo.read", "params": params, "reason": "a test"})
        self.assertNotIn(mine, reply.body.decode())

    def test_25_the_same_key_is_anothers(self):
        key = doors.fresh("key")
        body = {"scope": "demo.read", "params": {"dataset": doors.fresh()}, "reason": "a test", "idempotency_key": key}
        mine = doors.call("POST", "/v1/credentials", body).json
        reply = self.ask("POST", "/v1/credentials", body)
        self.assertNotEqual(reply.json.get("request_id"), mine["request_id"])
        self.assertNotIn(mine["credential"]["token"], reply.body.decode())

    def test_one_sidecars_token_opens_no_other(self):
        self.assertEqual(call(self.tcp, "GET", "/v1/scopes", headers={
            "Authorization": f"Bearer {doors.token}"}).status, 401)
        self.assertEqual(doors.call("GET", "/v1/scopes", headers={
            "Authorization": f"Bearer {self.token}"}).status, 401)


@unittest.skipUnless(os.geteuid() == 0, "only root can become another user")
class OtherUser(unittest.TestCase):
    """Another account of this host: it can reach the TCP port, and nothing else."""

    def run_as(self, script, *words):
        return subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3",
                               "-c", script, *map(str, words)], capture_output=True, text=True, timeout=30)

    def test_tokens_state_and_socket_cannot_be_read(self):
        script = ("import sys\nfor path in sys.argv[1:]:\n try:\n  open(path, 'rb').read(1); print('read', path)\n"
                  " except OSError as e: print(type(e).__name__)\n")
        files = [demo.env["GRANTWRIGHT_TOKEN_FILE"], demo.env["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"],
                 *(p for p in (demo.dir / "sidecar").rglob("*") if p.is_file())]
        done = self.run_as(script, *files)
        self.assertEqual(set(done.stdout.split()), {"PermissionError"}, done.stdout + done.stderr)

    def test_without_a_token_the_port_gives_nothing(self):
        script = ("import http.client as h, sys\nfor path in ('/v1/scopes', '/v1/requests/x', '/aws/aws.s3-read'):\n"
                  " c = h.HTTPConnection('127.0.0.1', int(sys.argv[1])); c.request('GET', path)\n"
                  " print(c.getresponse().status)\n")
        done = self.run_as(script, address()[1])
        self.assertEqual(done.stdout.split(), ["401", "401", "401"], done.stderr)

    def test_it_cannot_take_the_sidecars_place(self):
        """What lies at the socket's path already is left as it is, and the sidecar does not start."""
        home = prepared("late-agent")
        (home / "s.sock").write_text("not a socket")
        process = Process([SIDECAR, "--config", home / "sidecar.toml"], env=clean_env())
        self.assertNotEqual(process.wait(30), 0)
        self.assertIn("s.sock", process.said())
        self.assertEqual((home / "s.sock").read_text(), "not a socket")


@unittest.skipUnless(os.geteuid() == 0, "only root serves two users")
class TwoUsers(unittest.TestCase):
    """One sidecar for two agents, each of a user of its own."""

    USERS = {"nightly-agent": 65531, "triage-agent": 65532}
    # Prints the status and the body of an ask, or why there is none.
    ASKS = ("import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.settimeout(30)\nbody = sys.argv[2].encode()\n"
            "try:\n s.connect(sys.argv[1])\nexcept OSError as e:\n sys.exit(print(type(e).__name__))\n"
            "s.sendall(b'POST /v1/credentials HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n'\n"
            " b'Content-Length: %d\\r\\n\\r\\n' % len(body) + body)\ngot = b''\n"
            "while part := s.recv(65536):\n got += part\n"
            "print(got.split(b' ', 2)[1].decode(), got.partition(b'\\r\\n\\r\\n')[2].decode())\n")
    READS = ("import sys\nfor path in sys.argv[1:]:\n try:\n  open(path, 'rb').read(1)\n  print('read')\n"
             " except OSError as e:\n  print(type(e).__name__)\n")

    def run_as(self, user, script, *words):
        done = subprocess.run(["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups",
                               "/usr/bin/python3", "-c", script, *map(str, words)], capture_output=True, text=True,
                              timeout=60, cwd="/")
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.strip()

    def setUp(self):
        home = self.home = Path(tempfile.mkdtemp(prefix="grantwright-e2e-"))
        self.addCleanup(shutil.rmtree, home, ignore_errors=True)
        home.chmod(0o711)
        if self.run_as(65531, "import os, sys; print(os.access(sys.argv[1], os.X_OK))", home) != "True":
            self.skipTest("other users cannot reach the folder for temporary files")
        folders = {name: prepared(name) for name in self.USERS}
        first = tomllib.loads((folders["nightly-agent"] / "sidecar.toml").read_text())
        lines = [f"{key} = {json.dumps(first[key])}" for key in ("brokers", "trust_bundle", "trust_domain", "console")]
        for name, user in self.USERS.items():
            own = home / name
            own.mkdir()
            own.chmod(0o711)
            paths = {"join_token_file": folders[name] / "join.token", "state_dir": own / "state",
                     "socket": own / "s.sock", "token_file": own / "agent.token",
                     "aws_token_file": own / "aws.token", "ready_file": own / "ready"}
            lines += ["[[agent]]", f'name = "{name}"', f"user = {user}",
                      *(f"{key} = {json.dumps(str(path))}" for key, path in paths.items())]
        (home / "sidecar.toml").write_text("\n".join(lines) + "\n")
        process = Process([SIDECAR, "--config", home / "sidecar.toml"], env=clean_env())
        self.addCleanup(process.kill)

        def ready():
            assert process.code() is None, process.said()
            return all((home / name / "ready").exists() for name in self.USERS)
        until("both agents", 30, ready, 0.05)

    def test_25_each_user_is_answered_at_its_own_socket_and_nobody_at_anothers(self):
        leases = set()
        for name, user in self.USERS.items():
            own = self.home / name
            other, = (self.home / it for it in self.USERS if it != name)
            status, _, body = self.run_as(user, self.ASKS, own / "s.sock", json.dumps(ASK)).partition(" ")
            self.assertEqual(status, "200", body)
            granted = json.loads(body)
            leases.add(granted["lease_id"])
            terms = demo.events(granted["request_id"])[0]["terms"]
            self.assertEqual((terms["agent"], terms["process"]["uid"]), (name, user))
            said = self.run_as(user, self.ASKS, other / "s.sock", json.dumps(ASK))
            self.assertRegex(said, "^(PermissionError$|403 )")
            # Not even who runs the sidecar.
            self.assertEqual(call(own / "s.sock", "POST", "/v1/credentials", ASK).status, 403)
            for folder, word in ((own, "read"), (other, "PermissionError")):
                said = self.run_as(user, self.READS, folder / "agent.token", folder / "aws.token")
                self.assertEqual(said.split(), [word, word], folder)
            kept = [file for it in (own, other) for file in (it / "state").iterdir()]
            self.assertEqual(set(self.run_as(user, self.READS, *kept).split()), {"PermissionError"})
        self.assertEqual(len(leases), 2, "one was given what the other was")


class Survives(unittest.TestCase):
    def test_still_serves_after_all_of_it(self):
        served()
        code, report = demo.cli_json("audit", "verify")
        self.assertEqual(code, 0, report)


if __name__ == "__main__":
    unittest.main()
