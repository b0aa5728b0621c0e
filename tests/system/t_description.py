"""The sidecar's own description of its HTTP door (OpenAPI 3.1) against what it answers; requests followed as
server-sent events; the doctor; a configuration read again while calls are served."""

import email.utils
import http.client
import http.server
import json
import os
import re
import signal
import threading
import time
import unittest
from pathlib import Path
from urllib.parse import urlsplit

from harness import GRANTWRIGHT, ROOT, Demo, Process, call, cli, scratch, until
from peers.ports import free_port

try:
    import jsonschema
    from openapi_spec_validator import validate
except ImportError:  # the suite `python` brings them
    jsonschema = None

demo = doors = None


def setUpModule():
    global demo, doors
    demo = Demo()
    doors = demo.doors


def tearDownModule():
    demo.__exit__()


@unittest.skipUnless(jsonschema, "no jsonschema")
class Described(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        reply = doors.call("GET", "/v1/openapi.json")
        assert reply.status == 200, reply
        cls.doc = reply.json

    def meets(self, method, path, reply):
        """The answer is one that the description has for this path."""
        operation = self.doc["paths"][path][method.lower()]
        said = operation["responses"].get(str(reply.status))
        self.assertIsNotNone(said, f"{method} {path}: {reply.status} is not described: {reply}")
        while "$ref" in said:
            said = self.doc["components"]["responses"][said["$ref"].rsplit("/", 1)[1]]
        kind = reply.headers["content-type"].split(";")[0]
        self.assertIn(kind, said["content"], f"{method} {path}")
        if "json" in kind:
            schema = {**said["content"][kind]["schema"], "components": self.doc["components"]}
            jsonschema.Draft202012Validator(
                schema, format_checker=jsonschema.FormatChecker()).validate(reply.json)

    def test_it_is_openapi(self):
        self.assertTrue(self.doc["openapi"].startswith("3.1"))
        validate(self.doc)

    def test_every_answer_is_described(self):
        good = {"scope": "demo.read", "params": {"dataset": doors.fresh()}, "reason": "a test"}
        export = {"scope": "demo.export", "params": {"dataset": doors.fresh(), "rows": 3}, "reason": "a test"}
        post, one = "/v1/credentials", "/v1/requests/{id}"
        granted = doors.call("POST", post, good, {"Idempotency-Key": doors.fresh("k")})
        self.meets("POST", post, granted)
        schema = {**self.doc["components"]["schemas"]["Ask"], "components": self.doc["components"]}
        jsonschema.Draft202012Validator(schema).validate({**good, "ttl": "15m", "task": "T"})
        pending = doors.call("POST", post, export)
        self.assertEqual(pending.status, 202)
        self.meets("POST", post, pending)
        request_id = pending.json["request_id"]
        for body, status in (({}, 400), ({**good, "more": 1}, 400), ({**good, "scope": "no.such"}, 404),
                             ({**good, "scope": "demo.drop-tables", "params": {}}, 403)):
            reply = doors.call("POST", post, body)
            self.assertEqual(reply.status, status)
            self.meets("POST", post, reply)
        key = doors.fresh("k")
        self.meets("POST", post, doors.call("POST", post, good, {"Idempotency-Key": key}))
        reply = doors.call("POST", post, {**good, "params": {"dataset": "other"}}, {"Idempotency-Key": key})
        self.assertEqual(reply.status, 409)
        self.meets("POST", post, reply)
        self.meets("POST", post, doors.call("POST", post, raw=b"x" * 70_000))
        self.meets("POST", post, call(doors.tcp, "POST", post, good))
        self.meets("GET", post.replace("credentials", "scopes"), doors.call("GET", "/v1/scopes"))
        self.meets("GET", one, doors.get(request_id))
        self.meets("GET", one, doors.get("r-none"))
        self.meets("GET", one, doors.get(request_id, wait="99s"))
        self.assertEqual(demo.bob.vote("ask", request_id, text="which?").status, 200)
        asked = doors.get(request_id)
        self.assertIn("question", asked.json)
        self.meets("GET", one, asked)
        self.meets("POST", f"{one}/answer",
                   doors.call("POST", f"/v1/requests/{request_id}/answer", {"text": "that"}))
        self.meets("POST", f"{one}/answer", doors.call("POST", f"/v1/requests/{request_id}/answer", {}))
        self.meets("DELETE", one, doors.cancel(request_id))
        self.meets("GET", one, doors.get(request_id))
        done = granted.json["request_id"]
        self.meets("GET", one, doors.get(done))
        self.meets("POST", f"{one}/release", doors.call("POST", f"/v1/requests/{done}/release"))
        self.meets("POST", f"{one}/release", doors.call("POST", f"/v1/requests/{done}/release"))
        self.meets("GET", f"{one}/events", doors.call("GET", f"/v1/requests/{request_id}/events"))
        self.meets("GET", f"{one}/events", doors.call("GET", "/v1/requests/r-none/events"))
        self.meets("GET", f"{one}/events", doors.call("GET", f"/v1/requests/{request_id}/events?wait=1s"))
        hand, handed = "/v1/delegations", "/v1/delegations/{id}"
        operator = {"Authorization": f"Bearer {(demo.dir / 'operator.token').read_text()}"}
        made = call(demo.env["GRANTWRIGHT_CONSOLE"], "POST", "/api/v1/agents", {
            "name": "worker", "owner": "bob", "team": "data", "environment": "demo", "model": "demo",
            "model_version": "1"}, operator)
        self.assertIn(made.status, (200, 201), made)
        right = {"to": "worker", "scopes": {"demo.read": {"params": {"dataset": "a"}, "ttl": "5m"}}, "ttl": "1h", "passes": 1}
        schema = {**self.doc["components"]["schemas"]["Delegate"], "components": self.doc["components"]}
        jsonschema.Draft202012Validator(schema).validate(right)
        for body, status in ((right, 201), ({**right, "to": "nobody"}, 404), ({**right, "ttl": "25h"}, 403), ({}, 400)):
            reply = doors.call("POST", hand, body)
            self.assertEqual(reply.status, status, reply)
            self.meets("POST", hand, reply)
        listed = doors.call("GET", hand)
        self.meets("GET", hand, listed)
        self.meets("DELETE", handed, doors.call("DELETE", f"{hand}/{listed.json['delegations'][0]['delegation_id']}"))
        self.meets("DELETE", handed, doors.call("DELETE", f"{hand}/d-none"))
        self.meets("GET", hand, doors.call("GET", hand))
        for path in ("/aws/aws.s3-read?bucket=demo&prefix=a/", "/aws/no.such", "/aws/demo.read?dataset=a", "/aws/a%"):
            self.meets("GET", "/aws/{scope}", doors.call("GET", path))
        for path in ("/healthz", "/readyz", "/metrics"):
            self.meets("GET", path, call(doors.tcp, "GET", path))
            self.meets("GET", path, call(doors.tcp, "GET", path, headers={"Origin": "null"}))

    def test_every_route_is_described_and_nothing_else_is_there(self):
        source = (ROOT / "crates/sidecar/src/doors.rs").read_text()
        routes = set()
        for method, count, words in re.findall(r'\("([A-Z]+)", (\d), \[([^\]]*)\]\)', source):
            parts = [w.strip() for w in words.split(",")][:int(count)]
            routes.add((method, "/" + "/".join(w.strip('"') if w.startswith('"') else "{id}" for w in parts)))
        routes |= {("POST", "/v1/credentials"), ("GET", "/aws/{scope}")}
        described = {(method.upper(), path) for path, item in self.doc["paths"].items()
                     for method in item if method != "parameters"}
        self.assertEqual(described, routes)
        for path in self.doc["paths"]:
            if path not in ("/healthz", "/readyz", "/metrics"):
                reply = doors.call("PATCH", path.replace("{id}", "r-1").replace("{scope}", "a.b"))
                self.assertEqual(reply.status, 405, path)


class Events(unittest.TestCase):
    def follow(self, request_id, told):
        """Appends (event, data) until the stream ends."""
        at = urlsplit(doors.tcp)
        connection = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
        connection.request("GET", f"/v1/requests/{request_id}/events",
                           headers={"Authorization": f"Bearer {doors.token}"})
        answer = connection.getresponse()
        self.assertEqual(answer.getheader("content-type"), "text/event-stream")
        event = None
        for line in answer:
            line = line.decode().rstrip("\n")
            if line.startswith("event: "):
                event = line[7:]
            elif line.startswith("data: "):
                told.append((event, json.loads(line[6:])))
        connection.close()

    def start(self, request_id):
        told = []
        thread = threading.Thread(target=self.follow, args=(request_id, told))
        thread.start()
        until("the first event", 20, lambda: told)
        return told, thread

    def test_a_question_an_approval_and_the_credential_are_told(self):
        request_id = doors.pending()
        told, thread = self.start(request_id)
        self.assertEqual(demo.bob.vote("ask", request_id, text="which?").status, 200)
        until("the question", 20, lambda: "question" in told[-1][1])
        doors.call("POST", f"/v1/requests/{request_id}/answer", {"text": "that one"})
        self.assertEqual(demo.bob.approve(request_id).status, 200)
        thread.join(30)
        self.assertFalse(thread.is_alive())
        self.assertEqual([event for event, _ in told][0], "pending")
        event, body = told[-1]
        self.assertEqual((event, body["state"]), ("granted", "granted"))
        self.assertEqual(body["credential"], doors.get(request_id).json["credential"])

    def test_a_denial_ends_the_stream(self):
        request_id = doors.pending()
        told, thread = self.start(request_id)
        self.assertEqual(demo.bob.deny(request_id, reason="not now").status, 200)
        thread.join(30)
        event, body = told[-1]
        self.assertEqual((event, body["state"]), ("ended", "denied"))
        self.assertIn("not now", body["reason"])

    def test_who_hangs_up_leaves_nothing_behind(self):
        request_id, opened = doors.pending(), 0
        for _ in range(600):  # more than a socket's connections, and than an agent's waits
            at = urlsplit(doors.tcp)
            connection = http.client.HTTPConnection(at.hostname, at.port, timeout=20)
            connection.request("GET", f"/v1/requests/{request_id}/events",
                               headers={"Authorization": f"Bearer {doors.token}"})
            # A fast caller meets the broker's bound of calls in a second: that is an answer too.
            status = connection.getresponse().status
            self.assertIn(status, (200, 429))
            opened += status == 200
            connection.close()
        self.assertGreater(opened, 150)
        time.sleep(1.1)
        self.assertEqual(doors.cancel(request_id).json["state"], "cancelled")
        self.assertEqual(doors.ask("demo.read", {"dataset": doors.fresh()}).status, 200)


class Doctor(unittest.TestCase):
    def examine(self, config=None, **env):
        code, out, err = cli("sidecar", "doctor", "--config", config or demo.dir / "sidecar.toml", "--json", env=env)
        report = json.loads(out)
        self.assertEqual(code, 0 if report["ok"] else 1, err)
        for check in report["checks"]:
            self.assertEqual(bool(check["mend"]), check["state"] != "good", check)
        self.assertNotIn(doors.token, out)
        return report["checks"]

    def bad(self, checks):
        return {check["check"]: check["detail"] for check in checks if check["state"] == "bad"}

    def copy(self, **keys):
        home = scratch("doctor")
        home.mkdir()
        text = (demo.dir / "sidecar.toml").read_text()
        for key in ("trust_bundle", "state_dir", "join_token_file", "token_file", "aws_token_file", "socket"):
            text = re.sub(rf'(?m)^{key} = "(?!/)', f'{key} = "{demo.dir}/', text)
        for key, value in keys.items():
            text, n = re.subn(rf"(?m)^{key} = .*", f"{key} = {json.dumps(value)}", text)
            if not n:
                text += f"\n{key} = {json.dumps(value)}\n"
        (home / "sidecar.toml").write_text(text)
        return home / "sidecar.toml"

    def test_a_sound_sidecar_has_nothing_bad(self):
        checks = self.examine(self.copy(listen=doors.tcp.removeprefix("http://"),
                                        console=demo.env["GRANTWRIGHT_CONSOLE"]), **demo.env)
        self.assertEqual(self.bad(checks), {})
        good = {check["check"] for check in checks if check["state"] == "good"}
        self.assertLessEqual({"configuration", "trust bundle", "identity", "recovery key", "token files", "doors",
                              "readiness", "broker", "clock"}, good)

    def test_the_usual_faults_are_found(self):
        taken = free_port()
        token = scratch("token")
        token.write_text("abc\n")
        token.chmod(0o600)
        wide = scratch("wide")
        wide.write_text("abc")
        wide.chmod(0o644)
        folder = scratch("state")
        folder.mkdir(mode=0o755)
        empty = scratch("empty")
        empty.write_text("")
        holder = Process(["python3", "-m", "http.server", "--bind", "127.0.0.1", taken])
        until("a server", 20, lambda: holder.log.read_text() or holder.out.read_text() or _answers(taken))
        try:
            for check, keys in (
                ("trust bundle", {"trust_bundle": str(empty)}),
                ("trust bundle", {"trust_bundle": "/no/such/file"}),
                ("identity", {"state_dir": str(folder)}),
                ("identity", {"state_dir": "/no/such/folder", "join_token_file": "/no/such/file"}),
                ("token files", {"token_file": str(token)}),
                ("token files", {"aws_token_file": str(wide)}),
                ("doors", {"listen": f"127.0.0.1:{taken}"}),
                ("broker", {"brokers": [f"https://127.0.0.1:{free_port()}"]}),
                ("configuration", {"listen": "0.0.0.0:1"}),
            ):
                self.assertIn(check, self.bad(self.examine(self.copy(**keys))), keys)
        finally:
            holder.kill()

    def test_the_recovery_key_is_shown_and_that_none_is_pinned_is_said(self):
        def recovery_key(state_dir):
            found = self.examine(self.copy(state_dir=str(state_dir)))
            return next(check for check in found if check["check"] == "recovery key")
        pinned = json.loads((demo.dir / "sidecar" / "log.json").read_text())
        found = recovery_key(demo.dir / "sidecar")
        self.assertEqual((found["state"], found["detail"]), ("good", f"pinned: {pinned.pop('recovery_key')}"))
        for kept in (None, "{", json.dumps(pinned)):
            folder = scratch("state")
            folder.mkdir(mode=0o700)
            (folder / "identity.json").write_text("{}")
            if kept is not None:
                (folder / "log.json").write_text(kept)
            found = recovery_key(folder)
            self.assertEqual(found["state"], "odd", found)
            self.assertIn("none is pinned", found["detail"])
            self.assertIn("let the sidecar run", found["mend"])

    def test_a_clock_that_goes_wrong_is_found(self):
        class Elsewhen(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()

            def date_time_string(self, timestamp=None):
                return email.utils.formatdate(time.time() + type(self).ahead, usegmt=True)

            def log_message(self, *_):
                pass
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhen)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self.addCleanup(lambda: (server.shutdown(), server.server_close(), thread.join()))
        console = f"http://localhost:{server.server_port}"
        for Elsewhen.ahead, words in ((3600, "behind"), (-3600, "ahead of")):
            self.assertIn(words, self.bad(self.examine(self.copy(console=console)))["clock"])

    def test_variables_that_lead_past_the_sidecar_are_found(self):
        good = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{doors.tcp}/aws/a.b", "AWS_EC2_METADATA_DISABLED": "true",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": demo.env["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]}
        self.assertNotIn("SDK variables", self.bad(self.examine(**good)))
        for more in ({"AWS_PROFILE": "x"}, {"AWS_ACCESS_KEY_ID": "x"},
                     {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/x"},
                     {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://localhost:1/aws/a.b"},
                     {"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/no/such/file"},
                     {"HTTP_PROXY": "http://proxy.example:3128"}):
            self.assertIn("SDK variables", self.bad(self.examine(**{**good, **more})), more)


def _answers(port):
    try:
        return call(f"http://127.0.0.1:{port}", "GET", "/").status
    except OSError:
        return False


class Reload(unittest.TestCase):
    """SIGHUP; last, since it changes the demo's sidecar."""

    def metric(self, name):
        text = call(doors.tcp, "GET", "/metrics").body.decode()
        return int(re.search(rf"(?m)^grantwright_sidecar_{name} (\d+)$", text)[1])

    def hup(self):
        os.kill(demo.sidecar_pid, signal.SIGHUP)

    def test_brokers_change_and_nobody_fails_meanwhile(self):
        file = demo.dir / "sidecar.toml"
        before = file.read_text()
        ask = {"scope": "demo.read", "params": {"dataset": doors.fresh()}, "reason": "a test"}
        self.assertEqual(doors.call("POST", "/v1/credentials", ask).status, 200)
        failed, over = [], threading.Event()

        def load():
            while not over.is_set():
                reply = doors.call("POST", "/v1/credentials", ask)
                if reply.status != 200:
                    failed.append(reply)
        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            count = self.metric("reloaded_total")
            broker = re.search(r'(?m)^brokers = \["([^"]+)"\]', before)[1]
            file.write_text(before.replace(f'"{broker}"', f'"https://127.0.0.1:{free_port()}", "{broker}"'))
            self.hup()
            until("a reload", 20, lambda: self.metric("reloaded_total") == count + 1)
            until("attendance", 30, lambda: self.metric("attended") == 1)
            # What was never asked for goes through the new list.
            self.assertEqual(doors.ask("demo.read", {"dataset": doors.fresh()}).status, 200)
            file.write_text("brokers = 7\n")
            self.hup()
            time.sleep(0.5)
            self.assertEqual(self.metric("reloaded_total"), count + 1, "a faulty file was taken")
            self.assertEqual(doors.ask("demo.read", {"dataset": doors.fresh()}).status, 200)
        finally:
            file.write_text(before)
            over.set()
            for thread in threads:
                thread.join()
        self.assertEqual(failed, [])


if __name__ == "__main__":
    unittest.main()
