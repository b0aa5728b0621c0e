"""The sidecar's gRPC door with Google's own client (grpcio), by code made from the file that the sidecar serves: a
request's life, watched; one key at both doors; other agents and bad company."""

import importlib.util
import json
import socket
import sys
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from harness import ROOT, SIDECAR, Demo, Process, call, clean_env, scratch, until
from own import sidecar_of
from peers import rpc

HERE = importlib.util.find_spec("grpc_tools") is not None
demo = doors = stubs = None


def setUpModule():
    global demo, doors, stubs
    if not HERE:
        return
    demo = Demo()
    doors = demo.doors
    served = doors.call("GET", "/v1/agent.proto")
    assert served.status == 200 and served.headers["content-type"].startswith("text/plain"), served
    stubs = rpc.made(ROOT, scratch("stubs"), served.body.decode())


def tearDownModule():
    if demo:
        demo.__exit__()


def fresh(rows=None):
    return json.dumps({"dataset": doors.fresh(), **({"rows": rows} if rows else {})})


@unittest.skipUnless(HERE, "no grpcio")
class Case(unittest.TestCase):
    def agent(self, target=None, token=True):
        token = doors.token if token is True else token
        agent = rpc.Agent(stubs, target or urlsplit(doors.tcp).netloc, token)
        self.addCleanup(agent.channel.close)
        return agent

    def unix(self):
        return self.agent(f"unix:{doors.socket}", None)

    def refused(self, agent, method, code, word, **fields):
        metadata = fields.pop("metadata", ())
        with self.assertRaises(agent.grpc.RpcError) as caught:
            answer = agent.call(method, fields, metadata=metadata)
            list(answer) if method == "Watch" else None
        fault = caught.exception
        self.assertEqual(fault.code().name, code, fault)
        problem = agent.problem(fault)
        self.assertEqual(problem and problem.code, word, fault)
        return problem


