"""A second sidecar of the same agent: its own lineage, and requests that stay where they were made."""

import re
import unittest

from harness import SIDECAR, Demo, Process, call, scratch, until

demo = doors = None


def setUpModule():
    global demo, doors
    demo = Demo()
    doors = demo.doors


def tearDownModule():
    demo.__exit__()


class Second:
    """Another sidecar, enrolled with a join token of its own."""

    def __enter__(self):
        home = scratch("second")
        home.mkdir()
        operator = (demo.dir / "operator.token").read_text()
        joined = call(demo.env["GRANTWRIGHT_CONSOLE"], "POST", "/api/v1/agents/demo-agent/join", {},
                      {"Authorization": f"Bearer {operator}"})
        assert joined.status == 200, joined
        (home / "join.token").write_text(joined.json["join_token"])
        (home / "join.token").chmod(0o600)
        text = (demo.dir / "sidecar.toml").read_text()
        text = re.sub(r'(?m)^trust_bundle = .*', f'trust_bundle = "{demo.dir}/keys/ca.pem"', text)
        text = re.sub(r'(?m)^listen = .*', 'listen = "127.0.0.1:0"', text)
        text = re.sub(r'(?m)^socket = .*', f'socket = "{home}/s.sock"', text)
        (home / "sidecar.toml").write_text(text)
        self.process = Process([SIDECAR, "--config", home / "sidecar.toml"])
        ready = home / "sidecar.ready"
        until("the second sidecar", 20, ready.exists)
        self.tcp = re.search(r'"tcp"\s*:\s*"([^"]+)"', ready.read_text())[1]
        self.token = (home / "agent.token").read_text()
        return self

    def __exit__(self, *_):
        self.process.kill()

    def call(self, method, path, body=None):
        return call(f"http://{self.tcp}", method, path, body, {"Authorization": f"Bearer {self.token}"})


class OtherInstance(unittest.TestCase):
    def test_a_key_and_a_request_belong_to_the_sidecar_that_asked(self):
        params, key = {"dataset": doors.fresh()}, doors.fresh("key")
        first = doors.ask("demo.read", params, idempotency_key=key)
        self.assertEqual(first.status, 200, first)
        pending = doors.pending()
        with Second() as second:
            ask = {"scope": "demo.read", "params": params, "reason": "a test", "idempotency_key": key}
            reply = second.call("POST", "/v1/credentials", ask)
            self.assertEqual((reply.status, reply.code), (409, "other_instance"), reply)
            self.assertNotIn("credential", reply.json)
            for request_id in (first.json["request_id"], pending):
                reply = second.call("GET", f"/v1/requests/{request_id}?wait=0s")
                self.assertEqual((reply.status, reply.code), (409, "other_instance"), reply)
            # Its own ask is its own.
            del ask["idempotency_key"]
            reply = second.call("POST", "/v1/credentials", ask)
            self.assertEqual(reply.status, 200, reply)
            self.assertNotEqual(reply.json["request_id"], first.json["request_id"])
        doors.cancel(pending)
