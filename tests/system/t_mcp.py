"""The official Python SDK of the Model Context Protocol drives `grantwright mcp`, in both generations
of the protocol and over both of the sidecar's doors."""

import asyncio
import json
import os
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from mcp.client.client import Client  # the suite `python` brings it
from mcp.client.stdio import StdioServerParameters, stdio_client

from harness import GRANTWRIGHT, SCRATCH, Demo, clean_env

demo = doors = None
TOOLS = ["list_scopes", "request_credential", "wait_for_request", "answer_question",
         "release_credential"]
TCP = ("GRANTWRIGHT_SIDECAR", "GRANTWRIGHT_TOKEN_FILE")
SOCKET = ("GRANTWRIGHT_SIDECAR_SOCKET",)


def setUpModule():
    global demo, doors
    demo = Demo()
    doors = demo.doors


def tearDownModule():
    demo.__exit__()


class Story:
    """The same for each generation."""

    mode, names = None, TCP

    def client(self):
        env = {name: demo.env[name] for name in self.names}
        server = StdioServerParameters(command=str(GRANTWRIGHT), args=["mcp"], env=env)
        quiet = open(os.devnull, "w")
        self.addCleanup(quiet.close)
        return Client(stdio_client(server, errlog=quiet), mode=self.mode)

    async def export(self, client, **more):
        arguments = {"scope": "demo.export", "params": {"dataset": doors.fresh(), "rows": 7},
                     "reason": "a test", **more}
        result = await client.call_tool("request_credential", arguments)
        self.assertFalse(result.is_error, result)
        self.assertEqual(result.structured_content["state"], "pending")
        self.assertIn("wait_for_request", result.content[0].text)
        return result.structured_content["request_id"]

    async def wait(self, client, request_id, seconds=20, **more):
        return await client.call_tool("wait_for_request",
                                      {"request_id": request_id, "seconds": seconds}, **more)

    async def after(self, seconds, does, *arguments, **named):
        await asyncio.sleep(seconds)
        reply = await asyncio.to_thread(does, *arguments, **named)
        self.assertEqual(reply.status, 200, reply)

    async def test_the_versions_and_the_tools(self):
        async with self.client() as client:
            self.assertEqual(client.protocol_version, self.version)
            self.assertEqual(client.server_info.name, "grantwright")
            self.assertIn("request_credential", client.instructions)
            tools = (await client.list_tools()).tools
            self.assertEqual([tool.name for tool in tools], TOOLS)
            for tool in tools:
                self.assertIs(tool.input_schema["additionalProperties"], False)
            listed = await client.call_tool("list_scopes", {})
            self.assertIn("demo.read", [s["name"] for s in listed.structured_content["scopes"]])

    async def test_a_routine_grant_and_its_release(self):
        async with self.client() as client:
            result = await client.call_tool("request_credential", {
                "scope": "demo.read", "params": {"dataset": doors.fresh()}, "ttl": "5m",
                "reason": "a test", "task": "T-1", "idempotency_key": doors.fresh("key")})
            self.assertFalse(result.is_error, result)
            body = result.structured_content
            self.assertEqual(body["state"], "granted")
            self.assertEqual(body["credential"]["token"].count("."), 2)
            self.assertNotIn(body["credential"]["token"], result.content[0].text)
            again = await self.wait(client, body["request_id"])
            self.assertEqual(again.structured_content["credential"], body["credential"])
            done = await client.call_tool("release_credential", {"request_id": body["request_id"]})
            self.assertFalse(done.is_error, done)
            self.assertIn(body["lease_id"], [e.get("lease_id") for e in
                                             demo.events(body["request_id"])])
            state = await asyncio.to_thread(doors.get, body["request_id"])
            self.assertNotIn("credential", state.json)

    async def test_a_wait_returns_the_credential_when_bob_approves(self):
        told = []

        async def progress(gone, total, message):
            told.append((gone, total, message))

        async with self.client() as client:
            request_id = await self.export(client)
            begun = time.monotonic()
            result, _ = await asyncio.gather(
                self.wait(client, request_id, 30, progress_callback=progress),
                self.after(7, demo.bob.approve, request_id))
            self.assertEqual(result.structured_content["state"], "granted")
            self.assertIn("credential", result.structured_content)
            self.assertLess(time.monotonic() - begun, 10)
            self.assertTrue(told, "no progress in 7 s")
            self.assertEqual(told, sorted(told))
            self.assertEqual({total for _, total, _ in told}, {30})

    async def test_a_wait_whose_time_is_up_is_pending(self):
        async with self.client() as client:
            request_id = await self.export(client)
            begun = time.monotonic()
            result = await self.wait(client, request_id, 1)
            self.assertLess(time.monotonic() - begun, 3)
            self.assertFalse(result.is_error, result)
            self.assertEqual(result.structured_content["state"], "pending")
            await client.call_tool("release_credential", {"request_id": request_id})
            self.assertEqual(demo.bob.request(request_id)["state"], "cancelled")

    async def test_a_wait_learns_of_a_deny(self):
        async with self.client() as client:
            request_id = await self.export(client)
            result, _ = await asyncio.gather(
                self.wait(client, request_id),
                self.after(0.5, demo.bob.deny, request_id, reason="not now"))
            self.assertEqual(result.structured_content["state"], "denied")
            self.assertIn("denied", result.content[0].text)

    async def test_a_question_ends_the_wait_and_is_answered(self):
        async with self.client() as client:
            request_id = await self.export(client)
            result, _ = await asyncio.gather(
                self.wait(client, request_id),
                self.after(0.5, demo.bob.vote, "ask", request_id, text="which quarter?"))
            self.assertEqual(result.structured_content["question"]["text"], "which quarter?")
            self.assertIn("which quarter?", result.content[0].text)
            self.assertIn("answer_question", result.content[0].text)
            answered = await client.call_tool("answer_question", {"request_id": request_id,
                                                                  "text": "the second"})
            self.assertFalse(answered.is_error, answered)
            self.assertIn("the second", json.dumps(demo.bob.request(request_id)["questions"]))
            self.assertEqual(demo.bob.approve(request_id).status, 200)
            result = await self.wait(client, request_id)
            self.assertEqual(result.structured_content["state"], "granted")

    async def test_refusals_carry_the_problem(self):
        async with self.client() as client:
            for name, arguments, code in (
                ("request_credential", {"scope": "demo.drop-tables", "params": {},
                                        "reason": "a test"}, "denied"),
                ("request_credential", {"scope": "demo.read", "params": {"dataset": "d"},
                                        "ttl": "9h", "reason": "a test"}, "ttl_too_long"),
                ("wait_for_request", {"request_id": "no-such-request"}, None),
                ("list_scopes", {"everything": True}, "malformed"),
            ):
                result = await client.call_tool(name, arguments)
                self.assertIs(result.is_error, True, result)
                problem = result.structured_content
                for field in ("type", "title", "status", "code", "detail", "next"):
                    self.assertIn(field, problem)
                if code:
                    self.assertEqual(problem["code"], code)
                self.assertIn(problem["code"], result.content[0].text)

    async def test_a_cancelled_wait_leaves_the_request_and_the_session(self):
        async with self.client() as client:
            request_id = await self.export(client)
            waiting = asyncio.ensure_future(self.wait(client, request_id, 60))
            await asyncio.sleep(0.5)
            waiting.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await waiting
            result = await self.wait(client, request_id, 0)
            self.assertEqual(result.structured_content["state"], "pending")
            await client.call_tool("release_credential", {"request_id": request_id})