class Life(Case):
    def pending(self, agent):
        standing = agent.call("Ask", {"scope": "demo.export", "params_json": fresh(7), "reason": "a test"})
        self.assertEqual((standing.state, standing.WhichOneof("detail")), ("pending", "pending"))
        return standing.request_id

    def watch(self, agent, request_id):
        told = []

        def follow():
            for standing in agent.call("Watch", {"request_id": request_id}):
                told.append(standing)
        thread = threading.Thread(target=follow)
        thread.start()
        self.addCleanup(thread.join, 60)
        until("the first word", 30, lambda: told)
        return told, thread

    def test_routine_from_the_memory_that_both_doors_share(self):
        agent, params = self.agent(), fresh()
        ask = {"scope": "demo.read", "params_json": params, "reason": "a test"}
        first = agent.call("Ask", ask)
        self.assertEqual(first.state, "granted")
        self.assertEqual(agent.call("Ask", ask), first)
        same = doors.ask("demo.read", json.loads(params)).json
        self.assertEqual(json.loads(first.granted.credential_json), same["credential"])
        self.assertEqual(json.loads(first.granted.receipt_json), same["receipt"])
        self.assertEqual((first.request_id, first.granted.lease_id), (same["request_id"], same["lease_id"]))
        left = first.granted.expires_at_ms / 1000 - time.time()
        self.assertTrue(0 < left <= 900, left)

    def test_a_watch_is_told_of_question_approval_and_credential(self):
        agent = self.agent()
        request_id = self.pending(agent)
        told, thread = self.watch(agent, request_id)
        self.assertEqual(demo.bob.vote("ask", request_id, text="which quarter?").status, 200)
        until("the question", 30, lambda: told[-1].pending.question.text == "which quarter?")
        answered = agent.call("Answer", {"request_id": request_id, "text": "the second"})
        self.assertEqual(answered.state, "pending")
        self.assertEqual(demo.bob.approve(request_id).status, 200)
        thread.join(60)
        self.assertFalse(thread.is_alive())
        self.assertEqual(told[-1].state, "granted")
        self.assertEqual(json.loads(told[-1].granted.credential_json), doors.get(request_id).json["credential"])
        self.assertEqual(agent.call("Wait", {"request_id": request_id}), told[-1])

    def test_a_denial_ends_the_watch_with_its_reason(self):
        agent = self.unix()
        request_id = self.pending(agent)
        told, thread = self.watch(agent, request_id)
        self.assertEqual(demo.bob.deny(request_id, reason="not now").status, 200)
        thread.join(60)
        self.assertEqual((told[-1].state, told[-1].ended.code), ("denied", "denied"))
        self.assertIn("not now", told[-1].ended.reason)

    def test_narrowed_says_what(self):
        agent = self.agent()
        request_id = self.pending(agent)
        self.assertEqual(demo.bob.vote("narrow", request_id, params={"rows": 3}).status, 200)
        standing = agent.call("Wait", {"request_id": request_id, "wait_ms": 30_000})
        self.assertEqual(standing.state, "granted")
        self.assertTrue(standing.granted.narrowed)
        self.assertEqual(json.loads(standing.granted.params_json)["rows"], 3)

    def test_cancel_and_release(self):
        agent = self.agent()
        self.assertEqual(agent.call("Cancel", {"request_id": self.pending(agent)}).state, "cancelled")
        self.assertEqual(agent.call("Release", {"request_id": self.pending(agent)}).state, "cancelled")
        ask = {"scope": "demo.read", "params_json": fresh(), "reason": "a test"}
        first = agent.call("Ask", ask)
        released = agent.call("Release", {"request_id": first.request_id})
        self.assertEqual((released.state, released.released.lease_id), ("released", first.granted.lease_id))
        self.assertNotEqual(agent.call("Ask", ask).request_id, first.request_id)

    def test_a_key_holds_at_both_doors(self):
        agent, key, params = self.agent(), doors.fresh("key"), fresh()
        ask = {"scope": "demo.read", "params_json": params, "reason": "a test", "idempotency_key": key}
        first = agent.call("Ask", ask)
        body = {"scope": "demo.read", "params": json.loads(params), "reason": "a test", "idempotency_key": key}
        self.assertEqual(doors.call("POST", "/v1/credentials", body).json["request_id"], first.request_id)
        self.refused(agent, "Ask", "ABORTED", "key_reused", **{**ask, "reason": "another"})

    def test_scopes_are_those_of_the_other_door(self):
        agent = self.agent()
        listed = doors.call("GET", "/v1/scopes").json["scopes"]
        told = agent.call("Scopes", {}).scopes
        self.assertEqual([it.name for it in told], [it["name"] for it in listed])
        one = agent.call("Scopes", {"scope": "demo.export"}).scopes[0]
        self.assertIn("params_schema", json.loads(one.scope_json))
        self.refused(agent, "Scopes", "NOT_FOUND", "unknown_scope", scope="no.such")

    def test_a_refusal_says_what_the_other_door_says(self):
        agent = self.agent()
        for fields, code in (
            ({"scope": "demo.drop-tables", "reason": "a test"}, "PERMISSION_DENIED"),
            ({"scope": "no.such", "reason": "a test"}, "NOT_FOUND"),
            ({"scope": "demo.read", "params_json": '{"dataset":"a/b"}', "reason": "a test"}, "INVALID_ARGUMENT"),
            ({"scope": "demo.read", "params_json": '{"dataset":"a"}', "reason": "a test", "ttl": "16m"}, "INVALID_ARGUMENT"),
        ):
            body = {k: v for k, v in fields.items() if k != "params_json"}
            body["params"] = json.loads(fields.get("params_json", "{}"))
            told = doors.call("POST", "/v1/credentials", body).json
            problem = self.refused(agent, "Ask", code, told["code"], **fields)
            self.assertEqual((problem.status, problem.title), (told["status"], told["title"]))
            self.assertEqual(problem.next, told["next"])

    def test_the_unix_socket_says_which_process_asks(self):
        standing = self.unix().call("Ask", {"scope": "demo.read", "params_json": fresh(), "reason": "a test"})
        asked = next(e for e in demo.events(standing.request_id) if e["kind"] == "requested")
        self.assertIn("process", asked["terms"])

    def test_many_calls_of_one_channel(self):
        agent = self.agent()
        with ThreadPoolExecutor(40) as pool:
            asks = [{"scope": "demo.read", "params_json": fresh(), "reason": "a test"} for _ in range(200)]
            states = [it.result().state for it in [pool.submit(agent.call, "Ask", ask) for ask in asks]]
        self.assertEqual(set(states), {"granted"})

    def test_a_deadline_ends_the_call_and_nothing_else(self):
        agent = self.agent()
        request_id = self.pending(agent)
        with self.assertRaises(agent.grpc.RpcError) as caught:
            agent.call("Wait", {"request_id": request_id, "wait_ms": 60_000}, deadline=0.2)
        self.assertEqual(caught.exception.code().name, "DEADLINE_EXCEEDED")
        self.assertEqual(demo.bob.approve(request_id).status, 200)
        self.assertEqual(agent.call("Wait", {"request_id": request_id, "wait_ms": 30_000}).state, "granted")