class Stateless(Story, unittest.IsolatedAsyncioTestCase):
    mode, version = "auto", "2026-07-28"


class Handshake(Story, unittest.IsolatedAsyncioTestCase):
    mode, version, names = "legacy", "2025-11-25", SOCKET


class Process(unittest.TestCase):
    def run_with(self, lines, **env):
        return subprocess.run([str(GRANTWRIGHT), "mcp"], input=lines, capture_output=True, text=True,
                              timeout=20, env=clean_env(**env))

    def test_standard_output_holds_messages_only_and_the_end_of_input_is_the_end(self):
        lines = ['{', '{"jsonrpc":"2.0","id":1,"method":"ping"}', '[]', 'x' * (1 << 21),
                 '{"jsonrpc":"2.0","method":"notifications/nothing"}']
        done = self.run_with("\n".join(lines), RUST_LOG="debug",
                             **{name: demo.env[name] for name in TCP})
        self.assertEqual(done.returncode, 0, done.stderr)
        said = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual([m.get("error", {}).get("code") for m in said],
                         [-32700, None, -32600, -32700])
        self.assertNotIn(doors.token, done.stderr)

    def test_without_a_sidecar_it_says_what_to_set(self):
        done = self.run_with("")
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertIn("GRANTWRIGHT_SIDECAR", done.stderr)

    def test_the_token_goes_to_this_host_only(self):
        done = self.run_with("", GRANTWRIGHT_SIDECAR="http://sidecar.example:80",
                             GRANTWRIGHT_TOKEN_FILE=demo.env["GRANTWRIGHT_TOKEN_FILE"])
        self.assertEqual(done.returncode, 2, done.stderr)


class Token(unittest.IsolatedAsyncioTestCase):
    async def test_the_token_is_read_anew_since_it_changes_when_the_sidecar_starts(self):
        file = Path(tempfile.mkdtemp(dir=SCRATCH)) / "token"
        file.write_text("an-old-one")
        server = StdioServerParameters(command=str(GRANTWRIGHT), args=["mcp"], env={
            "GRANTWRIGHT_SIDECAR": doors.tcp, "GRANTWRIGHT_TOKEN_FILE": str(file)})
        with open(os.devnull, "w") as quiet:
            async with Client(stdio_client(server, errlog=quiet)) as client:
                refused = await client.call_tool("list_scopes", {})
                self.assertIs(refused.is_error, True)
                self.assertEqual(refused.structured_content["status"], 401)
                file.write_text(doors.token)
                self.assertFalse((await client.call_tool("list_scopes", {})).is_error)


del Story