class Hostile(Case):
    def test_tokens_and_foreign_words(self):
        for token in (None, "x" * 64, doors.aws_token):
            self.refused(self.agent(token=token), "Scopes", "UNAUTHENTICATED", "unauthorized")
        agent = self.agent()
        for metadata in (("origin", "http://localhost"), ("x-forwarded-for", "127.0.0.1"), ("via", "1.1 p")):
            self.refused(agent, "Scopes", "PERMISSION_DENIED", "guard", metadata=[metadata])

    def test_a_name_that_rebinds_is_refused(self):
        import grpc
        for name in ("attacker.example", "127.0.0.1.attacker.example", "169.254.169.254", "localhost.attacker.example"):
            agent = self.agent()
            agent.channel = grpc.insecure_channel(urlsplit(doors.tcp).netloc, [("grpc.default_authority", name)])
            self.addCleanup(agent.channel.close)
            agent.stub = sys.modules["agent_pb2_grpc"].AgentStub(agent.channel)
            self.refused(agent, "Scopes", "PERMISSION_DENIED", "guard")

    def test_too_much_is_refused(self):
        agent = self.agent()
        self.refused(agent, "Ask", "RESOURCE_EXHAUSTED", "too_large", scope="demo.read", reason="x" * 200_000)
        self.refused(agent, "Ask", "INVALID_ARGUMENT", "malformed", scope="demo.read", reason="x" * 3000)
        self.assertEqual(agent.call("Ask", {"scope": "demo.read", "params_json": fresh(), "reason": "r"}).state, "granted")

    def test_28_prefaces_that_say_nothing_keep_nobody_out(self):
        at = urlsplit(doors.tcp)
        lines = []
        self.addCleanup(lambda: [line.close() for line in lines])
        agent = self.agent()
        agent.call("Scopes", {})
        for n in range(1500):
            line = socket.create_connection((at.hostname, at.port), timeout=30)
            lines.append(line)
            try:
                line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + (b"\0\0\0\4\0\0\0\0\0" if n % 2 else b""))
            except OSError:
                pass  # it was turned out already
        # One that was there before, a new one, and the other door.
        agent.call("Scopes", {})
        self.agent().call("Scopes", {})
        self.assertEqual(doors.call("GET", "/v1/scopes").status, 200)

    def test_25_another_agent_sees_nothing_of_it(self):
        home = sidecar_of(demo, "rpc-agent")
        process = Process([SIDECAR, "--config", home / "sidecar.toml"], env=clean_env())
        self.addCleanup(process.kill)

        def ready():
            assert process.code() is None, process.said()
            try:
                return call(home / "s.sock", "GET", "/readyz").status == 200
            except OSError:
                return False
        until("the other sidecar", 30, ready, 0.05)
        other = self.agent(f"unix:{home}/s.sock", None)
        request_id = doors.pending()
        for method, fields in (("Wait", {}), ("Watch", {}), ("Answer", {"text": "x"}), ("Cancel", {}), ("Release", {})):
            word = "unknown_lease" if method == "Release" else "unknown_request"
            told = self.refused(other, method, "NOT_FOUND", word, request_id=request_id, **fields)
            none = self.refused(other, method, "NOT_FOUND", word, request_id=request_id[:-4] + "0000", **fields)
            self.assertEqual((told.title, told.next), (none.title, none.next), "existence leaks")
        self.assertEqual(doors.get(request_id).json["state"], "pending")


if __name__ == "__main__":
    unittest.main()
